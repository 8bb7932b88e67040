"""Rules x sites -> checks: every name and parameter is resolved before a batch is read."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cnnaudit.errors import MetricError
from cnnaudit.metrics import Metric, Need, registry
from cnnaudit.site import Op, Variant
from cnnaudit.spec.glob import matches
from cnnaudit.statistics import Parameters, Probe, sample_kernels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from cnnaudit.site import Altered, Site, Tap
    from cnnaudit.spec import Rule, Spec

__all__ = ["GROUPS", "Check", "Plan", "make_plan", "near_misses", "places", "selects"]

GROUPS = 64
_VALUES = 8
_NONE: Mapping[str, Tap] = MappingProxyType({})
_LACKING = {
    "labels": "(images, labels)",
    "masks": "(images, masks), classes of shape (images, *size) or 0 and 1 of shape (images, concepts, *size)",
}


@dataclass(frozen=True)
class Check:
    """One rule at one site, or at one pair of sites.

    Attributes:
        rule, metric: What is judged.
        site: Where; of a pair the two as one site.
        probe: What is read; None where the metric does not apply.
        reason: Why it does not.
        places: The network's own sites that are meant: one, or the two of a pair.
    """

    rule: Rule
    metric: Metric
    site: Site
    probe: Probe | None
    reason: str = ""
    places: tuple[Site, ...] = ()

    @property
    def probes(self) -> tuple[Probe, ...]:
        """What is read: of the network, of its null twin where the rule wants one, and by groups."""
        if self.probe is None:
            return ()
        twin = (replace(self.probe, network=self.rule.null),) if self.rule.null else ()
        return tuple(dict.fromkeys((self.probe, *twin, *((self.by_groups,) if self.by_groups else ()))))

    @property
    def by_groups(self) -> Probe | None:
        """What tells the site's mean without each group of images, for a baseline; None where nothing does."""
        if self.probe is None or self.rule.max_regression is None or self.on_dataset:
            return None
        if self.probe.clustered or not self.probe.statistic.pooled_counts:
            return self.probe
        return replace(self.probe, clustered=True)

    @property
    def on_dataset(self) -> bool:
        """True where the claim is about the images read, or the weights, not about the population behind them."""
        if self.metric.reads is Parameters:
            return True
        if self.rule.estimand is None:
            return self.metric.fields[self.rule.field].dataset
        return self.rule.estimand == "dataset"

    def images(self, classes: int, alpha: float) -> int:
        """Return the fewest images with which a verdict is possible, 1 where the metric does not apply."""
        if self.on_dataset or self.probe is None:
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
    masked: bool = False,
    concepts: int = 0,
    clustered: bool = False,
    values: Mapping[str, Sequence[str]] = MappingProxyType({}),
    margin: tuple[int, ...] | None = None,
) -> Plan:
    """Resolve a spec against a network's sites.

    Args:
        spec: The rules.
        sites: The sites of the network.
        classes: Number of classes.
        labelled: Whether the data has labels.
        n_images: Number of images that will be read, None where that is unknown.
        masked: Whether the data has masks.
        concepts: Number of concepts that they tell apart.
        clustered: Whether several images may come from one source.
        values: Values of the columns that rules slice by, of the columns where all are known.
        margin: Pixels by which images can be shifted in each dimension; None where they have no canvas.

    Raises:
        MetricError: a rule needs labels or masks and the data has none, or memory does not reach for one kernel.
    """
    checks: list[Check] = []
    absent: list[tuple[Rule, str]] = []
    around = _Around(sites, margin)
    for rule in spec.rules:
        metric = registry()[rule.metric]
        lacking = _lacking(metric, labelled=labelled, masked=masked)
        if lacking:
            if rule.if_absent == "skip" and (rule.pack or not rule.bounds):
                # Without a bound nothing is asserted, and a pack speaks of what there may be.
                absent.append((rule, f"{metric.name} needs {lacking}, and the data has none"))
                continue
            raise MetricError(
                f"{spec.place(rule)}: rule {rule.id!r} measures {metric.name}, which needs {lacking}, and the data "
                f"has none: give the data a `{lacking}` array or have the iterable yield {_LACKING[lacking]}"
            )
        selected = list(places(rule, metric, sites))
        if not selected:
            absent.append((rule, near_misses(rule, metric, sites)))
        checks += [_check(rule, metric, at, around, clustered=clustered) for at in selected]
    groups = GROUPS if clustered or n_images is None else max(1, min(GROUPS, n_images))
    held = _Held(groups, classes, concepts, values)
    checks = _fit(checks, held, spec.sampling.max_memory, spec.sampling.seed)
    probes = tuple(dict.fromkeys(probe for check in checks for probe in check.probes))
    return Plan(tuple(checks), tuple(absent), probes, groups, held.bytes(probes))


def _lacking(metric: Metric, *, labelled: bool, masked: bool) -> str:
    """What a metric needs and the data has not; empty where nothing is missing."""
    if metric.labels and not labelled:
        return "labels"
    return "masks" if metric.masks and not masked else ""


