"""Statistics in the making."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from cnnaudit.statistics import Probe, View

__all__ = ["Folding"]


class Folding:
    """Statistics in the making, and the readings that wait to be folded.

    A reading waits for its grid, which takes the readings of the first images, and for as many others as its
    statistic folds at once, because one operation on the rows of 16 blocks is much cheaper than 16 on one.
    """

    def __init__(self, probes: Sequence[Probe], groups: int) -> None:
        self.groups = groups
        self.statistics = {probe: probe.statistic(probe, groups) for probe in probes}
        self._open = {probe for probe in probes if probe.statistic.calibrates}
        self._waiting: dict[Probe, list[tuple[dict[str, Tensor], int]]] = {probe: [] for probe in probes}

    def take(self, probe: Probe, view: View, number: int) -> None:
        """Read a block for a probe, and fold what need not wait any longer."""
        waiting = self._waiting[probe]
        waiting.append((self.statistics[probe].read(view), number % self.groups))
        if probe in self._open:
            if sum(map(_rows, waiting)) >= probe.statistic.calibrates:
                self._fold(probe)
        elif len(waiting) >= probe.statistic.together:
            self._fold(probe)

    def finish(self) -> None:
        """Fold what still waits."""
        for probe, waiting in self._waiting.items():
            if waiting:
                self._fold(probe)

    def _fold(self, probe: Probe) -> None:
        statistic, waiting = self.statistics[probe], self._waiting[probe]
        if probe in self._open:
            statistic.calibrate([reading for reading, _ in waiting])
            self._open.remove(probe)
        for _, equal in itertools.groupby(waiting, key=_rows):
            blocks = list(equal)
            for i in range(0, len(blocks), statistic.together):
                readings, groups = zip(*blocks[i : i + statistic.together], strict=True)
                rows = (
                    readings[0] if len(readings) == 1 else {n: torch.cat([r[n] for r in readings]) for n in readings[0]}
                )
                statistic.fold(rows, *groups)
        waiting.clear()


def _rows(waiting: tuple[dict[str, Tensor], int]) -> int:
    """Images of a block that waits."""
    return len(next(iter(waiting[0].values())))
