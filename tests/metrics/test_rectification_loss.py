import math

import numpy as np
import pytest
import torch
from builders import make_site
from scipy import stats

import cnnaudit
from cnnaudit import MetricError, measure
from cnnaudit.intervals import BoundedMean
from cnnaudit.metrics import Need, registry
from cnnaudit.site import Op, Tap
from cnnaudit.statistics import Probe, Rectification, View
from cnnaudit.statistics.rectification import ceiling

METRIC = registry()["rectification_loss"]
FIELDS = ("dimension", "energy")


def loss(x, field="dimension", **facts):
    return measure(f"rectification_loss.{field}", x, **facts)


def normal(images=200, units=2, size=8, mean=0.0, seed=0):
    return torch.randn(images, units, size, size, generator=torch.Generator().manual_seed(seed)) + mean


def behind(x, atoms=(0.0,), *, nonnegative=True, op=Op.CONV, after="response"):
    """Both fields where an activation with these atoms follows."""
    read = Tap("x", tuple(x.shape[1:]))
    site = make_site(op, x.shape[1]).with_taps(
        {"preactivation": read, after: Tap("y", read.shape, atoms=atoms, nonnegative=nonnegative)}
    )
    statistic = Rectification(Probe(Rectification, site, ("preactivation",), METRIC.options({})), 8)
    ids = torch.arange(len(x))
    statistic.fold(statistic.read(View({"preactivation": x}, ids, None, 0)), ids % 8)
    return {name: found.value for name, found in METRIC.evaluate(statistic, site, {"positions": 64}).items()}


# --- closed forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.0, -1.0, 0.5])
def test_a_normal_pre_activation(mean):
    below = stats.norm.cdf(-mean)
    energy = ((1 + mean**2) * below - mean * stats.norm.pdf(mean)) / (1 + mean**2)
    if mean == 0:
        assert (below, energy) == (0.5, 0.5)
    for field, truth in (("dimension", below), ("energy", energy)):
        found = loss(normal(400, mean=mean), field, confidence=0.99)
        assert found.units == pytest.approx([truth] * 2, abs=0.015)
        assert all(low <= truth <= high for low, high in zip(found.lows, found.highs, strict=True))


def test_by_hand():
    x = torch.tensor([[[-3.0, 1.0, 2.0, 0.0]], [[4.0, -1.0, 5.0, 2.0]]])
    assert loss(x).value == pytest.approx(3 / 8)
    assert loss(x, "energy").value == pytest.approx((9 + 1) / (9 + 1 + 4 + 16 + 1 + 25 + 4))


def test_what_is_never_negative_loses_nothing_and_what_always_is_all():
    x = normal().abs() + 0.1
    for field in FIELDS:
        assert loss(x, field).units == (0, 0)
        assert loss(-x, field).units == (1, 1)
        found = loss(x, field)
        # No image differs, which leaves the doubt that some might.
        assert found.highs == pytest.approx([1 - 0.025 ** (1 / 200)] * 2)


def test_a_symmetric_set_loses_half_exactly():
    x = normal(40)
    both = torch.cat([x, -x])
    for field in FIELDS:
        assert loss(both, field).units == pytest.approx([0.5, 0.5], rel=1e-9)


def test_the_upper_cut_of_relu6_counts():
    x = torch.tensor([[[-2.0, 3.0, 6.0, 8.0]]])
    assert behind(x, (0.0, 6.0)) == pytest.approx({"dimension": 3 / 4, "energy": (4 + 4) / (4 + 9 + 36 + 64)})
    assert behind(x, (0.0,)) == pytest.approx({"dimension": 1 / 4, "energy": 4 / (4 + 9 + 36 + 64)})
    low = normal(50).clamp(max=5.9)
    for field, value in behind(low, (0.0, 6.0)).items():
        assert value == pytest.approx(loss(low, field).units)


