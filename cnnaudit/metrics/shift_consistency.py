"""Whether a network says the same of an image that is shifted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnnaudit.intervals import BoundedMean, Uncertain, linearised_ratio
from cnnaudit.metrics.base import Field, metric
from cnnaudit.site import Altered, Op, Site
from cnnaudit.statistics import LogitsAndLabels

_TAPS = ("first", "second")


def _variants(site: Site, params: Mapping[str, Any]) -> Mapping[str, Altered]:
    return {tap: Altered("logits", of="image", by="crop", amount=(draw,)) for draw, tap in enumerate(_TAPS)}


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    logits = site.taps["output" if "output" in site.taps else "first"]
    if logits.shape[0] < 2:
        return "the network has one output, and the highest of one is always the same"
    if logits.positions > 1:
        return "the head labels positions, which move with the image: see shift_equivariance_error"
    return None


@metric(
    reads=LogitsAndLabels,
    at=Op.HEAD,
    taps=_TAPS,
    variants=_variants,
    fields={
        "consistency": Field(
            "fraction",
            "share of images of which two crops get the same class",
            "higher",
            low=(
                "A shift of a few pixels often changes the class.",
                "See where shift_equivariance_error.pixel rises: a blur before the downsampling there lessens it, and "
                "so does training on random crops.",
            ),
            high=(
                "More crops agree than the rule allows.",
                "See whether accuracy is near chance: a network that always says the same is consistent.",
            ),
            exact=True,
            beside="accuracy",
        ),
        "accuracy": Field(
            "fraction",
            "share of crops that get the right class",
            "higher",
            low=(
                "The network is wrong on more crops than the rule allows.",
                "Compare with its accuracy on whole images: crops that cut the object off are too small.",
            ),
            exact=True,
        ),
    },
    interval="consistency: exact binomial; accuracy: Korn-Graubard",
    cost="heavy: two more forward passes, shared with others that read crops",
    labels=True,
    applies=_applies,
    images=lambda need: 100,  # noqa: ARG005
)
def shift_consistency(pairs: LogitsAndLabels, site: Site) -> Mapping[str, Uncertain]:
    """How often two random crops of an image get the same class.

    Definition. Of each image two crops of the size that the network sees are drawn, shifted from its middle by whole
    pixels, uniform in each dimension within what ``sampling.crop`` leaves around it. ``consistency`` is P(argmax f(a) =
    argmax f(b)) over images (Zhang, arXiv 1904.11486); ``accuracy`` is the share of both crops that get their label.

    Unit and range. Fractions in [0, 1], one value for the network. Consistency is at least 2 accuracy - 1.

    Estimator and bias. Means over images, unbiased. The draws follow from the seed and the image alone, so every
    network sees the same crops of the same images.

    Interval. ``consistency``: exact binomial over images. ``accuracy``: binomial at the effective sample size of the
    images' 0, 1/2 or 1 (Korn & Graubard 1998).

    Pitfalls. Gate: 100 images. A network that always says the same has consistency 1, and so has nearly one that never
    learned: the value means something only beside accuracy, and a rule on it is refused without one on that. It depends
    on how far crops are shifted: compare only where the canvas and the crop are the same. For orientation, the table of
    antialiased-cnns (the code of that paper), in per cent of ImageNet's validation images at two random crops of 224
    pixels: alexnet 78.18, vgg16 88.52, vgg16_bn 89.24, resnet18 85.11, resnet34 87.56, resnet50 89.20, resnet101 89.81,
    densenet121 88.81, mobilenet_v2 86.50; with blurred downsampling (a filter of 5) resnet18 88.25, resnet50 91.31.
    """
    n = pairs.n_images
    return {
        "consistency": BoundedMean(*linearised_ratio(**pairs.ratio("same")), n),
        "accuracy": BoundedMean(*linearised_ratio(**pairs.ratio("right")), n),
    }
