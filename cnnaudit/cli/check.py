"""``cnnaudit check``: the main job."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnnaudit.cli._gate import deciding, writable, write
from cnnaudit.cli._options import running
from cnnaudit.cli._settings import Configured, resolved
from cnnaudit.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cnnaudit.gate.decision import Gate
    from cnnaudit.result import Report

__all__ = ["command"]


def _shard(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, int] | None:  # noqa: ARG001
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,3})/([1-9][0-9]{0,3})", text)
    if found is None or int(found[1]) > int(found[2]):
        raise click.BadParameter(f"{text} is not I/N, such as 2/8 for the second of eight")
    return (int(found[1]), int(found[2])) if int(found[2]) > 1 else None


def _target(ctx: click.Context, param: click.Parameter, path: str | None) -> str | None:  # noqa: ARG001
    return None if path is None else writable(path)


@click.command(cls=Configured, short_help="Judge a network by a rule file.")
@click.argument("spec", type=click.Path(exists=True, dir_okay=False))
@click.option("--dry-run", is_flag=True, help="List sites, rules, memory and images needed; read one block only.")
@deciding
@click.option(
    "--update-baseline", is_flag=True, help="Where everything passed, make this run the accepted one: write --baseline."
)
@click.option(
    "--tighten", is_flag=True, help="With --update-baseline: tighten the rule file's bounds to what was reached."
)
@click.option(
    "--evidence",
    metavar="FILE",
    callback=_target,
    help="Store all that was measured, so that `cnnaudit judge` can decide again without model and data.",
)
@click.option(
    "--shard",
    metavar="I/N",
    callback=_shard,
    help="Measure one of N parts of the images into --evidence; `cnnaudit judge` joins the parts.",
)
@running
@click.pass_context
def command(ctx: click.Context, /, spec: str, *, dry_run: bool, **options: Any) -> None:
    """Judge the network that SPEC names by SPEC's rules.

    `cnnaudit profile` measures a network without any.
    """
    _require(options)
    if dry_run:
        from cnnaudit import pipeline  # noqa: PLC0415 - torch is imported when it is needed, not for --help
        from cnnaudit.cli._dry_run import describe  # noqa: PLC0415

        prepared = pipeline.prepare(spec, **_running(options))
        click.echo(describe(prepared))
        ctx.exit(2 if prepared.plan.absent_errors else 0)
    ctx.exit(_check(spec, resolved(ctx), **options))


_GATE = ("baseline", "waivers", "ignore_waivers", "coverage", "as_of")
_OUTPUT = ("targets", "sarif_include_suppressed", "update_baseline", "tighten", "evidence", "shard")


def _running(options: dict[str, Any]) -> dict[str, Any]:
    """The options that say how the network is run."""
    return {name: value for name, value in options.items() if name not in {*_GATE, *_OUTPUT}}


def _require(options: dict[str, Any]) -> None:
    """Refuse options that mean nothing without another one."""
    for name, needed in (("update_baseline", "baseline"), ("tighten", "update_baseline"), ("shard", "evidence")):
        if options[name] and not options[needed]:
            told, wanted = (f"--{option.replace('_', '-')}" for option in (name, needed))
            raise click.UsageError(f"{told} needs {wanted}: add it")
    path = options["baseline"]
    if path is not None and not options["update_baseline"] and not Path(path).is_file():
        raise click.UsageError(f"--baseline: there is no file {path}: record one with --update-baseline")


def _check(spec: str, settings: Mapping[str, Any], **options: Any) -> int:
    from cnnaudit import pipeline  # noqa: PLC0415 - see above
    from cnnaudit.gate.decision import Gate  # noqa: PLC0415

    wanted = {name: options[name] for name in _GATE}
    if options["update_baseline"] and not Path(options["baseline"]).exists():
        wanted["baseline"] = None
    gate = Gate.open(**wanted)
    measured = {name: options[name] for name in ("evidence", "shard") if options[name] is not None}
    report = pipeline.audit(spec, progress=sys.stderr.isatty(), **measured, **_running(options))
    report = replace(report, settings={**report.settings, "resolved": settings})
    if options["shard"] is not None:
        part, parts = options["shard"]
        click.echo(f"{options['evidence']}: part {part} of {parts}; `cnnaudit judge` joins all of them")
        return 0
    report = _replacing(gate, report) if options["update_baseline"] else gate.applied(report)
    write(report, options["targets"] or [("text", "")], suppressed=options["sarif_include_suppressed"])
    if options["update_baseline"]:
        _update(report, options["baseline"], spec=spec, tighten=options["tighten"])
    return report.exit_code


def _replacing(gate: Gate, report: Report) -> Report:
    """The report held against a baseline that will be replaced, as far as the two can be compared."""
    try:
        return gate.applied(report, replaced=True)
    except EvidenceError as error:
        found = replace(gate, baseline=None).applied(report)
        return replace(found, notes=(*found.notes, f"Not compared with the old baseline: {error}"))


def _update(report: Report, path: str, *, spec: str, tighten: bool) -> None:
    from cnnaudit.gate import baseline, tightening  # noqa: PLC0415 - see above

    if not report.passed:
        click.echo(f"{path} was not written: only a run that passes can be the accepted one", err=True)
        return
    baseline.record(report, path)
    click.echo(f"{path}: this run is now the accepted one", err=True)
    if tighten:
        from cnnaudit.metrics import vocabulary  # noqa: PLC0415 - see above

        click.echo(tightening.tighten(report, spec, vocabulary()), err=True)
