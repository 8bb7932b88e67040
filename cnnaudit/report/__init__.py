"""One format a file: Report -> str. A module ``as_NAME`` with a function ``render`` is the format NAME."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnaudit.result import Report

__all__ = ["formats", "render"]


def formats() -> tuple[str, ...]:
    """Return the names of all formats."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name.removeprefix("as_") for name in names if name.startswith("as_")))


def render(report: Report, name: str, **options: Any) -> str:
    """Return a report in one of the formats.

    Args:
        report: What is rendered.
        name: One of :func:`formats`.
        options: What the format can be told, such as ``include_suppressed`` for ``sarif``.
    """
    text: str = importlib.import_module(f"cnnaudit.report.as_{name}").render(report, **options)
    return text
