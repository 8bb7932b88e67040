import math
from types import SimpleNamespace

import pytest
import torch
from builders import make_site

import cnnaudit
from cnnaudit.information import entropy
from cnnaudit.metrics import registry
from cnnaudit.metrics.bottleneck import _at_most
from cnnaudit.site import Op, Tap
from cnnaudit.statistics import Probe, View

METRIC = registry()["bottleneck"]


def fields(before, after, labels, groups=None, **params):
    site = make_site(Op.POOL, after.shape[1])
    taps = {name: Tap("", tuple(x.shape[1:])) for name, x in (("from", before), ("to", after))}
    site = type(site)("pool", Op.POOL, after.shape[1], taps)
    params = dict(METRIC.params(**params))
    probe = Probe(METRIC.reads, site, METRIC.taps, METRIC.options(params), clustered=groups is not None)
    statistic = METRIC.reads(probe, 64)
    readings = []
    for rows in torch.arange(len(labels)).split(50):
        view = View({"from": before[rows], "to": after[rows]}, rows, labels[rows], 0)
        readings.append((rows, statistic.read(view)))
    statistic.calibrate([reading for _, reading in readings])
    for rows, reading in readings:
        statistic.fold(reading, (rows if groups is None else groups[rows]) % 64)
    return METRIC.evaluate(statistic, site, params)


def maps(n=300, classes=2, seed=0):
    """Maps of which each channel is brighter for some classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    lift = torch.randn(classes, 4, generator=generator)
    return (torch.randn(n, 4, 6, 6, generator=generator) + 0.3 * lift[labels][..., None, None]).relu(), labels


# --- closed forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["mean", "grid"])
def test_nothing_drops_where_nothing_changes(readout):
    x, labels = maps()
    found = fields(x, x, labels, readout=readout)
    assert found["drop"].value == [0]
    assert found["relative"].value == [0]
    low, high = found["drop"].interval(0.95)
    assert low[0] < 0 < high[0] < 0.02
    assert found["information_in"].value == found["information_out"].value


def test_all_drops_where_the_output_is_constant():
    x, labels = maps()
    found = fields(x, torch.zeros(300, 4, 3, 3), labels)
    assert found["information_out"].value == [0]
    assert found["drop"].value == found["information_in"].value
    assert found["drop"].value[0] > 0.3
    assert found["drop"].interval(0.95)[0] > 0


def test_usable_information_may_be_made():
    """The exclusive or of two bits: of no use to a linear reader before, 1 bit after."""
    both = torch.stack([torch.arange(400) % 2, torch.arange(400) // 2 % 2], 1)
    labels = (both[:, 0] != both[:, 1]).long()
    found = fields(both.float(), labels[:, None].float(), labels)
    assert found["drop"].value == pytest.approx([-1], abs=0.03)
    assert found["relative"].value == pytest.approx([-1], abs=0.03)
    assert found["information_in"].value == pytest.approx([0], abs=0.03)


def test_one_of_the_two_bits_of_an_and():
    both = torch.stack([torch.arange(1000) % 2, torch.arange(1000) // 2 % 2], 1)
    labels = (both.sum(1) == 2).long()
    found = fields(both.float(), both[:, :1].float(), labels)
    assert found["drop"].value == pytest.approx([0.8113 - 0.3113], abs=0.03)
    assert found["relative"].value == pytest.approx([0.5 / 0.8113], abs=0.03)
    low, high = found["drop"].interval(0.95)
    assert low[0] < 0.5 < high[0]


def test_an_average_pool_loses_nothing_to_the_mean():
    x, labels = maps()
    pooled = torch.nn.functional.avg_pool2d(x, 2)
    assert fields(x, pooled, labels, readout="mean")["drop"].value == pytest.approx([0], abs=1e-4)
    assert fields(x, pooled, labels, readout="grid")["drop"].value[0] != pytest.approx(0, abs=1e-4)


def test_an_output_of_fewer_bits_than_the_labels_is_a_proved_bottleneck():
    """Four classes have 2 bits; one kernel of one position and two levels holds at most 1."""
    labels = torch.arange(400) % 4
    names = torch.nn.functional.one_hot(labels).float()
    found = fields(names, (labels % 2)[:, None].float(), labels, levels=2)
    assert found["capacity"].value == pytest.approx([1])
    assert found["proved"].value == [1]
    assert found["drop"].value == pytest.approx([1], abs=0.03)
    wide = fields(names, names, labels)
    assert wide["capacity"].value == pytest.approx([4 * 0.811278], abs=1e-5)
    assert wide["proved"].value == [0]


@pytest.mark.parametrize("probabilities", [[1 / 8] * 8, [0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05]])
def test_a_capacity_as_large_as_the_entropy_of_the_labels_proves_nothing(probabilities):
    """The plug-in entropy of the levels is too low, and below that of the labels by chance alone."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    bits = torch.tensor([float(-(p * p.log2()).sum())])
    generator = torch.Generator().manual_seed(1)
    surely = below = 0
    for _ in range(400):
        levels = torch.multinomial(p, 200, replacement=True, generator=generator)
        histogram = SimpleNamespace(counts=torch.bincount(levels, minlength=8)[None].double(), positions=1)
        plugin = entropy(histogram.counts)
        below += bool(plugin < bits)
        claim = _at_most(histogram, plugin.numpy(), 200)
        surely += bool(claim.interval(0.95)[1] < bits.numpy())
    assert below > 200
    assert surely <= 18  # .025 of 400, and two and a half standard deviations


