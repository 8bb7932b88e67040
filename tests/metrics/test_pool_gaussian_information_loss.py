import math
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
import torch
from builders import make_pool, with_output

from cnnaudit import MetricError, measure
from cnnaudit.information import gaussian_entropy_bias
from cnnaudit.metrics import registry
from cnnaudit.metrics.base import Need
from cnnaudit.site import Tap
from cnnaudit.statistics import Probe, View, WindowCovariance

METRIC = registry()["pool_gaussian_information_loss"]
NAME = METRIC.name


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def having(covariance, images=40, units=1, seed=0):
    """Maps of one window each whose covariance over images is exactly this one."""
    entries = len(covariance)
    x = torch.randn(images, units, entries, generator=generator(seed), dtype=torch.float64)
    x -= x.mean(0)
    white = torch.linalg.inv(torch.linalg.cholesky(torch.einsum("nui,nuj->uij", x, x) / images))
    side = math.isqrt(entries)
    values = torch.einsum("ij,ujk,nuk->nui", torch.linalg.cholesky(covariance), white, x)
    return values.reshape(images, units, side, side)


def equicorrelated(entries, correlation):
    eye, ones = torch.eye(entries, dtype=torch.float64), torch.ones(entries, entries, dtype=torch.float64)
    return (1 - correlation) * eye + correlation * ones


def folded(x, site=None, groups=1, windows=64, kernels=None):
    site = site or make_pool(tuple(x.shape[2:]), tuple(x.shape[2:]), units=x.shape[1], operator="avg")
    statistic = WindowCovariance(
        Probe(WindowCovariance, site, ("input",), (("windows", windows),), kernels=kernels), groups
    )
    ids = torch.arange(len(x))
    reading = statistic.read(View({"input": x}, ids, None, 0))
    statistic.calibrate([reading])
    statistic.fold(reading, ids % groups)
    return statistic


def plain(x, site=None, *, windows=64, kernels=None, **params):
    """The fields before any bias is taken off, each a list over kernels."""
    statistic = folded(x, site, windows=windows, kernels=kernels)
    return {k: v.tolist() for k, v in METRIC.function(statistic.pooled(), statistic.probe.site, **params).items()}


def maps(images=80, units=3, size=6, seed=1):
    """Neighbours alike, and images of unequal contrast."""
    x = torch.randn(images, units, size + 1, size + 1, generator=generator(seed))
    smooth = (x + x.roll(1, -1) + x.roll(1, -2))[..., 1:, 1:]
    return smooth * (1 + torch.rand(images, 1, 1, 1, generator=generator(seed + 1)))


# --- closed forms -----------------------------------------------------------------------------------------------


def test_four_values_that_correlate_by_nine_tenths():
    found = plain(having(equicorrelated(4, 0.9)), noise=0.1)
    assert found["information_in"] == pytest.approx([9.4568], abs=5e-5)
    assert found["bits"] == pytest.approx([5.1891], abs=5e-5)
    assert found["relative"] == pytest.approx([5.1891 / 9.4568], abs=1e-5)
    assert found["stride"] == pytest.approx([1 - 3.3291 / 9.4568], abs=1e-5)


