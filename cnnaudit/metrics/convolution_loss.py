"""What a convolution's shape and weights cannot pass, whatever the images are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field as Param

from cnnaudit.intervals import Exact, Uncertain
from cnnaudit.lazy import np, torch
from cnnaudit.metrics.base import Field, metric, numbers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import Parameters

if TYPE_CHECKING:
    from torch import Tensor

_WORK = 2**33
_COARSEST = 4
_NULL = 1e-3
_FEW = (
    "The convolution can pass only this share of the dimensions of its input.",
    "More output channels or a smaller stride; where position_coverage is as low, a kernel at least as large as the "
    "stride, or an average pool before it.",
)
_SKIPPED = (
    "The kernel is smaller than the stride and never reads the other positions.",
    "Use a kernel at least as large as the stride, or an average pool of the stride before a 1x1 convolution of stride "
    "1 (the shortcut of ResNet-D, arXiv 1812.01187).",
)
_ERASED = (
    "Some pattern that is as strong at the input as others hardly passes the convolution.",
    "See spectral_null_share for how many there are. A blur erases its highest frequencies on purpose; elsewhere look "
    "for dead or duplicate filters.",
)
_NULLS = (
    "The convolution erases, or nearly so, more independent patterns than the rule allows.",
    "A blur does so on purpose; elsewhere look for dead or duplicate filters.",
)


@metric(
    reads=Parameters,
    at=Op.CONV,
    taps="weight",
    fields={
        "rank_bound": Field("fraction", "of the input's dimensions that can pass at most", "higher", _FEW, exact=True),
        "position_coverage": Field(
            "fraction", "of the input's positions that the kernel reads", "higher", _SKIPPED, exact=True
        ),
        "spectral_floor": Field(
            "ratio", "smallest singular value over all frequencies over the largest", "higher", _ERASED, exact=True
        ),
        "spectral_null_share": Field(
            "fraction", "of the singular values that are below `null` of the largest", "lower", high=_NULLS, exact=True
        ),
    },
    interval="none: weights are known exactly",
    cost="weights: singular values of the layer at up to 16 x 16 frequencies, half a minute for a ResNet-18",
    identity=("grid", "null"),
)
def convolution_loss(
    parameters: Parameters,
    site: Site,
    *,
    grid: Annotated[int, Param(ge=1)] = 16,
    null: Annotated[float, Param(gt=0, lt=1)] = _NULL,
) -> Mapping[str, Uncertain]:
    """What a convolution cannot pass by its shape and weights, one value for the site.

    Definition. ``rank_bound``: let a layer of C inputs and stride s (s1 s2 ... over all dimensions) have the weights W,
    a matrix of outputs x (inputs x kernel positions), and read a share r of its input's positions. One output position
    has rank(W) dimensions and stands for C s input values, of which C s r are read: min(r, rank(W) / (C s)). For
    groups it is summed over them before dividing. ``position_coverage``: r, the product over dimensions of the
    positions out of each s that some tap of the kernel meets: min(1, k / s) without dilation, 1/4 for the 1x1
    projection of stride 2 of a ResNet's shortcut. ``spectral_floor`` and ``spectral_null_share`` are of the convolution
    before its stride. With circular padding its singular values are those of the transfer matrices H(f) = sum_u W_u
    exp(-2 pi i f u), outputs x inputs, at all frequencies f of a map, of each group its own (Sedghi, Gupta & Long,
    arXiv 1805.10408): the smallest over the largest, and the share of those below ``null`` (.001) of the largest. Of
    C inputs and K outputs there are min(C, K) at a frequency.

    Unit and range. All in [0, 1]. A floor of 1 is a layer that preserves lengths up to one factor, 0 one that erases
    some pattern: the average of two neighbours erases the one that alternates. Of a 1x1 convolution the floor is the
    inverse condition number of its matrix.

    Estimator and bias. None: no image is read. The rank is numerical: singular values above the matrix's longer side
    times 2^-23 of the largest. Frequencies lie on a grid of ``grid`` points a dimension, which is a map of that size,
    and one along a dimension in which the kernel has one position. Large layers get a coarser one, down to 4 x 4:
    points of the grid x inputs x outputs x the smaller of both, summed over groups, stay within 2^33 (8 x 8 for 512
    channels). H(f) is smooth in f, so that maps of other sizes have nearly the same singular values, but a coarser grid
    may miss the exact minimum.

    Interval. None: the values are exact.

    Pitfalls. These are bounds: what passes of real images is less, or nearly all where they use few dimensions
    (participation_ratio). Borders are left out of rank_bound and position_coverage. Both spectral fields leave out what
    fewer outputs than inputs and the stride lose: rank_bound has that. Singular values with zero padding differ;
    circular ones approximate them without a guarantee (arXiv 2006.07117). One filter of zeros, or of a much smaller
    scale, makes the floor small; a batch norm that follows rescales filters and with them the values. Layers with as
    many outputs as inputs have small floors by chance: the untrained ones of a ResNet-18 have 1e-5 to 1e-3, those with
    twice as many outputs .17. The share of nulls is steadier. A blur must erase high frequencies before a stride, or
    they come back as aliases. What the activation that follows removes is not part of it. Where all weights are zero
    the spectral fields have no value.
    """
    weight = parameters["weight"]
    blocks = weight.reshape(site.groups, -1, *weight.shape[1:])
    taps = weight.shape[2:]
    stride, dilation = (given or (1,) * len(taps) for given in (site.stride, site.dilation))
    coverage = _coverage(taps, stride, dilation)
    inputs = blocks.shape[2] * math.prod(stride)
    passed = _ranks(blocks.flatten(2)).clamp(max=coverage * inputs).sum() / (site.groups * inputs)
    values, weights = _spectrum(blocks, _grid(blocks, grid), dilation)
    largest = values.max()
    erased = (values < null * largest).double().mean((1, 2))
    null_share = torch.where(largest > 0, (erased * weights).sum() / weights.sum(), torch.nan)
    return {
        "rank_bound": Exact(numbers(passed)),
        "position_coverage": Exact(np.array([coverage])),
        "spectral_floor": Exact(numbers(values.min() / largest)),  # 0 / 0 where all are zero
        "spectral_null_share": Exact(numbers(null_share)),
    }


def _coverage(kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> float:
    """Share of the input's positions that some window reads."""
    dimensions = zip(kernel, stride, dilation, strict=True)
    return math.prod(len({tap * d % s for tap in range(k)}) / s for k, s, d in dimensions)


