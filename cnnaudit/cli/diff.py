"""``cnnaudit diff``: what changed between two reports."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command(short_help="Show what changed between two reports.")
@click.argument("a", type=click.Path(exists=True, dir_okay=False))
@click.argument("b", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--format", "name", type=click.Choice(["text", "json", "markdown"]), default="text", help="Default: text."
)
@click.option("--all", "everything", is_flag=True, help="List the verdicts that did not change as well.")
def command(a: str, b: str, *, name: str, everything: bool) -> None:
    """Show what changed from report A to report B (`cnnaudit check --format json=PATH`), the worst first.

    The exit code is 0 whatever differs: to fail on a regression, give A to `cnnaudit check --baseline`.
    """
    from cnnaudit.cli._changes import FORMATS  # noqa: PLC0415 - numpy is imported when it is needed, not for --help
    from cnnaudit.gate.baseline import read  # noqa: PLC0415
    from cnnaudit.gate.changes import changes  # noqa: PLC0415

    found = changes(read(a).report, read(b).report)
    click.echo(FORMATS[name](found, (a, b), everything=everything), nl=False)