def selects(rule: Rule, metric: Metric, site: Site) -> bool:
    """Whether a rule speaks of a site, be the metric defined there or not."""
    ops = (rule.op,) if rule.op else metric.at
    return site.op in ops and metric.where(site) and any(matches(pattern, site.path) for pattern in rule.at)


def places(rule: Rule, metric: Metric, sites: Sequence[Site]) -> Iterator[tuple[Site, ...]]:
    """Yield the sites that a rule speaks of, each alone; or the pairs, each from an earlier site to a later one."""
    for i, site in enumerate(sites):
        if not selects(rule, metric, site):
            continue
        if not rule.start:
            yield (site,)
            continue
        for start in sites[:i]:
            if start.result and any(matches(pattern, start.path) for pattern in rule.start):
                yield start, site


class _Around:
    """Sites as metrics see them, each made once, so that equal probes are equal, and what lies around all of them."""

    def __init__(self, sites: Sequence[Site], margin: tuple[int, ...] | None) -> None:
        self.margin = margin
        self.logits = next((site.taps["output"] for site in sites if site.op is Op.HEAD), None)
        self._made: dict[tuple[tuple[Site, ...], bool, frozenset[tuple[str, Tap]]], Site] = {}

    def site(self, at: tuple[Site, ...], *, crossed: bool = False, taps: Mapping[str, Tap] = _NONE) -> Site:
        """The site of one place: itself, as what goes in and comes out where that is meant, or a pair as one.

        Args:
            at: The network's own sites.
            crossed: Whether what goes in and what comes out are meant.
            taps: What else is read there.
        """
        key = at, crossed, frozenset(taps.items())
        if key not in self._made:
            *start, site = at
            seen = site.crossed if crossed else site
            found = site.after(start[0]) if start else seen or site
            self._made[key] = found.with_taps(taps) if taps else found
        return self._made[key]

    def taps(self, metric: Metric, site: Site, params: Mapping[str, Any]) -> dict[str, Tap]:
        """What a metric reads that is no tap of the site itself: the network's scores, and other runs.

        Raises:
            MetricError: there is no such thing here; the message says why.
        """
        found = {"logits": self._tap(site, "logits")} if "logits" in metric.taps else {}
        for name, altered in metric.variants(site, params).items():
            tap = self._tap(site, altered.tap)
            found[name] = replace(tap, variant=self._variant(site, altered))
        return found

    def _tap(self, site: Site, name: str) -> Tap:
        if name != "logits":
            return site.taps[site.tap(name)]
        if self.logits is None:
            raise MetricError("the network returns no scores that could be compared; name its logits with head:")
        return self.logits

    def _variant(self, site: Site, altered: Altered) -> Variant:
        if altered.of != "image":
            return Variant(self._tap(site, altered.of).node, altered.by, altered.amount)
        if self.margin is None:
            raise MetricError("it shifts the images, which needs larger ones than the network sees: see sampling.crop")
        if altered.by == "crop" and not any(self.margin):
            raise MetricError("it shifts the images, and sampling.crop leaves no pixel for that: make it smaller")
        if altered.by == "crop":
            return Variant("", altered.by, (*altered.amount, *self.margin))
        if len(altered.amount) != len(self.margin) or any(
            abs(a) > m for a, m in zip(altered.amount, self.margin, strict=True)
        ):
            moved, most = (" x ".join(map(str, pixels)) for pixels in (altered.amount, self.margin))
            raise MetricError(
                f"it shifts the images by {moved} pixels, and sampling.crop leaves {most} around them; lower the crop"
            )
        return Variant("", altered.by, altered.amount)


def _check(rule: Rule, metric: Metric, at: tuple[Site, ...], around: _Around, *, clustered: bool) -> Check:
    site = around.site(at, crossed=metric.of_pairs)
    reason = _pointless(metric, site) or metric.applies(site, rule.field, rule.params)
    if metric.labels and rule.by and rule.by.column == "labels":
        reason = "it compares classes, and a slice by labels has only one"
    if reason is not None:
        return Check(rule, metric, site, None, reason, at)
    if metric.reads is Parameters:
        return Check(rule, metric, site, Probe(Parameters, site, metric.taps), "", at)
    try:
        extra = around.taps(metric, site, rule.params)
    except MetricError as error:
        return Check(rule, metric, site, None, str(error), at)
    site = around.site(at, crossed=metric.of_pairs, taps=extra)
    # Only now the site shows what the network's scores look like.
    reason = metric.applies(site, rule.field, rule.params) if extra else None
    if reason is not None:
        return Check(rule, metric, site, None, reason, at)
    try:
        taps = metric.taps_at(site)
    except KeyError as error:
        return Check(rule, metric, site, None, f"there is no {error.args[0]} here", at)
    by = rule.by.column if rule.by else ""
    probe = Probe(metric.reads, site, taps, metric.options(rule.params), clustered=clustered, by=by)
    return Check(rule, metric, site, probe, "", at)


