"""Runs the captured graph and shows tapped values to their probes while they are alive.

Next to the network as it is there may be other runs of it, in which one value is replaced. Runs on other images keep
step with it, node by node, so that the same place can be compared in several of them. A run in which a later value is
replaced forks off where that value is made, and goes through to its end at once. So no more is held than what is
alive at one node of each run.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import fx

from cnnaudit.statistics import View, draw_offsets
from cnnaudit.stream.reuse import overwriting, owns_memory, preserving

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from cnnaudit.data import Block
    from cnnaudit.graph import ModelGraph
    from cnnaudit.site import Variant
    from cnnaudit.statistics import Probe
    from cnnaudit.stream.folding import Folding

    _Ripe = tuple[dict[str, fx.Node], list[Probe]]
    _Values = dict[fx.Node, Any]

__all__ = ["PILOT", "Runner"]

PILOT = 64  # images that the means of replaced values are taken over

_ATEN = torch.ops.aten
# A view of a map that was contiguous in the model may need a copy of a channels-last one.
_RESHAPES: dict[Any, Any] = {_ATEN.view.default: _ATEN.reshape.default}


class _Turn(NamedTuple):
    """What is run at once, and where its readings go."""

    block: Block
    seed: int
    fold: Folding

    def view(self, tensors: dict[str, Tensor]) -> View:
        """What probes see of some values."""
        return View(tensors, self.block.ids, self.block.labels, self.seed, self.block.masks)


class Runner(fx.Interpreter):
    """Interprets the captured graph, hands tapped values to their probes and frees what nobody needs any more."""

    def __init__(self, graph: ModelGraph, probes: Sequence[Probe]) -> None:
        super().__init__(graph.module)
        self.model_graph = graph
        self.order = {node: i for i, node in enumerate(graph.module.graph.nodes)}
        self.by_name = {node.name: node for node in graph.module.graph.nodes}
        self.images = graph.images
        self.constants = {node: self._constant(node) for node in self.order if node.op == "get_attr"}
        self.steps = [node for node in self.order if node not in self.constants]
        self.writes = any(node.target is _ATEN.copy_.default for node in self.steps)
        alone, others = _parted(probes)
        self.ripe = self._ripe(alone)
        self.wanted = self._wanted(others)
        self.gathered: dict[Probe, dict[str, Tensor]] = defaultdict(dict)
        variants = [variant for variant in self.wanted if variant is not None]
        self.companions = {v: self._needed(v, self.steps) for v in variants if not v.node}
        self.forks = {v: self._needed(v, self._behind(self.by_name[v.node])) for v in variants if v.node}
        self.means: dict[fx.Node, Tensor] = {}
        self.dying = self._last_uses()
        self.targets = {node: self._target(node) for node in self.steps if node.op == "call_function"}
        self.plain = {node: self._plain(node) for node in self.steps}

    @property
    def learns(self) -> bool:
        """Whether some values are replaced by their means, which must be known first."""
        return any(variant.by == "mean" for variant in self.forks)

    def learn(self, blocks: Iterable[tuple[Sequence[Tensor], int]]) -> None:
        """Take the means of all values that are replaced by theirs.

        Args:
            blocks: What the network takes, filled up to the size of every block, and how many images count.
        """
        nodes = {self.by_name[variant.node] for variant in self.forks if variant.by == "mean"}
        total: dict[fx.Node, Tensor] = {}
        count = 0
        for inputs, own in blocks:
            self._start(inputs)
            for node in self.steps[: 1 + max(map(self.steps.index, nodes))]:
                self.env[node] = value = self.run_node(node)
                if node in nodes:
                    total[node] = total.get(node, 0) + value[:own].double().sum(0, keepdim=True)
                for dead in self.dying.get(node, ()):
                    del self.env[dead]
            count += own
        self.means = {node: x / count for node, x in total.items()}
        self.env = {}

    def run_block(self, inputs: Sequence[Tensor], block: Block, seed: int, fold: Folding) -> Any:
        """Run one block through the network and all other runs of it; return the network's output.

        Args:
            inputs: What the network takes, the images first, filled up to the size of every block.
            block: The images that count.
            seed: Seed of the audit.
            fold: Where readings go.
        """
        turn = _Turn(block, seed, fold)
        self._start(inputs)
        canvases = self._canvases(block)
        runs = {variant: dict(self.constants) for variant in self.companions}
        output = None
        for node in self.steps:
            base = self.env
            base[node] = value = self.run_node(node)
            if node.op == "output":
                output = value
            self._read(self.ripe.get(node, ()), turn)
            self._gather(None, node, turn)
            for variant, env in runs.items():
                if node in self.companions[variant]:
                    self.env = env
                    canvas = canvases.get(node)
                    if canvas is not None:
                        env[node] = _laid_out(_other_part(variant, block, canvas, value, seed))
                    else:
                        env[node] = value if node.op == "placeholder" else self.run_node(node)
                    self._gather(variant, node, turn)
                for dead in self.dying.get(node, ()):
                    env.pop(dead, None)
            for variant, suffix in self.forks.items():
                if variant.node == node.name:
                    self._fork(variant, suffix, {**base, node: self._replaced(variant, value)}, turn)
            self.env = base
            for dead in self.dying.get(node, ()):
                del self.env[dead]
        self.env = {}
        self.gathered.clear()
        return output

    def _start(self, inputs: Sequence[Tensor]) -> None:
        self.args_iter = iter([_laid_out(inputs[i]) for i in self.model_graph.order])
        self.env = dict(self.constants)

    def _fork(self, variant: Variant, suffix: dict[fx.Node, None], env: _Values, turn: _Turn) -> None:
        """Run the rest of the network with one value replaced; nothing that the base run still needs is overwritten."""
        self.env, targets = env, self.targets
        self.targets = self.plain
        self._gather(variant, self.by_name[variant.node], turn)
        for node in suffix:
            env[node] = self.run_node(node)
            self._gather(variant, node, turn)
            for dead in self.dying.get(node, ()):
                env.pop(dead, None)
        self.targets = targets

    def _replaced(self, variant: Variant, value: Tensor) -> Tensor:
        """What stands in a run in place of a value."""
        if variant.by == "zero":
            return torch.zeros_like(value)
        mean = self.means[self.by_name[variant.node]]
        return mean.to(value.dtype).expand_as(value).contiguous()

    def _canvases(self, block: Block) -> dict[fx.Node, Tensor | None]:
        """What each of the graph's inputs is the middle of: all pictures of one scene are shifted together."""
        if self.companions and block.canvas is None:
            raise ValueError("other images are cut from a canvas; the plan checks that there is one")
        held = (block.canvas, *(block.canvases or [None] * len(block.others)))
        taken = (node for node in self.steps if node.op == "placeholder")
        return {node: held[i] for node, i in zip(taken, self.model_graph.order, strict=True)}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; fx's own method also notes for stack traces which one, which takes longer than a small op."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return getattr(self, n.op)(self.targets.get(n, n.target), args, kwargs)

    def _target(self, node: fx.Node) -> Any:
        """The operator to call: one that overwrites its input where nobody needs that any more."""
        return overwriting(node, self._spare(node), self.constants) or _RESHAPES.get(node.target, node.target)

    def _plain(self, node: fx.Node) -> Any:
        """The same where something still needs the input."""
        chosen = self.targets.get(node, node.target)
        return preserving(node, chosen, self.constants) or _RESHAPES.get(node.target, node.target)

    def _spare(self, node: fx.Node) -> set[fx.Node]:
        """Inputs that die with this node, own their memory, and are read by nobody else once it runs."""
        read = {n for taps, _ in self.ripe.get(node, ()) for n in taps.values()}
        read |= {n for wanted in self.wanted.values() for n in wanted}
        return {n for n in self.dying.get(node, ()) if n not in read and owns_memory(n, node)}

    def _constant(self, node: fx.Node) -> Any:
        """Return a parameter, convolution kernels laid out for channels-last maps."""
        value = self.fetch_attr(str(node.target))
        if isinstance(value, torch.Tensor) and value.dim() == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        return value

    def _taps(self, probe: Probe) -> dict[str, fx.Node]:
        known = {**probe.site.parameters, **probe.site.taps}
        return {tap: self.by_name[known[tap].node] for tap in probe.taps}

    def _read(self, ripe: Iterable[_Ripe], turn: _Turn) -> None:
        for taps, probes in ripe:
            view = turn.view({tap: self._shown(node, turn) for tap, node in taps.items()})
            for probe in probes:
                turn.fold.take(probe, view)

    def _gather(self, variant: Variant | None, node: fx.Node, turn: _Turn) -> None:
        """Show a value to those that compare runs; who has all of its values reads them."""
        for probe, tap in self.wanted.get(variant, {}).get(node, ()):
            held = self.gathered[probe]
            held[tap] = probe.statistic.kept(tap, self._shown(node, turn))
            if len(held) == len(probe.taps):
                turn.fold.take(probe, turn.view(self.gathered.pop(probe)))

    def _shown(self, node: fx.Node, turn: _Turn) -> Tensor:
        """A tapped value of the images that count, channels first; a parameter as it is."""
        value: Tensor = self.env[node]
        if node in self.constants:
            return value
        return self.model_graph.channels_first(node.name, value)[: len(turn.block.images)]

    def _ripe(self, probes: Sequence[Probe]) -> dict[fx.Node, list[_Ripe]]:
        """Probes by the node after which all that they read is there; those that read the same share a view."""
        sharing = defaultdict(list)
        for probe in probes:
            sharing[tuple(self._taps(probe).items())].append(probe)
        ripe = defaultdict(list)
        for taps, readers in sharing.items():
            ripe[max((node for _, node in taps), key=self.order.__getitem__)].append((dict(taps), readers))
        return ripe

    def _wanted(self, probes: Sequence[Probe]) -> dict[Variant | None, dict[fx.Node, list[tuple[Probe, str]]]]:
        """Who wants which value of which run; of what lies before a replaced value there is only one."""
        wanted: dict[Variant | None, dict[fx.Node, list[tuple[Probe, str]]]] = defaultdict(lambda: defaultdict(list))
        for probe in probes:
            for tap, node in self._taps(probe).items():
                variant = probe.site.taps[tap].variant if tap in probe.site.taps else None
                if variant is not None and variant.node and self.order[node] < self.order[self.by_name[variant.node]]:
                    variant = None
                wanted[variant][node].append((probe, tap))
        return {variant: dict(nodes) for variant, nodes in wanted.items()}

    def _behind(self, node: fx.Node) -> list[fx.Node]:
        return self.steps[self.steps.index(node) + 1 :]

    def _needed(self, variant: Variant, steps: list[fx.Node]) -> dict[fx.Node, None]:
        """Those of some steps, in their order, that the values which a run is read at are computed from."""
        needed = set(self.wanted[variant])
        for node in reversed(steps):
            if node in needed:
                needed.update(node.all_input_nodes)
        return {node: None for node in steps if node in needed}

    def _last_uses(self) -> dict[fx.Node, list[fx.Node]]:
        """For each node of the base run, the values that may be freed after it."""
        last = {node: node for node in self.order}
        for node in self.order:
            for arg in node.all_input_nodes:
                last[arg] = node
        for ripe, views in self.ripe.items():
            for node in (node for taps, _ in views for node in taps.values()):
                last[node] = max(last[node], ripe, key=self.order.__getitem__)
        dying = defaultdict(list)
        for node, user in last.items():
            if node not in self.constants:
                dying[user].append(node)
        return dying


