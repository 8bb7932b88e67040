"""Confidence sequences: intervals of means of bounded values that hold at every number of images at once."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from cnnaudit.intervals.base import Array, Uncertain, jackknife_error
from cnnaudit.intervals.bounded import BoundedMean
from cnnaudit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Betting", "ConfidenceSequence", "EmpiricalBernstein"]

_CELLS = 2**21  # values at a time: some 100 MB with all that is computed from them
_HALVINGS = 30
_TRUNCATION = 0.5


@dataclass(frozen=True)
class ConfidenceSequence(Uncertain):
    """Means of bounded values with intervals that hold at every number of images at once.

    "Mean <= bound" is tested by a capital that grows with evidence against it, "mean >= bound" by its mirror image.
    At the true mean a capital is a nonnegative supermartingale that starts at 1, so it ever reaches 1 / alpha with
    probability at most alpha (Ville). The interval is the running intersection: the bounds that no capital has ever
    refuted. That it is empty, the low end above the high one, has at most the error probability where images come
    in random order.

    Attributes:
        values: One value for each image in the order in which they were read, shape (n, m). A NaN makes its unit
            undefined.
        limits: Range of the values.
        level: Two-sided error probability at which bets are sharpest; intervals and p-values hold at every level.

    Raises:
        ValueError: ``values`` has another shape, no image, or an entry outside the limits.
    """

    values: Array
    limits: tuple[float, float] = (0.0, 1.0)
    level: float = 0.05

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or not len(self.values):
            raise ValueError(f"values have the shape (images, units), not {self.values.shape}")
        if np.any(self.values < self.limits[0]) or np.any(self.values > self.limits[1]):
            raise ValueError(f"values lie outside their limits {self.limits}")

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        mean: Array = self.values.mean(axis=0)
        return mean

    @abstractmethod
    def _log_capital(self, x: Array, bound: float | Array) -> Array:
        """Logarithm of the capital against "mean <= bound" after each image, for x and bounds in [0, 1]."""

    @abstractmethod
    def _low(self, x: Array, tail: float) -> Array:
        """Lower end from all images, shape (m,)."""

    @abstractmethod
    def _lows(self, x: Array, tail: float) -> Array:
        """Lower ends after each image, shape (n, m)."""

    def interval(self, confidence: float) -> tuple[Array, Array]:
        return self._ends(self._low, (1 - confidence) / 2)

    def running(self, confidence: float) -> tuple[Array, Array]:
        """Return the interval after each image, two arrays of shape (n, m)."""
        return self._ends(self._lows, (1 - confidence) / 2)

    def p_at_most(self, bound: float) -> Array:
        if bound < self.limits[0]:
            return self._impossible()
        return self._by_unit(lambda x: self._p(x, self._scaled(bound)))

    def p_at_least(self, bound: float) -> Array:
        if bound > self.limits[1]:
            return self._impossible()
        return self._by_unit(lambda x: self._p(1 - x, 1 - self._scaled(bound)))

    def _p(self, x: Array, bound: Array) -> Array:
        """1 over the largest capital ever."""
        p = np.exp(-self._log_capital(x, bound).max(axis=0).clip(min=0))
        return np.where(np.isnan(p), 1.0, p)

    def _scaled(self, x: Array | float) -> Array:
        start, stop = self.limits
        return np.clip((np.asarray(x) - start) / (stop - start), 0, 1)

    def _by_unit(self, function: Callable[[Array], Array]) -> Array:
        """Apply a function to the scaled values of a few units at a time."""
        step = max(1, _CELLS // len(self.values))
        parts = [self.values[:, at : at + step] for at in range(0, self.values.shape[1], step)]
        return np.concatenate([function(self._scaled(part)) for part in parts], axis=-1)

    def _ends(self, low: Callable[[Array, float], Array], tail: float) -> tuple[Array, Array]:
        start, stop = self.limits
        lows, highs = self._by_unit(lambda x: low(x, tail)), 1 - self._by_unit(lambda x: low(1 - x, tail))
        return start + (stop - start) * lows, start + (stop - start) * highs

    def _bets(self, x: Array) -> tuple[Array, Array]:
        """Mean before each image, and the bet that would be best on a mean of that variance."""
        t = np.arange(1.0, len(x) + 1)[:, None]
        mean = (0.5 + x.cumsum(axis=0)) / (t + 1)
        variance = (0.25 + ((x - mean) ** 2).cumsum(axis=0)) / (t + 1)
        mean, variance = (
            np.vstack([np.full_like(x[:1], start), m[:-1]]) for start, m in ((0.5, mean), (0.25, variance))
        )
        return mean, np.sqrt(2 * math.log(2 / self.level) / (variance * t * np.log1p(t)))

    def mean(self) -> Self:
        return replace(self, values=self.values.mean(axis=1, keepdims=True))

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> BoundedMean:
        """Return the claim at this number of images only: no capital can be told from groups of sources."""
        error, dof = jackknife_error(self.value, [part.value for part in parts], sizes)
        return BoundedMean(self.value, error, units, self.limits, dof)


@dataclass(frozen=True)
class EmpiricalBernstein(ConfidenceSequence):
    """Predictable plug-in empirical Bernstein confidence sequence, closed form; see :class:`ConfidenceSequence`.

    Waudby-Smith & Ramdas, JRSS B 86 (2024), arXiv 2010.09686, Theorem 2, with bets truncated at 1/2. Cheaper than
    :class:`Betting` and as narrow where the variance is large; up to twice as wide where it is small.
    """

    def _log_capital(self, x: Array, bound: float | Array) -> Array:
        gain, bet = self._sums(x)
        return gain - bound * bet

    def _low(self, x: Array, tail: float) -> Array:
        low: Array = self._lows(x, tail)[-1]
        return low

    def _lows(self, x: Array, tail: float) -> Array:
        gain, bet = self._sums(x)
        lows: Array = np.maximum.accumulate((gain + math.log(tail)) / bet, axis=0)
        return np.clip(lows, 0, 1)

    def _sums(self, x: Array) -> tuple[Array, Array]:
        """What capital gains at a bound of 0, and loses for each unit of the bound."""
        mean, bet = self._bets(x)
        bet = np.minimum(bet, _TRUNCATION)
        penalty = (x - mean) ** 2 * (-np.log1p(-bet) - bet)
        return (bet * x - penalty).cumsum(axis=0), bet.cumsum(axis=0)


@dataclass(frozen=True)
class Betting(ConfidenceSequence):
    """Hedged capital confidence sequence; see :class:`ConfidenceSequence` for what it is made of.

    Waudby-Smith & Ramdas, JRSS B 86 (2024), arXiv 2010.09686, Theorem 3, with half of the error probability on
    either side: a bound is refuted where the capital that bets on a higher mean, or the one on a lower mean, reaches
    2 / alpha. Bets are predictable plug-in, at most 1 / (2 bound), so that no image costs more than half of it.

    Every factor 1 + min(bet, 1 / (2 bound)) (x - bound) falls as the bound rises, and with it the capital and its
    largest value so far: the bounds that one side refutes end at a single point, which halving finds.
    """

    def _log_capital(self, x: Array, bound: float | Array) -> Array:
        _, bet = self._bets(x)
        return self._log_growth(x, bet, bound)

    def _log_growth(self, x: Array, bet: Array, bound: float | Array) -> Array:
        with np.errstate(divide="ignore"):
            bet = np.minimum(bet, _TRUNCATION / np.asarray(bound))
        return np.log1p(bet * (x - bound)).cumsum(axis=0)

    def _low(self, x: Array, tail: float) -> Array:
        _, bet = self._bets(x)
        low, high = np.zeros(x.shape[1]), np.ones(x.shape[1])
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            refuted = self._log_growth(x, bet, middle).max(axis=0) >= -math.log(tail)
            low, high = np.where(refuted, middle, low), np.where(refuted, high, middle)
        return np.where(np.isnan(x).any(axis=0), np.nan, low)

    def _lows(self, x: Array, tail: float) -> Array:
        """On a grid of a thousand bounds, rounded outwards."""
        _, bet = self._bets(x)
        lows = 0 * x.cumsum(axis=0)
        for bound in np.arange(1, 1000) / 1000:
            refuted = self._log_growth(x, bet, bound) >= -math.log(tail)
            if not refuted.any():
                break
            lows = np.where(np.logical_or.accumulate(refuted, axis=0), bound, lows)
        return lows
