"""Whether the place of a kernel's activity follows the place of what it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cnnaudit.intervals import CarriedNormal, Normal, Rescaled, Uncertain, delta_error, linearised_ratio, widened
from cnnaudit.lazy import np
from cnnaudit.metrics.base import Field, Gate, metric
from cnnaudit.site import Altered, Op, Site
from cnnaudit.statistics import CentreShifts

_TAPS = ("first", "second")
_FEWEST = 64
_CAP = 1 - 1e-12  # what float64 sums cannot tell from 1


def _variants(site: Site, params: Mapping[str, Any]) -> Mapping[str, Altered]:
    return {tap: Altered("result", of="image", by="crop", amount=(draw,)) for draw, tap in enumerate(_TAPS)}


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    if not site.jump or not all(site.jump):
        return "every position sees the whole image here, so activity has no place"
    return None


def _gate(centres: CentreShifts, site: Site, field: str, params: Mapping[str, Any]) -> Gate:
    active, n = centres.sums("active")[:, 0], centres.n_images
    needed = np.where(active < _FEWEST, np.ceil(_FEWEST * n / np.maximum(active, 1)), 0)
    reason = f"a kernel is active in both crops of {active.min():.0f} images, and {_FEWEST} are needed"
    return Gate(needed.astype(np.int64), reason)


_FIXED = (
    "The kernel's activity stays where it is when the image moves.",
    "Look at positional_bias there: activity bound to the border or to a place does not follow. Activity spread over "
    "the whole map cannot move much either, which is no fault.",
)


@metric(
    reads=CentreShifts,
    at=(Op.CONV, Op.POOL, Op.RESIDUAL, Op.MERGE, Op.CONCAT, Op.GATE),
    taps=_TAPS,
    variants=_variants,
    fields={
        "slope": Field(
            "ratio",
            "shift of the activity's centre for each pixel that the image is shifted",
            "",
            low=_FIXED,
            high=(
                "The activity's centre moves further than the image.",
                "Look at the kernel's maps: activity that enters at the border outweighs what moves.",
            ),
        ),
        "r2": Field("fraction", "part of the centre's shifts that the image's explain", "higher", low=_FIXED),
    },
    interval="slope: linearised ratio over images; r2: delta method on Fisher's scale",
    cost="heavy: two more forward passes, shared with others that read crops; two reductions of each map",
    applies=_applies,
    gate=_gate,
    images=lambda need: _FEWEST,  # noqa: ARG005
)
def localisation_slope(centres: CentreShifts, site: Site) -> Mapping[str, Uncertain]:
    """How far a kernel's activity moves when the image is shifted, one value for each kernel.

    Definition. Of each image two crops of the size that the network sees are drawn, shifted from its middle by whole
    pixels. With y the shift between the centres of mass of the map's positive part in the two, in pixels of the image
    (positions times the pixels between them), and x the shift between the crops: ``slope`` = sum x y / sum x^2 and
    ``r2`` = (sum x y)^2 / (sum x^2 sum y^2), sums over images and dimensions. Both are through the origin: no shift,
    no difference.

    Unit and range. ``slope`` is a ratio, 1 where the centre moves with the image and 0 where it stays; it may be
    negative. ``r2`` is a fraction in [0, 1]. One object on an empty ground gives 1 and about 1; a map that is constant
    over positions gives a slope of 0 and no r2.

    Estimator and bias. Ratios of means over images, with a bias of O(1 / images). All positions are read. An image in
    whose crops the map has no positive value has no centre there and is left out for that kernel.

    Interval. ``slope``: linearised ratio over images, normal. ``r2``: the delta method on Fisher's scale, atanh of its
    root; k = (sum y^2)^2 / sum y^4 images carry the centres' shifts, and the error is 1 + 1 / sqrt(k) times as large
    because they are few. Simulated at 64 to 500 images, 95 % intervals of ``r2`` covered the truth in 95 to 97 % where
    the size of stray shifts varied between images by a factor of 1.5 (one standard deviation of its logarithm). At a
    factor of 2.2 it was 87 to 94 %: where centres jump far on rare images that were not met, the interval is too high.

    Pitfalls. Gate: 64 images with a centre in both crops. It needs larger images than the network sees
    (``sampling.crop``), and depends on how far crops are shifted. A slope below 1 need not be the kernel's: what lies
    at the border leaves one crop and enters the other, so activity spread over the whole map has its centre near the
    middle whatever the shift. Compare kernels and sites on the same images, or with the null twin, rather than with 1.
    Not defined after global pooling, and of kernels without positive values. A centre is one place: of two objects it
    is between them.
    """
    xx, xy, yy, active = centres.sums("xx", "xy", "yy", "active").T
    slope, error = linearised_ratio(**centres.ratio("xy", "xx"))
    products = centres.products("xx", "xy", "yy")
    with np.errstate(divide="ignore", invalid="ignore"):
        r = xy / np.sqrt(xx * yy)
        gradient = np.stack([-r / (2 * xx), 1 / np.sqrt(xx * yy), -r / (2 * yy)], 1)
        carrying = yy**2 / products[:, 2, 2]
        place = np.arctanh(np.minimum(np.abs(r), _CAP))
        spread = widened(delta_error(gradient, products) / (1 - np.minimum(np.abs(r), _CAP) ** 2), carrying)
    # One image lies on any line through the origin.
    error, spread = (np.where(active > 1, x, math.inf) for x in (error, spread))
    return {"slope": Normal(slope, error), "r2": Rescaled(CarriedNormal(place, spread, carrying=carrying))}
