"""The whole way from a spec to a report, and from plain tensors to an estimate."""

from __future__ import annotations

import hashlib
import itertools
import math
import platform
import random
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from cnnaudit.errors import LoadError
from cnnaudit.graph import capture
from cnnaudit.judge import decide, family_wise_error
from cnnaudit.load import Block, Images, Trust, concepts, load_model, make_twin, open_images
from cnnaudit.looks import Look, schedule
from cnnaudit.metrics import registry, vocabulary
from cnnaudit.plan import Plan, make_plan
from cnnaudit.result import Report
from cnnaudit.site import Op
from cnnaudit.spec import Spec, from_mapping, resolve
from cnnaudit.spec import load as load_spec
from cnnaudit.stream import filled, sweep
from cnnaudit.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from cnnaudit.graph import ModelGraph
    from cnnaudit.result import Verdict
    from cnnaudit.statistics import Probe, Statistic

__all__ = ["Measured", "Prepared", "audit", "measure_all", "prepare", "read_spec", "using_threads"]


_TWIN_IMAGES = 256
_SMALL = 2**18  # values of the largest map of a block


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before the first block is folded.

    Attributes:
        spec: The rules.
        model: The live model, in whatever mode it came.
        graph: The captured model with its sites.
        twins: Its null twins, captured, by what they are.
        plan: What will be measured and decided.
        images: The data.
        blocks: The images in the order of the audit, the first block included.
        classes: Number of classes, 0 without labels.
        device: Where it runs.
        looks: When the results are looked at.
    """

    spec: Spec
    model: nn.Module
    graph: ModelGraph
    twins: Mapping[str, ModelGraph]
    plan: Plan
    images: Images
    blocks: Iterable[Block]
    classes: int
    device: torch.device
    looks: tuple[Look, ...]


def read_spec(spec: str | Path | Spec | Mapping[str, Any]) -> Spec:
    """Read a rule file, or take rules that Python gives.

    Raises:
        SpecError: with every mistake that was found.
    """
    if isinstance(spec, Spec):
        return spec
    if not isinstance(spec, (Mapping, str, Path)):
        raise LoadError(f"rules are a path, or a mapping {{cnnaudit: 1, rules: [...]}}; not a {type(spec).__name__}")
    if isinstance(spec, Mapping):
        return from_mapping(spec, vocabulary())
    return load_spec(spec, vocabulary())


def prepare(
    spec: str | Path | Spec | Mapping[str, Any],
    *,
    model: nn.Module | str | None = None,
    data: Any = None,
    allow_imports: Iterable[str] = (),
    device: str | torch.device | None = None,
) -> Prepared:
    """Read the spec, open model and data, capture the graph and plan the checks; one block is read.

    Raises:
        CnnAuditError: any of it is wrong; see :mod:`cnnaudit.errors`.
    """
    spec = read_spec(spec)
    trust = Trust.here(allow_imports)
    if isinstance(model, str):
        spec = replace(spec, model=resolve(model, base=Path.cwd(), role="model"), weights=None)
        model = None
    if model is None:
        if spec.model is None:
            raise LoadError(f"{spec.name}: no `model:`, and none was given from Python")
        model = load_model(spec.model, spec.weights, trust)
        model = model if device is None else _moved(model, device)
    elif device is not None:
        raise LoadError("a live model runs where it is: move it before the audit instead of giving a device")
    else:
        spec = replace(spec, model=None, weights=None)  # what they name is not what is audited
    where, dtype = _home(model)
    if data is None and spec.data is None:
        raise LoadError(f"{spec.name}: no `data:`, and none was given from Python")
    if isinstance(data, (str, Path)):
        data = resolve(str(data), base=Path.cwd(), role="data")
    columns = tuple(dict.fromkeys(rule.by.column for rule in spec.rules if rule.by))
    masks = any(registry()[rule.metric].masks for rule in spec.rules)
    images = open_images(spec.data if data is None else data, trust, columns, masks=masks)
    sampling = spec.sampling
    rest = (
        (block if sampling.crop is None else block.cropped(sampling.crop)).to(where, dtype)
        for block in images.blocks(sampling.block, sampling.seed, sampling.max_images)
    )
    first = next(rest, None)
    if first is None:
        raise LoadError(f"data {images.source}: there are no images")
    # As many images as every forward pass will have: a graph that cannot be of any batch size is of this one.
    example = first.images[torch.arange(sampling.block) % len(first.images)]
    graph = capture(model, example)
    classes = _classes(images, graph, first)
    known = [n for n in (images.count, sampling.max_images) if n is not None]
    count = min(known) if images.count is not None else None
    plan = make_plan(
        spec,
        graph.sites,
        classes=classes,
        labelled=images.labelled,
        masked=images.masked,
        concepts=_concepts(images, first),
        n_images=count,
        clustered=images.clustered,
        values=images.values if images.all_values else {},
        margin=None if first.canvas is None else _margin(first.canvas, first.images),
    )
    # In an order that the data decides, the first half need not be like the second.
    looks = schedule(count if images.order == "seeded" else None, block=sampling.block, at_most=sampling.looks)
    twins, read = _twins(spec, model, graph, itertools.chain([first], rest))
    return Prepared(spec, model, graph, twins, plan, images, itertools.chain(read, rest), classes, where, looks)


def _twins(
    spec: Spec, model: nn.Module, graph: ModelGraph, blocks: Iterator[Block]
) -> tuple[dict[str, ModelGraph], list[Block]]:
    """The null twins that rules want, captured, and the blocks that were read for that; the first one anyway."""
    kinds = sorted({rule.null for rule in spec.rules if rule.null})
    size = spec.sampling.block
    read = list(itertools.islice(blocks, math.ceil(_TWIN_IMAGES / size) if kinds else 1))
    images = [filled(block.images, size) for block in read]
    twins = {kind: capture(make_twin(model, kind, images, spec.sampling.seed), images[0]) for kind in kinds}
    for kind, twin in twins.items():
        if [site.path for site in twin.sites] != [site.path for site in graph.sites]:
            raise LoadError(f"null: {kind}: with other weights {type(model).__name__} is another network")
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
    data: Any = None,
    allow_imports: Iterable[str] = (),
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Measured:
    """Fill the statistics that a spec's rules need; arguments and errors are those of :func:`audit`."""
    with _measuring(spec, model, data, allow_imports, device, progress=progress) as (prepared, threads, shown):
        *_, statistics = shown
    return Measured(prepared, statistics, threads)


