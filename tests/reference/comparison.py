"""Audits one random network and compares every tap, tally and reported value with the naive computation.

Model and images are float64. The eager model runs on the same blocks in the same memory format, so that its values
are those of the captured graph and values that are equal in one are equal in the other. Means over maps are taken
in float32 by two statistics: their sums are compared to 2e-6, and a kernel with a value that close to an edge of
its grid is left out and counted.
"""

# ruff: noqa: PLR0917 - a formula takes what it is made of by position

from __future__ import annotations

import copy
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from unittest import mock

import numpy as np
import torch
from reference import naive
from reference.networks import Network, Plan, Tape, Value

import cnnaudit
from cnnaudit import pipeline
from cnnaudit.site import Op
from cnnaudit.statistics import Probe, Statistic, deal
from cnnaudit.stream import sweep

EXACT = 1e-9
SINGLE = 2e-6  # of statistics that average maps in float32
CELLS, MOST_CELLS = 4096, 2**16  # where levels are chosen, and where they are given

FIELDS = {
    "activity": ("dead", "apoz", "dormant"),
    "class_information": ("information", "chance_adjusted", "uncertainty_coefficient", "normalised"),
    "pool_information_dimension_loss": ("loss", "max", "avg", "min", "stride"),
    "pool_entropy_loss": (
        *("relative", "bits", "density_ratio"),
        *("relative_max", "relative_avg", "relative_min", "relative_stride"),
    ),
    "branch_variance_share": ("share", "skip_share", "standardised", "ratio", "correlation"),
    "class_selectivity_index": ("crossfit", "plugin"),
    "class_auroc": ("best", "plugin_best", "anti", "resolution"),
}
PARAMS = {
    "activity": (),
    "class_information": ("bins",),
    "pool_information_dimension_loss": ("windows",),
    "pool_entropy_loss": ("levels", "windows", "estimator"),
    "branch_variance_share": ("positions",),
    "class_selectivity_index": (),
    "class_auroc": ("bins",),
}


@dataclass
class Tally:
    """What was compared."""

    networks: int = 0
    sites: Counter = field(default_factory=Counter)
    compared: Counter = field(default_factory=Counter)
    close: Counter = field(default_factory=Counter)
    largest: defaultdict = field(default_factory=lambda: defaultdict(float))

    def numbers(self, what, ours, naively, *, tolerance, scale=None):
        """Compare floats relative to their own size, or to a scale given."""
        ours, naively = (np.asarray(x, dtype=np.float64) for x in (ours, naively))
        assert ours.shape == naively.shape, (what, ours.shape, naively.shape)
        assert (np.isnan(ours) == np.isnan(naively)).all(), (what, ours, naively)
        scale = np.broadcast_to(abs(naively) if scale is None else scale, naively.shape)
        told = (ours != naively) & ~np.isnan(naively)
        difference = abs(ours[told] - naively[told]) / np.maximum(scale[told], 1e-12)
        worst = difference.max(initial=0.0)
        assert worst <= tolerance, (what, worst, ours, naively)
        kind = what[0] if isinstance(what, tuple) else what
        self.compared[kind] += 1
        self.largest[kind] = max(self.largest[kind], float(worst))

    def integers(self, what, ours, naively):
        """Compare integers exactly."""
        ours, naively = np.asarray(ours), np.asarray(naively)
        assert ours.dtype.kind in "iu", (what, ours.dtype)
        assert ours.shape == naively.shape, (what, ours.shape, naively.shape)
        assert (ours == naively).all(), (what, ours[ours != naively], naively[ours != naively])
        self.compared[what[0]] += 1


class Keep(Statistic):
    """Stores whole taps."""

    @classmethod
    def size(cls, probe, groups, classes):
        return 0

    def read(self, view):
        return {tap: view.tensors[tap].clone() for tap in self.probe.taps}

    def add(self, reading, groups, first):
        for tap, x in reading.items():
            self.__dict__.setdefault("kept", defaultdict(list))[tap].append(x.numpy())


