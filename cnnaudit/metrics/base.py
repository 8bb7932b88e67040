"""What a metric is: a documented pure function of finished statistics, found by its file."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import ConfigDict, create_model

from cnnaudit.errors import MetricError
from cnnaudit.intervals import Debiased, Jackknife, Uncertain
from cnnaudit.lazy import np
from cnnaudit.site import Altered, Op, Site
from cnnaudit.statistics import Statistic

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["COSTS", "Field", "Gate", "Metric", "Need", "metric", "numbers", "registry"]

GROUP = "cnnaudit.metrics"
COSTS = ("weights", "light", "medium", "heavy")


@dataclass(frozen=True)
class Field:
    """One number that a metric returns for each unit.

    Attributes:
        unit: Physical unit: ``bits``, ``fraction``, ``ratio``.
        summary: What it is, to be read after its name.
        better: Whether ``higher`` or ``lower`` values are healthier; empty where neither is.
        low, high: What a value below a ``min``, above a ``max`` means, and what to do about it.
        dataset: True where "on these images" is the default claim; the population is elsewhere.
        exact: True where every image's whole map is read, so that a claim about the data set can be made.
        debias: True where the delete-a-group jackknife also takes its estimate of the bias off the value.
        limits: Range that the truth cannot leave; jackknife intervals are cut there.
        beside: Field that another rule of the same file must bound, because alone this one says too little.
    """

    unit: str
    summary: str
    better: str = ""
    low: tuple[str, str] = ("The value is below what the rule allows.", "Look at the worst units.")
    high: tuple[str, str] = ("The value is above what the rule allows.", "Look at the worst units.")
    dataset: bool = False
    exact: bool = False
    debias: bool = False
    limits: tuple[float, float] = (-math.inf, math.inf)
    beside: str = ""


@dataclass(frozen=True)
class Need:
    """What a metric knows before a batch is read and needs to judge how many images it takes."""

    site: Site
    field: str
    classes: int
    alpha: float
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Gate:
    """Why a unit cannot be judged yet.

    Attributes:
        images: Images needed for each unit, 0 where there are enough.
        reason: What there is too little of.
        instead: What would do with fewer images, to be read after "or"; may be empty.
    """

    images: np.ndarray[Any, np.dtype[np.int64]]
    reason: str
    instead: str = ""


Values = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """A metric with everything that the plan, the judge and the documentation know of it.

    Attributes:
        function: ``(statistic, site, **params) -> {field: Uncertain or Tensor}``; tensors where the interval
            is a jackknife, which calls the function again without each group. Where several images come from one
            source, or it knows no other error, an Uncertain gets its error in the same way.
        reads: The statistic.
        at: Ops that the metric is for, the most usual first.
        taps: Taps or parameters of the site that are read; ``result`` is what the site hands on, ``logits`` what the
            network's head does. A metric of ``("from", "to")`` is
            for pairs of sites: it reads their results, and at a single site what goes in and what comes out. A metric
            that reads Parameters names those instead.
        optional: The last of these, where not every site has them.
        variants: ``(site, params)`` -> those of the taps that are read in another run of the network, and what is
            replaced there.
        fields: What is returned, the default first.
        interval: Name of the interval method, for people.
        cost: What measuring adds to a forward pass: one of ``COSTS``, then after a colon the same for people.
        version: Rises whenever a value may change for the same input.
        labels: True where labels are needed.
        masks: True where concept masks or dense labels are needed.
        together: True where a value speaks of all kernels of a site at once, and means nothing for a sample of them.
        recommended: True where a first look at a network includes it.
        identity: Parameters that make another quantity of it: values compare only where these agree, too.
        where: Which sites of those ops are meant at all.
        applies: ``(site, field, params)`` -> why the field has no meaning at a site of its kind; None where it has.
        images: Fewest images with which a verdict on the population is possible.
        gate: ``(statistic, site, field, params)`` -> what the counts themselves say about having enough.
    """

    function: Callable[..., Values]
    reads: type[Statistic]
    at: tuple[Op, ...]
    taps: tuple[str, ...]
    optional: tuple[str, ...]
    variants: Callable[[Site, Mapping[str, Any]], Mapping[str, Altered]]
    fields: Mapping[str, Field]
    interval: str
    cost: str
    version: int
    labels: bool
    masks: bool
    together: bool
    recommended: bool
    identity: tuple[str, ...]
    where: Callable[[Site], bool]
    applies: Callable[[Site, str, Mapping[str, Any]], str | None]
    images: Callable[[Need], int]
    gate: Callable[[Any, Site, str, Mapping[str, Any]], Gate | None]

    @property
    def name(self) -> str:
        """The metric's name in rules."""
        return self.function.__name__

    @property
    def id(self) -> str:
        """Name and version: values are comparable only where these agree."""
        return f"{self.name}/{self.version}"

    def identified(self, params: Mapping[str, Any]) -> str:
        """Return the id with the parameters that make another quantity of it: ``renyi_entropy/1(width=median)``."""
        told = ", ".join(f"{name}={params[name]}" for name in self.identity)
        return f"{self.id}({told})" if told else self.id

    def taps_at(self, site: Site) -> tuple[str, ...]:
        """Return what is read at a site, by the site's own names for it.

        Raises:
            KeyError: the site has not all that must be there; the argument names it.
        """
        return tuple(site.tap(tap) for tap in self.taps if tap not in self.optional or site.has(tap))

    @property
    def of_pairs(self) -> bool:
        """Whether it compares two values: of two sites, or of what goes into one and comes out."""
        return self.taps == ("from", "to")

    @property
    def cost_class(self) -> str:
        """How dear it is, one of ``COSTS``."""
        return self.cost.partition(":")[0]

    @property
    def needs(self) -> str:
        """What the data must have besides images, for people."""
        wanted = [name for name, needed in (("labels", self.labels), ("masks", self.masks)) if needed]
        return "weights" if self.cost_class == "weights" else " and ".join(wanted) or "images"

    @property
    def doc(self) -> str:
        """The whole documentation."""
        return inspect.getdoc(self.function) or ""

    @property
    def summary(self) -> str:
        """First line of the documentation."""
        return self.doc.partition("\n")[0]

    @cached_property
    def params(self) -> type[BaseModel]:
        """The keyword-only arguments as a pydantic model that refuses unknown names."""
        signature = inspect.signature(self.function).parameters
        own = {name: p for name, p in signature.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
        # Only theirs are read: what the others are annotated with need not be there at run time.
        holder = SimpleNamespace(__annotations__={name: parameter.annotation for name, parameter in own.items()})
        hints = get_type_hints(holder, globalns=inspect.unwrap(self.function).__globals__, include_extras=True)
        fields: dict[str, Any] = {name: (hints[name], parameter.default) for name, parameter in own.items()}
        config = ConfigDict(extra="forbid", frozen=True, strict=True)
        return create_model(f"{self.name}_params", __config__=config, **fields)

    def options(self, params: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
        """Return the statistic's options: its own defaults, and the params that carry their names."""
        known = self.reads.options
        return tuple(sorted({name: params.get(name, known[name]) for name in known}.items()))

    def without_each_group(self, statistic: Statistic, site: Site, params: Mapping[str, Any]) -> list[Values]:
        """Return every field without the images of each group; nothing where fewer than two groups hold images."""
        if (statistic.images > 0).sum() < 2:
            return []
        return [self.function(part, site, **params) for part in statistic.leave_one_out()]

    def evaluate(
        self,
        statistic: Statistic,
        site: Site,
        params: Mapping[str, Any],
        without_each_group: Callable[[], Sequence[Values]] | None = None,
    ) -> dict[str, Uncertain]:
        """Return every field with its uncertainty, one entry for each unit.

        Args:
            statistic: What was read.
            site: Where.
            params: The metric's parameters.
            without_each_group: What :meth:`without_each_group` gives, where that may be known already.
        """
        whole = self.function(statistic.pooled(), site, **params)
        done = all(isinstance(value, Uncertain) and not value.by_groups for value in whole.values())
        if done and not statistic.probe.clustered:
            return dict(whole)
        sizes = np.array([n for n in statistic.images.tolist() if n], dtype=np.float64)
        known = without_each_group or (lambda: self.without_each_group(statistic, site, params))
        rest = known()
        return {
            name: value.regrouped([part[name] for part in rest], sizes, statistic.n_sources)
            if isinstance(value, Uncertain)
            else (Debiased if self.fields[name].debias else Jackknife)(
                numbers(value), np.array([numbers(part[name]) for part in rest]), sizes, self.fields[name].limits
            )
            for name, value in whole.items()
        }


def metric(
    *,
    reads: type[Statistic],
    at: Op | tuple[Op, ...],
    taps: str | tuple[str, ...],
    fields: Mapping[str, Field],
    interval: str,
    cost: str,
    optional: tuple[str, ...] = (),
    variants: Callable[[Site, Mapping[str, Any]], Mapping[str, Altered]] = lambda site, params: {},  # noqa: ARG005
    version: int = 1,
    labels: bool = False,
    masks: bool = False,
    together: bool = False,
    recommended: bool = False,
    identity: tuple[str, ...] = (),
    where: Callable[[Site], bool] = lambda site: True,  # noqa: ARG005
    applies: Callable[[Site, str, Mapping[str, Any]], str | None] = lambda site, field, params: None,  # noqa: ARG005
    images: Callable[[Need], int] = lambda need: 1,  # noqa: ARG005
    gate: Callable[[Any, Site, str, Mapping[str, Any]], Gate | None] = lambda statistic, site, field, params: None,  # noqa: ARG005
) -> Callable[[Callable[..., Values]], Metric]:
    """Make a function a metric; see :class:`Metric` for the parameters."""
    if cost.partition(":")[0] not in COSTS:
        raise ValueError(f"the cost of a metric starts with one of {', '.join(COSTS)}: {cost!r}")

    def make(function: Callable[..., Values]) -> Metric:
        return Metric(
            function=function,
            reads=reads,
            at=at if isinstance(at, tuple) else (at,),
            taps=taps if isinstance(taps, tuple) else (taps,),
            optional=optional,
            variants=variants,
            fields=MappingProxyType(dict(fields)),
            interval=interval,
            cost=cost,
            version=version,
            labels=labels,
            masks=masks,
            together=together,
            recommended=recommended,
            identity=identity,
            where=where,
            applies=applies,
            images=images,
            gate=gate,
        )

    return make


@cache
def registry() -> Mapping[str, Metric]:
    """Return every metric by name: each file of this package that holds one, and what other packages offer.

    Another package offers a metric by an entry point of the group ``cnnaudit.metrics``, whose object is the metric.

    Raises:
        MetricError: an entry point cannot be loaded, is no metric, or has the name of another metric.
    """
    package = importlib.import_module("cnnaudit.metrics")
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        for value in vars(importlib.import_module(f"cnnaudit.metrics.{module.name}")).values():
            if isinstance(value, Metric):
                found[value.name] = value
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        offered = _offered(point)
        if offered.name in found:
            raise MetricError(f"{_origin(point)}: there is a metric {offered.name} already; give this one another name")
        found[offered.name] = offered
    return MappingProxyType(dict(sorted(found.items())))


def _origin(point: EntryPoint) -> str:
    package = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
    return f"entry point {point.name} = {point.value!r} in {GROUP}{package}"


def _offered(point: EntryPoint) -> Metric:
    try:
        value = point.load()
    except Exception as error:
        raise MetricError(
            f"{_origin(point)} cannot be loaded: {type(error).__name__}: {error}; update or uninstall that package"
        ) from error
    if not isinstance(value, Metric):
        raise MetricError(f"{_origin(point)} is a {type(value).__name__}, not a metric that @metric has made")
    return value


def numbers(value: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a tensor of unit values as a float64 array of shape (units,)."""
    return np.atleast_1d(np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=np.float64))
