"""Any metric on plain tensors: the code of an audit, without a model."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pydantic import ValidationError

from cnnaudit.data import Block, source_id
from cnnaudit.data.masks import as_masks
from cnnaudit.errors import LoadError, MetricError
from cnnaudit.judge import estimate
from cnnaudit.metrics import Metric, registry, vocabulary
from cnnaudit.plan import GROUPS
from cnnaudit.site import PARAMETERS, Op, Site, Tap, Variant
from cnnaudit.statistics import Parameters, Probe, View
from cnnaudit.statistics.window_activity import OPERATORS
from cnnaudit.stream import Folding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from cnnaudit.result import Estimate
    from cnnaudit.statistics import Statistic

__all__ = ["measure"]

_FACTS = (
    *("kernel", "stride", "padding", "dilation", "op", "groups", "units", "rank"),
    *("output", "inputs", "jump", "interior", "margin", "macs_after"),
)


def measure(
    name: str,
    *tensors: Tensor,
    labels: Tensor | None = None,
    masks: Any = None,
    sources: Any = None,
    confidence: float = 0.95,
    estimand: str = "population",
    seed: int = 0,
    block: int = 16,
    **facts_and_params: Any,
) -> Estimate:
    """Measure a metric on plain tensors.

    Args:
        name: ``"metric"`` or ``"metric.field"``.
        tensors: One for each tap that the metric reads, in its order (``measure("branch_variance_share", skip,
            branch)``), the last of them only where there are such: images first, then units, then positions;
            ``(images, units)`` is a map of one position. Parameters are given themselves (``measure("stable_rank",
            conv.weight)``). Integer tensors are taken as already on a grid of ``levels`` levels, 0 to levels - 1.
        labels: Class of each image, for metrics that need it.
        masks: For metrics that need them: dense labels, whole numbers of shape (images, *size), -1 where nothing is
            known; or concept masks, bool of shape (images, concepts, *size). Their size need not be the maps'.
        sources: What each image comes from (patient, video), whole numbers or text: images of one source are not
            independent, and intervals are over sources. By default every image is a source of its own.
        confidence: Confidence of the two-sided intervals.
        estimand: ``population``, or ``dataset`` where the metric's field allows it.
        seed: Seed of the order of images and of sampled positions.
        block: Images that are read at once.
        facts_and_params: The site's facts (``kernel=``, ``stride=``, ``padding=``, ``dilation=`` as one number or one
            for each dimension, ``op="max"``, ``"avg"``, ``"min"``, ``"stride"`` or ``"conv"``, ``groups=``, ``units=``,
            ``rank=`` for the largest rank that the op can attain, ``output=`` for the size of a pool's output where
            kernel and stride do not tell, ``inputs=`` for the channels of what is concatenated, ``macs_after=``; of
            shifted images ``jump=``, ``interior=`` and ``margin=``, see :class:`~cnnaudit.site.Site`) and the metric's
            own parameters.

    Returns:
        The estimate; gates do not apply, the interval says how little few images tell.

    Raises:
        MetricError: the name, a parameter, a tensor or the labels do not fit the metric.
    """
    metric, field = _find(name)
    _check_options(confidence, estimand, block)
    told = _Told(estimand, confidence)
    data = [_tensor(t) for t in tensors]
    levels = facts_and_params.get("levels")
    facts = {k: facts_and_params.pop(k) for k in _FACTS if k in facts_and_params}
    params = _params(metric, data, facts_and_params, levels)
    site = _altered(metric, _site(metric, data, facts), params, facts)
    why_not = metric.applies(site, field, params)
    if why_not:
        raise MetricError(f"{metric.name}.{field} does not apply: {why_not}; see `cnnaudit explain {metric.name}`")
    if metric.reads is Parameters:
        probe = Probe(Parameters, site, metric.taps)
        return _estimated(metric, field, Parameters.of(probe, dict(zip(metric.taps, data, strict=True))), params, told)
    count = len(data[0])
    y, concepts = _labels(metric, labels, data[0]), _masks(metric, masks, data[0])
    taps = metric.taps[: len(data)]
    probe = Probe(metric.reads, site, taps, metric.options(params), clustered=sources is not None)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    own = torch.argsort(order) if sources is None else _sources(sources, count)
    groups = GROUPS if sources is not None else min(GROUPS, count)
    folding = Folding([probe], groups, seed)
    for number, ids in enumerate(torch.split(order, block)):
        shown = {tap: x if tap in PARAMETERS else x[ids.to(x.device)] for tap, x in zip(taps, data, strict=True)}
        labelled = None if y is None else y[ids.to(y.device)]
        folding.start(Block(number, data[0], labelled, ids, own[ids]))
        concepts_shown = None if concepts is None else concepts[ids.to(concepts.device)]
        kept = (
            {tap: probe.statistic.kept(tap, x) for tap, x in shown.items()} if metric.variants(site, params) else shown
        )
        folding.take(probe, View(kept, ids.to(data[0].device), labelled, seed, concepts_shown))
    folding.settle()
    return _estimated(metric, field, folding.statistics[probe], params, told)


class _Told(NamedTuple):
    """How a measured quantity is stated."""

    estimand: str
    confidence: float


def _estimated(metric: Metric, field: str, statistic: Statistic, params: Mapping[str, Any], told: _Told) -> Estimate:
    count = statistic.n_images
    if statistic.nonfinite:
        broken = f"{statistic.nonfinite} of {count} images hold" if count else "the parameters hold"
        raise MetricError(f"{broken} NaN or Inf: {metric.name} is undefined; leave them out")
    found = metric.evaluate(statistic, statistic.probe.site, params)[field]
    if told.estimand == "dataset":
        if not metric.fields[field].exact:
            raise MetricError(
                f"{metric.name}.{field} samples positions or corrects a bias: it has no exact data-set value; "
                "leave estimand out"
            )
        found = found.on_dataset()
    kernels = tuple(range(len(found.value)))
    unit = metric.fields[field].unit
    return estimate(found, unit, n_images=count, kernels=kernels, confidence=told.confidence)


def _find(name: str) -> tuple[Metric, str]:
    entry, field = vocabulary().find(name)
    return registry()[entry.name], field


def _tensor(given: Any) -> Tensor:
    try:
        x = torch.as_tensor(given).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise MetricError(
            f"a {type(given).__name__} is no tensor ({str(error).splitlines()[0]}); pass one, or an array of numpy"
        ) from error
    if x.is_complex() or x.dtype is torch.bool:
        raise MetricError(f"tensors hold real numbers or levels, not {x.dtype}")
    return x


def _check_options(confidence: float, estimand: str, block: int) -> None:
    if not 0 < confidence < 1:
        raise MetricError(f"confidence lies between 0 and 1, not {confidence}")
    if estimand not in ("population", "dataset"):
        raise MetricError(f"estimand is population or dataset, not {estimand!r}")
    if block < 1:
        raise MetricError(f"a block holds at least one image, not {block}")


def _check_shapes(metric: Metric, data: list[Tensor]) -> None:
    least = len(metric.taps) - len(metric.optional)
    if not least <= len(data) <= len(metric.taps):
        number = str(len(metric.taps)) if not metric.optional else f"{least} to {len(metric.taps)}"
        raise MetricError(f"{metric.name} reads {number} tensor(s): {', '.join(metric.taps)}; got {len(data)}")
    for tap, x in zip(metric.taps, data, strict=False):
        if tap in PARAMETERS and (not x.numel() or (x.dim() < 2 if tap == "weight" else x.dim() != 1)):
            wanted = "(outputs, inputs, *kernel)" if tap == "weight" else "(kernels,)"
            raise MetricError(f"{tap} has shape {wanted}, none of them 0, not {tuple(x.shape)}")
        if tap not in PARAMETERS and (x.dim() < 2 or not len(x)):
            raise MetricError(
                f"tensors have shape (images, units, *positions) and at least one image, not {tuple(x.shape)}"
            )
    shown = [x for tap, x in zip(metric.taps, data, strict=False) if tap not in PARAMETERS]
    of_one_size = not ({"from", "logits", "gate"} & {*metric.taps} or metric.taps == ("input", "result"))
    sizes = (
        {len(x) for x in data} if metric.reads is Parameters else {x.shape if of_one_size else len(x) for x in shown}
    )
    if len(sizes) > 1:
        raise MetricError(
            f"the tensors differ in shape, and must agree: {', '.join(str(tuple(x.shape)) for x in data)}"
        )


def _site(metric: Metric, data: list[Tensor], facts: Mapping[str, Any]) -> Site:
    _check_shapes(metric, data)
    op = facts.get("op", "max")
    if op not in (*OPERATORS, "conv"):
        raise MetricError(f"op is one of {', '.join((*OPERATORS, 'conv'))}, not {op!r}")
    is_pool = op != "conv" and metric.at[0] is Op.POOL
    if op == "conv" and Op.CONV not in metric.at:
        raise MetricError(f"{metric.name} is not for convolutions: op is one of {', '.join(OPERATORS)}")
    last = [x for tap, x in zip(metric.taps, data, strict=False) if tap not in (*PARAMETERS, *metric.optional)] or data
    spatial = tuple(data[0].shape[2:] if metric.taps[0] == "input" else last[-1].shape[2:])
    channels = len(data[-1]) if metric.taps[len(data) - 1] in PARAMETERS else last[-1].shape[1]

    def each(fact: str, default: Any) -> tuple[int, ...]:
        value = facts.get(fact, default)
        numbers = tuple(value) if isinstance(value, (tuple, list)) else (value,) * len(spatial)
        least = 0 if fact == "padding" else 1
        if len(numbers) != len(spatial) or not all(isinstance(n, int) and n >= least for n in numbers):
            raise MetricError(
                f"{fact} is a whole number >= {least}, or one for each of {len(spatial)} dimensions; not {value!r}"
            )
        return numbers

    taps = {tap: _tap(x) for tap, x in zip(metric.taps, data, strict=False)}
    parameters = {tap: Tap("", tuple(x.shape)) for tap, x in zip(metric.taps, data, strict=False) if tap in PARAMETERS}
    taps = taps if metric.reads is Parameters else {tap: found for tap, found in taps.items() if tap not in parameters}
    if metric.reads is Parameters or "preactivation" in taps:
        # What the layer would hand on to a ReLU.
        taps["response"] = Tap("", (channels,), atoms=(0.0,), nonnegative=True)
    taps |= {f"input{i}": Tap("", (number,)) for i, number in enumerate(facts.get("inputs", ()))}
    weight = parameters["weight"].shape[2:] if "weight" in parameters and metric.reads is not Parameters else 2
    windows = bool({Op.POOL, Op.CONCAT} & {metric.at[0]}) or "weight" in parameters
    kernel = each("kernel", weight) if windows and not metric.of_pairs and spatial else ()
    stride, padding, dilation = (
        each("stride", 1 if "weight" in parameters else kernel or 1),
        each("padding", 0),
        each("dilation", 1),
    )
    if is_pool and kernel:
        size = facts.get("output") or _pooled(spatial, kernel, stride, padding, dilation)
        taps["output"] = Tap("", (channels, *size))
        kernel, stride = (kernel, stride) if "kernel" in facts or "output" not in facts else ((), ())
    groups = int(facts.get("groups", 1))
    if groups < 1 or channels % groups:
        raise MetricError(f"groups must divide the {channels} channels, and {groups} do not")
    return Site(
        path="tensors",
        op=Op.CONV if op == "conv" else metric.at[0],
        units=int(facts.get("units", channels)),
        taps=MappingProxyType(taps),
        parameters=MappingProxyType(parameters),
        kernel=kernel,
        stride=stride if kernel else (),
        padding=padding if windows else (),
        dilation=dilation if windows else (),
        jump=each("jump", 1),
        interior=tuple(facts.get("interior", ((0, size) for size in spatial))),
        macs_after=int(facts.get("macs_after", 0)),
        ceil_mode="output" in facts,
        operator=str(op) if is_pool else "",
        groups=groups,
        rank=int(facts.get("rank", 0)),
        downsamples=op == "conv" or is_pool,
        is_global=is_pool and kernel == spatial,
    )


def _pooled(
    spatial: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    """Size of the output of windows that lie within the padded map."""
    sizes = zip(spatial, kernel, stride, padding, dilation, strict=True)
    return tuple(max(0, (n + 2 * p - d * (k - 1) - 1) // s + 1) for n, k, s, p, d in sizes)


def _altered(metric: Metric, site: Site, params: Mapping[str, Any], facts: Mapping[str, Any]) -> Site:
    """The site with what was done to get those of its tensors that come from another run."""
    margin = facts.get("margin", ())
    margin = tuple(margin) if isinstance(margin, (tuple, list)) else (margin,) * len(site.interior)
    maps = any(tap.positions > 1 for tap in site.taps.values())
    changed = {}
    for name, altered in metric.variants(site, params).items():
        if altered.by == "crop" and maps and len(margin) != len(site.interior):
            raise MetricError(f"{metric.name} needs to know by how much images were shifted: pass margin=, in pixels")
        amount = (*altered.amount, *margin) if altered.by == "crop" else altered.amount
        changed[name] = replace(site.taps[name], variant=Variant("", altered.by, amount))
    return site.with_taps(changed)


def _tap(x: Tensor) -> Tap:
    return Tap("", tuple(x.shape[1:]), atoms=(0.0,), nonnegative=not (x < 0).any())


def _params(metric: Metric, data: list[Tensor], given: dict[str, Any], levels: int | None) -> dict[str, Any]:
    """Validate the metric's parameters; on integer tensors ``levels`` is the grid of whatever quantises."""
    grid = next((name for name in ("levels", "bins") if name in metric.params.model_fields), None)
    if grid and not all(x.is_floating_point() for x in data):
        if levels is None:
            raise MetricError("integer tensors are taken as levels of a grid: say how many there are (levels=)")
        lowest, highest = min(int(x.min()) for x in data), max(int(x.max()) for x in data)
        if lowest < 0 or highest >= levels:
            raise MetricError(f"integer tensors must hold levels 0 to {levels - 1}, found {lowest} to {highest}")
        given = {k: v for k, v in given.items() if k != "levels"} | {grid: levels}
    try:
        return dict(metric.params(**given))
    except ValidationError as error:
        problem = error.errors()[0]
        known = ", ".join([*metric.params.model_fields, *_FACTS])
        where = ".".join(map(str, problem["loc"]))
        raise MetricError(f"{metric.name}: {where}: {problem['msg']}; it knows {known}") from error


