"""What an audit may import and open: nothing that was not allowed by somebody other than the audited file."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import re
import stat
import sys
import sysconfig
from dataclasses import dataclass, replace
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn

from cnnaudit.configuration import in_force
from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cnnaudit.spec.source import Source

__all__ = ["Trust"]

# Where leave is given beside the command line: environment variable and entry of pyproject.toml.
_IMPORT = ("CNNAUDIT_ALLOW_IMPORT", "allow-import")
_PATH = ("CNNAUDIT_ALLOW_PATH", "allow-path")
_INSTALLED = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class Trust:
    """Globs of what may be imported and opened.

    A glob with a slash or ending in ``.py`` is a path, absolute or below ``root`` (``examples/**.py``); it covers the
    files that it matches, by path or as modules. Any other is a module (``pkg.models``, ``pkg.*``). In both, ``*``
    stays within a component and ``**`` does not; a module glob ending in ``.*`` covers everything below.

    Attributes:
        globs: What may be imported.
        root: Directory where the command was started: path globs are relative to it, and what lies below it may be
            opened.
        paths: Path globs of what may be opened elsewhere; a folder's glob covers everything below it.
        bundle: Directory of the audited rule file, whose files it may open; None where the paths do not come from a
            rule file but from the command line or from Python, which are trusted.
        exported: Whether exported programs may be loaded: torch unpickles them, which can run code.
    """

    globs: tuple[str, ...] = ()
    root: Path = Path()
    paths: tuple[str, ...] = ()
    bundle: Path | None = None
    exported: bool = False

    @classmethod
    def here(
        cls, allow_imports: Iterable[str] = (), allow_paths: Iterable[str] = (), *, trust_model: bool = False
    ) -> Trust:
        """Return what the caller, the environment and the working directory's pyproject.toml allow.

        Raises:
            LoadError: pyproject.toml cannot be read, or has a setting that is none.
        """
        settings = in_force()
        globs = (*allow_imports, *settings.listed(_IMPORT[1]))
        paths = (*allow_paths, *settings.listed(_PATH[1]))
        return cls(globs, Path.cwd(), paths, exported=trust_model)

    def opened(self, path: Path, written: str) -> Path:
        """Return where a file or folder that is going to be read really lies.

        Links are followed before anything is decided: one inside the bundle must not lead out of it.

        Args:
            path: What is going to be read.
            written: How the user knows it, for messages.

        Raises:
            LoadError: it lies where the rule file may not reach, is not there, or is neither a file nor a folder.
        """
        try:
            real = path.resolve()
            if not self._may_read(real):
                raise LoadError(
                    f"{written} lies outside the rule file's folder and the one where the command was started, in "
                    f"{real}. If it may be read, add --allow-path '{self._relative(real)}', set {_PATH[0]}, or list it "
                    f"in pyproject.toml under [tool.cnnaudit] {_PATH[1]}"
                )
            mode = real.stat().st_mode
        except FileNotFoundError:
            raise LoadError(f"{written}: there is no file {path}; check the path") from None
        except (OSError, RuntimeError, ValueError) as error:  # no rights, a circle of links, a NUL in the name
            raise LoadError(f"{written}: {path} cannot be opened ({_why(error)}); check its permissions") from error
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise LoadError(f"{written}: {path} is a device, pipe or socket; name a file or a folder")
        return real

    def _may_read(self, real: Path) -> bool:
        if self.bundle is None or any(real.is_relative_to(f.resolve()) for f in (self.bundle, self.root)):
            return True
        named = {name for path in (real, *real.parents) for name in (self._relative(path), path.as_posix())}
        return any(re.fullmatch(self._regex(g), name) for g in self.paths for name in named)

    def factory(self, source: Source) -> Any:
        """Import what a factory source names.

        Raises:
            LoadError: it is not allowed, does not exist, or leads to an object that is defined elsewhere.
        """
        module = self._file(source) if source.kind == "file_factory" else self._module(source)
        found: Any = module
        for name in (source.attribute or "").split("."):
            try:
                found = getattr(found, name)
            except AttributeError:
                raise LoadError(_no_attribute(source, module)) from None
            except Exception as error:
                raise LoadError(
                    f"{source.written}: reading it raised {_why(error)}; run it by itself to see where"
                ) from error
            # A module that was imported for its own use must not be reached into, nor its lazy imports be set off.
            if isinstance(found, ModuleType):
                self._check_home(source, module, found.__name__)
        # Of the rest, only what is going to be called can do harm: a name must not lead to a function from elsewhere.
        if callable(found) and not isinstance(found, nn.Module):
            for home in _homes(found):
                self._check_home(source, module, home)
        return found

    def _check_home(self, source: Source, module: ModuleType, home: str) -> None:
        if home != module.__name__ and not self._allows_module(home):
            raise LoadError(
                f"{source.written} leads to an object of the module {home!r}, which is not allowed: "
                f"allow it with --allow-import {home!r}, or define a function of your own"
            )

    def _file(self, source: Source) -> ModuleType:
        # Leave to import a file is leave to read it, wherever it lies.
        path = replace(self, bundle=None).opened(Path(source.target), source.written)
        if not path.is_file():
            raise LoadError(f"{source.written}: {source.target} is a folder; name a file of Python code in it")
        if not self._allows_file(path):
            raise LoadError(_refusal(source.written, self._relative(path)))
        name = f"cnnaudit_factory_{path.stem}_{abs(hash(str(path))):x}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise LoadError(f"{source.written}: {source.target} is not Python code; name a .py file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        sys.path.insert(0, str(path.parent))
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise LoadError(
                f"{source.written}: importing it raised {_why(error)}; import it by itself to see where"
            ) from error
        finally:
            sys.path.remove(str(path.parent))
        return module

    def _module(self, source: Source) -> ModuleType:
        if not self._allows_module(source.target):
            raise LoadError(_refusal(source.written, source.target))
        try:
            return importlib.import_module(source.target)
        except (Exception, SystemExit) as error:
            raise LoadError(
                f"{source.written}: importing it raised {_why(error)}; import it by itself to see where"
            ) from error

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
        return any(re.fullmatch(self._regex(g), name) for g in globs for name in named)

    def _regex(self, glob: str) -> str:
        """Of a path glob; one that leads out of the root (``../shared``) is that of an absolute path."""
        outside = ".." in Path(glob).parts
        return _regex(os.path.normpath(self.root.resolve() / glob) if outside else glob.rstrip("/"), "/")

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
        f"{_IMPORT[0]}, or list it in pyproject.toml under [tool.cnnaudit] {_IMPORT[1]}"
    )


def _no_attribute(source: Source, module: ModuleType) -> str:
    near = sorted(n for n, it in vars(module).items() if callable(it) and not n.startswith("_"))[:6]
    told = f"it has {', '.join(near)}" if near else "write a function of that name"
    return f"{source.written}: {source.target} has no {source.attribute!r}; {told}"


def _homes(found: Any) -> set[str]:
    """Modules in which an object that is going to be called is defined, whatever name led to it.

    What it claims is not enough for a function: ``__module__`` is only an attribute, and libraries set it to the place
    where they want to be imported from. A decorated function is at home where the one that it wraps is.
    """
    while isinstance(found, functools.partial):
        found = found.func
    homes = {str(getattr(found, "__module__", None) or type(found).__module__)}
    if not isinstance(found, type):
        inner = inspect.unwrap(getattr(found, "__func__", found))
        homes |= {str(inner.__globals__.get("__name__"))} if isinstance(inner, FunctionType) else set()
    return homes


def _why(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


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
