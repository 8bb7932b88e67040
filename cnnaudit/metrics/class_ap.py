"""How precisely a kernel's response alone retrieves one class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field as Param

from cnnaudit.crossfit import Selected, choose, eligible, pick
from cnnaudit.detection import tables
from cnnaudit.intervals import Array, BoundedMean, Exact, Normal, Uncertain
from cnnaudit.lazy import np, torch
from cnnaudit.metrics.base import Field, Gate, Need, metric, numbers
from cnnaudit.metrics.class_auroc import detectable
from cnnaudit.site import Op, Site
from cnnaudit.statistics import ClassResponses, halved

if TYPE_CHECKING:
    from torch import Tensor

_FEWEST = 30
_BINS = 256  # as many as the images that fix the grid


def _images(need: Need) -> int:
    return _FEWEST * need.classes


def _gate(responses: ClassResponses, site: Site, field: str, params: Mapping[str, Any]) -> Gate:
    found = _retrieve(responses).crossfit
    return detectable(responses, found.positives, found.resolution, params)


_LITTLE = (
    "Kernels whose strongest responses hold fewer images of one class than the rule demands.",
    "Compare with `chance`, the share of that class; a rare class needs a sharp kernel: see class_auroc, which does "
    "not know of shares.",
)
_MUCH = (
    "Kernels whose strongest responses hold more images of one class than the rule allows.",
    "Look for a shortcut: a mark, border or scanner in the images that gives the class away.",
)
_COARSE = (
    "Many images of different classes share a level among the strongest responses.",
    f"Raise `bins` where it is below {_BINS}; with {_BINS} intervals are as wide as that allows, and class_auroc "
    "suffers less.",
)


@metric(
    reads=ClassResponses,
    at=Op.CONV,
    taps="response",
    fields={
        "best": Field("AP", "of a best class chosen on other images", "higher", _LITTLE, _MUCH),
        "plugin_best": Field("AP", "of the best class, too high by chance", "higher", _LITTLE, _MUCH),
        "chance": Field("AP", "of a kernel that knows nothing: the share of the class that `best` chose"),
        "excess": Field("AP", "`best` less `chance`; 0 by chance", "higher", _LITTLE, _MUCH),
        "resolution": Field("AP", "how far ties within levels may move `best`", "lower", high=_COARSE),
    },
    interval="influence function of AP; lower end cross-fitted, upper of plugin_best",
    cost="light: one whole-map mean, shared",
    labels=True,
    images=_images,
    gate=_gate,
)
def class_ap(
    responses: ClassResponses, site: Site, *, bins: Annotated[int, Param(ge=2, le=_BINS)] = _BINS
) -> Mapping[str, Uncertain]:
    """Average precision of a kernel as detector of its best class, one value for each kernel.

    Definition. Images are taken from the strongest response R (mean over the map) downwards, those of one level
    together. With recall R_n and precision P_n after step n, AP = sum (R_n - R_{n-1}) P_n: the mean, over the images of
    the class, of the share of that class among all images that respond as strongly or more strongly. A kernel that
    knows nothing has AP = the class's share of all images, which is ``chance``. The best class is that of the largest
    (AP - chance) / (1 - chance): by AP alone a frequent class would always win, by AP - chance it could not.

    Unit and range. A probability in [0, 1]; 1 where all images of the class come first. AP depends on the classes'
    shares in these images and compares only where they agree; ``excess`` = ``best`` - ``chance`` depends on them less.

    Estimator and bias. ``plugin_best`` is that sum (scikit-learn's ``average_precision_score`` on the levels) for the
    best class, and too high twice. Each image counts towards its own precision: for a kernel of noise that alone gives
    about (ln images) / images. And the largest of many noisy values is too large: for pure noise it is .14 instead of
    .10 with 10 x 60 images (classes x images each), .018 instead of .010 with 100 x 50. ``best`` leaves each image out
    of its own precision, chooses the class on one half of the sources, measures it on the other half, and the other way
    round, and averages the two; for noise that is ``chance``. Where the images do not tell which class is best, the
    halves may choose two classes, and ``chance`` is the mean of their shares. Responses are counted in ``bins`` levels
    that are equiprobable on the calibration images. AP is decided among the strongest responses, so ties there matter:
    ``resolution`` is how far AP would move if in every level the images of the class came first, or last. Exact zeros
    are true ties.

    Interval. AP is a function of the shares of images in the cells (class or not, level), and all images of a cell
    have the same influence on it, in closed form (delta method; that AP is asymptotically normal is shown for the
    whole precision-recall curve by Clemencon & Vayatis, ICML 2009). The interval is that of a bounded mean with
    this error and as many units as the class has sources; variances of the halves add. The lower end stands on
    ``best`` less what ties allow, the upper on ``plugin_best`` plus that. Simulated coverage at 95 % is .94 to .98
    (``excess`` .92 to .98) with 40 and 200 images of the class. It reaches ``chance`` until ``excess`` = 0 is
    refuted with Bonferroni over the classes. Where several images come from one source, errors are delete-a-group
    jackknifes over sources; then an image's relatives still count towards its precision.

    Pitfalls. Gate: 30 sources of the chosen class (images, where each is a source of its own; a source of several
    classes counts for one of them), and ``resolution`` at most .005 where more bins are to be had. Classes with fewer
    than two images in a half cannot be chosen; with none left, or one class alone, there is no value. Where a class is
    rarer than a level (one image of 256), levels hide what AP asks: intervals are wide however many images there are,
    and class_auroc is the better question. Blind to a kernel that responds to several classes alike.
    """
    found = _retrieve(responses)
    best, plugin = found.crossfit, found.plugin
    lower, upper = (
        Normal(x.value - x.chance + moved, x.excess_error, limits=(-1.0, 1.0), least=x.least)
        for x, moved in ((best, -best.down), (plugin, plugin.up))
    )
    ends = best.claim(-best.down), plugin.claim(plugin.up)
    return {
        "best": Selected(best.value, *ends, found.choices, best.chance, lower),
        "plugin_best": Selected(plugin.value, *ends, found.choices, best.chance, lower),
        "chance": BoundedMean(best.chance, best.chance_error, responses.n_sources),
        "excess": Selected(best.value - best.chance, lower, upper, found.choices, 0.0),
        "resolution": Exact(best.resolution),
    }


class _Precision(NamedTuple):
    """An average precision of every kernel, shape (kernels,).

    Attributes:
        value, error: The AP and its standard error.
        chance, chance_error: The share of the chosen class, and its standard error.
        excess_error: Standard error of their difference.
        down, up: How far ties within levels may move the value.
        units: Sources of the chosen class or of all others, whichever are fewer.
        positives: Sources of the chosen class.
    """

    value: Array
    error: Array
    chance: Array
    chance_error: Array
    excess_error: Array
    down: Array
    up: Array
    units: Array
    positives: Array

    @property
    def resolution(self) -> Array:
        return np.maximum(self.down, self.up)

    @property
    def least(self) -> Array:
        """Half of what a share 4 / units of the class may take from the value, which 98 % of samples would show."""
        return 2 * self.value / self.units

    def claim(self, moved: Array) -> BoundedMean:
        return BoundedMean(np.clip(self.value + moved, 0, 1), self.error, self.units.astype(np.int64))


class _Retrieval(NamedTuple):
    crossfit: _Precision
    plugin: _Precision
    choices: int


def _retrieve(responses: ClassResponses) -> _Retrieval:
    """AP of every kernel for its best class."""
    sources = halved(responses.class_sources.double(), 0)
    found: list[tuple[_Precision, _Precision]] = []
    for halves, atoms, _ in tables(responses):
        whole = halves.sum(0, keepdim=True), sources.sum(0, keepdim=True)
        found.append((_precision(halves, sources, atoms), _precision(*whole, atoms, plain=True)))
    crossfit, plugin = (
        _Precision(*map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*found, strict=True)
    )
    return _Retrieval(crossfit, plugin, max(1, len(eligible(halves[:, 0].sum(-1)))))


def _precision(parts: Tensor, sources: Tensor, atoms: Tensor, *, plain: bool = False) -> _Precision:
    """Mean AP over parts of the images, each of the class that the other part chooses.

    Args:
        parts: Counts, float64 of shape (parts, kernels, classes, levels).
        sources: Sources that they come from, float64 of shape (parts, classes).
        atoms: Levels in which ties are ties, shape (kernels, levels).
        plain: Whether an image counts towards its own precision.
    """
    n, everyone = parts.sum(-1), parts.sum(2)
    kept = eligible(n[:, 0])
    images = n.sum(-1)
    if len(kept) == 0 or bool((n[:, 0, kept] == images[:, :1]).any()):
        nothing = np.full(len(atoms), np.nan)
        return _Precision(*(nothing,) * 7, units=np.ones(len(atoms)), positives=np.zeros(len(atoms)))
    classes = parts[:, :, kept]
    share = n[..., kept] / images[..., None]
    ranked = _average(classes, everyone[:, :, None])
    choice = choose((ranked - share) / (1 - share))
    positive, chance = pick(classes, choice), pick(share, choice)
    value = _average(positive, everyone, plain=True) if plain else pick(ranked, choice)
    error, excess_error = _errors(positive, everyone)
    down, up = _ties(positive, everyone, atoms)
    samples = pick(sources[:, None, kept].expand_as(share), choice)
    fewer = torch.minimum(samples, sources.sum(1, keepdim=True) - samples).clamp(min=1)
    chance_error = (chance * (1 - chance) / (images - 1)).sqrt()
    means = [numbers(x.mean(0)) for x in (chance, down, up)]
    errors = [numbers(x.square().sum(0).sqrt()) / len(parts) for x in (error, chance_error, excess_error)]
    return _Precision(
        value=numbers(value.mean(0)),
        error=errors[0],
        chance=means[0],
        chance_error=errors[1],
        excess_error=errors[2],
        down=means[1],
        up=means[2],
        units=numbers(fewer.sum(0)),
        positives=numbers(samples.sum(0)),
    )


def _from_the_top(counts: Tensor) -> Tensor:
    """Images in each level and above."""
    return counts.flip(-1).cumsum(-1).flip(-1)


def _average(positive: Tensor, everyone: Tensor, *, plain: bool = False) -> Tensor:
    """AP of the levels; unless plain, no image counts towards its own precision."""
    hits, met = _from_the_top(positive), _from_the_top(everyone)
    # Of a single image on top nothing is known but that it is of the class.
    precision = hits / met.clamp(min=1) if plain else torch.where(met > 1, (hits - 1) / (met - 1).clamp(min=1), 1)
    mean: Tensor = (positive * precision).sum(-1) / positive.sum(-1)
    return mean


def _errors(positive: Tensor, everyone: Tensor) -> tuple[Tensor, Tensor]:
    """Standard errors of AP, and of AP less the class's share, from the influence of the images of each cell.

    With w and a the shares of all images that lie in a level and are of the class or of any, and W and A those in
    the level or above, AP = sum w W / A / sum w. An image of the class adds to w and a, any other to a alone.
    """
    images = everyone.sum(-1, keepdim=True)
    hits, met = _from_the_top(positive), _from_the_top(everyone).clamp(min=1)
    w, a, precision = positive / images, everyone / images, hits / met
    share = w.sum(-1, keepdim=True)
    ap = (w * precision).sum(-1, keepdim=True) / share
    other = -(w * precision * images / met).cumsum(-1) / share
    of_class = other + (precision + (w * images / met).cumsum(-1) - ap) / share

    def error(one: Tensor, another: Tensor) -> Tensor:
        variance = (w * one.square() + (a - w) * another.square()).sum(-1) / (images[..., 0] - 1)
        return variance.sqrt()

    return error(of_class, other), error(of_class - (1 - share), other + share)


def _ties(positive: Tensor, everyone: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
    """How far AP would fall and rise if in every level the images of the class came last, or first."""
    above, met = _from_the_top(positive) - positive, _from_the_top(everyone) - everyone

    def precisions(before: Tensor) -> Tensor:
        """Sum of (above + j) / (met + before + j) over the images j = 1, 2, ... of the class."""
        start = met + before
        return positive - (start - above) * (torch.digamma(start + positive + 1) - torch.digamma(start + 1))

    together = positive * (above + positive) / (met + everyone).clamp(min=1)
    negative = everyone - positive
    n = positive.sum(-1)
    down, up = (
        torch.where(atoms, 0, moved).sum(-1).clamp(min=0) / n
        for moved in (together - precisions(negative), precisions(torch.zeros_like(negative)) - together)
    )
    return down, up
