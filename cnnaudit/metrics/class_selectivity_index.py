"""How much more a kernel responds to one class than to the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cnnaudit.crossfit import Selected, choose, eligible
from cnnaudit.intervals import Normal, Uncertain
from cnnaudit.lazy import np, torch
from cnnaudit.metrics.base import Field, Gate, Need, metric, numbers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import ClassMoments, Moments

_FEWEST = 30


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    if not site.taps["response"].nonnegative:
        return "responses here may be negative, and then the index has no meaning; class_auroc ranks them"
    return None


def _images(need: Need) -> int:
    return _FEWEST * need.classes


def _gate(moments: ClassMoments, site: Site, field: str, params: Mapping[str, Any]) -> Gate:
    n, sources, total, squares = (x.sum(0) for x in moments.halves)
    rarest = float(sources[n > 0].min())
    # Of the images of one source no more than their share of all sources is sure to be independent.
    carrying = total.sum(1) ** 2 / squares.sum(1) * (moments.n_sources / moments.n_images)
    fewest = carrying.nan_to_num(math.inf).clamp(max=rarest)
    needed = torch.where(fewest < _FEWEST, (_FEWEST * moments.n_sources / fewest.clamp(min=1)).ceil(), 0)
    samples = "sources" if moments.probe.clustered else "images"
    reason = (
        f"the rarest class has {rarest:.0f} {samples}, and {_FEWEST} are needed of each"
        if rarest < _FEWEST
        else f"fewer than {_FEWEST} {samples} carry the response of some kernels"
    )
    return Gate(numbers(needed).astype(np.int64), reason)


_LITTLE = (
    "Kernels that respond more evenly to the classes than the rule allows.",
    "The index is no score of quality: compare it with a baseline, and see class_information for several classes.",
)
_MUCH = (
    "Kernels that respond to one class more exclusively than the rule allows.",
    "The index is no score of quality: compare it with a baseline; look for a mark in the images of that class.",
)


@metric(
    reads=ClassMoments,
    at=Op.CONV,
    taps="response",
    fields={
        "crossfit": Field("ratio", "index of a class chosen on other images; 0 by chance", "", _LITTLE, _MUCH),
        "plugin": Field("ratio", "index as published, too high by chance", "", _LITTLE, _MUCH, exact=True),
    },
    interval="delta method over class means; lower end of crossfit, upper of plugin",
    recommended=True,
    cost="light: one whole-map mean, shared",
    labels=True,
    applies=_applies,
    images=_images,
    gate=_gate,
)
def class_selectivity_index(moments: ClassMoments, site: Site) -> Mapping[str, Uncertain]:
    """Selectivity of a kernel for the class that it responds to most, one value for each kernel.

    Definition. With mu_c the mean over the images of class c of the kernel's mean response over the map, and m the
    class of the largest, SI = (mu_m - mu_-m) / (mu_m + mu_-m), where mu_-m is the unweighted mean of the other
    classes' means (Morcos et al., arXiv 1803.06959; Leavitt & Morcos, arXiv 2003.01262; also CCMAS). No constant is
    added below: 0 / 0 is undefined.

    Unit and range. A ratio in [0, 1]: 0 where all classes get the same, 1 where one class gets all. ``crossfit`` may
    be negative, down to -1, where the chosen class is not the best one.

    Estimator and bias. The largest of many noisy means is too large. For a kernel of pure noise ``plugin`` is .21
    (exponential responses) to .47 (sparse ones) with 1,000 classes of 50 images; it serves for comparison with
    published values. ``crossfit`` chooses m on one half of the sources and takes mu_m and mu_-m from the other half,
    and the other way round; numerators and denominators are added before dividing. It is 0 for noise and right where
    one class clearly is the best. Where the images do not tell which class is, the halves may choose two classes: it
    is the index of a class that one would choose from half of these images, and the best class may lie above.

    Interval. Delta method: classes are disjoint sets of images, so Var(mu_c) = s_c^2 / n_c, in each half; the error
    is at least what one more source with the kernel's typical response could change. The lower end stands on
    ``crossfit``, which is too low where the best class is in doubt, the upper on ``plugin``, which is too high there,
    so neither bias decides by itself. It reaches 0, and nothing is more selective than that, until chance is refuted
    with Bonferroni over the classes: in noise both halves err together where they happen to choose the same class.
    Where several images come from one source, errors are delete-a-group jackknifes over sources, large where a group
    changes the choice.

    Pitfalls. Gate: 30 sources of every class (images, where each is a source of its own; a source of several classes
    counts for one of them), and 30 that carry the response, (sum r)^2 / sum r^2 over images times sources / images.
    Classes with fewer than two images in a half are left out; with fewer than two classes left, or no response at all
    in a half, there is no value. Not defined where responses may be negative. A shift (a bias, a kernel that is always
    on) lowers it, a positive scale does not change it. A kernel for two classes has a low index. It says little of a
    kernel's importance: less selectivity left accuracy as it was (2003.01262). So no threshold is good by itself; rules
    compare with a baseline.
    """
    halves = moments.halves
    crossfit, classes = _selectivity(halves)
    plugin, _ = _selectivity(Moments(*(x.sum(0, keepdim=True) for x in halves)))
    return {
        name: Selected(shown.value, crossfit, plugin, classes, chance=0.0)
        for name, shown in (("crossfit", crossfit), ("plugin", plugin))
    }


def _selectivity(parts: Moments) -> tuple[Normal, int]:
    """Index of every kernel, and the number of classes there were to choose from."""
    kept = eligible(parts.n)
    others = len(kept) - 1
    if others < 1:
        undefined = np.full(parts.total.shape[1], math.nan)
        return Normal(undefined, undefined), 1
    n, total, squares = parts.n[:, None, kept], parts.total[..., kept], parts.squares[..., kept]
    mean = total / n
    variance = (squares / n - mean**2).clamp(min=0) / (n - 1)
    chosen = torch.nn.functional.one_hot(choose(mean), others + 1).bool()
    best = torch.where(chosen, mean, 0).sum(-1)
    rest = (mean.sum(-1) - best) / others
    scale = (best + rest).sum(0)
    index = torch.where((total.sum(-1) > 0).all(0), (best - rest).sum(0) / scale, torch.nan)
    pull = torch.where(chosen, (1 - index)[:, None], (-1 - index)[:, None] / others) / scale[:, None]
    typical = squares.sum((0, 2)) / total.sum((0, 2))  # the mean response, weighted by the response
    one_more = (pull.abs() / parts.sources[:, None, kept].clamp(min=1)).amax((0, 2)) * typical
    error = torch.maximum((pull**2 * variance).sum((0, 2)).sqrt(), one_more)
    return Normal(numbers(index), numbers(error), limits=(-1.0, 1.0), least=numbers(one_more)), others + 1
