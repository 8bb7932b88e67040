"""How far apart a layer keeps the images of a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field as Param

from cnnaudit.intervals import Independent, Uncertain
from cnnaudit.metrics.base import Field, Need, metric, numbers
from cnnaudit.renyi import Width, entropy, gram
from cnnaudit.site import Op, Site
from cnnaudit.statistics import BatchSample

_COLLAPSED = (
    "The layer maps the images of a batch closer together than the rule demands.",
    "Look for dead kernels or a few images that all others are small beside; compare with another `width` rule first.",
)
_SCATTERED = (
    "The layer keeps the images of a batch further apart than the rule allows.",
    "Near log2(batch) the kernel is too narrow to tell anything: choose another `width` rule.",
)


def _images(need: Need) -> int:
    return int(need.params["batch"]) * BatchSample.most_batches


@metric(
    reads=BatchSample,
    at=(Op.CONV, Op.POOL, Op.RESIDUAL, Op.LINEAR, Op.HEAD, Op.MERGE, Op.CONCAT),
    taps="result",
    fields={
        "entropy": Field(
            "bits", "relative index, of a batch of images under one width rule", "", _COLLAPSED, _SCATTERED
        )
    },
    interval="Student's t between 8 batches of images",
    cost="heavy: keeps the maps of 512 images, averaged to 4 x 4",
    images=_images,
    identity=("alpha", "batch", "width"),
)
def renyi_entropy(
    sample: BatchSample,
    site: Site,
    *,
    alpha: Annotated[float, Param(gt=0)] = 1.01,
    batch: Annotated[int, Param(ge=4, le=256)] = 64,
    width: Width = "dimension",
) -> Mapping[str, Uncertain]:
    """Matrix-based Renyi entropy of a layer: how far apart it keeps the images of a batch; a relative index.

    Definition. Each map is averaged to at most 4 x 4 positions, and all kernels' averages together make one vector t an
    image. With K_ij = exp(-|t_i - t_j|^2 / (2 s^2)) for the N = ``batch`` images of a batch and A = K / N, the entropy
    is log2(trace(A^alpha)) / (1 - alpha) (Sanchez Giraldo, Rao & Principe, arXiv 1211.2459), at alpha = 1 its limit.
    ``width`` is the rule for s, d being the length of t:
    dimension: s = sqrt(d) N^(-1 / (4 + d)), every feature standardised over the batch (after Tapia & Estevez, arXiv
    2005.07783, with the factor 1);
    median: s is the median distance of two images, every feature standardised;
    silverman: s = 5 N^(-1 / (4 + d)), features as they are: the factor that public code for Yu and others, arXiv
    1804.06537, uses. It has no unit, so the scale of the layer decides.

    Unit and range. Bits, from 0 (all images alike) to log2(N) (no two alike); m clusters of equal size have log2(m).
    The number counts clusters of the images at hand as wide as s. It is not the entropy of the layer, and not what the
    layer knows of its input: a deterministic layer keeps all or infinitely much of that, whatever this says.

    Estimator and bias. The mean over up to 8 disjoint batches of images drawn by a hash, at most one of a source; the
    claim is about the expected value of a batch of N images, so nothing is to be corrected. More images in a batch give
    another number.

    Interval. Student's t between the batches.

    Pitfalls. The rule for s decides the result. For normal data with 1, 10, 100 and 1,000 features and N = 256, of 8
    bits at most, silverman says .98, 3.9, 7.97 and 8.00, dimension 3.0, 6.2, 5.9 and 5.9, median 1.6, 2.8, 3.7 and 4.0.
    Values compare only where alpha, batch and width agree, which is why the metric's id names them. Silverman saturates
    at log2(N) for wide layers, and 10 times the weights is another value. With the other two a kernel of pure noise
    weighs as much as any. Fewer than 8 batches' images leave no verdict, fewer than one batch's no value.
    """
    values = numbers(entropy(gram(sample.batches().flatten(2), width), alpha))
    return {"entropy": Independent.of(values[:, None], (0, math.log2(batch)))}
