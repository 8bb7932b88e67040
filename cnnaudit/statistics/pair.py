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

_COUNTERS = ("images", "sources", "nonfinite")


class PairMoments(Statistic):
    """Means and co-moments of skip s and branch f for each channel, over images and sampled positions.

    Kept in the centred form of Chan, Golub & LeVeque (1979), so that a large offset costs no digits.

    Tally (per group, float64): ``rows`` of shape (groups, 1); ``mean_s``, ``mean_f`` and the sums of centred
    products ``ss``, ``ff``, ``sf``, all of shape (groups, channels).
    """

    options: ClassVar[Mapping[str, Any]] = {"positions": 64}

    together = 16

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        return groups * (probe.site.units * 5 + 1) * 8

    def read(self, view: View) -> Reading:
        s, f = (view.tensors[tap] for tap in self.probe.taps)
        s, f = (x[..., None] if x.dim() == 2 else x for x in (s, f))
        positions = s[0, 0].numel()
        wanted = int(self.probe.option("positions"))
        index = sample_positions(view.images, self.probe.site.path, view.seed, positions, wanted)
        s, f = (gather(x, index).double() for x in (s, f))
        mean_s, mean_f = s.mean(1), f.mean(1)
        s, f = s - mean_s[:, None], f - mean_f[:, None]
        rows = torch.full((len(s), 1), float(s.shape[1]), dtype=torch.float64, device=s.device)
        products = {"ss": (s * s).sum(1), "ff": (f * f).sum(1), "sf": (s * f).sum(1)}
        return {"rows": rows, "mean_s": mean_s, "mean_f": mean_f} | products

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        held = {name: self._counter(name, x, tuple(x.shape[1:]), torch.float64) for name, x in reading.items()}
        for name, part in _combine(held, _by_group(reading, groups, self.groups)).items():
            held[name].copy_(part)

    def combined(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: a[name] + b[name] for name in _COUNTERS} | _combine(a, b)

    def pooled(self, without: int | None = None) -> Self:
        part = {name: x[[g for g in range(self.groups) if g != without]] for name, x in self.tally.items()}
        counters = {name: part.pop(name).sum(0, keepdim=True) for name in _COUNTERS}
        one = torch.zeros(len(part["rows"]), dtype=torch.int64, device=part["rows"].device)
        return self._as_one(counters | _by_group(part, one, 1))

    def _less(self, pooled: Self, group: int) -> Self:
        # Means are not taken out again without loss.
        return self.pooled(without=group)


def _by_group(parts: Mapping[str, Tensor], groups: Tensor, count: int) -> dict[str, Tensor]:
    """Means and centred products of all parts of each group together, zeros where there are none."""

    def total(x: Tensor) -> Tensor:
        return torch.zeros(count, *x.shape[1:], dtype=x.dtype, device=x.device).index_add_(0, groups, x)

    rows = parts["rows"]
    whole = total(rows)
    mean = {name: total(rows * parts[name]) / whole.clamp(min=1) for name in ("mean_s", "mean_f")}
    s, f = (parts[name] - mean[name][groups] for name in ("mean_s", "mean_f"))
    products = {"ss": s * s, "ff": f * f, "sf": s * f}
    return {"rows": whole} | mean | {name: total(parts[name] + rows * product) for name, product in products.items()}


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
