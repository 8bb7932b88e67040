"""Covariance of one map's channels, and of another's with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.sampling import gather, sample_positions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["PairCovariance"]

_ROUNDING = 1e-12


class PairCovariance(Statistic):
    """Second moments of all channels of s with each other and with each channel of f, at sampled positions.

    Of f only the kernels of the probe are read, of s all channels: that is what predicting f from s takes. Sums of
    products are taken about a pilot mean, that of the first images, so that a large offset costs no digits.

    Tally (per group): ``rows``, int64 of shape (groups,); sums ``s`` and ``f`` of shape (groups, channels), and of
    products ``ss`` (groups, channels of s, channels of s), ``sf`` (groups, channels of s, channels of f) and ``ff``
    (groups, channels of f), all float64.
    """

    options: ClassVar[Mapping[str, Any]] = {"positions": 16}

    calibrates = 64
    together = 16
    sampled_kernels = True
    most_groups = 16

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        s, f = probe.site.taps[probe.taps[0]].shape[0], len(probe.units)
        return min(groups, cls.most_groups) * (1 + s + s * s + s * f + 2 * f) * 8

    def read(self, view: View) -> Reading:
        s, f = (view.tensors[tap] for tap in self.probe.taps)
        s, f = (x[..., None] if x.dim() == 2 else x for x in (s, f))
        positions, wanted = s[0, 0].numel(), int(self.probe.option("positions"))
        index = sample_positions(view.images, self.probe.site.path, view.seed, positions, wanted)
        s, f = gather(s, index), gather(f, index)
        if self.probe.kernels is not None:
            f = f[..., list(self.probe.kernels)]
        return {name: x.to(torch.promote_types(x.dtype, torch.float32)) for name, x in (("s", s), ("f", f))}

    def calibrate(self, readings: Sequence[Reading]) -> None:
        for name in ("s", "f"):
            sample = torch.cat([reading[name] for reading in readings])
            # Rounded to the precision of the map, so that what never varies is exactly 0. NaN would not equal itself.
            self.calibration[name] = sample.double().mean((0, 1)).nan_to_num(0.0, 0.0, 0.0).to(sample.dtype).double()

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        s, f = (reading[name].double() - self.calibration[name] for name in ("s", "f"))
        self._sum_up("rows", torch.full_like(groups, s.shape[1]), groups)
        for name, amounts in (("s", s), ("f", f), ("ff", f * f)):
            self._sum_up(name, amounts.sum(1), groups)
        for name, other in (("ss", s), ("sf", f)):
            held = self._counter(name, s, (s.shape[2], other.shape[2]), torch.float64)
            for group in torch.unique(groups).tolist():
                mine = groups == group
                held[group].addmm_(s[mine].flatten(0, 1).T, other[mine].flatten(0, 1))

    def pooled(self, without: int | None = None) -> Self:
        kept = [group for group in range(len(self.images)) if group != without]
        return self._as_one({name: x[kept].sum(0, keepdim=True) for name, x in self.tally.items()})

    def _less(self, pooled: Self, group: int) -> Self:
        # Added up again: what is taken out of a sum leaves its rounding, which would look like variance.
        return self.pooled(without=group)

    @property
    def covariances(self) -> tuple[Tensor, Tensor, Tensor]:
        """Covariances of s, of s with f, and the variances of f, of a pooled statistic, divisor n.

        Channels that never vary are exactly 0.
        """
        rows = self.tally["rows"].clamp(min=1)
        s, f = (self.tally[name][0] / rows for name in ("s", "f"))
        ss, sf, ff = (self.tally[name][0] / rows for name in ("ss", "sf", "ff"))
        power_s, power_f = ss.diagonal(), ff
        ss, sf, ff = ss - torch.outer(s, s), sf - torch.outer(s, f), ff - f * f
        varies_s, varies_f = ss.diagonal() > _ROUNDING * power_s, ff > _ROUNDING * power_f
        return (
            torch.where(varies_s[:, None] & varies_s, ss, 0.0),
            torch.where(varies_s[:, None] & varies_f, sf, 0.0),
            torch.where(varies_f, ff, 0.0),
        )
