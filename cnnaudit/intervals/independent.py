"""Means of a few independent values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from cnnaudit.intervals.normal import Normal
from cnnaudit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnaudit.intervals.base import Array

__all__ = ["Independent"]


@dataclass(frozen=True)
class Independent(Normal):
    """Means of values from parts of the data that have no source in common, with Student's t."""

    @classmethod
    def of(cls, parts: Array, limits: tuple[float, float] = (-math.inf, math.inf)) -> Self:
        """Return the mean over the parts.

        Args:
            parts: Values, shape (parts, m). Without any the mean is NaN, and one of them tells no error.
            limits: Range that the mean cannot leave.
        """
        count, m = parts.shape
        if count < 2:
            value = parts[0] if count else np.full(m, math.nan)
            return cls(value, np.full(m, math.inf), 1, limits)
        error = parts.std(axis=0, ddof=1) / math.sqrt(count)
        return cls(parts.mean(axis=0), error, count - 1, limits)

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:  # noqa: ARG002
        return self  # its parts are of different sources already