def _ranks(matrices: Tensor) -> Tensor:
    """Numerical rank of each matrix at the precision of float32, which weights have."""
    wide = matrices.shape[2] > matrices.shape[1]
    # Its own scale first: squares of small weights would vanish.
    scaled = matrices / matrices.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(matrices.dtype).tiny)
    squares = torch.linalg.eigvalsh(scaled @ scaled.mT if wide else scaled.mT @ scaled)
    least = (max(matrices.shape[1:]) * torch.finfo(torch.float32).eps) ** 2 * squares[:, -1:]
    ranks: Tensor = (squares > least).sum(1, dtype=torch.float64)
    return ranks


def _grid(blocks: Tensor, most: int) -> tuple[int, ...]:
    """Frequencies along each dimension."""
    groups, outputs, inputs, *kernel = blocks.shape
    moving = sum(k > 1 for k in kernel)
    work = groups * outputs * inputs * min(outputs, inputs)
    while most > _COARSEST and most**moving * work > _WORK:
        most = max(most // 2, _COARSEST)
    return tuple(most if k > 1 else 1 for k in kernel)


def _spectrum(blocks: Tensor, size: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Singular values at each frequency, shape (frequencies, groups, r), and how many frequencies have them.

    Of real weights H(-f) is the conjugate of H(f), with the same singular values: half of them will do.
    """
    transfer = blocks.to(torch.complex128)
    weights = torch.ones(1, dtype=torch.float64, device=blocks.device)
    for dimension, (count, d) in enumerate(zip(size, dilation, strict=True), 1):
        half = dimension == len(size)
        frequency = torch.arange(count // 2 + 1 if half else count, device=blocks.device)
        tap = torch.arange(transfer.shape[3], device=blocks.device) * d
        turn = torch.outer(tap, frequency).double() * (2 * math.pi / count)
        transfer = torch.tensordot(transfer, torch.polar(torch.ones_like(turn), -turn), dims=([3], [0]))
        twice = half & (frequency > 0) & (2 * frequency < count)
        weights = torch.outer(weights, 1.0 + twice.double()).flatten()
    matrices = transfer.flatten(3).movedim(-1, 0) if size else transfer[None]
    return torch.linalg.svdvals(matrices), weights
