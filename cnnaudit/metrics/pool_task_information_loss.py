"""How much about the label a downsampling takes from a linear reader, and what other poolings would have taken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field as Param

from cnnaudit.intervals import Uncertain
from cnnaudit.metrics.base import Field, metric
from cnnaudit.metrics.usable_information import enough_images, fewest_images
from cnnaudit.probe import Readers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import PoolSample
from cnnaudit.statistics.window_activity import OPERATORS

_MILLION = 1e6


def _where(site: Site) -> bool:
    return site.op is Op.POOL or (site.downsamples and not site.transposed)


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    if site.steers:
        return "its result only steers a gate (squeeze-excite) and is meant to be a summary"
    if field == "per_mmac" and not site.macs_after:
        return "no convolution or linear layer comes after it"
    if field.removeprefix("relative_") not in OPERATORS:
        return None
    if site.op is not Op.POOL:
        return "a convolution has no other pooling operator to compare with"
    return None if params.get("alternatives", True) else "alternatives: false leaves it out"


_MUCH = (
    "A linear reader can use less about the label after this downsampling, by more than the rule allows.",
    "Where another operator would lose clearly less (relative_max, _avg, _min, _stride), try it; else downsample later "
    "or with more channels. Look whether a later site has it again: then it was not lost.",
)
_KEPT = (
    "The downsampling makes more usable, or takes less away, than the rule demands.",
    "See usable_information of the sites around it.",
)
_THIN = (
    "A value after this downsampling carries less usable information, against one before it, than the rule demands.",
    "It throws away positions that a linear reader needs; see relative_max, _avg, _min and _stride for what others do.",
)
_DENSE = (
    "A value after this downsampling carries more usable information, against one before it, than the rule allows.",
    "The maps before it are redundant for the label: an earlier downsampling would save memory and arithmetic.",
)
_DEAR = (
    "What comes after this downsampling computes more for each usable bit than the rule allows.",
    "Downsample earlier, or narrow the layers behind it.",
)
_CHEAP = (
    "What comes after this downsampling computes less for each usable bit than the rule allows.",
    "See usable_information: the layers behind it may have little to do.",
)


@metric(
    reads=PoolSample,
    at=(Op.POOL, Op.CONV),
    taps=("input", "result"),
    fields={
        "bits": Field("bits", "of usable information that go in and do not come out", "lower", _KEPT, _MUCH),
        "relative": Field("fraction", "of the entropy of the labels that is lost", "lower", _KEPT, _MUCH),
        "relative_max": Field("fraction", "the same had it been max pooling", "lower", _KEPT, _MUCH),
        "relative_avg": Field("fraction", "the same had it been average pooling", "lower", _KEPT, _MUCH),
        "relative_min": Field("fraction", "the same had it been min pooling", "lower", _KEPT, _MUCH),
        "relative_stride": Field("fraction", "the same had it taken each window's first value", "lower", _KEPT, _MUCH),
        "information_in": Field("bits", "usable in what goes in", "higher"),
        "information_out": Field("bits", "usable in what comes out", "higher"),
        "per_byte": Field("ratio", "usable bits per value after it over before it", "higher", _THIN, _DENSE),
        "per_mmac": Field(
            "bits/Mmac", "usable after it, for each million multiply-adds behind it", "higher", _DEAR, _CHEAP
        ),
    },
    interval="infinitesimal jackknife over images of paired cross-validated probes; per_byte by Fieller",
    cost="heavy: about two seconds for each of up to five readers of a site (1,000 images, 512 features, 10 classes)",
    labels=True,
    identity=("readout", "features", "images"),
    where=_where,
    applies=_applies,
    images=fewest_images,
    gate=enough_images,
)
def pool_task_information_loss(
    sample: PoolSample,
    site: Site,
    *,
    images: Annotated[int, Param(ge=20)] = 1000,
    readout: Literal["mean", "grid"] = "grid",
    features: Annotated[int, Param(ge=1, le=4096)] = 512,
    alternatives: bool = True,
) -> Mapping[str, Uncertain]:
    """Usable information about the label that a downsampling loses, beside that of other poolings of the same windows.

    Definition. ``information_in`` and ``information_out`` are usable_information, the bits about the label that a
    linear reader gains on images that it has not seen, of what goes into a pool or strided convolution and of what
    comes out; ``bits`` is their difference, ``relative`` it over the entropy H(Y) of the sample's labels: the ``drop``
    of bottleneck. What is added are the other operators: ``relative_max``, ``_avg``, ``_min`` and ``_stride`` are the
    losses had the maximum, the mean, the minimum or the first value of each window been taken. Padding is not counted
    in them. ``per_byte`` is what a value after it carries over what a value before it carries, (information_out /
    values out) / (information_in / values in); input and result have one data type, so it is also the ratio of the
    usable bits per stored byte: what memory buys. Where all layers behind are convolutions, whose multiply-adds grow
    with the positions, that is also what arithmetic buys, with the pool over without it. ``per_mmac`` is
    information_out for each million multiply-adds of all layers behind the site.

    Unit and range. Bits, and fractions of H(Y), below 0 where a linear reader can use more of the result than of the
    input. ``per_byte`` is a ratio: a pool of 2 x 2 that loses nothing has 4, one that loses three quarters 1. One value
    for the site.

    Estimator and bias. All readers are fitted as in usable_information, on the same images in the same folds, and
    results of all operators are read alike: ``readout: grid``, the mean and the maximum of each channel in a 2 x 2
    grid. A map of one position is its value. Which operator suits is known for independent binary features whose
    frequency depends on the class (the model of Boureau, Ponce & LeCun, ICML 2010): their sum holds all that they tell,
    so average pooling loses nothing. For windows of four values that are on with .05 in one class and .25 in the other
    the mean tells .220 bits, the maximum .191, the first value .061, the minimum .002; with .75 and .95 maximum and
    minimum change places.

    Interval. Paired: each image's gains and its effects as a teacher of both readers are subtracted first
    (usable_information says how). ``per_byte`` is a quotient of two estimates; where nothing is surely usable before,
    its interval (Fieller's) is all numbers. All are about values to be expected with a sample of this size. In
    simulations of 200 and 300 images of 3 and 4 classes they covered .90 to 1.00 at a nominal .95.

    Pitfalls. A loss says that a linear reader uses less, not that the label is lost, and a network that had been
    trained with another operator would have other features: the comparison is of these maps. What the readout does not
    see is not seen to be lost. A mean of the map commutes with average pooling: with ``readout: mean`` it loses nothing
    by construction, and with ``grid`` it keeps the means of cells that its windows tile and loses maxima only, as max
    pooling keeps these and loses means. After a global pool the reader has one value for each channel against the
    grid's eight before it: the loss is what the arrangement in quarters and the other of mean and maximum told. Wide
    maps are projected, each width by signs of its own. ``per_mmac`` compares sites and networks, not a pool with none:
    a network without it would need other layers. Gate: as in usable_information.
    """
    readers = Readers(sample.labels, sample.clusters, sample.n_sources)
    before, after = (readers.fitted(x).gain for x in sample.features)
    lost = before - after
    unknown = readers.bits(lost, math.nan)
    values_in, values_out = (math.prod(site.taps[tap].shape) for tap in sample.probe.taps)
    found = {
        "bits": readers.bits(lost),
        "relative": readers.share(lost),
        "information_in": readers.bits(before),
        "information_out": readers.bits(after),
        "per_byte": readers.quotient(after, before, values_in / values_out),
        "per_mmac": readers.bits(after, _MILLION / site.macs_after) if site.macs_after else unknown,
    }
    shares = {site.operator: found["relative"]} | {
        operator: readers.share(before - readers.fitted(x).gain) for operator, x in sample.alternatives.items()
    }
    return found | {f"relative_{operator}": shares.get(operator, unknown) for operator in OPERATORS}
