"""Quantities that know an interval for every confidence, and no p-values."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from cnnaudit.intervals.base import Uncertain
from cnnaudit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cnnaudit.intervals.base import Array

__all__ = ["Inverted"]

_LEAST = 1e-12
_STEPS = 40


class Inverted(Uncertain):
    """A quantity whose p-values are found by bisection over the confidence of its interval.

    A one-sided p-value is the level at which the end of the two-sided interval lies on the bound; where even the
    interval of confidence 0 holds the bound it is 1. It is told to one part in a million, from above, and not below
    1e-12. Each unit takes its own 40 intervals, so this is for quantities of few units.
    """

    @abstractmethod
    def interval(self, confidence: float) -> tuple[Array, Array]:
        """Return the two-sided interval; one of more confidence must hold one of less."""

    def p_at_most(self, bound: float) -> Array:
        return self._p(lambda low, high: low > bound)  # noqa: ARG005

    def p_at_least(self, bound: float) -> Array:
        return self._p(lambda low, high: high < bound)  # noqa: ARG005

    def p_below(self, bound: float) -> Array:
        return self._p(lambda low, high: low >= bound) if bound > self.limits[0] else self._impossible()  # noqa: ARG005

    def p_above(self, bound: float) -> Array:
        return self._p(lambda low, high: high <= bound) if bound < self.limits[1] else self._impossible()  # noqa: ARG005

    def _p(self, refutes: Callable[[Array, Array], NDArray[np.bool_]]) -> Array:
        """The smallest level at which each unit's interval refutes."""

        def refuted(level: float, unit: int) -> bool:
            return bool(refutes(*self.interval(1 - 2 * level))[unit])

        def smallest(unit: int) -> float:
            if not refuted(0.5, unit):
                return 1.0
            if refuted(_LEAST, unit):
                return _LEAST
            held, out = np.log(_LEAST), np.log(0.5)
            for _ in range(_STEPS):
                middle = (held + out) / 2
                held, out = (held, middle) if refuted(float(np.exp(middle)), unit) else (middle, out)
            return float(np.exp(out))

        return np.array([smallest(unit) for unit in range(len(self.value))])
