"""Quantisation grids fixed before the first image is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.lazy import torch
from cnnaudit.statistics.counting import ascending

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["centres", "edges", "integer_grid", "quantise"]

_MANY = 32


def edges(sample: Tensor, levels: int) -> Tensor:
    """Choose the inner edges of an equiprobable grid for each kernel from a calibration sample.

    Where a kernel's sample holds exact zeros (ReLU makes them), zero gets a level of its own and the other
    levels are shared between the negative and the positive values in proportion to their number.

    Args:
        sample: Values, shape (n, kernels).
        levels: Number of levels, >= 2.

    Returns:
        float64 of shape (kernels, levels - 1), ascending. A value's level is the number of edges <= value.
    """
    x = ascending(sample.T).double()
    n = x.shape[1]
    negative, zero = (x < 0).sum(1), (x == 0).sum(1)
    positive = n - negative - zero
    atom = zero > 0
    inner = levels - 1
    signed = (negative + positive).clamp(min=1)
    below = torch.where(negative > 0, (inner * negative / signed).round().clamp(1, inner), 0).long()
    below = torch.where((positive > 0) & (below == inner), inner - 1, below) if inner > 1 else below
    above = inner - below
    j = torch.arange(inner, device=x.device).expand(len(x), -1)
    # Ranks at which the sorted sample is cut: through all of it, or through its negative and positive parts.
    whole = (j + 1) * n / levels
    left = (j + 1) * negative[:, None] / below.clamp(min=1)[:, None]
    right = (negative + zero)[:, None] + (j - below[:, None]) * positive[:, None] / above.clamp(min=1)[:, None]
    cut = torch.where(atom[:, None], torch.where(j < below[:, None], left, right), whole)
    rank = cut.round().long().clamp(1, n - 1) if n > 1 else torch.zeros_like(j)
    edge = (x.gather(1, (rank - 1).clamp(min=0)) + x.gather(1, rank)) / 2
    tiny = torch.full((), torch.finfo(torch.float64).tiny, dtype=torch.float64, device=x.device)
    edge = torch.where(atom[:, None] & (j == below[:, None] - 1), torch.zeros_like(tiny), edge)
    edge = torch.where(atom[:, None] & (j == below[:, None]), tiny, edge)
    return edge.cummax(1).values


def integer_grid(kernels: int, levels: int) -> Tensor:
    """Return edges of a grid on which the values 0 .. levels - 1 are their own levels."""
    return (torch.arange(1, levels, dtype=torch.float64) - 0.5).expand(kernels, -1).contiguous()


def quantise(x: Tensor, edge: Tensor) -> Tensor:
    """Return the level of every value.

    Args:
        x: Values, shape (..., kernels).
        edge: Shape (kernels, levels - 1).

    Returns:
        int64 of the shape of x; NaN goes to the last level.
    """
    x = x.double()
    if edge.shape[1] >= _MANY:
        kernels_first = x.movedim(-1, 0).reshape(len(edge), -1).contiguous()
        return torch.searchsorted(edge, kernels_first, right=True).reshape(-1, *x.shape[:-1]).movedim(0, -1)
    below = torch.zeros_like(x, dtype=torch.uint8)
    # For few levels comparing with one edge after the other is faster than a search.
    for column in edge.T:
        below += (x < column).view(torch.uint8)
    return (edge.shape[1] - below).long()


def centres(sample: Tensor, edge: Tensor) -> Tensor:
    """Return the mean of the calibration sample in each level.

    Args:
        sample: Values, shape (n, kernels).
        edge: Shape (kernels, levels - 1).

    Returns:
        float64 of shape (kernels, levels); an empty level gets the middle of its edges.
    """
    kernels, levels = edge.shape[0], edge.shape[1] + 1
    code = quantise(sample, edge).T
    values = sample.double().T
    total = torch.zeros(kernels, levels, dtype=torch.float64, device=edge.device).scatter_add(1, code, values)
    count = torch.zeros_like(total).scatter_add(1, code, torch.ones_like(values))
    low = torch.cat([edge[:, :1], edge], 1)
    high = torch.cat([edge, edge[:, -1:]], 1)
    # Rounding must not carry the mean of equal values over an edge.
    endless = torch.full_like(edge[:, :1], torch.inf)
    beneath = torch.nextafter(torch.cat([edge, endless], 1), -endless)
    mean = (total / count.clamp(min=1)).clamp(min=torch.cat([-endless, edge], 1), max=beneath)
    return torch.where(count > 0, mean, (low + high) / 2)
