"""What adding two branches costs a linear reader of the label against keeping both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field as Param

from cnnaudit.intervals import Uncertain
from cnnaudit.metrics.base import Field, metric
from cnnaudit.metrics.usable_information import enough_images, fewest_images
from cnnaudit.probe import Readers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import ImageSample

_MUCH = (
    "A linear reader could use more of the two addends side by side than of their sum, by more than the rule allows.",
    "Concatenate instead of adding, or put a convolution before the sum that sorts its channels; look whether a later "
    "site makes it usable again: then it was not lost.",
)
_LITTLE = (
    "Adding costs a linear reader less than the rule expects.",
    "See added_usable_information: one of the addends may tell nothing, or both the same.",
)


@metric(
    reads=ImageSample,
    at=(Op.RESIDUAL, Op.MERGE),
    taps=("skip", "branch", "sum"),
    fields={
        "loss": Field("bits", "usable in both addends side by side, less in their sum", "lower", _LITTLE, _MUCH),
        "relative": Field("fraction", "of the entropy of the labels that is lost", "lower", _LITTLE, _MUCH),
        "information_both": Field("bits", "usable in both addends side by side", "higher"),
        "information_sum": Field("bits", "usable in their sum", "higher"),
    },
    interval="infinitesimal jackknife over images of paired cross-validated probes",
    cost="heavy: about ten seconds for each site after the pass (1,000 images, 256 features of each, 10 classes)",
    labels=True,
    identity=("readout", "features", "images"),
    images=fewest_images,
    gate=enough_images,
)
def merge_information_loss(
    sample: ImageSample,
    site: Site,
    *,
    images: Annotated[int, Param(ge=20)] = 1000,
    readout: Literal["mean", "grid"] = "mean",
    features: Annotated[int, Param(ge=1, le=2048)] = 256,
) -> Mapping[str, Uncertain]:
    """Usable information about the label that addition costs against concatenation, one value for each site.

    Definition. With addends s and f (the skip and the branch of a residual addition, the two sides of a merge) and I
    the usable_information of features, the bits about the label Y that a linear reader gains on images that it has not
    seen: loss = I([s, f]) - I(s + f), where [s, f] are the features of both side by side. ``relative`` is it over the
    entropy H(Y) of the sample's labels.

    Unit and range. Bits. For the best readers there are ``loss`` is in [0, H(Y)]: means of maps add up, so a linear
    reader of the sum is one of both that weighs them alike. Vectors that are projected are projected by the same signs,
    which keeps that true; estimates may be a little below 0. For fair bits s and f: of Y = (s, f) a reader can use 2
    bits of both and 1.5 of the sum, of Y = s 1 and .5; of Y their logical and .811 of either, so the loss is 0; of
    their exclusive or nothing of either, though Shannon's information of both is 1 bit.

    Estimator and bias. Readers are fitted as in usable_information, all on the same images in the same folds. A
    reader of twice the features overfits more, which would count against concatenation; so each fold's reader of both
    is the one of [s, f], of s + f, of s or of f that loses least on the images that decide penalties too, none of which
    it gains on (see added_usable_information). Its learning still costs more, so a small loss is not seen. Each of s, f
    and s + f has at most ``features`` features after projection, both side by side twice as many.

    Interval. Paired: each image's gains and its effects as a teacher of both readers are subtracted first
    (usable_information says how), about the value to be expected with a sample of this size. What choosing among
    readers adds is not counted. In simulations of 200 to 400 images that covered .94 to .97 at a nominal .95.

    Pitfalls. It is about what a linear reader can use, not about Shannon's information: a sum from which both addends
    can be computed loses none of that, as where the branch is a function of the skip with a Lipschitz constant below 1
    (Behrmann, Grathwohl, Chen, Duvenaud & Jacobsen, arXiv 1811.00995), and may well have a loss here. The addends are
    what a network trained to add has made of them; one trained to concatenate would have others. With ``readout: grid``
    maxima of the sum are no function of those of the addends: the loss may be below 0 in truth. Gate: as in
    usable_information.
    """
    readers = Readers(sample.labels, sample.clusters, sample.n_sources)
    s, f, total = sample.features
    added = readers.fitted(total)
    # Of means it is the reader of both that weighs them alike.
    alike = [added] if readout == "mean" else [readers.fitted(s + f)] if s.shape == f.shape else []
    both = readers.fitted(s, f).or_else(*alike, readers.fitted(s), readers.fitted(f)).gain
    lost = both - added.gain
    return {
        "loss": readers.bits(lost),
        "relative": readers.share(lost),
        "information_both": readers.bits(both),
        "information_sum": readers.bits(added.gain),
    }
