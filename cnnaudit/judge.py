"""Statistics -> estimates with intervals -> verdicts; pure.

A unit's evidence is two p-values: of "it violates the bound", small where it surely keeps it, and of "it keeps
the bound", small where it surely violates it. A site with m units of which u must keep the bound is decided by
partial conjunction (Benjamini & Heller, Biometrics 64 (2008), Bonferroni form): PASS where the u-th smallest of
the first times (m - u + 1) is at most alpha, FAIL where the (m - u + 1)-th smallest of the second times u, times
the number of sites and slices that the rule is judged at, is at most alpha. So neither a false PASS nor a false FAIL
of a rule is likelier than alpha, whatever the dependence between units. Each of several looks spends its part of
alpha, and a verdict stands from the first look that decides it.

A rule without a bound decides nothing: its verdicts show what was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy import special

from cnnaudit.errors import CnnAuditError
from cnnaudit.intervals import Normal, difference
from cnnaudit.looks import LAST, Look
from cnnaudit.metrics import Gate, numbers
from cnnaudit.result import Estimate, Outcome, SiteMean, UnitCounts, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from cnnaudit.intervals import Array, Uncertain
    from cnnaudit.plan import Check, Plan
    from cnnaudit.spec import Rule, Spec
    from cnnaudit.statistics import Probe, Statistic

__all__ = ["Evaluations", "decide", "estimate", "family_wise_error"]

_Key: TypeAlias = tuple[int, str, str]

_SHOWN = 5
_NO_EXCESS = (
    "The value is not so far above that of the null twin: a network of this shape has it without having learned.",
    "Look whether the layer was trained at all, and whether another seed draws a twin like this one.",
)
_ELSEWHERE = "Correct `at:` or the metric; add `if_absent: skip` where the rule is meant for other networks too."


def estimate(found: Uncertain, unit: str, *, n_images: int, kernels: tuple[int, ...], confidence: float) -> Estimate:
    """Return measured units, and their mean, with two-sided intervals."""
    lows, highs = found.interval(confidence)
    mean = found.mean()
    low, high = mean.interval(confidence)
    return Estimate(
        value=float(mean.value[0]),
        low=float(low[0]),
        high=float(high[0]),
        unit=unit,
        n_images=n_images,
        units=tuple(np.asarray(found.value, dtype=float).tolist()),
        lows=tuple(lows.tolist()),
        highs=tuple(highs.tolist()),
        kernels=kernels,
    )


class Evaluations:
    """What metrics make of statistics, each worked out once: rules for several fields of a metric share it."""

    def __init__(self) -> None:
        self._known: dict[_Key, tuple[Statistic, Mapping[str, Uncertain]]] = {}
        self._without: dict[_Key, tuple[Statistic, list[Mapping[str, Any]]]] = {}

    def of(self, check: Check, statistic: Statistic) -> Mapping[str, Uncertain]:
        """Return every field of a check's metric at its site, from a statistic that will not grow any more."""
        key = _key_of(check, statistic)
        if key not in self._known:
            found = check.metric.evaluate(
                statistic, check.site, check.rule.params, lambda: self.without_each_group(check, statistic)
            )
            self._known[key] = statistic, found  # which is kept along, so that no other one gets its id
        return self._known[key][1]

    def without_each_group(self, check: Check, statistic: Statistic) -> list[Mapping[str, Any]]:
        """Return every field without the images of each group."""
        key = _key_of(check, statistic)
        if key not in self._without:
            self._without[key] = (
                statistic,
                check.metric.without_each_group(statistic, check.site, check.rule.params),
            )
        return self._without[key][1]


def _key_of(check: Check, statistic: Statistic) -> _Key:
    return id(statistic), check.metric.name, repr(sorted(check.rule.params.items()))


