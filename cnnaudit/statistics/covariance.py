"""Covariance of channels over images and sampled positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.sampling import gather, sample_positions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["Covariance", "about_mean"]

_ROUNDING = 1e-12


class Covariance(Statistic):
    """Second moments of all channels together, every sampled position of every image being one row.

    Sums of products are taken about a pilot mean, that of the calibration images rounded to the precision of the map:
    so a large offset costs no digits, parts merge by addition, and a channel that never varies is exactly 0.

    Tally (per group): ``rows``, int64 of shape (groups,); ``sum``, float64 of shape (groups, channels); ``scatter``,
    float64 of shape (groups, channels, channels). All groups pooled also hold ``own``, float64 of shape (1, 2): see
    :attr:`moments`.

    Attributes:
        left_out: Where one group was left out of a pooled statistic, its scatter about the mean of the others,
            shape (channels, channels).
    """

    left_out: Tensor | None = None

    options: ClassVar[Mapping[str, Any]] = {"positions": 16}

    calibrates = 64
    together = 16
    sampled_kernels = True
    most_groups = 16

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        channels = len(probe.units)
        return min(groups, cls.most_groups) * (1 + channels + channels**2) * 8

    def read(self, view: View) -> Reading:
        x = view.tensors[self.probe.taps[0]]
        x = x[..., None] if x.dim() == 2 else x
        positions, wanted = x[0, 0].numel(), int(self.probe.option("positions"))
        values = gather(x, sample_positions(view.images, self.probe.site.path, view.seed, positions, wanted))
        if self.probe.kernels is not None:
            values = values[..., list(self.probe.kernels)]
        return {"values": values.to(torch.promote_types(values.dtype, torch.float32))}

    def calibrate(self, readings: Sequence[Reading]) -> None:
        sample = torch.cat([reading["values"] for reading in readings])
        # Any pilot will do, and NaN would not be equal to itself where parts merge.
        pilot = sample.double().mean((0, 1)).nan_to_num(0.0, 0.0, 0.0)
        self.calibration["pilot"] = pilot.to(sample.dtype).double()

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        x = reading["values"].double() - self.calibration["pilot"]
        positions, channels = x.shape[1:]
        self._sum_up("rows", torch.full_like(groups, positions), groups)
        self._sum_up("sum", x.sum(1), groups)
        scatter = self._counter("scatter", x, (channels, channels), torch.float64)
        for group in torch.unique(groups).tolist():
            rows = x[groups == group].reshape(-1, channels)
            scatter[group].addmm_(rows.T, rows)

    def pooled(self, without: int | None = None) -> Self:
        if "own" in self.tally:
            return self
        kept = [group for group, images in enumerate(self.images.tolist()) if images and group != without]
        sums = {name: x[kept].sum(0, keepdim=True) for name, x in self.tally.items()}
        own = sums["scatter"].new_zeros(1, 2)
        mean = sums["sum"][0] / sums["rows"].clamp(min=1)
        for group in kept:
            scatter = self._centred(group, mean)
            own += torch.stack([scatter.trace().square(), scatter.square().sum()])
        one = self._as_one(sums | {"own": own})
        one.left_out = None if without is None else self._centred(without, mean)
        return one

    def _less(self, pooled: Self, group: int) -> Self:
        # Added up again: what is taken out of a sum leaves its rounding, which would look like variance.
        return self.pooled(without=group)

    def _centred(self, group: int, mean: Tensor) -> Tensor:
        """Scatter of one group about a mean that need not be its own."""
        half = self.tally["sum"][group] - self.tally["rows"][group] * mean / 2
        return self.tally["scatter"][group].addr(half, mean, alpha=-1).addr_(mean, half, alpha=-1)

    @property
    def matrix(self) -> Tensor:
        """Covariance of a pooled statistic, divisor n, float64 of shape (channels, channels).

        Rows and columns of channels that never vary are exactly 0.
        """
        return about_mean(self.tally["rows"], self.tally["sum"][0], self.tally["scatter"][0])

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """(tr S)^2 and tr S^2 of the population's covariance S, up to one and the same factor.

        Squares of a sample's moments are too large, because every sample meets itself in them. Only products of
        different groups of images (of sources, where several images come from one) are taken:
        (sum_g tr T_g)^2 - sum_g (tr T_g)^2 and the same for the matrices, T_g being the scatter of group g about the
        common mean. Of one group there is none, and both are NaN.
        """
        total = self.tally["rows"][0] * self.matrix
        trace, norm = total.trace().square(), total.square().sum()
        across = torch.stack([trace, norm]) - self.tally["own"][0]
        trace, norm = torch.where(across[1] > 1e-9 * norm, across, torch.nan).unbind()
        return trace, norm


def about_mean(rows: Tensor, total: Tensor, scatter: Tensor) -> Tensor:
    """Return the covariance about the mean from sums about a pilot mean, divisor n, exactly 0 where nothing varies.

    Args:
        rows: Number of rows, int64 of shape (1,).
        total: Sums, float64 of shape (..., channels).
        scatter: Sums of products, float64 of shape (..., channels, channels).
    """
    n = rows.clamp(min=1)
    mean, power = total / n, scatter.diagonal(dim1=-2, dim2=-1) / n
    found = scatter / n - mean[..., :, None] * mean[..., None, :]
    varies = found.diagonal(dim1=-2, dim2=-1) > _ROUNDING * power
    return torch.where(varies[..., :, None] & varies[..., None, :], found, 0.0)
