"""What an activation that cuts values off takes from them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.sampling import gather, sample_positions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from cnnaudit.site import Site
    from cnnaudit.statistics.base import Reading

__all__ = ["Rectification", "ceiling"]


def ceiling(site: Site) -> float | None:
    """Where the activation of a site cuts values off above, infinite for ReLU; None where it is no rectifier."""
    result = site.taps.get("activated") or site.taps.get("response")
    if result is None:
        return math.inf  # plain tensors: what a ReLU is going to read
    floor, *above = result.atoms or (math.nan,)
    # Zero and one are the ends of a hard sigmoid, too, which shifts and scales what it does not cut off.
    if floor != 0 or not result.nonnegative or len(above) > 1 or above == [1.0]:
        return None
    return above[0] if above else math.inf


class Rectification(Statistic):
    """Values that a rectifier cuts off, at sampled positions, all of them where the map has no more than wanted.

    Of each image and kernel: z, the share of values x that lie on or beyond its ends; e, the mean of (x - y)**2 with y
    the rectified value; q, the mean of x**2.

    Tally: ``moments``, float64 of shape (7, kernels), or (groups, 7, kernels) where several images come from one
    source: sums over images of z, z**2, e, e**2, e * q, q and q**2.
    """

    options: ClassVar[Mapping[str, Any]] = {"positions": 64}
    together = 16
    pooled_counts = frozenset({"moments"})

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        return (groups if probe.clustered else 1) * 7 * probe.site.units * 8

    def read(self, view: View) -> Reading:
        maps = view.tensors[self.probe.taps[0]]
        maps = maps[..., None] if maps.dim() == 2 else maps
        positions, wanted = maps[0, 0].numel(), int(self.probe.option("positions"))
        x = gather(maps, sample_positions(view.images, self.probe.site.path, view.seed, positions, wanted)).double()
        most = ceiling(self.probe.site)
        cut = (x <= 0) | (x >= (math.inf if most is None else most))
        lost = x - x.clamp(0, most)
        # Infinities are cut off, too, and must show.
        means = [cut.double().mean(1), lost.square().mean(1), x.square().mean(1)]
        return {"means": torch.stack(means, 1)}

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        z, e, q = reading["means"].unbind(1)
        products = torch.stack([z, z * z, e, e * e, e * q, q, q * q], 1)
        if self.probe.clustered:
            self._sum_up("moments", products, groups)
        else:
            self._counter("moments", products, tuple(products.shape[1:]), torch.float64).add_(products.sum(0))

    @property
    def moments(self) -> Tensor:
        """Sums of z, z**2, e, e**2, e * q, q and q**2 over all images, float64 of shape (7, kernels)."""
        moments = self.tally["moments"]
        return moments.sum(0) if self.probe.clustered else moments
