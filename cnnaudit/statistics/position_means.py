"""Mean maps of groups of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View

if TYPE_CHECKING:
    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["PositionMeans"]

_ROUNDING = 1e-12


class PositionMeans(Statistic):
    """Sums of every kernel's map over the images of each group, and of its mean square.

    Tally (per group, float64): ``sum`` of shape (groups, kernels, positions); ``power`` of shape (groups, kernels), the
    sum over images of the mean square over positions. All groups pooled also hold ``own``, float64 of shape (1, groups,
    5, kernels): what :attr:`moments` takes from each group alone.
    """

    sampled_kernels = True
    most_groups = 16

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        positions = probe.site.taps[probe.taps[0]].positions
        return min(groups, cls.most_groups) * len(probe.units) * (positions + 1) * 8

    def read(self, view: View) -> Reading:
        x = view.tensors[self.probe.taps[0]]
        # As it is: it is folded at once, and a copy would be as large as the map.
        return {"maps": x if self.probe.kernels is None else x[:, list(self.probe.kernels)]}

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        maps = reading["maps"].flatten(2) if reading["maps"].dim() > 2 else reading["maps"][..., None]
        total = self._counter("sum", maps, tuple(maps.shape[1:]), torch.float64)
        power = torch.empty(maps.shape[:2], dtype=torch.float64, device=maps.device)
        values = torch.empty(maps.shape[1:], dtype=torch.float64, device=maps.device)
        # One image at a time stays in the cache: sums of the whole block in double precision take three times as long.
        for image, group in enumerate(groups.tolist()):
            total[group] += values.copy_(maps[image])
            power[image] = values.square_().mean(1)
        self._sum_up("power", power, groups)

    def pooled(self, without: int | None = None) -> Self:
        if "own" in self.tally:
            return self
        groups = zip(self.images, self.tally["sum"], self.tally["power"], strict=True)
        own = torch.stack([self._parts(*group) for group in groups])
        one = self._as_one({name: x.sum(0, keepdim=True) for name, x in self.tally.items()} | {"own": own[None]})
        return one if without is None else self._less(one, without)

    def _less(self, pooled: Self, group: int) -> Self:
        rest = {name: pooled.tally[name] - x[group] for name, x in self.tally.items()}
        own = pooled.tally["own"].clone()
        own[0, group] = 0
        return self._as_one(rest | {"own": own})

    def _parts(self, images: Tensor, total: Tensor, power: Tensor) -> Tensor:
        """Products of sums over one set of images; what two sets have in common is those of both less their own."""
        number, mean = images.double(), total.mean(1)
        spread = (total - mean[:, None]).square().mean(1)
        own = [number.square().expand_as(mean), number * power, mean.square(), spread, self._contrast(total)]
        return torch.stack(own)

    def _contrast(self, total: Tensor) -> Tensor:
        """Variance over positions of a map that is the border's mean on the border, and the rest's mean elsewhere."""
        border = self.border.to(total.device).double()
        share = border.mean()
        inside = 1 - border
        difference = total @ (border / border.sum() - inside / inside.sum().clamp(min=1))
        return share * (1 - share) * difference.square()

    @property
    def border(self) -> Tensor:
        """The outermost positions, bool of shape (positions,)."""
        spatial = self.probe.site.taps[self.probe.taps[0]].spatial or (1,)
        inner = torch.zeros(spatial, dtype=torch.bool)
        inner[tuple(slice(1, -1) for _ in spatial)] = True
        return ~inner.flatten()

    @property
    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Variances of a pooled statistic: in all, of the mean map, and of that as far as it is the border's.

        Squares of a mean are too large, because every sample meets itself in them. Only products of different groups of
        images (of sources, where several images come from one) are taken, so that each of the three is unbiased. They
        are float64 of shape (kernels,), NaN where there is only one group; where the first is 0 up to rounding, it is.
        """
        across = self._parts(*(self.tally[name][0] for name in ("images", "sum", "power")))
        pairs, power, mean, spread, contrast = (across - self.tally["own"][0].sum(0)).unbind()
        # As half of the mean squared difference between two images, which an offset has no part in.
        variance = torch.where(power - mean > _ROUNDING * power, power - mean, 0.0)
        pairs = torch.where(pairs > 0, pairs, torch.nan)
        return variance / pairs, spread / pairs, contrast / pairs