@dataclass(frozen=True)
class _Evidence:
    """What is known of every unit of a site.

    Attributes:
        estimate: The measured units.
        kernels: Which kernels they are.
        missing: Kernels of the site that memory did not reach for.
        partial: Whether the value is about all kernels at once, so that without those nothing can be judged.
        gate: Which measured units may not be judged yet.
        fields: Values of all of the metric's fields for the same units.
        null: What the null twin has, as one value, where it was measured: the mean of its units.
    """

    estimate: Uncertain
    kernels: tuple[int, ...]
    missing: int
    partial: bool
    gate: Gate
    fields: Mapping[str, Array]
    null: Uncertain | None = None

    def judged(self, rule: Rule, levels: tuple[float, ...] = ()) -> list[_Claim]:
        """What is judged, by each of a rule's bounds; ``levels`` are those that p-values will be compared with."""
        twin = self.null if self.null is not None else self.estimate
        return [
            _Claim(difference(self.estimate, twin, levels) if side == "min_excess" else self.estimate, side, bound)
            for side, bound in rule.bounds.items()
        ]


@dataclass(frozen=True)
class _Claim:
    """That the units of a quantity keep one bound."""

    quantity: Uncertain
    side: str
    bound: float

    @property
    def margins(self) -> Array:
        """Distances to the bound, negative where it is violated."""
        above = self.quantity.value - self.bound
        return -above if self.side == "max" else above

    @property
    def p_violated(self) -> Array:
        """p-values of "the unit violates it"."""
        return (self.quantity.p_above if self.side == "max" else self.quantity.p_below)(self.bound)

    @property
    def p_kept(self) -> Array:
        """p-values of "the unit keeps it"."""
        return (self.quantity.p_at_most if self.side == "max" else self.quantity.p_at_least)(self.bound)


def decide(
    plan: Plan,
    statistics: Mapping[Probe, Statistic],
    spec: Spec,
    *,
    classes: int,
    values: Mapping[str, Sequence[str]] = MappingProxyType({}),
    look: Look = LAST,
    earlier: Iterable[Verdict] = (),
    evaluations: Evaluations | None = None,
) -> tuple[Verdict, ...]:
    """Decide every check of a plan.

    Args:
        plan: What was planned.
        statistics: What was measured for each probe, and for each slice where a rule tells slices apart.
        spec: The rules' policy.
        classes: Number of classes that were met.
        values: The values of each column that rules slice by, in the order of their codes.
        look: Which look this is.
        earlier: Verdicts of the looks before it; those that decide stand.
        evaluations: What has been worked out from these very statistics already.

    Returns:
        One verdict for each rule, site and slice, in the order of the plan; a rule that selects nothing has one
        without a site.
    """
    stand = {_key(v): v for v in earlier if v.outcome in (Outcome.PASS, Outcome.FAIL)}
    evaluations = evaluations or Evaluations()
    verdicts = []
    for rule in spec.rules:
        views = [view for check in plan.checks if check.rule is rule for view in _views(check, statistics, values)]
        places = max(1, sum(view.check.probe is not None for view in views))
        alpha = (1 - spec.sampling.confidence) * look.spent
        level = _Level(alpha, alpha / places, spec.sampling.confidence, look)
        found = [
            # What is broken later was never sound.
            (not v.broken and stand.get((rule.id, v.check.site.path, str(v.check.site.op), v.slice)))
            or _check(v, classes, level, evaluations)
            for v in views
        ]
        if rule.max_regression is not None and look.last:
            found = [_with_mean(v, view, classes, level, evaluations) for v, view in zip(found, views, strict=True)]
        found += [_absent(rule, message) for absent, message in plan.absent if absent is rule]
        if found and all(v.outcome is Outcome.NOT_APPLICABLE for v in found) and rule.if_absent == "error":
            found.append(_nowhere(rule, found))
        verdicts += found
    return tuple(verdicts)


def family_wise_error(plan: Plan, spec: Spec) -> dict[str, float]:
    """Return the probabilities with which sampling may mislead a whole file, at most.

    Returns:
        ``false_fail``: that any rule which holds is failed, the sum over the rules that are judged on the population.
        ``false_pass``: that all rules pass although one does not hold: for that one rule must err. It is alpha
        however many rules there are; 0 where no rule is judged on the population.
    """
    judged = (check for check in plan.checks if check.rule.bounds and check.probe is not None)
    sampled = {check.rule.id for check in judged if not check.on_dataset}
    alpha = 1 - spec.sampling.confidence
    return {"false_fail": min(1.0, alpha * len(sampled)), "false_pass": alpha if sampled else 0.0}


