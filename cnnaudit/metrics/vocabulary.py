"""What rule files may say of the metrics there are."""

from __future__ import annotations

from cnnaudit.metrics.base import Metric, registry
from cnnaudit.spec.vocabulary import MetricEntry, Vocabulary

__all__ = ["vocabulary"]


def vocabulary() -> Vocabulary:
    """Return every metric as rule files know it."""
    return Vocabulary({name: _entry(metric) for name, metric in registry().items()})


def _entry(metric: Metric) -> MetricEntry:
    return MetricEntry(
        name=metric.name,
        fields=tuple(metric.fields),
        ops=frozenset(str(op) for op in metric.at),
        params=metric.params,
        summary=metric.summary,
        dataset_fields=frozenset(name for name, field in metric.fields.items() if field.exact),
        of_pairs=metric.of_pairs,
        beside={name: field.beside for name, field in metric.fields.items() if field.beside},
    )
