import math

import numpy as np
import pytest
import torch
from builders import make_site
from torch.nn.functional import interpolate

from cnnaudit import MetricError, measure
from cnnaudit.metrics import registry
from cnnaudit.statistics import Probe, View

METRIC = registry()["iou"]
FIELDS = ("best", "plugin_best", "cap", "chance")


def folded(x, masks, groups=None, *, quantile=0.005, positions=256, clustered=False, first=None):
    """The statistic of maps whose images belong to these groups, by default 16 in turn."""
    site = make_site(units=x.shape[1], shape=tuple(x.shape[2:]), nonnegative=False)
    options = METRIC.options({"quantile": quantile, "positions": positions})
    statistic = METRIC.reads(Probe(METRIC.reads, site, METRIC.taps, options, clustered=clustered), 16)
    reading = statistic.read(View({"response": x}, torch.arange(len(x)), None, 0, masks))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:64]
    statistic.calibrate([{name: rows[order] for name, rows in reading.items()}])
    statistic.fold(reading, torch.arange(len(x)) % 16 if groups is None else groups, first)
    return statistic


def fields(x, masks, groups=None, **options):
    """Every field's Uncertain."""
    statistic = folded(x, masks, groups, **options)
    return METRIC.evaluate(statistic, statistic.probe.site, {"quantile": options.get("quantile", 0.005)})


def values(x, masks, groups=None, **options):
    return {name: found.value for name, found in fields(x, masks, groups, **options).items()}


def noise(images, kernels, *size, seed=0):
    return torch.randn(images, kernels, *size, generator=torch.Generator().manual_seed(seed))


def places(images, *size, share=0.1, seed=1):
    """One concept on a share of the positions, True and False of shape (images, 1, *size)."""
    return torch.rand(images, 1, *size, generator=torch.Generator().manual_seed(seed)) < share


def repeated(rows, images=32):
    return torch.tensor(rows, dtype=torch.float32).expand(images, 1, -1, -1).clone()


# --- closed forms -----------------------------------------------------------------------------------------------


def test_an_unrelated_map_has_the_iou_of_chance():
    """q pi / (q + pi - q pi) = .0048 with q = .005, pi = .1."""
    x = noise(64, 20, 4000)
    found = values(x, places(64, 4000), positions=4000)
    assert pytest.approx(0.0048, abs=2e-5) == 0.005 * 0.1 / (0.005 + 0.1 - 0.005 * 0.1)
    assert found["chance"] == pytest.approx([0.0048] * 20, abs=3e-5)
    assert found["best"].mean() == pytest.approx(0.0048, abs=1e-4)
    assert found["cap"] == pytest.approx([0.05] * 20, abs=1e-3)


def test_a_perfect_detector():
    """Its mask is the concept where the quantile is the concept's share."""
    shown = torch.zeros(32, 1, 10, 10, dtype=torch.bool)
    shown[:, :, 3, :] = True
    found = values(shown.float(), shown, quantile=0.1)
    assert [found[name][0] for name in FIELDS] == pytest.approx([1, 1, 1, 0.01 / 0.19])


def test_maps_made_by_hand():
    """M is the top row, the concepts are the upper half, the left column and a corner."""
    x = repeated([[9, 8, 7, 6], [3, 3, 3, 3], [2, 2, 2, 2], [1, 1, 1, 1]])
    shown = torch.zeros(32, 3, 4, 4, dtype=torch.bool)
    shown[:, 0, :2], shown[:, 1, :, 0], shown[:, 2, 3, 3] = True, True, True
    found = values(x, shown, quantile=0.25)
    assert [found[name][0] for name in FIELDS] == pytest.approx([4 / 8, 4 / 8, 4 / 8, 0.125 / 0.625])
    found = values(x, shown[:, 1:], quantile=0.25)
    assert [found[name][0] for name in FIELDS] == pytest.approx([1 / 7, 1 / 7, 1, 1 / 7])


def test_dense_labels_are_concepts_but_for_what_is_unlabelled():
    x = repeated([[9, 8, 7, 6], [3, 3, 3, 3], [2, 2, 2, 2], [1, 1, 1, 1]])
    labels = torch.tensor([[1, 1, -1, -1], [1, 1, -1, -1], [0, 0, 2, 2], [0, 0, 2, 2]], dtype=torch.int16)
    # 12 positions are known; the top 2 of them are half of class 1.
    found = values(x, labels.expand(32, 4, 4), quantile=2 / 12)
    assert [found[name][0] for name in FIELDS] == pytest.approx([0.5, 0.5, 0.5, (1 / 18) / (1 / 6 + 1 / 3 - 1 / 18)])


# --- references and laws --------------------------------------------------------------------------------------------


