import math

import numpy as np
import pytest
import torch
from builders import make_site

from cnnaudit import MetricError, measure
from cnnaudit.metrics import Need
from cnnaudit.metrics.duplicate_kernels import duplicate_kernels
from cnnaudit.statistics import Covariance, Probe, View

FIELDS = list(duplicate_kernels.fields)


def fields(x, **facts):
    facts.setdefault("positions", 10_000)
    return {name: measure(f"duplicate_kernels.{name}", x, **facts) for name in FIELDS}


def units(x, **facts):
    return {name: found.units for name, found in fields(x, **facts).items()}


def statistic_of(x, *, kernels=None, groups=4):
    probe = Probe(Covariance, make_site(units=x.shape[1]), ("response",), (("positions", 10_000),), kernels=kernels)
    statistic = Covariance(probe, groups)
    reading = statistic.read(View({"response": x}, torch.arange(len(x)), None, 0))
    statistic.calibrate([reading])
    statistic.fold(reading, torch.arange(len(x)) % groups)
    return statistic


def evaluated(x, **facts):
    statistic = statistic_of(x, **facts)
    return duplicate_kernels.evaluate(statistic, statistic.probe.site, {})


def noise(images, channels, *spatial, seed=0):
    return torch.randn(images, channels, *spatial, generator=torch.Generator().manual_seed(seed))


def related(images=300, size=3):
    """Kernel 1 copies 0, 2 mirrors it, 3 is the sum of 4 and 5, 6 resembles none, 7 is silent."""
    x = noise(images, 8, size, size)
    x[:, 1] = 3 * x[:, 0] + 5
    x[:, 2] = 1 - 0.01 * x[:, 0]
    x[:, 3] = x[:, 4] + x[:, 5]
    x[:, 7] = 0.4
    return x


# --- closed forms -----------------------------------------------------------------------------------------------


def test_copies_sums_and_silent_kernels():
    found = fields(related())
    activation, redundancy = found["activation"], found["redundancy"]
    assert activation.units[:3] == pytest.approx([1, 1, 1], abs=1e-9)
    assert activation.units[3:6] == pytest.approx([0.5**0.5] * 3, abs=0.03)
    assert activation.units[6] < 0.1
    assert redundancy.units[:6] == pytest.approx([1] * 6, abs=1e-5)
    assert redundancy.units[6] < 0.02
    for one in found.values():
        assert (one.units[7], one.lows[7], one.highs[7]) == (0, 0, 0)
    assert min(activation.lows[:3]) > 0.9999
    assert max(activation.highs[3:]) < 0.9


def test_the_ridge_of_an_exact_copy():
    """Of two equal kernels 1 - 1 / ((C^-1)_kk C_kk) is 1 / (1 + ridge)^2."""
    x = noise(200, 1, 4).expand(-1, 2, -1)
    for value in duplicate_kernels.function(statistic_of(x).pooled(), make_site())["redundancy"].plain:
        assert value == pytest.approx(1 / (1 + 1e-6) ** 2, abs=1e-9)


@pytest.mark.parametrize("r", [0.0, 0.6, 0.95])
def test_a_known_correlation(r):
    """Rows of a factorial design are exactly uncorrelated, so the correlation is exactly r."""
    design = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1]], dtype=torch.float64)
    x = torch.stack([design[0], r * design[0] + math.sqrt(1 - r * r) * design[1]]).expand(30, -1, -1)
    found = fields(x)
    assert found["activation"].units == pytest.approx((r, r), abs=1e-9)
    assert found["redundancy"].units == pytest.approx((r * r, r * r), abs=1e-5)
    assert found["activation"].highs == pytest.approx((r, r), abs=1e-5)


# --- against numpy ----------------------------------------------------------------------------------------------


def naive(x):
    rows = x.double().movedim(1, -1).reshape(-1, x.shape[1]).numpy()
    correlation = np.abs(np.corrcoef(rows.T)) - np.eye(x.shape[1])
    explained = []
    for kernel in range(x.shape[1]):
        others = np.column_stack([np.ones(len(rows)), np.delete(rows, kernel, 1)])
        residual = rows[:, kernel] - others @ np.linalg.lstsq(others, rows[:, kernel], rcond=None)[0]
        explained.append(1 - residual.var() / rows[:, kernel].var())
    return correlation.max(1), np.array(explained)


def test_fields_are_those_of_numpy():
    x = torch.einsum("nc...,cd->nd...", noise(80, 6, 3), noise(6, 6, seed=7)).relu()
    activation, redundancy = naive(x)
    found = duplicate_kernels.function(statistic_of(x).pooled(), make_site())
    assert found["activation"].value == pytest.approx(activation, rel=1e-10)
    assert found["redundancy"].plain == pytest.approx(redundancy, abs=2e-5)


def test_the_bias_of_redundancy_is_taken_off():
    """Kernels of independent noise explain K / images of each other by chance."""
    x = noise(160, 16)
    plain = duplicate_kernels.function(statistic_of(x).pooled(), make_site())["redundancy"].plain
    assert plain.mean() == pytest.approx(15 / 159, abs=0.02)
    assert np.mean(measure("duplicate_kernels.redundancy", x).units) < 0.035


