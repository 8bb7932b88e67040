"""How much of a network its rules must speak of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cnnaudit.result import Outcome, Report, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RULE", "require"]

RULE = "audit:coverage"
_NAMED = 6


def require(report: Report, percent: float) -> Report:
    """Return a report that also judges how many of the network's sites are under a rule.

    Args:
        report: What the audit found.
        percent: The fewest sites that a rule must judge, in percent of all, 0 to 100.
    """
    found = report.coverage
    sites, covered = int(found["sites"]), int(found["covered"])
    share = covered / sites if sites else 0.0
    kept = 100 * covered >= percent * sites and sites > 0
    verdict = Verdict(
        rule=RULE,
        line=0,
        severity="error",
        metric="",
        field="",
        unit="fraction",
        op="",
        site="",
        outcome=Outcome.PASS if kept else Outcome.FAIL,
        value=share,
        low=share,
        high=share,
        bound=percent / 100,
        side="min",
        detail=""
        if kept
        else f"{covered} of {sites} sites are under a rule that judges; {_missing(found['not_covered'])}",
        advice="" if kept else "Write rules for these sites, or widen `at:` of those there are.",
    )
    return replace(report, verdicts=(*report.verdicts, verdict))


def _missing(sites: Sequence[dict[str, str]]) -> str:
    named = ", ".join(f"{entry['site']} ({entry['op']})" for entry in sites[:_NAMED])
    rest = len(sites) - _NAMED
    return f"not covered: {named}" + (f" and {rest} more." if rest > 0 else ".")
