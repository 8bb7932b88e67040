"""How many directions hold nearly all of a layer's variance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from pydantic import Field as Param

from cnnaudit.intervals import Crossing
from cnnaudit.lazy import np, torch
from cnnaudit.metrics.base import Field, Need, metric, numbers
from cnnaudit.metrics.spectrum import LAYERS, attainable, eigenvalues
from cnnaudit.site import Site
from cnnaudit.statistics import Covariance

_IMAGES = 10
_SHORTFALL = 0.02
_ROUNDING = 1e-12
_LITTLE = (
    "Fewer directions than the rule demands hold nearly all of the layer's variance.",
    "It is no fault by itself. A tail of layers that are all far below the ones before is where the papers see layers "
    "that add nothing: a smaller network, or larger images, may do as well. Compare with usable_information there.",
)
_MUCH = (
    "More directions than the rule allows hold nearly all of the layer's variance.",
    "It is no fault by itself: a network with random weights can be high, too. Compare with neighbouring layers.",
)


def _images(need: Need) -> int:
    return _IMAGES * need.site.units


@metric(
    reads=Covariance,
    at=LAYERS,
    taps="result",
    fields={
        "fraction": Field("fraction", "of its dimensions that hold `delta` of the variance", "", _LITTLE, _MUCH),
        "of_rank": Field("fraction", "of the dimensions the op could fill", "", _LITTLE, _MUCH),
        "dimensions": Field("dimensions", "that hold `delta` of the variance", "", _LITTLE, _MUCH),
        "delve": Field("fraction", "as the code of delve counts, up to one dimension less", "", _LITTLE, _MUCH),
    },
    interval="Woodruff: where the jackknifed curve of variance may cross, and surely has crossed, `delta`",
    together=True,
    cost="medium: products of all pairs of channels at the sampled positions, shared; eigenvalues of 17 matrices",
    identity=("delta",),
    images=_images,
)
def saturation(
    covariance: Covariance,
    site: Site,
    *,
    positions: Annotated[int, Param(ge=1)] = 16,
    delta: Annotated[float, Param(gt=0, lt=1)] = 0.99,
) -> Mapping[str, Crossing]:
    """Share of a layer's directions that it takes to hold nearly all of its variance.

    Definition. With c_k the share of the k largest eigenvalues in the sum of all eigenvalues of the covariance of the
    layer's channels over images and positions (centred), ``dimensions`` is the smallest k whose c_k is at least
    ``delta``. ``fraction`` is that over the number of channels: the saturation of Shenk et al. (arXiv 1907.08589)
    and Richter et al. (arXiv 2006.08679). ``of_rank`` is over the rank that the op
    can attain given its shape: for a convolution groups * min(inputs / groups * kernel positions, outputs / groups),
    else the number of channels. ``delve`` is what the papers' package gives (0.1.50): it counts the
    directions whose c_k is still below ``delta``, at least 1, and one more where they fall short of it by over .02, so
    usually one direction less. One value for the site. ``delta`` is part of the value's identity.

    Unit and range. Fractions in (0, 1], or whole dimensions from 1 to K. The attainable rank is that of a linear map.
    Where an activation follows, it may create directions, and ``of_rank`` may exceed 1; it is not cut there.

    Estimator and bias. The values are those of the images' own covariance, as in the papers. The eigenvalues of few
    samples are too unequal, so they are too low, and the interval reaches further up than down. ``positions`` positions
    a map are sampled, all in small maps.

    Interval. A whole number has no standard error. Every c_k has a delete-a-group jackknife over images, 16 groups.
    And the eigenvectors of 15 groups hold a share of the 16th's variance that is too low on average, as c_k is too
    high, because they are not the best ones for it. The lower end is the smallest k at which the curve may have reached
    ``delta``, by the higher of the two curves; the upper end the smallest from which on it surely has, by the lower
    one. So intervals are conservative, and wide where the spectrum is flat: in simulations of 200 to 1,280
    images of 49 correlated positions, 32 and 128 channels, nominal 95 % intervals always covered the truth.

    Pitfalls. Gate: 10 images (sources) a channel. It is no score of quality: a network with random weights may
    be lower than a trained one. The papers read it relatively, as a tail of layers that are far lower than those
    before. Rescaling one channel may change all. layerspec's k* is ``dimensions`` at a convolution's
    bare output. delve may also shrink maps first or average them.
    """
    found = _crossing(covariance, delta)
    channels, rank = len(found.curve), attainable(site, covariance)
    return {
        "fraction": replace(found, step=1 / channels),
        "of_rank": replace(found, step=1 / rank),
        "dimensions": found,
        "delve": replace(found, step=1 / channels, shown=_delve(found), slack=1),
    }


def _crossing(covariance: Covariance, delta: float) -> Crossing:
    if covariance.left_out is None:
        return Crossing(np.cumsum(numbers(eigenvalues(covariance))), delta)
    values, vectors = torch.linalg.eigh(covariance.matrix)
    held = (vectors * (covariance.left_out @ vectors)).sum(0)
    share = values.clamp(min=0) / values.clamp(min=0).sum()
    curve, left = (np.cumsum(numbers(x.flip(0))) for x in (share, held))
    return Crossing(curve, delta, left=left)


def _delve(found: Crossing) -> int:
    """Dimensions by the code of delve, ``compute_intrinsic_dimensionality``."""
    below = found.crossing - 1
    if below == 0:
        return 1
    return below + int(found.level - found.curve[below - 1] > _SHORTFALL + _ROUNDING)
