"""``cnnaudit explain``: what can be measured, and what it means."""

from __future__ import annotations

from textwrap import indent
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
        click.echo("\n\n".join(_entry(metric) for metric in registry().values()))
        click.echo(
            "\nCost: weights reads no image; light adds little to a forward pass, medium some tenths, heavy more "
            "than that, or seconds a site at the end.\n`cnnaudit explain NAME` tells the whole story of one of them."
        )
        return
    entry, _ = vocabulary().find(name)
    click.echo(story(registry()[entry.name]))


def _entry(metric: Metric) -> str:
    """A metric in the list of all: what it is, where, at which price, then its fields."""
    rows = [[f"{metric.name}.{name}", field.unit, field.summary] for name, field in metric.fields.items()]
    told = f"at {_places(metric)}; needs {metric.needs}; cost {metric.cost_class}; interval: {metric.interval}"
    fields = tabulate(rows, tablefmt="plain", disable_numparse=True)
    return f"{metric.name}: {metric.summary}\n{indent(told, '  ')}\n{indent(fields, '    ')}"


def _places(metric: Metric) -> str:
    return ", ".join(metric.at) + (", or a pair of sites" if metric.of_pairs else "")


def story(metric: Metric) -> str:
    """Return everything there is to say about a metric."""
    rows = [[name, field.unit, field.better, field.summary] for name, field in metric.fields.items()]
    properties = metric.params.model_json_schema()["properties"]
    params = [[name, _default(shape), _type(shape)] for name, shape in properties.items()]
    parts = [
        f"{metric.name} (version {metric.version}{_identity(metric)})",
        metric.doc,
        tabulate(rows, headers=["field", "unit", "healthier", "what it is"], tablefmt="simple"),
        tabulate(params, headers=["parameter", "default", "type"], tablefmt="simple") if params else "No parameters.",
        f"Measured at: {_places(metric)} ({', '.join(metric.taps)}). Needs: {metric.needs}.\n"
        f"Interval: {metric.interval}.\nCost: {metric.cost}.",
    ]
    return "\n\n".join(parts)


def _identity(metric: Metric) -> str:
    return f"; its {', '.join(metric.identity)} is part of what it is" if metric.identity else ""


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
