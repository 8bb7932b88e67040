import math

import numpy as np
import pytest
import torch
from builders import make_site

import cnnaudit
from cnnaudit import MetricError, measure
from cnnaudit.information import entropy
from cnnaudit.metrics import Need, registry
from cnnaudit.metrics.capacity_bound import capacity
from cnnaudit.site import Op
from cnnaudit.statistics import Probe, View

METRIC = registry()["capacity_bound"]


def evenly(levels, *shape):
    """Levels that occur equally often at every place, over ``levels`` x 64 images."""
    images = torch.arange(64 * levels) % levels
    places = torch.arange(math.prod(shape)).reshape(shape)
    return (images.reshape(-1, *[1] * len(shape)) + places) % levels


def normal(images, units, *spatial, seed=0):
    return torch.randn(images, units, *spatial, generator=torch.Generator().manual_seed(seed))


def counted(x, levels, positions=32):
    """The statistic of maps in one group."""
    site = make_site(units=x.shape[1], taps=("result",), shape=tuple(x.shape[2:]))
    options = METRIC.options({"levels": levels, "positions": positions})
    made = METRIC.reads(Probe(METRIC.reads, site, ("result",), options), 1)
    reading = made.read(View({"result": x}, torch.arange(len(x)), None, 0))
    made.calibrate([reading])
    made.fold(reading, torch.zeros(len(x), dtype=torch.int64))
    return made


# --- closed forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 3, 8])
def test_equally_frequent_levels_hold_the_most(levels):
    x = evenly(levels, 5, 2, 3)
    assert measure("capacity_bound", x, levels=levels).value == pytest.approx(30 * math.log2(levels), rel=1e-3)
    assert measure("capacity_bound.share", x, levels=levels).value == pytest.approx(1)


def test_a_constant_holds_nothing():
    for x in (torch.zeros(50, 3, 4, 4), torch.full((50, 3, 4, 4), 2.5)):
        found = measure("capacity_bound", x)
        assert (found.value, found.low, found.high) == (0, 0, 0)


def test_a_dead_kernel_adds_nothing():
    x = evenly(4, 2, 3)
    dead = torch.cat([x, torch.zeros_like(x[:, :1])], 1)
    assert measure("capacity_bound", dead, levels=4).value == pytest.approx(12, rel=1e-3)
    assert measure("capacity_bound.share", dead, levels=4).value == pytest.approx(12 / 18, rel=1e-3)


def test_a_rectified_map_holds_the_entropy_of_its_zeros_and_levels():
    """Half of the values are zero, and the others fall evenly on seven levels: 1 + log2(7) / 2 bits each."""
    found = measure("capacity_bound", normal(2000, 3, 4, 4).relu())
    assert found.value / 48 == pytest.approx(1 + math.log2(7) / 2, abs=0.01)


def test_it_is_an_upper_bound_and_tight_where_values_are_independent_and_alike():
    """Of three binary positions, the joint entropy against the bound, for every kind of dependence."""
    generator = torch.Generator().manual_seed(1)
    for seed in range(20):
        p = torch.rand(8, generator=generator).double() ** 4
        joint = entropy(p / p.sum())
        patterns = torch.cartesian_prod(*[torch.arange(2)] * 3)
        x = patterns[torch.multinomial(p, 20_000, replacement=True, generator=generator)][:, None]
        bound = capacity(counted(x, 2)).item()
        assert bound >= joint - 0.02, seed
        # The same patterns as three kernels of one position: no mixing of positions, so never a larger bound.
        apart = capacity(counted(x.movedim(1, 2), 2)).sum().item()
        assert joint - 0.02 <= apart <= bound + 1e-9
    fair = torch.randint(0, 2, (20_000, 1, 3), generator=generator)
    assert capacity(counted(fair, 2)).item() == pytest.approx(3, abs=1e-3)


def test_positions_that_differ_are_mixed():
    """One position is always 0 and the other always 1: nothing varies, and yet the mixture has a bit each."""
    x = torch.tensor([[[0, 1]]]).expand(64, 1, 2)
    assert measure("capacity_bound", x, levels=2).value == pytest.approx(2)


# --- naive reference --------------------------------------------------------------------------------------------


def test_counts_are_those_of_a_loop():
    x = torch.randint(0, 5, (80, 3, 4), generator=torch.Generator().manual_seed(2))
    made = counted(x, 5)
    for kernel in range(3):
        counts = np.bincount(x[:, kernel].flatten().numpy(), minlength=5)
        assert made.counts[kernel].tolist() == counts.tolist()
        p = counts / counts.sum()
        assert capacity(made)[kernel].item() == pytest.approx(-4 * (p * np.log2(p)).sum())


def test_sampled_positions_estimate_the_whole_map():
    x = (normal(600, 2, 12, 12) + torch.linspace(0, 2, 12)).relu()
    few, every = (measure("capacity_bound", x, positions=positions) for positions in (8, 144))
    assert few.value == pytest.approx(every.value, rel=0.01)  # on another grid
    assert few.high - few.low > every.high - every.low


