"""How well a kernel's strongest activations cover one concept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field as Param

from cnnaudit.crossfit import Selected, choose, eligible, pick
from cnnaudit.intervals import BoundedMean, Normal
from cnnaudit.lazy import np, torch
from cnnaudit.metrics.base import Field, Gate, metric, numbers
from cnnaudit.site import Op, Site
from cnnaudit.statistics import PositionHalves, PositionResponses

if TYPE_CHECKING:
    from torch import Tensor

    from cnnaudit.intervals import Array, Uncertain

_FEWEST = 30


def no_positions(site: Site, field: str, params: Mapping[str, Any]) -> str | None:
    """Why a site's maps cannot be laid over masks."""
    if site.steers:
        return "its result only steers a gate (squeeze-excite) and has no place in the image"
    return "a map of one position cannot tell positions apart" if site.taps["response"].positions == 1 else None


def too_few(responses: PositionResponses, sources: Array) -> Gate:
    """Which kernels' chosen concepts are in so few sources, an array of shape (kernels,), that nothing is judged."""
    needed = np.where(sources < _FEWEST, np.ceil(_FEWEST * responses.n_sources / np.maximum(sources, 1)), 0)
    samples = "sources" if responses.probe.clustered else "images"
    reason = f"a chosen concept is in {sources.min():.0f} {samples}, and {_FEWEST} are needed"
    return Gate(needed.astype(np.int64), reason)


def _gate(responses: PositionResponses, site: Site, field: str, params: Mapping[str, Any]) -> Gate:
    return too_few(responses, numbers(_overlap(responses).crossfit.sources))


_LITTLE = (
    "Kernels whose strongest activations cover no concept as well as the rule demands.",
    "See position_auroc: a kernel may rank a concept's positions well and still reach over its edges, or cover more "
    "than the threshold lets it (`cap`).",
)
_MUCH = (
    "Kernels that cover one concept better than the rule allows.",
    "Look at what the concept is: a mark, border or background should not matter.",
)


@metric(
    reads=PositionResponses,
    at=Op.CONV,
    taps="response",
    fields={
        "best": Field("IoU", "with a best concept chosen on other images", "higher", _LITTLE, _MUCH),
        "plugin_best": Field("IoU", "with the best concept, too high by chance", "higher", _LITTLE, _MUCH),
        "cap": Field("IoU", "largest that the sizes of both allow for the chosen concept", "", limits=(0.0, 1.0)),
        "chance": Field("IoU", "of an unrelated map, for the chosen concept", "", limits=(0.0, 1.0)),
    },
    interval="delete-a-group jackknife over images; lower end cross-fitted, upper of plugin_best",
    cost="heavy: every sampled position is upsampled, ranked among 64 levels and counted; fewer `positions` cost less",
    masks=True,
    identity=("quantile",),
    applies=no_positions,
    gate=_gate,
    images=lambda need: 50,  # noqa: ARG005
)
def iou(
    responses: PositionResponses,
    site: Site,
    *,
    quantile: Annotated[float, Param(gt=0, lt=1)] = 0.005,
    positions: Annotated[int, Param(ge=1)] = 256,
) -> Mapping[str, Uncertain | Tensor]:
    """Intersection over union of a kernel's strongest activations with its best concept, one value for each kernel.

    Definition. Network Dissection (arXiv 1704.05796): M is where the kernel's response, upsampled linearly to the
    masks, lies above its threshold T; L is where a concept is. IoU = sum |M and L| / sum |M or L|, sums over images.
    T is such that the top ``quantile`` of positions lie above it. ``best`` is the largest over concepts. ``cap`` is
    min(|M|, |L|) / max(|M|, |L|), the largest IoU that the two sizes allow, ``chance`` is that of two independent sets
    of these sizes, p pi / (p + pi - p pi) with p = P(M) and pi = P(L). Both are of the concept that ``best`` chose.
    IoU above .04 at quantile .005 is the convention of NetDissect-Lite for calling a kernel a detector.

    Unit and range. A ratio in [0, 1]. Chance is .0048 for a concept on a tenth of all positions at quantile .005. The
    quantile belongs to the value: another one gives other numbers.

    Estimator and bias. ``positions`` sampled positions of each image, all of them in smaller masks. The largest of
    many noisy IoUs is too large, so ``best`` chooses the concept on one half of the sources and measures it on the
    other half, and the other way round, and averages the two; ``plugin_best`` takes the largest on all. T is fixed on
    the first 64 images: what follows is about that threshold, and P(M) is near ``quantile``, not equal. Network
    Dissection takes T from all of the maps before upsampling, which lowers the peaks between entries.

    Interval. Delete-a-group jackknife over 16 groups of images (of sources, where several images come from one), in
    the form of a bounded mean at its effective sample size. The lower end stands on the cross-fitted value, the upper
    on the plug-in one where that reaches higher. It reaches chance until "no more than chance" is refuted with
    Bonferroni over the concepts. The threshold's own error is not a part of it.

    Pitfalls. Gate: 30 sources that show the chosen concept (first images count where a source has several). A concept
    much rarer or commoner than ``quantile`` has a low ``cap``: compare ``best`` with it before calling a kernel no
    detector. A kernel that is zero at more than all but ``quantile`` of the positions has T = 0. Where more than
    ``quantile`` of the positions are at a ceiling (6 after ReLU6), M is the ceiling. A kernel that never varies on the
    calibration images has an empty M and IoU 0. Concepts that lie in the same images or places cannot be told apart.
    Maps are laid over masks edge to edge, whatever padding shifts. Where masks are 0 and 1 for each concept every
    position of every image counts as annotated for all of them; dense labels leave out what is unlabelled. Whether
    concepts align with single kernels at all shows only against a random rotation of the channels.
    """
    found = _overlap(responses)
    # Tensors beside them: so evaluate() leaves groups out, and these intervals take their errors from that.
    return {
        "best": found.selected(found.crossfit.iou),
        "plugin_best": found.selected(found.plugin.iou),
        "cap": found.crossfit.cap,
        "chance": found.crossfit.chance,
    }