@dataclass(frozen=True)
class _View:
    """One check on all images, or on those of one slice; no statistic where none of them was met."""

    check: Check
    statistic: Statistic | None
    twin: Statistic | None = None
    by_groups: Statistic | None = None
    slice: str = ""

    @property
    def broken(self) -> bool:
        """Whether images gave NaN or Inf."""
        return any(statistic is not None and statistic.nonfinite > 0 for statistic in (self.statistic, self.twin))


@dataclass(frozen=True)
class _Level:
    """How sure a decision must be.

    Attributes:
        alpha: One-sided level of a PASS at this look.
        failing: That of a FAIL at one of the rule's sites and slices.
        confidence: Of the intervals that are shown.
        look: Which look it is.
    """

    alpha: float
    failing: float
    confidence: float
    look: Look


def _key(verdict: Verdict) -> tuple[str, str, str, str]:
    return verdict.rule, verdict.site, verdict.op, verdict.slice


def _views(check: Check, statistics: Mapping[Probe, Statistic], values: Mapping[str, Sequence[str]]) -> Iterator[_View]:
    probe = check.probe
    if probe is None:
        yield _View(check, None)
        return
    twin, by_groups = replace(probe, network=check.rule.null), check.by_groups
    if not probe.by:
        null = statistics[twin] if check.rule.null else None
        yield _View(check, statistics[probe], null, statistics[by_groups] if by_groups else None)
        return
    for value, code in sorted((value, code) for code, value in enumerate(values[probe.by])):
        shown = value if value.isprintable() and value.strip() else repr(value)
        null = statistics.get(replace(twin, slice=code)) if check.rule.null else None
        groups = statistics.get(replace(by_groups, slice=code)) if by_groups else None
        yield _View(check, statistics.get(replace(probe, slice=code)), null, groups, f"{probe.by}={shown}")


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
        "file": rule.file,
        "pack": rule.pack,
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
        f"({found[0].site}: {found[0].detail.removeprefix('Not measured: ').rstrip('.')}).",
        advice=_ELSEWHERE,
    )


def _check(view: _View, classes: int, level: _Level, evaluations: Evaluations) -> Verdict:
    check, statistic = view.check, view.statistic
    facts = _facts(check.rule) | {
        "unit": check.metric.fields[check.rule.field].unit,
        "op": str(check.site.op),
        "site": check.site.path,
        "slice": view.slice,
        "look": level.look.number,
        "n_images": statistic.n_images if statistic else 0,
        "n_sources": statistic.n_sources if statistic and statistic.probe.clustered else 0,
    }
    fewest = check.images(classes, level.alpha)
    unjudged = _unjudged(view, fewest, level.look)
    if statistic is None or unjudged:
        return Verdict(**facts, **unjudged)
    try:
        evidence = _evidence(view, statistic, fewest, evaluations)
    except CnnAuditError:
        raise
    except Exception as error:  # noqa: BLE001 - a metric may be third-party code; its crash is a verdict of its own
        return Verdict(
            **facts,
            outcome=Outcome.ERROR,
            detail=f"The metric crashed: {type(error).__name__}: {error}",
            advice="Report it together with the site's line of `cnnaudit check --dry-run`.",
        )
    return (_verdict if check.rule.bounds else _measured)(check, evidence, facts, level)


def _unjudged(view: _View, fewest: int, look: Look) -> dict[str, Any]:
    """Why nothing is judged here, or not at this look; empty where it is."""
    check, statistic = view.check, view.statistic
    if check.probe is None:
        return {"outcome": Outcome.NOT_APPLICABLE, "detail": f"Not measured: {check.reason}."}
    if statistic is not None and view.broken:
        return _broken(statistic)
    if not check.rule.bounds:
        return _unmeasured(statistic, look)
    wanted = check.rule.by.min_images if check.rule.by and check.probe.by else 0
    if statistic is None or statistic.n_images < wanted:
        return {
            "outcome": Outcome.UNDECIDED,
            "n_needed": wanted,
            "detail": f"The rule wants at least {wanted:,} images of a slice.",
            "advice": f"Audit at least {wanted:,} images with {view.slice}, or lower the rule's min_images.",
        }
    if not look.last and (check.on_dataset or fewest > statistic.n_sources):
        return {"outcome": Outcome.UNDECIDED, "detail": "More images are to come."}
    return {}


