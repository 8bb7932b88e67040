from dataclasses import dataclass

import numpy as np
import pytest
from kinds import NAN, array
from scipy import stats

from cnnaudit.intervals import Array, Inverted


@dataclass(frozen=True)
class Gaussian(Inverted):
    """Normal values of error 1 that know their interval alone, cut at their limits."""

    value: Array
    limits: tuple[float, float] = (0.0, 10.0)

    def interval(self, confidence):
        reach = stats.norm.ppf((1 + confidence) / 2)
        return np.clip(self.value - reach, *self.limits), np.clip(self.value + reach, *self.limits)

    def mean(self):
        return Gaussian(np.atleast_1d(self.value.mean()), self.limits)


def test_p_values_are_those_of_the_interval():
    found = Gaussian(array(2, 3.5))
    for bound in (0.5, 1.0, 1.9):
        expected = stats.norm.sf([2 - bound, 3.5 - bound])
        for p in (found.p_at_most(bound), found.p_below(bound)):
            assert p == pytest.approx(expected, rel=1e-6)
            assert np.all(p >= expected)
    for p in (found.p_at_least(4), found.p_above(4)):
        assert p == pytest.approx(stats.norm.cdf([-2, -0.5]), rel=1e-6)


def test_what_the_smallest_interval_holds_is_not_refuted():
    found = Gaussian(array(2))
    assert [p[0] for p in (found.p_at_most(2.1), found.p_below(2.1), found.p_at_least(1.9), found.p_above(1.9))] == [
        1
    ] * 4


def test_p_values_are_not_told_below_a_limit():
    assert Gaussian(array(9)).p_at_most(0.5)[0] == pytest.approx(1e-12)


def test_the_truth_cannot_leave_its_limits():
    found = Gaussian(array(2))
    assert found.p_below(0) == found.p_above(10) == [0]
    assert found.p_at_most(0) == pytest.approx(stats.norm.sf(2), rel=1e-6)
    assert found.p_at_least(0) == found.p_at_most(10) == [1]


def test_an_undefined_value_proves_nothing():
    found = Gaussian(array(NAN))
    assert [p[0] for p in (found.p_at_most(2), found.p_below(2), found.p_at_least(2), found.p_above(2))] == [1] * 4
