"""What an evidence file says besides its tensors, as one JSON text."""

from __future__ import annotations

import json
import math
import os.path
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from cnnaudit.errors import EvidenceError
from cnnaudit.looks import Look  # noqa: TC001 - pydantic reads the annotations of fields when the class is made
from cnnaudit.metrics import registry
from cnnaudit.site import Site  # noqa: TC001 - see above
from cnnaudit.spec import Base, Rule, Sampling, Undecided, glob

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cnnaudit.site import Tap
    from cnnaudit.spec import Source, Spec
    from cnnaudit.statistics import Probe

__all__ = ["SCHEMA_VERSION", "Content", "Known", "Planned", "StoredProbe", "canonical", "key_of", "plain", "written"]

SCHEMA_VERSION = 1

_MOST_UNITS = 2**20
_MOST_POSITIONS = 2**32
_REPORTED = {
    "spec": {"path", "sha256", "rules", "extends", "without"},
    "model": {"source", "weights", "sha256", "sites", "parameters", "macs", "input_shape", "inputs", "head"},
    "data": {"source", "sha256", "n_images", "available", "order", "transform", "corrupt", "sources", "columns"},
    "settings": {"seed", "confidence", "block", "groups", "device", "dtype", "cnnaudit", "torch", "looks", "date"},
}
_READS_WHERE = frozenset({"statistic", "site", "taps", "kernels", "slice"})


class _Part(BaseModel):
    """Strict: text is no number, and an unknown key is damage."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True)
class Planned:
    """What a plan is made from besides rules and sites; see :func:`cnnaudit.plan.make_plan`."""

    classes: int
    labelled: bool
    n_images: int | None
    masked: bool
    concepts: int
    clustered: bool
    margin: tuple[int, ...] | None


@dataclass(frozen=True)
class Known:
    """What is known of the data at a look.

    Attributes:
        look: Which look.
        classes: Number of classes that were met by then.
        values: The values of each column that rules slice by, in the order of their codes.
    """

    look: Look
    classes: int
    values: Mapping[str, tuple[str, ...]]


class StoredProbe(_Part):
    """What one stored statistic is of.

    Attributes:
        key: What was read where, as :func:`key_of` tells it.
        kernels: The kernels that were read; None for all.
        slice: Code of the value of the column whose images were counted; None for all images.
    """

    key: str
    kernels: tuple[int, ...] | None
    slice: int | None


class Content(_Part):
    """All that an evidence file says.

    Attributes:
        schema_version: Of this form.
        metrics: Versions of the metrics there were.
        shard: Which part of how many, from 1; (1, 1) for all images.
        written: What decides the sampling, as the rule file says it; see :func:`written`.
        planned: What the plan was made from.
        groups: Number of groups that sources were dealt to.
        known: What was known at each look.
        undecided, confidence: The rules' policy.
        rules: The rules, resolved.
        extends, without: Where rules were taken over from, and which were not.
        sites: The network's sites in their order.
        probes: What the stored statistics are of, by their numbers.
        report: The report of the audit; of a part of the images one without verdicts.
    """

    schema_version: int
    metrics: dict[str, int]
    shard: tuple[int, int]
    written: dict[str, JsonValue]
    planned: Planned
    groups: int = Field(ge=1, le=2**16)
    known: tuple[Known, ...] = Field(min_length=1, max_length=64)
    undecided: Undecided
    confidence: float = Field(gt=0.5, lt=1)
    rules: tuple[Rule, ...] = Field(min_length=1)
    extends: tuple[Base, ...]
    without: tuple[str, ...]
    sites: tuple[Site, ...]
    probes: tuple[StoredProbe, ...]
    report: dict[str, Any]

    @field_validator("known")
    @classmethod
    def _are_looks(cls, known: tuple[Known, ...]) -> tuple[Known, ...]:
        looks = [one.look for one in known]
        if [look.number for look in looks] != list(range(1, len(looks) + 1)):
            raise ValueError("looks are numbered from 1")
        if [look.last for look in looks] != [False] * (len(looks) - 1) + [True]:
            raise ValueError("one look is the last")
        if min(look.spent for look in looks) <= 0 or sum(look.spent for look in looks) > 1 + 1e-9:
            raise ValueError("looks spend more of alpha than there is")
        return known

    @field_validator("report")
    @classmethod
    def _is_told(cls, report: dict[str, Any]) -> dict[str, Any]:
        for section, names in _REPORTED.items():
            told = report.get(section)
            missing = names - told.keys() if isinstance(told, dict) else {section}
            if missing:
                raise ValueError(f"the report lacks {', '.join(sorted(missing))}")
        return report

    @field_validator("sites")
    @classmethod
    def _are_possible(cls, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        """No network has these, and reckoning with them would take all memory."""
        for site in sites:
            shapes = [tap.shape for tap in (*site.taps.values(), *site.parameters.values())]
            numbers = [site.units, *site.kernel, *(n for shape in shapes for n in shape)]
            if min(numbers) < 0 or site.units > _MOST_UNITS:
                raise ValueError(f"{site.path} has a size that no site has")
            if any(math.prod(shape) > _MOST_POSITIONS for shape in (*shapes, site.kernel)):
                raise ValueError(f"{site.path} is larger than any site")
        return sites

    @field_validator("rules")
    @classmethod
    def _are_readable(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        return tuple(_readable(rule) for rule in rules)

    @classmethod
    def read(cls, text: bytes, path: str) -> Content:
        """Read the text of a file.

        Raises:
            EvidenceError: it says something else than such a text does.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "its text"
            raise EvidenceError(
                f"{path}: this evidence is damaged or of another version: {place}: {first['msg']}; audit again"
            ) from None


