"""The report for a terminal: what is wrong first, a table of all rules, what was measured only, and one line."""

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
_LISTED = 8
_LOUD = (Outcome.ERROR, Outcome.FAIL, Outcome.UNDECIDED)
_WORDS = {
    Outcome.PASS: "passed",
    Outcome.FAIL: "failed",
    Outcome.UNDECIDED: "undecided",
    Outcome.MEASURED: "measured only",
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
    parts += [_table(report), *_measured_only(report), *_not_applicable(report), *_error(report)]
    parts += [_wrapped("note  ", note) for note in report.notes]
    parts.append(_last_line(report))
    return "\n\n".join(parts) + "\n"


def block(verdicts: Sequence[Verdict], report: Report) -> str:
    """Return what a reader must know of a rule's sites of one outcome, the worst first.

    Eight lines about the worst; one more for the rule's own reason and one for the other sites, where there are any.
    """
    verdict, *others = verdicts
    severity = "" if verdict.severity == "error" else f"  ({verdict.severity})"
    lines = [f"{verdict.outcome.upper()}  {verdict.rule}{severity}  {report.where(verdict)}"]
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
            _wrapped("  measured  ", _measured(verdict, report)),
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
        f"{_run(report)}{_extended(report.spec)}"
    )


def _run(report: Report) -> str:
    """What was done to the images, and how the network was called and run."""
    model, data, settings = report.model, report.data, report.settings
    inputs = model.get("inputs", ())
    told = [
        *(["an exported program"] if model.get("exported") else []),
        *([f"called with {', '.join(inputs)}"] if len(inputs) > 1 else []),
        *([f"{settings['mode']} mode, {settings['dtype']} on {settings['device']}"] if "mode" in settings else []),
        *(["channels_last"] if settings.get("memory_format") == "channels_last" else []),
        *([f"logits of {model['head']}"] if model.get("head") else []),
    ]
    lines = {"input  ": data.get("transform", ""), "run    ": ", ".join(told)}
    return "".join("\n" + _wrapped(start, text) for start, text in lines.items() if text)


def _extended(spec: Mapping[str, Any]) -> str:
    """Where rules were taken over from."""
    bases = spec.get("extends", ())
    if not bases:
        return ""
    names = [f"{base['name']} (version {base['version']})" if base["version"] else base["name"] for base in bases]
    without = f", without {', '.join(spec['without'])}" if spec.get("without") else ""
    return "\n" + _wrapped("rules  ", f"extends {', '.join(names)}{without}")


def _sources(data: Mapping[str, Any]) -> str:
    return f" of {data['sources']:,} sources" if data.get("sources") else ""


def _measured(verdict: Verdict, report: Report) -> str:
    name = f"{verdict.metric}.{verdict.field}"
    interval = f"{_percent(report.settings['confidence'])} interval [{number(verdict.low)}, {number(verdict.high)}]"
    told = f"{number(verdict.value)} {verdict.unit}"
    if verdict.side == "min_excess":
        return f"{name}: excess {told} over its null twin's {number(verdict.null)}, {interval}"
    twin = "" if verdict.null is None else f"; its null twin has {number(verdict.null)}"
    return f"{name} = {told}, {interval}{twin}"


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
    if outcome is Outcome.MEASURED:
        return _measured_row(rule, agreeing)
    worst = min(agreeing, key=margin)
    sites = f"{sum(v.outcome is Outcome.PASS for v in judged)}/{len(judged)}"
    skipped = len([v for v in mine if v.outcome is Outcome.NOT_APPLICABLE])
    shown = sites + (f" +{skipped} n/a" if skipped and judged else "")
    if worst.value is None:
        return [outcome.upper().replace("_", " "), rule, shown, worst.place, "", "", ""]
    interval = f"[{number(worst.low)}, {number(worst.high)}]"
    bound = f"{worst.side} {number(worst.bound)}"
    return [outcome.upper(), rule, shown, worst.place, number(worst.value), interval, bound]


