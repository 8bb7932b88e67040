"""What differs between two reports: what was audited, and site by site what it came to."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cnnaudit.gate.baseline import data_differences, key, measured_differences
from cnnaudit.gate.moved import Moved, moved
from cnnaudit.result import Outcome, Report, SiteMean, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Changes", "Difference", "SiteChange", "changes"]

_MODEL = ("source", "weights", "sha256", "parameters", "macs", "input_shape", "inputs", "head", "exported", "sites")
_DATA = ("source", "sha256", "n_images", "order", "transform", "sources", "excluded")
_SETTINGS = (
    "seed",
    "confidence",
    "block",
    "crop",
    "groups",
    "max_images",
    "mode",
    "dtype",
    "memory_format",
    "device",
    "undecided",
    "cnnaudit",
    "torch",
    "python",
    "date",
)
# From bad to good; what was not judged counts as sound.
_ORDER: tuple[str | None, ...] = (Outcome.ERROR, Outcome.FAIL, Outcome.UNDECIDED, Outcome.WAIVED, Outcome.PASS)
_SOUND_FROM = len(_ORDER) - 1
_SOUND = {None, "pass", "measured", "not_applicable"}


@dataclass(frozen=True)
class Difference:
    """One thing that both reports say differently; None where one says nothing of it."""

    name: str
    old: Any
    new: Any


@dataclass(frozen=True)
class SiteChange:
    """One rule at one site in both reports.

    Attributes:
        rule, site, op, slice: Which.
        metric: What is measured, as ``metric.field``.
        old_outcome, new_outcome: What it came to; None where a report has no such verdict.
        old, new: The numbers that are compared, in ``unit``: means over the site's units where both reports have them,
            else those of the units that decided.
        change: ``new - old``; None where either is missing.
        low, high: Interval of the change; None where nothing tells it.
        how: ``exact``, ``paired`` (by groups of the same images) or ``unpaired`` (from the two intervals), of what
            ``of`` says: ``mean`` or ``deciding unit``; empty where there is no interval.
        why: Why there is no interval.
        worse: Which changes are worse: ``lower``, ``higher`` or, where nothing says so, empty.
        old_waived, new_waived: Who accepted it and until when; empty where nobody did.
        rule_is_new: Whether one of the reports has no such rule at all.
    """

    rule: str
    site: str
    op: str
    slice: str
    metric: str
    unit: str
    old_outcome: str | None
    new_outcome: str | None
    old: float | None = None
    new: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    how: str = ""
    of: str = ""
    why: str = ""
    worse: str = ""
    old_waived: str = ""
    new_waived: str = ""
    rule_is_new: bool = False

    @property
    def place(self) -> str:
        """The site, with the slice where there is one."""
        return f"{self.site} [{self.slice}]" if self.slice else self.site

    @property
    def changed(self) -> bool:
        """Whether the outcome or who accepted it differs, or the value surely does; without an interval, at all.

        Of a rule that only one report has, what is sound has not changed.
        """
        if self.rule_is_new:
            return not {self.old_outcome, self.new_outcome} <= _SOUND
        if (self.old_outcome, self.old_waived) != (self.new_outcome, self.new_waived):
            return True
        if self.low is not None and self.high is not None:
            return not self.low <= 0 <= self.high
        return self.old != self.new

    @property
    def towards(self) -> str:
        """Whether the value moved to ``worse`` or ``better``; empty where nothing says which it is."""
        if not self.change or not self.worse:
            return ""
        return "worse" if (self.change > 0) == (self.worse == "higher") else "better"

    @property
    def rank(self) -> tuple[int, int, float]:
        """Smaller is worse: what came to something worse, then by how surely the value is worse, per half interval."""
        before, after = (_ORDER.index(o) if o in _ORDER else _SOUND_FROM for o in (self.old_outcome, self.new_outcome))
        return (after > before) - (after < before), after, self._drift()

    def _drift(self) -> float:
        if self.change is None:
            return 0.0
        half = math.nan if self.low is None or self.high is None else (self.high - self.low) / 2
        far = math.copysign(math.inf, self.change) if half == 0 and self.change else self.change / (half or 1.0)
        if math.isnan(far):  # no interval: by how much of what it was
            far = self.change / (abs(self.old or 0.0) or 1.0)
        return {"lower": far, "higher": -far}.get(self.worse, -abs(far))


@dataclass(frozen=True)
class Changes:
    """What differs between two reports.

    Attributes:
        old_exit, new_exit: Their exit codes.
        model, data, rules, settings, coverage: What they say of these.
        sites: Every rule at every site of either, the worst first.
        uncompared: Why no change has an interval; empty where some may.
    """

    old_exit: int
    new_exit: int
    model: tuple[Difference, ...]
    data: tuple[Difference, ...]
    rules: tuple[Difference, ...]
    settings: tuple[Difference, ...]
    coverage: tuple[Difference, ...]
    sites: tuple[SiteChange, ...]
    uncompared: str = ""

    @property
    def moves(self) -> Counter[tuple[str | None, str | None]]:
        """How many of the verdicts that changed went from which outcome to which."""
        return Counter((s.old_outcome, s.new_outcome) for s in self.sites if s.changed)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, of which ``sites`` also say whether they ``changed`` and ``towards`` what."""
        found = asdict(self)
        found["sites"] = [asdict(site) | {"changed": site.changed, "towards": site.towards} for site in self.sites]
        return found


