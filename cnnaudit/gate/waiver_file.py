"""Files of waivers: read with every mistake at once, and appended to without touching what is there."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import yaml as pyyaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema

from cnnaudit.errors import Problem, SpecError
from cnnaudit.gate.files import write_whole
from cnnaudit.spec import glob, yaml
from cnnaudit.spec.messages import quoted
from cnnaudit.spec.shape import Complain, filled, shaped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["ARROW", "Waiver", "Waivers", "append", "check", "json_schema", "load"]

ARROW = " -> "  # between the two sites of a pair

Category: TypeAlias = Literal["accepted_risk", "false_positive", "wont_fix", "in_progress"]

_SURROGATE = re.compile(r"[\ud800-\udfff]")  # bytes of a command line that are no text
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_PLAIN = re.compile(r"[A-Za-z][\w.@+/-]*( [\w.@+/(),;-]*[\w.)])*", re.ASCII)
_HEADER = """\
# yaml-language-server: $schema=cnnaudit.waivers.schema.json
# Results that somebody answers for, each until a day. `cnnaudit waive` appends here; edit by hand as you like.
# For completion in editors: cnnaudit schema waivers > cnnaudit.waivers.schema.json
cnnaudit-waivers: 1
waivers:
"""


def _day(value: Any, info: ValidationInfo) -> Any:
    """A day in one spelling; YAML dates are text here."""
    if not (isinstance(value, str) and _DAY.fullmatch(value)):
        written = quoted(value) if isinstance(value, str) else json.dumps(value)
        raise ValueError(f"{info.field_name} is a day such as 2027-01-31, not {written}")
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{info.field_name}: there is no day {value}; write one that there is") from None


def _said(value: str, info: ValidationInfo) -> str:
    if not value.strip():
        raise ValueError(f"{info.field_name} is blank; fill it in")
    return value


def _site(value: str) -> str:
    if value.count(ARROW) > 1:
        raise ValueError(f"site names one pair, 'from{ARROW}to', not {quoted(value)}")
    for end in value.split(ARROW):
        glob.check(end)
    return value


_Day: TypeAlias = Annotated[date, BeforeValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]
_Text: TypeAlias = Annotated[str, AfterValidator(_said), WithJsonSchema({"type": "string", "pattern": r"\S"})]


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Waiver(_Written):
    """One result, or several of one rule, that somebody answers for until a day."""

    rule: _Text = Field(
        description="Id of the rule; X:regression is what a baseline says of rule X.", examples=["no-dead-kernels"]
    )
    site: Annotated[str, AfterValidator(_site)] = Field(
        default="**",
        description="Glob over the sites it is for, all by default. Of a pair it selects the end, or both, as in "
        f"input{ARROW}layer4.**.",
        examples=["stage3.**"],
    )
    slice: _Text = Field(
        default="*", description="Glob over the slices of the data it is for, as column=value.", examples=["scanner=A"]
    )
    model: _Text = Field(
        default="*",
        description="The model it is for: sha256 of its parameters as reports tell it, or a glob over its source.",
        examples=["model.py:*"],
    )
    owner: _Text = Field(description="Who answers for it and mends it.", examples=["Ada Ito"])
    reason: _Text = Field(description="Why the result is acceptable for now.")
    category: Category = Field(description="What kind of decision it is.")
    approved_by: _Text = Field(description="Who approved it; not the owner.", examples=["Bo Lind"])
    approved_on: _Day = Field(description="The day of the approval (UTC).", examples=["2026-11-30"])
    expires: _Day = Field(description="The last day on which it holds (UTC).", examples=["2027-01-31"])
    ticket: _Text | None = Field(default=None, description="Where the work is tracked.", examples=["ABC-12"])
    worst: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        default=None,
        description="The worst value that is accepted, in the unit of the report. Left out, only results without a "
        "value are waived.",
        examples=[0.4],
    )


class _File(_Written):
    version: Literal[1] = Field(alias="cnnaudit-waivers", description="Version of this file's form.")
    waivers: Annotated[tuple[Waiver, ...], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)] = Field(
        description="May be empty."
    )


@dataclass(frozen=True)
class Waivers:
    """The waivers of one file.

    Attributes:
        file: Its name for messages.
        sha256: Of its bytes.
        entries: The waivers in their order.
        document: Where everything is written.
    """

    file: str
    sha256: str
    entries: tuple[Waiver, ...]
    document: yaml.Document = field(repr=False, compare=False)

    def line(self, number: int) -> int:
        """Return the line of an entry."""
        return self.document.place(("waivers", number)).line

    def check_approvals(self, as_of: date) -> None:
        """Refuse what is approved later than the day that waivers are held against.

        Raises:
            SpecError: at least one is.
        """
        problems = [
            self.document.problem(
                ("waivers", i, "approved_on"),
                f"approved_on {waiver.approved_on} is after {as_of}, the day (UTC) that waivers are held against: "
                "correct it, or take the file as it was on that day",
            )
            for i, waiver in enumerate(self.entries)
            if waiver.approved_on > as_of
        ]
        if problems:
            raise SpecError(problems)


def load(path: str | Path) -> Waivers:
    """Read a file of waivers.

    Raises:
        SpecError: It cannot be read or has mistakes; all of them are named.
    """
    return _parsed(yaml.read(Path(path)), yaml.shown(Path(path)))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft-07) of files of waivers, for editors."""
    schema = _File.model_json_schema()
    waiver = schema["$defs"]["Waiver"]
    for key in ("ticket", "worst"):  # may be left out but never be null, which is how pydantic spells "left out"
        kept = waiver["properties"][key]
        kept |= kept.pop("anyOf")[0]
        del kept["default"]
    for part in (schema, waiver):
        part["properties"] = {key: {**value, "title": key} for key, value in part["properties"].items()}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **schema,
        "title": "cnnaudit waivers",
        "description": "Results of audits that somebody answers for, each until a day.",
    }


