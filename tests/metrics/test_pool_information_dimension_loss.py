import itertools
import math

import numpy as np
import pytest
import torch
from builders import as_maps, every_pattern, make_pool, make_site, with_output
from scipy import stats

from cnnaudit import MetricError, measure
from cnnaudit.intervals import BoundedMean
from cnnaudit.metrics import registry
from cnnaudit.site import Op
from cnnaudit.statistics import Probe, View

METRIC = registry()["pool_information_dimension_loss"]
OPERATORS = ("max", "avg", "min", "stride")


def loss(x, field="loss", **facts):
    return measure(f"pool_information_dimension_loss.{field}", x, **facts)


def activity(entries, one_in):
    """All windows of entries that are active with probability 1 / one_in, active values all different."""
    active = every_pattern(entries, one_in) == one_in - 1
    return active * (torch.arange(entries) + 1.0)


def maps(images=150, units=2, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, units, size, size, generator=generator)
    return (x + torch.linspace(-1, 0.5, units)[:, None, None]).relu()


# --- closed forms by exact enumeration --------------------------------------------------------------------------


@pytest.mark.parametrize(("one_in", "known"), [(4, 0.3164), (2, 0.53125), (1, 0.75)])
def test_four_independent_values(one_in, known):
    x = as_maps(activity(4, one_in) if one_in > 1 else torch.arange(1.0, 5.0)[None], 2, 2)
    pi = 1 / one_in
    read = 4 * pi
    kept = {"max": 1 - (1 - pi) ** 4, "avg": 1 - (1 - pi) ** 4, "min": pi**4, "stride": pi}
    assert loss(x, "max").value == pytest.approx(known, abs=5e-5)
    for name in OPERATORS:
        assert loss(x, name).value == pytest.approx(1 - kept[name] / read)
        # The site's own operator is the default field, whatever the others would have lost.
        assert loss(x, op=name) == loss(x, name)
    assert loss(x).unit == "fraction"


def test_nine_independent_values():
    """2^9 patterns, each as often as P(1) = 1/4 says: 3 for every silent value."""
    active = every_pattern(9)
    windows = (active * (torch.arange(9) + 1.0)).repeat_interleave(3 ** (9 - active.sum(1)), dim=0)
    assert len(windows) == 4**9
    x = windows.reshape(256, 1024, 3, 3).movedim(1, 0).reshape(1024, 1, 256 * 3, 3)
    found = measure("pool_information_dimension_loss", x, kernel=3, windows=256)
    assert found.value == pytest.approx(0.5889, abs=5e-5)
    assert found.value == pytest.approx(1 - (1 - 0.75**9) / (9 * 0.25))


@pytest.mark.parametrize("op", OPERATORS)
def test_equal_values_in_a_window_lose_nothing(op):
    """Four equal values are one degree of freedom."""
    x = maps().repeat_interleave(2, 2).repeat_interleave(2, 3)
    found = loss(x, op=op)
    assert found.units == (0, 0)
    # No image differs, which leaves the doubt that some might: 1 - (alpha / 2)^(1 / images).
    assert found.lows == (0, 0)
    assert found.highs == pytest.approx([1 - 0.025 ** (1 / found.n_images)] * 2)


@pytest.mark.parametrize("op", OPERATORS)
def test_a_pool_of_one_value_loses_nothing(op):
    assert loss(maps(), kernel=1, stride=1, op=op).units == (0, 0)


def test_saturated_values_are_no_degree_of_freedom():
    """After ReLU6 a 6 is as mute as a 0: (6, 3, 0, 2) holds two values, of which max passes none."""
    site = make_pool((2, 2), atoms=(0.0, 6.0))
    x = torch.tensor([6.0, 3.0, 0.0, 2.0]).reshape(1, 1, 2, 2)
    probe = Probe(METRIC.reads, site, METRIC.taps, METRIC.options({}))
    statistic = METRIC.reads(probe, 1)
    statistic.fold(statistic.read(View({"input": x}, torch.tensor([0]), None, 0)), torch.tensor([0]))
    found = METRIC.evaluate(statistic, site, {"windows": 64})
    assert {name: float(v.value[0]) for name, v in found.items()} == {
        "loss": 1, "max": 1, "avg": 0.5, "min": 1, "stride": 1,
    }  # fmt: skip


