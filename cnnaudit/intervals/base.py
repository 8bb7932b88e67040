"""What every uncertain quantity can say of itself, and the delete-a-group jackknife that gives errors by source."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Self, TypeAlias

from cnnaudit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cnnaudit.intervals.exact import Exact

__all__ = ["Array", "Restated", "Uncertain", "effective_units", "jackknife_error"]

Array: TypeAlias = "NDArray[np.float64]"


class Uncertain(ABC):
    """Estimates of ``m`` units; NaN marks a unit whose value is undefined.

    Attributes:
        value: Estimates, shape (m,).
        limits: Range that the truth cannot leave.
        by_groups: True where only groups of images tell the error, so that ``regrouped`` is asked for it even where
            every image is a source of its own.
        by_deletion: True where leaving groups of images out tells the error; not where images also teach a probe.
    """

    by_groups: ClassVar[bool] = False
    by_deletion: ClassVar[bool] = True

    value: Array
    limits: tuple[float, float] = (-math.inf, math.inf)

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
        return self.p_at_most(bound) if bound > self.limits[0] else self._impossible()

    def p_above(self, bound: float) -> Array:
        """Return p-values of "truth > bound", shape (m,): small where the truth is surely not above."""
        return self.p_at_least(bound) if bound < self.limits[1] else self._impossible()

    def _impossible(self) -> Array:
        return np.where(np.isnan(self.value), 1.0, 0.0)

    @abstractmethod
    def mean(self) -> Uncertain:
        """Return the mean over the units as one uncertain quantity."""

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Uncertain:
        """Return the same claim with the error that whole sources (patients, videos) tell.

        Images of one source resemble each other, so an error from pooled images is too small. The delete-a-group
        jackknife of the value replaces it, with Student's t (:func:`jackknife_error`).

        Args:
            parts: The same quantity with one group of sources left out, for each of the G groups; none where G = 1.
            sizes: Number of images in each group, shape (G,).
            units: Number of sources.

        Raises:
            NotImplementedError: This kind of quantity cannot be told by sources.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be told by sources")

    def on_dataset(self) -> Exact:
        """Return the claim about the images that were read, which sampling cannot make wrong."""
        from cnnaudit.intervals.exact import Exact  # noqa: PLC0415 - a kind of what is defined here

        return Exact(self.value)

    def deciding(self, bound: float) -> tuple[Uncertain, float]:
        """Return the quantity whose interval shrinks with more images, and the bound that it must clear."""
        return self, bound


class Restated(Uncertain):
    """A quantity whose interval and p-values are those of another one of the same value."""

    @property
    @abstractmethod
    def claim(self) -> Uncertain:
        """That other quantity."""

    def interval(self, confidence: float) -> tuple[Array, Array]:
        return self.claim.interval(confidence)

    def p_at_most(self, bound: float) -> Array:
        return self.claim.p_at_most(bound)

    def p_at_least(self, bound: float) -> Array:
        return self.claim.p_at_least(bound)

    def p_below(self, bound: float) -> Array:
        return self.claim.p_below(bound)

    def p_above(self, bound: float) -> Array:
        return self.claim.p_above(bound)


def jackknife_error(value: Array, replicates: Array | Sequence[Array], sizes: Array) -> tuple[Array, float]:
    """Return the standard error and the degrees of freedom of the delete-a-group jackknife.

    The jackknife for unequal clusters of survey statistics, JK1: (G - 1) / G times the sum of squared deviations of
    the replicates from their centre (Rust & Rao, Statistical Methods in Medical Research 5 (1996), "Variance
    estimation for complex surveys using replication techniques"), with Student's t of Kish's effective number of
    groups less one, n^2 / sum of sizes^2 - 1. For equal groups that is the classical jackknife with G - 1.

    The delete-m jackknife of Busing, Meijer & van der Leeden (Statistics and Computing 9 (1999)) is for groups of
    independent images, where a large group varies less. A source does not vary less for its many images.

    Args:
        value: Estimates from all groups, shape (m,).
        replicates: Estimates with one group left out, shape (G, m).
        sizes: Number of images in each group, at least one, shape (G,).

    Returns:
        Errors of shape (m,) and the degrees of freedom. An error is NaN where a value or a replicate is not finite,
        and infinite where G = 1, because one group tells none.
    """
    groups = len(sizes)
    if groups < 2:
        return np.full_like(value, math.inf), 1
    share = sizes / sizes.sum()
    with np.errstate(invalid="ignore"):  # what is infinite with or without a group has no error
        # Differences from the value: where every group agrees they are exactly 0, and so is the error.
        moved = np.asarray(replicates) - value
        centre = ((1 - share)[:, None] * moved).sum(axis=0) / (groups - 1)
        variance = ((moved - centre) ** 2).sum(axis=0) * (groups - 1) / groups
    return np.sqrt(variance), float(sizes.sum() ** 2 / (sizes**2).sum() - 1)


def effective_units(units: Array | NDArray[np.int64] | int, sizes: Array, sources: int) -> NDArray[np.int64]:
    """Return how many of some units count where a few sources hold many of the images.

    Kish's effective number of sources, n^2 / sum of m_s^2, is estimated from the sizes of the groups that sources were
    dealt to at random: sum of n_g^2 is on average sum of m_s^2 + (n^2 - sum of m_s^2) / G. It is n where all sources
    are of one size, up to the chance of dealing, which is cut at n.

    Args:
        units: Numbers of sources, or of those that matter.
        sizes: Number of images in each group, shape (G,).
        sources: Number of all sources.
    """
    groups = len(sizes)
    if groups > 1:
        held = ((sizes / sizes.sum()) ** 2).sum()
        alone = max((held - 1 / groups) / (1 - 1 / groups), 1 / sources)
        units = np.minimum(units, sources) / (alone * sources)
    return np.maximum(np.floor(np.minimum(units, sources) + 1e-9), 1).astype(np.int64)
