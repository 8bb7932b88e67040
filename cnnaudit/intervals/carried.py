"""Estimates that few images carry, which therefore tell too small an error."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from cnnaudit.intervals.bounded import BoundedMean
from cnnaudit.intervals.normal import Normal
from cnnaudit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnaudit.intervals.base import Array

__all__ = ["CarriedMean", "CarriedNormal", "widened"]


def widened(error: Array, carrying: Array) -> Array:
    """Return errors 1 + 1 / sqrt(k) times as large, k being the images that carry an estimate; infinite where none do.

    Args:
        error: Standard errors, shape (m,).
        carrying: (sum of a_i)^2 / sum of a_i^2 for what the images have of it, shape (m,).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        wide: Array = np.where(carrying == 0, math.inf, error * (1 + 1 / np.sqrt(carrying)))
    return wide


def _of_sources(carrying: Array, sizes: Array, sources: int) -> Array:
    """The share of all sources that these images are of all images: more of them need not be independent."""
    counted: Array = carrying * (sources / sizes.sum())
    return counted


@dataclass(frozen=True)
class CarriedNormal(Normal):
    """Asymptotically normal estimates whose errors are :func:`widened`, those by source as well.

    Attributes:
        carrying: Images that carry each estimate, shape (m,) or one for all.
    """

    carrying: Array | float = math.inf

    def mean(self) -> Self:
        return replace(super().mean(), carrying=float(np.min(self.carrying)))

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:
        told = super().regrouped(parts, sizes, units)
        return replace(told, error=widened(told.error, _of_sources(np.asarray(self.carrying), sizes, units)))


@dataclass(frozen=True)
class CarriedMean(BoundedMean):
    """Bounded means whose errors are :func:`widened`, those by source as well; ``units`` are the images that carry.

    Attributes:
        carrying: Images that carry each estimate, shape (m,) or one for all; ``units`` is the same in whole images.
    """

    carrying: Array | float = math.inf

    def mean(self) -> BoundedMean:
        return replace(super().mean(), carrying=float(np.min(self.carrying)))  # type: ignore[call-arg]

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> BoundedMean:
        carrying = _of_sources(np.asarray(self.carrying), sizes, units)
        alike = replace(self, units=np.maximum(np.floor(np.minimum(carrying, units) + 1e-9), 1).astype(np.int64))
        told = super(CarriedMean, alike).regrouped(parts, sizes, units)
        return replace(told, error=widened(told.error, carrying))
