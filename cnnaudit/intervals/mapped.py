"""Quantities that are a rising function of another one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from cnnaudit.intervals.base import Uncertain
from cnnaudit.intervals.inverted import Inverted
from cnnaudit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cnnaudit.intervals.base import Array

__all__ = ["Mapped"]


@dataclass(frozen=True)
class Mapped(Uncertain):
    """A rising function of a quantity whose interval and p-values are known: they are those at the mapped bounds.

    Attributes:
        inner: The other quantity.
        map: The function, on the whole range of ``inner``.
        inverse: The function back.
    """

    inner: Uncertain
    map: Callable[[Array], Array]
    inverse: Callable[[Array], Array]

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        return self.map(self.inner.value)

    @property
    def limits(self) -> tuple[float, float]:  # type: ignore[override]  # and so may its range
        low, high = self.map(np.array(self.inner.limits)).tolist()
        return low, high

    def interval(self, confidence: float) -> tuple[Array, Array]:
        low, high = self.inner.interval(confidence)
        return self.map(low), self.map(high)

    def p_at_most(self, bound: float) -> Array:
        low, high = self.limits
        if bound >= high:
            return np.ones_like(self.value)
        return self._impossible() if bound < low else self.inner.p_at_most(self._back(bound))

    def p_at_least(self, bound: float) -> Array:
        low, high = self.limits
        if bound <= low:
            return np.ones_like(self.value)
        return self._impossible() if bound > high else self.inner.p_at_least(self._back(bound))

    def p_below(self, bound: float) -> Array:
        low, high = self.limits
        return self.inner.p_below(self._back(bound)) if low < bound < high else super().p_below(bound)

    def p_above(self, bound: float) -> Array:
        low, high = self.limits
        return self.inner.p_above(self._back(bound)) if low < bound < high else super().p_above(bound)

    def _back(self, bound: float) -> float:
        return float(self.inverse(np.array(bound)))

    def mean(self) -> _Mean:
        return _Mean(self)

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:
        return replace(self, inner=self.inner.regrouped([part.inner for part in parts], sizes, units))


@dataclass(frozen=True)
class _Mean(Inverted):
    """The mean over the units of a mapped quantity, as if their errors were perfectly correlated."""

    units: Mapped

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        return np.atleast_1d(self.units.value.mean())

    @property
    def limits(self) -> tuple[float, float]:  # type: ignore[override]  # and so may its range
        return self.units.limits

    def interval(self, confidence: float) -> tuple[Array, Array]:
        low, high = (np.atleast_1d(end.mean()) for end in self.units.interval(confidence))
        return low, high

    def mean(self) -> Self:
        return self
