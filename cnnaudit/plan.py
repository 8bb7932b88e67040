"""Rules x sites -> checks: every name and parameter is resolved before a batch is read."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from cnnaudit.errors import MetricError
from cnnaudit.metrics import Metric, Need, registry
from cnnaudit.spec.glob import matches
from cnnaudit.statistics import Probe, sample_kernels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cnnaudit.site import Site
    from cnnaudit.spec import Rule, Spec

__all__ = ["GROUPS", "Check", "Plan", "make_plan", "near_misses", "selects"]

GROUPS = 64
_VALUES = 8


@dataclass(frozen=True)
class Check:
    """One rule at one site; ``probe`` is None where the metric does not apply, and ``reason`` says why."""

    rule: Rule
    metric: Metric
    site: Site
    probe: Probe | None
    reason: str = ""

    @property
    def on_dataset(self) -> bool:
        """True where the claim is about the images read, not about the population behind them."""
        if self.rule.estimand is None:
            return self.metric.fields[self.rule.field].dataset
        return self.rule.estimand == "dataset"

    def images(self, classes: int, alpha: float) -> int:
        """Return the fewest images with which a verdict is possible."""
        if self.on_dataset:
            return 1
        return self.metric.images(Need(self.site, self.rule.field, classes, alpha, self.rule.params))


@dataclass(frozen=True)
class Plan:
    """What will be measured and decided.

    Attributes:
        checks: In the order of the rules, and of the sites in the network.
        absent: Rules that select nothing, each with a message that names near misses.
        probes: What is read; checks with equal probes share one.
        groups: Number of groups that sources are dealt to.
        bytes: Memory that the statistics will take.
    """

    checks: tuple[Check, ...]
    absent: tuple[tuple[Rule, str], ...]
    probes: tuple[Probe, ...]
    groups: int
    bytes: int

    @property
    def absent_errors(self) -> tuple[Rule, ...]:
        """Rules that select nothing although they should."""
        return tuple(rule for rule, _ in self.absent if rule.if_absent == "error")


def make_plan(
    spec: Spec,
    sites: Sequence[Site],
    *,
    classes: int,
    labelled: bool,
    n_images: int | None,
    clustered: bool = False,
    values: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Plan:
    """Resolve a spec against a network's sites.

    Args:
        spec: The rules.
        sites: The sites of the network.
        classes: Number of classes.
        labelled: Whether the data has labels.
        n_images: Number of images that will be read, None where that is unknown.
        clustered: Whether several images may come from one source.
        values: Values of the columns that rules slice by, of the columns where all are known.

    Raises:
        MetricError: a rule needs labels and the data has none, or memory does not reach for one kernel.
    """
    checks: list[Check] = []
    absent: list[tuple[Rule, str]] = []
    for rule in spec.rules:
        metric = registry()[rule.metric]
        if metric.labels and not labelled:
            if rule.if_absent == "skip" and rule.min is rule.max is None:
                # Nothing is asserted without a bound, so nothing that was asked for goes unjudged.
                absent.append((rule, f"{metric.name} needs labels, and the data has none"))
                continue
            raise MetricError(
                f"{spec.place(rule)}: rule {rule.id!r} measures {metric.name}, which needs labels, and the data "
                "has none: give the data a `labels` array or have the iterable yield (images, labels)"
            )
        selected = [site for site in sites if selects(rule, metric, site)]
        if not selected:
            absent.append((rule, near_misses(rule, metric, sites)))
        checks += [_check(rule, metric, site, clustered=clustered) for site in selected]
    groups = GROUPS if clustered or n_images is None else max(1, min(GROUPS, n_images))
    held = _Held(groups, classes, values)
    checks = _fit(checks, held, spec.sampling.max_memory, spec.sampling.seed)
    probes = tuple(dict.fromkeys(check.probe for check in checks if check.probe is not None))
    return Plan(tuple(checks), tuple(absent), probes, groups, held.bytes(probes))


def selects(rule: Rule, metric: Metric, site: Site) -> bool:
    """Whether a rule speaks of a site, be the metric defined there or not."""
    ops = (rule.op,) if rule.op else metric.at
    return site.op in ops and metric.where(site) and any(matches(pattern, site.path) for pattern in rule.at)


def _check(rule: Rule, metric: Metric, site: Site, *, clustered: bool) -> Check:
    reason = metric.applies(site, rule.field, rule.params)
    if metric.labels and rule.by and rule.by.column == "labels":
        reason = "it compares classes, and a slice by labels has only one"
    if reason is not None:
        return Check(rule, metric, site, None, reason)
    by = rule.by.column if rule.by else ""
    options = metric.options(rule.params)
    return Check(rule, metric, site, Probe(metric.reads, site, metric.taps, options, clustered=clustered, by=by))


def near_misses(rule: Rule, metric: Metric, sites: Sequence[Site], *, whole: str = "the network") -> str:
    """Say why a rule selects none of the sites, and which it may have meant; ``whole`` is what they are together."""
    ops = (rule.op,) if rule.op else metric.at
    wanted, pattern = " or ".join(ops), " or ".join(map(repr, rule.at))
    meant = [site.path for site in sites if site.op in ops and metric.where(site)]
    if not meant:
        return f"{whole} has no {wanted} site that {metric.name} could be measured at"
    close = [path for glob in rule.at for path in difflib.get_close_matches(glob, meant, n=3, cutoff=0.4)]
    named = ", ".join(dict.fromkeys(close or meant[:3]))
    others = [site for site in sites if any(matches(glob, site.path) for glob in rule.at)]
    found = f" (it matches {others[0].path}, a {others[0].op} site)" if others else ""
    return f"at: {pattern} matches no {wanted} site{found}; {whole} has {len(meant)}, among them {named}"


@dataclass(frozen=True)
class _Held:
    """What decides how much memory statistics take."""

    groups: int
    classes: int
    values: Mapping[str, Sequence[str]]

    def bytes(self, probes: Iterable[Probe]) -> int:
        sizes = ((p, p.statistic.size(p, self.groups, self.classes)) for p in probes)
        return sum(size * self.slices(p) for p, size in sizes)

    def slices(self, probe: Probe) -> int:
        """Statistics that a probe will have; where only reading tells, as many as most columns have values."""
        return len(self.values.get(probe.by, range(_VALUES))) if probe.by else 1


def _fit(checks: list[Check], held: _Held, budget: int, seed: int) -> list[Check]:
    """Return the checks with kernels sampled by hash where the byte budget does not reach for all of them."""

    def capped(cap: int) -> list[Check]:
        return [replace(c, probe=None if c.probe is None else _cap(c.probe, cap, seed)) for c in checks]

    def total(found: list[Check]) -> int:
        return held.bytes(dict.fromkeys(c.probe for c in found if c.probe is not None))

    if total(checks) <= budget:
        return checks
    low, high = 1, max(c.site.units for c in checks)
    if total(capped(low)) > budget:
        raise MetricError(
            f"sampling.max_memory of {budget:,} bytes does not reach even for one kernel a site: "
            f"{total(capped(low)):,} bytes are needed"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if total(capped(middle)) <= budget else (low, middle)
    return capped(low)


def _cap(probe: Probe, cap: int, seed: int) -> Probe:
    if not probe.statistic.sampled_kernels or probe.site.units <= cap:
        return probe
    return replace(probe, kernels=sample_kernels(probe.site.path, seed, probe.site.units, cap))
