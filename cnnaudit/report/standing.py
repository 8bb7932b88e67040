"""A report by rules: what each came to, and which of its sites speak for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cnnaudit.report.words import margin
from cnnaudit.result import GRAVITY, Outcome, Report, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LOUD", "Standing", "by_gravity", "counts", "nowhere", "standings", "waived"]

# What somebody has to do something about.
LOUD = (Outcome.ERROR, Outcome.FAIL, Outcome.UNDECIDED)
_SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Standing:
    """One rule with its verdicts, in their order."""

    rule: str
    verdicts: tuple[Verdict, ...]

    @cached_property
    def outcome(self) -> Outcome:
        """The gravest outcome of any site."""
        found = {v.outcome for v in self.verdicts}
        return next((o for o in GRAVITY if o in found), Outcome.NOT_APPLICABLE)

    def of(self, *outcomes: Outcome) -> tuple[Verdict, ...]:
        """Return the verdicts of some outcomes, those with the worst margins first."""
        return tuple(sorted((v for v in self.verdicts if v.outcome in outcomes), key=margin))

    def loud(self) -> list[tuple[Verdict, ...]]:
        """Return what somebody has to act on: the sites of an outcome together, what is about no site on its own."""
        found = []
        for outcome in LOUD:
            mine = self.of(outcome)
            found += [sites] if (sites := tuple(v for v in mine if v.site)) else []
            found += [(v,) for v in mine if not v.site]
        return found

    @cached_property
    def worst(self) -> Verdict | None:
        """The verdict that speaks for the rule; none where the rule has no verdict."""
        return next(iter(self.of(self.outcome)), None)

    @cached_property
    def sites(self) -> str:
        """How many of the sites judged passed, and where the rule does not apply: ``4/5 +5 n/a``."""
        if not any(v.metric for v in self.verdicts):
            return ""  # what a gate found of the audit as a whole
        judged = [v for v in self.verdicts if v.outcome is not Outcome.NOT_APPLICABLE and v.site]
        skipped = len(self.of(Outcome.NOT_APPLICABLE))
        passed = sum(v.outcome is Outcome.PASS for v in judged)
        return f"{passed}/{len(judged)}" + (f" +{skipped} n/a" if skipped and judged else "")


def standings(report: Report) -> tuple[Standing, ...]:
    """Return all rules of a report in their order."""
    found: dict[str, list[Verdict]] = {rule: [] for rule in report.rules}
    for verdict in report.verdicts:
        found[verdict.rule].append(verdict)
    return tuple(Standing(rule, tuple(verdicts)) for rule, verdicts in found.items())


def by_gravity(rules: Iterable[Standing]) -> list[Standing]:
    """Return rules with the gravest outcome first, of these the gravest severity, and of these the worst margin."""
    return sorted(rules, key=_order)


def _order(rule: Standing) -> tuple[int, int, float]:
    if rule.worst is None:
        return GRAVITY.index(rule.outcome), 0, 0.0
    return GRAVITY.index(rule.outcome), _SEVERITIES.index(rule.worst.severity), margin(rule.worst)


def counts(rules: Iterable[Standing]) -> Counter[Outcome]:
    """Return how many rules came to what."""
    return Counter(rule.outcome for rule in rules)


def waived(rule: Standing) -> list[list[Verdict]]:
    """Return a rule's waived verdicts by waiver, those with the worst margins first."""
    found: dict[str, list[Verdict]] = {}
    for verdict in rule.of(Outcome.WAIVED):
        found.setdefault(str((verdict.waiver or {}).get("place")), []).append(verdict)
    return list(found.values())


def nowhere(rules: Iterable[Standing]) -> list[list[Verdict]]:
    """Return where rules do not apply, by rule and reason."""
    found: dict[tuple[str, str], list[Verdict]] = {}
    for rule in rules:
        for verdict in rule.verdicts:
            if verdict.outcome is Outcome.NOT_APPLICABLE:
                found.setdefault((rule.rule, verdict.detail), []).append(verdict)
    return list(found.values())
