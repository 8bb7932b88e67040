import math

import numpy as np
import pytest
import torch
from builders import make_site
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch.nn.functional import interpolate

from cnnaudit import MetricError, measure
from cnnaudit.intervals import delong
from cnnaudit.metrics import registry
from cnnaudit.statistics import Probe, View

METRIC = registry()["position_auroc"]
FIELDS = ("best", "plugin_best", "resolution")


def folded(x, masks, groups=None, *, positions=10_000, clustered=False, first=None):
    """The statistic of maps whose images belong to these groups, by default 16 in turn."""
    site = make_site(units=x.shape[1], shape=tuple(x.shape[2:]), nonnegative=False)
    options = METRIC.options({"positions": positions})
    statistic = METRIC.reads(Probe(METRIC.reads, site, METRIC.taps, options, clustered=clustered), 16)
    reading = statistic.read(View({"response": x}, torch.arange(len(x)), None, 0, masks))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:64]
    statistic.calibrate([{name: rows[order] for name, rows in reading.items()}])
    statistic.fold(reading, torch.arange(len(x)) % 16 if groups is None else groups, first)
    return statistic


def fields(x, masks, groups=None, **options):
    """Every field's Uncertain."""
    statistic = folded(x, masks, groups, **options)
    return METRIC.evaluate(statistic, statistic.probe.site, {})


def values(x, masks, groups=None, **options):
    return {name: found.value for name, found in fields(x, masks, groups, **options).items()}


def noise(images, kernels, *size, seed=0):
    return torch.randn(images, kernels, *size, generator=torch.Generator().manual_seed(seed))


def places(images, *size, share=0.3, seed=1):
    """One concept on a share of the positions, True and False of shape (images, 1, *size)."""
    return torch.rand(images, 1, *size, generator=torch.Generator().manual_seed(seed)) < share


# --- closed forms -----------------------------------------------------------------------------------------------


def test_ties_count_half():
    """Positives {1, 1, 0}, negatives {1, 0, 0}: of 9 pairs 4 are in order and 4 are tied."""
    x = torch.tensor([1.0, 1, 0, 1, 0, 0]).expand(32, 1, 6)
    found = values(x, torch.tensor([1, 1, 1, 0, 0, 0]).expand(32, 6).short())
    assert found["best"] == found["plugin_best"] == pytest.approx([6 / 9])


def test_normal_responses():
    """d' = 1: .76025."""
    shown = places(64, 2000)
    found = values(noise(64, 4, 2000) + shown, shown)
    assert stats.norm.cdf(1 / math.sqrt(2)) == pytest.approx(0.76025, abs=1e-5)
    assert found["best"] == pytest.approx([0.76025] * 4, abs=0.005)
    assert found["resolution"] == pytest.approx([0.5 / 56] * 4, rel=0.2)


def test_exponential_responses():
    """Rates 1 and 2: 2 / 3."""
    shown = places(64, 2000)
    x = torch.empty(64, 4, 2000).exponential_(generator=torch.Generator().manual_seed(2)) * (1 + shown)
    assert values(x, shown)["best"] == pytest.approx([2 / 3] * 4, abs=0.005)


def test_a_perfect_detector():
    shown = places(64, 8, 8)
    found = values(noise(64, 1, 8, 8).abs() * shown, shown)
    assert [found[name][0] for name in FIELDS] == [1, 1, 0]


# --- references and laws --------------------------------------------------------------------------------------------