def _parted(probes: Sequence[Probe]) -> tuple[list[Probe], list[Probe]]:
    """Probes that read the network as it is, and those that compare it with another run."""
    others = [p for p in probes if any(p.site.taps[tap].variant for tap in p.taps if tap in p.site.taps)]
    return [p for p in probes if p not in others], others


def _other_part(variant: Variant, block: Block, canvas: Tensor, value: Tensor, seed: int) -> Tensor:
    """The part of each image's canvas that another run sees, filled up to the size of the block."""
    size = tuple(value.shape[2:])
    if variant.by == "shift":
        moved = torch.tensor(variant.amount).expand(len(canvas), -1)
    else:
        draw, *margin = variant.amount
        moved = draw_offsets(block.ids.cpu(), seed, draw, tuple(margin))
    middle = torch.tensor([(c - s) // 2 for c, s in zip(canvas.shape[2:], size, strict=True)])
    parts = [_cut(whole, at, size) for whole, at in zip(canvas, (middle + moved).tolist(), strict=True)]
    return torch.stack(parts + [parts[-1]] * (len(value) - len(parts)))


def _laid_out(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images


def _cut(canvas: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """The part of one image that begins at a pixel; shape (channels, *size)."""
    return canvas[(slice(None), *(slice(a, a + s) for a, s in zip(start, size, strict=True)))]
