"""Sums of responses by class, and the two halves of the sources that cross-fitting needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["ClassMoments", "Moments", "halved", "split"]


def split(labels: Tensor, groups: Tensor) -> Tensor:
    """Return a class of its own for each half of every class; the halves are the even and the odd groups."""
    return 2 * labels + groups % 2


def halved(x: Tensor, dim: int) -> Tensor:
    """Undo :func:`split` along a dimension: shape (..., 2 * classes, ...) -> (2, ..., classes, ...)."""
    odd = x.shape[dim] % 2  # the last class was met in the even groups only
    if odd:
        x = torch.cat([x, torch.zeros_like(x.narrow(dim, 0, 1))], dim)
    return torch.stack([x.index_select(dim, torch.arange(h, x.shape[dim], 2, device=x.device)) for h in (0, 1)])


class Moments(NamedTuple):
    """Sums over the images of each half and class.

    Attributes:
        n: Images, float64 of shape (2, classes).
        sources: Sources that they come from, of the same shape. A source whose images are of several classes counts
            for the class of its first image only; too few is the safe side.
        total: Sums of responses, float64 of shape (2, kernels, classes).
        squares: Sums of their squares, of the same shape.
    """

    n: Tensor
    sources: Tensor
    total: Tensor
    squares: Tensor


class ClassMoments(Statistic):
    """First two moments of the kernel's mean response over the map, by class and half of the sources.

    Tally: ``moments``, float64 of shape (2 * classes, 2 + 2 * kernels): images, sources, sums, sums of squares. Row
    2 c + h is class c in half h. Where several images come from one source it is (groups, 2 * classes, 2 + 2 *
    kernels).
    """

    together = 16
    sampled_kernels = True
    pooled_counts = frozenset({"moments"})

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        return (groups if probe.clustered else 1) * 2 * classes * (2 + 2 * len(probe.units)) * 8

    def read(self, view: View) -> Reading:
        if view.labels is None:
            raise ValueError("class moments need labels; the plan checks that before a batch is read")
        tap = self.probe.taps[0]
        response = view.tensors[tap] if view.tensors[tap].dim() == 2 else view.mean(tap)
        if self.probe.kernels is not None:
            response = response[:, list(self.probe.kernels)]
        return {"response": response, "labels": view.labels}

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        x = reading["response"].double()
        rows = torch.cat([torch.ones_like(x[:, :1]), first[:, None].double(), x, x * x], 1)
        place = split(reading["labels"], groups)
        moments = self._counter("moments", x, (0, rows.shape[1]), torch.float64)
        if moments.shape[-2] <= (last := int(place.max())):
            self.tally["moments"] = moments = _widened(moments, last + 1)
        if self.probe.clustered:
            place = place + groups * moments.shape[-2]
        moments.view(-1, rows.shape[1]).index_add_(0, place, rows)

    def combined(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows = max(part["moments"].shape[-2] for part in (a, b))
        return super().combined(*(dict(part) | {"moments": _widened(part["moments"], rows)} for part in (a, b)))

    @property
    def halves(self) -> Moments:
        """What both halves hold."""
        moments = self.tally["moments"]
        both = halved(moments.sum(0) if self.probe.clustered else moments, 0).mT
        kernels = both.shape[1] // 2 - 1
        return Moments(both[:, 0], both[:, 1], both[:, 2 : 2 + kernels], both[:, 2 + kernels :])


def _widened(moments: Tensor, rows: int) -> Tensor:
    """Moments with room for more classes."""
    return torch.nn.functional.pad(moments, (0, 0, 0, rows - moments.shape[-2]))
