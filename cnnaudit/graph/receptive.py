"""Receptive fields: how many pixels of the network's input a position of a value sees."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from typing import TYPE_CHECKING

from cnnaudit.graph import ops

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch.fx import Node

    Reads = Callable[[int], tuple[int, int]]

__all__ = ["Field", "Window", "field_of", "window_of"]


@dataclass(frozen=True)
class Field:
    """What one position sees of the input.

    Attributes:
        size: Pixels seen, for each spatial dimension of the input; may exceed the input.
        jump: Pixels between neighbouring positions.
        origin: First pixel that the first position sees; below 0 where it sees padding.
        extent: Positions of the map, which values may hold flattened.
        inside: The first position that sees no border, of the input or of a crop, and the one behind the last.
        period: The shortest shift of the input that moves all maps before it by whole positions.
        everywhere: Whether every position also depends on the whole input, by a gate or a norm over positions.
    """

    size: tuple[int, ...]
    jump: tuple[float, ...]
    origin: tuple[float, ...]
    extent: tuple[int, ...]
    inside: tuple[tuple[int, int], ...]
    period: tuple[float, ...]
    everywhere: bool = False

    @staticmethod
    def pixel(extent: tuple[int, ...]) -> Field:
        """What a position of the input sees: itself."""
        one = (1,) * len(extent)
        return Field(one, one, (0,) * len(extent), extent, tuple((0, size) for size in extent), one)

    @staticmethod
    def whole(extent: tuple[int, ...]) -> Field:
        """What a position sees when it sees the whole input; how many such positions there are does not matter."""
        nowhere = (0,) * len(extent)
        return Field(extent, nowhere, nowhere, (), ((0, 0),) * len(extent), nowhere, everywhere=True)


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
    rank = len(ops.shape(inputs[0]))
    grid = _grid(rank, axes[inputs[0]], whole)
    if name in _MIXERS or _dimensions(node, name, rank) & set(grid) or _holds_images_inside(node, inputs):
        return whole
    if name in ops.LINEARS:
        # It mixes the last dimension: channels, unless positions were flattened into it.
        return first if len(inputs) == 1 and axes[inputs[0]] == rank - 1 else whole
    if name in _REDUCERS | _MOVERS:
        return first
    if (window := window_of(node)) is not None:
        seen = _through_window(first, window, node, whole)
        # A kernel that is computed from the input brings along what that saw.
        return replace(seen, everywhere=seen.everywhere or any(known[n].everywhere for n in inputs))
    if (rule := _RULES.get(name)) is not None:
        return rule(node, first, grid)
    return _through_pointwise(node, inputs, known, axes, whole)


def _holds_images_inside(node: Node, inputs: Sequence[Node]) -> bool:
    """Whether the images are not the first dimension: the batch, a symbol, is among the others."""
    return any(not isinstance(size, int) for value in (node, *inputs) for size in ops.static_shape(value))


def _grid(rank: int, axis: int | None, whole: Field) -> list[int]:
    """Dimensions that hold positions: the last ones that hold neither the batch nor channels."""
    return [d for d in range(1, rank) if d != axis][-len(whole.size) :]


def _dimensions(node: Node, name: str, rank: int) -> frozenset[int]:
    """Dimensions that an operator reduces, or along which it picks or reorders entries."""
    if name not in _REDUCERS | _MOVERS:
        return frozenset()
    given = ops.arguments(node)
    if "indices" in given:
        return frozenset(d for d, index in enumerate(given["indices"]) if index is not None)
    named = given.get("dims", given.get("dim"))
    return ops.dimensions(None if named == [] else named, rank)


def _through_window(field: Field, window: Window, node: Node, whole: Field) -> Field:
    source, target = ops.static_shape(node.all_input_nodes[0])[1:], ops.static_shape(node)[1:]
    if len(field.jump) != len(target):
        return whole  # the window slides over something else than the input's grid
    if window.kernel == source and not any(window.padding):
        return whole
    if not window.kernel:  # an adaptive pool with windows of unequal shapes: the largest counts
        kernel = [-(-s // t) + 1 for s, t in zip(source, target, strict=True)]
        reads = [_adaptive(s, t) for s, t in zip(source, target, strict=True)]
        return _widen(field, target, kernel, [s / t for s, t in zip(source, target, strict=True)], reads=reads)
    reach = [(k - 1) * d + 1 for k, d in zip(window.kernel, window.dilation, strict=True)]
    if window.transposed:
        before = [(r - 1 - p) / s for r, p, s in zip(reach, window.padding, window.stride, strict=True)]
        reads = [_spread(s, p, r) for s, p, r in zip(window.stride, window.padding, reach, strict=True)]
        reach = [-(-r // s) for r, s in zip(reach, window.stride, strict=True)]
        return _widen(field, target, reach, [1 / s for s in window.stride], before, reads=reads)
    return _widen(field, target, reach, window.stride, window.padding)


# For each kind of operator, the first and the last position of its input that a position of its output reads.


def _sliding(stride: int, before: int, reach: int) -> Reads:
    return lambda p: (p * stride - before, p * stride - before + reach - 1)


def _spread(stride: int, padding: int, reach: int) -> Reads:
    return lambda p: (-((reach - 1 - padding - p) // stride), (p + padding) // stride)


def _adaptive(source: int, target: int) -> Reads:
    return lambda p: (p * source // target, -(-(p + 1) * source // target) - 1)


def _resampled(source: int, target: int, neighbours: int) -> Reads:
    """Of whole factors; half of the neighbours lie before the nearest position below."""
    if not neighbours:
        return lambda p: (p * source // target, p * source // target)

    def read(position: int) -> tuple[int, int]:
        below = ((2 * position + 1) * source - target) // (2 * target)
        return below - neighbours // 2, below + neighbours - neighbours // 2

    return read


def _nowhere(position: int) -> tuple[int, int]:
    return -1 - position, position


def _widen(
    field: Field,
    target: Sequence[int],
    reach: Sequence[int],
    stride: Sequence[float],
    before: Sequence[float] = (),
    *,
    reads: Sequence[Reads] = (),
) -> Field:
    """The field of windows of ``reach`` neighbouring positions, ``stride`` apart, the first ``before`` the first.

    ``reads`` tells what they read where ``stride`` and ``before`` are no whole numbers.
    """
    before = before or (0,) * len(reach)
    reads = reads or [_sliding(int(s), int(b), r) for s, b, r in zip(stride, before, reach, strict=True)]
    jump = tuple(j * s for j, s in zip(field.jump, stride, strict=True))
    return Field(
        tuple(math.ceil(f + (r - 1) * j) for f, r, j in zip(field.size, reach, field.jump, strict=True)),
        jump,
        tuple(o - b * j for o, b, j in zip(field.origin, before, field.jump, strict=True)),
        tuple(target),
        tuple(map(_inside, field.inside, reads, target)),
        tuple(map(_common_multiple, field.period, jump)),
        field.everywhere,
    )


def _inside(limits: tuple[int, int], reads: Reads, extent: int) -> tuple[int, int]:
    """The positions that read nothing outside some limits: the first, and the one behind the last."""
    first, end = limits
    found = [p for p in range(extent) if first <= reads(p)[0] and reads(p)[1] < end]
    return (found[0], found[-1] + 1) if found else (0, 0)


def _common_multiple(a: float, b: float) -> float:
    """The smallest number that is a multiple of both; the other one where one is 0."""
    if not a or not b:
        return a or b
    x, y = (Fraction(number).limit_denominator(_LARGEST_FACTOR) for number in (a, b))
    return math.lcm(x.numerator, y.numerator) / math.gcd(x.denominator, y.denominator)


def _through_upsample(node: Node, field: Field, grid: Sequence[int]) -> Field:
    source, target = ops.static_shape(node.all_input_nodes[0])[1:], ops.static_shape(node)[1:]
    if len(field.jump) != len(source) or source == target:
        return field
    neighbours = ops.UPSAMPLES[ops.operator_name(node)]
    # Between aligned corners, or by a factor that is not whole, no shift moves the map exactly.
    exact = not ops.arguments(node).get("align_corners")
    reads = [
        _resampled(s, t, neighbours) if exact and (s % t == 0 or t % s == 0) else _nowhere
        for s, t in zip(source, target, strict=True)
    ]
    rank = len(grid)
    ratio = [s / t for s, t in zip(source, target, strict=True)]
    return _widen(field, target, [1 + neighbours] * rank, ratio, [neighbours] * rank, reads=reads)


def _through_pad(node: Node, field: Field, grid: Sequence[int]) -> Field:
    """Padding before the first position moves all of them on; negative padding crops."""
    given = ops.arguments(node)
    amounts = given["pad"] if "pad" in given else given["padding"]
    sizes = ops.shape(node)
    if len(grid) != len(field.jump):
        return field
    before = [amounts[2 * (len(sizes) - 1 - d)] if 2 * (len(sizes) - 1 - d) < len(amounts) else 0 for d in grid]
    return _widen(field, [sizes[d] for d in grid], [1] * len(grid), [1] * len(grid), before)


def _through_slice(node: Node, field: Field, grid: Sequence[int]) -> Field:
    """A strided slice of positions (the "focus" stem) spreads them out."""
    given = ops.arguments(node)
    source, target = ops.shape(node.all_input_nodes[0]), ops.shape(node)
    dimension = given["dim"] % len(target)
    if len(grid) != len(field.jump) or dimension not in grid:
        return field
    start, size = given.get("start") or 0, source[dimension]
    start = min(max(start + size, 0), size) if start < 0 else min(start, size)
    step = [given["step"] if d == dimension else 1 for d in grid]
    before = [-start if d == dimension else 0 for d in grid]
    return _widen(field, [target[d] for d in grid], [1] * len(grid), step, before)


def _through_norm(node: Node, field: Field, grid: Sequence[int]) -> Field:  # noqa: ARG001 - as all rules
    """A norm over positions makes each depend on all; one over the channels of a position does not."""
    shape = ops.arguments(node).get("normalized_shape")
    return field if shape is not None and len(shape) == 1 else replace(field, everywhere=True)


def _through_pixel_shuffle(node: Node, field: Field, grid: Sequence[int]) -> Field:
    factor, target = ops.arguments(node)["upscale_factor"], ops.shape(node)
    if len(grid) != len(field.jump):
        return field
    reads = [_spread(factor, 0, factor)] * len(grid)
    return _widen(field, [target[d] for d in grid], [1] * len(grid), [1 / factor] * len(grid), reads=reads)


def _through_pixel_unshuffle(node: Node, field: Field, grid: Sequence[int]) -> Field:
    factor, target = ops.arguments(node)["downscale_factor"], ops.shape(node)
    if len(grid) != len(field.jump):
        return field
    return _widen(field, [target[d] for d in grid], [factor] * len(grid), [factor] * len(grid))


def _through_pointwise(
    node: Node,
    inputs: Sequence[Node],
    known: Mapping[Node, Field],
    axes: Mapping[Node, int | None],
    whole: Field,
) -> Field:
    """All that any input sees; of one that is broadcast over the positions (a gate) only that it sees everything."""

    def grid(value: Node) -> tuple[int, ...]:
        sizes = ops.shape(value)
        return tuple(sizes[d] for d in _grid(len(sizes), axes[value], whole))

    fields = [known[n] for n in inputs if grid(n) == grid(node)] or [known[n] for n in inputs]
    if _regrouped(node, inputs, {grid(n) for n in inputs}, {f.extent for f in fields}, whole):
        return whole
    first = [min(origins) for origins in zip(*(f.origin for f in fields), strict=True)]
    ends = [[o + s for o, s in zip(f.origin, f.size, strict=True)] for f in fields]
    last = [max(several) for several in zip(*ends, strict=True)]
    size = tuple(math.ceil(b - a) for a, b in zip(first, last, strict=True))
    return Field(
        size,
        tuple(map(max, zip(*(f.jump for f in fields), strict=True))),
        tuple(first),
        max(f.extent for f in fields),
        tuple(map(_shared, zip(*(f.inside for f in fields), strict=True))),
        tuple(reduce(_common_multiple, several) for several in zip(*(f.period for f in fields), strict=True)),
        any(known[n].everywhere for n in inputs),
    )


def _shared(ranges: Sequence[tuple[int, int]]) -> tuple[int, int]:
    first, end = max(a for a, _ in ranges), min(b for _, b in ranges)
    return (first, end) if first < end else (0, 0)


def _regrouped(
    node: Node, inputs: Sequence[Node], grids: set[tuple[int, ...]], extents: set[tuple[int, ...]], whole: Field
) -> bool:
    """Whether a value is a map of other positions than those it is computed from, by an operator without a rule.

    Positions that are flattened, or cut into windows that become images of their own, may yet be put back.
    """
    sizes, rank = ops.shape(node), len(whole.size)
    if len(sizes) != rank + 2 or all(str(sizes[:1]) != str(ops.shape(n)[:1]) for n in inputs):
        return False
    candidates = {sizes[1:-1], sizes[2:]}  # channels last or first
    broadcast = any(all(a in (1, b) for a, b in zip(g, c, strict=False)) for g in grids for c in candidates if 1 in g)
    return not broadcast and not candidates & extents


# Operators that mix positions even where they keep the map's shape.
_MIXERS = frozenset(
    {"baddbmm", "bmm", "cumsum", "einsum", "matmul", "scaled_dot_product_attention"}
    | {"col2im", "grid_sampler", "grid_sampler_2d", "grid_sampler_3d", "im2col"}
)
# Operators that do where they run over positions.
_MOVERS = frozenset({"flip", "gather", "index", "index_select", "roll"})

_LARGEST_FACTOR = 10_000

_REDUCERS = frozenset(
    {"amax", "amin", "linalg_vector_norm", "logsumexp", "max", "mean", "min", "prod", "std", "sum", "var"}
)

_RULES: dict[str, Callable[[Node, Field, Sequence[int]], Field]] = {
    **dict.fromkeys(ops.UPSAMPLES, _through_upsample),
    "pixel_shuffle": _through_pixel_shuffle,
    "pixel_unshuffle": _through_pixel_unshuffle,
    "slice": _through_slice,
    **dict.fromkeys(ops.NORMS - ops.BATCH_NORMS, _through_norm),
    **dict.fromkeys(ops.PADS | {"reflection_pad2d", "replication_pad2d"}, _through_pad),
}
