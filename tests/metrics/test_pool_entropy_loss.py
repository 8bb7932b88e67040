import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from builders import as_maps, bernoulli_windows, every_pattern, make_pool, with_output
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from cnnaudit import MetricError, measure
from cnnaudit.metrics import registry
from cnnaudit.metrics.pool_entropy_loss import operator_entropies
from cnnaudit.statistics import Probe, View, WindowHistogram

METRIC = registry()["pool_entropy_loss"]
OPERATORS = {"max": max, "min": min, "stride": lambda w: w[0], "avg": lambda w: math.floor(sum(w) / len(w) + 0.5)}
NAMES = list(OPERATORS)


def hb(p):
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def exact(maps, field="bits", **facts):
    return measure(
        f"pool_entropy_loss.{field}", maps, **({"estimator": "plugin", "block": max(16, len(maps) // 4)} | facts)
    )


def enumerated(levels):
    return as_maps(every_pattern(4, levels), 2, 2)


def maps(images=120, units=2, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, units, size, size, generator=generator)
    return (x + torch.linspace(-0.4, 0.6, units)[:, None, None]).relu()


# --- closed forms by exact enumeration --------------------------------------------------------------------------


@pytest.mark.parametrize(("levels", "h_max"), [(2, 0.337290), (4, 1.148362), (8, 2.098826)])
def test_independent_uniform_values_under_max_and_its_mirror_min(levels, h_max):
    whole = 4 * math.log2(levels)
    for op in ("max", "min"):
        found = exact(enumerated(levels), levels=levels, op=op)
        assert found.value == pytest.approx(whole - h_max, abs=1e-6)
        assert exact(enumerated(levels), "relative", levels=levels, op=op).value == pytest.approx(
            1 - h_max / whole, abs=1e-6
        )
    assert exact(enumerated(levels), levels=levels, op="stride").value == pytest.approx(3 * math.log2(levels))


def test_two_levels_and_max_lose_3_662710_bits():
    assert exact(enumerated(2), levels=2).value == pytest.approx(3.662710, abs=1e-6)


def test_eight_levels():
    """9.901 under max, 9.000 under stride, 9.718 under the average on the same grid (7.761 on its own finer one)."""
    found = {op: exact(enumerated(8), levels=8, op=op) for op in NAMES}
    assert found["max"].value == pytest.approx(9.901, abs=5e-4)
    assert found["stride"].value == pytest.approx(9.0, abs=1e-12)
    assert found["avg"].value == pytest.approx(9.718, abs=5e-4)
    assert found["avg"].unit == "bits/window"


def test_sparse_binary_values():
    windows = as_maps(bernoulli_windows(4, 1, 9), 2, 2)
    assert len(windows) == 10_000
    whole, kept = 1.875982, {"max": 0.928502, "min": 0.001473, "stride": 0.468996}
    for op, h in kept.items():
        assert exact(windows, levels=2, op=op).value == pytest.approx(whole - h, abs=2e-6)
        assert exact(windows, f"relative_{op}", levels=2, op="avg").value == pytest.approx(1 - h / whole, abs=2e-6)
    assert kept["max"] == pytest.approx(hb(0.9**4), abs=1e-6)


def weighted(inputs, outputs, windows, site, entries=4):
    """The metric on given frequencies of cells: exact where an enumeration would take 10^8 images."""
    probe = Probe(WindowHistogram, site, ("input",), METRIC.options({"levels": 2}))
    histogram = WindowHistogram(probe, 1)
    histogram.calibrate([{"windows": torch.zeros(1, 1, entries, 1, dtype=torch.int64)}])
    histogram.tally = {
        name: torch.tensor(cells, dtype=torch.int32).reshape(1, 1, -1)
        for name, cells in (("windows", windows), ("outputs", outputs), ("inputs", inputs))
    } | {name: torch.tensor([n]) for name, n in (("images", 1), ("nonfinite", 0))}
    return METRIC.evaluate(histogram, site, {"levels": 2, "windows": 64, "estimator": "plugin"})


def test_sparse_binary_values_become_denser_by_1_980():
    """A line of windows of four, P(1) = .1: inputs hold .468996 bits a value, outputs .928502."""
    ones = every_pattern(4).sum(1)
    windows = (9 ** (4 - ones)).tolist()
    pair = every_pattern(2).sum(1)
    inputs = [9 ** (2 - k) for k in pair.tolist()]
    silent = 9**4
    outputs = [(10**4 - silent) ** k * silent ** (2 - k) // 2 for k in pair.tolist()]  # halved: cells are 32-bit
    found = weighted(inputs, outputs, windows, make_pool((8,), 4))
    assert found["density_ratio"].value[0] == pytest.approx(0.928502 / 0.468996, rel=1e-5)
    assert found["density_ratio"].value[0] == pytest.approx(1.980, abs=5e-4)
    assert found["bits"].value[0] == pytest.approx(1.875982 - 0.928502, abs=2e-6)


def bernoulli_line(p, entries):
    """The metric for a line of windows of independent values that are 1 with probability p, but for rounding exact."""
    ones = every_pattern(entries).sum(1).double()
    windows = p**ones * (1 - p) ** (entries - ones)
    pair = every_pattern(2).sum(1).double()
    q = 1 - (1 - p) ** entries
    inputs, outputs = (r**pair * (1 - r) ** (2 - pair) for r in (p, q))
    cells = [(1e9 * part).round().int().tolist() for part in (inputs, outputs, windows)]
    found = weighted(*cells, make_pool((4 * entries,), entries), entries)
    return {name: float(uncertain.value[0]) for name, uncertain in found.items()}


@pytest.mark.parametrize(("entries", "root"), [(4, 0.2755), (9, 0.1757)])
def test_sparse_maps_become_denser_and_dense_ones_sparser(entries, root):
    """Below and above the activity at which the result of a pool is as probable as its input is improbable."""
    for p in (0.02, 0.1, root - 2e-4):
        assert bernoulli_line(p, entries)["density_ratio"] > 1
    for p in (root + 2e-4, 0.35, 0.5):
        assert bernoulli_line(p, entries)["density_ratio"] < 1


def test_the_activity_at_which_a_map_stays_as_dense_as_it_was():
    """H(1 - (1 - p)^k) = H(p) where both probabilities add up to 1: p = (1 - p)^k."""
    for entries, known in ((4, 0.2755), (9, 0.1757)):
        root = optimize.brentq(lambda p, k=entries: (1 - p) ** k - p, 0.01, 0.5)
        assert root == pytest.approx(known, abs=5e-5)
        assert bernoulli_line(root, entries)["density_ratio"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("p", "denser"), [(0.2, True), (0.27, True), (0.281, False), (0.35, False)])
def test_independent_binary_maps_become_denser_under_2x2_pooling_below_an_activity_of_2755(p, denser):
    x = (torch.rand(500, 1, 24, 24, generator=torch.Generator().manual_seed(9)) < p).long()
    found = measure("pool_entropy_loss.density_ratio", x, levels=2, windows=576)
    truth = hb(1 - (1 - p) ** 4) / hb(p)
    assert found.low <= truth <= found.high
    assert (found.low > 1) if denser else (found.high < 1)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_of_independent_values_the_rate_is_the_loss_of_windows_that_do_not_overlap(p):
    found = bernoulli_line(p, 4)
    assert 4 * found["rate"] == pytest.approx(found["bits"], abs=1e-6)
    assert found["rate"] == pytest.approx(hb(p) - hb((1 - p) ** 4) / 4, abs=1e-6)
    assert found["retained"] == pytest.approx(found["density_ratio"] / 4)
    assert found["retained"] == pytest.approx(1 - found["rate"] / hb(p), abs=1e-6)


def test_sparse_binary_values_lose_236870_millionths_of_a_bit_for_each_input():
    found = bernoulli_line(0.1, 4)
    assert found["rate"] == pytest.approx((1.875982 - 0.928502) / 4, abs=1e-6)
    assert found["retained"] == pytest.approx(1.980 / 4, abs=2e-4)


def test_all_maps_of_fair_bits_lose_and_retain_what_the_rates_say():
    """4x4 fair bits under 2x2 pools: 1 bit in, Hb(1/16) / 4 out for each input; under a stride 1/4."""
    every = as_maps(torch.arange(2**16)[:, None] // 2 ** torch.arange(16) % 2, 4, 4)
    kept = {"max": hb(1 / 16) / 4, "stride": 0.25}
    for op, retained in kept.items():
        assert exact(every, "retained", levels=2, op=op).value == pytest.approx(retained)
        rate = exact(every, "rate", levels=2, op=op)
        assert rate.value == pytest.approx(1 - retained)
        assert rate.unit == "bits/value"


def test_the_rate_of_overlapping_windows_comes_from_neighbouring_outputs():
    """All lines of five fair bits, windows of three every two: the two maxima share the bit in the middle."""
    lines = every_pattern(5)
    near = Counter((max(line[:3]), max(line[2:])) for line in lines.tolist())
    h_out = stats.entropy(list(near.values()), base=2) / 2
    facts = {"levels": 2, "kernel": 3, "stride": 2}
    assert exact(as_maps(lines, 5), "rate", **facts).value == pytest.approx(1 - h_out / 2)
    assert exact(as_maps(lines, 5), "retained", **facts).value == pytest.approx(h_out / 2)
    # The windows' own losses would count the middle bit twice.
    bits = exact(as_maps(lines, 5), "bits", **facts).value
    assert bits == pytest.approx(3 - hb(1 / 8))
    assert bits / 2 > 1 - h_out / 2


def test_outputs_of_a_stride_of_one_may_hold_more_in_pairs_than_their_inputs():
    """Neighbours beyond the pair would tell that nothing was created: the rate is of 2x2 blocks and may be below 0."""
    windows = torch.randint(0, 10, (40_000, 3), generator=torch.Generator().manual_seed(1))
    x = as_maps((windows == 0).long(), 3)
    rate = exact(x, "rate", levels=2, kernel=2, stride=1)
    assert rate.value < 0
    assert exact(x, "retained", levels=2, kernel=2, stride=1).value == pytest.approx(
        exact(x, "density_ratio", levels=2, kernel=2, stride=1).value
    )


def test_sampled_sparse_maps_become_denser_by_about_as_much():
    x = (torch.rand(600, 1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.1).long()
    found = measure("pool_entropy_loss.density_ratio", x, levels=2, windows=64)
    assert found.value == pytest.approx(1.980, abs=0.03)
    assert found.low <= 1.980 <= found.high


def test_dense_maps_become_sparser():
    """All 2^16 maps of 4x4 fair bits: the four outputs hold Hb(1/16) bits each, the inputs one."""
    every = torch.arange(2**16)[:, None] // 2 ** torch.arange(16) % 2
    found = exact(as_maps(every, 4, 4), "density_ratio", levels=2)
    assert found.value == pytest.approx(hb(1 / 16), abs=1e-9)
    assert exact(as_maps(every, 4, 4), "density_ratio", levels=2, op="stride").value == pytest.approx(1)


@pytest.mark.parametrize("op", NAMES)
def test_equal_values_in_a_window_lose_nothing(op):
    small = maps(60, 2, 4)
    x = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for levels in (2, 5, 8):
        found = measure("pool_entropy_loss.bits", x, levels=levels, op=op)
        assert found.units == (0, 0)
        assert found.lows == found.highs == (0, 0)
    whole = torch.arange(8)[:, None].expand(-1, 4)
    assert exact(as_maps(whole, 2, 2), levels=8, op=op).value == 0


@pytest.mark.parametrize("op", NAMES)
def test_a_pool_of_one_value_loses_nothing(op):
    for field in ("bits", "relative"):
        found = measure(f"pool_entropy_loss.{field}", maps(), kernel=1, stride=1, op=op)
        assert found.units == (0, 0)
    density = measure("pool_entropy_loss.density_ratio", maps(), kernel=1, stride=1, op=op, levels=4)
    assert density.units == pytest.approx((1, 1))


# --- against a naive reference ----------------------------------------------------------------------------------


def naive_loss(x, kernel, stride, operator):
    """Bits and share that an operator loses over all windows of integer maps of one kernel."""
    windows = [
        tuple(image[top : top + kernel, left : left + kernel].flatten().tolist())
        for image in x
        for top in range(0, x.shape[1] - kernel + 1, stride)
        for left in range(0, x.shape[2] - kernel + 1, stride)
    ]
    whole = stats.entropy(list(Counter(windows).values()), base=2)
    kept = stats.entropy(list(Counter(map(OPERATORS[operator], windows)).values()), base=2)
    return whole - kept, (whole - kept) / whole


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    levels=st.integers(2, 4),
    kernel=st.integers(1, 2),
    stride=st.integers(1, 3),
    op=st.sampled_from(NAMES),
)
def test_losses_are_those_of_a_naive_reference(seed, levels, kernel, stride, op):
    x = torch.randint(0, levels, (5, 2, 5, 5), generator=torch.Generator().manual_seed(seed))
    facts = {"levels": levels, "kernel": kernel, "stride": stride, "op": op}
    bits, relative = exact(x, "bits", **facts), exact(x, "relative", **facts)
    for unit in range(2):
        expected = naive_loss(x[:, unit], kernel, stride, op)
        assert (bits.units[unit], relative.units[unit]) == pytest.approx(expected, abs=1e-9)
        for other in NAMES:
            counterfactual = exact(x, f"relative_{other}", **facts).units[unit]
            assert counterfactual == pytest.approx(naive_loss(x[:, unit], kernel, stride, other)[1], abs=1e-9)


def test_the_jackknife_leaves_out_images():
    """Integer maps: the interval from losses recomputed without each image."""
    x = torch.randint(0, 3, (16, 1, 4, 4), generator=torch.Generator().manual_seed(2))
    found = exact(x, levels=3, block=4)
    rest = [naive_loss(x[torch.arange(16) != i, 0], 2, 2, "max")[0] for i in range(16)]
    pseudo = 16 * found.value - 15 * np.array(rest)
    reach = stats.t.ppf(0.975, 15) * stats.sem(pseudo)
    assert (found.low, found.high) == pytest.approx((found.value - reach, found.value + reach))


# --- windows of unequal shape -----------------------------------------------------------------------------------


def folded(site, x, sources=None, **params):
    params = METRIC.options({"levels": None, "windows": 64} | params)
    probe = Probe(WindowHistogram, site, ("input",), params, clustered=sources is not None)
    histogram = WindowHistogram(probe, 16)
    reading = histogram.read(View({"input": x}, torch.arange(len(x)), None, 0))
    histogram.calibrate([reading])
    own = torch.arange(len(x)) if sources is None else torch.tensor(sources)
    first = torch.tensor([int(i == own.tolist().index(s)) for i, s in enumerate(own.tolist())])
    histogram.fold(reading, own % 16, first)
    return histogram


def evaluated(site, x, sources=None, estimator="plugin", **params):
    given = {"levels": None, "windows": 64} | params
    return METRIC.evaluate(folded(site, x, sources, **params), site, given | {"estimator": estimator})


def naive_strata(x, spans, operator):
    """Bits and share that an operator loses, over windows of unequal shape: sums over shapes by their share."""
    by_shape = {}
    for rows, columns in itertools.product(*spans):
        windows = [tuple(image[slice(*rows), slice(*columns)].flatten().tolist()) for image in x]
        by_shape.setdefault((rows[1] - rows[0], columns[1] - columns[0]), []).extend(windows)
    whole = lost = 0
    for windows in by_shape.values():
        h = stats.entropy(list(Counter(windows).values()), base=2)
        kept = stats.entropy(list(Counter(map(OPERATORS[operator], windows)).values()), base=2)
        whole += len(windows) * h
        lost += len(windows) * (h - kept)
    return lost / sum(map(len, by_shape.values())), lost / whole


CEIL = ([(0, 2), (2, 4), (4, 5)], [(0, 2), (2, 4), (4, 6), (6, 7)])
ADAPTIVE = ([(0, 2), (1, 4), (3, 5)], [(0, 2), (1, 4), (3, 6), (5, 7)])  # floor(5i / 3), ceil(5(i + 1) / 3); 7i / 4


@pytest.mark.parametrize("op", NAMES)
@pytest.mark.parametrize(
    ("site", "spans"),
    [
        (lambda op: with_output(make_pool((5, 7), 2, units=2, operator=op), 3, 4), CEIL),
        (lambda op: with_output(make_pool((5, 7), (), (), units=2, operator=op), 3, 4), ADAPTIVE),
    ],
    ids=["ceil mode", "adaptive"],
)
def test_windows_of_unequal_shape_are_those_of_a_naive_reference(site, spans, op):
    x = torch.randint(0, 2, (30, 2, 5, 7), generator=torch.Generator().manual_seed(11))
    found = evaluated(site(op), x, levels=2)
    for unit in range(2):
        bits, relative = naive_strata(x[:, unit], spans, op)
        assert found["bits"].value[unit] == pytest.approx(bits)
        assert found["relative"].value[unit] == pytest.approx(relative)
        for name in NAMES:
            counterfactual = found[f"relative_{name}"].value[unit]
            assert counterfactual == pytest.approx(naive_strata(x[:, unit], spans, name)[1])


def test_ceil_mode_of_fair_bits():
    """3x3 fair bits under 2x2 pools in ceil mode: 4, 2, 2 and 1 bits read, Hb(1/16), Hb(1/4) twice and 1 kept."""
    every = as_maps(torch.arange(2**9)[:, None] // 2 ** torch.arange(9) % 2, 3, 3)
    found = evaluated(with_output(make_pool((3, 3), 2), 2, 2), every, levels=2)
    lost = 9 - hb(1 / 16) - 2 * hb(1 / 4) - 1
    assert found["bits"].value[0] == pytest.approx(lost / 4)
    assert found["relative"].value[0] == pytest.approx(lost / 9)
    assert math.isnan(found["density_ratio"].value[0])  # one window of each shape has no neighbour


def test_entropies_of_windows_of_all_shapes():
    every = as_maps(torch.arange(2**9)[:, None] // 2 ** torch.arange(9) % 2, 3, 3)
    counts = folded(with_output(make_pool((3, 3), 2), 2, 2), every, levels=2).pooled()
    whole, kept = operator_entropies(counts, "plugin")
    assert whole.tolist() == pytest.approx([9 / 4])
    assert kept["stride"].tolist() == pytest.approx([1])
    assert set(kept) == set(NAMES)
    with pytest.raises(ValueError, match="nothing was folded"):
        operator_entropies(WindowHistogram(counts.probe, 1), "plugin")


def test_an_adaptive_pool_that_divides_is_a_pool_of_that_kernel():
    x = maps(60)
    wanted = measure("pool_entropy_loss", x, levels=4)
    found = evaluated(with_output(make_pool((8, 8), (), (), units=2), 4, 4), x, levels=4, estimator="grassberger")
    assert found["relative"].value.tolist() == pytest.approx(wanted.units)
    assert found["rate"].value.tolist() == pytest.approx(measure("pool_entropy_loss.rate", x, levels=4).units)


def test_outputs_of_an_adaptive_pool_stand_for_so_many_inputs_as_there_are():
    """Seven fair bits to three: windows 0-2, 2-4, 4-6, each output for 7 / 3 inputs."""
    lines = as_maps(every_pattern(7), 7)
    found = evaluated(with_output(make_pool((7,), (), ()), 3), lines, levels=2)
    near = Counter((max(line[:3]), max(line[2:])) for line in every_pattern(5).tolist())
    h_out = stats.entropy(list(near.values()), base=2) / 2
    assert found["retained"].value[0] == pytest.approx(h_out * 3 / 7)
    assert found["rate"].value[0] == pytest.approx(1 - h_out * 3 / 7)


def test_sources_widen_the_interval_of_unequal_windows():
    """Each image four times: as sources of their own the images seem to tell twice as much."""
    x = maps(32, size=7).repeat(4, 1, 1, 1)
    site = with_output(make_pool((7, 7), 2, units=2), 4, 4)
    alone = evaluated(site, x, levels=3)["relative"]
    related = evaluated(site, x, sources=list(range(32)) * 4, levels=3)["relative"]
    assert related.value == pytest.approx(alone.value)
    low, high = related.interval(0.95)
    assert (high > low).all()
    one = evaluated(site, x[:32], levels=3)["relative"].interval(0.95)
    assert np.subtract(high, low) == pytest.approx(np.subtract(one[1], one[0]), rel=0.35)


def test_the_gate_counts_shapes_by_their_share():
    """Of 16 windows 9 are whole: a corner that is short of windows counts for a sixteenth."""
    x = torch.rand(40, 1, 7, 7, generator=torch.Generator().manual_seed(12))
    site = with_output(make_pool((7, 7), 2), 4, 4)
    params = {"levels": 2, "estimator": "grassberger"}
    histogram = folded(site, x, levels=2)
    assert [stratum.share for stratum in histogram.strata] == [9 / 16, 3 / 16, 3 / 16, 1 / 16]
    assert METRIC.gate(histogram, site, "relative", params).images.tolist() == [0]
    histogram.tally = {"sources": torch.tensor([40])}
    for i, cells in enumerate(([20] * 16, [20] * 4, [20] * 4, [1, 1])):
        histogram.tally[f"windows{i or ''}"] = torch.tensor([[cells]], dtype=torch.int32)
    # Five of the 20 windows of a cell are wanted, and 20 of the corner's 2: (15 / 16) / 4 + 10 / 16 < 1.
    assert METRIC.gate(histogram, site, "relative", params).images.tolist() == [0]
    histogram.tally["windows"] = torch.tensor([[[3] * 16]], dtype=torch.int32)
    wanted = 9 / 16 * 5 / 3 + 6 / 16 / 4 + 1 / 16 * 10
    assert METRIC.gate(histogram, site, "relative", params).images.tolist() == [math.ceil(40 * wanted)]


# --- laws -------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), levels=st.integers(2, 6), estimator=st.sampled_from(["plugin", "chao_shen"]))
def test_min_is_the_mirror_of_max(seed, levels, estimator):
    x = torch.randint(0, levels, (6, 2, 4, 4), generator=torch.Generator().manual_seed(seed))
    mirror = levels - 1 - x
    for field in ("bits", "relative", "density_ratio"):
        a = measure(f"pool_entropy_loss.{field}", x, levels=levels, estimator=estimator, op="max")
        b = measure(f"pool_entropy_loss.{field}", mirror, levels=levels, estimator=estimator, op="min")
        assert a.units == pytest.approx(b.units, nan_ok=True)


def test_min_of_negated_continuous_maps_is_max():
    # 64 windows of 4 values from 64 images: 8 levels divide their number, so the grids are mirror images.
    x = torch.randn(64, 2, 16, 16, generator=torch.Generator().manual_seed(3))
    a = measure("pool_entropy_loss", x, op="max", levels=8)
    b = measure("pool_entropy_loss", -x, op="min", levels=8)
    assert a.units == pytest.approx(b.units)
    assert a.lows == pytest.approx(b.lows)


@pytest.mark.parametrize("op", NAMES)
@pytest.mark.parametrize("field", ["bits", "relative", "density_ratio", "relative_avg"])
def test_positive_rescaling_of_a_kernel_changes_nothing(op, field):
    scaled = maps() * torch.tensor([0.125, 512.0])[:, None, None]
    wanted, found = (measure(f"pool_entropy_loss.{field}", x, op=op, levels=4) for x in (maps(), scaled))
    assert found == wanted


def test_duplicating_every_position_changes_nothing():
    x = torch.randint(0, 3, (48, 2, 8, 8), generator=torch.Generator().manual_seed(4))
    for op in NAMES:
        wanted = exact(x, levels=3, op=op, windows=32)
        found = exact(x.repeat(1, 1, 1, 2), levels=3, op=op, windows=32)
        for name in ("units", "lows", "highs"):
            assert getattr(found, name) == pytest.approx(getattr(wanted, name))


def test_channels_are_told_apart():
    x = maps(units=3)
    wanted, found = (measure("pool_entropy_loss", y) for y in (x, x[:, [2, 0, 1]]))
    assert found.units == pytest.approx([wanted.units[k] for k in (2, 0, 1)])
    assert found.kernels == (0, 1, 2)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), op=st.sampled_from(NAMES))
def test_a_function_of_the_window_never_holds_more_than_the_window(seed, op):
    x = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(seed)).relu()
    relative = exact(x, "relative", levels=3, op=op)
    assert all(0 <= v <= 1 for v in relative.units)


def test_the_default_estimator_corrects_the_plugin_upwards():
    """30,720 windows of uniform noise in 4,096 cells, more than the gate asks for: the plug-in misses .1 bits."""
    x = torch.randint(0, 8, (120, 1, 32, 32), generator=torch.Generator().manual_seed(5))
    truth = 12 - 2.098826
    plugin, shao = (
        measure("pool_entropy_loss.bits", x, levels=8, windows=256, estimator=estimator).value
        for estimator in ("plugin", "chao_shen")
    )
    assert truth - plugin == pytest.approx(4095 / (2 * 30_720 * math.log(2)), rel=0.1)
    assert abs(truth - shao) < 0.6 * (truth - plugin)


def test_sparse_maps_keep_most_under_max_and_least_under_min():
    x = (torch.randn(100, 1, 16, 16, generator=torch.Generator().manual_seed(6)) - 0.7).relu()
    loss = {op: measure(f"pool_entropy_loss.relative_{op}", x).value for op in NAMES}
    assert loss["max"] < loss["avg"] < loss["stride"] < loss["min"]
    assert loss["max"] == measure("pool_entropy_loss", x).value


def test_intervals_cover_the_truth():
    """Correlated windows within an image, 60 images, 150 kernels; the truth is the exact loss of the model."""
    generator = torch.Generator().manual_seed(7)
    # Each image has its own rate of ones, .2 or .6, so its windows depend on each other.
    rate = torch.where(torch.rand(192, 150, generator=generator) < 0.5, 0.2, 0.6)
    x = (torch.rand(192, 150, 4, 4, generator=generator) < rate[..., None, None]).long()
    ones = every_pattern(4).sum(1).numpy()
    p = (0.2**ones * 0.8 ** (4 - ones) + 0.6**ones * 0.4 ** (4 - ones)) / 2
    truth = stats.entropy(p, base=2) - hb(p[0])
    found = measure("pool_entropy_loss.bits", x, levels=2, block=8)
    covered = sum(low <= truth <= high for low, high in zip(found.lows, found.highs, strict=True))
    assert covered >= 0.88 * 150


# --- edges ------------------------------------------------------------------------------------------------------


def test_a_kernel_that_never_varies_has_nothing_to_lose():
    x = maps()
    x[:, 1] = 0
    relative = measure("pool_entropy_loss", x)
    assert relative.units[0] == pytest.approx(measure("pool_entropy_loss", x[:, :1]).value)
    assert math.isnan(relative.units[1])  # 0 / 0
    assert measure("pool_entropy_loss.bits", x).units[1] == 0
    constant = measure("pool_entropy_loss", torch.full((40, 1, 4, 4), 2.5))
    assert math.isnan(constant.value)


def test_one_image_gives_a_value_and_no_interval():
    found = measure("pool_entropy_loss", maps(1))
    assert all(0 <= v <= 1 for v in found.units)
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_windows_of_other_dimensions():
    line = as_maps(every_pattern(2, 4), 2)
    # The maximum of two uniform values of four levels: 1, 3, 5, 7 of 16.
    assert exact(line, levels=4).value == pytest.approx(4 - stats.entropy([1, 3, 5, 7], base=2))
    cube = as_maps(every_pattern(8), 2, 2, 2)
    assert exact(cube, levels=2).value == pytest.approx(8 - hb(2**-8))


def test_overlap_padding_and_dilation_choose_the_windows():
    x = torch.randint(0, 2, (40, 1, 7, 7), generator=torch.Generator().manual_seed(8))
    overlapping = exact(x, levels=2, kernel=3, stride=2)
    assert overlapping.value == pytest.approx(naive_loss(x[:, 0], 3, 2, "max")[0])
    # Padding 1 moves the windows by one and leaves out those that touch it.
    padded = exact(x, levels=2, kernel=3, stride=2, padding=1)
    assert padded.value == pytest.approx(naive_loss(x[:, 0, 1:, 1:], 3, 2, "max")[0])
    dilated = exact(x, levels=2, kernel=2, stride=7, dilation=6)
    assert dilated.value == pytest.approx(naive_loss(x[:, 0, ::6, ::6], 2, 2, "max")[0])


def test_gate_asks_for_windows_in_proportion_to_the_cells_that_occur():
    def gate(cells, images, **params):
        site = make_pool((2, 2))
        probe = Probe(WindowHistogram, site, ("input",), METRIC.options({"levels": 2}))
        histogram = WindowHistogram(probe, 1)
        histogram.calibrate([{"windows": torch.zeros(1, 1, 4, len(cells), dtype=torch.int64)}])
        histogram.tally = {"windows": torch.tensor([cells], dtype=torch.int32), "sources": torch.tensor([images])}
        return METRIC.gate(histogram, site, "relative", {"levels": 2, "estimator": "chao_shen"} | params)

    plenty, few, alone = [20] * 16, [3] * 16, [100] * 2 + [1] * 14
    assert gate([plenty], 40).images.tolist() == [0]
    # 48 windows of the 80 that 16 cells want: 40 * 80 / 48 images, rounded up.
    assert gate([few], 40).images.tolist() == [67]
    # 14 windows alone in their cell want 140 of the 214 there are.
    assert gate([alone], 40).images.tolist() == [0]
    assert gate([[10, *[1] * 15]], 40).images.tolist() == [math.ceil(40 * 150 / 25)]
    assert gate([few, plenty], 40).images.tolist() == [67, 0]
    assert gate([few], 40, estimator="plugin") is None


@pytest.mark.parametrize(
    ("facts", "field", "message"),
    [
        ({"kernel": 9}, "relative", "every window touches padding"),
        ({"kernel": 4}, "relative", "16 values does not fit 4096 cells"),
        ({"kernel": 3, "levels": 4}, "relative", "4 levels of 9 values do not fit 65536 cells; use 2"),
        ({"kernel": 8, "stride": 8}, "density_ratio", "64 values does not fit"),
        ({"levels": 1}, "relative", "levels: .*greater than or equal to 2"),
        ({"windows": 0}, "relative", "windows: .*greater than or equal to 1"),
        ({"estimator": "nsb"}, "relative", "estimator: .*'chao_shen'"),
        ({"estimand": "dataset"}, "bits", "pool_entropy_loss.bits samples positions or corrects a bias"),
    ],
)
def test_wrong_questions(facts, field, message):
    with pytest.raises(MetricError, match=message):
        measure(f"pool_entropy_loss.{field}", maps(4), **facts)


def test_where_it_has_no_meaning():
    def why(site, field="relative", **params):
        return METRIC.applies(site, field, params)

    assert why(make_pool((8, 8))) is None
    assert why(with_output(make_pool((7, 7), (), ()), 3, 3)) is None  # 3x3 each
    adaptive = with_output(make_pool((8, 8), (), ()), 3, 3)  # 3 or 4 along each dimension
    assert "16 values does not fit 4096 cells" in why(adaptive)
    assert why(make_pool((), (), ())) == "a vector has no windows"
    assert why(with_output(make_pool((7, 7), 2), 4, 4), levels=8) is None
    for field in ("density_ratio", "retained", "rate"):
        # 2, 3, 3 and 2 values; and one whole window, one cut off.
        assert why(with_output(make_pool((7,), (), ()), 4), field) is None
        assert why(with_output(make_pool((3,), 2), 2), field) == "the output has no neighbours to take together"
    volume = make_pool((4, 4, 4), (1, 1, 2))
    assert why(volume) is None
    assert "8 levels of 8 neighbours do not fit 65536 cells" in why(volume, "density_ratio")
    assert why(volume, "density_ratio", levels=2) is None


def test_a_single_output_has_no_neighbours():
    with pytest.raises(MetricError, match="the output has no neighbours to take together"):
        measure("pool_entropy_loss.density_ratio", maps(4)[..., :2, :2])
    # The other fields do not need them.
    assert math.isfinite(measure("pool_entropy_loss", maps(40)[..., :2, :2]).value)


@pytest.mark.parametrize("op", ["median", "lp"])
def test_an_unknown_operator_is_refused(op):
    with pytest.raises(MetricError, match="op"):
        measure("pool_entropy_loss", maps(4), op=op)
