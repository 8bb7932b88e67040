"""What a network's output owes to one block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field as Param

from cnnaudit.intervals import (
    Array,
    BoundedMean,
    CarriedNormal,
    Conjunction,
    Normal,
    RareEvent,
    Uncertain,
    linearised_ratio,
    widened,
)
from cnnaudit.lazy import np
from cnnaudit.metrics.base import Field, Gate, metric
from cnnaudit.metrics.gates import carried_by_few
from cnnaudit.site import Altered, Op, Site
from cnnaudit.statistics import LogitPairs

_FEWEST = 64
_CARRYING = 30
_REMOVED = {Op.RESIDUAL: "branch", Op.GATE: "gate", Op.CONCAT: "branch"}


def _variants(site: Site, params: Mapping[str, Any]) -> Mapping[str, Altered]:
    return {"ablated": Altered("logits", of=_REMOVED[site.op], by=params["by"])}


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    if "logits" in site.taps and site.taps["logits"].shape[0] < 2:
        return "the network has one output, and a softmax over one says nothing"
    if site.op is Op.GATE and params["by"] == "zero":
        return "a gate of zero shuts out what it gates as well; put its mean in its place with params: {by: mean}"
    if field == "idle" and not site.taps.keys() >= {"skip", "branch"}:
        return "only the branch of a residual addition has a size to be compared with that of its skip"
    return None


def _gate(pairs: LogitPairs, site: Site, field: str, params: Mapping[str, Any]) -> Gate | None:
    if field != "relative_change":
        return None
    return carried_by_few(pairs, *_change(pairs), _CARRYING, "the change of the logits")


def _change(pairs: LogitPairs) -> tuple[Array, Array]:
    """Sums of the logits' squared change and of its square."""
    return pairs.sums("change")[:, 0], pairs.products("change")[:, 0, 0]


def _root(square: Array, error: Array, carrying: Array) -> CarriedNormal:
    """The root of a ratio by the delta method; that no image changes does not tell how much others would."""
    root = np.sqrt(square)
    reach = widened(np.divide(error, 2 * root, out=np.full_like(root, math.inf), where=root > 0), carrying)
    return CarriedNormal(root, reach, limits=(0.0, math.inf), carrying=carrying)


_LITTLE = (
    "Without this block the network says nearly the same.",
    "That is usual in deep residual networks. See block_ablation.idle, which also asks whether the branch is tiny: "
    "then the block does nothing.",
)
_MUCH = (
    "The network's output hangs on this block.",
    "Expected of a block that downsamples and of shallow networks; elsewhere look for what only this block does before "
    "pruning or quantising it.",
)
_IDLE = (
    "The block adds nothing that the output shows: it costs time and memory.",
    "Look at the scale that ends its branch (the last norm's weight, a layer scale): initial zeros that never trained, "
    "or a wrong checkpoint. If it is meant, remove the block.",
)


