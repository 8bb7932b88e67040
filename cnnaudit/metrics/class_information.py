"""What a kernel's response says about the class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field as Param
from scipy import special

from cnnaudit.information import entropy, expected_mutual_information, mutual_information
from cnnaudit.intervals import Normal, Shifted, Uncertain
from cnnaudit.lazy import torch
from cnnaudit.metrics.base import Field, Need, metric, numbers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import ClassHistogram

if TYPE_CHECKING:
    from torch import Tensor


def _images(need: Need) -> int:
    return 5 * int(need.params["bins"]) * need.classes


_CELLS = 2**22

_LITTLE = (
    "Kernels that respond alike to all classes: by themselves they say next to nothing about the label.",
    "See activity.dead there first; else they are redundant, or matter only together with others: exempt a few of "
    "them with `share:`, or start the rule deeper in the network with `at:`.",
)
_MUCH = (
    "Kernels that say more about the label than the rule allows.",
    "Look for a shortcut: a mark, border or scanner in the images that gives the class away.",
)


@metric(
    reads=ClassHistogram,
    at=Op.CONV,
    taps="response",
    fields={
        "information": Field("bits", "mutual information of response and class", "higher", _LITTLE, _MUCH),
        "chance_adjusted": Field("bits", "the same less what chance alone would give", "higher", _LITTLE, _MUCH),
        "uncertainty_coefficient": Field("fraction", "information over the classes' entropy", "higher", _LITTLE, _MUCH),
        "normalised": Field(
            "fraction", "information over the most that bins and classes allow", "higher", _LITTLE, _MUCH
        ),
    },
    interval="influence function over images; lower end less expected information, upper end Miller-Madow",
    cost="one whole-map mean, shared",
    labels=True,
    images=_images,
)
def class_information(
    histogram: ClassHistogram,
    site: Site,
    *,
    bins: Annotated[int, Param(ge=2, le=256)] = 8,
    estimator: Literal["corrected", "plugin"] = "corrected",
) -> Mapping[str, Uncertain]:
    """Mutual information between a kernel's response and the class label, one value for each kernel.

    Definition. R is the kernel's mean response over the map, quantised to ``bins`` levels that are equiprobable
    on the calibration images, exact zero being a level of its own; Y is the label. I(R;Y) = sum p(r,y) log2
    p(r,y) / (p(r) p(y)). By the data processing inequality it is a lower bound of the unquantised information.

    Unit and range. Bits in [0, min(log2 occupied bins, H(Y))]. ``uncertainty_coefficient`` is I / H(Y) (Theil),
    ``normalised`` is I / min(log2 bins, H(Y)): with 1,000 classes and 8 bins the first cannot exceed .30.

    Estimator and bias. The plug-in is high by about (bins - 1)(classes - 1) / (2 N ln 2). ``information``
    subtracts the Miller-Madow form over occupied cells, which still leaves too much where cells are thin;
    ``chance_adjusted`` subtracts the expected information of tables with the same margins (Vinh, Epps & Bailey
    2010), which is right near 0 and takes too much far from it. The truth lies between the two.
    ``estimator: plugin`` subtracts nothing; it is meant for exact enumerations.

    Interval. Standard error from the influence function log2 p(r,y) / (p(r) p(y)) over images. The lower end
    stands on ``chance_adjusted``, the upper on ``information``, so neither correction decides by itself. A
    bound of 0 (more information than none) is decided by a G test against independence with the chance mean.
    Where several images come from one source, errors are delete-a-group jackknifes over sources, and the corrections
    and the G test take the number of images over their design effect (Rao & Scott 1981) for the sample size.

    Pitfalls. Gate: 5 * bins * classes images. A kernel can matter together with others and say nothing alone.
    """
    # A few kernels at a time: the tables of a whole layer can take gigabytes in double precision.
    step = max(1, _CELLS // histogram.counts[0].numel())
    tables = zip(torch.split(histogram.counts, step), torch.split(histogram.design_effect, step), strict=True)
    parts = [_information(counts.double(), effect, estimator) for counts, effect in tables]
    value, floor, error, h_y, most, p_zero = (torch.cat(column) for column in zip(*parts, strict=True))

    def shifted(scale: Tensor) -> Shifted:
        low, high, err = (numbers(x / scale) for x in (torch.minimum(floor, value), value, error))
        limits = (0.0, float((most / scale).nan_to_num().max()))
        return Shifted(high, err, limits=limits, floor=low, p_zero=numbers(p_zero))

    return {
        "information": shifted(torch.ones_like(h_y)),
        "chance_adjusted": Normal(numbers(floor), numbers(error)),
        "uncertainty_coefficient": shifted(h_y),
        "normalised": shifted(most),
    }


def _information(counts: Tensor, effect: Tensor, estimator: str) -> tuple[Tensor, ...]:
    """Value, floor, standard error, H(Y), the most possible and the p-value of 0, each of shape (kernels,)."""
    n = counts.sum((-2, -1)).clamp(min=1)
    plugin = mutual_information(counts)
    rows, columns = counts.sum(-1), counts.sum(-2)
    error = torch.sqrt(_influence_variance(counts, rows, columns, n, plugin) / n)
    samples = n / effect  # a bias is that of so many independent images
    value = floor = plugin
    if estimator != "plugin":
        occupied = [(part > 0).sum(-1) for part in (counts.flatten(-2), rows, columns)]
        value = (plugin - (occupied[0] - occupied[1] - occupied[2] + 1) / (2 * samples * math.log(2))).clamp(min=0)
        floor = plugin - expected_mutual_information(counts) * effect
    h_y = entropy(rows)
    value = torch.where(h_y > 0, value, torch.nan)  # of one class nothing can be known
    most = torch.minimum(h_y, torch.full_like(h_y, math.log2(counts.shape[-1])))
    p_zero = _g_test(plugin, plugin - floor, rows, columns, samples)
    return torch.minimum(value, most), floor, error, h_y, most, p_zero


def _influence_variance(counts: Tensor, rows: Tensor, columns: Tensor, n: Tensor, plugin: Tensor) -> Tensor:
    p = counts / n[:, None, None]
    independent = (rows / n[:, None])[:, :, None] * (columns / n[:, None])[:, None, :]
    gain = torch.where(counts > 0, torch.log2(p / independent.clamp(min=1e-300)), 0.0)
    return ((p * gain**2).sum((-2, -1)) - plugin**2).clamp(min=0)


def _g_test(plugin: Tensor, chance: Tensor, rows: Tensor, columns: Tensor, n: Tensor) -> Tensor:
    """p-value of independence: 2 N ln2 I against chi-square, scaled to the mean that chance gives."""
    dof = ((rows > 0).sum(-1) - 1) * ((columns > 0).sum(-1) - 1)
    g = 2 * n * math.log(2) * plugin
    mean = torch.where(chance > 0, 2 * n * math.log(2) * chance, dof.double())
    scaled = g * dof / mean.clamp(min=1e-300)
    p = special.chdtrc(numbers(dof.clamp(min=1)), numbers(scaled))
    return torch.where(dof > 0, torch.as_tensor(p, device=plugin.device), torch.ones_like(plugin))