def _broken(statistic: Statistic) -> dict[str, Any]:
    """What NaN and Inf come to, in the network or, where that has none, in its null twin."""
    if not statistic.nonfinite:
        return {
            "outcome": Outcome.ERROR,
            "detail": "The null twin gives NaN or Inf here.",
            "advice": "Take the other twin (`null: {twin: permuted}` or `null: twin`), or leave `null:` out.",
        }
    if not statistic.n_images:
        return {
            "outcome": Outcome.ERROR,
            "detail": "The layer's parameters hold NaN or Inf.",
            "advice": "Check that the checkpoint is whole and is the model's own; look for overflow in training.",
        }
    return {
        "outcome": Outcome.ERROR,
        "detail": f"{statistic.nonfinite} of {statistic.n_images} images give NaN or Inf here.",
        "advice": "Find the first site that does: look for overflow, division by zero, or broken weights and images.",
    }


def _unmeasured(statistic: Statistic | None, look: Look) -> dict[str, Any]:
    """Why a rule without a bound has nothing to show, or not at this look."""
    if statistic is None:
        return {"outcome": Outcome.NOT_APPLICABLE, "detail": "Not measured: no image of this slice was read."}
    return {} if look.last else {"outcome": Outcome.MEASURED, "detail": "More images are to come."}


def _evidence(view: _View, statistic: Statistic, fewest: int, evaluations: Evaluations) -> _Evidence:
    found = _units(view.check, statistic, fewest, evaluations)
    if view.twin is None:
        return found
    twin = _units(view.check, view.twin, fewest, evaluations)
    null, gate = twin.estimate, twin.gate.images
    if len(null.value) > 1:
        # No kernel of the twin is the counterpart of one of the network's: each is compared with all of the twin's.
        null, gate = _mean(null, twin.missing), gate.max(keepdims=True)
    graver = max(found.gate, twin.gate, key=lambda gate: int(gate.images.max(initial=0)))
    return replace(found, gate=replace(graver, images=np.maximum(found.gate.images, gate)), null=null)


def _units(check: Check, statistic: Statistic, fewest: int, evaluations: Evaluations) -> _Evidence:
    """What is known of the units of one network."""
    rule, site = check.rule, check.site
    told = check.metric.fields
    measured = {
        name: found.on_dataset() if (check.on_dataset if name == rule.field else told[name].dataset) else found
        for name, found in evaluations.of(check, statistic).items()
    }
    estimate = measured[rule.field]
    units = len(estimate.value)
    kernels = statistic.probe.units if len(statistic.probe.units) == units else tuple(range(units))
    missing = site.units - len(statistic.probe.units) if statistic.probe.kernels is not None else 0
    partial = check.metric.together and missing > 0
    n = statistic.n_sources  # of one source many images say little more than one
    gate = Gate(np.zeros(units, dtype=np.int64), "")
    if not check.on_dataset:
        gate = check.metric.gate(statistic, site, rule.field, rule.params) or gate
        if fewest > n:
            gate = Gate(np.maximum(gate.images, fewest), f"this metric needs {fewest:,} here")
    if rule.reduce == "mean":
        estimate, kernels = _mean(estimate, 0 if partial else missing), (-1,)
        missing = missing if partial else 0
        gate = replace(gate, images=gate.images.max(keepdims=True))
        measured = {name: field.mean() for name, field in measured.items()}
    return _Evidence(estimate, kernels, missing, partial, gate, {name: field.value for name, field in measured.items()})


