"""Where an interval bar has its marks: all sites of a rule on one scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, TypeGuard

from cnnaudit.report.words import as_measured, bound, interval, number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cnnaudit.result import Verdict

__all__ = ["HEIGHT", "WIDTH", "Bar", "Scale", "bar", "scale"]

WIDTH, HEIGHT = 240, 24
# Left and right of the scale, for the arrows of ends that are not on it.
_ASIDE = 14
# How far intervals may stretch a scale, as a multiple of what its other marks need: one interval that knows nothing
# must not press all others into a point.
_STRETCH = 3.0


@dataclass(frozen=True)
class Scale:
    """A linear scale from ``low`` to ``high``; one point where they are equal."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Return where a number is, from the left edge; what is beyond the scale at the edge."""
        if value < self.low:
            return 0.0
        if value > self.high:
            return float(WIDTH)
        inner = WIDTH - 2 * _ASIDE
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(_ASIDE + inner * share, 1)


@dataclass(frozen=True)
class Bar:
    """The marks of one verdict, as distances from the left edge; None where there is nothing to mark.

    Attributes:
        low, high: The interval; ``open_low``, ``open_high``: that end is infinite, missing or beyond the scale.
        value, bound, twin, baseline: The marks.
        allowed: Where values keep the bound, as left edge and width.
        title, desc: The same in words.
    """

    low: float | None
    high: float | None
    open_low: bool
    open_high: bool
    value: float | None
    bound: float | None
    twin: float | None
    baseline: float | None
    allowed: tuple[float, float] | None
    title: str
    desc: str


def scale(verdicts: Sequence[Verdict]) -> Scale | None:
    """Return the scale on which all verdicts of a rule are drawn; None where no number exists."""
    marks = [x for v in verdicts for x in _marks(v)]
    if not marks:
        return None
    low, high = min(marks), max(marks)
    ends = [x for v in verdicts for x in (v.low, v.high) if _exists(v.value) and _exists(x)]
    widths = [v.high - v.low for v in verdicts if _exists(v.value) and _exists(v.low) and _exists(v.high)]
    reach = _STRETCH * max(high - low, median(widths) if widths else 0.0)
    return Scale(
        min([low, *(x for x in ends if x >= low - reach)]), max([high, *(x for x in ends if x <= high + reach)])
    )


def bar(verdict: Verdict, on: Scale) -> Bar:
    """Return the marks of a verdict on a scale."""
    drawn = _exists(verdict.value)
    ends = (verdict.low, verdict.high)
    open_low, open_high = (drawn and not (_exists(x) and on.low <= x <= on.high) for x in ends)
    low = 0.0 if open_low else _at(on, verdict.low)
    high = float(WIDTH) if open_high else _at(on, verdict.high)
    twin, baseline = _references(verdict)
    return Bar(
        low=low if drawn else None,
        high=high if drawn else None,
        open_low=open_low,
        open_high=open_high,
        value=_at(on, verdict.value),
        bound=_at(on, verdict.bound),
        twin=_at(on, twin),
        baseline=_at(on, baseline),
        allowed=_allowed(verdict, on),
        title=f"{as_measured(verdict)} {interval(verdict)}",
        desc="; ".join(_told(verdict)),
    )


def _exists(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _at(on: Scale, value: float | None) -> float | None:
    return on.at(value) if _exists(value) else None


def _marks(verdict: Verdict) -> Iterable[float]:
    values = (verdict.value, verdict.bound, *_references(verdict))
    return (x for x in values if _exists(x))


def _references(verdict: Verdict) -> tuple[float | None, float | None]:
    """Where the null twin and the baseline are; 0 where the value is a difference to them."""
    twin = 0.0 if verdict.side == "min_excess" else verdict.null
    baseline = 0.0 if verdict.side == "max_regression" else verdict.baseline
    return twin, baseline


def _allowed(verdict: Verdict, on: Scale) -> tuple[float, float] | None:
    edge = _at(on, verdict.bound)
    if edge is None or not verdict.side:
        return None
    return (edge, WIDTH - edge) if verdict.side.startswith("min") else (0.0, edge)


def _told(verdict: Verdict) -> Iterator[str]:
    if verdict.side:
        yield f"bound {bound(verdict)}"
    if verdict.null is not None:
        yield f"null twin {number(verdict.null)}"
    if verdict.baseline is not None:
        yield f"baseline {number(verdict.baseline)}"
