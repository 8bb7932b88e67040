"""One site of one rule against the accepted run.

The accepted run's numbers are taken as they are: what is allowed is ``absolute``, or a fraction of the mean that was
accepted as if that were known. How much worse the truth is has an error (:mod:`cnnaudit.gate.moved`), decided as in
:mod:`cnnaudit.judge`: a site passes where "worse than allowed" is refuted one-sided at alpha = 1 - confidence, fails
where "not worse than allowed" is refuted at alpha divided by the number of sites and slices that the rule is compared
at. So neither a false PASS nor a false FAIL of a rule is likelier than alpha.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cnnaudit.gate.moved import Moved, moved
from cnnaudit.result import Outcome, SiteMean, UnitCounts, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Levels", "regression"]

_OTHER_BOUNDS = ("min", "max", "min_excess", "share", "reduce", "estimand")
_ANEW = "start a new baseline: remove the old file, then check with --update-baseline."


@dataclass(frozen=True)
class Levels:
    """How sure a decision must be.

    Attributes:
        old, new: Confidence of the intervals of the accepted run and of this one; the latter's decides.
        places: At how many sites and slices the rule is compared.
    """

    old: float
    new: float
    places: int

    @property
    def passing(self) -> float:
        """One-sided level of a PASS."""
        return 1 - self.new

    @property
    def failing(self) -> float:
        """That of a FAIL at one place."""
        return self.passing / self.places


def regression(new: Verdict, old: Verdict | None, terms: Mapping[str, Any], levels: Levels, looks: int) -> Verdict:
    """Judge how much worse a site is than it was.

    Args:
        new: The verdict of this run.
        old: That of the accepted run there; None where it has none.
        terms: The rule's ``max_regression``: ``absolute``, ``relative`` and which values are ``worse``.
        levels: How sure a decision must be.
        looks: How many looks this run had: means are those of the last one.
    """
    verdict = replace(
        new,
        rule=f"{new.rule}:regression",
        side="max_regression",
        reduce="mean",
        share=1.0,
        value=None,
        low=None,
        high=None,
        bound=None,
        null=None,
        fields={},
        worst=(),
        units=UnitCounts(),
        n_images=(sum(n for n, _ in new.mean.groups) if new.mean else 0) or new.n_images,
        n_needed=0,
        look=max(new.look, looks),
        reached=None,
        changed=_changed(new.changed),
        mean=None,
        waiver=None,
    )
    if old is None or old.mean is None:
        lacking = "no such site" if old is None else "no mean here: its verdict was " + old.outcome.replace("_", " ")
        return replace(
            verdict,
            outcome=Outcome.ERROR,
            detail=f"The baseline has {lacking}.",
            advice=_ANEW[0].upper() + _ANEW[1:],
        )
    if new.mean is None:
        return replace(
            verdict,
            outcome=Outcome.UNDECIDED,
            baseline=old.mean.value,
            detail="This run has no mean here that could be compared.",
            advice=new.advice or "Audit more images.",
        )
    return _decided(verdict, new.mean, old.mean, terms, levels)


def _changed(told: str) -> str:
    """What was changed after the evidence existed, without the bounds that a regression is not held against."""
    return "; ".join(part for part in told.split("; ") if part.partition(" ")[0] not in _OTHER_BOUNDS)


def _decided(verdict: Verdict, new: SiteMean, old: SiteMean, terms: Mapping[str, Any], levels: Levels) -> Verdict:
    ends = (old, levels.old), (new, levels.new)
    worse = moved(*ends) if terms["worse"] == "higher" else moved(*reversed(ends))
    allowed = _allowed(terms, old.value)
    low, high = worse.interval(levels.new)
    outcome = Outcome.UNDECIDED
    if not math.isnan(allowed):
        if worse.p_at_most(allowed) <= levels.failing:
            outcome = Outcome.FAIL
        elif worse.p_above(allowed) <= levels.passing:
            outcome = Outcome.PASS
    needed = _needed(worse, allowed, levels, verdict) if outcome is Outcome.UNDECIDED else 0
    found = replace(
        verdict,
        outcome=outcome,
        value=worse.value,
        low=low,
        high=high,
        bound=allowed,
        baseline=old.value,
        n_needed=needed,
        units=UnitCounts(1, int(outcome is Outcome.FAIL), int(outcome is Outcome.UNDECIDED)),
        worst=((-1, worse.value, low, high),),
    )
    detail, advice = _words(found, new, old, worse, limit=_limit(terms, allowed, verdict.unit), places=levels.places)
    return replace(found, detail=detail, advice=advice)


def _allowed(terms: Mapping[str, Any], accepted: float) -> float:
    """How much worse a site may be: the less of both where both are given."""
    absolute, relative = terms.get("absolute"), terms.get("relative")
    limits = [] if absolute is None else [float(absolute)]
    limits += [] if relative is None else [float(relative) * abs(accepted)]
    return math.nan if any(map(math.isnan, limits)) else min(limits)


def _limit(terms: Mapping[str, Any], allowed: float, unit: str) -> str:
    relative = terms.get("relative")
    absolute = terms.get("absolute")
    told = f"{allowed:.4g} {unit}".rstrip()
    if relative is None or (absolute is not None and absolute <= allowed):
        return told
    return f"{told} ({100 * relative:.4g} % of it)"


def _needed(worse: Moved, allowed: float, levels: Levels, verdict: Verdict) -> int:
    """Images, or sources, in both runs that would probably decide; 0 where no number would: see the judge's."""
    keeps = worse.value <= allowed
    low, high = worse.interval(1 - 2 * (levels.passing if keeps else levels.failing))
    reach, distance = (high - worse.value if keeps else worse.value - low), abs(worse.value - allowed)
    if not distance or not math.isfinite(reach) or math.isnan(distance):
        return 0
    return math.ceil(1.05 * (verdict.n_sources or verdict.n_images) * max(1.0, (reach / distance) ** 2))


def _words(verdict: Verdict, new: SiteMean, old: SiteMean, worse: Moved, *, limit: str, places: int) -> tuple[str, str]:
    """What the verdict means, and what to do next."""
    if verdict.outcome is Outcome.PASS:
        return "", ""
    told = f"The mean over the site's units is {new.value:.4g}, and was {old.value:.4g} in the accepted run"
    if verdict.outcome is Outcome.FAIL:
        return (
            f"{told}: that is worse by {worse.value:.4g} where {limit} is allowed.",
            f"Look at what changed between the two networks (cnnaudit diff); if it is wanted, waive it, or {_ANEW}",
        )
    if math.isnan(worse.value):
        which = "this run" if math.isnan(new.value) else "the accepted run"
        return f"In {which} the mean is 0 / 0 for some units.", "See activity.dead there, or narrow `at:`."
    if not math.isfinite(worse.below + worse.above):
        return (
            f"{told}; the interval of the difference does not exist: without some of these images nothing varies here.",
            "See activity.dead there, or audit more images.",
        )
    means = f"{told}: these images do not tell whether it is worse by more than {limit}."
    if verdict.low is not None and verdict.low > (verdict.bound or 0.0):
        means += f" Alone this interval would tell; the worst of {places} sites could lie there by chance."
    if worse.how == "unpaired":
        means += " The two runs could not be compared image by image, so the interval is wide."
    if not verdict.n_needed:
        return means, "No number of images can be told that would decide: audit more, or allow more."
    samples = "sources" if verdict.n_sources else "images"
    return means, f"Audit about {verdict.n_needed:,} {samples} in both runs, or allow more."
