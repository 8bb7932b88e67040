"""How much of a window's entropy a pool throws away at a stated resolution."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field as Param

from cnnaudit.information import entropy
from cnnaudit.lazy import np, torch
from cnnaudit.metrics.base import Field, Gate, metric
from cnnaudit.site import Op, Site
from cnnaudit.statistics import WindowHistogram, Windows
from cnnaudit.statistics.window_histogram import CELLS, MOST_CELLS, cell_levels, default_levels, pooled_level

if TYPE_CHECKING:
    from torch import Tensor

    from cnnaudit.statistics.window_histogram import Stratum

Estimator = Literal["grassberger", "chao_shen", "miller_madow", "plugin"]
_OPERATORS = ("max", "avg", "min", "stride")


_NEIGHBOURS = ("density_ratio", "retained", "rate")  # the fields that are of neighbouring values


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    if site.steers:
        return "its result only steers a gate (squeeze-excite) and is meant to be a summary"
    if not site.taps["input"].spatial:
        return "a vector has no windows"
    strata = Windows.strata(site)
    if strata[0].total == 0:
        return "every window touches padding"
    entries = max(windows.entries for windows in strata)
    if 2**entries > CELLS:
        return f"a joint histogram of {entries} values does not fit {CELLS} cells"
    levels = params.get("levels") or default_levels(site)
    if levels**entries > MOST_CELLS:
        return f"{levels} levels of {entries} values do not fit {MOST_CELLS} cells; use {default_levels(site)}"
    return _no_neighbours(strata[0], levels) if field in _NEIGHBOURS else None


def _no_neighbours(windows: Windows, levels: int) -> str | None:
    if not windows.blocks:
        return "the output has no neighbours to take together"
    neighbours = 2 ** len(windows.spatial)
    if levels**neighbours > MOST_CELLS:
        return f"{levels} levels of {neighbours} neighbours do not fit {MOST_CELLS} cells"
    return None


def _gate(counts: WindowHistogram, site: Site, field: str, params: Mapping[str, Any]) -> Gate | None:
    if params.get("estimator") == "plugin":
        return None
    if field in _NEIGHBOURS:
        short = [_shortage(cells) for name in ("outputs", "inputs") if (cells := counts.counts(name)) is not None]
    else:
        # The bias that few windows leave is the mean of the strata's, as the loss is.
        strata = [stratum.share * _shortage(stratum.counts) for stratum in counts.strata]
        short = [torch.stack(strata).sum(0)] if strata else []
    if not short:
        return None
    most = torch.stack(short).amax(0)
    needed = torch.where(most > 1, (most * counts.n_sources).ceil(), 0.0)
    coarser = f"count more coarsely: params: {{levels: {counts.levels // 2}}}" if counts.levels > 3 else ""
    return Gate(np.asarray(needed.cpu(), dtype=np.int64), "too few windows for the cells that occur", coarser)


def _shortage(cells: Tensor) -> Tensor:
    """How many times more windows are needed: 5 for each occupied cell, and 10 for each that is alone in its cell."""
    wanted = torch.maximum(5 * (cells > 0).sum(1), 10 * (cells == 1).sum(1))
    return wanted.double() / cells.sum(1).clamp(min=1)


_MUCH = (
    "The pool throws away more of its windows' entropy than the rule allows, at this resolution.",
    "Where another operator would lose clearly less (relative_max, _avg, _min), try it; on dense maps a stride does so "
    "by construction.",
)
_LITTLE = (
    "The pool loses less than the rule expects: its windows are nearly constant.",
    "See activity.apoz before this site: the maps may carry little.",
)
_SPARSER = (
    "The pool makes the map sparser: an output value carries less entropy than an input value did.",
    "On dense maps max and min pools do, on sparse ones a min pool: try the operator that loses least (relative_max, "
    "_avg, _min).",
)
_DENSER = ("The pool makes the map denser than the rule allows.", "Compare with the other operators at this site.")


@metric(
    reads=WindowHistogram,
    at=Op.POOL,
    taps="input",
    fields={
        "relative": Field("fraction", "share of the window's entropy that is lost", "lower", _LITTLE, _MUCH),
        "bits": Field("bits/window", "entropy that is lost", "lower", _LITTLE, _MUCH),
        "density_ratio": Field("ratio", "entropy per value after the pool over before", "higher", _SPARSER, _DENSER),
        "retained": Field(
            "ratio", "entropy of the whole output over that of the whole input", "higher", _MUCH, _LITTLE
        ),
        "rate": Field("bits/value", "entropy that is lost for each input value", "lower", _LITTLE, _MUCH),
        "relative_max": Field("fraction", "relative loss had it been max pooling", "lower", _LITTLE, _MUCH),
        "relative_avg": Field("fraction", "relative loss had it been average pooling", "lower", _LITTLE, _MUCH),
        "relative_min": Field("fraction", "relative loss had it been min pooling", "lower", _LITTLE, _MUCH),
        "relative_stride": Field("fraction", "relative loss had it taken the first value", "lower", _LITTLE, _MUCH),
    },
    interval="delete-a-group jackknife over images",
    recommended=True,
    identity=("levels",),
    cost="medium: a row gather of the sampled windows and a joint histogram",
    version=3,
    applies=_applies,
    gate=_gate,
    images=lambda need: 50,  # noqa: ARG005
)
def pool_entropy_loss(
    counts: WindowHistogram,
    site: Site,
    *,
    levels: Annotated[int, Param(ge=2, le=64)] | None = None,
    windows: Annotated[int, Param(ge=1)] = 64,
    estimator: Estimator = "grassberger",
) -> Mapping[str, Tensor]:
    """Entropy that a pooling operator loses in one window of one kernel, at a stated resolution.

    Definition. The window W is quantised to ``levels`` levels (equiprobable on the calibration images, exact
    zero a level of its own); the operator acts on the quantised values and its result P is quantised on the
    same grid. P is then a function of W, and the loss is H(W | P) = H(W) - H(P) exactly (arXiv 1203.6791).
    ``bits`` is that loss, ``relative`` is it over H(W). ``relative_max``, ``_avg``, ``_min``, ``_stride`` are
    the relative losses that these operators would have on the same windows.

    Where windows differ in shape (``ceil_mode`` cuts off the last ones, an adaptive pool's size does not divide the
    map's), each shape s has a distribution of its own, on the same grid, and a share q_s of the windows: ``bits`` is
    sum q_s (H_s(W) - H_s(P)), ``relative`` is it over sum q_s H_s(W).

    ``density_ratio``, ``retained`` and ``rate`` compare neighbours: h_out is the entropy per value of 2x2 neighbouring
    outputs (two along each dimension) of windows of the most frequent shape, h_in that of 2x2 neighbouring inputs.
    ``density_ratio`` is h_out / h_in: above 1 the pool made the map denser. It is entropy per value, so also per stored
    byte where both maps have one data type. With S input values for each output
    (product of the strides) ``rate`` is h_in - h_out / S, and ``retained`` is h_out / (S h_in). They are of the map,
    not of a window: ``rate`` times the number of input values is the loss of a whole map, away from its border.

    Unit and range. ``relative`` in [0, 1]; bits per window in [0, H(W)]; ``density_ratio`` and ``retained`` >= 0;
    ``rate`` in bits per input value. One value for each kernel. The number of levels belongs to the value: other levels
    give other numbers, and a 3x3 window (2 levels) is not comparable with a 2x2 window (8 levels).

    Estimator and bias. Grassberger; the plug-in would understate H(W) and so the loss. Chao-Shen takes what was not
    met from every cell alike, also from the one of zeros that most windows of a sparse map fall into, and overstates
    the relative loss there.
    ``estimator: plugin`` is for exact enumerations. The mean over kernels bounds the joint loss per kernel from above.

    Interval. Delete-a-group jackknife over images: the windows of one image are not independent.

    Pitfalls. Gate: at least 5 windows for each occupied cell, fewer than 10 % of windows alone in their cell. Windows
    that touch padding are left out. Overlapping windows are each counted whole, and an input in several of them several
    times, so ``bits`` do not add up over a map; use ``rate`` there. Of a 2x2 pool of stride 2, 4 ``rate`` is ``bits``
    where neighbouring windows are independent, and more where their results depend on each other; of larger windows
    that do not overlap, S ``rate`` is ``bits`` where all values are independent. Entropy per value of 2x2 neighbours is
    above the entropy rate of the map, the more the further dependence reaches. Outputs of overlapping windows depend on
    each other beyond 2x2 even where the inputs do not, which lowers ``rate``, to below 0 perhaps, and raises
    ``retained``, to above 1 perhaps, though no pool creates information. No result keeps more than log2 ``levels``
    bits, and a stride's keeps them all where the map is dense, because the grid makes its levels equally frequent:
    ``relative_stride`` is the lowest there by construction. A kernel that never varies has no entropy to lose: 0 / 0,
    undecided.
    """
    whole, kept = operator_entropies(counts, estimator)
    lost = {name: _difference(whole, h) for name, h in kept.items()}
    found = {"relative": lost[site.operator] / whole, "bits": lost[site.operator]}
    found |= _of_neighbours(counts, whole, estimator)
    return found | {f"relative_{name}": loss / whole for name, loss in lost.items()}


def operator_entropies(counts: WindowHistogram, estimator: Estimator) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the entropy of a window, and of what each operator makes of it: the mean over windows of all shapes.

    Returns:
        Bits of shape (kernels,): of the window, and for each of ``max``, ``avg``, ``min`` and ``stride``.

    Raises:
        ValueError: nothing was counted.
    """
    strata = counts.strata
    if not strata:
        raise ValueError("nothing was folded")
    shares = torch.tensor([stratum.share for stratum in strata], dtype=torch.float64, device=strata[0].counts.device)
    found = [_stratum_entropies(counts, stratum, estimator) for stratum in strata]

    def mean(entropies: list[Tensor]) -> Tensor:
        return (shares[:, None] * torch.stack(entropies)).sum(0)

    whole = mean([window for window, _ in found])
    return whole, {name: mean([kept[name] for _, kept in found]) for name in _OPERATORS}


def _stratum_entropies(
    counts: WindowHistogram, stratum: Stratum, estimator: Estimator
) -> tuple[Tensor, dict[str, Tensor]]:
    joint, edge, centre = stratum.counts, counts.calibration["edges"], counts.calibration["centres"]
    cells = cell_levels(counts.levels, stratum.entries, joint.device)[None]
    # Only the average depends on the kernel: on what its levels stand for.
    own = {"avg": cells.expand(len(joint), -1, -1)}
    results = {name: pooled_level(own.get(name, cells), name, edge, centre) for name in _OPERATORS}
    kept = {name: _entropy(_regrouped(joint, result, counts.levels), estimator) for name, result in results.items()}
    return _entropy(joint, estimator), kept


def _entropy(counts: Tensor, estimator: Estimator) -> Tensor:
    """Entropy in bits, exactly 0 where all is in one cell: corrections do not know that."""
    return torch.where((counts > 0).sum(1) > 1, entropy(counts, estimator).clamp(min=0), 0.0)


def _regrouped(joint: Tensor, result: Tensor, levels: int) -> Tensor:
    """Counts of the result from the counts of the cells."""
    counts = torch.zeros(len(joint), levels, dtype=torch.float64, device=joint.device)
    return counts.scatter_add(1, result.expand(len(joint), -1), joint.double())


def _difference(whole: Tensor, kept: Tensor) -> Tensor:
    """Bits lost; a difference of the size of rounding is none, or an exact 0 would come with an error."""
    lost = whole - kept
    return torch.where(lost > 1e-12 * (1 + whole), lost, torch.zeros_like(lost))


def _of_neighbours(counts: WindowHistogram, like: Tensor, estimator: Estimator) -> dict[str, Tensor]:
    outputs, inputs = counts.counts("outputs"), counts.counts("inputs")
    if outputs is None or inputs is None:
        return dict.fromkeys(_NEIGHBOURS, torch.full_like(like, torch.nan))
    windows = Windows.of(counts.probe.site)
    spacing = math.prod(windows.spacing)
    before, after = _entropy(inputs, estimator), _entropy(outputs, estimator)
    ratio = after / before
    rate = (before - after / spacing) / 2 ** len(windows.spatial)
    return {"density_ratio": ratio, "retained": ratio / spacing, "rate": rate}
