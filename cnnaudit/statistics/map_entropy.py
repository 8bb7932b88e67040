"""Entropy of the position at which a kernel fires."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.sampling import gather, sample_positions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["MapEntropy"]


class MapEntropy(Statistic):
    """How evenly each kernel's activation is spread over the map, in the images in which it fires.

    At sampled positions, all of them where the map has no more than wanted: e is the entropy of p = A+ / sum A+, s that
    of the softmax of A, standardised by each kernel's mean and deviation on the calibration images and divided by
    ``temperature``. Both are in units of log2(positions); where r of P positions were read they are the entropy of the
    sample plus log2(P / r), as if each stood for P / r equal ones. A kernel fires where any A that was read is above 0.

    Tally: ``entropies``, float64 of shape (5, kernels), or (groups, 5, kernels) where several images come from one
    source: the number of images in which the kernel fires, and over these the sums of e, e**2, s and s**2.
    """

    options: ClassVar[Mapping[str, Any]] = {"temperature": 1.0}
    calibrates = 32
    pooled_counts = frozenset({"entropies"})
    sampled: ClassVar[int] = 64

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        return (groups if probe.clustered else 1) * 5 * len(probe.units) * 8

    def read(self, view: View) -> Reading:
        x = view.tensors[self.probe.taps[0]]
        maps = x[..., None] if x.dim() == 2 else x
        index = sample_positions(view.images, self.probe.site.path, view.seed, maps[0, 0].numel(), self.sampled)
        return {"values": gather(maps, index)}

    def calibrate(self, readings: Sequence[Reading]) -> None:
        values = torch.cat([reading["values"] for reading in readings]).flatten(0, 1).double()
        varied = values.amax(0) > values.amin(0)  # a deviation of equal values may be off 0 by rounding
        deviation = torch.where(varied, values.std(0, correction=0), 0.0)
        self.calibration |= {"mean": values.mean(0), "deviation": deviation}

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        values = reading["values"].double()
        mean, deviation = self.calibration["mean"], self.calibration["deviation"]
        scale = torch.where(deviation > 0, deviation, 1.0) * float(self.probe.option("temperature"))
        active = values.clamp(min=0)
        fires = (active > 0).any(1)
        total = active.sum(1, keepdim=True)
        spread = self._entropy(active / torch.where(total > 0, total, 1.0))
        soft = self._entropy(torch.softmax((values - mean) / scale, 1))
        rows = torch.stack([torch.ones_like(spread), spread, spread**2, soft, soft**2], 1)
        rows = torch.where(fires[:, None], rows, 0.0)
        if self.probe.clustered:
            self._sum_up("entropies", rows, groups)
        else:
            self._counter("entropies", rows, tuple(rows.shape[1:]), torch.float64).add_(rows.sum(0))

    def _entropy(self, p: Tensor) -> Tensor:
        """Entropy of distributions of shape (images, sampled, kernels) in units of log2(positions)."""
        unread = math.log(self.positions / p.shape[1])
        entropy: Tensor = (torch.special.entr(p).sum(1) + unread) / math.log(self.positions)
        # Rounding must not carry a constant map above its limit.
        clipped: Tensor = entropy.clamp(0, 1)
        return clipped

    @property
    def positions(self) -> int:
        """Positions of a map."""
        return self.probe.site.taps[self.probe.taps[0]].positions

    @property
    def entropies(self) -> Tensor:
        """Images in which each kernel fires and the sums over them, float64 of shape (5, kernels)."""
        entropies = self.tally["entropies"]
        return entropies.sum(0) if self.probe.clustered else entropies

    @property
    def scaled(self) -> Tensor:
        """Kernels that varied on the calibration images and so have a scale, bool of shape (kernels,)."""
        return self.calibration["deviation"] > 0
