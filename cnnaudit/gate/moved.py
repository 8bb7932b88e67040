"""How far the mean of a site's units moved between two audits of the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from scipy import special

from cnnaudit.intervals import Normal
from cnnaudit.intervals.base import jackknife_error

if TYPE_CHECKING:
    from cnnaudit.result import SiteMean

__all__ = ["Moved", "Reading", "moved"]

Reading: TypeAlias = "tuple[SiteMean, float]"  # a mean, and the confidence of its interval


@dataclass(frozen=True)
class Moved:
    """A difference of two means.

    Attributes:
        value: How much larger the second one is; NaN where either has no value.
        below, above: Its standard errors towards lower and towards higher values; infinite where nothing tells them.
        dof: Degrees of freedom of Student's t; infinite for the normal limit.
        how: ``exact``, ``paired`` (by groups of the same images) or ``unpaired`` (from the two intervals).
    """

    value: float
    below: float
    above: float
    dof: float
    how: str

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the two-sided interval."""
        return self._law(self.below).interval(confidence)[0].item(), self._law(self.above).interval(confidence)[
            1
        ].item()

    def p_above(self, bound: float) -> float:
        """Return the p-value of "truth > bound": small where the truth is surely not above."""
        return float(self._law(self.above).p_above(bound)[0])

    def p_at_most(self, bound: float) -> float:
        """Return the p-value of "truth <= bound": small where the truth is surely above."""
        return float(self._law(self.below).p_at_most(bound)[0])

    def _law(self, error: float) -> Normal:
        return Normal(np.array([self.value]), np.array([error]), self.dof)


def moved(first: Reading, second: Reading) -> Moved:
    """Return how much larger the second mean is than the first, both of the same images.

    Two exact means (``low == high``) differ exactly. Where both were told without each of the same groups of images,
    the delete-a-group jackknife of the difference tells its error: what the images do to both networks alike cancels.

    Else the two intervals tell it, as if of independent samples (MOVER: Zou & Donner, Statistics in Medicine 27 (2008),
    "Construction of confidence limits about effect measures"): towards each side the distances from value to end, of
    one interval the upper and of the other the lower, are squared and added. An interval at another level is scaled as
    the normal's, which keeps intervals that are wider on one side so. Errors of two networks on the same images are
    related: where what is hard for one is hard for the other the interval is wider than need be, and it would be too
    narrow only where images that raise the one lower the other.

    Args:
        first: A mean, and the confidence of its interval.
        second: Another one.
    """
    (old, _), (new, _) = first, second
    value = new.value - old.value
    if old.low == old.high == old.value and new.low == new.high == new.value:
        return Moved(value, 0.0, 0.0, math.inf, "exact")
    sizes = [n for n, _ in new.groups]
    if sizes and sizes == [n for n, _ in old.groups]:
        without = [[b - a] for (_, a), (_, b) in zip(old.groups, new.groups, strict=True)]
        (error,), dof = jackknife_error(np.array([value]), np.array(without), np.array(sizes, dtype=float))
        return Moved(value, _known(error), _known(error), dof, "paired")
    (old_below, old_above), (new_below, new_above) = _errors(*first), _errors(*second)
    return Moved(value, math.hypot(new_below, old_above), math.hypot(new_above, old_below), math.inf, "unpaired")


def _errors(mean: SiteMean, confidence: float) -> tuple[float, float]:
    """Standard errors towards both sides, as a normal's interval tells them."""
    z = float(special.ndtri((1 + confidence) / 2))
    return _known((mean.value - mean.low) / z), _known((mean.high - mean.value) / z)


def _known(error: float) -> float:
    return math.inf if math.isnan(error) else max(0.0, float(error))
