"""The whole way from a spec to a report, and from plain tensors to an estimate."""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.export.passes import move_to_device_pass
from tqdm import tqdm

from cnnaudit import evidence as storing
from cnnaudit.data import Block, Images, concepts, open_images, suggested_shape, transforms_for
from cnnaudit.errors import EvidenceError, GraphError, LoadError
from cnnaudit.facts import TWIN_IMAGES, coverage, home, model_facts, notes, settings, spec_facts
from cnnaudit.graph import capture, capture_program, fixed_batch
from cnnaudit.judge import decide
from cnnaudit.load import Loaded, Trust, load_model, make_twin, unwrapped
from cnnaudit.looks import Look, schedule
from cnnaudit.metrics import registry, vocabulary
from cnnaudit.plan import Plan, make_plan
from cnnaudit.result import Report
from cnnaudit.site import Op
from cnnaudit.spec import Spec, from_mapping, resolve
from cnnaudit.spec import load as load_spec
from cnnaudit.stream import filled, sweep

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from cnnaudit.call import Call
    from cnnaudit.graph import ModelGraph
    from cnnaudit.result import Verdict
    from cnnaudit.site import Site
    from cnnaudit.statistics import Probe, Statistic

__all__ = ["Measured", "Prepared", "audit", "measure_all", "prepare", "read_spec", "using_threads"]


