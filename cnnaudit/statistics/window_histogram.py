"""Joint histograms of the quantised values of windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.grid import centres, edges, integer_grid, quantise
from cnnaudit.statistics.windows import Windows, integer_root

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cnnaudit.site import Site
    from cnnaudit.statistics.base import Reading

__all__ = ["CELLS", "MOST_CELLS", "Stratum", "WindowHistogram", "cell_levels", "default_levels", "pooled_level"]

CELLS = 4096  # where the number of levels is ours to choose
MOST_CELLS = 2**16


def default_levels(site: Site) -> int:
    """Return as many levels as a joint histogram of 4096 cells allows for the site's largest window, at most 8."""
    return min(8, integer_root(CELLS, max(windows.entries for windows in Windows.strata(site))))


@dataclass(frozen=True)
class Stratum:
    """The windows of one shape.

    Attributes:
        entries: Number of values in a window.
        share: Share of this shape among the windows of a map that were counted.
        counts: Pooled counts of the joint levels, of shape (kernels, levels**entries).
    """

    entries: int
    share: float
    counts: Tensor


class WindowHistogram(Statistic):
    """Joint distribution of a window's quantised values, and of neighbouring outputs and inputs.

    Everything is on one grid: equiprobable on the calibration images with a level of its own for exact zeros,
    or the integers themselves. The operator acts on quantised values and its result is quantised again, so it
    is a function of the window's cell and loses exactly H(window) - H(result) (arXiv 1203.6791).

    Where windows differ in shape (``ceil_mode``, an adaptive pool of a size that does not divide) those of each
    shape have a histogram of their own, on the same grid. They are sampled in proportion to their number, at least
    one for each image.

    Tally (per group, int32): ``windows`` of shape (groups, kernels, levels**entries), of the most frequent shape;
    ``windows1``, ``windows2``, ... the same of the others; ``outputs`` and ``inputs`` of shape (groups, kernels,
    levels**(2**d)): two neighbours along each dimension, outputs of the site's own operator and of the most frequent
    shape. The last two are absent where such an output has no neighbours.
    """

    options: ClassVar[Mapping[str, Any]] = {"levels": None, "windows": 64}
    calibrates = 64
    sampled_kernels = True

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        strata = Windows.strata(probe.site)
        levels = _levels(probe)
        cells = sum(int(levels**windows.entries) for windows in strata) + 2 * _block_cells(probe, strata[0])
        return groups * len(probe.units) * cells * 4

    def read(self, view: View) -> Reading:
        site = self.probe.site
        x = view.tensors[self.probe.taps[0]]
        strata = Windows.strata(site)
        wanted, total = int(self.probe.option("windows")), sum(windows.total for windows in strata)
        kernels = slice(None) if self.probe.kernels is None else list(self.probe.kernels)
        reading = {}
        for number, windows in enumerate(strata):
            share = -(-wanted * windows.total // total)
            path = f"{site.path} {number}" if number else site.path
            reading[_name(number)] = windows.read(x, view.images, path, view.seed, share)[..., kernels]
        if _block_cells(self.probe, strata[0]):
            outputs, inputs = strata[0].read_blocks(x, view.images, site.path, view.seed, max(1, wanted // 4))
            reading |= {"outputs": outputs[..., kernels], "inputs": inputs[..., kernels]}
        return reading

    def calibrate(self, readings: Sequence[Reading]) -> None:
        levels = _levels(self.probe)
        sample = torch.cat([r[name].flatten(0, 2) for r in readings for name in _window_names(r)])
        if sample.is_floating_point():
            edge = edges(sample, levels)
            self.calibration |= {"edges": edge, "centres": centres(sample, edge)}
        else:
            edge = integer_grid(sample.shape[1], levels).to(sample.device)
            values = torch.arange(levels, dtype=torch.float64, device=sample.device)
            self.calibration |= {"edges": edge, "centres": values.expand(sample.shape[1], -1).contiguous()}

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        edge, centre = self.calibration["edges"], self.calibration["centres"]
        levels = edge.shape[1] + 1
        for name in _window_names(reading):
            self._count(name, quantise(reading[name], edge), levels, groups)
        if "outputs" in reading:
            window = quantise(reading["outputs"], edge)
            result = pooled_level(window.movedim(-1, 0), self.probe.site.operator, edge, centre).movedim(0, -1)
            self._count("outputs", result, levels, groups)
            self._count("inputs", quantise(reading["inputs"], edge), levels, groups)

    def _count(self, name: str, codes: Tensor, levels: int, groups: Tensor) -> None:
        """Count joint codes; ``codes`` has shape (n, windows, entries, kernels)."""
        entries, kernels = codes.shape[2:]
        power = levels ** torch.arange(entries, device=codes.device)
        cell = (codes * power[:, None]).sum(2).transpose(1, 2)
        tally = self._counter(name, codes, (kernels, levels**entries), torch.int32)
        first = groups[:, None] * kernels + torch.arange(kernels, device=codes.device)
        place = (first[:, :, None] * tally.shape[2] + cell).reshape(-1)
        tally.view(-1).scatter_add_(0, place, torch.ones_like(place, dtype=torch.int32))

    @property
    def levels(self) -> int:
        """Levels of the grid."""
        return self.calibration["edges"].shape[1] + 1

    @property
    def strata(self) -> tuple[Stratum, ...]:
        """The windows of each shape that were counted, the most frequent first."""
        counted = [
            (windows, self.tally[_name(number)].sum(0))
            for number, windows in enumerate(Windows.strata(self.probe.site))
            if _name(number) in self.tally
        ]
        total = sum(windows.total for windows, _ in counted)
        return tuple(Stratum(windows.entries, windows.total / total, counts) for windows, counts in counted)

    def counts(self, name: str) -> Tensor | None:
        """Return pooled counts of shape (kernels, cells), or None where there are none.

        Those of ``windows`` are of the most frequent shape; ``strata`` has all.
        """
        tally = self.tally.get(name)
        return None if tally is None else tally.sum(0)


def cell_levels(levels: int, entries: int, device: torch.device) -> Tensor:
    """Return the level of every entry in every cell of a joint histogram, shape (cells, entries)."""
    cells = torch.arange(levels**entries, device=device)
    return cells[:, None] // levels ** torch.arange(entries, device=device) % levels


def pooled_level(window: Tensor, operator: str, edge: Tensor, centre: Tensor) -> Tensor:
    """Apply a pooling operator to quantised windows and quantise its result on the same grid.

    Args:
        window: Levels, int64 of shape (kernels, ..., entries).
        operator: ``max``, ``min``, ``stride`` (the first entry) or ``avg`` (mean of the levels' centres).
        edge: Shape (kernels, levels - 1).
        centre: Shape (kernels, levels).

    Returns:
        Levels, int64 of shape (kernels, ...).
    """
    if operator == "max":
        return window.amax(-1)
    if operator == "min":
        return window.amin(-1)
    if operator == "stride":
        return window[..., 0]
    kernels = window.shape[0]
    value = centre.gather(1, window.reshape(kernels, -1)).reshape(window.shape).mean(-1)
    return torch.searchsorted(edge, value.reshape(kernels, -1), right=True).reshape(value.shape)


def _name(stratum: int) -> str:
    """Name of a stratum's tally."""
    return f"windows{stratum or ''}"


def _window_names(reading: Reading) -> list[str]:
    return [name for name in reading if name.startswith("windows")]


def _levels(probe: Probe) -> int:
    levels = probe.option("levels")
    return default_levels(probe.site) if levels is None else int(levels)


def _block_cells(probe: Probe, windows: Windows) -> int:
    """Cells of a joint histogram of neighbouring outputs; 0 where there are none or too many."""
    cells = _levels(probe) ** (2 ** len(windows.spatial))
    return cells if windows.blocks and cells <= MOST_CELLS else 0
