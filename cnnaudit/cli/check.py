"""``cnnaudit check``: the main job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnnaudit.cli._options import running
from cnnaudit.errors import LoadError
from cnnaudit.report import formats, render

if TYPE_CHECKING:
    from cnnaudit.result import Report

__all__ = ["command"]


def _parsed(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, str]]:  # noqa: ARG001
    targets = [(name, path) for name, _, path in (value.partition("=") for value in values)]
    for name, path in targets:
        if name not in formats():
            raise click.BadParameter(f"there is no format {name!r}; there are {', '.join(formats())}")
        if path and (Path(path).is_dir() or not Path(path).parent.is_dir()):
            raise click.BadParameter(f"{path} cannot be written: there is no such folder, or it is one itself")
    if sum(not path for _, path in targets) > 1:
        raise click.BadParameter("only one format can go to stdout: give the others a path")
    return targets


@click.command(short_help="Judge a network by a rule file.")
@click.argument("spec", type=click.Path(exists=True, dir_okay=False))
@click.option("--dry-run", is_flag=True, help="List sites, rules, memory and images needed; read one block only.")
@click.option(
    "--format",
    "targets",
    multiple=True,
    metavar="NAME[=PATH]",
    callback=_parsed,
    help=f"Report format, repeatable: {', '.join(formats())}. Without a path it goes to stdout. Default: text.",
)
@running
@click.pass_context
def command(
    ctx: click.Context,
    /,
    spec: str,
    *,
    dry_run: bool,
    targets: list[tuple[str, str]],
    **options: Any,
) -> None:
    """Judge the network that SPEC names by SPEC's rules.

    `cnnaudit profile` measures a network without any.
    """
    from cnnaudit import pipeline  # noqa: PLC0415 - torch is imported when it is needed, not for --help

    if dry_run:
        prepared = pipeline.prepare(spec, **options)
        from cnnaudit.cli._dry_run import describe  # noqa: PLC0415

        click.echo(describe(prepared))
        ctx.exit(2 if prepared.plan.absent_errors else 0)
    report = pipeline.audit(spec, progress=sys.stderr.isatty(), **options)
    _write(report, targets or [("text", "")])
    ctx.exit(report.exit_code)


def _write(report: Report, targets: list[tuple[str, str]]) -> None:
    if all(path for _, path in targets):
        click.echo(render(report, "text"), nl=False)
    for name, path in targets:
        text = render(report, name)
        if not path:
            click.echo(text, nl=False)
            continue
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise LoadError(f"the report cannot be written to {path}: {error.strerror}") from error
