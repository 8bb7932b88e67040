"""Walks along a captured graph: from a convolution to its response, from a product to its gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.graph import ops

if TYPE_CHECKING:
    from torch.fx import Node

    from cnnaudit.graph.dataflow import Dataflow

__all__ = [
    "activated",
    "addends",
    "batch_norm_of",
    "gate_of",
    "is_chained",
    "is_part",
    "is_projection",
    "reader_of",
    "response_of",
    "terms",
]


def response_of(flow: Dataflow, output: Node) -> tuple[Node, Node | None]:
    """What the next layers see of an output: after the norms and the one activation that follow it alone.

    The axes may be moved on the way (for a layer norm over channels), nothing else.

    Returns:
        That value, and what the activation reads; None where there is no activation.
    """
    response = current = output
    while (follower := _only_consumer(flow, current)) is not None:
        name = ops.operator_name(follower)
        if name in ops.ACTIVATIONS:
            return follower, current
        if name in ops.NORMS or _is_affine(flow, follower):
            response = current = ops.picked(follower)
        elif name in ops.MEMORY or (name in ops.TRANSPOSITIONS and _keeps_images_first(current, follower)):
            current = follower
        else:
            break
    gated = _self_gated(flow, current)
    return (response, None) if gated is None else (gated, current)


def _keeps_images_first(before: Node, after: Node) -> bool:
    return str(ops.shape(before)[:1]) == str(ops.shape(after)[:1])  # symbols as text: comparing them would add guards


def activated(flow: Dataflow, value: Node) -> Node | None:
    """The activation that follows a value alone."""
    follower = _only_consumer(flow, value)
    return follower if follower is not None and ops.operator_name(follower) in ops.ACTIVATIONS else None


def reader_of(flow: Dataflow, value: Node) -> Node | None:
    """The first convolution that reads a value through operators alone that keep its channels apart."""
    carried, found = {value}, []
    for node in flow.nodes:
        if not carried.issuperset(flow.inputs(node)) or node is flow.nodes[0]:
            continue
        if ops.operator_name(node) in ops.CONVOLUTIONS:
            found.append(node)
        elif _keeps_channels_apart(flow, node):
            carried.add(node)
    return found[0] if found else None


def _keeps_channels_apart(flow: Dataflow, node: Node) -> bool:
    name = ops.operator_name(node)
    pointwise = name in ops.ACTIVATIONS | ops.BATCH_NORMS | ops.MEMORY | {"getitem"}
    return pointwise or _is_affine(flow, node)


def batch_norm_of(flow: Dataflow, output: Node) -> Node | None:
    """The batch norm that follows an output alone."""
    follower = _only_consumer(flow, output)
    is_one = follower is not None and ops.operator_name(follower) in ops.BATCH_NORMS
    return follower if is_one else None


def _only_consumer(flow: Dataflow, node: Node) -> Node | None:
    if len(node.users) != 1:
        return None
    follower = next(iter(node.users))
    return follower if follower in flow and flow.inputs(follower) == [node] else None


def _is_affine(flow: Dataflow, node: Node) -> bool:
    """Scaled or shifted by one constant for each kernel: a frozen or folded norm, a layer scale."""
    if ops.operator_name(node) not in ops.AFFINE or len(flow.inputs(node)) != 1:
        return False
    constants = [n for n in node.all_input_nodes if n not in flow]
    return all(sum(size != 1 for size in ops.shape(constant)) <= 1 for constant in constants)


def _self_gated(flow: Dataflow, node: Node) -> Node | None:
    """The product of ``x * g(x)`` where g is pointwise (a swish written out), which is one activation."""
    products = [u for u in node.users if ops.operator_name(u) == "mul" and len(flow.inputs(u)) == 2]
    if len(node.users) != 2 or len(products) != 1:
        return None
    other = next(n for n in flow.inputs(products[0]) if n is not node)
    return products[0] if _is_pointwise_of(flow, node, other) else None


def _is_pointwise_of(flow: Dataflow, start: Node, end: Node) -> bool:
    """Whether ``end`` is ``start`` after activations and arithmetic with constants alone."""
    while end is not start:
        pointwise = ops.operator_name(end) in ops.ACTIVATIONS or _is_affine(flow, end)
        if not pointwise or end not in flow:
            return False
        end = flow.inputs(end)[0]
    return True


def addends(flow: Dataflow, node: Node) -> tuple[Node, Node] | None:
    """The two activations of equal shape that a node adds, None where it does something else."""
    if ops.operator_name(node) != "add" or not ops.is_float(node):
        return None
    given = ops.arguments(node)
    left, right = given["self"], given["other"]
    if left not in flow or right not in flow or left is right:
        return None
    same = ops.shape(left) == ops.shape(right) and len(ops.shape(node)) >= 3
    return (left, right) if same else None


def is_chained(flow: Dataflow, node: Node) -> bool:
    """Whether a sum is only an intermediate result of a longer sum."""
    return len(node.users) == 1 and addends(flow, next(iter(node.users))) is not None


def terms(flow: Dataflow, node: Node) -> list[Node]:
    """What a chain of additions adds up to ``node``; ``[node]`` where that is no intermediate sum."""
    parts = addends(flow, node)
    if parts is None or not is_chained(flow, node):
        return [flow.source(node)]
    return [term for part in parts for term in terms(flow, part)]


def is_part(flow: Dataflow, ancestor: Node, node: Node) -> bool:
    """Whether a value comes from only some of the channels of ``ancestor``: from a split of it or a slice."""
    if not ops.is_tensor(ancestor):
        return True
    while node is not ancestor and flow.inputs(node):
        source = flow.inputs(node)[0]
        axis = flow.axes[source] or 1
        sliced = ops.operator_name(node) == "slice" and ops.shape(source)[axis] != ops.shape(node)[axis]
        if sliced or ops.operator_name(node) in ops.SPLITS:
            return flow.weights_between(ancestor, source) == 0
        node = source
    return False


def is_projection(flow: Dataflow, ancestor: Node | None, node: Node) -> bool:
    """Whether no activation lies between a value and an ancestor: all the layers there are one linear map."""
    if ancestor is None:
        return False
    after = flow.nodes[flow.nodes.index(ancestor) + 1 : flow.nodes.index(node) + 1]
    reached = {ancestor}
    for value in after:
        if not reached.isdisjoint(flow.inputs(value)):
            reached.add(value)
    on_the_way = {node}
    for value in reversed(after):
        if value in on_the_way:
            on_the_way.update(reached.intersection(flow.inputs(value)))
    between = on_the_way - {ancestor}
    return not any(ops.operator_name(value) in ops.ACTIVATIONS | ops.BOUNDED for value in between)


def gate_of(flow: Dataflow, product: Node) -> tuple[Node, Node] | None:
    """The gated map and its gate, None where a product gates nothing.

    A gate is bounded by a sigmoid or a softmax, or it is broadcast over the map and computed by layers
    of its own (a squeeze-excite gate with any other last activation).
    """
    factors = flow.inputs(product)
    if len(factors) != 2:
        return None
    left, right = factors
    if _is_pointwise_of(flow, left, right) or _is_pointwise_of(flow, right, left):
        return None
    for gate, gated in ((right, left), (left, right)):
        if _is_bounded(flow, gate) or _is_broadcast_by_layers(flow, gate, gated):
            return gated, gate
    return None


_CARRIERS = (
    ops.MEMORY
    | ops.RESHAPES
    | ops.TRANSPOSITIONS
    | ops.SPLITS
    | frozenset(ops.UPSAMPLES)
    | {"expand", "getitem", "select", "slice"}
)


def _is_bounded(flow: Dataflow, node: Node) -> bool:
    while ops.operator_name(node) in _CARRIERS and node in flow:
        node = flow.inputs(node)[0]
    return ops.operator_name(node) in ops.BOUNDED


def _is_broadcast_by_layers(flow: Dataflow, gate: Node, gated: Node) -> bool:
    sizes = zip(ops.shape(gate), ops.shape(gated), strict=False)
    if len(ops.shape(gate)) != len(ops.shape(gated)) or not any(g == 1 != s for g, s in sizes):
        return False
    return flow.weights_between(flow.latest_common_ancestor(gate, gated), gate) > 0
