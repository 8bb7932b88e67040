"""Whether something happens more rarely than at a given rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from cnnaudit.intervals.base import Uncertain
from cnnaudit.intervals.exact import Exact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnaudit.intervals.base import Array

__all__ = ["RareEvent"]


@dataclass(frozen=True)
class RareEvent(Uncertain):
    """1 where a proportion lies below ``rate``, else 0: a yes-or-no fact known through a sample.

    About the images that were read the claim is the sharper one: it never happened.

    Attributes:
        proportion: How often it happens, as a share of samples (images, or sources) that are independent.
        rate: In (0, 1).
        at_least: Where that share is known only between two numbers: the smaller one, ``proportion`` being the larger.
            Rare is then what surely is by the larger, and not rare what surely is not by the smaller.
    """

    proportion: Uncertain
    rate: float
    at_least: Uncertain | None = None

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        return (self.proportion.value < self.rate).astype(float)

    def interval(self, confidence: float) -> tuple[Array, Array]:
        low, _ = (self.at_least or self.proportion).interval(confidence)
        _, high = self.proportion.interval(confidence)
        return (high < self.rate).astype(float), (low < self.rate).astype(float)

    def on_dataset(self) -> Exact:
        return Exact((self.proportion.value == 0).astype(float))

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
        return (self.at_least or self.proportion).p_at_most(self.rate) if one else np.zeros_like(self.value)

    def mean(self) -> Uncertain:
        # The share of rare units lies between the shares of units that surely are and that may be.
        return _RareShare(self)

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:  # noqa: ARG002
        return self  # its samples are sources already


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

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:  # noqa: ARG002
        return self
