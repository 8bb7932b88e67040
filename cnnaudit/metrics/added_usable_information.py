"""What a residual branch adds for a linear reader of the label."""

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

_LITTLE = (
    "The branch makes less usable for a linear reader, beside what the skip offers, than the rule demands.",
    "That alone is no fault: what it computes may become usable later. See block_ablation for what the network loses "
    "without it, and branch_variance_share for whether it is silent.",
)
_MUCH = (
    "The branch makes more usable for a linear reader, beside what the skip offers, than the rule allows.",
    "See information_skip: the network relies on this block for what comes before it.",
)
_SYNERGY = (
    "Skip and branch together tell a linear reader more than the sum of what each tells, by more than the rule allows.",
    "They complement each other: neither can be read without the other.",
)
_REDUNDANT = (
    "Skip and branch tell a linear reader the same to a larger part than the rule allows.",
    "See added: a branch that adds nothing may be idle.",
)


@metric(
    reads=ImageSample,
    at=Op.RESIDUAL,
    taps=("skip", "branch"),
    fields={
        "added": Field("bits", "usable with the branch beside the skip, less with the skip alone", "", _LITTLE, _MUCH),
        "relative": Field("fraction", "of the entropy of the labels that is added", "", _LITTLE, _MUCH),
        "information_skip": Field("bits", "usable in the skip", "higher"),
        "information_branch": Field("bits", "usable in the branch", "higher"),
        "information_both": Field("bits", "usable in both side by side", "higher"),
        "redundancy": Field(
            "bits", "that both tell alike, below 0 what only both together tell", "", _SYNERGY, _REDUNDANT
        ),
    },
    interval="infinitesimal jackknife over images of paired cross-validated probes",
    cost="heavy: about ten seconds for each site after the pass (1,000 images, 256 features of each, 10 classes)",
    labels=True,
    identity=("readout", "features", "images"),
    images=fewest_images,
    gate=enough_images,
)
def added_usable_information(
    sample: ImageSample,
    site: Site,
    *,
    images: Annotated[int, Param(ge=20)] = 1000,
    readout: Literal["mean", "grid"] = "mean",
    features: Annotated[int, Param(ge=1, le=2048)] = 256,
) -> Mapping[str, Uncertain]:
    """Usable information about the label that a residual branch adds to its skip, one value for each site.

    Definition. With skip s and branch f exactly as they are added, and I the usable_information of features, the bits
    about the label Y that a linear reader gains on images that it has not seen: added = I([s, f]) - I(s), where [s, f]
    are the features of both side by side. That is conditional V-information (Hewitt, Ethayarajh, Liang & Manning,
    EMNLP 2021, arXiv 2109.09234; V-information: Xu, Zhao, Song, Stewart & Ermon, arXiv 2002.10689). ``relative`` is it
    over the entropy H(Y) of the sample's labels. ``redundancy`` is I(s) + I(f) - I([s, f]): above 0 where both tell a
    linear reader the same, below 0 where it needs both (synergy); where both occur, only their balance.

    Unit and range. Bits. ``added`` is in [0, H(Y)] for the best readers there are; an estimate may be a little below 0.
    For Y the logical and of two fair bits s and f, H(Y) is .811, I(s) and I(f) .311, I([s, f]) .811, so .5 is added and
    ``redundancy`` is -.189. For their exclusive or all is 0, though Shannon's information of both is 1 bit.

    Estimator and bias. Readers are fitted as in usable_information, all on the same images in the same folds. A
    reader of more features overfits more, and a useless branch would seem to take information away; but the best reader
    of [s, f] may ignore what it likes. So each fold's reader of both is the one of [s, f], s, f and s + f (all of them
    linear in [s, f]) that loses least on the images that decide penalties too, none of which it gains on. With it a
    branch of noise adds 0 where it had seemed to take .3 bits away (600 images, 10 classes, 64 channels). The
    price: what a branch adds is not seen where it is less than what a sample of ``images`` images teaches. Each of s
    and f has at most ``features`` features after projection, by the same signs where they are equally wide.

    Interval. Paired: each image's gains and its effects as a teacher are subtracted first (usable_information says
    how), about the value to be expected with a sample of this size. What choosing among readers adds is not counted. In
    simulations of 200 to 400 images ``added`` and ``relative`` were covered .90 to .93 at a nominal .95 where a branch
    adds about .1 bit, .99 where it adds next to nothing, ``redundancy`` .94 to .97.

    Pitfalls. This is no statement on Shannon's information: where the branch is computed from the skip it holds none
    that the skip has not, and what it does is to make it usable. V-information may be created by computation. An
    ``added`` surely below 0 would be an artefact of fitting; raise ``images`` or lower ``features``. A linear
    reader of means finds little of what later layers find. Gate: as in usable_information.
    """
    readers = Readers(sample.labels, sample.clusters, sample.n_sources)
    s, f = sample.features
    skip, branch = readers.fitted(s), readers.fitted(f)
    simpler = [skip, branch] + ([readers.fitted(s + f)] if s.shape == f.shape else [])
    both = readers.fitted(s, f).or_else(*simpler).gain
    added = both - skip.gain
    return {
        "added": readers.bits(added),
        "relative": readers.share(added),
        "information_skip": readers.bits(skip.gain),
        "information_branch": readers.bits(branch.gain),
        "information_both": readers.bits(both),
        "redundancy": readers.bits(branch.gain - added),
    }
