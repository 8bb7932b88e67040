import math

import pytest
from kinds import array

from cnnaudit.intervals import BoundedMean, CarriedMean, CarriedNormal, Normal, widened


def test_an_error_that_few_images_tell_is_larger():
    assert widened(array(0.1, 0.1, 0.1), array(4, 100, math.inf)) == pytest.approx([0.15, 0.11, 0.1])


def test_what_no_image_carries_is_unknown():
    assert widened(array(0, 0.1), array(0, 0)).tolist() == [math.inf, math.inf]


PLACES, SIZES = array(0.5, 0.6, 0.55, 0.45), array(10, 10, 10, 10)


def test_sources_keep_the_factor():
    """9 images of 40 carry it: of 16 sources that is 3.6."""
    told = [
        kind(array(0.525), array(0.01), **facts).regrouped(
            [kind(PLACES[[i]], array(0.01), **facts) for i in range(4)], SIZES, 16
        )
        for kind, facts in (
            (Normal, {}),
            (CarriedNormal, {"carrying": array(9)}),
            (BoundedMean, {"units": 40}),
            (CarriedMean, {"units": 9, "carrying": array(9)}),
        )
    ]
    normal, carried, bounded, mean = told
    assert normal.error[0] == pytest.approx(math.sqrt(3 / 4 * ((PLACES - PLACES.mean()) ** 2).sum()))
    assert carried.error == pytest.approx(normal.error * (1 + 1 / math.sqrt(3.6)))
    assert mean.error == pytest.approx(bounded.error * (1 + 1 / math.sqrt(3.6)))
    assert mean.units == 3
    assert carried.dof == mean.dof == 3


def test_agreeing_sources_that_carry_nothing_are_unknown():
    parts = [CarriedNormal(array(0), array(math.inf), carrying=array(0)) for _ in range(4)]
    told = parts[0].regrouped(parts, SIZES, 40)
    assert told.interval(0.95) == ([-math.inf], [math.inf])
    assert told.p_at_least(0.5) == told.p_at_most(0.5) == [1]


def test_a_mean_is_carried_by_as_few_as_the_unit_that_fewest_carry():
    for kind, facts in ((CarriedNormal, {}), (CarriedMean, {"units": array(9, 4).astype(int)})):
        told = kind(array(0.2, 0.4), array(0.01, 0.03), carrying=array(9, 4), **facts).mean()
        assert (told.value, told.error, told.carrying) == (pytest.approx([0.3]), pytest.approx([0.02]), 4)
