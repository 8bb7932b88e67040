"""What all formats for readers say alike: numbers, intervals, counts, waivers, coverage, and what a gate used."""

from __future__ import annotations

import math
import re
from datetime import date
from typing import TYPE_CHECKING, Any

from cnnaudit.result import Outcome, Report, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = [
    "OUTCOMES",
    "SYMBOLS",
    "accepted",
    "accepted_worst",
    "as_measured",
    "beside",
    "bound",
    "count",
    "coverage",
    "error_rates",
    "gate",
    "images",
    "interval",
    "margin",
    "measured",
    "more",
    "number",
    "percent",
    "plain",
    "reach",
    "result",
    "span",
    "units",
    "until",
]

_NAMED = 6
_DIGITS = 12

OUTCOMES = {
    Outcome.PASS: "passed",
    Outcome.FAIL: "failed",
    Outcome.UNDECIDED: "undecided",
    Outcome.WAIVED: "waived",
    Outcome.MEASURED: "measured only",
    Outcome.NOT_APPLICABLE: "not applicable",
    Outcome.ERROR: "could not be evaluated",
}


# So that no outcome is told by its colour alone.
SYMBOLS = {
    Outcome.PASS: "✓",
    Outcome.FAIL: "✗",
    Outcome.UNDECIDED: "?",
    Outcome.WAIVED: "≈",
    Outcome.MEASURED: "•",
    Outcome.NOT_APPLICABLE: "–",
    Outcome.ERROR: "!",
}


# What moves a cursor, ends a line, or turns the direction of writing round.
_CONTROL = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")


def plain(text: str) -> str:
    """Return a text of somebody else as one line of letters: names of sites and sentences may hold anything."""
    return _CONTROL.sub(" ", str(text)).strip()


def number(value: float | None) -> str:
    """Return a number with four significant digits."""
    if value is None or math.isnan(value):
        return "undefined"
    return f"{value:.4g}"


def interval(verdict: Verdict) -> str:
    """Return a verdict's interval; of a value that exists, an end that does not is infinite, as JSON cannot tell."""
    low, high = verdict.low, verdict.high
    if verdict.value is not None and math.isfinite(verdict.value):
        low = -math.inf if low is None or math.isnan(low) else low
        high = math.inf if high is None or math.isnan(high) else high
    return f"[{number(low)}, {number(high)}]"


def bound(verdict: Verdict) -> str:
    """Return the bound that decided as the rule file writes it; empty where there is none."""
    return f"{verdict.side} {number(verdict.bound)}" if verdict.side else ""


def margin(verdict: Verdict) -> float:
    """Return how far a verdict's value is on the right side of its bound, negative where it violates it."""
    if verdict.value is None or verdict.bound is None or math.isnan(verdict.value):
        return 0.0
    upper = verdict.side in ("max", "max_regression")
    return verdict.bound - verdict.value if upper else verdict.value - verdict.bound


def count(number: int, noun: str) -> str:
    """Return a number of things: ``1 rule``, ``2 rules``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def more(names: Sequence[str], noun: str = "site", shown: int = 1) -> str:
    """Return the first names, and how many others there are."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {count(rest, f'more {noun}')}" if rest > 0 else "")


def percent(share: float) -> str:
    """Return a share in percent with three significant digits."""
    return f"{float(f'{100 * share:.3g}'):g} %"


def measured(verdict: Verdict, report: Report) -> str:
    """Return what was measured, with its interval, and beside what."""
    told = f"{number(verdict.value)} {verdict.unit}".rstrip()
    if not verdict.metric:
        return told
    name = f"{verdict.metric}.{verdict.field}"
    ends = f"{percent(report.settings['confidence'])} interval {interval(verdict)}"
    if verdict.side == "max_regression":
        return f"{name}: {as_measured(verdict)}, at most {number(verdict.bound)} allowed, {ends}"
    if verdict.side == "min_excess":
        return f"{name}: excess {told} over its null twin's {number(verdict.null)}, {ends}"
    twin = "" if verdict.null is None else f"; its null twin has {number(verdict.null)}"
    return f"{name} = {told}, {ends}{twin}"


def as_measured(verdict: Verdict) -> str:
    """Return the value with its unit; of a regression how much worse it is than what."""
    value, unit = verdict.value, verdict.unit
    if verdict.side != "max_regression" or value is None or math.isnan(value):
        return f"{number(value)} {unit}".rstrip()
    than = f"the baseline's {number(verdict.baseline)}"
    if value == 0:
        return f"as good as {than}"
    amount = f"{number(abs(value))} {unit}".rstrip()
    return f"{amount} {'worse' if value > 0 else 'better'} than {than}"


def beside(verdict: Verdict) -> str:
    """Return the metric's other fields at the same place, as far as they exist."""
    others = {name: x for name, x in verdict.fields.items() if name != verdict.field and math.isfinite(x)}
    return ", ".join(f"{name} {number(x)}" for name, x in others.items())


def units(verdict: Verdict) -> str:
    """Return how many units violate the bound, and which are the worst."""
    counts, noun = verdict.units, "kernels" if verdict.op == "conv" else "units"
    if verdict.reduce == "mean":
        return "judged by the mean of the site's units"
    if counts.total <= 1:
        return "judged as a whole"
    told = [f"{counts.failing} of {counts.total} {noun} violate the bound"]
    if counts.undecided:
        told.append(f"{counts.undecided} undecided")
    if verdict.share < 1:
        told.append(f"{verdict.share:.0%} must keep it")
    worst = ", ".join(f"{kernel} ({number(value)})" for kernel, value, _, _ in verdict.worst)
    return ", ".join(told) + (f"; worst: {worst}" if worst else "")


