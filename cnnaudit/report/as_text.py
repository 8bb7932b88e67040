"""The report for a terminal: what is wrong first, then a table of all rules, then one line."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from cnnaudit.result import Outcome, Report, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["block", "margin", "number", "render"]

_WIDTH = 110
_NAMED = 6
_LOUD = (Outcome.ERROR, Outcome.FAIL, Outcome.UNDECIDED)
_WORDS = {
    Outcome.PASS: "passed",
    Outcome.FAIL: "failed",
    Outcome.UNDECIDED: "undecided",
    Outcome.NOT_APPLICABLE: "not applicable",
    Outcome.ERROR: "could not be evaluated",
}


def render(report: Report) -> str:
    """Return the report as text of at most 110 columns."""
    parts = [_heading(report)]
    for rule in report.spec["rules"]:
        for outcome in _LOUD:
            found = [v for v in report.verdicts if v.rule == rule and v.outcome is outcome]
            if found:
                parts.append(block(sorted(found, key=margin), report))
    parts += [_table(report), *_not_applicable(report), *_error(report)]
    parts += [_wrapped("note  ", note) for note in report.notes]
    parts.append(_last_line(report))
    return "\n\n".join(parts) + "\n"


def block(verdicts: Sequence[Verdict], report: Report) -> str:
    """Return what a reader must know of a rule's sites of one outcome, the worst first.

    Eight lines about the worst; one more for the rule's own reason and one for the other sites, where there are any.
    """
    verdict, *others = verdicts
    place = f"{report.spec['path']}:{verdict.line}" if verdict.line else report.spec["path"]
    severity = "" if verdict.severity == "error" else f"  ({verdict.severity})"
    lines = [f"{verdict.outcome.upper()}  {verdict.rule}{severity}  {place}"]
    if verdict.why:
        lines.append(_wrapped("  why       ", verdict.why))
    if verdict.site:
        lines.append(f"  layer     {verdict.site} ({verdict.op})")
    if verdict.slice:
        lines.append(f"  slice     {verdict.slice}")
    if others:
        lines.append(_wrapped("  also      ", _others(others)))
    if verdict.value is not None:
        lines += [
            f"  measured  {_measured(verdict, report)}",
            f"  bound     {verdict.side} {number(verdict.bound)}",
            *([_wrapped("  beside    ", beside)] if (beside := _beside(verdict)) else []),
            _wrapped("  units     ", _units(verdict)),
        ]
    if verdict.n_images:
        lines.append(f"  images    {_images(verdict, report)}")
    lines.append(_wrapped("  means     ", verdict.detail))
    if verdict.advice:
        lines.append(_wrapped("  do        ", verdict.advice))
    return "\n".join(lines)


def _others(verdicts: Sequence[Verdict]) -> str:
    named = [v.place if v.value is None else f"{v.place} ({number(v.value)})" for v in verdicts[:_NAMED]]
    rest = len(verdicts) - len(named)
    return ", ".join(named) + (f" and {_count(rest, 'more site')}" if rest else "")


def number(value: float | None) -> str:
    """Return a number with four significant digits."""
    if value is None or math.isnan(value):
        return "undefined"
    return f"{value:.4g}"


def _heading(report: Report) -> str:
    model, data = report.model, report.data
    weights = f" with {model['weights']}" if model["weights"] else ""
    sites = ", ".join(f"{n} {op}" for op, n in model["sites"].items())
    available = data["available"]
    of = f" of {available:,}" if available and available != data["n_images"] else ""
    return (
        f"model  {model['source']}{weights}: {sites}\n"
        f"data   {data['source']}: {data['n_images']:,}{of} images{_sources(data)}, order {data['order']}"
    )


def _sources(data: Mapping[str, Any]) -> str:
    return f" of {data['sources']:,} sources" if data.get("sources") else ""


def _measured(verdict: Verdict, report: Report) -> str:
    return (
        f"{verdict.metric}.{verdict.field} = {number(verdict.value)} {verdict.unit}, "
        f"{_percent(report.settings['confidence'])} interval [{number(verdict.low)}, {number(verdict.high)}]"
    )


def _beside(verdict: Verdict) -> str:
    """The metric's other fields at the same place, as far as they exist."""
    others = {name: x for name, x in verdict.fields.items() if name != verdict.field and math.isfinite(x)}
    return ", ".join(f"{name} {number(x)}" for name, x in others.items())