@pytest.mark.parametrize(("r", "images"), [(0.5, 100), (0.97, 100)])
def test_intervals_cover_the_truth(r, images):
    """Pairs of kernels that correlate by r; positions share half of their variance."""
    covered = []
    for seed in range(25):
        common, own = (noise(images, 4, 1, seed=s) + noise(images, 4, 3, seed=s + 500) for s in (seed, seed + 1000))
        x = torch.cat([common, r * common + math.sqrt(1 - r * r) * own], 1)
        found = evaluated(x, groups=16)
        for name, truth in (("activation", r), ("redundancy", r * r)):
            low, high = found[name].interval(0.95)
            covered += ((low <= truth) & (truth <= high)).tolist()
            assert high.max() < 1
    assert np.mean(covered) >= 0.93


def test_noise_is_not_surely_alike():
    """The largest of 31 correlations of a kernel is .2 by chance: its lower end must allow for all of them."""
    above = []
    for seed in range(12):
        found = evaluated(noise(100, 32, seed=seed), groups=16)["activation"]
        assert found.value.mean() > 0.18
        low, _ = found.interval(0.95)
        above += (low > 0).tolist()
        assert low.max() < 0.15
    assert np.mean(above) < 0.1


# --- laws -------------------------------------------------------------------------------------------------------


def test_scale_sign_and_offset_of_kernels_change_nothing():
    x = related()[:, [0, 3, 4, 5, 6]].double() + 0.1 * noise(300, 5, 3, 3, seed=1)
    factors = torch.tensor([1e-3, -2.0, 1, 50, 1e4], dtype=torch.float64)[:, None, None]
    wanted, found = units(x), units(x * factors - 7)
    for name in FIELDS:
        assert found[name] == pytest.approx(wanted[name], rel=1e-5)


def test_permuted_kernels_permute_the_values():
    x = related() + 0.3 * noise(300, 8, 3, 3, seed=1)
    order = [3, 1, 7, 0, 2, 6, 5, 4]
    wanted, found = units(x), units(x[:, order])
    for name in FIELDS:
        assert found[name] == pytest.approx([wanted[name][kernel] for kernel in order], rel=1e-8)


def test_duplicating_every_position_changes_nothing():
    x = related()[:, 3:7] + 0.3 * noise(300, 4, 3, 3, seed=1)
    wanted, found = fields(x), fields(x.repeat(1, 1, 2, 1))
    for name in FIELDS:
        assert found[name].units == pytest.approx(wanted[name].units, rel=1e-8)
        assert found[name].lows == pytest.approx(wanted[name].lows, abs=1e-8)


def test_images_of_one_source_are_one_sample():
    sources = torch.arange(64).repeat_interleave(4)
    x = noise(64, 3, 2)
    x[:, 1] = x[:, 0] + 0.5 * x[:, 2]
    once = measure("duplicate_kernels", x, sources=list(range(64)))
    told = measure("duplicate_kernels", x[sources], sources=sources.tolist())
    untold = measure("duplicate_kernels", x[sources])
    assert told.highs == pytest.approx(once.highs, rel=1e-9)
    assert all(a < b for a, b in zip(untold.highs, told.highs, strict=True))


# --- edges ------------------------------------------------------------------------------------------------------


def test_a_kernel_alone_duplicates_nothing():
    assert units(noise(40, 1, 3)) == {"activation": (0,), "redundancy": (0,)}


def test_silent_kernels_do_not_duplicate_each_other():
    x = noise(40, 4, 3)
    x[:, 2:] = 0
    found = units(x)
    assert all(values[2:] == (0, 0) for values in found.values())
    assert all(value == 0 for values in units(torch.full((30, 3, 2), 0.1)).values() for value in values)


def test_kernels_that_fire_together_once_are_uncertain():
    x = noise(64, 3)
    x[:, 1:] = 0
    x[5, 1:] = 1
    found = measure("duplicate_kernels", x)
    assert found.units[1:] == pytest.approx((1, 1))
    assert found.lows[1:] == (0, 0)


def test_one_image_gives_values_and_no_interval():
    found = measure("duplicate_kernels", noise(1, 3, 9))
    assert all(0 < value < 1 for value in found.units)
    assert (found.lows, found.highs) == ((0, 0, 0), (1, 1, 1))


def test_where_kernels_were_left_out_nothing_is_surely_unlike():
    x = related()
    some = evaluated(x, kernels=(0, 4, 5, 6))
    every = evaluated(x[:, [0, 4, 5, 6]])
    for name in FIELDS:
        assert some[name].value == pytest.approx(every[name].value)
        assert some[name].interval(0.95)[1].tolist() == [1] * 4
        assert some[name].p_above(0.95).tolist() == [1] * 4
    assert every["activation"].p_above(0.95).max() < 1e-3


@pytest.mark.parametrize(
    ("field", "kernels", "images"), [("activation", 64, 100), ("redundancy", 64, 640), ("redundancy", 4, 100)]
)
def test_images_needed(field, kernels, images):
    assert duplicate_kernels.images(Need(make_site(units=kernels), field, 10, 0.05, {})) == images


def test_it_reads_what_the_other_metrics_of_a_layer_read():
    from cnnaudit.metrics.participation_ratio import participation_ratio

    assert duplicate_kernels.reads is participation_ratio.reads
    assert duplicate_kernels.options({}) == participation_ratio.options({}) == (("positions", 16),)


def test_wrong_questions():
    with pytest.raises(MetricError, match="has no exact data-set value"):
        measure("duplicate_kernels", noise(4, 3), estimand="dataset")
