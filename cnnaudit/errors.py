"""What can go wrong, as one tree.

::

    CnnAuditError            the audit could not be carried out; the command line exits with 2
    ├── SpecError            the YAML is wrong: every problem at once, each with file:line:column
    ├── LoadError            a model, its weights or the data could not be opened, or may not be
    ├── GraphError           the model could not be captured, or its capture computes something else
    ├── MetricError          a metric was asked for something it does not measure
    ├── EvidenceError        stored statistics do not belong together
    └── UndecidedError       an assertion in Python that these images neither keep nor break

A rule that is broken is not an error: it is a verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "CnnAuditError",
    "EvidenceError",
    "GraphError",
    "LoadError",
    "MetricError",
    "Problem",
    "SpecError",
    "UndecidedError",
]


class CnnAuditError(Exception):
    """The audit could not be carried out."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a rule file; line and column count from 1, 0 means the file as a whole."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.message}"


class SpecError(CnnAuditError):
    """A rule file has mistakes; ``problems`` holds all of them in the order of their lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p.line, p.column)))
        super().__init__("\n".join(map(str, self.problems)))


class LoadError(CnnAuditError):
    """A model, its weights or the data could not be opened, or may not be."""


class GraphError(CnnAuditError):
    """A model could not be captured as a graph, or the captured graph computes something else."""


class MetricError(CnnAuditError):
    """A metric was asked for something it does not measure."""


class EvidenceError(CnnAuditError):
    """Stored statistics do not belong together."""


class UndecidedError(CnnAuditError):
    """An assertion in Python asks for more than these images tell; the message says how many would."""
