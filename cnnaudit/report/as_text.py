"""The report for a terminal: what is wrong first, what is waived, all rules, what was measured only, and one line."""

from __future__ import annotations

import math
import re
import textwrap
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from cnnaudit.report.standing import Standing, counts, standings, waived
from cnnaudit.report.words import (
    accepted,
    accepted_worst,
    beside,
    bound,
    count,
    coverage,
    error_rates,
    gate,
    images,
    interval,
    margin,
    measured,
    more,
    number,
    reach,
    result,
    span,
    units,
)
from cnnaudit.result import Outcome, Report, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["block", "margin", "number", "render"]

_WIDTH = 110
# What a terminal would take for a command, in the name of a site or a label.
_CONTROL = re.compile(r"[^\n\x20-\x7e\xa0-\u2027\u202f-\u2065\u206a-\U0010ffff]")
_NAMED = 6
_LISTED = 8


def render(report: Report) -> str:
    """Return the report as text of at most 110 columns."""
    rules = standings(report)
    parts = [_heading(report)]
    parts += [block(found, report) for rule in rules for found in rule.loud()]
    parts += [block(found, report) for rule in rules for found in waived(rule)]
    parts += [_table(rules), *_changed(report), *_measured_only(rules, report), *_not_applicable(report)]
    parts += [_wrapped(start, told) for start, told in _remarks(report)]
    parts.append(": ".join(result(report, counts(rules))))
    return _CONTROL.sub("", "\n\n".join(parts)) + "\n"


def block(verdicts: Sequence[Verdict], report: Report) -> str:
    """Return what a reader must know of a rule's sites of one outcome, the worst first.

    Eight lines about the worst; one more for the rule's own reason and one for the other sites, where there are any.
    Of a waived result the waiver is told instead of what to do.
    """
    verdict, *others = verdicts
    severity = "" if verdict.severity == "error" else f"  ({verdict.severity})"
    lines = [f"{verdict.outcome.upper()}  {verdict.rule}{severity}  {report.where(verdict)}"]
    if verdict.why:
        lines.append(_wrapped("  why       ", verdict.why))
    if verdict.waiver:
        lines += [
            _wrapped("  accepted  ", accepted(verdict.waiver)),
            _wrapped("  because   ", str(verdict.waiver["reason"])),
            _wrapped("  waived    ", accepted_worst(verdict.waiver)),
        ]
    if verdict.site:
        lines.append(f"  layer     {verdict.site}" + (f" ({verdict.op})" if verdict.op else ""))
    if verdict.slice:
        lines.append(f"  slice     {verdict.slice}")
    if others:
        lines.append(_wrapped("  also      ", _others(others)))
    if verdict.value is not None:
        lines += _numbers(verdict, report)
    if verdict.n_images:
        lines.append(f"  images    {images(verdict, report)}")
    if verdict.detail:
        lines.append(_wrapped("  means     ", verdict.detail))
    if verdict.advice and not verdict.waiver:
        lines.append(_wrapped("  do        ", verdict.advice))
    return "\n".join(lines)


def _numbers(verdict: Verdict, report: Report) -> Iterator[str]:
    yield _wrapped("  measured  ", measured(verdict, report))
    if verdict.side:
        yield f"  bound     {bound(verdict)}"
    if verdict.changed:
        yield _wrapped("  changed   ", f"after the evidence existed: {verdict.changed}")
    if others := beside(verdict):
        yield _wrapped("  beside    ", others)
    if verdict.metric:
        yield _wrapped("  units     ", units(verdict))


def _others(verdicts: Sequence[Verdict]) -> str:
    named = [v.place if v.value is None else f"{v.place} ({number(v.value)})" for v in verdicts]
    return more(named, shown=_NAMED)


