"""Responses counted by class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.grid import edges, integer_grid, quantise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["ClassHistogram"]


class ClassHistogram(Statistic):
    """Counts of images by kernel, class and level of the kernel's mean response over the map.

    The grid is equiprobable on the calibration images, with a level of its own for exact zeros.

    Tally: ``counts``, int32 of shape (kernels, classes, bins), not grouped: one number an image needs none. Where
    several images come from one source it is (groups, kernels, classes, bins).
    """

    options: ClassVar[Mapping[str, Any]] = {"bins": 8}
    calibrates = 256
    together = 16
    sampled_kernels = True
    pooled_counts = frozenset({"counts"})

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        return (groups if probe.clustered else 1) * len(probe.units) * classes * int(probe.option("bins")) * 4

    def read(self, view: View) -> Reading:
        if view.labels is None:
            raise ValueError("a class histogram needs labels; the plan checks that before a batch is read")
        response = _response(view, self.probe.taps[0])
        if self.probe.kernels is not None:
            response = response[:, list(self.probe.kernels)]
        return {"response": response, "labels": view.labels}

    def calibrate(self, readings: Sequence[Reading]) -> None:
        sample = torch.cat([r["response"] for r in readings])
        bins = int(self.probe.option("bins"))
        if sample.is_floating_point():
            self.calibration["edges"] = edges(sample, bins)
        else:
            self.calibration["edges"] = integer_grid(sample.shape[1], bins).to(sample.device)

    @property
    def ungrouped(self) -> frozenset[str]:
        return super().ungrouped | {"design_effect"}

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        response, labels = reading["response"], reading["labels"]
        kernels, bins = response.shape[1], int(self.probe.option("bins"))
        counts = self._grown(kernels, int(labels.max()) + 1, bins, response)
        cell = labels[:, None] * bins + quantise(response, self.calibration["edges"])
        place = torch.arange(kernels, device=cell.device) * (counts.shape[-2] * bins) + cell
        if self.probe.clustered:
            place = place + groups[:, None] * counts[0].numel()
        ones = torch.ones(place.numel(), dtype=torch.int32, device=place.device)
        counts.view(-1).scatter_add_(0, place.T.reshape(-1), ones)

    def combined(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        classes = max(part["counts"].shape[-2] for part in (a, b))
        return super().combined(*(dict(part) | {"counts": _widened(part["counts"], classes)} for part in (a, b)))

    def pooled(self, without: int | None = None) -> Self:
        one = super().pooled(without)
        if self.probe.clustered and "design_effect" not in one.tally:
            one.tally["design_effect"] = self._design_effect()
        return one

    def _grown(self, kernels: int, classes: int, bins: int, like: Tensor) -> Tensor:
        """Return the counts, widened when a class is met that is larger than all before."""
        counts = self._counter("counts", like, (kernels, 0, bins), torch.int32)
        if counts.shape[-2] < classes:
            self.tally["counts"] = counts = _widened(counts, classes)
        return counts

    def _design_effect(self) -> Tensor:
        """How many images count for one where images of a source resemble each other, float64 of shape (kernels,).

        The variance of the cells' shares between groups over the one that independent images would have, both
        summed over cells (first-order correction of Rao & Scott, JASA 76, 1981).
        """
        sizes = self.images.double()
        groups, n = int((sizes > 0).sum()), sizes.sum()
        effects = []
        for kernel in self.tally["counts"].unbind(1):
            counts = kernel.double().flatten(1)
            share = counts.sum(0) / n
            between = (counts - sizes[:, None] * share).square().sum() * groups / max(groups - 1, 1)
            effects.append(between / (n * (share * (1 - share)).sum()).clamp(min=1e-300))
        return torch.stack(effects).clamp(min=1)

    @property
    def counts(self) -> Tensor:
        """Counts, int32 of shape (kernels, classes, bins)."""
        counts = self.tally["counts"]
        return counts.sum(0, dtype=counts.dtype) if self.probe.clustered else counts

    @property
    def design_effect(self) -> Tensor:
        """Images of the pooled statistic that count for one, float64 of shape (kernels,): 1 where none is related."""
        counts = self.tally["counts"]
        return self.tally.get("design_effect", torch.ones(len(counts), dtype=torch.float64, device=counts.device))


def _widened(counts: Tensor, classes: int) -> Tensor:
    """Counts with room for more classes."""
    return torch.nn.functional.pad(counts, (0, 0, 0, classes - counts.shape[-2]))


def _response(view: View, tap: str) -> Tensor:
    """Mean over the map; integers that are one number an image already stay integers."""
    x = view.tensors[tap]
    if x.dim() == 2:
        return x
    if not x.is_floating_point() and x[0, 0].numel() == 1:
        return x.flatten(1)
    return view.mean(tap)