def changes(old: Report, new: Report) -> Changes:
    """Compare two reports; nothing is refused, and what cannot be compared is told."""
    unlike = data_differences(new, old)
    uncompared = ""
    if unlike:
        named = ", ".join(unlike)
        uncompared = f"The data differ ({named}), so values stand side by side and no change has an interval."
    pairs = _pairs(old, new)
    sites = [_site(v, w, old, new, uncompared) for v, w in pairs]
    return Changes(
        old_exit=old.exit_code,
        new_exit=new.exit_code,
        model=_differences(old.model, new.model, _MODEL),
        data=_differences(old.data, new.data, _DATA),
        rules=tuple(_rules(old, new)),
        settings=_differences(old.settings, new.settings, _SETTINGS),
        coverage=tuple(_coverage(old, new)),
        sites=tuple(sorted(sites, key=lambda site: site.rank)),
        uncompared=uncompared,
    )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], names: tuple[str, ...]) -> tuple[Difference, ...]:
    pairs = [Difference(name, old.get(name), new.get(name)) for name in names]
    return tuple(pair for pair in pairs if pair.old != pair.new)


def _rules(old: Report, new: Report) -> Iterator[Difference]:
    """Rules that one report lacks, and what the others say differently."""
    before, after = (dict.fromkeys(report.rules) for report in (old, new))
    yield from (Difference(rule, "there", None) for rule in before if rule not in after)
    yield from (Difference(rule, None, "there") for rule in after if rule not in before)
    for rule in (rule for rule in before if rule in after):
        for name, (was, now) in measured_differences(rule, new, old).items():
            yield Difference(f"{rule}: {name}", was, now)
        was, now = (_wanted(report, rule) for report in (old, new))
        yield from (Difference(f"{rule}: {d.name}", d.old, d.new) for d in _differences(was, now, (*(was | now),)))


def _wanted(report: Report, rule: str) -> dict[str, Any]:
    """A rule's bounds, and how much worse it may get."""
    terms = report.spec.get("terms", {}).get(rule, {})
    regression = terms.get("max_regression") or {}
    return dict(terms.get("bounds", {})) | {f"max_regression.{name}": value for name, value in regression.items()}


def _coverage(old: Report, new: Report) -> Iterator[Difference]:
    yield from _differences(old.coverage, new.coverage, ("sites", "covered"))
    missing = [{f"{e['site']} ({e['op']})" for e in r.coverage.get("not_covered", ())} for r in (old, new)]
    yield from (Difference(site, "not covered", None) for site in sorted(missing[0] - missing[1]))
    yield from (Difference(site, None, "not covered") for site in sorted(missing[1] - missing[0]))


