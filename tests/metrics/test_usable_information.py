import math

import numpy as np
import pytest
import torch
from builders import make_site

import cnnaudit
from cnnaudit.metrics import Need, registry
from cnnaudit.statistics import Probe, View
from cnnaudit.statistics.sampling import draw_images

METRIC = registry()["usable_information"]


def folded(x, labels, groups=None, ids=None, block=50, **params):
    """The statistic of maps (images, units, *spatial); groups where several images come from one source."""
    site = make_site(units=x.shape[1], taps=("result",), shape=tuple(x.shape[2:]))
    params = dict(METRIC.params(**params))
    probe = Probe(METRIC.reads, site, METRIC.taps, METRIC.options(params), clustered=groups is not None)
    statistic = METRIC.reads(probe, 64)
    ids = torch.arange(len(x)) if ids is None else ids
    for rows in torch.arange(len(x)).split(block):
        reading = statistic.read(View({"result": x[rows]}, ids[rows], labels[rows], 0))
        statistic.fold(reading, rows if groups is None else groups[rows])
    return statistic, params


def fields(x, labels, groups=None, **params):
    statistic, params = folded(x, labels, groups, **params)
    return METRIC.evaluate(statistic, statistic.probe.site, params)


def bits(n, seed=0):
    """Two independent fair bits, each (0, 0), (0, 1), (1, 0), (1, 1) equally often, in a random order."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return torch.stack([torch.arange(n) % 2, torch.arange(n) // 2 % 2], 1)[order].float()


def gaussian(n, units, classes, shift, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    means = shift * torch.randn(classes, units, generator=generator)
    return torch.randn(n, units, generator=generator) + means[labels], labels


def covers(found, truth):
    low, high = found.interval(0.95)
    return low[0] <= truth <= high[0]


# --- closed forms -----------------------------------------------------------------------------------------------


def test_exclusive_or_is_of_no_use_to_a_linear_reader():
    """Shannon's information is 1 bit."""
    x = bits(800)
    found = fields(x, (x[:, 0] != x[:, 1]).long())
    assert found["information"].value[0] == pytest.approx(0, abs=0.02)
    assert found["label_entropy"].value == pytest.approx([1])


def test_and_of_two_bits():
    x = bits(1000)
    labels = (x.sum(1) == 2).long()
    both, one = fields(x, labels), fields(x[:, :1], labels)
    assert both["label_entropy"].value == pytest.approx([0.811278], abs=1e-6)
    assert both["information"].value == pytest.approx([0.8113], abs=0.03)
    assert one["information"].value == pytest.approx([0.3113], abs=0.03)
    assert covers(one["information"], 0.3113)
    assert one["fraction"].value == pytest.approx([0.3113 / 0.8113], abs=0.03)


def test_a_feature_that_names_the_class_gives_all_of_the_entropy():
    labels = torch.arange(600) % 4
    found = fields(torch.nn.functional.one_hot(labels).float(), labels)
    assert found["information"].value == pytest.approx([2], abs=0.03)
    assert found["fraction"].value == pytest.approx([1], abs=0.015)
    assert found["parameters"].value == [(4 + 1) * 3]


def test_two_normal_classes():
    """Logistic regression is the true posterior there: the value is Shannon's, by quadrature."""
    x, labels = torch.randn(2000, 1, generator=torch.Generator().manual_seed(1)), torch.arange(2000) % 2
    x = x + 2.0 * labels[:, None]
    grid = np.linspace(-9, 11, 20_001)
    p0, p1 = (np.exp(-((grid - m) ** 2) / 2) / math.sqrt(2 * math.pi) for m in (0, 2))
    mixed = (p0 + p1) / 2
    truth = sum(np.trapezoid(p / 2 * np.log2(p / mixed), grid) for p in (p0, p1))
    assert truth == pytest.approx(0.4859, abs=1e-3)
    found = fields(x, labels, images=2000)["information"]
    assert covers(found, truth)
    assert found.value == pytest.approx([truth], abs=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_labels_that_have_nothing_to_do_with_the_features(seed):
    x, _ = gaussian(300, 20, 3, 0, seed)
    labels = torch.randint(0, 3, (300,), generator=torch.Generator().manual_seed(seed))
    assert covers(fields(x, labels)["information"], 0)


def test_permuted_labels_give_nothing():
    x, labels = gaussian(400, 10, 4, 2.0)
    assert fields(x, labels)["information"].value[0] > 1.5
    permuted = labels[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    assert fields(x, permuted)["information"].value[0] == pytest.approx(0, abs=0.03)


# --- laws -------------------------------------------------------------------------------------------------------


def test_scales_and_shifts_of_channels_change_nothing():
    x, labels = gaussian(300, 8, 3, 0.7)
    scale = torch.tensor([1.0, 2, 4, 8, 0.5, 0.25, 16, 32])
    a, b = fields(x, labels)["information"], fields(x * scale + 3, labels)["information"]
    assert a.value == pytest.approx(b.value, abs=2e-3)


def test_permuted_channels_change_nothing_and_a_rotation_little():
    x, labels = gaussian(300, 8, 3, 0.7)
    value = fields(x, labels)["information"].value
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0))).Q
    assert fields(x.flip(1), labels)["information"].value == pytest.approx(value, abs=2e-3)
    assert fields(x @ rotation, labels)["information"].value == pytest.approx(value, abs=0.03)


