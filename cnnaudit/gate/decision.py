"""The gate as a whole: everything that a release decision adds to the verdicts of the rules."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from cnnaudit.clock import today
from cnnaudit.gate import baseline as baselines
from cnnaudit.gate import coverage as coverages
from cnnaudit.gate import waivers as waiving

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from cnnaudit.result import Report

__all__ = ["Gate", "apply_gate"]


@dataclass(frozen=True)
class Gate:
    """What reports are held against, read and found right before hours of audits.

    Attributes:
        baseline: The accepted run that rules with ``max_regression`` are compared with, or None.
        waivers: What was accepted, or None.
        ignore_waivers: Judge as if nothing had been accepted; the report says so.
        coverage: The fewest sites that a rule must judge, in percent of all, or None.
        as_of: The day that waivers are held against.
    """

    baseline: baselines.Baseline | None
    waivers: waiving.Waivers | None
    ignore_waivers: bool
    coverage: float | None
    as_of: date

    @classmethod
    def open(
        cls,
        *,
        baseline: str | Path | None = None,
        waivers: str | Path | None = None,
        ignore_waivers: bool = False,
        coverage: float | None = None,
        as_of: date | None = None,
    ) -> Self:
        """Read what reports will be held against; the arguments are those of :func:`apply_gate`."""
        day = as_of or today()
        accepted = None if baseline is None else baselines.read(baseline)
        held = None if waivers is None else waiving.load(waivers)
        if held is not None and not ignore_waivers:
            held.check_approvals(day)
        return cls(accepted, held, ignore_waivers, coverage, day)

    def applied(self, report: Report, *, replaced: bool = False) -> Report:
        """Return a report with regressions, coverage and waivers judged.

        Args:
            report: What an audit found.
            replaced: It is to replace the baseline: it is compared as far as the two can be.

        Raises:
            EvidenceError: what the baseline measured is not what this report measured; every field that differs is
                named.
        """
        if self.baseline is None:
            report = _uncompared(report)
        else:
            report = baselines.compare(report, self.baseline, replaced=replaced)
        if self.coverage is not None:
            report = coverages.require(report, self.coverage)
        report = replace(report, gate={**report.gate, "as_of": self.as_of.isoformat()})
        if self.waivers is not None:
            report = waiving.hold(report, self.waivers, self.as_of, ignored=self.ignore_waivers)
        return report


def apply_gate(
    report: Report,
    *,
    baseline: str | Path | None = None,
    waivers: str | Path | None = None,
    ignore_waivers: bool = False,
    coverage: float | None = None,
    as_of: date | None = None,
) -> Report:
    """Return a report with all that a release decision adds to the verdicts of the rules.

    Args:
        report: What an audit found.
        baseline: The report of the accepted run: rules with ``max_regression`` are compared with it.
        waivers: A file of waivers.
        ignore_waivers: Judge as if nothing had been accepted; the report says so.
        coverage: The fewest sites that a rule must judge, in percent of all, 0 to 100.
        as_of: The day that waivers are held against; today in UTC by default.

    Raises:
        EvidenceError: the baseline is no report, or what it measured is not what this report measured; every field
            that differs is named.
        SpecError: the waivers have mistakes; all of them are named.
    """
    gate = Gate.open(baseline=baseline, waivers=waivers, ignore_waivers=ignore_waivers, coverage=coverage, as_of=as_of)
    return gate.applied(report)


def _uncompared(report: Report) -> Report:
    """A report that says which of its rules no baseline was given for."""
    terms = report.spec.get("terms", {})
    rules = [rule for rule in report.rules if terms.get(rule, {}).get("max_regression")]
    if not rules:
        return report
    count = f"{len(rules)} rule{'s' * (len(rules) != 1)}"
    told = f"{count} with max_regression ({rules[0]}{', ...' * (len(rules) > 1)}) not compared: no baseline was given."
    return replace(report, notes=(*report.notes, told))
