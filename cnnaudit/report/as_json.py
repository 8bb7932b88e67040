"""The report itself: the form from which every other can be rendered."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnaudit.result import Report

__all__ = ["render"]


def render(report: Report) -> str:
    """Return the report as JSON."""
    return report.to_json() + "\n"
