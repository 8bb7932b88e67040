"""JUnit XML: a test suite for the audit, a test case for each rule and site.

A test case fails where the exit code of the audit says so. What is wrong and does not decide it, and what was waived or
does not apply, is a skipped one: it stays visible.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from cnnaudit.report.findings import acceptance, counted, level, line, placed, relative, spot
from cnnaudit.report.reproducing import facts
from cnnaudit.report.standing import LOUD
from cnnaudit.report.words import OUTCOMES, coverage, images
from cnnaudit.result import Outcome, Report, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["render"]

# What XML 1.0 cannot hold, and the carriage return, which every parser takes for a new line.
_UNPRINTABLE = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(report: Report) -> str:
    """Return the report as JUnit XML."""
    cases = [_case(verdict, report) for verdict in report.verdicts]
    tags = Counter(child.tag for case in cases for child in case)
    if not (report.passed or tags["failure"] or tags["error"]):
        cases.append(_nothing_judged(report))
        tags["error"] += 1
    counts = {
        "tests": len(cases),
        "failures": tags["failure"],
        "errors": tags["error"],
        "skipped": tags["skipped"],
    }
    suite = _element("testsuite", name=relative(str(report.spec["path"])), **counts)
    properties = ET.SubElement(suite, "properties")
    properties.extend(_element("property", name=f"cnnaudit.{name}", value=value) for name, value in _properties(report))
    suite.extend(cases)
    if report.notes:
        ET.SubElement(suite, "system-out").text = _clean("\n".join(report.notes))
    root = _element("testsuites", name="cnnaudit", **counts)
    root.append(suite)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _element(tag: str, **attributes: object) -> ET.Element:
    return ET.Element(tag, {name: _clean(str(value)) for name, value in attributes.items()})


def _clean(text: str) -> str:
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _properties(report: Report) -> Iterator[tuple[str, object]]:
    for name, told in facts(report).items():
        yield name.replace(" ", "_"), told
    yield "exit_code", report.exit_code
    verdicts = Counter(v.outcome for v in report.verdicts)
    for outcome in Outcome:
        yield f"verdicts.{outcome}", verdicts[outcome]
    if report.coverage:
        yield "coverage", coverage(report)


def _case(verdict: Verdict, report: Report) -> ET.Element:
    file, at = placed(report, verdict)
    place = spot(verdict, report)
    name = f"{verdict.rule} at {place}" if place else verdict.rule
    case = _element("testcase", classname=file, name=name, file=file, line=at)
    told = _clean("\n".join(_told(verdict, report)))
    if (found := _found(verdict, report)) is not None:
        found.text = told
        case.append(found)
    elif verdict.value is not None or verdict.detail:
        ET.SubElement(case, "system-out").text = told
    return case


def _nothing_judged(report: Report) -> ET.Element:
    """What fails an audit of which no verdict says why: it has judged nothing."""
    file = relative(str(report.spec["path"]))
    case = _element("testcase", classname=file, name="cnnaudit:nothing-judged", file=file, line=1)
    case.append(_element("error", type=Outcome.ERROR, message=f"nothing was judged: {counted(report)}"))
    return case


def _found(verdict: Verdict, report: Report) -> ET.Element | None:
    """What is told of a test that has not simply passed; its type is the outcome."""
    outcome = verdict.outcome
    if outcome is Outcome.WAIVED:
        return _element("skipped", type=outcome, message=acceptance(verdict))
    if outcome is Outcome.NOT_APPLICABLE:
        return _element("skipped", type=outcome, message=verdict.detail or OUTCOMES[outcome])
    if outcome not in LOUD:
        return None
    where = f"{report.where(verdict)}: "
    gravity, told = level(verdict, report), f"{where}{verdict.rule}: {line(verdict, report).removeprefix(where)}"
    if gravity != "error":
        told = f"{OUTCOMES[outcome]}, decides nothing ({gravity}): {told}"
        return _element("skipped", type=outcome, message=told)
    return _element("error" if outcome is Outcome.ERROR else "failure", type=outcome, message=told)


def _told(verdict: Verdict, report: Report) -> Iterator[str]:
    if verdict.site or verdict.value is not None:
        yield line(verdict, report)
    if verdict.n_images:
        yield f"images: {images(verdict, report)}"
    yield from dict.fromkeys(text for text in (verdict.why, verdict.detail, verdict.advice) if text)
