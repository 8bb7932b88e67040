"""Responses counted by class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

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

    Tally: ``counts``, int32 of shape (kernels, classes, bins), not grouped: one number an image needs none.
    """

    options: ClassVar[Mapping[str, Any]] = {"bins": 8}
    calibrates = 256
    together = 16
    sampled_kernels = True
    ungrouped = frozenset({"counts"})

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:  # noqa: ARG003
        return len(probe.units) * classes * int(probe.option("bins")) * 4

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

    def add(self, reading: Reading, groups: tuple[int, ...]) -> None:  # noqa: ARG002
        response, labels = reading["response"], reading["labels"]
        bins = int(self.probe.option("bins"))
        kernels = response.shape[1]
        counts = self._grown(kernels, int(labels.max()) + 1, bins, response)
        cell = labels[:, None] * bins + quantise(response, self.calibration["edges"])
        ones = torch.ones_like(cell.T, dtype=torch.int32)
        counts.view(kernels, -1).scatter_add_(1, cell.T.contiguous(), ones)

    def combined(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        classes = max(part["counts"].shape[1] for part in (a, b))
        return super().combined(*(dict(part) | {"counts": _widened(part["counts"], classes)} for part in (a, b)))

    def _grown(self, kernels: int, classes: int, bins: int, like: Tensor) -> Tensor:
        """Return the counts, widened when a class is met that is larger than all before."""
        counts = self.tally.get("counts")
        if counts is None:
            counts = torch.zeros(kernels, 0, bins, dtype=torch.int32, device=like.device)
        if counts.shape[1] < classes:
            self.tally["counts"] = counts = _widened(counts, classes)
        return counts

    @property
    def counts(self) -> Tensor:
        """Counts, int32 of shape (kernels, classes, bins)."""
        return self.tally["counts"]


def _widened(counts: Tensor, classes: int) -> Tensor:
    """Counts with room for more classes."""
    return torch.nn.functional.pad(counts, (0, 0, 0, classes - counts.shape[1]))


def _response(view: View, tap: str) -> Tensor:
    """Mean over the map; integers that are one number an image already stay integers."""
    x = view.tensors[tap]
    if x.dim() == 2:
        return x
    if not x.is_floating_point() and x[0, 0].numel() == 1:
        return x.flatten(1)
    return view.mean(tap)
