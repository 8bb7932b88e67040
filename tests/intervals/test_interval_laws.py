import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds import (
    NAN,
    array,
    binomials,
    bounded,
    exact,
    finite,
    jackknives,
    levels,
    many,
    normals,
    rare,
    sequences,
    shifted,
)
from scipy import stats

from cnnaudit.intervals import (
    Betting,
    Binomial,
    BoundedMean,
    EmpiricalBernstein,
    Exact,
    Jackknife,
    Normal,
    Shifted,
    Uncertain,
)

EVERY = [normals, shifted, jackknives, bounded, binomials, rare, exact, sequences]


# --- the interval and the p-values are two views of one thing -------------------------------------------------


@pytest.mark.parametrize(
    ("quantities", "bounds"),
    [
        (normals, finite),
        (shifted, finite),
        (jackknives, finite),
        (exact, finite),
        (bounded, st.floats(-0.1, 1.1)),
        (binomials, st.floats(-0.1, 1.1)),
        (rare, st.sampled_from([0.0, 0.25, 0.5, 1.0])),
        (sequences, st.floats(-0.6, 1.1)),
    ],
    ids=["normal", "shifted", "jackknife", "exact", "bounded", "binomial", "rare", "sequence"],
)
def test_the_interval_excludes_a_bound_where_the_one_sided_test_does(quantities, bounds):
    @many
    @given(quantity=quantities, bound=bounds, alpha=levels)
    def law(quantity, bound, alpha):
        low, high = quantity.interval(1 - 2 * alpha)
        above, below = quantity.p_at_most(bound), quantity.p_at_least(bound)
        # Rounding may decide either way where the end of the interval is the bound itself.
        clear_low, clear_high = np.abs(low - bound) > 1e-9, np.abs(high - bound) > 1e-9
        assert ((low > bound) == (above <= alpha))[clear_low].all()
        assert ((high < bound) == (below <= alpha))[clear_high].all()
        if quantities is not sequences:  # which have an opinion of every earlier moment, too
            assert (low <= quantity.value + 1e-12).all()
            assert (quantity.value <= high + 1e-12).all()

    law()


@pytest.mark.parametrize("quantities", EVERY)
def test_p_values_are_monotone_in_the_bound(quantities):
    @many
    @given(quantity=quantities, bounds=st.tuples(finite, finite).map(sorted))
    def law(quantity, bounds):
        near, far = bounds
        for rising in (quantity.p_at_most, quantity.p_below):
            assert (rising(near) <= rising(far) + 1e-12).all()
        for falling in (quantity.p_at_least, quantity.p_above):
            assert (falling(near) >= falling(far) - 1e-12).all()
        for p in (quantity.p_at_most, quantity.p_at_least, quantity.p_below, quantity.p_above):
            assert ((p(near) >= 0) & (p(near) <= 1)).all()

    law()


@pytest.mark.parametrize("quantities", EVERY)
def test_a_strict_claim_implies_the_weak_one(quantities):
    """What speaks against "truth <= bound" speaks against "truth < bound" at least as much."""

    @many
    @given(quantity=quantities, bound=finite | st.sampled_from([0.0, 1.0]))
    def law(quantity, bound):
        assert (quantity.p_below(bound) <= quantity.p_at_most(bound)).all()
        assert (quantity.p_above(bound) <= quantity.p_at_least(bound)).all()

    law()


@pytest.mark.parametrize("quantities", EVERY)
def test_more_confidence_is_a_wider_interval(quantities):
    @many
    @given(quantity=quantities)
    def law(quantity):
        low90, high90 = quantity.interval(0.9)
        low99, high99 = quantity.interval(0.99)
        assert (low99 <= low90).all()
        assert (high99 >= high90).all()

    law()


# --- undefined values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "quantity",
    [
        Exact(array(NAN, 1)),
        Normal(array(NAN, 1), array(0.1, 0.1)),
        Normal(array(NAN, 1), array(NAN, 0.1)),
        Normal(array(NAN, 1), array(0.0, 0.1), dof=4),
        Shifted(array(NAN, 1), array(0.1, 0.1), floor=array(NAN, 1)),
        Jackknife(array(NAN, 1), np.array([[NAN, 1], [NAN, 1.1]]), array(3, 3)),
        BoundedMean(array(NAN, 1), array(0.1, 0), 30, (-9, 9)),
        BoundedMean(array(NAN, 1), array(0, 0.1), 30, (-9, 9), dof=4),
        EmpiricalBernstein(np.column_stack([[1, NAN] * 100, np.ones(200)]), (-9, 9)),
        Betting(np.column_stack([[1, NAN] * 100, np.ones(200)]), (-9, 9)),
    ],
)
def test_an_undefined_value_proves_nothing(quantity):
    for p in (quantity.p_below, quantity.p_above, quantity.p_at_most, quantity.p_at_least):
        assert p(-3)[0] == 1
        assert p(3)[0] == 1
    assert quantity.p_at_most(-3)[1] < 0.05
    assert all(math.isnan(end[0]) for end in quantity.interval(0.95))


