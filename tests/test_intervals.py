import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cnnaudit.intervals import Binomial, Exact, Jackknife, Normal, RareEvent, Shifted

NAN = math.nan
finite = st.floats(-5, 5).map(lambda x: round(x, 3))
levels = st.sampled_from([0.1, 0.05, 0.01, 0.001])
many = settings(max_examples=50, deadline=None, derandomize=True)


def array(*values):
    return np.array(values, dtype=float)


normals = st.builds(
    lambda units, dof: Normal(array(*[v for v, _ in units]), array(*[e for _, e in units]), dof),
    st.lists(st.tuples(finite, st.floats(0.01, 3)), min_size=1, max_size=4),
    st.sampled_from([math.inf, 1, 5, 63]),
)
shifted = st.builds(
    lambda units: Shifted(array(*[v for v, _, _ in units]), array(*[e for _, e, _ in units]),
                          floor=array(*[v - d for v, _, d in units])),
    st.lists(st.tuples(finite, st.floats(0.01, 3), st.floats(0, 1)), min_size=1, max_size=4),
)  # fmt: skip
jackknives = st.builds(
    lambda value, rest, sizes: Jackknife(array(value), np.array(rest[: len(sizes)])[:, None], array(*sizes)),
    finite,
    st.lists(finite, min_size=6, max_size=6),
    st.lists(st.integers(1, 9), min_size=2, max_size=6),
)
binomials = st.integers(1, 60).flatmap(
    lambda n: st.lists(st.integers(0, n), min_size=1, max_size=4).map(lambda k: Binomial(array(*k), n))
)
rare = st.builds(RareEvent, binomials, st.sampled_from([0.01, 0.1, 0.5]))
exact = st.lists(finite, min_size=1, max_size=4).map(lambda values: Exact(array(*values)))


# --- the interval and the p-values are two views of one thing -------------------------------------------------


@pytest.mark.parametrize(
    ("quantities", "bounds"),
    [
        (normals, finite),
        (shifted, finite),
        (jackknives, finite),
        (exact, finite),
        (binomials, st.floats(0.001, 0.999)),
        (rare, st.sampled_from([0.0, 0.25, 0.5, 1.0])),
    ],
    ids=["normal", "shifted", "jackknife", "exact", "binomial", "rare"],
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
        assert (low <= quantity.value + 1e-12).all()
        assert (quantity.value <= high + 1e-12).all()

    law()


@pytest.mark.parametrize("quantities", [normals, shifted, jackknives, binomials, rare, exact])
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


@pytest.mark.parametrize("quantities", [normals, shifted, jackknives, binomials, rare, exact])
def test_a_strict_claim_implies_the_weak_one(quantities):
    """What speaks against "truth <= bound" speaks against "truth < bound" at least as much."""

    @many
    @given(quantity=quantities, bound=finite | st.sampled_from([0.0, 1.0]))
    def law(quantity, bound):
        assert (quantity.p_below(bound) <= quantity.p_at_most(bound)).all()
        assert (quantity.p_above(bound) <= quantity.p_at_least(bound)).all()

    law()


@pytest.mark.parametrize("quantities", [normals, shifted, jackknives, binomials, rare, exact])
def test_more_confidence_is_a_wider_interval(quantities):
    @many
    @given(quantity=quantities)
    def law(quantity):
        low90, high90 = quantity.interval(0.9)
        low99, high99 = quantity.interval(0.99)
        assert (low99 <= low90).all()
        assert (high99 >= high90).all()

    law()


# --- values on the bound --------------------------------------------------------------------------------------


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


def test_a_rare_event_asks_about_zero_and_one():
    never, often = Binomial(array(0), 300), Binomial(array(60), 300)
    rate = 0.01
    # "at most 0" says that the event is not rare, "at least 1" that it is.
    p_not_rare, p_rare = 0.99**300, stats.binom.sf(59, 300, rate)
    for binomial, p0, p1 in ((never, p_not_rare, 1.0), (often, stats.binom.cdf(60, 300, rate), p_rare)):
        event = RareEvent(binomial, rate)
        assert event.p_at_most(0)[0] == pytest.approx(p0)
        assert event.p_at_most(0.5)[0] == pytest.approx(p0)
        assert event.p_below(1)[0] == pytest.approx(p0)
        assert event.p_at_least(1)[0] == pytest.approx(p1)
        assert event.p_at_least(0.5)[0] == pytest.approx(p1)
        assert event.p_above(0)[0] == pytest.approx(p1)
        # The truth is 0 or 1: these hold or fail whatever was measured.
        assert [event.p_at_most(1)[0], event.p_at_least(0)[0]] == [1, 1]
        assert [event.p_below(0)[0], event.p_above(1)[0], event.p_at_most(-0.1)[0], event.p_at_least(1.1)[0]] == [0] * 4


def test_a_rare_event_has_the_values_zero_and_one():
    event = RareEvent(Binomial(array(0, 1, 40, 200), 400), 0.01)
    assert event.value.tolist() == [1, 1, 0, 0]
    low, high = event.interval(0.95)
    assert low.tolist() == [1, 0, 0, 0]
    assert high.tolist() == [1, 1, 0, 0]
    # About the images that were read: only the first never happened.
    assert event.on_dataset().value.tolist() == [1, 0, 0, 0]
    assert event.on_dataset().p_at_least(1).tolist() == [1, 0, 0, 0]


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
    ],
)
def test_an_undefined_value_proves_nothing(quantity):
    for p in (quantity.p_below, quantity.p_above, quantity.p_at_most, quantity.p_at_least):
        assert p(-3)[0] == 1
        assert p(3)[0] == 1
    assert quantity.p_at_most(-3)[1] < 0.05
    assert all(math.isnan(end[0]) for end in quantity.interval(0.95))


