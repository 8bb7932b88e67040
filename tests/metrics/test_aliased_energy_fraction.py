import itertools
import math

import numpy as np
import pytest
import torch
from builders import make_pool, make_site
from scipy import stats

import cnnaudit
from cnnaudit import MetricError, measure
from cnnaudit.intervals import BoundedMean
from cnnaudit.metrics import registry
from cnnaudit.site import Op
from cnnaudit.statistics import Probe, View

METRIC = registry()["aliased_energy_fraction"]


def fraction(*x, **facts):
    return measure("aliased_energy_fraction", *x, **facts)


def subsampled(x, stride=2, **facts):
    return fraction(x, kernel=1, stride=stride, op="stride", **facts)


def maps(images=40, units=2, size=(8, 8), seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, units, *size, generator=generator)
    strength = torch.rand(images, 1, *[1] * len(size), generator=generator) + 0.5
    return strength * (x + 2 * x.roll(1, -1))


def wave(*cycles, size=16):
    """A cosine of so many cycles a map in each dimension."""
    axes = [torch.arange(size) * 2 * math.pi * c / size for c in cycles]
    grid = torch.meshgrid(*axes, indexing="ij")
    return torch.cos(sum(grid)).expand(1, 1, *(size,) * len(cycles))


def impulse(*shape):
    """All frequencies of the same energy, exactly."""
    x = torch.zeros(1, 1, *shape)
    x[(..., *(n // 2 for n in shape))] = 1
    return x


# --- closed forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "stride", "expected"),
    [
        ((16, 16), 2, 175 / 255),  # 9 of 16 frequencies are kept in each dimension
        ((16,), 2, 7 / 15),
        ((16, 16, 16), 2, (16**3 - 9**3) / (16**3 - 1)),
        ((9, 9), 3, (81 - 9) / 80),  # frequencies -1, 0, 1
        ((12,), 3, (12 - 5) / 11),
        ((16, 16), (2, 1), (16 * 16 - 9 * 16) / 255),
        ((16, 9), (1, 3), (16 * 9 - 16 * 3) / 143),
        ((7, 7), 2, (49 - 9) / 48),
        ((16, 16), 4, (256 - 25) / 255),
    ],
)
def test_all_frequencies_alike(shape, stride, expected):
    assert subsampled(impulse(*shape), stride).value == pytest.approx(expected, rel=1e-6)


def test_white_noise():
    x = torch.randn(200, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    found = subsampled(x, confidence=0.99)
    assert found.low <= 175 / 255 <= found.high
    assert found.high - found.low < 0.02


@pytest.mark.parametrize(
    ("cycles", "stride", "expected"),
    [
        ((3, 0), 2, 0),
        ((3, 3), 2, 0),
        ((4, 0), 2, 0),  # a frequency of 1/4, on the limit
        ((5, 0), 2, 1),
        ((1, 5), 2, 1),
        ((2, 1), 3, 0),
        ((3, 1), 3, 1),  # 3/16 > 1/6
        ((8, 8), 2, 1),  # a checkerboard
        ((5,), 2, 1),
        ((4,), 2, 0),
        ((3,), (3,), 1),
    ],
)
def test_a_single_wave(cycles, stride, expected):
    assert subsampled(wave(*cycles), stride).value == pytest.approx(expected, abs=1e-9)


def test_a_sum_of_waves():
    """Energies 1 and 4 on the two sides of the limit."""
    assert subsampled(wave(1, 2) + 2 * wave(0, 7)).value == pytest.approx(0.8, rel=1e-6)


def test_a_checkerboard_that_is_averaged_is_gone():
    checkerboard = wave(8, 8)
    assert fraction(checkerboard, op="max", kernel=1, stride=2).value == pytest.approx(1)
    for op in ("avg", "max", "min"):  # each 2x2 window holds the same four values
        assert math.isnan(fraction(checkerboard, op=op, kernel=2).value)


def test_averaging_lowers_what_is_aliased_by_its_frequency_response():
    """Of a wave of f cycles a position a mean of two neighbours keeps cos^2(pi f) of the energy."""
    x = wave(2) + wave(6)
    low, high = (math.cos(math.pi * c / 16) ** 2 for c in (2, 6))
    found = measure("aliased_energy_fraction", x, kernel=2, op="avg")
    assert found.value == pytest.approx(high / (low + high), rel=1e-5)


@pytest.mark.parametrize(("size", "known"), [(16, 0.0978), (56, 0.0322)])
def test_a_ramp_whose_ends_do_not_fit(size, known):
    ramp = torch.arange(float(size)).expand(1, 1, size)
    assert subsampled(ramp).value == pytest.approx(known, abs=5e-5)


# --- against a naive transform ----------------------------------------------------------------------------------


def naive(dense, stride):
    """h and t of each image and kernel, shape (2, n, units), by the definition."""
    dense = np.asarray(dense, dtype=np.float64)
    shape = dense.shape[2:]
    h = t = 0
    for bins in itertools.product(*map(range, shape)):
        f = [min(b, n - b) / n for b, n in zip(bins, shape, strict=True)]
        waves = [np.exp(-2j * np.pi * b * np.arange(n) / n) for b, n in zip(bins, shape, strict=True)]
        x = dense
        for w in reversed(waves):
            x = x @ w
        energy = np.abs(x) ** 2
        t = t + energy * any(bins)
        h = h + energy * any(v > 1 / (2 * r) + 1e-12 for v, r in zip(f, stride, strict=True))
    return np.stack([h, t])


def dense_pool(x, op, kernel, dilation):
    """Windows over the map continued periodically, one by one."""
    out = torch.zeros_like(x)
    _, _, rows, columns = x.shape
    for i, j in itertools.product(range(rows), range(columns)):
        at = [[(a + d * dilation) % n for d in range(kernel)] for a, n in ((i, rows), (j, columns))]
        window = x[:, :, at[0]][:, :, :, at[1]].flatten(2)
        out[:, :, i, j] = {"max": window.amax(2), "min": window.amin(2), "avg": window.mean(2)}[op]
    return out


@pytest.mark.parametrize("op", ["max", "avg", "min"])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(2, 2, 1), (3, 2, 1), (2, 3, 2), (3, 1, 1)])
def test_pools(op, kernel, stride, dilation):
    x = maps(6, size=(7, 8))
    facts = {"op": op, "kernel": kernel, "dilation": dilation, "stride": stride}
    if stride == 1:
        with pytest.raises(MetricError, match="its stride is 1"):
            fraction(x, **facts)
        return
    h, t = naive(dense_pool(x, op, kernel, dilation), (stride, stride))
    assert fraction(x, **facts).units == pytest.approx(h.sum(0) / t.sum(0), rel=1e-5)


@pytest.mark.parametrize(("kernel", "dilation", "groups"), [(1, 1, 1), (3, 1, 1), (3, 2, 2), (2, 1, 4)])
def test_convolutions(kernel, dilation, groups):
    generator = torch.Generator().manual_seed(2)
    x, weight = maps(6, 4), torch.randn(8, 4 // groups, kernel, kernel, generator=generator)
    padded = torch.nn.functional.pad(x, (0, (kernel - 1) * dilation) * 2, mode="circular")
    dense = torch.nn.functional.conv2d(padded.double(), weight.double(), dilation=dilation, groups=groups)
    h, t = naive(dense, (2, 2))
    found = fraction(x, weight, op="conv", kernel=kernel, stride=2, dilation=dilation, groups=groups)
    assert found.units == pytest.approx(h.sum(0) / t.sum(0), rel=1e-4)
    assert found.kernels == tuple(range(8))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_convolution_that_passes_its_input_is_a_subsampling(rank):
    x = maps(5, 2, (6,) * rank)
    weight = torch.eye(2).reshape(2, 2, *[1] * rank)
    assert fraction(x, weight, op="conv", kernel=1, stride=2).units == pytest.approx(subsampled(x).units, rel=1e-6)


# --- interval ---------------------------------------------------------------------------------------------------


def test_the_interval_is_that_of_a_linearised_ratio():
    x = maps(60)
    found = subsampled(x)
    h, t = naive(x, (2, 2))
    ratio = h.sum(0) / t.sum(0)
    low, high = BoundedMean(ratio, stats.sem(h - ratio * t) / t.mean(0), 60).interval(0.95)
    assert found.units == pytest.approx(ratio, rel=1e-5)
    assert found.lows == pytest.approx(low, rel=1e-4)
    assert found.highs == pytest.approx(high, rel=1e-4)


def test_intervals_cover_the_truth():
    """Images of different contrast, in which neighbours resemble each other; 200 kernels."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(80, 200, 8, 8, generator=generator)
    x = (x + x.roll(1, -1)) * torch.rand(80, 1, 1, 1, generator=generator).add(0.5)
    # cos^2(pi f) of white noise's energy is left along the last dimension.
    kept = np.cos(np.pi * np.fft.fftfreq(8)) ** 2 * np.ones((8, 1))
    above = (abs(np.fft.fftfreq(8)) > 0.25)[:, None] | (abs(np.fft.fftfreq(8)) > 0.25)
    truth = (kept * above).sum() / (kept.sum() - 1)
    found = subsampled(x)
    covered = sum(low <= truth <= high for low, high in zip(found.lows, found.highs, strict=True))
    assert 0.9 * 200 <= covered <= 0.99 * 200


def test_images_of_one_source_are_no_news():
    x = maps(30)
    alone, copied = subsampled(x), subsampled(x.repeat_interleave(4, 0), sources=[i // 4 for i in range(120)])
    assert copied.units == pytest.approx(alone.units, rel=1e-6)
    widths = np.subtract(copied.highs, copied.lows) / np.subtract(alone.highs, alone.lows)
    assert all(0.7 < w < 1.6 for w in widths)
    assert subsampled(x, estimand="dataset").units == pytest.approx(alone.units)


# --- laws -------------------------------------------------------------------------------------------------------


def test_shift_and_scale_change_nothing():
    x = maps()
    found = fraction(x * torch.tensor([0.01, 900.0])[:, None, None] + torch.tensor([5.0, -70.0])[:, None, None])
    assert found.units == pytest.approx(fraction(x).units, rel=1e-4)
    large = subsampled(x.double() + 1e6)
    assert large.units == pytest.approx(subsampled(x).units, rel=1e-6)


def test_where_a_map_starts_does_not_matter():
    x = maps()
    assert fraction(x.roll((3, 5), (2, 3))).units == pytest.approx(fraction(x).units, rel=1e-5)
    assert fraction(x.flip(2, 3)).units == pytest.approx(fraction(x).units, rel=1e-5)
    assert fraction(x.transpose(2, 3)).units == pytest.approx(fraction(x).units, rel=1e-5)


def test_kernels_and_images_in_another_order():
    x = maps(units=3)
    assert subsampled(x[:, [2, 0, 1]]).units == pytest.approx([subsampled(x).units[k] for k in (2, 0, 1)])
    assert subsampled(x.flip(0)).units == pytest.approx(subsampled(x).units, rel=1e-9)


def test_upsampled_maps_alias_less():
    x = maps()
    coarse = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert all(a < b for a, b in zip(subsampled(coarse).units, subsampled(x).units, strict=True))


# --- edges ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e30])
def test_a_constant_map_has_no_frequency(value):
    x = maps(6, size=(7, 9))
    x[:, 1] = value
    for op in ("max", "avg"):
        found = fraction(x, op=op, kernel=3, stride=2)
        assert 0 < found.units[0] < 1
        assert math.isnan(found.units[1])


def test_a_convolution_of_a_constant_map_has_no_frequency_either():
    """Sums in another order differ in their last digits, which are no signal."""
    weight = torch.randn(5, 64, 3, 3, generator=torch.Generator().manual_seed(4))
    x = torch.full((4, 64, 9, 11), 0.1)
    assert all(map(math.isnan, fraction(x, weight, op="conv", kernel=3, stride=2).units))
    assert all(map(math.isnan, fraction(maps(4, 64), weight * 0, op="conv", kernel=3, stride=2).units))


def test_one_image_tells_nothing_of_others():
    found = subsampled(maps(1))
    assert all(0 < v < 1 for v in found.units)
    assert (found.lows, found.highs) == ((0, 0), (1, 1))


def test_half_precision():
    x = maps(8)
    assert fraction(x.bfloat16()).units == pytest.approx(fraction(x).units, rel=0.02)


def test_where_it_applies():
    def why_not(site):
        return METRIC.applies(site, "fraction", {})

    assert METRIC.where(make_pool())
    assert METRIC.where(make_site(Op.CONV, downsamples=True))
    assert not METRIC.where(make_site(Op.CONV, downsamples=True, transposed=True))
    assert not METRIC.where(make_site(Op.CONV))
    assert why_not(make_pool()) is None
    assert "one position is left" in why_not(make_pool((4, 4), 4, is_global=True))
    assert "windows differ in shape" in why_not(make_pool((7, 7), (), ()))
    assert "stride is 1" in why_not(make_pool((7, 7), 3, 1))
    assert "steers" in why_not(make_pool(steers=True))
    assert "no plain parameter" in why_not(make_site(Op.CONV, downsamples=True, kernel=3, stride=2))


def test_few_images_that_carry_the_energy_close_the_gate():
    def gate(x, clustered):
        site = make_pool(tuple(x.shape[2:]), units=x.shape[1])
        statistic = METRIC.reads(Probe(METRIC.reads, site, ("input",), clustered=clustered), 4)
        ids = torch.arange(len(x))
        first = (ids % 2 == 0).long() if clustered else None
        statistic.fold(statistic.read(View({"input": x}, ids, None, 0)), ids // 2 % 4, first)
        return METRIC.gate(statistic.pooled(), site, "fraction", {})

    x = impulse(8, 8).repeat(200, 2, 1, 1)
    assert gate(x, clustered=False).images.tolist() == [0, 0]
    x[20:, 1] = 0
    found = gate(x, clustered=False)
    assert found.images.tolist() == [0, 500]
    assert found.reason == "fewer than 50 images hold the energy of some units"
    assert gate(x, clustered=True).images.tolist() == [0, 500]  # 10 of 100 sources
    x[:, 1] = 0
    assert gate(x, clustered=False).images.tolist() == [0, 0]  # 0 / 0 is undecided anyway


def test_an_audit_measures_the_output_between_the_strides():
    """Whatever the padding, a pool and a strided convolution are measured on what they would give at every position."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, stride=2, padding=1), torch.nn.MaxPool2d(3, 2, 1), torch.nn.AdaptiveAvgPool2d(1)
    ).eval()
    images = torch.rand(12, 2, 16, 16)
    flow = cnnaudit.profile(net, images, rules=[{"metric": "aliased_energy_fraction"}])
    found = flow["aliased_energy_fraction"]
    wanted = fraction(images, net[0].weight, op="conv", kernel=3, stride=2)
    assert found["0"].units == pytest.approx(wanted.units, rel=1e-5)
    pooled = fraction(net[0](images).detach(), kernel=3, stride=2)
    assert found["1"].units == pytest.approx(pooled.units, rel=1e-5)