def test_dense_maps_lose_all_values_but_one_under_every_operator():
    x = torch.rand(40, 2, 8, 8, generator=torch.Generator().manual_seed(1)) + 0.1
    assert [loss(x, name).units for name in OPERATORS] == [(0.75, 0.75)] * 4
    assert loss(x, kernel=3, stride=2).units == pytest.approx((8 / 9, 8 / 9))


# --- strided convolution ----------------------------------------------------------------------------------------


def dense(channels, size=6, images=20):
    return torch.rand(images, channels, size, size, generator=torch.Generator().manual_seed(2)) + 0.1


@pytest.mark.parametrize(
    ("channels", "units", "groups", "facts", "expected"),
    [
        (3, 3, 1, {"kernel": 3, "padding": 1}, 1 - 3 / 12),
        (3, 12, 1, {"kernel": 3, "padding": 1}, 0),  # as many outputs as values in a tile
        (3, 6, 1, {"kernel": 2}, 1 - 6 / 12),
        (3, 64, 1, {"kernel": 1}, 1 - 3 / 12),  # a 1x1 kernel reads one position of four
        (4, 4, 4, {"kernel": 3, "padding": 1}, 3 / 4),  # depthwise
        (4, 8, 2, {"kernel": 3, "padding": 1}, 1 - 4 / 8),
    ],
)
def test_a_dense_input_of_a_strided_convolution(channels, units, groups, facts, expected):
    found = loss(dense(channels), op="conv", stride=2, units=units, groups=groups, **facts)
    assert found.units == pytest.approx([expected] * groups)
    assert found.kernels == tuple(range(groups))
    assert found.low <= expected <= found.high


def test_a_sparse_input_of_a_strided_convolution():
    """One active value in a tile of twelve fits one output; six fit three outputs by half."""
    x = torch.zeros(2, 3, 2, 2)
    x[0, 1, 0, 1] = 0.7
    x[1, :, 0] = 0.9
    found = loss(x, op="conv", kernel=3, stride=2, padding=1, units=3)
    assert found.value == pytest.approx(1 - (1 + 3) / (1 + 6))


def test_only_downsampling_sites_are_meant():
    assert METRIC.where(make_pool())
    assert METRIC.where(make_site(Op.CONV, downsamples=True))
    assert not METRIC.where(make_site(Op.CONV))
    assert not METRIC.where(make_site(Op.CONV, downsamples=True, transposed=True))


# --- windows of unequal shape -----------------------------------------------------------------------------------


def evaluated(site, x, sources=None):
    probe = Probe(METRIC.reads, site, METRIC.taps, METRIC.options({}), clustered=sources is not None)
    statistic = METRIC.reads(probe, 16)
    own = torch.arange(len(x)) if sources is None else torch.tensor(sources)
    first = torch.tensor([int(i == own.tolist().index(s)) for i, s in enumerate(own.tolist())])
    statistic.fold(statistic.read(View({"input": x}, torch.arange(len(x)), None, 0)), own % 16, first)
    return METRIC.evaluate(statistic, site, {"windows": 64})


def naive_loss(x, spans):
    """Each operator's loss over windows whose active values are all different."""
    read, kept = 0, dict.fromkeys(OPERATORS, 0)
    for image, (rows, columns) in itertools.product(x, itertools.product(*spans)):
        active = (image[slice(*rows), slice(*columns)] > 0).flatten().tolist()
        read += sum(active)
        results = {"max": any(active), "avg": any(active), "min": all(active), "stride": active[0]}
        kept = {name: kept[name] + results[name] for name in kept}
    return {name: 1 - number / read for name, number in kept.items()}


