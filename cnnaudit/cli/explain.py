"""``cnnaudit explain``: what can be measured, what it means, and which rules packs hold."""

from __future__ import annotations

from textwrap import fill, indent
from typing import TYPE_CHECKING, Any

import click

from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from cnnaudit.metrics import Metric
    from cnnaudit.spec import Rule, Vocabulary

__all__ = ["command", "pack", "story"]


@click.command(short_help="Tell what can be measured, and what it means.")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List all metrics and packs, or tell the whole story of the metric or pack NAME."""
    from cnnaudit.metrics import registry, vocabulary  # noqa: PLC0415 - pydantic is imported when it is needed, not for --help
    from cnnaudit.spec import packs  # noqa: PLC0415

    if name is None:
        click.echo("\n\n".join(_entry(metric) for metric in registry().values()))
        known = packs()
        click.echo(
            "\nCost: weights reads no image; light adds little to a forward pass, medium some tenths, heavy more "
            "than that, or seconds a site at the end.\n`cnnaudit explain NAME` tells the whole story of one of them."
            f"\n\nPacks of rules, for `extends:`: {', '.join(known)}. `cnnaudit explain {known[0]}` tells its rules."
            "\n`cnnaudit profile MODEL --data DATA` measures a network without any rules."
        )
        return
    if ":" in name:
        click.echo(pack(name))
        return
    entry, _ = vocabulary().find(name)
    click.echo(story(registry()[entry.name]))


def pack(name: str) -> str:
    """Return the rules of a pack with what they are there for."""
    from cnnaudit.metrics import vocabulary  # noqa: PLC0415 - see above
    from cnnaudit.spec import from_mapping, packs  # noqa: PLC0415
    from cnnaudit.spec.messages import did_you_mean, quoted  # noqa: PLC0415

    if name not in packs():
        raise LoadError(
            f"no pack is called {quoted(name)}{did_you_mean(name, packs()) or ';'} there are {', '.join(packs())}"
        )
    known = vocabulary()
    spec = from_mapping({"cnnaudit": 1, "extends": name}, known)
    base = spec.extends[-1]
    about = fill(f"{base.name}, version {base.version}: {base.about}", 100)
    return "\n\n".join([about, *(_rule(rule, known) for rule in spec.rules)])


def _rule(rule: Rule, known: Vocabulary) -> str:
    bounds = " and ".join(f"{side} {bound:g}" for side, bound in rule.bounds.items())
    usual = known.metrics[rule.metric].params().model_dump()
    told = [
        f"{rule.metric}.{rule.field}",
        f"{bounds} ({rule.severity})" if bounds else "measured, not judged",
        *([f"op {rule.op}"] if rule.op else []),
        *([f"at {' or '.join(rule.at)}"] if rule.at != ("**",) else []),
        *([f"of the {rule.estimand}"] if rule.estimand else []),
        *(f"{key} {value}" for key, value in rule.params.items() if value != usual[key]),
    ]
    why = fill(rule.why, 100, initial_indent="  ", subsequent_indent="  ")
    return f"{rule.id}: {', '.join(told)}\n{why}"


def _entry(metric: Metric) -> str:
    """A metric in the list of all: what it is, where, at which price, then its fields."""
    from tabulate import tabulate  # noqa: PLC0415 - see above

    rows = [[f"{metric.name}.{name}", field.unit, field.summary] for name, field in metric.fields.items()]
    told = f"at {_places(metric)}; needs {metric.needs}; cost {metric.cost_class}; interval: {metric.interval}"
    fields = tabulate(rows, tablefmt="plain", disable_numparse=True)
    return f"{metric.name}: {metric.summary}\n{indent(told, '  ')}\n{indent(fields, '    ')}"


def _places(metric: Metric) -> str:
    return ", ".join(metric.at) + (", or a pair of sites" if metric.of_pairs else "")


def story(metric: Metric) -> str:
    """Return everything there is to say about a metric."""
    from tabulate import tabulate  # noqa: PLC0415 - see above

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
