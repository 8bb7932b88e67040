"""What rules may say about metrics, given by whoever knows the metrics."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cnnaudit.errors import MetricError
from cnnaudit.spec.messages import did_you_mean, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pydantic

__all__ = ["MetricEntry", "Vocabulary"]


@dataclass(frozen=True)
class MetricEntry:
    """One metric, as far as a rule can name it.

    Attributes:
        name: Its name, without a dot.
        fields: What it returns; the first is meant where a rule names none.
        ops: The ops it is for: ``"conv"``, ``"pool"``, ...
        params: A pydantic model of its keyword parameters with their defaults; unknown names refused.
        summary: One line for editors and lists.
        dataset_fields: Fields for which a rule may ask for ``estimand: dataset``.
        better: Fields of which ``higher`` or ``lower`` values are healthier -> which.
        beside: Fields that a rule may only bound where another rule of the file bounds another field -> that field.
        of_pairs: Whether it compares two sites, so that a rule may say ``at: {from: ..., to: ...}``.
    """

    name: str
    fields: tuple[str, ...]
    ops: frozenset[str]
    params: type[pydantic.BaseModel]
    summary: str
    dataset_fields: frozenset[str] = frozenset()
    of_pairs: bool = False
    beside: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    better: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def spellings(self) -> dict[str, str]:
        """Every way a rule may write the metric -> the field that is meant."""
        return {self.name: self.fields[0]} | {f"{self.name}.{field}": field for field in self.fields}


@dataclass(frozen=True)
class Vocabulary:
    """All metrics, by name."""

    metrics: Mapping[str, MetricEntry]

    @cached_property
    def spellings(self) -> tuple[str, ...]:
        """Every way a rule may write a metric: ``name`` and ``name.field``."""
        return tuple(spelling for entry in self.metrics.values() for spelling in entry.spellings)

    def find(self, written: str) -> tuple[MetricEntry, str]:
        """The metric and the field that ``name`` or ``name.field`` means.

        Raises:
            MetricError: There is no such metric, or it has no such field; the message names the nearest.
        """
        name, _, field = written.partition(".")
        entry = self.metrics.get(name)
        if entry is None:
            # "dead" alone is a field, "activty.dead" a slip in the name: both are near to a full spelling.
            homes = [spelling for spelling in self.spellings if spelling.endswith(f".{written}")]
            hint = f"; did you mean {homes[0]!r}?" if homes else did_you_mean(written, self.spellings)
            raise MetricError(f"no metric is called {quoted(written)}{hint or ';'} see `cnnaudit explain` for all")
        if written not in entry.spellings:
            hint = did_you_mean(field, entry.fields) or ";"
            raise MetricError(f"{name} has no field {quoted(field)}{hint} its fields are {', '.join(entry.fields)}")
        return entry, entry.spellings[written]