def test_it_is_that_of_scikit_learn_on_whole_upsampled_maps():
    """But for ties within levels, which resolution bounds; a few values are levels of their own."""
    labels = torch.randint(-1, 3, (48, 9, 7), generator=torch.Generator().manual_seed(5)).short()
    x = torch.randint(0, 3, (48, 4, 4, 4), generator=torch.Generator().manual_seed(6)).float()
    smooth = noise(48, 4, 4, 4)
    known = (labels >= 0).flatten().numpy()

    def wanted(maps):
        full = interpolate(maps, size=(9, 7), mode="bilinear", align_corners=False).movedim(1, -1).flatten(0, 2)
        shown = labels.flatten().numpy()[known]
        return [max(roc_auc_score(shown == c, full[known, k].numpy()) for c in range(3)) for k in range(4)]

    found = values(smooth, labels)
    assert (np.abs(found["plugin_best"] - wanted(smooth)) < 0.001).all()
    assert (found["resolution"] < 0.01).all()
    assert values(x, (x[:, 0] > 1).short())["plugin_best"][1:] == pytest.approx(
        [
            max(a, 1 - a)
            for a in (roc_auc_score((x[:, 0] > 1).flatten().numpy(), x[:, k].flatten().numpy()) for k in (1, 2, 3))
        ],
        abs=1e-12,
    )


def case(images=96):
    masks = torch.cat([places(images, 6, 6, share=s, seed=s100) for s, s100 in ((0.1, 1), (0.3, 2), (0.5, 3))], 1)
    x = noise(images, 4, 6, 6)
    x[:, 1] += masks[:, 1]
    x[:, 2] += 9 * masks[:, 0]
    return x, masks


def same(a, b):
    for name in FIELDS:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-12)


def test_scale_and_shift_change_nothing():
    x, masks = case()
    for other in (4 * x, x / 8, 8 * x + 64):
        for name, value in values(x, masks).items():
            np.testing.assert_allclose(values(other, masks)[name], value, rtol=1e-3)


def test_kernels_keep_their_values_in_any_order():
    x, masks = case()
    order = [2, 0, 3, 1]
    same(values(x[:, order], masks), {name: value[order] for name, value in values(x, masks).items()})


def test_many_kernels_are_worked_through_a_few_at_a_time(monkeypatch):
    x, masks = case()
    whole = values(x, masks)
    monkeypatch.setattr("cnnaudit.metrics.position_auroc._CELLS", 2 * 64 * 3)
    same(values(x, masks), whole)


def test_images_may_come_in_any_order():
    x, masks = case(64)
    groups, order = torch.arange(64) % 16, torch.randperm(64, generator=torch.Generator().manual_seed(0))
    same(values(x[order], masks[order], groups[order]), values(x, masks, groups))


def test_repeated_positions_change_nothing():
    x, masks = case()
    doubled = [t.repeat_interleave(2, -1).repeat_interleave(2, -2) for t in (x, masks)]
    # But for the last place of a level's edge.
    assert values(*doubled)["best"] == pytest.approx(values(x, masks)["best"], abs=1e-4)


def test_a_sample_of_positions_tells_nearly_the_same():
    x, masks = case(400)
    assert values(x, masks, positions=9)["best"][1:3] == pytest.approx(values(x, masks)["best"][1:3], abs=0.03)


def test_noise_has_a_best_concept_that_plugging_in_overrates():
    masks = torch.cat([places(64, 100, share=0.02, seed=s) for s in range(30)], 1)
    found = values(noise(64, 30, 100), masks)
    assert found["plugin_best"].mean() > 0.53
    assert found["best"].mean() == pytest.approx(0.5, abs=0.01)


# --- intervals -----------------------------------------------------------------------------------------------------


def test_intervals_are_over_images_and_not_over_positions():
    """The concept goes by image and so does the response, unrelated: the truth is .5."""
    generator = torch.Generator().manual_seed(0)
    shown = torch.rand(100, 1, 1, generator=generator) < 0.3 + 0.4 * torch.rand(100, 1, 64, generator=generator)
    x = torch.randn(100, 200, 1, generator=generator) + 0.5 * torch.randn(100, 200, 64, generator=generator)
    statistic = folded(x, shown)
    found = METRIC.evaluate(statistic, statistic.probe.site, {})
    low, high = found["best"].crossfit.interval(0.95)
    assert ((low <= 0.5) & (high >= 0.5)).mean() >= 0.9
    counts = statistic.halves.concepts.sum(0)[:, 0].numpy(), statistic.halves.everyone.sum(0).numpy()
    naive = delong(counts[0], counts[1] - counts[0])
    assert (np.abs(naive.value - 0.5) <= 1.96 * naive.error).mean() < 0.5
    low, _ = found["best"].interval(0.95)
    assert (low <= 0.5).mean() >= 0.95


