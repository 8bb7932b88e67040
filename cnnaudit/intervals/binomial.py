"""Exact intervals of proportions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from cnnaudit.intervals.base import Restated
from cnnaudit.intervals.bounded import BoundedMean
from cnnaudit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnaudit.intervals.base import Array

__all__ = ["Binomial"]


@dataclass(frozen=True)
class Binomial(Restated):
    """Proportions with the exact interval of Clopper & Pearson, Biometrika 26 (1934).

    Attributes:
        successes: Number of samples (images, or sources) with the property, shape (m,).
        trials: Number of samples.
    """

    successes: Array
    trials: int

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        return self.successes / self.trials

    @property
    def claim(self) -> BoundedMean:
        """The mean of the samples' zeros and ones, whose effective sample size is their number."""
        value = self.value
        return BoundedMean(value, np.sqrt(value * (1 - value) / max(self.trials - 1, 1)), self.trials)

    def mean(self) -> BoundedMean:
        return self.claim.mean()

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:  # noqa: ARG002
        return self  # its trials are sources already
