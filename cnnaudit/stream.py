"""One pass over the data: every tensor that a probe reads is folded while it is alive.

The unit of the forward pass is a block of a fixed number of images, whatever the loader's batch size; a last,
shorter block is filled up and the filling never folded. A block belongs to the group of its number modulo the
number of groups. The readings of the first images are kept until the grids are fixed, then folded in order, so
calibration costs no second pass. Variants of the run are computed from the cached values of the base run.
"""

from __future__ import annotations

import itertools
import operator
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from cnnaudit.errors import GraphError
from cnnaudit.graph import ModelGraph, evaluating
from cnnaudit.statistics import Probe, Statistic, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor, nn

    from cnnaudit.load import Block

__all__ = ["Folding", "Variant", "filled", "sweep"]


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


def sweep(
    graph: ModelGraph,
    probes: Sequence[Probe],
    blocks: Iterable[Block],
    *,
    groups: int,
    size: int,
    seed: int,
    variants: Sequence[Variant] = (),
    reference: nn.Module | None = None,
) -> dict[Probe, Statistic]:
    """Run the graph over all blocks and fold what the probes read.

    Args:
        graph: The captured network.
        probes: What to read.
        blocks: The images, in the order of the audit.
        groups: Number of groups that blocks are dealt to.
        size: Images in a block.
        seed: Seed of the sampled positions.
        variants: Interventions that probes refer to by name.
        reference: The eager model; its output on the first block must equal the graph's.

    Returns:
        One finished statistic for each probe.

    Raises:
        GraphError: the graph computes something else than the reference.
    """
    fold = Folding(probes, groups)
    runner = _Runner(graph, probes, variants)
    with torch.no_grad():
        for block in blocks:
            images = filled(block.images, size)
            # A network may write into its input, which is the caller's.
            output = runner.run_block(images.clone() if runner.writes else images, block, seed, fold)
            if block.number == 0 and reference is not None:
                with evaluating(reference):
                    _same(output, reference(images.clone()))
    fold.finish()
    return fold.statistics


def filled(images: Tensor, size: int) -> Tensor:
    """Fill a short block up with its last image, so that every forward pass has the same shape."""
    missing = size - len(images)
    if missing <= 0:
        return images
    return torch.cat([images, images[-1:].expand(missing, *images.shape[1:])])


def _same(ours: Any, theirs: Any) -> None:
    for mine, other in zip(ModelGraph.output_tensors(ours), ModelGraph.output_tensors(theirs), strict=True):
        if mine.shape != other.shape:
            raise GraphError(f"the captured graph gives {tuple(mine.shape)}, the model {tuple(other.shape)}")
        finite = torch.isfinite(other)
        agree = torch.equal(finite, torch.isfinite(mine))
        known = other[finite]
        scale = known.abs().max().clamp(min=1e-6) if known.numel() else 1.0
        worst = float((mine[finite] - known).abs().max() / scale) if agree and known.numel() else 0.0
        if not (agree and worst < 1e-3):
            raise GraphError(
                f"the captured graph computes something else than the model: their outputs differ by {worst:.1e} of "
                "the largest. Does the model draw random numbers, keep state between calls or depend on its inputs' "
                "values?"
            )


class Folding:
    """Statistics in the making, and the readings that wait to be folded.

    A reading waits for its grid, which takes the readings of the first images, and for as many others as its
    statistic folds at once, because one operation on the rows of 16 blocks is much cheaper than 16 on one.
    """

    def __init__(self, probes: Sequence[Probe], groups: int) -> None:
        self.groups = groups
        self.statistics = {probe: probe.statistic(probe, groups) for probe in probes}
        self._open = {probe for probe in probes if probe.statistic.calibrates}
        self._waiting: dict[Probe, list[tuple[dict[str, Tensor], int]]] = {probe: [] for probe in probes}

    def take(self, probe: Probe, view: View, number: int) -> None:
        """Read a block for a probe, and fold what need not wait any longer."""
        waiting = self._waiting[probe]
        waiting.append((self.statistics[probe].read(view), number % self.groups))
        if probe in self._open:
            if sum(map(_rows, waiting)) >= probe.statistic.calibrates:
                self._fold(probe)
        elif len(waiting) >= probe.statistic.together:
            self._fold(probe)

    def finish(self) -> None:
        """Fold what still waits."""
        for probe, waiting in self._waiting.items():
            if waiting:
                self._fold(probe)

    def _fold(self, probe: Probe) -> None:
        statistic, waiting = self.statistics[probe], self._waiting[probe]
        if probe in self._open:
            statistic.calibrate([reading for reading, _ in waiting])
            self._open.remove(probe)
        for _, equal in itertools.groupby(waiting, key=_rows):
            blocks = list(equal)
            for i in range(0, len(blocks), statistic.together):
                readings, groups = zip(*blocks[i : i + statistic.together], strict=True)
                rows = (
                    readings[0] if len(readings) == 1 else {n: torch.cat([r[n] for r in readings]) for n in readings[0]}
                )
                statistic.fold(rows, *groups)
        waiting.clear()


def _rows(waiting: tuple[dict[str, Tensor], int]) -> int:
    """Images of a block that waits."""
    return len(next(iter(waiting[0].values())))


_ATEN = torch.ops.aten
# A view of a map that was contiguous in the model may need a copy of a channels-last one.
_RESHAPES: dict[Any, Any] = {_ATEN.view.default: _ATEN.reshape.default}
_IN_PLACE: dict[Any, Any] = {
    _ATEN.relu.default: _ATEN.relu_.default,
    _ATEN.hardtanh.default: _ATEN.hardtanh_.default,
    _ATEN.hardswish.default: _ATEN.hardswish_.default,
    _ATEN.silu.default: _ATEN.silu_.default,
}
# What makes a tensor of its own, which nothing else looks into.
_FRESH: set[Any] = {
    _ATEN.conv1d.default,
    _ATEN.conv2d.default,
    _ATEN.conv3d.default,
    _ATEN.add.Tensor,
    _ATEN._native_batch_norm_legit_no_training.default,  # noqa: SLF001 - the operator's name
}
_Ripe = tuple[dict[str, fx.Node], list[Probe]]


class _Runner(fx.Interpreter):
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
        """The operator to call: an activation overwrites its input where that dies with it and nobody reads it."""
        target = _RESHAPES.get(node.target, node.target)
        if target not in _IN_PLACE:
            return target
        source = node.all_input_nodes[0]
        made = source.all_input_nodes[0] if source.target is operator.getitem else source
        read = {n for taps, _ in self.ripe[""].get(node, ()) for n in taps.values()}
        for variant, _ in self.variants:
            read |= {self.by_name[variant.node], *self._tapped(variant.name)}
        # A second user, such as a slice that lives on, would see what is overwritten.
        alone = len(source.users) == 1 and source not in read
        spare = alone and source in self.dying[node] and made.target in _FRESH
        return _IN_PLACE[target] if spare else target

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
            view = View({tap: x[:n] for tap, x in tensors.items()}, block.ids, block.labels, seed)
            for probe in probes:
                fold.take(probe, view, block.number)

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
