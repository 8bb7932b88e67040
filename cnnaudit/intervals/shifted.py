"""Normal estimates whose bias is known only within bounds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from cnnaudit.intervals.normal import Normal

if TYPE_CHECKING:
    from cnnaudit.intervals.base import Array

__all__ = ["Shifted"]


@dataclass(frozen=True)
class Shifted(Normal):
    """A normal estimate whose bias is known only between two corrections.

    The lower end of the interval is built on ``floor``, the upper on ``value``. ``p_zero`` is the p-value of
    an exact-null test of "truth = 0", used where the bound is 0: there the normal limit does not hold.
    """

    floor: Array | None = None
    p_zero: Array | None = None

    def _lower(self) -> Normal:
        return Normal(self.value if self.floor is None else self.floor, self.error, self.dof, self.limits)

    def interval(self, confidence: float) -> tuple[Array, Array]:
        _, high = super().interval(confidence)
        low, _ = self._lower().interval(confidence)
        return np.minimum(low, self.value), high

    def p_at_most(self, bound: float) -> Array:
        if bound == 0 and self.p_zero is not None:
            return self.p_zero
        return self._lower().p_at_most(bound)

    def p_below(self, bound: float) -> Array:
        # "At least 0" says nothing of a quantity that cannot be negative: it is read as "more than 0".
        return self.p_at_most(0) if bound == 0 else super().p_below(bound)

    def mean(self) -> Self:
        return replace(super().mean(), floor=self._lower().mean().value, p_zero=None)