@contextmanager
def _measuring(
    spec: str | Path | Spec | Mapping[str, Any],
    model: nn.Module | str | None,
    data: Any,
    allow_imports: Iterable[str],
    device: str | torch.device | None,
    *,
    progress: bool,
) -> Iterator[tuple[Prepared, int, Iterator[Mapping[Probe, Statistic]]]]:
    """Everything that is known beforehand, the threads that are used, and what is measured by each look."""
    if model is not None and not isinstance(model, (str, torch.nn.Module)):
        raise LoadError(f"model: a {type(model).__name__} from Python, not a torch.nn.Module or text")
    model = _unwrapped(model)
    with _undisturbed(None if isinstance(model, str) else model):
        prepared = prepare(spec, model=model, data=data, allow_imports=allow_imports, device=device)
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
                    looks=[look.images for look in prepared.looks if not look.last],
                ),
            )


def audit(
    spec: str | Path | Spec | Mapping[str, Any],
    *,
    model: nn.Module | str | None = None,
    data: Any = None,
    allow_imports: Iterable[str] = (),
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Report:
    """Judge a trained network by a spec's rules.

    The model is left as it was: modes, buffers, hooks, gradients and random state.

    Args:
        spec: Path of a rule file, or rules from Python with the same keys.
        model: A live model, or the text of one, instead of the spec's.
        data: Data instead of the spec's: its text, ``(images, labels)`` arrays, a map-style dataset, or an iterable
            of batches ``(images, labels)`` such as a DataLoader.
        allow_imports: Globs of modules or files that the spec may import (``pkg.models.*``, ``examples/**.py``).
        device: Where to run a model that the spec names; a live model runs where it is.
        progress: Show a progress bar on stderr where that is a terminal.

    Returns:
        The report; ``report.passed`` is True where the command line would exit with 0.

    Raises:
        CnnAuditError: the audit could not be carried out; see :mod:`cnnaudit.errors`.
    """
    verdicts: tuple[Verdict, ...] = ()
    with _measuring(spec, model, data, allow_imports, device, progress=progress) as (prepared, threads, shown):
        images = prepared.images
        for look, statistics in zip(prepared.looks, shown, strict=True):
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
    return Report(
        spec=prepared.spec.facts,
        model=_model_facts(prepared),
        data=prepared.images.facts,
        settings=_settings(prepared) | {"threads": threads},
        verdicts=verdicts,
        notes=_notes(prepared),
    )


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


def _unwrapped(model: Any) -> Any:
    """The network inside what compiles or spreads it: the same parameters, and names without a prefix."""
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)) or hasattr(model, "_orig_mod"):
        model = model.module if hasattr(model, "module") else model._orig_mod  # noqa: SLF001 - torch.compile's name
    return model


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


