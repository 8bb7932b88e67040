"""How often and how strongly kernels respond."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.counting import by_parts, differing

if TYPE_CHECKING:
    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["ActivityTally"]


class ActivityTally(Statistic):
    """Zeros, activity and strength of every kernel over whole maps.

    Per image and kernel: the number z of positions at exactly zero, whether any position is not, and the mean
    magnitude a; abar is the mean of a over the site's kernels.

    Tally (per group): ``active`` and sums of z and z**2 (int64), sums of a, a**2 and a * abar (float64), all of
    shape (groups, kernels); sums of abar and abar**2 of shape (groups, 1).
    """

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:  # noqa: ARG003
        return groups * len(probe.units) * 6 * 8

    def read(self, view: View) -> Reading:
        name = self.probe.taps[0]
        x = view.tensors[name]
        maps = x[..., None] if x.dim() == 2 else x
        dims = tuple(range(2, maps.dim()))
        nonnegative = self.probe.site.taps[name].nonnegative
        strength = view.mean(name) if nonnegative else by_parts(lambda x: x.abs().mean(dims, dtype=torch.float32), maps)
        return {"occupied": differing(maps, 0, dims), "strength": strength.double()}

    def add(self, reading: Reading, group: int) -> None:
        occupied, a = reading["occupied"], reading["strength"]
        z = self.positions - occupied
        mean = a.mean(1, keepdim=True)
        for name, amount in (("active", occupied > 0), ("zeros", z), ("zeros2", z * z)):
            self._counter(name, a, (amount.shape[1],))[group].add_(amount.sum(0))
        for name, amount in (("a", a), ("a2", a * a), ("a_mean", a * mean), ("mean", mean), ("mean2", mean * mean)):
            self._counter(name, a, (amount.shape[1],), torch.float64)[group].add_(amount.sum(0))

    def total(self, name: str) -> Tensor:
        """Return one of the sums over all groups, float64."""
        return self.tally[name].sum(0).double()

    @property
    def positions(self) -> int:
        """Positions of a map."""
        return self.probe.site.taps[self.probe.taps[0]].positions
