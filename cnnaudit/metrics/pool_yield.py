"""What a pool buys: entropy for each multiply-add that follows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field as Param

from cnnaudit.lazy import torch
from cnnaudit.metrics.base import Field, Gate, metric
from cnnaudit.metrics.pool_entropy_loss import Estimator, _applies, _entropy, _gate
from cnnaudit.site import Op, Site
from cnnaudit.statistics import WindowHistogram

if TYPE_CHECKING:
    from torch import Tensor

_MILLION = 1e6


def _applicable(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    if site.is_global:
        return "a global pool leaves one value of each map: it has no neighbours"
    if not site.macs_after:
        return "no convolution or linear layer follows"
    return _applies(site, "density_ratio", params)


def _enough(counts: WindowHistogram, site: Site, field: str, params: Mapping[str, Any]) -> Gate | None:
    return _gate(counts, site, "density_ratio", params)


_LITTLE = (
    "The pool keeps less of the map's entropy, for what it saves, than the rule asks for.",
    "See pool_alternatives.regret: another operator may keep more at the same cost.",
)
_MUCH = (
    "The pool keeps more of the map's entropy than the rule expects.",
    "Its inputs may be nearly constant within a window: see window_total_correlation.normalised.",
)


def _field(summary: str) -> Field:
    return Field("bits/Mmac", summary, "higher", _LITTLE, _MUCH, debias=True, limits=(0, math.inf))


@metric(
    reads=WindowHistogram,
    at=Op.POOL,
    taps="input",
    fields={
        "per_mmac": _field("entropy of the pooled map for each million multiply-adds behind the pool"),
        "per_mmac_unpooled": _field("the same had the map before been handed on at full size"),
    },
    interval="delete-a-group jackknife over images",
    identity=("levels",),
    cost="medium: a row gather of the sampled windows and a joint histogram",
    applies=_applicable,
    gate=_enough,
    images=lambda need: 50,  # noqa: ARG005
)
def pool_yield(
    counts: WindowHistogram,
    site: Site,
    *,
    levels: Annotated[int, Param(ge=2, le=64)] | None = None,
    windows: Annotated[int, Param(ge=1)] = 64,
    estimator: Estimator = "grassberger",
) -> Mapping[str, Tensor]:
    """Entropy that a pool hands on for the arithmetic behind it, at a stated resolution.

    Definition. D is the entropy per value of neighbouring values, two along each dimension taken together and quantised
    as in pool_entropy_loss; n is the number of values of one kernel's map. ``per_mmac`` is the entropy of the whole map
    in bits an image, units n_out D_out, over the millions of multiply-adds of all layers behind the pool;
    ``per_mmac_unpooled`` is that of the map before the pool, units n_in D_in, over n_in / n_out times as many. The
    ratio of both, D_out / D_in, is pool_entropy_loss.density_ratio, which is also what a stored byte carries after the
    pool over before; what is left of the whole map is pool_entropy_loss.retained.

    Unit and range. Bits per million multiply-adds, >= 0. One value for each kernel, of a map all of whose kernels are
    like this one, so that their mean is the map's.

    Estimator and bias. Grassberger entropies of at most 16 neighbourhoods an image. The jackknife takes off the bias
    that it finds. Neighbours taken together leave out what farther values share, and kernels are added up as if they
    were independent: bits of a map are upper bounds, of which ratios compare like with like.

    Interval. Delete-a-group jackknife over images, from one error below the lower to one above the higher of the values
    with and without the correction of the bias.

    Pitfalls. Entropy at a resolution is not usefulness: noise has much of it. Overlapping windows repeat values, which
    counts each time. Layers that do not run at every position (linear ones behind a global pool, gates) would not grow
    without the pool: ``per_mmac_unpooled`` is too low by their share. Gate as in pool_entropy_loss. A kernel that never
    varies is 0 / 0, undecided.
    """
    outputs, inputs = counts.counts("outputs"), counts.counts("inputs")
    if outputs is None or inputs is None:
        raise ValueError("nothing was folded, or the output has no neighbours")
    together = 2 ** len(site.taps["input"].spatial)
    before, after = (_entropy(cells, estimator) / together for cells in (inputs, outputs))
    # A constant kernel has no entropy with the pool or without: not a yield of 0 but none to speak of.
    share = torch.where(before > 0, site.units * _outputs(site), torch.nan) / (site.macs_after / _MILLION or math.nan)
    return {"per_mmac": share * after, "per_mmac_unpooled": share * before}


def _outputs(site: Site) -> int:
    """Number of positions of the pool's result."""
    if "output" in site.taps:
        return site.taps["output"].positions
    spatial = site.taps["input"].spatial
    padding, dilation = site.padding or (0,) * len(spatial), site.dilation or (1,) * len(spatial)
    sizes = zip(spatial, site.kernel, site.stride, padding, dilation, strict=True)
    return math.prod((size + 2 * p - (k - 1) * d - 1) // s + 1 for size, k, s, p, d in sizes)