class _Match(NamedTuple):
    """A kernel's mask and its concept, float64 of shape (kernels,).

    Attributes:
        iou, cap, chance: See :func:`iou`.
        sources: Sources that show the concept.
    """

    iou: Tensor
    cap: Tensor
    chance: Tensor
    sources: Tensor

    @property
    def bounded(self) -> BoundedMean:
        """The IoU, without an error before groups are left out."""
        value, units = numbers(self.iou), np.maximum(numbers(self.sources), 1).astype(np.int64)
        return BoundedMean(value, np.full_like(value, math.inf), units)


class _Overlap(NamedTuple):
    crossfit: _Match
    plugin: _Match
    choices: int

    def selected(self, shown: Tensor) -> Selected:
        crossfit = self.crossfit
        gain = numbers(crossfit.iou - crossfit.chance)
        excess = Normal(gain, np.full_like(gain, math.inf))
        return Selected(
            numbers(shown), crossfit.bounded, self.plugin.bounded, self.choices, numbers(crossfit.chance), excess
        )


def _overlap(responses: PositionResponses) -> _Overlap:
    """IoU of every kernel with its best concept."""
    halves, above = responses.halves, responses.above
    kept = eligible(halves.images)
    whole = PositionHalves(*(x.sum(0, keepdim=True) for x in halves))
    return _Overlap(_match(halves, above, kept), _match(whole, above, kept), max(1, len(kept)))


def _match(parts: PositionHalves, above: Tensor, kept: Tensor) -> _Match:
    """Mean over parts of the images, each with the concept that the other part chooses among those that are kept."""
    if not len(kept):
        undefined = torch.full((len(above),), torch.nan, dtype=torch.float64, device=above.device)
        return _Match(undefined, undefined, undefined, torch.zeros_like(undefined))
    concepts = parts.concepts[:, :, kept]
    both, label = (x.sum(-1).double() for x in (concepts * above[:, None], concepts))
    mask, everyone = (x.sum(-1, keepdim=True).double() for x in (parts.everyone * above, parts.everyone))
    score = both / (mask + label - both)
    p, pi = mask / everyone, label / everyone
    of_each = (
        score,
        torch.minimum(mask, label) / torch.maximum(mask, label),
        p * pi / (p + pi - p * pi),
        parts.sources[:, None, kept].double().expand_as(score),
    )
    choice = choose(score)
    value, cap, chance, sources = (pick(x, choice) for x in of_each)
    return _Match(value.mean(0), cap.mean(0), chance.mean(0), sources.sum(0))
