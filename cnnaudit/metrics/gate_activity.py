"""What values a gate takes, and how much they depend on the image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field as Param

from cnnaudit.information import entropy
from cnnaudit.intervals import Array, BoundedMean, Mapped, Normal, Uncertain, linearised_ratio, relative_variance
from cnnaudit.lazy import np
from cnnaudit.metrics.base import Field, metric, numbers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import GateValues

if TYPE_CHECKING:
    from torch import Tensor

_MOST = math.log2(GateValues.bins)
_CONSTANT = (
    "Gates that hardly vary: they multiply by a constant, which the next or the preceding weights could hold.",
    "Fold them into the weights, or see why they never learned: look at the weights and the scale of the layers that "
    "compute them, and at what these read.",
)
_VARYING = (
    "Gates that vary more than the rule allows.",
    "That is what gates are for; compare with the mean, and with other blocks.",
)
_CLOSED = (
    "Gates that are nearly closed: they hand on little of their channel.",
    "See variation: one that is always closed makes its channel useless, and both can be pruned.",
)
_OPEN = (
    "Gates that let more through than the rule allows.",
    "See variation: one that is always open does nothing, and can be left out.",
)


@metric(
    reads=GateValues,
    at=Op.GATE,
    taps="gate",
    fields={
        "variation": Field("ratio", "standard deviation of the gate over its mean", "", _CONSTANT, _VARYING),
        "between_images": Field("ratio", "the same of its mean over the map", "", _CONSTANT, _VARYING),
        "entropy": Field("bits", "of the gate in 17 bins", "", _CONSTANT, _VARYING, debias=True, limits=(0.0, _MOST)),
        "mean": Field("gate", "value that it has on average", "", _CLOSED, _OPEN),
    },
    interval="delete-a-group jackknife over images; variation and a bounded gate's mean as bounded means",
    cost="light: a whole-map mean and a row gather of a few positions of the gate, which is small as a rule",
    images=lambda need: 100,  # noqa: ARG005
)
def gate_activity(
    values: GateValues,
    site: Site,
    *,
    positions: Annotated[int, Param(ge=1)] = 16,
) -> Mapping[str, Uncertain | Tensor]:
    """How much the values of a gate vary, for each of its channels (squeeze-and-excitation and the like).

    Definition. At y = s * g, g being the gate: ``variation`` is the coefficient of variation of g, its standard
    deviation over |E g|, over images and positions. Near 0 the gate is a constant for each channel that could be folded
    into the weights before or behind it. ``between_images`` is that of the gate's mean over the map: where the gate is
    one number for each image (squeeze-and-excitation, arXiv 1709.01507) it is the same, and where it is a map it is
    near 0 also for a gate that only weighs positions. ``entropy`` is that of g in 17 bins, whose centres are the
    multiples of 1 / 16 from 0 to 1. ``mean`` is E g.

    Unit and range. ``variation`` and ``between_images`` >= 0; ``entropy`` in [0, log2 17 = 4.09] bits; ``mean`` as the
    gate is scaled. One value for each channel of the gate; for one that all channels share (a spatial gate), one value.
    Where no value beyond [0, 1] is among those of the first 64 images or few more, as behind a sigmoid, the bins are
    those of [0, 1]; else they span what these images have in the same way, for all channels alike, and entropies of
    different sites do not compare.

    Estimator and bias. Variations from Var(g) / E g^2 = CV^2 / (1 + CV^2), with the second-order term of the delta
    method taken off; of entropy the jackknife takes its estimate of the bias off. ``positions`` positions of a gate
    that is a map are sampled, all in small maps; ``between_images`` takes its whole mean.

    Interval. Delete-a-group jackknife over images. ``variation`` and ``between_images`` in terms of
    CV^2 / (1 + CV^2), as for a bounded mean (Korn & Graubard 1998), and so the mean of a gate that stayed within
    [0, 1]: images that all agree leave the doubt of those that were not met. Simulated with 100 and 400 images, for
    gates of one number an image and for maps whose positions depend on each other, nominal 95 % intervals covered the
    truth in 92 to 98 % of 300 trials (where a gate hardly varies, in up to 100 %).

    Pitfalls. Gate: 100 images (sources). A gate may vary and not matter: what is gated may be near 0, or the next norm
    may take its scale out. The entropy of a gate that varies within one bin is 0, and the least variation about an
    edge, an odd multiple of 1 / 32, gives up to 1 bit; 0, 1/2 (a sigmoid of 0) and 1 are centres of bins. Where the
    bins span what the images have, the least variation fills them: see ``variation``. A positive scale of the gate
    changes neither variation; a shift changes both. A gate that is always 0 has no variation: 0 / 0, undecided. What
    the gate and what it gates contribute to the product is not told apart here: in log |y| they add up, but a gated map
    has zeros, whose logarithm has none.
    """
    n = values.n_images
    s, q, ss, sq, qq, m, mm, mmm, mmmm = (numbers(moment) for moment in values.moments)
    mean, error = linearised_ratio(s, n, aa=ss, ab=s, bb=n, n=n)
    return {
        "variation": _variation(*relative_variance(s, q, ss=ss, sq=sq, qq=qq, n=n), n),
        "between_images": _variation(*relative_variance(m, mm, ss=mm, sq=mmm, qq=mmmm, n=n), n),
        "entropy": entropy(values.counts, estimator="plugin"),
        "mean": BoundedMean(mean, error, n) if values.bounded else Normal(mean, error),
    }


def _variation(plugin: Array, error: Array, bias: Array, n: int) -> Mapped:
    """Coefficient of variation from the variance over the second moment; undefined about a mean of 0."""
    plugin = np.where(plugin < 1, plugin, np.nan)
    return Mapped(BoundedMean(np.clip(plugin - bias, 0, 1), error, n), _to_variation, _from_variation)


def _to_variation(share: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.sqrt(share / (1 - share))


def _from_variation(variation: Array) -> Array:
    return variation**2 / (1 + variation**2)
