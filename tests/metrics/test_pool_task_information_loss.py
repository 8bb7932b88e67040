import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import make_pool, make_site

import cnnaudit
from cnnaudit.information import mutual_information
from cnnaudit.metrics import registry
from cnnaudit.site import Op, Site, Tap
from cnnaudit.statistics import Probe, View
from cnnaudit.statistics.pool_sample import pooled
from cnnaudit.statistics.sampling import draw_images

fn = torch.nn.functional

METRIC = registry()["pool_task_information_loss"]
MODEL = {  # on in class 0, on in class 1: bits that the result of four values tells about the class
    (0.05, 0.25): {"avg": 0.2203, "max": 0.1914, "min": 0.0019, "stride": 0.0610},
    (0.4, 0.6): {"avg": 0.1096, "max": 0.0296, "min": 0.0296, "stride": 0.0290},
    (0.75, 0.95): {"avg": 0.2203, "max": 0.0019, "min": 0.1914, "stride": 0.0610},
}
RESULTS = {
    "max": lambda w: w.max(1)[0],
    "min": lambda w: w.min(1)[0],
    "avg": lambda w: w.sum(1),
    "stride": lambda w: w[:, 0],
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def a_pool(x, result, operator="max", **facts):
    taps = {name: Tap("", tuple(t.shape[1:])) for name, t in (("input", x), ("output", result))}
    rank = x.dim() - 2
    window = {
        name: (facts.pop(name, least),) * rank for name, least in (("kernel", 2), ("padding", 0), ("dilation", 1))
    }
    stride = (facts.pop("stride", window["kernel"][0]),) * rank
    return Site("pool", Op.POOL, x.shape[1], taps, operator=operator, stride=stride, **window, **facts)


def folded(site, x, result, labels, *, groups=None, **params):
    params = dict(METRIC.params(**params))
    taps = tuple(site.tap(tap) for tap in METRIC.taps)
    probe = Probe(METRIC.reads, site, taps, METRIC.options(params), clustered=groups is not None)
    statistic = METRIC.reads(probe, 64)
    for rows in torch.arange(len(labels)).split(50):
        shown = dict(zip(taps, (x[rows], result[rows]), strict=True))
        reading = statistic.read(View(shown, rows, labels[rows], 0))
        statistic.fold(reading, (rows if groups is None else groups[rows]) % 64)
    return statistic, params


def fields(site, x, result, labels, groups=None, **params):
    statistic, params = folded(site, x, result, labels, groups=groups, **params)
    return METRIC.evaluate(statistic, site, params)


def maps(n=160, classes=2, seed=0, size=6, lift=0.2):
    """Rectified maps of which each channel is brighter for some classes."""
    labels = torch.arange(n) % classes
    means = lift * torch.randn(classes, 3, generator=generator(seed))
    return (torch.randn(n, 3, size, size, generator=generator(seed)) + means[labels][..., None, None]).relu(), labels


# --- closed forms -----------------------------------------------------------------------------------------------


def windows():
    return torch.cartesian_prod(*[torch.arange(2)] * 4)


def chances(on):
    ones = windows().sum(1).double()
    return on**ones * (1 - on) ** (4 - ones)


@pytest.mark.parametrize("operator", list(RESULTS))
@pytest.mark.parametrize("on", list(MODEL))
def test_independent_binary_features(on, operator):
    """The model of Boureau, Ponce and LeCun, exactly."""
    result = RESULTS[operator](windows())
    joint = torch.stack([torch.zeros(5, dtype=torch.float64).index_add(0, result, chances(p)) / 2 for p in on])
    assert float(mutual_information(joint)) == pytest.approx(MODEL[on][operator], abs=5e-5)
    if operator == "avg":  # the sum is sufficient
        assert float(mutual_information(torch.stack([chances(p) / 2 for p in on]))) == pytest.approx(
            MODEL[on]["avg"], abs=5e-5
        )


@pytest.mark.parametrize("on", [(0.05, 0.25), (0.75, 0.95)])
def test_each_operator_keeps_what_the_model_says(on):
    """As many images of each window as are to be expected: what a reader gains is close to the closed form."""
    n = 400
    rows, labels = [], []
    for label, p in enumerate(on):
        counts = (chances(p) * n).round().long()
        rows.append(windows().repeat_interleave(counts, 0))
        labels += [label] * int(counts.sum())
    x = torch.cat(rows).float().reshape(-1, 1, 2, 2)
    labels = torch.tensor(labels)
    order = torch.randperm(len(x), generator=generator())
    x, labels = x[order], labels[order]
    found = fields(a_pool(x, x.amax((2, 3), keepdim=True)), x, x.amax((2, 3), keepdim=True), labels, images=1000)
    assert found["information_in"].value == pytest.approx([MODEL[on]["avg"]], abs=0.02)
    for operator, bits in MODEL[on].items():
        lost = found[f"relative_{operator}"]
        assert lost.value == pytest.approx([MODEL[on]["avg"] - bits], abs=0.02), operator
        low, high = lost.interval(0.95)
        assert low[0] < MODEL[on]["avg"] - bits + 0.02
        assert high[0] > MODEL[on]["avg"] - bits - 0.02
    assert found["information_out"].value == pytest.approx([MODEL[on]["max"]], abs=0.02)
    assert found["per_byte"].value == pytest.approx([4 * MODEL[on]["max"] / MODEL[on]["avg"]], abs=0.25)


def test_it_is_the_drop_of_bottleneck():
    x, labels = maps()
    y = fn.max_pool2d(x, 2)
    found = fields(a_pool(x, y), x, y, labels)
    other = cnnaudit.measure("bottleneck.drop", x, y, labels=labels)
    assert found["bits"].value == pytest.approx([other.value], abs=1e-6)
    low, high = found["bits"].interval(0.95)
    assert (low[0], high[0]) == pytest.approx((other.low, other.high), abs=1e-4)
    assert found["relative"].value == found["relative_max"].value
    assert found["bits"].value == pytest.approx(found["information_in"].value - found["information_out"].value)


def test_a_mean_readout_sees_average_pooling_lose_nothing():
    x, labels = maps()
    y = fn.max_pool2d(x, 2)
    found = fields(a_pool(x, y), x, y, labels, readout="mean")
    assert found["relative_avg"].value == pytest.approx([0], abs=1e-4)
    assert found["relative_max"].value[0] != pytest.approx(0, abs=1e-4)


def test_nothing_is_lost_of_maps_that_repeat_each_value():
    """Whatever the operator, the result is the map before it was enlarged."""
    small, labels = maps(lift=0.4)
    x = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    found = fields(a_pool(x, small), x, small, labels)
    for operator in RESULTS:
        assert found[f"relative_{operator}"].value == pytest.approx([0], abs=1e-4), operator
    assert found["per_byte"].value == pytest.approx([4], abs=1e-3)
    low, high = found["per_byte"].interval(0.95)
    assert 3.5 < low[0] < 4 < high[0] < 4.5


def test_constant_maps_hold_nothing():
    x, labels = torch.ones(100, 2, 4, 4), torch.arange(100) % 2
    y = fn.avg_pool2d(x, 2)
    found = fields(a_pool(x, y, "avg"), x, y, labels)
    assert found["bits"].value == [0]
    assert found["relative_min"].value == [0]
    assert math.isnan(found["per_byte"].value[0])


def test_bits_per_million_multiplications():
    x, labels = maps()
    y = fn.max_pool2d(x, 2)
    found = fields(a_pool(x, y, macs_after=4_000_000), x, y, labels, alternatives=False)
    assert found["per_mmac"].value == pytest.approx(found["information_out"].value / 4)
    assert found["per_mmac"].error == pytest.approx(found["information_out"].error / 4)
    assert math.isnan(fields(a_pool(x, y), x, y, labels, alternatives=False)["per_mmac"].value[0])


def test_per_byte_is_unknown_where_nothing_is_usable():
    x, _ = maps(200)
    y = fn.max_pool2d(x, 2)
    labels = torch.randint(0, 2, (200,), generator=generator(3))
    low, high = fields(a_pool(x, y), x, y, labels, alternatives=False)["per_byte"].interval(0.95)
    assert (low[0], high[0]) == (-math.inf, math.inf)


# --- other operators --------------------------------------------------------------------------------------------


def naive(x, operator, outputs, window):
    """Window by window, from the definition."""
    kernel, stride, padding, dilation = window
    x = np.asarray(x)
    found = np.zeros((*x.shape[:2], *outputs))
    for at in np.ndindex(*outputs):
        reach = [
            [p for p in (i * stride - padding + j * dilation for j in range(kernel)) if 0 <= p < size]
            for i, size in zip(at, x.shape[2:], strict=True)
        ]
        values = x[:, :, *np.ix_(*reach)].reshape(*x.shape[:2], -1)
        reduce = {"max": np.max, "min": np.min, "avg": np.mean, "stride": lambda v, axis: v[..., 0]}[operator]
        if values.shape[-1]:
            found[:, :, *at] = reduce(values, axis=-1)
    return torch.from_numpy(found)


@pytest.mark.parametrize("operator", list(RESULTS))
@pytest.mark.parametrize(
    ("shape", "outputs", "window"),
    [
        ((6, 8), (3, 4), (2, 2, 0, 1)),
        ((7, 7), (4, 4), (3, 2, 1, 1)),
        ((7, 6), (4, 3), (2, 2, 0, 1)),  # ceil_mode
        ((9, 9), (3, 3), (3, 2, 0, 2)),
        ((8,), (4,), (3, 2, 1, 2)),
        ((4, 4, 4), (2, 2, 2), (2, 2, 0, 1)),
        ((5, 5), (1, 1), (5, 5, 0, 1)),
        ((5, 5), (), (5, 5, 0, 1)),
        ((4,), (4,), (2, 2, 0, 1)),  # the last windows hold nothing
    ],
)
def test_operators_window_by_window(operator, shape, outputs, window):
    x = torch.randn(2, 3, *shape, generator=generator(), dtype=torch.float64)
    kernel, stride, padding, dilation = window
    site = make_pool(shape, kernel, stride, units=3, padding=padding, dilation=dilation)
    wanted = naive(x, operator, outputs or (1,) * len(shape), window).reshape(2, 3, *outputs)
    assert pooled(x, site, operator, outputs).numpy() == pytest.approx(wanted.numpy(), abs=1e-12)


def test_operators_are_those_of_torch():
    x = torch.randn(2, 3, 9, 11, generator=generator())
    site = make_pool((9, 11), 3, 2, units=3, padding=1)
    for name, wanted in (
        ("max", fn.max_pool2d(x, 3, 2, 1)),
        ("min", -fn.max_pool2d(-x, 3, 2, 1)),
        ("avg", fn.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
    ):
        assert pooled(x, site, name, (5, 6)) == pytest.approx(wanted, abs=1e-6), name


def test_adaptive_windows_differ_in_shape():
    x = torch.randn(2, 3, 7, 5, generator=generator())
    site = SimpleNamespace(kernel=(), stride=(), padding=(), dilation=())
    for name, wanted in (
        ("max", fn.adaptive_max_pool2d(x, (3, 2))),
        ("min", -fn.adaptive_max_pool2d(-x, (3, 2))),
        ("avg", fn.adaptive_avg_pool2d(x, (3, 2))),
        ("stride", x[:, :, [0, 2, 4]][..., [0, 2]]),
    ):
        assert pooled(x, site, name, (3, 2)) == pytest.approx(wanted, abs=1e-6), name


def test_whole_numbers_are_pooled_as_numbers():
    x = torch.randint(0, 5, (2, 1, 4, 4), generator=generator())
    site = make_pool((4, 4))
    assert torch.equal(pooled(x, site, "min", (2, 2)), -fn.max_pool2d(-x.float(), 2))


# --- laws -------------------------------------------------------------------------------------------------------


def test_scales_shifts_and_the_order_of_channels_change_nothing():
    x, labels = maps()
    moved = (x * torch.tensor([2.0, 0.5, 8.0])[:, None, None] + 3).flip(1)
    one, other = (fields(a_pool(t, fn.max_pool2d(t, 2)), t, fn.max_pool2d(t, 2), labels) for t in (x, moved))
    for field in ("bits", "relative_avg", "relative_min", "relative_stride", "per_byte"):
        assert one[field].value == pytest.approx(other[field].value, abs=5e-3), field


def test_a_loss_is_paired():
    """The result differs from the input by a little noise: the interval is far narrower than those of the two ends."""
    small, labels = maps()
    x = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = x + 0.02 * torch.randn(x.shape, generator=generator(5))
    y = fn.max_pool2d(x, 2)
    found = fields(a_pool(x, y), x, y, labels)
    for field in ("bits", "relative_avg"):
        assert 0 < found[field].error[0] < 0.5 * found["information_in"].error[0], field


def test_copies_of_images_count_once():
    x, labels = maps(60)
    x, labels = x.repeat_interleave(3, 0), labels.repeat_interleave(3)
    y, groups = fn.max_pool2d(x, 3), torch.arange(60).repeat_interleave(3)
    found = fields(a_pool(x, y, kernel=3), x, y, labels, groups, alternatives=False)
    alone = fields(a_pool(x, y, kernel=3), x[::3], y[::3], labels[::3], torch.arange(60), alternatives=False)
    assert 0.5 < found["bits"].error[0] / alone["bits"].error[0] < 2
    (a, b), (c, d) = (each["per_byte"].interval(0.95) for each in (found, alone))
    assert math.isinf(b[0]) or math.isinf(d[0]) or 0.4 < (b[0] - a[0]) / (d[0] - c[0]) < 2.5


@pytest.mark.parametrize(("images", "classes"), [(1, 1), (10, 2), (60, 1)])
def test_where_there_is_too_little_there_is_no_value(images, classes):
    x, _ = maps(images)
    y = fn.max_pool2d(x, 2)
    found = fields(a_pool(x, y), x, y, torch.arange(images) % classes)
    assert all(math.isnan(found[field].value[0]) for field in ("bits", "relative", "relative_avg", "per_byte"))
    assert found["per_byte"].p_at_most(0) == found["per_byte"].p_at_least(0) == [1]


# --- where it applies -------------------------------------------------------------------------------------------


def test_where_it_has_no_meaning():
    x, _ = maps()
    y = fn.max_pool2d(x, 2)
    params = dict(METRIC.params())
    assert METRIC.applies(a_pool(x, y), "relative_min", params) is None
    assert "gate" in METRIC.applies(a_pool(x, y, steers=True), "bits", params)
    assert "alternatives" in METRIC.applies(a_pool(x, y), "relative_min", params | {"alternatives": False})
    assert "no convolution or linear layer" in METRIC.applies(a_pool(x, y), "per_mmac", params)
    assert METRIC.applies(a_pool(x, y, macs_after=5), "per_mmac", params) is None
    conv = make_site(Op.CONV, taps=("input", "output", "response"), kernel=3, stride=2, downsamples=True)
    assert METRIC.where(conv)
    assert METRIC.applies(conv, "bits", params) is None
    assert "other pooling operator" in METRIC.applies(conv, "relative_max", params)
    assert not METRIC.where(make_site(Op.CONV, taps=("input", "response"), kernel=3, stride=1))
    assert not METRIC.where(make_site(Op.CONV, taps=("input", "response"), transposed=True, downsamples=True))


def test_a_strided_convolution_has_no_other_operators():
    x, labels = maps()
    y = fn.conv2d(x, torch.randn(4, 3, 2, 2, generator=generator()), stride=2).relu()
    taps = {name: Tap("", tuple(t.shape[1:])) for name, t in (("input", x), ("response", y))}
    site = Site("conv", Op.CONV, 4, taps, kernel=(2, 2), stride=(2, 2), downsamples=True)
    statistic, params = folded(site, x, y, labels)
    assert not statistic.alternatives
    found = METRIC.evaluate(statistic, site, params)
    assert found["bits"].value == pytest.approx(found["information_in"].value - found["information_out"].value)
    assert math.isnan(found["relative_max"].value[0])
    ratio = found["information_out"].value / found["information_in"].value
    assert found["per_byte"].value == pytest.approx(ratio * (3 * 36) / (4 * 9))


def test_a_global_pool_reads_single_values():
    x, labels = maps()
    for y in (x.mean((2, 3)), x.mean((2, 3), keepdim=True)):
        site = a_pool(x, y, "avg", kernel=6, is_global=True)
        statistic, params = folded(site, x, y, labels)
        drawn = x[draw_images(torch.arange(len(x)), 0).argsort()].double()
        assert torch.equal(statistic.alternatives["max"], drawn.amax((2, 3)))
        assert torch.equal(statistic.alternatives["stride"], drawn[:, :, 0, 0])
        found = METRIC.evaluate(statistic, site, params)
        assert found["relative"].value == found["relative_avg"].value
        assert found["relative_stride"].value > found["relative"].value + 0.02


def test_measured_on_tensors():
    x, labels = maps(size=6)
    y = fn.max_pool2d(x, 3, 1, 1)
    facts = {"labels": labels, "kernel": 3, "stride": 1, "padding": 1}
    found = cnnaudit.measure("pool_task_information_loss", x, y, **facts)
    assert found.unit == "bits"
    assert found.low < found.value < found.high
    other = cnnaudit.measure("pool_task_information_loss.relative_avg", x, y, **facts)
    assert other.value < found.value
    sources = torch.arange(160) // 2
    grouped = cnnaudit.measure("pool_task_information_loss.per_byte", x, y, sources=sources, **facts)
    assert grouped.low < grouped.value < grouped.high
