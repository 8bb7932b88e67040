"""What share of the active values a downsampling cannot carry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field as Param

from cnnaudit.intervals import BoundedMean, Uncertain, linearised_ratio
from cnnaudit.lazy import np
from cnnaudit.metrics.base import Field, Gate, Need, metric, numbers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import WindowActivity, Windows
from cnnaudit.statistics.window_activity import OPERATORS, tile

_FEWEST = 50


def _where(site: Site) -> bool:
    return site.op is Op.POOL or (site.downsamples and not site.transposed)


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    if site.steers:
        return "its result only steers a gate (squeeze-excite) and is meant to be a summary"
    if not site.taps["input"].spatial:
        return "a vector has no windows"
    if Windows.of(tile(site)).total == 0:
        return "every window touches padding"
    if site.op is not Op.POOL and field != "loss":
        return "a convolution has no other pooling operator to compare with"
    return None


def _images(need: Need) -> int:
    return _FEWEST


def _gate(tally: WindowActivity, site: Site, field: str, params: Mapping[str, Any]) -> Gate:
    read, n = numbers(tally.total("read")), tally.n_sources
    with np.errstate(invalid="ignore"):
        # Of the images of one source no more than their share of all sources is sure to be independent.
        carrying = np.nan_to_num(read**2 / numbers(tally.total("read2")), nan=math.inf) * (n / tally.n_images)
    needed = np.where(carrying < _FEWEST * (1 - 1e-6), np.ceil(_FEWEST * n / carrying), 0)
    samples = "sources" if tally.probe.clustered else "images"
    return Gate(needed.astype(np.int64), f"fewer than {_FEWEST} {samples} hold the active values of some units")


_MUCH = (
    "The windows hold more active values than the operator can carry: it throws that share of them away.",
    "Where another operator would lose clearly less (max, avg, min, stride), try it; a loss "
    "near 1 after a ReLU is a min pool or a stride.",
)
_LITTLE = ("The windows are nearly empty: there is little that could be lost.", "See activity.apoz before this site.")


@metric(
    reads=WindowActivity,
    at=(Op.POOL, Op.CONV),
    taps="input",
    fields={
        "loss": Field("fraction", "share of active values that the operator cannot carry", "lower", _LITTLE, _MUCH),
        "max": Field("fraction", "the same had it been max pooling", "lower", _LITTLE, _MUCH),
        "avg": Field("fraction", "the same had it been average pooling", "lower", _LITTLE, _MUCH),
        "min": Field("fraction", "the same had it been min pooling", "lower", _LITTLE, _MUCH),
        "stride": Field("fraction", "the same had it taken the first value of each window", "lower", _LITTLE, _MUCH),
    },
    interval="linearised ratio over images, Korn-Graubard",
    recommended=True,
    cost="light: a row gather of the sampled windows",
    where=_where,
    applies=_applies,
    images=_images,
    gate=_gate,
    version=2,
)
def pool_information_dimension_loss(
    tally: WindowActivity,
    site: Site,
    *,
    windows: Annotated[int, Param(ge=1)] = 64,
) -> Mapping[str, Uncertain]:
    """Relative information loss of a pool or strided convolution, without any grid: it only counts.

    Definition. In a window W let m be the number of different active values (no exact zero of a ReLU, no 6 of a
    ReLU6). As the grid becomes fine, H(W | result) / H(W) tends to E[d(W | result)] / E[d(W)] with d the
    information dimension (Geiger & Kubin, arXiv 1203.6791): d(W) = m, and one active result keeps one of them.
    Hence loss = 1 - P(result is active) / E[m]: max and average 1 - P(m >= 1) / E[m], min
    1 - P(all active) / E[m], stride 1 - P(first active) / E[m]. For a strided convolution W is the tile of its
    stride over the input channels of one group, and a group of c output channels keeps at most c of the active
    values that its kernel reaches: loss = 1 - E[min(m reached, c)] / E[m], a lower bound of what is lost.

    Unit and range. Fraction in [0, 1], one value for each kernel of a pool, for each channel group of a
    convolution. Dense maps lose 1 - 1/4 under every 2x2 operator; sparse ones little under max.

    Estimator and bias. Ratio of sums over images of ``windows`` sampled windows a map; bias O(1 / images).

    Interval. Linearised ratio z_i = kept_i - (1 - loss) * read_i over images; binomial at its effective sample size
    (Korn & Graubard 1998), which is normal except near 0 and 1.

    Pitfalls. Gate: 50 sources (images, where each is a source of its own), and 50 that hold the active values r that
    were read, (sum r)^2 / sum r^2 over images times sources / images: a ratio that few images carry has an error that
    few tell, and too small a one. Windows that touch padding are left out; smaller ones (``ceil_mode``, an adaptive
    pool of a size that does not divide) count with the values that they hold. It assumes that active values vary
    independently of each other in the sense of having a joint density, and ignores the log2 k bits of where the maximum
    was. Where a kernel is never active the ratio is 0 / 0 and undecided.
    """
    n = tally.n_images
    kept, kept2, both, read, read2 = (
        numbers(tally.total(name)) for name in ("kept", "kept2", "kept_read", "read", "read2")
    )
    ratios, errors = linearised_ratio(kept, read, aa=kept2, ab=both, bb=read2, n=n)
    losses = [BoundedMean(1 - ratio, error, n) for ratio, error in zip(ratios, errors, strict=True)]
    if site.op is not Op.POOL:
        return {"loss": losses[0]}
    by_operator = dict(zip(OPERATORS, losses, strict=True))
    return {"loss": by_operator[site.operator], **by_operator}
