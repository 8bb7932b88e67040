"""The vocabulary of captured graphs: what an aten node is called, takes and returns.

After ``run_decompositions({})`` a graph holds composite aten operators (``conv2d``, ``relu``,
``group_norm``) and no in-place ones. Operators are named by their packet (``add`` for
``aten.add.Tensor``), so that an overload torch prefers in a later release changes nothing here.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.fx import Node

CONVOLUTIONS = frozenset(
    {"convolution", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
)
LINEARS = {"linear": "input", "addmm": "mat1", "mm": "self"}  # operator -> its activation
MAX_POOLS = frozenset(
    {"max_pool1d", "max_pool2d", "max_pool3d"}
    | {"max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"}
)
AVG_POOLS = frozenset({"avg_pool1d", "avg_pool2d", "avg_pool3d"})
ADAPTIVE_MAX_POOLS = frozenset({"adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"})
ADAPTIVE_AVG_POOLS = frozenset(
    {"adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"}
    | {"_adaptive_avg_pool2d", "_adaptive_avg_pool3d"}
)
REDUCTIONS = {"mean": "avg", "amax": "max", "max": "max"}  # pools when they run over all positions
SPLITS = frozenset({"split", "split_with_sizes", "chunk", "unbind", "tensor_split"})

BATCH_NORMS = frozenset(
    {
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "batch_norm",
        "cudnn_batch_norm",
        "native_batch_norm",
    }
)
NORMS = BATCH_NORMS | {
    "group_norm",
    "instance_norm",
    "layer_norm",
    "native_group_norm",
    "native_layer_norm",
    "rms_norm",
}
ACTIVATIONS = frozenset(
    {
        "celu",
        "clamp",
        "clamp_max",
        "clamp_min",
        "elu",
        "gelu",
        "hardsigmoid",
        "hardswish",
        "hardtanh",
        "leaky_relu",
        "log_sigmoid",
        "mish",
        "prelu",
        "relu",
        "relu6",
        "rrelu",
        "selu",
        "sigmoid",
        "silu",
        "softplus",
        "tanh",
        "threshold",
    }
)
AFFINE = frozenset({"add", "sub", "mul", "div"})  # with a constant: what a frozen batch norm becomes
MEMORY = frozenset({"alias", "clone", "contiguous", "detach", "dropout", "lift_fresh_copy", "to", "_to_copy"})
PADS = frozenset({"constant_pad_nd", "pad"})
TRANSPOSITIONS = frozenset({"permute", "transpose"})
RESHAPES = frozenset(
    {"_unsafe_view", "flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view"},
)
UPSAMPLES = {  # how many positions of the input an output position reads beyond the first
    "upsample_nearest1d": 0,
    "upsample_nearest2d": 0,
    "upsample_nearest3d": 0,
    "upsample_linear1d": 1,
    "upsample_bilinear2d": 1,
    "upsample_trilinear3d": 1,
    "upsample_bicubic2d": 3,
}
BOUNDED = frozenset({"sigmoid", "hardsigmoid", "softmax", "_softmax"})  # what a gate ends in


def operator_name(node: Node) -> str:
    """Name of an aten operator's packet; "getitem" for the pick from a tuple; "" for anything else."""
    if isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001 - the class has no public name
        return node.target._schema.name.removeprefix("aten::")  # noqa: SLF001 - nor has the schema
    return "getitem" if node.target is operator.getitem else ""


def arguments(node: Node) -> dict[str, Any]:
    """All arguments of an aten node by name, defaults filled in."""
    assert isinstance(node.target, torch._ops.OpOverload)  # noqa: S101, SLF001 - see operator_name
    schema = node.target._schema.arguments  # noqa: SLF001 - see operator_name
    bound = {a.name: a.default_value for a in schema if a.has_default_value()}
    bound.update(zip((a.name for a in schema), node.args, strict=False))
    bound.update(node.kwargs)
    return bound


def is_tensor(node: Node) -> bool:
    """Whether the node is one tensor, not a tuple, a list or a number."""
    return isinstance(node.meta.get("val"), torch.Tensor)


def holds_tensors(node: Node) -> bool:
    """Whether the node is a tensor or several: not a size or another number."""
    return isinstance(node.meta.get("val"), torch.Tensor | list | tuple)


def shape(node: Node) -> tuple[int, ...]:
    """Shape with the batch: of the first tensor where the node returns several, () where it returns none."""
    value = node.meta.get("val")
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return tuple(map(_plain, value.shape)) if isinstance(value, torch.Tensor) else ()


def _plain(size: Any) -> int:
    """A size as a number where it is one; torch keeps a batch that proved to be constant as a symbol."""
    plain: int = int(size) if str(size).isdigit() else size
    return plain


def static_shape(node: Node) -> tuple[int, ...]:
    """Shape without the batch."""
    return shape(node)[1:]


def multiplications(node: Node) -> int:
    """Multiplications of a convolution or a linear layer for one image: each weight once at each position.

    0 where each image has weights of its own.
    """
    source, *_ = node.all_input_nodes
    given = arguments(node)
    transposed = given.get("transposed", "transpose" in operator_name(node))
    sizes = shape(given["weight"] if "weight" in given else given["mat2"])
    if not all(isinstance(size, int) for size in sizes):
        return 0
    weight = math.prod(sizes)
    if operator_name(node) in CONVOLUTIONS:
        return weight * math.prod(shape(source if transposed else node)[2:])
    return weight * math.prod(static_shape(node)[:-1])


def is_float(node: Node) -> bool:
    """Whether the node is one tensor of floating-point numbers."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def per_dimension(value: Any, rank: int) -> tuple[int, ...]:
    """A size given once or for each dimension, as one number for each."""
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return sizes * rank if len(sizes) == 1 else sizes


def dimensions(value: Any, rank: int) -> frozenset[int]:
    """Dimensions an operator reduces, counted from the front; all when none are named."""
    if value is None:
        return frozenset(range(rank))
    return frozenset(d % rank for d in ((value,) if isinstance(value, int) else value))


def picked(node: Node) -> Node:
    """The values of an operator that returns ``(values, indices or statistics, ...)``, else the node itself."""
    if is_tensor(node):
        return node
    return next((u for u in node.users if operator_name(u) == "getitem" and u.args[1] == 0), node)


def constant_scale(node: Node) -> float | None:
    """The number a ``mul`` or ``div`` by a Python scalar multiplies with, else None."""
    other = node.args[1] if len(node.args) > 1 else None
    if not isinstance(other, int | float):
        return None
    match operator_name(node):
        case "mul":
            return float(other)
        case "div" if other:
            return 1 / other
    return None
