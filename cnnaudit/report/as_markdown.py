"""The report as GitHub-flavoured Markdown, for comments, job summaries and model cards."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cnnaudit.report import words
from cnnaudit.report.reproducing import facts
from cnnaudit.report.standing import LOUD, by_gravity, counts, nowhere, standings, waived
from cnnaudit.result import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cnnaudit.report.standing import Standing
    from cnnaudit.result import Report, Verdict

__all__ = ["render"]

# What GitHub takes in one comment, in characters. Lists are the shorter the more there is to list.
_LIMIT = 65_536
_LISTED = (100, 50, 25, 10, 5)
_NAMED = 6
_APART = (Outcome.MEASURED, Outcome.NOT_APPLICABLE)


def render(report: Report) -> str:
    """Return the report as Markdown; where there is much, with the gravest of each list and how many more there are."""
    rules = by_gravity(standings(report))
    texts = (_page(report, rules, most) for most in _LISTED)
    return next((text for text in texts if len(text) <= _LIMIT), _page(report, rules, _LISTED[-1]))


def _page(report: Report, rules: Sequence[Standing], most: int) -> str:
    verdict, why = words.result(report, counts(rules))
    parts = [
        f"## Audit of {_code(report.spec['path'])}",
        f"**{verdict}**: {why}",
        *_table(rules, most),
        *_wrong(rules, report, most),
        *_waivers(rules, report, most),
        *_measured(rules, most),
        *_not_applicable(rules, most),
        *_whole(report),
        *_again(report),
    ]
    return "\n\n".join(parts) + "\n"


def _table(rules: Sequence[Standing], most: int) -> Iterator[str]:
    """All rules, the gravest first, with the columns that some rule fills."""
    judged = [rule for rule in rules if rule.outcome not in _APART]
    if not judged:
        return
    columns = ["outcome", "rule", "sites passed", "worst site", "value", "interval", "bound"]
    baseline = any(rule.worst is not None and rule.worst.baseline is not None for rule in judged)
    rows = [_row(rule, baseline=baseline) for rule in judged[:most]]
    yield _grid([*columns, *(["baseline"] if baseline else [])], rows)
    yield from _rest(len(judged) - most, "rule", judged[most:])


def _row(rule: Standing, *, baseline: bool) -> list[str]:
    worst = rule.worst
    severity = f" ({worst.severity})" if worst and rule.outcome in LOUD and worst.severity != "error" else ""
    start = [_badge(rule.outcome) + severity, _code(rule.rule), rule.sites]
    if worst is None:
        return [*start, *[""] * (4 + baseline)]
    cells = ["", "", ""]
    if worst.value is not None:
        changed = f" (changed after the evidence existed: {_text(worst.changed)})" if worst.changed else ""
        cells = [_value(worst), words.interval(worst), words.bound(worst) + changed]
    known = [words.number(worst.baseline)] if worst.baseline is not None else [""]
    return [*start, _code(worst.place), *cells, *(known if baseline else [])]


def _value(verdict: Verdict) -> str:
    told = words.number(verdict.value)
    if verdict.side == "max_regression" and verdict.value is not None:
        return f"{words.number(abs(verdict.value))} {'worse' if verdict.value >= 0 else 'better'}"
    return f"{told} above its twin" if verdict.side == "min_excess" else told


def _wrong(rules: Sequence[Standing], report: Report, most: int) -> Iterator[str]:
    """For each rule that does not pass why it is there, what is measured, what that means and what to do."""
    found = [verdicts for rule in rules for verdicts in rule.loud()]
    if not found:
        return
    yield "### What is wrong"
    for verdicts in found[:most]:
        yield _finding(verdicts, report)
    yield from _rest(len(found) - most, "finding")


def _finding(verdicts: Sequence[Verdict], report: Report) -> str:
    verdict, *others = verdicts
    severity = "" if verdict.severity == "error" else f", {verdict.severity}"
    refs = "".join(f", {_text(ref)}" for ref in verdict.refs)
    lines = [f"**{_badge(verdict.outcome)}** {_code(verdict.rule)} ({_code(report.where(verdict))}{severity}{refs})"]
    if verdict.why:
        lines.append(_text(verdict.why))
    points = []
    if verdict.site:
        points.append(f"{_code(verdict.place)}" + (f" ({_text(verdict.op)})" if verdict.op else ""))
    if verdict.value is not None:
        told = f"; bound {words.bound(verdict)}" if verdict.side else ""
        points.append(_text(words.measured(verdict, report)) + told)
    if verdict.value is not None and verdict.metric:
        points.append(_text(f"{words.units(verdict)}; images: {words.images(verdict, report)}"))
    if others:
        named = [_code(v.place) + (f" ({words.number(v.value)})" if v.value is not None else "") for v in others]
        points.append(f"also at {words.more(named, shown=_NAMED)}")
    if verdict.changed:
        points.append(f"changed after the evidence existed: {_text(verdict.changed)}")
    if verdict.detail:
        points.append(f"means: {_text(verdict.detail)}")
    if verdict.advice:
        points.append(f"do: {_text(verdict.advice)}")
    return "\n\n".join(lines) + "\n\n" + "\n".join(f"- {point}" for point in points)


def _waivers(rules: Sequence[Standing], report: Report, most: int) -> Iterator[str]:
    """Who accepted what until when."""
    found = [mine for rule in rules for mine in waived(rule)]
    if not found:
        return
    yield "### Waived"
    columns = ["rule", "sites, worst first", "value", "interval", "bound", "accepts", "by", "approved", "until"]
    rows = []
    for mine in found[:most]:
        worst, waiver = mine[0], mine[0].waiver or {}
        ticket = f", {_text(waiver['ticket'])}" if waiver.get("ticket") else ""
        rows.append(
            [
                _code(worst.rule),
                words.more([_code(v.place) for v in mine], shown=_NAMED),
                words.number(worst.value) if worst.value is not None else "",
                words.interval(worst) if worst.value is not None else "",
                words.bound(worst),
                words.accepted_worst(waiver),
                f"{_code(waiver['owner'])}{ticket}",
                f"{_code(waiver['approved_by'])}, {waiver['approved_on']}",
                f"**{words.until(waiver, report)}**",
                f"{_text(waiver['category'])}: {_text(waiver['reason'])} ({_code(waiver['place'])})",
            ]
        )
    yield _grid([*columns, "because"], rows)
    yield from _rest(len(found) - most, "waiver")


def _measured(rules: Sequence[Standing], most: int) -> Iterator[str]:
    """What rules without a bound show."""
    found = [rule for rule in rules if rule.outcome is Outcome.MEASURED]
    if not found:
        return
    yield "### Measured only"
    rows = [_measured_row(rule.of(Outcome.MEASURED)) for rule in found[:most]]
    twin = any(v.null is not None for rule in found for v in rule.verdicts)
    columns = ["rule", "sites", "measured", "value", "interval"]
    if not twin:
        rows = [row[:-1] for row in rows]
    yield _grid([*columns, *(["null twin"] if twin else [])], rows)
    yield from _rest(len(found) - most, "rule")


def _measured_row(verdicts: Sequence[Verdict]) -> list[str]:
    first = verdicts[0]
    sites = words.more([_code(v.place) for v in verdicts], shown=_NAMED)
    name = _text(f"{first.metric}.{first.field} ({first.unit})")
    if len(verdicts) == 1:
        null = words.number(first.null) if first.null is not None else ""
        return [_code(first.rule), sites, name, words.number(first.value), words.interval(first), null]
    nulls = [v.null for v in verdicts if v.null is not None]
    null = words.reach(nulls) if nulls else ""
    return [_code(first.rule), sites, name, words.reach(v.value for v in verdicts), "", null]


def _not_applicable(rules: Sequence[Standing], most: int) -> Iterator[str]:
    found = nowhere(rules)
    if not found:
        return
    rows = [
        [_code(mine[0].rule), words.more([_code(v.place) for v in mine], shown=_NAMED), _text(mine[0].detail)]
        for mine in found[:most]
    ]
    yield from _folded(
        "Not applicable", [_grid(["rule", "sites", "reason"], rows), *_rest(len(found) - most, "reason")]
    )


def _whole(report: Report) -> Iterator[str]:
    """What holds for the audit as a whole."""
    told = [words.coverage(report), words.error_rates(report), *report.notes]
    found = [f"- {_text(sentence)}" for sentence in told if sentence]
    if found:
        yield "### The audit as a whole"
        yield "\n".join(found)


def _again(report: Report) -> Iterator[str]:
    rows = [[name, _text(told)] for name, told in facts(report).items()]
    yield from _folded("What was audited", [_grid(["fact", "value"], rows)])


def _folded(title: str, parts: Iterable[str]) -> Iterator[str]:
    yield f"<details><summary>{title}</summary>"
    yield from parts
    yield "</details>"


def _rest(number: int, noun: str, rules: Sequence[Standing] = ()) -> Iterator[str]:
    """How many more there are, and what rules among them came to."""
    if number <= 0:
        return
    told = ", ".join(f"{n:,} {words.OUTCOMES[outcome]}" for outcome, n in counts(rules).items())
    yield f"and {words.count(number, f'more {noun}')}" + (f": {told}" if told else "")


def _badge(outcome: Outcome) -> str:
    return f"{words.SYMBOLS[outcome]} {outcome.upper().replace('_', ' ')}"


def _grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a ``|`` ends a cell unless it is escaped, in code too."""
    body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(columns), ["---"] * len(columns), *body])


def _code(name: str) -> str:
    """A name as code, in which nothing but its fence and an end of line means anything."""
    name = words.plain(name)
    if not name:
        return ""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", name)), default=0))
    space = " " if name.startswith("`") or name.endswith("`") else ""
    return f"{fence}{space}{name}{space}{fence}"


def _text(text: str) -> str:
    """A sentence of the rule file, a waiver or a library: never HTML, a heading, emphasis, a link or a list."""
    text = words.plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[~]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)
    return re.sub(r"^([-+=#]|\d+[.)](?= ))", lambda found: f"{found[0][:-1]}\\{found[0][-1]}", text)
