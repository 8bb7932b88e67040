"""What values a gate takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.grid import quantise
from cnnaudit.statistics.sampling import gather, sample_positions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["GateValues"]

_MOMENTS = 9


class GateValues(Statistic):
    """Moments and a histogram of each channel of a gate, over images and sampled positions.

    The grid has 17 bins for all channels, whose centres are the multiples of 1 / 16: of [0, 1] where the first images
    hold no value beyond, else of the range that these have; the two at the ends are half as wide and take what lies
    beyond. A gate that is broadcast over the channels is one channel.

    Tally (per group): ``levels``, int32 of shape (groups, channels, 17); ``moments``, float64 of shape
    (groups, 9, channels): sums over images of s, q, s**2, s * q and q**2, s being the mean and q the mean square of the
    values at the sampled positions, and of the first four powers of the mean over the whole map; ``beyond``, int64 of
    shape (groups, channels): images with a value outside of [0, 1].
    """

    options: ClassVar[Mapping[str, Any]] = {"positions": 16}

    bins: ClassVar[int] = 17
    calibrates = 64
    together = 16

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        return groups * probe.site.taps[probe.taps[0]].shape[0] * (cls.bins * 4 + (_MOMENTS + 1) * 8)

    def read(self, view: View) -> Reading:
        name = self.probe.taps[0]
        x = view.tensors[name]
        maps = x[..., None] if x.dim() == 2 else x
        wanted = int(self.probe.option("positions"))
        index = sample_positions(view.images, self.probe.site.path, view.seed, maps[0, 0].numel(), wanted)
        return {"values": gather(maps, index), "response": view.mean(name)}

    def calibrate(self, readings: Sequence[Reading]) -> None:
        # NaN would not equal itself where parts merge.
        sample = torch.cat([reading["values"].flatten() for reading in readings]).double().nan_to_num(0.0, 0.0, 0.0)
        low, high = sample.aminmax()
        if low >= 0 and high <= 1:
            low, high = torch.zeros_like(low), torch.ones_like(high)
        # A gate rests at 0, at 1 or, where its weights are 0, halfway: none of these may lie on an edge.
        inner = (torch.arange(self.bins - 1, dtype=torch.float64, device=sample.device) + 0.5) / (self.bins - 1)
        self.calibration["edges"] = low + (high - low) * inner

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        x, mean = reading["values"].double(), reading["response"].double()
        s, q = x.mean(1), x.square().mean(1)
        products = torch.stack([s, q, s * s, s * q, q * q, *(mean**power for power in range(1, 5))], 1)
        self._sum_up("moments", products, groups)
        self._sum_up("beyond", ((x < 0) | (x > 1)).any(1).long(), groups)
        channels = x.shape[2]
        code = quantise(x, self.calibration["edges"].expand(channels, -1)).transpose(1, 2)
        tally = self._counter("levels", code, (channels, self.bins), torch.int32)
        start = groups[:, None] * channels + torch.arange(channels, device=code.device)
        place = (start[:, :, None] * self.bins + code).reshape(-1)
        tally.view(-1).scatter_add_(0, place, torch.ones_like(place, dtype=torch.int32))

    @property
    def counts(self) -> Tensor:
        """Pooled counts, int64 of shape (channels, 17)."""
        return self.tally["levels"].sum(0)

    @property
    def moments(self) -> Tensor:
        """Pooled sums, float64 of shape (9, channels)."""
        return self.tally["moments"].sum(0)

    @property
    def bounded(self) -> bool:
        """Whether no value outside of [0, 1] was met."""
        return not bool(self.tally["beyond"].any())
