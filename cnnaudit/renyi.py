"""Matrix-based Renyi entropy: the spectrum of a Gram matrix read as a distribution.

Sanchez Giraldo, Rao & Principe, arXiv 1211.2459; joint entropies of several variables: Yu, Sanchez Giraldo, Jenssen &
Principe, arXiv 1808.07912. Everything is in bits and takes leading dimensions.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Literal, TypeAlias

from cnnaudit.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Width", "entropy", "gram", "information", "joint"]

Width: TypeAlias = Literal["dimension", "median", "silverman"]

_SILVERMAN = 5.0


def gram(x: Tensor, width: Width) -> Tensor:
    """Return the Gaussian Gram matrix exp(-|x_i - x_j|^2 / (2 s^2)) of samples, divided by its trace.

    Args:
        x: Samples, float64 of shape (..., n, features).
        width: Rule for s. ``dimension``: sqrt(features) n^(-1 / (4 + features)), of standardised features.
            ``median``: the median distance of two samples, of standardised features. ``silverman``:
            5 n^(-1 / (4 + features)), of the features as they are.

    Returns:
        Shape (..., n, n), trace 1. Where s is 0 two samples are alike (1) or not (0).
    """
    n, features = x.shape[-2:]
    x = x if width == "silverman" else _standardised(x)
    # Differences, not the products of a matrix multiplication: equal samples have a distance of exactly 0.
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    squared = distance.square()
    shrink = n ** (-1 / (4 + features))
    if width == "median":
        above = torch.triu_indices(n, n, 1, device=x.device)
        variance = distance[..., above[0], above[1]].quantile(0.5, dim=-1).square()[..., None, None]
    else:
        variance = x.new_tensor((_SILVERMAN * shrink) ** 2 if width == "silverman" else features * shrink**2)
    alike = (squared == 0).to(x.dtype)
    kernel: Tensor = torch.where(
        variance > 0, torch.exp(-squared / (2 * variance).clamp(min=torch.finfo(x.dtype).tiny)), alike
    )
    return kernel / n


def entropy(a: Tensor, alpha: float) -> Tensor:
    """Return log2(trace(A^alpha)) / (1 - alpha), of alpha = 1 its limit, in bits.

    Args:
        a: Positive semidefinite matrices of trace 1, float64 of shape (..., n, n).
        alpha: Order, > 0.

    Returns:
        Shape (...).
    """
    values = torch.linalg.eigvalsh(a)
    # What rounding leaves of a zero is none: a small order would raise it to something.
    values = torch.where(values > 1e-14 * a.shape[-1], values, 0.0)
    values = values / values.sum(-1, keepdim=True)
    if alpha == 1:
        return -torch.xlogy(values, values).sum(-1) / math.log(2)
    trace: Tensor = (values**alpha).sum(-1)
    return trace.log2() / (1 - alpha)


def joint(*matrices: Tensor) -> Tensor:
    """Return the normalised Hadamard product: the Gram matrix of several variables together."""
    product = functools.reduce(torch.mul, matrices)
    return product / product.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]


def information(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Return S(A) + S(B) - S(A o B), in bits."""
    return entropy(a, alpha) + entropy(b, alpha) - entropy(joint(a, b), alpha)


def _standardised(x: Tensor) -> Tensor:
    """Features with mean 0 and variance 1 over the samples; one that does not vary is 0."""
    centred = x - x.mean(-2, keepdim=True)
    deviation = centred.square().mean(-2, keepdim=True).sqrt()
    # Rounding leaves a trace of variance in a constant.
    varies = deviation > 1e-12 * x.abs().amax(-2, keepdim=True)
    return torch.where(varies, centred / deviation, 0.0)