def test_what_is_not_proved_is_undecided():
    labels = torch.arange(200) % 8
    x = torch.randint(0, 8, (200, 1), generator=torch.Generator().manual_seed(0))
    found = cnnaudit.measure("bottleneck.proved", x, x, labels=labels, levels=8)
    assert (found.low, found.high) == (0, 1)
    narrow = cnnaudit.measure("bottleneck.proved", x, x // 2, labels=labels, levels=8)
    assert (narrow.low, narrow.value, narrow.high) == (1, 1, 1)
    sources = torch.arange(200) // 2
    assert cnnaudit.measure("bottleneck.proved", x, x // 2, labels=labels, levels=8, sources=sources).low == 1


def test_capacity_is_that_of_all_positions():
    x, labels = maps()
    found = fields(x, x, labels, positions=36)
    alone = cnnaudit.measure("capacity_bound", x, positions=36)
    assert found["capacity"].value == pytest.approx([alone.value], rel=0.02)


# --- pairing ----------------------------------------------------------------------------------------------------


def test_the_difference_is_paired():
    x, labels = maps(400, 4)
    found = fields(x, x + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)), labels)
    assert abs(found["drop"].value[0]) < 0.05
    assert found["drop"].error[0] < 0.3 * found["information_in"].error[0]


def test_drop_is_in_less_out():
    x, labels = maps()
    found = fields(x, torch.nn.functional.max_pool2d(x, 3), labels)
    difference = found["information_in"].value - found["information_out"].value
    assert found["drop"].value == pytest.approx(difference, abs=1e-12)
    assert found["relative"].value == pytest.approx(difference, abs=1e-12)  # H(Y) is 1 bit


def test_copies_of_images_count_once():
    x, labels = maps(60)
    y = torch.nn.functional.max_pool2d(x, 3)
    alone = fields(x, y, labels, groups=torch.arange(60))["drop"]
    copied = fields(*(t.repeat_interleave(4, 0) for t in (x, y, labels)), groups=torch.arange(60).repeat_interleave(4))[
        "drop"
    ]
    assert 0.6 < copied.error[0] / alone.error[0] < 1.6


@pytest.mark.parametrize(("images", "classes"), [(1, 1), (10, 2), (60, 1)])
def test_where_there_is_too_little_there_is_no_value(images, classes):
    x, _ = maps(images)
    found = fields(x, x, torch.arange(images) % classes)
    assert math.isnan(found["drop"].value[0])
    assert math.isnan(found["relative"].value[0])


def test_measured_on_tensors():
    x, labels = maps()
    found = cnnaudit.measure("bottleneck", x, torch.nn.functional.max_pool2d(x, 6), labels=labels)
    assert found.unit == "bits"
    assert found.low < found.value < found.high
    sources = torch.arange(300) // 3
    grouped = cnnaudit.measure("bottleneck.relative", x, x, labels=labels, sources=sources)
    assert grouped.value == 0