def _with_mean(verdict: Verdict, view: _View, classes: int, level: _Level, evaluations: Evaluations) -> Verdict:
    """A verdict with the mean over the site's units on all images, where that exists and there are enough for it.

    The mean without each group of images is told where leaving images out tells its error: where images also teach a
    probe it does not.
    """
    check, statistic = view.check, view.statistic
    if statistic is None or verdict.outcome in (Outcome.ERROR, Outcome.NOT_APPLICABLE):
        return verdict
    found = evaluations.of(check, statistic)[check.rule.field]
    if check.on_dataset:
        found = found.on_dataset()
    elif _units(check, statistic, check.images(classes, level.alpha), evaluations).gate.images.any():
        return verdict
    missing = check.site.units - len(statistic.probe.units) if statistic.probe.kernels is not None else 0
    mean = _mean(found, missing)
    (low,), (high,) = mean.interval(level.confidence)
    groups: tuple[tuple[int, float], ...] = ()
    if view.by_groups is not None and found.by_deletion:
        values = (part[check.rule.field] for part in evaluations.without_each_group(check, view.by_groups))
        means = [float(numbers(getattr(value, "value", value)).mean()) for value in values]
        groups = tuple(zip((n for n in view.by_groups.images.tolist() if n), means, strict=True)) if means else ()
    return replace(verdict, mean=SiteMean(float(mean.value[0]), float(low), float(high), groups))


def _mean(estimate: Uncertain, missing: int) -> Uncertain:
    """Mean over a site's units; where only a sample of them was read, with the error of that sample."""
    mean = estimate.mean()
    if not missing:
        return mean
    k = len(estimate.value)
    if k < 2:
        return Normal(mean.value, np.array([math.inf]))
    # The side that no limit has cut tells the mean's own error.
    low, high = mean.interval(0.95)
    own = (np.maximum(mean.value - low, high - mean.value) / 1.959964) ** 2
    sample = estimate.value.var(ddof=1) / k * missing / (k + missing)
    # Satterthwaite: of k kernels k - 1 tell how much kernels differ.
    dof = (k - 1) * float(((own + sample) / sample)[0]) ** 2 if sample > 0 else math.inf
    return Normal(mean.value, np.sqrt(own + sample), dof)


@dataclass(frozen=True)
class _Decision:
    """What the units' evidence comes to.

    Attributes:
        outcome: For the site.
        shown: Unit that stands for it: the worst where it fails, else the one on which a PASS hangs.
        order: Units, worst first.
        passing, failing: Units that surely keep, surely violate the bound at the levels of the decision.
        alphas: One-sided levels at which a unit passes and fails, after multiplicity.
    """

    outcome: Outcome
    shown: int
    order: np.ndarray[Any, np.dtype[np.int64]]
    passing: np.ndarray[Any, np.dtype[np.bool_]]
    failing: np.ndarray[Any, np.dtype[np.bool_]]
    alphas: tuple[float, float]


def _decided(rule: Rule, evidence: _Evidence, level: _Level) -> _Decision:
    total = _total(evidence)
    must = _must(rule, total)
    alphas = level.alpha / (total - must + 1), level.failing / must
    # A little less than the share, so that their sum does not exceed the level by rounding.
    claims = evidence.judged(rule, (alphas[0], (1 - 1e-9) * alphas[1] / len(rule.bounds)))
    margin = np.min([claim.margins for claim in claims], axis=0)
    violates = np.max([claim.p_violated for claim in claims], axis=0)
    # Of several bounds any may be the violated one, so the smallest p-value counts for each.
    keeps = np.minimum(1, len(claims) * np.min([claim.p_kept for claim in claims], axis=0))
    closed = (evidence.gate.images > 0) | np.isnan(margin) | evidence.partial
    violates, keeps = np.where(closed, 1.0, violates), np.where(closed, 1.0, keeps)
    passing, failing = violates <= alphas[0], keeps <= alphas[1]
    order = np.lexsort((margin, -violates, keeps))
    if failing.sum() > total - must:
        return _Decision(Outcome.FAIL, int(order[0]), order, passing, failing, alphas)
    hangs_on = int(np.lexsort((-margin, violates))[min(must, len(margin)) - 1])
    outcome = Outcome.PASS if passing.sum() >= must else Outcome.UNDECIDED
    return _Decision(outcome, hangs_on, order, passing, failing, alphas)


