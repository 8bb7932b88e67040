"""Exact intervals of proportions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from cnnaudit.intervals.base import Restated
from cnnaudit.intervals.bounded import BoundedMean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnaudit.intervals.base import Array

__all__ = ["Binomial"]


@dataclass(frozen=True)
class Binomial(Restated):
    """Proportions with the exact interval of Clopper & Pearson, Biometrika 26 (1934).

    Attributes:
        successes: Number of images with the property, shape (m,).
        trials: Number of images.
    """

    successes: Array
    trials: int

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        return self.successes / self.trials

    @property
    def claim(self) -> BoundedMean:
        """The mean of the images' zeros and ones, whose effective sample size is the number of images."""
        value = self.value
        return BoundedMean(value, np.sqrt(value * (1 - value) / max(self.trials - 1, 1)), self.trials)

    def mean(self) -> BoundedMean:
        return self.claim.mean()

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> BoundedMean:
        return self.claim.regrouped([part.claim for part in parts], sizes, units)
