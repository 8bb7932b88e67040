import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds import NAN, array, covers, finite, left_out_means, levels, many
from scipy import stats

from cnnaudit.intervals import Exact, Jackknife, Largest, Normal

LIMITS = (-1.0, 1.0)
SIZES = np.full(20, 5.0)


def told(*samples):
    """The largest of the means of some samples, one row an image, of 20 groups of 5 images."""
    found = Largest.among([x.mean(0) for x in samples], (-math.inf, math.inf))
    rests = [left_out_means(x.reshape(20, 5, -1).mean(1), range(20)) for x in samples]
    parts = [Largest.among([rest[group] for rest in rests], (-math.inf, math.inf)) for group in range(20)]
    return found.regrouped(parts, SIZES, 100)


largest = st.integers(1, 3).flatmap(
    lambda units: st.lists(
        st.lists(st.tuples(finite, st.floats(0.01, 3)), min_size=units, max_size=units).map(
            lambda told: Normal(array(*[v for v, _ in told]), array(*[e for _, e in told]), 19)
        ),
        min_size=1,
        max_size=3,
    ).map(lambda of: Largest(tuple(of)))
)


def test_ends_and_p_values_of_two_quantities():
    x = np.random.default_rng(0).normal(size=(2, 100, 3)) + np.array([0.0, 0.1])[:, None, None]
    found = told(*x)
    each = [Jackknife(a.mean(0), left_out_means(a.reshape(20, 5, -1).mean(1), range(20)), SIZES) for a in x]
    assert found.value == pytest.approx(np.maximum(*(part.value for part in each)))
    low, high = found.interval(0.9)
    assert low == pytest.approx(np.maximum(*(part.interval(0.95)[0] for part in each)))
    assert high == pytest.approx(np.maximum(*(part.interval(0.9)[1] for part in each)))
    assert found.p_at_most(0) == pytest.approx(np.minimum(1, 2 * np.minimum(*(part.p_at_most(0) for part in each))))
    assert found.p_at_least(0) == pytest.approx(np.maximum(*(part.p_at_least(0) for part in each)))


def test_the_interval_excludes_a_bound_where_the_one_sided_test_does():
    @many
    @given(found=largest, bound=finite, alpha=levels)
    def law(found, bound, alpha):
        low, high = found.interval(1 - 2 * alpha)
        clear_low, clear_high = np.abs(low - bound) > 1e-9, np.abs(high - bound) > 1e-9
        assert ((low > bound) == (found.p_at_most(bound) <= alpha))[clear_low].all()
        assert ((high < bound) == (found.p_at_least(bound) <= alpha))[clear_high].all()
        assert (low <= found.value).all()
        assert (found.value <= high).all()

    law()


def test_one_quantity_is_itself():
    alone = Normal(array(0.2, -0.3), array(0.1, 0.2), 7, LIMITS)
    found = Largest((alone,))
    assert found.limits == LIMITS
    for mine, its in zip(found.interval(0.95), alone.interval(0.95), strict=True):
        assert mine == pytest.approx(its)
    for name in ("p_at_most", "p_at_least", "p_below", "p_above"):
        for bound in (-1.0, 0.1, 1.0):
            assert getattr(found, name)(bound) == pytest.approx(getattr(alone, name)(bound))


def test_without_groups_nothing_is_known():
    found = Largest.among([array(0.1), array(0.3)], LIMITS)
    assert found.by_groups
    for unknown in (found, found.regrouped([], array(5), 5)):
        assert unknown.value == [0.3]
        assert [end[0] for end in unknown.interval(0.95)] == [-1, 1]
        assert unknown.p_at_most(0) == unknown.p_at_least(0) == [1]


def test_an_undefined_unit_is_undefined():
    found = Largest((Normal(array(NAN, 0.1), array(NAN, 0.1)), Normal(array(NAN, 0.4), array(NAN, 0.1))))
    assert math.isnan(found.value[0])
    assert found.value[1] == 0.4
    assert found.p_at_most(0)[0] == found.p_at_least(0)[0] == 1
    assert math.isnan(found.mean().value[0])


def test_the_mean_over_units_has_the_means_of_their_ends():
    found = told(*np.random.default_rng(1).normal(size=(3, 100, 4)))
    mean = found.mean()
    assert mean.value == pytest.approx([found.value.mean()])
    assert [end[0] for end in mean.interval(0.95)] == pytest.approx([end.mean() for end in found.interval(0.95)])
    low = mean.interval(0.9)[0][0]
    assert mean.p_at_most(low) == pytest.approx([0.05], rel=1e-4)
    assert mean.mean() is mean


def test_on_the_images_that_were_read_it_is_exact():
    found = Largest.among([array(0.1), array(0.3)], LIMITS).on_dataset()
    assert isinstance(found, Exact)
    assert found.value == [0.3]


@pytest.mark.parametrize("others", [(0.0, 0.0), (0.0, -0.1), (0.0, -3.0)])
def test_intervals_cover_the_largest_truth_at_a_tie_and_away_from_it(others):
    """2,000 units of 100 images; a normal interval about the largest estimate of three equal ones covers .86."""
    shift = np.array([0.0, *others])[:, None, None]
    x = np.random.default_rng(2).normal(size=(3, 100, 2000)) + shift
    found = told(*x)
    assert covers(found.interval(0.95), 0.0) >= 0.94
    # Each end on its own, which is what a verdict reads.
    low, high = found.interval(0.9)
    assert (low > 0).mean() <= 0.06
    assert (high < 0).mean() <= 0.06
    best = found.value
    naive = x.std(1, ddof=1)[x.mean(1).argmax(0), np.arange(2000)] / 10 * stats.t.ppf(0.975, 19)
    if others == (0.0, 0.0):
        assert (np.abs(best) <= naive).mean() < 0.94
