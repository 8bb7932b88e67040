"""Responses at positions, counted by the concepts that masks show there, in two halves."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from cnnaudit.errors import EvidenceError
from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.grid import edges, quantise
from cnnaudit.statistics.sampling import gather, sample_positions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["PositionHalves", "PositionResponses"]

_BODY = 56
_TAIL = 7  # further edges at the top 2^-1, 2^-2, ... of what a level of the body holds
_LEVELS = _BODY + _TAIL + 1  # and the threshold
_TINY = 2.0**-1022


class PositionHalves(NamedTuple):
    """Counts of the sources in the even and in the odd groups.

    Attributes:
        concepts: Positions that show a concept, shape (2, kernels, concepts, levels).
        everyone: Positions of which anything is known, shape (2, kernels, levels).
        images: Images that show a concept at a position that was read, shape (2, concepts).
        sources: Sources whose first image does, shape (2, concepts); fewer than there are is the safe side.
    """

    concepts: Tensor
    everyone: Tensor
    images: Tensor
    sources: Tensor


class PositionResponses(Statistic):
    """Counts of positions by kernel, concept and level of the kernel's response there.

    A map is laid over its image's masks edge to edge, and its value at a position of theirs is the one of the map
    upsampled linearly to their size (``align_corners=False``). Of each image the same number of positions is drawn;
    those of which nothing is known are left out.

    The grid is fixed by the first images: 56 levels of equal share, exact zero one of them, the top one divided again
    and again in halves, and the threshold that the top ``quantile`` lie above. Where no value lies above that
    threshold, as where more than ``quantile`` are at an activation's ceiling, the ceiling itself counts as above.

    Tally: ``concepts``, int32 of shape (groups, kernels, concepts, levels); ``everyone``, int32 of shape (groups,
    kernels, levels); ``concept_images`` and ``concept_sources``, int64 of shape (groups, concepts). Pooled, the even
    and the odd groups stay apart along a second dimension.
    """

    options: ClassVar[Mapping[str, Any]] = {"positions": 256, "quantile": 0.005}
    calibrates = 64
    sampled_kernels = True
    most_groups = 16
    by_concept = True

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        groups = min(groups, cls.most_groups)
        return groups * (len(probe.units) * (classes + 1) * _LEVELS * 4 + classes * 16)

    def read(self, view: View) -> Reading:
        if view.masks is None:
            raise ValueError("positions are told apart by masks; the plan checks that before a batch is read")
        x = view.tensors[self.probe.taps[0]]
        x = x if x.is_floating_point() else x.to(torch.float32)
        dense = view.masks.dtype is not torch.bool
        size = view.masks.shape[1 if dense else 2 :]
        if len(size) != x.dim() - 2:
            raise EvidenceError(
                f"masks of {len(size)} dimensions cannot be laid over the maps of {self.probe.site.path}, which have "
                f"{x.dim() - 2}: leave that site out with `at:`"
            )
        wanted = int(self.probe.option("positions"))
        index = sample_positions(view.images, self.probe.site.path, view.seed, math.prod(size), wanted)
        shown = view.masks.flatten(1).gather(1, index) if dense else gather(view.masks, index)
        response = _upsampled(x, index, tuple(size))
        if self.probe.kernels is not None:
            response = response[..., list(self.probe.kernels)]
        return {"response": response, "shown": shown}

    def calibrate(self, readings: Sequence[Reading]) -> None:
        # No more images than it takes, so that the size of blocks does not decide the grid.
        response, shown = (torch.cat([r[name] for r in readings]) for name in ("response", "shown"))
        known = response[_known(shown)]
        sample = known if len(known) else response.flatten(0, 1)
        threshold = _threshold(sample, float(self.probe.option("quantile")))
        tail = [_threshold(sample, 2.0**-i / _BODY) for i in range(1, _TAIL + 1)]
        grid = torch.cat([edges(sample, _BODY), torch.stack([threshold, *tail], 1)], 1).sort(1).values
        self.calibration |= {"edges": grid, "threshold": threshold}

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        response, shown = reading["response"], reading["shown"]
        n, positions, kernels = response.shape
        level = quantise(response, self.calibration["edges"]).flatten(0, 1)
        row, concept = _pairs(shown)
        concepts = int(concept.max()) + 1 if len(concept) else 0
        if shown.dtype is torch.bool:
            concepts = shown.shape[2]
        self._widen(kernels, concepts, response)
        held = self.tally["concept_images"].shape[1]
        group = groups[:, None].expand(-1, positions).flatten()
        known = _known(shown).flatten().nonzero()[:, 0]
        self._count("everyone", level[known] + (group[known] * (kernels * _LEVELS))[:, None], 1)
        first_cell = (group[row] * (kernels * held) + concept) * _LEVELS
        self._count("concepts", level[row] + first_cell[:, None], held)
        present = torch.zeros(n, held, dtype=torch.int64, device=response.device)
        present.view(-1).index_fill_(0, row // positions * held + concept, 1)
        self._sum_up("concept_images", present, groups)
        self._sum_up("concept_sources", present * first[:, None], groups)

    def _count(self, name: str, cell: Tensor, concepts: int) -> None:
        """Count levels, int64 of shape (rows, kernels), to which the first cell of their group and concept is added."""
        kernels = cell.shape[1]
        cell += torch.arange(kernels, device=cell.device) * (concepts * _LEVELS)
        ones = torch.ones(1, dtype=torch.int32, device=cell.device).expand(cell.numel())
        self.tally[name].view(-1).scatter_add_(0, cell.view(-1), ones)

    def _widen(self, kernels: int, concepts: int, like: Tensor) -> None:
        """Make room for the concepts that were met."""
        self._counter("everyone", like, (kernels, _LEVELS), torch.int32)
        self._counter("concepts", like, (kernels, 0, _LEVELS), torch.int32)
        for name in ("concept_images", "concept_sources"):
            self._counter(name, like, (0,))
        self.tally = _widened(self.tally, concepts)

    def combined(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        concepts = max(part["concept_images"].shape[-1] for part in (a, b))
        return super().combined(*(_widened(part, concepts) for part in (a, b)))

    def pooled(self, without: int | None = None) -> Self:
        counters = {n: x.sum(0, keepdim=True) for n, x in self.tally.items() if n not in _HALVED}
        halves = {n: x[None] for n, x in self.halves._asdict().items()}
        pooled = self._as_one(counters | {name: halves[field] for name, field in _HALVED.items()})
        return pooled if without is None else self._less(pooled, without)

    def _less(self, pooled: Self, group: int) -> Self:
        tally = {}
        for name, x in pooled.tally.items():
            tally[name] = x.clone()
            part = tally[name][0, group % 2] if name in _HALVED else tally[name][0]
            part -= self.tally[name][group]
        return self._as_one(tally)

    @property
    def halves(self) -> PositionHalves:
        """What the even and the odd groups hold."""
        if self.tally["everyone"].dim() == 4:  # pooled already
            return PositionHalves(**{field: self.tally[name][0] for name, field in _HALVED.items()})
        found = {}
        for name, field in _HALVED.items():
            x = self.tally[name]
            found[field] = torch.stack([x[half::2].sum(0, dtype=x.dtype) for half in (0, 1)])
        return PositionHalves(**found)

    @property
    def above(self) -> Tensor:
        """Levels above the threshold, bool of shape (kernels, levels)."""
        grid, threshold = self.calibration["edges"], self.calibration["threshold"]
        first = (grid <= threshold[:, None]).sum(1)
        above: Tensor = torch.arange(_LEVELS, device=grid.device) >= first[:, None]
        return above

    @property
    def atoms(self) -> Tensor:
        """Levels that hold nothing but exact zeros, bool of shape (kernels, levels)."""
        grid = self.calibration["edges"]
        tiny = torch.full((len(grid),), _TINY, dtype=torch.float64, device=grid.device)
        zero, more = quantise(0 * tiny, grid), quantise(tiny, grid)
        return torch.nn.functional.one_hot(zero, _LEVELS).bool() & (more > zero)[:, None]


_HALVED = {"concepts": "concepts", "everyone": "everyone", "concept_images": "images", "concept_sources": "sources"}


def _known(shown: Tensor) -> Tensor:
    """Positions of which anything is known, bool of shape (n, positions)."""
    if shown.dtype is torch.bool:
        return torch.ones(shown.shape[:2], dtype=torch.bool, device=shown.device)
    return shown >= 0


def _pairs(shown: Tensor) -> tuple[Tensor, Tensor]:
    """Every position, numbered through all images, with every concept that it shows, two of shape (pairs,)."""
    if shown.dtype is torch.bool:
        row, concept = shown.flatten(0, 1).nonzero().unbind(1)
        return row, concept
    codes = shown.flatten()
    row = (codes >= 0).nonzero()[:, 0]
    return row, codes[row].long()


def _widened(tally: Mapping[str, Tensor], concepts: int) -> dict[str, Tensor]:
    """The tally with room for so many concepts."""
    missing = max(0, concepts - tally["concept_images"].shape[-1])
    wider = {"concepts": (0, 0, 0, missing), "concept_images": (0, missing), "concept_sources": (0, missing)}
    if not missing:
        return dict(tally)
    return dict(tally) | {name: torch.nn.functional.pad(tally[name], by) for name, by in wider.items()}


def _threshold(sample: Tensor, share: float) -> Tensor:
    """Return edges that values reach which are above the top ``share`` of a sample, float64 of shape (kernels,).

    That is the lowest value above which no more than that share lies, or the highest where none lies above it.
    """
    n = len(sample)
    most = min(n - 1, math.floor(share * n + 1e-9))
    # As many as lie above, and one more.
    top = sample.topk(most + 1, 0).values.double()
    value, highest = top[-1], top[0]
    above = torch.nextafter(value, torch.full_like(value, math.inf))
    above = torch.where(value == 0, _TINY, above)
    ceiling = (value == highest) & (most > 0) & (sample.amin(0).double() < highest)
    return torch.where(ceiling, highest, above)


def _upsampled(x: Tensor, index: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return the values at some positions of maps that are upsampled linearly to a size.

    Args:
        x: Maps of shape (n, units, *spatial).
        index: Flattened positions among those of that size, int64 of shape (n, r).
        size: One number for each dimension of the maps.

    Returns:
        Shape (n, r, units).
    """
    spatial = tuple(x.shape[2:])
    corners: list[tuple[Tensor, Tensor]] = []
    weights: list[Tensor | None] = []
    for i, (whole, held) in enumerate(zip(size, spatial, strict=True)):
        place = index // math.prod(size[i + 1 :]) % whole
        at = ((place.double() + 0.5) * (held / whole) - 0.5).clamp(min=0)
        low = at.floor().long().clamp(max=held - 1)
        pitch = math.prod(spatial[i + 1 :])
        corners.append((low * pitch, (low + 1).clamp(max=held - 1) * pitch))
        # Where map and masks have the same extent every position is an entry of the map.
        weights.append(None if whole == held else (at - low).to(x.dtype)[..., None])
    used = [(0,) if weight is None else (0, 1) for weight in weights]
    values = {
        which: gather(x, sum((corner[side] for corner, side in zip(corners, which, strict=True)), 0 * index))
        for which in itertools.product(*used)
    }
    for i in reversed(range(len(size))):
        weight = weights[i]
        if weight is not None:
            # In this form what is equal on both sides, a ceiling, comes out as it is.
            values = {
                which[:i]: torch.lerp(low, values[*which[:i], 1], weight)
                for which, low in values.items()
                if which[i] == 0
            }
        else:
            values = {which[:i]: value for which, value in values.items()}
    return values[()]
