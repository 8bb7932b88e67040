"""What `measure` says of arguments that make no sense; laws of all metrics are in test_conformance.py."""

import pytest
import torch

import cnnaudit
from cnnaudit import MetricError, measure

GENERATOR = torch.Generator().manual_seed(0)
MAPS = torch.randn(80, 3, 8, 8, generator=GENERATOR).relu()


def test_numpy_arrays_are_tensors_too():
    assert measure("activity.apoz", MAPS.numpy()) == measure("activity.apoz", MAPS)


def test_it_is_public():
    assert cnnaudit.measure is measure


def test_a_kernel_has_one_number_for_each_dimension():
    with pytest.raises(MetricError, match="kernel"):
        measure("pool_entropy_loss", MAPS, kernel=(2, 2, 2))


@pytest.mark.parametrize("facts", [{"block": 0}, {"confidence": 1.5}, {"estimand": "sample"}, {"stride": 0}])
def test_facts_that_make_no_sense_are_refused(facts):
    with pytest.raises(MetricError):
        measure("pool_entropy_loss", MAPS, **facts)


def test_the_values_of_a_pair_may_differ_in_all_but_images():
    assert measure("linear_cka", MAPS, MAPS[:, :2, :4]).n_images == 80
    with pytest.raises(MetricError, match="differ in shape"):
        measure("linear_cka", MAPS, MAPS[:40])
    with pytest.raises(MetricError, match="differ in shape"):
        measure("branch_variance_share", MAPS, MAPS[:, :2])


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (None, "needs masks"),
        (torch.zeros(79, 8, 8, dtype=torch.int64), "80 images but 79 masks"),
        (torch.zeros(80, 8, 8), "whole numbers"),
        (torch.zeros(80, 8, dtype=torch.int64), "shape"),
    ],
)
def test_masks_that_fit_no_image_are_refused(masks, message):
    with pytest.raises(MetricError, match=message):
        measure("iou", MAPS, masks=masks)


def test_the_attainable_rank_is_a_fact_of_the_site():
    narrow, plain = (measure("participation_ratio.of_rank", MAPS, **facts) for facts in ({"rank": 2}, {}))
    assert narrow.value == pytest.approx(plain.value * 3 / 2)
