"""Windows of pools and strided convolutions: where they lie and how they are read."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cnnaudit.lazy import torch
from cnnaudit.statistics.sampling import gather, sample_positions

if TYPE_CHECKING:
    from torch import Tensor

    from cnnaudit.site import Site

__all__ = ["Windows", "integer_root"]


def integer_root(cells: int, entries: int) -> int:
    """Return the largest number of levels whose joint histogram of ``entries`` values fits ``cells``."""
    root: int = round(float(cells) ** (1 / entries))
    return root if root**entries <= cells else root - 1


@dataclass(frozen=True)
class Windows:
    """The windows of a site that do not touch padding, numbered in raster order.

    Attributes:
        spatial: Extent of the input map.
        kernel, stride, dilation: As the site says, one number for each spatial dimension.
        offset: Input position of the first full window's first entry.
        count: Number of full windows along each dimension.
    """

    spatial: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    offset: tuple[int, ...]
    count: tuple[int, ...]

    @classmethod
    def of(cls, site: Site) -> Windows:
        """Return the windows of a site with a kernel and a stride over its ``input`` tap."""
        spatial = site.taps["input"].spatial
        padding = site.padding or (0,) * len(spatial)
        dilation = site.dilation or (1,) * len(spatial)
        first = tuple(-(-p // s) for p, s in zip(padding, site.stride, strict=True))
        offset = tuple(f * s - p for f, s, p in zip(first, site.stride, padding, strict=True))
        span = tuple((k - 1) * d + 1 for k, d in zip(site.kernel, dilation, strict=True))
        count = tuple(
            max(0, (size - start - reach) // step + 1)
            for size, start, reach, step in zip(spatial, offset, span, site.stride, strict=True)
        )
        return cls(spatial, site.kernel, site.stride, dilation, offset, count)

    @property
    def entries(self) -> int:
        """Number of values in a window of one kernel's map."""
        return math.prod(self.kernel)

    @property
    def total(self) -> int:
        """Number of full windows in a map."""
        return math.prod(self.count)

    @property
    def blocks(self) -> int:
        """Number of neighbourhoods of windows, two along each dimension."""
        return math.prod(max(0, c - 1) for c in self.count)

    def read(self, x: Tensor, images: Tensor, site: str, seed: int, wanted: int) -> Tensor:
        """Read windows sampled for each image.

        Args:
            x: Maps of shape (n, units, *spatial).
            images: Image ids, shape (n,).
            site: Path of the site.
            seed: Seed of the audit.
            wanted: Number of windows for each image.

        Returns:
            Shape (n, min(wanted, total), entries, units).
        """
        if self.kernel == self.spatial:
            return x.flatten(2).transpose(1, 2)[:, None].clone()  # a reading outlives the map
        chosen = sample_positions(images, site, seed, self.total, wanted)
        start = self._start(chosen, self.count, x.device)
        return self._gather(x, start, self._offsets(self.kernel, self.dilation, x.device))

    def read_blocks(self, x: Tensor, images: Tensor, site: str, seed: int, wanted: int) -> tuple[Tensor, Tensor]:
        """Read neighbourhoods of windows, two along each dimension, and equally many inputs beside each other.

        Returns:
            The windows, shape (n, b, 2**d, entries, units), and from each neighbourhood 2**d adjacent inputs,
            shape (n, b, 2**d, units).
        """
        chosen = sample_positions(images, f"{site} blocks", seed, self.blocks, wanted)
        start = self._start(chosen, tuple(c - 1 for c in self.count), x.device)
        pair = (2,) * len(self.spatial)
        windows = self._offsets(pair, self.stride, x.device)[:, None] + self._offsets(
            self.kernel, self.dilation, x.device
        )
        outputs = self._gather(x, start, windows.flatten())
        n, b, _, units = outputs.shape
        inputs = self._gather(x, start, self._offsets(pair, (1,) * len(pair), x.device))
        return outputs.reshape(n, b, len(windows), self.entries, units), inputs

    def _start(self, chosen: Tensor, count: tuple[int, ...], device: torch.device) -> Tensor:
        """Flattened input position of the first entry of each chosen window."""
        start = torch.zeros_like(chosen, device=device)
        for size, number, step, first, pitch in zip(
            count, _pitches(count), self.stride, self.offset, _pitches(self.spatial), strict=True
        ):
            start = start + (chosen // number % size * step + first) * pitch
        return start

    def _offsets(self, shape: tuple[int, ...], step: tuple[int, ...], device: torch.device) -> Tensor:
        """Flattened offsets of a lattice of this shape."""
        pitch = _pitches(self.spatial)
        lattice = itertools.product(*map(range, shape))
        offsets = [sum(i * s * p for i, s, p in zip(at, step, pitch, strict=True)) for at in lattice]
        return torch.tensor(offsets, device=device)

    @staticmethod
    def _gather(x: Tensor, start: Tensor, offsets: Tensor) -> Tensor:
        n, windows = start.shape
        index = (start[:, :, None] + offsets).reshape(n, -1)
        return gather(x, index).reshape(n, windows, len(offsets), x.shape[1])


def _pitches(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Steps of the flattened index along each dimension."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
