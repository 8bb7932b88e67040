import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds import array, covers, many
from scipy import stats

from cnnaudit.intervals import delong

counts = st.lists(st.integers(0, 6), min_size=5, max_size=5).filter(lambda c: sum(c) > 1)


def histograms(x, edges):
    """Counts by level, shape (m, levels), of values of shape (m, n)."""
    levels = np.searchsorted(edges, x, side="right")
    return np.array([np.bincount(row, minlength=len(edges) + 1) for row in levels], dtype=float)


def naive(positive, negative):
    """DeLong, DeLong & Clarke-Pearson (1988), a pair at a time."""
    order = np.array([[(p > q) + 0.5 * (p == q) for q in negative] for p in positive])
    s10, s01 = order.mean(1).var(ddof=1), order.mean(0).var(ddof=1)
    return order.mean(), math.sqrt(s10 / len(positive) + s01 / len(negative))


def test_by_hand():
    """Positives 1, 1, 0 against negatives 1, 0, 0: of nine pairs four are in order and four tie."""
    found = delong(array([1, 2]), array([2, 1]))
    assert found.value.tolist() == pytest.approx([6 / 9])
    assert found.error[0] == pytest.approx(naive([1, 1, 0], [1, 0, 0])[1])
    assert found.units.tolist() == [3]


@many
@given(positive=counts, negative=counts)
def test_it_is_that_of_all_pairs(positive, negative):
    found = delong(array(positive), array(negative))
    value, error = naive(np.repeat(range(5), positive), np.repeat(range(5), negative))
    assert found.value[0] == pytest.approx(value)
    assert found.error[0] == pytest.approx(error, abs=1e-12)


@many
@given(positive=counts, negative=counts)
def test_exchanging_the_classes_mirrors_it(positive, negative):
    one, other = delong(array(positive), array(negative)), delong(array(negative), array(positive))
    assert one.value == pytest.approx(1 - other.value)
    assert one.error == pytest.approx(other.error, abs=1e-12)


def test_it_is_that_of_the_other_units_only():
    positive, negative = array([3, 1, 4, 1], [0, 0, 0, 9]), array([5, 9, 2, 6], [9, 0, 0, 0])
    both = delong(positive, negative)
    for unit in range(2):
        alone = delong(positive[[unit]], negative[[unit]])
        assert (both.value[unit], both.error[unit], both.units[unit]) == (alone.value, alone.error, alone.units)


@pytest.mark.parametrize(
    ("positive", "negative", "truth"),
    [
        (stats.norm(1, 1), stats.norm(0, 1), 0.76025),
        (stats.expon(scale=1), stats.expon(scale=0.5), 2 / 3),
    ],
)
def test_closed_forms(positive, negative, truth):
    edges = np.linspace(-4, 9, 2000)
    cells = [np.diff(d.cdf([-np.inf, *edges, np.inf]))[None] * 1e6 for d in (positive, negative)]
    assert delong(*cells).value[0] == pytest.approx(truth, abs=1e-5)


def test_perfect_separation_leaves_a_doubt_of_the_smaller_class():
    found = delong(array([0, 12]), array([90, 0]))
    assert found.value.tolist() == [1]
    assert found.interval(0.9)[0][0] == pytest.approx(0.05 ** (1 / 12))
    assert found.p_at_most(0.9)[0] == pytest.approx(0.9**12)


def test_classes_that_are_too_small():
    found = delong(array([0, 0], [0, 1], [2, 3]), array([3, 1], [3, 1], [3, 1]))
    assert np.isnan(found.value).tolist() == [True, False, False]
    low, high = found.interval(0.95)
    assert (low[1], high[1]) == (0, 1)
    assert found.p_at_least(0.99)[:2].tolist() == found.p_at_most(0.01)[:2].tolist() == [1, 1]
    assert 0 < low[2] < high[2] < 1


@pytest.mark.parametrize(("positives", "negatives"), [(50, 950), (300, 300)])
@pytest.mark.parametrize("truth", [0.5, 0.76025, 0.99])
def test_coverage_of_normal_responses(truth, positives, negatives):
    generator = np.random.default_rng(positives)
    distance = math.sqrt(2) * stats.norm.ppf(truth)
    edges = np.linspace(-4, 4 + distance, 255)
    positive = histograms(generator.normal(distance, 1, (1200, positives)), edges)
    negative = histograms(generator.normal(0, 1, (1200, negatives)), edges)
    assert 0.93 <= covers(delong(positive, negative).interval(0.95), truth) <= (1 if truth == 0.99 else 0.97)


def test_coverage_of_exponential_responses():
    generator = np.random.default_rng(0)
    edges = np.linspace(0, 6, 255)[1:]
    positive = histograms(generator.exponential(1, (1500, 100)), edges)
    negative = histograms(generator.exponential(0.5, (1500, 400)), edges)
    assert 0.93 <= covers(delong(positive, negative).interval(0.95), 2 / 3) <= 0.97