@pytest.mark.parametrize("op", [Op.RESIDUAL, Op.MERGE])
def test_behind_a_sum(op):
    x = normal(50)
    for field, value in behind(x, op=op, after="activated").items():
        assert value == pytest.approx(loss(x, field).units)


# --- interval ---------------------------------------------------------------------------------------------------


def test_the_interval_is_that_of_a_linearised_ratio():
    x = normal(60, mean=0.3)
    flat = x.double().flatten(2).numpy()
    lost, power = (np.minimum(flat, 0) ** 2).mean(2), (flat**2).mean(2)
    ratio = lost.sum(0) / power.sum(0)
    share = (flat <= 0).mean(2)
    wanted = {
        "dimension": (share.mean(0), stats.sem(share)),
        "energy": (ratio, stats.sem(lost - ratio * power) / power.mean(0)),
    }
    for field in FIELDS:
        found = loss(x, field)
        low, high = BoundedMean(*wanted[field], 60).interval(0.95)
        assert found.units == pytest.approx(wanted[field][0])
        assert found.lows == pytest.approx(low)
        assert found.highs == pytest.approx(high)


def test_intervals_cover_the_truth():
    """A level of its own for each image: positions depend on each other."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(100, 300, 4, 4, generator=generator) + torch.randn(100, 300, 1, 1, generator=generator)
    for field in FIELDS:
        found = loss(x, field)
        covered = sum(low <= 0.5 <= high for low, high in zip(found.lows, found.highs, strict=True))
        assert 0.91 * 300 <= covered <= 0.985 * 300


def test_images_of_one_source_are_no_news():
    x = normal(40, mean=0.4, size=3)
    sources = [i // 5 for i in range(200)]
    for field in FIELDS:
        alone, copied = loss(x, field), loss(x.repeat_interleave(5, 0), field, sources=sources)
        assert copied.units == pytest.approx(alone.units, rel=1e-6)
        widths = np.subtract(copied.highs, copied.lows) / np.subtract(alone.highs, alone.lows)
        assert all(0.75 < w < 1.6 for w in widths)


# --- laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", FIELDS)
def test_positive_scaling_changes_nothing(field):
    x = normal(mean=0.3)
    scaled = loss(x * torch.tensor([0.125, 64.0])[:, None, None], field)
    assert scaled.units == pytest.approx(loss(x, field).units, rel=1e-9)
    assert scaled.highs == pytest.approx(loss(x, field).highs, rel=1e-9)


def test_scaling_moves_values_over_the_upper_cut_of_relu6():
    x = normal(50, mean=3)
    one, two = behind(x, (0.0, 6.0)), behind(4 * x, (0.0, 6.0))
    assert all((two[field] > one[field] + 0.1).all() for field in FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_a_shift_up_lowers_the_loss(field):
    x = normal()
    values = [loss(x + shift, field).value for shift in (-1, 0, 1)]
    assert values[0] > values[1] > values[2]


def test_a_kernel_and_its_negative_share_the_energy():
    x = normal(mean=0.7)
    halves = [np.array(loss(sign * x, "energy").units) for sign in (1, -1)]
    assert sum(halves) == pytest.approx([1, 1])


def test_positions_and_kernels_in_another_order():
    x = normal(60, 3, mean=0.2)
    for field in FIELDS:
        wanted = loss(x, field)
        assert loss(x.repeat(1, 1, 2, 1), field, positions=128).highs == pytest.approx(wanted.highs, rel=1e-9)
        assert loss(x.flip(2), field).units == pytest.approx(wanted.units, rel=1e-9)
        assert loss(x[:, [2, 0, 1]], field).units == pytest.approx([wanted.units[k] for k in (2, 0, 1)])
        assert loss(x[..., 0, 0], field) == loss(x[..., :1, :1], field)


def test_sampled_positions_estimate_all_of_them():
    x = normal(200, size=24, mean=0.3)
    for field in FIELDS:
        every, some = loss(x, field, positions=576), loss(x, field, positions=16, confidence=0.99)
        assert some.units == pytest.approx(every.units, abs=0.03)
        assert all(low <= v <= high for low, v, high in zip(some.lows, every.units, some.highs, strict=True))


# --- edges ------------------------------------------------------------------------------------------------------


def test_a_kernel_that_is_always_zero():
    x = normal()
    x[:, 1] = 0
    assert loss(x).units[1] == 1
    assert math.isnan(loss(x, "energy").units[1])


def test_one_image_tells_nothing_of_others():
    for field in FIELDS:
        found = loss(normal(1), field)
        assert (found.lows, found.highs) == ((0, 0), (1, 1))


@pytest.mark.parametrize(
    ("atoms", "nonnegative", "expected"),
    [
        ((0.0,), True, math.inf),
        ((0.0, 6.0), True, 6),
        ((0.0, 4.0), True, 4),
        ((0.0, 1.0), True, None),  # a hard sigmoid
        ((0.0,), False, None),  # a hard swish
        ((-1.0, 1.0), False, None),  # a hard tanh
        ((), True, None),  # a sigmoid
        ((), False, None),
    ],
)
def test_what_is_a_rectifier(atoms, nonnegative, expected):
    site = make_site(taps=("preactivation", "response"), atoms=atoms, nonnegative=nonnegative)
    assert ceiling(site) == expected
    reason = METRIC.applies(site, "dimension", {})
    assert (reason is None) == (expected is not None)
    assert reason is None or "no rectifier" in reason


def test_without_an_activation_it_does_not_apply():
    assert METRIC.applies(make_site(), "energy", {}) == "no activation follows it alone"
    assert METRIC.images(Need(None, "energy", 10, 0.05, {"positions": 64})) == 50
    with pytest.raises(MetricError, match=r"positions: .*greater than or equal to 1"):
        loss(normal(3), positions=0)


def test_few_images_that_carry_the_mean_square_close_the_gate():
    site = make_site(units=2, taps=("preactivation",), shape=(2, 2))
    statistic = Rectification(Probe(Rectification, site, ("preactivation",), METRIC.options({})), 1)
    x = torch.ones(200, 2, 2, 2)
    x[20:, 1] = 0
    ids = torch.arange(200)
    statistic.fold(statistic.read(View({"preactivation": x}, ids, None, 0)), 0 * ids)
    assert METRIC.gate(statistic, site, "energy", {}).images.tolist() == [0, 500]
    assert "the mean square" in METRIC.gate(statistic, site, "energy", {}).reason
    assert METRIC.gate(statistic, site, "dimension", {}) is None


class Block(torch.nn.Module):
    """A convolution with norm and ReLU6, one without activation, and a ReLU behind the residual sum."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = torch.nn.Conv2d(2, 2, 3, padding=1), torch.nn.BatchNorm2d(2)
        self.second = torch.nn.Conv2d(2, 2, 3, padding=1)
        self.norm.weight.data[:] = 8.0

    def forward(self, x):
        return (x + self.second(torch.nn.functional.relu6(self.norm(self.first(x))))).relu()


def test_an_audit_reads_what_the_activations_read():
    net, images = Block().eval(), normal(30, size=6, seed=5)
    flow = cnnaudit.profile(net, images, rules=[{"metric": f"rectification_loss.{field}"} for field in FIELDS])
    with torch.no_grad():
        hidden = net.norm(net.first(images))
        total = images + net.second(torch.nn.functional.relu6(hidden))
    for field in FIELDS:
        found = flow[f"rectification_loss.{field}"]
        wanted = behind(hidden, (0.0, 6.0))[field]
        assert found["first"].units == pytest.approx(wanted, rel=1e-5)
        (residual,) = (check.site.path for check in found.checks if check.site.op is Op.RESIDUAL)
        assert found[residual].units == pytest.approx(behind(total)[field], rel=1e-5)
