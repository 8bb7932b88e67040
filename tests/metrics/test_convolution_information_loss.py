import math
from types import MappingProxyType

import numpy as np
import pytest
import torch
from builders import make_site

from cnnaudit.metrics import registry
from cnnaudit.metrics.base import Need
from cnnaudit.site import Op, Tap
from cnnaudit.statistics import PatchCovariance, Probe, View

METRIC = registry()["convolution_information_loss"]
POOL = registry()["pool_gaussian_information_loss"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def make_conv(weight, shape, *, stride=2, groups=1, **facts):
    facts = {"kernel": weight.shape[2], "stride": stride, "padding": 0, "dilation": 1} | facts
    return make_site(
        Op.CONV,
        len(weight),
        taps=("input",),
        shape=tuple(shape[2:]),
        channels=shape[1],
        parameters=MappingProxyType({"weight": Tap("", tuple(weight.shape))}),
        groups=groups,
        downsamples=True,
        **facts,
    )


def folded(x, weight, site, *, groups=1, sources=None):
    options = (("windows", 10_000),)
    probe = Probe(PatchCovariance, site, ("input", "weight"), options, clustered=sources is not None)
    statistic = PatchCovariance(probe, groups)
    ids = torch.arange(len(x))
    reading = statistic.read(View({"input": x, "weight": weight}, ids, None, 0))
    statistic.calibrate([reading])
    statistic.fold(reading, (ids if sources is None else sources) % groups)
    return statistic


def plain(x, weight, *, params=MappingProxyType({}), **facts):
    """The fields before any bias is taken off, each a list over channel groups."""
    site = make_conv(weight, x.shape, **facts)
    found = METRIC.function(folded(x, weight, site).pooled(), site, **params)
    return {name: values.tolist() for name, values in found.items()}


def maps(images=150, channels=3, size=7, seed=1):
    """Neighbours and channels alike."""
    x = random(images, channels, size + 1, size + 1, seed=seed)
    smooth = (x + x.roll(1, -1) + x.roll(1, -2))[..., 1:, 1:]
    return smooth + 0.5 * smooth.roll(1, 1)


def white(images, channels, size, seed=0):
    """Images of one patch whose covariance is exactly the identity."""
    x = random(images, channels * size**2, seed=seed)
    x -= x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / images)).T
    return x.reshape(images, channels, size, size)


# --- closed forms -----------------------------------------------------------------------------------------------


def test_white_patches_lose_as_many_dimensions_as_there_are_too_few_outputs():
    x = white(100, 3, 3)
    bit = 0.5 * math.log2(1 + 1 / 0.01)
    for outputs in (1, 9, 27, 40):
        found = plain(x, random(outputs, 3, 3, 3, seed=2))
        lost = max(0, 27 - outputs)
        assert found["information_in"] == pytest.approx([27 * bit])
        assert found["bits"] == pytest.approx([lost * bit], abs=1e-9)
        assert found["relative"] == pytest.approx([lost / 27], abs=1e-9)


def test_a_projection_of_stride_two_loses_the_three_positions_that_it_skips():
    found = plain(white(60, 4, 2), random(8, 4, 1, 1))
    assert found["relative"] == pytest.approx([0.75])


def test_repeated_filters_tell_nothing_more():
    x, weight = maps(), random(4, 3, 3, 3)
    repeated = torch.cat([weight, 3 * weight, weight[:1] + weight[1:2], torch.zeros(1, 3, 3, 3)])
    assert plain(x, repeated)["bits"] == pytest.approx(plain(x, weight)["bits"])


def test_a_blur_by_groups_is_an_average_pool():
    x = maps(size=6)
    weight = torch.full((3, 1, 2, 2), 0.25, dtype=torch.float64)
    site = make_conv(weight, x.shape, groups=3)
    found = METRIC.function(folded(x, weight, site).pooled(), site)
    pool = make_site(Op.POOL, 3, taps=("input",), shape=(6, 6), kernel=2, stride=2, operator="avg")
    probe = Probe(POOL.reads, pool, ("input",), (("windows", 64),))
    windows = POOL.reads(probe, 1)
    reading = windows.read(View({"input": x}, torch.arange(len(x)), None, 0))
    windows.calibrate([reading])
    windows.fold(reading, torch.zeros(len(x), dtype=torch.int64))
    wanted = POOL.function(windows.pooled(), pool)
    for field, values in found.items():
        assert values.tolist() == pytest.approx(wanted[field].tolist())


