import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from builders import as_maps, every_pattern, make_pool, with_output
from scipy import stats

from cnnaudit import MetricError, measure
from cnnaudit.metrics import registry
from cnnaudit.statistics import Probe, View, WindowMoments

METRIC = registry()["window_total_correlation"]
FIELDS = list(METRIC.fields)


def exact(x, field="bits", **facts):
    """The value on images that are all there is, without the correction by the jackknife: of one group."""
    return measure(f"window_total_correlation.{field}", x, estimator="plugin", sources=[0] * len(x), **facts).value


def maps(images=80, units=2, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, units, size, size, generator=generator)
    return (x + x.roll(1, 2) - 0.3).relu()


def folded(site, x, params, sources=None):
    moments = WindowMoments(Probe(WindowMoments, site, ("input",), METRIC.options(params)), 16)
    ids = torch.arange(len(x))
    reading = moments.read(View({"input": x}, ids, None, 0))
    moments.calibrate([reading])
    moments.fold(reading, ids if sources is None else torch.as_tensor(sources))
    return moments


def at(site, x, **params):
    """Every field at a site, plain values."""
    params = dict(METRIC.params(**params))
    return METRIC.function(folded(site, x, params).pooled(), site, **params)


def fields(x, sources=None, **params):
    """Every field of a 2x2 pool with its interval: units, lows and highs."""
    params = dict(METRIC.params(**params))
    site = make_pool(tuple(x.shape[2:]), units=x.shape[1])
    found = METRIC.evaluate(folded(site, x, params, sources), site, params)
    return {name: np.array([value.value, *value.interval(0.95)]) for name, value in found.items()}


def entropy(values):
    return stats.entropy(list(Counter(values).values()), base=2)


def naive(windows):
    """Total correlation, the most it can be and that of the best tree, of windows as a list of tuples."""
    columns = list(zip(*windows, strict=True))
    single = [entropy(column) for column in columns]
    edges = list(itertools.combinations(range(len(columns)), 2))
    shared = {(a, b): single[a] + single[b] - entropy(zip(columns[a], columns[b], strict=True)) for a, b in edges}

    def is_tree(chosen):
        reached = {0}
        for _ in chosen:
            reached |= {node for edge in chosen if reached & set(edge) for node in edge}
        return len(reached) == len(columns)

    trees = (c for c in itertools.combinations(edges, len(columns) - 1) if is_tree(c))
    return sum(single) - entropy(windows), sum(single) - max(single), max(sum(shared[e] for e in c) for c in trees)


# --- closed forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 3, 8])
def test_four_times_the_same_value_is_three_times_its_entropy(levels):
    x = as_maps(torch.arange(levels)[:, None].expand(-1, 4), 2, 2)
    assert exact(x, levels=levels) == pytest.approx(3 * math.log2(levels))
    assert exact(x, "normalised", levels=levels) == pytest.approx(1)
    assert exact(x, "pairwise", levels=levels) == pytest.approx(3 * math.log2(levels))
    assert exact(x, "neighbour_correlation", levels=levels) == pytest.approx(1)
    assert math.isnan(exact(x, "gaussian", levels=levels))


def test_equal_values_of_any_estimator_and_their_interval():
    """Nearest upsampling before the pool: corrections of one histogram are those of the other."""
    x = maps(80, 2, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    for estimator in ("grassberger", "miller_madow", "plugin"):
        found = fields(x, estimator=estimator, levels=4)
        assert found["normalised"] == pytest.approx(np.ones((3, 2)))
        assert found["bits"] == pytest.approx(found["pairwise"])


def test_independent_values_have_none():
    x = as_maps(every_pattern(4, 3), 2, 2)
    for field in ("bits", "normalised", "pairwise", "neighbour_correlation", "gaussian"):
        assert exact(x, field, levels=3) == pytest.approx(0, abs=1e-12)


def test_parity_is_seen_by_no_pair():
    """Three fair bits and their parity: one bit of total correlation, none of any pair; 1 of the 3 there could be."""
    three = every_pattern(3)
    x = as_maps(torch.cat([three, three.sum(1, keepdim=True) % 2], 1), 2, 2)
    assert exact(x, levels=2) == pytest.approx(1)
    assert exact(x, "normalised", levels=2) == pytest.approx(1 / 3)
    assert exact(x, "pairwise", levels=2) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("correlation", "bits"), [(0.5, 0.8390), (0.9, 4.0391), (0.95, 5.5105)])
