"""Statistics -> estimates with intervals -> verdicts; pure.

A unit's evidence is two p-values: of "it violates the bound", small where it surely keeps it, and of "it keeps
the bound", small where it surely violates it. A site with m units of which u must keep the bound is decided by
partial conjunction (Benjamini & Heller, Biometrics 64 (2008), Bonferroni form): PASS where the u-th smallest of
the first times (m - u + 1) is at most alpha, FAIL where the (m - u + 1)-th smallest of the second times u, times
the number of sites that the rule is judged at, is at most alpha. So neither a false PASS nor a false FAIL of a
rule is likelier than alpha, whatever the dependence between units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnaudit.errors import CnnAuditError
from cnnaudit.intervals import Normal
from cnnaudit.result import Outcome, UnitCounts, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cnnaudit.intervals import Array, Uncertain
    from cnnaudit.plan import Check, Plan
    from cnnaudit.spec import Rule, Spec
    from cnnaudit.statistics import Probe, Statistic

__all__ = ["decide"]

_SHOWN = 5


@dataclass(frozen=True)
class _Evidence:
    """What is known of every unit of a site.

    Attributes:
        estimate: The measured units.
        kernels: Which kernels they are.
        missing: Units of the site that memory did not reach for.
        needed: Images that each measured unit still needs before it may be judged, 0 where it may be.
        reason: Why, where it may not.
    """

    estimate: Uncertain
    kernels: tuple[int, ...]
    missing: int
    needed: np.ndarray[Any, np.dtype[np.int64]]
    reason: str


def decide(plan: Plan, statistics: Mapping[Probe, Statistic], spec: Spec, *, classes: int) -> tuple[Verdict, ...]:
    """Decide every check of a plan.

    Args:
        plan: What was planned.
        statistics: What was measured for each probe.
        spec: The rules' policy.
        classes: Number of classes that were met.

    Returns:
        One verdict for each rule and site, in the order of the plan; a rule that selects nothing has one without
        a site.
    """
    verdicts = []
    for rule in spec.rules:
        mine = [check for check in plan.checks if check.rule is rule]
        sites = sum(check.probe is not None for check in mine)
        found = [_check(check, statistics, spec, sites=sites, classes=classes) for check in mine]
        found += [_absent(rule, message) for absent, message in plan.absent if absent is rule]
        if found and all(v.outcome is Outcome.NOT_APPLICABLE for v in found) and rule.if_absent == "error":
            found.append(_nowhere(rule, found))
        verdicts += found
    return tuple(verdicts)


def _facts(rule: Rule) -> dict[str, Any]:
    return {
        "rule": rule.id,
        "line": rule.line,
        "severity": str(rule.severity),
        "metric": rule.metric,
        "field": rule.field,
        "reduce": str(rule.reduce),
        "share": rule.share,
        "why": rule.why or "",
        "refs": tuple(rule.refs),
    }


def _absent(rule: Rule, message: str) -> Verdict:
    skipped = rule.if_absent == "skip"
    return Verdict(
        **_facts(rule),
        unit="",
        op="",
        site="",
        outcome=Outcome.NOT_APPLICABLE if skipped else Outcome.ERROR,
        detail=f"The rule selects nothing: {message}.",
        advice=""
        if skipped
        else "Correct `at:`, or add `if_absent: skip` where the rule is meant for other networks too.",
    )


def _nowhere(rule: Rule, found: list[Verdict]) -> Verdict:
    return Verdict(
        **_facts(rule),
        unit="",
        op="",
        site="",
        outcome=Outcome.ERROR,
        detail=f"Nothing was measured: the metric applies at none of the {len(found)} sites that the rule selects "
        f"({found[0].site}: {found[0].detail})",
        advice="Choose a metric that applies there, or add `if_absent: skip` where the rule is meant for other networks too.",
    )


def _check(check: Check, statistics: Mapping[Probe, Statistic], spec: Spec, *, sites: int, classes: int) -> Verdict:
    facts = _facts(check.rule) | {
        "unit": check.metric.fields[check.rule.field].unit,
        "op": str(check.site.op),
        "site": check.site.path,
    }
    if check.probe is None:
        return Verdict(**facts, outcome=Outcome.NOT_APPLICABLE, detail=f"Not measured: {check.reason}.")
    statistic = statistics[check.probe]
    n = statistic.n_images
    facts["n_images"] = n
    if statistic.nonfinite:
        return Verdict(
            **facts,
            outcome=Outcome.ERROR,
            detail=f"{statistic.nonfinite} of {n} images give NaN or Inf here.",
            advice="Find the first site that does: look for overflow, division by zero, or broken weights and images.",
        )
    alpha = 1 - spec.sampling.confidence
    try:
        evidence = _evidence(check, statistic, classes=classes, alpha=alpha)
    except CnnAuditError:
        raise
    except Exception as error:  # noqa: BLE001 - a metric may be third-party code; its crash is a verdict of its own
        return Verdict(
            **facts,
            outcome=Outcome.ERROR,
            detail=f"The metric crashed: {type(error).__name__}: {error}",
            advice=f"Report it with the output of `cnnaudit explain {check.metric.name}` and the site's line of --dry-run.",
        )
    return _verdict(check, evidence, facts, alpha=alpha, confidence=spec.sampling.confidence, sites=sites)


def _evidence(check: Check, statistic: Statistic, *, classes: int, alpha: float) -> _Evidence:
    rule, site = check.rule, check.site
    estimate = check.metric.evaluate(statistic, site, rule.params)[rule.field]
    units = len(estimate.value)
    kernels = statistic.probe.units if len(statistic.probe.units) == units else tuple(range(units))
    missing = site.units - units if statistic.probe.kernels is not None else 0
    n = statistic.n_images
    needed, reason = np.zeros(units, dtype=np.int64), ""
    if check.on_dataset:
        estimate = estimate.on_dataset()
    else:
        gate = check.metric.gate(statistic, site, rule.params)
        if gate is not None:
            needed, reason = gate.images, gate.reason
        fewest = check.images(classes, alpha)
        if fewest > n:
            needed, reason = np.maximum(needed, fewest), f"this metric needs {fewest:,} images here"
    if rule.reduce == "mean":
        estimate = _mean(estimate, missing)
        needed, missing = needed.max(keepdims=True), 0
        kernels = (-1,)
    return _Evidence(estimate, kernels, missing, needed, reason)


def _mean(estimate: Uncertain, missing: int) -> Uncertain:
    """Mean over a site's units; where only a sample of them was read, with the error of that sample."""
    mean = estimate.mean()
    if not missing:
        return mean
    k = len(estimate.value)
    low, high = mean.interval(0.95)
    own = (high - low) / (2 * 1.959964)
    sample = estimate.value.var(ddof=1) / k * missing / (k + missing) if k > 1 else math.inf
    return Normal(mean.value, np.sqrt(own**2 + sample))


