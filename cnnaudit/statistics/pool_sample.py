"""What goes into a downsampling and what comes out of it, image by image, and what other poolings would have made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from cnnaudit.lazy import torch
from cnnaudit.site import Op
from cnnaudit.statistics.base import View
from cnnaudit.statistics.image_sample import ImageSample
from cnnaudit.statistics.window_activity import OPERATORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cnnaudit.site import Site, Tap
    from cnnaudit.statistics.base import Probe, Reading

__all__ = ["PoolSample", "pooled"]


class PoolSample(ImageSample):
    """An :class:`ImageSample` of an input and a result, and of the input pooled otherwise.

    Tally: that of the sample, with features for each of the operators ``max``, ``avg``, ``min`` and ``stride`` but the
    pool's own, whose result is there already; none at a convolution, and none without ``alternatives``.
    """

    options: ClassVar[Mapping[str, Any]] = {**ImageSample.options, "alternatives": True}

    @classmethod
    def maps(cls, probe: Probe) -> Mapping[str, Tap]:
        compared = probe.site.op is Op.POOL and probe.option("alternatives")
        others = [name for name in OPERATORS if compared and name != probe.site.operator]
        return {**super().maps(probe), **dict.fromkeys(others, probe.site.taps[probe.taps[1]])}

    def read(self, view: View) -> Reading:
        source, result = (view.tensors[tap] for tap in self.probe.taps)
        others = {
            name: pooled(source, self.probe.site, name, result.shape[2:])
            for name in self.maps(self.probe)
            if name not in self.probe.taps
        }
        shown = View(others, view.images, view.labels, view.seed)
        return super().read(view) | {name: self.read_out(shown, name) for name in others}

    @property
    def alternatives(self) -> Mapping[str, Tensor]:
        """Features of the input pooled by other operators, each float64 of shape (n, features)."""
        return {name: self.tally[name] for name in self.maps(self.probe) if name not in self.probe.taps}


def pooled(x: Tensor, site: Site, operator: str, outputs: Sequence[int]) -> Tensor:
    """Pool maps by another operator over the windows of a pool.

    Padding is never a value: the mean is that of the values that a window holds, and striding takes the first of them.
    A window that holds none is 0.

    Args:
        x: Maps of shape (n, units, *spatial).
        site: The pool; without a kernel its windows are those of adaptive pooling.
        operator: ``max``, ``avg``, ``min`` or ``stride``.
        outputs: Extent of the result; empty where it has no positions.

    Returns:
        Shape (n, units, *outputs).
    """
    x = x if x.is_floating_point() else x.float()
    sides = outputs or (1,) * (x.dim() - 2)
    held = torch.ones(x.shape[2:], device=x.device)[None, None]
    # All four operators go along one dimension after the other.
    for dimension, side in enumerate(sides, 2):
        index, real = _windows(x.shape[dimension], side, site, dimension - 2)
        index, real = index.to(x.device), real.to(x.device)
        x = _along(x, dimension, index, real, "sum" if operator == "avg" else operator)
        held = _along(held, dimension, index, real, "sum")
    x = x / held.to(x.dtype) if operator == "avg" else x
    return torch.where(held > 0, x, 0.0).reshape(*x.shape[:2], *outputs)


def _windows(size: int, windows: int, site: Site, axis: int) -> tuple[Tensor, Tensor]:
    """Positions that each window of one dimension reads, and which of them are none of padding: (windows, entries)."""
    number = torch.arange(windows)[:, None]
    if site.kernel:
        padding, dilation = (
            facts[axis] if facts else least for facts, least in ((site.padding, 0), (site.dilation, 1))
        )
        at = number * site.stride[axis] - padding + torch.arange(site.kernel[axis]) * dilation
        real = (at >= 0) & (at < size)
    else:
        start, end = number * size // windows, -(-(number + 1) * size // windows)
        at = start + torch.arange(math.ceil(size / windows) + 1)
        real = at < end
    return at.clamp(0, size - 1), real


def _along(x: Tensor, dimension: int, index: Tensor, real: Tensor, operator: str) -> Tensor:
    """Pool along one dimension."""
    if operator == "stride":
        # Of a window of padding alone whatever it takes is not looked at.
        first = real.long().argmax(1, keepdim=True)
        return x.index_select(dimension, index.gather(1, first)[:, 0])
    before, after = x.shape[:dimension], x.shape[dimension + 1 :]
    parts = x.index_select(dimension, index.flatten()).reshape(*before, *index.shape, *after)
    nothing = {"max": -math.inf, "min": math.inf, "sum": 0.0}[operator]
    parts = torch.where(real.reshape(*real.shape, *[1] * len(after)), parts, nothing)
    if operator == "sum":
        return parts.sum(dimension + 1)
    return parts.amax(dimension + 1) if operator == "max" else parts.amin(dimension + 1)