_SMALL = 2**18  # values of the largest map of a block
_MOST_VALUES = 2**29  # of the images of a block: what a rule file asks for must not take all memory


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before the first block is folded.

    Attributes:
        spec: The rules.
        model: The live model, in whatever mode it came.
        loaded: How it was loaded; None where Python gave it.
        graph: The captured model with its sites.
        twins: Its null twins, captured, by what they are.
        plan: What will be measured and decided.
        images: The data.
        blocks: The images in the order of the audit, the first block included.
        classes: Number of classes, 0 without labels.
        device: Where it runs.
        looks: When the results are looked at.
        planned: What the plan was made from besides rules and sites.
    """

    spec: Spec
    model: nn.Module
    loaded: Loaded | None
    graph: ModelGraph
    twins: Mapping[str, ModelGraph]
    plan: Plan
    images: Images
    blocks: Iterable[Block]
    classes: int
    device: torch.device
    looks: tuple[Look, ...]
    planned: storing.Planned


def read_spec(spec: str | Path | Spec | Mapping[str, Any]) -> Spec:
    """Read a rule file, or take rules that Python gives.

    Raises:
        SpecError: with every mistake that was found.
    """
    if isinstance(spec, Spec):
        return spec
    if not isinstance(spec, (Mapping, str, Path)):
        raise LoadError(f"rules are a path, or a mapping {{cnnaudit: 1, rules: [...]}}, not a {type(spec).__name__}")
    if isinstance(spec, Mapping):
        return from_mapping(spec, vocabulary())
    return load_spec(spec, vocabulary())


def prepare(
    spec: str | Path | Spec | Mapping[str, Any],
    *,
    model: nn.Module | str | None = None,
    data: Any = None,
    allow_imports: Iterable[str] = (),
    allow_paths: Iterable[str] = (),
    trust_model: bool = False,
    show_images: bool = False,
    device: str | torch.device | None = None,
) -> Prepared:
    """Read the spec, open model and data, capture the graph and plan the checks; one block is read.

    Raises:
        CnnAuditError: any of it is wrong; see :mod:`cnnaudit.errors`.
    """
    spec = read_spec(spec)
    trust = Trust.here(allow_imports, allow_paths, trust_model=trust_model)
    if spec.path is not None:
        trust = replace(trust, bundle=spec.directory)
    spec, loaded = _model(spec, model, trust, device)
    model = loaded.model
    images, spec = _images(spec, data, loaded, trust, show_images=show_images)
    sampling = spec.sampling
    where, dtype = home(model)
    rest = (
        (block if sampling.crop is None else block.cropped(sampling.crop)).to(where, dtype)
        for block in images.blocks(sampling.block, sampling.seed, sampling.max_images)
    )
    first = next(rest, None)
    if first is None:
        raise LoadError(f"data {images.source}: there are no images; give at least one")
    graph = _captured(loaded, first, images, spec)
    classes = _classes(images, graph, first)
    known = [n for n in (images.count, sampling.max_images) if n is not None]
    count = min(known) if images.count is not None else None
    planned = storing.Planned(
        classes=classes,
        labelled=images.labelled,
        masked=images.masked,
        concepts=_concepts(images, first),
        n_images=count,
        clustered=images.clustered,
        margin=None if first.canvas is None else _margin(first.canvas, first.images),
    )
    plan = make_plan(spec, graph.sites, values=images.values if images.all_values else {}, **vars(planned))
    blocks = _within_range(itertools.chain([first], rest), graph, images)
    twins, read = _twins(spec, loaded, graph, images.call, blocks)
    return Prepared(
        spec,
        model,
        loaded if spec.model else None,
        graph,
        twins,
        plan,
        images,
        itertools.chain(read, blocks),
        classes,
        where,
        _looks(images, spec, count),
        planned,
    )


def _model(
    spec: Spec, model: nn.Module | str | None, trust: Trust, device: str | torch.device | None
) -> tuple[Spec, Loaded]:
    """The model, and the spec with what is really audited."""
    if isinstance(model, nn.Module):
        if device is not None:
            raise LoadError("a live model runs where it is: move it before the audit instead of giving a device")
        return replace(spec, model=None, weights=None), Loaded(model)
    if model is not None:
        spec = replace(spec, model=resolve(model, base=Path.cwd(), role="model"), weights=None)
        trust = replace(trust, bundle=None)
    if spec.model is None:
        raise LoadError(f"{spec.name}: no `model:`, and none was given from Python; write one, or pass model=")
    torch.manual_seed(spec.sampling.seed)  # weights that nobody trained are the same every time
    loaded = load_model(spec.model, spec.weights, trust)
    if device is not None:
        loaded = _moved(loaded, device)
    batch = None if loaded.program is None else fixed_batch(loaded.program)
    if batch is not None:
        spec = replace(spec, sampling=spec.sampling.model_copy(update={"block": batch}))
    return spec, loaded


def _images(spec: Spec, data: Any, loaded: Loaded, trust: Trust, *, show_images: bool) -> tuple[Images, Spec]:
    """The data, and the spec with how it is really read."""
    if data is None and spec.data is None:
        raise LoadError(f"{spec.name}: no `data:`, and none was given from Python; write one, or pass data=")
    if data is not None:
        # What is done to the images that a rule file names is not what others need.
        reading = replace(spec.reading, transform=None)
        if reading.exclude is not None:  # it is the rule file that names it, whoever gives the data
            reading = replace(reading, exclude=trust.opened(reading.exclude, "exclude"))
        spec = replace(spec, data=None, reading=reading)
        trust = replace(trust, bundle=None)
    if isinstance(data, (str, Path)):
        data = resolve(str(data), base=Path.cwd(), role="data")
    images = open_images(
        spec.data if data is None else data,
        trust,
        tuple(dict.fromkeys(rule.by.column for rule in spec.rules if rule.by)),
        masks=any(registry()[rule.metric].masks for rule in spec.rules),
        inputs=spec.inputs,
        reading=spec.reading,
        transforms=transforms_for(spec.reading, loaded.model, spec.model),
        shape=suggested_shape(loaded, spec.model),
        show_images=show_images,
    )
    return images, spec


def _captured(loaded: Loaded, block: Block, images: Images, spec: Spec) -> ModelGraph:
    # As many images as every forward pass will have: a graph that cannot be of any batch size is of this one.
    size = spec.sampling.block
    if size * max(x[0].numel() for x in block.inputs) > _MOST_VALUES:
        told = " x ".join(map(str, block.images.shape[1:]))
        raise LoadError(f"sampling.block of {size} images of {told} is more than {_MOST_VALUES:,} values: lower it")
    index = torch.arange(size) % len(block.images)
    example = [x[index.to(x.device)] for x in block.inputs]
    try:
        if loaded.program is not None:
            return capture_program(loaded.program, example, call=images.call, head=spec.head)
        return capture(loaded.model, example, call=images.call, head=spec.head)
    except GraphError as error:
        if not images.hint:
            raise
        raise GraphError(f"{error}\nThe {images.hint}") from error


def _looks(images: Images, spec: Spec, count: int | None) -> tuple[Look, ...]:
    """When the results are looked at: in an order that the data decides, the first half need not be like the second."""
    sampling = spec.sampling
    seeded = images.order == "seeded"
    looks = schedule(count if seeded else None, block=sampling.block, at_most=sampling.looks)
    # Where so many images may be missing that a look would never come, there is one at the end.
    surely = (count or 0) * (1 - spec.reading.max_corrupt) - sampling.block
    return looks if all(look.last or look.images <= surely for look in looks) else schedule(None, block=sampling.block)


def _within_range(blocks: Iterable[Block], graph: ModelGraph, images: Images) -> Iterator[Block]:
    """The blocks, while their labels are classes that the network can tell."""
    head = next((site for site in graph.sites if site.op is Op.HEAD), None)
    for block in blocks:
        if head is not None and _scores_classes(head) and block.labels is not None:
            highest, classes = int(block.labels.max()), max(head.units, 2)
            if highest >= classes:
                raise LoadError(
                    f"data {images.source}: label {highest} is out of range: {head.path}, which makes the network's "
                    f"logits, tells {classes} classes, 0 to {classes - 1}; where its output is no class scores, say so "
                    "with head: false"
                )
        yield block


def _scores_classes(head: Site) -> bool:
    """Whether a layer of its own makes one score a class for the whole image: pooled maps may be anything."""
    return not head.taps["output"].spatial and head.taps["input"].node != head.taps["output"].node


def _twins(
    spec: Spec, loaded: Loaded, graph: ModelGraph, call: Call, blocks: Iterable[Block]
) -> tuple[dict[str, ModelGraph], list[Block]]:
    """The null twins that rules want, captured, and the blocks that were read for that; the first one anyway."""
    kinds = sorted({rule.null for rule in spec.rules if rule.null})
    if kinds and loaded.program is not None:
        raise LoadError(
            f"null: {kinds[0]}: an exported program has no layers that could start anew; name the code that builds the "
            "model, or leave `null:` out"
        )
    size = spec.sampling.block
    read = list(itertools.islice(blocks, math.ceil(TWIN_IMAGES / size) if kinds else 1))
    inputs = [filled(block.inputs, size) for block in read]
    calls = [call.arguments(several) for several in inputs]
    twins = {
        kind: capture(make_twin(loaded.model, kind, calls, spec.sampling.seed), inputs[0], call=call, head=spec.head)
        for kind in kinds
    }
    for kind, twin in twins.items():
        if [site.path for site in twin.sites] != [site.path for site in graph.sites]:
            raise LoadError(
                f"null: {kind}: with other weights {type(loaded.model).__name__} is another network; leave `null:` out"
            )
    return twins, read


@dataclass(frozen=True)
class Measured:
    """A finished pass over the data.

    Attributes:
        prepared: What it was made from.
        statistics: What every probe read.
        threads: Threads that it took.
    """

    prepared: Prepared
    statistics: Mapping[Probe, Statistic]
    threads: int


def measure_all(
    spec: str | Path | Spec | Mapping[str, Any],
    *,
    model: nn.Module | str | None = None,
    progress: bool = False,
    **options: Any,
) -> Measured:
    """Fill the statistics that a spec's rules need; arguments and errors are those of :func:`audit`."""
    with _measuring(spec, model, progress=progress, **options) as (prepared, threads, shown):
        *_, statistics = shown
    return Measured(prepared, statistics, threads)


