"""Delete-a-group jackknife."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from cnnaudit.intervals.base import Restated, jackknife_error
from cnnaudit.intervals.normal import Normal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnaudit.intervals.base import Array

__all__ = ["Jackknife"]


@dataclass(frozen=True)
class Jackknife(Restated):
    """Delete-a-group jackknife with groups of unequal size; :func:`jackknife_error` says which.

    Attributes:
        value: Estimates from all groups, shape (m,).
        replicates: Estimates with one group left out, shape (groups, m); none where there is only one group.
        sizes: Number of images in each group, shape (groups,).
        limits: Range that the quantity cannot leave; intervals are cut there.
    """

    value: Array
    replicates: Array
    sizes: Array
    limits: tuple[float, float] = (-math.inf, math.inf)

    @property
    def claim(self) -> Normal:
        """Student's t about ``value`` with the jackknife's standard error."""
        return Normal(self.value, *jackknife_error(self.value, self.replicates, self.sizes), self.limits)

    def mean(self) -> Jackknife:
        rest = self.replicates.reshape(-1, len(self.value)).mean(axis=1, keepdims=True)
        return replace(self, value=np.atleast_1d(self.value.mean()), replicates=rest)

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Jackknife:  # noqa: ARG002
        return self  # its groups are groups of sources already
