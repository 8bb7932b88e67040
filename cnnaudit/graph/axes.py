"""Which dimension of a value holds its channels: not always the first after the batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cnnaudit.graph import ops

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch.fx import Node

    Axes = Mapping[Node, int | None]

__all__ = ["axis_of"]


def axis_of(node: Node, axes: Axes) -> int | None:
    """Dimension of a node's tensor that holds its channels; None where they were mixed with positions.

    Args:
        node: A node that depends on the network's input.
        axes: The same for the nodes before it.
    """
    inputs = [n for n in node.all_input_nodes if n in axes]
    rule = _RULES.get(ops.operator_name(node))
    if rule is not None:
        return rule(node, inputs[0], axes[inputs[0]])
    if len(ops.shape(node)) < len(ops.shape(inputs[0])):
        return _reduced(node, inputs[0], axes[inputs[0]])
    known = (axes[n] for n in inputs if len(ops.shape(n)) == len(ops.shape(node)))
    return next((axis for axis in known if axis is not None), None)


def _convolved(_node: Node, _source: Node, _axis: int | None) -> int | None:
    return 1


def _last(node: Node, _source: Node, _axis: int | None) -> int | None:
    return len(ops.shape(node)) - 1


def _normalized(node: Node, source: Node, axis: int | None) -> int | None:
    """A layer norm over the last dimension alone is one over channels."""
    return _last(node, source, axis) if len(ops.arguments(node)["normalized_shape"]) == 1 else axis


def _unknown(_node: Node, _source: Node, _axis: int | None) -> int | None:
    return None


def _same(_node: Node, _source: Node, axis: int | None) -> int | None:
    return axis


def _transposed(node: Node, source: Node, axis: int | None) -> int | None:
    given, rank = ops.arguments(node), len(ops.shape(source))
    order = list(range(rank))
    if "dims" in given:
        order = [d % rank for d in given["dims"]]
    else:
        first, second = given["dim0"], given["dim1"]
        order[first], order[second] = order[second], order[first]
    return None if axis is None else order.index(axis)


def _reshaped(node: Node, source: Node, axis: int | None) -> int | None:
    """Channels went to the dimension that has as many entries, and as many values behind each entry.

    Channels that were split into groups are the last dimension of the split.
    """
    if axis is None:
        return None
    before, after = ops.shape(source), ops.shape(node)
    behind = math.prod(before[axis + 1 :])
    candidates = [d for d in range(1, len(after)) if math.prod(after[d + 1 :]) == behind]
    whole = [d for d in candidates if after[d] == before[axis]]
    parts = [d for d in candidates if after[d] > 1 and before[axis] % after[d] == 0]
    return next(iter(whole + parts), None)


def _reduced(node: Node, source: Node, axis: int | None) -> int | None:
    gone = ops.dimensions(ops.arguments(node).get("dim"), len(ops.shape(source)))
    return None if axis is None or axis in gone else axis - sum(d < axis for d in gone)


_RULES: dict[str, Callable[[Node, Node, int | None], int | None]] = {
    **dict.fromkeys(ops.CONVOLUTIONS, _convolved),
    **dict.fromkeys(("linear", "addmm", "mm"), _last),
    **dict.fromkeys(("bmm", "baddbmm", "matmul", "einsum", "scaled_dot_product_attention"), _unknown),
    **dict.fromkeys(ops.TRANSPOSITIONS, _transposed),
    **dict.fromkeys(ops.RESHAPES, _reshaped),
    "getitem": _same,
    "layer_norm": _normalized,
}