@contextmanager
def _measuring(
    spec: str | Path | Spec | Mapping[str, Any],
    model: nn.Module | str | None,
    *,
    progress: bool,
    shard: tuple[int, int] = (1, 1),
    **options: Any,
) -> Iterator[tuple[Prepared, int, Iterator[Mapping[Probe, Statistic]]]]:
    """Everything that is known beforehand, the threads that are used, and what is measured by each look."""
    if model is not None and not isinstance(model, (str, torch.nn.Module)):
        raise LoadError(f"model: a {type(model).__name__} from Python, not a torch.nn.Module or text")
    model = unwrapped(model)
    with _undisturbed(None if isinstance(model, str) else model):
        prepared = prepare(spec, model=model, **options)
        threads = _threads(prepared)
        with using_threads(threads):
            yield (
                prepared,
                threads,
                sweep(
                    prepared.graph,
                    prepared.plan.probes,
                    _counted(prepared) if progress else prepared.blocks,
                    groups=prepared.plan.groups,
                    size=prepared.spec.sampling.block,
                    seed=prepared.spec.sampling.seed,
                    twins=prepared.twins,
                    reference=prepared.model,
                    call=prepared.images.call,
                    looks=[look.images for look in prepared.looks if not look.last],
                    shard=shard,
                ),
            )


