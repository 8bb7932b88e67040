"""How many directions a layer's weights use, as far as its largest one tells."""

from __future__ import annotations

from collections.abc import Mapping

from cnnaudit.intervals import Exact, Uncertain
from cnnaudit.lazy import np, torch
from cnnaudit.metrics.base import Field, metric, numbers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import Parameters

_LOW = (
    "One direction dominates what the layer computes.",
    "Look at the layer's largest singular vector: a constant offset in the images, a missing normalisation of the "
    "input, or a learning rate that was too large.",
)
_HIGH = (
    "The layer's weights spread over more directions than the rule allows.",
    "A layer that was never trained looks like this: check that the checkpoint was loaded.",
)


@metric(
    reads=Parameters,
    at=(Op.CONV, Op.LINEAR, Op.HEAD),
    taps="weight",
    fields={
        "rank": Field("dimensions", "squared Frobenius over squared spectral norm", "", _LOW, _HIGH, exact=True),
        "of_rank": Field("fraction", "the same over the largest rank there can be", "", _LOW, _HIGH, exact=True),
    },
    interval="none: weights are known exactly",
    cost="weights: eigenvalues of one matrix",
)
def stable_rank(parameters: Parameters, site: Site) -> Mapping[str, Uncertain]:
    """Stable rank of a layer's weights, one value for the site.

    Definition. With W the weights as a matrix of output channels x (input channels x kernel positions), |W|_F^2 /
    |W|_2^2 (Rudelson & Vershynin, Journal of the ACM 54 (2007)): the sum of the squared singular values over the
    largest of them. A grouped or depthwise convolution is a block-diagonal matrix. ``of_rank`` divides by the largest
    rank that W can have, which for g groups is g min(inputs per group x kernel positions, outputs per group).

    Unit and range. Dimensions in [1, rank]; ``of_rank`` in [1 / rank, 1].

    Estimator and bias. None: no image is read.

    Interval. None: the value is exact.

    Pitfalls. The batch norm that follows is not folded in: it rescales kernels, and with them the value. Weights say
    what a layer could do; which of its directions images use is told by participation_ratio. A freshly initialised
    layer has a large value, so a high one is no merit. Where all weights are zero there is none.
    """
    weight = parameters["weight"].flatten(1)
    blocks = weight.reshape(site.groups, -1, weight.shape[1])
    wide = blocks.shape[2] > blocks.shape[1]
    largest = torch.linalg.eigvalsh(blocks @ blocks.mT if wide else blocks.mT @ blocks).amax()
    value = weight.square().sum() / largest  # 0 / 0 where all are zero
    most = site.groups * min(blocks.shape[1:])
    return {"rank": Exact(numbers(value)), "of_rank": Exact(np.atleast_1d(numbers(value) / most))}
