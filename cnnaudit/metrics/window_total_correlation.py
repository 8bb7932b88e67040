"""How much the values of a pool's window depend on each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field as Param

from cnnaudit.lazy import np, torch
from cnnaudit.metrics.base import Field, Gate, metric
from cnnaudit.metrics.pool_entropy_loss import Estimator, _applies, _entropy, _regrouped, _shortage
from cnnaudit.site import Op, Site
from cnnaudit.statistics import WindowMoments, Windows
from cnnaudit.statistics.window_histogram import cell_levels

if TYPE_CHECKING:
    from torch import Tensor

_HISTOGRAM = ("bits", "normalised", "pairwise")
_ROUNDING = 1e-12
_WINDOWS = 2  # as many windows as pool_entropy_loss wants: a small value is the difference of large entropies


def _applicable(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    reason = _applies(site, "relative", params)
    if reason is None and max(windows.entries for windows in Windows.strata(site)) == 1:
        return "a window of one value has nothing to depend on"
    return reason


def _enough(counts: WindowMoments, site: Site, field: str, params: Mapping[str, Any]) -> Gate | None:
    if field not in _HISTOGRAM or params.get("estimator") == "plugin":
        return None
    short = _WINDOWS * torch.stack([stratum.share * _shortage(stratum.counts) for stratum in counts.strata]).sum(0)
    needed = torch.where(short > 1, (short * counts.n_sources).ceil(), 0.0)
    coarser = f"count more coarsely: params: {{levels: {counts.levels // 2}}}" if counts.levels > 3 else ""
    return Gate(np.asarray(needed.cpu(), dtype=np.int64), "too few windows for the cells that occur", coarser)


_INDEPENDENT = (
    "The values of a window tell little of each other: whatever operator pools them throws most of them away.",
    "Compare pool_entropy_loss at this site.",
)
_REDUNDANT = (
    "The values of a window tell nearly all of each other: the map is finer than what it holds.",
    "Downsampling earlier may lose little; see pool_entropy_loss.",
)


def _field(unit: str, summary: str, **facts: Any) -> Field:
    return Field(unit, summary, "", _INDEPENDENT, _REDUNDANT, **facts)


@metric(
    reads=WindowMoments,
    at=Op.POOL,
    taps="input",
    fields={
        "bits": _field("bits/window", "total correlation of the window's quantised values", debias=True),
        "normalised": _field("fraction", "the same over the most it can be", debias=True),
        "pairwise": _field("bits/window", "the part of it that the best tree of pairs holds", debias=True),
        "neighbour_correlation": _field("correlation", "of values next to each other in a window", limits=(-1, 1)),
        "gaussian": _field("bits/window", "total correlation of normal values correlated like these", debias=True),
    },
    interval="delete-a-group jackknife over images",
    identity=("levels",),
    cost="medium: a row gather of the sampled windows, a joint histogram and products of entries",
    applies=_applicable,
    gate=_enough,
    images=lambda need: 50,  # noqa: ARG005
)
def window_total_correlation(
    counts: WindowMoments,
    site: Site,
    *,
    levels: Annotated[int, Param(ge=2, le=64)] | None = None,
    windows: Annotated[int, Param(ge=1)] = 64,
    estimator: Estimator = "grassberger",
) -> Mapping[str, Tensor]:
    """How much the values in a window of one kernel's map tell of each other, before a pool makes one of them.

    Definition. With w_1 ... w_k the values of a window, quantised as in pool_entropy_loss, ``bits`` is the total
    correlation sum H(w_j) - H(w_1, ..., w_k) (Watanabe, IBM Journal of Research and Development 4 (1960)): 0 where they
    are independent, (k - 1) H(w) where they are equal. ``normalised`` is it over sum H(w_j) - max H(w_j).
    ``pairwise`` is the largest sum of mutual information over the edges of a tree on the entries (Chow & Liu, IEEE
    Transactions on Information Theory 14 (1968)), the part of ``bits`` that pairs explain: never more than it.
    The other two read the values as they are. ``neighbour_correlation`` is Pearson's correlation of two values one step
    apart, over images and windows, averaged over such pairs of the window. ``gaussian`` is -log2(det R) / 2 of the
    correlation matrix R of the window: the total correlation if they were normal. Where windows differ in shape,
    sums are weighted by the share of the windows that have it.

    Unit and range. Bits per window, >= 0; ``normalised`` in [0, 1]; correlation in [-1, 1]. One value for each kernel.
    The number of levels belongs to the first three. Four normal values with all correlations .5, .9, .95 have
    ``gaussian`` .839, 4.039, 5.511.

    Estimator and bias. Grassberger entropies, less the bias that the delete-a-group jackknife finds: H of the window
    comes out too low and so its total correlation too high, most where many cells are rare. The choice of the tree by
    the same images makes ``pairwise`` too high by less than its error. Where the truth is near 0 an estimate may be
    below it. ``estimator: plugin`` is for exact enumerations, and corrects the count of no cell.

    Interval. Delete-a-group jackknife over images, from one error below the lower to one above the higher of the plain
    and the corrected value; without correction for ``neighbour_correlation``. With fewer windows than the gate asks for
    it covers too seldom: ``normalised`` .87 of the time for 100 images of sparse maps at 8 levels.

    Pitfalls. Total correlation says how much of a window is repeated, not how much a pool loses: max pooling of equal
    values loses nothing, but independent sparse ones lose little, too. What varies between images (brightness, whether
    a feature is there) counts as dependence of the values of a window. Quantised, it is below that of the values
    themselves, which is infinite where one is a function of another. Gate: 10 windows for each occupied cell, fewer
    than 5 % of windows alone in theirs. ``gaussian`` is undecided where an entry is a linear function of the others,
    all but ``bits`` and ``pairwise`` where a kernel never varies. Windows that touch padding are left out.
    """
    parts = [_dependence(stratum.counts, counts.levels, stratum.entries, estimator) for stratum in counts.strata]
    shares = [stratum.share for stratum in counts.strata]
    bits, most, pairwise = (_mixed(shares, [part[i] for part in parts]) for i in range(3))
    found = {"bits": bits, "normalised": torch.where(most > _ROUNDING, bits / most, torch.nan), "pairwise": pairwise}
    shapes = [part.kernel for part in Windows.strata(site)]
    moments = list(zip(counts.covariances, shapes, shares, strict=True))
    several = [(covariance, kernel, share) for covariance, kernel, share in moments if max(kernel) > 1]
    weight = sum(share for *_, share in several)
    neighbours = [_neighbours(covariance, kernel) for covariance, kernel, _ in several]
    return found | {
        "neighbour_correlation": _mixed([share / weight for *_, share in several], neighbours),
        "gaussian": _mixed(shares, [_gaussian(covariance) for covariance, *_ in moments]),
    }


def _mixed(shares: list[float], values: list[Tensor]) -> Tensor:
    """Mean over the windows of all shapes."""
    return torch.stack([share * value for share, value in zip(shares, values, strict=True)]).sum(0)


class _Dependence(NamedTuple):
    """Total correlation of a window, the most it could be, and what a tree of pairs holds, bits of shape (kernels,)."""

    bits: Tensor
    most: Tensor
    pairwise: Tensor


def _dependence(joint: Tensor, levels: int, entries: int, estimator: Estimator) -> _Dependence:
    cells = cell_levels(levels, entries, joint.device)
    single = torch.stack([_entropy(_regrouped(joint, level[None], levels), estimator) for level in cells.T])
    whole = _entropy(joint, estimator)
    shared = joint.new_full((len(joint), entries, entries), -math.inf, dtype=torch.float64)
    for i, j in itertools.combinations(range(entries), 2):
        pair = _entropy(_regrouped(joint, (cells[:, i] + levels * cells[:, j])[None], levels**2), estimator)
        shared[:, i, j] = shared[:, j, i] = single[i] + single[j] - pair
    return _Dependence(single.sum(0) - whole, single.sum(0) - single.amax(0), _tree(shared))


def _tree(weights: Tensor) -> Tensor:
    """Total weight of the maximum spanning tree of each graph, by Prim's algorithm.

    Args:
        weights: Symmetric, shape (graphs, nodes, nodes).
    """
    graphs, nodes = weights.shape[:2]
    graph = torch.arange(graphs, device=weights.device)
    outside = torch.ones(graphs, nodes, dtype=torch.bool, device=weights.device)
    outside[:, 0] = False
    nearest, total = weights[:, 0], torch.zeros_like(weights[:, 0, 0])
    for _ in range(nodes - 1):
        weight, node = torch.where(outside, nearest, -torch.inf).max(1)
        total = total + weight
        outside[graph, node] = False
        nearest = torch.maximum(nearest, weights[graph, node])
    return total


def _correlations(covariance: Tensor) -> Tensor:
    """Correlation matrices, NaN where an entry never varies."""
    deviation = covariance.diagonal(dim1=1, dim2=2).sqrt()
    return covariance / (deviation[:, :, None] * deviation[:, None, :])


def _neighbours(covariance: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """Mean correlation over the pairs of entries that are one step apart and vary."""
    at = np.arange(math.prod(kernel)).reshape(kernel)
    steps = [np.moveaxis(at, dimension, 0) for dimension in range(len(kernel))]
    near = [entry for along in steps for entry in along[:-1].ravel().tolist()]
    far = [entry for along in steps for entry in along[1:].ravel().tolist()]
    return _correlations(covariance)[:, near, far].nanmean(1)


def _gaussian(covariance: Tensor) -> Tensor:
    """-log2 det R / 2 over the entries that vary; NaN where none does, or one is given by the others."""
    varies = covariance.diagonal(dim1=1, dim2=2) > 0
    own = torch.eye(covariance.shape[1], dtype=torch.float64, device=covariance.device)
    known = torch.where(varies[:, :, None] & varies[:, None, :], _correlations(covariance), own)
    eigenvalues = torch.linalg.eigvalsh(known)
    regular = varies.any(1) & (eigenvalues > _ROUNDING).all(1)
    return torch.where(regular, -eigenvalues.clamp(min=_ROUNDING).log2().sum(1) / 2, torch.nan)
