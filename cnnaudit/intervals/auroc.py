"""Area under the ROC curve from class histograms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cnnaudit.intervals.bounded import BoundedMean
from cnnaudit.lazy import np

if TYPE_CHECKING:
    from cnnaudit.intervals.base import Array

__all__ = ["delong"]


def delong(positive: Array, negative: Array) -> BoundedMean:
    """Return P(positive > negative) + P(positive = negative) / 2 for values that were counted by level.

    DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988): the variances of the structural components V10 (the share of
    negatives below a positive) and V01 (the share of positives above a negative) over images, each over its number of
    images. The interval is that of a bounded mean with as many units as the smaller class: k disjoint pairs are all in
    order with probability at most AUROC^k, so perfect separation leaves a doubt.

    Args:
        positive: Number of positive images at each level, levels ascending, shape (m, levels).
        negative: The same of negative images.

    Returns:
        AUROC in [0, 1], shape (m,): NaN where a class has no image; of infinite error where one has a single image.
    """
    n, k = positive.sum(axis=-1), negative.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = positive / n[..., None], negative / k[..., None]
        below, above = q.cumsum(axis=-1) - q / 2, 1 - p.cumsum(axis=-1) + p / 2
        value = (p * below).sum(axis=-1)
        variance = _variance(p, below, value) / (n - 1) + _variance(q, above, value) / (k - 1)
    smaller = np.minimum(n, k)
    error = np.where(smaller > 1, np.sqrt(variance), math.inf)
    return BoundedMean(value, error, np.maximum(smaller, 1).astype(np.int64))


def _variance(share: Array, component: Array, mean: Array) -> Array:
    variance: Array = (share * (component - mean[..., None]) ** 2).sum(axis=-1)
    return variance