@pytest.mark.parametrize("error", [math.inf, NAN])
@pytest.mark.parametrize("kind", [Normal, lambda value, error: BoundedMean(value, error, 50, (-9, 9))])
def test_an_unknown_error_proves_nothing(kind, error):
    quantity = kind(array(5.0), array(error))
    for p in (quantity.p_below, quantity.p_above, quantity.p_at_most, quantity.p_at_least):
        assert p(0.0).tolist() == [1]


# --- means over units -----------------------------------------------------------------------------------------


def test_means():
    assert Exact(array(1, 2, 6)).mean().value.tolist() == [3]
    normal = Normal(array(1, 3), array(0.1, 0.3), 7, (0, 9)).mean()
    # Units share their images, so only full correlation is safe: the error of a mean is at most the mean error.
    assert (normal.value[0], normal.error[0]) == pytest.approx((2, 0.2))
    assert (normal.dof, normal.limits) == (7, (0, 9))
    moved = Shifted(array(1, 3), array(0.1, 0.3), floor=array(0.5, 2.5), p_zero=array(0, 0)).mean()
    assert (moved.value[0], moved.error[0]) == pytest.approx((2, 0.2))
    assert moved.p_at_most(1.3)[0] == pytest.approx(stats.norm.sf(1))
    binomial = Binomial(array(0, 50), 100).mean()
    assert binomial.value.tolist() == [0.25]
    # Of Bernoulli values: p (1 - p) / (n - 1).
    assert binomial.error[0] == pytest.approx(np.sqrt(0.25 / 99) / 2)
    fractions = BoundedMean(array(0.2, 0.6), array(0.1, 0.2), np.array([30, 20])).mean()
    assert (fractions.value[0], fractions.error[0], fractions.units) == pytest.approx((0.4, 0.15, 20))


def test_on_dataset_is_the_value_without_doubt():
    exact = Normal(array(1.0, NAN), array(0.5, 0.5)).on_dataset()
    assert isinstance(exact, Exact)
    assert exact.value[0] == 1
    assert exact.p_at_least(1.01).tolist() == [0, 1]


# --- errors by source ---------------------------------------------------------------------------------------------


def test_regrouping_changes_the_error_and_nothing_else():
    whole, parts, sizes = array(1.0), [array(0.8), array(1.1), array(1.3)], array(10, 20, 30)
    jackknife = Jackknife(whole, np.array(parts), sizes)
    expected, dof = jackknife.claim.error, 60**2 / 1400 - 1  # Kish's effective number of groups, less one
    normal = Normal(whole, array(0.01), limits=(0, 9))
    found = normal.regrouped([Normal(part, array(0.5)) for part in parts], sizes, 40)
    assert found == Normal(whole, found.error, dof, (0, 9))
    assert found.error.tolist() == expected.tolist()
    moved = Shifted(whole, array(0.01), floor=array(0.9), p_zero=array(0.03))
    found = moved.regrouped([Shifted(part, array(0.5), floor=array(7.0)) for part in parts], sizes, 40)
    assert isinstance(found, Shifted)
    assert (found.error[0], found.dof) == (expected[0], dof)
    assert (found.floor[0], found.p_zero[0]) == (0.9, 0.03)
    floored = Normal(whole, array(0.5), least=array(0.4))
    assert floored.regrouped([floored, floored], array(5, 5), 10).error.tolist() == [0.4]  # where every group agrees
    assert Exact(whole).regrouped([Exact(part) for part in parts], sizes, 40).value is whole
    assert jackknife.regrouped([], sizes, 40) is jackknife


def test_one_group_of_sources_tells_no_error():
    sizes = array(50)
    for quantity in (
        Normal(array(0.5), array(0.01)),
        BoundedMean(array(0.5), array(0.01), 50),
    ):
        found = quantity.regrouped([], sizes, 1)
        assert found.p_at_most(0.001).tolist() == found.p_at_least(0.999).tolist() == [1]


def test_a_kind_that_knows_no_sources_says_so():
    class Other(Normal):
        regrouped = Uncertain.regrouped

    with pytest.raises(NotImplementedError, match="Other cannot be told by sources"):
        Other(array(1), array(1)).regrouped([], array(1), 1)