def _measured_row(rule: str, verdicts: Sequence[Verdict]) -> Sequence[str]:
    """Without a bound no site is the worst: the range over all of them, or the value at the only one."""
    start = ["MEASURED", rule, str(len(verdicts))]
    if len(verdicts) == 1 and verdicts[0].value is not None:
        (only,) = verdicts
        return [*start, only.place, number(only.value), f"[{number(only.low)}, {number(only.high)}]", ""]
    values = [v.value for v in verdicts if v.value is not None and not math.isnan(v.value)]
    told = f"{number(min(values))} to {number(max(values))}" if values else "undefined"
    return [*start, "", told, "", ""]


def _measured_only(report: Report) -> Iterator[str]:
    """For each rule without a bound its sites."""
    for rule in report.spec["rules"]:
        found = [v for v in report.verdicts if v.rule == rule and v.outcome is Outcome.MEASURED]
        if found:
            yield _sites(found, report)


def _sites(verdicts: Sequence[Verdict], report: Report) -> str:
    first = verdicts[0]
    lines = [f"MEASURED  {first.rule}  {report.where(first)}"]
    if first.why:
        lines.append(_wrapped("  why       ", first.why))
    shown = _ends(verdicts)
    twin = any(v.null is not None for v in verdicts)
    rows = [
        [
            v.place,
            number(v.value),
            f"[{number(v.low)}, {number(v.high)}]",
            *([number(v.null)] if twin else []),
            _span(v),
        ]
        for v in shown
    ]
    headers = ["site", f"{first.metric}.{first.field}", "interval", *(["null twin"] if twin else []), first.unit]
    table = tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True)
    lines += [f"  {line}".rstrip() for line in table.splitlines()]
    if len(shown) < len(verdicts):
        lines.append(f"  {_count(len(verdicts) - len(shown), 'site')} with values between these: see --format json")
    remarks: dict[str, list[str]] = {}
    for v in verdicts:
        if v.detail:
            remarks.setdefault(v.detail, []).append(v.place)
    lines += [_wrapped("  note      ", f"{sites[0]}{_more(sites)}: {told}") for told, sites in remarks.items()]
    return "\n".join(lines)


def _ends(verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
    """Of many sites those with the lowest and the highest values, each in the network's order."""
    if len(verdicts) <= _LISTED:
        return verdicts
    defined = [v for v in verdicts if v.value is not None and not math.isnan(v.value)]
    order = sorted(defined, key=lambda v: v.value or 0.0)
    kept = {id(v) for v in (*order[: _LISTED // 2], *order[-_LISTED // 2 :])}
    return [v for v in verdicts if id(v) in kept]


def _span(verdict: Verdict) -> str:
    """What the units of a site reach from and to."""
    if verdict.units.total < 2 or verdict.reduce == "mean" or not verdict.worst:
        return "mean of the units" if verdict.reduce == "mean" else ""
    (_, low, *_), (_, high, *_) = verdict.worst[0], verdict.worst[-1]
    return f"{number(low)} to {number(high)} over {verdict.units.total} units"


def _not_applicable(report: Report) -> Iterator[str]:
    """For each reason why a rule was not judged somewhere, one line; of a pack's rule one in all."""
    reasons: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in report.verdicts:
        if verdict.outcome is Outcome.NOT_APPLICABLE and verdict.site:
            reasons.setdefault((verdict.rule, "" if verdict.pack else verdict.detail), []).append(verdict)
    if reasons:
        yield "\n".join(_wrapped("n/a   ", _nowhere(found)) for found in reasons.values())


def _nowhere(verdicts: Sequence[Verdict]) -> str:
    first = verdicts[0]
    others = len({v.detail for v in verdicts}) - 1
    more = f" (and {_count(others, 'more reason')}: see --format json)" if others else ""
    told = first.detail.removeprefix("Not measured: ")
    return f"{first.rule} at {first.place}{_more([v.place for v in verdicts])}: {told}{more}"


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
    return verdict.bound - verdict.value if verdict.side == "max" else verdict.value - verdict.bound


def _last_line(report: Report) -> str:
    counts = report.summary["rules"]
    told = ", ".join(f"{counts[str(o)]} {_WORDS[o]}" for o in Outcome if counts[str(o)])
    result = "PASSED" if report.passed else "NOT PASSED"
    if {v.outcome for v in report.verdicts} <= {Outcome.MEASURED, Outcome.NOT_APPLICABLE}:
        told += ", nothing judged"
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
