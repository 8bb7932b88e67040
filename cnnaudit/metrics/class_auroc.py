"""How well a kernel's response alone detects one class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field as Param

from cnnaudit.crossfit import Selected, choose, eligible, pick
from cnnaudit.detection import Auroc, areas, auroc, tables
from cnnaudit.intervals import Array, Exact, Uncertain
from cnnaudit.lazy import np
from cnnaudit.metrics.base import Field, Gate, Need, metric
from cnnaudit.site import Op, Site
from cnnaudit.statistics import ClassResponses, halved

if TYPE_CHECKING:
    from torch import Tensor

_FEWEST = 30
_BRACKET = 0.005
_BINS = 256  # as many as the images that fix the grid


def _images(need: Need) -> int:
    return _FEWEST * need.classes


def detectable(responses: ClassResponses, positives: Array, open_: Array, params: Mapping[str, Any]) -> Gate:
    """Which kernels' chosen classes have too few images, or levels that leave too much open, to be judged.

    Args:
        responses: The statistic.
        positives: Sources of each kernel's chosen class, shape (kernels,).
        open_: How far ties within levels may move the value, shape (kernels,).
        params: The metric's, with ``bins``.
    """
    bins, n = int(params["bins"]), responses.n_sources
    few, coarse = positives < _FEWEST, (open_ > _BRACKET) & (bins < _BINS)
    needed = np.where(few, np.ceil(_FEWEST * n / np.maximum(positives, 1)), np.where(coarse, n, 0))
    if few.any():
        samples = "sources" if responses.probe.clustered else "images"
        reason = f"a chosen class has {positives.min():.0f} {samples}, and {_FEWEST} are needed"
        return Gate(needed.astype(np.int64), reason)
    reason = (
        f"{bins} levels are too coarse whatever their number: ties leave ±{open_.max():.3f} open, "
        f"and {_BRACKET} is allowed"
    )
    return Gate(needed.astype(np.int64), reason, f"rather the same ones with params: {{bins: {_BINS}}}")


def _gate(responses: ClassResponses, site: Site, field: str, params: Mapping[str, Any]) -> Gate:
    found = _detect(responses, lowest=field == "anti").crossfit
    return detectable(responses, found.positives, found.bracket, params)


_LITTLE = (
    "Kernels that tell no class from the rest as well as the rule demands.",
    "Alone they detect nothing, together they may: see class_information, or start the rule deeper with `at:`.",
)
_MUCH = (
    "Kernels that tell one class from the rest better than the rule allows.",
    "Look for a shortcut: a mark, border or scanner in the images that gives the class away.",
)
_COARSE = (
    "Many images of different classes share a level.",
    f"Raise `bins` where it is below {_BINS}; with {_BINS} intervals are as wide as that allows.",
)


@metric(
    reads=ClassResponses,
    at=Op.CONV,
    taps="response",
    fields={
        "best": Field("AUROC", "of a best class chosen on other images, chance .5", "higher", _LITTLE, _MUCH),
        "plugin_best": Field("AUROC", "of the best class, too high by chance", "higher", _LITTLE, _MUCH),
        "anti": Field("AUROC", "of silence for a class chosen on other images, chance .5", "", _LITTLE, _MUCH),
        "resolution": Field("AUROC", "how far ties within levels may move `best`", "lower", high=_COARSE),
    },
    interval="DeLong; lower end cross-fitted, upper of plugin_best",
    recommended=True,
    cost="light: one whole-map mean, shared",
    labels=True,
    images=_images,
    gate=_gate,
)
def class_auroc(
    responses: ClassResponses, site: Site, *, bins: Annotated[int, Param(ge=2, le=_BINS)] = _BINS
) -> Mapping[str, Uncertain]:
    """Area under the ROC curve of a kernel as detector of its best class, one value for each kernel.

    Definition. With R the kernel's mean response over the map, AUROC_c = P(R+ > R-) + P(R+ = R-) / 2 for an image of
    class c (+) and one of any other class (-). ``best`` is the largest over classes; ``anti`` is 1 less the smallest:
    how well silence gives a class away. Chance is .5 for each class, whatever its share of the images.

    Unit and range. A probability in [0, 1]. The truth of ``best`` and ``anti`` is at least .5; the estimates may fall
    below by chance.

    Estimator and bias. The largest of many noisy AUROCs is too large. For a kernel of pure noise ``plugin_best`` is
    .545, .575 and .636 with 10 x 100, 100 x 100 and 1,000 x 50 images (classes x images each). ``best`` and ``anti``
    choose the class on one half of the sources and measure it on the other half, and the other way round, and average
    the two. Where the images do not tell which class is best, the halves may choose two classes: it is the AUROC of a
    class that one would choose from half of these images, and the best class may lie above. Responses are counted in
    ``bins`` levels that are equiprobable on the calibration images, exact zero being a level of its own. Ties in other
    levels, which the values may not have, move the AUROC by at most ``resolution``.

    Interval. DeLong, DeLong & Clarke-Pearson (1988) on each half given the class that the other half chose; variances
    add. Near 1 it is that of a bounded mean with as many units as the class has sources. The lower end stands on the
    cross-fitted value less ``resolution``, the upper on the plug-in one plus that, so neither bias decides by itself.
    It reaches .5 until chance is refuted with Bonferroni over the classes: in noise both halves err together where
    they happen to choose the same class. Where several images come from one source, errors are delete-a-group
    jackknifes over sources, large where a group changes the choice.

    Pitfalls. Gate: 30 sources of the chosen class (images, where each is a source of its own; a source of several
    classes counts for one of them), and ``resolution`` at most .005 where more bins are to be had.
    Classes with fewer than two images in a half cannot be chosen; with none left, or one class alone, there is no
    value. Blind to a kernel that responds to several classes alike: see class_information. A high AUROC of a rare
    class may still come with many false alarms: precision depends on its share. Increasing transformations of the
    response change nothing but the grid.
    """
    best, anti = _detect(responses), _detect(responses, lowest=True)
    return {
        "best": best.selected(best.crossfit),
        "plugin_best": best.selected(best.plugin),
        "anti": anti.selected(anti.crossfit),
        "resolution": Exact(best.crossfit.bracket),
    }


class _Detector(NamedTuple):
    crossfit: Auroc
    plugin: Auroc
    choices: int

    def selected(self, shown: Auroc) -> Selected:
        return Selected(shown.value, self.crossfit.moved(-1), self.plugin.moved(1), self.choices, chance=0.5)


def _detect(responses: ClassResponses, *, lowest: bool = False) -> _Detector:
    """AUROC of every kernel for its best class, or of its silence."""
    sources = halved(responses.class_sources.double(), 0)
    found: list[tuple[Auroc, Auroc]] = []
    for table in tables(responses):
        halves, exact = (x.flip([-1] if lowest else []) for x in (table.halves, table.atoms))
        parts = (halves, sources), (halves.sum(0, keepdim=True), sources.sum(0, keepdim=True))
        found.append((_auroc(*parts[0], exact), _auroc(*parts[1], exact)))
    crossfit, plugin = (Auroc(*map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*found, strict=True))
    return _Detector(crossfit, plugin, max(1, len(eligible(halves[:, 0].sum(-1)))))


def _auroc(parts: Tensor, sources: Tensor, atoms: Tensor) -> Auroc:
    """Mean AUROC over parts of the images, each of the class that the other part chooses.

    Args:
        parts: Counts, float64 of shape (parts, kernels, classes, levels).
        sources: Sources that they come from, float64 of shape (parts, classes).
        atoms: Levels in which ties are ties, shape (kernels, levels).
    """
    kept = eligible(parts[:, 0].sum(-1))
    if not len(kept):
        return Auroc.undefined(len(atoms))
    everyone, classes = parts.sum(2), parts[:, :, kept]
    score = areas(classes, everyone)
    choice = choose(score)
    samples = pick(sources[:, None, kept].expand_as(score), choice)
    return auroc(pick(classes, choice), everyone, atoms, samples, sources.sum(1, keepdim=True))