def _verdict(
    check: Check, evidence: _Evidence, facts: dict[str, Any], *, alpha: float, confidence: float, sites: int
) -> Verdict:
    rule, estimate = check.rule, evidence.estimate
    value = estimate.value
    low, high = estimate.interval(confidence)
    violates, keeps = _p_values(rule, estimate)
    closed = (evidence.needed > 0) | np.isnan(value)
    violates, keeps = np.where(closed, 1.0, violates), np.where(closed, 1.0, keeps)
    total = len(value) + evidence.missing
    must = total if rule.reduce == "mean" else max(1, math.ceil(rule.share * total - 1e-9))
    passing = violates <= alpha / (total - must + 1)
    failing = keeps <= alpha / (must * max(sites, 1))
    order = np.lexsort((-violates, keeps))
    if failing.sum() >= total - must + 1:
        outcome, shown = Outcome.FAIL, order[0]
    else:
        outcome = Outcome.PASS if passing.sum() >= must else Outcome.UNDECIDED
        shown = np.argsort(violates, kind="stable")[min(must, len(value)) - 1]
    bound, side = _deciding_bound(rule, value[shown])
    worst = order[: min(_SHOWN, max(1, int((~passing).sum())))]
    counts = UnitCounts(total, int(failing.sum()), total - int(failing.sum()) - int((passing & ~failing).sum()))
    needed = _needed(evidence, facts["n_images"], shown, bound, low, high) if outcome is Outcome.UNDECIDED else 0
    detail, advice = _words(check, evidence, outcome, shown, side, bound, low[shown], high[shown], needed)
    return Verdict(
        **facts,
        outcome=outcome,
        value=float(value[shown]),
        low=float(low[shown]),
        high=float(high[shown]),
        bound=bound,
        side=side,
        n_needed=needed,
        units=counts,
        worst=tuple((evidence.kernels[i], float(value[i]), float(low[i]), float(high[i])) for i in worst),
        detail=detail,
        advice=advice,
    )


