"""Whether something happens more rarely than at a given rate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from cnnaudit.intervals.exact import Exact
from cnnaudit.intervals.indicator import Indicator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnaudit.intervals.base import Array, Uncertain

__all__ = ["RareEvent"]


@dataclass(frozen=True)
class RareEvent(Indicator):
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
        # What is undefined may be either.
        return (high < self.rate).astype(float), (~(low >= self.rate)).astype(float)

    def on_dataset(self) -> Exact:
        return Exact((self.proportion.value == 0).astype(float))

    def deciding(self, bound: float) -> tuple[Uncertain, float]:  # noqa: ARG002
        return self.proportion, self.rate

    def p_no(self) -> Array:
        return self.proportion.p_at_least(self.rate)

    def p_yes(self) -> Array:
        return (self.at_least or self.proportion).p_at_most(self.rate)

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:
        least = self.at_least and self.at_least.regrouped([p.at_least for p in parts if p.at_least], sizes, units)
        proportion = self.proportion.regrouped([part.proportion for part in parts], sizes, units)
        return replace(self, proportion=proportion, at_least=least)
