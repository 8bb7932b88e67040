"""The command line: one command a file, argv -> exit code."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback
from typing import Any

import click

from cnnaudit.errors import CnnAuditError
from cnnaudit.version import __version__

__all__ = ["main"]


class _Commands(click.Group):
    """Commands found by their files and imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"cnnaudit.cli.{cmd_name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}; there are {', '.join(self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cnnaudit", message="%(prog)s %(version)s")
def _cnnaudit() -> None:
    """Rules for how information flows through a trained CNN, decided by intervals.

    Exit codes: 0 every rule passed, 1 a rule failed, 2 could not evaluate, 3 undecided where the rule file
    says that this fails.
    """


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        code = _cnnaudit.main(args=argv, prog_name="cnnaudit", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        return 2
    except CnnAuditError as error:
        click.echo(f"error: {error}", err=True)
        return 2
    except Exception:  # noqa: BLE001 - exit code 1 would say that a rule failed
        traceback.print_exc(file=sys.stderr)
        click.echo("error: this is a fault of cnnaudit itself; please report it with the lines above", err=True)
        return 2
    return code if isinstance(code, int) else 0