def naive(x, masks, quantile):
    """Best IoU over concepts on all images, from whole maps."""
    full = interpolate(x.double(), size=masks.shape[2:], mode="bilinear", align_corners=False).numpy()
    shown, best = masks.numpy(), []
    for kernel in range(x.shape[1]):
        ordered = sorted(full[:, kernel].flatten())
        above = full[:, kernel] > ordered[len(ordered) - 1 - math.floor(quantile * len(ordered))]
        both = [(above & shown[:, c]).sum() / (above | shown[:, c]).sum() for c in range(shown.shape[1])]
        best.append(max(both))
    return best


@pytest.mark.parametrize("quantile", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("size", [(4, 4), (9, 7), (3, 5)])
def test_it_is_that_of_whole_upsampled_maps(quantile, size):
    x = noise(48, 5, 4, 4).double()
    x[:, 0] += 2 * interpolate(places(48, *size).double(), size=(4, 4))[:, 0]
    masks = torch.cat([places(48, *size), places(48, *size, share=0.4, seed=3)], 1)
    found = values(x, masks, quantile=quantile)
    assert found["plugin_best"] == pytest.approx(naive(x, masks, quantile), rel=1e-12)


def case(images=96):
    masks = torch.cat([places(images, 6, 6, share=s, seed=s100) for s, s100 in ((0.1, 1), (0.3, 2), (0.5, 3))], 1)
    x = noise(images, 4, 6, 6)
    x[:, 1] += 2 * masks[:, 1]
    x[:, 2] += 9 * masks[:, 0]
    return x, masks


def same(a, b):
    for name in FIELDS:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-12)


def test_scale_and_shift_change_nothing():
    x, masks = case()
    for other in (4 * x, x / 8, x + 64):
        same(values(other, masks, quantile=0.1), values(x, masks, quantile=0.1))


def test_kernels_keep_their_values_in_any_order():
    x, masks = case()
    order = [2, 0, 3, 1]
    found = values(x, masks, quantile=0.1)
    same(values(x[:, order], masks, quantile=0.1), {name: value[order] for name, value in found.items()})


def test_concepts_may_come_in_any_order():
    x, masks = case()
    same(values(x, masks[:, [2, 0, 1]], quantile=0.1), values(x, masks, quantile=0.1))


def test_images_may_come_in_any_order():
    x, masks = case(64)
    groups, order = torch.arange(64) % 16, torch.randperm(64, generator=torch.Generator().manual_seed(0))
    same(values(x[order], masks[order], groups[order], quantile=0.1), values(x, masks, groups, quantile=0.1))


def test_repeated_positions_change_nothing():
    x, masks = case()
    doubled = [t.repeat_interleave(2, -1).repeat_interleave(2, -2) for t in (x, masks)]
    same(values(*doubled, quantile=0.1), values(x, masks, quantile=0.1))


def test_noise_has_a_best_concept_that_plugging_in_overrates():
    masks = torch.cat([places(64, 100, share=0.02, seed=s) for s in range(30)], 1)
    found = values(noise(64, 30, 100), masks, quantile=0.02)
    assert found["plugin_best"].mean() > 1.7 * found["chance"].mean()
    assert found["best"].mean() == pytest.approx(found["chance"].mean(), rel=0.15)


# --- intervals -----------------------------------------------------------------------------------------------------


def dependent(images, kernels, seed):
    """A detector whose hits and misses go by image."""
    generator = torch.Generator().manual_seed(seed)
    shown = (torch.rand(images, 1, 1, generator=generator) < 0.5) & (torch.arange(64) < 32).reshape(1, 1, 64)
    hits = torch.rand(images, kernels, 1, generator=generator) < 0.6
    return (shown & hits).float() * 2 + torch.rand(images, kernels, 64, generator=generator), shown


def test_intervals_are_over_images():
    """An image is hit or missed as a whole with probability .6, which is also the IoU, M being .15 of all."""
    x, shown = dependent(128, 100, 0)
    statistic = folded(x, shown, quantile=0.15)
    statistic.calibration["threshold"].fill_(1.5)
    statistic.calibration["edges"] = torch.linspace(0.1, 1.5, 63, dtype=torch.float64).expand(100, -1).contiguous()
    statistic.tally.clear()
    statistic.fold(statistic.read(View({"response": x}, torch.arange(128), None, 0, shown)), torch.arange(128) % 16)
    found = METRIC.evaluate(statistic, statistic.probe.site, {"quantile": 0.15})["best"]
    low, high = found.interval(0.95)
    assert 0.9 <= ((low <= 0.6) & (high >= 0.6)).mean() <= 0.99
    # Of about 64 images that show it; as many positions would have a 32nd of the variance.
    assert (high - low).mean() == pytest.approx(2 * 2.13 * math.sqrt(0.6 * 0.4 / 64), rel=0.2)


