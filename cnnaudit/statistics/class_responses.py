"""Responses counted finely by class, in two halves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from cnnaudit.lazy import torch
from cnnaudit.statistics.class_moments import split
from cnnaudit.statistics.classes import ClassHistogram
from cnnaudit.statistics.grid import quantise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cnnaudit.statistics.base import Probe, Reading

__all__ = ["ClassResponses"]


class ClassResponses(ClassHistogram):
    """Counts of images by kernel, class, half of the sources and level of the kernel's mean response over the map.

    The grid is that of :class:`ClassHistogram`, but fine enough to rank images by their response.

    Tally: ``counts``, int32 of shape (kernels, 2 * classes, bins); row 2 c + h is class c in half h. Where several
    images come from one source it is (groups, kernels, 2 * classes, bins).
    """

    options: ClassVar[Mapping[str, Any]] = {"bins": 256}

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        return super().size(probe, groups, 2 * classes)

    def calibrate(self, readings: Sequence[Reading]) -> None:
        super().calibrate(readings)
        edges = self.calibration["edges"]
        kernels, levels = edges.shape[0], edges.shape[1] + 1
        if readings[0]["response"].is_floating_point():
            tiny = torch.full((kernels,), torch.finfo(torch.float64).tiny, dtype=torch.float64, device=edges.device)
            zero, above = quantise(0 * tiny, edges), quantise(tiny, edges)
            atoms = torch.nn.functional.one_hot(zero, levels).bool() & (above > zero)[:, None]
        else:
            atoms = torch.ones(kernels, levels, dtype=torch.bool, device=edges.device)
        self.calibration["atoms"] = atoms

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        super().add(reading | {"labels": split(reading["labels"], groups)}, groups, first)

    def _design_effect(self) -> Tensor:
        return torch.ones(len(self.atoms), dtype=torch.float64, device=self.atoms.device)  # of no use for ranks

    @property
    def atoms(self) -> Tensor:
        """Levels in which all values are the same, bool of shape (kernels, bins)."""
        return self.calibration["atoms"]
