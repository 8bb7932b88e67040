"""Primitives of information theory on torch tensors: bits, float64, batched over leading dimensions.

Functions of counts also take probabilities, and normalise either; only a bias-corrected estimator insists on
whole numbers, because its correction reads the sample size from them. Rows of a table are a variable X, its
columns a variable Y.

Bias. The plug-in entropy of N events in K occupied cells is low by about (K - 1) / (2 N ln 2) bits, so what is
built from it is biased too: mutual information and total correlation high, a conditional entropy low. Every
correction assumes independent events; where several events come from one image it under-corrects, and the
standard error must come from images (see :mod:`cnnaudit.intervals`).

Errors. A tensor that is negative, NaN, infinite, empty or of too few dimensions is a :class:`MetricError` that
names the argument, says what is wrong with it and what to pass instead.

References: Shannon, Bell System Technical Journal 27 (1948); Cover & Thomas, Elements of Information Theory
(2nd ed. 2006); Paninski, Neural Computation 15 (2003), on the bias of the plug-in, Miller-Madow and jackknife.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Literal

from cnnaudit.errors import MetricError
from cnnaudit.lazy import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = [
    "EntropyEstimator",
    "conditional_entropy",
    "cross_entropy",
    "entropy",
    "expected_mutual_information",
    "gaussian_entropy",
    "gaussian_entropy_bias",
    "gaussian_mutual_information",
    "jensen_shannon",
    "joint_entropy",
    "kullback_leibler",
    "mutual_information",
    "pointwise_mutual_information",
    "self_information",
    "total_correlation",
]

EntropyEstimator = Literal["plugin", "miller_madow", "grassberger", "chao_shen", "jackknife"]

_LN2 = math.log(2)
_ROUNDING = 1e-6  # a probability that was computed in float32 may exceed 1 by this much


def self_information(p: Tensor) -> Tensor:
    """Information of an event of probability p, its surprisal: -log2 p.

    Args:
        p: Probabilities in [0, 1], any shape; not normalised.

    Returns:
        Bits, the shape of ``p``, in [0, inf]; inf where p = 0. Exact, no estimator.

    Raises:
        MetricError: ``p`` is not a tensor of probabilities.
    """
    p = _measure(p, "p", 0)
    most = float(p.detach().amax())
    if most > 1 + _ROUNDING:
        raise MetricError(f"p holds {most:g}, which is no probability; divide counts by their sum")
    return torch.log2(p.clamp(max=1)).abs()


def entropy(counts: Tensor, estimator: EntropyEstimator = "plugin") -> Tensor:
    """Entropy H(X) = -sum p(x) log2 p(x) of the distribution that counts were drawn from.

    Args:
        counts: Non-negative counts, shape (..., cells); ``plugin`` also takes probabilities. Cells without a
            count change nothing.
        estimator: With n of N events in a cell and K cells occupied, in nats:

            - ``plugin``: the counts' own entropy, low by about (K - 1) / 2N.
            - ``miller_madow``: adds that term. Miller, in Information Theory in Psychology (1955).
            - ``grassberger``: ln N - sum n G(n) / N, G(n) = psi(n) + (-1)^n (psi((n+1)/2) - psi(n/2)) / 2.
              arXiv physics/0307138.
            - ``chao_shen``: Horvitz-Thompson over the estimated coverage 1 - singletons / N; the least biased
              where many cells are rare. Chao & Shen, Environmental and Ecological Statistics 10 (2003).
            - ``jackknife``: N times the plug-in less N - 1 times its mean over the samples that lack one
              event; removes the bias of order 1 / N. Zahl, Ecology 58 (1977); Paninski (2003).

    Returns:
        Bits, shape (...); 0 where nothing was counted. ``plugin`` is in [0, log2 K], the others may exceed
        log2 K, and ``grassberger`` alone may be a little below 0.

    Raises:
        MetricError: ``counts`` are no counts, or not whole where the estimator corrects for the sample size;
            or the estimator is unknown.
    """
    return _entropy(_counts(counts, "counts", 1, estimator), estimator)


def joint_entropy(table: Tensor, variables: int = 2, estimator: EntropyEstimator = "plugin") -> Tensor:
    """Entropy H(X, Y, ...) of several variables together.

    Args:
        table: Joint counts or probabilities, shape (..., cells of X, cells of Y, ...).
        variables: How many of the last dimensions are variables; those before them are a batch.
        estimator: As in :func:`entropy`, with its bias; K counts the occupied cells of the table.

    Returns:
        Bits, shape (...); the plug-in is in [0, log2 K].

    Raises:
        MetricError: as in :func:`entropy`, or ``variables`` is less than 1.
    """
    joint = _counts(table, "table", _number(variables, "variables"), estimator)
    return _entropy(joint.flatten(-variables), estimator)


def conditional_entropy(
    table: Tensor, given: Literal["columns", "rows"] = "columns", estimator: EntropyEstimator = "plugin"
) -> Tensor:
    """What remains unknown of one variable of a table when the other is known.

    ``given="columns"`` is H(X | Y) = H(X, Y) - H(Y), the entropy of the row given the column;
    ``given="rows"`` is H(Y | X) = H(X, Y) - H(X).

    Args:
        table: Joint counts or probabilities, shape (..., rows, columns).
        given: The variable that is known.
        estimator: Of both entropies. The plug-in is low by about (K_XY - K_given) / (2 N ln 2), with K the
            occupied cells.

    Returns:
        Bits, shape (...). The plug-in is in [0, log2 K] of the unknown variable; others as they come, which
        may be below 0.

    Raises:
        MetricError: as in :func:`entropy`, or ``given`` is neither of its two values.
    """
    known_over = {"columns": -2, "rows": -1}.get(given)
    if known_over is None:
        raise MetricError(f"given={given!r} is unknown; pass 'columns' for H(row | column) or 'rows' for the reverse")
    joint = _counts(table, "table", 2, estimator)
    bits = _entropy(joint.flatten(-2), estimator) - _entropy(joint.sum(known_over), estimator)
    return _not_negative(bits, estimator)


def mutual_information(table: Tensor, estimator: EntropyEstimator = "plugin") -> Tensor:
    """Mutual information I(X; Y) = H(X) + H(Y) - H(X, Y) of a joint table.

    Args:
        table: Joint counts or probabilities, shape (..., rows, columns).
        estimator: Of all three entropies. The plug-in is high by about (K_XY - K_X - K_Y + 1) / (2 N ln 2),
            with K the occupied cells: (rows - 1)(columns - 1) / (2 N ln 2) where all are. What chance alone
            gives is :func:`expected_mutual_information`.

    Returns:
        Bits, shape (...). The plug-in is in [0, min(H(X), H(Y))]; others as they come, which may be below 0.

    Raises:
        MetricError: as in :func:`entropy`.
    """
    return _total_correlation(_counts(table, "table", 2, estimator), 2, estimator)


def pointwise_mutual_information(table: Tensor) -> Tensor:
    """How much likelier two values are together than apart: log2 p(x, y) / (p(x) p(y)).

    Its mean under p(x, y) is the mutual information. Church & Hanks, Computational Linguistics 16 (1990).

    Args:
        table: Joint counts or probabilities, shape (..., rows, columns).

    Returns:
        Bits, the shape of ``table``, in [-inf, min(-log2 p(x), -log2 p(y))]: -inf where x and y occur but
        never together, NaN where x or y never occurs (0 / 0). Plug-in, uncorrected: unreliable in cells with
        a few counts.

    Raises:
        MetricError: ``table`` is no table of counts or probabilities.
    """
    table = _measure(table, "table", 2)
    rows, columns = table.sum(-1, keepdim=True), table.sum(-2, keepdim=True)
    total = rows.sum(-2, keepdim=True)
    # Where a margin is 0 its logarithm is -inf, and -inf - -inf is the NaN that 0 / 0 should be.
    return (torch.log2(table) + torch.log2(total)) - torch.log2(rows) - torch.log2(columns)


def expected_mutual_information(table: Tensor) -> Tensor:
    """Mutual information that chance alone gives a table with these margins.

    The mean over all tables with the same row and column totals (the hypergeometric model of the adjusted
    mutual information; Vinh, Epps & Bailey, JMLR 11 (2010)). It depends on a column only through its total,
    so it is computed once for each distinct total, which makes thousands of kernels as cheap as one.

    Args:
        table: Counts of shape (..., rows, columns); the row totals must agree over the leading dimensions
            (they are the class counts).

    Returns:
        Bits, shape (...), in [0, min(H(X), H(Y))]; 0 where nothing was counted. Exact for the given margins.

    Raises:
        MetricError: ``table`` is no table of whole counts, or the row totals do not agree.
    """
    table = _whole(_measure(table, "table", 2), "table", "the expected information")
    columns = table.sum(-2).long()
    margins = table.sum(-1).long().reshape(-1, table.shape[-2])
    rows = margins[0]
    if not bool((margins == rows).all()):
        raise MetricError("table holds tables of different row totals; call once for each set of totals")
    n = int(rows.sum())
    if n == 0:
        return torch.zeros(table.shape[:-2], dtype=torch.float64, device=table.device)
    row_totals, row_counts = torch.unique(rows[rows > 0], return_counts=True)
    column_totals, where = torch.unique(columns, return_inverse=True)
    share = torch.stack([_expected_column(int(b), row_totals, row_counts, n) for b in column_totals])
    expected: Tensor = share.to(table.device)[where].sum(-1)
    return expected


def total_correlation(joint: Tensor, variables: int, estimator: EntropyEstimator = "plugin") -> Tensor:
    """Total correlation sum H(X_j) - H(X_1, ..., X_k): what all variables share, counted together.

    Also called multi-information; of two variables it is their mutual information. Watanabe, IBM Journal of
    Research and Development 4 (1960).

    Args:
        joint: Joint counts or probabilities, shape (..., cells of X_1, ..., cells of X_k).
        variables: k, how many of the last dimensions are variables; those before them are a batch.
        estimator: Of every entropy. The plug-in is high, because the joint table is the thinnest.

    Returns:
        Bits, shape (...). The plug-in is in [0, sum H(X_j) - max H(X_j)], 0 for independent variables; others
        as they come, which may be below 0.

    Raises:
        MetricError: as in :func:`entropy`, or ``variables`` is less than 1.
    """
    joint = _counts(joint, "joint", _number(variables, "variables"), estimator)
    return _total_correlation(joint, variables, estimator)


def cross_entropy(p: Tensor, q: Tensor) -> Tensor:
    """Cross-entropy -sum p log2 q: the mean code length of events from p in a code made for q.

    Args:
        p: Counts or probabilities of what happens, shape (..., cells).
        q: Counts or probabilities that are assumed, shape (..., cells); leading dimensions broadcast.

    Returns:
        Bits, shape (...), in [H(p), inf]: inf where q = 0 < p, NaN where p or q holds nothing but zeros.
        Plug-in: of counts it inherits their bias.

    Raises:
        MetricError: ``p`` or ``q`` are no counts or probabilities, or do not have the same cells.
    """
    return _cross(*_pair(p, q)) / _LN2


def kullback_leibler(p: Tensor, q: Tensor) -> Tensor:
    """Kullback-Leibler divergence D(p || q) = sum p log2 (p / q), the relative entropy.

    Kullback & Leibler, Annals of Mathematical Statistics 22 (1951).

    Args:
        p: Counts or probabilities, shape (..., cells).
        q: Counts or probabilities it is compared with, shape (..., cells); leading dimensions broadcast.

    Returns:
        Bits, shape (...), in [0, inf], 0 only where p = q: inf where q = 0 < p, NaN where p or q holds nothing
        but zeros. Plug-in: of counts it is high, and inf as soon as one cell of q happens to be empty.

    Raises:
        MetricError: ``p`` or ``q`` are no counts or probabilities, or do not have the same cells.
    """
    p, q = _pair(p, q)
    bits: Tensor = ((_cross(p, q) - _nats(p)) / _LN2).clamp(min=0)
    return bits


def jensen_shannon(p: Tensor, q: Tensor, weights: tuple[float, float] | None = None) -> Tensor:
    """Jensen-Shannon divergence H(a p + b q) - a H(p) - b H(q); its root is a distance.

    It is the information that one event gives about whether it came from p or from q. Lin, IEEE Transactions
    on Information Theory 37 (1991).

    Args:
        p: Counts or probabilities, shape (..., cells).
        q: Counts or probabilities, shape (..., cells); leading dimensions broadcast.
        weights: (a, b), normalised; None is (1/2, 1/2).

    Returns:
        Bits, shape (...), in [0, H(a, b)], which is [0, 1] for equal weights; NaN where p or q holds nothing
        but zeros. Plug-in: of counts it is high.

    Raises:
        MetricError: ``p`` or ``q`` are no counts or probabilities, or do not have the same cells; or
            ``weights`` are not two non-negative numbers of a positive sum.
    """
    p, q = _pair(p, q)
    share = torch.tensor((1.0, 1.0) if weights is None else weights, dtype=torch.float64)
    total = float(share.sum())
    if share.shape != (2,) or bool((share < 0).any()) or not 0 < total < math.inf:
        raise MetricError(f"weights={weights!r} are not two numbers >= 0 of a positive sum; pass (0.5, 0.5) or None")
    a, b = (share / total).tolist()
    nats = _nats(a * p + b * q) - a * _nats(p) - b * _nats(q)
    bits: Tensor = (nats / _LN2).clamp(0, float(_nats(share / total)) / _LN2)
    return bits


def gaussian_entropy(covariance: Tensor, n: int | None = None) -> Tensor:
    """Differential entropy of a normal distribution, log2 det(2 pi e S) / 2.

    Args:
        covariance: Symmetric, positive semi-definite, shape (..., d, d).
        n: The number of independent samples that ``covariance`` was estimated from with divisor n - 1. Then
            :func:`gaussian_entropy_bias` is subtracted and the value is unbiased; without it, it is the
            plug-in, which is low.

    Returns:
        Bits, shape (...), in [-inf, inf]: it depends on the unit of the variables. -inf where the covariance
        is singular to its dtype's precision, judged on the correlation matrix.

    Raises:
        MetricError: ``covariance`` is none, or ``n`` does not exceed d.
    """
    log_determinant = _log_determinant(covariance)
    d = covariance.shape[-1]
    bits = (d * math.log(2 * math.pi * math.e) + log_determinant) / (2 * _LN2)
    return bits if n is None else bits - gaussian_entropy_bias(d, n)


def gaussian_entropy_bias(dimensions: int, n: int) -> float:
    """How much the entropy of an estimated covariance misses that of the true one, on average.

    (n - 1) S is Wishart with n - 1 degrees of freedom, hence E[ln det S] - ln det Sigma =
    sum_{i=1..d} psi((n - i) / 2) + d ln(2 / (n - 1)), whatever Sigma is; the bias is half of it. Ahmed &
    Gokhale, IEEE Transactions on Information Theory 35 (1989); Misra, Singh & Demchuk, Journal of Multivariate
    Analysis 92 (2005); Ince et al., Human Brain Mapping 38 (2017).

    Args:
        dimensions: d, the dimension of the normal distribution.
        n: The number of independent samples; the mean is estimated too and the divisor is n - 1.

    Returns:
        Bits, < 0 and exact: the plug-in is low.

    Raises:
        MetricError: ``dimensions`` is less than 1, or ``n`` does not exceed it.
    """
    if _number(n, "n") <= _number(dimensions, "dimensions"):
        raise MetricError(f"{n} samples of {dimensions} dimensions have a singular covariance; take more than that")
    i = torch.arange(1, dimensions + 1, dtype=torch.float64)
    psi = float(torch.digamma((n - i) / 2).sum())
    return (psi + dimensions * math.log(2 / (n - 1))) / (2 * _LN2)


def gaussian_mutual_information(covariance: Tensor, split: int, n: int | None = None) -> Tensor:
    """Mutual information of two groups of jointly normal variables, log2(det S_X det S_Y / det S) / 2.

    Of other distributions it tells the part that linear relations carry; with a class label for one group it
    is no bound and can exceed the label's entropy.

    Args:
        covariance: Of (X, Y), symmetric, positive semi-definite, shape (..., d, d).
        split: How many of the d variables are X; the first ones.
        n: The number of independent samples that ``covariance`` was estimated from. Then the exact bias of the
            three log-determinants (:func:`gaussian_entropy_bias`) is subtracted and the value is unbiased,
            which lets it be below 0; without it, it is the plug-in, which is high.

    Returns:
        Bits, shape (...), in [0, inf] without ``n``: inf where X and Y determine a part of each other, NaN
        where X or Y is singular by itself. No unit of the variables matters.

    Raises:
        MetricError: ``covariance`` is none, ``split`` leaves X or Y empty, or ``n`` does not exceed d.
    """
    whole = gaussian_entropy(covariance, n)
    d = covariance.shape[-1]
    if not 0 < _number(split, "split") < d:
        raise MetricError(f"split={split} of {d} variables leaves X or Y empty; pass 1 to {d - 1} for two groups")
    x, y = covariance[..., :split, :split], covariance[..., split:, split:]
    bits = gaussian_entropy(x, n) + gaussian_entropy(y, n) - whole
    return bits.clamp(min=0) if n is None else bits


def _measure(values: Tensor, name: str, dimensions: int) -> Tensor:
    """Finite non-negative values as float64, of at least so many dimensions."""
    if not isinstance(values, torch.Tensor):
        raise MetricError(f"{name} is no tensor but of type {type(values).__name__}; pass torch.as_tensor({name})")
    if values.dim() < dimensions or values.numel() == 0:
        raise MetricError(
            f"{name} has shape {tuple(values.shape)}; pass at least {dimensions} dimension{'s' * (dimensions != 1)}, "
            "none of them empty"
        )
    values = values.double()
    least, most = (float(x) for x in values.detach().aminmax())
    if not 0 <= least <= most < math.inf:
        what = f"{least:g}, which is negative" if least < 0 else "NaN or infinity"
        raise MetricError(f"{name} holds {what}; pass counts or probabilities, not scores or logarithms")
    return values


def _whole(values: Tensor, name: str, reader: str) -> Tensor:
    part = float(values.detach().frac().amax())
    if part > 0:
        raise MetricError(
            f"{name} holds values that are not whole, and {reader} reads the sample size from whole counts; "
            "pass counts, or take the plug-in, which reads probabilities as well"
        )
    return values


def _counts(values: Tensor, name: str, dimensions: int, estimator: EntropyEstimator) -> Tensor:
    """What an estimator can read, as float64."""
    if estimator not in _ESTIMATORS:
        raise MetricError(f"estimator {estimator!r} is unknown; there are {', '.join(_ESTIMATORS)}")
    values = _measure(values, name, dimensions)
    return values if estimator == "plugin" else _whole(values, name, f"estimator {estimator!r}")


def _pair(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Two distributions over the same cells; NaN where nothing was counted."""
    p, q = (x / x.sum(-1, keepdim=True) for x in (_measure(p, "p", 1), _measure(q, "q", 1)))
    leading = zip(reversed(p.shape[:-1]), reversed(q.shape[:-1]), strict=False)
    if p.shape[-1] != q.shape[-1] or any(a != b and 1 not in (a, b) for a, b in leading):
        raise MetricError(
            f"p has shape {tuple(p.shape)} and q {tuple(q.shape)}; pass the same cells in the last dimension "
            "and leading dimensions that broadcast"
        )
    return p, q


