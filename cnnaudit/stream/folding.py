"""Statistics in the making."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from cnnaudit.statistics import deal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from cnnaudit.data import Block
    from cnnaudit.statistics import Probe, Statistic, View
    from cnnaudit.statistics.base import Reading

__all__ = ["Folding"]


class _Rows(NamedTuple):
    """What is known of each image of a block besides what is read of it: int64 of shape (images,)."""

    group: Tensor
    first: Tensor
    slice: Tensor


class Folding:
    """Statistics in the making, and the readings that wait to be folded.

    A reading waits for its grid, which takes the readings of the first images, and for as many others as its
    statistic folds at once, because one operation on the rows of 16 blocks is much cheaper than 16 on one.

    A probe that tells the values of a column apart is read once and folded into one statistic for each value, all
    on the same grid.

    Some blocks may be read for their grids alone: a shard of an audit fixes them by the same first images as every
    other, and folds only those of its own blocks.
    """

    def __init__(self, probes: Sequence[Probe], groups: int, seed: int) -> None:
        self.groups, self.seed = groups, seed
        # Where every image is a source of its own, only what a baseline needs is kept by groups.
        self.clustered = all(probe.clustered for probe in probes)
        self.statistics: dict[Probe, Statistic] = {}
        self._readers = {probe: probe.statistic(probe, groups) for probe in probes}
        self._open = {probe for probe in probes if probe.statistic.calibrates}
        self._waiting: dict[Probe, list[tuple[Reading, _Rows, bool]]] = {probe: [] for probe in probes}
        self._met: dict[str, set[tuple[int, int]]] = {probe.by: set() for probe in probes}
        self._rows: dict[str, _Rows] = {}
        self._counts = True

    @property
    def calibrating(self) -> bool:
        """Whether some grid is not fixed yet."""
        return bool(self._open)

    def start(self, block: Block, *, counts: bool = True) -> None:
        """Turn to the next block of images; where it does not count, it is read for open grids alone."""
        self._rows = {by: self._described(block, by) for by in self._met}
        self._counts = counts

    def take(self, probe: Probe, view: View) -> None:
        """Read the block for a probe, and fold what need not wait any longer."""
        if not self._counts and probe not in self._open:
            return
        waiting = self._waiting[probe]
        waiting.append((self._readers[probe].read(view), self._rows[probe.by], self._counts))
        if probe in self._open:
            if sum(len(rows.group) for _, rows, _ in waiting) >= probe.statistic.calibrates:
                self._fold(probe)
        elif len(waiting) >= probe.statistic.together:
            self._fold(probe)

    def settle(self) -> None:
        """Fold what still waits."""
        for probe, waiting in self._waiting.items():
            if waiting:
                self._fold(probe)

    def _described(self, block: Block, by: str) -> _Rows:
        codes = block.columns[by] if by else torch.zeros_like(block.sources)
        group = deal(block.sources, self.groups, self.seed, ranked=not self.clustered)
        first = torch.ones_like(codes)
        if self.clustered:
            met = self._met[by]
            for row, key in enumerate(zip(codes.tolist(), block.sources.tolist(), strict=True)):
                first[row] = int(key not in met)
                met.add(key)
        return _Rows(*(x.to(block.images.device) for x in (group, first, codes)))

    def _fold(self, probe: Probe) -> None:
        reader, waiting = self._readers[probe], self._waiting[probe]
        if probe in self._open:
            reader.calibrate(_leading([reading for reading, *_ in waiting], reader.calibrates))
            self._open.remove(probe)
        counted = [(reading, rows) for reading, rows, counts in waiting if counts]
        for i in range(0, len(counted), reader.together):
            readings, blocks = zip(*counted[i : i + reader.together], strict=True)
            reading = readings[0] if len(readings) == 1 else _joined(readings)
            rows = _Rows(*map(torch.cat, zip(*blocks, strict=True)))
            if not probe.by:
                self._statistic(probe).fold(reading, rows.group, rows.first)
                continue
            for code in torch.unique(rows.slice).tolist():
                mine = rows.slice == code
                part = {name: x[mine] for name, x in reading.items()}
                self._statistic(replace(probe, slice=code)).fold(part, rows.group[mine], rows.first[mine])
        waiting.clear()

    def _statistic(self, probe: Probe) -> Statistic:
        """The statistic of a probe, or of a slice of one, made when its first image is folded."""
        if probe not in self.statistics:
            statistic = probe.statistic(probe, self.groups)
            statistic.calibration = self._readers[replace(probe, slice=None)].calibration
            self.statistics[probe] = statistic
        return self.statistics[probe]


def _joined(readings: Sequence[Reading]) -> Reading:
    return {name: torch.cat([reading[name] for reading in readings]) for name in readings[0]}


def _leading(readings: Sequence[Reading], images: int) -> list[Reading]:
    """The readings of so many first images: a grid does not depend on where blocks end."""
    kept, left = [], images
    for reading in readings:
        rows = min(left, len(next(iter(reading.values()))))
        if rows:
            kept.append({name: x[:rows] for name, x in reading.items()})
        left -= rows
    return kept
