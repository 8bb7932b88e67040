"""Bounds that follow what was reached: tightened in the rule file, never loosened.

A bound at the very limit that a run passed would fail the next audit of the same network half of the time. The new
bound is the tightest that another audit, on as many other images, would probably pass too (``Verdict.reached``), at the
worst site; where the rule allows a regression, that much is left beside it, so that the bound does not forbid what the
baseline allows. It says nothing about the next network: what training varies, one audit cannot tell.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnaudit.errors import EvidenceError
from cnnaudit.gate.files import write_whole
from cnnaudit.result import Outcome
from cnnaudit.spec import loads, yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cnnaudit.result import Report, Verdict
    from cnnaudit.spec import Vocabulary

__all__ = ["Change", "Tightening", "tighten"]

_SIDES = ("min", "max", "min_excess")
_DIGITS = 3
_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?(?=[\s,}\]#]|$)")
_LINES = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # as PyYAML counts them


@dataclass(frozen=True)
class Change:
    """One bound that was tightened.

    Attributes:
        rule: Its rule.
        line: Where it stands in the file.
        side: ``min``, ``max`` or ``min_excess``.
        old, new: The bound before and after, as written.
        site: Where it was come nearest to.
    """

    rule: str
    line: int
    side: str
    old: str
    new: str
    site: str


@dataclass(frozen=True)
class Tightening:
    """What became of a file's bounds.

    Attributes:
        path: The file.
        changes: Bounds that were tightened.
        kept: For each rule that was left as it is, why.
    """

    path: str
    changes: tuple[Change, ...]
    kept: Mapping[str, str]

    def __str__(self) -> str:
        count = len(self.changes)
        lines = [f"{self.path}: {count or 'no'} bound{'s' * (count != 1)} tightened"]
        for c in self.changes:
            lines += [f"  {c.rule} (line {c.line}, {c.site})", f"    - {c.side}: {c.old}", f"    + {c.side}: {c.new}"]
        lines += [f"  {rule} is kept: {reason}" for rule, reason in self.kept.items()]
        return "\n".join(lines)


def tighten(report: Report, path: str | Path, vocabulary: Vocabulary) -> Tightening:
    """Tighten the bounds of a rule file to what a run reached; everything else in the file stays as it is.

    Args:
        report: The run that was judged by this file.
        path: The rule file; it is written where a bound changes.
        vocabulary: The metrics that rules may name, to see that the file is sound.

    Raises:
        EvidenceError: The file says other bounds than those that were judged, or cannot be written.
        SpecError: It cannot be read, or would not be a rule file any more; then it is left as it was.
    """
    path = Path(path)
    data = yaml.read(path)
    document = yaml.parse(data, yaml.shown(path))
    editor = _Editor(data, document)
    changes, kept = [], {}
    for rule, terms in report.spec.get("terms", {}).items():
        bounds = {side: float(terms["bounds"][side]) for side in _SIDES if terms["bounds"].get(side) is not None}
        if not bounds:
            continue
        found = _change(rule, bounds, terms, report, editor)
        if isinstance(found, str):
            kept[rule] = found
        else:
            changes.append(found)
    if changes:
        _write(path, editor.edited(changes), vocabulary)
    return Tightening(document.file, tuple(sorted(changes, key=lambda change: change.line)), kept)


def _change(
    rule: str, bounds: Mapping[str, float], terms: Mapping[str, Any], report: Report, editor: _Editor
) -> Change | str:
    """The tighter bound, or why there is none."""
    outcome = report.outcome(rule)
    if outcome is not Outcome.PASS:
        return f"it came to {outcome.replace('_', ' ')}"
    if len(bounds) > 1:
        return f"it has several bounds ({', '.join(bounds)}), and the report tells only how near the nearest was"
    ((side, old),) = bounds.items()
    written = editor.written(rule, side, old)
    if isinstance(written, str):
        return written
    judged = [v for v in report.of(rule) if v.outcome is Outcome.PASS]
    if any(v.reached is None or not math.isfinite(v.reached) for v in judged):
        return "these images do not tell how near to it another audit may come"
    worst = (max if side == "max" else min)(judged, key=_reached)
    new = _rounded(_reached(worst), terms.get("max_regression") or {}, upwards=side == "max")
    if not (new < Decimal(repr(old)) if side == "max" else new > Decimal(repr(old))):
        return f"at {worst.place} another audit may come as near to it"
    return Change(rule, written.line, side, written.text, f"{new:f}", worst.place)


def _reached(verdict: Verdict) -> float:
    return math.nan if verdict.reached is None else verdict.reached


def _rounded(reached: float, allowed: Mapping[str, Any], *, upwards: bool) -> Decimal:
    """A bound that leaves the allowed regression, with few digits, rounded to the side that allows more."""
    absolute, relative = allowed.get("absolute"), allowed.get("relative")
    room = min(
        math.inf if absolute is None else float(absolute),
        math.inf if relative is None else float(relative) * abs(reached),
    )
    bound = reached + (room if upwards else -room) if math.isfinite(room) else reached
    context = Context(prec=_DIGITS, rounding=ROUND_CEILING if upwards else ROUND_FLOOR)
    rounded = context.create_decimal(repr(bound))
    return Decimal(int(rounded)) if rounded == rounded.to_integral_value() else rounded.normalize()


@dataclass(frozen=True)
class _Written:
    """A number in the file: its text, the line that it is in, and where in the whole text it starts."""

    text: str
    line: int
    start: int


class _Editor:
    """The text of a rule file, of which only numbers of bounds are changed."""

    def __init__(self, data: bytes, document: yaml.Document) -> None:
        self._document = document
        self._bom = data.startswith(b"\xef\xbb\xbf")
        self._text = data.decode("utf-8-sig")
        self._starts = [0, *(match.end() for match in _LINES.finditer(self._text))]
        self._uses = Counter(document.values.values())
        rules = document.value.get("rules") if isinstance(document.value, dict) else None
        self._rules = dict(_named(rules if isinstance(rules, list) else []))
        self._places: dict[tuple[str, str], _Written] = {}

    def written(self, rule: str, side: str, bound: float) -> _Written | str:
        """Where a rule's bound stands, or why it cannot be changed there.

        Raises:
            EvidenceError: Another bound stands there than was judged.
        """
        number = self._rules.get(rule)
        place = ("rules", number, side) if number is not None else ()
        mark = self._document.values.get(place) if number is not None else None
        if mark is None:
            return f"its bound is not written in {self._document.file}"
        value = self._document.value["rules"][number][side]
        if value != bound:
            raise EvidenceError(
                f"{self._document.file}:{mark.line}: the rule {rule} has {side} {value} here, and was judged by "
                f"{bound:g}: the file has changed since; audit again"
            )
        start = self._starts[mark.line - 1] + mark.column - 1
        found = _NUMBER.match(self._text, start)
        if found is None or self._uses[mark] > 1:
            return f"its bound on line {mark.line} is no plain number of its own; write it out"
        self._places[rule, side] = written = _Written(found.group(), mark.line, start)
        return written

    def edited(self, changes: list[Change]) -> bytes:
        """The file with new numbers."""
        text = self._text
        for change in sorted(changes, key=lambda c: -self._places[c.rule, c.side].start):
            place = self._places[change.rule, change.side]
            text = text[: place.start] + change.new + text[place.start + len(place.text) :]
        return (b"\xef\xbb\xbf" if self._bom else b"") + text.encode()


def _named(rules: list[Any]) -> Iterator[tuple[str, int]]:
    """The id of each rule, which is its metric's name where none is written, and its number."""
    for number, rule in enumerate(rules):
        name = rule.get("id", rule.get("metric")) if isinstance(rule, dict) else None
        if isinstance(name, str):
            yield name, number


def _write(path: Path, data: bytes, vocabulary: Vocabulary) -> None:
    loads(data.decode("utf-8-sig"), vocabulary, path=path)
    try:
        write_whole(path, data)
    except OSError as error:
        raise EvidenceError(
            f"{path}: the rule file cannot be written ({error.strerror}); check its permissions"
        ) from None