def _pointless(metric: Metric, site: Site) -> str | None:
    """Why a metric cannot be read at a site at all; None where it can."""
    if metric.reads is Parameters:
        missing = [name for name in metric.taps if name not in site.parameters]
        if "weight" in missing:
            return "its weight is no plain parameter (it is computed, or the convolution is transposed)"
        return "no batch norm with a scale and shift follows it alone" if missing else None
    if metric.of_pairs and "from" not in site.taps:
        return "it has no single input to compare its result with; name a pair with at: {from: ..., to: ...}"
    return None


def near_misses(rule: Rule, metric: Metric, sites: Sequence[Site], *, whole: str = "the network") -> str:
    """Say why a rule selects none of the sites, and which it may have meant; ``whole`` is what they are together."""
    ops = (rule.op,) if rule.op else metric.at
    wanted, pattern = " or ".join(ops), " or ".join(map(repr, rule.at))
    meant = [site.path for site in sites if site.op in ops and metric.where(site)]
    ends = [path for path in meant if any(matches(glob, path) for glob in rule.at)]
    if rule.start and ends:
        return _no_start(rule, ends[-1], sites, whole)
    if not meant:
        return f"{whole} has no {wanted} site that {metric.name} could be measured at"
    close = [path for glob in rule.at for path in difflib.get_close_matches(glob, meant, n=3, cutoff=0.4)]
    named = ", ".join(dict.fromkeys(close or meant[:3]))
    others = [site for site in sites if any(matches(glob, site.path) for glob in rule.at)]
    found = f" (it matches {others[0].path}, of op {others[0].op})" if others else ""
    return f"at: {pattern} matches no {wanted} site{found}; {whole} has {len(meant)}, among them {named}"


def _no_start(rule: Rule, end: str, sites: Sequence[Site], whole: str) -> str:
    """Say why no pair starts where a rule says: ``end`` is the last of those where it could end."""
    started = " or ".join(map(repr, rule.start))
    paths = [site.path for site in sites]
    later = [path for path in paths[paths.index(end) :] if any(matches(glob, path) for glob in rule.start)]
    if later:
        return f"from: {started} matches {later[0]}, which does not come before {end}; does the pair run the other way?"
    before = [site.path for site in sites[: paths.index(end)] if site.result]
    near = [path for glob in rule.start for path in difflib.get_close_matches(glob, before, n=3, cutoff=0.4)]
    named = ", ".join(dict.fromkeys(near or before[:3]))
    return f"from: {started} matches no site before {end}; {whole} has {named or 'none there'}"


@dataclass(frozen=True)
class _Held:
    """What decides how much memory statistics take."""

    groups: int
    classes: int
    concepts: int
    values: Mapping[str, Sequence[str]]

    def bytes(self, probes: Iterable[Probe]) -> int:
        sizes = ((p, self.concepts if p.statistic.by_concept else self.classes) for p in probes)
        return sum(p.statistic.size(p, self.groups, classes) * self.slices(p) for p, classes in sizes)

    def cap(self, probe: Probe, share: int, seed: int) -> Probe:
        """Return the probe with as many kernels as keep its statistic within a share of the bytes, at least one."""
        units = probe.site.units
        if not probe.statistic.sampled_kernels or self.bytes([probe]) <= share:
            return probe
        low, high = 1, units
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.bytes([replace(probe, kernels=tuple(range(middle)))]) <= share
            low, high = (middle, high) if fits else (low, middle)
        return replace(probe, kernels=sample_kernels(probe.site.path, seed, units, low)) if low < units else probe

    def slices(self, probe: Probe) -> int:
        """Statistics that a probe will have; where only reading tells, as many as most columns have values."""
        return len(self.values.get(probe.by, range(_VALUES))) if probe.by else 1


def _fit(checks: list[Check], held: _Held, budget: int, seed: int) -> list[Check]:
    """Return the checks with kernels sampled by hash where the byte budget does not reach for all of them."""

    def capped(share: int) -> list[Check]:
        return [replace(c, probe=None if c.probe is None else held.cap(c.probe, share, seed)) for c in checks]

    def total(found: list[Check]) -> int:
        return held.bytes(dict.fromkeys(probe for c in found for probe in c.probes))

    if total(checks) <= budget:
        return checks
    least = capped(0)
    if total(least) > budget:
        raise MetricError(_beyond(least, held, total(least), budget))
    # The largest share that each statistic may take: what is small keeps all of its kernels.
    low, high = 0, budget
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if total(capped(middle)) <= budget else (low, middle)
    return capped(low)


def _beyond(checks: list[Check], held: _Held, needed: int, budget: int) -> str:
    """What takes the memory where even one kernel a site is too much, or nothing can be sampled."""
    taken: dict[str, int] = {}
    for check in {c.probe: c for c in checks if c.probe is not None}.values():
        taken[check.metric.name] = taken.get(check.metric.name, 0) + held.bytes([check.probe] if check.probe else [])
    most = max(taken, key=lambda name: taken[name])
    places = len({check.probe for check in checks if check.metric.name == most and check.probe is not None})
    return (
        f"sampling.max_memory of {budget:,} bytes does not reach even with one kernel a site where kernels can be "
        f"sampled: {needed:,} bytes are needed, {taken[most]:,} of them by {most} at {places} places; raise it, narrow "
        "`at:`, or leave out rules"
    )
