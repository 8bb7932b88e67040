"""``cnnaudit explain``: what can be measured, and what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from tabulate import tabulate

if TYPE_CHECKING:
    from cnnaudit.metrics import Metric

__all__ = ["command", "story"]


@click.command()
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List all metrics, or tell the whole story of metric NAME."""
    from cnnaudit.metrics import registry, vocabulary  # noqa: PLC0415 - pydantic is imported when it is needed, not for --help

    if name is None:
        rows = [_row(metric) for metric in registry().values()]
        click.echo(tabulate(rows, headers=["metric.field", "unit", "at", "labels", "what it is"], tablefmt="simple"))
        click.echo("\n`cnnaudit explain NAME` tells the whole story of one of them.")
        return
    entry, _ = vocabulary().find(name)
    click.echo(story(registry()[entry.name]))


def _row(metric: Metric) -> list[str]:
    names = [f"{metric.name}.{field}" for field in metric.fields]
    units = [field.unit for field in metric.fields.values()]
    told = [field.summary for field in metric.fields.values()]
    ops = ", ".join(metric.at)
    return ["\n".join(names), "\n".join(units), ops, "yes" if metric.labels else "no", "\n".join(told)]


def story(metric: Metric) -> str:
    """Return everything there is to say about a metric."""
    rows = [[name, field.unit, field.better, field.summary] for name, field in metric.fields.items()]
    properties = metric.params.model_json_schema()["properties"]
    params = [[name, _default(shape), _type(shape)] for name, shape in properties.items()]
    parts = [
        f"{metric.name} (version {metric.version})",
        metric.doc,
        tabulate(rows, headers=["field", "unit", "healthier", "what it is"], tablefmt="simple"),
        tabulate(params, headers=["parameter", "default", "type"], tablefmt="simple") if params else "No parameters.",
        f"Measured at: {', '.join(metric.at)} (tap {', '.join(metric.taps)}). "
        f"Labels: {'needed' if metric.labels else 'not needed'}.\n"
        f"Interval: {metric.interval}.\nCost: {metric.cost}.",
    ]
    return "\n\n".join(parts)


def _default(shape: dict[str, Any]) -> str:
    return "chosen for the site" if shape.get("default") is None else str(shape["default"])


def _type(shape: dict[str, Any]) -> str:
    """A JSON Schema in words."""
    if "anyOf" in shape:
        return " or ".join(_type(part) for part in shape["anyOf"] if part.get("type") != "null")
    if "enum" in shape:
        return " or ".join(map(str, shape["enum"]))
    limits = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
    told = [f"{sign} {shape[key]:g}" for key, sign in limits if key in shape]
    return " ".join([str(shape.get("type", "value")), ", ".join(told)]).rstrip()