def _p_values(rule: Rule, estimate: Uncertain) -> tuple[Array, Array]:
    """p-values of "the unit violates" and of "the unit keeps" the rule's bounds."""
    violates, keeps = [], []
    if rule.min is not None:
        violates.append(estimate.p_below(rule.min))
        keeps.append(estimate.p_at_least(rule.min))
    if rule.max is not None:
        violates.append(estimate.p_above(rule.max))
        keeps.append(estimate.p_at_most(rule.max))
    # Of two bounds either may be the violated one, so the smaller p-value counts twice.
    return np.max(violates, axis=0), np.minimum(1, len(keeps) * np.min(keeps, axis=0))


def _deciding_bound(rule: Rule, value: float) -> tuple[float, str]:
    """The bound that the value violates, or else comes nearest to."""
    sides = {side: bound for side, bound in (("min", rule.min), ("max", rule.max)) if bound is not None}
    side = min(sides, key=lambda side: (value - sides[side]) * (1 if side == "min" else -1))
    return sides[side], side


def _needed(evidence: _Evidence, n: int, shown: int, bound: float, low: Array, high: Array) -> int:
    """Images that would probably decide: the interval shrinks with their square root until it clears the bound."""
    if evidence.needed[shown] > 0:
        return int(evidence.needed[shown])
    distance = abs(evidence.estimate.value[shown] - bound)
    reach = (high[shown] - low[shown]) / 2
    if not distance or not math.isfinite(reach) or not reach or math.isnan(distance):
        return 0
    return math.ceil(n * max(1.0, (reach / distance) ** 2)) + 1


def _words(
    check: Check,
    evidence: _Evidence,
    outcome: Outcome,
    shown: int,
    side: str,
    bound: float,
    low: float,
    high: float,
    needed: int,
) -> tuple[str, str]:
    """What the verdict means, and what to do next."""
    field = check.metric.fields[check.rule.field]
    if outcome is Outcome.PASS:
        return f"{field.summary[0].upper()}{field.summary[1:]} keeps its bound.", ""
    if outcome is Outcome.FAIL:
        return field.low if side == "min" else field.high
    if evidence.needed[shown] > 0:
        return f"Too few images: {evidence.reason}.", f"Audit at least {needed:,} images."
    if math.isnan(evidence.estimate.value[shown]):
        return (
            "The value is 0 / 0 for some units: nothing varies there, so nothing can be lost or contributed.",
            "Look at them with activity.dead; exempt them with `share:` if they are meant to be silent.",
        )
    if evidence.missing:
        return (
            f"Memory reached for {len(evidence.kernels)} of {len(evidence.kernels) + evidence.missing} kernels, "
            "and the rule speaks of all.",
            "Raise sampling.max_memory, narrow `at:`, or judge `reduce: mean`.",
        )
    straddles = low <= bound <= high
    told = (
        "the interval contains the bound" if straddles else "one interval among so many units could clear it by chance"
    )
    many = f"About {needed:,} images would decide it" if needed else "More images would narrow it"
    return f"Not decided: {told}.", f"{many}; or move the bound away from the value."
