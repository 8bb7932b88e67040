"""Means and sums of centred products that merge without losing digits."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from cnnaudit.lazy import torch
from cnnaudit.statistics.base import Statistic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from cnnaudit.statistics.base import Reading

__all__ = ["CoMoments"]


class CoMoments(Statistic):
    """What is kept as means and sums of centred products, so that a large offset costs no digits.

    That is the form of Chan, Golub & LeVeque (1979). A reading holds ``rows``, the number of values of each image, its
    means and its centred products, all of one number of dimensions; what else it holds is summed up.

    Attributes:
        products: The means that the factors of each sum of products are centred about.
    """

    products: ClassVar[Mapping[str, tuple[str, str]]]

    def add(self, reading: Reading, groups: Tensor, first: Tensor) -> None:
        held = {name: self._counter(name, x, tuple(x.shape[1:]), x.dtype) for name, x in reading.items()}
        for name, part in self._united(held, self._by_group(reading, groups, self.groups)).items():
            held[name].copy_(part)

    def combined(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._united(a, b)

    def pooled(self, without: int | None = None) -> Self:
        images = self.images
        kept = torch.tensor([group for group in range(len(images)) if group != without], device=images.device)
        part = {name: x.index_select(0, kept) for name, x in self.tally.items()}
        return self._as_one(self._by_group(part, torch.zeros_like(part["images"]), 1))

    def _less(self, pooled: Self, group: int) -> Self:
        # Means are not taken out again without loss.
        return self.pooled(without=group)

    def _means(self) -> set[str]:
        return {mean for factors in self.products.values() for mean in factors}

    def _by_group(self, parts: Mapping[str, Tensor], groups: Tensor, count: int) -> dict[str, Tensor]:
        """All parts of each group together, zeros where there are none."""

        def total(x: Tensor) -> Tensor:
            return torch.zeros(count, *x.shape[1:], dtype=x.dtype, device=x.device).index_add_(0, groups, x)

        rows = parts["rows"]
        whole = total(rows)
        mean = {name: total(rows * parts[name]) / whole.clamp(min=1) for name in self._means()}
        apart = {name: parts[name] - mean[name][groups] for name in mean}
        between = {name: rows * apart[a] * apart[b] for name, (a, b) in self.products.items()}
        return {
            name: mean[name] if name in mean else total(x + between[name] if name in between else x)
            for name, x in parts.items()
        }

    def _united(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pairwise update of means, centred products and sums."""
        rows = a["rows"] + b["rows"]
        safe = rows.clamp(min=1)
        apart = {name: b[name] - a[name] for name in self._means()}
        united = {name: a[name] + x for name, x in b.items()}
        for name, delta in apart.items():
            united[name] = a[name] + delta * (b["rows"] / safe)
        for name, (left, right) in self.products.items():
            united[name] += apart[left] * apart[right] * (a["rows"] * b["rows"] / safe)
        return united
