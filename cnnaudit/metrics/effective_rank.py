"""How many directions a layer's variance is spread over, by entropy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field as Param

from cnnaudit.lazy import torch
from cnnaudit.metrics.base import Field, Need, metric
from cnnaudit.metrics.spectrum import LAYERS, attainable, eigenvalues
from cnnaudit.site import Site
from cnnaudit.statistics import Covariance

if TYPE_CHECKING:
    from torch import Tensor

_IMAGES = 10
_NARROW = (
    "The variance of the layer's channels lies in fewer directions than the rule demands.",
    "See activity.dead and duplicate_kernels there, and compare with the same layer of a network that is known to be "
    "good.",
)
_WIDE = (
    "The variance of the layer's channels is spread over more directions than the rule allows.",
    "Compare with the same layer of a network that is known to be good: noise spreads widest.",
)


def _images(need: Need) -> int:
    return _IMAGES * need.site.units


@metric(
    reads=Covariance,
    at=LAYERS,
    taps="result",
    fields={
        "eigen": Field(
            "dimensions", "by the eigenvalues of the covariance", "", _NARROW, _WIDE, debias=True, limits=(1, math.inf)
        ),
        "singular": Field(
            "dimensions", "by their roots, which weighs small ones more", "", _NARROW, _WIDE, debias=True,
            limits=(1, math.inf),
        ),
        "eigen_of_rank": Field(
            "fraction", "`eigen` of the dimensions the op could fill", "", _NARROW, _WIDE, debias=True,
            limits=(0, math.inf),
        ),
        "singular_of_rank": Field(
            "fraction", "`singular` of the dimensions the op could fill", "", _NARROW, _WIDE, debias=True,
            limits=(0, math.inf),
        ),
    },
    interval="delete-a-group jackknife over images, corrected for bias",
    together=True,
    cost="medium: products of all pairs of channels at the sampled positions, shared; eigenvalues of 17 matrices",
    images=_images,
)  # fmt: skip
def effective_rank(
    covariance: Covariance, site: Site, *, positions: Annotated[int, Param(ge=1)] = 16
) -> Mapping[str, Tensor]:
    """Number of directions that a layer's variance is spread over, small ones included.

    Definition. exp H(p), H in nats. For ``eigen`` p are the eigenvalues of the covariance of the layer's channels over
    images and positions, over their sum. For ``singular`` p are their square roots over their sum: the singular values
    of the centred responses, which is Roy & Vetterli's definition (EUSIPCO 2007). RankMe (arXiv 2210.02885) takes that
    of responses that are not centred, another number. The two fields differ: of the spectrum (4, 1, 1, 1, 1) ``eigen``
    is 4.000, ``singular`` 4.762, and participation_ratio 3.2. Halving eigenvalues (1/2, 1/4, ...) give ``eigen`` 4.
    ``..._of_rank`` is over the rank that the op can attain given its shape: for a convolution groups * min(inputs /
    groups * kernel positions, outputs / groups), else the number of channels. One value for the site.

    Unit and range. Dimensions in [1, K]; a corrected estimate may lie beyond by chance. The attainable rank is that of
    a linear map. Where an activation follows, it may create directions, and ``..._of_rank`` may exceed 1.

    Estimator and bias. Eigenvalues of few samples are too unequal, so it is too low: 38.3, 49.6, 60.9 and 63.7 with
    64, 128, 640 and 6,400 images of white noise in 64 channels. The jackknife's estimate of the bias, which is of
    order K / images, is taken off. ``positions`` positions a map are sampled, all in small maps.

    Interval. Delete-a-group jackknife over images, 16 groups, from one error below the plain or the corrected value,
    whichever is lower, to one above the higher. In simulations of 10 images a channel and more, each of 49 correlated
    positions, with 32 and 128 channels, nominal 95 % intervals of both covered the truth in 95 to 100 %. Below the gate
    those of ``singular`` do not: .75 with 200 images of 128 channels.

    Pitfalls. Gate: 10 images (sources) a channel. Many small eigenvalues count: noise in silent directions raises it,
    ``singular`` above all, and so does the rounding of half-precision activations that are large beside their
    variation. Rotating the channels changes nothing, rescaling one may change all. layerspec has the formula of
    ``eigen`` under the name of Roy & Vetterli, without a correction, at a convolution's bare output.
    """
    share = eigenvalues(covariance)
    root = share.sqrt()
    eigen, singular = _spread(share), _spread(root / root.sum())
    rank = attainable(site, covariance)
    return {
        "eigen": eigen,
        "singular": singular,
        "eigen_of_rank": eigen / rank,
        "singular_of_rank": singular / rank,
    }


def _spread(p: Tensor) -> Tensor:
    """Exponential of the entropy, shape (1,)."""
    spread: Tensor = torch.special.entr(p).sum().exp().reshape(1)
    return spread
