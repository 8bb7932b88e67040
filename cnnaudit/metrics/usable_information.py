"""How much about the label a linear reader can use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field as Param

from cnnaudit.intervals import Exact, Uncertain
from cnnaudit.lazy import np
from cnnaudit.metrics.base import Field, Gate, Need, metric
from cnnaudit.probe import FEWEST, Readers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import ImageSample


def fewest_images(need: Need) -> int:
    """Return the fewest images with which a probe can be judged."""
    return FEWEST * need.classes


def enough_images(sample: ImageSample, site: Site, field: str, params: Mapping[str, Any]) -> Gate:
    """Say whether the sample holds enough images for its classes."""
    held, most, classes = len(sample.labels), int(params["images"]), len(set(sample.labels.tolist()))
    wanted = FEWEST * classes
    needed = np.array([wanted if held < wanted else 0])
    if wanted <= most:
        return Gate(needed, f"the sample has {held} images of {classes} classes, and {wanted} are needed")
    reason = f"a sample of {most} images is too small for {classes} classes whatever their number"
    return Gate(needed, reason, f"rather the same ones with params: {{images: {wanted}}}")


_LITTLE = (
    "A linear reader can use less about the label here than the rule demands.",
    "Compare with the sites before and after: it may be made usable later. See bottleneck for where it drops.",
)
_MUCH = (
    "A linear reader can use more about the label here than the rule allows.",
    "Early in a network that hints at a shortcut: a mark, border or scanner that gives the class away.",
)
_UNSTABLE = (
    "The estimate depends on how images are dealt to folds.",
    "Raise `images`, or lower `features`.",
)


@metric(
    reads=ImageSample,
    at=(Op.CONV, Op.POOL, Op.RESIDUAL, Op.MERGE, Op.CONCAT, Op.LINEAR, Op.HEAD),
    taps="result",
    fields={
        "information": Field("bits", "about the label that a linear reader gains, held out", "higher", _LITTLE, _MUCH),
        "fraction": Field("fraction", "of the entropy of the labels", "higher", _LITTLE, _MUCH),
        "label_entropy": Field("bits", "of the labels of the sample"),
        "parameters": Field("count", "free parameters of the reader"),
        "seed_spread": Field("bits", "by which `information` varies with the folds", "lower", high=_UNSTABLE),
    },
    interval="infinitesimal jackknife over images of a cross-validated probe",
    cost="heavy: about two seconds for each site after the pass (1,000 images, 512 features, 10 classes)",
    labels=True,
    identity=("readout", "features", "images"),
    images=fewest_images,
    gate=enough_images,
)
def usable_information(
    sample: ImageSample,
    site: Site,
    *,
    images: Annotated[int, Param(ge=20)] = 1000,
    readout: Literal["mean", "grid"] = "mean",
    features: Annotated[int, Param(ge=1, le=4096)] = 512,
) -> Mapping[str, Uncertain]:
    """Bits about the label that a linear reader of a site's output can use, one value for each site.

    Definition. Predictive V-information (Xu, Zhao, Song, Stewart & Ermon, arXiv 2002.10689): the loss, as -log2 of the
    probability given to the true class, of the class frequencies alone, less that of the best reader of a family V.
    V is multinomial logistic regression on the site's features. ``readout: mean`` takes each channel's mean over the
    map, ``grid`` the mean and the maximum of each channel in a 2 x 2 grid; more than ``features`` are projected by
    random signs, so that the reader has the same freedom at every site (``parameters``). ``fraction`` is it over
    ``label_entropy``, the entropy H(Y) of the sample's labels.

    Unit and range. Bits, at most about H(Y). 0 where the features do not help; negative estimates are possible and
    mean that the reader learned what does not hold for other images.

    Estimator and bias. The reader has a quadratic penalty and standardised features; it is cross-validated in five
    folds on a fixed sample of ``images`` images, the same at every site, and all images of one source are in one fold.
    The penalty is chosen within each training part from 10, 1, .1, .01, .001 times half the sum of squares of the
    weights, beside the mean loss, or the features are ignored. .1 % of the class frequencies is mixed into every
    prediction, so that no loss is unbounded. The mean of two deals of images to folds is taken; ``seed_spread`` is
    their standard deviation. A reader that learned from 80 % of the sample is no better than the best of its family, so
    the value is too low; it rises with ``images``, which is a part of its id.

    Interval. About the value to be expected with a sample of this size. The images' own gains vary, and other images
    would have taught another reader: the infinitesimal jackknife adds to each image's gain its first-order effect on
    the gains of others. In simulations with 300 to 1,000 images that covered .93 to 1.00 at a nominal .95; the plain
    error of cross-validation, which leaves it out, .71 to .93. ``seed_spread`` is added; what the choice of the
    penalty adds is not. Where several images come from one source, effects are summed over each group of sources first.

    Pitfalls. Gate: 10 images a class in the sample; with fewer there is no value, nor with one class or fewer than
    five sources. Computation may create V-information, so it may rise from layer to layer, and usually does in trained
    networks: no data processing inequality holds. It is a lower bound of Shannon's I(T; Y), and a low value does not
    say that the label is lost, only that this reader cannot use it: of the exclusive or of two bits it finds 0 bits
    where Shannon's measure is 1. Values compare only at equal ``images``, ``readout`` and ``features``. A projection of
    wide sites blurs: it favours features of large variance.
    """
    readers = Readers(sample.labels, sample.clusters, sample.n_sources)
    gain = readers.fitted(*sample.features).gain
    return {
        "information": readers.bits(gain),
        "fraction": readers.share(gain),
        "label_entropy": readers.label_entropy,
        "parameters": Exact(np.array([float(gain.parameters)])),
        "seed_spread": Exact(np.array([gain.spread])),
    }
