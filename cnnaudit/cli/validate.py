"""``cnnaudit validate``: lint rule files and waivers without torch, model or data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cnnaudit.spec import Spec

__all__ = ["command"]


@click.command(short_help="List every mistake in rule files and waivers.")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.pass_context
def command(ctx: click.Context, files: tuple[str, ...]) -> None:
    """List every mistake in FILES, rule files and files of waivers, each as file:line:column: message."""
    from cnnaudit.errors import SpecError  # noqa: PLC0415 - pydantic is imported when it is needed, not for --help

    wrong = False
    for path in files:
        try:
            told = _waivers(path) if _holds_waivers(path) else _rules(path)
        except SpecError as error:
            wrong = True
            told = str(error)
        click.echo(told)
    ctx.exit(2 if wrong else 0)


def _holds_waivers(path: str) -> bool:
    """Whether a file is one of waivers; what cannot be read at all is told as a rule file."""
    from cnnaudit.errors import SpecError  # noqa: PLC0415 - see above
    from cnnaudit.spec import yaml  # noqa: PLC0415

    try:
        value = yaml.parse(yaml.read(Path(path)), path).value
    except SpecError:
        return False
    return isinstance(value, dict) and "cnnaudit-waivers" in value


def _waivers(path: str) -> str:
    from cnnaudit.clock import today  # noqa: PLC0415 - see above
    from cnnaudit.gate import waiver_file  # noqa: PLC0415

    found = waiver_file.load(path)
    expired = sum(waiver.expires < today() for waiver in found.entries)
    told = f" ({expired} expired)" if expired else ""
    return f"{path}: {len(found.entries)} waiver{'s' * (len(found.entries) != 1)}{told}, no mistakes"


def _rules(path: str) -> str:
    from cnnaudit.metrics import vocabulary  # noqa: PLC0415 - see above
    from cnnaudit.spec import load  # noqa: PLC0415

    spec: Spec = load(path, vocabulary())
    taken = sum(bool(rule.pack) for rule in spec.rules)
    told = f" ({taken} taken over from {', '.join(base.name for base in spec.extends)})" if taken else ""
    return f"{path}: {len(spec.rules)} rules{told}, no mistakes"
