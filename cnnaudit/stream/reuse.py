"""Operators that write their result over an input that nobody needs any more.

A large map in new memory costs more time than the arithmetic that fills it.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import fx

from cnnaudit.graph import ops

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from torch import Tensor

__all__ = ["overwriting", "owns_memory", "preserving"]

_ATEN = torch.ops.aten
_SHORT = (torch.float16, torch.bfloat16)  # torch's own kernel reckons with more digits
_BATCH_NORM = _ATEN._native_batch_norm_legit_no_training.default  # noqa: SLF001 - the operator's name
_ACTIVATIONS: dict[Any, Any] = {
    _ATEN.relu.default: _ATEN.relu_.default,
    _ATEN.hardtanh.default: _ATEN.hardtanh_.default,
    _ATEN.hardswish.default: _ATEN.hardswish_.default,
    _ATEN.silu.default: _ATEN.silu_.default,
}
_COMMUTATIVE: dict[Any, Any] = {
    _ATEN.add.Tensor: _ATEN.add_.Tensor,
    _ATEN.mul.Tensor: _ATEN.mul_.Tensor,
}
# What makes a tensor of its own and no view of what it reads.
_FRESH: set[Any] = {
    _ATEN.conv1d.default,
    _ATEN.conv2d.default,
    _ATEN.conv3d.default,
    _ATEN.mean.dim,
    _ATEN.adaptive_avg_pool2d.default,
    _BATCH_NORM,
    *_ACTIVATIONS,
    *_COMMUTATIVE,
}


def owns_memory(value: fx.Node, user: fx.Node) -> bool:
    """Whether nothing but a value itself, last used by ``user``, can still see its memory."""
    made = value.all_input_nodes[0] if value.target is operator.getitem else value
    if made.target not in _FRESH or (made is not value and len(made.users) > 1):
        return False
    return all(other is user or other.target in _FRESH for other in value.users)


def overwriting(
    node: fx.Node, spare: Collection[fx.Node], constants: Mapping[fx.Node, Any]
) -> Callable[..., Any] | None:
    """The node's operator in a form that overwrites one of its inputs.

    Args:
        node: A call of an operator.
        spare: Inputs that may be overwritten.
        constants: Values of the graph's parameters and buffers.

    Returns:
        Something to call in the operator's place, with its arguments; None where there is no such form.
    """
    if node.target in _COMMUTATIVE and len(node.args) == 2 and not node.kwargs:
        in_place: Callable[..., Any] = _COMMUTATIVE[node.target]
        for operand, call in zip(node.args, (in_place, lambda a, b: in_place(b, a)), strict=True):
            if isinstance(operand, fx.Node) and operand in spare and _same_kind(node, operand):
                return call
    elif node.args and node.args[0] in spare:
        if node.target is _BATCH_NORM:
            return _batch_norm(node, constants, in_place=True)
        return _ACTIVATIONS.get(node.target)
    return None


def preserving(node: fx.Node, chosen: Any, constants: Mapping[fx.Node, Any]) -> Callable[..., Any] | None:
    """The form that gives the same numbers as the one chosen for a node, to the last bit, and overwrites nothing.

    Args:
        node: A call of an operator.
        chosen: What is called in its place.
        constants: Values of the graph's parameters and buffers.

    Returns:
        Something to call with the node's arguments; None where the operator itself does that.
    """
    if node.target is _BATCH_NORM and chosen is not node.target:
        return _batch_norm(node, constants, in_place=False)
    return None


def _same_kind(node: fx.Node, operand: fx.Node) -> bool:
    """Whether a result has the shape and type of an operand."""
    return ops.shape(node) == ops.shape(operand) and node.meta["val"].dtype == operand.meta["val"].dtype


def _batch_norm(node: fx.Node, constants: Mapping[fx.Node, Any], *, in_place: bool) -> Callable[..., Any] | None:
    """A batch norm with fixed statistics as one multiplication and addition, which it is on a CPU too."""
    x, *fixed, _, eps = cast("tuple[Any, ...]", node.args)
    if not all(value is None or value in constants for value in fixed):
        return None
    weight, bias, mean, variance = (None if value is None else constants[value] for value in fixed)
    kind = x.meta["val"].dtype
    if kind in _SHORT or any(v is not None and v.dtype != kind for v in (weight, bias, mean, variance)):
        return None
    scale = (1 if weight is None else weight) / (variance + eps).sqrt()
    shift = (0 if bias is None else bias) - mean * scale
    each = (-1, *[1] * (len(ops.shape(node)) - 2))
    scale, shift = scale.reshape(each), shift.reshape(each)

    def normalise(x: Tensor, *_: Any) -> tuple[Tensor]:
        return (torch.addcmul(shift, x, scale, out=x) if in_place else torch.addcmul(shift, x, scale),)

    return normalise
