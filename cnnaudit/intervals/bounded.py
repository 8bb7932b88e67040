"""Means of bounded values."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from cnnaudit.intervals.base import Uncertain, effective_units, jackknife_error
from cnnaudit.lazy import np, special

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cnnaudit.intervals.base import Array

__all__ = ["BoundedMean"]

_ALIKE = 1e-5


@dataclass(frozen=True)
class BoundedMean(Uncertain):
    """Means, or ratios of sums, of values within limits, known by their standard errors.

    Clopper & Pearson's interval at the effective sample size n* = mu (1 - mu) / error^2 + 1, mu being the mean on a
    scale from 0 to 1: Korn & Graubard, Survey Methodology 24 (1998), "Confidence intervals for proportions with
    small expected number of positive counts estimated from survey data". It is exact binomial where every value is
    0 or 1, the normal interval where nothing is near a limit, and near a limit it counts the values that differ
    from it. Three things are not theirs:

    - Few deviations tell little about the size of others. Where all of them together come to less than one whole
      range, S = units * min(mu, 1 - mu) < 1, n* is at most units / (1 - S), which is the number of units where
      nothing deviates.
    - Finite degrees of freedom act on the level: a tail is replaced by the normal tail at Student's quantile. Away
      from the limits that is Student's interval, like their factor on n*, but it gives p-values in closed form.
    - Units that all agree on mu have no error, and still a share s of all units may differ and have been missed with
      probability (1 - s)^units. That moves the mean at most to mu (1 - s) or 1 - (1 - mu)(1 - s). Where sources
      differ in size, those count that there would be if they were of one size (:func:`effective_units`).

    It trusts the variance of the values that were met. Very rare large deviations beside common small ones are
    covered by no interval of this kind; confidence sequences do that, at their price.

    Attributes:
        value: Means, shape (m,).
        error: Their standard errors, shape (m,); infinite where nothing is known but the limits.
        units: Number of sampling units (images, or sources), shape (m,) where it differs.
        limits: Range of the values.
        dof: Degrees of freedom of the errors.
    """

    value: Array
    error: Array
    units: int | NDArray[np.int64]
    limits: tuple[float, float] = (0.0, 1.0)
    dof: float = math.inf

    def interval(self, confidence: float) -> tuple[Array, Array]:
        mean, tail = self._scaled(self.value), (1 - confidence) / 2
        low, high = self._low(mean, tail), 1 - self._low(1 - mean, tail)
        start, stop = self.limits
        return start + (stop - start) * low, start + (stop - start) * high

    def p_at_most(self, bound: float) -> Array:
        if bound < self.limits[0]:
            return self._impossible()
        return self._p(self._scaled(self.value), self._scaled(bound))

    def p_at_least(self, bound: float) -> Array:
        if bound > self.limits[1]:
            return self._impossible()
        return self._p(1 - self._scaled(self.value), 1 - self._scaled(bound))

    def _scaled(self, x: Array | float) -> Array:
        start, stop = self.limits
        return np.clip((np.asarray(x) - start) / (stop - start), 0, 1)

    def _low(self, mean: Array, tail: float) -> Array:
        """Lower end of the interval of a mean on the scale from 0 to 1."""
        n, alike = self._trials()
        k = n * mean
        level = tail if math.isinf(self.dof) else special.ndtr(special.stdtrit(self.dof, tail))
        # Below 1e-25 or so scipy finds no quantile.
        low = np.nan_to_num(special.betaincinv(np.where(k > 0, k, 1), n - k + 1, level))
        low = np.where(k > 0, low, 0 * k)
        return np.where(alike, mean * tail ** (1 / np.asarray(self.units)), low)

    def _p(self, mean: Array, bound: Array) -> Array:
        """p-values of "truth <= bound" on the scale from 0 to 1: P(X >= k) of n trials at that proportion."""
        n, alike = self._trials()
        k = n * mean
        p = np.where(k > 0, special.betainc(np.where(k > 0, k, 1), n - k + 1, bound), 1.0)
        if not math.isinf(self.dof):
            p = special.stdtr(self.dof, special.ndtri(np.maximum(p, np.finfo(float).tiny)))
        missed = np.where(bound < mean, bound / np.where(mean > 0, mean, 1), 1.0) ** self.units
        return np.where(alike, missed, p)

    def _trials(self) -> tuple[Array, NDArray[np.bool_]]:
        """Effective sample size, and whether all units agree."""
        mean, error = self._scaled(self.value), self.error / (self.limits[1] - self.limits[0])
        # Sums of squares and float32 images leave that much where nothing differs.
        alike: NDArray[np.bool_] = error * np.sqrt(self.units) <= _ALIKE
        # All deviations from the nearer limit, in units that deviate by the whole range.
        whole = self.units * np.minimum(mean, 1 - mean)
        with np.errstate(divide="ignore", invalid="ignore"):
            n = mean * (1 - mean) / error**2 + 1
            n = np.minimum(n, np.where(whole < 1, self.units / (1 - whole), math.inf))
        return np.where(alike, self.units + 0 * mean, np.where(np.isinf(error), 0 * mean, n)), alike

    def mean(self) -> BoundedMean:
        # Without the units' covariances only perfect correlation is safe: sd(mean) <= mean(sd).
        return replace(
            self,
            value=np.atleast_1d(self.value.mean()),
            error=np.atleast_1d(self.error.mean()),
            units=int(np.min(self.units)),
        )

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> BoundedMean:
        error, dof = jackknife_error(self.value, [part.value for part in parts], sizes)
        return replace(self, error=error, units=effective_units(self.units, sizes, units), dof=dof)
