"""Kernels as detectors of classes: ranks and AUROC from counts of images by class and level of the response."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cnnaudit.intervals import Array, BoundedMean, delong
from cnnaudit.lazy import np, torch
from cnnaudit.statistics import halved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from cnnaudit.statistics import ClassResponses

__all__ = ["Auroc", "Table", "areas", "auroc", "tables"]

_CELLS = 2**22


class Table(NamedTuple):
    """What was counted of a few kernels.

    Attributes:
        halves: Images of each half, kernel, class and level, float64 of shape (2, kernels, classes, levels).
        atoms: Levels in which ties are ties, bool of shape (kernels, levels).
        centres: Mean response in each level, float64 of shape (kernels, levels).
    """

    halves: Tensor
    atoms: Tensor
    centres: Tensor


def tables(responses: ClassResponses) -> Iterator[Table]:
    """Yield all kernels, a few at a time: the tables of a whole layer can take gigabytes in double precision."""
    counts = responses.counts
    step = max(1, _CELLS // counts[0].numel())
    parts = (torch.split(x, step) for x in (counts, responses.atoms, responses.centres))
    for few, atoms, centres in zip(*parts, strict=True):
        yield Table(halved(few.double(), 1), atoms, centres)


def areas(classes: Tensor, everyone: Tensor) -> Tensor:
    """Return the AUROC of every kernel for every class, from the ranks among all images (Mann and Whitney's U).

    Args:
        classes: Images, float64 of shape (parts, kernels, classes, levels).
        everyone: Those of all classes, also of such as are left out, shape (parts, kernels, levels).

    Returns:
        Shape (parts, kernels, classes).
    """
    n = classes.sum(-1)
    rank = everyone.cumsum(-1) - everyone / 2
    u = torch.einsum("hkcb,hkb->hkc", classes, rank) - n**2 / 2
    area: Tensor = u / (n * (everyone.sum(-1, keepdim=True) - n))
    return area


class Auroc(NamedTuple):
    """An AUROC of every unit, shape (units,).

    Attributes:
        value, error, units: See BoundedMean.
        bracket: How far ties within levels may move the value.
        positives: Sources of the class.
    """

    value: Array
    error: Array
    units: Array
    bracket: Array
    positives: Array

    @classmethod
    def undefined(cls, units: int) -> Auroc:
        """Return what is known where no class can be chosen."""
        nothing = np.full(units, np.nan)
        return cls(nothing, nothing, np.ones(units), nothing, np.zeros(units))

    def moved(self, side: int) -> BoundedMean:
        """Return the claim on the values themselves at one end of what ties allow."""
        value = np.clip(self.value + side * self.bracket, 0, 1)
        return BoundedMean(value, self.error, self.units.astype(np.int64))


def auroc(positive: Tensor, everyone: Tensor, atoms: Tensor, samples: Tensor, sources: Tensor) -> Auroc:
    """Return the mean AUROC over parts of the images.

    Args:
        positive: Images of each unit's class, float64 of shape (parts, units, levels).
        everyone: Those of all classes, of the same shape.
        atoms: Levels in which ties are ties, bool of a shape that broadcasts.
        samples: Sources of the class, float64 of shape (parts, units).
        sources: Sources of all classes, of a shape that broadcasts.
    """
    negative = everyone - positive
    ties = (positive * negative * ~atoms).sum(-1) / (positive.sum(-1) * negative.sum(-1)) / 2
    parts = delong(positive.cpu().numpy(), negative.cpu().numpy())
    smaller = torch.minimum(samples, sources - samples).clamp(min=1)
    units, bracket, positives = (x.cpu().numpy() for x in (smaller.sum(0), ties.mean(0), samples.sum(0)))
    error = np.sqrt((parts.error**2).sum(0)) / len(positive)
    return Auroc(parts.value.mean(0), error, units, bracket, positives)
