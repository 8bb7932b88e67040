"""SARIF 2.1.0 (OASIS), in the subset that GitHub's code scanning reads: one result for each rule that is not kept.

What GitHub reads and where its limits are:
https://docs.github.com/en/code-security/reference/code-scanning/sarif-files/sarif-support.
It reads a waived result as an open alert, so waived results are only counted, where they are not asked for.
"""

from __future__ import annotations

import gzip
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cnnaudit.report.findings import LEVELS, Finding, acceptance, counted, findings, message, relative, waived
from cnnaudit.report.standing import Standing, counts, standings
from cnnaudit.report.standing import waived as by_waiver
from cnnaudit.report.words import bound, count
from cnnaudit.result import Outcome, Report, Verdict
from cnnaudit.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["render"]

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_BYTES = 10 * 1000 * 1000  # of the file as gzip
_RESULTS = 25_000  # as many rules
_LOCATIONS = 1_000
_DESCRIPTION = 1_024
_MESSAGE = 16_000
_TAGS = 10
_PROBLEMS = {"error": "error", "warning": "warning", "note": "recommendation"}


def render(report: Report, *, include_suppressed: bool = False) -> str:
    """Return the report as SARIF.

    Args:
        report: What is rendered.
        include_suppressed: Write waived results, too, each with its ``suppressions``, and for all results whether they
            are new or were accepted (``baselineState``).
    """
    rules = standings(report)
    results = [_result(f, report) for f in findings(report)]
    if include_suppressed:
        results = [result | {"baselineState": "new"} for result in results]
        by_rule = {rule.rule: rule for rule in rules}
        results += [_suppressed(f, by_rule[f.rule], report) for f in waived(report)]
    kept = min(len(results), _RESULTS)
    text = _log(report, rules, results, kept)
    while kept and _too_large(text):
        kept //= 2
        text = _log(report, rules, results, kept)
    return text


def _too_large(text: str) -> bool:
    data = text.encode()
    return len(data) > _BYTES and len(gzip.compress(data)) > _BYTES


def _log(report: Report, rules: Sequence[Standing], results: Sequence[dict[str, Any]], kept: int) -> str:
    shown = results[:kept]
    named = {result["ruleId"] for result in shown}
    # Where not all rules can be told those with a result must be.
    told = sorted(rules, key=lambda rule: rule.rule not in named)[:_RESULTS] if len(rules) > _RESULTS else rules
    version = str(report.settings.get("cnnaudit", __version__))
    notes = [*report.notes, *([_left_out(len(results) - kept)] if kept < len(results) else []), counted(report)]
    run = {
        "tool": {
            "driver": {
                "name": "cnnaudit",
                "version": version,
                "semanticVersion": re.sub(r"^(\d+\.\d+\.\d+)\.?(?=[a-z])", r"\1-", version),
                "rules": [_rule(rule) for rule in told],
            }
        },
        "automationDetails": {"id": f"cnnaudit/{_model(report)}/"},
        "columnKind": "unicodeCodePoints",
        "invocations": [
            {
                "executionSuccessful": report.exit_code != 2,
                "exitCode": report.exit_code,
                "toolExecutionNotifications": [{"level": "note", "message": {"text": note}} for note in notes],
            }
        ],
        "results": shown,
        "properties": _properties(report, rules),
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _left_out(number: int) -> str:
    return f"{count(number, 'result')} left out: GitHub takes {_RESULTS:,} of them and a file of 10 MB."


def _model(report: Report) -> str:
    """The rule file and its model: what else an upload for the same commit may be about."""
    name = f"{relative(str(report.spec['path']))}-{report.model['source']}"
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")


def _properties(report: Report, rules: Sequence[Standing]) -> dict[str, Any]:
    """What a reader wants years later, and how many verdicts and rules came to what."""
    verdicts = [v.outcome for v in report.verdicts]
    judged = counts(rules)
    return {
        "verdicts": {str(outcome): verdicts.count(outcome) for outcome in Outcome},
        "rules": {str(outcome): judged[outcome] for outcome in Outcome},
        "sha256": {
            name: part["sha256"]
            for name, part in (("spec", report.spec), ("model", report.model), ("data", report.data))
            if part.get("sha256")
        },
        "coverage": dict(report.coverage),
        "gate": dict(report.gate),
    }


def _rule(rule: Standing) -> dict[str, Any]:
    first = rule.worst
    gravity = min((v.severity for v in rule.verdicts), key=LEVELS.index, default="note")
    metric, refs, why = (first.metric, first.refs, first.why) if first else ("", (), "")
    asks = _asks(first)
    explained = f"`cnnaudit explain {metric}` tells what is measured and what the number means." if metric else ""
    return {
        "id": rule.rule,
        "shortDescription": {"text": _cut(f"{rule.rule}: {asks}")},
        "fullDescription": {"text": _cut(why or asks)},
        "help": {
            "text": "\n".join(part for part in (why, asks) if part),
            "markdown": "\n\n".join(part for part in (why, asks, explained) if part),
        },
        "defaultConfiguration": {"level": gravity},
        "properties": {
            "tags": list(dict.fromkeys(filter(None, ("cnn", "information-flow", metric, *refs))))[:_TAGS],
            "precision": "high",
            "problem.severity": _PROBLEMS[gravity],
        },
    }


def _asks(verdict: Verdict | None) -> str:
    """What a rule demands: ``activity.dead max 0``."""
    if verdict is None:
        return "it was judged nowhere"
    if not verdict.metric:
        return verdict.detail or "it is decided beside the rules"
    return f"{verdict.metric}.{verdict.field} {bound(verdict) or 'is measured only'}"


def _cut(text: str) -> str:
    return text if len(text) <= _DESCRIPTION else text[: _DESCRIPTION - 4].rstrip() + " ..."


def _result(finding: Finding, report: Report) -> dict[str, Any]:
    return {
        "ruleId": finding.rule,
        "level": finding.level,
        "message": {"text": message(finding, report, _MESSAGE)},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": quote(finding.path, errors="surrogateescape")},
                    "region": {
                        "startLine": finding.line,
                        "startColumn": 1,
                        "endLine": finding.line,
                        "endColumn": 2,
                    },
                },
                "logicalLocations": [_logical(v) for v in finding.verdicts[:_LOCATIONS] if v.site],
            }
        ],
        "partialFingerprints": {
            # A line's hash and which of the results there it is: what upload-sarif would fill in is the same for all
            # rules of one line.
            "primaryLocationLineHash": f"{finding.fingerprint[:16]}:1",
            "cnnaudit/v1": finding.fingerprint,
        },
        "properties": {"outcome": str(finding.outcome)},
    }


def _logical(verdict: Verdict) -> dict[str, str]:
    return {"name": verdict.site, "fullyQualifiedName": verdict.place, "kind": verdict.op or "layer"}


def _suppressed(finding: Finding, rule: Standing, report: Report) -> dict[str, Any]:
    accepted = [mine[0] for mine in by_waiver(rule)]
    return _result(finding, report) | {
        "baselineState": "unchanged",
        "suppressions": [
            {"kind": "external", "status": "accepted", "justification": acceptance(verdict)} for verdict in accepted
        ],
    }
