"""YAML text -> plain values that know where they were written.

PyYAML reads YAML 1.1, in which ``1e-3`` is text, ``no`` is false and the second of two equal keys wins
without a word. Here PyYAML only scans and composes; scalars are read by the core schema of YAML 1.2, as
editors do, and whatever a rule file has no use for is refused: tags, merge keys, keys that are not text,
several documents.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import yaml

from cnnaudit.errors import Problem, SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_BYTES", "Document", "Mark", "Path", "parse", "read", "shown"]

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 10_000
MAX_DIGITS = 300  # Python itself refuses to print integers of more than 4,300 digits

Path: TypeAlias = tuple[str | int, ...]  # ("rules", 0, "min")

_CONSTANTS: Mapping[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **{sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
}
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Mark(NamedTuple):
    """Where something is written; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Document:
    """The values of one file, and where each of them stands.

    Attributes:
        value: Plain values: dict, list, str, int, float, bool, None.
        file: The file's name for messages.
        keys: Where each key of a mapping is written, by the path of its value.
        values: Where each value starts, by its path; both are empty for values that come from Python.
        files: In which other file a key or value is written, by its path, for those that come from one.
        problems: Mistakes that left the rest readable.
    """

    value: Any
    file: str
    keys: Mapping[Path, Mark] = field(default_factory=dict)
    values: Mapping[Path, Mark] = field(default_factory=dict)
    files: Mapping[Path, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def problem(self, path: Path, message: str, *, key: bool = False) -> Problem:
        """A mistake at a value, or at its key; at the nearest value above where the path leads nowhere.

        Values from Python have no lines: there the message says the path.
        """
        mark, at = self.keys.get(path) if key else None, path
        while mark is None and (mark := self.values.get(at)) is None:
            if not at:
                spelled = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
                return Problem(self.file, 0, 0, f"at {spelled.lstrip('.')}: {message}" if spelled else message)
            at = at[:-1]
        return Problem(self.files.get(at, self.file), mark.line, mark.column, message)

    def place(self, path: Path) -> Mark:
        """Where the value at a path starts; ``(0, 0)`` for values that come from Python."""
        return self.values.get(path, Mark(0, 0))


def read(path: FilePath) -> bytes:
    """Read the bytes of a rule file.

    Raises:
        SpecError: It cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError(
            [Problem(shown(path), 0, 0, f"cannot be read ({error.strerror}); check the path and its permissions")]
        ) from None


def shown(path: FilePath) -> str:
    """Return a path as messages show it: relative to the current directory where it is below it."""
    absolute, here = path.absolute(), FilePath.cwd()
    return absolute.relative_to(here).as_posix() if absolute.is_relative_to(here) else str(path)


def parse(data: bytes, file: str) -> Document:
    """Read the one YAML document of a file.

    Args:
        data: The bytes of the file, UTF-8.
        file: Its name for messages.

    Raises:
        SpecError: The bytes are too many, not UTF-8 or not YAML, or nest, repeat or expand beyond the limits.
    """
    if len(data) > MAX_BYTES:
        raise SpecError([Problem(file, 0, 0, f"is larger than the {MAX_BYTES:,} bytes a rule file may have")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = len(before) - before.rfind(b"\n")
        raise SpecError(
            [Problem(file, before.count(b"\n") + 1, column, "is not UTF-8 text; save it as UTF-8")]
        ) from None
    try:
        composer = _Composer(text, file)
        node = composer.compose()
    except yaml.reader.ReaderError as error:
        before_text = text[: error.position]
        place = (before_text.count("\n") + 1, len(before_text) - before_text.rfind("\n"))
        message = f"the character {chr(int(error.character))!r} is not allowed in YAML"
        raise SpecError([Problem(file, *place, message)]) from None
    except yaml.MarkedYAMLError as error:
        raise SpecError([_syntax_problem(error, file)]) from None
    reader = _Reader(file, composer.problems)
    value = reader.read(node, ()) if node else None
    marks = reader.values or {(): Mark(1, 1)}
    return Document(value, file, reader.keys, marks, problems=tuple(reader.problems))


class _Composer(yaml.BaseLoader):
    """Composes nodes and resolves nothing; notes tags, and stops before Python's own limits do."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.depth = self.count = 0
        super().__init__(text)

    def compose(self) -> yaml.Node | None:
        try:
            return self.get_single_node()
        except ValueError:  # PyYAML lets "\\U00110000" and a %YAML version of 5,000 digits reach chr() and int()
            words = "a number in an escape or a directive is out of range; write plain text"
            raise SpecError([Problem(self.file, self.line + 1, self.column + 1, words)]) from None

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call] # types-PyYAML leaves it open
        if getattr(event, "tag", None) is not None:
            self.problems.append(
                _problem(self.file, event.start_mark, f"the tag {event.tag!r} is not read: write a plain value")
            )
        if self.depth > MAX_DEPTH:
            raise SpecError([_too_deep(self.file, event.start_mark)])
        self.count += 1
        if self.count > 2 * MAX_VALUES:  # keys are nodes as well
            raise SpecError([_too_many(self.file, event.start_mark)])
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Reader:
    """Turns nodes into values, expanding aliases, and remembers every place."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = problems
        self.keys: dict[Path, Mark] = {}
        self.values: dict[Path, Mark] = {}

    def read(self, node: yaml.Node, path: Path) -> Any:
        self.values[path] = _mark(node.start_mark)
        if len(self.values) > MAX_VALUES:
            raise SpecError([_too_many(self.file, node.start_mark)])
        if len(path) > MAX_DEPTH:  # an alias may nest deeper than the text does, even into itself
            raise SpecError([_too_deep(self.file, node.start_mark)])
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, i)) for i, item in enumerate(node.value)]
        return self._scalar(node) if isinstance(node, yaml.ScalarNode) else None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key is None:
                continue
            place = (*path, key)
            if place in self.keys:
                self._complain(
                    key_node, f"the key {key!r} is already given on line {self.keys[place].line}; remove one"
                )
                continue
            self.keys[place] = _mark(key_node.start_mark)
            result[key] = self.read(value_node, place)
        return result

    def _key(self, node: yaml.Node) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._complain(node, "a key must be text, not a list or a mapping")
            return None
        if node.value == "<<" and node.style is None:
            self._complain(node, "merge keys (<<) are not read: write the keys out")
            return None
        # YAML's null is never a key, and a word of rules is.
        key = node.value if node.style is None and node.value == "null" else self._scalar(node)
        if not isinstance(key, str):
            self._complain(node, f"a key must be text: quote it, {node.value!r}, if it is meant")
            return None
        return key

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text = str(node.value)
        if _SURROGATE.search(text):
            self._complain(node, "the text holds half of a surrogate pair, which no file can hold; remove it")
            return ""
        if node.style is None:  # neither quoted nor a block of text
            if len(text) > MAX_DIGITS and (_FLOAT.fullmatch(text) or _OCTAL_OR_HEX.fullmatch(text)):
                self._complain(node, f"a number may have at most {MAX_DIGITS} characters")
                return 0
            return _plain(text)
        return text

    def _complain(self, node: yaml.Node, message: str) -> None:
        self.problems.append(_problem(self.file, node.start_mark, message))


def _plain(text: str) -> Any:
    """An unquoted scalar by the core schema of YAML 1.2."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _DECIMAL.fullmatch(text):
        return int(text)
    if _OCTAL_OR_HEX.fullmatch(text):
        return int(text, base=0)
    return float(text) if _FLOAT.fullmatch(text) else text


def _mark(mark: yaml.Mark) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def _problem(file: str, mark: yaml.Mark, message: str) -> Problem:
    return Problem(file, *_mark(mark), message)


def _too_deep(file: str, mark: yaml.Mark) -> Problem:
    return _problem(file, mark, f"values may nest at most {MAX_DEPTH} levels deep")


def _too_many(file: str, mark: yaml.Mark) -> Problem:
    words = f"the file may hold at most {MAX_VALUES:,} values, counting every copy an alias makes"
    return _problem(file, mark, words)


def _syntax_problem(error: yaml.MarkedYAMLError, file: str) -> Problem:
    """PyYAML's problem in its own words, except for the two that rule files meet most."""
    message = " ".join(str(part) for part in (error.problem, error.context) if part)
    if "'\\t'" in message:
        message = "a tab may not indent YAML: use spaces"
    elif "another document" in message:
        message = "a rule file is one document: remove this '---'"
    mark = error.problem_mark or error.context_mark
    return _problem(file, mark, message) if mark else Problem(file, 0, 0, message)
