"""What may be written in a rule file, and what it means.

`File`, `RuleEntry`, `Between`, `Twin`, `Sampling`, `By`, `LoadModel`, `LoadWeights`, `LoadData` and the steps of a
transform are the file's shape: pydantic checks it against them, and editors show their descriptions as help. `Spec`,
`Rule`, `Reading` and `Slices` are its meaning, with every default, name and path resolved.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping  # noqa: TC003 - what reads stored rules looks at the annotations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from cnnaudit.site import Op  # noqa: TC001 - pydantic reads the annotations of fields when the class is made
from cnnaudit.spec import glob
from cnnaudit.spec.messages import quoted

if TYPE_CHECKING:
    from cnnaudit.spec.extending import Base
    from cnnaudit.spec.source import Source

__all__ = [
    "Between",
    "By",
    "Estimand",
    "File",
    "IfAbsent",
    "LoadData",
    "LoadModel",
    "LoadWeights",
    "MaxRegression",
    "Normalise",
    "Reading",
    "Reduce",
    "Regression",
    "Rule",
    "RuleEntry",
    "Sampling",
    "Severity",
    "Slices",
    "Spec",
    "Step",
    "Twin",
    "Undecided",
]

Undecided: TypeAlias = Literal["fail", "pass"]
Reduce: TypeAlias = Literal["every", "mean"]
Severity: TypeAlias = Literal["error", "warning", "note"]
Estimand: TypeAlias = Literal["population", "dataset"]
IfAbsent: TypeAlias = Literal["error", "skip"]

_BYTES = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_MEMORY = r"^[0-9]{1,12}(\.[0-9]{1,9})? ?(KB|MB|GB|KiB|MiB|GiB)$"
_COLUMN = r"^(?!images$)[A-Za-z_][A-Za-z0-9_.-]*$"


def _bytes(value: Any) -> Any:
    """``"1.5 GiB"`` as a number of bytes; what is not text is left for pydantic to judge."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(_MEMORY, value)
    if match is None:
        raise ValueError(f"max_memory is a number of bytes or text such as 512MiB or 1GiB, not {quoted(value)}")
    unit = match[2]
    return int(float(value.removesuffix(unit)) * _BYTES[unit])


def _fraction(value: Any, info: ValidationInfo) -> Any:
    """Catch a percentage, the likeliest slip in a fraction."""
    if isinstance(value, int | float) and 1 < value <= 100:
        raise ValueError(f"{info.field_name} is a fraction between 0 and 1; did you mean {value / 100:g}?")
    return value


def _listed(value: Any) -> Any:
    """One text is a list of one."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _several(value: Any) -> Any:
    if value == []:
        raise ValueError("at selects nothing: give at least one glob, or leave it out")
    return _listed(value)


def _some(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, tuple | dict) and not value:
        raise ValueError(f"{info.field_name} is empty: leave it out")
    return value


def _column(value: str) -> str:
    if value == "images":
        raise ValueError("images are what is sliced: by names another column, such as scanner or labels")
    if value == "source":
        raise ValueError("sources are the samples, and one sample tells nothing: slice by a column with few values")
    if re.fullmatch(_COLUMN, value) is None:
        words = "a column's name is made of letters, digits, '_', '.' and '-', and starts with a letter or '_'"
        raise ValueError(f"{words}, not {quoted(value)}")
    return value


_Fraction = BeforeValidator(_fraction)
_Glob: TypeAlias = Annotated[str, AfterValidator(glob.check)]
_Names: TypeAlias = Annotated[
    tuple[str, ...],
    BeforeValidator(_listed),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
_Globs: TypeAlias = Annotated[
    tuple[_Glob, ...],
    BeforeValidator(_several),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
_Memory: TypeAlias = Annotated[
    int,
    Field(ge=1),
    BeforeValidator(_bytes),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": _MEMORY}]}),
]
_Column: TypeAlias = Annotated[str, AfterValidator(_column), WithJsonSchema({"type": "string", "pattern": _COLUMN})]
_Bound: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]


class _Written(BaseModel):
    """Strict: text is not a number, a boolean is not a number, and an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_Mark: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class Between(_Written):
    """Pairs of sites, for a metric that compares two."""

    from_: _Globs = Field(
        alias="from", description="Where a pair starts: one glob or several; input is the image.", examples=["input"]
    )
    to: _Globs = Field(description="Where it ends: every site of these that comes later.", examples=["layer4.**"])


