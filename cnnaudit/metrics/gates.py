"""Reasons why a unit cannot be judged yet that several metrics share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from cnnaudit.lazy import np
from cnnaudit.metrics.base import Gate, numbers

if TYPE_CHECKING:
    from cnnaudit.statistics import Statistic

__all__ = ["carried_by_few"]


def carried_by_few(statistic: Statistic, total: Any, squares: Any, fewest: int, what: str) -> Gate:
    """Return the gate of a ratio of sums whose denominator few images make up.

    Such a ratio has an error that few images tell, and too small a one. The images that carry a sum of a_i number
    (sum a_i)^2 / sum a_i^2.

    Args:
        statistic: What was counted, of all images.
        total: Sum of a_i for each unit.
        squares: Sum of their squares.
        fewest: Images that must carry the sum.
        what: What they carry, in words.
    """
    n = statistic.n_sources
    with np.errstate(invalid="ignore"):
        # Of the images of one source no more than their share of all sources is sure to be independent.
        carrying = numbers(total) ** 2 / numbers(squares) * (n / statistic.n_images)
    carrying = np.nan_to_num(carrying, nan=math.inf)
    # Sums differ from whole numbers by rounding.
    needed = np.where(carrying < fewest * (1 - 1e-6), np.ceil(fewest * n / carrying * (1 - 1e-9)), 0)
    samples = "sources" if statistic.probe.clustered else "images"
    return Gate(needed.astype(np.int64), f"fewer than {fewest} {samples} hold {what} of some units")
