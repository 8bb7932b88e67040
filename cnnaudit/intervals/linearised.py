"""Values and standard errors of smooth functions of means, from sums over images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnnaudit.intervals.bounded import BoundedMean
from cnnaudit.intervals.normal import Normal

if TYPE_CHECKING:
    from cnnaudit.intervals.base import Array

__all__ = ["delta_error", "linearised_ratio", "paired_difference"]


def linearised_ratio(
    a: Array, b: Array | float, *, aa: Array, ab: Array, bb: Array | float, n: int
) -> tuple[Array, Array]:
    """Return a ratio of sums and its standard error.

    The influence of image i on r = sum a / sum b is (a_i - r b_i) / mean b (Cochran, Sampling Techniques
    (1977), chapter 6), and its variance over images has the divisor n - 1. A mean is the ratio whose b_i are all 1.

    Args:
        a: Sum of a_i over images, shape (m,) like all of the others, or one that broadcasts.
        b: Sum of b_i.
        aa: Sum of a_i^2.
        ab: Sum of a_i b_i.
        bb: Sum of b_i^2.
        n: Number of images.

    Returns:
        Two arrays of shape (m,). Where all a_i and b_i are 0 both are NaN; of one image the error is infinite.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = a / b
        squares = np.maximum(aa - 2 * ratio * ab + ratio**2 * bb, 0)
        error = np.sqrt(squares * n / (n - 1)) / np.abs(b) if n > 1 else np.full_like(ratio, math.inf)
    return ratio, error


def paired_difference(d: Array, dd: Array, n: int, limits: tuple[float, float] | None = None) -> Normal | BoundedMean:
    """Return the mean difference of two quantities that were measured on the same images.

    Args:
        d: Sum of the images' differences, shape (m,).
        dd: Sum of their squares.
        n: Number of images.
        limits: Range of one image's difference where it has one.
    """
    value, error = linearised_ratio(d, n, aa=dd, ab=d, bb=n, n=n)
    return Normal(value, error) if limits is None else BoundedMean(value, error, n, limits)


def delta_error(gradient: Array, covariance: Array) -> Array:
    """Return the standard error of a smooth function of means by the delta method, sqrt(g' S g).

    Args:
        gradient: Of the function at the means, shape (..., d).
        covariance: Of the means (that of the images over their number), shape (..., d, d).

    Returns:
        Errors of shape (...).
    """
    variance: Array = np.einsum("...i,...ij,...j->...", gradient, covariance, gradient)
    return np.sqrt(np.maximum(variance, 0))