class Twin(_Written):
    """The network that a rule compares with."""

    twin: Literal["fresh", "permuted"] = Field(
        description="fresh: newly initialised weights; permuted: the trained ones, shuffled within each tensor. "
        "The statistics of batch norms are measured anew on the audit's images.",
        examples=["permuted"],
    )


class MaxRegression(_Written):
    """How much worse than the accepted run a site may be, on average over its units."""

    absolute: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None, description="At most so much worse, in the rule's unit.", examples=[0.02]
    )
    relative: Annotated[float, Field(ge=0, le=1), _Fraction] | None = Field(
        default=None, description="At most so much worse, as a fraction of the accepted value.", examples=[0.1]
    )

    @model_validator(mode="after")
    def _some(self) -> MaxRegression:
        if self.absolute is None and self.relative is None:
            raise ValueError("max_regression must say how much worse is allowed: absolute, relative or both")
        return self


_Kwargs: TypeAlias = Annotated[
    dict[str, JsonValue], Field(description="Keyword arguments: plain values only.", examples=[{"channels": 16}])
]


class LoadModel(_Written):
    """A model that needs arguments, or of which a part is audited."""

    load: str = Field(
        description="What to load, in any of the forms that can be written alone.", examples=["model.py:build"]
    )
    kwargs: _Kwargs = {}
    part: str | None = Field(
        default=None,
        pattern=r"^\w+(\.\w+)*$",
        description="The submodule that is audited instead of the whole.",
        examples=["backbone"],
    )


class LoadWeights(_Written):
    """A checkpoint that holds the weights of several networks."""

    load: str = Field(description="The file.", examples=["last.ckpt"])
    prefix: str | None = Field(
        default=None,
        pattern=r"^\w+(\.\w+)*$",
        description="Which keys of the file are the model's: those that begin with this and a dot.",
        examples=["ema_model"],
    )


class By(_Written):
    """Slices of the data that are judged one by one."""

    column: _Column = Field(
        description="The data column that slices: one of the data's own, or labels.", examples=["scanner"]
    )
    min_images: int = Field(
        default=100, ge=1, description="Fewest images that a slice must have; one with fewer is undecided."
    )


_Form = Discriminator(lambda value: "mapping" if isinstance(value, dict) else "text")
_Model: TypeAlias = Annotated[Annotated[str, Tag("text")] | Annotated[LoadModel, Tag("mapping")], _Form]
_Weights: TypeAlias = Annotated[Annotated[str, Tag("text")] | Annotated[LoadWeights, Tag("mapping")], _Form]
_By: TypeAlias = Annotated[Annotated[_Column, Tag("text")] | Annotated[By, Tag("mapping")], _Form]
_At: TypeAlias = Annotated[
    Annotated[_Globs, Tag("globs")] | Annotated[Between, Tag("between")],
    Discriminator(lambda value: "between" if isinstance(value, dict) else "globs"),
]
_Null: TypeAlias = Annotated[Annotated[Literal["twin"], Tag("text")] | Annotated[Twin, Tag("mapping")], _Form]
_ByOrFalse: TypeAlias = Annotated[
    Annotated[_By, Tag("by")] | Annotated[Literal[False], Tag("false")],
    Discriminator(lambda value: "false" if value is False else "by"),
]


