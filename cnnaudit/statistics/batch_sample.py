"""A few batches of images, kept as they are."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, ClassVar

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.sampling import draw_images

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["BatchSample"]

_COUNTERS = ("images", "sources", "nonfinite")


class BatchSample(Statistic):
    """The maps of as many images as make ``most_batches`` batches, drawn by a hash of their numbers.

    Of several images of one source only the first can be drawn, so that the images of a sample are independent. A map
    is averaged to at most ``side`` positions in each dimension; all of its channels are kept.

    Tally, without a group axis: ``keys``, float64 of shape (n,), ascending, n being at most batch * most_batches; and
    for each tap, by its place, ``tap0``, ``tap1``, float32 of shape (n, channels, positions).
    """

    options: ClassVar[Mapping[str, Any]] = {"batch": 64}
    drawn = frozenset({"keys"})

    most_batches: ClassVar[int] = 8
    side: ClassVar[int] = 4

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        taps = [probe.site.taps[tap] for tap in probe.taps]
        values = sum(tap.shape[0] * math.prod(min(n, cls.side) for n in tap.spatial) for tap in taps)
        return int(probe.option("batch")) * cls.most_batches * (8 + 4 * values)

    def read(self, view: View) -> Reading:
        maps = {f"tap{i}": _coarse(view.tensors[tap], self.side) for i, tap in enumerate(self.probe.taps)}
        return {"keys": draw_images(view.images, view.seed)[:, None]} | maps

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        keys, kept = reading["keys"][:, 0], self.tally.get("keys")
        wanted = first == 1
        if kept is not None and len(kept) == self._most:
            wanted &= keys < kept[-1]
        new = {name: x[wanted].float() for name, x in reading.items()} | {"keys": keys[wanted]}
        self.tally |= self._smallest({name: self.tally.get(name, x[:0]) for name, x in new.items()}, new)

    def combined(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        sample_a, sample_b = ({name: part[name] for name in self.ungrouped} for part in (a, b))
        return {name: a[name] + b[name] for name in _COUNTERS} | self._smallest(sample_a, sample_b)

    @property
    def ungrouped(self) -> frozenset[str]:
        return frozenset({"keys", *(f"tap{i}" for i in range(len(self.probe.taps)))})

    def leave_one_out(self) -> Iterator[Self]:
        """Yield nothing: batches tell by themselves how they differ, and their images are of different sources."""
        yield from ()

    def batches(self, tap: int = 0) -> Tensor:
        """Return the batches that are full, float64 of shape (batches, batch, channels, positions)."""
        x = self.tally[f"tap{tap}"].double()
        batch = int(self.probe.option("batch"))
        full = len(x) // batch
        return x[: full * batch].reshape(full, batch, *x.shape[1:])

    @property
    def _most(self) -> int:
        return int(self.probe.option("batch")) * self.most_batches

    def _smallest(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The images of both parts that have the smallest keys, in their order."""
        joined = {name: torch.cat([a[name], b[name]]) if len(b[name]) else a[name] for name in a}
        order = joined["keys"].argsort()[: self._most]
        return {name: x[order] for name, x in joined.items()}


def _coarse(x: Tensor, side: int) -> Tensor:
    """Maps averaged to at most ``side`` positions in each dimension, float64 of shape (n, channels, positions)."""
    x = x.double()
    for dim in range(2, x.dim()):
        size = x.shape[dim]
        if size > side:
            cuts = [size * i // side for i in range(side + 1)]
            parts = [x.narrow(dim, a, b - a).mean(dim, keepdim=True) for a, b in itertools.pairwise(cuts)]
            x = torch.cat(parts, dim)
    return x.reshape(*x.shape[:2], -1)
