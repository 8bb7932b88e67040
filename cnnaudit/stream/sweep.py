"""One pass over the data: every tensor that a probe reads is folded while it is alive.

The unit of the forward pass is a block of a fixed number of images, whatever the loader's batch size; a last,
shorter block is filled up and the filling never folded. An image belongs to the group that its source was dealt
to. The readings of the first images are kept until the grids are fixed, then folded in order, so
calibration costs no second pass. Only means that stand in for values in other runs are taken over the first images
before.
"""

from __future__ import annotations

import itertools
import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from cnnaudit.call import Call
from cnnaudit.graph import ModelGraph, evaluating
from cnnaudit.statistics import Parameters
from cnnaudit.stream.agreement import check_agreement
from cnnaudit.stream.folding import Folding
from cnnaudit.stream.runner import PILOT, Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from cnnaudit.data import Block
    from cnnaudit.statistics import Probe, Statistic

__all__ = ["filled", "sweep"]

_IMAGES = Call()


def sweep(
    graph: ModelGraph,
    probes: Sequence[Probe],
    blocks: Iterable[Block],
    *,
    groups: int,
    size: int,
    seed: int,
    twins: Mapping[str, ModelGraph] = MappingProxyType({}),
    reference: nn.Module | None = None,
    call: Call = _IMAGES,
    looks: Collection[int] = (),
    shard: tuple[int, int] = (1, 1),
) -> Iterator[dict[Probe, Statistic]]:
    """Run the graph over all blocks and fold what the probes read.

    Args:
        graph: The captured network.
        probes: What to read.
        blocks: The images, in the order of the audit.
        groups: Number of groups that sources are dealt to.
        size: Images in a block.
        seed: Seed of the sampled positions.
        twins: Other networks of the same sites; a probe says which one it reads.
        reference: The eager model; its output on the first block must equal the graph's.
        call: How the eager model is called.
        looks: Numbers of images after which the statistics are shown; whole blocks.
        shard: Which part of how many this is, from 1: only its blocks are folded, every so many. The network also runs
            on the first ones of others, as far as grids and means are fixed by them, so that all parts have the same.

    Yields:
        The statistics that have been filled so far, at each look and then at the end: the same objects, which go
        on growing. A probe that tells the values of a column apart has one for each value that was met.

    Raises:
        GraphError: the graph computes something else than the reference.
    """
    streamed = [probe for probe in probes if probe.statistic is not Parameters]
    fold = Folding(streamed, groups, seed)
    networks = {"": graph, **twins}
    runners = [Runner(of, [p for p in streamed if p.network == name]) for name, of in networks.items()]
    for probe in probes:
        if probe.statistic is Parameters:
            fold.statistics[probe] = Parameters.of(probe, networks[probe.network].parameters(probe.site))
    blocks = _learned(runners, iter(blocks), size)
    part, of = shard
    read = 0
    for block in blocks:
        if read in looks:
            fold.settle()
            yield fold.statistics
        counts = block.number % of == part - 1
        fold.start(block, counts=counts)
        read += len(block.images)
        if not (counts or fold.calibrating or block.number == 0):
            continue
        inputs = filled(block.inputs, size)
        with torch.no_grad():
            # A network may write into its input, which is the caller's.
            output, *_ = [
                runner.run_block(_own(inputs) if runner.writes else inputs, block, seed, fold) for runner in runners
            ]
            if block.number == 0 and reference is not None:
                with evaluating(reference):
                    check_agreement(output, _calling(reference, call), inputs)
    fold.settle()
    yield fold.statistics


def _learned(runners: Sequence[Runner], blocks: Iterator[Block], size: int) -> Iterator[Block]:
    """The blocks, after the runs that replace values by their means have taken these from the first of them."""
    learners = [runner for runner in runners if runner.learns]
    first = list(itertools.islice(blocks, math.ceil(PILOT / size))) if learners else []
    with torch.no_grad():
        for runner in learners:
            runner.learn((_own(filled(block.inputs, size)), len(block.images)) for block in first)
    return itertools.chain(first, blocks)


def filled(inputs: Sequence[Tensor], size: int) -> tuple[Tensor, ...]:
    """Fill a short block up with what belongs to its last image, so that every forward pass has the same shape."""
    missing = size - len(inputs[0])
    if missing <= 0:
        return tuple(inputs)
    return tuple(torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) for x in inputs)


def _calling(model: nn.Module, call: Call) -> Callable[[Sequence[Tensor]], Any]:
    def run(inputs: Sequence[Tensor]) -> Any:
        args, kwargs = call.arguments(_own(inputs))
        return model(*args, **kwargs)

    return run


def _own(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(x.clone() for x in inputs)
