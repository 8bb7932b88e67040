"""Finds the sites of a captured graph: one handler for each kind, chosen by the operator's name."""

from __future__ import annotations

import math
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch.fx import Node

from cnnaudit.graph import ops
from cnnaudit.graph.dataflow import Dataflow
from cnnaudit.graph.outputs import logits_of
from cnnaudit.graph.paths import name_sites
from cnnaudit.graph.receptive import window_of
from cnnaudit.graph.walks import (
    activated,
    addends,
    batch_norm_of,
    gate_of,
    is_chained,
    is_part,
    is_projection,
    reader_of,
    response_of,
    terms,
)
from cnnaudit.site import Op, Site, Tap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch.fx import GraphModule

__all__ = ["find_sites", "sites_of"]


def find_sites(module: GraphModule) -> tuple[Site, ...]:
    """The sites of a captured graph in execution order."""
    return sites_of(Dataflow(module.graph), logits_of(module))


def sites_of(flow: Dataflow, logits: Node | None) -> tuple[Site, ...]:
    """The sites of a graph whose dataflow is known, and which of its results the logits are."""
    found = []
    for node in flow.nodes:
        label, handler = HANDLERS.get(ops.operator_name(node), ("", None))
        site = handler(flow, node) if handler else None
        if site is not None:
            found.append((node, label, site))
    gates = {node: site.taps["gate"].node for node, _, site in found if site.op is Op.GATE}
    found = [(node, label, replace(site, steers=_steers(node, gates))) for node, label, site in found]
    paths = name_sites(flow.nodes, [(node, label) for node, label, _ in found])
    named = {node: replace(site, path=path) for (node, _, site), path in zip(found, paths, strict=True)}
    return (*_inputs(flow, named.values()), *_with_head(logits, flow, named))


def _inputs(flow: Dataflow, others: Iterable[Site]) -> Iterator[Site]:
    """What goes into the network as sites, to compare what comes after with."""
    taken = {site.path for site in others}
    for node, path in flow.entrances.items():
        site = _site(flow, node, Op.INPUT, {"output": node})
        if site is not None:
            yield replace(site, path=f"{path}#input.0" if path in taken else path)


def _steers(node: Node, gates: Mapping[Node, str]) -> bool:
    """Whether all that is computed from a value ends as the factor of a gate."""
    seen, waiting = {node}, [node]
    while waiting:
        value = waiting.pop()
        for user in value.users:
            if user.op == "output":
                return False
            if gates.get(user) != value.name and user not in seen:
                seen.add(user)
                waiting.append(user)
    return True


def _site(
    flow: Dataflow, node: Node, op: Op, taps: Mapping[str, Node], *, axis: int | None = None, **facts: Any
) -> Site | None:
    """A site that has no path yet; None where one of its values cannot be read image by image."""
    after = ("response", "preactivation", "activated")  # a norm before may have moved the axes
    read = {name: flow.tap(value, None if name in after else axis) for name, value in taps.items()}
    known = {name: tap for name, tap in read.items() if tap is not None}
    if len(known) < len(read):
        return None
    return Site(
        path="",
        op=op,
        units=known["sum" if "sum" in known else "output"].shape[0],
        taps=MappingProxyType(known),
        receptive_field=flow.receptive_field(node),
        jump=flow.jump(node),
        period=flow.period(node),
        interior=flow.interior(ops.picked(node)),
        depends_on_all=flow.depends_on_all(taps.get("response", node)),
        macs=flow.macs.get(node, 0),
        macs_after=flow.macs_after(node),
        depth=flow.depth[node],
        **facts,
    )