@pytest.mark.parametrize("error", [math.inf, NAN])
def test_an_unknown_error_proves_nothing(error):
    quantity = Normal(array(5.0), array(error))
    for p in (quantity.p_below, quantity.p_above, quantity.p_at_most, quantity.p_at_least):
        assert p(0.0).tolist() == [1]


# --- Clopper and Pearson --------------------------------------------------------------------------------------


@pytest.mark.parametrize("trials", [1, 7, 40])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_binomial_intervals_are_scipys(trials, confidence):
    successes = np.arange(trials + 1.0)
    low, high = Binomial(successes, trials).interval(confidence)
    for k in range(trials + 1):
        expected = stats.binomtest(k, trials).proportion_ci(confidence, method="exact")
        assert (low[k], high[k]) == pytest.approx((expected.low, expected.high), abs=1e-10)


@pytest.mark.parametrize("p", [0.0, 0.02, 0.5, 0.97, 1.0])
def test_binomial_p_values_are_scipys(p):
    binomial = Binomial(np.arange(13.0), 12)
    for k in range(13):
        assert binomial.p_at_most(p)[k] == pytest.approx(stats.binomtest(k, 12, p, "greater").pvalue, abs=1e-12)
        assert binomial.p_at_least(p)[k] == pytest.approx(stats.binomtest(k, 12, p, "less").pvalue, abs=1e-12)


@pytest.mark.parametrize("n", [1, 10, 299])
def test_rule_of_three(n):
    """The exact one-sided 95 % bound after n silent images is 1 - .05^(1/n), about 3/n."""
    _, high = Binomial(array(0), n).interval(0.9)
    assert high[0] == pytest.approx(1 - 0.05 ** (1 / n), rel=1e-12)
    low, _ = Binomial(array(n), n).interval(0.9)
    assert low[0] == pytest.approx(0.05 ** (1 / n), rel=1e-12)


def test_a_proportion_outside_zero_and_one_is_impossible():
    binomial = Binomial(array(0, 5, 10), 10)
    assert binomial.p_at_most(-0.1).tolist() == [1, 0, 0]  # as at 0: the data of a silent kernel do not exclude it
    assert binomial.p_at_least(1.1).tolist() == [0, 0, 1]
    assert binomial.value.tolist() == [0, 0.5, 1]


# --- jackknife ------------------------------------------------------------------------------------------------


def left_out_means(x, groups):
    return np.array([[np.delete(x, group, 0).mean()] for group in groups])


def test_jackknife_of_a_mean_with_single_images_is_the_classical_standard_error():
    x = np.random.default_rng(0).normal(size=23)
    jackknife = Jackknife(array(x.mean()), left_out_means(x, [[i] for i in range(23)]), np.ones(23))
    assert jackknife.normal.error[0] == pytest.approx(stats.sem(x), rel=1e-12)
    assert jackknife.normal.dof == 22