def _number(value: int, name: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise MetricError(f"{name}={value!r} counts nothing; pass a whole number of at least 1")
    return number


def _total_correlation(joint: Tensor, variables: int, estimator: EntropyEstimator) -> Tensor:
    dimensions = range(-variables, 0)
    bits = -_entropy(joint.flatten(-variables), estimator)
    for own in dimensions:
        others = [other for other in dimensions if other != own]
        bits = bits + _entropy(joint.sum(others) if others else joint, estimator)
    return _not_negative(bits, estimator)


def _not_negative(bits: Tensor, estimator: EntropyEstimator) -> Tensor:
    """Of the plug-in, what is below 0 is rounding; of a corrected estimator it is the estimate."""
    return bits.clamp(min=0) if estimator == "plugin" else bits


def _entropy(counts: Tensor, estimator: EntropyEstimator) -> Tensor:
    total = counts.sum(-1)
    return _ESTIMATORS[estimator](counts, torch.where(total > 0, total, 1.0)) / _LN2


def _nats(p: Tensor) -> Tensor:
    nats: Tensor = torch.special.entr(p).sum(-1)
    return nats


def _cross(p: Tensor, q: Tensor) -> Tensor:
    nats: Tensor = torch.special.xlogy(-p, q).sum(-1)
    return nats


# Estimators: counts of shape (..., cells) and their total, 1 where there is none, to nats.


def _plugin(counts: Tensor, n: Tensor) -> Tensor:
    return _nats(counts / n[..., None])


def _miller_madow(counts: Tensor, n: Tensor) -> Tensor:
    return _plugin(counts, n) + ((counts > 0).sum(-1) - 1).clamp(min=0) / (2 * n)


def _grassberger(counts: Tensor, n: Tensor) -> Tensor:
    held = counts > 0  # of the cells of a large table few are
    m = counts[held]
    sign = 1 - 2 * (m % 2)
    g = torch.digamma(m) + sign * (torch.digamma((m + 1) / 2) - torch.digamma(m / 2)) / 2
    return torch.log(n) - torch.zeros_like(counts).masked_scatter(held, m * g).sum(-1) / n


def _chao_shen(counts: Tensor, n: Tensor) -> Tensor:
    singletons = (counts == 1).sum(-1).double()
    # All singletons would give coverage 0; one fewer is the customary floor (R package entropy does the same).
    singletons = torch.where(singletons == n, singletons - 1, singletons)
    p = counts * ((1 - singletons / n) / n)[..., None]
    inclusion = -torch.expm1(n[..., None] * torch.log1p(-p.clamp(max=1 - 1e-15)))
    nats: Tensor = (torch.special.entr(p) / inclusion.clamp(min=1e-300)).sum(-1)
    return nats


def _jackknife(counts: Tensor, n: Tensor) -> Tensor:
    # Expanded, N H - (N - 1) mean H without one event is D(N) - sum n D(n) / N.
    return _difference(n) - (counts * _difference(counts.clamp(min=1))).sum(-1) / n


def _difference(n: Tensor) -> Tensor:
    """D(n) = n ln n - (n - 1) ln(n - 1), without its cancellation."""
    difference: Tensor = torch.log(n) - torch.special.xlog1py(n - 1, -1 / n)
    return difference


_ESTIMATORS: dict[EntropyEstimator, Callable[[Tensor, Tensor], Tensor]] = {
    "plugin": _plugin,
    "miller_madow": _miller_madow,
    "grassberger": _grassberger,
    "chao_shen": _chao_shen,
    "jackknife": _jackknife,
}


def _log_determinant(covariance: Tensor) -> Tensor:
    """Natural logarithm of the determinant, -inf where singular, in a way that no scale of a variable matters."""
    if not isinstance(covariance, torch.Tensor) or covariance.dim() < 2 or covariance.numel() == 0:
        raise MetricError("covariance is no matrix; pass a tensor of shape (..., d, d), such as torch.cov(samples)")
    if covariance.shape[-1] != covariance.shape[-2]:
        raise MetricError(f"covariance has shape {tuple(covariance.shape)}; pass (..., d, d), square matrices")
    if not bool(covariance.isfinite().all()):
        raise MetricError("covariance holds NaN or infinity; leave out the samples that do")
    eps = torch.finfo(covariance.dtype if covariance.is_floating_point() else torch.float64).eps
    covariance = covariance.double()
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    variance = torch.where(variance > 0, variance, 1.0)
    scale = variance.sqrt()
    correlation = covariance / (scale[..., :, None] * scale[..., None, :])
    if float((correlation - correlation.mT).detach().abs().amax()) > math.sqrt(eps):
        raise MetricError("covariance is not symmetric; pass (S + S.mT) / 2 if the difference is rounding")
    eigenvalues = torch.linalg.eigvalsh(correlation)
    if float(eigenvalues.detach().amin()) < -math.sqrt(eps):
        raise MetricError("covariance has a negative eigenvalue; pass one of real samples, not of edited entries")
    kept = torch.where(eigenvalues > eps * covariance.shape[-1], eigenvalues, 0.0)
    return torch.log(kept).sum(-1) + torch.log(variance).sum(-1)


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
    return (terms.sum(-1) * row_counts.cpu()).sum() / _LN2


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
