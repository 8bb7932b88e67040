import math

import pytest
import torch
from builders import make_site

import cnnaudit
from cnnaudit.metrics import registry
from cnnaudit.site import Op
from cnnaudit.statistics import Probe, View

METRIC = registry()["added_usable_information"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def fields(skip, branch, labels, groups=None, **params):
    site = make_site(Op.RESIDUAL, skip.shape[1], taps=METRIC.taps, shape=tuple(skip.shape[2:]))
    params = dict(METRIC.params(**params))
    probe = Probe(METRIC.reads, site, METRIC.taps, METRIC.options(params), clustered=groups is not None)
    statistic = METRIC.reads(probe, 64)
    for rows in torch.arange(len(labels)).split(50):
        reading = statistic.read(View({"skip": skip[rows], "branch": branch[rows]}, rows, labels[rows], 0))
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

CASES = {  # the label of s and f: bits that are usable in s, in f and in both
    "both": (lambda s, f: 2 * s + f, 1, 1, 2),
    "skip": (lambda s, f: s, 1, 0, 1),
    "branch": (lambda s, f: f, 0, 1, 1),
    "exclusive or": (lambda s, f: s != f, 0, 0, 0),
    "and": (lambda s, f: s * f, 0.3113, 0.3113, 0.8113),
}


@pytest.mark.parametrize("case", list(CASES))
def test_two_bits(case):
    label, skip, branch, both = CASES[case]
    s, f = bits()
    y = label(s, f)[:, 0].long()
    found = fields(s, f, y)
    entropy = 2 if case == "both" else 0.8113 if case == "and" else 1
    wanted = {
        "added": both - skip,
        "relative": (both - skip) / entropy,
        "information_skip": skip,
        "information_branch": branch,
        "information_both": both,
        "redundancy": skip + branch - both,
    }
    for field, value in wanted.items():
        assert found[field].value == pytest.approx([value], abs=0.03), field
        low, high = found[field].interval(0.95)
        assert low[0] - 0.03 < value < high[0] + 0.03, field


def test_of_a_copy_nothing_is_added_and_all_is_redundant():
    s, _ = bits()
    found = fields(s, s, s[:, 0].long())
    assert found["added"].value == pytest.approx([0], abs=0.01)
    assert found["redundancy"].value == pytest.approx([1], abs=0.03)


# --- readers that may ignore ------------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [8, 64])
def test_a_branch_of_noise_takes_nothing_away(units):
    """A reader of both alone would be worse for it, by far more than its interval tells."""
    s, labels = gaussian()
    found = fields(s, torch.randn(len(s), units, generator=generator(5)), labels)
    assert found["added"].value == pytest.approx([0], abs=0.02)
    alone = cnnaudit.measure("usable_information", torch.cat([s, noise(s.repeat(1, 8))], 1), labels=labels)
    assert alone.value < found["information_skip"].value - 0.05
    assert found["information_both"].value == pytest.approx(found["information_skip"].value, abs=0.02)


def test_the_halves_of_a_sum_are_used_alike():
    """What only the sum tells: half of it is in each, and a reader of both may weigh them alike."""
    total, labels = gaussian(units=16)
    hidden = 2 * noise(total)
    found = fields(hidden, total - hidden, labels)
    whole = cnnaudit.measure("usable_information", total, labels=labels)
    assert found["information_both"].value[0] > whole.value - 0.05
    assert found["added"].interval(0.95)[0] > 0
    assert found["redundancy"].value < 0


def test_fields_add_up():
    s, labels = gaussian()
    f = s + noise(s)
    found = {name: uncertain.value[0] for name, uncertain in fields(s, f, labels).items()}
    assert found["added"] == pytest.approx(found["information_both"] - found["information_skip"], abs=1e-12)
    assert found["redundancy"] == pytest.approx(found["information_branch"] - found["added"], abs=1e-12)
    assert found["relative"] == pytest.approx(found["added"], abs=1e-12)  # H(Y) is 1 bit


def test_added_is_paired():
    s, labels = gaussian()
    found = fields(s, s + 0.05 * noise(s), labels)
    assert found["added"].error[0] < 0.5 * found["information_skip"].error[0]


# --- laws -------------------------------------------------------------------------------------------------------


def test_a_common_scale_and_the_order_of_channels_change_nothing():
    s, labels = gaussian()
    f = noise(s) + labels[:, None]
    one, other = fields(s, f, labels), fields(4 * s.flip(1) + 1, 4 * f.flip(1) - 2, labels)
    for field in ("added", "redundancy", "information_both"):
        assert one[field].value == pytest.approx(other[field].value, abs=5e-3), field


def test_maps_are_read_by_their_means():
    s, labels = gaussian(100)
    f = noise(s) + labels[:, None]
    wide = [x[..., None, None] + torch.tensor([[-1.0, 1.0], [2.0, -2.0]]) for x in (s, f)]
    one, other = fields(s, f, labels), fields(*wide, labels)
    for field in ("added", "redundancy"):
        assert one[field].value == pytest.approx(other[field].value, abs=2e-3), field


def test_wide_vectors_are_projected():
    s, labels = gaussian(200, 40)
    found = fields(s, noise(s), labels, features=5)
    assert found["information_skip"].value < fields(s, noise(s), labels)["information_skip"].value


def test_addends_may_differ_in_width():
    s, labels = gaussian(100)
    assert fields(s, labels[:, None].float(), labels)["information_both"].value == pytest.approx([1], abs=0.1)


def test_copies_of_images_count_once():
    s, labels = gaussian(60, 4)
    f = s + noise(s) + labels[:, None]
    copied = fields(*(x.repeat_interleave(3, 0) for x in (s, f, labels)), torch.arange(60).repeat_interleave(3))
    alone = fields(s, f, labels, torch.arange(60))
    assert 0.5 < copied["information_both"].error[0] / alone["information_both"].error[0] < 2


@pytest.mark.parametrize(("images", "classes"), [(1, 1), (10, 2), (60, 1)])
def test_where_there_is_too_little_there_is_no_value(images, classes):
    s, _ = gaussian(images)
    found = fields(s, s, torch.arange(images) % classes)
    assert all(math.isnan(uncertain.value[0]) for uncertain in found.values())


def test_constant_maps_add_nothing():
    x = torch.ones(60, 3, 4, 4)
    assert fields(x, x, torch.arange(60) % 2)["added"].value == [0]


def test_measured_on_tensors():
    s, labels = gaussian()
    f = 0.5 * noise(s) + labels[:, None]
    found = cnnaudit.measure("added_usable_information", s, f, labels=labels)
    assert found.unit == "bits"
    assert 0 < found.low < found.value < found.high
    grouped = cnnaudit.measure(
        "added_usable_information.redundancy", s, f, labels=labels, sources=torch.arange(160) // 2
    )
    assert grouped.low < grouped.value < grouped.high
