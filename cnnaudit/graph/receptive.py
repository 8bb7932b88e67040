"""Receptive fields: how many pixels of the network's input a position of a value sees."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cnnaudit.graph import ops

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch.fx import Node

__all__ = ["Field", "Window", "field_of", "window_of"]


@dataclass(frozen=True)
class Field:
    """What one position sees of the input.

    Attributes:
        size: Pixels seen, for each spatial dimension of the input; may exceed the input.
        jump: Pixels between neighbouring positions.
        origin: First pixel that the first position sees; below 0 where it sees padding.
        everywhere: Whether every position also depends on the whole input, by a gate or a norm over positions.
    """

    size: tuple[int, ...]
    jump: tuple[float, ...]
    origin: tuple[float, ...]
    everywhere: bool = False

    def interior(self, positions: Sequence[int], pixels: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """The positions that see no border of the input: for each dimension the first, and the one behind the last.

        Args:
            positions: Extent of the map.
            pixels: Extent of the input.
        """
        if len(positions) != len(pixels):
            return ()
        found = []
        for size, jump, origin, extent, limit in zip(self.size, self.jump, self.origin, positions, pixels, strict=True):
            seen = ((p, origin + p * jump) for p in range(extent))
            inside = [p for p, first in seen if first >= 0 and first + size <= limit]
            found.append((inside[0], inside[-1] + 1) if inside and jump else (0, 0))
        return tuple(found)


@dataclass(frozen=True)
class Window:
    """The window of a convolution or pool, one number for each spatial dimension.

    ``kernel`` and ``stride`` are empty where windows have unequal shapes.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool = False


def window_of(node: Node) -> Window | None:
    """The window that slides over a node's input, None where nothing slides."""
    name = ops.operator_name(node)
    if name in ops.CONVOLUTIONS:
        return _convolution_window(node)
    if name in ops.MAX_POOLS or name in ops.AVG_POOLS:
        return _pool_window(node)
    if name in ops.ADAPTIVE_MAX_POOLS or name in ops.ADAPTIVE_AVG_POOLS:
        return _adaptive_window(node)
    return None


def _convolution_window(node: Node) -> Window:
    given = ops.arguments(node)
    kernel = ops.shape(given["weight"])[2:]
    rank = len(kernel)
    dilation = ops.per_dimension(given["dilation"], rank)
    padding = given["padding"]
    if padding == "same":
        padding = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    elif padding == "valid":
        padding = 0
    return Window(
        kernel,
        ops.per_dimension(given["stride"], rank),
        ops.per_dimension(padding, rank),
        dilation,
        transposed=given.get("transposed", "transpose" in ops.operator_name(node)),
    )


def _pool_window(node: Node) -> Window:
    given = ops.arguments(node)
    rank = len(ops.static_shape(given["self"])) - 1
    kernel = ops.per_dimension(given["kernel_size"], rank)
    return Window(
        kernel,
        ops.per_dimension(given["stride"] or kernel, rank),  # an absent stride is the kernel's
        ops.per_dimension(given["padding"], rank),
        ops.per_dimension(given.get("dilation", 1), rank),
    )


