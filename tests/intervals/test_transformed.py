import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds import NAN, array, levels, many
from scipy import stats

from cnnaudit.intervals import FISHER, UNEXPLAINED, Debiased, Jackknife, Transformed

SCALES = pytest.mark.parametrize("scale", [FISHER, UNEXPLAINED], ids=["fisher", "unexplained"])
SIZES = array(10, 10, 10, 10)


def told(values, *parts, scale=FISHER, sizes=SIZES, **facts):
    whole = Transformed(array(*values), scale, **facts)
    return whole.regrouped([Transformed(array(*part), scale) for part in parts], sizes, 40)


def example(scale=FISHER, **facts):
    return told((0.9, 0.2), (0.91, 0.3), (0.9, 0.2), (0.88, 0.1), (0.9, 0.2), scale=scale, **facts)


@SCALES
def test_scales_go_forth_and_back(scale):
    x = np.linspace(0, 0.999999, 50)
    assert scale.back(scale.to(x)) == pytest.approx(x, abs=1e-12)
    assert (np.diff(scale.to(x)) > 0).all()
    assert scale.to(array(0.0)) == [0]
    assert scale.back(array(math.inf)) == [1]


def test_the_interval_is_the_jackknife_of_the_transform():
    z = [math.atanh(r) for r in (0.91, 0.9, 0.88, 0.9)]
    error = math.sqrt(3 / 4 * sum((v - np.mean(z)) ** 2 for v in z))
    reach = stats.t.ppf(0.975, 3) * error
    low, high = example().interval(0.95)
    assert (low[0], high[0]) == pytest.approx((math.tanh(math.atanh(0.9) - reach), math.tanh(math.atanh(0.9) + reach)))
    assert example().value.tolist() == [0.9, 0.2]


def test_the_lower_end_is_that_of_the_candidates_together():
    one, many_candidates = example(), example(choices=50)
    assert many_candidates.interval(0.95)[0] == pytest.approx(one.interval(1 - 0.05 / 50)[0])
    assert many_candidates.interval(0.95)[1] == pytest.approx(one.interval(0.95)[1])
    assert many_candidates.p_at_most(0.5)[0] == pytest.approx(50 * one.p_at_most(0.5)[0])
    assert many_candidates.p_at_most(0.89)[0] == 1
    assert many_candidates.p_at_least(0.95) == pytest.approx(one.p_at_least(0.95))


def test_a_correction_is_made_on_the_scale():
    found = example(UNEXPLAINED, debias=True)
    w = UNEXPLAINED.to(array(0.9, 0.91, 0.9, 0.88, 0.9))
    assert UNEXPLAINED.to(found.value)[0] == pytest.approx(4 * w[0] - 3 * w[1:].mean())
    low, high = found.interval(0.95)
    assert low[0] < 0.9 < high[0]


units = st.lists(st.floats(0, 1), min_size=2, max_size=2)
quantities = st.builds(
    lambda values, parts, scale, choices, debias: told(values, *parts, scale=scale, choices=choices, debias=debias),
    units, st.lists(units, min_size=4, max_size=4), st.sampled_from([FISHER, UNEXPLAINED]), st.sampled_from([1, 7]),
    st.booleans(),
)  # fmt: skip


def test_the_interval_excludes_a_bound_where_the_one_sided_test_does():
    @many
    @given(quantity=quantities, bound=st.floats(-0.1, 1.1).map(lambda x: round(x, 3)), alpha=levels)
    def law(quantity, bound, alpha):
        low, high = quantity.interval(1 - 2 * alpha)
        above, below = quantity.p_at_most(bound), quantity.p_at_least(bound)
        clear_low, clear_high = np.abs(low - bound) > 1e-9, np.abs(high - bound) > 1e-9
        assert ((low > bound) == (above <= alpha))[clear_low].all()
        assert ((high < bound) == (below <= alpha))[clear_high].all()
        assert (low <= quantity.value).all()
        assert (quantity.value <= high).all()
        assert ((low >= 0) & (high <= 1)).all()
        assert (quantity.p_below(bound) <= quantity.p_at_most(bound)).all()
        assert (quantity.p_above(bound) <= quantity.p_at_least(bound)).all()

    law()


def test_exactly_one_and_exactly_zero():
    found = told((1.0, 0.0), *[(1.0, 0.0)] * 4)
    low, high = found.interval(0.95)
    assert low[0] == pytest.approx(1, abs=1e-11)
    assert (high[0], low[1], high[1]) == (1, 0, 0)
    assert found.p_at_most(0.99).tolist() == [0, 1]
    assert found.p_at_least(0.01).tolist() == [1, 0]
    assert found.p_above(1).tolist() == found.p_below(0).tolist() == [0, 0]


def test_where_candidates_were_left_out_the_truth_may_lie_anywhere_above():
    found = example(open_above=True)
    assert found.interval(0.95)[1].tolist() == [1, 1]
    assert found.interval(0.95)[0] == pytest.approx(example().interval(0.95)[0])
    assert found.p_at_least(0.99).tolist() == found.p_above(0.99).tolist() == [1, 1]
    mean = found.mean()
    assert mean.value == pytest.approx([0.55])
    assert mean.p_at_most(0.01).tolist() == mean.p_at_least(0.99).tolist() == [1]


@pytest.mark.parametrize(("debias", "kind"), [(False, Jackknife), (True, Debiased)])
def test_the_mean_over_units_is_told_as_it_is(debias, kind):
    mean = example(debias=debias).mean()
    assert isinstance(mean, kind)
    assert mean.replicates[:, 0] == pytest.approx([0.605, 0.55, 0.49, 0.55])
    assert mean.limits == (0, 1)


def test_one_group_tells_nothing():
    for quantity in (Transformed(array(0.9), FISHER), told((0.9,), sizes=array(9.0))):
        assert [end.tolist() for end in quantity.interval(0.95)] == [[0], [1]]
        assert quantity.p_at_most(0.1).tolist() == quantity.p_at_least(0.99).tolist() == [1]
        assert quantity.by_groups


def test_an_undefined_value_proves_nothing():
    found = told((NAN, 0.5), *[(NAN, 0.5)] * 4)
    for p in (found.p_at_most, found.p_at_least, found.p_below, found.p_above):
        assert p(-1)[0] == p(0.5)[0] == p(2)[0] == 1
    assert all(math.isnan(end[0]) for end in found.interval(0.95))