def audit(
    spec: str | Path | Spec | Mapping[str, Any],
    *,
    model: nn.Module | str | None = None,
    data: Any = None,
    allow_imports: Iterable[str] = (),
    allow_paths: Iterable[str] = (),
    trust_model: bool = False,
    show_images: bool = False,
    device: str | torch.device | None = None,
    progress: bool = False,
    evidence: str | Path | None = None,
    shard: tuple[int, int] = (1, 1),
) -> Report:
    """Judge a trained network by a spec's rules.

    The model is left as it was: modes, buffers, hooks, gradients and random state.

    Args:
        spec: Path of a rule file, or rules from Python with the same keys.
        model: A live model, or the text of one, instead of the spec's.
        data: Data instead of the spec's: its text, ``(images, labels)`` arrays, a map-style dataset, or an iterable
            of batches ``(images, labels)`` such as a DataLoader.
        allow_imports: Globs of modules or files that the spec may import (``pkg.models.*``, ``examples/**.py``).
        allow_paths: Globs of files and folders that the spec may open outside of its own directory and the current one.
        trust_model: Whether an exported program (``.pt2``) may be loaded, which runs code that it may hold.
        show_images: Whether what the report tells of single images names them; else they have salted hashes for names.
        device: Where to run a model that the spec names; a live model runs where it is.
        progress: Show a progress bar on stderr where that is a terminal.
        evidence: Where to store all that was measured, for :func:`cnnaudit.evidence.judge`.
        shard: Which part of how many, from 1: (2, 3) measures every third block of images and judges nothing, and
            :func:`cnnaudit.evidence.judge` joins the evidence of all parts. Every part reads all images, so that
            digests, columns and sources are those of the whole.

    Returns:
        The report; ``report.passed`` is True where the command line would exit with 0. Of a part of the images it has
        no verdicts.

    Raises:
        CnnAuditError: the audit could not be carried out; see :mod:`cnnaudit.errors`.
    """
    target = None if evidence is None else storing.writable(evidence)
    whole = _whole(shard, stored=target is not None)
    spec = read_spec(spec)
    verdicts: tuple[Verdict, ...] = ()
    seen: list[storing.Seen] = []
    with _measuring(
        spec,
        model,
        progress=progress,
        data=data,
        allow_imports=allow_imports,
        allow_paths=allow_paths,
        trust_model=trust_model,
        show_images=show_images,
        device=device,
        shard=shard,
    ) as (prepared, threads, shown):
        images = prepared.images
        for look, statistics in zip(prepared.looks, shown, strict=True):
            if target is not None:
                values = {name: tuple(known) for name, known in images.values.items()}
                known = storing.Known(look, len(images.met), values)
                seen.append(storing.states(prepared, statistics, known, shard))
            if not whole:
                continue
            with using_threads(1):
                verdicts = decide(
                    prepared.plan,
                    statistics,
                    prepared.spec,
                    classes=len(images.met),
                    values=images.values,
                    look=look,
                    earlier=verdicts,
                )
    report = Report(
        spec=spec_facts(prepared.spec),
        model=model_facts(prepared),
        data=prepared.images.facts,
        settings=settings(prepared) | {"threads": threads},
        verdicts=verdicts,
        notes=notes(prepared),
        coverage=coverage(prepared.plan, prepared.graph.sites),
    )
    if target is not None:
        storing.store(target, prepared, spec=spec, seen=seen, report=report, shard=shard)
    return report


