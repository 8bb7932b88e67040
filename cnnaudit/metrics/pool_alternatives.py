"""Whether another pooling operator would keep more of the same windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field as Param

from cnnaudit.intervals import Largest
from cnnaudit.metrics.base import Field, Gate, metric, numbers
from cnnaudit.metrics.pool_entropy_loss import Estimator, _applies, _gate, operator_entropies
from cnnaudit.site import Op, Site
from cnnaudit.statistics import WindowHistogram

if TYPE_CHECKING:
    from torch import Tensor

    from cnnaudit.intervals import Uncertain

_LIMITS = (-1.0, 1.0)
_RIVALS = ("max", "avg", "min")  # what regret compares with


def _applicable(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    if field == f"over_{site.operator}":
        return f"{site.operator} is the pool's own operator"
    return _applies(site, "relative", params)


def _enough(counts: WindowHistogram, site: Site, field: str, params: Mapping[str, Any]) -> Gate | None:
    return _gate(counts, site, "relative", params)


_BETTER = (
    "Another operator would keep clearly more of these windows' entropy at this resolution.",
    "over_max, over_avg and over_min tell which; try it where the network can be trained again.",
)
_STRIDED = (
    "Taking the first value would keep clearly more of these windows' entropy at this resolution.",
    "Dense maps are so by construction (see Pitfalls), and a bare stride also aliases: compare over_max, over_avg and "
    "over_min first.",
)
_WORSE = (
    "The pool's operator keeps more of these windows' entropy than the rule expects of it.",
    "Nothing needs to change; pool_entropy_loss at this site says how much is lost all the same.",
)


def _over(name: str, better: tuple[str, str] = _BETTER) -> Field:
    summary = f"relative loss of the pool's operator less that of {name}"
    return Field("fraction", summary, "lower", _WORSE, better, limits=_LIMITS)


@metric(
    reads=WindowHistogram,
    at=Op.POOL,
    taps="input",
    fields={
        "regret": Field(
            "fraction",
            "relative loss of the pool's operator less the least of the others (max, average, min)",
            "lower",
            _WORSE,
            _BETTER,
        ),
        "over_max": _over("max pooling"),
        "over_avg": _over("average pooling"),
        "over_min": _over("min pooling"),
        "over_stride": _over("taking the first value", _STRIDED),
    },
    interval="delete-a-group jackknife of the paired differences; of regret intersection-union and Bonferroni",
    identity=("levels",),
    cost="medium: a row gather of the sampled windows and a joint histogram",
    applies=_applicable,
    gate=_enough,
    images=lambda need: 50,  # noqa: ARG005
)
def pool_alternatives(
    counts: WindowHistogram,
    site: Site,
    *,
    levels: Annotated[int, Param(ge=2, le=64)] | None = None,
    windows: Annotated[int, Param(ge=1)] = 64,
    estimator: Estimator = "grassberger",
) -> Mapping[str, Tensor | Uncertain]:
    """Whether max, average or min pooling would keep more of the windows that a pool reads, and what a stride would.

    Definition. Each operator o acts on the same quantised windows W as in pool_entropy_loss, its result P_o is
    quantised on the same grid, and it loses the share 1 - H(P_o) / H(W). ``over_max``, ``over_avg``, ``over_min`` and
    ``over_stride`` are the relative loss of the pool's own operator less that of the one they name, (H(P_o) - H(P_own))
    / H(W); the one that names its own does not apply. ``regret`` is the largest of those of max, average and min that
    are not its own: above 0 another of these would keep more, below 0 the pool has the one that keeps most, by that
    much. Striding is not among them (see Pitfalls).

    Unit and range. Fractions of a window's entropy in [-1, 1], one value for each kernel. The number of levels belongs
    to the value.

    Estimator and bias. Entropies as in pool_entropy_loss (Grassberger; ``estimator: plugin`` for exact enumerations).
    What the estimate of H(W) misses scales all fields alike and changes no sign. Where two alternatives are close, the
    larger of their estimates is too high on average; the interval of ``regret`` allows for that, its value does not.

    Interval. Delete-a-group jackknife of the differences, so that what operators have in common on an image cancels. Of
    ``regret``, whose best alternative the same images choose: its upper end is the largest of the alternatives' upper
    ends at the full level (intersection-union; Berger 1982), its lower end the largest of their lower ends at the level
    divided by their number (Bonferroni): two, three for a pool that strides. So "not worse than any other by more than
    0.02" is shown by showing it of each, and both ends cover, at a tie too. ``reduce: mean`` takes the means of the
    kernels' ends.

    Pitfalls. Entropy kept at a resolution is not accuracy: a class may need what another operator keeps. No result
    keeps more than log2 ``levels`` bits, and the grid makes the levels of the input equally frequent: where the map is
    dense (continuous, few exact zeros), the first value of each window has all of these bits, so ``over_stride`` is
    never below 0 there, by construction; a bare stride also aliases, which no window shows. On sparse maps max keeps
    most and min least, on dense ones not: of independent values that are on with probability p, max keeps more than
    striding below p = .2755 (windows of 2x2; .1757 of 3x3), where (1 - p)^n = p, and less above, and on dense white
    noise the average keeps more than max and min. On smooth maps all four are nearly equal. A pool has one operator for
    all kernels, while the best may differ from kernel to kernel: look at the fields before changing it. Gate, overlap
    and padding as in pool_entropy_loss. A kernel that never varies is 0 / 0, undecided.
    """
    whole, kept = operator_entropies(counts, estimator)
    over = {name: (bits - kept[site.operator]) / whole for name, bits in kept.items()}
    others = [numbers(over[name]) for name in _RIVALS if name != site.operator]
    return {"regret": Largest.among(others, _LIMITS)} | {f"over_{name}": over[name] for name in over}
