"""Information of normally distributed values at a noise floor."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cnnaudit.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["information", "noise_variance", "projected"]


def noise_variance(covariance: Tensor, noise: float, *, absolute: bool) -> Tensor:
    """Return the variance of the noise on each entry, float64 of shape (units,).

    It is NaN where the noise is a fraction of a deviation that is 0.

    Args:
        covariance: Shape (units, entries, entries).
        noise: Standard deviation of the noise: in units of the root mean variance of the entries, or as it is.
        absolute: Whether it is the latter.
    """
    if absolute:
        return covariance.new_full((len(covariance),), noise**2)
    mean = covariance.diagonal(dim1=1, dim2=2).mean(1)
    return torch.where(mean > 0, noise**2 * mean, torch.nan)


def information(covariance: Tensor, noise: Tensor) -> Tensor:
    """Return I(X; X + N) in bits for X and N normal, N of independent entries, float64 of shape (units,).

    It is NaN where the noise is below the rounding of the covariance.

    Args:
        covariance: That of X, shape (units, entries, entries).
        noise: Variance of each entry of N, shape (units,); NaN gives NaN.
    """
    ratio = covariance / torch.where(noise.isnan(), 1.0, noise)[:, None, None]
    eye = torch.eye(ratio.shape[-1], dtype=ratio.dtype, device=ratio.device)
    factor, failed = torch.linalg.cholesky_ex(ratio + eye)
    bits = factor.diagonal(dim1=1, dim2=2).log().sum(1) / math.log(2)
    return torch.where(noise.isnan() | (failed > 0), torch.nan, bits)


def projected(covariance: Tensor, rows: Tensor) -> Tensor:
    """Return the covariance of what rows tell, in an orthonormal basis of their span.

    Noise that is independent and of one variance stays so in it, and a basis change loses nothing: the result serves
    for rows of any length and angle. Rows below the rounding of float32, which weights have, are no direction.

    Args:
        covariance: Shape (units, entries, entries).
        rows: Shape (units, rows, entries).

    Returns:
        Shape (units, r, r) with r the smaller of rows and entries; zeros beyond the rank of the rows.
    """
    _, length, basis = torch.linalg.svd(rows, full_matrices=False)
    least = max(rows.shape[1:]) * torch.finfo(torch.float32).eps * length[:, :1]
    basis = torch.where((length > least)[:, :, None], basis, 0.0)
    return basis @ covariance @ basis.mT
