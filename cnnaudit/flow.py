"""Assertions on a measured network, in Python: one pass over the data, then any number of comparisons.

::

    flow = cnnaudit.profile(model, loader)
    assert flow["class_information"].at("layer4.**", share=0.9) >= 0.1
    assert flow["branch_variance_share"].mean >= 0.02

A comparison is decided as the rule of a file with the same metric, sites and bound would be that looks at the results
once, at the end: the bound is not known on the way.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
from tabulate import tabulate

from cnnaudit.errors import CnnAuditError, MetricError, UndecidedError
from cnnaudit.facts import conditions, model_facts, notes
from cnnaudit.judge import Evaluations, decide, estimate
from cnnaudit.metrics import registry, vocabulary
from cnnaudit.pipeline import measure_all, read_spec, using_threads
from cnnaudit.plan import near_misses, selects
from cnnaudit.report.words import margin, number
from cnnaudit.result import Outcome
from cnnaudit.spec import from_mapping
from cnnaudit.spec.messages import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from torch import nn

    from cnnaudit.plan import Check, Plan
    from cnnaudit.result import Estimate, Verdict
    from cnnaudit.site import Site
    from cnnaudit.spec import Rule, Spec
    from cnnaudit.statistics import Probe, Statistic

__all__ = ["Comparison", "Flow", "Selection", "profile"]

_T = TypeVar("_T")

_SHOWN = 6
_SIDES = {"min", "max", "min_excess"}
_WORDS = {
    Outcome.ERROR: "cannot be judged",
    Outcome.FAIL: "fails",
    Outcome.UNDECIDED: "undecided",
    Outcome.PASS: "passes",
}
_GRAVITY = list(_WORDS)


def profile(
    model: nn.Module | str | None = None,
    data: Any = None,
    *,
    rules: str | Path | Spec | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] = "recommended",
    max_images: int | None = None,
    seed: int | None = None,
    confidence: float | None = None,
    crop: int | Sequence[int] | None = None,
    head: str | int | bool | None = None,
    inputs: str | Sequence[Any] | Mapping[str, Any] | None = None,
    allow_imports: Iterable[str] = (),
    allow_paths: Iterable[str] = (),
    trust_model: bool = False,
    show_images: bool = False,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Flow:
    """Measure a network once, for assertions on what was measured.

    The model is left as it was: modes, buffers, hooks, gradients and random state.

    Args:
        model: A live model or the text of one; None where ``rules`` are a rule file that names it.
        data: The images, as :func:`cnnaudit.audit` takes them; None where ``rules`` are a rule file that names them.
        rules: What is measured. ``"recommended"``: the metrics of a first look that have a site in this network
            and, where they need labels, labelled data. Else a metric's name (``"activity"``, ``"activity.dead"``), a
            mapping with the keys of a rule, of which the bounds may be left out, a list of these, or a whole rule
            file: its path (``.yaml``, ``.yml``), its content as a mapping, or a ``Spec``. All fields of a metric
            are measured together, whichever is named.
        max_images: Read at most so many images; the rule file's own limit by default, else all.
        seed: Seed of the order of images and of sampled positions; the rule file's by default, else 0.
        confidence: Confidence of the decisions; the rule file's by default, else 0.95.
        crop: Size of what the network sees of larger images, their middle, so that metrics can shift them; the rule
            file's by default, else all.
        head: Which of the network's outputs holds the logits: its key or index, joined by dots where outputs are
            nested; False where none does; the rule file's by default, else the usual one.
        inputs: How the network is called with what the data names: a name, a list of names for positional arguments
            or a mapping for keywords; the rule file's by default, else with the images.
        allow_imports: Globs of modules or files that a rule file may import.
        allow_paths: Globs of files and folders that a rule file may open outside of its own directory and the current
            one.
        trust_model: Whether an exported program (``.pt2``) may be loaded, which runs code that it may hold.
        show_images: Whether what is told of single images names them; else they have salted hashes for names.
        device: Where to run a model that is given as text; a live model runs where it is.
        progress: Show a progress bar on stderr where that is a terminal.

    Raises:
        SpecError: what says how to measure (``rules`` to ``inputs``) has mistakes; all of them are named.
        CnnAuditError: the network could not be measured; see :mod:`cnnaudit.errors`.
    """
    crop = crop if crop is None or isinstance(crop, int) else list(crop)
    sampling = {"max_images": max_images, "seed": seed, "confidence": confidence, "crop": crop}
    calling = {"head": head, "inputs": inputs}
    spec = _spec(
        rules,
        {name: value for name, value in sampling.items() if value is not None},
        {name: value for name, value in calling.items() if value is not None},
    )
    measured = measure_all(
        _every_field(spec),
        model=model,
        data=data,
        allow_imports=allow_imports,
        allow_paths=allow_paths,
        trust_model=trust_model,
        show_images=show_images,
        device=device,
        progress=progress,
    )
    prepared = measured.prepared
    images = prepared.images
    return Flow(
        prepared.spec,
        prepared.plan,
        tuple(prepared.graph.sites),
        measured.statistics,
        len(images.met),
        images.values,
        model_facts(prepared),
        images.facts,
        conditions(prepared) | {"threads": measured.threads},
        notes(prepared),
    )


@dataclass(frozen=True, eq=False, repr=False)
class Flow:
    """What one pass over the data measured; ``flow["metric.field"]`` is a :class:`Selection` of it.

    Attributes:
        spec: What was measured, as rules without bounds: one for each field of the metrics, the named one first.
        plan: What was read where.
        sites: Every site of the network, in its order.
        statistics: What was read.
        classes: Number of classes that were met.
        values: The values of each column that rules slice by.
        model, data, settings, notes: What was measured, on what and how, as a :class:`cnnaudit.Report` tells it.
    """

    spec: Spec
    plan: Plan
    sites: tuple[Site, ...]
    statistics: Mapping[Probe, Statistic]
    classes: int
    values: Mapping[str, Sequence[str]]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    settings: Mapping[str, Any]
    notes: tuple[str, ...]
    _evaluations: Evaluations = dataclasses.field(default_factory=Evaluations, init=False)
    _whole: dict[Probe, Statistic] = dataclasses.field(default_factory=dict, init=False)

    def __getitem__(self, key: str) -> Selection:
        """Return a rule by its id, with its sites, share, reduction and estimand; or else a metric or a field of one.

        A metric or field is meant at every site where any rule measured it, every unit, with the metric's own estimand.

        Raises:
            MetricError: it was not measured, or with different params under different ids.
        """
        rule, ids = self._found(key)
        at = {c.site.path: c for c in self.plan.checks if c.rule.id in ids and c.rule.field == rule.field}
        order = {site: i for i, site in enumerate(self.sites)}
        inside = sorted(at.values(), key=lambda check: [order[site] for site in reversed(check.places)])
        checks = tuple(replace(check, rule=rule) for check in inside)
        return Selection(self, rule, checks, "" if rule.at == ("**",) else " or ".join(rule.at))

    def __contains__(self, key: str) -> bool:
        try:
            self._found(key)
        except MetricError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        """Yield the ids of what was measured; where no other ids were given, the metrics as they were named."""
        return (name for name in self._named if name not in self._absent)

    def __len__(self) -> int:
        return len(list(iter(self)))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that were measured."""
        return tuple(dict.fromkeys(self._named[name].metric for name in self))

    @property
    def n_images(self) -> int:
        """Images that were read; 0 where no metric had a site."""
        return max((statistic.n_images for statistic in self.statistics.values()), default=0)

    def table(self) -> str:
        """Return what was measured as text: sites in the order of the network, with the fields that were named."""
        # Two rules may name the same field at the same site.
        found = dict.fromkeys(row for name in self for row in self[name]._rows())  # noqa: SLF001 - the same module
        rows = self._in_order(found, lambda row: row[0])
        return tabulate(
            rows,
            headers=["site", "op", "metric", "value", "interval", "unit", "units"],
            disable_numparse=True,
        )

    def records(self) -> list[dict[str, Any]]:
        """Return what was measured as plain data, one dict for each field at each site, in the order of the network.

        Its keys are ``id`` (of the rule), ``site``, ``op``, ``metric``, ``field``, ``value``, ``low``, ``high``,
        ``unit``, ``units`` (the value of each), ``kernels`` (which these are) and ``n_images``; what is undefined is
        None.
        """
        measured = {(c.rule.id, c.rule.field, c.site.path): c for c in self.plan.checks if c.probe is not None}
        return self._in_order(map(self._record, measured.values()), lambda record: str(record["site"]))

    def _record(self, check: Check) -> dict[str, Any]:
        rule = check.rule
        place = {"id": rule.id, "site": check.site.path, "op": str(check.site.op)}
        try:
            held = dataclasses.asdict(_estimate(check, self))
        except MetricError as error:
            held = {"value": None, "low": None, "high": None, "unit": "", "units": (), "kernels": (), "why": str(error)}
        kept = {name: value for name, value in held.items() if name not in ("lows", "highs")}
        return place | {"metric": rule.metric, "field": rule.field} | {key: _plain(x) for key, x in kept.items()}

    def _in_order(self, found: Iterable[_T], path: Callable[[_T], str]) -> list[_T]:
        """What was found at sites, as they follow each other in the network."""
        places = {check.site.path: check.places for check in self.plan.checks}
        order = {site: i for i, site in enumerate(self.sites)}
        return sorted(found, key=lambda each: [order[site] for site in reversed(places[path(each)])])

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"<Flow of {', '.join(self) or 'nothing'}: {_count(self.n_images, 'image')}>"

    def _statistic(self, probe: Probe) -> Statistic:
        """What a probe read of all images: of all slices together where it tells slices apart."""
        if not probe.by:
            return self.statistics[probe]
        if probe not in self._whole:
            self._whole[probe] = self._joined(probe)
        return self._whole[probe]

    def _joined(self, probe: Probe) -> Statistic:
        parts = [part for slice_, part in self.statistics.items() if replace(slice_, slice=None) == probe]
        whole = probe.statistic(probe, self.plan.groups)
        for part in parts:
            whole.merge(part)
        if probe.clustered:
            # A source may have images in several slices; it is one all the same.
            whole.tally["sources"] = torch.stack([part.tally["sources"] for part in parts]).amax(0)
        return whole

    @cached_property
    def _named(self) -> dict[str, Rule]:
        """The rules as they were named, without those for the metric's other fields."""
        named: dict[str, Rule] = {}
        for rule in self.spec.rules:
            named.setdefault(rule.id, rule)
        return named

    @cached_property
    def _absent(self) -> dict[str, str]:
        return {rule.id: message for rule, message in self.plan.absent}

    def _found(self, key: str) -> tuple[Rule, set[str]]:
        """The rule that a key means, and the ids under which it was measured."""
        metric = key.partition(".")[0]
        mine = [self._named[key]] if key in self._named else [r for r in self._named.values() if r.metric == metric]
        absent = [self._absent[rule.id] for rule in mine if rule.id in self._absent]
        mine = [rule for rule in mine if rule.id not in self._absent]
        if absent and not mine:
            raise MetricError(f"{key} was not measured: {absent[0]}; profile it with other rules=")
        if not mine or (key not in self._named and key not in vocabulary().spellings):
            near = [spelling for name in self.metrics for spelling in vocabulary().metrics[name].spellings]
            hint = did_you_mean(key, [*self, *near])
            raise MetricError(f"{key!r} was not measured{hint or ';'} choose among {', '.join(self) or 'no metrics'}")
        if key in self._named:
            return mine[0], {key}
        if any(dict(rule.params) != dict(mine[0].params) for rule in mine):
            named = ", ".join(rule.id for rule in mine)
            raise MetricError(f"{metric} was measured with different params: say which by the rules' ids, {named}")
        (rule,) = _read([{"id": key, "metric": key, "params": dict(mine[0].params)}]).rules
        return _unbounded(rule), {rule.id for rule in mine}


