"""What a code review shows: for each rule that is not kept one finding, at its line of the rule file."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cnnaudit.report.standing import LOUD, Standing, counts, standings
from cnnaudit.report.words import OUTCOMES, accepted, bound, count, coverage, measured, plain, result
from cnnaudit.result import Outcome, Report, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "LEVELS",
    "Finding",
    "acceptance",
    "counted",
    "findings",
    "level",
    "line",
    "message",
    "placed",
    "relative",
    "spot",
    "waived",
]

LEVELS = ("error", "warning", "note")
_WORDS = {
    Outcome.ERROR: "could not be evaluated",
    Outcome.FAIL: "fails",
    Outcome.UNDECIDED: "is undecided",
    Outcome.WAIVED: "is waived",
}
_DETAILED = 20


@dataclass(frozen=True)
class Finding:
    """A rule that is not kept.

    Attributes:
        rule: Its id.
        level: ``error``, ``warning`` or ``note``: what the audit's exit code makes of it.
        outcome: The gravest of its sites.
        verdicts: All sites where it is not kept, the gravest and worst first.
        judged: At how many sites it was judged.
        path, line: Where it stands: relative to the repository, the line from 1.
        fingerprint: 64 hexadecimal digits, the same for every audit of this model by this rule: neither value nor line
            nor site is in it.
    """

    rule: str
    level: str
    outcome: Outcome
    verdicts: tuple[Verdict, ...]
    judged: int
    path: str
    line: int
    fingerprint: str


def findings(report: Report) -> list[Finding]:
    """Return one finding for each rule that failed, is undecided or could not be evaluated, the worst first."""
    found = [finding for rule in standings(report) if (finding := _finding(report, rule, LOUD))]
    return sorted(found, key=lambda f: (LEVELS.index(f.level), LOUD.index(f.outcome)))


def waived(report: Report) -> list[Finding]:
    """Return one finding for each rule of which a result was accepted, with these results only."""
    return [finding for rule in standings(report) if (finding := _finding(report, rule, (Outcome.WAIVED,)))]


def _finding(report: Report, rule: Standing, outcomes: Sequence[Outcome]) -> Finding | None:
    mine = tuple(v for outcome in outcomes for v in rule.of(outcome))
    if not mine:
        return None
    path, at = placed(report, mine[0])
    gravest = min((level(v, report) for v in mine), key=LEVELS.index)
    judged = sum(bool(v.site) and v.outcome is not Outcome.NOT_APPLICABLE for v in rule.verdicts)
    identity = _fingerprint(report, rule.rule, path, accepted=Outcome.WAIVED in outcomes)
    return Finding(rule.rule, gravest, mine[0].outcome, mine, judged, path, at, identity)


def level(verdict: Verdict, report: Report) -> str:
    """Return what the exit code makes of a verdict: an error always counts, an undecided one as the file says."""
    if verdict.outcome is Outcome.ERROR:
        return "error"
    if verdict.outcome is Outcome.UNDECIDED and report.settings.get("undecided", "fail") != "fail":
        return "note"
    return verdict.severity


def placed(report: Report, verdict: Verdict) -> tuple[str, int]:
    """Return the file of a verdict's rule, relative to the repository, and its line.

    A rule of a pack stands in no file of the repository: it is shown at the first line of the rule file.
    """
    packs = {base["name"] for base in report.spec.get("extends", ()) if base["version"]}
    file = "" if verdict.file in packs else verdict.file
    own = bool(file) or not verdict.file
    return relative(file or str(report.spec["path"])), (verdict.line if own else 0) or 1


def relative(path: str) -> str:
    """Return a path relative to the repository; of a file outside of it only the name."""
    here = Path.cwd()
    inside = Path(os.path.relpath(here / path, _root(here)))
    return inside.name if inside.parts[0] == os.pardir else inside.as_posix()


@cache
def _root(here: Path) -> Path:
    return next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), here)


def _fingerprint(report: Report, rule: str, path: str, *, accepted: bool) -> str:
    measures = report.spec.get("terms", {}).get(rule, {}).get("measures", {})
    selector = [measures.get("at"), measures.get("from")]
    identity = json.dumps([path, rule, report.model["source"], selector, accepted])
    return hashlib.sha256(identity.encode()).hexdigest()


def message(finding: Finding, report: Report, most: int) -> str:
    """Return what a reader must know of a finding, as lines of text.

    Args:
        finding: One of the report's.
        report: Where it comes from.
        most: How many characters it may have; sites that do not fit are counted.
    """
    worst = finding.verdicts[0]
    head = f"{plain(finding.rule)} {_WORDS[finding.outcome]}{_extent(finding)}."
    listed = [v for v in finding.verdicts if v.site or v.value is not None or len(finding.verdicts) > 1]
    detail = "" if listed and worst.value is None else worst.detail  # else it is in the list
    tail = [plain(text) for text in (worst.why, detail, worst.advice) if text]
    room = most - len(head) - sum(len(text) + 1 for text in tail)
    return _cut("\n".join([head, *_listed(listed, report, room), *tail]), most)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 4].rstrip() + " ..."


def _extent(finding: Finding) -> str:
    if not finding.judged:
        return ""
    here = sum(v.outcome is finding.outcome for v in finding.verdicts)
    return f" at {here:,} of {count(finding.judged, 'place' if finding.verdicts[0].slice else 'site')}"


def _listed(verdicts: Sequence[Verdict], report: Report, room: int) -> Iterator[str]:
    """The worst sites a line each while half of the room lasts, the others by their names, the rest as a number."""
    spent, left = 0, room // 2
    while spent < min(len(verdicts), _DETAILED):
        text = line(verdicts[spent], report)
        if len(text) > left:
            break
        yield text
        left -= len(text) + 1
        spent += 1
    names, left = [], left + room // 2 - 40
    for verdict in verdicts[spent:]:
        name = plain(spot(verdict, report))
        left -= len(name) + 2
        if left < 0:
            break
        names.append(name)
    unnamed = len(verdicts) - spent - len(names)
    if names:
        yield "also " + ", ".join(names) + (f" and {unnamed:,} more" if unnamed else "")
    elif unnamed:
        yield f"and {unnamed:,} more"


def line(verdict: Verdict, report: Report) -> str:
    """Return a verdict as one line: its site, what was measured there, and the bound."""
    op = f" ({verdict.op})" if verdict.op else ""
    place = f"{spot(verdict, report)}{op}: " if spot(verdict, report) else ""
    word = "undecided, " if verdict.outcome is Outcome.UNDECIDED else ""
    changed = f", {verdict.changed}" if verdict.changed else ""
    return plain(f"{place}{word}{_numbers(verdict, report)}{changed}")


def spot(verdict: Verdict, report: Report) -> str:
    """Return a verdict's site; of what is about no site the line of another file; else nothing."""
    return verdict.place or (report.where(verdict) if verdict.file and not verdict.metric else "")


def _numbers(verdict: Verdict, report: Report) -> str:
    if verdict.value is None:
        return verdict.detail or OUTCOMES[verdict.outcome]
    told = [measured(verdict, report)]
    if verdict.side and verdict.side != "max_regression":
        told.append(f"bound {bound(verdict)}")
    if verdict.n_needed:
        told.append(f"about {count(verdict.n_needed, 'source' if verdict.n_sources else 'image')} needed")
    return ", ".join(told)


def acceptance(verdict: Verdict) -> str:
    """Return who accepted a waived result, until when and why, as one sentence."""
    waiver = verdict.waiver or {}
    return plain(f"waived, {accepted(waiver)}: {waiver['reason']}") if waiver else "waived"


def counted(report: Report) -> str:
    """Return what all rules came to, what was waived and how many sites are under a rule, as one line."""
    verdict, why = result(report, counts(standings(report)))
    results = sum(v.outcome is Outcome.WAIVED for v in report.verdicts)
    left_out = f"{count(results, 'waived result')} not listed" if results else ""
    return "; ".join(part for part in (f"{verdict}: {why}", left_out, coverage(report)) if part)
