"""What an audit found: plain data, no torch, one JSON form from which every report is rendered."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping  # noqa: TC003 - what reads stored verdicts looks at the annotations
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from cnnaudit.errors import EvidenceError

__all__ = ["GRAVITY", "SCHEMA_VERSION", "Estimate", "Outcome", "Report", "SiteMean", "UnitCounts", "Verdict"]

SCHEMA_VERSION = 1


class Outcome(StrEnum):
    """What a rule came to at one site."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    UNDECIDED = "undecided"
    WAIVED = "waived"
    MEASURED = "measured"
    NOT_APPLICABLE = "not_applicable"
    ERROR = "error"


# The order in which outcomes decide for a whole rule, and rules for a whole audit.
GRAVITY = (
    Outcome.ERROR,
    Outcome.FAIL,
    Outcome.UNDECIDED,
    Outcome.WAIVED,
    Outcome.PASS,
    Outcome.MEASURED,
    Outcome.NOT_APPLICABLE,
)

# Rules that judge what surrounds an audit: they are no judgement of the network.
_BESIDE = ("audit:", "waivers:")

_SECTIONS = ("spec", "model", "data", "settings", "coverage", "gate")
_SEVERITIES = ("error", "warning", "note")
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (float, int),
}  # of what is stored, by the annotation of a field


@dataclass(frozen=True, repr=False)
class Estimate:
    """A measured number with its interval.

    Attributes:
        value: Mean of ``units``.
        low, high: Two-sided interval of ``value`` at the confidence asked for.
        unit: Physical unit of the value: ``bits``, ``fraction``, ...
        n_images: Images that were read.
        units: One value for each unit (kernel), or the one value of the site.
        lows, highs: Two-sided interval of each unit.
        kernels: Which kernels ``units`` speaks of; all of them unless memory forced a sample.
    """

    value: float
    low: float
    high: float
    unit: str
    n_images: int
    units: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    kernels: tuple[int, ...]

    def __repr__(self) -> str:
        units = f"{len(self.units)} unit{'s' * (len(self.units) != 1)}"
        interval = f"[{self.low:.4g}, {self.high:.4g}]"
        return f"<Estimate {self.value:.4g} {interval} {self.unit}, {units}, {self.n_images} images>"


@dataclass(frozen=True)
class UnitCounts:
    """How many units a verdict speaks of, and how many of them violate the bound or are undecided."""

    total: int = 0
    failing: int = 0
    undecided: int = 0


