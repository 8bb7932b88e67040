"""Rules for how information flows through a trained CNN, decided by intervals.

Names are resolved when they are first used: ``import cnnaudit`` imports neither torch nor pydantic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnnaudit.errors import (
    CnnAuditError,
    EvidenceError,
    GraphError,
    LoadError,
    MetricError,
    SpecError,
    UndecidedError,
)
from cnnaudit.version import __version__

if TYPE_CHECKING:
    from cnnaudit.flow import Flow, profile
    from cnnaudit.gate.decision import apply_gate
    from cnnaudit.measurement import measure
    from cnnaudit.pipeline import audit
    from cnnaudit.report import render
    from cnnaudit.result import Estimate, Outcome, Report, Verdict

__all__ = [
    "CnnAuditError",
    "Estimate",
    "EvidenceError",
    "Flow",
    "GraphError",
    "LoadError",
    "MetricError",
    "Outcome",
    "Report",
    "SpecError",
    "UndecidedError",
    "Verdict",
    "__version__",
    "apply_gate",
    "audit",
    "measure",
    "profile",
    "render",
]

_HOMES = {
    "Estimate": "result",
    "Flow": "flow",
    "Outcome": "result",
    "Report": "result",
    "Verdict": "result",
    "apply_gate": "gate.decision",
    "audit": "pipeline",
    "measure": "measurement",
    "profile": "flow",
    "render": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cnnaudit' has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - the first use of a name pays for its imports, not the package

    return getattr(importlib.import_module(f"cnnaudit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