def _pixels(value: Any) -> Any:
    """One side is that of a square."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    return tuple(value) if isinstance(value, list) else value


_Side: TypeAlias = Annotated[int, Field(ge=1)]
_SIDES = WithJsonSchema(
    {
        "anyOf": [
            {"type": "integer", "minimum": 1},
            {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": 3},
        ]
    }
)
_Pixels: TypeAlias = Annotated[
    Annotated[tuple[_Side, ...], Field(min_length=1, max_length=3)],
    BeforeValidator(_pixels),
    _SIDES,
]

_Size: TypeAlias = Annotated[
    Annotated[tuple[_Side, ...], Field(min_length=1, max_length=3)],
    BeforeValidator(lambda value: (value,) if type(value) is int else tuple(value) if type(value) is list else value),
    _SIDES,
]
_Numbers: TypeAlias = Annotated[
    tuple[_Bound, ...],
    Field(min_length=1),
    BeforeValidator(lambda value: (value,) if isinstance(value, int | float) else _listed(value)),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "array", "items": {"type": "number"}, "minItems": 1}]}),
]


class Normalise(_Written):
    """What is taken off each channel, and what it is divided by."""

    mean: _Numbers = Field(description="Of each channel, or one number for all.", examples=[[0.485, 0.456, 0.406]])
    std: _Numbers = Field(description="Of each channel, or one number for all.", examples=[[0.229, 0.224, 0.225]])

    @field_validator("std")
    @classmethod
    def _divides(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) <= 0:
            raise ValueError(f"std must be above 0, not {min(value):g}")
        return value


class Step(_Written):
    """One step of what is done to an image before the network sees it."""

    channels: Literal[1, 3] | None = Field(
        default=None, description="1: the luminance alone; 3: a grey image three times.", examples=[1]
    )
    resize: _Size | None = Field(
        default=None,
        description="One number: pixels of the shorter side, and the longer one in proportion; two: height and width.",
        examples=[256, [224, 224]],
    )
    crop: _Size | None = Field(
        default=None, description="Cut out the middle; one number is every side.", examples=[224, [192, 256]]
    )
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="Divide by this; 255 brings the values of files to 0 to 1.", examples=[255]
    )
    normalise: Normalise | None = Field(
        default=None,
        description="Take off each channel's mean and divide by its deviation.",
        examples=[{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}],
    )

    @model_validator(mode="after")
    def _one(self) -> Step:
        if len(self.model_fields_set) != 1:
            raise ValueError("a step does one thing: write each of several as an item of its own")
        return self


_Transform: TypeAlias = Annotated[
    Annotated[Literal["auto"], Tag("text")] | Annotated[tuple[Step, ...], Tag("steps")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "steps"),
    AfterValidator(_some),
]


class LoadData(_Written):
    """Data that needs arguments, or preparation."""

    load: str = Field(description="What to load, in any of the forms that can be written alone.", examples=["photos/"])
    kwargs: _Kwargs = {}
    transform: _Transform | None = Field(
        default=None,
        description="What is done to each image: auto, what belongs to the model's weights; or a list of steps. By "
        "default arrays go in as they are, and images from files as auto where that is known, else scaled to 0 to 1.",
        examples=["auto", [{"resize": 256}, {"crop": 224}, {"scale": 255}]],
    )
    exclude: str | None = Field(
        default=None,
        description="A CSV manifest of training images; the audit is refused where it meets one of them.",
        examples=["train.csv"],
    )
    max_corrupt: Annotated[float, Field(ge=0, lt=1), _Fraction] = Field(
        default=0.01, description="Fraction of images that may be unreadable; they are named and left out."
    )
    workers: int | None = Field(
        default=None, ge=0, le=256, description="Processes that decode images; by default chosen.", examples=[4]
    )


_Data: TypeAlias = Annotated[Annotated[str, Tag("text")] | Annotated[LoadData, Tag("mapping")], _Form]


class Sampling(_Written):
    """Which images are read, and how sure a verdict must be."""

    max_images: int | None = Field(
        default=None,
        ge=1,
        description="Read at most so many images; all of them by default.",
        examples=[1024],
    )
    looks: int | None = Field(
        default=None,
        ge=1,
        description="Look at the results at most so often, at doubling numbers of images; by default as often as that "
        "allows from 256 images on. 1 looks once, at the end.",
        examples=[1],
    )
    seed: int = Field(default=0, ge=0, description="Seed of the order of images and of sampled positions.")
    confidence: Annotated[float, Field(gt=0.5, lt=1), _Fraction] = Field(
        default=0.95, description="Confidence of intervals; a bound is decided one-sided at 1 - confidence."
    )
    block: int = Field(
        default=16, ge=2, le=4096, description="Images in one forward pass, whatever the loader's batch size."
    )
    crop: _Pixels | None = Field(
        default=None,
        description="Size of what the network sees of each image: its middle, so many pixels a side. The rest is there "
        "for metrics that shift the image. By default it sees all.",
        examples=[224, [192, 256]],
    )
    max_memory: _Memory = Field(
        default=2**30,
        description="Memory for statistics, in bytes or as 512MiB or 1GiB.",
        examples=["1GiB", "512MiB"],
    )


class RuleEntry(_Written):
    """One expectation about the network."""

    id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]+$",
        max_length=100,
        description="Name of the rule, unique in the file. Default: the metric's name as written.",
        examples=["kernels-tell-classes-apart"],
    )
    why: str = Field(default="", description="Why the rule is there; shown when it fails.")
    metric: str = Field(
        description="What is measured: a metric, or metric.field for one of its fields.",
        examples=["activity.dead"],
    )
    params: dict[str, JsonValue] = Field(default={}, description="Parameters of the metric.", examples=[{"bins": 8}])
    op: Op | None = Field(
        default=None, description="Only sites of this op, where the metric is for several.", examples=["conv"]
    )
    at: _At = Field(
        default=("**",),
        description="Where: one glob over module paths, or several. "
        "* stays within a component, ** is any number of components. For a metric that compares two sites also "
        "from: and to:, globs of where pairs start and end.",
        examples=["stage[23].**", ["layer1.**", "layer2.**"], {"from": "input", "to": "layer4.**"}],
    )
    by: _ByOrFalse | None = Field(
        default=None,
        description="A data column: the rule must hold in each of its values. Default: the file's; false: not sliced.",
        examples=["scanner", {"column": "scanner", "min_images": 200}, False],
    )
    min: _Bound | None = Field(default=None, description="The value must not be below this.", examples=[0.1])
    max: _Bound | None = Field(default=None, description="The value must not be above this.", examples=[0.6])
    null: _Null | None = Field(
        default=None,
        description="Measure the same in the null twin, the network before it learned anything: twin, or which one.",
        examples=["twin", {"twin": "permuted"}],
    )
    min_excess: _Bound | None = Field(
        default=None,
        description="The value must be above that of the null twin by at least this; needs null.",
        examples=[0.1],
    )
    max_regression: MaxRegression | None = Field(
        default=None,
        description="How much worse than the accepted run (check --baseline) the mean of a site's units may be.",
        examples=[{"absolute": 0.02}, {"relative": 0.1}],
    )
    share: Annotated[float, Field(gt=0, le=1), _Fraction] = Field(
        default=1.0, description="Fraction of a site's units that must keep to the bounds.", examples=[0.9]
    )
    reduce: Reduce = Field(default="every", description="Judge every unit of a site, or the mean of its units.")
    severity: Severity = Field(
        default="error", description="What a failure counts as. A note needs no bound: it is measured and never judged."
    )
    estimand: Estimand | None = Field(
        default=None,
        description="What is judged: the population the images come from, or exactly these images. "
        "Default: the metric's own.",
        examples=["population"],
    )
    if_absent: IfAbsent = Field(default="error", description="What it counts as that the rule selects nothing.")
    refs: tuple[str, ...] = Field(
        default=(),
        description="Requirements or risks that the rule covers, carried into reports.",
        examples=[["RISK-12"]],
    )
    marks: tuple[_Mark, ...] = Field(
        default=(), description="pytest markers of the rule's test, for `pytest -m`.", examples=[["slow"]]
    )


_Head: TypeAlias = Annotated[
    Annotated[str, Tag("key")] | Annotated[int, Field(ge=0), Tag("index")] | Annotated[Literal[False], Tag("none")],
    Discriminator(
        lambda value: "none" if isinstance(value, bool) else "index" if isinstance(value, int | float) else "key"
    ),
]
_Inputs: TypeAlias = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[tuple[JsonValue, ...], Tag("list")]
    | Annotated[dict[str, JsonValue], Tag("mapping")],
    Discriminator(lambda value: {dict: "mapping", list: "list", tuple: "list"}.get(type(value), "text")),
    AfterValidator(_some),
]


class File(_Written):
    """Rules for how information flows through a trained CNN."""

    cnnaudit: Literal[1] = Field(description="Version of this file's schema.", examples=[1])
    model: _Model | None = Field(
        default=None,
        description="The model: model.py:build, package.module:build, torchvision:NAME, timm:NAME or an exported "
        "program in .pt2. Paths are relative to this file.",
        examples=["model.py:build", {"load": "model.py:build", "kwargs": {"channels": 16}}],
    )
    weights: _Weights | None = Field(
        default=None,
        description="The model's trained weights: .safetensors, or a state dict in .pt, .pth, .bin or .ckpt.",
        examples=["weights.safetensors", {"load": "last.ckpt", "prefix": "ema_model"}],
    )
    inputs: _Inputs | None = Field(
        default=None,
        description="How the model is called with what the data names: a list for positional arguments, a mapping for "
        "keywords; in a list a mapping is one argument that is a dict. Default: images.",
        examples=[["left", "right"], {"image": "images", "age": "age"}],
    )
    head: _Head | None = Field(
        default=None,
        description="Which of the model's outputs holds the logits: its key or index, joined by dots where outputs are "
        "nested; false: none does. Default: the only one, else logits or out, else the first matrix.",
        examples=["out", "1.logits", 0, False],
    )
    data: _Data | None = Field(
        default=None,
        description="The images: .npz, .npy, .safetensors, a folder, data.py:build, package.module:build, "
        "torchvision:DATASET, or synthetic.",
        examples=["digits.npz", {"load": "photos/", "transform": "auto"}],
    )
    extends: _Names = Field(
        default=(),
        description="Packs, or rule files relative to this one, whose rules are taken over. "
        "A rule of this file with the same id changes such a rule key by key.",
        examples=["cnnaudit:recommended", ["cnnaudit:residual", "../base.audit.yaml"]],
    )
    without: _Names = Field(
        default=(), description="Ids of rules that are not taken over.", examples=[["dormant-kernels"]]
    )
    undecided: Undecided = Field(
        default="fail", description="Whether a rule that the images leave undecided fails the audit."
    )
    marks: tuple[_Mark, ...] = Field(
        default=(), description="pytest markers of every rule's test, for `pytest -m`.", examples=[["slow"]]
    )
    sampling: Sampling = Field(default_factory=Sampling, description="How images are sampled.")
    by: _By | None = Field(
        default=None,
        description="A data column: every rule that has no `by` of its own must hold in each of its values.",
        examples=["scanner", {"column": "scanner", "min_images": 200}],
    )
    rules: tuple[RuleEntry, ...] = Field(
        description="What must hold; at least one rule, where none is taken over.",
        examples=[[{"metric": "activity.dead", "max": 0}]],
    )


@dataclasses.dataclass(frozen=True)
class Reading:
    """How images are read.

    Attributes:
        transform: What is done to each image: ``auto``, steps, or None for what is usual with data of its kind.
        exclude: Absolute path of a manifest of images that must not be among them, or None.
        max_corrupt: Fraction of images that may be unreadable, in [0, 1).
        workers: Processes that decode images, or None for a number that suits the data.
    """

    transform: Literal["auto"] | tuple[Step, ...] | None = None
    exclude: Path | None = None
    max_corrupt: float = 0.01
    workers: int | None = None


@dataclasses.dataclass(frozen=True)
class Slices:
    """Slices of the data in each of which a rule must hold.

    Attributes:
        column: The data column whose values they are; ``labels`` is one too.
        min_images: Fewest images that a slice must have, at least 1; one with fewer is undecided.
    """

    column: str
    min_images: int


@dataclasses.dataclass(frozen=True)
class Regression:
    """How much worse than the accepted run a site may be, on average over its units; both must hold.

    Attributes:
        absolute: At most so much, in the rule's unit, or None.
        relative: At most so much, as a fraction of the accepted value, or None.
        worse: Which values are worse: ``lower`` or ``higher`` ones.
    """

    absolute: float | None
    relative: float | None
    worse: Literal["lower", "higher"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """One expectation about the network, with every name resolved.

    Attributes:
        id: Name of the rule, unique in the file.
        why: Why the rule is there, or nothing.
        metric: Name of the metric.
        field: Which of the metric's fields is judged.
        params: The metric's parameters, defaults filled in; read-only.
        op: Only sites of this op, or None for all that the metric is for.
        at: Globs over the paths of sites; a site matches any of them.
        start: Globs of the sites where pairs start, which end at those of ``at``; empty where there are no pairs.
        by: The slices in each of which the rule must hold, the file's or its own; None for all images together.
        min: Lower bound in the metric's unit, or None.
        max: Upper bound in the metric's unit, or None.
        null: Null twin that is measured as well: ``twin`` (newly initialised) or ``permuted``; empty for none.
        min_excess: Lower bound of what the value is above its twin's, or None.
        max_regression: How much worse than an accepted run a site may be, or None.
        share: Fraction of a site's units that must keep to the bounds, in (0, 1].
        reduce: Whether every unit is judged or the mean of the units.
        severity: What a failure counts as.
        estimand: What is judged, or None for the metric's own default.
        if_absent: What it counts as that the rule selects nothing.
        refs: Requirements or risks that the rule covers.
        marks: pytest markers, the file's and its own.
        line: Where the rule starts in the file, from 1; 0 where it comes from Python.
        column: Likewise.
        file: Which file that is: a pack or a rule file that is extended; empty for the rule file itself.
        pack: What the rule was taken over from, also where the rule file changes it; empty for its own.
    """

    id: str
    why: str
    metric: str
    field: str
    params: Mapping[str, Any] = dataclasses.field(hash=False)
    op: Op | None
    at: tuple[str, ...]
    start: tuple[str, ...] = ()
    by: Slices | None = None
    min: float | None
    max: float | None
    null: str = ""
    min_excess: float | None = None
    max_regression: Regression | None = None
    share: float
    reduce: Reduce
    severity: Severity
    estimand: Estimand | None
    if_absent: IfAbsent
    refs: tuple[str, ...]
    marks: tuple[str, ...]
    line: int
    column: int
    file: str = ""
    pack: str = ""

    @property
    def bounds(self) -> dict[str, float]:
        """What is judged, by side: ``min``, ``max``, ``min_excess``; empty where the rule only measures."""
        sides = {"min": self.min, "max": self.max, "min_excess": self.min_excess}
        return {side: bound for side, bound in sides.items() if bound is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """A rule file that has no mistakes.

    Attributes:
        path: The file, or None.
        directory: Absolute directory that the file's paths are relative to.
        sha256: Hex digest of the file's bytes and of all that it extends; of canonical JSON where the spec comes from
            Python.
        model: Where the model comes from, or None where Python gives it.
        weights: Where the weights come from, or None.
        data: Where the images come from, or None where Python gives them.
        reading: How they are read.
        inputs: How the model is called: a name, or names in a list (positional) or a mapping (keywords); None for
            what the data gives as images.
        head: Which of the outputs holds the logits, by its keys; empty where none does, None for the usual one.
        undecided: Whether an undecided rule fails the audit.
        sampling: Which images are read, and how sure a verdict must be.
        rules: At least one, in the order of the file; those that are taken over come last.
        extends: Packs and rule files that rules are taken over from.
        without: Ids of rules that are not.
    """

    path: Path | None
    directory: Path
    sha256: str
    model: Source | None
    weights: Source | None
    data: Source | None
    undecided: Undecided
    sampling: Sampling
    rules: tuple[Rule, ...]
    extends: tuple[Base, ...] = ()
    without: tuple[str, ...] = ()
    reading: Reading = Reading()
    inputs: str | tuple[JsonValue, ...] | Mapping[str, JsonValue] | None = None
    head: str | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What a report says of the rule file."""
        return {
            "path": self.name,
            "sha256": self.sha256,
            "rules": [rule.id for rule in self.rules],
            "extends": [{"name": base.name, "version": base.version, "sha256": base.sha256} for base in self.extends],
            "without": list(self.without),
        }

    @property
    def name(self) -> str:
        """The file as a reader of messages finds it: relative to the current directory where it is below it."""
        if self.path is None:
            return "rules from Python"
        path, here = self.path.resolve(), Path.cwd()
        return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.as_posix()

    def place(self, rule: Rule) -> str:
        """Where a rule stands: ``file:line``."""
        name = rule.file or self.name
        return f"{name}:{rule.line}" if rule.line else name
