"""How far a mean moved, and how sure that is."""

import math

import numpy as np
import pytest
from audits import mean
from scipy import stats

from cnnaudit.gate.moved import moved


def test_exact_means_differ_exactly():
    found = moved((mean(0.25), 0.95), (mean(0.75), 0.95))
    assert (found.value, found.how, found.interval(0.99)) == (0.5, "exact", (0.5, 0.5))
    assert (found.p_above(0.5), found.p_at_most(0.5)) == (0.0, 1.0)
    assert (found.p_above(0.4), found.p_at_most(0.4)) == (1.0, 0.0)


def test_equal_groups_are_compared_one_by_one():
    first = mean(0.5, 0.3, 0.7, [(10, 0.4), (10, 0.5), (10, 0.6), (10, 0.5)])
    second = mean(0.6, 0.4, 0.8, [(10, 0.51), (10, 0.6), (10, 0.69), (10, 0.6)])
    found = moved((first, 0.95), (second, 0.95))
    # Replicates of the difference: 0.11, 0.1, 0.09, 0.1; (G - 1) / G * sum of squares = 3/4 * 0.0002.
    error = math.sqrt(0.75 * 0.0002)
    assert found.how == "paired"
    assert found.dof == pytest.approx(3)
    assert found.below == found.above == pytest.approx(error)
    assert found.interval(0.95) == pytest.approx(
        (0.1 - stats.t.ppf(0.975, 3) * error, 0.1 + stats.t.ppf(0.975, 3) * error)
    )
    assert found.p_above(0.12) == pytest.approx(stats.t.sf(0.02 / error, 3))
    assert found.p_at_most(0.08) == pytest.approx(stats.t.sf(0.02 / error, 3))


def test_what_images_do_to_both_alike_cancels():
    groups = [(5, 0.4), (5, 0.6)]
    found = moved((mean(0.5, 0.1, 0.9, groups), 0.95), (mean(0.75, 0.3, 1, [(n, x + 0.25) for n, x in groups]), 0.95))
    assert found.interval(0.95) == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize("groups", [(), [(5, 0.4), (6, 0.6)]])
def test_other_groups_leave_the_two_intervals(groups):
    first = mean(0.5, 0.4, 0.53, groups)
    second = mean(0.9, 0.86, 1.0, [(5, 0.4), (5, 0.6)])
    found = moved((first, 0.95), (second, 0.95))
    # MOVER: the lower end lies below by the second's distance downwards and the first's upwards.
    assert found.how == "unpaired"
    assert found.interval(0.95) == pytest.approx((0.4 - math.hypot(0.04, 0.03), 0.4 + math.hypot(0.1, 0.1)))


def test_intervals_of_other_confidence_are_brought_to_one():
    half = stats.norm.ppf(0.995) * 0.1
    found = moved((mean(0.0), 0.95), (mean(1.0, 1 - half, 1 + half), 0.99))
    assert found.below == found.above == pytest.approx(0.1)


@pytest.mark.parametrize("high", [math.nan, math.inf])
def test_an_end_that_does_not_exist_tells_no_error(high):
    found = moved((mean(0.5), 0.95), (mean(0.6, 0.55, high), 0.95))
    assert math.isinf(found.above)
    assert found.p_above(0.9) == 1
    assert found.p_at_most(0.0) < 0.05


def test_one_group_and_undefined_values_tell_nothing():
    alone = moved((mean(0.5, 0.4, 0.6, [(9, 0.5)]), 0.95), (mean(0.6, 0.5, 0.7, [(9, 0.6)]), 0.95))
    undefined = moved((mean(math.nan), 0.95), (mean(0.6, 0.5, 0.7), 0.95))
    for found in (alone, undefined):
        assert found.p_above(10) == found.p_at_most(-10) == 1


def audit(values, groups):
    """The mean of images with its interval and, as a jackknife tells it, without each group."""
    parts = values.reshape(groups, -1)
    rest = (values.sum() - parts.sum(axis=1)) / (values.size - parts.shape[1])
    error = values.std(ddof=1) / math.sqrt(values.size)
    return values.mean(), error, tuple(zip([parts.shape[1]] * groups, rest, strict=True))


@pytest.mark.parametrize(("paired", "shared"), [(True, 0.9), (True, 0.0), (False, 0.0), (False, 0.9)])
def test_neither_end_is_missed_more_often_than_it_may_be(paired, shared):
    """Two networks on the same skewed images: each p-value, where its claim is just true, is at most 5 % in 5 %."""
    draw = np.random.default_rng(0)
    runs, worse, better = 1500, 0, 0
    for _ in range(runs):
        common, *own = draw.exponential(size=(3, 160)) - 1
        both = [audit(math.sqrt(shared) * common + math.sqrt(1 - shared) * x, 16) for x in own]
        means = [
            (mean(value, value - 1.96 * error, value + 1.96 * error, groups if paired else ()), 0.95)
            for value, error, groups in both
        ]
        found = moved(*means)
        worse += found.p_above(0.0) <= 0.05
        better += found.p_at_most(0.0) <= 0.05
    allowed = stats.binom.ppf(0.999, runs, 0.05)
    assert max(worse, better) <= allowed
    if paired or not shared:  # and not much less often, which would be an interval too wide
        assert min(worse, better) >= stats.binom.ppf(0.001, runs, 0.05)
