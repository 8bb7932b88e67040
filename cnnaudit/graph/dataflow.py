"""What flows where in a captured graph: facts about each value, found in one forward sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.graph import ops
from cnnaudit.graph.axes import axis_of
from cnnaudit.graph.receptive import Field, field_of
from cnnaudit.graph.values import Values, values_of
from cnnaudit.site import Tap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.fx import Graph, Node

__all__ = ["Dataflow"]


class Dataflow:
    """The values of a graph that depend on the network's inputs, in execution order.

    Attributes:
        entrances: The placeholders of what the data gives with the paths of their sites; the images come first, and
            positions are theirs.
        nodes: Those values; parameters, buffers and what is computed from them alone are constants.
        macs: Multiplications of each convolution and linear layer for one image.
        depth: Convolutions and linear layers on the longest path up to and with each value.
        axes: Dimension that holds the channels of each value, None where channels were mixed with positions.
        values: Atoms and sign of each value.
        input_size: Spatial extent of the network's input.
    """

    def __init__(self, graph: Graph, entrances: Mapping[Node, str] | None = None) -> None:
        self.entrances = entrances or _usual(graph)
        images, *others = self.entrances
        # Symbols as text; comparing symbols as such would add guards.
        self._batches = {str(size) for node in self.entrances for size in ops.shape(node)[:1]}
        self.input_size = ops.static_shape(images)[1:]
        self._whole = Field.whole(self.input_size)
        self.nodes: list[Node] = [images, *others]
        self._ancestors = {node: 1 << i for i, node in enumerate(self.nodes)}  # sets of positions in `nodes`, as bits
        self.macs: dict[Node, int] = {}
        self.depth: dict[Node, int] = dict.fromkeys(self.nodes, 0)
        self.axes: dict[Node, int | None] = {node: 1 if len(ops.shape(node)) > 1 else None for node in self.nodes}
        self.values: dict[Node, Values] = dict.fromkeys(self.nodes, Values())
        alike = {node: ops.static_shape(node)[1:] == self.input_size for node in self.nodes}
        self._fields = {node: Field.pixel(self.input_size) if alike[node] else self._whole for node in self.nodes}
        self._tapped: dict[str, int] = {}
        for node in graph.nodes:
            if node.op == "call_function" and ops.holds_tensors(node) and self.inputs(node):
                self._visit(node)

    def _visit(self, node: Node) -> None:
        inputs = self.inputs(node)
        ancestors = 1 << len(self.nodes)
        for source in inputs:
            ancestors |= self._ancestors[source]
        self.nodes.append(node)
        self._ancestors[node] = ancestors
        self.depth[node] = max(self.depth[n] for n in inputs) + self.is_weighted(node)
        if self.is_weighted(node):
            self.macs[node] = ops.multiplications(node)
        self.axes[node] = axis_of(node, self.axes)
        self.values[node] = values_of(node, self.values)
        self._fields[node] = field_of(node, self._fields, self.axes, self._whole)

    def __contains__(self, node: object) -> bool:
        return node in self._ancestors

    def inputs(self, node: Node) -> list[Node]:
        """Inputs of a node that depend on the network's input, each once."""
        return [n for n in node.all_input_nodes if n in self._ancestors]

    def is_weighted(self, node: Node) -> bool:
        """Whether the node is a convolution or a linear layer: an activation meets constant weights."""
        name = ops.operator_name(node)
        return name in ops.CONVOLUTIONS or (name in ops.LINEARS and len(self.inputs(node)) == 1)

    def latest_common_ancestor(self, *nodes: Node) -> Node | None:
        """The last value from which all of ``nodes`` are computed; None where they come from several inputs."""
        common = self._ancestors[nodes[0]]
        for node in nodes[1:]:
            common &= self._ancestors[node]
        return self.nodes[common.bit_length() - 1] if common else None

    def weights_between(self, start: Node | None, end: Node) -> int:
        """Convolutions and linear layers on the longest path from ``start``, or from any input, to ``end``."""
        if start is None:
            return self.depth[end]
        reached = {start: 0}
        first, last = self._ancestors[start].bit_length(), self._ancestors[end].bit_length()
        for node in self.nodes[first:last]:
            counts = [reached[n] for n in self.inputs(node) if n in reached]
            if counts:
                reached[node] = max(counts) + self.is_weighted(node)
        return reached.get(end, 0)

    def source(self, node: Node) -> Node:
        """The value itself behind copies, dropout and ``sum()``'s first ``0 +``."""
        while node in self and (
            ops.operator_name(node) in ops.MEMORY or (ops.operator_name(node) == "add" and node.args[1] == 0)
        ):
            node = node.all_input_nodes[0]
        return node

    def receptive_field(self, node: Node) -> tuple[int, ...]:
        """Pixels of the input that a position sees: never more than there are."""
        return tuple(map(min, self._fields[node].size, self.input_size))

    def jump(self, node: Node) -> tuple[float, ...]:
        """Pixels of the input between neighbouring positions."""
        return self._fields[node].jump

    def period(self, node: Node) -> tuple[float, ...]:
        """Shortest shift of the input that moves the value, and all that it is computed from, by whole positions."""
        return self._fields[node].period

    def depends_on_all(self, node: Node) -> bool:
        """Whether every position also depends on the whole input, by a gate or a norm over positions."""
        return self._fields[node].everywhere

    def interior(self, node: Node) -> tuple[tuple[int, int], ...]:
        """For each dimension the first position that sees no border of the input, and the one behind the last."""
        axis, field = self.axes[node] or 1, self._fields[node]
        positions = tuple(size for d, size in enumerate(ops.static_shape(node), 1) if d != axis)
        if len(positions) != len(self.input_size):
            return ()
        return field.inside if positions == field.extent else ((0, 0),) * len(positions)

    def macs_after(self, node: Node) -> int:
        """Multiplications of all layers that are computed from a value."""
        own = 1 << self._ancestors[node].bit_length() - 1
        return sum(macs for layer, macs in self.macs.items() if layer is not node and self._ancestors[layer] & own)

    def tap(self, node: Node, axis: int | None = None) -> Tap | None:
        """What can be read at a node; None where an entry along the first dimension is not one image.

        Args:
            node: The value.
            axis: Dimension that holds the channels according to the operator at hand.
        """
        sizes = ops.shape(node) if ops.is_tensor(node) else ()
        batch_first = len(sizes) >= 2 and str(sizes[0]) in self._batches
        if node not in self or not batch_first or not all(isinstance(s, int) for s in sizes[1:]):
            return None
        axis = axis or self.axes[node] or 1
        if self._tapped.setdefault(node.name, axis) != axis:
            return None  # two operators disagree about which dimension holds the channels
        known = self.values[node]
        channels_first = (sizes[axis], *sizes[1:axis], *sizes[axis + 1 :])
        return Tap(node.name, channels_first, known.atoms, known.nonnegative)

    def channel_axes(self) -> dict[str, int]:
        """Names of the tapped nodes whose channels are not dimension 1, with that dimension."""
        return {name: axis for name, axis in self._tapped.items() if axis != 1}


def _usual(graph: Graph) -> dict[Node, str]:
    """All placeholders, of which the first holds the images."""
    images, *others = (node for node in graph.nodes if node.op == "placeholder")
    return {images: "input"} | {node: f"input.{node.name}" for node in others}
