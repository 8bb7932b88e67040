"""What a residual branch contributes to the sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field as Param

from cnnaudit.lazy import torch
from cnnaudit.metrics.base import Field, metric
from cnnaudit.site import Op, Site
from cnnaudit.statistics import PairMoments

if TYPE_CHECKING:
    from torch import Tensor


_SILENT = (
    "The sum varies almost only with its skip: the branch adds little or nothing.",
    "Look at the branch's last norm and convolution: a zero scale silences it (an initial zero that never trained, "
    "pruning, a wrong checkpoint). If it is silent on purpose, remove the block.",
)
_ALONE = (
    "The sum varies almost only with its branch: the skip carries little.",
    "Look at what feeds the skip; a projection that shrank makes the block an ordinary one.",
)


@metric(
    reads=PairMoments,
    at=Op.RESIDUAL,
    taps=("skip", "branch"),
    fields={
        "share": Field("fraction", "the branch's share of the sum's variance", "", _SILENT, _ALONE),
        "skip_share": Field("fraction", "the skip's share; the two add up to 1", "", _ALONE, _SILENT),
        "standardised": Field("fraction", "the branch's share, channels weighing the same", "", _SILENT, _ALONE),
        "ratio": Field("ratio", "root mean square of the branch over that of the skip", "", _SILENT, _ALONE),
        "correlation": Field("correlation", "of branch and skip, over all channels"),
    },
    interval="delete-a-group jackknife over images",
    recommended=True,
    cost="light: a row gather of the sampled positions",
    images=lambda need: 50,  # noqa: ARG005
)
def branch_variance_share(
    moments: PairMoments,
    site: Site,
    *,
    positions: Annotated[int, Param(ge=1)] = 64,
) -> Mapping[str, Tensor]:
    """Share of a residual sum's variance that comes from its branch.

    Definition. With skip s and branch f exactly as they are added, y = s + f, and covariances centred for each
    channel over images and positions and summed over channels: share = Cov(f, y) / Var(y), skip_share =
    Cov(s, y) / Var(y). They add up to 1 and are the Shapley values of the variance. ``standardised`` is the
    mean over channels of each channel's own share, which rescaling a channel does not change. ``ratio`` is
    sqrt(E|f|^2 / E|s|^2), uncentred; ``correlation`` is Cov(s, f) / sqrt(Var(s) Var(f)).

    Unit and range. Fractions without bounds: a branch that opposes its skip has a negative share (f = -s/2
    gives -1 and 2). One value for the site.

    Estimator and bias. Moments of ``positions`` sampled positions a map, all of them in small maps; the ratio's
    bias is O(1 / images).

    Interval. Delete-a-group jackknife over images.

    Pitfalls. It says how much of the sum's variation the branch makes, not how much it matters: Shannon
    information of a branch that is a function of its skip is zero by theory, and low shares are normal deep in
    a network. Blocks with a projection have larger shares. Where the sum never varies it is 0 / 0, undecided.
    """
    part = {name: moments.tally[name][0] for name in ("rows", "mean_s", "mean_f", "ss", "ff", "sf")}
    ss, ff, sf = part["ss"].sum(), part["ff"].sum(), part["sf"].sum()
    power_s = ss + part["rows"] * (part["mean_s"] ** 2).sum()
    power_f = ff + part["rows"] * (part["mean_f"] ** 2).sum()
    # Rounding leaves a trace of variance in constants: a ten-billionth of their size is none.
    total = torch.where(ss + ff + 2 * sf > 1e-20 * (power_s + power_f), ss + ff + 2 * sf, 0.0)
    share = torch.where(total > 0, (ff + sf) / total, torch.nan)
    skip_share = torch.where(total > 0, (ss + sf) / total, torch.nan)
    channel = (part["ff"] + part["sf"]) / (part["ss"] + part["ff"] + 2 * part["sf"])
    return {
        "share": share.reshape(1),
        "skip_share": skip_share.reshape(1),
        "standardised": torch.nanmean(channel)[None],
        "ratio": torch.sqrt(power_f / power_s).reshape(1),
        "correlation": (sf / torch.sqrt(ss * ff))[None],
    }