def data(plan: Plan):
    """Images whose mean and pattern depend on their class, so that responses say something about it."""
    rng = np.random.default_rng(plan.seed)
    labels = rng.integers(0, plan.head.classes, plan.images)
    pattern = rng.normal(size=(plan.head.classes, plan.channels, *plan.sizes))
    images = rng.normal(size=(plan.images, plan.channels, *plan.sizes)) + 0.5 * pattern[labels]
    return torch.from_numpy(images + 0.3 * labels.reshape(-1, *(1,) * (images.ndim - 1))), torch.from_numpy(labels)


def rules(plan: Plan):
    """A rule for each field: of every unit, with a bound that all violate, or of their mean."""
    choose = np.random.default_rng(plan.seed)
    for name, fields in FIELDS.items():
        params = {p: plan.options[p] for p in PARAMS[name] if plan.options[p] is not None}
        for of in fields:
            how = {"reduce": "mean", "max": 1e6} if choose.random() < 0.4 else {"max": -1e6}
            yield {"id": f"{name}.{of}", "metric": f"{name}.{of}", "params": params, "if_absent": "skip", **how}


@dataclass
class Run:
    """One audit and what the naive computation starts from: all values in the order of the audit."""

    plan: Plan
    tape: Tape
    report: cnnaudit.Report
    graph: object
    statistics: dict
    kept: dict
    ids: np.ndarray
    labels: np.ndarray
    group: np.ndarray
    groups: int

    def tap(self, site, name) -> np.ndarray:
        return self.tape.sites[site].taps[name].x.numpy()

    def read(self, site, name) -> np.ndarray:
        """The very numbers of the stream: one that differs in a last bit may tie or fall into another level."""
        return np.concatenate(self.kept[site][name]).astype(np.float64)

    def calibrating(self, probe: Probe) -> int:
        """Images that fix a grid."""
        return min(self.plan.images, probe.statistic.calibrates)


