"""Second moments of two maps that are added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.sampling import gather, sample_positions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["PairMoments"]


class PairMoments(Statistic):
    """Means and co-moments of skip s and branch f for each channel, over images and sampled positions.

    Kept in the centred form of Chan, Golub & LeVeque (1979), so that a large offset costs no digits.

    Tally (per group, float64): ``rows`` of shape (groups, 1); ``mean_s``, ``mean_f`` and the sums of centred
    products ``ss``, ``ff``, ``sf``, all of shape (groups, channels).
    """

    options: ClassVar[Mapping[str, Any]] = {"positions": 64}

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:  # noqa: ARG003
        return groups * (probe.site.units * 5 + 1) * 8

    def read(self, view: View) -> Reading:
        s, f = (view.tensors[tap] for tap in self.probe.taps)
        s, f = (x[..., None] if x.dim() == 2 else x for x in (s, f))
        positions = s[0, 0].numel()
        wanted = int(self.probe.option("positions"))
        index = sample_positions(view.images, self.probe.site.path, view.seed, positions, wanted)
        return {"s": gather(s, index), "f": gather(f, index)}

    def add(self, reading: Reading, groups: tuple[int, ...]) -> None:
        (group,) = groups
        s, f = (reading[name].flatten(0, 1).double() for name in ("s", "f"))
        mean_s, mean_f = s.mean(0), f.mean(0)
        s, f = s - mean_s, f - mean_f
        rows = torch.full((1,), float(len(s)), dtype=torch.float64, device=s.device)
        block = {"rows": rows, "mean_s": mean_s, "mean_f": mean_f}
        block |= {"ss": (s * s).sum(0), "ff": (f * f).sum(0), "sf": (s * f).sum(0)}
        held = {name: self._counter(name, s, tuple(part.shape), torch.float64)[group] for name, part in block.items()}
        for name, part in _combine(held, block).items():
            held[name].copy_(part)

    def combined(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: a[name] + b[name] for name in ("images", "nonfinite")} | _combine(a, b)

    def pooled(self, without: int | None = None) -> Self:
        part = {name: x[[g for g in range(self.groups) if g != without]] for name, x in self.tally.items()}
        rows = part["rows"].sum(0)
        tally = {"rows": rows[None]} | {n: part[n].sum(0, keepdim=True) for n in ("images", "nonfinite")}
        centred = {}
        for name in ("mean_s", "mean_f"):
            mean = (part["rows"] * part[name]).sum(0) / rows
            centred[name] = part[name] - mean
            tally[name] = mean[None]
        for name, a, b in (("ss", "mean_s", "mean_s"), ("ff", "mean_f", "mean_f"), ("sf", "mean_s", "mean_f")):
            between = (part["rows"] * centred[a] * centred[b]).sum(0)
            tally[name] = (part[name].sum(0) + between)[None]
        return self._as_one(tally)

    def _less(self, pooled: Self, group: int) -> Self:  # noqa: ARG002 - means are not taken out again without loss
        return self.pooled(without=group)


def _combine(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pairwise update of means and centred products."""
    rows = a["rows"] + b["rows"]
    safe = rows.clamp(min=1)
    delta_s, delta_f = b["mean_s"] - a["mean_s"], b["mean_f"] - a["mean_f"]
    weight = a["rows"] * b["rows"] / safe
    return {
        "rows": rows,
        "mean_s": a["mean_s"] + delta_s * (b["rows"] / safe),
        "mean_f": a["mean_f"] + delta_f * (b["rows"] / safe),
        "ss": a["ss"] + b["ss"] + delta_s * delta_s * weight,
        "ff": a["ff"] + b["ff"] + delta_f * delta_f * weight,
        "sf": a["sf"] + b["sf"] + delta_s * delta_f * weight,
    }