def _heading(report: Report) -> str:
    model, data = report.model, report.data
    weights = f" with {model['weights']}" if model["weights"] else ""
    sites = ", ".join(f"{n} {op}" for op, n in model["sites"].items())
    available = data["available"]
    of = f" of {available:,}" if available and available != data["n_images"] else ""
    return (
        f"model  {model['source']}{weights}: {sites}\n"
        f"data   {data['source']}: {data['n_images']:,}{of} images{_sources(data)}, order {data['order']}"
        f"{_run(report)}{_extended(report.spec)}{_used(report)}"
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


def _used(report: Report) -> str:
    """What was used beside rules, model and data; the date alone decides nothing."""
    used = list(gate(report))
    if all(name == "as of" for name, _ in used):
        return ""
    return "\n" + _wrapped("gate   ", ", ".join(f"{name} {told}" for name, told in used))


def _sources(data: Mapping[str, Any]) -> str:
    return f" of {data['sources']:,} sources" if data.get("sources") else ""


def _table(rules: Sequence[Standing]) -> str:
    return tabulate(
        [_row(rule) for rule in rules],
        headers=["outcome", "rule", "sites", "worst site", "value", "interval", "bound"],
        tablefmt="simple",
        disable_numparse=True,
    )


def _row(rule: Standing) -> Sequence[str]:
    worst = rule.worst
    if rule.outcome is Outcome.MEASURED:
        return _measured_row(rule.rule, rule.of(Outcome.MEASURED))
    start = [rule.outcome.upper().replace("_", " "), rule.rule, rule.sites, worst.place if worst else ""]
    if worst is None or worst.value is None:
        return [*start, "", "", ""]
    return [*start, number(worst.value), interval(worst), bound(worst)]


def _measured_row(rule: str, verdicts: Sequence[Verdict]) -> Sequence[str]:
    """Without a bound no site is the worst: the range over all of them, or the value at the only one."""
    start = ["MEASURED", rule, str(len(verdicts))]
    if len(verdicts) == 1 and verdicts[0].value is not None:
        (only,) = verdicts
        return [*start, only.place, number(only.value), interval(only), ""]
    return [*start, "", reach(v.value for v in verdicts), "", ""]


def _changed(report: Report) -> Iterator[str]:
    """Which bounds are not those of the time when the evidence was made, also where the rule passes."""
    found = dict.fromkeys((v.rule, v.changed) for v in report.verdicts if v.changed)
    if found:
        yield "\n".join(
            _wrapped("later ", f"{rule} changed after the evidence existed: {told}") for rule, told in found
        )


def _measured_only(rules: Sequence[Standing], report: Report) -> Iterator[str]:
    """For each rule without a bound its sites."""
    for rule in rules:
        found = [v for v in rule.verdicts if v.outcome is Outcome.MEASURED]
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
            interval(v),
            *([number(v.null)] if twin else []),
            span(v),
        ]
        for v in shown
    ]
    headers = ["site", f"{first.metric}.{first.field}", "interval", *(["null twin"] if twin else []), first.unit]
    table = tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True)
    lines += [f"  {line}".rstrip() for line in table.splitlines()]
    if len(shown) < len(verdicts):
        lines.append(f"  {count(len(verdicts) - len(shown), 'site')} with values between these: see --format json")
    remarks: dict[str, list[str]] = {}
    for v in verdicts:
        if v.detail:
            remarks.setdefault(v.detail, []).append(v.place)
    lines += [_wrapped("  note      ", f"{more(sites)}: {told}") for told, sites in remarks.items()]
    return "\n".join(lines)


def _ends(verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
    """Of many sites those with the lowest and the highest values, each in the network's order."""
    if len(verdicts) <= _LISTED:
        return verdicts
    defined = [v for v in verdicts if v.value is not None and not math.isnan(v.value)]
    order = sorted(defined, key=lambda v: v.value or 0.0)
    kept = {id(v) for v in (*order[: _LISTED // 2], *order[-_LISTED // 2 :])}
    return [v for v in verdicts if id(v) in kept]


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
    unsaid = f" (and {count(others, 'more reason')}: see --format json)" if others else ""
    told = first.detail.removeprefix("Not measured: ")
    return f"{first.rule} at {more([v.place for v in verdicts])}: {told}{unsaid}"


def _remarks(report: Report) -> Iterator[tuple[str, str]]:
    """What holds for the audit as a whole."""
    if told := error_rates(report):
        yield "error ", told
    if told := coverage(report):
        yield "cover ", told
    for note in report.notes:
        yield "note  ", note


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
