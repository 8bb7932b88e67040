"""Kernels whose responses other kernels of the layer already tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field as Param

from cnnaudit.intervals import FISHER, UNEXPLAINED, Transformed
from cnnaudit.lazy import torch
from cnnaudit.metrics.base import Field, Need, metric, numbers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import Covariance

if TYPE_CHECKING:
    from torch import Tensor

_FEWEST = 100
_IMAGES = 10
_RIDGE = 1e-6
_SAME = (
    "Kernels that respond as another kernel of their layer does, but for scale and sign.",
    "One of each pair could be pruned, its outgoing weights added to the other's. Many pairs say that the layer is "
    "wider than it needs to be, or that its filters never grew apart: see how they were initialised.",
)
_TOLD = (
    "Kernels whose response the other kernels of their layer nearly determine, linearly.",
    "They could be pruned, their outgoing weights spread over the others. See participation_ratio there.",
)
_APART = ("Kernels that resemble no other as much as the rule demands.", "Lower the bound, or judge `max:` instead.")


def _images(need: Need) -> int:
    return _FEWEST if need.field == "activation" else max(_FEWEST, _IMAGES * need.site.units)


@metric(
    reads=Covariance,
    at=Op.CONV,
    taps="response",
    fields={
        "activation": Field("correlation", "magnitude with the kernel that is most alike", "lower", _APART, _SAME),
        "redundancy": Field("fraction", "of variance that all other kernels explain", "lower", _APART, _TOLD),
    },
    interval="delete-a-group jackknife over images of atanh r and ln(1 - R^2); lower end of r: Bonferroni",
    cost="medium: products of all pairs of channels at the sampled positions, shared",
    images=_images,
)
def duplicate_kernels(
    covariance: Covariance, site: Site, *, positions: Annotated[int, Param(ge=1)] = 16
) -> Mapping[str, Transformed]:
    """How nearly another kernel of the layer responds alike, one value for each kernel.

    Definition. With A the kernels' responses (after norm and activation) over images and positions: ``activation`` is
    the largest |corr(A_j, A_k)| over the other kernels j; 1 where one is the other times a constant, plus a constant.
    ``redundancy`` is R^2, the share of the kernel's variance that a linear regression on all other kernels of the layer
    explains: 1 - 1 / ((C^-1)_kk C_kk) with C the correlations plus a ridge of 1e-6 on the diagonal, so that the scale
    of kernels does not matter. A kernel that never varies duplicates nothing: 0 here, and activity.dead tells it.

    Unit and range. Both in [0, 1]; the ridge keeps ``redundancy`` of an exact copy about 2e-6 below 1. There is no
    agreed bound. .95 and .99 for ``activation`` are conventions of this project, not of the literature.

    Estimator and bias. Moments of ``positions`` sampled positions a map, all in small maps. The largest of many
    correlations is too large by chance: about sqrt(2 ln K^2 / n) between K kernels of independent noise, n being
    between the number of images and that of positions, the fewer the more positions resemble each other; .44 for 128
    kernels and 100. Near 1 that matters little. R^2 on K - 1 kernels is too large by about K / n; the jackknife's
    estimate of that is taken off.

    Interval. Delete-a-group jackknife over images, 16 groups, of atanh r and of -ln(1 - R^2) / 2, where errors hardly
    depend on the value and no interval reaches beyond 1. The lower end of ``activation`` is that of
    Bonferroni over the K - 1 candidates and both signs, because the kernel that is most alike was chosen on the same
    images. Where memory does not reach for all kernels, a better match may have been left out, and the upper end is 1.
    In simulations of 200 to 1,280 images of 49 correlated positions, 32 and 128 kernels, nominal 95 % intervals of
    ``activation`` covered the truth for 97 to 99 % of kernels, and those of ``redundancy``, from the gate on, for 96 to
    98 %.

    Pitfalls. Gate: 100 images (sources), for ``redundancy`` also 10 a kernel. After ReLU two kernels that seldom fire
    may be alike by firing together once: see how many images carry them. Kernels alike in their weights but for the
    norm's scale: see duplicate_filters. Pruning one of a pair leaves the other, so of a pair both are reported.
    """
    matrix = covariance.matrix
    scale = matrix.diagonal().sqrt()
    alive = scale > 0
    correlation = torch.where(alive[:, None] & alive, matrix / torch.outer(scale, scale), 0.0)
    few = covariance.probe.kernels is not None
    candidates = max(1, 2 * (len(scale) - 1))
    others = correlation.abs().fill_diagonal_(0.0).amax(1).clamp(max=1)
    return {
        "activation": Transformed(numbers(others), FISHER, choices=candidates, open_above=few),
        "redundancy": Transformed(numbers(_explained(correlation, alive)), UNEXPLAINED, debias=True, open_above=few),
    }


def _explained(correlation: Tensor, alive: Tensor) -> Tensor:
    """R^2 of every kernel on all others; 0 for those that do not vary."""
    ridged = correlation.clone().fill_diagonal_(1 + _RIDGE)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(ridged)).diagonal()
    return torch.where(alive, 1 - 1 / (inverse * (1 + _RIDGE)), 0.0).clamp(0, 1)
