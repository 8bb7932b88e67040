"""Entropy and mutual information of counts, in bits, batched over leading dimensions.

Every function takes counts (or probabilities, where it says so) and works in float64. All corrections assume
that the counted events are independent; where several events come from one image that under-corrects, and
the standard error must come from images (see :mod:`cnnaudit.intervals`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

from cnnaudit.errors import MetricError
from cnnaudit.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EntropyEstimator", "entropy", "expected_mutual_information", "mutual_information"]

EntropyEstimator = Literal["plugin", "miller_madow", "chao_shen", "grassberger"]


def entropy(counts: Tensor, estimator: EntropyEstimator = "plugin") -> Tensor:
    """Entropy of the distribution that counts were drawn from.

    Args:
        counts: Non-negative counts, shape (..., cells); ``plugin`` also takes probabilities.
        estimator: ``plugin`` (biased low by about (occupied - 1) / (2 N ln 2)), ``miller_madow`` (adds that
            term; Miller 1955), ``chao_shen`` (coverage-adjusted Horvitz-Thompson; Chao & Shen 2003),
            ``grassberger`` (digamma form; arXiv physics/0307138).

    Returns:
        Bits, shape (...); 0 where nothing was counted.

    Raises:
        MetricError: the estimator is unknown.
    """
    counts = counts.double()
    total = counts.sum(-1)
    if estimator == "plugin":
        return _plugin(counts, total)
    if estimator == "miller_madow":
        occupied = (counts > 0).sum(-1)
        correction = (occupied - 1).clamp(min=0) / (2 * math.log(2) * total.clamp(min=1))
        return _plugin(counts, total) + correction
    if estimator == "chao_shen":
        return _chao_shen(counts, total)
    if estimator == "grassberger":
        return _grassberger(counts, total)
    raise MetricError(f"estimator {estimator!r} is unknown; there are {', '.join(get_args(EntropyEstimator))}")


def mutual_information(table: Tensor) -> Tensor:
    """Plug-in mutual information of a joint table of counts or probabilities.

    Args:
        table: Shape (..., rows, columns).

    Returns:
        Bits, shape (...), >= 0; biased high by about (rows - 1)(columns - 1) / (2 N ln 2) when cells are full.
    """
    table = table.double()
    rows, columns = table.sum(-1), table.sum(-2)
    return (entropy(rows) + entropy(columns) - entropy(table.flatten(-2))).clamp(min=0)


def expected_mutual_information(table: Tensor) -> Tensor:
    """Mutual information that chance alone gives a table with these margins.

    The mean over all tables with the same row and column totals (the hypergeometric model of the adjusted
    mutual information; Vinh, Epps & Bailey, JMLR 11 (2010)). It depends on a column only through its total,
    so it is computed once for each distinct total, which makes thousands of kernels as cheap as one.

    Args:
        table: Counts of shape (..., rows, columns); the row totals must agree over the leading dimensions
            (they are the class counts).

    Returns:
        Bits, shape (...).
    """
    table = table.double()
    columns = table.sum(-2).round().long()
    rows = table.sum(-1).reshape(-1, table.shape[-2])[0].round().long()
    n = int(rows.sum())
    if n == 0:
        return torch.zeros(table.shape[:-2], dtype=torch.float64, device=table.device)
    row_totals, row_counts = torch.unique(rows[rows > 0], return_counts=True)
    column_totals, where = torch.unique(columns, return_inverse=True)
    share = torch.stack([_expected_column(int(b), row_totals, row_counts, n) for b in column_totals])
    expected: Tensor = share.to(table.device)[where].sum(-1)
    return expected


def _plugin(counts: Tensor, total: Tensor) -> Tensor:
    p = counts / total.clamp(min=torch.finfo(torch.float64).tiny)[..., None]
    bits: Tensor = -torch.special.xlogy(p, p).sum(-1) / math.log(2)
    return bits


def _chao_shen(counts: Tensor, total: Tensor) -> Tensor:
    n = total.clamp(min=1)[..., None]
    singletons = (counts == 1).sum(-1).double()
    # All singletons would give coverage 0; one fewer is the customary floor (R package entropy does the same).
    singletons = torch.where(singletons == total, (singletons - 1).clamp(min=0), singletons)
    coverage = (1 - singletons / n[..., 0])[..., None]
    p = coverage * counts / n
    inclusion = -torch.expm1(n * torch.log1p(-p.clamp(max=1 - 1e-15)))
    terms = torch.where(counts > 0, -torch.special.xlogy(p, p) / inclusion.clamp(min=1e-300), 0.0)
    return terms.sum(-1) / math.log(2)


def _grassberger(counts: Tensor, total: Tensor) -> Tensor:
    n = counts.clamp(min=1)
    sign = 1 - 2 * (n % 2)
    g = torch.digamma(n) + sign * (torch.digamma((n + 1) / 2) - torch.digamma(n / 2)) / 2
    weighted = torch.where(counts > 0, counts * g, 0.0).sum(-1) / total.clamp(min=1)
    return torch.where(total > 0, (torch.log(total.clamp(min=1)) - weighted) / math.log(2), 0.0)


def _expected_column(b: int, row_totals: Tensor, row_counts: Tensor, n: int) -> Tensor:
    """Share of one column of total ``b`` in the expected mutual information, in bits."""
    if b == 0:
        return torch.zeros((), dtype=torch.float64)
    a = row_totals.double().cpu()
    mean = a * b / n
    reach = 12 * torch.sqrt(mean * (1 - a / n) * (1 - b / n)) + 12
    low = torch.maximum(torch.clamp(a + b - n, min=0), torch.floor(mean - reach)).clamp(min=0)
    span = int(torch.minimum(torch.minimum(a, torch.tensor(float(b), dtype=torch.float64)) - low, 2 * reach).max()) + 1
    x = low[:, None] + torch.arange(span + 1, dtype=torch.float64)
    a = a[:, None]
    inside = (x >= a + b - n) & (x <= a) & (x <= b)
    x = torch.where(inside, x, low[:, None])
    every = _log_choose(torch.tensor(float(n), dtype=torch.float64), torch.tensor(float(b), dtype=torch.float64))
    log_p = _log_choose(a, x) + _log_choose(n - a, b - x) - every
    gain = torch.special.xlogy(x / n, n * x / (a * b))
    terms = torch.where(inside, torch.exp(log_p) * gain, 0.0)
    return (terms.sum(-1) * row_counts.cpu()).sum() / math.log(2)


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