def _must(rule: Rule, total: int) -> int:
    """Units that must keep the bound."""
    return max(1, math.ceil(rule.share * total - 1e-9))


def _total(evidence: _Evidence) -> int:
    """Units that a verdict speaks of."""
    return len(evidence.estimate.value) + (0 if evidence.partial else evidence.missing)


def _verdict(check: Check, evidence: _Evidence, facts: dict[str, Any], level: _Level) -> Verdict:
    decision = _decided(check.rule, evidence, level)
    shown = decision.shown
    # The bound that the unit violates, or else comes nearest to.
    claim = min(evidence.judged(check.rule), key=lambda claim: float(claim.margins[shown]))
    failing = int(decision.failing.sum())
    total = _total(evidence)
    open_units = total - int((decision.passing | decision.failing).sum())
    listed = decision.order[: min(_SHOWN, max(1, failing + open_units))]
    needed = 0
    if decision.outcome is Outcome.UNDECIDED:
        needed = _samples_needed(claim, evidence, decision, facts["n_sources"] or facts["n_images"])
    numbers = _numbers(evidence, claim.quantity, shown, listed, level.confidence)
    samples = "sources" if facts["n_sources"] else "images"
    told = f"{needed:,} {samples}" + (f" with {facts['slice']}" if facts["slice"] else "")
    ends = numbers["low"], numbers["high"]
    detail, advice = _words(
        check, evidence, decision, claim, interval=ends, samples=samples, needed=told if needed else ""
    )
    return Verdict(
        **facts,
        **numbers,
        outcome=decision.outcome,
        bound=claim.bound,
        side=claim.side,
        reached=_reached(check.rule, evidence, claim, decision, 1 - level.confidence),
        n_needed=needed,
        units=UnitCounts(total, failing, open_units),
        detail=detail,
        advice=advice,
    )


def _reached(rule: Rule, evidence: _Evidence, claim: _Claim, decision: _Decision, alpha: float) -> float | None:
    """The tightest bound that as many other images would probably pass as well; None where it was not passed.

    Another audit's value lies around this one with sqrt(2) times its error, and must itself be surely within the bound.
    """
    if decision.outcome is not Outcome.PASS or len(rule.bounds) > 1:
        return None
    far = special.ndtri(decision.alphas[0]) + math.sqrt(2) * special.ndtri(alpha)
    low, high = claim.quantity.interval(1 - 2 * float(special.ndtr(far)))
    limits = np.sort(np.where(evidence.gate.images > 0, math.inf, high if claim.side == "max" else -low))
    reached = float(limits[_must(rule, _total(evidence)) - 1])
    return reached if claim.side == "max" else -reached


def _measured(check: Check, evidence: _Evidence, facts: dict[str, Any], level: _Level) -> Verdict:
    """What a rule without a bound shows: of several units the one in the middle, the lowest and the highest."""
    order, middle = _ordered(evidence.estimate.value)
    ends = order if len(order) < 2 else order[[0, -1]]
    numbers = _numbers(evidence, evidence.estimate, middle, ends, level.confidence)
    few = evidence.gate.images[middle] > 0
    samples = "sources" if facts["n_sources"] else "images"
    total = _total(evidence)
    undefined = total - evidence.missing - len(order)
    detail = [
        f"Too few {samples} to rely on it: {evidence.gate.reason}." if few else "",
        f"Memory reached for {check.site.units - evidence.missing} of {check.site.units} kernels."
        if evidence.missing
        else "",
        f"The value is 0 / 0 for {undefined} of {total} units." if undefined and total > 1 else "",
    ]
    return Verdict(
        **facts,
        **numbers,
        outcome=Outcome.MEASURED,
        n_needed=int(evidence.gate.images.max()) if few else 0,
        units=UnitCounts(total),
        detail=" ".join(sentence for sentence in detail if sentence),
    )