def _whole(shard: tuple[int, int], *, stored: bool) -> bool:
    """Whether a shard is all images.

    Raises:
        EvidenceError: there is no such shard, or nothing of it would be kept.
    """
    number, of = shard
    if not 1 <= number <= of:
        raise EvidenceError(f"shard {number} of {of}: shards are numbered from 1 to how many there are, such as (2, 3)")
    if of > 1 and not stored:
        raise EvidenceError(f"shard {number} of {of} judges nothing alone: say where its evidence goes")
    return of == 1


@contextmanager
def _undisturbed(model: nn.Module | None) -> Iterator[None]:
    """Put back what forward passes and the user's data may change: random states, and buffers that they write."""
    buffers = [] if model is None else [(buffer, buffer.clone()) for buffer in model.buffers()]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the state that older code draws from
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 - see above
        with torch.no_grad():
            for buffer, saved in buffers:
                if not torch.equal(buffer, saved):
                    buffer.copy_(saved)


def _threads(prepared: Prepared) -> int:
    """Threads for the pass: one where the maps are small, because threads that wait for each other cost more."""
    sizes = [tap.positions * tap.shape[0] for site in prepared.graph.sites for tap in site.taps.values()]
    small = max(sizes, default=0) * prepared.spec.sampling.block < _SMALL
    return 1 if small else torch.get_num_threads()


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Let torch use so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _moved(loaded: Loaded, device: str | torch.device) -> Loaded:
    try:
        if loaded.program is not None:
            program = move_to_device_pass(loaded.program, device)
            return replace(loaded, program=program, model=program.module(check_guards=False))
        return replace(loaded, model=loaded.model.to(device))
    except (RuntimeError, AssertionError) as error:
        raise LoadError(
            f"device {device!r} cannot be used ({str(error).splitlines()[0]}); name another, such as cpu"
        ) from error


def _classes(images: Images, graph: ModelGraph, first: Block) -> int:
    if not images.labelled or first.labels is None:
        return 0
    if images.classes is not None:
        return images.classes
    head = next((site for site in graph.sites if site.op == "head"), None)
    return max(int(first.labels.max()) + 1, head.units if head else 0)


def _margin(canvas: Tensor, images: Tensor) -> tuple[int, ...]:
    """Pixels by which the images can be shifted either way within their canvas."""
    return tuple((c - s) // 2 for c, s in zip(canvas.shape[2:], images.shape[2:], strict=True))


def _concepts(images: Images, first: Block) -> int:
    if first.masks is None:
        return 0
    return concepts(first.masks) if images.concepts is None else images.concepts


def _counted(prepared: Prepared) -> Iterator[Block]:
    limit, count = prepared.spec.sampling.max_images, prepared.images.count
    known = [n for n in (limit, count) if n is not None]
    with tqdm(total=min(known) if known else None, unit=" images", file=sys.stderr, disable=None, leave=False) as bar:
        for block in prepared.blocks:
            yield block
            bar.update(len(block.images))
