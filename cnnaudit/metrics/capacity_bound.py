"""An upper bound on what a quantised tensor can carry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field as Param

from cnnaudit.information import entropy
from cnnaudit.metrics.base import Field, metric
from cnnaudit.site import Op, Site
from cnnaudit.statistics import LevelHistogram

if TYPE_CHECKING:
    from torch import Tensor


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    if site.steers:
        return "its result only steers a gate (squeeze-excite) and is meant to be a summary"
    return None


def capacity(histogram: LevelHistogram) -> Tensor:
    """Return the most that each kernel's quantised map can hold, in bits an image, float64 of shape (kernels,).

    For the values Q_1 ... Q_P at the P positions of a kernel's map, H(Q_1, ..., Q_P) <= sum H(Q_p) <= P H(Q_J) with J a
    position drawn at random: entropy is subadditive, and concave in the distribution, of which that of Q_J is the mean
    over positions. Summed over kernels it bounds the whole tensor, again by subadditivity. The counts are those of Q_J,
    and their plug-in entropy is low by O(1 / images), which the jackknife takes off.
    """
    return histogram.positions * entropy(histogram.counts)


@metric(
    reads=LevelHistogram,
    at=(Op.CONV, Op.POOL, Op.RESIDUAL, Op.MERGE, Op.CONCAT, Op.LINEAR, Op.HEAD),
    taps="result",
    fields={
        "bits": Field(
            "bits/image",
            "that the quantised tensor can hold at most",
            "higher",
            low=(
                "At this resolution the tensor can hold no more than this many bits of an image.",
                "Below the entropy of the labels it cannot carry them: look for dead kernels, or widen the layer.",
            ),
            debias=True,
            limits=(0.0, math.inf),
        ),
        "share": Field(
            "fraction",
            "of what as many values of as many equally frequent levels would hold",
            "higher",
            low=(
                "Most values are of few levels, which tells little.",
                "See activity.apoz and activity.dead for kernels that are silent at most positions.",
            ),
            debias=True,
            limits=(0.0, 1.0),
        ),
    },
    interval="delete-a-group jackknife over images, its bias taken off",
    together=True,
    cost="medium: a row gather of the sampled positions and a histogram",
    identity=("levels",),
    applies=_applies,
    images=lambda need: 50,  # noqa: ARG005
)
def capacity_bound(
    histogram: LevelHistogram,
    site: Site,
    *,
    levels: Annotated[int, Param(ge=2, le=256)] = 8,
    positions: Annotated[int, Param(ge=1)] = 32,
) -> Mapping[str, Tensor]:
    """Upper bound on the entropy of a site's tensor at a stated resolution, one value for the site.

    Definition. Every value of the tensor T that the site hands on is quantised to ``levels`` levels (equiprobable for
    each kernel on the calibration images, exact zero a level of its own), giving T_q. ``bits`` is positions times the
    sum over kernels of the entropy of a kernel's quantised value at a position drawn at random. It is at least
    H(T_q): the entropy of a tensor is at most the sum over its values, and the mean over positions of their
    entropies is at most the entropy of their mixture (subadditivity and concavity; Cover & Thomas, Elements of
    Information Theory). ``share`` is it over positions * kernels * log2(levels), which no tensor exceeds.

    Unit and range. Bits an image, from 0 to positions * kernels * log2(levels); ``share`` in [0, 1]. The number of
    levels belongs to the value: more of them give larger numbers.

    Estimator and bias. Counts of ``positions`` sampled positions a map, all of them in small maps; each is drawn
    with equal probability. The plug-in entropy is low by O(1 / images), also for the correlation within images, and the
    jackknife's estimate of that is taken off.

    Interval. Delete-a-group jackknife over images, from below the lower of the plug-in and the corrected value to above
    the higher. The grid is taken as given: the bound holds for any grid.

    Pitfalls. Where the bound lies below the entropy H(Y) of the labels, whatever is computed from T_q leaves at least
    H(Y) - bits of them unknown: at that resolution a bottleneck is proved. Where it does not, nothing is proved. The
    bound is loose, because neighbours and kernels share much: it is usually thousands of bits, and only narrow or
    mostly silent sites come near a label's few bits. On an equiprobable grid a value that is never exactly zero has
    nearly log2(levels) bits, whatever its scale. It is no measure of what T tells of the input, for which the grid and
    not the network would decide. For what is usable see usable_information, for the loss of one window
    pool_entropy_loss.
    """
    bits = capacity(histogram)
    most = histogram.positions * len(bits) * math.log2(levels)
    return {"bits": bits.sum()[None], "share": bits.sum()[None] / most}