@dataclass(frozen=True)
class SiteMean:
    """The mean over a site's units, which a later audit may be compared with.

    Attributes:
        value, low, high: The mean and its two-sided interval at the audit's confidence.
        groups: For each group that images were dealt to, its images and the mean without them: two audits of the same
            images are compared group by group. Empty where only the mean itself is known.
    """

    value: float
    low: float
    high: float
    groups: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Verdict:
    """One rule at one site, or what a gate found: a regression, a waiver that no longer holds, too little coverage.

    Attributes:
        rule, line, severity, why, refs: As the rule file says.
        file, pack: The file of that line, empty for the rule file itself; what the rule was taken over from.
        metric, field, unit: What was measured, in which unit.
        op, site: Where; ``site`` is empty when the rule selected nothing.
        slice: Of which images, as ``column=value``; empty for all.
        outcome: What it came to.
        value, low, high: The deciding unit's value and two-sided interval (for ``reduce: mean`` the mean's); of a
            measured rule those of the unit in the middle. Where ``side`` is ``min_excess`` all three are of what the
            value is above that of its null twin.
        null: What the null twin has there, where it was measured.
        baseline: What the accepted run had, where a regression is judged: then value, low and high are of how much
            worse this one is.
        bound, side: The bound that decided, and whether it is a ``min``, a ``max``, a ``min_excess`` or a
            ``max_regression``.
        reached: Of a PASS under one bound, the tightest bound that another audit of as many other images would probably
            pass as well.
        changed: How the bound was changed after the evidence existed that it was judged by; empty where it was not.
        mean: The site's mean, where the rule may be compared with a baseline.
        waiver: Who accepted the result and until when, where its outcome is ``waived``: ``owner``, ``reason``,
            ``category``, ``approved_by``, ``approved_on``, ``expires``, ``ticket``, ``worst``, ``place`` (file:line)
            and ``outcome``, what it would be without.
        n_images: Images read when it was decided; ``n_sources``: sources that they come from, 0 where each image is
            its own; ``n_needed``: images, or sources, that would probably decide, 0 where that is unknown.
        look: The look that decided, from 1.
        fields: The shown unit's value of every field of the metric.
        units: Counts over the units of the site.
        worst: The worst units, as ``(kernel, value, low, high)``; of a measured rule the lowest and the highest.
        detail: One sentence: what this means.
        advice: One sentence: what to do next; empty for a PASS.
    """

    rule: str
    line: int
    severity: str
    metric: str
    field: str
    unit: str
    op: str
    site: str
    outcome: Outcome
    slice: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    null: float | None = None
    baseline: float | None = None
    bound: float | None = None
    side: str = ""
    reduce: str = "every"
    share: float = 1.0
    n_images: int = 0
    n_sources: int = 0
    n_needed: int = 0
    look: int = 1
    fields: Mapping[str, float] = dataclasses.field(default_factory=dict)
    units: UnitCounts = UnitCounts()
    worst: tuple[tuple[int, float, float, float], ...] = ()
    why: str = ""
    refs: tuple[str, ...] = ()
    file: str = ""
    pack: str = ""
    detail: str = ""
    advice: str = ""
    reached: float | None = None
    changed: str = ""
    mean: SiteMean | None = None
    waiver: Mapping[str, Any] | None = None

    @property
    def place(self) -> str:
        """The site, with the slice where there is one."""
        return f"{self.site} [{self.slice}]" if self.slice else self.site