def run(plan: Plan) -> Run:
    """Audit a network; the model must be afterwards what it was before."""
    network = Network(plan).double()
    images, labels = data(plan)
    found = {}

    def recorded(graph, probes, blocks, **given):
        found["graph"], found["groups"] = graph, given["groups"]
        found["blocks"] = blocks = list(blocks)
        # Each tap by a probe of its own, which is read as soon as it is made and hinders no reuse of memory.
        keep = [Probe(Keep, site, (tap,)) for site in graph.sites for tap in site.taps]
        *_, everything = sweep(graph, [*probes, *keep], blocks, **given)
        found["kept"] = {probe: everything.pop(probe) for probe in keep}
        found["statistics"] = everything
        return [everything]

    before = {name: value.clone() for name, value in network.state_dict().items()}
    spec = {
        "cnnaudit": 1,
        "sampling": {"block": plan.block, "seed": plan.options["seed"], "looks": 1},
        "rules": list(rules(plan)),
    }
    with mock.patch.object(pipeline, "sweep", recorded):
        report = cnnaudit.audit(spec, model=network, data=(images, labels))
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    ids = np.concatenate([block.ids.numpy() for block in found["blocks"]])
    assert sorted(ids) == list(range(plan.images))
    number = np.concatenate([np.full(len(block.ids), block.number) for block in found["blocks"]])
    assert (number == np.arange(plan.images) // plan.block).all()
    tape = taped(network, images[ids], plan.block)
    kept = defaultdict(dict)
    for probe, statistic in found["kept"].items():
        kept[probe.site.path] |= statistic.kept
    groups = found["groups"]
    return Run(
        plan,
        tape,
        report,
        found["graph"],
        found["statistics"],
        kept,
        ids,
        labels.numpy()[ids],
        deal(torch.arange(plan.images), groups, plan.options["seed"], ranked=True).numpy(),
        groups,
    )


@torch.no_grad()
def taped(network: Network, images: torch.Tensor, size: int) -> Tape:
    """What the eager model makes of blocks of images, the last of them filled up as the stream does."""
    eager = copy.deepcopy(network).eval()
    layout = {"memory_format": torch.channels_last} if images.dim() == 4 else {}
    eager = eager.to(**layout)
    tapes, parts = [], images.split(size)
    for part in parts:
        block = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
        tapes.append(Tape())
        eager(block.contiguous(**layout), tapes[-1])
    for path, seen in tapes[0].sites.items():
        for name, value in seen.taps.items():
            all_of = [t.sites[path].taps[name].x[: len(part)] for t, part in zip(tapes, parts, strict=True)]
            value.x = torch.cat(all_of).contiguous()
    return tapes[0]


def compare(plan: Plan, tally: Tally) -> None:
    """Compare one network; raises AssertionError where anything differs."""
    done = run(plan)
    _compare_sites(done, tally)
    values = {}
    for probe, statistic in done.statistics.items():
        if _is_uneven(done.tape.sites[probe.site.path]):
            continue
        check = _CHECKS[probe.statistic.__name__]
        for groups, group, part in (
            (done.groups, done.group, statistic),
            (1, np.zeros_like(done.group), statistic.pooled()),
        ):
            images = naive.by_group(np.ones(plan.images, dtype=np.int64), group, groups)
            tally.integers((probe.statistic.__name__, probe.site.path, "images"), part.tally["images"], images)
            values[probe] = check(done, probe, part, group, groups, tally)
    _compare_verdicts(done, values, tally)
    tally.networks += 1


def _compare_sites(done: Run, tally: Tally) -> None:
    image, *sites = done.graph.sites
    assert (image.path, str(image.op)) == ("input", "input")
    assert [(s.path, str(s.op)) for s in sites] == [(p, seen.op) for p, seen in done.tape.sites.items()]
    for site in sites:
        seen = done.tape.sites[site.path]
        tally.sites[str(site.op)] += 1
        # These are values of other names, or of other layers.
        more = {"preactivation", "activated", "consumed", "branch"} - set(seen.taps)
        assert set(site.taps) - more == set(seen.taps), (site.path, set(site.taps), set(seen.taps))
        for name, value in seen.taps.items():
            _compare_tap(site, name, value)
            ours = np.concatenate(done.kept[site.path][name])
            naively = done.tap(site.path, name)
            tally.numbers(("tap", site.path, name), ours, naively, tolerance=1e-11, scale=abs(naively).max() + 1)
        if seen.window is not None:
            facts = (site.kernel, site.stride, site.padding, site.dilation)
            window = seen.window
            assert facts == (window.kernel, window.stride, window.padding, window.dilation), (site.path, facts, window)
            assert (site.operator, site.groups) == (seen.operator, seen.groups), site.path
            assert site.steers == seen.steers, site.path
            assert site.transposed == seen.transposed, site.path


def _compare_tap(site, name, value: Value) -> None:
    tap = site.taps[name]
    assert tap.shape == tuple(value.x.shape[1:]), (site.path, name)
    assert (tap.atoms, tap.nonnegative) == (tuple(value.atoms), value.nonnegative), (site.path, name, tap, value)
    assert not value.nonnegative or value.x.min() >= 0, (site.path, name)


# --- statistics: each returns what the metrics' naive values are made of ---------------------------------


def _activity(done, probe, statistic, group, groups, tally):
    x = done.tap(probe.site.path, probe.taps[0])
    a = naive.magnitude(x)
    for name, amount in naive.activity(x, a, group, groups).items():
        what = ("ActivityTally", probe.site.path, name)
        if amount.dtype.kind == "i":
            tally.integers(what, statistic.tally[name], amount)
        else:
            tally.numbers(what, statistic.tally[name], amount, tolerance=SINGLE)
    return naive.activity_values(x, a), SINGLE


def _classes(done, probe, statistic, group, groups, tally):
    response = naive.responses(done.tap(probe.site.path, probe.taps[0]))
    edges = statistic.calibration["edges"].numpy()
    sample = response[: done.calibrating(probe)]
    what = ("ClassHistogram", probe.site.path)
    scale = abs(sample).max(0)[:, None] + 1e-6
    tally.numbers((*what, "edges"), edges, naive.grids(sample, probe.option("bins")), tolerance=SINGLE, scale=scale)
    close = [naive.is_close_call(response[:, k], edges[k], SINGLE) for k in range(len(edges))]
    tally.close["ClassHistogram"] += sum(close)
    counts = naive.class_counts(response, done.labels, edges)
    sure = [k for k, c in enumerate(close) if not c]
    tally.integers((*what, "counts"), statistic.tally["counts"][sure], counts[sure])
    values = naive.class_information(counts)
    return {name: [None if c else v for v, c in zip(vs, close, strict=True)] for name, vs in values.items()}, EXACT


def _moments(done, probe, statistic, group, groups, tally):
    response = naive.responses(done.tap(probe.site.path, probe.taps[0]))
    half = done.group % 2
    moments = naive.class_moments(response, done.labels, half)
    what = ("ClassMoments", probe.site.path)
    # Sums of values that are each known to 2e-6 of themselves.
    scale = naive.class_moments(abs(response), done.labels, half)
    tally.numbers(what, statistic.tally["moments"], moments, tolerance=2 * SINGLE, scale=scale)
    return naive.selectivity(response, done.labels, half, 10 * SINGLE), 10 * SINGLE


def _responses(done, probe, statistic, group, groups, tally):
    response = naive.responses(done.tap(probe.site.path, probe.taps[0]))
    edges = statistic.calibration["edges"].numpy()
    close = [naive.is_close_call(response[:, k], edges[k], SINGLE) for k in range(len(edges))]
    tally.close["ClassResponses"] += sum(close)
    half = done.group % 2
    rows = naive.class_counts(response, 2 * done.labels + half, edges)
    sure = [k for k, c in enumerate(close) if not c]
    tally.integers(("ClassResponses", probe.site.path, "counts"), statistic.tally["counts"][sure], rows[sure])
    sources = np.bincount(2 * done.labels + half)
    tally.integers(("ClassResponses", probe.site.path, "class_sources"), statistic.tally["class_sources"], sources)
    rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2), (0, 0)))
    # A level is a tie of true zeros where zero lies in it and the next number does not.
    zero, above = (naive.level(v, edges.T) for v in (0.0, np.finfo(np.float64).tiny))
    atoms = (np.arange(edges.shape[1] + 1) == zero[:, None]) & (above > zero)[:, None]
    values = naive.class_auroc(np.stack([rows[:, 0::2], rows[:, 1::2]]), done.labels, half, atoms)
    return {name: [None if c else v for v, c in zip(vs, close, strict=True)] for name, vs in values.items()}, EXACT


