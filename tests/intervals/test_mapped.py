import math

import numpy as np
import pytest
from kinds import array

from cnnaudit.intervals import BoundedMean, Mapped, Normal


def odds(share):
    with np.errstate(divide="ignore"):
        return share / (1 - share)


def share(odds):
    return odds / (1 + odds)


def mapped(*values, error=0.1, n=50):
    return Mapped(BoundedMean(array(*values), np.full(len(values), error), n), odds, share)


def test_ends_and_p_values_are_those_at_the_mapped_bounds():
    found = mapped(0.2, 0.5)
    assert found.value == pytest.approx([0.25, 1])
    assert found.limits == (0, math.inf)
    for mine, inner in zip(found.interval(0.9), found.inner.interval(0.9), strict=True):
        assert mine == pytest.approx(inner / (1 - inner))
    for name in ("p_at_most", "p_at_least", "p_below", "p_above"):
        assert getattr(found, name)(1.0) == pytest.approx(getattr(found.inner, name)(0.5)), name


def test_p_values_fit_the_interval():
    found = mapped(0.2)
    low, high = (float(end[0]) for end in found.interval(0.9))
    assert found.p_at_most(low) == pytest.approx([0.05])
    assert found.p_at_least(high) == pytest.approx([0.05])


def test_bounds_beyond_the_range():
    found = mapped(0.2, math.nan)
    np.testing.assert_array_equal(found.p_at_most(-1.0), [0, 1])
    np.testing.assert_array_equal(found.p_below(-1.0), [0, 1])
    np.testing.assert_array_equal(found.p_at_least(0.0), [1, 1])
    np.testing.assert_array_equal(found.p_below(0.0), [0, 1])
    exponential = Mapped(Normal(array(0.0), array(1.0)), np.tanh, np.arctanh)
    assert exponential.limits == (-1, 1)
    np.testing.assert_array_equal(exponential.p_at_least(2.0), [0])
    np.testing.assert_array_equal(exponential.p_above(2.0), [0])
    np.testing.assert_array_equal(exponential.p_at_most(1.0), [1])


def test_the_mean_lies_between_the_means_of_the_ends():
    found = mapped(0.2, 0.5)
    mean = found.mean()
    assert mean.value == pytest.approx([0.625])
    low, high = mean.interval(0.9)
    assert [low[0], high[0]] == pytest.approx([end.mean() for end in found.interval(0.9)])
    assert mean.p_at_most(float(low[0])) == pytest.approx([0.05], rel=1e-4)
    assert mean.mean() is mean


def test_errors_by_source_are_those_of_what_is_mapped():
    found = mapped(0.2)
    parts = [mapped(value) for value in (0.1, 0.2, 0.25)]
    sizes = array(4, 4, 5)
    regrouped = found.regrouped(parts, sizes, 13)
    inner = found.inner.regrouped([part.inner for part in parts], sizes, 13)
    for mine, end in zip(regrouped.interval(0.9), inner.interval(0.9), strict=True):
        assert mine == pytest.approx(odds(end))
