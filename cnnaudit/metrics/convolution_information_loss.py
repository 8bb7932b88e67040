"""What a strided convolution loses of a patch at a stated noise floor, if values were normal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field as Param

from cnnaudit.metrics.base import Field, Need, metric
from cnnaudit.metrics.noise_floor import information, noise_variance, projected
from cnnaudit.site import Op, Site
from cnnaudit.statistics import PatchCovariance, Windows
from cnnaudit.statistics.window_covariance import patched

if TYPE_CHECKING:
    from torch import Tensor

_ENTRIES = 1200
_FEWEST = 50
_ROWS = 4


def _where(site: Site) -> bool:
    return site.downsamples and not site.transposed


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    if site.steers:
        return "its result only steers a gate (squeeze-excite) and is meant to be a summary"
    if "weight" not in site.parameters:
        return "its weight is no plain parameter (it is computed, or the convolution is transposed)"
    if Windows.of(patched(site)).total == 0:
        return "every patch touches padding"
    entries = PatchCovariance.entries(site)
    if site.groups * entries**2 > _ENTRIES**2:
        values = f"{site.groups} patches of {entries} values" if site.groups > 1 else f"a patch of {entries} values"
        return f"the covariance of {values} takes too much memory; see convolution_loss, which needs no images"
    return None


def _images(need: Need) -> int:
    windows = Windows.of(patched(need.site))
    read = min(windows.total, int(need.params.get("windows", PatchCovariance.options["windows"])))
    return max(_FEWEST, math.ceil(_ROWS * PatchCovariance.entries(need.site) / read))


_MUCH = (
    "The convolution throws away more of what its patches tell at this noise floor than the rule allows.",
    "See convolution_loss.rank_bound and position_coverage: too few output channels, or a stride larger than the "
    "kernel (a 1x1 projection of stride 2; an average pool before it reads all positions).",
)
_LITTLE = (
    "The convolution loses less than the rule expects.",
    "Its patches may vary in few directions: see participation_ratio before this site.",
)


@metric(
    reads=PatchCovariance,
    at=Op.CONV,
    taps=("input", "weight"),
    fields={
        "relative": Field(
            "fraction", "of the patch's information that is lost", "lower", _LITTLE, _MUCH, debias=True, limits=(0, 1)
        ),
        "bits": Field("bits/patch", "that are lost", "lower", _LITTLE, _MUCH, debias=True, limits=(0, math.inf)),
        "information_in": Field(
            "bits/patch", "that the patch holds above the noise", "", debias=True, limits=(0, math.inf)
        ),
    },
    interval="delete-a-group jackknife over images, corrected for bias",
    cost="heavy: products of all pairs of values of a patch (inputs x kernel positions) at the sampled positions",
    identity=("noise", "absolute"),
    where=_where,
    applies=_applies,
    images=_images,
)
def convolution_information_loss(
    covariance: PatchCovariance,
    site: Site,
    *,
    noise: Annotated[float, Param(gt=0)] = 0.1,
    absolute: bool = False,
    windows: Annotated[int, Param(ge=1)] = 16,
) -> Mapping[str, Tensor]:
    """Information that a strided convolution (a blur, too) loses of one patch, at a stated noise floor.

    Definition. A model: the d values of a patch are normal with covariance S, and each carries independent normal noise
    of standard deviation ``noise``. A patch is what the filters read at one position, over all input channels of a
    group; where the stride exceeds the kernel also what they skip. Before the convolution, I_in = log2 det(I + S /
    noise^2) / 2. With A the weights as a matrix of outputs x d and Q an orthonormal basis of its rows, I_out =
    log2 det(I + Q S Q' / noise^2) / 2, which is log2 det(I + (noise^2 A A')^-1 A S A') / 2 where A has full rank.
    ``bits`` is I_in - I_out, ``relative`` is it over I_in. The noise is a fraction of the patch's root mean variance,
    or with ``absolute: true`` in the map's own unit.

    Unit and range. ``relative`` in [0, 1], bits a patch; one value for each channel group, one for an ordinary
    convolution. The noise floor decides the value: towards no noise ``relative`` tends to 1 - rank(A) / d where S has
    full rank, towards much of it to the share of the patch's variance that lies outside the rows of A. Only values of
    the same ``noise`` compare.

    Estimator and bias. The covariance of ``windows`` sampled patches a map. I_in of an estimate is too low, I_out less
    so, and ``relative`` too low. Formulas for normal samples do not fit (see pool_gaussian_information_loss), and the
    jackknife's estimate of the bias is taken off.

    Interval. Delete-a-group jackknife over images, from below the lower of the plain and the corrected value to above
    the higher. Simulated at 95 %, 30 to 60 data sets of 100 or 300 images whose contrast varies by a factor e^.5,
    patches of 64 to 216 values: coverage .97 to 1.

    Pitfalls. Noise enters before the convolution, so that scale and conditioning of the weights do not matter, nor the
    norm that follows; a direction that the weights nearly erase counts as passed (see convolution_loss.spectral_floor).
    The activation that follows is not part of it. Patches that touch padding are left out. Overlapping patches are each
    counted whole: of a 3x3 kernel with stride 2 every input lies in 2.25 of them, so that a loss of one patch may be
    passed by its neighbour, and losses do not add up. All channels share one noise floor: channels of small scale count
    little. Maps after a ReLU are not normal, and their I_in is that of a normal patch with the same covariance.
    Where nothing varies there is no noise floor and no value.
    """
    (found,) = covariance.matrices
    floor = noise_variance(found, noise, absolute=absolute)
    whole = information(found, floor)
    kept = information(projected(found, covariance.calibration["weight"]), floor)
    return {"relative": 1 - kept / whole, "bits": whole - kept, "information_in": whole}
