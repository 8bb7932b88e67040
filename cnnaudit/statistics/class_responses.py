"""Responses counted finely by class, in two halves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from cnnaudit.lazy import torch
from cnnaudit.statistics.class_moments import split
from cnnaudit.statistics.classes import ClassHistogram
from cnnaudit.statistics.grid import centres, quantise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cnnaudit.statistics.base import Probe, Reading

__all__ = ["ClassResponses"]


class ClassResponses(ClassHistogram):
    """Counts of images by kernel, class, half of the sources and level of the kernel's mean response over the map.

    The grid is that of :class:`ClassHistogram`, but fine enough to rank images by their response.

    Tally: ``counts``, int32 of shape (kernels, 2 * classes, bins); row 2 c + h is class c in half h. Where several
    images come from one source it is (groups, kernels, 2 * classes, bins). ``class_sources``, int64 of shape
    (2 * classes,), or (groups, 2 * classes), counts their sources. A source whose images are of several classes counts
    for the class of its first image only; too few is the safe side.
    """

    pooled_counts = frozenset({"counts", "class_sources"})

    options: ClassVar[Mapping[str, Any]] = {"bins": 256}

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        return super().size(probe, groups, 2 * classes) + (groups if probe.clustered else 1) * 2 * classes * 8

    def calibrate(self, readings: Sequence[Reading]) -> None:
        super().calibrate(readings)
        edges = self.calibration["edges"]
        kernels, levels = edges.shape[0], edges.shape[1] + 1
        sample = torch.cat([r["response"] for r in readings])
        if sample.is_floating_point():
            tiny = torch.full((kernels,), torch.finfo(torch.float64).tiny, dtype=torch.float64, device=edges.device)
            zero, above = quantise(0 * tiny, edges), quantise(tiny, edges)
            atoms = torch.nn.functional.one_hot(zero, levels).bool() & (above > zero)[:, None]
            middles = centres(sample, edges)
        else:
            atoms = torch.ones(kernels, levels, dtype=torch.bool, device=edges.device)
            middles = torch.arange(levels, dtype=torch.float64, device=edges.device).repeat(kernels, 1)
        self.calibration |= {"atoms": atoms, "centres": middles}

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        place = split(reading["labels"], groups)
        super().add(reading | {"labels": place}, groups, first)
        sources = self._counter("class_sources", first, (0,))
        if sources.shape[-1] < (rows := self.tally["counts"].shape[-2]):
            self.tally["class_sources"] = sources = _widened(sources, rows)
        if self.probe.clustered:
            place = place + groups * rows
        sources.view(-1).index_add_(0, place, first)

    def combined(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows = max(part["class_sources"].shape[-1] for part in (a, b))
        name = "class_sources"
        return super().combined(*(dict(part) | {name: _widened(part[name], rows)} for part in (a, b)))

    def _design_effect(self) -> Tensor:
        return torch.ones(len(self.atoms), dtype=torch.float64, device=self.atoms.device)  # of no use for ranks

    @property
    def class_sources(self) -> Tensor:
        """Sources of the images of each class and half, int64 of shape (2 * classes,)."""
        sources = self.tally["class_sources"]
        return sources.sum(0) if self.probe.clustered else sources

    @property
    def atoms(self) -> Tensor:
        """Levels in which all values are the same, bool of shape (kernels, bins)."""
        return self.calibration["atoms"]

    @property
    def centres(self) -> Tensor:
        """Mean response of the calibration images in each level, float64 of shape (kernels, bins)."""
        return self.calibration["centres"]


def _widened(sources: Tensor, rows: int) -> Tensor:
    """Counts with room for more classes."""
    return torch.nn.functional.pad(sources, (0, rows - sources.shape[-1]))
