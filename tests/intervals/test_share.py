import numpy as np
import pytest
from kinds import array

from cnnaudit.intervals import BoundedMean, RareEvent, Share


def events(*values, error=0.02):
    return RareEvent(BoundedMean(array(*values), np.full(len(values), error), 200), 0.5)


def test_only_the_units_that_count_are_counted():
    found = Share(events(0.1, 0.2, 0.9, np.nan), np.array([True, True, True, False]))
    few = Share(events(0.1, 0.2, 0.9))
    assert found.value == few.value == pytest.approx([2 / 3])
    assert found.interval(0.95) == few.interval(0.95)
    for bound in (0.2, 1 / 3, 0.5, 2 / 3, 0.9):
        for name in ("p_at_most", "p_at_least", "p_below", "p_above"):
            assert getattr(found, name)(bound) == getattr(few, name)(bound)


def test_a_unit_of_which_nothing_is_known_may_be_either():
    low, high = Share(events(0.1, 0.9, np.nan)).interval(0.95)
    assert (low[0], high[0]) == pytest.approx((1 / 3, 2 / 3))


def test_errors_by_source_are_those_of_the_events():
    whole = Share(events(0.1, 0.9))
    moved = [Share(events(0.1 + d, 0.9 + d)) for d in (-0.4, 0.0, 0.4, 0.0)]
    found = whole.regrouped(moved, array(50, 50, 50, 50), 200)
    assert found.value == whole.value
    assert [end[0] for end in whole.interval(0.95)] == [0.5, 0.5]
    assert [end[0] for end in found.interval(0.95)] == [0, 1]
