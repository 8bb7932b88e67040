"""The difference of two quantities: valid whatever they have in common, and paired where both are jackknives."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds import NAN, array, bounded, exact, left_out_means, levels, many, normals
from scipy import stats

from cnnaudit.intervals import Difference, Exact, Jackknife, Normal, difference


def normal(value, error=1.0, **facts):
    return Normal(array(value), array(error), **facts)


def test_the_interval_is_that_of_both_at_half_of_the_error():
    low, high = Difference(normal(5), normal(2, 2.0)).interval(0.9)
    z = stats.norm.ppf(0.975)  # 95 % each, so 2.5 % at each end
    assert (low, high) == (pytest.approx([3 - 3 * z]), pytest.approx([3 + 3 * z]))


def test_p_values_are_levels_at_which_the_interval_clears_the_bound():
    """By hand: of a difference of 3 with errors 1 and 2 the p-value of "at most 0" is 2 P(Z > 1), of 9 2 P(Z > 2)."""
    exact, levels = 2 * stats.norm.sf([1, 2]), (0.3174, 0.3172, 0.0456, 0.0454)
    found = Difference(normal(5), normal(2, 2.0), levels)
    assert found.p_at_most(0) == [0.3174] > exact[0]
    assert found.p_at_least(9) == [0.0456] > exact[1]
    assert found.p_at_least(0) == found.p_at_most(6) == [1]
    usual = Difference(normal(5), normal(2, 2.0))
    assert (usual.p_at_most(0), usual.p_at_least(9)) == ([0.4], [0.05])


@pytest.mark.parametrize("correlation", [-1.0, -0.5, 0.0, 0.5, 1.0])
def test_it_covers_whatever_both_have_in_common(correlation):
    noise = np.random.default_rng(0).normal(size=(2, 4000))
    a = noise[0]
    b = correlation * a + math.sqrt(1 - correlation**2) * noise[1]
    found = Difference(Normal(a + 1, np.ones(4000)), Normal(b, np.ones(4000)))
    low, high = found.interval(0.9)
    covered = ((low <= 1) & (high >= 1)).mean()
    assert covered >= 0.9 - 0.01
    # Where the two are opposites every bit of the width is needed: 2 z_.025 errors of a + b = 2 a.
    assert covered == pytest.approx(0.95, abs=0.012) or correlation > -1
    assert (found.p_at_most(1) <= 0.05).mean() <= 0.05 + 0.01


@many
@given(a=normals | bounded, b=normals | bounded, bound=st.floats(-3, 3), alpha=levels)
def test_the_interval_excludes_a_bound_where_the_one_sided_test_does(a, b, bound, alpha):
    m = min(len(a.value), len(b.value))
    a, b = (_first(x, m) for x in (a, b))
    found = Difference(a, b, (alpha,))
    assert found.value == pytest.approx(a.value - b.value)
    low, high = found.interval(1 - 2 * alpha)
    assert ((low > bound) == (found.p_at_most(bound) <= alpha)).all()
    assert ((high < bound) == (found.p_at_least(bound) <= alpha)).all()
    assert ((low >= bound) == (found.p_below(bound) <= alpha)).all() or bound <= found.limits[0]
    assert (low <= found.value + 1e-9).all()
    assert (found.value <= high + 1e-9).all()


def _first(x, m):
    from dataclasses import replace

    return replace(x, value=x.value[:m], error=x.error[:m])


def test_units_are_judged_each_by_itself():
    more, less = Normal(array(1, 5, 30, NAN), np.ones(4)), Normal(array(0, 2, 0, 0), np.ones(4))
    together = Difference(more, less).p_at_most(0)
    for unit in range(4):
        alone = Difference(normal(more.value[unit]), normal(less.value[unit])).p_at_most(0)
        assert together[unit] == alone[0]
    assert together[3] == 1
    assert together[2] == 1e-12


def test_its_limits_are_those_that_two_numbers_within_theirs_can_differ_by():
    found = Difference(normal(0.4, limits=(0.0, 1.0)), normal(0.3, limits=(0.0, 2.0)))
    assert found.limits == (-2.0, 1.0)
    assert found.p_below(-2) == found.p_above(1) == [0]


@many
@given(exact, exact)
def test_exact_values_differ_exactly(a, b):
    m = min(len(a.value), len(b.value))
    a, b = Exact(a.value[:m]), Exact(b.value[:m])
    found = difference(a, b)
    assert isinstance(found, Exact)
    assert (found.value == a.value - b.value).all()


def jackknife(x, groups, limits=(-math.inf, math.inf)):
    return Jackknife(x.mean(0, keepdims=True), left_out_means(x, groups), array(*map(len, groups)), limits)


def test_two_jackknives_over_the_same_groups_are_one_of_the_differences():
    random = np.random.default_rng(1)
    shared = random.normal(size=200)
    a, b = 1 + shared + random.normal(0, 0.1, 200), shared
    groups = np.array_split(np.arange(200), 20)
    paired = difference(jackknife(a, groups), jackknife(b, groups))
    direct = jackknife(a - b, groups)
    assert isinstance(paired, Jackknife)
    for mine, theirs in zip(paired.interval(0.95), direct.interval(0.95), strict=True):
        assert mine == pytest.approx(theirs)
    low, high = paired.interval(0.95)
    wide_low, wide_high = Difference(jackknife(a, groups), jackknife(b, groups)).interval(0.95)
    assert (high - low) < (wide_high - wide_low) / 10


def test_jackknives_over_other_groups_are_not_paired():
    x = np.random.default_rng(2).normal(size=60)
    a, b = (jackknife(x, np.array_split(np.arange(60), n)) for n in (20, 10))
    assert isinstance(difference(a, b), Difference)
    assert isinstance(difference(a, normal(0)), Difference)


def test_paired_limits_are_no_narrower_than_the_difference():
    x = np.random.default_rng(3).random(60)
    groups = np.array_split(np.arange(60), 20)
    found = difference(jackknife(x, groups, (0.0, 1.0)), jackknife(1 - x, groups, (0.0, 1.0)))
    assert found.limits == (-1.0, 1.0)


def test_the_mean_of_units_is_that_of_both():
    found = Difference(Normal(array(1, 3), np.ones(2)), Normal(array(0, 1), np.ones(2))).mean()
    assert found.value == [1.5]
    assert found.interval(0.9)[0] == pytest.approx(1.5 - 2 * stats.norm.ppf(0.975))


def test_nothing_is_known_where_one_of_both_is_not():
    for a, b in ((normal(1), normal(0, math.inf)), (normal(0, math.inf), normal(1)), (normal(NAN), normal(1))):
        found = Difference(a, b)
        assert found.p_at_most(-9) == found.p_at_least(9) == [1]
