"""Normal estimates whose bias is known only within bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from cnnaudit.intervals.normal import Normal
from cnnaudit.lazy import np, special

if TYPE_CHECKING:
    from cnnaudit.intervals.base import Array

__all__ = ["Shifted"]


@dataclass(frozen=True)
class Shifted(Normal):
    """A normal estimate whose bias is known only between two corrections.

    The lower end of the interval is built on ``floor``, the upper on ``value``, and ``z`` errors away each lies
    ``bend * z^2`` further out, as where the error grows with the root of the truth. ``p_zero`` is the p-value of
    an exact-null test of "truth = 0", used where the bound is 0: there the normal limit does not hold.
    """

    floor: Array | None = None
    bend: Array | None = None
    p_zero: Array | None = None

    def _lower(self) -> Array:
        return self.value if self.floor is None else self.floor

    def interval(self, confidence: float) -> tuple[Array, Array]:
        p = (1 + confidence) / 2
        z = float(special.ndtri(p) if math.isinf(self.dof) else special.stdtrit(self.dof, p))
        reach = self.error * z + (0 if self.bend is None else self.bend * z**2)
        low, high = np.clip(self._lower() - reach, *self.limits), np.clip(self.value + reach, *self.limits)
        return np.minimum(low, self.value), high

    def p_at_most(self, bound: float) -> Array:
        if bound == 0 and self.p_zero is not None:
            return self.p_zero
        return self._p(self._lower() - bound)

    def p_at_least(self, bound: float) -> Array:
        return self._p(bound - self.value)

    def _p(self, distance: Array) -> Array:
        """P(Z >= z) for a distance of z errors + bend z^2; towards the other side nothing bends."""
        if self.bend is None:
            return self._tail(distance)
        # The root of the quadratic; as an error of its own it is the distance over z, also where there is no error.
        wide = (self.error + np.sqrt(self.error**2 + 4 * self.bend * np.maximum(distance, 0))) / 2
        return Normal(distance, wide, self.dof).p_at_most(0)

    def p_below(self, bound: float) -> Array:
        # "At least 0" says nothing of a quantity that cannot be negative: it is read as "more than 0".
        return self.p_at_most(0) if bound == 0 else super().p_below(bound)

    def mean(self) -> Self:
        bend = None if self.bend is None else np.atleast_1d(self.bend.mean())
        return replace(super().mean(), floor=np.atleast_1d(self._lower().mean()), bend=bend, p_zero=None)
