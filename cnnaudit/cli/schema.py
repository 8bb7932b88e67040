"""``cnnaudit schema``: the JSON Schema of rule files, for editors."""

from __future__ import annotations

import json

import click

__all__ = ["command"]


@click.command()
def command() -> None:
    """Print the JSON Schema of rule files; editors use it through a modeline."""
    from cnnaudit.metrics import vocabulary  # noqa: PLC0415 - pydantic is imported when it is needed, not for --help
    from cnnaudit.spec import json_schema  # noqa: PLC0415

    click.echo(json.dumps(json_schema(vocabulary()), indent=2))
