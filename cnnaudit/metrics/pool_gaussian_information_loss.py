"""What an average pool loses of a window at a stated noise floor, if values were normal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field as Param

from cnnaudit.lazy import torch
from cnnaudit.metrics.base import Field, Need, metric
from cnnaudit.metrics.noise_floor import information, noise_variance
from cnnaudit.site import Op, Site
from cnnaudit.statistics import WindowCovariance, Windows
from cnnaudit.statistics.window_covariance import share_of

if TYPE_CHECKING:
    from torch import Tensor

_ENTRIES = 256
_FEWEST = 50
_ROWS = 4
_LINEAR = ("avg", "stride")


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    if site.steers:
        return "its result only steers a gate (squeeze-excite) and is meant to be a summary"
    if site.operator not in _LINEAR:
        return f"{site.operator} pooling is not linear; see pool_entropy_loss and pool_information_dimension_loss"
    if not site.taps["input"].spatial:
        return "a vector has no windows"
    strata = Windows.strata(site)
    if strata[0].total == 0:
        return "every window touches padding"
    entries = max(windows.entries for windows in strata)
    if entries > _ENTRIES:
        return f"the covariance of a window of {entries} values takes too much memory; {_ENTRIES} are the most"
    return None


def _images(need: Need) -> int:
    strata, wanted = Windows.strata(need.site), int(need.params.get("windows", WindowCovariance.options["windows"]))
    read = [min(windows.total, share_of(windows, strata, wanted)) for windows in strata]
    return max(_FEWEST, *(math.ceil(_ROWS * w.entries / n) for w, n in zip(strata, read, strict=True)))


_MUCH = (
    "The pool throws away more of what its windows tell at this noise floor than the rule allows.",
    "Compare with `stride`, and with the same site at another `noise`: the floor decides the value. Pool less, or give "
    "what comes before more channels.",
)
_LITTLE = (
    "The pool loses less than the rule expects: its windows are nearly constant at this noise floor.",
    "The maps may be larger than what they show; a smaller `noise` tells whether there is finer detail.",
)


@metric(
    reads=WindowCovariance,
    at=Op.POOL,
    taps="input",
    fields={
        "relative": Field(
            "fraction", "of the window's information that is lost", "lower", _LITTLE, _MUCH, debias=True, limits=(0, 1)
        ),
        "bits": Field(
            "bits/window", "that are lost", "lower", _LITTLE, _MUCH, debias=True, limits=(0, math.inf)
        ),
        "information_in": Field(
            "bits/window", "that the window holds above the noise", "", debias=True, limits=(0, math.inf)
        ),
        "stride": Field(
            "fraction", "relative loss had it taken the first value", "lower", _LITTLE, _MUCH, debias=True,
            limits=(0, 1),
        ),
    },
    interval="delete-a-group jackknife over images, corrected for bias",
    cost="medium: a row gather of the sampled windows and products of all pairs of their values",
    identity=("noise", "absolute"),
    applies=_applies,
    images=_images,
)  # fmt: skip
def pool_gaussian_information_loss(
    covariance: WindowCovariance,
    site: Site,
    *,
    noise: Annotated[float, Param(gt=0)] = 0.1,
    absolute: bool = False,
    windows: Annotated[int, Param(ge=1)] = 64,
) -> Mapping[str, Tensor]:
    """Information that an average pool loses of one window of one kernel, at a stated noise floor.

    Definition. A model: the window's k values are normal with covariance S, and each carries independent normal noise
    of standard deviation ``noise``. Before the pool, I_in = log2 det(I + S / noise^2) / 2. Their mean has I_out =
    log2(1 + 1'S1 / (k noise^2)) / 2. ``bits`` is I_in - I_out, ``relative`` is it over I_in, ``information_in`` is
    I_in; ``stride`` is 1 - log2(1 + S_11 / noise^2) / (2 I_in), what taking the first value would lose. The noise is a
    fraction of the window's root mean variance, each kernel's own, or with ``absolute: true`` in the map's own unit.
    Where windows differ in shape (``ceil_mode``, an adaptive pool of a size that does not divide), I_in and I_out are
    means over all windows of a map, each shape with a covariance and noise of its own.

    Unit and range. ``relative`` in [0, 1], bits a window. The noise floor decides the value: four values of variance 1
    that correlate by .9 hold 9.4568 bits at noise .1, of which the average loses 5.1891, and lose 1.5 bits at noise
    .3162. Towards no noise ``relative`` tends to 1 - 1 / k, whatever the correlation, and towards much of it to the
    share of the variance that lies about the window's mean. Only values of the same ``noise`` compare. One value for
    each kernel.

    Estimator and bias. The covariance of ``windows`` sampled windows a map, all of them in small maps and one where the
    pool is global. I_in of an estimate is too low, by a number of order k^2 / images. The correction for the
    determinant of a normal sample (Ince et al., Human Brain Mapping 38 (2017)) does not fit: directions that lie
    below the noise have no bias, windows of one image are not independent, and heavy tails make it larger (with
    contrasts of images that vary by a factor e^.5, 49 values and 500 images it was -3.5 bits, the formula says -1.8).
    So the jackknife's estimate of the bias is taken off: -.3 bits were left.

    Interval. Delete-a-group jackknife over images, from below the lower of the plain and the corrected value to above
    the higher. Simulated at 95 %, 200 kernels: coverage .97 to 1 of windows of 7x7 that are the whole map with 200
    or 500 images; .93 of 2x2 windows of 12x12 maps with 100 or 300 images. ``bits`` of heavy tails (contrasts of
    images vary by a factor e^.8) .90 with 200 images, .95 with 500.

    Pitfalls. It holds for linear pools only; a maximum or minimum needs pool_entropy_loss. Maps after a ReLU are not
    normal: I_in is that of a normal window with the same covariance, more than one with atoms holds. Windows that
    touch padding are left out; overlapping windows are each counted whole, so their losses do not add up. A verdict
    needs at least four times as many windows as a window has values. A kernel that never varies has no noise floor and
    is undecided. Nothing here says that what is lost was of use: a global average discards positions by design.
    """
    strata = Windows.strata(covariance.probe.site)
    number = sum(windows.total for windows in strata)
    shares = [windows.total / number for windows in strata]
    parts = [_of_one_shape(found, noise, absolute=absolute) for found in covariance.matrices]
    whole, mean, first = (
        torch.stack([share * part for share, part in zip(shares, found, strict=True)]).sum(0)
        for found in zip(*parts, strict=True)
    )
    kept = mean if site.operator == "avg" else first
    return {
        "relative": 1 - kept / whole,
        "bits": whole - kept,
        "information_in": whole,
        "stride": 1 - first / whole,
    }


def _of_one_shape(covariance: Tensor, noise: float, *, absolute: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Information of windows of one shape: of all their values, of their mean and of the first value."""
    floor = noise_variance(covariance, noise, absolute=absolute)
    # The noise of a mean of k values has 1/k of the variance.
    mean = covariance.mean((1, 2), keepdim=True) * covariance.shape[1]
    return information(covariance, floor), information(mean, floor), information(covariance[:, :1, :1], floor)
