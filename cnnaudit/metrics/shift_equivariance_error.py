"""Whether a map moves along when its image is shifted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cnnaudit.intervals import BoundedMean, CarriedMean, Uncertain, linearised_ratio, widened
from cnnaudit.lazy import np
from cnnaudit.metrics.base import Field, metric
from cnnaudit.site import Altered, Op, Site
from cnnaudit.statistics import ShiftErrors, common_positions, shifts

_FEWEST_POSITIONS = 4
_RANGE = (0.0, 2.0)


def _variants(site: Site, params: Mapping[str, Any]) -> Mapping[str, Altered]:
    stride, pixel = tuple(map(int, site.jump)), (*(0 for _ in site.jump[1:]), 1)
    return {
        name: Altered("result", of="image", by="shift", amount=amount)
        for name, amount in (("by_stride", stride), ("by_pixel", pixel))
    }


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    jump = site.jump
    if not jump or not all(jump):
        return "every position sees the whole image here, so there is nothing to move along"
    if site.depends_on_all and not params.get("behind_global"):
        return (
            "what lies before it sees the whole image (squeeze-excite, instance or group norm), so it need not move "
            "along; params: {behind_global: true} measures it all the same"
        )
    if any(pixels != int(pixels) for pixels in jump):
        told = " x ".join(f"{pixels:g}" for pixels in jump)
        return f"positions lie {told} pixels of the image apart, and images are shifted by whole pixels"
    if site.period and site.period != jump:
        told = " x ".join(f"{pixels:g}" for pixels in site.period)
        return f"the map was upsampled: it moves along only with shifts of {told} pixels"
    common = math.prod(part.stop - part.start for part in common_positions(site, shifts(site)[field]))
    if common < _FEWEST_POSITIONS:
        seen = " x ".join(map(str, site.receptive_field))
        return (
            f"positions that see the same pixels before and after the shift: {common}, and {_FEWEST_POSITIONS} are "
            f"needed (a receptive field is {seen} pixels)"
        )
    return None


_STILL = ("The map hardly changes when its image is shifted.", "Nothing is wrong with that.")


@metric(
    reads=ShiftErrors,
    at=(Op.CONV, Op.POOL, Op.RESIDUAL, Op.MERGE, Op.CONCAT, Op.GATE),
    taps=("result", "by_stride", "by_pixel"),
    variants=_variants,
    fields={
        "stride": Field(
            "ratio",
            "change under a shift that moves the map by whole positions",
            "lower",
            low=_STILL,
            high=(
                "The same pixels give another response elsewhere in the image.",
                "See what lies before this place and sees the whole image (squeeze-excite, instance or group norm, a "
                "learned position); where nothing does, the network computes what its graph does not show.",
            ),
            exact=True,
        ),
        "pixel": Field(
            "ratio",
            "change under a shift by one pixel, less than the map can follow",
            "lower",
            low=_STILL,
            high=(
                "A shift by one pixel changes the map: downsampling before it has aliased.",
                "Look for where it rises (a pool or a strided convolution) and at aliased_energy_fraction there; a "
                "blur before the stride lessens it.",
            ),
            exact=True,
        ),
    },
    interval="linearised ratio over images, as a bounded mean at its effective sample size",
    cost="heavy: a forward pass on shifted images for each stride of the network, and one by a pixel",
    applies=_applies,
    images=lambda need: 64,  # noqa: ARG005
)
def shift_equivariance_error(
    errors: ShiftErrors,
    site: Site,
    *,
    behind_global: bool = False,
) -> Mapping[str, Uncertain]:
    """Part of a map that does not move along when its image is shifted, one value for each kernel.

    Definition. The network sees each image twice, the second time shifted: cut from the same larger image a few pixels
    further on, so that nothing is rolled or filled in. With u the map of the first, v the map of the second laid over
    it, and m the mean of both over the positions that they share, the error is sum (u - v)^2 / sum ((u - m)^2 +
    (v - m)^2), sums over these positions and over images. Only positions count that see nothing but the image in both
    runs, so that padding is left out.

    - ``stride``: a shift by as many pixels in each dimension as lie between neighbouring positions, which moves the map
      by one position. Convolutions, pools, and norms with fixed statistics give 0.
    - ``pixel``: a shift by one pixel along the last dimension (to the side). Where neighbouring positions are one pixel
      apart the map moves by one of them; else it can only stay where it is, the nearest whole number of positions. (Two
      pixels apart, 0 and 1 are equally near, and on images without a preferred place equally good.)

    Unit and range. A ratio in [0, 2]: 0 where the map moves along, 1 where u and v are unrelated, 2 where they are
    opposite. White noise shifted by one pixel gives 1 after every second value is dropped, .5 after averages of 2 x 2,
    and .625 after maxima of 2 x 2 of uniform values, of which half share their window.

    Estimator and bias. A ratio of means over images, with a bias of O(1 / images); all common positions are read.
    m is the image's own, and takes a share of O(1 / positions) of the spread with it: of few positions unrelated maps
    have a value a little above 1. Images on which a kernel is constant do not count.

    Interval. Linearised ratio over images (Cochran 1977), told as a bounded mean at its effective sample size (Korn &
    Graubard 1998). Where k = (sum b)^2 / sum b^2 of the images carry the spread b of a kernel, it counts k images and
    takes the error 1 + 1 / sqrt(k) times as large, because so few tell too small a one. Even where none of them
    changes, others might: k of them leave a share of 1 - .05^(1/k) with 95 %.

    Pitfalls. Gate: 64 images. It needs larger images than the network sees (``sampling.crop``). Not defined where a
    receptive field is as large as the image, or positions lie on fractions of pixels or move along only with longer
    shifts (after upsampling). Where squeeze-excite, instance or group norm or another global operation lies before,
    ``stride`` is not expected to be 0, because what such an operation sees changes with the cut: measured there with
    ``behind_global: true`` only. Rounding may leave a trace at the stride, so bound it by a small number, not by 0. A
    bound of the population below about 6/k cannot be shown to hold, so check theory's 0 with ``estimand: dataset``.
    Activations alias as well (arXiv 2210.02984), which shifts by whole pixels do not show. A kernel that varies between
    images but hardly over positions has little spread, and its value says little. An error within the network need not
    reach its output: see shift_consistency.
    """
    return {name: _error(errors, name) for name in ("stride", "pixel")}


def _error(errors: ShiftErrors, shift: str) -> BoundedMean:
    sums = errors.ratio(f"{shift}_moved", f"{shift}_spread")
    value, error = linearised_ratio(**sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        carrying = np.maximum(np.nan_to_num(sums["b"] ** 2 / sums["bb"]), 1)
    units = np.floor(carrying + 1e-9).astype(np.int64)
    return CarriedMean(value, widened(error, carrying), units, _RANGE, carrying=carrying)
