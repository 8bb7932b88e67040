"""Second moments of two maps that are added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from cnnaudit.lazy import torch
from cnnaudit.statistics.comoments import CoMoments
from cnnaudit.statistics.sampling import gather, sample_positions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from cnnaudit.statistics.base import Probe, Reading, View

__all__ = ["PairMoments"]


class PairMoments(CoMoments):
    """Means and co-moments of skip s and branch f for each channel, over images and sampled positions.

    Tally (per group, float64): ``rows`` of shape (groups, 1); ``mean_s``, ``mean_f`` and the sums of centred
    products ``ss``, ``ff``, ``sf``, all of shape (groups, channels); of shape (groups, 1) ``directed``, the number of
    positions where neither is zero in all channels, and ``cosine``, the sum over these of the cosine between the two
    as vectors of channels.
    """

    options: ClassVar[Mapping[str, Any]] = {"positions": 64}

    together = 16
    products: ClassVar[Mapping[str, tuple[str, str]]] = {
        "ss": ("mean_s", "mean_s"),
        "ff": ("mean_f", "mean_f"),
        "sf": ("mean_s", "mean_f"),
    }

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        return groups * (probe.site.units * 5 + 3) * 8

    def read(self, view: View) -> Reading:
        s, f = (view.tensors[tap] for tap in self.probe.taps)
        s, f = (x[..., None] if x.dim() == 2 else x for x in (s, f))
        positions = s[0, 0].numel()
        wanted = int(self.probe.option("positions"))
        index = sample_positions(view.images, self.probe.site.path, view.seed, positions, wanted)
        s, f = (gather(x, index).double() for x in (s, f))
        rows = torch.full((len(s), 1), float(s.shape[1]), dtype=torch.float64, device=s.device)
        directions = _directions(s, f)
        mean_s, mean_f = s.mean(1), f.mean(1)
        s, f = s - mean_s[:, None], f - mean_f[:, None]
        products = {"ss": (s * s).sum(1), "ff": (f * f).sum(1), "sf": (s * f).sum(1)}
        return {"rows": rows, "mean_s": mean_s, "mean_f": mean_f} | products | directions


def _directions(s: Tensor, f: Tensor) -> dict[str, Tensor]:
    """Sum over positions of the cosine of two vectors of channels, and the number of positions that have one."""
    power = (s * s).sum(2) * (f * f).sum(2)
    directed = power > 0
    cosine = torch.where(directed, (s * f).sum(2) / power.sqrt(), 0.0).clamp(-1, 1)
    return {"directed": directed.sum(1, keepdim=True).double(), "cosine": cosine.sum(1, keepdim=True)}
