"""Features of the same few images at every site, for what needs images side by side."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, ClassVar

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.projection import project
from cnnaudit.statistics.sampling import draw_images

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

    from torch import Tensor

    from cnnaudit.site import Tap
    from cnnaudit.statistics.base import Reading

__all__ = ["ImageSample"]

_CELLS = 2


class ImageSample(Statistic):
    """Features and labels of as many ``images`` as are wanted, drawn by a hash of their numbers.

    ``readout`` says how a map becomes features: ``mean`` is the mean of each channel, ``grid`` the mean and the
    maximum of each channel in each cell of a grid of two cells a side. Where they are more than ``features``, they are
    projected (:func:`project`), so that whoever reads them has the same freedom everywhere.

    Tally, without a group axis, a row for each image of the sample in the order of the draw: ``draw``, float64;
    ``label``, int64; ``group``, int64, the group of its source, where several images come from one; and
    for each of ``maps``, by its name, float64 of shape (n, features).
    """

    options: ClassVar[Mapping[str, Any]] = {"images": 1000, "readout": "mean", "features": 512}
    drawn = frozenset({"draw"})

    @classmethod
    def maps(cls, probe: Probe) -> Mapping[str, Tap]:
        """Return what features are made of: the taps."""
        return {tap: probe.site.taps[tap] for tap in probe.taps}

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        widths = (_planned(probe, tap) for tap in cls.maps(probe).values())
        return int(probe.option("images")) * 8 * (sum(widths) + 2 + probe.clustered)

    def read(self, view: View) -> Reading:
        if view.labels is None:
            raise ValueError("a sample of images needs labels; the plan checks that before a batch is read")
        drawn = draw_images(view.images, view.seed)[:, None]
        return {"draw": drawn, "label": view.labels} | {tap: self.read_out(view, tap) for tap in self.probe.taps}

    def read_out(self, view: View, tap: str) -> Tensor:
        """Return the features of a map, shape (n, features)."""
        x = view.tensors[tap]
        if x.dim() == 2:
            return x
        return view.mean(tap) if self.probe.option("readout") == "mean" else _grid(x)

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        names = tuple(self.maps(self.probe))
        rows = {name: reading[name] for name in ("label", *names)} | {"draw": reading["draw"][:, 0]}
        if self.probe.clustered:
            rows["group"] = groups
        if "draw" in self.tally and len(self.tally["draw"]) == self.probe.option("images"):
            near = rows["draw"] <= self.tally["draw"][-1]
            rows = {name: x[near] for name, x in rows.items()}
        if len(rows["draw"]):
            features = int(self.probe.option("features"))
            rows |= {name: project(rows[name].double(), features) for name in names}
            self.tally |= self._smallest([{name: self.tally.get(name, x[:0]) for name, x in rows.items()}, rows])

    def _smallest(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The rows of some parts that were drawn first, in the order of the draw."""
        rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        order = rows["draw"].argsort(stable=True)[: int(self.probe.option("images"))]
        return {name: x[order] for name, x in rows.items()}

    @property
    def ungrouped(self) -> frozenset[str]:
        return frozenset({"draw", "label", "group", *self.maps(self.probe)})

    def combined(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows = self._smallest([{name: part[name] for name in self.ungrouped if name in part} for part in (a, b)])
        counts = ({name: x for name, x in part.items() if name not in rows} for part in (a, b))
        return super().combined(*counts) | rows

    def leave_one_out(self) -> Iterator[Self]:
        """Yield nothing: what is made of a sample has its errors from the rows, which know their groups."""
        yield from ()

    @property
    def features(self) -> tuple[Tensor, ...]:
        """What was read at each tap, float64 of shape (n, features)."""
        return tuple(self.tally[tap] for tap in self.probe.taps)

    @property
    def labels(self) -> Tensor:
        """Class of each image of the sample, int64 of shape (n,)."""
        return self.tally["label"]

    @property
    def clusters(self) -> Tensor:
        """Number of what is independent of the rest, int64 of shape (n,): a group of sources, or the image itself."""
        return self.tally["group"] if self.probe.clustered else torch.arange(len(self.labels))


def _planned(probe: Probe, tap: Tap) -> int:
    """Features that a tap will have."""
    cells = math.prod(min(side, _CELLS) for side in tap.spatial)
    grid = probe.option("readout") == "grid" and tap.positions > 1
    return min(int(probe.option("features")), tap.shape[0] * (2 * cells if grid else 1))


def _grid(x: Tensor) -> Tensor:
    """Mean and maximum of each channel in each cell, shape (n, features); of one position the value alone."""
    if x[0, 0].numel() == 1:
        return x.flatten(1)
    x = x if x.is_floating_point() else x.float()
    dims = tuple(range(2, x.dim()))
    parts = [x[:, :, *cell] for cell in itertools.product(*map(_pieces, x.shape[2:]))]
    means = [part.mean(dims, dtype=torch.promote_types(x.dtype, torch.float32)) for part in parts]
    return torch.cat([*means, *(part.amax(dims).to(means[0].dtype) for part in parts)], 1)


def _pieces(side: int) -> list[slice]:
    """The cells of one side; of an odd number of positions they share the middle one, as in adaptive pooling."""
    pieces = min(side, _CELLS)
    return [slice(i * side // pieces, -(-(i + 1) * side // pieces)) for i in range(pieces)]