@pytest.mark.parametrize(
    ("site", "spans"),
    [
        (
            with_output(make_pool((5, 7), 2, units=2), 3, 4),
            ([(0, 2), (2, 4), (4, 5)], [(0, 2), (2, 4), (4, 6), (6, 7)]),
        ),
        (
            with_output(make_pool((8, 8), 3, 2, units=2, padding=(0, 1)), 4, 5),
            # The rows' last window is cut off at 8; the columns' first and last read padding.
            ([(0, 3), (2, 5), (4, 7), (6, 8)], [(1, 4), (3, 6), (5, 8)]),
        ),
        (
            with_output(make_pool((5, 7), (), (), units=2), 3, 4),
            ([(0, 2), (1, 4), (3, 5)], [(0, 2), (1, 4), (3, 6), (5, 7)]),
        ),
        (with_output(make_pool((2, 2), (), (), units=2), 3, 2), ([(0, 1), (0, 2), (1, 2)], [(0, 1), (1, 2)])),
    ],
    ids=["ceil mode", "ceil mode and padding", "adaptive", "adaptive to more than there is"],
)
def test_windows_of_unequal_shape_count_with_what_they_hold(site, spans):
    x = maps(40, 2, 10)[..., : site.taps["input"].spatial[0], : site.taps["input"].spatial[1]]
    found = evaluated(site, x)
    for unit in range(2):
        assert {name: found[name].value[unit] for name in OPERATORS} == pytest.approx(naive_loss(x[:, unit], spans))


def test_dense_maps_in_ceil_mode():
    """3x3 dense values under 2x2 pools: windows of 4, 2, 2 and 1 of them, one kept of each."""
    x = torch.rand(40, 1, 3, 3, generator=torch.Generator().manual_seed(6)) + 0.1
    found = evaluated(with_output(make_pool((3, 3), 2), 2, 2), x)
    assert [found[name].value[0] for name in OPERATORS] == pytest.approx([1 - 4 / 9] * 4)


def test_sampled_windows_of_unequal_shape_estimate_all_of_them():
    """Windows of all shapes are equally probable: 25 of 676 are cut off on either side, and one on both."""
    generator = torch.Generator().manual_seed(7)
    x = torch.rand(400, 1, 51, 51, generator=generator) + 0.1
    x[..., -1, :] *= torch.rand(400, 1, 51, generator=generator) < 0.1
    site = with_output(make_pool((51, 51), 2), 26, 26)
    found, spans = evaluated(site, x), [(i, min(i + 2, 51)) for i in range(0, 51, 2)]
    truth = naive_loss(x[:20, 0], (spans, spans))["max"]
    low, high = found["loss"].interval(0.999)
    assert low[0] <= truth <= high[0]
    assert found["loss"].value[0] == pytest.approx(truth, abs=0.002)


def test_sources_that_hold_several_images_of_unequal_windows():
    x = maps(32, 24, size=7).repeat(4, 1, 1, 1)
    site = with_output(make_pool((7, 7), 2, units=24), 4, 4)
    alone, related = (evaluated(site, x, sources)["loss"] for sources in (None, list(range(32)) * 4))
    assert related.value == pytest.approx(alone.value)
    widths = [np.subtract(*found.interval(0.95)[::-1]) for found in (alone, related)]
    # Twice as wide, and somewhat more: sixteen groups tell the error by Student's t.
    assert np.median(widths[1] / widths[0]) == pytest.approx(2.15, rel=0.15)


def test_adaptive_pools_are_measured():
    assert METRIC.applies(with_output(make_pool((7, 7), (), ()), 3, 4), "loss", {}) is None
    assert METRIC.applies(make_pool((8, 8)), "loss", {}) is None
    assert METRIC.applies(make_pool((), (), ()), "loss", {}) == "a vector has no windows"


# --- interval ---------------------------------------------------------------------------------------------------


def test_the_interval_is_that_of_a_linearised_ratio():
    x = maps(60)
    found = loss(x)
    windows = x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)  # images, units, rows, columns, entries
    read = (windows > 0).sum((2, 3, 4)).double().numpy()
    kept = (windows > 0).any(-1).sum((2, 3)).double().numpy()
    ratio = kept.sum(0) / read.sum(0)
    error = stats.sem(kept - ratio * read) / read.mean(0)
    low, high = BoundedMean(1 - ratio, error, 60).interval(0.95)
    assert found.units == pytest.approx(1 - ratio)
    assert found.lows == pytest.approx(low)
    assert found.highs == pytest.approx(high)


