import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds import array, bounded, covers, left_out_means, many
from scipy import stats

from cnnaudit.intervals import Binomial, BoundedMean
from cnnaudit.intervals.base import effective_units


def of(x, **facts):
    """The mean over images of values of shape (images, m)."""
    return BoundedMean(x.mean(0), stats.sem(x), len(x), **facts)


def ends(quantity, confidence=0.95):
    return np.array(quantity.interval(confidence))


# --- what it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 7, 300])
def test_of_zeros_and_ones_it_is_clopper_and_pearson(n):
    k = np.unique([0, 1, n // 3, n - 1, n])
    x = (np.arange(n)[:, None] < k).astype(float)
    assert ends(of(x)) == pytest.approx(ends(Binomial(k.astype(float), n)), abs=1e-12)
    for j, successes in enumerate(k):
        expected = stats.binomtest(int(successes), n).proportion_ci(0.95, "exact")
        assert ends(of(x))[:, j] == pytest.approx([expected.low, expected.high], abs=1e-12)
        for bound in (0.01, 0.3, 0.99):
            greater, less = (stats.binomtest(int(successes), n, bound, way).pvalue for way in ("greater", "less"))
            assert of(x).p_at_most(bound)[j] == pytest.approx(greater, abs=1e-12)
            assert of(x).p_at_least(bound)[j] == pytest.approx(less, abs=1e-12)


def test_by_hand():
    """.2 * .8 / .02^2 + 1 = 401 effective images, 80.2 of them successes."""
    quantity = BoundedMean(array(0.2), array(0.02), 300)
    low, high = ends(quantity)[:, 0]
    assert low == pytest.approx(stats.beta.ppf(0.025, 80.2, 401 - 80.2 + 1))
    assert high == pytest.approx(stats.beta.ppf(0.975, 80.2 + 1, 401 - 80.2))
    assert quantity.p_at_most(0.15)[0] == pytest.approx(stats.beta.cdf(0.15, 80.2, 321.8))
    assert quantity.p_at_least(0.25)[0] == pytest.approx(stats.beta.sf(0.25, 81.2, 320.8))


@pytest.mark.parametrize("dof", [math.inf, 12, 63])
def test_away_from_the_limits_it_is_students(dof):
    quantity = BoundedMean(array(0.4), array(0.003), 800, dof=dof)
    student = stats.norm if math.isinf(dof) else stats.t(dof)
    assert ends(quantity)[:, 0] == pytest.approx(0.4 + 0.003 * student.ppf([0.025, 0.975]), abs=6e-5)
    assert quantity.p_at_most(0.395)[0] == pytest.approx(student.sf(5 / 3), rel=0.01)
    assert quantity.p_at_least(0.407)[0] == pytest.approx(student.sf(7 / 3), rel=0.05)


def test_what_deviates_from_a_limit_is_counted():
    """3 of 500 images lie .4 below 1: three events of 1250 possible ones, whose intervals reach from .62 to 8.8."""
    x = np.where(np.arange(500) < 3, 0.6, 1.0)[:, None]
    low, high = ends(of(x))[:, 0]
    poisson = stats.chi2.ppf([0.025, 0.975], [6, 8]) / 2
    assert [1 - high, 1 - low] == pytest.approx(poisson * 0.4 / 500, rel=0.01)


def test_deviations_of_less_than_one_image_do_not_tell_how_large_others_are():
    """3 of 500 images lie .01 below 1; another might lie far below, as it might where all were 1."""
    x = np.where(np.arange(500) < 3, 0.99, 1.0)[:, None]
    whole = 0.03
    n, k = 500 / (1 - whole), 500 / (1 - whole) * 0.03 / 500
    assert ends(of(x))[0, 0] == pytest.approx(1 - stats.beta.ppf(0.975, k + 1, n - k))
    nearly = ends(BoundedMean(array(1 - 1e-9), array(1e-6), 500))
    assert nearly == pytest.approx(ends(BoundedMean(array(1), array(0), 500)), abs=1e-7)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dof", [math.inf, 5])
def test_units_that_all_agree_leave_the_doubt_that_some_do_not(value, dof):
    quantity = BoundedMean(array(value), array(1e-9), 200, dof=dof)
    missed = 0.025 ** (1 / 200)
    assert ends(quantity)[:, 0] == pytest.approx([value * missed, 1 - (1 - value) * missed])
    # A share s = .01 that was missed with probability .99^200 moves the mean to a limit by that much of the distance.
    if value > 0:
        assert quantity.p_at_most(0.99 * value)[0] == pytest.approx(0.99**200)
    if value < 1:
        assert quantity.p_at_least(1 - 0.99 * (1 - value))[0] == pytest.approx(0.99**200)
    assert quantity.p_at_most(value)[0] == quantity.p_at_least(value)[0] == 1


def test_at_a_limit_agreement_is_a_binomial_count_of_none():
    assert ends(BoundedMean(array(0, 1), array(0, 0), 40)) == pytest.approx(ends(Binomial(array(0, 40), 40)))


def test_an_infinite_error_leaves_the_limits():
    quantity = BoundedMean(array(0.5, 2.0), array(math.inf, math.inf), 1, (0, 2))
    assert ends(quantity).T.tolist() == [[0, 2], [0, 2]]
    assert quantity.p_at_most(0).tolist() == quantity.p_at_least(2).tolist() == [1, 1]


def test_what_lies_beyond_the_limits_is_impossible():
    quantity = BoundedMean(array(-1, 0.5), array(0, 0.2), 30, (-1, 1))
    for p in (quantity.p_below(-1), quantity.p_above(1), quantity.p_at_most(-1.1), quantity.p_at_least(1.1)):
        assert p.tolist() == [0, 0]
    assert quantity.p_at_most(-1).tolist() == [1, 0]


def test_units_may_differ_in_number():
    together = BoundedMean(array(1, 1, 0.3), array(0, 0, 0.1), np.array([10, 99, 50]))
    apart = [ends(BoundedMean(array(v), array(e), n)) for v, e, n in ((1, 0, 10), (1, 0, 99), (0.3, 0.1, 50))]
    assert ends(together).tolist() == np.hstack(apart).tolist()


# --- laws -----------------------------------------------------------------------------------------------------


@many
@given(quantity=bounded, start=st.sampled_from([-1.0, 0.0, 3.0]), scale=st.sampled_from([0.5, 2.0]))
def test_scale_and_shift_change_nothing(quantity, start, scale):
    moved = BoundedMean(
        start + scale * quantity.value, scale * quantity.error, quantity.units, (start, start + scale), quantity.dof
    )
    assert ends(moved) == pytest.approx(start + scale * ends(quantity), abs=1e-6)
    assert moved.p_at_most(start + scale * 0.3) == pytest.approx(quantity.p_at_most(0.3), abs=1e-6)


@many
@given(quantity=bounded)
def test_the_mirror_image_has_the_mirrored_interval(quantity):
    mirrored = BoundedMean(1 - quantity.value, quantity.error, quantity.units, dof=quantity.dof)
    assert ends(mirrored) == pytest.approx(1 - ends(quantity)[::-1], abs=1e-6)
    assert mirrored.p_at_most(0.3) == pytest.approx(quantity.p_at_least(0.7), abs=1e-6)


def test_fewer_degrees_of_freedom_and_fewer_units_are_wider():
    value, error = array(0.002, 0.3, 1.0), array(0.002, 0.01, 0)
    widths = [
        np.diff(ends(BoundedMean(value, error, n, dof=dof)), axis=0)[0]
        for n, dof in ((400, math.inf), (400, 63), (400, 12), (100, 12))
    ]
    for narrow, wide in itertools.pairwise(widths):
        assert (narrow <= wide + 1e-12).all()


# --- errors by source -----------------------------------------------------------------------------------------


def test_sources_of_one_image_tell_the_classical_error():
    x = np.random.default_rng(0).beta(2, 5, size=(23, 2))
    parts = [BoundedMean(rest, array(9, 9), 22) for rest in left_out_means(x, [[i] for i in range(23)])]
    found = of(x).regrouped(parts, np.ones(23), 23)
    assert found.error == pytest.approx(stats.sem(x))
    assert (found.units, found.dof) == (23, 22)


def test_sources_that_all_agree_leave_a_doubt_of_their_number():
    quantity = BoundedMean(array(0.7), array(0.01), 600)
    found = quantity.regrouped([BoundedMean(array(0.7), array(0.01), 550)] * 12, np.full(12, 50.0), 12)
    assert found.error.tolist() == [0]
    assert ends(found)[0, 0] == pytest.approx(0.7 * 0.025 ** (1 / 12))
    rare = BoundedMean(array(1), array(0), np.array([8]))
    few = rare.regrouped([BoundedMean(array(1), array(0), 7)] * 12, np.ones(12), 12)
    assert few.units.tolist() == [8]  # no more sources of a kind than images


# --- does it keep what it promises? ---------------------------------------------------------------------------

RUNS = 2500
SPREAD = {
    "uniform": (lambda g, shape: g.random(shape), 0.5),
    "narrow": (lambda g, shape: g.beta(20, 20, shape), 0.5),
    "skewed": (lambda g, shape: g.beta(2, 5, shape), 2 / 7),
    "half": (lambda g, shape: (g.random(shape) < 0.5).astype(float), 0.5),
}
NEAR = {
    "tenth lower": (lambda g, shape: 1 - 0.1 * (g.random(shape) < 0.01), 0.999),
    "any fraction lower": (lambda g, shape: 1 - g.random(shape) * (g.random(shape) < 0.01), 0.995),
    "little lower": (lambda g, shape: 1 - g.beta(0.5, 5, shape) * (g.random(shape) < 0.02), 1 - 0.02 / 11),
    "beta": (lambda g, shape: g.beta(0.5, 20, shape), 0.5 / 20.5),
    "one in a hundred": (lambda g, shape: (g.random(shape) < 0.01).astype(float), 0.01),
}


@pytest.mark.parametrize("name", SPREAD)
@pytest.mark.parametrize("n", [200, 500])
def test_coverage_away_from_the_limits(name, n):
    draw, truth = SPREAD[name]
    x = draw(np.random.default_rng(n), (n, RUNS))
    assert 0.93 <= covers(of(x).interval(0.95), truth) <= 0.97


@pytest.mark.parametrize("name", NEAR)
@pytest.mark.parametrize("n", [200, 500])
def test_coverage_near_a_limit(name, n):
    draw, truth = NEAR[name]
    x = draw(np.random.default_rng(n), (n, RUNS))
    assert covers(of(x).interval(0.95), truth) >= 0.94


@pytest.mark.parametrize("groups", [13, 32])
@pytest.mark.parametrize("name", ["narrow", "skewed", "tenth lower", "any fraction lower", "beta"])
def test_coverage_with_errors_of_few_groups(name, groups):
    draw, truth = (SPREAD | NEAR)[name]
    n = groups * 25
    x = draw(np.random.default_rng(groups), (n, RUNS))
    parts = [BoundedMean(rest, rest, n - 25) for rest in left_out_means(x, np.arange(n).reshape(groups, 25))]
    found = of(x).regrouped(parts, np.full(groups, 25.0), n)
    assert covers(found.interval(0.95), truth) >= 0.93


@pytest.mark.parametrize("sources", [13, 64])
def test_coverage_where_images_of_a_source_resemble_each_other(sources):
    """20 images of every source fire with the source's own probability; images alone would cover half of the time."""
    generator = np.random.default_rng(sources)
    x = (generator.random((sources, 20, RUNS)) < generator.beta(3, 7, (sources, 1, RUNS))).astype(float)
    parts = [BoundedMean(rest, rest, 1) for rest in left_out_means(x.mean(1), [[i] for i in range(sources)])]
    images = of(x.reshape(-1, RUNS))
    assert covers(images.interval(0.95), 0.3) < 0.8
    found = images.regrouped(parts, np.full(sources, 20.0), sources)
    assert 0.93 <= covers(found.interval(0.95), 0.3) <= 0.98


def test_by_sources_a_mean_has_their_error_and_their_number():
    """40 images of 8 sources whose images all agree: 8 observations, of which 2 have the property."""
    parts = [BoundedMean(array(k / 35), array(0.1), 35) for k in (5, 5, 10, 10, 10, 10, 10, 10)]
    found = BoundedMean(array(0.25), array(0.1), 40).regrouped(parts, np.full(8, 5.0), 8)
    of_sources = np.array([1, 1, 0, 0, 0, 0, 0, 0.0])
    assert found.error[0] == pytest.approx(stats.sem(of_sources))
    assert (found.units, found.dof) == (8, 7)
    assert found.interval(0.95)[1][0] > stats.binomtest(2, 8).proportion_ci(0.95, "exact").high > 0.6
    never = BoundedMean(array(0), array(0), 40).regrouped([BoundedMean(array(0), array(0), 35)] * 8, np.full(8, 5.0), 8)
    assert never.interval(0.9)[1][0] == pytest.approx(1 - 0.05 ** (1 / 8))


@pytest.mark.parametrize(("large", "holds"), [(0, 1), (4, 40), (20, 40), (1, 400)])
def test_sources_that_hold_many_images_count_as_kish_counts_them(large, holds):
    generator = np.random.default_rng(large)
    images = np.ones(800)
    images[:large] = holds
    kish = images.sum() ** 2 / (images**2).sum()
    found = []
    for _ in range(200):
        sizes = np.bincount(generator.integers(0, 64, 800), weights=images, minlength=64)
        found.append(effective_units(800, sizes, 800))
    assert np.median(found) == pytest.approx(kish, rel=0.1, abs=1)
    assert effective_units(np.array([30, 1]), np.full(64, 10.0), 640).tolist() == [30, 1]
    assert effective_units(50, np.array([50.0]), 7) == 7
