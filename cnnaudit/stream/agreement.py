"""Whether the captured graph computes what the model does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from cnnaudit.errors import GraphError
from cnnaudit.graph import ModelGraph

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

__all__ = ["check_agreement"]

_USUAL = 1e-3  # of the largest output
_COARSE = 8  # units in the last place of a type with few digits
_AMPLIFIED = 10  # times what the rounding of the inputs alone does
_MOST = 0.1


def check_agreement(ours: Any, model: Callable[[Sequence[Tensor]], Any], inputs: Sequence[Tensor]) -> None:
    """Compare what the graph returned with what the model does.

    Sums are taken in another order, so outputs differ in their last digits, and a deep network may amplify that: where
    they differ by more than usual, a rounding error in the inputs shows how much the model itself does.

    Args:
        ours: What the graph returned.
        model: Calls the eager model with tensors of its own.
        inputs: What both were given.

    Raises:
        GraphError: they differ by more than that, or the model does not do the same twice.
    """
    theirs = model(inputs)
    worst, limit = _difference(ours, theirs), _limit(theirs)
    if worst < limit:
        return
    if _difference(model(inputs), theirs) == 0:
        limit = min(_AMPLIFIED * _difference(model([_rounded(x) for x in inputs]), theirs), _MOST)
    if not worst < limit:
        raise GraphError(
            f"the captured graph computes something else than the model: their outputs differ by {worst:.1e} of "
            "the largest. Does the model draw random numbers, keep state between calls or depend on its inputs' "
            "values?"
        )


def _difference(ours: Any, theirs: Any) -> float:
    """The largest difference of an output, as a share of the largest value; infinite where only one is finite."""
    worst = 0.0
    for mine, other in zip(ModelGraph.output_tensors(ours), ModelGraph.output_tensors(theirs), strict=True):
        if mine.shape != other.shape:
            raise GraphError(
                f"the captured graph gives {tuple(mine.shape)}, the model {tuple(other.shape)}; "
                "make its forward do the same at every call"
            )
        finite = torch.isfinite(other)
        if not torch.equal(finite, torch.isfinite(mine)):
            return math.inf
        known = other[finite].double()
        if known.numel():
            gap = (mine[finite].double() - known).abs().max() / known.abs().max().clamp(min=1e-6)
            worst = max(worst, float(gap))
    return worst


def _limit(outputs: Any) -> float:
    kinds = [x.dtype for x in ModelGraph.output_tensors(outputs) if x.is_floating_point()]
    return max([_USUAL, *(_COARSE * torch.finfo(kind).eps for kind in kinds)])


def _rounded(values: Tensor) -> Tensor:
    """The values, each off by one unit in its last place, up or down."""
    if not values.is_floating_point():
        return values
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(2, values.shape, generator=generator).to(values) * 2 - 1
    return values * (1 + signs * torch.finfo(values.dtype).eps)
