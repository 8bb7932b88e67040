"""Histograms of quantised values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.grid import edges, integer_grid, quantise
from cnnaudit.statistics.sampling import gather, sample_positions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["LevelHistogram"]


class LevelHistogram(Statistic):
    """How often each kernel's quantised value takes each level, over images and sampled positions.

    The grid is equiprobable on the calibration images with a level of its own for exact zeros, or the integers
    themselves. Every position is drawn with equal probability, so the counts are those of the value at a position that
    is drawn at random.

    Tally (per group): ``levels``, int32 of shape (groups, kernels, levels).
    """

    options: ClassVar[Mapping[str, Any]] = {"levels": 8, "positions": 32}
    calibrates = 64

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        return groups * len(probe.units) * int(probe.option("levels")) * 4

    def read(self, view: View) -> Reading:
        x = view.tensors[self.probe.taps[0]]
        maps = x[..., None] if x.dim() == 2 else x
        wanted = int(self.probe.option("positions"))
        index = sample_positions(view.images, self.probe.site.path, view.seed, maps[0, 0].numel(), wanted)
        return {"values": gather(maps, index)}

    def calibrate(self, readings: Sequence[Reading]) -> None:
        sample = torch.cat([reading["values"].flatten(0, 1) for reading in readings])
        levels = int(self.probe.option("levels"))
        grid = edges(sample, levels) if sample.is_floating_point() else integer_grid(sample.shape[1], levels)
        self.calibration["edges"] = grid.to(sample.device)

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        code = quantise(reading["values"], self.calibration["edges"]).transpose(1, 2)
        kernels, levels = code.shape[1], int(self.probe.option("levels"))
        tally = self._counter("levels", code, (kernels, levels), torch.int32)
        start = groups[:, None] * kernels + torch.arange(kernels, device=code.device)
        place = (start[:, :, None] * levels + code).reshape(-1)
        tally.view(-1).scatter_add_(0, place, torch.ones_like(place, dtype=torch.int32))

    @property
    def counts(self) -> Tensor:
        """Pooled counts, int64 of shape (kernels, levels)."""
        return self.tally["levels"].sum(0)

    @property
    def positions(self) -> int:
        """Positions of a map."""
        site = self.probe.site
        return site.taps[site.tap(self.probe.taps[0])].positions
