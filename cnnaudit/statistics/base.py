"""What every statistic is: a mergeable summary of tensors, and the probe that says what it reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from cnnaudit.errors import EvidenceError
from cnnaudit.lazy import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from cnnaudit.site import Site

    Reading = dict[str, Tensor]

__all__ = ["Probe", "Statistic", "View", "nonfinite"]


@dataclass(frozen=True)
class View:
    """What one block of images shows at the taps of a site.

    Attributes:
        tensors: For each tap ``(images, units, *spatial)``, a parameter as it is; only valid until the next node of the
            graph runs.
        images: Index of each image in the data, int64 of shape (images,); decides the sampled positions.
        labels: Class of each image, int64 of shape (images,), or None.
        seed: Seed of the sampled positions.
        masks: Concepts at each position of an image: dense labels, int16 of shape (images, *size), -1 where nothing is
            known; or bool of shape (images, concepts, *size); or None. Their size need not be the image's.
    """

    tensors: Mapping[str, Tensor]
    images: Tensor
    labels: Tensor | None
    seed: int
    masks: Tensor | None = None
    _means: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def mean(self, tap: str) -> Tensor:
        """Return the mean over each map, float32 of shape (images, units): one reduction for all who ask."""
        if tap not in self._means:
            maps = self.tensors[tap]
            maps = maps[..., None] if maps.dim() == 2 else maps
            self._means[tap] = maps.mean(tuple(range(2, maps.dim())), dtype=torch.float32)
        return self._means[tap]


def nonfinite(x: Tensor) -> Tensor:
    """Tell which rows hold a NaN or an infinity, bool of shape (n,)."""
    if x.is_floating_point():
        rows = x.flatten(1)
        sums = rows.sum(1, dtype=torch.promote_types(x.dtype, torch.float32))
        if not sums.isfinite().all():  # a sum of finite values may overflow, too
            return rows.isfinite().all(1).logical_not()
    return torch.zeros(len(x), dtype=torch.bool, device=x.device)


@dataclass(frozen=True)
class Probe:
    """What is read where, and how finely. Equal probes share one statistic.

    Attributes:
        statistic: The kind of summary.
        site: Where.
        taps: Which tensors of the site, in the order in which the statistic wants them.
        options: The statistic's options as sorted pairs.
        network: Empty for the network that is audited; ``twin`` for its null twin.
        kernels: The kernels that are read where memory does not reach for all; None reads all.
        clustered: True where several images come from one source, so that everything is kept per group.
        by: Data column whose values are told apart; empty for all images together.
        slice: Code of the one value of that column whose images are counted; None before the data is read.
    """

    statistic: type[Statistic]
    site: Site
    taps: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()
    network: str = ""
    kernels: tuple[int, ...] | None = None
    clustered: bool = False
    by: str = ""
    slice: int | None = None

    def option(self, name: str) -> Any:
        """Return the value of an option."""
        return dict(self.options)[name]

    @property
    def units(self) -> tuple[int, ...]:
        """The kernels that are read."""
        return tuple(range(self.site.units)) if self.kernels is None else self.kernels


class Statistic(ABC):
    """A mergeable summary of what a probe reads.

    One law holds for all: folding a then b equals folding a, folding b elsewhere, and merging: integers
    exactly, floats to 1e-9 relative. A block is first *read* into a small reading (that is all that touches
    the tapped tensors) and the reading is then *folded*; in between, the readings of the first images may
    *calibrate* a grid. Tallies are kept per group of blocks where an interval needs that.

    Attributes:
        probe: What was read.
        groups: Number of groups that sources are dealt to.
        calibration: What was fixed before the first fold (grids); equal in all parts that merge.
        tally: The summary itself. Everything here is additive along with its group axis unless a subclass
            says otherwise; ``images`` counts the images of each group, ``sources`` the sources they come from,
            ``nonfinite`` the images with NaN or Inf.
    """

    options: ClassVar[Mapping[str, Any]] = {}
    calibrates: ClassVar[int] = 0  # images whose readings fix the grid
    together: ClassVar[int] = 1  # blocks whose readings are small enough to wait and be folded at once
    sampled_kernels: ClassVar[bool] = False
    by_concept: ClassVar[bool] = False  # its classes are the concepts of masks, not the labels of images
    most_groups: ClassVar[int] = 2**31  # where what is kept for each group is large
    pooled_counts: ClassVar[frozenset[str]] = frozenset()  # kept once where every image is a source of its own
    drawn: ClassVar[frozenset[str]] = frozenset()  # tells which images were read; parts are merged by it, no more

    def __init__(self, probe: Probe, groups: int) -> None:
        self.probe = probe
        self.groups = min(groups, self.most_groups)
        self.calibration: dict[str, Tensor] = {}
        self.tally: dict[str, Tensor] = {}

    @classmethod
    @abstractmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        """Return the bytes that the tally will take besides its two counters."""

    @classmethod
    def kept(cls, tap: str, x: Tensor) -> Tensor:
        """Return what is kept of a tap, one row for each image, while others of another run are still to come."""
        return x

    @abstractmethod
    def read(self, view: View) -> Reading:
        """Return the small tensors that this statistic needs of a block, one row for each image."""

    def calibrate(self, readings: Sequence[Reading]) -> None:  # noqa: B027 - most statistics have no grid
        """Fix grids from the readings of the first images."""

    @abstractmethod
    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        """Add the rows of a reading to the tally, each to its group, in place; arguments are those of ``fold``."""

    @property
    def ungrouped(self) -> frozenset[str]:
        """Names of the tallies that have no group axis."""
        return frozenset() if self.probe.clustered else self.pooled_counts

    def fold(self, reading: Reading, groups: Tensor, first: Tensor | None = None) -> None:
        """Fold images.

        Args:
            reading: What was read of them, one row for each.
            groups: The group of each row, int64 of shape (rows,).
            first: 1 where an image is the first of its source, else 0, int64 of shape (rows,); by default every
                image is a source of its own.
        """
        groups = groups % self.groups
        ones = torch.ones_like(groups)
        first = ones if first is None else first
        self._sum_up("images", ones, groups)
        self._sum_up("sources", first, groups)
        broken = torch.zeros(len(groups), dtype=torch.bool, device=groups.device)
        for x in reading.values():
            broken |= nonfinite(x)
        self._sum_up("nonfinite", broken.long(), groups)
        self.add(reading, groups, first)

    def merge(self, other: Self) -> Self:
        """Return this statistic with another's images added to it; the other is left as it was.

        Raises:
            EvidenceError: the two were read differently or on different grids.
        """
        self._check(other)
        self.calibration = self.calibration or dict(other.calibration)
        if not self.tally:
            self.tally = {name: tensor.clone() for name, tensor in other.tally.items()}
        elif other.tally:
            self.tally = self.combined(self.tally, other.tally)
        return self

    def combined(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tally of all images from the tallies of two parts of them."""
        return {name: a[name] + b[name] for name in a}

    def pooled(self, without: int | None = None) -> Self:
        """Return all groups as one, leaving one of them out if asked to."""
        sums = {n: x if n in self.ungrouped else x.sum(0, dtype=x.dtype)[None] for n, x in self.tally.items()}
        pooled = self._as_one(sums)
        return pooled if without is None else self._less(pooled, without)

    def leave_one_out(self) -> Iterator[Self]:
        """Yield all groups but one as one, for every group that holds images."""
        pooled = self.pooled()
        for group, images in enumerate(self.images.tolist()):
            if images:
                yield self._less(pooled, group)

    def _less(self, pooled: Self, group: int) -> Self:
        """Return the pooled statistic without one group."""
        return self._as_one(
            {n: x if n in self.ungrouped else x - self.tally[n][group] for n, x in pooled.tally.items()}
        )

    def _as_one(self, tally: dict[str, Tensor]) -> Self:
        one = type(self)(self.probe, 1)
        one.calibration, one.tally = self.calibration, tally
        return one

    @property
    def images(self) -> Tensor:
        """Images in each group, int64 of shape (groups,)."""
        return self.tally["images"]

    @property
    def n_images(self) -> int:
        """Images folded so far."""
        return int(self.images.sum())

    @property
    def n_sources(self) -> int:
        """Sources that the images come from: the number of independent samples."""
        return int(self.tally["sources"].sum())

    @property
    def nonfinite(self) -> int:
        """Images whose reading had a NaN or an infinity."""
        return int(self.tally["nonfinite"].sum())

    def state(self) -> dict[str, Tensor]:
        """Return everything that makes up this statistic, for storage without pickle."""
        parts = {f"calibration.{k}": v for k, v in self.calibration.items()}
        return parts | {f"tally.{k}": v for k, v in self.tally.items()}

    @classmethod
    def restore(cls, probe: Probe, state: Mapping[str, Tensor]) -> Self:
        """Return a statistic from its stored state."""
        restored = cls(probe, len(state["tally.images"]))
        for name, tensor in state.items():
            part, _, key = name.partition(".")
            {"calibration": restored.calibration, "tally": restored.tally}[part][key] = tensor
        return restored

    def _counter(self, name: str, like: Tensor, shape: tuple[int, ...] = (), dtype: Any = None) -> Tensor:
        """Return the tally of this name, made of zeros of shape (groups, *shape) when it is first used."""
        if name not in self.tally:
            full = shape if name in self.ungrouped else (self.groups, *shape)
            self.tally[name] = torch.zeros(full, dtype=dtype or torch.int64, device=like.device)
        return self.tally[name]

    def _sum_up(self, name: str, amounts: Tensor, groups: Tensor) -> None:
        """Add amounts, one row for each image, to the tally of this name."""
        self._counter(name, amounts, tuple(amounts.shape[1:]), amounts.dtype).index_add_(0, groups, amounts)

    def _check(self, other: Self) -> None:
        mine, theirs = self.probe, other.probe
        fields = ("statistic", "taps", "options", "network", "kernels", "clustered", "by")
        for name in fields:
            if getattr(mine, name) != getattr(theirs, name):
                raise EvidenceError(f"cannot merge at {mine.site.path}: {name} differs; merge parts of one audit only")
        if mine.site.path != theirs.site.path:
            raise EvidenceError(f"cannot merge {mine.site.path} with {theirs.site.path}; merge parts of one audit only")
        if self.groups != other.groups:
            raise EvidenceError(
                f"cannot merge at {mine.site.path}: {self.groups} and {other.groups} groups; "
                "merge parts of one audit only"
            )
        if self.tally and other.tally:
            # A part that met no image has no grid yet, and takes the other's.
            self._check_grid(other)

    def _check_grid(self, other: Self) -> None:
        grids = self.calibration, other.calibration
        for name in sorted(set().union(*grids)):
            if not all(name in grid for grid in grids) or not torch.equal(grids[0][name], grids[1][name]):
                raise EvidenceError(
                    f"cannot merge at {self.probe.site.path}: the grids differ ({name}); merge parts of one audit only"
                )
