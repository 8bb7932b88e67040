"""``cnnaudit judge``: decide again from what was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from cnnaudit.cli._gate import deciding, write
from cnnaudit.cli._settings import Configured, resolved

__all__ = ["command"]


@click.command(cls=Configured, short_help="Judge stored evidence, with no model and no data.")
@click.argument(
    "evidence", nargs=-1, required=True, metavar="EVIDENCE...", type=click.Path(exists=True, dir_okay=False)
)
@click.option(
    "--spec",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Edited rules. Default: those that the evidence was made for.",
)
@deciding
@click.pass_context
def command(
    ctx: click.Context,
    /,
    evidence: tuple[str, ...],
    spec: str | None,
    *,
    targets: list[tuple[str, str]],
    sarif_include_suppressed: bool,
    **wanted: Any,
) -> None:
    """Judge what `cnnaudit check --evidence` stored: EVIDENCE of one audit, or of all its parts.

    Nothing that a rule file names is opened but the rules that it extends. Every bound that is not as it was is told.
    """
    from cnnaudit import evidence as stored  # noqa: PLC0415 - torch is imported when it is needed, not for --help
    from cnnaudit.gate.decision import Gate  # noqa: PLC0415

    gate = Gate.open(**wanted)
    report = stored.judge(evidence, spec)
    report = gate.applied(replace(report, settings={**report.settings, "resolved": resolved(ctx)}))
    write(report, targets or [("text", "")], suppressed=sarif_include_suppressed)
    ctx.exit(report.exit_code)
