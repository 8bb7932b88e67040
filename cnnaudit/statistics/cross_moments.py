"""Second moments of two feature vectors of an image, and what the unbiased HSIC needs besides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.projection import project

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["CrossMoments"]


class CrossMoments(Statistic):
    """Sums over images of products of two feature vectors x and y: means over the map, one row an image.

    Everything is about a pilot mean, that of the first images, so that a large offset costs no digits. Vectors with
    more than ``features`` coordinates are projected to that many (:func:`~cnnaudit.statistics.projection.project`).

    Tally (per group, float64), with k = |x|^2 and l = |y|^2: ``x``, ``y``; ``xx``, ``yy``, ``xy`` (outer products);
    ``kx``, ``ky``, ``lx``, ``ly`` (k x, k y, l x, l y); and ``k``, ``l``, ``kk``, ``ll``, ``kl``, each of shape
    (groups, ...). Where several images come from one source, all groups pooled also hold ``own``, float64 of shape
    (1, 3): see :attr:`across`.
    """

    options: ClassVar[Mapping[str, Any]] = {"features": 512}

    calibrates = 64
    together = 16
    most_groups = 16

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        wanted = int(probe.option("features"))
        p, q = (min(probe.site.taps[tap].shape[0], wanted) for tap in probe.taps)
        return min(groups, cls.most_groups) * (p * p + q * q + p * q + 3 * (p + q) + 5) * 8

    def read(self, view: View) -> Reading:
        x, y = (view.mean(tap) for tap in self.probe.taps)
        return {"from": x, "to": y}

    def calibrate(self, readings: Sequence[Reading]) -> None:
        for name in ("from", "to"):
            self.calibration[name] = self._features(torch.cat([reading[name] for reading in readings])).mean(0)

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        x, y = (self._features(reading[name]) - self.calibration[name] for name in ("from", "to"))
        k, l = (x * x).sum(1), (y * y).sum(1)
        sums = {"x": x, "y": y, "k": k, "l": l, "kk": k * k, "ll": l * l, "kl": k * l}
        weighted = {"kx": k[:, None] * x, "ky": k[:, None] * y, "lx": l[:, None] * x, "ly": l[:, None] * y}
        for name, amounts in (sums | weighted).items():
            self._sum_up(name, amounts, groups)
        for name, a, b in (("xx", x, x), ("yy", y, y), ("xy", x, y)):
            held = self._counter(name, a, (a.shape[1], b.shape[1]), torch.float64)
            for group in torch.unique(groups).tolist():
                mine = groups == group
                held[group].addmm_(a[mine].T, b[mine])

    def _features(self, x: Tensor) -> Tensor:
        return project(x.double(), int(self.probe.option("features")))

    def pooled(self, without: int | None = None) -> Self:
        if not self.probe.clustered:
            return super().pooled(without)
        if "own" in self.tally:
            return self
        kept = [group for group, images in enumerate(self.images.tolist()) if images and group != without]
        sums = {name: x[kept].sum(0, keepdim=True, dtype=x.dtype) for name, x in self.tally.items()}
        own = sums["k"].new_zeros(1, 3)
        for group in kept:
            own += self._norms(group, sums)
        return self._as_one(sums | {"own": own})

    def _less(self, pooled: Self, group: int) -> Self:
        return self.pooled(without=group) if self.probe.clustered else super()._less(pooled, group)

    @property
    def across(self) -> Tensor:
        """|S_xy|^2, |S_xx|^2 and |S_yy|^2 of a pooled statistic up to one factor, from products of different groups.

        Images of one source are alike as an image is to itself, so what is unbiased for images is not for them. With
        T_g the products of group g about the common mean, |sum_g T_g|^2 - sum_g |T_g|^2 pairs no source with itself.
        """
        across: Tensor = self._norms(0, self.tally) - self.tally["own"][0]
        return across

    def _norms(self, group: int, sums: Mapping[str, Tensor]) -> Tensor:
        """Squared norms of one group's products about the mean of ``sums``, shape (3,)."""
        mine = {name: self.tally[name][group] for name in ("x", "y", "xx", "yy", "xy")}
        size, n = self.tally["images"][group], sums["images"][0].clamp(min=1)
        mean = {name: sums[name][0] / n for name in ("x", "y")}
        half = {name: mine[name] - size * mean[name] / 2 for name in mean}
        norms = []
        for a, b in (("x", "y"), ("x", "x"), ("y", "y")):
            centred = mine[a + b].addr(half[a], mean[b], alpha=-1).addr_(mean[a], half[b], alpha=-1)
            norms.append(centred.square().sum())
        return torch.stack(norms)