def _pairs(old: Report, new: Report) -> Iterator[tuple[Verdict | None, Verdict | None]]:
    before = {key(v): v for v in old.verdicts}
    after = {key(v): v for v in new.verdicts}
    yield from ((before.get(name), verdict) for name, verdict in after.items())
    yield from ((verdict, None) for name, verdict in before.items() if name not in after)


def _site(old: Verdict | None, new: Verdict | None, first: Report, second: Report, uncompared: str) -> SiteChange:
    verdict = new or old
    assert verdict is not None  # noqa: S101 - one of them is there
    site: dict[str, Any] = {
        "rule": verdict.rule,
        "site": verdict.site,
        "op": verdict.op,
        "slice": verdict.slice,
        "metric": f"{verdict.metric}.{verdict.field}" if verdict.metric else "",
        "unit": verdict.unit,
        "old_outcome": None if old is None else str(old.outcome),
        "new_outcome": None if new is None else str(new.outcome),
        "old_waived": _waived(old),
        "new_waived": _waived(new),
        "worse": _worse(verdict, second if new else first),
        "rule_is_new": verdict.rule not in (first if new else second).rules,
    }
    if old is None or new is None:
        return SiteChange(**site, old=_value(old), new=_value(new))
    return SiteChange(**site, **_numbers(old, new, first, second, uncompared))


def _numbers(old: Verdict, new: Verdict, first: Report, second: Report, uncompared: str) -> dict[str, Any]:
    """Both values and, where it is told, the interval of the change."""
    told = bool(old.mean and new.mean)
    before, after = (v.mean if told else _shown(v) for v in (old, new))
    of = "mean" if told or old.reduce == new.reduce == "mean" else "deciding unit"
    if before is None or after is None:
        return {"old": _value(old), "new": _value(new)}
    found: dict[str, Any] = {
        "old": _defined(before.value),
        "new": _defined(after.value),
        "change": _defined(after.value - before.value),
        "of": of,
    }
    unlike = measured_differences(new.rule.removesuffix(":regression"), second, first)
    if uncompared or unlike:
        return found | {"why": uncompared or f"the rule measures something else: {', '.join(unlike)} differ"}
    change: Moved = moved((before, first.settings["confidence"]), (after, second.settings["confidence"]))
    if not math.isfinite(change.value + change.below + change.above):
        return found | {"why": "a value or its error is undefined"}
    low, high = change.interval(second.settings["confidence"])
    return found | {"low": low, "high": high, "how": change.how}


def _value(verdict: Verdict | None) -> float | None:
    return None if verdict is None else _defined(verdict.value)


def _defined(value: float | None) -> float | None:
    """A number, or None where there is none, as in JSON."""
    return None if value is None or not math.isfinite(value) else value


def _shown(verdict: Verdict) -> SiteMean | None:
    """What the verdict shows, as if it were the mean of one unit."""
    if verdict.value is None:
        return None
    low, high = (math.nan if x is None else x for x in (verdict.low, verdict.high))
    return SiteMean(verdict.value, low, high)


def _worse(verdict: Verdict, report: Report) -> str:
    """Which values of a rule are worse, as far as its bounds say so."""
    if verdict.side == "max_regression":
        return "higher"
    terms = report.spec.get("terms", {}).get(verdict.rule, {})
    if regression := terms.get("max_regression"):
        return str(regression["worse"])
    bounds = {side for side, bound in terms.get("bounds", {}).items() if bound is not None} or {verdict.side}
    low, high = bounds & {"min", "min_excess"}, bounds & {"max"}
    return "lower" if low and not high else "higher" if high and not low else ""


def _waived(verdict: Verdict | None) -> str:
    if verdict is None or not verdict.waiver:
        return ""
    return f"{verdict.waiver.get('owner', '')} until {verdict.waiver.get('expires', '')}"
