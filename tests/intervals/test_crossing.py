import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds import NAN, array, levels, many
from scipy import stats

from cnnaudit.intervals import Crossing

CURVE = array(0.5, 0.8, 0.92, 0.985, 0.992, 1.0)


def known(curve=CURVE, error=0.01, *, level=0.9, dof=math.inf, **facts):
    error = np.append(np.full(len(curve) - 1, error), 0.0)
    return Crossing(curve, level, error=error, dof=dof, **facts)


@pytest.mark.parametrize(("level", "terms"), [(0.3, 1), (0.5, 1), (0.8, 2), (0.81, 3), (0.99, 5), (0.999, 6)])
def test_the_value_is_the_first_term_that_reaches_the_level(level, terms):
    assert Crossing(CURVE, level).value.tolist() == [terms]
    assert Crossing(CURVE, level, 1 / 6).value == pytest.approx(terms / 6)


def test_rounding_does_not_cost_a_term():
    assert Crossing(np.cumsum(np.full(10, 0.1)), 0.8).value.tolist() == [8]  # whose sum is .7999999999999999
    assert Crossing(array(0.6, 0.9, 0.999999), 0.9999999).value.tolist() == [3]


def test_the_ends_are_read_off_the_curve():
    """.92 is two errors above .9, and .985 is far above it."""
    quantity = known()
    assert [end.tolist() for end in quantity.interval(0.95)] == [[3], [3]]
    assert [end.tolist() for end in quantity.interval(0.99)] == [[3], [4]]
    assert [end.tolist() for end in known(error=0.06).interval(0.95)] == [[2], [6]]
    assert [end.tolist() for end in known(error=0.06, step=0.5).interval(0.95)] == [[1], [3]]


def test_the_p_values_are_those_of_the_curve_at_the_bound():
    quantity = known(dof=9)
    assert quantity.p_at_most(2)[0] == pytest.approx(stats.t.sf(10, 9))
    assert quantity.p_at_most(3)[0] == pytest.approx(stats.t.cdf(2, 9))
    assert quantity.p_at_least(4)[0] == pytest.approx(stats.t.sf(2, 9))
    assert quantity.p_at_least(3)[0] == pytest.approx(stats.t.cdf(10, 9))


@pytest.mark.parametrize(("between", "floor", "ceil"), [(2.5, 2, 3), (3.0, 3, 3)])
def test_bounds_between_whole_numbers(between, floor, ceil):
    quantity = known(error=0.05)
    assert quantity.p_at_most(between) == quantity.p_at_most(floor)
    assert quantity.p_at_least(between) == quantity.p_at_least(ceil)
    # "Fewer than 3" is "at most 2", and "more than 3" is "at least 4".
    assert quantity.p_below(between) == quantity.p_at_most(ceil - 1)
    assert quantity.p_above(between) == quantity.p_at_least(floor + 1)


def test_what_the_range_decides_alone():
    quantity = known(error=9.0)
    assert quantity.p_at_most(0.5).tolist() == quantity.p_at_least(6.5).tolist() == [0]
    assert quantity.p_at_most(6).tolist() == quantity.p_at_least(1).tolist() == [1]
    assert quantity.p_below(1).tolist() == quantity.p_above(6).tolist() == [0]


curves = st.lists(st.floats(0.01, 1), min_size=2, max_size=7).map(lambda x: np.cumsum(sorted(x, reverse=True)) / sum(x))
quantities = st.builds(
    lambda curve, error, down, dof, slack: known(
        curve, error, level=0.8, dof=dof, slack=slack, outside=np.maximum.accumulate(np.append(curve[:-1] - down, 1.0)),
        shown=max(1, Crossing(curve, 0.8).crossing - slack),
    ),
    curves, st.floats(0.001, 0.3), st.floats(0, 0.1), st.sampled_from([math.inf, 15]), st.integers(0, 1),
)  # fmt: skip