@metric(
    reads=LogitPairs,
    at=(Op.RESIDUAL, Op.GATE, Op.CONCAT),
    taps=("logits", "ablated", "skip", "branch"),
    optional=("skip", "branch"),
    variants=_variants,
    fields={
        "jsd": Field("bits", "Jensen-Shannon divergence of the two softmaxes", "", _LITTLE, _MUCH, exact=True),
        "flip": Field("fraction", "share of images that get another class", "", _LITTLE, _MUCH, exact=True),
        "relative_change": Field("ratio", "size of the logits' change over their own", "", _LITTLE, _MUCH, exact=True),
        "idle": Field("indicator", "1 where the branch is tiny and the output does without it, else 0", "", high=_IDLE),
    },
    interval="jsd and flip: Korn-Graubard, exact binomial for flip; relative_change: linearised; idle: both conditions",
    cost="heavy: the rest of the network once more for each block",
    identity=("by",),
    applies=_applies,
    gate=_gate,
    images=lambda need: _FEWEST,  # noqa: ARG005
)
def block_ablation(
    pairs: LogitPairs,
    site: Site,
    *,
    by: Literal["zero", "mean"] = "zero",
    idle_ratio: Annotated[float, Param(gt=0, lt=1)] = 0.01,
    idle_jsd: Annotated[float, Param(gt=0, lt=1)] = 0.001,
) -> Mapping[str, Uncertain]:
    """Change of the network's output when what a block adds is taken away.

    Definition. The network runs a second time from the block on, with the branch of a residual addition replaced: by
    zeros (y = s, ``by: zero``), or by its mean over the first 64 images at each channel and position (``by: mean``). Of
    a concatenation it is the input that was computed last that is replaced, of a gate the factor, and only by its mean.
    With p and q the softmaxes of the logits with and without the block:

    - ``jsd``: H((p + q) / 2) - (H(p) + H(q)) / 2, the Jensen-Shannon divergence, mean over images.
    - ``flip``: the share of images whose highest logit is another class's; it needs no labels.
    - ``relative_change``: sqrt(sum |d|^2 / sum |z|^2), with z the logits less their mean over classes and d the
      difference of z between the two runs.
    - ``idle``: 1 where the branch's root mean square is below ``idle_ratio`` of the skip's and ``jsd`` is below
      ``idle_jsd``, else 0: a block that does nothing. Both limits are ours.

    Where the head labels positions, softmaxes are compared position by position and averaged over each image.

    Unit and range. ``jsd`` in bits, in [0, 1]; ``flip`` a fraction; ``relative_change`` a ratio >= 0, where 1 is a
    change as large as the logits; ``idle`` 0 or 1. One value for the block. A branch that is zero everywhere has
    jsd 0, flip 0 and relative_change 0.

    Estimator and bias. ``jsd`` and ``flip`` are means over images, unbiased; ``relative_change`` and the ratio of sizes
    are roots of ratios of means, biased by O(1 / images). All positions are read. The mean that replaces a branch is
    fixed by the first images; the value is about that replacement.

    Interval. ``jsd`` and ``flip``: binomial at the effective sample size (Korn & Graubard 1998), for ``flip`` the exact
    binomial one. Images that all agree leave room for others that were not met: n of them a share of 1 - .05^(1/n) with
    95 %, so the upper end of ``jsd`` is never 0. ``relative_change``: linearised ratio over images, the delta method
    for the root, normal; k = (sum |d|^2)^2 / sum |d|^4 images carry the change, and the error is 1 + 1 / sqrt(k) times
    as large because they are few. Where no image changes it is unknown above 0: 0 is then said of these images only.
    ``idle``: that both conditions hold is shown by each at the full level (intersection-union), that they do not by
    either of them, with Bonferroni.

    Pitfalls. Gate: 64 images; for ``relative_change`` k = 30, and for ``idle`` as many images as bound a ``jsd`` of
    nearly 0 by ``idle_jsd``, about 3,300 at .001 and 95 %. A small effect is no fault: the paths of a deep residual
    network depend little on each other (arXiv 1605.06431), so leaving out one block of many changes little, and several
    blocks of small effect each may matter together. No threshold is known. Zeros are nothing that the rest of the
    network ever saw, so a large effect of ``by: zero`` may only say that a constant is missing; ``by: mean`` keeps that
    and takes away what varies between images. Effects of two blocks do not add up. Networks of one output (a sigmoid, a
    regression) have no softmax and are left out.
    """
    n = pairs.n_images
    jsd, flip = (BoundedMean(*linearised_ratio(**pairs.ratio(name)), n) for name in ("jsd", "flip"))
    ratio, error = linearised_ratio(**pairs.ratio("change", "power"))
    change, squared = _change(pairs)
    carrying = np.divide(change**2, squared, out=np.zeros_like(change), where=squared > 0)
    values: dict[str, Uncertain] = {
        "jsd": jsd,
        "flip": flip,
        "relative_change": _root(ratio, error, carrying),
    }
    if {"skip", "branch"} <= set(pairs.probe.taps):
        tiny = Normal(*linearised_ratio(**pairs.ratio("branch", "skip")), limits=(0.0, math.inf))
        values["idle"] = Conjunction((RareEvent(tiny, idle_ratio**2), RareEvent(jsd, idle_jsd)))
    return values
