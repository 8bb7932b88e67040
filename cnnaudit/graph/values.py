"""What is known about a tensor's values: exact ones that occur often, and its sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cnnaudit.graph import ops

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch.fx import Node

__all__ = ["Values", "values_of"]


@dataclass(frozen=True)
class Values:
    """Atoms are values that an activation produces exactly, such as the 0 of ReLU."""

    atoms: tuple[float, ...] = ()
    nonnegative: bool = False


ANYTHING = Values()
RECTIFIED = Values((0.0,), nonnegative=True)
POSITIVE = Values((), nonnegative=True)


def values_of(node: Node, known: Mapping[Node, Values]) -> Values:
    """What is known about a node's values, given what is known about those of its inputs."""
    inputs = [known[n] for n in node.all_input_nodes if n in known]
    rule = _RULES.get(ops.operator_name(node))
    return rule(node, inputs) if rule else ANYTHING


def _always(values: Values) -> _Rule:
    return lambda _node, _inputs: values


def _same(_node: Node, inputs: Sequence[Values]) -> Values:
    return inputs[0]


def _clamp(low: str, high: str) -> _Rule:
    def rule(node: Node, inputs: Sequence[Values]) -> Values:
        given = ops.arguments(node)
        least, most = given.get(low), given.get(high)
        if not isinstance(least, int | float | None) or not isinstance(most, int | float | None):
            return ANYTHING  # bounds that are tensors
        nonnegative = inputs[0].nonnegative if least is None else least >= 0
        kept = [a for a in inputs[0].atoms if (least is None or a > least) and (most is None or a < most)]
        bounds = [float(bound) for bound in (least, most) if bound is not None]
        return Values(tuple(sorted({*kept, *bounds})), nonnegative)

    return rule


def _threshold(node: Node, _inputs: Sequence[Values]) -> Values:
    given = ops.arguments(node)
    return Values((float(given["value"]),), given["value"] >= 0 and given["threshold"] >= 0)


def _negated(_node: Node, inputs: Sequence[Values]) -> Values:
    return Values(tuple(sorted(-a + 0.0 for a in inputs[0].atoms)))  # + 0.0 turns -0.0 into 0.0


def _absolute(_node: Node, inputs: Sequence[Values]) -> Values:
    return Values(tuple(sorted({abs(a) for a in inputs[0].atoms})), nonnegative=True)


def _averaged(_node: Node, inputs: Sequence[Values]) -> Values:
    """A window of zeros averages to zero; other atoms do not survive the rounding of a mean."""
    return Values(_zero(inputs[0]), inputs[0].nonnegative)


def _padded(node: Node, inputs: Sequence[Values]) -> Values:
    given = ops.arguments(node)
    fill = given.get("value") or 0.0
    if given.get("mode", "constant") != "constant":
        return inputs[0]
    return Values(inputs[0].atoms, inputs[0].nonnegative and fill >= 0)


def _joined(_node: Node, inputs: Sequence[Values]) -> Values:
    atoms = {a for values in inputs for a in values.atoms}
    return Values(tuple(sorted(atoms)), all(values.nonnegative for values in inputs))


def _added(node: Node, inputs: Sequence[Values]) -> Values:
    """Sums of non-negatives are non-negative, and exactly zero where all of them are."""
    if len(inputs) < 2 or ops.arguments(node)["alpha"] != 1 or not all(v.nonnegative for v in inputs):
        return ANYTHING
    return RECTIFIED if all(0.0 in values.atoms for values in inputs) else POSITIVE


def _maximum(_node: Node, inputs: Sequence[Values]) -> Values:
    """Over positions (one input) a maximum is one of the values; of two inputs it may be either."""
    return inputs[0] if len(inputs) == 1 else Values((), any(values.nonnegative for values in inputs))


def _multiplied(node: Node, inputs: Sequence[Values]) -> Values:
    """A product is zero where a factor is; its sign is known if those of all factors are."""
    scale = ops.constant_scale(node)
    known_sign = len(inputs) == 2 or (scale is not None and scale >= 0)
    atoms = (0.0,) if any(0.0 in values.atoms for values in inputs) else ()
    return Values(atoms, known_sign and all(values.nonnegative for values in inputs))


def _divided(node: Node, inputs: Sequence[Values]) -> Values:
    scale = ops.constant_scale(node)
    return ANYTHING if scale is None else Values(_zero(inputs[0]), scale > 0 and inputs[0].nonnegative)


def _zero(values: Values) -> tuple[float, ...]:
    return (0.0,) if 0.0 in values.atoms else ()


if TYPE_CHECKING:
    _Rule = Callable[[Node, Sequence[Values]], Values]

_RULES: dict[str, _Rule] = {
    "relu": _always(RECTIFIED),
    "relu6": _always(Values((0.0, 6.0), nonnegative=True)),
    "hardtanh": _clamp("min_val", "max_val"),
    "clamp": _clamp("min", "max"),
    "clamp_min": _clamp("min", ""),
    "clamp_max": _clamp("", "max"),
    "threshold": _threshold,
    "hardsigmoid": _always(Values((0.0, 1.0), nonnegative=True)),
    "hardswish": _always(Values((0.0,))),  # exactly 0 below -3, but as low as -0.375 above
    **dict.fromkeys(("sigmoid", "softplus", "softmax", "_softmax", "exp"), _always(POSITIVE)),
    "abs": _absolute,
    "neg": _negated,
    "add": _added,
    "mul": _multiplied,
    "div": _divided,
    "cat": _joined,
    "pad": _padded,
    "constant_pad_nd": _padded,
    **dict.fromkeys(ops.AVG_POOLS | ops.ADAPTIVE_AVG_POOLS | {"mean"}, _averaged),
    **dict.fromkeys(ops.MAX_POOLS | ops.ADAPTIVE_MAX_POOLS | {"amax"}, _same),
    **dict.fromkeys(("max", "maximum"), _maximum),
    **dict.fromkeys(("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"), _averaged),
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"), _same),
    **dict.fromkeys(ops.MEMORY | ops.TRANSPOSITIONS | ops.RESHAPES | ops.SPLITS, _same),
    **dict.fromkeys(("channel_shuffle", "expand", "flip", "getitem", "index_select"), _same),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle", "repeat", "roll", "select", "slice"), _same),
}