def test_sources_tell_larger_errors_than_their_images():
    x, shown = dependent(64, 20, 1)
    x = (x > 1.5).float()
    many = [torch.cat([t] * 8) for t in (x, shown)]
    source, first = torch.arange(512) % 64, (torch.arange(512) < 64).long()
    dealt = torch.randperm(512, generator=torch.Generator().manual_seed(0)) % 16
    apart = fields(*many, dealt, quantile=0.3)["best"].interval(0.95)
    whole = fields(*many, source % 16, quantile=0.3, clustered=True, first=first)["best"].interval(0.95)
    once = fields(x, shown, quantile=0.3)["best"].interval(0.95)
    assert (whole[1] - whole[0]).mean() > 2 * (apart[1] - apart[0]).mean()
    assert (whole[1] - whole[0]).mean() == pytest.approx((once[1] - once[0]).mean(), rel=0.05)


def test_chance_is_not_refuted_by_noise():
    masks = torch.cat([places(64, 100, share=0.1, seed=s) for s in range(5)], 1)
    found = fields(noise(64, 60, 100), masks, quantile=0.1)
    low, _ = found["best"].interval(0.95)
    assert (low <= found["chance"].value + 1e-12).mean() >= 0.97
    assert (found["best"].p_at_most(0.2) > 0.05).all()


# --- where there is nothing -----------------------------------------------------------------------------------------


def test_kernels_that_never_vary_cover_nothing():
    x, masks = case()
    x[:, 0], x[:, 3] = 0, 5
    found = fields(x, masks, quantile=0.1)
    for name in FIELDS:
        assert found[name].value[[0, 3]].tolist() == [0, 0]
    low, high = found["best"].interval(0.95)
    assert low[0] == 0
    assert 0 < high[0] < 0.1
    assert found["best"].p_at_least(0.2)[0] < 1e-6


def test_a_kernel_at_its_ceiling_is_on_there():
    masks = places(64, 6, 6, share=0.3)
    x = (noise(64, 1, 6, 6).abs() + 10 * masks).clamp(max=6)
    assert values(x, masks)["best"] == pytest.approx([1])


def test_of_one_image_nothing_is_known():
    x, masks = case(1)
    found = fields(x, masks)
    assert np.isnan(found["best"].value).all()


@pytest.mark.parametrize("masks", [torch.zeros(64, 2, 6, 6, dtype=torch.bool), -torch.ones(64, 6, 6).short()])
def test_without_a_concept_there_is_no_value(masks):
    found = fields(noise(64, 3, 6, 6), masks)
    for name in FIELDS:
        assert np.isnan(found[name].value).all()
    assert (found["best"].p_at_most(0.5) == 1).all()


def test_a_concept_that_fills_everything():
    masks = torch.ones(64, 1, 6, 6, dtype=torch.bool)
    found = values(noise(64, 1, 6, 6), masks, quantile=0.25)
    assert found["best"] == found["cap"] == found["chance"] == pytest.approx([0.25], abs=1e-3)


def test_30_images_must_show_the_chosen_concept():
    x, masks = case(64)
    masks = masks.clone()
    masks[20:, 0] = False  # kernel 2 is its detector
    statistic = folded(x, masks, quantile=0.1)
    gate = METRIC.gate(statistic, statistic.probe.site, "best", {"quantile": 0.1})
    shown = int(masks[:, 0].flatten(1).any(1).sum())
    assert gate.images.tolist() == [0, 0, math.ceil(30 * 64 / shown), 0]
    assert gate.reason == f"a chosen concept is in {shown} images, and 30 are needed"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [({"shape": (1, 1)}, "one position"), ({"shape": (1,), "steers": True}, "only steers a gate"), ({}, None)],
)
def test_where_it_applies(facts, reason):
    found = METRIC.applies(make_site(**facts), "best", {})
    assert found is None if reason is None else reason in found


# --- measure --------------------------------------------------------------------------------------------------------


def test_measure():
    x, masks = case(200)
    found = measure("iou", x, masks=masks, quantile=0.1)
    assert (found.unit, found.n_images) == ("IoU", 200)
    assert found.units[2] > 0.85
    assert found.units == pytest.approx(measure("iou.best", x, masks=masks.numpy(), quantile=0.1, block=7).units)
    assert measure("iou.cap", x, masks=masks, quantile=0.1).units[2] == pytest.approx(1, abs=0.15)
    dense = masks[:, 0].long()
    grouped = measure("iou", x, masks=dense, quantile=0.1, sources=[i // 4 for i in range(200)])
    assert grouped.units[2] == pytest.approx(measure("iou", x, masks=dense, quantile=0.1).units[2], abs=0.05)


def test_measure_tells_what_is_wrong():
    x, masks = case(20)
    with pytest.raises(MetricError, match="iou needs masks"):
        measure("iou", x)
    with pytest.raises(MetricError, match="20 images but 19 masks"):
        measure("iou", x, masks=masks[1:])
    with pytest.raises(MetricError, match="a map of one position"):
        measure("iou", x[..., 0, 0], masks=masks)
    with pytest.raises(MetricError, match="no exact data-set value"):
        measure("iou", x, masks=masks, estimand="dataset")
