"""``cnnaudit schema``: the JSON Schema of rule files, or of files of waivers, for editors."""

from __future__ import annotations

import json

import click

__all__ = ["command"]


@click.command(short_help="Print the JSON Schema of rule files or waivers.")
@click.argument("what", type=click.Choice(["rules", "waivers"]), default="rules")
def command(what: str) -> None:
    """Print the JSON Schema of rule files, or of files of waivers; editors use it through a modeline."""
    if what == "waivers":
        from cnnaudit.gate.waiver_file import json_schema as of_waivers  # noqa: PLC0415 - pydantic, not for --help

        click.echo(json.dumps(of_waivers(), indent=2))
        return
    from cnnaudit.metrics import vocabulary  # noqa: PLC0415
    from cnnaudit.spec import json_schema  # noqa: PLC0415

    click.echo(json.dumps(json_schema(vocabulary()), indent=2))
