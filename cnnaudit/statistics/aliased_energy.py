"""Energy of maps on both sides of the frequency that a subsampling can still tell."""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING

from cnnaudit.lazy import torch
from cnnaudit.site import Op
from cnnaudit.statistics.base import Probe, Statistic, View

if TYPE_CHECKING:
    from torch import Tensor

    from cnnaudit.site import Site
    from cnnaudit.statistics.base import Reading

__all__ = ["AliasedEnergy"]


class AliasedEnergy(Statistic):
    """Energy of a site's output at every position, before it is subsampled, by frequency.

    Of each image and kernel: h, the energy at frequencies above half of one over the stride in any dimension, and t,
    that at all but frequency 0. The map is continued periodically, by the operator as by its Fourier transform, so
    that padding has no part in it. A map whose t is within rounding of 0 has neither.

    Tally: ``energies``, float64 of shape (5, kernels), or (groups, 5, kernels) where several images come from one
    source: sums over images of h, t, h**2, h * t and t**2.
    """

    together = 16
    pooled_counts = frozenset({"energies"})

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        return (groups if probe.clustered else 1) * 5 * probe.site.units * 8

    def read(self, view: View) -> Reading:
        maps = view.tensors[self.probe.taps[0]]
        weight = view.tensors.get("weight")
        # One image at a time: the dense map of a block, and its spectrum, would not fit beside the network's own.
        one_by_one = (maps[i : i + 1] for i in range(len(maps)))
        rows = [_energies(_dense(_centred(x), weight, self.probe.site), self.probe.site.stride) for x in one_by_one]
        return {"energy": torch.cat(rows)}

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        h, t = reading["energy"].unbind(1)
        products = torch.stack([h, t, h * h, h * t, t * t], 1)
        if self.probe.clustered:
            self._sum_up("energies", products, groups)
        else:
            self._counter("energies", products, tuple(products.shape[1:]), torch.float64).add_(products.sum(0))

    @property
    def energies(self) -> Tensor:
        """Sums of h, t, h**2, h * t and t**2 over all images, float64 of shape (5, kernels)."""
        energies = self.tally["energies"]
        return energies.sum(0) if self.probe.clustered else energies


def _centred(x: Tensor) -> Tensor:
    """Each map less one of its own values, at least float32: a constant is exactly 0, a large offset costs no digits.

    Contiguous, so that the layout of the memory decides no digit either.
    """
    x = x.contiguous().to(torch.promote_types(x.dtype, torch.float32))
    values = x.flatten(2)
    return (values - values[..., :1]).reshape(x.shape)


def _dense(x: Tensor, weight: Tensor | None, site: Site) -> Tensor:
    """The operator's output at every position of maps that are continued periodically."""
    if site.op is Op.POOL:
        return _pooled(x, site)
    if weight is None:
        raise ValueError("the dense output of a convolution needs its weight, which the plan passes along")
    for dim, (kernel, dilation) in enumerate(zip(site.kernel, site.dilation, strict=True), 2):
        reach = x.shape[dim] + (kernel - 1) * dilation
        x = x.index_select(dim, torch.arange(reach, device=x.device) % x.shape[dim])
    convolve = (torch.conv1d, torch.conv2d, torch.conv3d)[len(site.kernel) - 1]
    # Its bias is a constant, which has no energy but at frequency 0.
    dense: Tensor = convolve(x, weight.to(x.dtype), dilation=site.dilation, groups=site.groups)
    return dense


def _pooled(x: Tensor, site: Site) -> Tensor:
    if site.operator == "stride":
        return x
    combine = {"max": torch.maximum, "min": torch.minimum, "avg": operator.add}[site.operator]
    dilation = site.dilation or (1,) * len(site.kernel)
    for dim, (kernel, step) in enumerate(zip(site.kernel, dilation, strict=True), 2):
        x = functools.reduce(combine, (x.roll(-i * step, dim) for i in range(kernel)))
        x = x / kernel if site.operator == "avg" else x
    return x


def _energies(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Energy above what the subsampled grid can tell, and at all frequencies but 0: shape (n, 2, units)."""
    spectrum = torch.view_as_real(torch.fft.rfftn(x, dim=tuple(range(2, x.dim()))))
    parts = spectrum.flatten(2).double().square_() @ _bins(tuple(x.shape[2:]), stride, x.device)
    constant, high, total = parts.unbind(-1)
    # What sums of other terms in another order differ by is no signal; a NaN must show.
    told = (total > 1e3 * torch.finfo(x.dtype).eps ** 2 * (constant + total)) | total.isnan()
    return torch.stack([high, total], 1).where(told[:, None], 0.0)


@functools.lru_cache(maxsize=64)
def _bins(shape: tuple[int, ...], stride: tuple[int, ...], device: torch.device) -> Tensor:
    """Of each real and imaginary part of a real transform: how often it counts at frequency 0, above, and but at 0.

    Returns:
        float64 of shape (parts, 3).
    """
    last = torch.arange(shape[-1] // 2 + 1, device=device)
    above = torch.zeros((1,) * len(shape), dtype=torch.bool, device=device)
    for dim, (size, step) in enumerate(zip(shape, stride, strict=True)):
        bins = last if dim == len(shape) - 1 else torch.arange(size, device=device)
        # |f| > 1 / (2 step) with f = bins / size, in whole numbers.
        lost = 2 * step * torch.minimum(bins, size - bins) > size
        above = above | lost.reshape([-1 if d == dim else 1 for d in range(len(shape))])
    # A real map's transform is the same at f and -f, of which only one is computed, except where they coincide.
    twice = torch.where((last == 0) | (2 * last == shape[-1]), 1.0, 2.0).double().expand(*shape[:-1], -1).flatten()
    constant = torch.zeros_like(twice)
    constant[0] = 1
    return torch.stack([constant, twice * above.flatten(), twice - constant], 1).repeat_interleave(2, 0)