def _readable(rule: Rule) -> Rule:
    """A rule with its parameters as its metric takes them."""
    metric = registry().get(rule.metric)
    if metric is None:
        raise ValueError(f"there is no metric {rule.metric}: install the package that offers it")
    if rule.field not in metric.fields:
        raise ValueError(f"{rule.metric} has no field {rule.field}")
    for pattern in (*rule.at, *rule.start):
        glob.check(pattern)
    params = metric.params.model_validate_json(json.dumps(dict(rule.params)), strict=True).model_dump()
    return Rule(**{f.name: getattr(rule, f.name) for f in fields(rule)} | {"params": params})


def plain(value: Any) -> Any:
    """Return dataclasses, mappings and sequences of plain values as JSON has them."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, (StrEnum, Path)) else value


def canonical(value: Any) -> str:
    """Return the one JSON text of a value."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def key_of(probe: Probe) -> str:
    """Return the text that says what a probe reads where, whatever kernels and slice: equal ones are one statistic."""
    site, kind = probe.site, probe.statistic
    known = {**site.parameters, **site.taps}
    facts = {f.name: getattr(probe, f.name) for f in fields(probe) if f.name not in _READS_WHERE}
    where = {
        "statistic": f"{kind.__module__}.{kind.__qualname__}",
        "site": site.path,
        "op": site.op,
        "taps": [[name, _facts(known[name])] for name in probe.taps],
    }
    return canonical(facts | where)


def _facts(tap: Tap) -> dict[str, Any]:
    return {**plain(tap), "atoms": [float(value) for value in tap.atoms]}


def written(spec: Spec) -> dict[str, Any]:
    """Return what decides the sampling, by its place in a rule file; paths are relative to that."""
    reading, directory = spec.reading, spec.directory
    told: dict[str, Any] = {}
    for role, source in (("model", spec.model), ("weights", spec.weights), ("data", spec.data)):
        told[role] = None if source is None else _source(source, directory)
    told |= {
        "data.transform": reading.transform,
        "data.exclude": None if reading.exclude is None else os.path.relpath(reading.exclude, directory),
        "data.max_corrupt": reading.max_corrupt,
        "inputs": spec.inputs,
        "head": spec.head,
    }
    names: Iterable[str] = (name for name in Sampling.model_fields if name != "confidence")
    told |= {f"sampling.{name}": getattr(spec.sampling, name) for name in names}
    found: dict[str, Any] = json.loads(canonical(told))
    return found


def _source(source: Source, directory: Path) -> Any:
    inside = f"{directory}{os.path.sep}"
    options = {
        name: value.removeprefix(inside) if isinstance(value, str) else value for name, value in source.options.items()
    }
    return (
        {"load": source.written, "kwargs": options, "part": source.part} if options or source.part else source.written
    )
