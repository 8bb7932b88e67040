"""Normal estimates on a scale where they are normal, told on the one that people read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from cnnaudit.intervals.base import Uncertain
from cnnaudit.intervals.normal import Normal
from cnnaudit.intervals.transformed import Scale
from cnnaudit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnaudit.intervals.base import Array

__all__ = ["SQUARED_CORRELATION", "Rescaled"]

# What float64 sums cannot tell from 1.
_CAP = 1 - 1e-12
_HALVINGS = 60

SQUARED_CORRELATION = Scale(lambda x: np.arctanh(np.sqrt(np.clip(x, 0, _CAP))), lambda x: np.tanh(x) ** 2)


@dataclass(frozen=True)
class Rescaled(Uncertain):
    """Values in [0, 1] that are asymptotically normal on another scale.

    Fisher's scale, atanh r, hardly knows where between 0 and 1 a correlation lies (Biometrika 10 (1915)), so that an
    interval there stays within the limits and is not too short near either of them.

    A squared correlation has no sign, so that one of the other sign would have been found just as well. "At most" is
    tested with both tails for that, which near 0 are of one size: P(|Z + b| >= |z|) at the place b of the bound.

    Attributes:
        there: The values' places on that scale, with their errors.
        scale: The scale.
    """

    there: Normal
    scale: Scale = SQUARED_CORRELATION
    limits: tuple[float, float] = (0.0, 1.0)

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        return self.scale.back(self.there.value)

    def interval(self, confidence: float) -> tuple[Array, Array]:
        _, high = self.there.interval(confidence)
        return self.scale.back(self._low(confidence)), self.scale.back(high)

    def _low(self, confidence: float) -> Array:
        """Place of the lower end, where "at most" has the p-value (1 - confidence) / 2."""
        tail = (1 - confidence) / 2
        # One tail alone reaches less far down.
        above = np.maximum(self.there.interval(confidence)[0], 0)
        below, nothing = 0 * above, self._both_tails(0 * above) >= tail
        for _ in range(_HALVINGS):
            middle = (below + above) / 2
            kept = self._both_tails(middle) >= tail
            below, above = np.where(kept, below, middle), np.where(kept, middle, above)
        return np.where(nothing, 0 * above, above)

    def _both_tails(self, place: Array) -> Array:
        """p-values of "truth at most" for a place of each unit."""
        near, far = (
            replace(self.there, value=self.there.value - sign * place, limits=(-math.inf, math.inf)).p_at_most(0.0)
            for sign in (1, -1)
        )
        return np.minimum(near + far, 1)

    def p_at_most(self, bound: float) -> Array:
        if bound < 0:
            return self._impossible()
        if bound >= 1:
            return np.ones_like(self.value)
        return self._both_tails(np.full_like(self.value, self._at(bound)))

    def p_at_least(self, bound: float) -> Array:
        if bound > 1:
            return self._impossible()
        return self.there.p_at_least(self._at(bound)) if bound > 0 else np.ones_like(self.value)

    def _at(self, bound: float) -> float:
        return float(self.scale.to(np.array(bound)))

    def mean(self) -> Normal:
        low, high = (self.scale.back(np.maximum(self.there.value + side * self.there.error, 0)) for side in (-1, 1))
        # Without the units' covariances only perfect correlation is safe: sd(mean) <= mean(sd).
        error = np.atleast_1d(np.mean(np.maximum(high - self.value, self.value - low)))
        return Normal(np.atleast_1d(self.value.mean()), error, self.there.dof, self.limits)

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:
        return replace(self, there=self.there.regrouped([part.there for part in parts], sizes, units))