def test_equally_correlated_normal_values(correlation, bits):
    """Windows whose sample covariance is exactly that: an orthogonal design times its root."""
    design = torch.randn(64, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    design = torch.linalg.qr(design - design.mean(0)).Q
    matrix = torch.full((4, 4), correlation, dtype=torch.float64).fill_diagonal_(1)
    x = as_maps(design @ torch.linalg.cholesky(matrix).mT, 2, 2)
    assert exact(x, "gaussian") == pytest.approx(bits, abs=5e-5)
    assert exact(x, "neighbour_correlation") == pytest.approx(correlation)


def test_neighbours_are_one_step_apart():
    """A line of three values, x, y, x: the middle is independent of both ends, which are no neighbours."""
    x = every_pattern(2, 4)[:, [0, 1, 0]].reshape(-1, 1, 3)
    assert exact(x, "neighbour_correlation", levels=4, kernel=3) == pytest.approx(0, abs=1e-12)
    assert exact(x, levels=4, kernel=3) == pytest.approx(2)
    y = every_pattern(2, 4)[:, [0, 0, 1]].reshape(-1, 1, 3)
    assert exact(y, "neighbour_correlation", levels=4, kernel=3) == pytest.approx(0.5)


# --- against a naive reference ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [(2, 2), (1, 3), (2, 1)])
def test_all_fields_are_those_of_a_naive_reference(kernel):
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, 3, (12, 2, 6, 6), generator=generator)
    x[:, :, :, 1:] = torch.where(torch.rand(12, 2, 6, 5, generator=generator) < 0.5, x[:, :, :, :-1], x[:, :, :, 1:])
    found = at(make_pool((6, 6), kernel, units=2), x, levels=3, estimator="plugin")
    (h, w), at_ = kernel, np.arange(math.prod(kernel)).reshape(kernel)
    for unit in range(2):
        blocks = [
            image[i : i + h, j : j + w].ravel().tolist()
            for image in x[:, unit].numpy()
            for i in range(0, 6 - h + 1, h)
            for j in range(0, 6 - w + 1, w)
        ]
        bits, most, pairwise = naive([tuple(block) for block in blocks])
        r = np.corrcoef(np.array(blocks).T)
        pairs = [*zip(at_[:-1].ravel(), at_[1:].ravel(), strict=True)]
        pairs += [*zip(at_[:, :-1].ravel(), at_[:, 1:].ravel(), strict=True)]
        expected = {
            "bits": bits,
            "normalised": bits / most,
            "pairwise": pairwise,
            "neighbour_correlation": np.mean([r[a, b] for a, b in pairs]),
            "gaussian": -np.log2(np.linalg.det(r)) / 2,
        }
        assert {name: float(value[unit]) for name, value in found.items()} == pytest.approx(expected)


def test_the_jackknife_leaves_out_images():
    x = torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(4))

    def correlation(images):
        windows = images.reshape(-1, 2, 2, 2, 2).permute(0, 1, 3, 2, 4).reshape(-1, 4).numpy()
        r = np.corrcoef(windows.T)
        return np.mean([r[0, 1], r[2, 3], r[0, 2], r[1, 3]])

    found = measure("window_total_correlation.neighbour_correlation", x)
    rest = [correlation(x[torch.arange(16) != i]) for i in range(16)]
    reach = stats.t.ppf(0.975, 15) * stats.sem(16 * found.value - 15 * np.array(rest))
    assert found.value == pytest.approx(correlation(x), abs=1e-6)
    assert (found.low, found.high) == pytest.approx((found.value - reach, found.value + reach), abs=1e-5)


