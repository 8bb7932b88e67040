"""What a kernel's response says about the class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field as Param

from cnnaudit.information import entropy, expected_mutual_information, mutual_information
from cnnaudit.intervals import Normal, Shifted, Uncertain
from cnnaudit.lazy import special, torch
from cnnaudit.metrics.base import Field, Need, metric, numbers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import ClassHistogram

if TYPE_CHECKING:
    from torch import Tensor


def _images(need: Need) -> int:
    return 5 * int(need.params["bins"]) * need.classes


_CELLS = 2**22
_RESIDUE = 0.144  # max over x > 0 of x E1(2 x) / P(Poisson(x) <= 1), in nats: see Estimator and bias
_MORE = 4  # images (Agresti & Coull, American Statistician 52, 1998)

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
    interval="jackknife over images in closed form; lower end less the bias that rare cells may leave",
    recommended=True,
    cost="light: one whole-map mean, shared",
    version=2,
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

    Estimator and bias. The plug-in is high by about (bins - 1)(classes - 1) / (2 N ln 2). ``information`` takes
    Grassberger's entropies (arXiv physics/0307138). Of a cell in which x images are expected they miss x E1(2 x)
    nats / N, at least 0 and at most .141 nats / N, so the value is still a little high where cells are thin. The
    lower end subtracts .144 nats / N for each cell of at most one image, on average more than is missed at any x.
    ``chance_adjusted`` is the plug-in less the expected information of tables with the same margins (Vinh, Epps &
    Bailey 2010), which is right near 0 and takes too much far from it.
    ``estimator: plugin`` subtracts nothing and adds nothing; it is meant for exact enumerations.

    Interval. Standard error of the plug-in from leaving out each image, in closed form; four more images, spread as
    chance would, keep it from 0 where all agree. Near 0 information is quadratic in the dependence: the variance of
    a chi-square, dof / 2 (N ln 2)^2, is added, and both ends lie z^2 / (2 N ln 2) further out, which is what an
    interval for the root of the information gains above; below it is there for skewness. A bound of 0 (more
    information than none) is decided by a G test against independence with the chance mean.
    It is wide where cells are thin or I is near 0. Where 100 or more classes of 20 images each have a level of their
    own, a false PASS can be likelier than alpha (docs/coverage.md simulates 50 images a class).

    Sources. Where several images come from one source, errors are delete-a-group jackknifes of the plug-in over
    sources, or the above with so many images as are independent where that is larger; the chance mean is
    multiplied by the design effect of independence (Rao & Scott 1981, 1984), and the value is less the
    second-order bias that related images add.

    Pitfalls. Gate: 5 * bins * classes images. A kernel can matter together with others and say nothing alone.
    """
    if histogram.lacks_a_group:
        return _plugin(histogram)
    # A few kernels at a time: the tables of a whole layer can take gigabytes in double precision.
    step = max(1, _CELLS // histogram.counts[0].numel())
    effects = torch.stack([histogram.design_effect, histogram.class_effect, histogram.excess_bias])
    tables = zip(torch.split(histogram.counts, step), torch.split(effects, step, 1), strict=True)
    parts = [_information(counts.double(), effects, estimator) for counts, effects in tables]
    value, floor, error, bend, adjusted, h_y, most, p_zero = (torch.cat(x) for x in zip(*parts, strict=True))

    def shifted(scale: Tensor) -> Shifted:
        low, high, err, more = (numbers(x / scale) for x in (torch.minimum(floor, value), value, error, bend))
        limits = (0.0, float((most / scale).nan_to_num().max()))
        return Shifted(high, err, limits=limits, least=err, floor=low, bend=more, p_zero=numbers(p_zero))

    return {
        "information": shifted(torch.ones_like(h_y)),
        "chance_adjusted": Normal(numbers(adjusted), numbers(error), least=numbers(error)),
        "uncertainty_coefficient": shifted(h_y),
        "normalised": shifted(most),
    }


def _plugin(histogram: ClassHistogram) -> Mapping[str, Uncertain]:
    """Return values without correction, error or test: a jackknife asks how they vary, and a correction hardly does."""
    counts = histogram.counts.double()
    plugin, h_y, most = mutual_information(counts), *_most(counts)
    none = numbers(torch.zeros_like(plugin))
    adjusted = {"chance_adjusted": Normal(numbers(plugin), none)}
    scales = {"information": torch.ones_like(h_y), "uncertainty_coefficient": h_y, "normalised": most}
    return adjusted | {name: Shifted(numbers(plugin / scale), none) for name, scale in scales.items()}


def _information(counts: Tensor, effects: Tensor, estimator: str) -> tuple[Tensor, ...]:
    """Value, floor, error, bend, value less chance, H(Y), the most possible and p-value of 0, each (kernels,)."""
    null_effect, effect, excess = effects
    n = counts.sum((-2, -1)).clamp(min=1)
    rows, columns = counts.sum(-1), counts.sum(-2)
    h_y, most = _most(counts)
    freedom = ((rows > 0).sum(-1) - 1) * ((columns > 0).sum(-1) - 1)
    value = floor = adjusted = plugin = mutual_information(counts)
    bend = torch.zeros_like(plugin)
    if estimator == "plugin":
        error = _error(counts, 0)
    else:
        nats = n * math.log(2) / effect
        value = mutual_information(counts, "grassberger") - excess / (2 * n * math.log(2))
        # A level that was not met may still be one; a class that was not met may not exist.
        rare = ((rows > 0)[:, :, None] & (counts <= effect[:, None, None])).sum((-2, -1))
        floor = value - _RESIDUE * rare / nats
        adjusted = plugin - expected_mutual_information(counts) * null_effect
        bend = (h_y > 0) / (2 * nats)
        error = _error(counts / effect[:, None, None], _MORE)
        error = torch.sqrt(error**2 + (h_y > 0) * freedom.clamp(min=1) / (2 * nats**2))
    p_zero = _g_test(plugin, plugin - adjusted, freedom, n / null_effect)
    # Of one class nothing can be known.
    value = torch.where(h_y > 0, torch.minimum(value.clamp(min=0), most), torch.nan)
    return value, floor, error, bend, adjusted, h_y, most, p_zero


def _most(counts: Tensor) -> tuple[Tensor, Tensor]:
    """H(Y), and the most that classes and bins can hold."""
    h_y = entropy(counts.sum(-1))
    return h_y, h_y.clamp(max=math.log2(counts.shape[-1]))


def _error(counts: Tensor, more: int) -> Tensor:
    """Standard error of the plug-in: the delete-one jackknife in closed form."""
    n = counts.sum((-2, -1), keepdim=True).clamp(min=1)
    rows, columns = counts.sum(-1, keepdim=True), counts.sum(-2, keepdim=True)
    gain = _last(counts) - _last(rows) - _last(columns)
    weight = (counts + more * rows * columns / n**2) / (n + more)
    mean = (weight * gain).sum((-2, -1), keepdim=True)
    return torch.sqrt((weight * (gain - mean) ** 2).sum((-2, -1)) / n[:, 0, 0])


def _last(counts: Tensor) -> Tensor:
    """What the last image of a cell adds to n log2 n; in an empty cell what a first one would."""
    m = counts.clamp(min=1)
    added: Tensor = (torch.special.xlogy(m, m) - torch.special.xlogy(m - 1, m - 1)) / math.log(2)
    return added


def _g_test(plugin: Tensor, chance: Tensor, freedom: Tensor, n: Tensor) -> Tensor:
    """p-value of independence: 2 N ln2 I against chi-square, scaled to the mean that chance gives."""
    g = 2 * n * math.log(2) * plugin
    mean = torch.where(chance > 0, 2 * n * math.log(2) * chance, freedom.double())
    scaled = g * freedom / mean.clamp(min=1e-300)
    p = special.chdtrc(numbers(freedom.clamp(min=1)), numbers(scaled))
    return torch.where(freedom > 0, torch.as_tensor(p, device=plugin.device), torch.ones_like(plugin))
