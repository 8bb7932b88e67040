"""Where usable information about the label drops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field as Param

from cnnaudit.intervals import Exact, RareEvent, Shifted, Uncertain
from cnnaudit.lazy import np, torch
from cnnaudit.metrics.base import Field, metric, numbers
from cnnaudit.metrics.capacity_bound import capacity
from cnnaudit.metrics.usable_information import enough_images, fewest_images
from cnnaudit.probe import Readers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import LevelHistogram, PairSample

if TYPE_CHECKING:
    from cnnaudit.intervals import Array

_DROP = (
    "A linear reader can use less about the label after this step than before it, by more than the rule allows.",
    "See the site's op: at a pool compare other operators by pool_entropy_loss, at a convolution look at its width, "
    "stride and dead kernels. Look whether a later site has it again: then it was not lost.",
)
_KEPT = (
    "The step makes more usable, or takes less away, than the rule demands.",
    "See usable_information of the sites around it.",
)
_NARROW = (
    "At this resolution the output can hold fewer bits than the labels have.",
    "Look for dead kernels, or widen the layer: whatever comes after cannot tell the classes fully apart.",
)


@metric(
    reads=PairSample,
    at=(Op.POOL, Op.CONV, Op.LINEAR, Op.HEAD, Op.RESIDUAL, Op.MERGE, Op.CONCAT, Op.GATE),
    taps=("from", "to"),
    fields={
        "drop": Field("bits", "of usable information that come in and do not go out", "lower", _KEPT, _DROP),
        "relative": Field("fraction", "of the entropy of the labels that drops", "lower", _KEPT, _DROP),
        "information_in": Field("bits", "usable in what goes in", "higher"),
        "information_out": Field("bits", "usable in what comes out", "higher"),
        "capacity": Field("bits/image", "that the quantised output can hold at most", "higher", _NARROW),
        "proved": Field("0 or 1", "whether that is surely below the entropy of the labels", "lower", high=_NARROW),
    },
    interval="infinitesimal jackknife over images of paired cross-validated probes",
    cost="heavy: about four seconds for each site after the pass (1,000 images, 512 features, 10 classes)",
    labels=True,
    identity=("readout", "features", "images", "levels"),
    images=fewest_images,
    gate=enough_images,
)
def bottleneck(
    sample: PairSample,
    site: Site,
    *,
    images: Annotated[int, Param(ge=20)] = 1000,
    readout: Literal["mean", "grid"] = "grid",
    features: Annotated[int, Param(ge=1, le=4096)] = 512,
    levels: Annotated[int, Param(ge=2, le=256)] = 8,
    positions: Annotated[int, Param(ge=1)] = 32,
) -> Mapping[str, Uncertain]:
    """Usable information about the label that a step loses: of what goes in, less of what comes out; one value a site.

    Definition. ``information_in`` and ``information_out`` are usable_information, the bits about the label that a
    linear reader gains on images that it has not seen, of the two ends; ``drop`` is their difference, ``relative`` it
    over the entropy H(Y) of the sample's labels. The ends are what goes into a site and what comes out, or the results
    of two sites with ``at: {from: ..., to: ...}``. ``capacity`` is the most that the output can hold where its values
    are quantised to ``levels`` levels, the sum over kernels and positions of their entropies (see capacity_bound), and
    ``proved`` is 1 where that is below H(Y).

    Unit and range. Bits. Above 0 where the step takes away what a linear reader could use; below 0 where it makes
    something usable, which is what a network is for. "Is the pool the bottleneck?" is a rule for all pools: ``op:
    pool``, ``max: .05`` on ``relative`` says that none of them drops more than a twentieth of H(Y); the verdict names
    the op of each site. The same without ``op`` finds the steps of every kind that do.

    Estimator and bias. Both readers are fitted as in usable_information, on the same images in the same folds, with
    the same number of features where there are enough. Each is too low by what a reader misses that learned from a
    sample; the difference may err either way, most where widths differ. ``readout: grid`` is the default, because an
    average pool does not change the mean of a map: with ``mean`` it loses nothing by construction. What the grid does
    not see, the arrangement within a cell, is not seen to be lost.

    Interval. Paired: each image's two gains and its effects as a teacher of both readers are subtracted first
    (usable_information says how), so it is much narrower than the two intervals suggest. It is about the difference to
    be expected with a sample of this size. ``capacity`` comes without one: it is an upper bound from all images, its
    plug-in bias of O(1 / images), downwards, left in. ``proved`` has that added, and the error and skew of the
    entropies, with as many draws as sources however many positions were read.

    Pitfalls. A drop says that a linear reader uses less, not that the label is lost: V-information may fall and rise
    again along a network (Xu, Zhao, Song, Stewart & Ermon, arXiv 2002.10689), and no data processing inequality
    holds for it. ``proved: 1`` says more: at that resolution whatever is computed from the output leaves a part of
    H(Y) open. ``proved: 0`` proves nothing, and is what nearly all layers have. Wide maps are projected, each width by
    signs of its own; that is a part of the definition and no part of the interval. Gate: as in usable_information.
    """
    readers = Readers(sample.labels, sample.clusters, sample.n_sources)
    before, after = (readers.fitted(x).gain for x in sample.features)
    lost = before - after
    bits = np.array([float(capacity(sample.levels).sum())])
    return {
        "drop": readers.bits(lost),
        "relative": readers.share(lost),
        "information_in": readers.bits(before),
        "information_out": readers.bits(after),
        "capacity": Exact(bits),
        "proved": RareEvent(_at_most(sample.levels, bits, sample.n_sources), readers.entropy),
    }


@dataclass(frozen=True)
class _AtMost(Shifted):
    """A capacity whose error already takes all values of one source for one."""

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:  # noqa: ARG002
        return self


def _at_most(histogram: LevelHistogram, bits: Array, sources: int) -> _AtMost:
    """Return the capacity with an upper end that holds whatever the values of one source have to do with each other.

    H(p) is the plug-in entropy of n draws, and an average of -log p, whose error is sd(log p) / sqrt(n), and
    KL(drawn, p), which 2 n times is chi-square of as many degrees of freedom as there are levels less one; by Wilson
    & Hilferty its quantile at z is about the mean, z standard deviations and 2 / 3 (z^2 - 1). The draws
    are at least as many as sources, and kernels may err together.
    """
    p = histogram.counts / histogram.counts.sum(1, keepdim=True)
    surprise = -torch.log2(torch.where(p > 0, p, 1))
    variance = (p * surprise.square()).sum(1) - (p * surprise).sum(1).square()
    free = ((p > 0).sum(1) - 1).double()
    scale = 1 / (2 * sources * math.log(2))
    spread = (variance.clamp(min=0) / sources + 2 * free * scale**2).sqrt()
    mean, error, bend = (
        numbers(histogram.positions * x.sum()) for x in (free * scale, spread, (free > 0) * scale * 2 / 3)
    )
    return _AtMost(bits + mean, error, limits=(0.0, math.inf), floor=bits, bend=bend)
