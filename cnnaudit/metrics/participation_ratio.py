"""How many directions a layer's variance is spread over, by second moments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field as Param

from cnnaudit.metrics.base import Field, metric
from cnnaudit.metrics.spectrum import LAYERS, attainable
from cnnaudit.site import Site
from cnnaudit.statistics import Covariance

if TYPE_CHECKING:
    from torch import Tensor

_NARROW = (
    "The variance of the layer's channels lies in fewer directions than the rule demands.",
    "See activity.dead and duplicate_kernels there; a layer that collapsed to one or two directions tells the next "
    "one little. Compare with the same layer of a network that is known to be good.",
)
_WIDE = (
    "The variance of the layer's channels is spread over more directions than the rule allows.",
    "Compare with the same layer of a network that is known to be good: noise spreads widest.",
)


@metric(
    reads=Covariance,
    at=LAYERS,
    taps="result",
    fields={
        "ratio": Field("dimensions", "of the layer, unbiased moments", "", _NARROW, _WIDE, limits=(1.0, float("inf"))),
        "of_rank": Field("fraction", "of the dimensions the op could fill", "", _NARROW, _WIDE, limits=(0.0, 2.0**31)),
        "plugin": Field("dimensions", "as usually computed, too low", "", _NARROW, _WIDE, limits=(1.0, float("inf"))),
    },
    interval="delete-a-group jackknife over images",
    together=True,
    cost="medium: products of all pairs of channels at the sampled positions, shared",
    images=lambda need: 100,  # noqa: ARG005
)
def participation_ratio(
    covariance: Covariance, site: Site, *, positions: Annotated[int, Param(ge=1)] = 16
) -> Mapping[str, Tensor]:
    """Number of directions that a layer's variance is spread over, weighing large ones most.

    Definition. With S the covariance of the layer's channels over images and positions (centred) and l its
    eigenvalues, ratio = (tr S)^2 / tr S^2 = (sum l)^2 / sum l^2. K equal eigenvalues give K, one alone gives 1, and
    halving ones (1/2, 1/4, ...) give 3. ``of_rank`` is that over the rank that the op can attain, given its shape:
    for a convolution groups * min(inputs / groups * kernel positions, outputs / groups), else the number of channels.
    One value for the site.

    Unit and range. Dimensions in [1, K]; an estimate may lie beyond by chance. The attainable rank is that of a linear
    map. Where an activation follows, it may create directions, and ``of_rank`` may exceed 1; it is not cut there.

    Estimator and bias. Squares of a sample's moments are too large, and more so tr S^2: on white noise of 64 channels
    and as many images of one position ``plugin`` is about 31 instead of 64. ``ratio`` takes products of different
    groups of images only, as Chun, Canatar, Chung & Lee (arXiv 2509.26560) do with different images, so that a
    sample never meets itself. Correlated positions within an image are no samples and need no model. Groups are 16;
    where several images come from one source, groups hold whole sources. What remains is at most 2 / images of the
    value, by the mean that is estimated, and the bias of a ratio, both O(1 / images). ``positions`` positions
    a map are sampled, all in small maps: more of them tell the same quantity more precisely.

    Interval. Delete-a-group jackknife over images, 16 groups. In simulations of 200 to 1,280 images of 49 correlated
    positions with 32 and 128 channels, nominal 95 % intervals of ``ratio`` covered the truth in 95 % of 900 trials.
    Those of ``plugin`` are about its own expectation, and miss the truth where images are few.

    Pitfalls. Gate: 100 images (sources). Rotating the channels changes nothing, rescaling one of them may change all:
    a channel of large variance decides alone. So do a few images of very large responses. WeightWatcher
    uses the name for another quantity, the localisation of eigenvectors. Not layerspec's number, which is ``plugin``
    at a convolution's bare output, with divisor C or that attainable rank; the eigenvalue formula is the same.
    """
    trace2, norm2 = covariance.moments
    matrix = covariance.matrix
    ratio = (trace2 / norm2).reshape(1)
    return {
        "ratio": ratio,
        "of_rank": ratio / attainable(site, covariance),
        "plugin": (matrix.trace().square() / matrix.square().sum()).reshape(1),
    }