def test_sources_tell_larger_errors_than_their_images():
    generator = torch.Generator().manual_seed(0)
    shown = (torch.rand(64, 1, 1, generator=generator) < 0.5).expand(64, 1, 20)
    x = torch.randn(64, 20, 1, generator=generator) + 0.1 * torch.randn(64, 20, 20, generator=generator) + shown
    many = [torch.cat([t] * 8) for t in (x, shown)]
    first, source = (torch.arange(512) < 64).long(), torch.arange(512) % 64
    dealt = torch.randperm(512, generator=generator) % 16
    apart = fields(*many, dealt)["best"].interval(0.95)
    whole = fields(*many, source % 16, clustered=True, first=first)["best"].interval(0.95)
    once = fields(x, shown)["best"].interval(0.95)
    assert (whole[1] - whole[0]).mean() > 2 * (apart[1] - apart[0]).mean()
    assert (whole[1] - whole[0]).mean() == pytest.approx((once[1] - once[0]).mean(), rel=0.05)


# --- where there is nothing -----------------------------------------------------------------------------------------


def test_kernels_that_never_vary_tell_nothing():
    x, masks = case()
    x[:, 0], x[:, 3] = 0, 5
    found = values(x, masks)
    assert found["best"][[0, 3]].tolist() == found["plugin_best"][[0, 3]].tolist() == [0.5, 0.5]
    assert found["resolution"][0] == 0


def test_of_one_image_nothing_is_known():
    assert np.isnan(values(*case(1))["best"]).all()


@pytest.mark.parametrize(
    "masks",
    [
        torch.zeros(64, 2, 6, 6, dtype=torch.bool),
        torch.ones(64, 1, 6, 6, dtype=torch.bool),
        -torch.ones(64, 6, 6).short(),
        torch.zeros(64, 6, 6).short(),
    ],
    ids=["no concept", "everywhere", "nothing known", "one class"],
)
def test_without_two_kinds_of_positions_there_is_no_value(masks):
    found = fields(noise(64, 3, 6, 6), masks)
    for name in FIELDS:
        assert np.isnan(found[name].value).all()
    assert (found["best"].p_at_most(0.5) == 1).all()


def test_30_images_must_show_the_chosen_concept():
    x, masks = case(64)
    masks = masks.clone()
    masks[20:, 0] = False  # kernel 2 is its detector
    statistic = folded(x, masks)
    gate = METRIC.gate(statistic, statistic.probe.site, "best", {})
    shown = int(masks[:, 0].flatten(1).any(1).sum())
    assert gate.images[1:3].tolist() == [0, math.ceil(30 * 64 / shown)]
    assert gate.reason == f"a chosen concept is in {shown} images, and 30 are needed"


# --- measure --------------------------------------------------------------------------------------------------------


def test_measure():
    x, masks = case(200)
    found = measure("position_auroc", x, masks=masks)
    assert (found.unit, found.n_images) == ("AUROC", 200)
    assert found.units[1] == pytest.approx(0.76, abs=0.03)
    assert found.lows[1] < 0.76025 < found.highs[1]
    assert found.units[2] == pytest.approx(1, abs=0.001)
    assert found.units == measure("position_auroc", x, masks=masks.numpy(), block=7).units


def test_it_reads_what_iou_reads():
    assert registry()["iou"].options({"quantile": 0.005, "positions": 256}) == METRIC.options({"positions": 256})
    assert registry()["iou"].reads is METRIC.reads


def test_measure_needs_masks():
    with pytest.raises(MetricError, match="position_auroc needs masks"):
        measure("position_auroc", case(20)[0])