def test_the_interval_excludes_a_bound_where_the_one_sided_test_does():
    @many
    @given(quantity=quantities, bound=st.floats(-0.4, 8.4).map(lambda x: round(x, 1)), alpha=levels)
    def law(quantity, bound, alpha):
        low, high = quantity.interval(1 - 2 * alpha)
        assert (low[0] > bound) == (quantity.p_at_most(bound)[0] <= alpha)
        assert (high[0] < bound) == (quantity.p_at_least(bound)[0] <= alpha)
        assert (low[0] >= bound) == (quantity.p_below(bound)[0] <= alpha)
        assert (high[0] <= bound) == (quantity.p_above(bound)[0] <= alpha)
        assert low <= quantity.value <= high

    law()


def test_the_higher_curve_gives_the_lower_end_and_the_lower_curve_the_upper():
    outside = array(0.45, 0.7, 0.85, 0.89, 0.95, 1.0)
    low, high = known(outside=outside).interval(0.95)
    assert (low[0], high[0]) == (3, 5)
    assert known(outside=outside).value.tolist() == [3]
    swapped = known(outside, outside=CURVE)
    assert [end[0] for end in swapped.interval(0.95)] == [3, 5]
    assert swapped.value.tolist() == [5]


def test_a_curve_that_falls_back_is_surely_there_only_at_the_end():
    low, high = known(array(0.5, 0.95, 0.97, 1.0), outside=array(0.4, 0.93, 0.89, 1.0)).interval(0.95)
    assert (low[0], high[0]) == (2, 4)


def test_slack():
    quantity = known(error=0.06, shown=2, slack=1)
    assert quantity.value.tolist() == [2]
    assert [end.tolist() for end in quantity.interval(0.95)] == [[1], [6]]


def test_groups_tell_the_errors_and_the_curve_outside():
    parts = [
        Crossing(array(0.52, 0.81, 1.0), 0.9, left=array(4.0, 7.0, 10.0)),
        Crossing(array(0.50, 0.79, 1.0), 0.9, left=array(5.0, 9.0, 14.0)),
        Crossing(array(0.48, 0.80, 1.0), 0.9, left=array(1.0, 4.0, 6.0)),
    ]
    whole = Crossing(array(0.5, 0.8, 1.0), 0.9)
    found = whole.regrouped(parts, array(10, 10, 10), 30)
    assert found.outside == pytest.approx([10 / 30, 20 / 30, 1])
    assert found.error == pytest.approx([math.sqrt(2 / 3 * 8e-4), math.sqrt(2 / 3 * 2e-4), 0])
    assert found.dof == 2
    assert whole.by_groups


def test_one_group_tells_nothing():
    for quantity in (Crossing(CURVE, 0.9), Crossing(CURVE, 0.9).regrouped([], array(9), 9)):
        assert [end.tolist() for end in quantity.interval(0.95)] == [[1], [6]]
        assert quantity.p_at_most(2).tolist() == quantity.p_at_least(5).tolist() == [1]


def test_nothing_varies():
    quantity = known(np.full(3, NAN))
    assert math.isnan(quantity.value[0])
    assert all(math.isnan(end[0]) for end in quantity.interval(0.95))
    for p in (quantity.p_at_most, quantity.p_at_least, quantity.p_below, quantity.p_above):
        assert p(-1).tolist() == p(2).tolist() == p(9).tolist() == [1]
    assert quantity.deciding(2) == (quantity, 2)


def test_the_curve_decides_how_many_images_it_takes():
    quantity, level = known(dof=15).deciding(2.5)
    assert (quantity.value.tolist(), quantity.error.tolist(), quantity.dof, level) == ([0.8], [0.01], 15, 0.9)
    assert known().deciding(0)[0].value.tolist() == [0.5]
    assert known().deciding(99)[0].value.tolist() == [1.0]


def test_it_is_its_own_mean():
    quantity = known()
    assert quantity.mean() is quantity