def _home(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and number type that a model's images need: those of its first floating parameter."""
    held = itertools.chain(model.parameters(), model.buffers())
    first = next((x for x in held if x.is_floating_point()), torch.empty(0))
    return first.device, first.dtype


def _moved(model: nn.Module, device: str | torch.device) -> nn.Module:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise LoadError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


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


def _model_facts(prepared: Prepared) -> dict[str, Any]:
    spec, digest = prepared.spec, hashlib.sha256()
    for name, tensor in prepared.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return {
        "source": spec.model.written if spec.model else f"a {type(prepared.model).__name__} from Python",
        "weights": spec.weights.written if spec.weights else "",
        "sha256": digest.hexdigest(),
        "sites": dict(
            sorted(Counter(str(site.op) for site in prepared.graph.sites if site.op is not Op.INPUT).items())
        ),
        "input_shape": list(prepared.graph.input_shape),
    }


def _settings(prepared: Prepared) -> dict[str, Any]:
    spec, sampling = prepared.spec, prepared.spec.sampling
    return {
        "undecided": spec.undecided,
        "seed": sampling.seed,
        "confidence": sampling.confidence,
        "block": sampling.block,
        "crop": sampling.crop,
        "max_images": sampling.max_images,
        "max_memory": sampling.max_memory,
        "groups": prepared.plan.groups,
        "looks": [look.images or prepared.images.facts["n_images"] for look in prepared.looks],
        "alpha": [(1 - sampling.confidence) * look.spent for look in prepared.looks],
        "family_wise_error": family_wise_error(prepared.plan, spec),
        "statistics_bytes": prepared.plan.bytes,
        "twins": sorted(prepared.twins),
        "metrics": sorted({check.metric.identified(check.rule.params) for check in prepared.plan.checks}),
        "device": str(prepared.device),
        "dtype": str(_home(prepared.model)[1]).removeprefix("torch."),
        "tf32": bool(torch.backends.cuda.matmul.allow_tf32),
        "cnnaudit": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _notes(prepared: Prepared) -> tuple[str, ...]:
    notes = []
    source = prepared.spec.model
    if source is not None and prepared.spec.weights is None:
        random = source.kind in ("torchvision", "timm") and not {"weights", "pretrained"} & set(source.options)
        told = "with random weights" if random else "with the weights it was returned with"
        notes.append(f"No `weights:`: {source.written} was audited {told}.")
    for kind in prepared.twins:
        how = (
            "permuted within each tensor"
            if kind == "permuted"
            else f"fresh, drawn with seed {prepared.spec.sampling.seed}"
        )
        notes.append(f"Null twin: the weights are {how}; batch norms know the first {_TWIN_IMAGES} images under them.")
    if prepared.images.integers:
        notes.append("The images are whole numbers and went in as float32 without scaling.")
    if prepared.images.order == "as given":
        notes.append("The data was read in the order it gave, not in a random one: intervals suppose that it is mixed.")
    sampled = [p for p in prepared.plan.probes if p.kernels is not None]
    if sampled:
        fewest = min(len(p.units) for p in sampled)
        notes.append(f"Memory did not reach for all kernels: at {len(sampled)} places as few as {fewest} were sampled.")
    return tuple(notes)
