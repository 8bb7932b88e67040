"""Values and standard errors of smooth functions of means, from sums over images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cnnaudit.intervals.bounded import BoundedMean
from cnnaudit.intervals.normal import Normal
from cnnaudit.lazy import np

if TYPE_CHECKING:
    from cnnaudit.intervals.base import Array

__all__ = ["delta_error", "linearised_ratio", "paired_difference", "relative_variance"]


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


def relative_variance(s: Array, q: Array, *, ss: Array, sq: Array, qq: Array, n: int) -> tuple[Array, Array, Array]:
    """Return 1 - (E s)^2 / E q, the variance over the second moment, with its standard error and its bias.

    With s_i the mean of some values of image i and q_i the mean of their squares, it is 0 where all values are equal
    and 1 - 1 / (1 + CV^2) in terms of their coefficient of variation. The influence of image i is
    -a (2 s_i / E s - q_i / E q - 1) with a = (E s)^2 / E q. The plug-in misses the truth by the second-order term of
    the delta method, which is of order 1 / n.

    Args:
        s: Sum of s_i over images, shape (m,) like all of the others.
        q: Sum of q_i.
        ss: Sum of s_i^2.
        sq: Sum of s_i q_i.
        qq: Sum of q_i^2.
        n: Number of images.

    Returns:
        Three arrays of shape (m,): the plug-in, its error and its bias. Where all values are 0 they are NaN; of one
        image the error is infinite and the bias unknown, 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        a = s**2 / q / n
        # In units of the means, which only their ratios matter to.
        x, xy, y = (v * n for v in (ss / s**2, sq / (s * q), qq / q**2))
        if n == 1:
            return 1 - a, np.full_like(a, math.inf), np.zeros_like(a)
        error = a * np.sqrt(np.maximum(4 * x - 4 * xy + y - 1, 0) / (n - 1))
        bias = -a * (x - 2 * xy + y) / (n - 1)
    return 1 - a, error, bias
