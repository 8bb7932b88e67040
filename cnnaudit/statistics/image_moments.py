"""First and second moments over images of a few numbers that each of them gives."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["ImageMoments"]


class ImageMoments(Statistic):
    """Sums over images of a few numbers of each image and unit, and of their products.

    That is all that a mean over images, a ratio of two, or a smooth function of several needs for its error. Subclasses
    say which numbers they are, and read them as ``values``, float64 of shape (n, units, numbers).

    Tally, float64: ``sums`` of shape (units, numbers) and ``products`` of shape (units, numbers, numbers); where
    several images come from one source of shape (groups, ...).
    """

    together = 16
    pooled_counts = frozenset({"sums", "products"})

    @classmethod
    @abstractmethod
    def names(cls, probe: Probe) -> tuple[str, ...]:
        """Return what the numbers of an image are called, in their order."""

    @classmethod
    def rows(cls, probe: Probe) -> int:
        """Return of how many units numbers are kept."""
        return len(probe.units)

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        numbers = len(cls.names(probe))
        return (groups if probe.clustered else 1) * cls.rows(probe) * numbers * (numbers + 1) * 8

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        x = reading["values"]
        if self.probe.clustered:
            self._sum_up("sums", x, groups)
            self._sum_up("products", x[..., :, None] * x[..., None, :], groups)
            return
        for name, total in (("sums", x.sum(0)), ("products", torch.einsum("nui,nuj->uij", x, x))):
            self._counter(name, total, tuple(total.shape), torch.float64).add_(total)

    def sums(self, *names: str) -> NDArray[np.float64]:
        """Return the sums of some of the numbers, shape (units, names)."""
        chosen = self._chosen(names)
        return self._whole("sums")[:, chosen]

    def products(self, *names: str) -> NDArray[np.float64]:
        """Return the sums of the products of some of the numbers, shape (units, names, names)."""
        chosen = self._chosen(names)
        return self._whole("products")[:, chosen][:, :, chosen]

    def ratio(self, over: str, under: str = "") -> dict[str, Any]:
        """Return what ``linearised_ratio`` takes for the ratio of two numbers' sums, or for the mean of one."""
        if not under:
            a, aa = self.sums(over)[:, 0], self.products(over)[:, 0, 0]
            return {"a": a, "b": self.n_images, "aa": aa, "ab": a, "bb": self.n_images, "n": self.n_images}
        (a, b), products = self.sums(over, under).T, self.products(over, under)
        aa, ab, bb = products[:, 0, 0], products[:, 0, 1], products[:, 1, 1]
        return {"a": a, "b": b, "aa": aa, "ab": ab, "bb": bb, "n": self.n_images}

    def _chosen(self, names: tuple[str, ...]) -> list[int]:
        known = self.names(self.probe)
        return [known.index(name) for name in names]

    def _whole(self, name: str) -> NDArray[np.float64]:
        kept = self.tally[name]
        whole: NDArray[np.float64] = (kept if name in self.ungrouped else kept.sum(0)).cpu().numpy()
        return whole
