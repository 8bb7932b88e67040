"""The largest of several quantities of a unit, where nobody knows beforehand which it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from cnnaudit.intervals.base import Uncertain
from cnnaudit.intervals.inverted import Inverted
from cnnaudit.intervals.jackknife import Jackknife
from cnnaudit.intervals.normal import Normal
from cnnaudit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnaudit.intervals.base import Array

__all__ = ["Largest"]


@dataclass(frozen=True)
class Largest(Uncertain):
    """The largest of some quantities that groups of images tell the errors of.

    The largest estimate is too high on average where several of the true values are close, because chance decides
    which it is. So the interval is no error about it. That all of the values are below a bound is shown by showing it
    of each at the full level: the p-value is the largest (the intersection-union test of Berger, Technometrics 24
    (1982)). That one of them is above is shown by any one, so the smallest p-value counts, times their number
    (Bonferroni). Each end of the interval misses the truth at most as often as it says, whatever they have in common.

    Attributes:
        of: The quantities, of the same m units; before :meth:`regrouped` their errors are not known.
    """

    by_groups: ClassVar[bool] = True

    of: tuple[Uncertain, ...]

    @classmethod
    def among(cls, values: Sequence[Array], limits: tuple[float, float]) -> Self:
        """Return the largest of some estimates, each of shape (m,), whose errors are still to be told by groups."""
        return cls(tuple(Normal(value, np.full_like(value, np.inf), limits=limits) for value in values))

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        return self._largest([part.value for part in self.of])

    @property
    def limits(self) -> tuple[float, float]:  # type: ignore[override]  # likewise
        low, high = zip(*(part.limits for part in self.of), strict=True)
        return max(low), max(high)

    def interval(self, confidence: float) -> tuple[Array, Array]:
        several = 1 - (1 - confidence) / len(self.of)
        low = self._largest([part.interval(several)[0] for part in self.of])
        return low, self._largest([part.interval(confidence)[1] for part in self.of])

    def p_at_most(self, bound: float) -> Array:
        return self._any([part.p_at_most(bound) for part in self.of])

    def p_at_least(self, bound: float) -> Array:
        return self._largest([part.p_at_least(bound) for part in self.of])

    def p_below(self, bound: float) -> Array:
        return self._any([part.p_below(bound) for part in self.of])

    def p_above(self, bound: float) -> Array:
        return self._largest([part.p_above(bound) for part in self.of])

    def mean(self) -> Uncertain:
        return _Mean(self)

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:  # noqa: ARG002
        found = (
            Jackknife(own.value, np.array([part.of[i].value for part in parts]), sizes, own.limits)
            for i, own in enumerate(self.of)
        )
        return replace(self, of=tuple(found))

    @staticmethod
    def _largest(values: list[Array]) -> Array:
        largest: Array = np.max(values, axis=0)
        return largest

    def _any(self, p: list[Array]) -> Array:
        corrected: Array = np.minimum(1, len(self.of) * np.min(p, axis=0))
        return corrected


@dataclass(frozen=True)
class _Mean(Inverted):
    """Mean over the units of what is the largest in each.

    Its interval has the means of their ends, which is safe however the units depend on each other: the mean of the
    values themselves would keep the excess that each has, while its error shrinks with their number.
    """

    of: Largest

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        return np.atleast_1d(self.of.value.mean())

    @property
    def limits(self) -> tuple[float, float]:  # type: ignore[override]  # likewise
        return self.of.limits

    def interval(self, confidence: float) -> tuple[Array, Array]:
        low, high = self.of.interval(confidence)
        return np.atleast_1d(low.mean()), np.atleast_1d(high.mean())

    def mean(self) -> _Mean:
        return self