def test_limits_of_no_noise_and_of_much():
    x, weight = maps(), random(5, 3, 3, 3)
    assert plain(x, weight, params={"noise": 1e-5})["relative"] == pytest.approx([1 - 5 / 27], abs=0.05)
    patches = torch.nn.functional.unfold(x, 3, stride=2).transpose(1, 2).reshape(-1, 27)
    covariance = torch.cov(patches.T, correction=0)
    basis = torch.linalg.qr(weight.reshape(5, 27).T)[0]
    inside = float((basis.T @ covariance @ basis).trace() / covariance.trace())
    assert plain(x, weight, params={"noise": 1e3})["relative"] == pytest.approx([1 - inside], abs=1e-5)


# --- against a slow way -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups"), [(3, 2, 0, 1), (3, 2, 1, 1), (2, 2, 0, 2), (5, 3, 2, 1), (1, 2, 0, 2)]
)
def test_against_the_formula_on_patches_cut_out_one_by_one(kernel, stride, padding, groups):
    x, per = maps(channels=4), 4 // groups
    weight = random(2 * groups, per, kernel, kernel, seed=5)
    found = plain(x, weight, stride=stride, padding=padding, groups=groups, params={"noise": 0.2})
    reach = max(kernel, stride)
    starts = [s for s in range(-padding, 7, stride) if s >= 0 and s + reach <= 7]
    for group in range(groups):
        mine = x[:, group * per : (group + 1) * per].numpy()
        rows = np.array(
            [image[:, a : a + reach, b : b + reach].ravel() for image in mine for a in starts for b in starts]
        )
        covariance, entries = np.cov(rows.T, bias=True), rows.shape[1]
        floor = 0.04 * np.trace(covariance) / entries
        matrix = np.zeros((2, per, reach, reach))
        matrix[:, :, :kernel, :kernel] = weight[2 * group : 2 * group + 2].numpy()
        matrix = matrix.reshape(2, entries)
        whole = np.linalg.slogdet(np.eye(entries) + covariance / floor)[1] / math.log(4)
        signal, noise = matrix @ covariance @ matrix.T, floor * matrix @ matrix.T
        kept = np.linalg.slogdet(np.eye(2) + np.linalg.solve(noise, signal))[1] / math.log(4)
        assert found["information_in"][group] == pytest.approx(whole)
        assert found["bits"][group] == pytest.approx(whole - kept)
        assert found["relative"][group] == pytest.approx(1 - kept / whole)


def test_a_dilated_kernel_reads_its_taps():
    x, weight = maps(images=300), random(4, 3, 2, 2)
    wide = plain(x, weight, dilation=3, stride=2)
    taps = torch.nn.functional.unfold(x, 2, dilation=3, stride=2).transpose(1, 2).reshape(-1, 3, 2, 2)
    assert wide["information_in"] == pytest.approx(plain(taps, weight)["information_in"])
    assert wide["bits"] == pytest.approx(plain(taps, weight)["bits"])


# --- laws -------------------------------------------------------------------------------------------------------


def test_what_does_not_matter():
    x, weight = maps(), random(5, 3, 3, 3)
    whole = plain(x, weight)
    mixed = torch.einsum("oi,ickl->ockl", random(5, 5, seed=3), weight)
    for other in (plain(9 * x, weight), plain(x + 100, weight), plain(x, 1e-4 * weight), plain(x, mixed)):
        for field, values in whole.items():
            assert other[field] == pytest.approx(values)
    order = [2, 0, 1]
    assert plain(x[:, order], weight[:, order])["bits"] == pytest.approx(whole["bits"])
    assert plain(x.flip(0), weight)["bits"] == pytest.approx(whole["bits"])
    assert plain(torch.cat([x, x]), weight)["bits"] == pytest.approx(whole["bits"])


def test_absolute_noise_is_in_the_unit_of_the_map():
    x, weight = maps(), random(5, 3, 3, 3)
    one = plain(x, weight, params={"noise": 0.3, "absolute": True})["bits"]
    assert plain(10 * x, weight, params={"noise": 3.0, "absolute": True})["bits"] == pytest.approx(one)
    assert plain(10 * x, weight, params={"noise": 0.3, "absolute": True})["bits"] != pytest.approx(one)