def test_the_order_of_images_does_not_matter():
    x, labels = gaussian(200, 5, 2, 0.7)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    (one, params), (other, _) = folded(x, labels), folded(x[order], labels[order], ids=order, block=7)
    a, b = (METRIC.evaluate(s, s.probe.site, params)["information"] for s in (one, other))
    assert a.value == b.value
    assert a.error == b.error


def test_repeated_positions_change_nothing():
    x = torch.randn(120, 4, 3, 3, generator=torch.Generator().manual_seed(0)).relu()
    labels = (x.mean((1, 2, 3)) > x.mean()).long()
    for readout in ("mean", "grid"):
        even = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        doubled = even.repeat_interleave(2, 2).repeat_interleave(2, 3)
        a, b = (fields(maps, labels, readout=readout)["information"].value for maps in (even, doubled))
        assert a == pytest.approx(b, abs=2e-3), readout


def test_a_grid_sees_where_and_a_mean_does_not():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    x = torch.zeros(200, 2, 4, 4)
    x[torch.arange(200), 0, 3 * labels, 0] = 1 + 0.01 * torch.rand(200, generator=generator)
    assert fields(x, labels, readout="mean")["information"].value[0] < 0.05
    assert fields(x, labels, readout="grid")["information"].value[0] > 0.95


def test_a_projection_makes_the_reader_equally_large_everywhere():
    x, labels = gaussian(300, 40, 3, 0.7)
    found = fields(x, labels, features=10)
    assert found["parameters"].value == [(10 + 1) * 2]
    assert 0.1 < found["information"].value[0] < fields(x, labels)["information"].value[0]


def test_a_sample_is_the_same_images_at_every_site():
    x, labels = gaussian(300, 3, 2, 0.7)
    one, _ = folded(x, labels, images=40)
    other, _ = folded(torch.cat([x, x], 1), labels, images=40)
    assert len(one.labels) == 40
    assert torch.equal(one.tally["draw"], other.tally["draw"])
    assert torch.equal(one.features[0], x[draw_images(torch.arange(300), 0).argsort()[:40]].double())


# --- images of one source, and too few of anything ---------------------------------------------------------------


def test_copies_of_images_count_once():
    x, labels = gaussian(60, 3, 2, 0.7)
    alone = fields(x, labels, groups=torch.arange(60))
    copied = fields(*(t.repeat_interleave(5, 0) for t in (x, labels)), groups=torch.arange(60).repeat_interleave(5))
    naive = fields(*(t.repeat_interleave(5, 0) for t in (x, labels)))
    assert copied["information"].value == pytest.approx(alone["information"].value, abs=0.1)
    assert 0.7 < copied["information"].error[0] / alone["information"].error[0] < 1.4
    assert naive["information"].error[0] < 0.6 * copied["information"].error[0]


@pytest.mark.parametrize(("images", "classes"), [(1, 1), (1, 2), (19, 2), (100, 1)])
def test_where_there_is_too_little_there_is_no_value(images, classes):
    x, _ = gaussian(images, 3, 2, 0.7)
    found = fields(x, torch.arange(images) % classes)
    assert math.isnan(found["information"].value[0])
    assert math.isnan(found["fraction"].value[0])


def test_a_constant_map_is_of_no_use():
    labels = torch.arange(100) % 2
    found = fields(torch.full((100, 3, 4, 4), 2.5), labels, readout="grid")
    assert found["information"].value == [0]
    assert found["information"].interval(0.95)[1] > 0
    assert found["parameters"].value == [1]


def test_gate_wants_ten_images_a_class():
    def gated(n, **params):
        statistic, params = folded(torch.randn(n, 2), torch.arange(n) % 4, **params)
        return METRIC.gate(statistic, statistic.probe.site, "information", params)

    assert gated(40).images.tolist() == [0]
    few = gated(39)
    assert few.images.tolist() == [40]
    assert few.reason == "the sample has 39 images of 4 classes, and 40 are needed"
    small = gated(200, images=30)
    assert small.images.tolist() == [40]
    assert "whatever their number" in small.reason
    assert "images: 40" in small.instead
    need = Need(make_site(), "information", 4, 0.05, {})
    assert METRIC.images(need) == 40


# --- measure() --------------------------------------------------------------------------------------------------


def test_measured_on_tensors():
    x, labels = gaussian(200, 4, 2, 2.0)
    found = cnnaudit.measure("usable_information", x, labels=labels)
    assert found.unit == "bits"
    assert found.low < found.value < found.high
    assert 0.5 < found.value < 1.05
    sources = torch.arange(200) // 4
    grouped = cnnaudit.measure("usable_information.fraction", x, labels=labels[sources], sources=sources)
    assert grouped.n_images == 200
    assert grouped.low < grouped.value < grouped.high
