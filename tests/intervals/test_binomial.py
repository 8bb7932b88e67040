import numpy as np
import pytest
from kinds import array, covers
from scipy import stats

from cnnaudit.intervals import Binomial


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
    assert binomial.p_at_most(-0.1).tolist() == binomial.p_at_least(1.1).tolist() == [0, 0, 0]
    assert binomial.p_below(0).tolist() == binomial.p_above(1).tolist() == [0, 0, 0]
    assert binomial.p_at_most(0).tolist() == [1, 0, 0]
    assert binomial.p_at_least(1).tolist() == [0, 0, 1]
    assert binomial.value.tolist() == [0, 0.5, 1]


def test_coverage_of_binomial_intervals():
    for p in (0.01, 0.2, 0.5):
        drawn = np.random.default_rng(4).binomial(150, p, size=4000).astype(float)
        assert covers(Binomial(drawn, 150).interval(0.95), p) >= 0.945


def test_the_mean_of_one_proportion_is_itself():
    binomial = Binomial(array(7), 40)
    assert binomial.mean().interval(0.9) == binomial.interval(0.9)


def test_trials_are_independent_samples_already():
    binomial = Binomial(array(10), 40)
    assert binomial.regrouped([], array(20, 20), 40) is binomial
