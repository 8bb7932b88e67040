"""GitHub Actions: workflow commands that become annotations, and the summary of the job.

The commands are those of
https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands.
A step may have ten annotations of each kind, of 4,096 characters each; the runner drops the rest without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.report import as_markdown
from cnnaudit.report.findings import LEVELS, Finding, counted, findings, message
from cnnaudit.report.words import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cnnaudit.result import Report

__all__ = ["render", "summary"]

_COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}
_ANNOTATIONS = 10
_MESSAGE = 4_096
_SUMMARY = 1_024 * 1_024


def render(report: Report) -> str:
    """Return one annotation for each rule that is not kept, at most ten of each kind, and one that counts all rules.

    Where there are more the tenth names the others.
    """
    found = findings(report)
    lines = [text for kind in LEVELS for text in _annotations([f for f in found if f.level == kind], report)]
    # Where nothing was judged, no finding says why the audit has not passed.
    command = "notice" if report.passed or any(f.level == "error" for f in found) else "error"
    return "\n".join([*lines, _command(command, counted(report), {"title": "cnnaudit"})]) + "\n"


def _annotations(found: Sequence[Finding], report: Report) -> Iterator[str]:
    if not found:
        return
    command = _COMMANDS[found[0].level]
    most = _ANNOTATIONS - (command == "notice")  # one is the counts'
    shown = found if len(found) <= most else found[: most - 1]
    for finding in shown:
        properties = {"file": finding.path, "line": str(finding.line), "title": plain(finding.rule)}
        yield _command(command, message(finding, report, _MESSAGE), properties)
    if rest := found[len(shown) :]:
        told = f"and {len(rest)} more, see the job summary: {', '.join(plain(f.rule) for f in rest)}"
        yield _command(command, told[:_MESSAGE], {"title": f"{len(rest)} more"})


def _command(name: str, text: str, properties: Mapping[str, str]) -> str:
    told = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name} {told}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def summary(report: Report) -> str:
    """Return the report for the file that ``$GITHUB_STEP_SUMMARY`` names: Markdown of at most 1 MiB, in whole lines.

    GitHub refuses a summary that is larger.
    """
    text = as_markdown.render(report)
    if len(text.encode()) <= _SUMMARY:
        return text
    note = "\n_The rest is left out: a job summary may have 1 MiB. The whole report is in the other formats._\n"
    room = _SUMMARY - len(note.encode())
    kept = text.encode()[:room].decode(errors="ignore")
    return kept[: kept.rfind("\n") + 1] + note
