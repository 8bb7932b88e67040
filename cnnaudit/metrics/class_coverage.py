"""Which classes the kernels of a layer detect, and how far they detect the same ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self

from pydantic import Field as Param

from cnnaudit.crossfit import Selected, choose, eligible
from cnnaudit.detection import Auroc, areas, auroc, tables
from cnnaudit.intervals import Array, BoundedMean, Exact, Inverted, RareEvent, Share, Uncertain, delong
from cnnaudit.lazy import np, torch
from cnnaudit.metrics.base import Field, Gate, Need, metric, numbers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import ClassResponses, halved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

_FEWEST = 30
_BINS = 256  # as many as the images that fix the grid


def _images(need: Need) -> int:
    return _FEWEST * need.classes


def _gate(responses: ClassResponses, site: Site, field: str, params: Mapping[str, Any]) -> Gate:
    held = responses.class_sources
    n = halved(held, 0).sum(0)
    rarest, every = int(n[n > 0].min()), responses.n_sources
    samples = "sources" if responses.probe.clustered else "images"
    needed = math.ceil(_FEWEST * every / max(rarest, 1)) if rarest < _FEWEST else 0
    return Gate(np.array([needed]), f"the rarest class has {rarest} {samples}, and {_FEWEST} are needed of each")


@metric(
    reads=ClassResponses,
    at=Op.CONV,
    taps="response",
    fields={
        "uncovered": Field(
            "fraction",
            "share of the classes that no kernel of the layer detects",
            "lower",
            high=(
                "Classes to which no single kernel of this layer responds more than to the others.",
                "Early layers detect no classes, and kernels may tell together what none tells alone: see "
                "usable_information; in the last layers see whether these are also the classes that are confused.",
            ),
        ),
        "overlap": Field(
            "ratio",
            "mean Jaccard index of the sets of classes that two kernels detect",
            "",
            low=(
                "Kernels that divide the classes among themselves more strictly than the rule demands.",
                "Each class then hangs on few kernels: see `uncovered`, and be careful with pruning.",
            ),
            high=(
                "Kernels that detect the same classes as others.",
                "See duplicate_kernels for those that may be pruned, and participation_ratio for the dimension.",
            ),
        ),
    },
    interval="simultaneous tests of classes, or of kernels and classes",
    together=True,
    cost="medium: an AUROC of every kernel for every class",
    labels=True,
    identity=("threshold",),
    images=_images,
    gate=_gate,
)
def class_coverage(
    responses: ClassResponses,
    site: Site,
    *,
    threshold: Annotated[float, Param(gt=0.5, lt=1)] = 0.75,
    bins: Annotated[int, Param(ge=2, le=_BINS)] = _BINS,
) -> Mapping[str, Uncertain]:
    """Classes that the kernels of a layer detect, each kernel by itself; one value for the site.

    Definition. A kernel detects a class where the AUROC of its mean response over the map, images of the class against
    all others, is at least ``threshold``.

    - ``uncovered``: share of the classes that no kernel of the layer detects.
    - ``overlap``: mean over pairs of kernels of |A and B| / |A or B| (Jaccard index), A and B being the sets of classes
      that the two detect. Only kernels that detect any class count; with fewer than two of them there is no value.

    The threshold .75 is ours: the AUROC at which a random image of the class beats one of another in three of four
    cases (two normal distributions .95 standard deviations apart). No literature supports a number, so compare layers
    and networks at the same one; it belongs to the value's identity.

    Unit and range. ``uncovered`` a fraction in [0, 1]; ``overlap`` a ratio in [0, 1], 0 where no two kernels detect a
    class in common, 1 where all of them detect the same ones.

    Estimator and bias. For ``uncovered`` the best kernel of each class is chosen on one half of the sources, its AUROC
    is taken from the other half, and the other way round, and averaged (see class_auroc): the largest of many noisy
    AUROCs would be too large. Where the images do not tell which kernel is best, that is too low and the value too
    high. ``overlap`` takes the AUROC of every kernel for every class from all images, without a choice; kernels near
    the threshold then enter or leave sets by chance, which may move it either way.

    Interval. ``uncovered``: between the share of classes that surely have no detector and that of classes that may
    have none, each tested at the level over the number of classes (Bonferroni): a class surely has a detector by
    the cross-fitted AUROC, at that level over the number of kernels, because both halves err together where they
    happen to choose the same kernel, and surely none by the plug-in AUROC of its best kernel, which is too high.
    Verdicts use partial conjunction (Benjamini & Heller, Biometrics 64 (2008)) over the classes' p-values.
    ``overlap``: every kernel surely detects a class, surely does not, or may, each tested at the level over kernels
    times classes; the ends are the least and the largest mean that these sets allow. Both are conservative, wide
    where many AUROCs lie near the threshold, and shrink by steps. Tests are DeLong's, with what ties within levels
    leave open; where several images come from one source, with delete-a-group jackknifes over sources.

    Pitfalls. Gate: 30 sources of every class (images, where each is a source of its own; a source of several classes
    counts for one of them). Classes with fewer than two images in a half are left out; with fewer than two classes left
    there is no value. With memory for a part of the kernels only, both stay undecided. A class without a detector is
    not lost: several kernels may hold it together (usable_information), and silence is not counted (class_auroc.anti).
    A class of many kinds of images has no single detector.
    """
    found = _detect(responses)
    if found is None:
        nothing = np.full(1, np.nan)
        return {"uncovered": Exact(nothing), "overlap": Exact(nothing)}
    detected = Selected(
        found.crossfit.value, found.crossfit.moved(-1), found.plugin.moved(1), found.shape[0], chance=threshold
    )
    overlap = _Overlap(found.cells, found.cells_low, found.cells_high, found.shape, found.among, threshold)
    return {"uncovered": Share(RareEvent(detected, threshold), found.among), "overlap": overlap}


class _Detected(NamedTuple):
    """What is known of kernels and classes.

    Attributes:
        crossfit, plugin: AUROC of the best kernel for every class, shape (classes,).
        cells: AUROC of every kernel for every class, shape (kernels * classes,), NaN like these where a class was
            hardly met.
        cells_low, cells_high: The claims on them at both ends of what ties allow.
        among: The classes that were met often enough.
        shape: Kernels and classes.
    """

    crossfit: Auroc
    plugin: Auroc
    cells: Array
    cells_low: BoundedMean
    cells_high: BoundedMean
    among: NDArray[np.bool_]
    shape: tuple[int, int]


class _Layer(NamedTuple):
    """All counts of a layer.

    Attributes:
        counts: Images of every kernel, class and half, and level, shape (kernels, 2 * classes, levels).
        everyone: Images of every half, kernel and level, float64 of shape (2, kernels, levels).
        atoms: Levels in which ties are ties, shape (kernels, levels).
        kept: The classes that count.
        sources: Sources of every half and class, shape (2, classes).
    """

    counts: Tensor
    everyone: Tensor
    atoms: Tensor
    kept: Tensor
    sources: Tensor

    def crossfit(self, score: Tensor) -> Auroc:
        """AUROC of the kernel of the highest score, shape (2, kernels, classes), on the other half."""
        kernel = choose(score.mT)
        positive = torch.stack([self.counts[kernel[h], 2 * self.kept + h] for h in (0, 1)]).double()
        everyone = torch.stack([self.everyone[h, kernel[h]] for h in (0, 1)])
        return self._auroc(positive, everyone, kernel, self.sources)

    def plugin(self, score: Tensor) -> Auroc:
        """AUROC of the kernel of the highest score, shape (kernels, classes), on all images."""
        kernel = score.argmax(0)
        positive = self.counts[kernel, 2 * self.kept].double() + self.counts[kernel, 2 * self.kept + 1]
        everyone = self.everyone.sum(0)[kernel]
        return self._auroc(positive[None], everyone[None], kernel[None], self.sources.sum(0, keepdim=True))

    def _auroc(self, positive: Tensor, everyone: Tensor, kernel: Tensor, sources: Tensor) -> Auroc:
        samples = sources[:, self.kept]
        return auroc(positive, everyone, self.atoms[kernel], samples, sources.sum(1, keepdim=True))

    def fewer(self) -> Array:
        """Sources of each class or of all others, whichever are fewer."""
        sources = self.sources.sum(0)
        samples = sources[self.kept]
        return numbers(torch.minimum(samples, sources.sum() - samples).clamp(min=1))


def _detect(responses: ClassResponses) -> _Detected | None:
    """AUROC of the kernels for all classes; None where fewer than two were met often enough."""
    scores, everyone, cells = [], [], []
    for table in tables(responses):
        kept = eligible(table.halves[:, 0].sum(-1))
        if len(kept) < 2:
            return None
        classes = table.halves[:, :, kept]
        everyone.append(table.halves.sum(2))
        scores.append(areas(classes, everyone[-1]))
        cells.append(_cells(classes.sum(0), everyone[-1].sum(0), table.atoms))
    sources = halved(responses.class_sources.double(), 0)
    layer = _Layer(responses.counts, torch.cat(everyone, 1), responses.atoms, kept, sources)
    among = np.isin(np.arange(sources.shape[1]), kept.cpu().numpy())
    value, error, bracket = (_placed(np.concatenate(x), among) for x in zip(*cells, strict=True))
    units = np.tile(_placed(layer.fewer(), among, fill=1), len(value)).astype(np.int64)
    low, high = (
        BoundedMean(np.clip(value + side * bracket, 0, 1).reshape(-1), error.reshape(-1), units) for side in (-1, 1)
    )
    best = torch.from_numpy(value[:, among]).to(kept.device)
    crossfit, plugin = (
        Auroc(*(_placed(x, among, fill=fill) for x, fill in zip(found, _FILL, strict=True)))
        for found in (layer.crossfit(torch.cat(scores, 1)), layer.plugin(best))
    )
    return _Detected(crossfit, plugin, value.reshape(-1), low, high, among, value.shape)


_FILL = (math.nan, math.nan, 1.0, math.nan, 0.0)  # of an Auroc that is not known


def _placed(x: Array, among: NDArray[np.bool_], fill: float = math.nan) -> Array:
    """Values of the classes that count in their places among all classes."""
    placed = np.full((*x.shape[:-1], len(among)), fill)
    placed[..., among] = x
    return placed


def _cells(classes: Tensor, everyone: Tensor, atoms: Tensor) -> tuple[Array, Array, Array]:
    """AUROC of every kernel for every class, its standard error, and how far ties may move it."""
    negative = everyone[:, None] - classes
    found = delong(classes.cpu().numpy(), negative.cpu().numpy())
    ties = (classes * negative * ~atoms[:, None]).sum(-1) / (classes.sum(-1) * negative.sum(-1)) / 2
    return found.value, found.error, ties.cpu().numpy()


@dataclass(frozen=True)
class _Overlap(Inverted):
    """Mean Jaccard index of kernels' sets of classes, from what is known of each kernel and class.

    Attributes:
        cells: AUROC, shape (kernels * classes,).
        low, high: The claims on it at both ends of what ties allow.
        shape: Kernels and classes.
        among: The classes that count.
        threshold: From which AUROC on a class belongs to a kernel's set.
    """

    cells: Array
    low: BoundedMean
    high: BoundedMean
    shape: tuple[int, int]
    among: NDArray[np.bool_]
    threshold: float
    limits: tuple[float, float] = (0.0, 1.0)

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        detects = self._table(self.cells) >= self.threshold
        return np.array([_mean_overlap(detects, detects)[0]])

    def _table(self, x: Array) -> Array:
        table: Array = x.reshape(self.shape)[:, self.among]
        return table

    def interval(self, confidence: float) -> tuple[Array, Array]:
        if np.isnan(self.value[0]):
            return self.value, self.value
        level = (1 - confidence) / 2 / self._table(self.cells).size
        surely = self._table(self.low.p_below(self.threshold)) <= level
        possibly = self._table(self.high.p_at_least(self.threshold)) > level
        low, high = _mean_overlap(surely, possibly)
        # What is measured is possible whatever the confidence.
        return np.fmin(low, self.value), np.fmax(high, self.value)

    def mean(self) -> Self:
        return self

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:
        low = self.low.regrouped([part.low for part in parts], sizes, units)
        high = self.high.regrouped([part.high for part in parts], sizes, units)
        return replace(self, low=low, high=high)


def _mean_overlap(surely: NDArray[np.bool_], possibly: NDArray[np.bool_]) -> tuple[float, float]:
    """Least and largest mean Jaccard index of sets that hold what they surely do and nothing that they may not.

    Args:
        surely: Members of each set, shape (sets, elements).
        possibly: What may be a member.

    Returns:
        Both NaN where no two sets may have members.
    """
    sure, may = surely.astype(np.float64), (surely | possibly).astype(np.float64)
    pairs = np.triu_indices(len(sure), 1)
    sure_n, may_n = sure.sum(1), may.sum(1)
    common, shared = (sure @ sure.T)[pairs], (may @ may.T)[pairs]
    apart = sure_n[:, None] - sure @ may.T
    alone = (apart + apart.T)[pairs]
    union = (may_n[:, None] + may_n)[pairs] - shared
    least = common / np.maximum(union, 1)
    most = shared / np.maximum(shared + alone, 1)
    included = ((sure_n[:, None] > 0) & (sure_n > 0))[pairs]
    open_ = ((may_n[:, None] > 0) & (may_n > 0))[pairs] & ~included
    return _least_mean(least[included], least[open_]), -_least_mean(-most[included], -most[open_])


def _least_mean(included: Array, optional: Array) -> float:
    """The least mean of all values that are included and any of those that are optional."""
    sums = included.sum() + np.concatenate([[0.0], np.sort(optional).cumsum()])
    counts = len(included) + np.arange(len(sums))
    means = sums[counts > 0] / counts[counts > 0]
    return float(means.min()) if len(means) else math.nan
