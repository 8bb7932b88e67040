"""Delete-a-group jackknife."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from cnnaudit.intervals.base import Restated, jackknife_error
from cnnaudit.intervals.normal import Normal
from cnnaudit.intervals.shifted import Shifted
from cnnaudit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnaudit.intervals.base import Array

__all__ = ["Debiased", "Jackknife"]


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


@dataclass(frozen=True)
class Debiased(Restated):
    """Delete-a-group jackknife that also takes its estimate of the bias off the value.

    A bias of order 1 / images shows as the difference that leaving groups out makes: with G groups the value becomes
    G t - sum (1 - n_g / n) t_g (Quenouille, Biometrika 43 (1956); for unequal groups Busing, Meijer & van der Leeden,
    Statistics and Computing 9 (1999)). A correction is itself uncertain, so the interval reaches from one error below
    the lower of the plain and the corrected value to one above the higher.

    Attributes:
        plain: Estimates from all groups, shape (m,).
        replicates, sizes, limits: See :class:`Jackknife`.
    """

    plain: Array
    replicates: Array
    sizes: Array
    limits: tuple[float, float] = (-math.inf, math.inf)

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        groups = len(self.sizes)
        if groups < 2:
            return self.plain
        share = 1 - self.sizes / self.sizes.sum()
        corrected = groups * self.plain - (share[:, None] * self.replicates).sum(axis=0)
        clipped: Array = np.clip(corrected, *self.limits)
        return clipped

    @property
    def claim(self) -> Shifted:
        """Student's t below the lower and above the higher of both values."""
        value = self.value
        error, dof = jackknife_error(self.plain, self.replicates, self.sizes)
        return Shifted(np.maximum(value, self.plain), error, dof, self.limits, floor=np.minimum(value, self.plain))

    def mean(self) -> Debiased:
        rest = self.replicates.reshape(-1, len(self.plain)).mean(axis=1, keepdims=True)
        return replace(self, plain=np.atleast_1d(self.plain.mean()), replicates=rest)

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Debiased:  # noqa: ARG002
        return self  # its groups are groups of sources already
