import math

import numpy as np
import pytest
import torch
from builders import make_site
from scipy import stats

import cnnaudit
from cnnaudit import MetricError, measure
from cnnaudit.metrics import Need, registry
from cnnaudit.statistics import Probe, View

METRIC = registry()["spatial_entropy"]
FIELDS = list(METRIC.fields)


def maps(images=120, units=3, side=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, units, side, side, generator=generator) - torch.linspace(0, 2, units)[:, None, None]
    return x.relu()


def folded(x, *, scale=None, sources=None, temperature=1.0):
    """The statistic of maps, standardised by themselves or by a given (mean, deviation)."""
    options = METRIC.options({"temperature": temperature})
    site = make_site(units=x.shape[1], shape=tuple(x.shape[2:]))
    made = METRIC.reads(Probe(METRIC.reads, site, METRIC.taps, options, clustered=sources is not None), 64)
    reading = made.read(View({"response": x}, torch.arange(len(x)), None, 0))
    made.calibrate([reading])
    if scale:
        names = ("mean", "deviation")
        made.calibration = {n: torch.full((x.shape[1],), v).double() for n, v in zip(names, scale, strict=True)}
    of = torch.arange(len(x)) if sources is None else sources
    first = torch.tensor([int(s not in of[:i].tolist()) for i, s in enumerate(of)])
    made.fold(reading, of % 64, first)
    return made


def bits(values):
    """Entropy of the softmax of the values of one map, and of the values themselves, in bits."""
    x = torch.tensor(values)[None, None]
    made = folded(x, scale=(0.0, 1.0))
    found = METRIC.evaluate(made, made.probe.site, {"temperature": 1.0})
    return [found[field].value[0] * math.log2(x.numel()) for field in ("softmax", "scale_free")]


# --- closed forms -----------------------------------------------------------------------------------------------


def test_a_constant_map():
    assert bits([[2.0] * 7] * 7) == pytest.approx([5.6147, 5.6147], abs=5e-5)
    assert measure("spatial_entropy", torch.ones(4, 1, 7, 7)).value == 1


def test_two_positions():
    assert bits([0.0, math.log(2)]) == pytest.approx([0.9183, 0], abs=5e-5)
    # Standardised over the data the two are -1 and 1, which a temperature undoes.
    x = torch.tensor([0.0, math.log(2)]).expand(40, 1, 2)
    found = measure("spatial_entropy.softmax", x, temperature=2 / math.log(2))
    assert found.value == pytest.approx(0.9183, abs=5e-5)
    assert measure("spatial_entropy", torch.tensor([1.0, 3.0]).expand(40, 1, 2)).value == pytest.approx(
        stats.entropy([1, 3], base=2)
    )


def test_one_position_among_many_zeros():
    values = np.zeros(49)
    values[17] = 10
    assert bits(values.reshape(7, 7).tolist()) == pytest.approx([0.0345, 0], abs=5e-5)


def test_half_of_the_positions():
    x = torch.zeros(50, 1, 8, 8)
    x[:, :, ::2] = 0.7
    assert measure("spatial_entropy", x).value == pytest.approx(5 / 6)


# --- naive reference --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_estimates_are_those_of_a_loop(temperature):
    x = maps(30, 3)  # no more images than fix the scale
    x[:20, 2] = 0
    found = {field: measure(f"spatial_entropy.{field}", x, temperature=temperature) for field in FIELDS}
    for kernel in range(3):
        own = x[:, kernel].double().flatten(1).numpy()
        standard = (own - own.mean()) / own.std() / temperature
        fires = own.max(1) > 0
        p = {"scale_free": own[fires], "softmax": np.exp(standard[fires])}
        for field, weights in p.items():
            values = stats.entropy(weights, axis=1) / math.log(36)
            assert found[field].units[kernel] == pytest.approx(values.mean(), rel=1e-6)
    # Kernel 1 fires everywhere, so the error is that of a mean; nothing is near a limit.
    values = stats.entropy(x[:, 1].double().flatten(1).numpy(), axis=1) / math.log(36)
    width = found["scale_free"].highs[1] - found["scale_free"].lows[1]
    assert width == pytest.approx(2 * 1.96 * stats.sem(values), rel=0.03)


# --- larger maps are sampled ------------------------------------------------------------------------------------


def test_a_smooth_map_is_known_from_a_sample():
    ramp = torch.linspace(0.1, 1, 32)[:, None] * torch.linspace(0.1, 1, 32)
    truth = stats.entropy(ramp.double().flatten().numpy()) / math.log(1024)
    found = measure("spatial_entropy", ramp.expand(200, 1, 32, 32))
    assert found.value == pytest.approx(truth, abs=0.002)
    assert measure("spatial_entropy", torch.ones(20, 1, 32, 32)).value == pytest.approx(1)


def test_concentration_within_a_larger_map_is_understated():
    x = torch.zeros(400, 1, 16, 16)
    x[:, :, 3, 5] = 1
    assert measure("spatial_entropy", x).value == pytest.approx(1 - 6 / 8)  # at the floor, not 0
    fired = int(folded(x).entropies[0, 0])
    assert 60 <= fired <= 140  # of 400 images whose sample holds the position with probability 1/4


