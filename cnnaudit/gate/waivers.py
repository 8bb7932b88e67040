"""Holds waivers against a report: what they cover becomes WAIVED, and what is wrong with them a finding.

A waiver covers a FAIL or UNDECIDED of its rule at the sites that it selects, until and on the day it ``expires``, while
the verdict's value is no worse than ``worst``. That value is compared, not an end of its interval, because it is the
number that the report showed to whoever approved it. Between audits the interval tells how sure the rule is of
its bound, and an end of it moves with the number of images while the network stays as it is.
"""

from __future__ import annotations

import dataclasses
import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from cnnaudit.gate.waiver_file import ARROW, Waiver, Waivers, load
from cnnaudit.result import Outcome, Report, Verdict
from cnnaudit.spec import glob
from cnnaudit.spec.messages import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date

__all__ = [
    "Standing",
    "Waiver",
    "Waivers",
    "hold",
    "is_for",
    "load",
    "lower_is_worse",
    "meant",
    "outward",
    "standing",
    "value_of",
    "why_nothing",
]

_WAIVABLE = (Outcome.FAIL, Outcome.UNDECIDED)
_NAMED = 6  # places in a sentence
_RECORDED = {"owner", "reason", "category", "approved_by", "approved_on", "expires", "ticket", "worst"}
_RENEW = "Mend what fails, or have it approved anew with `cnnaudit waive`; then remove this waiver."
_REMOVE = "Remove the waiver."


class Standing(StrEnum):
    """How a waiver stands to a verdict that it is for."""

    HOLDS = "holds"
    EXPIRED = "expired"
    EXCEEDED = "exceeded"


def hold(report: Report, waivers: Waivers, as_of: date, *, ignored: bool = False) -> Report:
    """Return the report with waivers applied, their findings at its end, and their file on record.

    Of several waivers that hold for one verdict, the one that expires last is named there.

    Args:
        report: One that no waivers were held against before.
        waivers: The waivers.
        as_of: The day that they are held against.
        ignored: Put the file on record, and apply nothing of it.

    Raises:
        SpecError: a waiver was approved after that day.
    """
    record = {"path": waivers.file, "sha256": waivers.sha256, "entries": len(waivers.entries), "ignored": ignored}
    gate = {**report.gate, "as_of": as_of.isoformat(), "waivers": record}
    if ignored:
        return dataclasses.replace(report, gate=gate)
    waivers.check_approvals(as_of)
    ledger = _Ledger(report, waivers, as_of)
    verdicts = [ledger.held(verdict) for verdict in report.verdicts]
    return dataclasses.replace(report, verdicts=(*verdicts, *ledger.findings()), gate=gate)


def is_for(waiver: Waiver, verdict: Verdict, model: Mapping[str, Any]) -> bool:
    """Whether a waiver speaks of a verdict, whatever that came to."""
    return (
        waiver.rule == verdict.rule
        and _selects(waiver.site, verdict.site)
        and (waiver.slice == verdict.slice or fnmatchcase(verdict.slice, waiver.slice))
        and _is_of(waiver, model)
    )


def standing(waiver: Waiver, verdict: Verdict, as_of: date) -> Standing:
    """How a waiver stands to a verdict that it is for."""
    if as_of > waiver.expires:
        return Standing.EXPIRED
    value, worst = value_of(verdict), waiver.worst
    if value is None or worst is None:
        return Standing.HOLDS if value is worst else Standing.EXCEEDED
    worse = value < worst if lower_is_worse(verdict.side) else value > worst
    return Standing.EXCEEDED if worse else Standing.HOLDS


def value_of(verdict: Verdict) -> float | None:
    """Return the verdict's value; None where it has none."""
    return verdict.value if verdict.value is not None and math.isfinite(verdict.value) else None


def lower_is_worse(side: str) -> bool:
    """Whether values below are worse, by the side of the bound that decided."""
    return side in ("min", "min_excess")


def outward(value: float, *, down: bool) -> float:
    """Round to four digits, away from what is better, so that the value itself is still covered."""
    exact = Decimal(repr(value))
    step = Decimal((0, (1,), exact.adjusted() - 3))
    return float(exact.quantize(step, ROUND_FLOOR if down else ROUND_CEILING))


def meant(waiver: Waiver) -> str:
    """Return what a waiver is for: its rule, and the sites and slices where they are not all."""
    site = "" if waiver.site == "**" else f" at {waiver.site}"
    slice_ = "" if waiver.slice == "*" else f" [{waiver.slice}]"
    return f"{waiver.rule}{site}{slice_}"


def why_nothing(waiver: Waiver, report: Report) -> str:
    """Return why a waiver has nothing to waive, as a clause."""
    found = [v for v in report.of(waiver.rule) if is_for(waiver, v, report.model)]
    if not found:
        return _astray(waiver, report)[0]
    broken = [v.place or "no site" for v in found if v.outcome is Outcome.ERROR]
    if broken:
        return f"an ERROR cannot be waived, and there is one at {_listed(broken)}"
    return "the one result that it is for does not fail" if len(found) == 1 else f"none of {len(found)} results fails"


