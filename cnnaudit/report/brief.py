"""One rule in a few lines, for a reader who sees many tests at once."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from tabulate import tabulate

from cnnaudit.report.words import accepted, bound, interval, margin, number
from cnnaudit.result import Outcome, Report, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["brief"]

_WIDTH = 100
_SHOWN = 4
_DIFFERENCE = {"min_excess": " excess", "max_regression": " worse by"}
_WORDS = {
    Outcome.PASS: "passes",
    Outcome.FAIL: "fails",
    Outcome.UNDECIDED: "is undecided",
    Outcome.WAIVED: "is waived",
    Outcome.MEASURED: "was measured",
    Outcome.NOT_APPLICABLE: "does not apply",
    Outcome.ERROR: "could not be evaluated",
}


def brief(report: Report, rule: str) -> str:
    """Return where a rule stands and what it came to, in at most 14 lines.

    The first line starts with ``file:line:``; a small table shows the worst sites, the worst first.
    """
    outcome = report.outcome(rule)
    mine = report.of(rule)
    concerned = sorted((v for v in mine if v.outcome is outcome), key=margin)
    worst = concerned[0]
    lines = [f"{report.where(worst)}: {rule} {_WORDS[outcome]}{_extent(concerned, mine, report)}"]
    if worst.why:
        lines += _wrapped("why   ", worst.why, 2)
    if worst.value is not None:
        lines += _table(concerned)
    lines += _wrapped("means ", worst.detail, 2)
    if worst.waiver:
        lines += _wrapped("waived ", accepted(worst.waiver), 2)
    else:
        lines += _wrapped("do    ", worst.advice, 3)
    return "\n".join(lines)


def _extent(concerned: Sequence[Verdict], mine: Sequence[Verdict], report: Report) -> str:
    judged = [v for v in mine if v.site and v.outcome is not Outcome.NOT_APPLICABLE]
    if not judged:
        return ""
    places = "place" if concerned[0].slice else "site"
    told = f" at {len(concerned)} of {len(judged)} {places}{'s' * (len(judged) != 1)}"
    told += f", {report.data['n_images']:,} images"
    needed = max(v.n_needed for v in concerned)
    return told + (f" (about {needed:,} {'sources ' * bool(concerned[0].n_sources)}needed)" if needed else "")


def _table(concerned: Sequence[Verdict]) -> Iterator[str]:
    columns = _columns(concerned[0])
    rows = [[tell(v) for tell in columns.values()] for v in concerned[:_SHOWN]]
    for line in tabulate(rows, headers=list(columns), tablefmt="plain", disable_numparse=True).splitlines():
        yield f"  {line}".rstrip()
    if len(concerned) > _SHOWN:
        yield f"  ... and {len(concerned) - _SHOWN} more"


def _columns(first: Verdict) -> dict[str, Callable[[Verdict], str]]:
    measured = f"{first.metric}.{first.field}{_DIFFERENCE.get(first.side, '')}" if first.metric else "value"
    columns: dict[str, Callable[[Verdict], str]] = {
        "site": lambda v: v.place,
        measured: lambda v: number(v.value),
        "interval": interval,
    }
    if first.null is not None:
        columns["null twin"] = lambda v: number(v.null)
    if first.baseline is not None:
        columns["baseline"] = lambda v: number(v.baseline)
    if first.side:
        columns["bound"] = bound
    if first.side and first.units.total:
        columns["failing"] = lambda v: f"{v.units.failing} of {v.units.total}"
    return columns


def _wrapped(start: str, text: str, most: int) -> list[str]:
    indent = " " * len(start)
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"  {start}",
        subsequent_indent=f"  {indent}",
        max_lines=most,
        placeholder=" ...",
        break_on_hyphens=False,
    )
