"""Uncertain quantities: values that know their interval and how surely they clear a bound.

Every class holds one entry for each unit of a site. A reader wants the two-sided interval; a verdict needs
one-sided p-values, because units are combined by partial conjunction. ``p_below`` and ``p_above`` test "the truth
violates this bound" and are small where it is surely kept; ``p_at_least`` and ``p_at_most`` test "the truth keeps
this bound" and are small where it is surely violated. The two kinds differ only for a truth on the bound itself.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Binomial", "Exact", "Jackknife", "Normal", "RareEvent", "Shifted", "Uncertain"]


class Uncertain(ABC):
    """Estimates of ``m`` units; NaN marks a unit whose value is undefined."""

    value: Array

    @abstractmethod
    def interval(self, confidence: float) -> tuple[Array, Array]:
        """Return the two-sided interval of each unit, two arrays of shape (m,)."""

    @abstractmethod
    def p_at_most(self, bound: float) -> Array:
        """Return p-values of "truth <= bound", shape (m,): small where the truth is surely above."""

    @abstractmethod
    def p_at_least(self, bound: float) -> Array:
        """Return p-values of "truth >= bound", shape (m,): small where the truth is surely below."""

    def p_below(self, bound: float) -> Array:
        """Return p-values of "truth < bound", shape (m,): small where the truth is surely not below."""
        return self.p_at_most(bound)

    def p_above(self, bound: float) -> Array:
        """Return p-values of "truth > bound", shape (m,): small where the truth is surely not above."""
        return self.p_at_least(bound)

    @abstractmethod
    def mean(self) -> Uncertain:
        """Return the mean over the units as one uncertain quantity."""

    def on_dataset(self) -> Exact:
        """Return the claim about the images that were read, which sampling cannot make wrong."""
        return Exact(self.value)

    def deciding(self, bound: float) -> tuple[Uncertain, float]:
        """Return the quantity whose interval shrinks with more images, and the bound that it must clear."""
        return self, bound


@dataclass(frozen=True)
class Exact(Uncertain):
    """Values without sampling error: a statement about the images that were read, or about weights."""

    value: Array

    def interval(self, confidence: float) -> tuple[Array, Array]:  # noqa: ARG002
        return self.value, self.value

    def p_at_most(self, bound: float) -> Array:
        return np.where(np.isnan(self.value), 1.0, (self.value <= bound).astype(float))

    def p_at_least(self, bound: float) -> Array:
        return np.where(np.isnan(self.value), 1.0, (self.value >= bound).astype(float))

    def p_below(self, bound: float) -> Array:
        return np.where(np.isnan(self.value), 1.0, (self.value < bound).astype(float))

    def p_above(self, bound: float) -> Array:
        return np.where(np.isnan(self.value), 1.0, (self.value > bound).astype(float))

    def mean(self) -> Exact:
        return Exact(np.atleast_1d(self.value.mean()))


@dataclass(frozen=True)
class Normal(Uncertain):
    """Asymptotically normal estimates (delta method, influence function).

    Attributes:
        value: Estimates, shape (m,).
        error: Their standard errors, shape (m,).
        dof: Degrees of freedom of Student's t; infinite for the normal limit.
        limits: Range that the quantity cannot leave; intervals are cut there.
        images: Where given, the value is a mean (or ratio of means) of so many images' values within the limits.
            Images that all agree then leave a doubt: a share s of all images may differ with probability
            (1 - s)^images of not being met, and move the mean by up to s times the range.
    """

    value: Array
    error: Array
    dof: float = math.inf
    limits: tuple[float, float] = (-math.inf, math.inf)
    images: int = 0

    def interval(self, confidence: float) -> tuple[Array, Array]:
        reach = _quantile((1 + confidence) / 2, self.dof) * self.error
        if self.images:
            unmet = (1 - ((1 - confidence) / 2) ** (1 / self.images)) * (self.limits[1] - self.limits[0])
            reach = np.where(self.error == 0, unmet, reach)
        return np.clip(self.value - reach, *self.limits), np.clip(self.value + reach, *self.limits)

    def p_at_most(self, bound: float) -> Array:
        return self._doubted(_tail(self.value - bound, self.error, self.dof), self.value - bound)

    def p_at_least(self, bound: float) -> Array:
        return self._doubted(_tail(bound - self.value, self.error, self.dof), bound - self.value)

    def _doubted(self, p: Array, distance: Array) -> Array:
        """p-values that do not vanish where no image differs from the others."""
        if not self.images:
            return p
        share = np.clip(distance / (self.limits[1] - self.limits[0]), 0, 1)
        return np.where((self.error == 0) & (distance > 0), (1 - share) ** self.images, p)

    def p_below(self, bound: float) -> Array:
        sure = self._on(bound) | (bound <= self.limits[0])
        return np.where(sure & ~np.isnan(self.value), 0.0, self.p_at_most(bound))

    def p_above(self, bound: float) -> Array:
        sure = self._on(bound) | (bound >= self.limits[1])
        return np.where(sure & ~np.isnan(self.value), 0.0, self.p_at_least(bound))

    def _on(self, bound: float) -> NDArray[np.bool_]:
        """Whether the value lies on the bound and no image disagrees."""
        on: NDArray[np.bool_] = (self.error == 0) & (self.value == bound)
        return on

    def mean(self) -> Normal:
        # Without the units' covariances only perfect correlation is safe: sd(mean) <= mean(sd).
        mean = np.atleast_1d(self.value.mean())
        return Normal(mean, np.atleast_1d(self.error.mean()), self.dof, self.limits, self.images)


@dataclass(frozen=True)
class Shifted(Normal):
    """A normal estimate whose bias is known only between two corrections.

    The lower end of the interval is built on ``floor``, the upper on ``value``. ``p_zero`` is the p-value of
    an exact-null test of "truth = 0", used where the bound is 0: there the normal limit does not hold.
    """

    floor: Array | None = None
    p_zero: Array | None = None

    def _floor(self) -> Array:
        return self.value if self.floor is None else self.floor

    def interval(self, confidence: float) -> tuple[Array, Array]:
        _, high = super().interval(confidence)
        low, _ = Normal(self._floor(), self.error, self.dof, self.limits).interval(confidence)
        return np.minimum(low, self.value), high

    def p_at_most(self, bound: float) -> Array:
        if bound == 0 and self.p_zero is not None:
            return self.p_zero
        return _tail(self._floor() - bound, self.error, self.dof)

    def p_below(self, bound: float) -> Array:
        # "At least 0" says nothing of a quantity that cannot be negative: it is read as "more than 0".
        return self.p_at_most(0) if bound == 0 else super().p_below(bound)

    def mean(self) -> Shifted:
        return Shifted(
            np.atleast_1d(self.value.mean()),
            np.atleast_1d(self.error.mean()),
            self.dof,
            self.limits,
            floor=np.atleast_1d(self._floor().mean()),
        )


@dataclass(frozen=True)
class Jackknife(Uncertain):
    """Delete-a-group jackknife with groups of unequal size.

    Busing, Meijer & van der Leeden, Statistics and Computing 9 (1999), "Delete-m jackknife for unequal m".

    Attributes:
        value: Estimates from all groups, shape (m,).
        replicates: Estimates with one group left out, shape (groups, m); none where there is only one group.
        sizes: Number of images in each group, shape (groups,).
    """

    value: Array
    replicates: Array
    sizes: Array

    @property
    def normal(self) -> Normal:
        """Student's t interval about ``value`` with the jackknife's standard error."""
        groups = len(self.sizes)
        if groups < 2:
            return Normal(self.value, np.full_like(self.value, math.inf), 1)
        weight = (self.sizes.sum() / self.sizes)[:, None]
        with np.errstate(invalid="ignore"):  # what is infinite with or without a group has no error
            # Pseudo-values less the value: where every group agrees they are exactly 0, and so is the error.
            pseudo = (weight - 1) * (self.value - self.replicates)
            centre = (pseudo / weight).sum(axis=0)
            variance = ((pseudo - centre) ** 2 / (weight - 1)).mean(axis=0)
        return Normal(self.value, np.sqrt(variance), groups - 1)

    def interval(self, confidence: float) -> tuple[Array, Array]:
        return self.normal.interval(confidence)

    def p_at_most(self, bound: float) -> Array:
        return self.normal.p_at_most(bound)

    def p_at_least(self, bound: float) -> Array:
        return self.normal.p_at_least(bound)

    def p_below(self, bound: float) -> Array:
        return self.normal.p_below(bound)

    def p_above(self, bound: float) -> Array:
        return self.normal.p_above(bound)

    def mean(self) -> Jackknife:
        rest = self.replicates.reshape(-1, len(self.value)).mean(axis=1, keepdims=True)
        return Jackknife(np.atleast_1d(self.value.mean()), rest, self.sizes)


@dataclass(frozen=True)
class Binomial(Uncertain):
    """Proportions with the exact interval of Clopper & Pearson, Biometrika 26 (1934).

    Attributes:
        successes: Number of images with the property, shape (m,).
        trials: Number of images.
    """

    successes: Array
    trials: int

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        return self.successes / self.trials

    def interval(self, confidence: float) -> tuple[Array, Array]:
        tail = (1 - confidence) / 2
        k, n = self.successes, self.trials
        low = np.where(k > 0, special.betaincinv(np.maximum(k, 1), n - k + 1, tail), 0.0)
        high = np.where(k < n, special.betaincinv(k + 1, np.maximum(n - k, 1), 1 - tail), 1.0)
        return low, high

    def p_at_most(self, bound: float) -> Array:
        # P(X >= k | p) = I_p(k, n - k + 1)
        k, n = self.successes, self.trials
        p = min(max(bound, 0.0), 1.0)
        return np.where(k > 0, special.betainc(np.maximum(k, 1), n - k + 1, p), 1.0)

    def p_at_least(self, bound: float) -> Array:
        # P(X <= k | p) = 1 - I_p(k + 1, n - k)
        k, n = self.successes, self.trials
        p = min(max(bound, 0.0), 1.0)
        return np.where(k < n, special.betaincc(k + 1, np.maximum(n - k, 1), p), 1.0)

    def mean(self) -> Normal:
        # Images are shared by the units, so only perfect correlation is safe: sd(mean) <= mean(sd).
        # The Agresti-Coull shift keeps the error away from 0 when every image agrees.
        value = self.value
        shrunk = (self.successes + 2) / (self.trials + 4)
        error = np.sqrt(shrunk * (1 - shrunk) / (self.trials + 4))
        return Normal(np.atleast_1d(value.mean()), np.atleast_1d(error.mean()), limits=(0.0, 1.0))


@dataclass(frozen=True)
class RareEvent(Uncertain):
    """1 where a proportion lies below ``rate``, else 0: a yes-or-no fact known through a binomial sample.

    About the images that were read the claim is the sharper one: it never happened.
    """

    proportion: Binomial
    rate: float

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        return (self.proportion.value < self.rate).astype(float)

    def interval(self, confidence: float) -> tuple[Array, Array]:
        low, high = self.proportion.interval(confidence)
        return (high < self.rate).astype(float), (low < self.rate).astype(float)

    def on_dataset(self) -> Exact:
        return Exact((self.proportion.successes == 0).astype(float))

    def deciding(self, bound: float) -> tuple[Uncertain, float]:  # noqa: ARG002
        return self.proportion, self.rate

    def p_at_most(self, bound: float) -> Array:
        return self._p_one_of(zero=bound >= 0, one=bound >= 1)

    def p_at_least(self, bound: float) -> Array:
        return self._p_one_of(zero=bound <= 0, one=bound <= 1)

    def p_below(self, bound: float) -> Array:
        return self._p_one_of(zero=bound > 0, one=bound > 1)

    def p_above(self, bound: float) -> Array:
        return self._p_one_of(zero=bound < 0, one=bound < 1)

    def _p_one_of(self, *, zero: bool, one: bool) -> Array:
        """p-value of "the truth is one of these values": 0 says the proportion is at least the rate."""
        if zero and one:
            return np.ones_like(self.value)
        if zero:
            return self.proportion.p_at_least(self.rate)
        return self.proportion.p_at_most(self.rate) if one else np.zeros_like(self.value)

    def mean(self) -> Uncertain:
        # The share of rare units lies between the shares of units that surely are and that may be.
        return _RareShare(self)


@dataclass(frozen=True)
class _RareShare(Uncertain):
    events: RareEvent

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        return np.atleast_1d(self.events.value.mean())

    def interval(self, confidence: float) -> tuple[Array, Array]:
        # Bonferroni over the units makes the count of sure ones simultaneous.
        units = len(self.events.value)
        low, high = self.events.interval(1 - (1 - confidence) / units)
        return np.atleast_1d(low.mean()), np.atleast_1d(high.mean())

    def _count_p(self, p: Array, needed: int) -> Array:
        """p-value of "at most needed - 1 units": partial conjunction over the units' p-values."""
        units = len(p)
        if needed <= 0:
            return np.zeros(1)
        if needed > units:
            return np.ones(1)
        return np.atleast_1d(min(1.0, np.sort(p)[needed - 1] * (units - needed + 1)))

    def p_at_most(self, bound: float) -> Array:
        units = len(self.events.value)
        return self._count_p(self.events.p_at_most(0), math.floor(bound * units + 1e-9) + 1)

    def p_at_least(self, bound: float) -> Array:
        units = len(self.events.value)
        return self._count_p(self.events.p_at_least(1), units - math.ceil(bound * units - 1e-9) + 1)

    def p_below(self, bound: float) -> Array:
        units = len(self.events.value)
        return self._count_p(self.events.p_at_most(0), math.ceil(bound * units - 1e-9))

    def p_above(self, bound: float) -> Array:
        units = len(self.events.value)
        return self._count_p(self.events.p_at_least(1), units - math.floor(bound * units + 1e-9))

    def mean(self) -> Uncertain:
        return self


def _quantile(p: float, dof: float) -> float:
    return float(special.ndtri(p) if math.isinf(dof) else special.stdtrit(dof, p))


def _tail(distance: Array, error: Array, dof: float) -> Array:
    """P(Z >= distance / error): 0 or 1 where the error vanishes, 1 where anything is undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = distance / error
    z = np.where((error == 0) & (distance == 0), -math.inf, z)
    p = special.ndtr(-z) if math.isinf(dof) else special.stdtr(dof, -z)
    return np.where(np.isnan(z) | np.isnan(p) | ~np.isfinite(error), 1.0, p)