def test_windows_of_unequal_shape_count_by_their_share():
    """A map of 3x3 under a 2x2 pool with ceil_mode: one window of 4, two of 2 and one of 1 value."""
    x = torch.randint(0, 2, (40, 1, 3, 3), generator=torch.Generator().manual_seed(5))
    x[:, :, 0, 1] = x[:, :, 0, 0]
    site = with_output(make_pool((3, 3)), 2, 2)
    found = at(site, x, levels=2, estimator="plugin")
    parts = [x[:, 0, :2, :2], x[:, 0, :2, 2:], x[:, 0, 2:, :2]]
    told = [naive([tuple(w.ravel().tolist()) for w in part.numpy()]) for part in parts]
    bits, most, pairwise = np.sum(told, 0) / 4
    r = [np.corrcoef(part.reshape(40, -1).numpy().T) for part in parts]
    assert float(found["bits"]) == pytest.approx(bits)
    assert float(found["normalised"]) == pytest.approx(bits / most)
    assert float(found["pairwise"]) == pytest.approx(pairwise)
    neighbours = [np.mean([r[0][pair] for pair in [(0, 1), (2, 3), (0, 2), (1, 3)]]), r[1][0, 1], r[2][0, 1]]
    assert float(found["neighbour_correlation"]) == pytest.approx(np.mean(neighbours))


# --- laws -------------------------------------------------------------------------------------------------------


def test_positive_scaling_a_shift_and_the_order_of_channels_do_not_matter():
    x = torch.randn(80, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(6)) + 8
    wanted = fields(x, levels=4)
    for changed in (x * torch.tensor([0.25, 1.0, 1024.0])[:, None, None], x + 2):
        for name, found in fields(changed, levels=4).items():
            assert found == pytest.approx(wanted[name]), name
    for name, found in fields(x[:, [2, 0, 1]], levels=4).items():
        assert found == pytest.approx(wanted[name][:, [2, 0, 1]]), name


