"""How similarly two layers arrange the images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

from pydantic import Field as Param

from cnnaudit.intervals import Shifted, Uncertain
from cnnaudit.lazy import np, torch
from cnnaudit.metrics.base import Field, metric, numbers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import CrossMoments

if TYPE_CHECKING:
    from torch import Tensor

_UNLIKE = (
    "The two layers arrange the images less alike than the rule demands.",
    "Look at the images that one of them sets apart: CKA follows the directions of largest variance.",
)
_ALIKE = (
    "The two layers arrange the images almost alike: what lies between them may be idle.",
    "It is a hint, no proof: see whether the network does worse without the layer before you remove it.",
)


@metric(
    reads=CrossMoments,
    at=(Op.CONV, Op.POOL, Op.RESIDUAL, Op.LINEAR, Op.HEAD, Op.MERGE, Op.CONCAT),
    taps=("from", "to"),
    fields={
        "cka": Field("similarity", "debiased, of the two layers' mean responses", "", _UNLIKE, _ALIKE),
        "biased": Field("similarity", "as most papers print it, too high with few images", "", _UNLIKE, _ALIKE),
    },
    interval="delete-a-group jackknife over images",
    cost="medium: products of all pairs of channels",
    images=lambda need: 100,  # noqa: ARG005
    identity=("features",),
)
def linear_cka(
    moments: CrossMoments, site: Site, *, features: Annotated[int, Param(ge=2, le=4096)] = 512
) -> Mapping[str, Tensor | Uncertain]:
    """Linear centred kernel alignment (CKA): how alike two layers arrange the images, one value for a pair of sites.

    Definition. With x and y the two layers' responses to an image, each kernel's map averaged to one number, the truth
    is |S_xy|^2 / (|S_xx| |S_yy|): Frobenius norms of the cross-covariance and the covariances. As a comparison of two
    Gram matrices K and L it is HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) (Kornblith, Norouzi, Lee & Hinton, arXiv
    1905.00414). At one site it compares what goes in with what comes out.

    Unit and range. The truth is in [0, 1]: 1 where one layer is a rotated, shifted and rescaled copy of the other, 0
    where they are linearly unrelated. An isotropic layer of p kernels and the first q of them have sqrt(q / p). Linear
    maps other than rotations and a common scale do change it: a single kernel of large variance decides the value.

    Estimator and bias. ``cka`` takes the unbiased estimate HSIC_1 (Song, Smola, Gretton, Bedo & Borgwardt, JMLR 13
    (2012)) in all three places, from sums over the images, so that it is exact and no Gram matrix is kept. Estimates
    may fall below 0. Where several images come from one source, they are alike as an image is to itself, so only
    products of different groups of sources are taken; what remains is about d / sources^2, by the means. ``biased``
    leaves the pairs of an image with itself in: for independent noise it is .40 with 100 images and 64 kernels each and
    .91 with 200 images and 2,048 kernels, where ``cka`` is 0 on average (the same warning: Murphy, Zylberberg & Fyshe,
    arXiv 2405.01012). Layers with more than ``features`` kernels are projected to that many random directions, both
    alike where they are equally wide. That makes a spread-out layer look more spread out: where layers of unequal width
    are compared, the value is too low by the factor sqrt(1 + d / features) for each that is projected, d being its
    participation ratio.

    Interval. Delete-a-group jackknife over 16 groups of images, or of sources, cut at 1. Near 0 the estimate is the
    square of a noisy correlation, whose error falls with the estimate itself and then is too small; so z errors away
    each end lies another z^2 (1 - cka)^2 / images further out, as much as the square of one correlation bends. Where
    many directions share the variance that is more than needed. The interval of ``biased`` is about what ``biased`` is
    on average with as many images, not about the truth.

    Pitfalls. Not a measure of what a layer does for the task: it follows the directions of largest variance and
    outliers, and can be moved at will without changing the network's output (Davari and others, arXiv 2210.16156). A
    value near 1 between neighbours hints at an idle layer; alone it is no failure. What differs only in where on the
    map a kernel responds is not seen. Of a few sources with many images each ``biased`` is too high for these, too. A
    layer that never varies has no value.
    """
    tally = {name: x[0] for name, x in moments.tally.items()}
    n = tally["images"].double()
    x = _Side(tally["x"], tally["k"], moments.calibration["from"])
    y = _Side(tally["y"], tally["l"], moments.calibration["to"])
    pairs = (
        _Pair(x, y, *(tally[name] for name in ("xy", "kl", "lx", "ky"))),
        _Pair(x, x, *(tally[name] for name in ("xx", "kk", "kx", "kx"))),
        _Pair(y, y, *(tally[name] for name in ("yy", "ll", "ly", "ly"))),
    )
    moving = (n > 3) & x.varies(n) & y.varies(n)
    products = moments.across.unbind() if moments.probe.clustered else [pair.unbiased(n) for pair in pairs]
    value = numbers(_aligned(*products, moving=moving))
    bend = (1 - value.clip(0, 1)) ** 2 / moments.n_sources
    return {
        "cka": _Similarity(value, np.full(1, math.inf), limits=(-math.inf, 1.0), bend=bend),
        "biased": _aligned(*(pair.biased(n) for pair in pairs), moving=moving),
    }


@dataclass(frozen=True)
class _Similarity(Shifted):
    """A debiased similarity, whose error leaving out groups tells."""

    by_groups: ClassVar[bool] = True


class _Side(NamedTuple):
    """One layer: the sum of its feature vectors and of their squared norms, both about the pilot mean."""

    total: Tensor
    power: Tensor
    pilot: Tensor

    def varies(self, n: Tensor) -> Tensor:
        """Whether there is more variance than rounding leaves of a constant."""
        variance = self.power / n - (self.total / n).square().sum()
        return variance > 1e-20 * (self.power / n + self.pilot.square().sum())

    @property
    def off_diagonal(self) -> Tensor:
        """Sum of the Gram matrix without its diagonal."""
        return self.total.square().sum() - self.power


class _Pair(NamedTuple):
    """Two layers x and y and sums over images.

    Attributes:
        x, y: The layers.
        products: Sum of x y^T.
        q: Sum of |x|^2 |y|^2.
        lx, ky: Sums of |y|^2 x and |x|^2 y.
    """

    x: _Side
    y: _Side
    products: Tensor
    q: Tensor
    lx: Tensor
    ky: Tensor

    def unbiased(self, n: Tensor) -> Tensor:
        """HSIC_1 of the linear kernels."""
        x, y = self.x, self.y
        traces = self.products.square().sum() - self.q
        rows = x.total @ self.products @ y.total - self.lx @ x.total - self.ky @ y.total + self.q
        both = x.off_diagonal * y.off_diagonal / ((n - 1) * (n - 2))
        return (traces + both - 2 * rows / (n - 2)) / (n * (n - 3))

    def biased(self, n: Tensor) -> Tensor:
        """HSIC_0 of the linear kernels, up to a factor that all pairs share."""
        return (self.products - torch.outer(self.x.total, self.y.total) / n).square().sum()


def _aligned(xy: Tensor, xx: Tensor, yy: Tensor, *, moving: Tensor) -> Tensor:
    defined = moving & (xx > 0) & (yy > 0)
    return torch.where(defined, xy / torch.sqrt((xx * yy).abs()), torch.nan).reshape(1)
