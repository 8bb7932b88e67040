"""Which code an audit may import: nothing that was not allowed by somebody other than the audited file."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

    from cnnaudit.spec.source import Source

__all__ = ["Trust"]

_ENVIRONMENT = "CNNAUDIT_ALLOW_IMPORT"
_INSTALLED = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class Trust:
    """Globs of what may be imported.

    A glob with a slash or ending in ``.py`` is a path, absolute or below ``root`` (``examples/**.py``); it covers the
    files that it matches, by path or as modules. Any other is a module (``pkg.models``, ``pkg.*``). In both, ``*``
    stays within a component and ``**`` does not; a module glob ending in ``.*`` covers everything below.

    Attributes:
        globs: What is allowed.
        root: Directory that path globs are relative to.
    """

    globs: tuple[str, ...] = ()
    root: Path = Path()

    @classmethod
    def here(cls, extra: Iterable[str] = ()) -> Trust:
        """Return what the caller, the environment and the working directory's pyproject.toml allow.

        Raises:
            LoadError: pyproject.toml cannot be read, or its entry is no list of text.
        """
        environment = re.split(r"[,\s]+", os.environ.get(_ENVIRONMENT, ""))
        return cls((*extra, *(g for g in environment if g), *_from_pyproject(Path("pyproject.toml"))), Path.cwd())

    def factory(self, source: Source) -> Any:
        """Import what a factory source names.

        Raises:
            LoadError: it is not allowed, does not exist, or leads to an object that is defined elsewhere.
        """
        attribute = source.attribute or ""
        module = self._file(source) if source.kind == "file_factory" else self._module(source)
        found: Any = module
        for name in attribute.split("."):
            if not hasattr(found, name):
                near = ", ".join(
                    sorted(n for n in vars(module) if callable(vars(module)[n]) and not n.startswith("_"))[:6]
                )
                raise LoadError(
                    f"{source.written}: {source.target} has no {attribute!r}; it has {near or 'no functions'}"
                )
            found = getattr(found, name)
        home = _home(found)
        # Only what is going to be called can do harm: a name must not lead to a function from elsewhere.
        called = callable(found) and not isinstance(found, nn.Module)
        if called and home != module.__name__ and not self._allows_module(home):
            raise LoadError(
                f"{source.written} leads to an object of the module {home!r}, which is not allowed: "
                f"allow it with --allow-import {home!r}, or define a function of your own"
            )
        return found

    def _file(self, source: Source) -> ModuleType:
        path = Path(source.target).resolve()
        if not path.is_file():
            raise LoadError(f"{source.written}: there is no file {source.target}")
        if not self._allows_file(path):
            raise LoadError(_refusal(source.written, self._relative(path)))
        name = f"cnnaudit_factory_{path.stem}_{abs(hash(str(path))):x}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise LoadError(f"{source.written}: {source.target} is not Python code")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        sys.path.insert(0, str(path.parent))
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise LoadError(f"{source.written}: importing it raised {type(error).__name__}: {error}") from error
        finally:
            sys.path.remove(str(path.parent))
        return module

    def _module(self, source: Source) -> ModuleType:
        if not self._allows_module(source.target):
            raise LoadError(_refusal(source.written, source.target))
        try:
            return importlib.import_module(source.target)
        except Exception as error:
            raise LoadError(f"{source.written}: importing it raised {type(error).__name__}: {error}") from error

    def _allows_module(self, name: str) -> bool:
        if any(re.fullmatch(_module_regex(g), name) for g in self.globs if not _path_glob(g)):
            return True
        file = _module_file(name)
        return file is not None and self._allows_file(file)

    def _allows_file(self, path: Path) -> bool:
        named = {self._relative(path), path.as_posix()}
        # What is installed below the root, in a virtual environment say, is not the project's.
        installed = bool(_INSTALLED & set(path.parts)) or any(path.is_relative_to(folder) for folder in _standard())
        globs = [g for g in self.globs if _path_glob(g) and (not installed or any(i in g for i in _INSTALLED))]
        return any(re.fullmatch(_regex(g, "/"), name) for g in globs for name in named)

    def _relative(self, path: Path) -> str:
        root = self.root.resolve()
        return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _standard() -> set[Path]:
    """Where the standard library lies."""
    return {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}


def _module_file(name: str) -> Path | None:
    """Where a module lies, found without importing its packages: that would run them."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module that was made by hand, such as __main__
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin).resolve() if spec.has_location and spec.origin else None
    for folder in spec.submodule_search_locations or ():
        base = Path(folder, *rest)
        for file in (base / "__init__.py", base.with_suffix(".py")):  # as Python looks for them
            if file.is_file():
                return file.resolve()
    return None


def _refusal(written: str, wanted: str) -> str:
    return (
        f"{written} is code, and importing it is not allowed. If you trust it, add --allow-import '{wanted}', set "
        f"{_ENVIRONMENT}, or list it in pyproject.toml under [tool.cnnaudit] allow-import"
    )


def _home(found: Any) -> str:
    """Module in which an object is really defined, whatever name led to it."""
    while isinstance(found, functools.partial):
        found = found.func
    return str(getattr(found, "__module__", None) or type(found).__module__)


def _from_pyproject(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LoadError(f"{path}: {error}") from error
    allowed: Any = table
    for key in ("tool", "cnnaudit"):
        allowed = allowed.get(key, {}) if isinstance(allowed, dict) else {}
    allowed = allowed.get("allow-import", []) if isinstance(allowed, dict) else None
    if not isinstance(allowed, list) or not all(isinstance(g, str) for g in allowed):
        raise LoadError(f"{path}: [tool.cnnaudit] allow-import must be a list of text")
    return tuple(allowed)


def _path_glob(glob: str) -> bool:
    return "/" in glob or glob.endswith(".py")


def _regex(glob: str, separator: str) -> str:
    parts = re.split(r"(\*\*|\*)", glob)
    wild = {"**": ".*", "*": f"[^{re.escape(separator)}]*"}
    return "".join(wild.get(part, re.escape(part)) for part in parts)


def _module_regex(glob: str) -> str:
    if glob.endswith(".*"):
        return _regex(glob[:-2], ".") + r"(\..*)?"
    return _regex(glob, ".")
