"""What a run of pytest wrote, as tests read it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def junit(path: Path) -> dict[str, tuple[ET.Element, dict[str, str]]]:
    """The test cases of a JUnit file with their properties, by their names."""
    cases = ET.parse(path).getroot().iter("testcase")  # noqa: S314 - made by the test itself
    return {case.get("name"): (case, {p.get("name"): p.get("value") for p in case.iter("property")}) for case in cases}


def section(ran: pytest.RunResult, title: str) -> list[str]:
    """The lines between one title between ``=`` or ``_`` and the next."""
    titles = [i for i, line in enumerate(ran.outlines) if line[:3] in ("===", "___")]
    (start,) = [i for i in titles if ran.outlines[i].strip("=_ ") == title]
    return ran.outlines[start + 1 : min((i for i in titles if i > start), default=len(ran.outlines))]


def table(ran: pytest.RunResult) -> list[str]:
    """The rows of the summary table."""
    return section(ran, "audits, worst margins first")[2:]
