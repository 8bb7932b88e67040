"""Counting and sorting values, by the ways that are fast on a CPU."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnnaudit.lazy import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["ascending", "by_parts", "differing"]

_EXACT = 2**24  # float32 counts up to here
_PART = 2**18


def differing(a: Tensor, b: Tensor | float, dims: tuple[int, ...]) -> Tensor:
    """Count the places along some dimensions where two tensors differ.

    Returns:
        Exact numbers, int64. Where a value is NaN the two differ.
    """
    places = math.prod(a.shape[dim] for dim in dims)
    exact = torch.float32 if places <= _EXACT else torch.float64

    def count(a: Tensor, b: Tensor | float) -> Tensor:
        # Ones of the values' own type: comparing into booleans and summing those takes three times as long.
        return torch.ne(a, b, out=torch.empty_like(a)).sum(dims, dtype=exact)

    counts = by_parts(count, a, b) if isinstance(b, torch.Tensor) else by_parts(lambda a: count(a, b), a)
    return counts.long()


def by_parts(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Apply a function of images to a few at a time, so that what it makes in between stays in the cache."""
    step = max(1, _PART // max(1, tensors[0][0].numel()))
    if step >= len(tensors[0]):
        return function(*tensors)
    starts = range(0, len(tensors[0]), step)
    return torch.cat([function(*(x[start : start + step] for x in tensors)) for start in starts])


def ascending(x: Tensor) -> Tensor:
    """Sort along the last dimension, NaN last."""
    if x.device.type != "cpu" or x.dtype is torch.bfloat16:
        return x.sort(-1).values
    # On a CPU torch sorts indices along, which takes five to ten times as long.
    return torch.from_numpy(np.sort(x.contiguous().numpy(), -1))
