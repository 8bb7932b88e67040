"""How often and how strongly kernels respond."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.counting import differing, magnitude
from cnnaudit.statistics.sampling import gather, sample_positions

if TYPE_CHECKING:
    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["ActivityTally"]


class ActivityTally(Statistic):
    """Zeros, activity and strength of every kernel.

    Per image and kernel, over whole maps: the number z of positions at exactly zero, whether any position is not,
    and the mean magnitude a; abar is the mean of a over the site's kernels. Over ``sampled`` positions, all of them
    where the map has no more: the mean s and the mean square q of the values.

    Tally (per group): ``active`` and sums of z and z**2 (int64), sums of a, a**2 and a * abar (float64), all of
    shape (groups, kernels); sums of abar and abar**2 of shape (groups, 1). Where several images come from one source
    also ``first_active``: of the images that are the first of their source, how many are active. ``moments``, float64
    of shape (5, kernels), or (groups, 5, kernels) there: sums of s, q, s**2, s * q and q**2.
    """

    together = 16
    pooled_counts = frozenset({"moments"})
    sampled: ClassVar[int] = 8

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        moments = 5 * len(probe.units) * (groups if probe.clustered else 1)
        return (groups * (len(probe.units) * (6 + probe.clustered) + 2) + moments) * 8

    def read(self, view: View) -> Reading:
        name = self.probe.taps[0]
        x = view.tensors[name]
        maps = x[..., None] if x.dim() == 2 else x
        dims = tuple(range(2, maps.dim()))
        strength = view.mean(name) if self.probe.site.taps[name].nonnegative else magnitude(maps, dims)
        index = sample_positions(view.images, self.probe.site.path, view.seed, maps[0, 0].numel(), self.sampled)
        few = gather(maps, index).double()
        values = torch.stack([few.mean(1), few.square().mean(1)], 1)
        return {"occupied": differing(maps, 0, dims).long(), "strength": strength, "values": values}

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        occupied, a = reading["occupied"], reading["strength"].double()
        z = self.positions - occupied
        mean = a.mean(1, keepdim=True)
        active = (occupied > 0).long()
        if self.probe.clustered:
            self._sum_up("first_active", active * first[:, None], groups)
        for name, amounts in (
            *(("active", active), ("zeros", z), ("zeros2", z * z)),
            *(("a", a), ("a2", a * a), ("a_mean", a * mean), ("mean", mean), ("mean2", mean * mean)),
        ):
            self._sum_up(name, amounts, groups)
        s, q = reading["values"].unbind(1)
        products = torch.stack([s, q, s * s, s * q, q * q], 1)
        if self.probe.clustered:
            self._sum_up("moments", products, groups)
        else:
            self._counter("moments", products, tuple(products.shape[1:]), torch.float64).add_(products.sum(0))

    def total(self, name: str) -> Tensor:
        """Return one of the sums over all groups, float64."""
        return self.tally[name].sum(0).double()

    @property
    def moments(self) -> Tensor:
        """Sums of s, q, s**2, s * q and q**2 over all images, float64 of shape (5, kernels)."""
        moments = self.tally["moments"]
        return moments.sum(0) if self.probe.clustered else moments

    @property
    def first_active(self) -> Tensor:
        """Sources whose first image activates the kernel, float64 of shape (kernels,)."""
        return self.total("first_active" if self.probe.clustered else "active")

    @property
    def positions(self) -> int:
        """Positions of a map."""
        return self.probe.site.taps[self.probe.taps[0]].positions
