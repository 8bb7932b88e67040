"""Values without sampling error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from cnnaudit.intervals.base import Uncertain
from cnnaudit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnaudit.intervals.base import Array

__all__ = ["Exact"]


@dataclass(frozen=True)
class Exact(Uncertain):
    """Values without sampling error: a statement about the images that were read, or about weights."""

    value: Array

    def interval(self, confidence: float) -> tuple[Array, Array]:  # noqa: ARG002
        return self.value, self.value

    def p_at_most(self, bound: float) -> Array:
        return np.where(np.isnan(self.value), 1.0, (self.value <= bound).astype(float))

    def p_at_least(self, bound: float) -> Array:
        return np.where(np.isnan(self.value), 1.0, (self.value >= bound).astype(float))

    def p_below(self, bound: float) -> Array:
        return np.where(np.isnan(self.value), 1.0, (self.value < bound).astype(float))

    def p_above(self, bound: float) -> Array:
        return np.where(np.isnan(self.value), 1.0, (self.value > bound).astype(float))

    def mean(self) -> Exact:
        return Exact(np.atleast_1d(self.value.mean()))

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Exact:  # noqa: ARG002
        return self