def check(entry: Mapping[str, Any], complain: Complain) -> Waiver | None:
    """Return plain values as a waiver, or None after complaints; paths begin at the entry's keys."""
    halves = [key for key, value in entry.items() if isinstance(value, str) and _SURROGATE.search(value)]
    for key in halves:
        complain((key,), f"{key} is not Unicode text; write plain text")
    return None if halves else _entry(entry, (), complain)


def append(path: Path, entry: Mapping[str, Any], as_of: date) -> int:
    """Append a waiver as text, so that the file keeps its comments, or write a new file.

    The file is replaced in one step, and only by one which reads as the old waivers and the new one.

    Args:
        path: The file.
        entry: The keys of the waiver, plain values; must be one, see `check`.
        as_of: The day that approvals may not be after.

    Returns:
        The line on which the new waiver begins.

    Raises:
        SpecError: The file has mistakes, cannot be written, or does not end with a list to append to.
    """
    path = path.resolve()
    file = yaml.shown(path)
    old = yaml.read(path) if path.exists() else _HEADER.encode()
    before = _parsed(old, file)
    newline = "\r\n" if b"\r\n" in old else "\n"
    text = newline.join(_lines(entry, _indent(before, old))) + newline
    new = old + (b"" if old.endswith(b"\n") else newline.encode()) + text.encode()
    try:
        after = _parsed(new, file)
    except SpecError:
        after = None
    if after is None or after.entries != (*before.entries, Waiver.model_validate_json(json.dumps(entry))):
        words = (
            "nothing was appended: the list under waivers: must end the file, each entry on lines after its own '- '"
        )
        raise SpecError([before.document.problem(("waivers",), words, key=True)])
    after.check_approvals(as_of)
    _replace(path, new, file)
    return after.line(len(before.entries))


def _parsed(data: bytes, file: str) -> Waivers:
    return _Reader(yaml.parse(data, file)).waivers(hashlib.sha256(data).hexdigest())