def _units(verdict: Verdict) -> str:
    counts, noun = verdict.units, "kernels" if verdict.op == "conv" else "units"
    if verdict.reduce == "mean":
        return "judged by the mean of the site's units"
    if counts.total == 1:
        return "judged as a whole"
    told = [f"{counts.failing} of {counts.total} {noun} violate the bound"]
    if counts.undecided:
        told.append(f"{counts.undecided} undecided")
    if verdict.share < 1:
        told.append(f"{verdict.share:.0%} must keep it")
    worst = ", ".join(f"{kernel} ({number(value)})" for kernel, value, _, _ in verdict.worst)
    return ", ".join(told) + (f"; worst: {worst}" if worst else "")


def _images(verdict: Verdict, report: Report) -> str:
    read = f"{verdict.n_images:,} read" + (f" of {verdict.n_sources:,} sources" if verdict.n_sources else "")
    if verdict.outcome is Outcome.UNDECIDED:
        samples = " sources" if verdict.n_sources else ""
        return read + (f", about {verdict.n_needed:,}{samples} needed" if verdict.n_needed else "")
    looks = len(report.settings.get("looks", ()))
    return read if verdict.look >= looks else f"{read} when look {verdict.look} of {looks} decided"


def _table(report: Report) -> str:
    rows = [_row(report, rule) for rule in report.spec["rules"]]
    return tabulate(
        rows,
        headers=["outcome", "rule", "sites", "worst site", "value", "interval", "bound"],
        tablefmt="simple",
        disable_numparse=True,
    )


def _row(report: Report, rule: str) -> Sequence[str]:
    mine = [v for v in report.verdicts if v.rule == rule]
    outcome = report.outcome(rule)
    judged = [v for v in mine if v.outcome is not Outcome.NOT_APPLICABLE and v.site]
    agreeing = [v for v in mine if v.outcome is outcome]
    worst = min(agreeing, key=margin)
    sites = f"{sum(v.outcome is Outcome.PASS for v in judged)}/{len(judged)}"
    skipped = len([v for v in mine if v.outcome is Outcome.NOT_APPLICABLE])
    shown = sites + (f" +{skipped} n/a" if skipped and judged else "")
    if worst.value is None:
        return [outcome.upper().replace("_", " "), rule, shown, worst.place, "", "", ""]
    interval = f"[{number(worst.low)}, {number(worst.high)}]"
    bound = f"{worst.side} {number(worst.bound)}"
    return [outcome.upper(), rule, shown, worst.place, number(worst.value), interval, bound]


def _not_applicable(report: Report) -> Iterator[str]:
    """For each reason why a rule was not judged somewhere, one line."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for verdict in report.verdicts:
        if verdict.outcome is Outcome.NOT_APPLICABLE and verdict.site:
            reasons.setdefault((verdict.rule, verdict.detail), []).append(verdict.place)
    if reasons:
        yield "\n".join(
            _wrapped("n/a   ", f"{rule} at {sites[0]}{_more(sites)}: {detail.removeprefix('Not measured: ')}")
            for (rule, detail), sites in reasons.items()
        )


def _error(report: Report) -> Iterator[str]:
    """How often sampling misleads, at most."""
    error = report.settings.get("family_wise_error", {"false_pass": 0})
    if error["false_pass"]:
        passes = (
            ""
            if report.settings["undecided"] == "pass"
            else (f"; a network that violates some rule passes all with at most {_percent(error['false_pass'])}")
        )
        yield _wrapped(
            "error ",
            f"A rule that holds is failed by chance with a probability of at most {_percent(error['false_pass'])}, any "
            f"rule of this file with at most {_percent(error['false_fail'])}{passes}.",
        )


def _percent(share: float) -> str:
    return f"{float(f'{100 * share:.3g}'):g} %"


def _more(sites: Sequence[str]) -> str:
    return f" and {_count(len(sites) - 1, 'more site')}" if len(sites) > 1 else ""


def margin(verdict: Verdict) -> float:
    """Return how far a verdict's value is on the right side of its bound, negative where it violates it."""
    if verdict.value is None or verdict.bound is None or math.isnan(verdict.value):
        return 0.0
    return verdict.value - verdict.bound if verdict.side == "min" else verdict.bound - verdict.value


def _last_line(report: Report) -> str:
    counts = report.summary["rules"]
    told = ", ".join(f"{counts[str(o)]} {_WORDS[o]}" for o in Outcome if counts[str(o)])
    result = "PASSED" if report.passed else "NOT PASSED"
    return f"{result}: {_count(len(report.spec['rules']), 'rule')}, {told} (exit {report.exit_code})"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _wrapped(start: str, text: str) -> str:
    return "\n".join(_lines(start, text))


def _lines(start: str, text: str) -> Iterator[str]:
    indent = " " * len(start)
    return iter(
        textwrap.wrap(
            text, _WIDTH, initial_indent=start, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        or [start.rstrip()]
    )
