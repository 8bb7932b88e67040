"""How many values of a window are active, and whether one survives the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from cnnaudit.lazy import torch
from cnnaudit.site import Op
from cnnaudit.statistics.base import Probe, Statistic, View, nonfinite
from cnnaudit.statistics.counting import ascending, differing
from cnnaudit.statistics.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from cnnaudit.site import Site
    from cnnaudit.statistics.base import Reading

__all__ = ["OPERATORS", "WindowActivity"]

OPERATORS = ("max", "avg", "min", "stride")


class WindowActivity(Statistic):
    """Active values read and kept by windows, summed over the sampled windows of an image.

    A value is active where it is no atom of the activation before (no exact zero, no 6 of a ReLU6); equal
    active values in one window are one degree of freedom. ``read`` counts those that a window holds, ``kept``
    those that can pass: for a pool 1 where the operator's result is no atom, for a strided convolution at most
    as many as its group has output channels. Windows of all shapes are drawn alike: a smaller one (``ceil_mode``, an
    adaptive pool of a size that does not divide) repeats its last values, and equal values count once.

    Tally (per group, int64): sums over images of read (r), r**2 of shape (groups, units) and kept (k), k**2,
    k * r of shape (groups, operators, units). Units are kernels for a pool and channel groups for a convolution.
    """

    options: ClassVar[Mapping[str, Any]] = {"windows": 64}
    together = 16

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        pool = probe.site.op is Op.POOL
        units = probe.site.units if pool else probe.site.groups
        return groups * units * (2 + 3 * (len(OPERATORS) if pool else 1)) * 8

    def read(self, view: View) -> Reading:
        site = self.probe.site
        x = view.tensors[self.probe.taps[0]]
        wanted = int(self.probe.option("windows"))
        window = Windows.every(tile(site)).read(x, view.images, site.path, view.seed, wanted)
        atoms = site.taps[self.probe.taps[0]].atoms
        if site.op is Op.POOL:
            read, kept = _pool(window, atoms)
        else:
            read, kept = _convolution(window, atoms, site)
        # Counts hide what cannot be counted: NaN and infinities leave their trace in the third.
        trace = torch.where(nonfinite(window), torch.nan, 0.0)[:, None]
        read, kept = (number.sum(1, dtype=torch.float64).long() for number in (read, kept))
        return {"read": read, "kept": kept, "trace": trace}

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        read, kept = reading["read"], reading["kept"]
        for name, amounts in (
            ("read", read),
            ("read2", read * read),
            ("kept", kept),
            ("kept2", kept * kept),
            ("kept_read", kept * read[:, None]),
        ):
            self._sum_up(name, amounts, groups)

    def total(self, name: str) -> Tensor:
        """Return one of the sums over all groups, float64."""
        return self.tally[name].sum(0).double()


def tile(site: Site) -> Site:
    """Return a pool as it is, a strided convolution as the tiles of its stride: each input in one of them."""
    if site.op is Op.POOL:
        return site
    padding = (0,) * len(site.stride)
    return type(site)(
        site.path, site.op, site.units, site.taps, kernel=site.stride, stride=site.stride, padding=padding
    )


def _reached(site: Site) -> list[int]:
    """Entries of a tile that the convolution reads: all of them unless its kernel is smaller than its stride."""
    spans = [
        {(i * d - p) % s for i in range(k)}
        for k, d, p, s in zip(site.kernel, site.dilation, site.padding, site.stride, strict=True)
    ]
    inside = [0]
    for reached, s in zip(spans, site.stride, strict=True):
        inside = [base * s + at for base in inside for at in sorted(reached)]
    return inside


def _pool(window: Tensor, atoms: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Different active values of each window, and for each operator whether its result is active."""
    value = ascending(window.movedim(2, -1))
    held = [value.shape[-1] - differing(value, atom, (-1,)) for atom in atoms]
    different = 1 + differing(value[..., 1:], value[..., :-1], (-1,))
    read = different - sum(number > 0 for number in held)
    highest, lowest, first = (_active(x, atoms) for x in (value[..., -1], value[..., 0], window[:, :, 0]))
    return read, torch.stack([highest, read > 0, lowest, first], 2)


def _convolution(window: Tensor, atoms: tuple[float, ...], site: Site) -> tuple[Tensor, Tensor]:
    """Active values of each tile and channel group, and as many of them as can pass."""
    entries = _reached(site)
    read = reached = _number_active(window, atoms, site.groups)
    if len(entries) < window.shape[2]:
        reached = _number_active(window[:, :, torch.tensor(entries, device=window.device)], atoms, site.groups)
    return read, reached.clamp(max=site.units // site.groups)[:, :, None]


def _number_active(window: Tensor, atoms: tuple[float, ...], groups: int) -> Tensor:
    """Number of active values, of shape (n, windows, groups), of (n, windows, entries, channels)."""
    n, windows, entries, channels = window.shape
    number = torch.full((n, windows, channels), float(entries), device=window.device)
    for atom in atoms:
        number -= entries - differing(window, atom, (2,))
    return number.reshape(n, windows, groups, -1).sum(3)


def _active(x: Tensor, atoms: tuple[float, ...]) -> Tensor:
    active = torch.ones_like(x, dtype=torch.bool)
    for atom in atoms:
        active &= x != atom
    return active
