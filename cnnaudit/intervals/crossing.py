"""How many leading terms it takes until their running share reaches a level."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from cnnaudit.intervals.base import Uncertain, jackknife_error
from cnnaudit.intervals.normal import Normal
from cnnaudit.lazy import np, special

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cnnaudit.intervals.base import Array

__all__ = ["Crossing"]

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Crossing(Uncertain):
    """The smallest k at which a rising curve reaches a level: one unit, known through the errors of the curve.

    A whole number has no standard error. As Woodruff's interval of a quantile (Journal of the American Statistical
    Association 47 (1952)) it is read off the curve's own interval: the lower end is the smallest k at which the curve
    may have reached the level, the upper end the smallest from which on it surely has.

    Where the terms are the leading eigenvectors of a sample's covariance, the curve is too high on average, because
    they were chosen to hold the most of that sample; of images that had no part in the choice they hold less on
    average than the best terms would. The truth lies between, so the curve "may" by the higher and "surely has" by
    the lower of the two.

    Attributes:
        curve: Shares of the first 1, 2, ... K terms, rising to 1, shape (K,); NaN where undefined.
        level: In (0, 1).
        step: What a term counts for in the value.
        shown: The value in terms where it is not the crossing itself.
        slack: By how many terms it may lie below the crossing.
        left: What the first 1, 2, ... K terms hold of the images that were left out, shape (K,); of all images there
            is none.
        outside, error, dof: The curve of images that were left out, and the errors of both; told by
            :meth:`regrouped` only.
    """

    by_groups = True

    curve: Array
    level: float
    step: float = 1.0
    shown: int | None = None
    slack: int = 0
    left: Array | None = None
    outside: Array | None = None
    error: Array | None = None
    dof: float = math.inf

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        if self._undefined:
            return np.array([math.nan])
        return np.array([self.step * (self.crossing if self.shown is None else self.shown)])

    @property
    def crossing(self) -> int:
        """The smallest k at which the plain curve reaches the level."""
        return _first(self.curve >= self.level - _ROUNDING)

    @property
    def _undefined(self) -> bool:
        return bool(np.isnan(self.curve).any())

    def interval(self, confidence: float) -> tuple[Array, Array]:
        if self._undefined:
            return self.value, self.value
        p = (1 + confidence) / 2
        reach = float(special.ndtri(p) if math.isinf(self.dof) else special.stdtrit(self.dof, p))
        high, low = self._curves(reach)
        surely = np.flatnonzero(low[:-1] < self.level - _ROUNDING)
        first = max(1, _first(high >= self.level - _ROUNDING) - self.slack)
        last = surely[-1] + 2 if len(surely) else 1
        return np.array([self.step * first]), np.array([self.step * last])

    def p_at_most(self, bound: float) -> Array:
        return self._p_at_most(self._floor(bound))

    def p_at_least(self, bound: float) -> Array:
        return self._p_at_least(self._ceil(bound))

    def p_below(self, bound: float) -> Array:
        return self._p_at_most(self._ceil(bound) - 1)

    def p_above(self, bound: float) -> Array:
        return self._p_at_least(self._floor(bound) + 1)

    def deciding(self, bound: float) -> tuple[Uncertain, float]:
        if self._undefined:
            return self, bound
        at = slice(k := min(max(self._floor(bound), 1), len(self.curve)) - 1, k + 1)
        return Normal(self.curve[at], self._error[at], self.dof), self.level

    def mean(self) -> Self:
        return self

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:  # noqa: ARG002
        error, dof = jackknife_error(self.curve, [part.curve for part in parts], sizes)
        held = sum((part.left for part in parts if part.left is not None), np.zeros_like(self.curve))
        return replace(self, outside=held / held[-1] if held[-1] > 0 else None, error=error, dof=dof)

    def _floor(self, bound: float) -> int:
        return math.floor(bound / self.step + 1e-9)

    def _ceil(self, bound: float) -> int:
        return math.ceil(bound / self.step - 1e-9)

    @property
    def _error(self) -> Array:
        return np.full_like(self.curve, math.inf) if self.error is None else self.error

    def _curves(self, reach: float = 0.0) -> tuple[Array, Array]:
        """Highest and lowest the curve may be, some errors away."""
        error = np.where(np.isnan(self._error), math.inf, self._error)
        other = self.curve if self.outside is None else self.outside
        away = reach * error if reach else 0.0
        return np.fmax(self.curve, other) + away, np.fmin(self.curve, other) - away

    def _p_at_most(self, terms: int) -> Array:
        """p-value of "at most that many terms": the curve has reached the level by the last of them."""
        if self._undefined:
            return np.ones(1)
        if terms < 1:
            return np.zeros(1)
        terms += self.slack
        if terms >= len(self.curve):
            return np.ones(1)
        high, _ = self._curves()
        return self._worst(Normal(high, self._error, self.dof).p_at_least(self.level - _ROUNDING)[:terms])

    def _p_at_least(self, terms: int) -> Array:
        """p-value of "at least that many terms": the curve has not reached the level at the last before them."""
        if self._undefined or terms <= 1:
            return np.ones(1)
        if terms > len(self.curve):
            return np.zeros(1)
        _, low = self._curves()
        return self._worst(Normal(low, self._error, self.dof).p_at_most(self.level - _ROUNDING)[terms - 2 : -1])

    def _worst(self, p: Array) -> Array:
        # The curve rises, its estimates' ends need not: the interval is that of all points on the side.
        return np.atleast_1d(p.max())


def _first(reached: NDArray[np.bool_]) -> int:
    """Number of the first term that reaches; the last does in any case."""
    return int(np.argmax(reached)) + 1 if reached.any() else len(reached)
