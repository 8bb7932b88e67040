"""What one quantity is more than another one that was measured on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cnnaudit.intervals.base import Uncertain
from cnnaudit.intervals.exact import Exact
from cnnaudit.intervals.jackknife import Jackknife
from cnnaudit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cnnaudit.intervals.base import Array

__all__ = ["Difference", "difference"]

_LEVELS = (1e-12, 1e-9, 1e-6, 1e-5, 1e-4, 1e-3, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Difference(Uncertain):
    """The difference of two quantities that may depend on each other in any way.

    Its interval at confidence 1 - alpha reaches from the difference of the nearest to that of the farthest ends of
    both intervals at 1 - alpha / 2: where each misses its truth with at most alpha / 2, the difference is missed with
    at most alpha (Bonferroni), whatever the two have in common.

    A p-value is the smallest of some levels at which that interval clears the bound: never too small, and exact where
    it is compared with one of these levels. More would cost an interval each, and a layer has thousands of units.

    Attributes:
        more, less: What is taken from what, with as many units.
        levels: One-sided levels that p-values will be compared with, besides the usual ones.
    """

    more: Uncertain
    less: Uncertain
    levels: tuple[float, ...] = ()

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        return self.more.value - self.less.value

    @property
    def limits(self) -> tuple[float, float]:  # type: ignore[override]  # likewise
        (low, high), (least, most) = self.more.limits, self.less.limits
        return low - most, high - least

    def interval(self, confidence: float) -> tuple[Array, Array]:
        both = (1 + confidence) / 2
        (low, high), (least, most) = self.more.interval(both), self.less.interval(both)
        with np.errstate(invalid="ignore"):  # inf - inf: nothing is known of either
            return low - most, high - least

    def p_at_most(self, bound: float) -> Array:
        return self._p(lambda low, high: low > bound)  # noqa: ARG005

    def p_at_least(self, bound: float) -> Array:
        return self._p(lambda low, high: high < bound)  # noqa: ARG005

    def p_below(self, bound: float) -> Array:
        return self._p(lambda low, high: low >= bound) if bound > self.limits[0] else self._impossible()  # noqa: ARG005

    def p_above(self, bound: float) -> Array:
        return self._p(lambda low, high: high <= bound) if bound < self.limits[1] else self._impossible()  # noqa: ARG005

    def _p(self, refutes: Callable[[Array, Array], NDArray[np.bool_]]) -> Array:
        p = np.ones_like(self.value)
        for level in sorted({*_LEVELS, *self.levels}, reverse=True):
            refuted = refutes(*self.interval(1 - 2 * level))
            if not refuted.any():  # nor by the wider intervals of smaller levels
                break
            p = np.where(refuted, level, p)
        return p

    def mean(self) -> Uncertain:
        return difference(self.more.mean(), self.less.mean(), self.levels)


def difference(more: Uncertain, less: Uncertain, levels: tuple[float, ...] = ()) -> Uncertain:
    """Return what one quantity is more than another one, units in the same order.

    Two exact values differ exactly. Two jackknives over the same groups of images are one of the difference, in which
    what both share cancels; anything else is a :class:`Difference`.
    """
    if isinstance(more, Exact) and isinstance(less, Exact):
        return Exact(more.value - less.value)
    if isinstance(more, Jackknife) and isinstance(less, Jackknife) and np.array_equal(more.sizes, less.sizes):
        limits = more.limits[0] - less.limits[1], more.limits[1] - less.limits[0]
        return Jackknife(more.value - less.value, more.replicates - less.replicates, more.sizes, limits)
    return Difference(more, less, levels)
