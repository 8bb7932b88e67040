"""GitLab Code Quality: a JSON array with one entry for each rule that is not kept.

Its fields are those of https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from cnnaudit.report.findings import Finding, counted, findings, message, relative, waived
from cnnaudit.result import Outcome

if TYPE_CHECKING:
    from cnnaudit.result import Report

__all__ = ["render"]

_MOST = 8_000
_SEVERITIES = {"error": "critical", "warning": "minor", "note": "info"}


def render(report: Report) -> str:
    """Return the report for ``artifacts:reports:codequality``.

    Waived results are counted in an entry of their own, of severity ``info``, and not listed.
    """
    entries = [_entry(f, message(f, report, _MOST), _severity(f)) for f in findings(report)]
    if not (report.passed or any(entry["severity"] in ("blocker", "critical") for entry in entries)):
        entries.append(_nothing_judged(report))
    if accepted := waived(report):
        entries.append(_entry(accepted[0], counted(report), "info") | {"check_name": "cnnaudit:waived"})
    return json.dumps(entries, indent=2) + "\n"


def _severity(finding: Finding) -> str:
    return "blocker" if finding.outcome is Outcome.ERROR else _SEVERITIES[finding.level]


def _nothing_judged(report: Report) -> dict[str, Any]:
    """What an audit has that judged nothing: no finding says why it has not passed."""
    path = relative(str(report.spec["path"]))
    return {
        "description": f"nothing was judged: {counted(report)}",
        "check_name": "cnnaudit:nothing-judged",
        "fingerprint": hashlib.sha256(f"nothing-judged {path} {report.model['source']}".encode()).hexdigest(),
        "severity": "blocker",
        "location": {"path": path, "lines": {"begin": 1}},
    }


def _entry(finding: Finding, description: str, severity: str) -> dict[str, Any]:
    return {
        "description": description,
        "check_name": finding.rule,
        "fingerprint": finding.fingerprint,
        "severity": severity,
        "location": {"path": finding.path, "lines": {"begin": finding.line}},
    }