def _adaptive_window(node: Node) -> Window:
    spatial = ops.static_shape(ops.arguments(node)["self"])[1:]
    target = ops.static_shape(node)[1:]
    zeros, ones = (0,) * len(spatial), (1,) * len(spatial)
    if any(not t or s % t for s, t in zip(spatial, target, strict=True)):
        return Window((), (), zeros, ones)
    kernel = tuple(s // t for s, t in zip(spatial, target, strict=True))
    return Window(kernel, kernel, zeros, ones)


def field_of(node: Node, known: Mapping[Node, Field], axes: Mapping[Node, int | None], whole: Field) -> Field:
    """Receptive field of a node, given those of its inputs.

    Args:
        node: A node that depends on the network's input.
        known: Fields of the nodes before it.
        axes: Dimension that holds the channels of each value, None where it is unknown.
        whole: What a position sees when it sees the whole input.
    """
    inputs = [n for n in node.all_input_nodes if n in known]
    name = ops.operator_name(node)
    first = known[inputs[0]]
    if name in _MIXERS:
        return whole
    if name in ops.LINEARS:
        # It mixes the last dimension: channels, unless positions were flattened into it.
        return first if len(inputs) == 1 and axes[inputs[0]] == len(ops.shape(inputs[0])) - 1 else whole
    if name in _REDUCERS:
        given = ops.arguments(node)
        rank = len(ops.shape(inputs[0]))
        reduced = ops.dimensions(given.get("dim"), rank)
        return whole if reduced & set(_grid(rank, axes[inputs[0]], whole)) else first
    if (window := window_of(node)) is not None:
        return _through_window(first, window, node, whole)
    if (rule := _RULES.get(name)) is not None:
        return rule(node, first)
    return _through_pointwise(node, inputs, known, axes, whole)


def _grid(rank: int, axis: int | None, whole: Field) -> list[int]:
    """Dimensions that hold positions: the last ones that hold neither the batch nor channels."""
    return [d for d in range(1, rank) if d != axis][-len(whole.size) :]


def _through_window(field: Field, window: Window, node: Node, whole: Field) -> Field:
    source, target = ops.static_shape(node.all_input_nodes[0])[1:], ops.static_shape(node)[1:]
    if len(field.jump) != len(target):
        return whole  # the window slides over something else than the input's grid
    if window.kernel == source and not any(window.padding):
        return whole
    if not window.kernel:  # an adaptive pool with windows of unequal shapes: the largest counts
        kernel = [-(-s // t) + 1 for s, t in zip(source, target, strict=True)]
        return _widen(field, kernel, [s / t for s, t in zip(source, target, strict=True)])
    reach = [(k - 1) * d + 1 for k, d in zip(window.kernel, window.dilation, strict=True)]
    if window.transposed:
        before = [(r - 1 - p) / s for r, p, s in zip(reach, window.padding, window.stride, strict=True)]
        reach = [-(-r // s) for r, s in zip(reach, window.stride, strict=True)]
        return _widen(field, reach, [1 / s for s in window.stride], before)
    return _widen(field, reach, window.stride, window.padding)


def _widen(field: Field, reach: Sequence[int], stride: Sequence[float], before: Sequence[float] = ()) -> Field:
    """The field of windows of ``reach`` neighbouring positions, ``stride`` apart, the first ``before`` the first."""
    before = before or (0,) * len(reach)
    return Field(
        tuple(math.ceil(f + (r - 1) * j) for f, r, j in zip(field.size, reach, field.jump, strict=True)),
        tuple(j * s for j, s in zip(field.jump, stride, strict=True)),
        tuple(o - b * j for o, b, j in zip(field.origin, before, field.jump, strict=True)),
        field.everywhere,
    )


def _through_upsample(node: Node, field: Field) -> Field:
    source, target = ops.static_shape(node.all_input_nodes[0])[1:], ops.static_shape(node)[1:]
    if len(field.jump) != len(source):
        return field
    neighbours = ops.UPSAMPLES[ops.operator_name(node)]
    rank = len(source)
    return _widen(
        field, [1 + neighbours] * rank, [s / t for s, t in zip(source, target, strict=True)], [neighbours] * rank
    )


def _through_pad(node: Node, field: Field) -> Field:
    """Padding before the first position moves all of them on."""
    first = ops.arguments(node)["pad"][0::2][::-1]
    if len(first) > len(field.jump):
        return field
    first = [0] * (len(field.jump) - len(first)) + first
    return replace(field, origin=tuple(o - p * j for o, p, j in zip(field.origin, first, field.jump, strict=True)))


def _through_slice(node: Node, field: Field) -> Field:
    """A strided slice of positions (the "focus" stem) spreads them out."""
    given = ops.arguments(node)
    dimension = given["dim"] % len(ops.shape(node)) - 2
    if not 0 <= dimension < len(field.jump):
        return field
    jump, origin = list(field.jump), list(field.origin)
    origin[dimension] += max(0, given.get("start") or 0) * jump[dimension]
    jump[dimension] *= given["step"]
    return replace(field, jump=tuple(jump), origin=tuple(origin))


def _through_norm(node: Node, field: Field) -> Field:
    """A norm over positions makes each depend on all; one over the channels of a position does not."""
    shape = ops.arguments(node).get("normalized_shape")
    return field if shape is not None and len(shape) == 1 else replace(field, everywhere=True)


def _through_pixel_shuffle(node: Node, field: Field) -> Field:
    factor = ops.arguments(node)["upscale_factor"]
    return replace(field, jump=tuple(j / factor for j in field.jump))


def _through_pixel_unshuffle(node: Node, field: Field) -> Field:
    factor = ops.arguments(node)["downscale_factor"]
    return _widen(field, [factor] * len(field.jump), [factor] * len(field.jump))


def _through_pointwise(
    node: Node,
    inputs: Sequence[Node],
    known: Mapping[Node, Field],
    axes: Mapping[Node, int | None],
    whole: Field,
) -> Field:
    """All that any input sees; of one that is broadcast over the positions (a gate) only that it sees everything."""

    def grid(value: Node) -> list[int]:
        sizes = ops.shape(value)
        return [sizes[d] for d in _grid(len(sizes), axes[value], whole)]

    fields = [known[n] for n in inputs if grid(n) == grid(node)] or [known[n] for n in inputs]
    first = [min(origins) for origins in zip(*(f.origin for f in fields), strict=True)]
    ends = [[o + s for o, s in zip(f.origin, f.size, strict=True)] for f in fields]
    last = [max(several) for several in zip(*ends, strict=True)]
    jumps = zip(*(f.jump for f in fields), strict=True)
    size = tuple(math.ceil(b - a) for a, b in zip(first, last, strict=True))
    return Field(size, tuple(map(max, jumps)), tuple(first), any(known[n].everywhere for n in inputs))


# Operators that mix positions even where they keep the map's shape.
_MIXERS = frozenset({"baddbmm", "bmm", "cumsum", "einsum", "matmul", "scaled_dot_product_attention"})

_REDUCERS = frozenset(
    {"amax", "amin", "linalg_vector_norm", "logsumexp", "max", "mean", "min", "prod", "std", "sum", "var"}
)

_RULES: dict[str, Callable[[Node, Field], Field]] = {
    **dict.fromkeys(ops.UPSAMPLES, _through_upsample),
    "pixel_shuffle": _through_pixel_shuffle,
    "pixel_unshuffle": _through_pixel_unshuffle,
    "slice": _through_slice,
    **dict.fromkeys(ops.NORMS - ops.BATCH_NORMS, _through_norm),
    **dict.fromkeys(ops.PADS | {"reflection_pad2d", "replication_pad2d"}, _through_pad),
}