def _window_activity(done, probe, statistic, group, groups, tally):
    path, seen = probe.site.path, done.tape.sites[probe.site.path]
    x, atoms, seed = done.read(path, "input"), seen.taps["input"].atoms, done.plan.options["seed"]
    if seen.op == "pool":
        window = naive.read_windows(x, done.ids, path, seed, seen.window, probe.option("windows"))
        read, kept = naive.pool_activity(window, atoms)
    else:
        read, kept = naive.conv_activity(
            x, seen.window, atoms, seen.groups, seen.outputs, done.ids, path, seed, probe.option("windows")
        )
    for name, amount in naive.activity_tally(read, kept, group, groups).items():
        tally.integers(("WindowActivity", path, name), statistic.tally[name], amount)
    return naive.dimension_loss(read, kept, seen.operator), EXACT


def _window_histogram(done, probe, statistic, group, groups, tally):
    path, seen = probe.site.path, done.tape.sites[probe.site.path]
    x = done.read(path, "input")
    seed, wanted = done.plan.options["seed"], probe.option("windows")
    windows = naive.read_windows(x, done.ids, path, seed, seen.window, wanted)
    levels = _levels(seen.window, probe.option("levels"))
    sample = windows[: done.calibrating(probe)].reshape(-1, windows.shape[-1])
    edges, centres = statistic.calibration["edges"].numpy(), statistic.calibration["centres"].numpy()
    kernels = range(len(edges))
    what = ("WindowHistogram", path)
    scale = abs(sample).max(0)[:, None] + 1e-9
    tally.numbers((*what, "edges"), edges, naive.grids(sample, levels), tolerance=EXACT, scale=scale)
    means = np.stack([naive.level_means(sample[:, k], edges[k]) for k in kernels])
    neighbours = naive.read_neighbours(x, done.ids, path, seed, seen.window, max(1, wanted // 4))
    if levels**2 ** len(seen.window.kernel) > MOST_CELLS:
        neighbours = None
    assert ("outputs" in statistic.tally) == (neighbours is not None), what
    read = [windows] if neighbours is None else [windows, *neighbours]
    codes = [np.stack([naive.level(part[..., k], edges[k]) for k in kernels], -1) for part in read]
    close = [False] * len(edges)
    if neighbours is not None:
        pooled = [
            naive.pooled_code(np.moveaxis(codes[1][..., k], 3, -1), seen.operator, edges[k], centres[k])
            for k in kernels
        ]
        close = [p[1] for p in pooled]
        codes[1] = np.stack([p[0] for p in pooled], -1)
    tally.close["WindowHistogram"] += sum(close)
    sure = [k for k in kernels if not close[k]]
    tally.numbers((*what, "centres"), centres[sure], means[sure], tolerance=EXACT, scale=scale[sure])
    for name, part in zip(("windows", "outputs", "inputs"), codes, strict=False):
        for k in sure:
            counts = naive.joint(part[..., k], levels, group, groups)
            tally.integers((*what, name), statistic.tally[name][:, k], counts)
    outputs, inputs = (None, None) if neighbours is None else codes[1:]
    estimator = done.plan.options["estimator"]
    values = naive.entropy_loss(codes[0], outputs, inputs, seen.operator, edges, centres, levels, estimator)
    return {name: [None if c else v for v, c in zip(vs, close, strict=True)] for name, vs in values.items()}, EXACT


def _pair(done, probe, statistic, group, groups, tally):
    path, seed, wanted = probe.site.path, done.plan.options["seed"], probe.option("positions")
    skip, branch = (done.tap(path, tap) for tap in probe.taps)
    found = naive.pair(skip, branch, done.ids, group, groups, path, seed, wanted)
    power = {t: found["rows"] * found[f"mean_{t}"] ** 2 for t in "sf"}
    spread = {t: found[t + t] + 1e-12 * power[t] for t in "sf"}
    scales = {
        "rows": 1.0,
        "mean_s": np.sqrt((found["ss"] + power["s"]) / found["rows"]),
        "mean_f": np.sqrt((found["ff"] + power["f"]) / found["rows"]),
        "ss": spread["s"],
        "ff": spread["f"],
        "sf": np.sqrt(spread["s"] * spread["f"]),
    }
    for name, amount in found.items():
        what = ("PairMoments", path, name)
        tally.numbers(what, statistic.tally[name], amount, tolerance=EXACT, scale=scales[name])
    values = naive.variance_share(skip, branch, done.ids, path, seed, wanted)
    return {name: [value] for name, value in values.items()}, EXACT


_CHECKS = {
    "ActivityTally": _activity,
    "ClassHistogram": _classes,
    "ClassMoments": _moments,
    "ClassResponses": _responses,
    "PairMoments": _pair,
    "WindowActivity": _window_activity,
    "WindowHistogram": _window_histogram,
}


# --- what the report says -----------------------------------------------------------------------------


def _levels(window, levels):
    """Levels of a joint histogram of this window: at most 8, and at most 4096 cells."""
    entries = math.prod(window.kernel)
    fitting = [n for n in range(2, 9) if n**entries <= CELLS]
    return levels or max(fitting, default=1)


def _is_applicable(metric, of, seen, options) -> bool:  # noqa: PLR0911 - one for each reason
    """Whether a metric's field has a meaning at a site that its rule selects."""
    if metric == "activity":
        return of == "dormant" or 0.0 in seen.taps["response"].atoms
    if metric == "class_selectivity_index":
        return seen.taps["response"].nonnegative
    if metric not in ("pool_information_dimension_loss", "pool_entropy_loss"):
        return True
    if seen.op == "conv":
        tile = type(seen.window)(seen.window.stride, seen.window.stride, *_none(seen.window))
        return of == "loss" and bool(naive.full_windows(seen.taps["input"].x.shape[2:], tile))
    if seen.window is None or seen.steers:
        return False
    windows = naive.full_windows(seen.taps["input"].x.shape[2:], seen.window)
    if not windows or metric == "pool_information_dimension_loss":
        return bool(windows)
    levels, dims = _levels(seen.window, options["levels"]), len(seen.window.kernel)
    fits = levels >= 2 and levels ** math.prod(seen.window.kernel) <= MOST_CELLS
    if of != "density_ratio":
        return fits
    last = [max(at[d] for at in windows) for d in range(dims)]
    return fits and min(last) >= 1 and levels**2**dims <= MOST_CELLS


def _is_uneven(seen) -> bool:
    """Whether a pool's windows differ in shape; tests/statistics/test_windows.py compares these with torch's pools."""
    if seen.op != "pool" or "output" not in seen.taps:
        return False
    sizes = seen.taps["input"].x.shape[2:]
    return seen.window is None or seen.taps["output"].x.shape[2:] not in ((), seen.window.out(sizes))


def _none(window):
    return (0,) * len(window.kernel), (1,) * len(window.kernel)


def _is_meant(metric, seen) -> bool:
    """Whether a rule without ``at:`` selects a site."""
    if metric in ("activity", "class_information", "class_selectivity_index", "class_auroc"):
        return seen.op == "conv"
    if metric == "branch_variance_share":
        return seen.op == "residual"
    if seen.op == "pool" or metric == "pool_entropy_loss":
        return seen.op == "pool"
    sizes = [seen.taps[name].x.shape[2:] for name in ("input", "output")] if seen.op == "conv" else []
    return (
        seen.op == "conv"
        and not seen.transposed
        and any(t > 1 and o < i for t, i, o in zip(seen.window.stride, *sizes, strict=True))
    )


def _compare_verdicts(done: Run, values, tally: Tally) -> None:
    by_site = {(probe.statistic.__name__, probe.site.path): v for probe, v in values.items()}
    names = (
        *("ActivityTally", "ClassHistogram", "WindowActivity", "WindowHistogram", "PairMoments"),
        *("ClassMoments", "ClassResponses"),
    )
    reads = dict(zip(FIELDS, names, strict=True))
    said = defaultdict(dict)
    for verdict in done.report.verdicts:
        if verdict.site:
            said[verdict.rule][verdict.site] = verdict
    for metric, fields in FIELDS.items():
        even = {path: seen for path, seen in done.tape.sites.items() if not _is_uneven(seen)}
        meant = {path: seen for path, seen in even.items() if _is_meant(metric, seen)}
        for of in fields:
            found = {path: verdict for path, verdict in said[f"{metric}.{of}"].items() if path in even}
            assert set(found) == set(meant), (metric, of, set(found), set(meant))
            for path, seen in meant.items():
                applicable = _is_applicable(metric, of, seen, done.plan.options)
                assert (found[path].outcome != "not_applicable") == applicable, (metric, of, path, found[path].detail)
                if applicable:
                    naively, tolerance = by_site[reads[metric], path]
                    _compare_verdict(found[path], np.array(naively[of], dtype=object), tolerance, tally)


def _compare_verdict(verdict, naively, tolerance, tally: Tally) -> None:
    what = (f"{verdict.metric}", verdict.field, verdict.site)
    assert verdict.outcome != "error", verdict
    if any(value is None for value in naively) and verdict.reduce == "mean":
        return
    if verdict.reduce == "mean":
        tally.numbers(what, verdict.value, np.mean(naively.astype(float)), tolerance=tolerance, scale=1.0)
        return
    assert len(verdict.worst) == min(5, len(naively)), verdict
    assert verdict.units.total == len(naively), verdict
    for unit, value, low, high in verdict.worst:
        if naively[unit] is not None:
            scale = max(1.0, abs(naively[unit])) if math.isfinite(naively[unit]) else 1.0
            tally.numbers((*what, unit), value, naively[unit], tolerance=tolerance, scale=scale)
            # An interval may be undefined where a value is not: without some images nothing varied.
            assert not low > value + 1e-12, (what, value, low)
            assert not high < value - 1e-12, (what, value, high)
    assert verdict.metric != "activity" or str(verdict.op) == Op.CONV