@dataclass(frozen=True, repr=False)
class Report:
    """All verdicts of one audit with what is needed to read them years later.

    Attributes:
        spec: ``path``, ``sha256`` of the rule file, the ids of its rules in their order, which packs and files it
            ``extends`` with versions and hashes, and ``without`` which of their rules.
        model: ``source``, ``weights``, ``sha256`` of the parameters and buffers, ``sites`` by op.
        data: ``source``, ``sha256`` of the images and labels read, ``n_images``, ``order``.
        settings: Everything that decides a number: seed, confidence, block, groups, device, versions.
        verdicts: One entry for each rule and site.
        notes: What a reader must know, as sentences.
        coverage: ``sites`` of the network, how many are ``covered`` by a rule that judges there, and which are
            ``not_covered``, each as ``site`` and ``op``.
        gate: What was decided beside the rules: ``baseline``, ``waivers`` and ``evidence`` with their digests, and the
            date ``as_of`` which waivers are held against.
    """

    spec: Mapping[str, Any]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    settings: Mapping[str, Any]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()
    coverage: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    gate: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        told = "passed" if self.passed else f"not passed, exit code {self.exit_code}"
        return f"<Report of {len(self.rules)} rules at {len(self.verdicts)} sites: {told}>"

    @property
    def rules(self) -> tuple[str, ...]:
        """Ids of all rules in the order of the verdicts: the file's, and those that a gate adds (``ID:regression``)."""
        return tuple(dict.fromkeys((*self._by_rule, *self.spec.get("rules", ()))))

    def of(self, rule: str) -> tuple[Verdict, ...]:
        """Return the verdicts of one rule."""
        return tuple(self._by_rule.get(rule, ()))

    @cached_property
    def _by_rule(self) -> dict[str, list[Verdict]]:
        found: dict[str, list[Verdict]] = {}
        for verdict in self.verdicts:
            found.setdefault(verdict.rule, []).append(verdict)
        return found

    def where(self, verdict: Verdict) -> str:
        """Return where the rule of a verdict stands: ``file:line``."""
        file = str(verdict.file or self.spec["path"])
        return f"{file}:{verdict.line}" if verdict.line else file

    def outcome(self, rule: str) -> Outcome:
        """Return what a rule came to over all its sites: the gravest outcome of any site."""
        found = {v.outcome for v in self.of(rule)}
        return next((o for o in GRAVITY if o in found), Outcome.NOT_APPLICABLE)

    @property
    def exit_code(self) -> int:
        """0 passed, 1 a rule failed, 2 could not evaluate, 3 undecided where the spec says that fails."""
        outcomes = {v.outcome for v in self.verdicts if not v.rule.startswith(_BESIDE)}
        if Outcome.ERROR in outcomes or outcomes <= {Outcome.MEASURED, Outcome.NOT_APPLICABLE}:
            return 2  # an audit that judged nothing has not passed
        binding = {v.outcome for v in self.verdicts if v.severity == "error"}
        if Outcome.FAIL in binding:
            return 1
        if Outcome.UNDECIDED in binding and self.settings.get("undecided", "fail") == "fail":
            return 3
        return 0

    @property
    def passed(self) -> bool:
        """True where the command line would exit with 0."""
        return self.exit_code == 0

    @property
    def summary(self) -> dict[str, Any]:
        """Counts over rules and over verdicts, and the exit code."""
        rules = Counter(self.outcome(rule) for rule in self.rules)
        verdicts = Counter(v.outcome for v in self.verdicts)
        return {
            "exit_code": self.exit_code,
            "passed": self.passed,
            "rules": {str(o): rules[o] for o in Outcome},
            "verdicts": {str(o): verdicts[o] for o in Outcome},
        }

    def to_json(self) -> str:
        """Return the report as JSON with sorted keys; numbers that do not exist are ``null``."""
        body = {
            "schema_version": SCHEMA_VERSION,
            "summary": self.summary,
            "spec": dict(self.spec),
            "model": dict(self.model),
            "data": dict(self.data),
            "settings": dict(self.settings),
            "notes": list(self.notes),
            "coverage": dict(self.coverage),
            "gate": dict(self.gate),
            "verdicts": [asdict(v) for v in self.verdicts],
        }
        return json.dumps(_finite(body), indent=2, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read a report back.

        Raises:
            EvidenceError: the text is not a report of this schema version.
        """
        try:
            body = json.loads(text)
            version = body["schema_version"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise EvidenceError(
                "this is not a cnnaudit report, which has a schema_version; name one that --format json wrote"
            ) from error
        if version != SCHEMA_VERSION:
            raise EvidenceError(f"report has schema_version {version}, this cnnaudit reads {SCHEMA_VERSION}")
        try:
            return cls(
                **{name: _of(body[name], dict, name) for name in _SECTIONS},
                notes=tuple(_of(note, str, "a note") for note in body["notes"]),
                verdicts=tuple(_verdict(entry) for entry in body["verdicts"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise EvidenceError(f"this cnnaudit report is incomplete or damaged ({error!r}); audit again") from error


def _of(value: Any, kind: type | tuple[type, ...], name: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r:.40}")
    return value


def _number(value: Any) -> float:
    """A number of JSON, which has none that does not exist."""
    return math.nan if value is None else float(_of(value, (float, int), "a number"))


def _verdict(entry: dict[str, Any]) -> Verdict:
    entry = dict(entry)
    for field in dataclasses.fields(Verdict):
        value, kind = entry.get(field.name), str(field.type)
        if kind in _KINDS and field.name in entry:
            _of(value, _KINDS[kind], field.name)
        elif kind == "float | None" and value is not None:
            _number(value)
    if entry["severity"] not in _SEVERITIES:
        raise ValueError(f"there is no severity {entry['severity']!r}")
    entry["outcome"] = Outcome(entry["outcome"])
    entry["units"] = UnitCounts(**entry["units"])
    entry["worst"] = tuple((unit, *map(_number, (value, low, high))) for unit, value, low, high in entry["worst"])
    entry["refs"] = tuple(entry["refs"])
    if entry["mean"] is not None:
        groups = tuple((_of(n, int, "groups"), _number(x)) for n, x in entry["mean"]["groups"])
        ends = {name: _number(entry["mean"][name]) for name in ("value", "low", "high")}
        entry["mean"] = SiteMean(**ends, groups=groups)
    entry["fields"] = {name: _number(x) for name, x in entry["fields"].items()}
    return Verdict(**entry)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: a number that does not exist is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
