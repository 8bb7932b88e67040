"""Runs the captured graph and shows tapped values to their probes while they are alive."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from cnnaudit.statistics import Probe, View
from cnnaudit.stream.reuse import overwriting, owns_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from cnnaudit.graph import ModelGraph
    from cnnaudit.load import Block
    from cnnaudit.stream.folding import Folding

__all__ = ["Runner", "Variant"]


@dataclass(frozen=True)
class Variant:
    """An intervention on the run: one value is replaced and everything after it computed again.

    Attributes:
        name: What probes call it.
        node: The graph's value that is replaced.
        replace: Gives the replacement, of the same shape, from the value itself.
    """

    name: str
    node: str
    replace: Callable[[Tensor], Tensor]


_ATEN = torch.ops.aten
# A view of a map that was contiguous in the model may need a copy of a channels-last one.
_RESHAPES: dict[Any, Any] = {_ATEN.view.default: _ATEN.reshape.default}
_Ripe = tuple[dict[str, fx.Node], list[Probe]]


class Runner(fx.Interpreter):
    """Interprets the captured graph, hands tapped values to their probes and frees what nobody needs any more."""

    def __init__(self, graph: ModelGraph, probes: Sequence[Probe], variants: Sequence[Variant]) -> None:
        super().__init__(graph.module)
        self.model_graph = graph
        self.order = {node: i for i, node in enumerate(graph.module.graph.nodes)}
        self.by_name = {node.name: node for node in graph.module.graph.nodes}
        self.constants = {node: self._constant(node) for node in self.order if node.op == "get_attr"}
        self.steps = [node for node in self.order if node not in self.constants]
        self.writes = any(node.target is _ATEN.copy_.default for node in self.steps)
        self.ripe = {v: self._ripe(probes, v) for v in ("", *(variant.name for variant in variants))}
        self.variants = [(variant, self._suffix(variant)) for variant in variants]
        self.dying = self._last_uses()
        self.targets = {node: self._target(node) for node in self.steps if node.op == "call_function"}

    def run_block(self, images: Tensor, block: Block, seed: int, fold: Folding) -> Any:
        """Run one block through the network and its variants; return the network's output."""
        fold.start(block)
        if images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        self.args_iter = iter([images])
        self.env = dict(self.constants)
        output = None
        for node in self.steps:
            self.env[node] = value = self.run_node(node)
            if node.op == "output":
                output = value
            self._read(self.ripe[""].get(node, ()), block, seed, fold)
            for dead in self.dying.get(node, ()):
                del self.env[dead]
        base = self.env
        for variant, suffix in self.variants:
            changed = self.by_name[variant.node]
            self.env = {**base, changed: variant.replace(base[changed])}
            ripe = dict(self.ripe[variant.name])
            self._read(ripe.pop(changed, ()), block, seed, fold)
            for node in suffix:
                self.env[node] = self.run_node(node)
                self._read(ripe.pop(node, ()), block, seed, fold)
            for views in ripe.values():  # whose last tap the change does not reach
                self._read(views, block, seed, fold)
        self.env = {}
        return output

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; fx's own method also notes for stack traces which one, which takes longer than a small op."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return getattr(self, n.op)(self.targets.get(n, n.target), args, kwargs)

    def _target(self, node: fx.Node) -> Any:
        """The operator to call: one that overwrites its input where nobody needs that any more."""
        return overwriting(node, self._spare(node), self.constants) or _RESHAPES.get(node.target, node.target)

    def _spare(self, node: fx.Node) -> set[fx.Node]:
        """Inputs that die with this node, own their memory, and are read by nobody else once it runs."""
        read = {n for taps, _ in self.ripe[""].get(node, ()) for n in taps.values()}
        for variant, _ in self.variants:
            read |= {self.by_name[variant.node], *self._tapped(variant.name)}
        return {n for n in self.dying.get(node, ()) if n not in read and owns_memory(n, node)}

    def _constant(self, node: fx.Node) -> Any:
        """Return a parameter, convolution kernels laid out for channels-last maps."""
        value = self.fetch_attr(str(node.target))
        if isinstance(value, torch.Tensor) and value.dim() == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        return value

    def _taps(self, probe: Probe) -> dict[str, fx.Node]:
        return {tap: self.by_name[probe.site.taps[tap].node] for tap in probe.taps}

    def _read(self, ripe: Iterable[_Ripe], block: Block, seed: int, fold: Folding) -> None:
        n = len(block.images)
        for taps, probes in ripe:
            tensors = {tap: self.model_graph.channels_first(node.name, self.env[node]) for tap, node in taps.items()}
            view = View({tap: x[:n] for tap, x in tensors.items()}, block.ids, block.labels, seed, block.masks)
            for probe in probes:
                fold.take(probe, view)

    def _ripe(self, probes: Sequence[Probe], variant: str) -> dict[fx.Node, list[_Ripe]]:
        """Probes by the node after which all that they read is there; those that read the same share a view."""
        sharing = defaultdict(list)
        for probe in probes:
            if probe.variant == variant:
                sharing[tuple(self._taps(probe).items())].append(probe)
        ripe = defaultdict(list)
        for taps, readers in sharing.items():
            ripe[max((node for _, node in taps), key=self.order.__getitem__)].append((dict(taps), readers))
        return ripe

    def _suffix(self, variant: Variant) -> list[fx.Node]:
        """Nodes that a change reaches and that some probe of the variant waits for, in order."""
        reached = {self.by_name[variant.node]}
        for node in self.order:
            if node.op != "output" and any(arg in reached for arg in node.all_input_nodes):
                reached.add(node)
        wanted = self._tapped(variant.name)
        for node in reversed(self.order):
            if node in wanted:
                wanted.update(node.all_input_nodes)
        changed = self.by_name[variant.node]
        return [node for node in self.order if node in reached and node in wanted and node is not changed]

    def _tapped(self, variant: str) -> set[fx.Node]:
        """Values that some probe of a variant reads."""
        return {node for views in self.ripe[variant].values() for taps, _ in views for node in taps.values()}

    def _last_uses(self) -> dict[fx.Node, list[fx.Node]]:
        """For each node of the base run, the values that may be freed after it."""
        last = {node: node for node in self.order}
        for node in self.order:
            for arg in node.all_input_nodes:
                last[arg] = node
        for ripe, views in self.ripe[""].items():
            for node in (node for taps, _ in views for node in taps.values()):
                last[node] = max(last[node], ripe, key=self.order.__getitem__)
        for variant, suffix in self.variants:
            read = {arg for node in suffix for arg in node.all_input_nodes}
            for node in (read | self._tapped(variant.name) | {self.by_name[variant.node]}) - set(suffix):
                last.pop(node, None)
        dying = defaultdict(list)
        for node, user in last.items():
            dying[user].append(node)
        return dying
