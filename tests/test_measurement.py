"""What `measure` does for every metric alike; values are tested with the metrics."""

import math

import pytest
import torch

import cnnaudit
from cnnaudit import Estimate, MetricError, measure
from cnnaudit.metrics import registry

NAMES = list(registry())
GENERATOR = torch.Generator().manual_seed(0)
MAPS = torch.randn(80, 3, 8, 8, generator=GENERATOR).relu()
LABELS = torch.randint(0, 3, (80,), generator=GENERATOR)


def inputs(name, x=MAPS):
    metric = registry()[name]
    tensors = [x, *[x.flip(0)] * (len(metric.taps) - 1)]
    return tensors, {"labels": LABELS[: len(x)]} if metric.labels else {}


def every_field():
    return [f"{name}.{field}" for name, metric in registry().items() for field in metric.fields]


def test_these_are_the_metrics():
    assert {
        "activity",
        "branch_variance_share",
        "class_information",
        "pool_entropy_loss",
        "pool_information_dimension_loss",
    } <= set(NAMES)


@pytest.mark.parametrize("name", every_field())
def test_an_estimate_lines_up(name):
    stem, _, field = name.partition(".")
    tensors, facts = inputs(stem)
    found = measure(name, *tensors, **facts)
    assert isinstance(found, Estimate)
    assert found.unit == registry()[stem].fields[field].unit
    assert found.n_images == 80
    assert len(found.units) == len(found.lows) == len(found.highs) == len(found.kernels)
    assert found.value == pytest.approx(sum(found.units) / len(found.units))
    assert found.low <= found.value <= found.high
    for low, value, high in zip(found.lows, found.units, found.highs, strict=True):
        assert low <= value <= high
    assert all(type(v) is float for v in (found.value, found.low, found.high, *found.units, *found.lows))


@pytest.mark.parametrize("name", NAMES)
def test_the_first_field_is_the_default(name):
    tensors, facts = inputs(name)
    first = next(iter(registry()[name].fields))
    assert measure(name, *tensors, **facts) == measure(f"{name}.{first}", *tensors, **facts)


@pytest.mark.parametrize("name", every_field())
def test_more_confidence_is_a_wider_interval(name):
    tensors, facts = inputs(name.partition(".")[0])
    narrow, wide = (measure(name, *tensors, confidence=c, **facts) for c in (0.8, 0.99))
    assert wide.units == narrow.units
    assert wide.low <= narrow.low <= narrow.high <= wide.high


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_numbers(name):
    tensors, facts = inputs(name)
    assert measure(name, *tensors, seed=5, **facts) == measure(name, *tensors, seed=5, **facts)


@pytest.mark.parametrize("name", NAMES)
def test_the_layout_of_the_memory_and_gradients_do_not_matter(name):
    tensors, facts = inputs(name)
    wanted = measure(name, *tensors, **facts)
    other = [x.contiguous(memory_format=torch.channels_last).requires_grad_() for x in tensors]
    found = measure(name, *other, **facts)
    assert found.units == pytest.approx(wanted.units, rel=1e-5)
    assert all(x.grad is None for x in other)


@pytest.mark.parametrize("name", NAMES)
def test_tensors_are_left_as_they_were(name):
    tensors, facts = inputs(name)
    before = [x.clone() for x in tensors]
    state = torch.get_rng_state()
    measure(name, *tensors, **facts)
    assert all(torch.equal(x, b) for x, b in zip(tensors, before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_numpy_arrays_are_tensors_too():
    assert measure("activity.apoz", MAPS.numpy()) == measure("activity.apoz", MAPS)


def test_it_is_public():
    assert cnnaudit.measure is measure


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_not_measured(name):
    tensors, facts = inputs(name, MAPS.clone())
    tensors[0][3] = math.nan
    with pytest.raises(MetricError, match="NaN"):
        measure(name, *tensors, **facts)


def test_a_kernel_has_one_number_for_each_dimension():
    with pytest.raises(MetricError, match="kernel"):
        measure("pool_entropy_loss", MAPS, kernel=(2, 2, 2))


@pytest.mark.parametrize("facts", [{"block": 0}, {"confidence": 1.5}, {"estimand": "sample"}, {"stride": 0}])
def test_facts_that_make_no_sense_are_refused(facts):
    with pytest.raises(MetricError):
        measure("pool_entropy_loss", MAPS, **facts)