def test_the_bias_is_taken_off():
    """All positions of an image are alike, so that 20 positions are one sample."""
    x = normal(100, 40, 1, seed=3).expand(-1, -1, 20)
    made = counted(x[:64], 8)  # the grid of the first 64, and what it holds of all
    many = made.read(View({"result": normal(200_000, 40, 1, seed=4)}, torch.arange(200_000), None, 0))
    made.tally = {}
    made.fold(many, torch.zeros(200_000, dtype=torch.int64))
    truth = 20 * float(entropy(made.counts).sum())
    estimates = []
    for seed in range(10):
        y = normal(100, 40, 1, seed=10 + seed).expand(-1, -1, 20)
        grouped = METRIC.reads(made.probe, 50)
        grouped.calibration = made.calibration
        grouped.fold(grouped.read(View({"result": y}, torch.arange(100), None, 0)), torch.arange(100) % 50)
        estimates.append(METRIC.evaluate(grouped, made.probe.site, {"levels": 8, "positions": 32})["bits"])
    assert made.positions == 20
    plain, corrected = (np.mean([e.plain[0] for e in estimates]), np.mean([e.value[0] for e in estimates]))
    assert plain - truth < -0.8 * 800 * 7 / (200 * math.log(2))  # Miller's term with images as samples
    assert abs(corrected - truth) < 0.2 * (truth - plain)
    covered = [e.interval(0.95)[0][0] <= truth <= e.interval(0.95)[1][0] for e in estimates]
    assert np.mean(covered) >= 0.8


# --- laws -------------------------------------------------------------------------------------------------------


def test_scale_shift_and_order_do_not_matter():
    x = normal(64, 3, 4)  # no more images than fix the grid
    wanted = measure("capacity_bound", x)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    for same in (x * torch.tensor([0.25, 8, 1024])[:, None], x + 3, x[:, [2, 0, 1]], x[..., [3, 1, 0, 2]]):
        found = measure("capacity_bound", same)
        assert found.value == pytest.approx(wanted.value)
        assert found.high == pytest.approx(wanted.high)
    assert capacity(counted(x[order], 8)).tolist() == pytest.approx(capacity(counted(x, 8)).tolist())


def test_more_levels_hold_more():
    x = normal(300, 2, 4)
    few, many = (measure("capacity_bound", x, levels=levels).value for levels in (2, 16))
    assert few == pytest.approx(8, abs=0.1)
    assert many == pytest.approx(32, abs=0.4)
    assert METRIC.identified({"levels": 2, "positions": 9}) == "capacity_bound/1(levels=2)"


def test_twice_the_positions_hold_twice_as_much():
    x = normal(200, 2, 4)
    one, two = (measure("capacity_bound", y) for y in (x, x.repeat(1, 1, 2)))
    assert two.value == pytest.approx(2 * one.value)
    assert two.high - two.low == pytest.approx(2 * (one.high - one.low))


def test_images_of_one_source_count_once():
    x = (normal(120, 2, 4) * 2).round().clamp(-3, 3).long() + 3
    of = torch.arange(120)
    once = measure("capacity_bound", x, sources=of, levels=7)
    thrice = measure("capacity_bound", x.repeat(3, 1, 1), sources=of.repeat(3), levels=7)
    assert thrice.value == pytest.approx(once.value, rel=0.001)
    assert (thrice.high - thrice.low) / (once.high - once.low) == pytest.approx(1, rel=0.05)


# --- edges and use ----------------------------------------------------------------------------------------------


def test_one_image_tells_nothing():
    found = measure("capacity_bound", normal(1, 2, 4))
    assert found.low == 0
    assert math.isinf(found.high)


def test_where_it_applies():
    assert METRIC.at == (Op.CONV, Op.POOL, Op.RESIDUAL, Op.MERGE, Op.CONCAT, Op.LINEAR, Op.HEAD)
    assert METRIC.applies(make_site(), "bits", {}) is None
    assert "only steers a gate" in METRIC.applies(make_site(steers=True), "bits", {})
    assert METRIC.images(Need(make_site(), "bits", 10, 0.05, {})) == 50


def test_wrong_questions():
    with pytest.raises(MetricError, match="greater than or equal to 2"):
        measure("capacity_bound", normal(9, 1), levels=1)
    with pytest.raises(MetricError, match="levels 0 to 2, found 0 to 3"):
        measure("capacity_bound", torch.arange(4)[:, None], levels=3)
    with pytest.raises(MetricError, match="has no exact data-set value"):
        measure("capacity_bound", normal(9, 1), estimand="dataset")


def test_a_bottleneck_that_is_proved():
    """Two linear units behind a rectifier, one of them dead: they hold less than the 3.32 bits of ten classes."""
    linear = torch.nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]))
    net = torch.nn.Sequential(torch.nn.Flatten(), linear, torch.nn.ReLU(), torch.nn.Linear(2, 10))
    rules = [
        {"id": "enough", "metric": "capacity_bound", "op": "linear", "at": "1", "min": 3.32},
        {"id": "some", "metric": "capacity_bound", "op": "linear", "at": "1", "min": 2},
    ]
    report = cnnaudit.audit({"cnnaudit": 1, "rules": rules}, model=net, data=normal(400, 1, 2, 2))
    assert {v.rule: str(v.outcome) for v in report.verdicts} == {"enough": "fail", "some": "pass"}
