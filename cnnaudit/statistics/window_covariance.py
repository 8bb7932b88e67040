"""Covariance of the values of a window: of one kernel's map, or of all channels that a filter reads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.covariance import about_mean
from cnnaudit.statistics.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cnnaudit.site import Site
    from cnnaudit.statistics.base import Reading

__all__ = ["PatchCovariance", "WindowCovariance", "patched", "share_of"]


class WindowCovariance(Statistic):
    """Second moments of the values of one kernel's window together, every sampled window of every image being one row.

    Sums of products are taken about a pilot mean, that of the calibration images rounded to the precision of the map:
    so a large offset costs no digits and parts merge by addition. Where windows differ in shape (``ceil_mode``, an
    adaptive pool of a size that does not divide) those of each shape have moments of their own; they are sampled in
    proportion to their number, at least one for each image.

    Tally (per group): ``rows``, int64 of shape (groups,); ``sum``, float64 of shape (groups, units, entries);
    ``scatter``, float64 of shape (groups, units, entries, entries); ``rows1``, ``sum1``, ``scatter1``, ... the same of
    the less frequent shapes. Units are the kernels that are read.
    """

    options: ClassVar[Mapping[str, Any]] = {"windows": 64}

    calibrates = 64
    together = 4
    sampled_kernels = True
    most_groups = 16

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        shapes = [windows.entries for windows in Windows.strata(probe.site)]
        numbers = sum(1 + len(probe.units) * _moments(entries) for entries in shapes)
        return min(groups, cls.most_groups) * numbers * 8

    def read(self, view: View) -> Reading:
        site = self.probe.site
        strata = Windows.strata(site)
        found = {}
        for number, windows in enumerate(strata):
            wanted = share_of(windows, strata, int(self.probe.option("windows")))
            values = self._read(view, windows, f"{site.path} {number}" if number else site.path, wanted)
            values = values if self.probe.kernels is None else values[..., list(self.probe.kernels)]
            found[_name("windows", number)] = values.transpose(2, 3)
        return found

    def _read(self, view: View, windows: Windows, path: str, wanted: int) -> Tensor:
        """Windows of shape (n, windows, entries, channels)."""
        values = windows.read(view.tensors[self.probe.taps[0]], view.images, path, view.seed, wanted)
        return values.to(torch.promote_types(values.dtype, torch.float32))

    def calibrate(self, readings: Sequence[Reading]) -> None:
        for number in range(_shapes(readings[0])):
            sample = torch.cat([reading[_name("windows", number)] for reading in readings])
            # Any pilot will do, and NaN would not be equal to itself where parts merge.
            pilot = sample.double().mean((0, 1)).nan_to_num(0.0, 0.0, 0.0)
            self.calibration[_name("pilot", number)] = pilot.to(sample.dtype).double()

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        for number in range(_shapes(reading)):
            self._add(reading[_name("windows", number)], groups, number)

    def _add(self, values: Tensor, groups: Tensor, number: int) -> None:
        x = values.double() - self.calibration[_name("pilot", number)]
        windows, units, entries = x.shape[1:]
        self._sum_up(_name("rows", number), torch.full_like(groups, windows), groups)
        self._sum_up(_name("sum", number), x.sum(1), groups)
        scatter = self._counter(_name("scatter", number), x, (units, entries, entries), torch.float64)
        for group in torch.unique(groups).tolist():
            rows = x[groups == group].flatten(0, 1).transpose(0, 1)
            scatter[group].baddbmm_(rows.mT, rows)

    def pooled(self, without: int | None = None) -> Self:
        kept = [group for group, images in enumerate(self.images.tolist()) if images and group != without]
        return self._as_one({name: x[kept].sum(0, keepdim=True) for name, x in self.tally.items()})

    def _less(self, pooled: Self, group: int) -> Self:
        # Added up again: what is taken out of a sum leaves its rounding, which would look like variance.
        return self.pooled(without=group)

    @property
    def matrices(self) -> tuple[Tensor, ...]:
        """Covariances of a pooled statistic for each shape of windows, divisor n, the most frequent shape first.

        They are float64 of shape (units, entries, entries); rows and columns of entries that never vary are exactly 0.
        """
        return tuple(
            about_mean(*(self.tally[_name(name, number)][0] for name in ("rows", "sum", "scatter")))
            for number in range(sum(name.startswith("rows") for name in self.tally))
        )


class PatchCovariance(WindowCovariance):
    """Second moments of all values that a strided convolution's filters read or skip at one position.

    A patch spans the kernel, and the stride where that is larger: see :func:`patched`. Of a grouped convolution it is
    that of one channel group, which are the units; entries are in the order of the weight's.

    The second tap is the layer's weight, which is kept with the calibration, with zeros where the patch reaches beyond
    the kernel: ``weight``, float64 of shape (groups, outputs of a group, entries).
    """

    options: ClassVar[Mapping[str, Any]] = {"windows": 16}

    sampled_kernels = False

    def __init__(self, probe: Probe, groups: int) -> None:
        super().__init__(probe, groups)
        self._weight: Tensor | None = None

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        site = probe.site
        held = site.units * cls.entries(site) * 8
        return held + min(groups, cls.most_groups) * (1 + site.groups * _moments(cls.entries(site))) * 8

    @staticmethod
    def entries(site: Site) -> int:
        """Number of values of a patch of one channel group."""
        return site.taps["input"].shape[0] // site.groups * Windows.of(patched(site)).entries

    def read(self, view: View) -> Reading:
        site = patched(self.probe.site)
        weight = view.tensors[self.probe.taps[1]]
        windows = self._read(view, Windows.of(site), site.path, int(self.probe.option("windows"))).transpose(2, 3)
        n, count, channels, entries = windows.shape
        patches = windows.reshape(n, count, site.groups, channels // site.groups * entries)
        self._weight = _laid_out(weight, site)
        # Images do not tell of a broken weight.
        trace = 0.0 if bool(weight.isfinite().all()) else torch.nan
        return {"windows": patches, "trace": patches.new_full((n, 1), trace)}

    def calibrate(self, readings: Sequence[Reading]) -> None:
        super().calibrate(readings)
        if self._weight is not None:
            self.calibration["weight"] = self._weight.nan_to_num(0.0, 0.0, 0.0)


def patched(site: Site) -> Site:
    """Return a convolution with the window that it reads or skips at one position: its kernel or larger stride.

    What lies between the taps of a dilated kernel is left out: other positions read it, unless the stride skips it,
    see ``convolution_loss.position_coverage``.
    """
    if max(site.dilation) > 1:
        return site
    return replace(site, kernel=tuple(max(k, s) for k, s in zip(site.kernel, site.stride, strict=True)))


def share_of(windows: Windows, strata: Sequence[Windows], wanted: int) -> int:
    """Return how many of the windows that are read of a map are of one shape, in proportion to how many there are."""
    return -(-wanted * windows.total // sum(each.total for each in strata))


def _shapes(reading: Reading) -> int:
    """Number of shapes that windows have."""
    return sum(name.startswith("windows") for name in reading)


def _name(part: str, number: int) -> str:
    """Name of a part of a reading, grid or tally that is of one shape of windows."""
    return f"{part}{number or ''}"


def _laid_out(weight: Tensor, site: Site) -> Tensor:
    """Rows of the weight in the order of a patch's entries, shape (groups, outputs of a group, entries)."""
    beyond = [n for k, full in zip(weight.shape[2:], site.kernel, strict=True) for n in (full - k, 0)]
    rows = torch.nn.functional.pad(weight.detach().double(), beyond[::-1]).flatten(1)
    return rows.reshape(site.groups, -1, rows.shape[1])


def _moments(entries: int) -> int:
    """Numbers that the sums of one window and of its products take."""
    return entries + entries**2
