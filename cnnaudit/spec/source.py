"""What a string that names a model, weights or data means: the one reading of it, wherever it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from cnnaudit.errors import LoadError
from cnnaudit.spec.messages import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["TORCHVISION_PATHS", "Kind", "Role", "Source", "resolve"]

Role: TypeAlias = Literal["model", "weights", "data"]
Kind: TypeAlias = Literal[
    "file_factory",  # model.py:build
    "module_factory",  # package.module:build
    "torchvision",  # torchvision:resnet18, and as data torchvision:FashionMNIST
    "timm",  # timm:resnet50, timm:hf-hub:org/name
    "exported",  # .pt2
    "safetensors",
    "state_dict",  # .pt .pth .bin .ckpt
    "npz",
    "npy",
    "folder",
    "manifest",  # .csv that lists files of images
    "synthetic",
]

_SUFFIXES: Mapping[str, Kind] = {
    ".pt2": "exported",
    ".safetensors": "safetensors",
    ".index.json": "safetensors",  # model.safetensors.index.json: several files
    ".pt": "state_dict",
    ".pth": "state_dict",
    ".pth.tar": "state_dict",
    ".bin": "state_dict",
    ".ckpt": "state_dict",
    ".npz": "npz",
    ".npy": "npy",
    ".csv": "manifest",
}
_HUBS: Mapping[str, Kind] = {"torchvision": "torchvision", "timm": "timm"}
TORCHVISION_PATHS = ("root", "annFile", "ann_file", "annotation_path")  # options of its datasets that are paths
_CODE: frozenset[Kind] = frozenset({"file_factory", "module_factory"})
_WEIGHTS: frozenset[Kind] = frozenset({"safetensors", "state_dict"})

_ROLES: Mapping[Role, frozenset[Kind]] = {
    "model": _CODE | {"torchvision", "timm", "exported"},
    "weights": _WEIGHTS,
    "data": _CODE | {"npz", "npy", "safetensors", "folder", "manifest", "synthetic", "torchvision"},
}
_FORMS: Mapping[Role, str] = {
    "model": "model.py:build, package.module:build, torchvision:resnet18, timm:resnet50 or model.pt2",
    "weights": "weights.safetensors or a state dict in .pt, .pth, .bin or .ckpt",
    "data": "images.npz, images.npy, images.safetensors, a folder of images, a .csv that lists them, data.py:build, "
    "package.module:build, torchvision:FashionMNIST or synthetic",
}


@dataclass(frozen=True)
class Source:
    """Where a model, weights or data come from.

    Attributes:
        kind: Which of the forms was written.
        target: An absolute path for files and folders, else a module, a model's name or ``"synthetic"``.
        attribute: What to call in the file or module of a factory, else None.
        options: Plain JSON values to call or open it with.
        written: The text as it was written, for reports.
        part: Dotted name of the submodule that is meant, or nothing.
    """

    kind: Kind
    target: str
    attribute: str | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    written: str = ""
    part: str = ""


def resolve(text: str, *, base: Path, role: Role, options: Mapping[str, Any] | None = None, part: str = "") -> Source:
    """Read a string that names a model, weights or data. Opens and imports nothing.

    Args:
        text: What was written.
        base: The directory that paths are relative to.
        role: What the string stands for.
        options: Plain JSON values to call or open it with.
        part: Dotted name of the submodule that is meant, or nothing.

    Raises:
        LoadError: The text has none of the forms that its role accepts; the message lists them.
    """
    base = base.absolute()
    found = _read(text, base)
    if found is None or found[0] not in _ROLES[role]:
        raise LoadError(_refusal(text, base, role))
    options = dict(options or {})
    if role == "data" and found[0] == "torchvision":
        named = [name for name in TORCHVISION_PATHS if isinstance(options.get(name), str)]
        options |= {name: str(base / options[name]) for name in named}
    return Source(*found, options=MappingProxyType(options), written=text, part=part)


def _read(text: str, base: Path) -> tuple[Kind, str, str | None] | None:
    if not text.isprintable() or "://" in text:
        return None
    hub, _, name = text.partition(":")
    if hub in _HUBS:
        return (_HUBS[hub], name, None) if name else None
    target, colon, attribute = text.rpartition(":")
    if colon and _is_dotted(attribute):
        if target.endswith(".py"):
            return "file_factory", str(base / target), attribute
        if _is_dotted(target) and not _near_hub(target, cutoff=0.9):
            return "module_factory", target, attribute
    if text == "synthetic":
        return "synthetic", text, None
    suffixes = PurePosixPath(text.lower()).suffixes
    kind = _SUFFIXES.get("".join(suffixes[-2:])) or _SUFFIXES.get("".join(suffixes[-1:]))
    if kind is None and (text.endswith("/") or (text and (base / text).is_dir())):
        kind = "folder"
    return (kind, str(base / text), None) if kind else None


def _refusal(text: str, base: Path, role: Role) -> str:
    if role == "model" and (found := _read(text, base)) and found[0] in _WEIGHTS:
        return (
            f"{quoted(text)} is a file of weights, not a model: name the code that builds the model "
            "under model: (model.py:build) and this file under weights:; a whole model, "
            "pickled or of TorchScript, is not read: save it with torch.export.save as .pt2"
        )
    hint = ";"
    if "://" in text:
        hint = ", and nothing is downloaded: fetch it and name the file;"
    elif role == "data" and _is_bare(text):
        hint = f", and there is no folder {text};"
    for guess in _guesses(text, role):
        if (found := _read(guess, base)) and found[0] in _ROLES[role]:
            hint = f"; did you mean {guess!r}?"
            break
    return f"{quoted(text)} does not name {_noun(role)}{hint} the forms are {_FORMS[role]}"


def _is_bare(text: str) -> bool:
    """Whether this can be the path of a folder only: a name without an ending."""
    return bool(text) and text.isprintable() and not (PurePosixPath(text).suffix or ":" in text)


def _guesses(text: str, role: Role) -> Iterator[str]:
    """What may have been meant; the caller keeps the first that could be read."""
    if "://" in text:
        return
    head, colon, tail = text.partition(":")
    if near := _near_hub(head, cutoff=0.8):
        yield f"{near[0]}:{tail}"
    if text.endswith(".py"):
        yield f"{text}:build"
    path = PurePosixPath(text)
    if near := get_close_matches(path.suffix.lower(), _SUFFIXES, n=1, cutoff=0.8):
        yield str(path.with_suffix(near[0]))
    if text.count(".") > 1:  # with a single dot it may be a file of a kind unknown here
        yield ":".join(text.rsplit(".", 1))
    if not colon and role == "model" and text.replace("_", "").isalnum():
        yield f"torchvision:{text}"


def _near_hub(text: str, *, cutoff: float) -> list[str]:
    """The hub that a word may be a slip of: ``torchvison:resnet18`` would otherwise be some module."""
    return get_close_matches(text.lower(), _HUBS, n=1, cutoff=cutoff)


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _noun(role: Role) -> str:
    return "a model" if role == "model" else role
