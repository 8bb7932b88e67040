"""Windows of pools and strided convolutions: where they lie and how they are read."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from cnnaudit.lazy import torch
from cnnaudit.site import Op
from cnnaudit.statistics.sampling import gather, sample_positions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from cnnaudit.site import Site

    # Along one dimension: the number of each window among the outputs, and the input positions that it reads.
    Line: TypeAlias = tuple[tuple[int, tuple[int, ...]], ...]

__all__ = ["Windows", "integer_root"]


def integer_root(cells: int, entries: int) -> int:
    """Return the largest number of levels whose joint histogram of ``entries`` values fits ``cells``."""
    root: int = round(float(cells) ** (1 / entries))
    return root if root**entries <= cells else root - 1


@dataclass(frozen=True)
class Windows:
    """Windows of a site that do not touch padding, numbered in raster order.

    A window that the end of the map cuts off (``ceil_mode``) is a smaller window; so is one of an adaptive pool
    whose size does not divide that of the map. Windows of one shape are a *stratum*: their values have a joint
    distribution, which those of unequal shapes do not.

    Attributes:
        spatial: Extent of the input map.
        entries_at: For each dimension and each window along it, the input positions that it reads.
        places: For each dimension and each window along it, its number among all outputs.
        spacing: Input positions for each output, for each dimension: the stride, of an adaptive pool its mean.
    """

    spatial: tuple[int, ...]
    entries_at: tuple[tuple[tuple[int, ...], ...], ...]
    places: tuple[tuple[int, ...], ...]
    spacing: tuple[float, ...]

    @classmethod
    def of(cls, site: Site) -> Windows:
        """Return the windows of the shape that most windows of a site have, over its ``input`` tap."""
        return cls.strata(site)[0]

    @classmethod
    def strata(cls, site: Site) -> tuple[Windows, ...]:
        """Return the windows of each shape, the most frequent first; one without windows where there are none."""
        return _strata(_Geometry.of(site))

    @classmethod
    def every(cls, site: Site) -> Windows:
        """Return the windows of all shapes together: a smaller one repeats its last values."""
        return _every(_Geometry.of(site))

    @classmethod
    def inside(
        cls, spatial: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
    ) -> Windows:
        """Return the windows that lie inside a map of this extent: padded already, or to be read without padding."""
        return _strata(_Geometry(spatial, kernel, stride, (0,) * len(spatial), dilation, ()))[0]

    @property
    def kernel(self) -> tuple[int, ...]:
        """Number of values in a window along each dimension."""
        return tuple(len(windows[0]) if windows else 0 for windows in self.entries_at)

    @property
    def count(self) -> tuple[int, ...]:
        """Number of windows along each dimension."""
        return tuple(map(len, self.entries_at))

    @property
    def entries(self) -> int:
        """Number of values in a window of one kernel's map."""
        return math.prod(self.kernel)

    @property
    def total(self) -> int:
        """Number of these windows in a map."""
        return math.prod(self.count) if self.count else 0

    @property
    def blocks(self) -> int:
        """Number of neighbourhoods of windows, two along each dimension."""
        return math.prod(map(len, self._corners)) if self._corners else 0

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
        if self.kernel == self.spatial and self.total == 1:
            return x.flatten(2).transpose(1, 2)[:, None].clone()  # a reading outlives the map
        chosen = _unravelled(sample_positions(images, site, seed, self.total, wanted), self.count)
        return _gathered(x, _flattened(self._tables, chosen, x.device))

    def read_blocks(self, x: Tensor, images: Tensor, site: str, seed: int, wanted: int) -> tuple[Tensor, Tensor]:
        """Read neighbourhoods of windows, two along each dimension, and equally many inputs beside each other.

        Returns:
            The windows, shape (n, b, 2**d, entries, units), and from each neighbourhood 2**d adjacent inputs,
            shape (n, b, 2**d, units).
        """
        corners = self._corners
        positions = sample_positions(images, f"{site} blocks", seed, self.blocks, wanted)
        chosen = _unravelled(positions, tuple(map(len, corners)))
        windows, inputs = self._block_tables
        index = _flattened(windows, chosen, x.device)
        n, b, _ = index.shape
        dims = range(len(self.kernel))
        # Dimension by dimension: which of the two windows, and which of its entries. The windows come first.
        index = index.reshape(n, b, *itertools.chain.from_iterable((2, k) for k in self.kernel))
        index = index.permute(0, 1, *(2 + 2 * d for d in dims), *(3 + 2 * d for d in dims))
        outputs = _gathered(x, index.reshape(n, b, -1))
        shape = (n, b, 2 ** len(self.kernel), self.entries, x.shape[1])
        return outputs.reshape(shape), _gathered(x, _flattened(inputs, chosen, x.device))

    @cached_property
    def _corners(self) -> tuple[tuple[int, ...], ...]:
        """Windows along each dimension that have the next output beside them, and one more input."""
        return tuple(
            tuple(
                i
                for i, (this, following) in enumerate(itertools.pairwise(place))
                if following == this + 1 and at[i][0] + 1 < size
            )
            for place, at, size in zip(self.places, self.entries_at, self.spatial, strict=True)
        )

    @cached_property
    def _tables(self) -> list[Tensor]:
        """Along each dimension what the entries of each window add to the flattened position."""
        return self._scaled(self.entries_at)

    @cached_property
    def _block_tables(self) -> tuple[list[Tensor], list[Tensor]]:
        """The same for pairs of windows, and for pairs of inputs."""
        corners = list(zip(self.entries_at, self._corners, strict=True))
        windows = self._scaled([at[c] + at[c + 1] for c in corner] for at, corner in corners)
        return windows, self._scaled([(at[c][0], at[c][0] + 1) for c in corner] for at, corner in corners)

    def _scaled(self, positions: Iterable[Sequence[tuple[int, ...]]]) -> list[Tensor]:
        tables = []
        for at, pitch in zip(positions, _pitches(self.spatial), strict=True):
            width = len(at[0]) if at else 0
            tables.append(torch.tensor(at, dtype=torch.int64).reshape(len(at), width) * pitch)
        return tables