def test_more_filters_never_lose_more():
    x, weight = maps(), random(27, 3, 3, 3)
    losses = [plain(x, weight[:n])["relative"][0] for n in (1, 4, 9, 18, 27)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(0, abs=1e-9)


# --- bias and interval ------------------------------------------------------------------------------------------


def test_the_bias_of_few_images_is_taken_off_and_the_interval_holds_the_truth():
    bit, hits, values = 0.5 * math.log2(1 + 1 / 0.01), 0, []
    weight = random(6, 4, 2, 2)
    for seed in range(40):
        x = random(100, 4, 2, 2, seed=100 + seed)
        site = make_conv(weight, x.shape)
        found = METRIC.evaluate(folded(x, weight, site, groups=16), site, {})["information_in"]
        low, high = found.interval(0.95)
        hits += bool(low[0] <= 16 * bit <= high[0])
        values.append((found.value[0], found.plain[0]))
    corrected, raw = np.mean(values, axis=0) - 16 * bit
    assert raw < -0.8
    assert abs(corrected) < 0.15
    assert hits >= 36


def test_images_of_one_source_do_not_count_twice():
    x, weight = maps(images=40, size=5), random(5, 3, 3, 3)
    site = make_conv(weight, x.shape)
    sources = torch.arange(40).repeat(4)

    def width(statistic):
        low, high = METRIC.evaluate(statistic, site, {})["bits"].interval(0.95)
        return float(high[0] - low[0])

    alone = width(folded(x, weight, site, groups=16))
    copies = folded(x.repeat(4, 1, 1, 1), weight, site, groups=16, sources=sources)
    assert width(copies) == pytest.approx(alone, rel=0.01)


# --- borders ----------------------------------------------------------------------------------------------------


def test_what_never_varies_has_no_noise_floor():
    weight = random(5, 3, 3, 3)
    assert all(math.isnan(values[0]) for values in plain(torch.ones(20, 3, 7, 7), weight).values())
    quiet = plain(torch.ones(20, 3, 7, 7), weight, params={"absolute": True})
    assert quiet["information_in"] == quiet["bits"] == [0]


def test_dead_channels_and_dead_filters():
    x = maps()
    x[:, 1] = 0
    assert 0 < plain(x, random(5, 3, 3, 3))["relative"][0] < 1
    assert plain(x, torch.zeros(5, 3, 3, 3))["relative"] == [1]


def test_a_broken_weight_is_told_of():
    x, weight = maps(images=4), random(5, 3, 3, 3)
    weight[2, 0, 0, 0] = math.nan
    statistic = folded(x, weight, make_conv(weight, x.shape))
    assert statistic.nonfinite == 4
    assert statistic.calibration["weight"].isfinite().all()


def test_where_it_does_not_apply():
    def reason(outputs, inputs, size, kernel, **facts):
        weight = torch.empty(outputs, inputs // facts.get("groups", 1), kernel, kernel)
        return METRIC.applies(make_conv(weight, (1, inputs, size, size), **facts), "relative", {})

    assert reason(256, 128, 28, 3, padding=1) is None
    assert "a patch of 2304 values" in reason(512, 256, 28, 3, padding=1)
    assert "32 patches of 288 values" in reason(1024, 1024, 28, 3, groups=32)
    assert reason(1024, 1024, 28, 3, groups=1024) is None
    assert reason(512, 256, 28, 1) is None
    assert "touches padding" in reason(4, 3, 2, 3, padding=1)
    assert "steers" in reason(4, 3, 8, 3, steers=True)
    assert "no plain parameter" in METRIC.applies(make_site(Op.CONV, downsamples=True), "relative", {})
    assert not METRIC.where(make_site(Op.CONV))
    assert not METRIC.where(make_site(Op.CONV, downsamples=True, transposed=True))


def test_more_values_need_more_images():
    site = make_conv(torch.empty(256, 128, 3, 3), (1, 128, 28, 28), padding=1)
    assert METRIC.images(Need(site, "relative", 10, 0.05, {"windows": 16})) == 288
    small = make_conv(torch.empty(8, 3, 3, 3), (1, 3, 28, 28), padding=1)
    assert METRIC.images(Need(small, "relative", 10, 0.05, {"windows": 16})) == 50
