"""Yes-or-no facts that are known through a sample."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from cnnaudit.intervals.base import Uncertain
from cnnaudit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cnnaudit.intervals.base import Array

__all__ = ["Indicator", "Share"]


class Indicator(Uncertain):
    """1 where something is the case, else 0. Bounds between 0 and 1 all ask the same question."""

    @abstractmethod
    def p_no(self) -> Array:
        """Return p-values of "it is not the case", shape (m,): small where it surely is."""

    @abstractmethod
    def p_yes(self) -> Array:
        """Return p-values of "it is the case", shape (m,): small where it surely is not."""

    def p_at_most(self, bound: float) -> Array:
        return self._p_one_of(zero=bound >= 0, one=bound >= 1)

    def p_at_least(self, bound: float) -> Array:
        return self._p_one_of(zero=bound <= 0, one=bound <= 1)

    def p_below(self, bound: float) -> Array:
        return self._p_one_of(zero=bound > 0, one=bound > 1)

    def p_above(self, bound: float) -> Array:
        return self._p_one_of(zero=bound < 0, one=bound < 1)

    def _p_one_of(self, *, zero: bool, one: bool) -> Array:
        """p-value of "the truth is one of these values"."""
        if zero and one:
            return np.ones_like(self.value)
        if zero:
            return self.p_no()
        return self.p_yes() if one else np.zeros_like(self.value)

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Indicator:
        raise NotImplementedError(f"{type(self).__name__} cannot be told by sources")

    def mean(self) -> Uncertain:
        # The share of units of which it is true lies between the shares of those that surely are and that may be.
        return Share(self)


@dataclass(frozen=True)
class Share(Uncertain):
    """The share of units of which something is true.

    Attributes:
        events: Whether it is true of each of m units.
        among: The units that are counted, at least one, shape (m,); all where it is None.
    """

    events: Indicator
    among: NDArray[np.bool_] | None = None

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        return self._mean(self.events.value)

    def _counted(self, x: Array) -> Array:
        counted: Array = x if self.among is None else x[self.among]
        return counted

    def _mean(self, x: Array) -> Array:
        return np.atleast_1d(self._counted(x).mean())

    @property
    def _units(self) -> int:
        return len(self._counted(self.events.value))

    def interval(self, confidence: float) -> tuple[Array, Array]:
        # Bonferroni over the units makes the count of sure ones simultaneous.
        low, high = self.events.interval(1 - (1 - confidence) / self._units)
        return self._mean(low), self._mean(high)

    def _count_p(self, p: Array, needed: int) -> Array:
        """p-value of "at most needed - 1 units": partial conjunction over the units' p-values."""
        p = self._counted(p)
        units = len(p)
        if needed <= 0:
            return np.zeros(1)
        if needed > units:
            return np.ones(1)
        return np.atleast_1d(min(1.0, np.sort(p)[needed - 1] * (units - needed + 1)))

    def p_at_most(self, bound: float) -> Array:
        return self._count_p(self.events.p_no(), math.floor(bound * self._units + 1e-9) + 1)

    def p_at_least(self, bound: float) -> Array:
        units = self._units
        return self._count_p(self.events.p_yes(), units - math.ceil(bound * units - 1e-9) + 1)

    def p_below(self, bound: float) -> Array:
        return self._count_p(self.events.p_no(), math.ceil(bound * self._units - 1e-9))

    def p_above(self, bound: float) -> Array:
        units = self._units
        return self._count_p(self.events.p_yes(), units - math.floor(bound * units + 1e-9))

    def mean(self) -> Uncertain:
        return self

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:
        return replace(self, events=self.events.regrouped([part.events for part in parts], sizes, units))
