"""What a pool buys: entropy for each byte that is stored and each multiply-add that follows."""

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
    if field.startswith("per_mmac") and not site.macs_after:
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


def _field(unit: str, summary: str, **facts: Any) -> Field:
    return Field(unit, summary, "higher", _LITTLE, _MUCH, limits=(0, math.inf), **facts)


@metric(
    reads=WindowHistogram,
    at=Op.POOL,
    taps="input",
    fields={
        "kept": _field("fraction", "quantised entropy of the map after the pool over before"),
        "per_byte": _field("ratio", "entropy per stored byte after the pool over before"),
        "per_mmac": _field(
            "bits/Mmac", "entropy of the pooled map for each million multiply-adds behind the pool", debias=True
        ),
        "per_mmac_unpooled": _field(
            "bits/Mmac", "the same had the map before been handed on at full size", debias=True
        ),
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
    """Entropy that a pool keeps for the memory and the arithmetic that it saves, at a stated resolution.

    Definition. D is the entropy per value of neighbouring values, two along each dimension taken together and
    quantised as in pool_entropy_loss; n is the number of values of one kernel's map. ``kept`` is
    n_out D_out / (n_in D_in). ``per_byte`` is D_out / D_in: both maps have one data type, so bytes cancel. Where all
    layers behind the pool are convolutions, whose multiply-adds grow with the positions, that is also the ratio of the
    entropies for each multiply-add with the pool and without. ``per_mmac`` is the entropy of the whole map in bits an
    image, units n_out D_out, over the millions of multiply-adds of all layers behind the pool; ``per_mmac_unpooled``
    is that of the map before the pool, units n_in D_in, over n_in / n_out times as many.

    Unit and range. ``kept`` >= 0: a 2x2 pool that leaves the values as dense as they were keeps 1 / 4.
    ``per_byte`` >= 0, above 1 where the pool made the map denser; it is pool_entropy_loss.density_ratio. Bits per
    million multiply-adds >= 0. One value for each kernel; those of ``per_mmac`` are of a map all of whose kernels are
    like this one, so that their mean is the map's.

    Estimator and bias. Grassberger entropies of at most 16 neighbourhoods an image. Neighbours taken together leave out
    what farther values share, and kernels are added up as if they were independent: bits of a map are upper bounds, of
    which ratios compare like with like.

    Interval. Delete-a-group jackknife over images; of ``per_mmac`` and ``per_mmac_unpooled``, whose bias no ratio
    cancels, less the bias that it finds, from one error below the lower to one above the higher of both values.

    Pitfalls. Entropy at a resolution is not usefulness: noise has much of it. Overlapping windows repeat values, so
    ``kept`` may exceed 1. Layers that do not run at every position (linear ones behind a global pool, gates) would not
    grow without the pool: ``per_mmac_unpooled`` is too low by their share. Gate as in pool_entropy_loss. A kernel that
    never varies is 0 / 0, undecided.
    """
    outputs, inputs = counts.counts("outputs"), counts.counts("inputs")
    if outputs is None or inputs is None:
        raise ValueError("nothing was folded, or the output has no neighbours")
    together = 2 ** len(site.taps["input"].spatial)
    before, after = (_entropy(cells, estimator) / together for cells in (inputs, outputs))
    n_in, n_out = site.taps["input"].positions, _outputs(site)
    found = {"kept": n_out * after / (n_in * before), "per_byte": after / before}
    # A constant kernel has no entropy with the pool or without: not a yield of 0 but none to speak of.
    share = torch.where(before > 0, site.units * n_out, torch.nan) / (site.macs_after / _MILLION or math.nan)
    return found | {"per_mmac": share * after, "per_mmac_unpooled": share * before}


def _outputs(site: Site) -> int:
    """Number of positions of the pool's result."""
    if "output" in site.taps:
        return site.taps["output"].positions
    spatial = site.taps["input"].spatial
    padding, dilation = site.padding or (0,) * len(spatial), site.dilation or (1,) * len(spatial)
    sizes = zip(spatial, site.kernel, site.stride, padding, dilation, strict=True)
    return math.prod((size + 2 * p - (k - 1) * d - 1) // s + 1 for size, k, s, p, d in sizes)
