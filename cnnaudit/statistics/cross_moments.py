"""Second moments of two feature vectors of an image, and what the unbiased HSIC needs besides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

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
    (groups, ...).
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
