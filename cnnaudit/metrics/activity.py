"""How often and how strongly a kernel responds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field as Param

from cnnaudit.intervals import (
    Binomial,
    BoundedMean,
    Conjunction,
    Normal,
    RareEvent,
    Uncertain,
    linearised_ratio,
    relative_variance,
)
from cnnaudit.lazy import np
from cnnaudit.metrics.base import Field, Need, metric, numbers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import ActivityTally

_FEWEST = 100
_CARRYING = 50


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    if field in ("dead", "apoz") and 0.0 not in site.taps["response"].atoms:
        return "no activation here makes exact zeros, so none can be counted; activity.dormant and always_on apply"
    return None


def _images(need: Need) -> int:
    if need.field not in ("dead", "always_on"):
        return _FEWEST
    rarest = need.params["rate"] if need.field == "dead" else min(_rates(need.params["on_zeros"], need.params["on_cv"]))
    return math.ceil(math.log(need.alpha) / math.log1p(-float(rarest)))


def _rates(on_zeros: float, on_cv: float) -> tuple[float, float]:
    """What a kernel that acts as a bias stays below: its fraction of zeros, its variance over its second moment."""
    return on_zeros, on_cv**2 / (1 + on_cv**2)


@metric(
    reads=ActivityTally,
    at=Op.CONV,
    taps="response",
    fields={
        "dead": Field(
            "indicator",
            "1 where the kernel never fires, else 0",
            "lower",
            high=(
                "Kernels that are exactly zero everywhere: they cost time and memory and carry nothing.",
                "Check that weights and preprocessing are the right ones; else prune them, or retrain with a smaller "
                "learning rate or a leaky activation.",
            ),
            dataset=True,
            exact=True,
        ),
        "apoz": Field(
            "fraction",
            "average fraction of positions at exactly zero",
            "lower",
            high=(
                "Kernels that are silent at most positions of most images.",
                "See activity.dead and class_information there: a rare kernel that tells classes apart is healthy, a "
                "silent one can be pruned.",
            ),
            low=(
                "Kernels that are hardly ever silent: their activation passes nearly everything.",
                "See whether they act as a constant: class_information near 0 says so.",
            ),
            exact=True,
        ),
        "dormant": Field(
            "ratio",
            "mean magnitude over the layer's mean",
            "higher",
            low=(
                "Kernels that respond far more weakly than the rest of their layer.",
                "Look at the scale of their norm: a tiny one makes them candidates for pruning.",
            ),
            high=(
                "Kernels that respond far more strongly than the rest of their layer.",
                "Look at the scale of their norm, and at the images for saturation.",
            ),
        ),
        "always_on": Field(
            "indicator",
            "1 where the kernel is hardly ever zero and hardly varies, else 0",
            "lower",
            high=(
                "Kernels that act as a bias: they pass nearly the same value at every position of every image.",
                "Fold them into the next layer's bias, or look for a norm whose shift dwarfs its scale.",
            ),
        ),
    },
    interval="dead: exact binomial; apoz: Korn-Graubard; dormant: linearised ratio; always_on: both conditions at once",
    recommended=True,
    cost="light: two whole-map reductions and a row gather of a few positions",
    version=2,
    applies=_applies,
    images=_images,
)
def activity(
    tally: ActivityTally,
    site: Site,
    *,
    rate: Annotated[float, Param(gt=0, lt=1)] = 0.01,
    on_zeros: Annotated[float, Param(gt=0, lt=1)] = 0.01,
    on_cv: Annotated[float, Param(gt=0)] = 0.1,
) -> Mapping[str, Uncertain]:
    """Dead, sparse, dormant and always active kernels.

    Definition. With A the response of a kernel (after its norm and activation):

    - ``dead``: 1 where A is exactly zero at every position of every image, else 0. This is a claim about the
      images that were read. With ``estimand: population`` it is the claim that fewer than ``rate`` of all
      sources (patients, videos; images, where each is a source of its own) have an image that activates the kernel,
      which 299 silent sources decide for one kernel at 95 % and rate .01.
    - ``apoz``: P(A = 0) over images and positions (average percentage of zeros; arXiv 1607.03250).
    - ``dormant``: E|A| of the kernel over the mean of E|A| in its layer (arXiv 2302.12902, which calls a kernel
      dormant at or below .025; a convention from reinforcement learning).
    - ``always_on``: 1 where P(A = 0) < ``on_zeros`` and the coefficient of variation of A over positions and images,
      sd(A) / |E A|, is below ``on_cv``: the kernel acts as a bias. Both limits are ours.

    Unit and range. ``dead`` and ``always_on`` 0 or 1 for each kernel; ``apoz`` a fraction in [0, 1]; ``dormant`` a
    ratio >= 0.

    Estimator and bias. Zeros and strengths are read at every position of every image. ``dead`` and ``apoz`` are
    unbiased; ``dormant`` is a ratio of means, biased by O(1 / images). The variation for ``always_on`` is read at 8
    sampled positions of each image, at all of them in maps of at most 8; its bias of O(1 / images) is taken off.

    Interval. ``dead`` (population): exact binomial on the sources that activate the kernel. Where a source has several
    images, their number is known between that of sources whose first image does and that of all images that do (at
    most all sources); the upper end stands on the second, and so does the value. ``apoz``: binomial at the effective
    sample size of the images' fractions (Korn & Graubard 1998), which is normal except near 0 and 1. ``dormant``:
    linearised ratio over images, normal. Where fewer than 50 images carry the kernel's strength a, k = (sum a)^2 /
    sum a^2 times sources / images, they tell too small an error: it is at least 1 + 1 / sqrt(k) times as large, and
    2 / sources, about what a kernel may have that responds like the layer's mean, but too rarely to be met.
    ``always_on``: of zeros that of ``apoz``; of the variation, told by Var(A) / E A^2 = CV^2 / (1 + CV^2) in [0, 1],
    the delta method in the same form. That both conditions hold is shown by each at the full level
    (intersection-union), that they do not by either of them, with Bonferroni.

    Pitfalls. Gate: 100 sources, for ``dead`` those 299 and for ``always_on`` 302. A kernel silent on these images may
    fire on others. Zeros mean something only where an activation makes exact zeros (ReLU, ReLU6); elsewhere ``dead``
    and ``apoz`` do not apply, and for ``always_on`` the variation alone decides. Kernels that are hardly ever zero are
    usual behind a residual addition; only those that hardly vary either are always on. A kernel that is zero throughout
    is dead, not always on.
    """
    n, samples, positions = tally.n_images, tally.n_sources, tally.positions
    sums = ("active", "zeros", "zeros2", "a", "a2", "a_mean", "mean", "mean2")
    active, z, zz, a, aa, ab, b, bb = (numbers(tally.total(name)) for name in sums)
    apoz = linearised_ratio(z, n * positions, aa=zz, ab=z * positions, bb=n * positions**2, n=n)
    ratio, error = linearised_ratio(a, b, aa=aa, ab=ab, bb=bb, n=n)
    # Of the images of one source no more than their share of all sources is sure to be independent.
    carrying = np.divide(a**2, aa, out=np.zeros_like(a), where=aa > 0) * samples / n
    wider = np.maximum(error * (1 + 1 / np.sqrt(np.maximum(carrying, 1))), 2 / samples)
    least = np.where(carrying < _CARRYING * (1 - 1e-6), wider, 0)
    most_zeros, most_variance = _rates(on_zeros, on_cv)
    s, q, ss, sq, qq = (numbers(moment) for moment in tally.moments)
    variance, spread, bias = relative_variance(s, q, ss=ss, sq=sq, qq=qq, n=n)
    constant = RareEvent(BoundedMean(np.clip(variance - bias, 0, 1), spread, n), most_variance)
    few = Binomial(np.maximum(active > 0, numbers(tally.first_active)), samples)
    return {
        "dead": RareEvent(Binomial(np.minimum(active, samples), samples), rate, few),
        "apoz": BoundedMean(*apoz, n),
        "dormant": Normal(ratio, np.maximum(error, least), limits=(0.0, math.inf), least=least),
        "always_on": Conjunction((RareEvent(BoundedMean(*apoz, n), most_zeros), constant)),
    }
