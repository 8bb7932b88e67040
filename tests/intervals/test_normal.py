import math

import pytest
from kinds import NAN, array
from scipy import stats

from cnnaudit.intervals import Exact, Normal, Shifted


def test_an_exact_value_on_the_bound_keeps_it():
    quantity = Exact(array(1.0, 2.0, 3.0))
    assert quantity.p_below(2).tolist() == [1, 0, 0]
    assert quantity.p_at_most(2).tolist() == [1, 1, 0]
    assert quantity.p_above(2).tolist() == [0, 0, 1]
    assert quantity.p_at_least(2).tolist() == [0, 1, 1]
    low, high = quantity.interval(0.95)
    assert low.tolist() == high.tolist() == [1, 2, 3]


def test_a_normal_without_error_is_exact():
    quantity = Normal(array(1.0, 2.0, 3.0), array(0.0, 0.0, 0.0))
    same = Exact(quantity.value)
    for name in ("p_below", "p_at_most", "p_above", "p_at_least"):
        assert getattr(quantity, name)(2).tolist() == getattr(same, name)(2).tolist(), name


def test_a_normal_with_error_on_the_bound_tells_nothing():
    quantity = Normal(array(2.0), array(0.5))
    for p in (quantity.p_below, quantity.p_above, quantity.p_at_most, quantity.p_at_least):
        assert p(2.0).tolist() == [0.5]


def test_a_normal_by_hand():
    quantity = Normal(array(1.0), array(0.5))
    assert quantity.p_at_most(0)[0] == pytest.approx(stats.norm.sf(2))
    assert quantity.p_at_least(0)[0] == pytest.approx(stats.norm.cdf(2))
    low, high = quantity.interval(0.95)
    assert (low[0], high[0]) == pytest.approx((1 - 0.979982, 1 + 0.979982), abs=1e-6)
    student = Normal(array(1.0), array(0.5), dof=3)
    assert student.p_at_most(0)[0] == pytest.approx(stats.t.sf(2, 3))
    assert student.interval(0.95)[1][0] == pytest.approx(1 + 0.5 * stats.t.ppf(0.975, 3))


def test_intervals_are_cut_at_what_is_possible():
    low, high = Normal(array(0.02, 0.97), array(0.1, 0.1), limits=(0, 1)).interval(0.95)
    assert low[0] == 0
    assert high[1] == 1


def test_what_lies_beyond_the_limits_is_impossible():
    quantity = Normal(array(0.02, NAN), array(0.1, 0.1), limits=(0, 1))
    assert quantity.p_below(0).tolist() == [0, 1]
    assert quantity.p_above(1).tolist() == [0, 1]
    assert quantity.p_at_least(0)[0] > 0.5


def test_a_shifted_estimate_stands_on_its_floor_below_and_on_its_value_above():
    quantity = Shifted(array(1.0), array(0.1), floor=array(0.7))
    low, high = quantity.interval(0.95)
    assert (low[0], high[0]) == pytest.approx((0.7 - 0.1959964, 1.1959964), abs=1e-6)
    assert quantity.p_at_most(0.6)[0] == pytest.approx(stats.norm.sf(1))
    assert quantity.p_at_least(1.2)[0] == pytest.approx(stats.norm.sf(2))


def test_a_bent_interval_is_wider_by_z_squared():
    quantity = Shifted(array(1.0, 1.0), array(0.1, 0.0), floor=array(0.7, 1.0), bend=array(0.02, 0.02))
    low, high = quantity.interval(0.95)
    assert (low[0], high[0]) == pytest.approx((0.7 - 0.1959964 - 0.0768292, 1.1959964 + 0.0768292), abs=1e-6)
    assert quantity.p_at_least(1.28).tolist() == pytest.approx([stats.norm.sf(2), stats.norm.sf(math.sqrt(14))])
    assert quantity.p_at_most(0.42)[0] == pytest.approx(stats.norm.sf(2))
    assert quantity.p_at_most(0.8)[0] == pytest.approx(stats.norm.cdf(1))
    assert quantity.mean().bend.tolist() == [0.02]


def test_a_bound_of_zero_is_decided_by_the_exact_null_test():
    quantity = Shifted(array(1.0, 1.0), array(0.1, 0.1), floor=array(0.7, 0.7), p_zero=array(0.2, 0.001))
    assert quantity.p_at_most(0).tolist() == [0.2, 0.001]
    assert quantity.p_below(0).tolist() == [0.2, 0.001]
    assert quantity.p_at_most(0.01)[0] < 1e-9
    plain = Shifted(array(1.0), array(0.1))
    assert plain.p_at_most(0.8)[0] == pytest.approx(stats.norm.sf(2))