def test_jackknife_of_a_mean_with_equal_groups_is_that_of_the_groups_means():
    x = np.random.default_rng(1).normal(size=24)
    groups = np.arange(24).reshape(6, 4)
    jackknife = Jackknife(array(x.mean()), left_out_means(x, groups), np.full(6, 4.0))
    assert jackknife.normal.error[0] == pytest.approx(stats.sem(x.reshape(6, 4).mean(1)), rel=1e-12)
    low, high = jackknife.interval(0.9)
    expected = stats.t.interval(0.9, 5, x.mean(), stats.sem(x.reshape(6, 4).mean(1)))
    assert (low[0], high[0]) == pytest.approx(expected)


def busing(value, replicates, sizes):
    """Busing, Meijer & van der Leeden (1999), equations for the delete-m_j jackknife, one group at a time."""
    n, g = sum(sizes), len(sizes)
    h = [n / m for m in sizes]
    estimate = g * value - sum((1 - m / n) * r for m, r in zip(sizes, replicates, strict=True))
    pseudo = [hj * value - (hj - 1) * r for hj, r in zip(h, replicates, strict=True)]
    return sum((p - estimate) ** 2 / (hj - 1) for p, hj in zip(pseudo, h, strict=True)) / g


@many
@given(data=st.lists(st.tuples(finite, finite, st.integers(1, 30)), min_size=2, max_size=9), value=finite)
def test_jackknife_of_unequal_groups_is_that_of_busing(data, value):
    first, second, sizes = zip(*data, strict=True)
    jackknife = Jackknife(array(value, -value), np.array([first, second]).T, array(*sizes))
    variance = jackknife.normal.error**2
    assert variance[0] == pytest.approx(busing(value, first, sizes), rel=1e-9, abs=1e-12)
    assert variance[1] == pytest.approx(busing(-value, second, sizes), rel=1e-9, abs=1e-12)


def test_unequal_groups_of_a_mean_give_nearly_its_standard_error():
    generator = np.random.default_rng(2)
    sizes = [30] * 20 + [10]
    ratios = []
    for _ in range(300):
        x = generator.normal(size=sum(sizes))
        groups = np.split(np.arange(len(x)), np.cumsum(sizes)[:-1])
        jackknife = Jackknife(array(x.mean()), left_out_means(x, groups), array(*sizes))
        ratios.append(jackknife.normal.error[0] ** 2 * len(x))
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)


def test_one_group_has_no_error_to_know():
    jackknife = Jackknife(array(1.0, 2.0), np.array([]), array(16))
    low, high = jackknife.interval(0.95)
    assert low.tolist() == [-math.inf] * 2
    assert high.tolist() == [math.inf] * 2
    assert jackknife.p_at_most(0).tolist() == [1, 1]
    assert jackknife.mean().value.tolist() == [1.5]
    assert jackknife.mean().p_at_least(9).tolist() == [1]


# --- shifted --------------------------------------------------------------------------------------------------


def test_a_shifted_estimate_stands_on_its_floor_below_and_on_its_value_above():
    quantity = Shifted(array(1.0), array(0.1), floor=array(0.7))
    low, high = quantity.interval(0.95)
    assert (low[0], high[0]) == pytest.approx((0.7 - 0.1959964, 1.1959964), abs=1e-6)
    assert quantity.p_at_most(0.6)[0] == pytest.approx(stats.norm.sf(1))
    assert quantity.p_at_least(1.2)[0] == pytest.approx(stats.norm.sf(2))


def test_a_bound_of_zero_is_decided_by_the_exact_null_test():
    quantity = Shifted(array(1.0, 1.0), array(0.1, 0.1), floor=array(0.7, 0.7), p_zero=array(0.2, 0.001))
    assert quantity.p_at_most(0).tolist() == [0.2, 0.001]
    assert quantity.p_below(0).tolist() == [0.2, 0.001]
    assert quantity.p_at_most(0.01)[0] < 1e-9
    plain = Shifted(array(1.0), array(0.1))
    assert plain.p_at_most(0.8)[0] == pytest.approx(stats.norm.sf(2))


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
    # Agresti and Coull: (k + 2) / (n + 4).
    shrunk = array(2 / 104, 52 / 104)
    assert binomial.error[0] == pytest.approx(np.sqrt(shrunk * (1 - shrunk) / 104).mean())


