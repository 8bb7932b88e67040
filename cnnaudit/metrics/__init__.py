"""One metric a file; adding a file adds a metric."""

from cnnaudit.metrics.base import Field, Gate, Metric, Need, metric, numbers, registry
from cnnaudit.metrics.vocabulary import vocabulary

__all__ = ["Field", "Gate", "Metric", "Need", "metric", "numbers", "registry", "vocabulary"]
