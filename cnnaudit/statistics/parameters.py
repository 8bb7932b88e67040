"""Parameters of a layer: what is known without an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.errors import EvidenceError
from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["Parameters"]

_COUNTERS = ("images", "sources", "nonfinite")


class Parameters(Statistic):
    """A layer's parameters themselves, float64, for metrics that need no data.

    Tally: each tensor by its name; the counters are 0, but for ``nonfinite`` of the tensors with NaN or Inf.
    """

    most_groups = 1

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        return 0  # the network holds them already

    @classmethod
    def of(cls, probe: Probe, tensors: Mapping[str, Tensor]) -> Parameters:
        """Return the statistic of a probe whose taps are the names of parameters."""
        held = cls(probe, 1)
        held.tally = {name: tensors[name].detach().double() for name in probe.taps}
        broken = sum(not bool(x.isfinite().all()) for x in held.tally.values())
        device = next(iter(held.tally.values())).device
        counters = zip(_COUNTERS, (0, 0, broken), strict=True)
        held.tally |= {name: torch.tensor([count], device=device) for name, count in counters}
        return held

    def read(self, view: View) -> Reading:
        raise NotImplementedError("parameters are not read from images")

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        raise NotImplementedError("parameters are not read from images")

    def combined(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not all(torch.equal(a[name], b[name]) for name in a):
            raise EvidenceError(
                f"cannot merge at {self.probe.site.path}: the parameters differ; merge parts of one audit only"
            )
        return dict(a)

    def pooled(self, without: int | None = None) -> Parameters:
        return self

    def __getitem__(self, name: str) -> Tensor:
        """Return a parameter, float64 of its own shape."""
        return self.tally[name]