def test_a_large_offset_costs_no_digits():
    x = torch.randn(80, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    wanted, found = fields(x, levels=2), fields(x + 2.0**20, levels=2)
    for name in ("neighbour_correlation", "gaussian"):
        assert found[name] == pytest.approx(wanted[name], abs=1e-8)


def test_duplicating_every_position_changes_nothing():
    x = torch.randint(0, 3, (48, 2, 8, 8), generator=torch.Generator().manual_seed(8))
    wanted, found = (fields(y, levels=3, windows=32, estimator="plugin") for y in (x, x.repeat(1, 1, 1, 2)))
    for name in FIELDS:
        assert found[name] == pytest.approx(wanted[name]), name


def test_images_of_one_source_are_no_more_than_one():
    x = torch.randint(0, 3, (40, 2, 6, 6), generator=torch.Generator().manual_seed(11))
    facts = {"levels": 3, "estimator": "plugin"}
    once = fields(x, range(40), **facts)
    again = fields(x.repeat(2, 1, 1, 1), [*range(40)] * 2, **facts)
    for name in FIELDS:
        assert again[name] == pytest.approx(once[name]), name
    measured = measure("window_total_correlation", x.repeat(2, 1, 1, 1), sources=[*range(40)] * 2, **facts)
    # Forty sources in 64 groups: a group holds one, two or none.
    assert measured.units == pytest.approx(once["bits"][0], abs=0.02)


def test_pairs_never_hold_more_than_the_whole():
    for seed in range(10):
        x = torch.randint(0, 2 + seed % 3, (6, 2, 6, 6), generator=torch.Generator().manual_seed(seed))
        found = at(make_pool((6, 6), units=2), x, levels=2 + seed % 3, estimator="plugin")
        assert (found["pairwise"] <= found["bits"] + 1e-12).all()
        assert ((found["normalised"] >= 0) & (found["normalised"] <= 1)).all()


def test_corrections_lower_what_few_windows_overstate():
    """Independent values, 40 images of 16 windows: the plug-in of 4 levels invents a fifth of a bit."""
    x = torch.randint(0, 4, (40, 50, 8, 8), generator=torch.Generator().manual_seed(9))
    facts = {"levels": 4, "windows": 16}
    plain = np.mean([float(v) for v in at(make_pool((8, 8), units=50), x, estimator="plugin", **facts)["bits"]])
    found = fields(x, **facts)["bits"][0]
    assert plain > 0.2
    assert abs(found.mean()) < 0.2 * plain


def test_intervals_cover_the_truth():
    """Images that differ in their rate of ones, .2 or .6: 150 kernels of 96 images, all fields of exact truth."""
    generator = torch.Generator().manual_seed(10)
    rate = torch.where(torch.rand(96, 150, generator=generator) < 0.5, 0.2, 0.6)
    x = (torch.rand(96, 150, 8, 8, generator=generator) < rate[..., None, None]).long()
    ones = every_pattern(4).sum(1).numpy()
    p = (0.2**ones * 0.8 ** (4 - ones) + 0.6**ones * 0.4 ** (4 - ones)) / 2
    single = stats.entropy([0.4, 0.6], base=2)
    both = (0.2**2 + 0.6**2) / 2
    correlation = (both - 0.4**2) / (0.4 * 0.6)
    shared = 2 * single - stats.entropy([both, 0.4 - both, 0.4 - both, 0.2 + both], base=2)
    bits = 4 * single - stats.entropy(p, base=2)
    truths = {
        "bits": bits,
        "normalised": bits / (3 * single),
        "pairwise": 3 * shared,
        "neighbour_correlation": correlation,
        "gaussian": -math.log2((1 - correlation) ** 3 * (1 + 3 * correlation)) / 2,
    }
    for name, (_, low, high) in fields(x, levels=2).items():
        covered = (low <= truths[name]) & (truths[name] <= high)
        assert covered.mean() >= 0.9, name


# --- edges ------------------------------------------------------------------------------------------------------


def test_a_kernel_that_never_varies_has_nothing_to_share():
    x = maps()
    x[:, 1] = 2.7
    for name, found in fields(x, levels=4).items():
        assert np.isfinite(found[:, 0]).all(), name
        assert (found[:, 1] == 0).all() if name in ("bits", "pairwise") else np.isnan(found[:, 1]).all(), name


def test_an_entry_that_never_varies_is_left_out():
    x = as_maps(torch.cat([every_pattern(1, 4).expand(-1, 3), torch.zeros(4, 1, dtype=torch.int64)], 1), 2, 2)
    assert exact(x, levels=4) == pytest.approx(4)
    assert exact(x, "normalised", levels=4) == pytest.approx(1)
    assert exact(x, "neighbour_correlation", levels=4) == pytest.approx(1)


def test_one_image_gives_a_value_and_no_interval():
    for name in FIELDS:
        found = measure(f"window_total_correlation.{name}", maps(1), levels=3)
        assert all(math.isfinite(value) for value in found.units)
        ends = (-1, 1) if name == "neighbour_correlation" else (-math.inf, math.inf)
        assert [(low, high) for low, high in zip(found.lows, found.highs, strict=True)] == [ends] * 2


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"kernel": 1, "stride": 1}, "a window of one value has nothing to depend on"),
        ({"kernel": 9}, "every window touches padding"),
        ({"kernel": 4}, "16 values does not fit 4096 cells"),
        ({"estimand": "dataset"}, "samples positions or corrects a bias"),
    ],
)
def test_wrong_questions(facts, message):
    with pytest.raises(MetricError, match=message):
        measure("window_total_correlation", maps(4), **facts)


def test_gate_asks_for_twice_the_windows_of_a_loss():
    def gate(cells, field="bits", **params):
        moments = WindowMoments(Probe(WindowMoments, make_pool((2, 2)), ("input",), METRIC.options({"levels": 2})), 1)
        moments.calibrate([{"windows": torch.zeros(1, 1, 4, 1, dtype=torch.int64)}])
        moments.tally = {"windows": torch.tensor([[cells]], dtype=torch.int32), "sources": torch.tensor([40])}
        return METRIC.gate(moments, moments.probe.site, field, {"levels": 2, "estimator": "grassberger"} | params)

    assert gate([20] * 16).images.tolist() == [0]
    assert gate([5] * 16).images.tolist() == [80]  # 80 windows of the 160 that 16 cells want
    assert gate([5] * 16, estimator="plugin") is None
    assert gate([5] * 16, "neighbour_correlation") is None
    assert gate([5] * 16, "gaussian") is None
