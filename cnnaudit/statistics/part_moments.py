"""Second moments of the parts that the inputs of a concatenation add to a convolution's result."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, ClassVar

from cnnaudit.lazy import torch
from cnnaudit.statistics.comoments import CoMoments
from cnnaudit.statistics.sampling import gather, sample_positions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from cnnaudit.site import Site
    from cnnaudit.statistics.base import Probe, Reading, View

__all__ = ["PartMoments", "parts_of"]


def parts_of(site: Site) -> tuple[int, ...]:
    """Return the channels of each input of a concatenation, in order; where they are not told, each is an input."""
    named = itertools.takewhile(site.taps.__contains__, (f"input{i}" for i in itertools.count()))
    inputs = [site.taps[tap].shape[0] for tap in named]
    return tuple(inputs) or (1,) * site.taps["consumed"].shape[0]


class PartMoments(CoMoments):
    """Means and co-moments of the parts z_i of a convolution's result z, over images and sampled positions.

    The convolution reads all channels of a concatenation, and z_i is what those of its i-th input contribute, so that
    z = sum of z_i, a bias aside. Positions whose window reaches into the padding are among those that are sampled.

    Tally (per group, float64): ``rows`` of shape (groups, 1, 1); ``mean`` of the parts, of shape
    (groups, inputs, outputs), and ``mean_whole`` of shape (groups, 1, outputs); the sums of centred products ``own``,
    of z_i with itself, and ``with_whole``, of z_i with z, both of shape (groups, inputs, outputs).
    """

    options: ClassVar[Mapping[str, Any]] = {"positions": 64}

    most_groups = 16
    products: ClassVar[Mapping[str, tuple[str, str]]] = {
        "own": ("mean", "mean"),
        "with_whole": ("mean", "mean_whole"),
    }

    @classmethod
    def size(cls, probe: Probe, groups: int, classes: int) -> int:
        outputs = probe.site.parameters["weight"].shape[0]
        return min(groups, cls.most_groups) * (1 + outputs * (1 + 3 * len(parts_of(probe.site)))) * 8

    def read(self, view: View) -> Reading:
        tap, name = self.probe.taps
        z = self._parts(view, view.tensors[tap], view.tensors[name])
        whole = z.sum(1, keepdim=True)
        mean, mean_whole = z.mean(2), whole.mean(2)
        rows = torch.full((len(z), 1, 1), float(z.shape[2]), dtype=torch.float64, device=z.device)
        z, whole = z - mean[:, :, None], whole - mean_whole[:, :, None]
        products = {"own": (z * z).sum(2), "with_whole": (z * whole).sum(2)}
        return {"rows": rows, "mean": mean, "mean_whole": mean_whole} | products

    def _parts(self, view: View, x: Tensor, weight: Tensor) -> Tensor:
        """The parts at sampled positions, shape (n, inputs, positions, outputs)."""
        # In float64, so that parts that cancel leave nothing, and large ones do not overflow.
        seen, kernel = self._windows(view, x).double(), weight.double().flatten(2).permute(2, 1, 0)
        channels = list(parts_of(self.probe.site))
        split = zip(torch.split(seen, channels, 3), torch.split(kernel, channels, 1), strict=True)
        # In batches, so that what is read of an image does not depend on the others.
        each = [s.flatten(2).bmm(k.flatten(0, 1).expand(len(s), -1, -1)) for s, k in split]
        return torch.stack(each, 1)

    def _windows(self, view: View, x: Tensor) -> Tensor:
        """What the convolution reads for sampled outputs, shape (n, positions, entries, channels)."""
        site = self.probe.site
        padded = torch.nn.functional.pad(x, [amount for amount in reversed(site.padding) for _ in range(2)])
        shape = padded.shape[2:]
        reach = [(k - 1) * d + 1 for k, d in zip(site.kernel, site.dilation, strict=True)]
        count = [(n - r) // step + 1 for n, r, step in zip(shape, reach, site.stride, strict=True)]
        wanted = int(self.probe.option("positions"))
        chosen = sample_positions(view.images, site.path, view.seed, math.prod(count), wanted)
        places = torch.unravel_index(chosen, count)
        index = torch.zeros_like(chosen)[:, :, None]
        for at, size, k, step, apart in zip(places, shape, site.kernel, site.stride, site.dilation, strict=True):
            entries = torch.arange(k, device=chosen.device) * apart
            index = (index * size)[..., None] + (at[:, :, None] * step + entries)[:, :, None]
            index = index.flatten(2)
        seen = gather(padded, index.flatten(1))
        return seen.reshape(*index.shape, x.shape[1])
