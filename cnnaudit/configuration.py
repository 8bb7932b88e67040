"""Settings that are given beside the command line: by the environment, and by a file where the command is started.

They say where an audit runs, what it may open and where its reports go. What decides a verdict is not among them.
"""

from __future__ import annotations

import os
import re
import tomllib
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["LEAVE", "LISTS", "SETTINGS", "Configuration", "Given", "in_force", "using"]

Entry: TypeAlias = str | tuple[str, ...]

SETTINGS = ("device", "format", "baseline", "waivers", "allow-import", "allow-path")
LISTS = ("format", "allow-import", "allow-path")
LEAVE = ("allow-import", "allow-path")  # it adds up: no source takes back what another allows

_DECIDES = "confidence undecided min max min_excess max_regression share reduce estimand severity sampling max_images"
_ASKED = "trust-model show-images coverage-fail-under ignore-waivers as-of update-baseline isolated config"
_REFUSED = {
    **dict.fromkeys(_DECIDES.split(), "decides verdicts, and belongs in the rule file only"),
    **dict.fromkeys(_ASKED.split(), "is given on the command line only"),
}
_PROJECT, _OWN = "pyproject.toml", "cnnaudit.toml"


class Given(NamedTuple):
    """A setting and who gives it: ``CNNAUDIT_DEVICE``, ``pyproject.toml``."""

    value: Entry
    source: str


@dataclass(frozen=True)
class Configuration:
    """What the environment and a file give.

    Attributes:
        given: For each setting those who give it, the strongest first.
    """

    given: Mapping[str, tuple[Given, ...]] = field(default_factory=dict)

    @classmethod
    def here(cls, file: Path | None = None) -> Configuration:
        """Return what the environment gives, then the file: one that is named, or the working directory's.

        Raises:
            LoadError: a file cannot be read; a setting is unknown, of another type, or must not be given there.
        """
        written = _file(file)
        sources = (_environment(), _entries(*written) if written else {})
        return cls({name: tuple(source[name] for source in sources if name in source) for name in SETTINGS})

    def all(self, name: str) -> tuple[Given, ...]:
        """Return everybody who gives a setting, the strongest first."""
        return self.given.get(name, ())

    def listed(self, name: str) -> tuple[str, ...]:
        """Return what all of them give together, for a setting that is a list."""
        return tuple(item for given in self.all(name) for item in given.value)


_IN_FORCE: ContextVar[Configuration | None] = ContextVar("cnnaudit_configuration", default=None)


def in_force() -> Configuration:
    """Return the configuration that a command was started with, or else that of this process and directory."""
    found = _IN_FORCE.get()
    return Configuration.here() if found is None else found


@contextmanager
def using(configuration: Configuration) -> Iterator[None]:
    """Let a configuration be in force."""
    token = _IN_FORCE.set(configuration)
    try:
        yield
    finally:
        _IN_FORCE.reset(token)


def _environment() -> dict[str, Given]:
    for key, reason in _REFUSED.items():
        if os.environ.get(_variable(key)):
            raise LoadError(f"{_variable(key)}: {key} {reason}; unset the variable")
    found = {}
    for name in SETTINGS:
        text = os.environ.get(_variable(name), "").strip()
        value = tuple(item for item in re.split(r"[,\s]+", text) if item) if name in LISTS else text
        if value:
            found[name] = Given(value, _variable(name))
    return found


def _variable(name: str) -> str:
    return f"CNNAUDIT_{name.upper().replace('-', '_')}"


def _file(file: Path | None) -> tuple[str, dict[str, Any]] | None:
    """The table of a file, and the words for it in messages."""
    if file is not None:
        return _table(file)
    tables = [table for name in (_PROJECT, _OWN) if Path(name).is_file() and (table := _table(Path(name)))[1]]
    if len(tables) > 1:
        raise LoadError(f"both {_PROJECT} [tool.cnnaudit] and {_OWN} give settings: keep one of them")
    return tables[0] if tables else None


def _table(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        table: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LoadError(f"{path}: {error}") from error
    if path.name == _PROJECT:
        table = table.get("tool", {})
        table = table.get("cnnaudit", {}) if isinstance(table, dict) else table
    if not isinstance(table, dict):
        raise LoadError(f"{path}: [tool.cnnaudit] must be a table of settings")
    return str(path), table


def _entries(path: str, table: dict[str, Any]) -> dict[str, Given]:
    place = f"{path}: [tool.cnnaudit]" if Path(path).name == _PROJECT else f"{path}:"
    found = {}
    for key, value in table.items():
        if key not in SETTINGS:
            raise LoadError(f"{place} {_refusal(key)}")
        if key in LISTS and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise LoadError(f"{place} {key} must be a list of text")
        if key not in LISTS and not (isinstance(value, str) and value):
            raise LoadError(f"{place} {key} must be text")
        found[key] = Given(tuple(value) if key in LISTS else value, path)
    return found


def _refusal(key: str) -> str:
    for known, reason in _REFUSED.items():
        if key.replace("_", "-") == known.replace("_", "-"):
            return f"{key} {reason}; remove it"
    if key.replace("_", "-") in SETTINGS:
        return f"{key} is no setting; did you mean {key.replace('_', '-')}?"
    return f"{key} is no setting; the settings are {', '.join(SETTINGS)}"
