"""Moments of responses over images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View

if TYPE_CHECKING:
    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["ResponseMoments"]


class ResponseMoments(Statistic):
    """Sums over images of the first four powers of the kernel's mean response over the map.

    They are not centred, which is exact enough for responses of one sign.

    Tally: ``moments``, float64 of shape (4, kernels), or (groups, 4, kernels) where several images come from one
    source.
    """

    together = 16
    pooled_counts = frozenset({"moments"})

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        return (groups if probe.clustered else 1) * 4 * len(probe.units) * 8

    def read(self, view: View) -> Reading:
        return {"response": view.mean(self.probe.taps[0])}

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        x = reading["response"].double()
        powers = torch.stack([x, x**2, x**3, x**4], 1)
        if self.probe.clustered:
            self._sum_up("moments", powers, groups)
        else:
            self._counter("moments", powers, tuple(powers.shape[1:]), torch.float64).add_(powers.sum(0))

    @property
    def moments(self) -> Tensor:
        """Sums of the first four powers over all images, float64 of shape (4, kernels)."""
        moments = self.tally["moments"]
        return moments.sum(0) if self.probe.clustered else moments
