"""Asymptotically normal estimates."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from cnnaudit.intervals.base import Uncertain, jackknife_error
from cnnaudit.lazy import np, special

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cnnaudit.intervals.base import Array

__all__ = ["Normal"]


@dataclass(frozen=True)
class Normal(Uncertain):
    """Asymptotically normal estimates (delta method, influence function); without error they are exact.

    Attributes:
        value: Estimates, shape (m,).
        error: Their standard errors, shape (m,).
        dof: Degrees of freedom of Student's t; infinite for the normal limit.
        limits: Range that the quantity cannot leave; intervals are cut there.
        least: What an error may not fall below where the error by source replaces it, shape (m,) or one for all.
    """

    value: Array
    error: Array
    dof: float = math.inf
    limits: tuple[float, float] = (-math.inf, math.inf)
    least: Array | float = 0.0

    def interval(self, confidence: float) -> tuple[Array, Array]:
        p = (1 + confidence) / 2
        reach = self.error * float(special.ndtri(p) if math.isinf(self.dof) else special.stdtrit(self.dof, p))
        return np.clip(self.value - reach, *self.limits), np.clip(self.value + reach, *self.limits)

    def p_at_most(self, bound: float) -> Array:
        return self._tail(self.value - bound)

    def p_at_least(self, bound: float) -> Array:
        return self._tail(bound - self.value)

    def p_below(self, bound: float) -> Array:
        return np.where(self._on(bound), 0.0, super().p_below(bound))

    def p_above(self, bound: float) -> Array:
        return np.where(self._on(bound), 0.0, super().p_above(bound))

    def _on(self, bound: float) -> NDArray[np.bool_]:
        """Whether the value lies on the bound without error."""
        on: NDArray[np.bool_] = (self.error == 0) & (self.value == bound)
        return on

    def _tail(self, distance: Array) -> Array:
        """P(Z >= distance / error): 0 or 1 where the error vanishes, 1 where anything is undefined."""
        with np.errstate(divide="ignore", invalid="ignore"):
            z = distance / self.error
        z = np.where((self.error == 0) & (distance == 0), -math.inf, z)
        p = special.ndtr(-z) if math.isinf(self.dof) else special.stdtr(self.dof, -z)
        return np.where(np.isnan(z) | np.isnan(p) | ~np.isfinite(self.error), 1.0, p)

    def mean(self) -> Self:
        # Without the units' covariances only perfect correlation is safe: sd(mean) <= mean(sd).
        value, error, least = (np.atleast_1d(np.mean(x)) for x in (self.value, self.error, self.least))
        return replace(self, value=value, error=error, least=least)

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:  # noqa: ARG002
        error, dof = jackknife_error(self.value, [part.value for part in parts], sizes)
        return replace(self, error=np.maximum(error, self.least), dof=dof)
