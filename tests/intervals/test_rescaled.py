import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds import NAN, array, covers, levels, many
from scipy import stats

from cnnaudit.intervals import SQUARED_CORRELATION, Normal, Rescaled

rescaled = st.builds(
    lambda units: Rescaled(Normal(array(*[v for v, _ in units]), array(*[e for _, e in units]))),
    st.lists(st.tuples(st.floats(0, 3), st.floats(0.01, 2)), min_size=1, max_size=4),
)


def test_the_scale_goes_forth_and_back():
    x = np.linspace(0, 0.999999, 50)
    assert SQUARED_CORRELATION.back(SQUARED_CORRELATION.to(x)) == pytest.approx(x, abs=1e-12)
    assert SQUARED_CORRELATION.to(array(0.25))[0] == pytest.approx(math.atanh(0.5))


def test_by_hand():
    found = Rescaled(Normal(array(math.atanh(0.5)), array(0.1)))
    low, high = found.interval(0.95)
    assert found.value[0] == pytest.approx(0.25)
    assert low[0] == pytest.approx(math.tanh(math.atanh(0.5) - 1.959964 * 0.1) ** 2)
    assert high[0] == pytest.approx(math.tanh(math.atanh(0.5) + 1.959964 * 0.1) ** 2)


@many
@given(quantity=rescaled, bound=st.floats(-0.1, 1.1), alpha=levels)
def test_the_interval_excludes_a_bound_where_the_one_sided_test_does(quantity, bound, alpha):
    low, high = quantity.interval(1 - 2 * alpha)
    assert ((low >= 0) & (low <= quantity.value) & (quantity.value <= high) & (high <= 1)).all()
    for i in range(len(low)):
        if abs(low[i] - bound) > 1e-9:
            assert (low[i] > bound) == (quantity.p_at_most(bound)[i] < alpha)
        if abs(high[i] - bound) > 1e-9:
            assert (high[i] < bound) == (quantity.p_at_least(bound)[i] < alpha)


def test_the_sign_that_a_square_hides_counts_twice_at_0():
    found = Rescaled(Normal(array(0.2, 1.0), array(0.1, 0.1)))
    assert found.p_at_most(0)[0] == pytest.approx(2 * stats.norm.sf(2))
    place = math.atanh(math.sqrt(0.01))
    assert found.p_at_most(0.01)[0] == pytest.approx(stats.norm.sf(2 - 10 * place) + stats.norm.sf(2 + 10 * place))
    assert found.p_at_most(0.3)[1] == pytest.approx(stats.norm.sf(10 - 10 * math.atanh(math.sqrt(0.3))))
    # One tail alone, 1.64 errors, would exclude 0 here.
    assert Rescaled(Normal(array(0.18), array(0.1))).interval(0.9)[0] == [0]


def test_no_correlation_is_rarely_taken_for_one():
    z = np.random.default_rng(0).standard_normal(20_000)
    found = Rescaled(Normal(np.abs(z), np.ones_like(z)))
    assert (found.p_at_most(0) < 0.05).mean() == pytest.approx(0.05, abs=0.005)
    low, _ = found.interval(0.9)
    assert (low > 0).mean() == pytest.approx(0.05, abs=0.005)


def test_what_is_undefined_decides_nothing():
    found = Rescaled(Normal(array(NAN), array(NAN)))
    for p in (
        found.p_at_most(0.5),
        found.p_at_least(0.5),
        found.p_at_most(-1),
        found.p_at_least(2),
        found.p_at_most(1),
    ):
        assert p.tolist() == [1]


def test_the_mean_is_as_sure_as_its_units_are_on_average():
    found = Rescaled(Normal(np.arctanh(np.sqrt(array(0.2, 0.4))), array(0.01, 0.02))).mean()
    slopes = [2 * math.sqrt(r2) * (1 - r2) * e for r2, e in ((0.2, 0.01), (0.4, 0.02))]
    assert found.value[0] == pytest.approx(0.3)
    assert found.error[0] == pytest.approx(np.mean(slopes), rel=0.03)
    assert found.limits == (0, 1)


def test_sources_are_told_on_the_scale():
    places, sizes = array(0.5, 0.6, 0.55, 0.45), array(10, 10, 10, 10)
    parts = [Rescaled(Normal(places[[i]], array(0.01))) for i in range(4)]
    found = Rescaled(Normal(array(0.525), array(0.01))).regrouped(parts, sizes, 40)
    assert found.there.error[0] == pytest.approx(math.sqrt(3 / 4 * ((places - places.mean()) ** 2).sum()))
    assert found.there.dof == pytest.approx(3)


def test_it_covers_a_squared_correlation():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 60))
    y = 0.8 * x + 0.6 * rng.standard_normal(x.shape)
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)]
    found = Rescaled(Normal(np.arctanh(np.array(r)), np.full(2000, 1 / math.sqrt(57))))
    assert 0.935 < covers(found.interval(0.95), 0.64) < 0.965
