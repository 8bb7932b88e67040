import math

import pytest
import torch
from builders import make_site

import cnnaudit
from cnnaudit.metrics import registry
from cnnaudit.site import Op
from cnnaudit.statistics import Probe, View, project

METRIC = registry()["merge_information_loss"]
NAMES = {Op.RESIDUAL: ("skip", "branch", "sum"), Op.MERGE: ("left", "right", "sum")}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def fields(s, f, labels, *, groups=None, op=Op.RESIDUAL, **params):
    site = make_site(op, s.shape[1], taps=NAMES[op], shape=tuple(s.shape[2:]))
    params = dict(METRIC.params(**params))
    taps = tuple(site.tap(tap) for tap in METRIC.taps)
    probe = Probe(METRIC.reads, site, taps, METRIC.options(params), clustered=groups is not None)
    statistic = METRIC.reads(probe, 64)
    for rows in torch.arange(len(labels)).split(50):
        shown = dict(zip(taps, (s[rows], f[rows], s[rows] + f[rows]), strict=True))
        reading = statistic.read(View(shown, rows, labels[rows], 0))
        statistic.fold(reading, (rows if groups is None else groups[rows]) % 64)
    return METRIC.evaluate(statistic, site, params)


def bits(n=400, seed=0):
    """Two independent fair bits, every pair of them equally often, in a random order."""
    order = torch.randperm(n, generator=generator(seed))
    return (torch.arange(n) % 2)[order].float()[:, None], (torch.arange(n) // 2 % 2)[order].float()[:, None]


def gaussian(n=160, units=8, classes=2, shift=0.5, seed=0):
    labels = torch.arange(n) % classes
    means = shift * torch.randn(classes, units, generator=generator(seed))
    return torch.randn(n, units, generator=generator(seed + 1)) + means[labels], labels


def noise(like, seed=9):
    return torch.randn(like.shape, generator=generator(seed))


# --- closed forms -----------------------------------------------------------------------------------------------

CASES = {  # the label of s and f: bits that are usable in both and in their sum, and the entropy of the label
    "both": (lambda s, f: 2 * s + f, 2, 1.5, 2),
    "skip": (lambda s, f: s, 1, 0.5, 1),
    "exclusive or": (lambda s, f: s != f, 0, 0, 1),
    "and": (lambda s, f: s * f, 0.8113, 0.8113, 0.8113),
}


@pytest.mark.parametrize("case", list(CASES))
def test_two_bits(case):
    label, both, added, entropy = CASES[case]
    s, f = bits()
    found = fields(s, f, label(s, f)[:, 0].long())
    wanted = {
        "loss": both - added,
        "relative": (both - added) / entropy,
        "information_both": both,
        "information_sum": added,
    }
    for field, value in wanted.items():
        assert found[field].value == pytest.approx([value], abs=0.04), field
        low, high = found[field].interval(0.95)
        assert low[0] - 0.03 < value < high[0] + 0.03, field


def test_opposite_addends_lose_all():
    s, _ = bits()
    found = fields(s, -s, s[:, 0].long())
    assert found["information_sum"].value == [0]
    assert found["loss"].value == found["information_both"].value
    assert found["loss"].value == pytest.approx([1], abs=0.03)


def test_nothing_added_costs_nothing():
    s, labels = gaussian()
    found = fields(s, torch.zeros_like(s), labels)
    assert found["loss"].value == pytest.approx([0], abs=0.02)


# --- a sum is a function of both --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_sum_never_seems_better_than_both(seed):
    """Half of what is usable in each: a reader of twice the features alone would seem worse than one of the sum."""
    total, labels = gaussian(units=24, seed=seed)
    hidden = 2 * noise(total)
    found = fields(hidden, total - hidden, labels)
    side_by_side = torch.cat([hidden, total - hidden], 1)
    alone = cnnaudit.measure("usable_information", side_by_side, labels=labels)
    assert alone.value < found["information_sum"].value - 0.02
    assert found["loss"].value[0] > -0.02


def test_projections_of_the_addends_add_up_to_that_of_the_sum():
    s = torch.randn(20, 40, generator=generator())
    f = noise(s)
    assert project(s, 7) + project(f, 7) == pytest.approx(project(s + f, 7), abs=1e-5)


def test_wide_addends_are_projected_by_the_same_signs():
    s, labels = gaussian(200, 40)
    found = fields(s, torch.zeros_like(s), labels, features=6)
    assert found["loss"].value == pytest.approx([0], abs=0.02)
    assert found["information_sum"].value < fields(s, torch.zeros_like(s), labels)["information_sum"].value


def test_the_information_of_the_sum_is_usable_information():
    s, labels = gaussian()
    f = s + noise(s)
    other = cnnaudit.measure("usable_information", s + f, labels=labels)
    assert fields(s, f, labels)["information_sum"].value == pytest.approx([other.value], abs=1e-6)


def test_the_two_sides_of_a_merge():
    s, labels = gaussian()
    f = noise(s) + labels[:, None]
    one, other = fields(s, f, labels), fields(s, f, labels, op=Op.MERGE)
    assert one["loss"].value == other["loss"].value
    swapped = fields(f, s, labels, op=Op.MERGE)
    assert one["loss"].value == pytest.approx(swapped["loss"].value, abs=5e-3)


def test_a_grid_reads_maxima_too():
    s = torch.randn(100, 2, 4, 4, generator=generator())
    labels = torch.arange(100) % 2
    s[:, 0, 0, 0] += 3 * labels
    found = {readout: fields(s, noise(s), labels, readout=readout) for readout in ("mean", "grid")}
    assert found["grid"]["information_both"].value > found["mean"]["information_both"].value + 0.1


# --- laws -------------------------------------------------------------------------------------------------------


def test_loss_is_the_difference_and_paired():
    s, labels = gaussian()
    found = fields(s, 0.05 * noise(s), labels)
    difference = found["information_both"].value - found["information_sum"].value
    assert found["loss"].value == pytest.approx(difference, abs=1e-12)
    assert found["relative"].value == pytest.approx(difference, abs=1e-12)  # H(Y) is 1 bit
    assert found["loss"].error[0] < 0.5 * found["information_both"].error[0]


def test_a_common_scale_and_the_order_of_channels_change_nothing():
    s, labels = gaussian()
    f = noise(s) + labels[:, None]
    one, other = fields(s, f, labels), fields(4 * s.flip(1) + 1, 4 * f.flip(1) - 2, labels)
    assert one["loss"].value == pytest.approx(other["loss"].value, abs=5e-3)


def test_copies_of_images_count_once():
    s, labels = gaussian(60, 4)
    f = noise(s) + labels[:, None]
    copied = fields(*(x.repeat_interleave(3, 0) for x in (s, f, labels)), groups=torch.arange(60).repeat_interleave(3))
    alone = fields(s, f, labels, groups=torch.arange(60))
    assert 0.5 < copied["loss"].error[0] / alone["loss"].error[0] < 2


@pytest.mark.parametrize(("images", "classes"), [(1, 1), (10, 2), (60, 1)])
def test_where_there_is_too_little_there_is_no_value(images, classes):
    s, _ = gaussian(images)
    found = fields(s, s, torch.arange(images) % classes)
    assert all(math.isnan(uncertain.value[0]) for uncertain in found.values())


def test_constant_maps_lose_nothing():
    x = torch.ones(60, 3, 4, 4)
    assert fields(x, x, torch.arange(60) % 2)["loss"].value == [0]


def test_measured_on_tensors():
    s, labels = gaussian()
    f = noise(s) + torch.tensor([1.0, -1.0]).repeat(4) * labels[:, None]
    found = cnnaudit.measure("merge_information_loss", s, f, s + f, labels=labels)
    assert found.unit == "bits"
    assert found.low < found.value < found.high
    sources = torch.arange(160) // 2
    grouped = cnnaudit.measure("merge_information_loss.relative", s, f, s + f, labels=labels, sources=sources)
    assert grouped.low < grouped.value < grouped.high