class _Ledger:
    """What became of each waiver, verdict by verdict."""

    def __init__(self, report: Report, waivers: Waivers, as_of: date) -> None:
        self.report, self.waivers, self.as_of = report, waivers, as_of
        numbers = range(len(waivers.entries))
        self.used: set[int] = set()
        self.lapsed: Mapping[Standing, list[list[Verdict]]] = {
            kind: [[] for _ in numbers] for kind in (Standing.EXPIRED, Standing.EXCEEDED)
        }
        self.instead: dict[int, int] = {}  # a waiver that does not hold -> one that does, for the same verdict

    def held(self, verdict: Verdict) -> Verdict:
        """The verdict, waived where a waiver holds."""
        if verdict.outcome not in _WAIVABLE:
            return verdict
        entries = self.waivers.entries
        stand = {
            i: standing(waiver, verdict, self.as_of)
            for i, waiver in enumerate(entries)
            if is_for(waiver, verdict, self.report.model)
        }
        holding = [i for i, it in stand.items() if it is Standing.HOLDS]
        if not holding:
            for i, it in stand.items():
                self.lapsed[it][i].append(verdict)
            return verdict
        best = max(holding, key=lambda i: entries[i].expires)  # the first of several
        self.used.update(holding)
        self.instead |= dict.fromkeys(stand.keys() - set(holding), best)
        record = {
            **entries[best].model_dump(mode="json", include=_RECORDED),
            "ticket": entries[best].ticket or "",
            "place": f"{self.waivers.file}:{self.waivers.line(best)}",
            "outcome": str(verdict.outcome),
        }
        return dataclasses.replace(verdict, outcome=Outcome.WAIVED, waiver=record)

    def findings(self) -> list[Verdict]:
        """What is wrong with the waivers, kind by kind, in the order of their lines."""
        found = [
            self._finding(str(kind), i, tell(self.waivers.entries[i], verdicts), _RENEW)
            for kind, tell in ((Standing.EXPIRED, _expired), (Standing.EXCEEDED, _exceeded))
            for i, verdicts in enumerate(self.lapsed[kind])
            if verdicts
        ]
        for i in range(len(self.waivers.entries)):
            if i not in self.used and not any(lapsed[i] for lapsed in self.lapsed.values()):
                instead = self.waivers.line(self.instead[i]) if i in self.instead else 0
                found.append(self._finding("unused", i, *_unused(self.waivers.entries[i], self.report, instead)))
        return found

    def _finding(self, kind: str, number: int, detail: str, advice: str) -> Verdict:
        return Verdict(
            rule=f"waivers:{kind}",
            line=self.waivers.line(number),
            file=self.waivers.file,
            severity="warning",
            metric="",
            field="",
            unit="",
            op="",
            site="",
            outcome=Outcome.FAIL,
            detail=detail,
            advice=advice,
        )


def _expired(waiver: Waiver, verdicts: Sequence[Verdict]) -> str:
    needed = _listed(f"{v.place or v.rule} ({v.outcome})" for v in verdicts)
    return f"{_named(waiver)} expired after {waiver.expires} and would still be needed: {needed}."


def _exceeded(waiver: Waiver, verdicts: Sequence[Verdict]) -> str:
    found = _listed(f"{v.place or v.rule} ({_beyond(v, waiver.worst)})" for v in verdicts)
    return f"{_named(waiver)} does not go so far: {found}."


def _beyond(verdict: Verdict, worst: float | None) -> str:
    """In what way a verdict is worse than what was accepted."""
    value = value_of(verdict)
    if value is None:
        return "has no value to compare with the worst"
    if worst is None:
        return f"has the value {value:.4g}, and no worst value was accepted"
    told, limit = f"{value:.4g}", f"{worst:g}"
    if told == limit:
        told = repr(value)
    return f"{told} is {'below' if lower_is_worse(verdict.side) else 'above'} the worst accepted, {limit}"


def _unused(waiver: Waiver, report: Report, instead: int) -> tuple[str, str]:
    """Why a waiver is not used, and what to do; ``instead`` is the line of another one that covers the same."""
    if instead:
        return f"{_named(waiver)} covers nothing that the one on line {instead} does not cover.", _REMOVE
    astray = not any(is_for(waiver, v, report.model) for v in report.of(waiver.rule))
    advice = _astray(waiver, report)[1] if astray else _REMOVE
    return f"{_named(waiver)} has nothing to waive: {why_nothing(waiver, report)}.", advice


def _astray(waiver: Waiver, report: Report) -> tuple[str, str]:
    """Why a waiver is for no verdict at all, and what to do."""
    stem = waiver.rule.removesuffix(":regression")
    if waiver.rule not in report.rules:
        if stem != waiver.rule and stem in report.rules:
            return f"{stem} was not compared with a baseline", "Give the baseline, or remove the waiver."
        hint = did_you_mean(waiver.rule, report.rules)
        return f"there is no rule {waiver.rule!r}{hint}", "Correct the rule's id, or remove the waiver."
    if not _is_of(waiver, report.model):
        told = f"{report.model.get('source', '')} with sha256 {report.model.get('sha256', '')}"
        return f"it is for the model {waiver.model}, and this is {told}", _REMOVE
    places = _listed(v.place for v in report.of(waiver.rule) if v.place) or "no site"
    detail = f"nothing matches its site and slice, for the rule was judged at {places}"
    return detail, "Correct the site or the slice, or remove the waiver."


def _named(waiver: Waiver) -> str:
    return f"The waiver of {meant(waiver)}, owned by {waiver.owner},"


def _listed(places: Iterable[str]) -> str:
    named = list(places)
    rest = len(named) - _NAMED
    return ", ".join(named[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _is_of(waiver: Waiver, model: Mapping[str, Any]) -> bool:
    return waiver.model == model.get("sha256") or fnmatchcase(str(model.get("source", "")), waiver.model)


def _selects(pattern: str, site: str) -> bool:
    """A pair is selected by its end, unless the pattern is for pairs itself."""
    start, arrow, end = pattern.rpartition(ARROW)
    first, _, last = site.rpartition(ARROW)
    return glob.matches(end, last) and (not arrow or glob.matches(start, first))