def _convolution(flow: Dataflow, node: Node) -> Site | None:
    given = ops.arguments(node)
    window, groups = window_of(node), given["groups"]
    if window is None or given["input"] not in flow:
        return None
    if given["weight"] in flow or not isinstance(groups, int):
        return None  # each image has kernels of its own
    if len(ops.static_shape(given["input"])) != len(window.stride) + 1:
        return None  # an image without a batch
    source, padding = _unpadded(flow, given["input"], window.padding)
    inputs, outputs = ops.static_shape(source), ops.static_shape(node)
    if window is None or source not in flow or len(inputs) != len(window.stride) + 1:
        return None  # the last: an image without a batch
    return _site(
        flow,
        node,
        Op.CONV,
        {"input": source, "output": node, **_response(flow, node)},
        axis=1,
        parameters=MappingProxyType({} if window.transposed else _parameters(flow, node)),
        kernel=window.kernel,
        stride=window.stride,
        padding=padding,
        dilation=window.dilation,
        groups=groups,
        transposed=window.transposed,
        downsamples=not window.transposed and _shrinks(inputs, outputs, window.stride),
        rank=groups * min(inputs[0] // groups * math.prod(window.kernel), outputs[0] // groups),
    )


def _response(flow: Dataflow, node: Node) -> dict[str, Node]:
    """What a layer hands on, and what its activation reads where it has one."""
    response, read = response_of(flow, node)
    return {"response": response} if read is None else {"preactivation": read, "response": response}


def _unpadded(flow: Dataflow, source: Node, padding: tuple[int, ...]) -> tuple[Node, tuple[int, ...]]:
    """The map before explicit constant padding, and the padding before its first position including that."""
    while ops.operator_name(source) in ops.PADS and padding:
        given = ops.arguments(source)
        amounts, before, reach = given["pad"], given["self"], len(given["pad"]) // 2
        constant = given.get("mode", "constant") == "constant"
        if not constant or before not in flow or reach > len(padding) or min(amounts) < 0:
            break
        # Amounts are given in pairs from the last dimension on: before it, behind it.
        first = (0,) * (len(padding) - reach) + tuple(amounts[0::2][::-1])
        source, padding = before, tuple(a + b for a, b in zip(padding, first, strict=True))
    return source, padding


def _shrinks(inputs: Sequence[int], outputs: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether steps make the map smaller; borders lost for want of padding are not downsampling."""
    return any(s > 1 and o < i for i, o, s in zip(inputs[1:], outputs[1:], stride, strict=True))


def _linear(flow: Dataflow, node: Node) -> Site | None:
    source = ops.arguments(node)[ops.LINEARS[ops.operator_name(node)]]
    if source not in flow or not flow.is_weighted(node):
        return None
    last = len(ops.shape(source)) - 1
    return _site(
        flow,
        node,
        Op.LINEAR,
        {"input": source, "output": node, **_response(flow, node)},
        axis=last,
        parameters=MappingProxyType(_parameters(flow, node)),
        rank=min(ops.shape(source)[-1], ops.shape(node)[-1]),
    )


def _parameters(flow: Dataflow, node: Node) -> dict[str, Tap]:
    """The weight of a layer, and scale and shift of the batch norm after it, where they are plain constants."""
    norm = batch_norm_of(flow, node)
    scaled = {} if norm is None else ops.arguments(norm)
    return _named(
        {"weight": ops.arguments(node).get("weight"), "gamma": scaled.get("weight"), "beta": scaled.get("bias")}
    )


def _named(values: Mapping[str, Any]) -> dict[str, Tap]:
    """Those of some values that are plain constants."""
    return {
        name: Tap(value.name, ops.shape(value))
        for name, value in values.items()
        if isinstance(value, Node) and value.op == "get_attr"
    }


def _sliding_pool(flow: Dataflow, node: Node) -> Site | None:
    window, source = window_of(node), ops.arguments(node)["self"]
    if window is None or flow.axes[source] not in (1, None):
        return None  # it slides over channels: a local response normalization
    if window.kernel and len(ops.static_shape(source)) != len(window.kernel) + 1:
        return None  # an image without a batch
    source, padding = _unpadded(flow, source, window.padding)
    inputs, outputs = ops.static_shape(source), ops.static_shape(node)
    covers = window.kernel and all(k >= i for k, i in zip(window.kernel, inputs[1:], strict=True))
    return _site(
        flow,
        node,
        Op.POOL,
        {"input": source, "output": ops.picked(node)},
        axis=1,
        operator="avg" if "avg" in ops.operator_name(node) else "max",
        kernel=window.kernel,
        stride=window.stride,
        padding=padding,
        dilation=window.dilation,
        # Where padding is written before it the window ends in that, not at the map's end.
        ceil_mode=source is ops.arguments(node)["self"] and bool(ops.arguments(node).get("ceil_mode")),
        downsamples=math.prod(outputs[1:]) < math.prod(inputs[1:])
        and (not window.stride or _shrinks(inputs, outputs, window.stride)),
        is_global=math.prod(outputs[1:]) == 1 and bool(covers),
    )


def _global_pool(flow: Dataflow, node: Node) -> Site | None:
    """A mean or maximum over all positions and nothing else."""
    given = ops.arguments(node)
    source = given["self"]
    sizes = ops.shape(source)
    channels = flow.axes[source] or 1
    positions = frozenset(range(1, len(sizes))) - {channels}
    if "dim" not in given or not positions or ops.dimensions(given["dim"], len(sizes)) != positions:
        return None
    spatial = tuple(sizes[d] for d in sorted(positions))
    return _site(
        flow,
        node,
        Op.POOL,
        {"input": source, "output": ops.picked(node)},
        operator=ops.REDUCTIONS[ops.operator_name(node)],
        kernel=spatial,
        stride=spatial,
        padding=(0,) * len(spatial),
        dilation=(1,) * len(spatial),
        downsamples=math.prod(spatial) > 1,
        is_global=True,
    )


def _addition(flow: Dataflow, node: Node) -> Site | None:
    """A residual addition, or a merge of two branches that have no skip.

    In a chain of additions the one that adds a branch to the skip is a residual addition, and so is each
    that adds a further branch to that sum; sums of branches alone are left to the end of the chain.
    Parts of one value that was split (res2net) are no skips of each other; a part is one of a branch that
    is computed from the whole value (dual path networks). A projected skip is one layer, or several without an
    activation.
    """
    parts = addends(flow, node)
    if parts is None:
        return None
    left, right = parts
    left_terms, right_terms = terms(flow, left), terms(flow, right)
    ancestor = flow.latest_common_ancestor(*left_terms, *right_terms)
    if ancestor in left_terms:
        return _residual(flow, node, left, right)
    if ancestor in right_terms:
        return _residual(flow, node, right, left)
    if is_chained(flow, node):
        return None
    skip, branch = sorted(parts, key=lambda part: flow.weights_between(ancestor, part))
    short, long = (flow.weights_between(ancestor, part) for part in (skip, branch))
    apart = ancestor is None or (is_part(flow, ancestor, skip) and is_part(flow, ancestor, branch))
    if short < long and not apart and (short <= 1 or _is_projected(flow, ancestor, skip, branch)):
        return _residual(flow, node, skip, branch)
    taps = {"left": left, "right": right, **_sum(flow, node)}
    return _site(flow, node, Op.MERGE, taps, axis=_shared_axis(flow, parts))


def _is_projected(flow: Dataflow, ancestor: Node | None, skip: Node, branch: Node) -> bool:
    """Whether a skip of several layers (depthwise and pointwise) is a projection all the same, beside a true branch."""
    return is_projection(flow, ancestor, skip) and not is_projection(flow, ancestor, branch)


def _residual(flow: Dataflow, node: Node, skip: Node, branch: Node) -> Site | None:
    taps = {"skip": skip, "branch": branch, **_sum(flow, node)}
    return _site(flow, node, Op.RESIDUAL, taps, axis=_shared_axis(flow, (skip, branch)))


def _sum(flow: Dataflow, node: Node) -> dict[str, Node]:
    after = activated(flow, node)
    return {"sum": node} if after is None else {"sum": node, "preactivation": node, "activated": after}


def _shared_axis(flow: Dataflow, values: Sequence[Node]) -> int | None:
    """Where the channels are, according to the first value that tells."""
    return next((axis for axis in map(flow.axes.get, values) if axis is not None), None)


def _concatenation(flow: Dataflow, node: Node) -> Site | None:
    given = ops.arguments(node)
    parts = [part for part in given["tensors"] if part in flow]
    dimension = given["dim"] % max(len(ops.shape(node)), 1)
    distinct = {flow.source(part) for part in parts}
    if len(distinct) < 2 or dimension != (flow.axes[node] or dimension):
        return None
    taps = {f"input{i}": part for i, part in enumerate(parts)}
    taps["branch"] = max(parts, key=flow.nodes.index)
    reader = reader_of(flow, node)
    window = None if reader is None else window_of(reader)
    whole = len(parts) == len(given["tensors"])  # constants among them are no inputs, but have channels
    if reader is None or window is None or window.transposed or flow.axes[node] != 1 or not whole:
        return _site(flow, node, Op.CONCAT, {**taps, "output": node}, axis=dimension)
    given = ops.arguments(reader)
    return _site(
        flow,
        node,
        Op.CONCAT,
        {**taps, "consumed": given["input"], "output": node},
        axis=dimension,
        parameters=MappingProxyType(_named({"weight": given["weight"]})),
        kernel=window.kernel,
        stride=window.stride,
        padding=window.padding,
        dilation=window.dilation,
        groups=given["groups"],
    )


def _gate(flow: Dataflow, node: Node) -> Site | None:
    found = gate_of(flow, node)
    if found is None:
        return None
    gated, gate = found
    if ops.shape(node) != ops.shape(gated) or len(ops.shape(gate)) != len(ops.shape(gated)):
        return None
    return _site(flow, node, Op.GATE, {"input": gated, "gate": gate, "output": node}, axis=flow.axes[node])


def _with_head(value: Node | None, flow: Dataflow, sites: dict[Node, Site]) -> tuple[Site, ...]:
    """The sites with the one that makes the logits: that layer itself, or one called ``output``."""
    if value is None or value not in flow:
        return tuple(sites.values())
    layer = value
    while ops.operator_name(layer) in ops.RESHAPES | ops.MEMORY:
        layer = layer.all_input_nodes[0]
    made = sites.get(layer)
    if made is not None and flow.is_weighted(layer) and _without_ones(layer) == _without_ones(value):
        taps = {name: made.taps[name] for name in ("input", "output")}
        return tuple(
            replace(site, op=Op.HEAD, taps=MappingProxyType(taps)) if site is made else site for site in sites.values()
        )
    head = _site(flow, value, Op.HEAD, {"input": value, "output": value})
    if head is None:
        return tuple(sites.values())
    taken = {site.path for site in sites.values()}
    return (*sites.values(), replace(head, path="output#head.0" if "output" in taken else "output"))


def _without_ones(node: Node) -> list[int]:
    return [size for size in ops.static_shape(node) if size != 1]


HANDLERS: dict[str, tuple[str, Callable[[Dataflow, Node], Site | None]]] = {
    **dict.fromkeys(ops.CONVOLUTIONS, ("conv", _convolution)),
    **dict.fromkeys(ops.LINEARS, ("linear", _linear)),
    **dict.fromkeys(ops.MAX_POOLS | ops.ADAPTIVE_MAX_POOLS, ("max_pool", _sliding_pool)),
    **dict.fromkeys(ops.AVG_POOLS | ops.ADAPTIVE_AVG_POOLS, ("avg_pool", _sliding_pool)),
    "mean": ("avg_pool", _global_pool),
    "amax": ("max_pool", _global_pool),
    "max": ("max_pool", _global_pool),
    "add": ("add", _addition),
    "cat": ("cat", _concatenation),
    "mul": ("mul", _gate),
}
