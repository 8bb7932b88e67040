"""How maps follow their image when it is shifted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, View, nonfinite
from cnnaudit.statistics.image_moments import ImageMoments
from cnnaudit.statistics.sampling import draw_offsets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from cnnaudit.site import Site
    from cnnaudit.statistics.base import Reading

__all__ = ["CentreShifts", "ShiftErrors", "common_positions", "shifts"]


def shifts(site: Site) -> Mapping[str, tuple[int, ...]]:
    """Return how many positions a map moves, in each dimension, when its image is shifted.

    ``stride`` is a shift by the pixels between neighbouring positions, in each dimension; ``pixel`` is one by a single
    pixel along the last dimension, which is 1 position or, where positions are 2 or more pixels apart, none.
    """
    return {"stride": (1,) * len(site.jump), "pixel": (*(0 for _ in site.jump[1:]), int(site.jump[-1] == 1))}


def common_positions(site: Site, moved: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the positions of a shifted map that see nothing but the image, there and where they come from."""
    return tuple(slice(first, max(first, last - by)) for (first, last), by in zip(site.interior, moved, strict=True))


class ShiftErrors(ImageMoments):
    """What changes in a map when its image is shifted, at the positions that see the same pixels in both runs.

    Numbers of an image and kernel, for ``stride`` and ``pixel`` (see :func:`shifts`): with u the map, v the map of the
    shifted image laid over it, and m the mean of both over the common positions, ``stride_moved`` is the mean of
    (u - v)^2 over those positions and ``stride_spread`` that of (u - m)^2 + (v - m)^2.
    """

    sampled_kernels = True

    @classmethod
    def names(cls, probe: Probe) -> tuple[str, ...]:
        return ("stride_moved", "stride_spread", "pixel_moved", "pixel_spread")

    def read(self, view: View) -> Reading:
        site = self.probe.site
        still, *moved = _maps(self.probe, view)
        found = []
        for x, by in zip(moved, shifts(site).values(), strict=True):
            here = common_positions(site, by)
            there = tuple(slice(part.start + n, part.stop + n) for part, n in zip(here, by, strict=True))
            found += _compared(still[:, :, *there], x[:, :, *here])
        return {"values": torch.stack(found, 2), "trace": _trace(still, *moved)}


class CentreShifts(ImageMoments):
    """How far the centre of a map's activity moves between two crops of an image, and how far the image did.

    The centre is the mean position of the map's positive part, in pixels of the image. Numbers of an image and kernel,
    sums over dimensions: ``xx``, ``xy`` and ``yy`` with x the shift of the image and y that of the centre; ``active``,
    1 where there is a centre in both crops. Where there is none all of them are 0.
    """

    sampled_kernels = True

    @classmethod
    def names(cls, probe: Probe) -> tuple[str, ...]:
        return ("xx", "xy", "yy", "active")

    def read(self, view: View) -> Reading:
        site = self.probe.site
        maps = _maps(self.probe, view)
        first, second = (self._offsets(tap, view) for tap in self.probe.taps)
        # What is cut further on shows the same things further back.
        x = (second - first).double()[:, None]
        before, after = (_centre(values) for values in maps)
        y = (before - after) * torch.tensor(site.jump, dtype=torch.float64, device=x.device)
        active = y.isfinite().all(2)
        y = torch.where(active[..., None], y, 0.0)
        x = torch.where(active[..., None], x, 0.0)
        values = torch.stack([(x * x).sum(2), (x * y).sum(2), (y * y).sum(2), active.double()], 2)
        return {"values": values, "trace": _trace(*maps)}

    def _offsets(self, tap: str, view: View) -> Tensor:
        """How far each image's crop lies from the middle of its canvas."""
        variant = self.probe.site.taps[tap].variant
        if variant is None or variant.by != "crop":
            raise ValueError(f"{tap} is read in a run on random crops; the metric declares that")
        draw, *margins = variant.amount
        return draw_offsets(view.images, view.seed, draw, tuple(margins))


def _maps(probe: Probe, view: View) -> list[Tensor]:
    """What is read, of the kernels that are read."""
    maps = [view.tensors[tap] for tap in probe.taps]
    return maps if probe.kernels is None else [x[:, list(probe.kernels)] for x in maps]


def _compared(u: Tensor, v: Tensor) -> list[Tensor]:
    """Mean squared difference and mean squared deviations of two maps, float64 of shape (n, kernels) each."""
    dims = tuple(range(2, u.dim()))
    wide = torch.promote_types(u.dtype, torch.float32)
    u, v = u.to(wide), v.to(wide)
    mean = (u.mean(dims, keepdim=True, dtype=torch.float64) + v.mean(dims, keepdim=True, dtype=torch.float64)) / 2
    mean = mean.to(wide)
    moved, below, above = ((x - y).square().mean(dims, dtype=torch.float64) for x, y in ((u, v), (u, mean), (v, mean)))
    return [moved, below + above]


def _centre(x: Tensor) -> Tensor:
    """Mean position of each map's positive part, float64 of shape (n, kernels, dimensions); NaN where there is none."""
    positive = x.clamp(min=0)
    centres = []
    for dim in range(2, x.dim()):
        others = tuple(other for other in range(2, x.dim()) if other != dim)
        along = positive.sum(others, dtype=torch.float64) if others else positive.double()
        places = torch.arange(x.shape[dim], dtype=torch.float64, device=x.device)
        centres.append((along * places).sum(2) / along.sum(2))
    return torch.stack(centres, 2)


def _trace(*maps: Tensor) -> Tensor:
    """NaN for images that hold one or an infinity anywhere, else 0, shape (n, 1)."""
    broken = torch.stack([nonfinite(x) for x in maps]).any(0)
    return torch.where(broken, torch.nan, 0.0)[:, None]
