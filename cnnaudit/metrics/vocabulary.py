"""What rule files may say of the metrics there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from cnnaudit.metrics.base import registry
from cnnaudit.spec.vocabulary import MetricEntry, Vocabulary

__all__ = ["vocabulary"]


def vocabulary() -> Vocabulary:
    """Return every metric as rule files know it."""
    return Vocabulary(_Entries())


class _Entries(Mapping[str, MetricEntry]):
    """Entries that are made when a rule names them: the models of all metrics' parameters take longer than a lint."""

    def __getitem__(self, name: str) -> MetricEntry:
        return _entry(name)

    def __iter__(self) -> Iterator[str]:
        return iter(registry())

    def __len__(self) -> int:
        return len(registry())


@cache
def _entry(name: str) -> MetricEntry:
    metric = registry()[name]
    return MetricEntry(
        name=metric.name,
        fields=tuple(metric.fields),
        ops=frozenset(str(op) for op in metric.at),
        params=metric.params,
        summary=metric.summary,
        dataset_fields=frozenset(name for name, field in metric.fields.items() if field.exact),
        of_pairs=metric.of_pairs,
        beside={name: field.beside for name, field in metric.fields.items() if field.beside},
        better={name: field.better for name, field in metric.fields.items() if field.better},
    )