def test_intervals_cover_the_truth():
    """Sparse maps of 100 images whose rates differ, 300 kernels."""
    generator = torch.Generator().manual_seed(3)
    rate = torch.where(torch.rand(100, 300, generator=generator) < 0.5, 0.1, 0.5)[..., None, None]
    x = (torch.rand(100, 300, 4, 4, generator=generator) < rate) * torch.rand(100, 300, 4, 4, generator=generator)
    kept, read = (1 - 0.9**4 + 1 - 0.5**4) / 2, 4 * (0.1 + 0.5) / 2
    found = loss(x)
    truth = 1 - kept / read
    covered = sum(low <= truth <= high for low, high in zip(found.lows, found.highs, strict=True))
    assert 0.91 * 300 <= covered <= 0.99 * 300


# --- laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", list(METRIC.fields))
def test_positive_rescaling_of_a_kernel_changes_nothing(field):
    scaled = maps() * torch.tensor([0.3, 700.0])[:, None, None]
    assert loss(scaled, field) == loss(maps(), field)


def test_duplicating_every_position_changes_nothing():
    for name in OPERATORS:
        wanted, found = loss(maps(), name), loss(maps().repeat(1, 1, 2, 2), name)
        for part in ("units", "lows", "highs"):
            assert getattr(found, part) == pytest.approx(getattr(wanted, part), rel=1e-9)


def test_duplicating_every_image_shrinks_intervals_by_the_root_of_two():
    one, two = loss(maps(100)), loss(torch.cat([maps(100)] * 2))
    assert two.units == pytest.approx(one.units)
    widths = np.subtract(one.highs, one.lows) / np.subtract(two.highs, two.lows)
    assert widths == pytest.approx([math.sqrt(199 / 99)] * 2, rel=0.01)


def test_channels_are_told_apart():
    x = maps(units=3)
    wanted, found = loss(x), loss(x[:, [2, 0, 1]])
    assert found.units == tuple(wanted.units[k] for k in (2, 0, 1))
    assert found.kernels == (0, 1, 2)


def test_min_of_negated_maps_is_max():
    x = torch.randn(40, 2, 6, 6, generator=torch.Generator().manual_seed(4)) * 2
    x = torch.where(x.abs() < 1, 0.0, x)
    assert loss(x, op="max") == loss(-x, op="min")
    assert loss(x, op="avg") == loss(-x, op="avg")


def test_sampled_windows_estimate_all_of_them():
    x = maps(300, size=32)
    every, some = loss(x, windows=256), loss(x, windows=16)
    assert some.units == pytest.approx(every.units, abs=0.02)
    assert all(low <= v <= high for low, v, high in zip(some.lows, every.units, some.highs, strict=True))


# --- edges ------------------------------------------------------------------------------------------------------


def test_a_kernel_that_is_never_active_has_nothing_to_lose():
    x = maps()
    x[:, 1] = 0
    found = loss(x)
    assert found.units[0] == loss(x[:, :1]).value
    assert math.isnan(found.units[1])  # 0 / 0


def test_one_image_tells_nothing_about_others():
    found = loss(maps(1))
    assert all(0 <= v <= 1 for v in found.units)
    assert (found.lows, found.highs) == ((0, 0), (1, 1))


def test_windows_of_other_dimensions():
    line = torch.tensor([[[1.0, 0.0, 2.0, 3.0, 4.0, 4.0]]])
    # Windows (1, 0), (2, 3), (4, 4) hold one, two and one values.
    assert loss(line).value == pytest.approx(1 - 3 / 4)
    assert loss(line, "min").value == pytest.approx(1 - 2 / 4)
    assert loss(line, "stride").value == pytest.approx(1 - 3 / 4)
    assert loss(torch.rand(3, 1, 4, 4, 4) + 0.1).value == pytest.approx(7 / 8)