def _ordered(values: Array) -> tuple[NDArray[np.int64], int]:
    """Units that have a value, the lowest first, and the one in the middle of them; the first where none has."""
    order = np.argsort(values, kind="stable")
    order = order[~np.isnan(values[order])]
    return order, int(order[(len(order) - 1) // 2]) if len(order) else 0


def _numbers(
    evidence: _Evidence, quantity: Uncertain, shown: int, listed: NDArray[np.int64], confidence: float
) -> dict[str, Any]:
    """The numbers of a verdict: of the unit that stands for all, and of those that are listed."""
    value = quantity.value
    low, high = quantity.interval(confidence)
    return {
        "value": float(value[shown]),
        "low": float(low[shown]),
        "high": float(high[shown]),
        "null": None if evidence.null is None else float(evidence.null.value[0]),
        "fields": {name: float(values[shown]) for name, values in evidence.fields.items()},
        "worst": tuple((evidence.kernels[i], float(value[i]), float(low[i]), float(high[i])) for i in listed),
    }


def _samples_needed(claim: _Claim, evidence: _Evidence, decision: _Decision, n: int) -> int:
    """Images, or sources, that would probably decide the shown unit; 0 where no number would.

    The deciding interval is the one-sided one at the level that multiplicity leaves. It shrinks with the square
    root of their number until it clears the bound, if the value stays where it is.
    """
    shown = decision.shown
    if evidence.gate.images[shown] > 0:
        return int(evidence.gate.images.max())
    keeps = claim.margins[shown] >= 0
    quantity, clear = claim.quantity.deciding(claim.bound)
    value = quantity.value[shown]
    low, high = quantity.interval(1 - 2 * decision.alphas[0 if keeps else 1])
    reach = value - low[shown] if value > clear else high[shown] - value
    distance = abs(value - clear)
    if evidence.missing or not distance or not math.isfinite(reach):
        return 0
    # 5 % on top, because the value will move a little.
    return math.ceil(1.05 * n * max(1.0, float(reach / distance) ** 2))


def _words(
    check: Check,
    evidence: _Evidence,
    decision: _Decision,
    claim: _Claim,
    *,
    interval: tuple[float, float],
    samples: str,
    needed: str,
) -> tuple[str, str]:
    """What the verdict means, and what to do next."""
    low, high = interval
    field = check.metric.fields[check.rule.field]
    if decision.outcome is not Outcome.UNDECIDED:
        said = {"min": field.low, "max": field.high, "min_excess": _NO_EXCESS}[claim.side]
        return said if decision.outcome is Outcome.FAIL else ("", "")
    if evidence.gate.images[decision.shown] > 0:
        instead = f", or {evidence.gate.instead}" if evidence.gate.instead else ""
        return f"Too few {samples} to judge: {evidence.gate.reason}.", f"Audit at least {needed}{instead}."
    if math.isnan(claim.quantity.value[decision.shown]):
        few = " or fewer than two classes have enough images" if check.metric.labels else ""
        few = " or no concept is seen in enough images" if check.metric.masks else few
        return (
            f"The value is 0 / 0 for some units: nothing varies there{few}.",
            "See activity.dead there; exempt units that are meant to be silent: judge every unit with a `share:`.",
        )
    if not math.isfinite(low + high):
        return (
            "The interval does not exist: without some of these images nothing varies here.",
            "See activity.dead there; audit more images, or exempt units that are nearly silent by a `share:`.",
        )
    if evidence.missing:
        read = check.site.units - evidence.missing
        instead = "" if evidence.partial else ", or judge `reduce: mean`"
        return (
            f"Memory reached for {read} of {check.site.units} kernels, and the rule speaks of all.",
            f"Raise sampling.max_memory or narrow `at:`{instead}.",
        )
    means = "The interval contains the bound: these images do not tell on which side of it the truth lies."
    if not low <= claim.bound <= high:
        units = len(evidence.estimate.value)
        means = f"Alone this interval would clear the bound; the worst of {units} units could do so by chance."
    onwards = "No number of images can be told that would decide: audit more, or move the bound."
    if claim.quantity.value[decision.shown] == claim.bound != 0:
        onwards = "The value lies on the bound, where no number of images decides: move the bound."
    return means, f"Audit about {needed}, or move the bound away from the value." if needed else onwards