def _sources(sources: Any, count: int) -> Tensor:
    """Numbers that stand for the images' sources."""
    given = sources.tolist() if hasattr(sources, "tolist") else list(sources)
    if len(given) != count or not all(isinstance(value, (int, str)) for value in given):
        raise MetricError(f"sources are {count} whole numbers or texts, one an image")
    return torch.tensor([source_id(value) for value in given])


def _masks(metric: Metric, masks: Any, data: Tensor) -> Tensor | None:
    if not metric.masks:
        return None
    if masks is None:
        raise MetricError(f"{metric.name} needs masks: pass masks=, dense labels or concept masks of each image")
    try:
        concepts = as_masks(masks, "masks", images=len(data), dimensions=data.dim() - 2)
    except LoadError as error:
        raise MetricError(str(error)) from error
    return concepts.to(data.device)


def _labels(metric: Metric, labels: Tensor | None, data: Tensor) -> Tensor | None:
    count = len(data)
    if not metric.labels:
        return None
    if labels is None:
        raise MetricError(f"{metric.name} needs labels: pass labels=, one integer an image")
    y = torch.as_tensor(labels)
    if y.is_floating_point() or y.shape != (count,) or (count and int(y.min()) < 0):
        raise MetricError(f"labels are {count} integers >= 0, one an image; got {y.dtype} of shape {tuple(y.shape)}")
    return y.long().to(data.device)