def test_the_noise_floor_decides_the_value():
    x = having(equicorrelated(4, 0.9))
    assert plain(x, noise=0.1**0.5)["bits"] == pytest.approx([1.5])
    losses = [plain(x, noise=noise)["relative"][0] for noise in (1e-6, 0.01, 0.1, 1.0, 100.0)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(("side", "correlation", "noise"), [(2, 0.5, 0.3), (3, 0.8, 0.1), (7, 0.95, 0.05)])
def test_the_average_of_equicorrelated_values_loses_all_but_their_mean(side, correlation, noise):
    k = side**2
    found = plain(having(equicorrelated(k, correlation), images=3 * k), noise=noise)
    lost = (k - 1) / 2 * math.log2(1 + (1 - correlation) / noise**2)
    whole = lost + 0.5 * math.log2(1 + (1 + (k - 1) * correlation) / noise**2)
    assert found["bits"] == pytest.approx([lost])
    assert found["relative"] == pytest.approx([lost / whole])
    assert found["stride"] == pytest.approx([1 - 0.5 * math.log2(1 + 1 / noise**2) / whole])


def test_limits_of_no_noise_and_of_much():
    x = having(equicorrelated(4, 0.9))
    assert plain(x, noise=1e-7)["relative"] == pytest.approx([0.75], abs=0.03)
    assert plain(x, noise=1e3)["relative"] == pytest.approx([1 - (1 + 3 * 0.9) / 4], abs=1e-5)


def test_equal_values_lose_nothing():
    x = torch.randn(50, 2, 1, 1, generator=generator()).expand(-1, -1, 2, 2)
    found = plain(x)
    assert found["relative"] == pytest.approx([0, 0], abs=1e-12)
    assert found["information_in"] == pytest.approx([0.5 * math.log2(1 + 4 / 0.01)] * 2)


def test_taking_the_first_value_is_a_pool_too():
    x = having(equicorrelated(4, 0.9))
    site = make_pool((2, 2), units=1, operator="stride")
    assert plain(x, site)["relative"] == plain(x, site)["stride"] == pytest.approx(plain(x)["stride"])
    assert plain(x, site)["bits"] == pytest.approx([9.4568 - 3.3291], abs=1e-4)


# --- against a slow way -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 0), (6, 6, 0)])
def test_against_windows_cut_out_one_by_one(kernel, stride, padding):
    x = maps(images=60).double()
    site = make_pool((6, 6), kernel, stride, units=3, operator="avg", padding=padding)
    found = plain(x, site, noise=0.2)
    starts = [s for s in range(-padding, 6, stride) if s >= 0 and s + kernel <= 6]
    for unit in range(3):
        rows = np.array(
            [
                image[a : a + kernel, b : b + kernel].ravel()
                for image in x[:, unit].numpy()
                for a in starts
                for b in starts
            ]
        )
        covariance = np.cov(rows.T, bias=True)
        floor = 0.04 * np.trace(covariance) / kernel**2
        whole = np.linalg.slogdet(np.eye(kernel**2) + covariance / floor)[1] / math.log(4)
        mean = np.full((1, kernel**2), 1 / kernel**2)
        signal, noise = mean @ covariance @ mean.T, floor * mean @ mean.T
        kept = math.log2(1 + float(signal[0, 0] / noise[0, 0])) / 2
        assert found["information_in"][unit] == pytest.approx(whole)
        assert found["bits"][unit] == pytest.approx(whole - kept)
        assert found["relative"][unit] == pytest.approx(1 - kept / whole)


def test_an_adaptive_pool_has_windows_too():
    x = maps(size=7)[:, :, :5].double()
    site = make_pool((5, 7), (), (), units=3, operator="avg")
    site = replace(site, taps=MappingProxyType({**site.taps, "output": Tap("", (3, 2, 3))}))
    sliding = make_pool((5, 7), 3, 2, units=3, operator="avg")
    assert plain(x, site)["bits"] == pytest.approx(plain(x, sliding)["bits"])


def test_windows_cut_off_by_the_end_of_the_map_have_a_covariance_of_their_own():
    x = maps(size=5).double()
    site = with_output(make_pool((5, 5), 2, 2, units=3, operator="avg"), 3, 3)
    found = plain(x, site, noise=0.2)
    whole, kept = np.zeros(3), np.zeros(3)
    shapes = [(2, 2, range(0, 4, 2), range(0, 4, 2)), (2, 1, range(0, 4, 2), [4]), (1, 2, [4], range(0, 4, 2))]
    for height, width, rows, columns in [*shapes, (1, 1, [4], [4])]:
        part = x.unfold(2, height, 1).unfold(3, width, 1)[:, :, list(rows)][:, :, :, list(columns)].flatten(4)
        values = part.permute(1, 0, 2, 3, 4).flatten(1, 3).numpy()
        for unit in range(3):
            covariance = np.atleast_2d(np.cov(values[unit].T, bias=True))
            entries = height * width
            floor = 0.04 * np.trace(covariance) / entries
            share = len(rows) * len(columns) / 9
            whole[unit] += share * np.linalg.slogdet(np.eye(entries) + covariance / floor)[1] / math.log(4)
            kept[unit] += share * math.log2(1 + covariance.sum() / entries / floor) / 2
    assert found["information_in"] == pytest.approx(whole)
    assert found["bits"] == pytest.approx(whole - kept)
    assert found["relative"] == pytest.approx(1 - kept / whole)


# --- laws -------------------------------------------------------------------------------------------------------


def test_scale_and_offset_of_a_map_do_not_matter_unless_the_noise_is_absolute():
    x, site = maps().double(), make_pool((6, 6), units=3, operator="avg")
    for changed in (7 * x, x + 1000, 1e-6 * x, -x):
        for field, values in plain(x, site).items():
            assert plain(changed, site)[field] == pytest.approx(values)
    for field, values in plain(x, site, noise=0.3, absolute=True).items():
        assert plain(x + 5, site, noise=0.3, absolute=True)[field] == pytest.approx(values)
        assert plain(10 * x, site, noise=3.0, absolute=True)[field] == pytest.approx(values)
        assert plain(10 * x, site, noise=0.3, absolute=True)[field] != pytest.approx(values)


def test_relative_and_absolute_noise_agree_where_the_variance_is_one():
    x = having(equicorrelated(9, 0.4))
    assert plain(x, noise=0.2, absolute=True)["bits"] == pytest.approx(plain(x, noise=0.2)["bits"])


def test_each_kernel_for_itself():
    x, site = maps(), make_pool((6, 6), units=3, operator="avg")
    whole = plain(x, site)["relative"]
    assert plain(x[:, [2, 0, 1]], site)["relative"] == pytest.approx([whole[2], whole[0], whole[1]])
    assert plain(x, site, kernels=(0, 2))["relative"] == pytest.approx([whole[0], whole[2]])
    assert plain(x * torch.tensor([1.0, 50.0, 0.01])[:, None, None], site)["relative"] == pytest.approx(whole)


def test_images_in_another_order_or_twice_and_windows_twice():
    x, site = maps(), make_pool((6, 6), units=3, operator="avg")
    whole = plain(x, site)["bits"]
    assert plain(x.flip(0), site)["bits"] == pytest.approx(whole)
    assert plain(torch.cat([x, x]), site)["bits"] == pytest.approx(whole)
    wide = make_pool((6, 12), units=3, operator="avg")
    assert plain(torch.cat([x, x], -1), wide)["bits"] == pytest.approx(whole)


def test_no_operator_gains():
    x, site = maps(images=200, units=8), make_pool((6, 6), 3, 1, units=8, operator="avg")
    for noise in (0.01, 0.1, 1.0):
        found = plain(x, site, noise=noise)
        for field in ("relative", "stride"):
            assert all(0 < value < 1 for value in found[field])


# --- bias and interval ------------------------------------------------------------------------------------------


def test_the_bias_of_few_images_is_taken_off():
    """Normal values far above the noise, where theory knows the bias of a determinant."""
    images, truth = 20, 2 * math.log2(1 + 1 / 1e-6)
    x = torch.randn(images, 1500, 2, 2, generator=generator(3), dtype=torch.float64)
    statistic = folded(x, groups=16)
    raw = METRIC.function(statistic.pooled(), statistic.probe.site, noise=1e-3, absolute=True)["information_in"]
    corrected = METRIC.evaluate(statistic, statistic.probe.site, {"noise": 1e-3, "absolute": True})["information_in"]
    # The known bias is that of divisor n - 1.
    assert gaussian_entropy_bias(4, images) == pytest.approx(-0.4119, abs=5e-5)
    known = gaussian_entropy_bias(4, images) + 2 * math.log2((images - 1) / images)
    assert float(raw.mean()) - truth == pytest.approx(known, abs=0.06)
    assert abs(corrected.value.mean() - truth) < 0.2 * abs(known)


def test_the_interval_holds_the_truth():
    truth = 5.1891 / 9.4568
    root = torch.linalg.cholesky(equicorrelated(4, 0.9)).float()
    x = (torch.randn(100, 300, 4, generator=generator(4)) @ root.T).reshape(100, 300, 2, 2)
    found = measure(NAME, x, op="avg")
    hits = [low <= truth <= high for low, high in zip(found.lows, found.highs, strict=True)]
    assert 0.9 <= sum(hits) / len(hits) <= 0.995


def test_images_of_one_source_do_not_count_twice():
    x = maps(images=60, units=1)
    alone = measure(NAME, x, op="avg")
    copies = measure(NAME, x.repeat(4, 1, 1, 1), op="avg", sources=list(range(60)) * 4)
    naive = measure(NAME, x.repeat(4, 1, 1, 1), op="avg")
    width = alone.high - alone.low
    assert copies.value == pytest.approx(alone.value, abs=0.3 * width)
    assert copies.high - copies.low > 0.6 * width
    assert naive.high - naive.low < 0.75 * width


# --- borders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 1e30])
def test_what_never_varies_has_no_noise_floor(value):
    x = maps()
    x[:, 1] = value
    for field in METRIC.fields:
        found = measure(f"{NAME}.{field}", x, op="avg")
        assert [math.isnan(unit) for unit in found.units] == [False, True, False]


def test_what_never_varies_holds_nothing_above_absolute_noise():
    found = plain(torch.ones(9, 1, 2, 2), absolute=True)
    assert found["information_in"] == found["bits"] == [0]
    assert math.isnan(found["relative"][0])


def test_one_image_tells_nothing_for_sure():
    found = measure(NAME, maps(images=1), op="avg")
    assert all(low == 0 and high == 1 for low, high in zip(found.lows, found.highs, strict=True))


def test_noise_below_rounding_is_no_verdict():
    x = torch.randn(50, 1, 1, 1, generator=generator(), dtype=torch.float64).expand(-1, -1, 2, 2)
    x = x * torch.tensor([[1.0, 3.0], [0.1, 7.0]])
    for value in plain(x, noise=1e-12)["relative"]:
        assert math.isnan(value) or 0 <= value <= 1


@pytest.mark.parametrize("op", ["max", "min"])
def test_only_linear_pools(op):
    with pytest.raises(MetricError, match=f"{op} pooling is not linear"):
        measure(NAME, maps(), op=op)


def test_where_it_does_not_apply():
    def reason(site):
        return METRIC.applies(site, "relative", {})

    assert "272 values" in reason(make_pool((16, 17), (16, 17), operator="avg"))
    assert "a vector" in reason(make_pool((), (), (), operator="avg"))
    assert "touches padding" in reason(make_pool((2, 2), 3, 2, operator="avg", padding=1))
    assert "steers" in reason(make_pool((7, 7), (7, 7), operator="avg", steers=True))
    assert reason(make_pool((14, 14), (14, 14), operator="avg")) is None


def test_a_global_pool_needs_more_images_than_a_small_one():
    def images(site):
        return METRIC.images(Need(site, "relative", 10, 0.05, {"windows": 64}))

    assert images(make_pool((12, 12), operator="avg")) == 50
    assert images(make_pool((7, 7), (7, 7), operator="avg")) == 196