def _flattened(tables: Sequence[Tensor], chosen: Sequence[Tensor], device: torch.device) -> Tensor:
    """Flattened input positions of all entries of the chosen rows, shape (n, rows, entries)."""
    index, *others = (table.to(device)[rows.to(device)] for table, rows in zip(tables, chosen, strict=True))
    for along in others:
        index = (index[..., None] + along[:, :, None]).flatten(2)
    return index


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    n, windows, entries = index.shape
    return gather(x, index.reshape(n, -1)).reshape(n, windows, entries, x.shape[1])


def _unravelled(flat: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
    """Flattened numbers as a number along each dimension."""
    return [flat // pitch % size for size, pitch in zip(shape, _pitches(shape), strict=True)]


def _pitches(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Steps of the flattened index along each dimension."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


class _Geometry(NamedTuple):
    """Facts that say where windows lie, one for each dimension; kernel and stride are empty for an adaptive pool."""

    spatial: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    outputs: tuple[int, ...]

    @classmethod
    def of(cls, site: Site) -> _Geometry:
        spatial = site.taps["input"].spatial
        padding = site.padding or (0,) * len(spatial)
        dilation = site.dilation or (1,) * len(spatial)
        told = "output" in site.taps and (site.ceil_mode or not site.kernel)
        outputs = site.taps["output"].spatial if told and site.op is Op.POOL else ()
        # A reduction over all positions may hand on a vector, whose size tells nothing of windows.
        sized = outputs if len(outputs) == len(spatial) else ()
        return cls(spatial, site.kernel, site.stride, padding, dilation, sized)

    def lines(self) -> list[Line]:
        """The windows along each dimension."""
        dimensions = range(len(self.spatial))
        if self.kernel:
            return [self._sliding(d) for d in dimensions]
        return [self._adaptive(d) for d in dimensions] if self.outputs else [() for _ in dimensions]

    def spacing(self) -> tuple[float, ...]:
        """Input positions for each output."""
        if self.kernel:
            return tuple(map(float, self.stride))
        return tuple(size / number for size, number in zip(self.spatial, self.outputs, strict=False))

    def _adaptive(self, dimension: int) -> Line:
        """Output i reads from floor(i * size / outputs) to ceil((i + 1) * size / outputs)."""
        size, outputs = self.spatial[dimension], self.outputs[dimension]
        ends = [(i * size // outputs, -(-(i + 1) * size // outputs)) for i in range(outputs)]
        return tuple((i, tuple(range(*end))) for i, end in enumerate(ends))

    def _sliding(self, dimension: int) -> Line:
        """The windows that read no padding; where there are more outputs than full windows, some are cut off."""
        size, kernel, stride, padding, dilation = (fact[dimension] for fact in self[:5])
        reach = (kernel - 1) * dilation + 1
        outputs = self.outputs[dimension] if self.outputs else (size + 2 * padding - reach) // stride + 1
        found = []
        for place in range(-(-padding // stride), outputs):
            start = place * stride - padding
            inside = min(kernel, -(-(size - start) // dilation))
            # What lies behind the padding, too, is read by nobody: the window ends before it.
            if inside == kernel or (inside > 0 and start + inside * dilation >= size + padding):
                found.append((place, tuple(range(start, start + inside * dilation, dilation))))
        return tuple(found)


@cache
def _strata(geometry: _Geometry) -> tuple[Windows, ...]:
    alike = [
        [tuple(w for w in line if len(w[1]) == length) for length in sorted({len(at) for _, at in line})]
        for line in geometry.lines()
    ]
    found = [_joined(geometry, lines) for lines in itertools.product(*alike)]
    found.sort(key=lambda windows: (windows.total, windows.entries), reverse=True)
    return tuple(found) or (_joined(geometry, [()] * len(alike)),)


@cache
def _every(geometry: _Geometry) -> Windows:
    filled = []
    for line in geometry.lines():
        longest = max((len(at) for _, at in line), default=0)
        filled.append(tuple((place, at + at[-1:] * (longest - len(at))) for place, at in line))
    return _joined(geometry, filled)


def _joined(geometry: _Geometry, lines: Iterable[Line]) -> Windows:
    entries_at, places = [], []
    for line in lines:
        entries_at.append(tuple(at for _, at in line))
        places.append(tuple(place for place, _ in line))
    return Windows(geometry.spatial, tuple(entries_at), tuple(places), geometry.spacing())
