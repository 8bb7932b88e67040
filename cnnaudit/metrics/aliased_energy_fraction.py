"""What share of a map's energy a subsampling folds onto lower frequencies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnnaudit.intervals import BoundedMean, Uncertain, linearised_ratio
from cnnaudit.metrics.base import Field, Gate, metric, numbers
from cnnaudit.metrics.gates import carried_by_few
from cnnaudit.site import Op, Site
from cnnaudit.statistics import AliasedEnergy

_FEWEST = 50


def _where(site: Site) -> bool:
    return site.op is Op.POOL or (site.downsamples and not site.transposed)


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    if site.steers:
        return "its result only steers a gate (squeeze-excite) and is meant to be a summary"
    if not site.kernel:
        return "its windows differ in shape (adaptive pooling of a size that does not divide)"
    if site.is_global:
        return "one position is left, which tells no frequency but 0"
    if max(site.stride) == 1:
        return "its stride is 1: it is not subsampled"
    if site.op is not Op.POOL and "weight" not in site.parameters and "weight" not in site.taps:
        return "its weight is no plain parameter (it is computed), so its output between the strides is unknown"
    return None


def _gate(tally: AliasedEnergy, site: Site, field: str, params: Mapping[str, Any]) -> Gate:
    _, energy, _, _, squares = tally.energies
    return carried_by_few(tally, energy, squares, _FEWEST, "the energy")


@metric(
    reads=AliasedEnergy,
    at=(Op.POOL, Op.CONV),
    taps=("input", "weight"),
    optional=("weight",),
    fields={
        "fraction": Field(
            "fraction",
            "share of the energy that lies above what the new grid can tell",
            "lower",
            low=(
                "The maps are nearly constant over the stride: little is aliased, and little would be lost by a larger "
                "stride.",
                "See pool_information_dimension_loss there: a map that varies slowly may be subsampled earlier.",
            ),
            high=(
                "Much of what varies in these maps is folded onto lower frequencies and cannot be told from them.",
                "Low-pass filter before the stride (blur pooling; average instead of max; a kernel wider than 1x1), "
                "and see shift_consistency for what it does to the decision.",
            ),
            exact=True,
        ),
    },
    interval="linearised ratio over images, Korn-Graubard",
    cost="heavy: Fourier transforms; of a convolution also its output at every position, its cost times its strides",
    where=_where,
    applies=_applies,
    images=lambda need: _FEWEST,  # noqa: ARG005
    gate=_gate,
)
def aliased_energy_fraction(tally: AliasedEnergy, site: Site) -> Mapping[str, Uncertain]:
    """Share of a map's energy at frequencies that the subsampled grid folds onto lower ones (aliasing).

    Definition. Let X be the output of a pool or convolution of stride r at every position (stride 1), before it is
    subsampled, and X^ its discrete Fourier transform. A grid of every r-th position tells frequencies up to 1 / (2 r)
    cycles a position (its Nyquist frequency); those above are folded onto others. fraction = sum of |X^(f)|^2 over all
    f with |f_d| > 1 / (2 r_d) in any dimension d, over the sum over all f but 0. Sums run over images.

    Unit and range. Fraction in [0, 1], one value for each kernel. Frequencies on the limit count as kept. White noise
    of 16 x 16 positions and r = 2 has 175 / 255; the more positions, the nearer to 1 - 1 / r^d. A checkerboard has 1.
    Shift and scale of a kernel change nothing, nor does a convolution's bias.

    Estimator and bias. Whole maps of all images, without a window function; ratio of sums over images, so an image of
    high contrast weighs more; bias O(1 / images). The map is continued periodically, in the operator's windows as in
    the transform. Padding has thus no part in it: a frame of zeros would be a step whose harmonics count as aliased,
    and without the frame small maps would have few frequencies left.

    Interval. Linearised ratio over images; binomial at its effective sample size (Korn & Graubard 1998), which is
    normal except near 0 and 1.

    Pitfalls. Gate: 50 sources (images, where each is a source of its own), and 50 that hold the energy t,
    (sum t)^2 / sum t^2 over images times sources / images. Opposite borders that do not fit still make a step, if one
    no higher than the map's own contrast: a linear ramp over N positions has about 1.9 / N at r = 2 (.10 at 16, .03 at
    56), so compare maps of similar size. Along a dimension of fewer than 2 r positions every frequency is above the
    limit. Networks need not filter: one that could have learned to was seen to alias in its intermediate layers (arXiv
    2102.07757), and vulnerability to corruptions and attacks was seen to go along with downsampling that violates the
    band limit (arXiv 2307.09804). Folded energy is not lost accuracy. What a nonlinearity folds on a grid that stays as
    it is, is not seen here.
    """
    h, t, hh, ht, tt = numbers(tally.energies)
    ratio, error = linearised_ratio(h, t, aa=hh, ab=ht, bb=tt, n=tally.n_images)
    return {"fraction": BoundedMean(ratio, error, tally.n_images)}
