"""Counting and sorting values, by the ways that are fast on a CPU."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cnnaudit.lazy import np, torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

__all__ = ["ascending", "differing", "magnitude"]

_EXACT = 2**24  # float32 counts up to here
_PART = 2**17


def differing(a: Tensor, b: Tensor | float, dims: tuple[int, ...]) -> Tensor:
    """Count the places along some dimensions where two tensors differ.

    Returns:
        Whole numbers of a floating type that holds them exactly. Where a value is NaN the two differ.
    """
    places = math.prod(a.shape[dim] for dim in dims)
    exact = torch.float32 if places <= _EXACT else torch.float64
    # Ones of the values' own type: comparing into booleans and summing those takes three times as long.
    counts = [
        torch.ne(a[rows], b[rows] if isinstance(b, torch.Tensor) else b, out=ones).sum(dims, dtype=exact)
        for rows, ones in _parts(a)
    ]
    return torch.cat(counts)


def magnitude(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean magnitude along some dimensions, float32."""
    places = math.prod(x.shape[dim] for dim in dims)
    sums = [torch.abs(x[rows], out=sizes).sum(dims, dtype=torch.float32) for rows, sizes in _parts(x)]
    return torch.cat(sums) / places


def _parts(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """A few rows at a time, and room for what is made of their values, which so stays in the cache."""
    step = max(1, _PART // max(1, x[0].numel()))
    room = torch.empty_like(x[:step])
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        yield rows, room[: rows.stop - start]


def ascending(x: Tensor) -> Tensor:
    """Sort along the last dimension, NaN last."""
    if x.device.type != "cpu" or x.dtype is torch.bfloat16:
        return x.sort(-1).values
    # On a CPU torch sorts indices along, which takes five to ten times as long.
    return torch.from_numpy(np.sort(x.contiguous().numpy(), -1))
