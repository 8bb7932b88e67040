"""How much of a kernel's variation depends on nothing but the position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cnnaudit.lazy import torch
from cnnaudit.metrics.base import Field, metric
from cnnaudit.site import Op, Site
from cnnaudit.statistics import PositionMeans

if TYPE_CHECKING:
    from torch import Tensor


def _applies(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    spatial = site.taps[site.tap("result")].spatial
    if not any(size > 1 for size in spatial):
        return "its map has one position"
    if field == "border" and min(spatial) < 3:
        return "every position of its map is at the border"
    return None


_LITTLE = (
    "Hardly anything of these kernels' variation depends on the position alone: they do not tell where they are.",
    "Where the task needs absolute positions, give them as coordinates, or pad with zeros.",
)
_MUCH = (
    "These kernels vary with the position in the same way in every image.",
    "See whether the images do: objects in the centre, a fixed camera. If not it is the padding's doing (see the field "
    "border): try reflection padding, or sizes that padding and stride divide evenly.",
)


@metric(
    reads=PositionMeans,
    at=(Op.CONV, Op.POOL, Op.RESIDUAL),
    taps="result",
    fields={
        "share": Field("fraction", "variance of the mean map over the whole variance", "", _LITTLE, _MUCH),
        "border": Field("fraction", "that of telling the outermost positions from the others", "", _LITTLE, _MUCH),
    },
    interval="delete-a-group jackknife over images",
    cost="medium: sums of whole maps; 8 bytes for every kernel, position and each of 16 groups",
    applies=_applies,
    images=lambda need: 50,  # noqa: ARG005
)
def positional_bias(means: PositionMeans, site: Site) -> Mapping[str, Tensor]:
    """Share of a kernel's variance that is a fixed function of the position, the same in every image.

    Definition. With A the response of a kernel, i an image and p a position, share = Var_p(E_i A) / Var(A) with
    Var(A) over images and positions together: the eta squared of a one-way analysis of variance by position. ``border``
    is the same for two classes of positions, the outermost ring and all others; it is at most ``share``.

    Unit and range. Fraction in [0, 1], one value for each kernel: 0 where the mean map is flat, 1 where every image
    gives the same map. Shift and scale of a kernel change nothing. Equal variances of a fixed map and of what images
    add to it make 1/2.

    Estimator and bias. Whole maps of all images. Var_p of a mean of n images is too large by their noise over n; so the
    squares in both variances are products of mean maps of different groups of images (of sources), all pairs of 16
    groups. Both are unbiased, their ratio up to O(1 / images), and the estimate of a small share may be below 0.

    Interval. Delete-a-group jackknife over the 16 groups. It is cut at no end, and conservative where the share is 0.
    Simulated at 95 % with maps of correlated positions it holds the truth in 92 to 96 % of cases with 100 and 500
    images of similar contrast. Where a few images of high contrast hold most of the variance (log-normal contrast, sd
    .7 of the log) its low end is too high too often: it holds in 85 to 93 % with 100 images, 89 to 96 % with 500.

    Pitfalls. It tells that a kernel varies with the position, not why. Where images have an arrangement of their own
    (digits in the centre, sky above) so have their maps, and a share is no fault of the network. Zero padding makes
    networks encode absolute positions (arXiv 2001.08248, 2101.12322), and padding that is applied unevenly where
    strides do not divide weakens responses at some positions (arXiv 2010.02178). The ring is one position wide here,
    however many pixels that is; deep in a network padding reaches further in. A kernel that never varies is 0 / 0,
    undecided.
    """
    variance, spread, contrast = means.moments
    varies = torch.where(variance > 0, variance, torch.nan)
    return {"share": spread / varies, "border": contrast / varies}
