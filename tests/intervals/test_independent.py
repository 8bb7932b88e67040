import numpy as np
import pytest
from scipy import stats

from cnnaudit.intervals import Independent


def test_interval_is_students():
    parts = np.array([[1.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    found = Independent.of(parts)
    low, high = found.interval(0.9)
    expected = stats.t.interval(0.9, 2, loc=parts[:, 0].mean(), scale=stats.sem(parts[:, 0]))
    assert (low[0], high[0]) == pytest.approx(expected)
    assert (low[1], high[1]) == (5, 5)
    assert found.p_at_most(2)[0] == pytest.approx(stats.ttest_1samp(parts[:, 0], 2, alternative="greater").pvalue)


def test_one_part_tells_no_error_and_none_no_value():
    one, none = Independent.of(np.array([[2.0]]), (0, 3)), Independent.of(np.empty((0, 1)))
    assert one.value == 2
    assert one.interval(0.95) == (0, 3)
    assert one.p_at_most(1) == one.p_at_least(1) == 1
    assert np.isnan(none.value)
    assert none.p_at_most(0) == none.p_at_least(0) == 1


def test_groups_of_sources_change_nothing():
    found = Independent.of(np.array([[1.0], [2.0], [4.0]]))
    assert found.regrouped([], np.array([10.0]), 5) is found


def test_parts_cover_the_mean_as_often_as_they_should():
    draw = np.random.default_rng(0)
    low, high = Independent.of(draw.normal(3, 2, (8, 2000))).interval(0.95)
    assert ((low <= 3) & (high >= 3)).mean() == pytest.approx(0.95, abs=0.02)
