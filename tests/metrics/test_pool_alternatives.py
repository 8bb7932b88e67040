import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import as_maps, bernoulli_windows, every_pattern, make_pool
from scipy import stats

from cnnaudit import MetricError, measure
from cnnaudit.metrics import registry
from cnnaudit.statistics import Probe, View, WindowHistogram

METRIC = registry()["pool_alternatives"]
OPERATORS = {"max": max, "avg": lambda w: math.floor(sum(w) / len(w) + 0.5), "min": min, "stride": lambda w: w[0]}
NAMES = list(OPERATORS)
RIVALS = ("max", "avg", "min")  # what regret compares with


def over(maps, op="max", **facts):
    return {
        name: measure(f"pool_alternatives.over_{name}", maps, op=op, levels=3, **facts) for name in NAMES if name != op
    }


def asked(op="max"):
    return [field for field in METRIC.fields if field != f"over_{op}"]


def exact(maps, field="regret", **facts):
    return measure(f"pool_alternatives.{field}", maps, estimator="plugin", block=max(16, len(maps) // 4), **facts)


def maps(images=80, units=2, size=8, seed=0):
    x = torch.randn(images, units, size, size, generator=torch.Generator().manual_seed(seed))
    return (x - 0.3).relu()


def naive(x, operator, kernel=2):
    """Entropy of a window, and of the operator's result, of integer maps of one kernel, in bits."""
    windows = [
        tuple(image[top : top + kernel, left : left + kernel].flatten().tolist())
        for image in x
        for top in range(0, x.shape[1] - kernel + 1, kernel)
        for left in range(0, x.shape[2] - kernel + 1, kernel)
    ]
    results = map(OPERATORS[operator], windows)
    return [stats.entropy(list(Counter(of).values()), base=2) for of in (windows, results)]


# --- closed forms -----------------------------------------------------------------------------------------------


def test_independent_uniform_values_of_eight_levels():
    """H(W) = 12 bits, of which max and min keep 2.098826, stride 3, average 12 - 9.718."""
    site, x = make_pool((2, 2), operator="avg"), as_maps(every_pattern(4, 8), 2, 2)
    kept = {"max": 2.098826, "min": 2.098826, "stride": 3.0, "avg": 2.282}
    histogram = WindowHistogram(Probe(WindowHistogram, site, ("input",), METRIC.options({"levels": 8})), 1)
    reading = histogram.read(View({"input": x}, torch.arange(len(x)), None, 0))
    histogram.calibrate([reading])
    histogram.fold(reading, torch.zeros(len(x), dtype=torch.int64))
    for own in NAMES:
        found = METRIC.evaluate(histogram, replace(site, operator=own), {"estimator": "plugin"})
        for other in NAMES:
            assert found[f"over_{other}"].value == pytest.approx((kept[other] - kept[own]) / 12, abs=5e-5)
        best = max(kept[other] for other in RIVALS if other != own)
        assert found["regret"].value == pytest.approx((best - kept[own]) / 12, abs=5e-5)


def test_rare_ones_are_kept_by_max():
    """P(1) = .1: H(W) 1.875982, max keeps .928502, min .001473, stride .468996."""
    windows = bernoulli_windows(4, 1, 9)
    x = as_maps(windows, 2, 2)
    kept = {"max": 0.928502, "min": 0.001473, "stride": 0.468996}
    for other in ("max", "min"):
        found = exact(x, f"over_{other}", levels=2, op="stride")
        assert found.value == pytest.approx((kept[other] - kept["stride"]) / 1.875982, abs=2e-6)
    assert exact(x, levels=2, op="max").value < 0 < exact(x, levels=2, op="min").value
    # Ones that are as frequent as zeros were are kept by min.
    assert exact(1 - x, levels=2, op="max").value == pytest.approx(exact(x, levels=2, op="min").value)


def test_the_border_between_max_and_stride():
    """(1 - p)^4 = p at .2755: below it max keeps more, above it striding does."""
    sparse, dense = (as_maps(bernoulli_windows(4, 1, zeros), 2, 2) for zeros in (3, 2))  # P(1) = 1/4 and 1/3
    assert exact(sparse, "over_stride", levels=2, op="max").value < -0.02
    assert exact(dense, "over_stride", levels=2, op="max").value > 0.02


def test_striding_leads_on_dense_maps_by_construction_and_is_not_regretted():
    x = torch.randn(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for op in ("max", "avg"):
        facts = {"op": op, "levels": 6}
        stride, regret = (measure(f"pool_alternatives.{field}", x, **facts) for field in ("over_stride", "regret"))
        rest = [measure(f"pool_alternatives.over_{name}", x, **facts).value for name in RIVALS if name != op]
        assert regret.value == pytest.approx(max(rest))
        assert stride.low > max(regret.value, 0) + 0.02
        # The average keeps most of the three.
        assert regret.high < 0 if op == "avg" else regret.low > 0


@pytest.mark.parametrize("op", NAMES)
def test_equal_values_are_kept_by_all_alike(op):
    x = maps(40, 2, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    for field in asked(op):
        found = measure(f"pool_alternatives.{field}", x, op=op, levels=4)
        assert found.units == found.lows == found.highs == (0, 0)


# --- against a naive reference ----------------------------------------------------------------------------------


def test_differences_and_their_jackknife_are_those_of_a_naive_reference():
    x = torch.randint(0, 3, (16, 1, 6, 6), generator=torch.Generator().manual_seed(2))

    def difference(maps, own, other):
        whole, kept = naive(maps, other)
        return (kept - naive(maps, own)[1]) / whole

    for own, other in (("max", "avg"), ("avg", "stride"), ("min", "max")):
        found = exact(x, f"over_{other}", levels=3, op=own)
        value = difference(x[:, 0], own, other)
        rest = [difference(x[torch.arange(16) != i, 0], own, other) for i in range(16)]
        reach = stats.t.ppf(0.975, 15) * stats.sem(16 * value - 15 * np.array(rest))
        assert (found.value, found.low, found.high) == pytest.approx((value, value - reach, value + reach))


@pytest.mark.parametrize("op", NAMES)
def test_regret_is_the_largest_of_the_others_with_the_ends_that_they_allow(op):
    others = [name for name in RIVALS if name != op]
    found = measure("pool_alternatives", maps(), op=op, levels=3)
    level, strict = over(maps(), op=op), over(maps(), op=op, confidence=1 - 0.05 / len(others))
    assert found.units == pytest.approx(np.max([level[name].units for name in others], 0))
    assert found.highs == pytest.approx(np.max([level[name].highs for name in others], 0))
    assert found.lows == pytest.approx(np.max([strict[name].lows for name in others], 0))


def test_differences_are_those_of_pool_entropy_loss():
    for other in ("avg", "min", "stride"):
        own, its = (measure(f"pool_entropy_loss.relative_{name}", maps(), levels=3).units for name in ("max", other))
        found = measure(f"pool_alternatives.over_{other}", maps(), levels=3).units
        assert found == pytest.approx(np.subtract(own, its), abs=1e-12)


# --- laws -------------------------------------------------------------------------------------------------------


def test_pairing_narrows_the_interval():
    """Images differ in brightness and contrast far more than operators do on one image."""
    bright, contrast = torch.randn(2, 100, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    x = 3 * bright + contrast.exp() * torch.randn(100, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    paired = measure("pool_alternatives.over_stride", x, op="avg", levels=4)
    alone = [measure(f"pool_entropy_loss.relative_{name}", x, levels=4) for name in ("avg", "stride")]
    apart = math.hypot(*(found.high - found.low for found in alone))
    assert paired.high - paired.low < 0.6 * apart


def test_positive_scaling_and_the_order_of_channels_do_not_matter():
    wanted = measure("pool_alternatives", maps(units=3))
    scaled = measure("pool_alternatives", maps(units=3) * torch.tensor([0.25, 1.0, 1024.0])[:, None, None])
    assert scaled == wanted
    turned = measure("pool_alternatives", maps(units=3)[:, [2, 0, 1]])
    assert turned.units == pytest.approx([wanted.units[k] for k in (2, 0, 1)])


def test_min_is_the_mirror_of_max():
    x = torch.randint(0, 5, (30, 2, 6, 6), generator=torch.Generator().manual_seed(3))
    # Of the stride, because the average rounds one half up, which has no mirror image.
    a, b = (measure("pool_alternatives.over_stride", y, levels=5, op=op) for y, op in ((x, "max"), (4 - x, "min")))
    assert a.units == pytest.approx(b.units)
    assert a.lows == pytest.approx(b.lows)


def test_images_of_one_source_are_no_more_than_one():
    x = torch.randint(0, 3, (60, 2, 6, 6), generator=torch.Generator().manual_seed(5))
    facts = {"levels": 3, "op": "avg", "estimator": "plugin"}
    once = measure("pool_alternatives", x, sources=range(60), **facts)
    again = measure("pool_alternatives", x.repeat(2, 1, 1, 1), sources=[*range(60)] * 2, **facts)
    for name in ("units", "lows", "highs"):
        assert getattr(again, name) == pytest.approx(getattr(once, name))


def test_intervals_cover_the_best_alternative_at_a_tie():
    """The average's alternatives are max and min, which keep the same of symmetric maps: 200 kernels of 96 images."""
    rates = np.array([0.4, 0.6])  # of ones, in either half of the images
    generator = torch.Generator().manual_seed(4)
    rate = torch.tensor(rates)[torch.randint(0, 2, (96, 200), generator=generator)][..., None, None]
    x = (torch.rand(96, 200, 8, 8, generator=generator) < rate).long()
    p = np.array([stats.binom.pmf(range(5), 4, rate) for rate in rates]).mean(0)  # of 0 to 4 ones in a window
    assert p[0] == pytest.approx(p[4])  # so max and min have mirror images
    whole = stats.entropy(np.repeat(p / [1, 4, 6, 4, 1], [1, 4, 6, 4, 1]), base=2)
    most, average = (stats.entropy([q, 1 - q], base=2) for q in (p[0], p[:2].sum()))
    truth = (most - average) / whole
    found = measure("pool_alternatives", x, levels=2, op="avg", block=32)
    assert np.mean(found.units) > truth + 0.002  # the larger of two equal estimates
    lows, highs = np.array(found.lows), np.array(found.highs)
    assert ((lows <= truth) & (truth <= highs)).mean() >= 0.94


# --- edges ------------------------------------------------------------------------------------------------------


def test_a_kernel_that_never_varies_has_nothing_to_keep():
    x = maps()
    x[:, 1] = 0
    for field in asked():
        found = measure(f"pool_alternatives.{field}", x, levels=3)
        assert math.isfinite(found.units[0])
        assert math.isnan(found.units[1])


def test_one_image_gives_a_value_and_no_interval():
    found = measure("pool_alternatives", maps(1))
    assert all(-1 <= value <= 1 for value in found.units)
    assert found.lows == (-1, -1)
    assert found.highs == (1, 1)


def test_a_window_of_one_value_is_kept_by_all_alike():
    assert measure("pool_alternatives", maps(), kernel=1, stride=1).units == (0, 0)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"kernel": 9}, "every window touches padding"),
        ({"kernel": 4}, "16 values does not fit 4096 cells"),
        ({"levels": 1}, "greater than or equal to 2"),
        ({"estimand": "dataset"}, "pool_alternatives.regret samples positions or corrects a bias"),
    ],
)
def test_wrong_questions(facts, message):
    with pytest.raises(MetricError, match=message):
        measure("pool_alternatives", maps(4), **facts)


def test_it_is_asked_where_pool_entropy_loss_is():
    steering = make_pool((8, 8), steers=True)
    for field in asked():
        assert "steers a gate" in METRIC.applies(steering, field, {})
        assert METRIC.applies(make_pool((8, 8)), field, {}) is None


@pytest.mark.parametrize("op", NAMES)
def test_the_own_operator_is_nothing_to_compare_with(op):
    site = make_pool((8, 8), operator=op)
    told = {field: METRIC.applies(site, field, {}) for field in METRIC.fields}
    assert {field for field, reason in told.items() if reason} == {f"over_{op}"}
    assert told[f"over_{op}"] == f"{op} is the pool's own operator"
    with pytest.raises(MetricError, match="own operator"):
        measure(f"pool_alternatives.over_{op}", maps(4), op=op)
