"""How widely a kernel's activation is spread over the map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field as Param

from cnnaudit.intervals import Array, BoundedMean, Uncertain, linearised_ratio
from cnnaudit.lazy import np
from cnnaudit.metrics.base import Field, Gate, metric, numbers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import MapEntropy

_FEWEST = 30


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    if site.taps["response"].positions < 2:
        return "there is one position, and so nothing that a response could be spread over"
    return None


def _gate(maps: MapEntropy, site: Site, field: str, params: Mapping[str, Any]) -> Gate:
    n = maps.n_sources
    # Of the images of one source no more than their share of all sources is sure to be independent.
    firing = numbers(maps.entropies[0]) * n / maps.n_images
    few = firing < _FEWEST * (1 - 1e-9)
    unscaled = (numbers(maps.scaled) == 0) & (field == "softmax")
    needed = np.where(few, np.ceil(_FEWEST * n / np.maximum(firing, 1)), np.where(unscaled, n, 0))
    samples = "sources" if maps.probe.clustered else "images"
    reason = f"some kernels fire in fewer than {_FEWEST} {samples}"
    if not few.any():
        reason = "some kernels never varied on the images that fix their scale"
    return Gate(needed.astype(np.int64), reason)


_NARROW = (
    "Kernels that fire at few positions of a map.",
    "This says where they fire, not whether they are healthy: see class_auroc and iou for what they detect.",
)
_WIDE = (
    "Kernels that fire nearly evenly over the map.",
    "This says where they fire, not whether they are healthy: see activity.always_on for kernels that never vary.",
)


@metric(
    reads=MapEntropy,
    at=Op.CONV,
    taps="response",
    fields={
        "scale_free": Field("fraction", "entropy of the activation over the map, over its limit", "", _NARROW, _WIDE),
        "softmax": Field("fraction", "the same of the softmax of the standardised activation", "", _NARROW, _WIDE),
    },
    interval="linearised mean over the images in which the kernel fires, bounded in [0, 1]",
    cost="medium: a row gather of the sampled positions",
    identity=("temperature",),
    applies=_applies,
    images=lambda need: _FEWEST,  # noqa: ARG005
    gate=_gate,
)
def spatial_entropy(
    maps: MapEntropy,
    site: Site,
    *,
    temperature: Annotated[float, Param(gt=0)] = 1.0,
) -> Mapping[str, Uncertain]:
    """Where in the map a kernel fires: at few positions or all over, one value for each kernel. A description.

    Definition. For an image in which the kernel fires (A > 0 somewhere), p is a distribution over the positions of its
    map, and the value is H(p) / log2(positions), averaged over these images. For ``scale_free``, p = A+ / sum A+, A+
    being the positive part. For ``softmax``, p is the softmax over the map of (A - m) / (s T), with m and s the
    kernel's mean and standard deviation over the calibration images (the first 32 or a few more) and T the
    ``temperature``, which is a part of the value's identity.

    Unit and range. A fraction in [0, 1]: 0 where the kernel fires at one position, 1 where it fires at all alike. A
    7 x 7 map has log2(49) = 5.61 bits at most. Maps of different sizes compare roughly: an eighth of the positions is
    .47 of a 7 x 7 map and .74 of a 56 x 56 one.

    Estimator and bias. Maps of at most 64 positions are read whole, and then the value of an image is exact. Of larger
    ones 64 positions are drawn, one in each of as many stretches of the map; the entropy is that of the sample plus
    log2(positions / 64), as if every position that was read stood for equal ones. That is right where activation
    changes little between neighbours, and too high where it is concentrated: no value below 1 - 6 / log2(positions) can
    be told (.56 for a 112 x 112 map), and images in which the kernel fires at none of the 64 are left out.

    Interval. Linearised ratio of sums over images, as for a bounded mean (Korn & Graubard 1998) with the images in
    which the kernel fires as units. The scale of ``softmax`` is taken as given. Where several images come from one
    source the error is a delete-a-group jackknife over sources.

    Pitfalls. Gate: 30 sources in which the kernel fires (images times sources / images), and for ``softmax`` a kernel
    that varied on the first images. It is no verdict on health: a detector of a small object has a low value, one of a
    texture a high one, and a random kernel may have either. A softmax over the map is p(position | the kernel fires),
    not p(feature | pixels): it normalises over positions, not over what might be there, and depends on scale and
    temperature. Whether a response is a probability is a question for class_calibration. A positive scale changes
    neither field; a shift changes ``scale_free``, which knows nothing of negative values, and which images are counted.
    """
    fired, even, even2, soft, soft2 = (numbers(row) for row in maps.entropies)
    n = maps.n_images
    softmax = np.where(numbers(maps.scaled) > 0, soft, np.nan)
    return {"scale_free": _mean(even, even2, fired, n), "softmax": _mean(softmax, soft2, fired, n)}


def _mean(total: Array, squares: Array, fired: Array, n: int) -> BoundedMean:
    """Mean over the images in which a kernel fires."""
    value, error = linearised_ratio(total, fired, aa=squares, ab=total, bb=fired, n=n)
    return BoundedMean(value, error, np.maximum(fired, 1).astype(np.int64))
