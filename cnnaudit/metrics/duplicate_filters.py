"""How nearly a layer has the same filter twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnnaudit.intervals import Exact, Uncertain
from cnnaudit.lazy import torch
from cnnaudit.metrics.base import Field, metric, numbers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import Parameters

_ALIKE = (
    "Filters that are nearly multiples of another filter on the same inputs.",
    "See duplicate_kernels.activation there: after the norm they may still differ by their shift. Merge them, or train "
    "with fewer channels.",
)


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    if site.units <= site.groups:
        return "every filter is the only one on its inputs (a depthwise convolution), so none can be a duplicate"
    return None


@metric(
    reads=Parameters,
    at=(Op.CONV, Op.LINEAR),
    taps="weight",
    fields={"cosine": Field("cosine", "magnitude with the most similar filter", "lower", high=_ALIKE, exact=True)},
    interval="none: weights are known exactly",
    cost="weights: one product of the weights with themselves",
    applies=_applies,
)
def duplicate_filters(parameters: Parameters, site: Site) -> Mapping[str, Uncertain]:
    """Similarity of a filter to the one that is most like it, one value for each kernel.

    Definition. The largest |cos(w_j, w_k)| over the other filters k that read the same inputs: those of the layer, or
    of the group in a grouped convolution. The scale of a batch norm that follows does not change a direction, so the
    value is that after folding it.

    Unit and range. A cosine in [0, 1]; 1 where a filter is a multiple of another one. Filters of zeros have 0: they
    duplicate nothing (predicted_activity and activity.dead find them).

    Estimator and bias. None: no image is read.

    Interval. None: the value is exact.

    Pitfalls. Two multiples whose biases or shifts differ act as two thresholds on one feature, and are no waste behind
    a ReLU: duplicate_kernels looks at what comes out. Of m random filters with d weights the most similar pair has a
    cosine of about sqrt(2 ln(m^2) / d), so short filters (1 x 1 on few channels) resemble each other by chance. There
    is no threshold in the literature; .95 and .99 are conventions of this project.
    """
    weight = parameters["weight"].flatten(1)
    blocks = torch.nn.functional.normalize(weight.reshape(site.groups, -1, weight.shape[1]), dim=2, eps=1e-300)
    cosine = (blocks @ blocks.mT).abs()
    cosine.diagonal(dim1=1, dim2=2).zero_()
    return {"cosine": Exact(numbers(cosine.amax(2).flatten().clamp(max=1.0)))}