# --- laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", FIELDS)
def test_scale_and_order_do_not_matter(field):
    x = maps(30)
    wanted = measure(f"spatial_entropy.{field}", x)
    moved = x.flatten(2)[..., torch.randperm(36, generator=torch.Generator().manual_seed(1))].reshape(x.shape)
    shuffled = x[torch.randperm(30, generator=torch.Generator().manual_seed(2))]
    for same in (x * torch.tensor([0.25, 8, 1024])[:, None, None], moved, shuffled):
        found = measure(f"spatial_entropy.{field}", same)
        assert found.units == pytest.approx(wanted.units, rel=1e-6)
        assert found.highs == pytest.approx(wanted.highs, rel=1e-6)
    found = measure(f"spatial_entropy.{field}", x[:, [2, 0, 1]])
    assert found.units == pytest.approx([wanted.units[k] for k in (2, 0, 1)])


def test_a_shift_moves_the_scale_free_field_alone():
    x = maps(30) + 0.1
    found, shifted = ({f: measure(f"spatial_entropy.{f}", y).units for f in FIELDS} for y in (x, x + 1))
    assert shifted["softmax"] == pytest.approx(found["softmax"], rel=1e-5)
    assert np.all(np.array(shifted["scale_free"]) > found["scale_free"])


def test_a_higher_temperature_is_more_even():
    x = maps(30)
    cold, warm = (measure("spatial_entropy.softmax", x, temperature=t).units for t in (0.5, 2.0))
    assert np.all(np.array(cold) < warm)
    assert METRIC.identified({"temperature": 0.5}) == "spatial_entropy/1(temperature=0.5)"
    assert measure("spatial_entropy", x, temperature=0.5).units == measure("spatial_entropy", x).units


def test_images_of_one_source_count_once():
    x = maps(100)
    once = measure("spatial_entropy", x, sources=torch.arange(100))
    thrice = measure("spatial_entropy", x.repeat(3, 1, 1, 1), sources=torch.arange(100).repeat(3))
    assert thrice.units == pytest.approx(once.units, rel=1e-6)
    ratio = np.subtract(thrice.highs, thrice.lows) / np.subtract(once.highs, once.lows)
    assert ratio == pytest.approx([1] * 3, rel=0.05)


def test_only_images_in_which_it_fires_count():
    x = maps(60, 2)
    silent = torch.cat([x, torch.zeros_like(x)])
    assert measure("spatial_entropy", silent).units == pytest.approx(measure("spatial_entropy", x).units, rel=1e-9)


# --- edges ------------------------------------------------------------------------------------------------------


def test_degenerate_maps():
    assert math.isnan(measure("spatial_entropy", torch.zeros(40, 1, 3, 3)).value)  # never fires
    assert math.isnan(measure("spatial_entropy", torch.full((40, 1, 3, 3), -1.0)).value)
    assert math.isnan(measure("spatial_entropy.softmax", torch.ones(40, 1, 3, 3)).value)  # has no scale
    one = measure("spatial_entropy", torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(0)))
    assert 0.5 < one.value < 1
    assert (one.low, one.high) == (0, 1)


def test_images_needed():
    assert METRIC.images(Need(make_site(), "softmax", 10, 0.05, {"temperature": 1.0})) == 30
    x = torch.ones(300, 3, 2, 2)
    x[..., 0, 0] = torch.rand(300, 3, generator=torch.Generator().manual_seed(0))
    x[10:, 1], x[:, 2] = 0, 1
    gate = METRIC.gate(folded(x), make_site(), "scale_free", {})
    assert gate.images.tolist() == [0, 900, 0]
    assert gate.reason == "some kernels fire in fewer than 30 images"
    assert METRIC.gate(folded(x), make_site(), "softmax", {}).images.tolist() == [0, 900, 300]
    gate = METRIC.gate(folded(x[:, [0, 2]]), make_site(), "softmax", {})
    assert gate.images.tolist() == [0, 300]
    assert gate.reason == "some kernels never varied on the images that fix their scale"
    gate = METRIC.gate(folded(x, sources=torch.arange(300) // 15), make_site(), "scale_free", {})
    assert gate.images.tolist() == [30, 600, 30]
    assert "30 sources" in gate.reason


def test_one_position_has_none():
    assert "one position" in METRIC.applies(make_site(shape=()), "scale_free", {})
    with pytest.raises(MetricError, match="there is one position"):
        measure("spatial_entropy", torch.rand(20, 2))


def test_it_judges_nothing():
    assert [field.better for field in METRIC.fields.values()] == ["", ""]
    assert "not p(feature | pixels)" in METRIC.doc


def test_in_an_audit():
    """The first channel fires all over, the second at one position."""
    images = torch.rand(200, 2, 5, 5, generator=torch.Generator().manual_seed(5)) + 1
    images[:, 1].flatten(1)[:, 1:] = 0
    convolution = torch.nn.Conv2d(2, 2, 1, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(torch.eye(2)[..., None, None])
    rules = [
        {"id": "wide", "metric": "spatial_entropy", "min": 0.9, "share": 0.5},
        {"id": "all", "metric": "spatial_entropy", "min": 0.9},
        {"id": "soft", "metric": "spatial_entropy.softmax", "max": 0.99, "params": {"temperature": 0.5}},
    ]
    net = torch.nn.Sequential(convolution, torch.nn.ReLU())
    report = cnnaudit.audit({"cnnaudit": 1, "rules": rules}, model=net, data=images)
    assert {v.rule: str(v.outcome) for v in report.verdicts} == {"wide": "pass", "all": "fail", "soft": "pass"}
