"""How far two layers keep the same images apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field as Param

from cnnaudit.intervals import Array, Independent, Uncertain
from cnnaudit.lazy import np, torch
from cnnaudit.metrics.base import Field, Need, metric, numbers
from cnnaudit.renyi import Width, gram, information, joint
from cnnaudit.site import Op, Site
from cnnaudit.statistics import BatchSample, sample_kernels

if TYPE_CHECKING:
    from torch import Tensor

_KERNELS = 16
_PAIRS = ("redundancy_synergy", "non_redundant")
_OTHER = (
    "The index lies below what the rule allows.",
    "Compare with another `width` rule before you read anything into it: it is a relative index.",
)
_MORE = (
    "The index lies above what the rule allows.",
    "Compare with another `width` rule before you read anything into it: it is a relative index.",
)


def _images(need: Need) -> int:
    return int(need.params["batch"]) * BatchSample.most_batches


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    to = site.taps["to" if "to" in site.taps else site.result]
    return "it compares pairs of kernels, and there is only one" if field in _PAIRS and to.shape[0] < 2 else None


@metric(
    reads=BatchSample,
    at=(Op.CONV, Op.POOL, Op.RESIDUAL, Op.LINEAR, Op.HEAD, Op.MERGE, Op.CONCAT),
    taps=("from", "to"),
    fields={
        "information": Field("bits", "relative index, of two layers under one width rule", "", _OTHER, _MORE),
        "redundancy_synergy": Field("bits", "redundancy less synergy of pairs of kernels", "", _OTHER, _MORE),
        "non_redundant": Field("bits", "unique plus twice synergistic, of pairs of kernels", "", _OTHER, _MORE),
    },
    interval="Student's t between 8 batches of images",
    cost="heavy: keeps the maps of 512 images, averaged to 4 x 4, and takes 2,200 eigendecompositions",
    images=_images,
    identity=("alpha", "batch", "width"),
    applies=_applies,
)
def renyi_information(
    sample: BatchSample,
    site: Site,
    *,
    alpha: Annotated[float, Param(gt=0)] = 1.01,
    batch: Annotated[int, Param(ge=4, le=256)] = 64,
    width: Width = "dimension",
) -> Mapping[str, Uncertain]:
    """Matrix-based Renyi information of two layers: how far they keep the same images apart; a relative index.

    Definition. With A and B the normalised Gram matrices of a batch at the two sites, made as ``renyi_entropy`` says,
    S its entropy and A o B the Hadamard product divided by its trace, ``information`` is
    I(X; T) = S(A) + S(B) - S(A o B) (Sanchez Giraldo, Rao & Principe, arXiv 1211.2459). For two kernels i and j of the
    second site, each with a Gram matrix of its own, and X the first site, I(X; i) and the joint I(X; {i, j}), with
    A_i o A_j in the place of B (Yu, Sanchez Giraldo, Jenssen & Principe, arXiv 1808.07912), give
    ``redundancy_synergy`` = I(X; i) + I(X; j) - I(X; {i, j}) and ``non_redundant`` = 2 I(X; {i, j}) - I(X; i) -
    I(X; j), averaged over all pairs of at most 16 kernels, drawn by a hash of the site's path. For Shannon information
    these would be redundancy less synergy, and unique information plus twice the synergistic. The names are those of
    Yu, Wickstrom, Jenssen & Principe, arXiv 1804.06537; what is computed is what stands here, in bits a pair and not
    divided by anything.

    Unit and range. Bits, ``information`` from about 0 to log2(batch). It is neither bits of the input that a layer
    keeps nor Shannon information, and I(X; X) is not S(X): of two images with K_12 = exp(-1/2) it is .527 where S is
    .713.

    Estimator and bias. Mean over up to 8 disjoint batches of images drawn by a hash, at most one of a source; the claim
    is about the expected value of a batch of that many images.

    Interval. Student's t between the batches.

    Pitfalls. The width rule decides the result, see ``renyi_entropy``; alpha, batch and width are part of the metric's
    id. No verdict on the data processing inequality follows. With ``width: silverman`` and layers rescaled by .1, 1 or
    10, a second random layer seems to know more of the input than the first in three of five networks, although it sees
    nothing but the first; with ``dimension`` the index rises along the LeNet of docs/renyi.md. Public code for
    1804.06537 multiplies the Gram matrices of all kernels of a layer; with one width for all of them that is one Gram
    matrix of the whole layer, as here, only with the narrower width of a single map, and saturates sooner. Where A is
    close to the identity, I is S of the other layer and says nothing of the two. Of pairs of kernels neither sign
    proves anything: kernels that respond to nothing have 0 both.
    """
    x, t = (sample.batches(tap) for tap in (0, 1))
    a, b = gram(x.flatten(2), width), gram(t.flatten(2), width)
    values = numbers(information(a, b, alpha))
    chosen = torch.tensor(sample_kernels(site.path, 0, t.shape[2], _KERNELS))
    kernels = t.transpose(1, 2).index_select(1, chosen.to(t.device))
    pairs = np.array([_pairs(x, gram(maps, width), alpha) for x, maps in zip(a, kernels, strict=True)]).reshape(-1, 2)
    return {
        "information": Independent.of(values[:, None]),
        "redundancy_synergy": Independent.of(pairs[:, :1]),
        "non_redundant": Independent.of(pairs[:, 1:]),
    }


def _pairs(x: Tensor, kernels: Tensor, alpha: float) -> Array:
    """Redundancy less synergy, and non-redundant information, averaged over pairs of kernels.

    Args:
        x: Gram matrix of the first site, shape (n, n).
        kernels: Gram matrices of the second site's kernels, shape (kernels, n, n).
        alpha: Order.

    Returns:
        Both, shape (2,); NaN where there is no pair.
    """
    i, j = torch.triu_indices(len(kernels), len(kernels), 1, device=kernels.device)
    alone = information(x.expand_as(kernels), kernels, alpha)
    together = information(x.expand(len(i), -1, -1), joint(kernels[i], kernels[j]), alpha)
    apart = alone[i] + alone[j]
    return np.array([float((apart - together).mean()), float((2 * together - apart).mean())])
