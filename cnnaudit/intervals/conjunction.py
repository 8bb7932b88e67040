"""Whether several things are the case at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from cnnaudit.intervals.exact import Exact
from cnnaudit.intervals.indicator import Indicator
from cnnaudit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnaudit.intervals.base import Array, Uncertain

__all__ = ["Conjunction"]


@dataclass(frozen=True)
class Conjunction(Indicator):
    """1 where every one of some yes-or-no facts is true, else 0.

    That all are true is shown by showing each of them at the full level: the p-value is the largest (the
    intersection-union test of Berger, Technometrics 24 (1982)). That not all are true is shown by any one of them, so
    the smallest p-value counts, times their number (Bonferroni).

    Attributes:
        events: The facts, of the same m units.
    """

    events: tuple[Indicator, ...]

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        return _least([event.value for event in self.events])

    def interval(self, confidence: float) -> tuple[Array, Array]:
        several = 1 - (1 - confidence) / len(self.events)
        low = _least([event.interval(confidence)[0] for event in self.events])
        high = _least([event.interval(several)[1] for event in self.events])
        return low, high

    def p_no(self) -> Array:
        return -_least([-event.p_no() for event in self.events])

    def p_yes(self) -> Array:
        return np.minimum(1, len(self.events) * _least([event.p_yes() for event in self.events]))

    def on_dataset(self) -> Exact:
        return Exact(_least([event.on_dataset().value for event in self.events]))

    def deciding(self, bound: float) -> tuple[Uncertain, float]:
        # Units may wait for different facts; the one that leaves most of them open speaks for all.
        def undecided(event: Indicator) -> int:
            low, high = event.interval(0.9)
            return int((low < high).sum())

        return max(self.events, key=undecided).deciding(bound)

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:
        events = (
            event.regrouped([part.events[i] for part in parts], sizes, units) for i, event in enumerate(self.events)
        )
        return replace(self, events=tuple(events))


def _least(values: list[Array]) -> Array:
    """The smallest of several values for each unit."""
    least: Array = np.min(values, axis=0)
    return least