class _Reader:
    """Reads one document and collects its problems."""

    def __init__(self, document: yaml.Document) -> None:
        self.document = document
        self.problems: list[Problem] = list(document.problems)

    def waivers(self, sha256: str) -> Waivers:
        value = self.document.value
        if value is None:
            value = {}
        if isinstance(value, dict) and "waivers" in value and value["waivers"] is None:
            value = {**value, "waivers": []}  # the last one was removed
        value = filled(value, (), self._complain)
        entries = value["waivers"] if isinstance(value, dict) and isinstance(value.get("waivers"), list) else []
        read = [_entry(entry, ("waivers", i), self._complain) for i, entry in enumerate(entries)]
        # What is wrong inside the entries has been told.
        outside = {**value, "waivers": []} if entries else value
        shaped(_File, outside, (), self._complain, beside=_keys_beside)
        if self.problems:
            raise SpecError(self.problems)
        return Waivers(self.document.file, sha256, tuple(w for w in read if w is not None), self.document)

    def _complain(self, path: yaml.Path, message: str, *, key: bool = False) -> None:
        self.problems.append(self.document.problem(path, message, key=key))


def _keys_beside(path: yaml.Path) -> Iterable[str]:  # noqa: ARG001 - it is asked for the top level only
    return [known.alias or name for name, known in _File.model_fields.items()]


def _entry(value: Any, path: yaml.Path, complain: Complain) -> Waiver | None:
    """One entry, and what its keys say about each other even where others are wrong."""
    entry = filled(value, path, complain)
    waiver = shaped(Waiver, entry, path, complain)
    if not isinstance(entry, dict):
        return None
    owner, approver = entry.get("owner"), entry.get("approved_by")
    if isinstance(owner, str) and isinstance(approver, str) and owner.strip() and _folded(owner) == _folded(approver):
        complain((*path, "approved_by"), f"approved_by is the owner, {quoted(owner)}: somebody else must approve")
        waiver = None
    approved, expires = (_known_day(entry.get(key)) for key in ("approved_on", "expires"))
    if approved and expires and expires <= approved:
        complain((*path, "expires"), f"expires must be after approved_on {approved}, not {expires}")
        waiver = None
    return waiver


def _known_day(value: Any) -> date | None:
    try:
        return date.fromisoformat(value) if isinstance(value, str) and _DAY.fullmatch(value) else None
    except ValueError:
        return None


def _folded(name: str) -> str:
    """A name without what nobody sees: blanks, capitals and characters of no width."""
    seen = (c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    return "".join("".join(seen).split()).casefold()


def _indent(waivers: Waivers, data: bytes) -> tuple[str, str]:
    """What stands before a new entry's dash, and between it and the first key: as in the entry before."""
    if waivers.entries:
        mark = waivers.document.place(("waivers", len(waivers.entries) - 1))
        before = data.decode("utf-8-sig").splitlines()[mark.line - 1][: mark.column - 1]
        if match := re.fullmatch(r"( *)-( +)", before):
            return match[1], match[2]
    return "  ", " "


def _lines(entry: Mapping[str, Any], indent: tuple[str, str]) -> list[str]:
    left, gap = indent
    first, *rest = [f"{key}: {_scalar(key, value)}" for key, value in entry.items()]
    return [f"{left}-{gap}{first}", *(f"{left} {' ' * len(gap)}{line}" for line in rest)]


def _scalar(key: str, value: Any) -> str:
    """A value as YAML; text is quoted wherever a reader of YAML 1.1 or 1.2 might take it for something else."""
    if not isinstance(value, str):
        return json.dumps(value)
    if key in ("approved_on", "expires"):
        return value
    if _PLAIN.fullmatch(value) and pyyaml.safe_load(value) == value:
        return value
    return pyyaml.dump(value, default_style='"', allow_unicode=True, width=2**31).rstrip("\n")


def _replace(path: Path, data: bytes, file: str) -> None:
    """Write all or nothing."""
    try:
        write_whole(path, data)
    except OSError as error:
        raise SpecError([Problem(file, 0, 0, f"cannot be written ({error.strerror}); give another path")]) from None
