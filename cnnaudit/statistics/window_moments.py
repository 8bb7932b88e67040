"""How the values of a window depend on each other: their joint histogram and their second moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from cnnaudit.lazy import torch
from cnnaudit.statistics.covariance import about_mean
from cnnaudit.statistics.window_histogram import WindowHistogram, default_levels
from cnnaudit.statistics.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from cnnaudit.statistics.base import Probe, Reading, View

__all__ = ["WindowMoments"]

_WINDOWS = "windows"


class WindowMoments(WindowHistogram):
    """Joint histogram of windows on the grid of a WindowHistogram, and covariance of their values as they are.

    Tally (per group): that of a WindowHistogram without neighbours; for windows of the most frequent shape ``rows``,
    their number, int64 of shape (groups,), ``sum``, float64 of shape (groups, kernels, entries), and ``scatter``,
    float64 of shape (groups, kernels, entries, entries), about a pilot mean, so that a large offset costs no digits
    and parts merge by addition; ``rows1``, ``sum1``, ``scatter1``, ... the same for the other shapes.
    """

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        levels = int(probe.option("levels") or default_levels(probe.site))
        shapes = [windows.entries for windows in Windows.strata(probe.site)]
        kernel = sum(int(levels**entries) * 4 + entries * (1 + entries) * 8 for entries in shapes)
        return groups * (len(probe.units) * kernel + len(shapes) * 8)

    def read(self, view: View) -> Reading:
        return {name: x for name, x in super().read(view).items() if name.startswith(_WINDOWS)}

    def calibrate(self, readings: Sequence[Reading]) -> None:
        super().calibrate(readings)
        sample = torch.cat([x.flatten(0, 2) for reading in readings for x in reading.values()])
        # A number of the map's own precision, so that what never varies is exactly 0 about it; and NaN would not be
        # equal to itself where parts merge.
        pilot = sample.double().mean(0).nan_to_num(0.0, 0.0, 0.0)
        self.calibration["pilot"] = pilot.to(sample.dtype).double()

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        super().add(reading, groups, first)
        for name, windows in reading.items():
            shape = name.removeprefix(_WINDOWS)
            x = (windows.double() - self.calibration["pilot"]).transpose(2, 3)
            self._sum_up(f"rows{shape}", torch.full_like(groups, x.shape[1]), groups)
            self._sum_up(f"sum{shape}", x.sum(1), groups)
            scatter = self._counter(f"scatter{shape}", x, (*x.shape[2:], x.shape[3]), torch.float64)
            for group in torch.unique(groups).tolist():
                rows = x[groups == group].flatten(0, 1).transpose(0, 1)
                scatter[group].baddbmm_(rows.mT, rows)

    def _less(self, pooled: Self, group: int) -> Self:
        rest = super()._less(pooled, group)
        kept = [other for other in range(len(self.images)) if other != group]
        # Added up again: what is taken out of a sum leaves its rounding, which would look like variance.
        again = {n: x[kept].sum(0, keepdim=True) for n, x in self.tally.items() if x.is_floating_point()}
        return self._as_one(rest.tally | again)

    @property
    def covariances(self) -> tuple[Tensor, ...]:
        """Of a pooled statistic, in the order of :attr:`strata`, float64 of shape (kernels, entries, entries).

        Divisor n; rows and columns of entries that never vary are exactly 0.
        """
        shapes = (number or "" for number in range(len(self.strata)))
        sums = ((self.tally[f"{name}{shape}"] for name in ("rows", "sum", "scatter")) for shape in shapes)
        return tuple(about_mean(rows, total[0], scatter[0]) for rows, total, scatter in sums)
