"""How large the scale of a kernel's batch norm is beside the others of its layer."""

from __future__ import annotations

from collections.abc import Mapping

from cnnaudit.intervals import Exact, Uncertain
from cnnaudit.metrics.base import Field, metric, numbers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import Parameters

_SMALL = (
    "Kernels that their batch norm scales down to nearly a constant.",
    "They are candidates for pruning: confirm with activity.dormant and class_information there.",
)
_LARGE = (
    "Kernels that their batch norm scales up far beyond the rest of the layer.",
    "Look at activity.dormant there, and at the images for what drives these kernels.",
)


@metric(
    reads=Parameters,
    at=Op.CONV,
    taps=("gamma", "beta"),
    fields={
        "relative": Field("ratio", "magnitude over the layer's median", "", _SMALL, _LARGE, exact=True),
        "magnitude": Field("scale", "absolute value of gamma", "", _SMALL, _LARGE, exact=True),
    },
    interval="none: weights are known exactly",
    cost="weights: one vector",
)
def batch_norm_scale(parameters: Parameters, site: Site) -> Mapping[str, Uncertain]:
    """Scale of the batch norm after a convolution, one value for each kernel.

    Definition. ``magnitude`` is |gamma|, the standard deviation of the kernel's normalised output; ``relative`` is
    |gamma| over the median of the layer's. Small scales mark kernels that training has given up (network slimming, Liu
    et al., arXiv 1708.06519, drives them there by a penalty and prunes them).

    Unit and range. Both >= 0; ``relative`` has no value where the median is 0.

    Estimator and bias. None: no image is read.

    Interval. None: the value is exact.

    Pitfalls. A scale means something only beside what follows: the next layer may multiply by a thousand. A small
    gamma with a large beta is a constant, not silence. No threshold is right for all networks.
    """
    magnitude = parameters["gamma"].abs()
    # torch.median takes the lower of two middle values.
    middle = magnitude.quantile(0.5)
    return {"relative": Exact(numbers(magnitude / middle)), "magnitude": Exact(numbers(magnitude))}
