"""``cnnaudit validate``: lint rule files without torch, model or data."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command(short_help="List every mistake in rule files.")
@click.argument("specs", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.pass_context
def command(ctx: click.Context, specs: tuple[str, ...]) -> None:
    """List every mistake in the rule files SPECS, each as file:line:column: message."""
    from cnnaudit.errors import SpecError  # noqa: PLC0415 - pydantic is imported when it is needed, not for --help
    from cnnaudit.metrics import vocabulary  # noqa: PLC0415
    from cnnaudit.spec import load  # noqa: PLC0415

    known, wrong = vocabulary(), False
    for path in specs:
        try:
            spec = load(path, known)
        except SpecError as error:
            wrong = True
            click.echo(str(error))
        else:
            taken = sum(bool(rule.pack) for rule in spec.rules)
            told = f" ({taken} taken over from {', '.join(base.name for base in spec.extends)})" if taken else ""
            click.echo(f"{path}: {len(spec.rules)} rules{told}, no mistakes")
    ctx.exit(2 if wrong else 0)
