"""How well a kernel's response at a position tells one concept there from the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field as Param

from cnnaudit.crossfit import Selected, choose, eligible, pick
from cnnaudit.detection import areas
from cnnaudit.intervals import BoundedMean
from cnnaudit.lazy import np, torch
from cnnaudit.metrics.base import Field, Gate, metric, numbers
from cnnaudit.metrics.iou import no_positions, too_few
from cnnaudit.site import Op, Site
from cnnaudit.statistics import PositionHalves, PositionResponses

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from cnnaudit.intervals import Uncertain

_CELLS = 2**22


def _gate(responses: PositionResponses, site: Site, field: str, params: Mapping[str, Any]) -> Gate:
    return too_few(responses, numbers(_detect(responses).crossfit.sources))


_LITTLE = (
    "Kernels that tell no concept's positions from the rest as well as the rule demands.",
    "Alone they detect nothing there, together they may; start the rule deeper with `at:`.",
)
_MUCH = (
    "Kernels that tell one concept's positions from the rest better than the rule allows.",
    "Look at what the concept is: a mark, border or background should not matter.",
)


@metric(
    reads=PositionResponses,
    at=Op.CONV,
    taps="response",
    fields={
        "best": Field("AUROC", "of a best concept chosen on other images, chance .5", "higher", _LITTLE, _MUCH),
        "plugin_best": Field("AUROC", "of the best concept, too high by chance", "higher", _LITTLE, _MUCH),
        "resolution": Field("AUROC", "how far ties within levels may move `best`", "lower", limits=(0.0, 0.5)),
    },
    interval="delete-a-group jackknife over images; lower end cross-fitted, upper of plugin_best",
    cost="heavy: every sampled position is upsampled, ranked among 64 levels and counted; fewer `positions` cost less",
    masks=True,
    applies=no_positions,
    gate=_gate,
    images=lambda need: 50,  # noqa: ARG005
)
def position_auroc(
    responses: PositionResponses, site: Site, *, positions: Annotated[int, Param(ge=1)] = 256
) -> Mapping[str, Uncertain | Tensor]:
    """Area under the ROC curve of a kernel's response as detector of its best concept at a position.

    Definition. With R the kernel's response at a position, upsampled linearly to the masks, AUROC_c = P(R+ > R-) +
    P(R+ = R-) / 2 for a position that shows concept c (+) and one that does not (-), both drawn from all images.
    ``best`` is the largest over concepts. With dense labels the concepts are the classes, and positions without a
    label are left out. Chance is .5 for each concept, whatever its share of the positions.

    Unit and range. A probability in [0, 1], one value for each kernel. The truth of ``best`` is at least .5 where each
    position shows one concept; the estimate may fall below by chance.

    Estimator and bias. ``positions`` sampled positions of each image, all of them in smaller masks. The largest of
    many noisy AUROCs is too large, so ``best`` chooses the concept on one half of the sources and measures it on the
    other half, and the other way round, and averages the two; ``plugin_best`` takes the largest on all. Responses are
    counted in 64 levels fixed on the first 64 images, exact zero a level of its own and finer towards the top. Ties in
    other levels, which the values may not have, move the AUROC by at most ``resolution``.

    Interval. Delete-a-group jackknife over 16 groups of images (of sources, where several images come from one), in
    the form of a bounded mean at its effective sample size: positions of one image are not independent, and DeLong
    over positions would be far too sure. The lower end stands on the cross-fitted value less ``resolution``, the upper
    on the plug-in one plus that. It reaches .5 until chance is refuted with Bonferroni over the concepts.

    Pitfalls. Gate: 30 sources that show the chosen concept (first images count where a source has several). Images
    weigh by their labelled positions, and pairs of positions from two images count like pairs from one: a kernel that
    knows the kind of image, and not where in it the concept is, has a high AUROC as well. A high AUROC of a rare
    concept may still come with many false alarms; see iou. Maps are laid over masks edge to edge, whatever padding
    shifts. A concept that one half has in fewer than two images cannot be chosen; with none left, or one that fills
    all positions, there is no value.
    """
    found = _detect(responses)
    # A tensor beside them: so evaluate() leaves groups out, and these intervals take their errors from that.
    return {
        "best": found.selected(found.crossfit.auroc),
        "plugin_best": found.selected(found.plugin.auroc),
        "resolution": found.crossfit.bracket,
    }


class _Area(NamedTuple):
    """A kernel's AUROC for its concept, float64 of shape (kernels,).

    Attributes:
        auroc: The value, ties counted half.
        bracket: How far ties within levels may move it.
        sources: Sources that show the concept.
    """

    auroc: Tensor
    bracket: Tensor
    sources: Tensor

    def moved(self, side: int) -> BoundedMean:
        """The claim at one end of what ties allow, without an error before groups are left out."""
        value, units = numbers(self.auroc), np.maximum(numbers(self.sources), 1).astype(np.int64)
        value = np.clip(value + side * numbers(self.bracket), 0, 1)
        return BoundedMean(value, np.full_like(value, math.inf), units)


class _Detector(NamedTuple):
    crossfit: _Area
    plugin: _Area
    choices: int

    def selected(self, shown: Tensor) -> Selected:
        return Selected(numbers(shown), self.crossfit.moved(-1), self.plugin.moved(1), self.choices, chance=0.5)


def _detect(responses: PositionResponses) -> _Detector:
    """AUROC of every kernel for its best concept."""
    halves = responses.halves
    shown = halves.concepts.sum(-1)[:, 0]
    everyone = halves.everyone.sum(-1)[:, :1]
    # A concept that fills every position of a half has nothing to be told from.
    kept = eligible(torch.where(shown < everyone, halves.images, 0))
    found = [
        (_areas(few, atoms, kept), _areas(_joined(few), atoms, kept)) for few, atoms in _few(halves, responses.atoms)
    ]
    crossfit, plugin = (_Area(*map(torch.cat, zip(*parts, strict=True))) for parts in zip(*found, strict=True))
    return _Detector(crossfit, plugin, max(1, len(kept)))


def _few(halves: PositionHalves, atoms: Tensor) -> Iterator[tuple[PositionHalves, Tensor]]:
    """Yield a few kernels at a time: the tables of a whole layer can take gigabytes in double precision."""
    step = max(1, _CELLS // max(1, halves.concepts[0, 0].numel()))
    tables = (torch.split(x, step, 1) for x in (halves.concepts, halves.everyone))
    for concepts, everyone, exact in zip(*tables, torch.split(atoms, step), strict=True):
        yield halves._replace(concepts=concepts, everyone=everyone), exact


def _joined(halves: PositionHalves) -> PositionHalves:
    return PositionHalves(*(x.sum(0, keepdim=True) for x in halves))


def _areas(parts: PositionHalves, atoms: Tensor, kept: Tensor) -> _Area:
    """Mean over parts of the images, each with the concept that the other part chooses among those that are kept."""
    if not len(kept):
        undefined = torch.full((len(atoms),), torch.nan, dtype=torch.float64, device=atoms.device)
        return _Area(undefined, undefined, torch.zeros_like(undefined))
    concepts, everyone = parts.concepts[:, :, kept].double(), parts.everyone.double()
    score = areas(concepts, everyone)
    choice = choose(score)
    positive = pick(concepts, choice)
    negative = everyone - positive
    ties = (positive * negative * ~atoms).sum(-1) / (positive.sum(-1) * negative.sum(-1)) / 2
    sources = pick(parts.sources[:, None, kept].double().expand_as(score), choice)
    return _Area(pick(score[..., None], choice)[..., 0].mean(0), ties.mean(0), sources.sum(0))
