"""Datasets of torchvision's by name, and objects that hold the loaders of a project."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from cnnaudit.data.pictures import guarded
from cnnaudit.data.values import near, telling
from cnnaudit.errors import LoadError
from cnnaudit.load.zoo import package
from cnnaudit.spec.source import TORCHVISION_PATHS

if TYPE_CHECKING:
    from cnnaudit.load.trust import Trust
    from cnnaudit.spec.source import Source

__all__ = ["is_module", "loader_of", "torchvision_dataset"]

_INDEX = "reads a pickled index in the current directory, which can run code"
_REFUSED = {"LSUN": _INDEX, "LSUNClass": _INDEX, "Cityscapes": "unpacks whatever archives lie beside its folders"}
_FUNCTIONS = {"loader", "is_valid_file", "transform", "target_transform", "transforms"}
_LOADERS = {"test_dataloader": "test", "val_dataloader": "validate", "predict_dataloader": "predict"}


def torchvision_dataset(source: Source, trust: Trust) -> Dataset[Any]:
    """Build a dataset of torchvision's from files that are there; nothing is downloaded.

    Raises:
        LoadError: torchvision is not installed, has no such dataset, or cannot build it of these options and files.
    """
    datasets, place = package("torchvision", "vision").datasets, f"data {source.written}"
    known = [name for name in datasets.__all__ if _is_dataset(getattr(datasets, name))]
    if source.target not in known:
        raise LoadError(
            f"{place}: torchvision has no data set of this name"
            f"{near(source.target, known) or '; see torchvision.datasets.__all__'}"
        )
    if source.target in _REFUSED:
        raise LoadError(f"{place}: it {_REFUSED[source.target]}; open it in a factory of your own")
    options = _options(source, trust, place)
    build = getattr(datasets, source.target)
    needed = [name for name, x in inspect.signature(build).parameters.items() if x.default is x.empty and x.kind == 1]
    if missing := [name for name in needed if name not in options]:
        raise LoadError(f"{place}: it needs {', '.join(missing)} under kwargs")
    try:
        with guarded(lambda path: trust.opened(path, place)):
            made: Dataset[Any] = build(**options)
    except LoadError:
        raise
    except ModuleNotFoundError as error:
        raise LoadError(f"{place}: it needs the package {error.name}, which is not installed") from error
    except Exception as error:
        where = f" below {options['root']}" if "root" in options else ""
        call = ", ".join(f"{name}={value!r}" for name, value in options.items())
        fetch = (
            f"; if it is not there, fetch it beforehand: torchvision.datasets.{source.target}({call}, download=True)"
            if "download" in inspect.signature(build).parameters
            else ""
        )
        raise LoadError(
            f"{place}: torchvision cannot read it{where} ({type(error).__name__}: {_first_line(error)}); "
            f"correct its arguments under kwargs:{fetch}"
        ) from error
    return _Guarded(made, trust, place)


def _options(source: Source, trust: Trust, place: str) -> dict[str, Any]:
    """What the dataset is built with, all of it plain values and files that may be read."""
    options = dict(source.options)
    if options.pop("download", False):
        raise LoadError(f"{place}: an audit downloads nothing: leave `download` out and fetch the files beforehand")
    for name in options:
        if name in _FUNCTIONS:
            instead = "write `transform:` beside `kwargs:`" if name.startswith("transform") else "leave it out"
            raise LoadError(f"{place}: {name} is a function, which a rule file cannot name: {instead}")
        if name.startswith("_"):
            raise LoadError(f"{place}: {name} is torchvision's own: leave it out")
    for name in TORCHVISION_PATHS:
        if name in options:
            path = trust.opened(Path(str(options[name])), f"{place}, {name}")
            _check_links(path, trust, f"{place}, {name}")
            options[name] = str(path)
    return options


def _check_links(folder: Path, trust: Trust, place: str) -> None:
    """Refuse a folder in which a link leads to where the rule file may not reach: torchvision follows them all."""
    if trust.bundle is None:
        return
    for above, folders, files in os.walk(folder):
        for path in (Path(above, name) for name in (*folders, *files)):
            if path.is_symlink():
                trust.opened(path, f"{place}: the link {path.relative_to(folder)}")


class _Guarded(Dataset[Any]):
    """A dataset of torchvision's: the lists of files that it reads name what they like, and it opens all of it."""

    def __init__(self, dataset: Any, trust: Trust, place: str) -> None:
        self._dataset, self._trust, self._place = dataset, trust, place
        self.classes = getattr(dataset, "classes", None)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        with guarded(lambda path: self._trust.opened(path, self._place)):
            return self._dataset[index]


def _is_dataset(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, Dataset)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "").rstrip(". ")


def is_module(data: Any) -> bool:
    """Whether this is an object that holds loaders and is set up before they are asked for, as Lightning's are."""
    return callable(getattr(data, "setup", None)) and any(callable(getattr(data, name, None)) for name in _LOADERS)


def loader_of(module: Any, place: str) -> tuple[Any, str]:
    """Return a loader of a data module's and its name: that of its test data, else validation, else prediction.

    ``prepare_data`` is not called: it downloads.

    Raises:
        LoadError: it has none of them, or several of one kind.
    """
    for name, stage in _LOADERS.items():
        method = getattr(module, name, None)
        if method is None or _is_lightnings(method):
            continue
        with telling(f"{place}, {type(module).__name__}", f"setup({stage!r}) or {name}:"):
            module.setup(stage)
            given = method()
        given = list(given.values()) if isinstance(given, Mapping) else given
        if isinstance(given, (list, tuple)):
            if len(given) != 1:
                raise LoadError(f"{place}: {name} returns {len(given)} loaders; let the factory return one")
            (given,) = given
        if given is not None:
            return given, name
    raise LoadError(f"{place}: {type(module).__name__} has none of {', '.join(_LOADERS)}; write one of them")


def _is_lightnings(method: Any) -> bool:
    """Whether a method is the one that Lightning's own class has for modules without: it only raises."""
    return str(getattr(method, "__module__", "")).partition(".")[0] in ("lightning", "pytorch_lightning")