@dataclass(frozen=True, eq=False, repr=False)
class Selection:
    """A metric's field at some sites: ``>=`` and ``<=`` judge it, ``selection[site]`` shows it.

    Attributes:
        flow: What was measured.
        rule: What a comparison judges, less its bound.
        checks: The selected sites, those included where the metric has no meaning.
        where: How the sites were selected, for messages; empty for all.
    """

    flow: Flow
    rule: Rule
    checks: tuple[Check, ...]
    where: str
    _compared: dict[tuple[str, float], Comparison] = dataclasses.field(default_factory=dict, init=False)

    # Without this a numpy number on the left would take the selection for a sequence and compare every site.
    __array_ufunc__ = None

    def at(self, *globs: str, op: str | None = None, share: float | None = None) -> Selection:
        """Return fewer of the sites.

        Args:
            globs: Globs over the sites' paths as in a rule's ``at:``; a site matches any of them.
            op: Only sites of this op.
            share: Fraction of a site's units that must keep a bound; by default 1 or what the rule says, every one.

        Raises:
            MetricError: nothing is selected; the message names near misses.
            SpecError: a glob, the op or the share is none.
        """
        given = {"at": list(globs) or None, "op": op, "share": share}
        rule = self._reworded(**{key: value for key, value in given.items() if value is not None})
        if not globs and op is None:
            return Selection(self.flow, rule, self.checks, self.where)
        metric = self.checks[0].metric
        checks = tuple(replace(check, rule=rule) for check in self.checks if selects(rule, metric, check.places[-1]))
        if not checks:
            # Sites of other ops stay: a glob that hits one of them is told so.
            mine = {check.places[-1].path for check in self.checks}
            sites = [site for site in self.flow.sites if site.path in mine or site.op not in metric.at]
            raise MetricError(f"{_name(rule)}: {near_misses(rule, metric, sites, whole='the selection')}")
        where = (" or ".join(globs) or "**") + ("" if op is None else f" ({op})")
        return Selection(self.flow, rule, checks, f"{self.where} and {where}" if self.where else where)

    @property
    def mean(self) -> Selection:
        """The same sites, of which the mean of the units is judged, as ``reduce: mean`` does.

        Raises:
            SpecError: a share of the units was asked for.
        """
        return Selection(self.flow, self._reworded(reduce="mean"), self.checks, self.where)

    @cached_property
    def estimates(self) -> Mapping[str, Estimate]:
        """The estimate at each site where the metric has a meaning, by the site's path.

        Raises:
            MetricError: at one of the sites nothing could be measured.
        """
        return MappingProxyType({site: self[site] for site in self})

    def __getitem__(self, site: str) -> Estimate:
        """Return the estimate at one site; its interval is that of the kernels that were read.

        Raises:
            MetricError: the metric was not measured there, or images give NaN or Inf there.
        """
        check = next((check for check in self.checks if check.site.path == site), None)
        if check is None:
            paths = list(self)
            raise MetricError(
                f"{_name(self.rule)} was not measured at {site!r}{did_you_mean(site, paths) or ';'} "
                f"choose among {_listed(paths)}"
            )
        if check.probe is None:
            raise MetricError(
                f"{_name(self.rule)} does not apply at {site}: {check.reason}; choose among {_listed(list(self))}"
            )
        return _estimate(check, self.flow)

    def __iter__(self) -> Iterator[str]:
        return (check.site.path for check in self._applying)

    def __len__(self) -> int:
        return len(self._applying)

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{_name(self.rule)} is a selection of sites, neither true nor false: compare it with a bound")

    def __ge__(self, bound: float) -> Comparison:
        return self.compare(">=", bound)

    def __le__(self, bound: float) -> Comparison:
        return self.compare("<=", bound)

    def __gt__(self, bound: object) -> NoReturn:
        _refuse(">")

    def __lt__(self, bound: object) -> NoReturn:
        _refuse("<")

    def __eq__(self, bound: object) -> NoReturn:
        _refuse("==")

    def __ne__(self, bound: object) -> NoReturn:
        _refuse("!=")

    def __hash__(self) -> int:
        return id(self)

    def compare(self, op: str, bound: float) -> Comparison:
        """Return what ``selection >= bound`` or ``selection <= bound`` comes to; decided once for each bound.

        Args:
            op: ``">="`` or ``"<="``.
            bound: A finite number in the metric's unit.

        Raises:
            TypeError: the op is another, or the bound is no number.
            ValueError: the bound is NaN or infinite.
            MetricError: the metric has a meaning at none of the sites.
        """
        if op not in (">=", "<="):
            _refuse(op)
        if not isinstance(bound, Real) or isinstance(bound, bool):
            raise TypeError(f"{_name(self.rule)} is compared with a number, not with a {type(bound).__name__}")
        if not math.isfinite(bound):
            raise ValueError(f"{_name(self.rule)} is compared with a finite number, not with {bound}")
        key = op, float(bound)
        if key not in self._compared:
            self._compared[key] = Comparison(self, *key, self._decided(*key))
        return self._compared[key]

    def _decided(self, op: str, bound: float) -> tuple[Verdict, ...]:
        if not self._applying:
            raise MetricError(
                f"{_name(self.rule)} applies at none of the {_count(len(self.checks), 'site')} selected "
                f"({self.checks[0].site.path}: {self.checks[0].reason}); select others"
            )
        flow = self.flow
        rule = replace(self.rule, min=bound if op == ">=" else None, max=bound if op == "<=" else None)
        plan = replace(flow.plan, checks=tuple(replace(check, rule=rule) for check in self._applying), absent=())
        with using_threads(1):
            spec = replace(flow.spec, rules=(rule,))
            return decide(
                plan,
                flow.statistics,
                spec,
                classes=flow.classes,
                values=flow.values,
                evaluations=flow._evaluations,  # noqa: SLF001 - the same module
            )

    def _reworded(self, **keys: Any) -> Rule:
        """The rule with some of its keys written anew, which are read as those of a rule file are."""
        share = keys.pop("share", self.rule.share)
        entry = {"metric": _name(self.rule), "reduce": self.rule.reduce, "at": list(self.rule.at), **keys}
        (told,) = _read([entry if share == 1 else entry | {"share": share}]).rules
        return replace(self.rule, at=told.at, op=told.op or self.rule.op, share=told.share, reduce=told.reduce)

    @cached_property
    def _applying(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.probe is not None)

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for check in self._applying:
            try:
                found = self[check.site.path]
                told = number(found.value), f"[{number(found.low)}, {number(found.high)}]", found.unit
                units = str(len(found.units))
            except MetricError:
                told, units = ("undefined", "", ""), ""
            yield check.site.path, str(check.site.op), _name(self.rule), *told, units

    def __repr__(self) -> str:
        params = ", ".join(f"{name}={value}" for name, value in self.rule.params.items())
        try:
            units = [unit for found in self.estimates.values() for unit in found.units if not math.isnan(unit)]
            values = f"{number(min(units))} to {number(max(units))}" if units else "undefined"
        except MetricError as error:
            values = f"unknown ({error})"
        return f"<Selection {self._told()}: {_count(len(self), 'site')}, values {values}; {params or 'no params'}>"

    def _told(self, bound: str = "") -> str:
        """What is judged, as messages say it."""
        mean = " (mean of the units)" if self.rule.reduce == "mean" else ""
        share = f" for {self.rule.share:.4g} of the units" if self.rule.share < 1 else ""
        return f"{_name(self.rule)}{mean}{bound}{share}" + (f" at {self.where}" if self.where else "")


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What a bound comes to at the selected sites.

    As a truth value it is True where every site passes and False where one fails. Where nothing fails but
    something is undecided it is neither, so that ``assert`` and ``assert not`` both raise.

    Attributes:
        selection: What was compared.
        op: ``>=`` or ``<=``.
        bound: In the metric's unit.
        verdicts: One for each site where the metric has a meaning.
    """

    selection: Selection
    op: str
    bound: float
    verdicts: tuple[Verdict, ...]

    @property
    def outcome(self) -> Outcome:
        """The gravest outcome of any site."""
        return min((verdict.outcome for verdict in self.verdicts), key=_GRAVITY.index)

    @property
    def passed(self) -> bool:
        """True where the bound is surely kept at every site."""
        return self.outcome is Outcome.PASS

    def __bool__(self) -> bool:
        """Tell whether the bound is kept.

        Raises:
            UndecidedError: these images do not tell.
            MetricError: at one of the sites nothing could be measured.
        """
        if self.outcome in (Outcome.PASS, Outcome.FAIL):
            return self.passed
        __tracebackhide__ = True  # pytest then shows the assertion instead of this
        error = UndecidedError if self.outcome is Outcome.UNDECIDED else MetricError
        raise error("\n".join(self.explanation()))

    def explanation(self) -> list[str]:
        """Return what a reader of a failed assertion must know, at most twelve lines, the worst site first."""
        shown = [v for v in self.verdicts if v.outcome is not Outcome.PASS] or list(self.verdicts)
        shown.sort(key=lambda v: (_GRAVITY.index(v.outcome), margin(v)))
        needed = any(verdict.n_needed for verdict in shown)
        rows = [
            (
                verdict.place,
                verdict.outcome,
                number(verdict.value),
                f"[{number(verdict.low)}, {number(verdict.high)}]",
                f"{verdict.units.failing} of {verdict.units.total}",
                *([_needed(verdict)] if needed else []),
            )
            for verdict in shown[:_SHOWN]
        ]
        headers = ["site", "outcome", "value", "interval", "units failing", *(["images needed"] if needed else [])]
        lines = [
            f"{self._told()} ({_count(max(v.n_images for v in self.verdicts), 'image')}, "
            f"{self.selection.flow.spec.sampling.confidence * 100:.6g} %)",
            *tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True).splitlines(),
        ]
        if len(shown) > _SHOWN:
            lines.append(f"... and {len(shown) - _SHOWN} more")
        return [line.rstrip() for line in lines] + [said for said in (shown[0].detail, shown[0].advice) if said]

    def __repr__(self) -> str:
        return f"<Comparison {self._told()}>"

    def _told(self) -> str:
        number_of = sum(verdict.outcome is self.outcome for verdict in self.verdicts)
        what = self.selection._told(f" {self.op} {self.bound:g}")  # noqa: SLF001 - the same module
        return f"{what}: {_WORDS[self.outcome]} at {number_of} of {_count(len(self.verdicts), 'site')}"


def rule_file(rules: Any) -> Spec | None:
    """Read ``rules`` of :func:`profile` that are a whole rule file; None where they name metrics."""
    is_path = isinstance(rules, str) and rules.endswith((".yaml", ".yml"))
    is_file = isinstance(rules, Mapping) and "metric" not in rules
    whole = is_path or is_file or not isinstance(rules, (str, Mapping, list, tuple))
    return read_spec(rules) if whole else None


def _spec(rules: Any, sampling: Mapping[str, Any], calling: Mapping[str, Any]) -> Spec:
    """The rules that say what is measured, with the sampling and the call that were given."""
    spec = rule_file(rules)
    if spec is not None:
        told = _read([{"metric": spec.rules[0].metric}], sampling, calling)
        new = spec.sampling.model_copy(update=told.sampling.model_dump(include=set(sampling)))
        return replace(spec, sampling=new, **{name: getattr(told, name) for name in calling})
    if rules == "recommended":
        first_look = [name for name, metric in registry().items() if metric.recommended]
        return _read([{"metric": name, "if_absent": "skip"} for name in first_look], sampling, calling)
    several = [rules] if isinstance(rules, (str, Mapping)) else rules
    return _read([{"metric": rule} if isinstance(rule, str) else rule for rule in several], sampling, calling)


def _read(
    entries: Sequence[Any],
    sampling: Mapping[str, Any] = MappingProxyType({}),
    calling: Mapping[str, Any] = MappingProxyType({}),
) -> Spec:
    """Rules whose bounds may be left out, with all the messages of a rule file."""
    # Of a file's rules only a note needs no bound. Here it comes with the comparison.
    open_ = {i for i, e in enumerate(entries) if isinstance(e, Mapping) and not {*_SIDES, "severity"} & e.keys()}
    written = [{**e, "severity": "note"} if i in open_ else _bounded(e) for i, e in enumerate(entries)]
    spec = from_mapping({"cnnaudit": 1, "sampling": dict(sampling), **calling, "rules": written}, vocabulary())
    return replace(
        spec, rules=tuple(replace(r, severity="error") if i in open_ else r for i, r in enumerate(spec.rules))
    )


def _bounded(entry: Any) -> Any:
    """A rule with a bound that it is never judged by, where it has none of its own."""
    return {"max": 0, **entry} if isinstance(entry, Mapping) and not _SIDES & entry.keys() else entry


def _unbounded(rule: Rule) -> Rule:
    return replace(rule, min=None, max=None, null="", min_excess=None, max_regression=None)


def _every_field(spec: Spec) -> Spec:
    """Each rule without its bounds, and the same for its metric's other fields; equal probes are read once."""
    return replace(
        spec,
        rules=tuple(
            replace(_unbounded(rule), field=field)
            for rule in spec.rules
            for field in dict.fromkeys((rule.field, *registry()[rule.metric].fields))
        ),
    )