def test_overlap_padding_and_dilation_choose_the_windows():
    x = maps(30, 1, 7)
    for kernel, stride, padding, dilation in itertools.product((2, 3), (1, 2), (0, 1), (1, 2)):
        found = loss(x, kernel=kernel, stride=stride, padding=padding, dilation=dilation)
        padded = torch.nn.functional.pad(x, (padding,) * 4, value=-1.0)
        columns = torch.nn.functional.unfold(padded, kernel, dilation=dilation, stride=stride)
        inside = (columns >= 0).all(1, keepdim=True)
        read = ((columns > 0) & inside).sum()
        kept = ((columns > 0).any(1, keepdim=True) & inside).sum()
        assert found.value == pytest.approx(float(1 - kept / read), abs=1e-6)


@pytest.mark.parametrize(
    ("facts", "field", "message"),
    [
        ({"kernel": 9}, "loss", "every window touches padding"),
        ({"op": "conv", "kernel": 3, "stride": 2}, "max", "a convolution has no other pooling operator"),
        ({"op": "conv", "kernel": 9, "stride": 9}, "loss", "every window touches padding"),
        ({"windows": 0}, "loss", "windows: .*greater than or equal to 1"),
        ({"levels": 4}, "loss", "levels: Extra inputs are not permitted; it knows windows, kernel"),
        ({"estimand": "dataset"}, "loss", "has no exact data-set value"),
    ],
)
def test_wrong_questions(facts, field, message):
    with pytest.raises(MetricError, match=message):
        loss(maps(4), field, **facts)


def test_vectors_have_no_windows():
    with pytest.raises(MetricError, match="does not apply"):
        loss(torch.rand(4, 3))


def gate(x, sources=None):
    probe = Probe(
        METRIC.reads, make_pool((8, 8), units=2), METRIC.taps, METRIC.options({}), clustered=sources is not None
    )
    statistic = METRIC.reads(probe, 4)
    ids = torch.arange(len(x))
    first = None if sources is None else torch.tensor([int(s not in sources[:i]) for i, s in enumerate(sources)])
    statistic.fold(statistic.read(View({"input": x}, ids, None, 0)), ids % 4, first)
    return METRIC.gate(statistic, probe.site, "loss", {})


def test_active_values_must_come_from_fifty_images():
    """All of one kernel's active values are in 20 of 200 images, in equal numbers; a silent kernel is 0 / 0 anyway."""
    x = dense(2, 8, 200)
    assert gate(x).images.tolist() == [0, 0]
    x[20:, 1] = 0
    assert gate(x).images.tolist() == [0, 500]
    assert gate(x).reason == "fewer than 50 images hold the active values of some units"
    related = gate(x, [i // 2 for i in range(200)])
    assert related.images.tolist() == [0, 500]  # 10 of 100 sources
    assert related.reason == "fewer than 50 sources hold the active values of some units"
    x[:, 1] = 0
    assert gate(x).images.tolist() == [0, 0]
    assert gate(x[:50]).images.tolist() == [0, 0]


def test_the_low_end_errs_as_seldom_as_it_should_where_the_gate_is_open():
    """1,000 kernels of 500 images, of which 1 % or 15 % are active at all."""
    generator = torch.Generator().manual_seed(5)
    for share, most in ((0.01, None), (0.15, 0.11)):
        rate = torch.tensor([0.0, 0.15, 0.9])[
            torch.rand(500, 500, generator=generator).sub(1 - share).div(share / 2).add(1).clamp(0, 2).long()
        ]
        x = (torch.rand(500, 500, 4, 4, generator=generator) < rate[..., None, None]).float()
        x = x * torch.rand(x.shape, generator=generator).add(0.1)
        kept, read = (2 - 0.85**4 - 0.1**4) / 2, 4 * (0.15 + 0.9) / 2
        found = loss(x, confidence=0.9)
        errs = np.mean(np.array(found.lows) > 1 - kept / read)
        assert errs > 0.1 if most is None else errs <= most
