"""How often a kernel should fire according to its batch norm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field as Param

from cnnaudit.intervals import Exact, Uncertain
from cnnaudit.lazy import torch
from cnnaudit.metrics.base import Field, metric, numbers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import Parameters


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    if 0.0 not in site.taps["response"].atoms:
        return "no ReLU follows the batch norm, so the sign of its output decides nothing"
    return None


_SILENT = (
    "Kernels whose batch norm puts nearly all of their values below zero, where the activation is zero.",
    "See activity.dead there, which looks at images; prune such kernels, or retrain with a smaller weight decay on the "
    "norm.",
)


@metric(
    reads=Parameters,
    at=Op.CONV,
    taps=("gamma", "beta"),
    fields={
        "active": Field(
            "fraction",
            "share of positions where a normal variable of that mean and deviation is positive",
            "",
            low=_SILENT,
            high=(
                "Kernels whose batch norm puts nearly all of their values above zero: the activation passes all.",
                "See activity.always_on there, which looks at images.",
            ),
            exact=True,
        ),
        "dead": Field(
            "indicator",
            "1 where the shift lies that many deviations below zero",
            "lower",
            high=_SILENT,
            exact=True,
        ),
    },
    interval="none: weights are known exactly",
    cost="weights: two vectors",
    applies=_applies,
)
def predicted_activity(
    parameters: Parameters, site: Site, *, deviations: Annotated[float, Param(gt=0)] = 4.0
) -> Mapping[str, Uncertain]:
    """Activity of kernels that their batch norm predicts without an image, one value for each kernel.

    Definition. A batch norm with scale gamma and shift beta gives values of mean beta and standard deviation |gamma|
    on its training data. Were they normally distributed, a ReLU would pass a share Phi(beta / |gamma|) of them:
    ``active``. ``dead`` is 1 where beta / |gamma| < -``deviations``; at 4 that share is 3.2e-5. Where gamma is zero the
    output is beta everywhere, so ``active`` is 1 or 0.

    Unit and range. A fraction in [0, 1]; 0 or 1.

    Estimator and bias. The normal distribution is an assumption: heavy tails fire more often. The prediction is of the
    training data of the batch norm, not of the audited images; its epsilon is neglected.

    Interval. None: the value is exact.

    Pitfalls. Only where a batch norm with scale and shift follows the convolution alone and a ReLU follows that. After
    fine-tuning with frozen norms, or on other images, the true activity differs: activity.apoz measures it.
    """
    gamma, beta = parameters["gamma"].abs(), parameters["beta"]
    # 0 / 0 is a kernel that is zero everywhere, which no ReLU passes.
    z = torch.where((gamma == 0) & (beta == 0), -torch.inf, beta / gamma)
    # torch's ndtr is (1 + erf) / 2, which cancels far below zero.
    active = torch.special.erfc(-z / math.sqrt(2)) / 2
    return {
        "active": Exact(numbers(active)),
        "dead": Exact(numbers((z < -deviations).double())),
    }