def _estimate(check: Check, flow: Flow) -> Estimate:
    assert check.probe is not None  # noqa: S101 - the caller has looked
    statistic = flow._statistic(check.probe)  # noqa: SLF001 - the same module
    name, place, n = _name(check.rule), check.site.path, statistic.n_images
    if statistic.nonfinite:
        raise MetricError(
            f"{statistic.nonfinite} of {n} images give NaN or Inf at {place}: {name} is undefined; leave them out"
        )
    try:
        with using_threads(1):
            found = flow._evaluations.of(check, statistic)[check.rule.field]  # noqa: SLF001 - the same module
    except CnnAuditError:
        raise
    except Exception as error:
        raise MetricError(
            f"{name} crashed at {place}: {type(error).__name__}: {error}; report it to the metric's author"
        ) from error
    if check.on_dataset:
        found = found.on_dataset()
    units, kernels = len(found.value), statistic.probe.units
    unit = check.metric.fields[check.rule.field].unit
    kernels = kernels if len(kernels) == units else tuple(range(units))
    return estimate(found, unit, n_images=n, kernels=kernels, confidence=flow.spec.sampling.confidence)


def _needed(verdict: Verdict) -> str:
    if verdict.outcome is not Outcome.UNDECIDED:
        return ""
    return f"{verdict.n_needed:,}" if verdict.n_needed else "unknown"


def _plain(value: Any) -> Any:
    """A value that JSON knows: None for what is no number."""
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _refuse(op: str) -> NoReturn:
    raise TypeError(f"{op} is no comparison with a bound: a bound is kept at equality, so write >= or <=")


def _name(rule: Rule) -> str:
    return f"{rule.metric}.{rule.field}"


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return (", ".join(names[:_SHOWN]) or "no site") + (f" and {rest} more" if rest > 0 else "")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
