"""What a ReLU takes away from the values that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field as Param

from cnnaudit.intervals import BoundedMean, Uncertain, linearised_ratio
from cnnaudit.metrics.base import Field, Gate, metric, numbers
from cnnaudit.metrics.gates import carried_by_few
from cnnaudit.site import Op, Site
from cnnaudit.statistics import Rectification
from cnnaudit.statistics.rectification import ceiling

_FEWEST = 50


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    if "preactivation" not in site.taps:
        return "no activation follows it alone"
    if ceiling(site) is None:
        return "the activation that follows is no rectifier (ReLU, or a clamp from 0 to more): it cuts nothing off at 0"
    return None


def _gate(tally: Rectification, site: Site, field: str, params: Mapping[str, Any]) -> Gate | None:
    if field == "dimension":
        return None
    *_, power, squares = tally.moments
    return carried_by_few(tally, power, squares, _FEWEST, "the mean square")


_LITTLE = (
    "The activation passes nearly all that it reads: it is nearly linear there.",
    "See activity.always_on: a kernel that hardly varies either acts as a bias.",
)
_MUCH = (
    "The activation cuts off most of what the layer computes.",
    "Look at the shift of the norm before it (predicted_activity), and at activity.dead; a leaky activation, or none "
    "behind a narrow layer, would pass it on.",
)


@metric(
    reads=Rectification,
    at=(Op.CONV, Op.LINEAR, Op.RESIDUAL, Op.MERGE),
    taps="preactivation",
    fields={
        "dimension": Field("fraction", "share of values that are cut off", "", _LITTLE, _MUCH),
        "energy": Field("fraction", "mean square of what is cut off over that of the values", "", _LITTLE, _MUCH),
    },
    interval="linearised ratio over images, Korn-Graubard",
    cost="light: a row gather of the sampled positions",
    applies=_applies,
    images=lambda need: _FEWEST,  # noqa: ARG005
    gate=_gate,
)
def rectification_loss(
    tally: Rectification,
    site: Site,
    *,
    positions: Annotated[int, Param(ge=1)] = 64,
) -> Mapping[str, Uncertain]:
    """What a ReLU takes away from the values that it reads, behind a layer or a residual sum.

    Definition. With x what the activation reads (after a norm) and y = max(x, 0), for ReLU6 min(max(x, 0), 6):

    - ``dimension``: P(x <= 0), for ReLU6 P(x <= 0 or x >= 6). For x with a density that is the relative information
      loss, the share of the information dimension that y no longer has (Geiger & Kubin, arXiv 1203.6791; Entropy 18(11)
      410): where x is cut off nothing but a constant is left of it, elsewhere all of it.
    - ``energy``: E (x - y)^2 / E x^2, the relative squared error of taking y for x. For ReLU it is the share of x's
      mean square that lies below 0.

    Unit and range. Fractions in [0, 1], one value for each kernel. A standard normal x has 1/2 and 1/2 under ReLU; a
    normal x of mean m and deviation 1 has Phi(-m) and ((1 + m^2) Phi(-m) - m phi(m)) / (1 + m^2). Positive scaling of a
    kernel changes nothing under ReLU, and something under ReLU6.

    Estimator and bias. ``positions`` sampled positions a map, all of them in small maps. ``dimension`` is unbiased,
    ``energy`` a ratio of means, biased by O(1 / images).

    Interval. Linearised ratio over images; binomial at its effective sample size (Korn & Graubard 1998), which is
    normal except near 0 and 1.

    Pitfalls. Gate: 50 sources (images, where each is a source of its own); for ``energy`` also 50 that hold the mean
    square q of the values, (sum q)^2 / sum q^2 over images times sources / images. A loss is what a rectifier is for:
    without one the network is linear, and a sparse code loses most of its dimension. What one kernel cuts off others
    may still hold, as a pair of kernels of opposite sign does, so the losses of kernels do not add up. A residual sum
    can be undone where its branch contracts (arXiv 1811.00995); what a rectifier behind it cuts off cannot.
    ``dimension`` says nothing of values without a density: a kernel that is always exactly 0 has 1, and its ``energy``
    is 0 / 0, undecided.
    """
    z, zz, e, ee, eq, q, qq = numbers(tally.moments)
    n = tally.n_images
    dimension = linearised_ratio(z, n, aa=zz, ab=z, bb=n, n=n)
    energy = linearised_ratio(e, q, aa=ee, ab=eq, bb=qq, n=n)
    return {"dimension": BoundedMean(*dimension, n), "energy": BoundedMean(*energy, n)}