def test_the_mean_of_jackknifed_units_is_jackknifed_itself():
    generator = np.random.default_rng(3)
    x = generator.normal(size=(40, 3))
    groups = np.arange(40).reshape(8, 5)
    rest = np.array([np.delete(x, group, 0).mean(0) for group in groups])
    mean = Jackknife(x.mean(0), rest, np.full(8, 5.0)).mean()
    together = x.mean(1)
    assert mean.value[0] == pytest.approx(together.mean())
    assert mean.normal.error[0] == pytest.approx(stats.sem(together.reshape(8, 5).mean(1)))


def test_the_mean_of_rare_events_is_the_share_of_rare_units():
    n = 2000
    share = RareEvent(Binomial(array(0, 0, 1000, 20), n), 0.01).mean()
    assert share.value.tolist() == [0.5]
    low, high = share.interval(0.95)
    assert (low[0], high[0]) == (0.5, 0.75)  # two surely are, one surely is not, one may be
    # "at most 1 of 4": two that surely are contradict it; "at most 2 of 4" nothing does.
    assert share.p_at_most(0.25)[0] < 0.001
    assert share.p_at_most(0.5)[0] > 0.5
    # "at least 4 of 4" is contradicted by the one that surely is not; "at least 3" is not.
    assert share.p_at_least(1.0)[0] < 0.001
    assert share.p_at_least(0.75)[0] > 0.5
    assert share.mean() is share


def test_the_share_of_rare_units_keeps_a_bound_that_it_lies_on():
    n = 2000
    none = RareEvent(Binomial(array(1000, 1000, 1000, 1000), n), 0.01).mean()
    every = RareEvent(Binomial(array(0, 0, 0, 0), n), 0.01).mean()
    half = RareEvent(Binomial(array(0, 0, 1000, 1000), n), 0.01).mean()
    assert none.p_above(0)[0] < 0.001  # as in `activity.dead`, max: 0, reduce: mean
    assert none.p_at_least(0)[0] == 1
    assert every.p_below(1)[0] < 0.001
    assert every.p_at_most(1)[0] == 1
    assert half.p_below(0.5)[0] < 0.001
    assert half.p_above(0.5)[0] < 0.001
    assert half.p_at_most(0.5)[0] > 0.5
    assert half.p_at_least(0.5)[0] > 0.5
    assert half.p_below(0.6)[0] == 1
    assert half.p_above(0.4)[0] == 1


def test_on_dataset_is_the_value_without_doubt():
    exact = Normal(array(1.0, NAN), array(0.5, 0.5)).on_dataset()
    assert isinstance(exact, Exact)
    assert exact.value[0] == 1
    assert exact.p_at_least(1.01).tolist() == [0, 1]


# --- do they keep what they promise? --------------------------------------------------------------------------


def covers(interval, truth):
    low, high = interval
    return ((low <= truth) & (truth <= high)).mean()


def test_coverage_of_binomial_intervals():
    for p in (0.01, 0.2, 0.5):
        drawn = np.random.default_rng(4).binomial(150, p, size=4000).astype(float)
        assert covers(Binomial(drawn, 150).interval(0.95), p) >= 0.945


def test_coverage_of_jackknifed_ratios():
    """A ratio of means over 320 images in 20 groups, 400 times."""
    generator = np.random.default_rng(5)
    a = generator.exponential(2.0, size=(320, 400))
    b = 0.5 * a + generator.exponential(1.0, size=(320, 400))
    total_a, total_b = a.sum(0), b.sum(0)
    rest = np.array([(total_a - a[g::20].sum(0)) / (total_b - b[g::20].sum(0)) for g in range(20)])
    interval = Jackknife(total_a / total_b, rest, np.full(20, 16.0)).interval(0.95)
    assert 0.92 <= covers(interval, 1.0) <= 0.98


def test_level_of_the_rare_events_test():
    """At a rate of exactly 1 % "it is rare" and "it is not" are each claimed wrongly in at most 5 %."""
    drawn = np.random.default_rng(6).binomial(1000, 0.01, size=4000).astype(float)
    event = RareEvent(Binomial(drawn, 1000), 0.01)
    assert (event.p_at_most(0) <= 0.05).mean() <= 0.05
    assert (event.p_at_least(1) <= 0.05).mean() <= 0.05
