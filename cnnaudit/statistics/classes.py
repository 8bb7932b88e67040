"""Responses counted by class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Probe, Statistic, View
from cnnaudit.statistics.grid import edges, integer_grid, quantise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["ClassHistogram"]


class ClassHistogram(Statistic):
    """Counts of images by kernel, class and level of the kernel's mean response over the map.

    The grid is equiprobable on the calibration images, with a level of its own for exact zeros.

    Tally: ``counts``, int32 of shape (kernels, classes, bins), not grouped: one number an image needs none. Where
    several images come from one source it is (groups, kernels, classes, bins).
    """

    options: ClassVar[Mapping[str, Any]] = {"bins": 8}
    calibrates = 256
    together = 16
    sampled_kernels = True
    pooled_counts = frozenset({"counts"})

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        return (groups if probe.clustered else 1) * len(probe.units) * classes * int(probe.option("bins")) * 4

    def read(self, view: View) -> Reading:
        if view.labels is None:
            raise ValueError("a class histogram needs labels; the plan checks that before a batch is read")
        response = _response(view, self.probe.taps[0])
        if self.probe.kernels is not None:
            response = response[:, list(self.probe.kernels)]
        return {"response": response, "labels": view.labels}

    def calibrate(self, readings: Sequence[Reading]) -> None:
        sample = torch.cat([r["response"] for r in readings])
        bins = int(self.probe.option("bins"))
        if sample.is_floating_point():
            self.calibration["edges"] = edges(sample, bins)
        else:
            self.calibration["edges"] = integer_grid(sample.shape[1], bins).to(sample.device)

    @property
    def ungrouped(self) -> frozenset[str]:
        return super().ungrouped | {"design_effect"}

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        response, labels = reading["response"], reading["labels"]
        kernels, bins = response.shape[1], int(self.probe.option("bins"))
        counts = self._grown(kernels, int(labels.max()) + 1, bins, response)
        cell = labels[:, None] * bins + quantise(response, self.calibration["edges"])
        place = torch.arange(kernels, device=cell.device) * (counts.shape[-2] * bins) + cell
        if self.probe.clustered:
            place = place + groups[:, None] * counts[0].numel()
        ones = torch.ones(place.numel(), dtype=torch.int32, device=place.device)
        counts.view(-1).scatter_add_(0, place.T.reshape(-1), ones)

    def combined(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        classes = max(part["counts"].shape[-2] for part in (a, b))
        return super().combined(*(dict(part) | {"counts": _widened(part["counts"], classes)} for part in (a, b)))

    def pooled(self, without: int | None = None) -> Self:
        one = super().pooled(without)
        if self.probe.clustered and "design_effect" not in one.tally:
            one.tally["design_effect"] = self._design_effect()
        return one

    def _grown(self, kernels: int, classes: int, bins: int, like: Tensor) -> Tensor:
        """Return the counts, widened when a class is met that is larger than all before."""
        counts = self._counter("counts", like, (kernels, 0, bins), torch.int32)
        if counts.shape[-2] < classes:
            self.tally["counts"] = counts = _widened(counts, classes)
        return counts

    def _design_effect(self) -> Tensor:
        """Return three properties of each kernel and the images that told them, float64 of shape (kernels, 4)."""
        sizes = self.images.double()
        groups, n = int((sizes > 0).sum()), sizes.sum()
        share = (sizes / n)[:, None, None]

        def between(x: Tensor, p: Tensor) -> Tensor:
            """Variance between groups over that of as many independent images, summed over cells."""
            x = x - share * x.sum(0)
            return (x.square().sum(0) / p.clamp(min=1e-300)).sum() * groups / (max(groups - 1, 1) * n)

        found = []
        for kernel in self.tally["counts"].unbind(1):
            counts = kernel.double()
            rows, columns = counts.sum(2, keepdim=True), counts.sum(1, keepdim=True)
            p_row, p_column = rows.sum(0) / n, columns.sum(0) / n
            residual = counts - p_row * columns - p_column * rows + p_row * p_column * share * n
            occupied = [int((x.sum(0) > 0).sum()) for x in (counts, rows, columns)]
            freedom = max((occupied[1] - 1) * (occupied[2] - 1), 1)
            effect = (between(residual, p_row * p_column) / freedom).clamp(min=1)
            joint = between(counts, counts.sum(0) / n) - between(rows, p_row) - between(columns, p_column)
            excess = (joint - (occupied[0] - occupied[1] - occupied[2] + 1)).clamp(min=0)
            told = counts - rows * (counts.sum(0) / rows.sum(0).clamp(min=1))  # of the level, when the class is known
            undecided = occupied[0] - occupied[1]
            within = between(told, counts.sum(0) / n) / undecided if undecided else n / max(self.n_sources, 1)
            found.append(torch.stack([effect, torch.maximum(effect, within), excess, n]))
        return torch.stack(found)

    @property
    def counts(self) -> Tensor:
        """Counts, int32 of shape (kernels, classes, bins)."""
        counts = self.tally["counts"]
        return counts.sum(0, dtype=counts.dtype) if self.probe.clustered else counts

    @property
    def design_effect(self) -> Tensor:
        """How many images count for one in a test of independence, float64 of shape (kernels,).

        Between groups of sources the residual n_gbc - p_b n_gc - p_c n_gb + p_b p_c n_g varies more than it would
        if images were independent. The mean over cells of that ratio is the first-order correction of a table's G or
        chi-square (Rao & Scott, JASA 76, 1981; Annals of Statistics 12, 1984). It is at
        least 1, and 1 where no image is related to another.
        """
        return self._of_sources(0, 1.0)

    @property
    def class_effect(self) -> Tensor:
        """How many images count for one where class and response depend on each other, float64 of shape (kernels,).

        The same ratio for the residual n_gbc - n_gc p(b|c), which is 1 however classes lie in sources as long as the
        response is not related otherwise; or ``design_effect``, if that is larger. Where a class leaves nothing open,
        a source counts for one.
        """
        return self._of_sources(1, 1.0)

    @property
    def excess_bias(self) -> Tensor:
        """By how much relatedness raises the mean of 2 N ln2 I, float64 of shape (kernels,); at least 0.

        To second order that mean is the sum over cells of their variance between groups over their own mean, less
        the same over classes and over levels: with independent images the occupied cells of Miller-Madow.
        """
        return self._of_sources(2, 0.0)

    @property
    def lacks_a_group(self) -> bool:
        """Whether this is the rest of a pooled statistic, which a jackknife asks for its plain values."""
        return "design_effect" in self.tally and self.n_images < int(self.tally["design_effect"][0, 3])

    def _of_sources(self, column: int, none: float) -> Tensor:
        counts = self.tally["counts"]
        without = torch.full((len(counts), 4), none, dtype=torch.float64, device=counts.device)
        return self.tally.get("design_effect", without)[:, column]


def _widened(counts: Tensor, classes: int) -> Tensor:
    """Counts with room for more classes."""
    return torch.nn.functional.pad(counts, (0, 0, 0, classes - counts.shape[-2]))


def _response(view: View, tap: str) -> Tensor:
    """Mean over the map; integers that are one number an image already stay integers."""
    x = view.tensors[tap]
    if x.dim() == 2:
        return x
    if not x.is_floating_point() and x[0, 0].numel() == 1:
        return x.flatten(1)
    return view.mean(tap)