def span(verdict: Verdict) -> str:
    """Return what the units of a site reach from and to, where no bound tells how many violate it."""
    if verdict.units.total < 2 or verdict.reduce == "mean" or not verdict.worst:
        return "mean of the units" if verdict.reduce == "mean" else ""
    (_, low, *_), (_, high, *_) = verdict.worst[0], verdict.worst[-1]
    return f"{number(low)} to {number(high)} over {verdict.units.total} units"


def reach(numbers: Iterable[float | None]) -> str:
    """Return from which to which value several sites reach."""
    values = [x for x in numbers if x is not None and not math.isnan(x)]
    if not values:
        return "undefined"
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def images(verdict: Verdict, report: Report) -> str:
    """Return how many images were read, and how many would be needed or which look decided."""
    read = f"{verdict.n_images:,} read" + (f" of {verdict.n_sources:,} sources" if verdict.n_sources else "")
    if verdict.outcome is Outcome.UNDECIDED:
        samples = " sources" if verdict.n_sources else ""
        return read + (f", about {verdict.n_needed:,}{samples} needed" if verdict.n_needed else "")
    looks = len(report.settings.get("looks", ()))
    return read if verdict.look >= looks else f"{read} when look {verdict.look} of {looks} decided"


def accepted(waiver: Mapping[str, Any]) -> str:
    """Return who accepted a result, who approved that, and until when."""
    told = [
        f"{waiver['category']} by {waiver['owner']} until {waiver['expires']}",
        f"approved by {waiver['approved_by']} on {waiver['approved_on']}",
        *([f"ticket {waiver['ticket']}"] if waiver.get("ticket") else []),
    ]
    return ", ".join(told) + f" ({waiver['place']})"


def accepted_worst(waiver: Mapping[str, Any]) -> str:
    """Return what it would be without the waiver, and the worst value that the waiver accepts."""
    without = f"{str(waiver['outcome']).upper()} without this waiver"
    worst = waiver.get("worst")
    return f"{without}, which accepts " + ("any value" if worst is None else f"nothing worse than {number(worst)}")


def until(waiver: Mapping[str, Any], report: Report) -> str:
    """Return the last day of a waiver, with the days that are left of it where the day of the judgement is known."""
    expires = str(waiver["expires"])
    if not report.gate.get("as_of"):
        return expires
    left = (date.fromisoformat(expires) - date.fromisoformat(str(report.gate["as_of"]))).days
    return f"{expires} ({count(left, 'day')} left)"


def coverage(report: Report, shown: int = _NAMED) -> str:
    """Return how many sites of the network are under a rule, and which are not; empty where nobody counted."""
    if not report.coverage:
        return ""
    covered, sites = report.coverage["covered"], report.coverage["sites"]
    missing = [site["site"] for site in report.coverage["not_covered"]]
    verb = "is" if sites == 1 else "are"
    told = f"{covered:,} of {count(sites, 'site')} {verb} under a rule"
    if not missing:
        return told
    rest = len(missing) - shown
    return f"{told}; not covered: {', '.join(missing[:shown])}" + (f", ... and {rest:,} more" if rest > 0 else "")


def gate(report: Report, digits: int = _DIGITS) -> Iterator[tuple[str, str]]:
    """Yield what was used beside rules, model and data, as a name and what it was, digests with so many digits."""
    facts = report.gate
    if facts.get("baseline"):
        base = facts["baseline"]
        told = [
            _digest(base["sha256"], digits),
            *([f"model {str(base['model'])[:digits]}"] if base.get("model") else []),
            *([f"of {base['date']}"] if base.get("date") else []),
        ]
        yield "baseline", f"{base['path']} ({', '.join(told)})"
    if facts.get("waivers"):
        file = facts["waivers"]
        told = [_digest(file["sha256"], digits)]
        if "entries" in file:
            entries = file["entries"]
            told.append(f"{entries:,} {'entry' if entries == 1 else 'entries'}")
        if file.get("ignored"):
            told.append("ignored")
        yield "waivers", f"{file['path']} ({', '.join(told)})"
    for file in facts.get("evidence") or ():
        yield "evidence", f"{file['path']} ({_digest(file['sha256'], digits)})"
    if facts.get("as_of"):
        yield "as of", str(facts["as_of"])


def _digest(sha256: str, digits: int) -> str:
    return f"sha256 {sha256[:digits]}"


def error_rates(report: Report) -> str:
    """Return how often sampling misleads, at most; empty where nothing was judged."""
    error = report.settings.get("family_wise_error", {"false_pass": 0})
    if not error["false_pass"]:
        return ""
    passes = (
        ""
        if report.settings["undecided"] == "pass"
        else (f"; a network that violates some rule passes all with at most {percent(error['false_pass'])}")
    )
    return (
        f"A rule that holds is failed by chance with a probability of at most {percent(error['false_pass'])}, any "
        f"rule of this file with at most {percent(error['false_fail'])}{passes}."
    )


def result(report: Report, counts: Mapping[Outcome, int]) -> tuple[str, str]:
    """Return PASSED or NOT PASSED, and why: how many rules came to what, and the exit code."""
    told = [count(sum(counts.values()), "rule")]
    told += [f"{counts[outcome]:,} {OUTCOMES[outcome]}" for outcome in Outcome if counts.get(outcome)]
    if {v.outcome for v in report.verdicts} <= {Outcome.MEASURED, Outcome.NOT_APPLICABLE}:
        told.append("nothing judged")
    return "PASSED" if report.passed else "NOT PASSED", f"{', '.join(told)} (exit {report.exit_code})"
