import math

import numpy as np
import pytest
from kinds import array
from scipy import stats

from cnnaudit.intervals import (
    BoundedMean,
    Normal,
    delta_error,
    linearised_ratio,
    paired_difference,
    relative_variance,
)


def sums(a, b):
    a, b = np.broadcast_arrays(a, b)
    return {"aa": (a * a).sum(0), "ab": (a * b).sum(0), "bb": (b * b).sum(0), "n": len(a)}


def ratio_of(a, b):
    return linearised_ratio(a.sum(0), b.sum(0), **sums(a, b))


def pairs(n=50):
    generator = np.random.default_rng(0)
    a = generator.exponential(2.0, size=(n, 3))
    return a, a + generator.normal(5, 1, size=(n, 3))


def test_a_ratio_by_hand():
    """Images (1, 2), (3, 2): 4 / 4, influences (1 - 2) / 2 and (3 - 2) / 2, whose mean has the error 1 / 2."""
    value, error = ratio_of(array([1], [3]), array([2], [2]))
    assert (value[0], error[0]) == (1, 0.5)


def test_a_ratio_has_the_error_of_its_influences():
    a, b = pairs()
    value, error = ratio_of(a, b)
    assert value == pytest.approx(a.mean(0) / b.mean(0))
    assert error == pytest.approx(stats.sem(a - value * b) / b.mean(0))


def test_a_mean_is_a_ratio_to_a_constant():
    a, _ = pairs()
    value, error = linearised_ratio(a.sum(0), 50 * 4, aa=(a * a).sum(0), ab=4 * a.sum(0), bb=50 * 16, n=50)
    assert value == pytest.approx(a.mean(0) / 4)
    assert error == pytest.approx(stats.sem(a) / 4)


def test_a_ratio_to_what_the_units_share():
    a, _ = pairs()
    shared = a.mean(1, keepdims=True)
    value, error = ratio_of(a, shared)
    assert value.mean() == pytest.approx(1)
    assert error == pytest.approx(stats.sem(a - value * shared) / a.mean())


def test_ratios_that_do_not_vary_do_not_exist_or_are_known_from_one_image():
    same, error = ratio_of(np.full((9, 1), 2.0), np.full((9, 1), 4.0))
    assert (same[0], error[0]) == (0.5, 0)
    assert np.isnan(ratio_of(np.zeros((9, 1)), np.zeros((9, 1)))).all()
    value, error = ratio_of(array([1]), array([2]))
    assert (value[0], error[0]) == (0.5, math.inf)


def test_paired_differences():
    a, b = pairs()
    d = a - b
    found = paired_difference(d.sum(0), (d * d).sum(0), 50)
    assert isinstance(found, Normal)
    assert found.value == pytest.approx(d.mean(0))
    assert found.error == pytest.approx(stats.sem(d))


def test_paired_differences_within_limits():
    """Two of 40 images lose 1, one gains it: mean -1/40, and images that never differ leave a doubt."""
    found = paired_difference(array(-1, 0), array(3, 0), 40, (-1, 1))
    assert isinstance(found, BoundedMean)
    assert found.value.tolist() == [-1 / 40, 0]
    assert found.error[0] == pytest.approx(stats.sem([-1, -1, 1] + [0] * 37))
    low, high = found.interval(0.95)
    assert (low[1], high[1]) == pytest.approx((0.025 ** (1 / 40) - 1, 1 - 0.025 ** (1 / 40)))
    assert low[0] < -1 / 40 < high[0]


def test_the_delta_method_of_a_ratio_is_the_linearised_ratio():
    a, b = pairs()
    gradient = np.stack([1 / b.mean(0), -a.mean(0) / b.mean(0) ** 2], axis=-1)
    covariance = np.stack([np.cov(a[:, k], b[:, k]) / 50 for k in range(3)])
    error = delta_error(gradient, covariance)
    assert error == pytest.approx(ratio_of(a, b)[1])
    assert delta_error(gradient[0], covariance[0]) == pytest.approx(error[0])
    # Rounding may leave a variance of less than nothing.
    assert delta_error(array(1, -1), array([1, 1 + 1e-16], [1 + 1e-16, 1]) - 1e-18) == 0


@pytest.mark.parametrize("n", [8, 300])
def test_relative_variance_is_that_of_all_values(n):
    """Value, error and bias against the delete-one jackknife of images of five values each."""
    x = np.random.default_rng(n).gamma(3, size=(n, 4, 5))

    def share(images):
        return images.var((0, 2)) / (images**2).mean((0, 2))

    s, q = x.mean(2), (x**2).mean(2)
    squares = {"ss": (s * s).sum(0), "sq": (s * q).sum(0), "qq": (q * q).sum(0)}
    value, error, bias = relative_variance(s.sum(0), q.sum(0), **squares, n=n)
    left_out = np.array([share(np.delete(x, i, 0)) for i in range(n)])
    assert value == pytest.approx(share(x))
    wanted = np.sqrt((n - 1) / n * ((left_out - left_out.mean(0)) ** 2).sum(0))
    assert error == pytest.approx(wanted, rel=0.1 if n > 100 else 0.5)
    assert bias == pytest.approx((n - 1) * (left_out.mean(0) - value), rel=0.1 if n > 100 else 0.6)


def test_relative_variance_of_constants_of_nothing_and_of_one_image():
    s, q = np.array([30.0, 0.0]), np.array([90.0, 0.0])
    value, error, bias = relative_variance(s, q, ss=s * 3, sq=s * 9, qq=q * 9, n=10)
    assert (value[0], error[0], bias[0]) == pytest.approx((0, 0, 0), abs=1e-7)
    assert np.isnan([value[1], error[1], bias[1]]).all()
    value, error, bias = relative_variance(np.ones(1), 2 * np.ones(1), ss=np.ones(1), sq=np.ones(1), qq=np.ones(1), n=1)
    assert (value[0], error[0], bias[0]) == (0.5, np.inf, 0)
