"""Commands whose options may also be given by the environment and a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnnaudit.configuration import LEAVE, LISTS, SETTINGS, Configuration, Given, using

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Configured", "resolved"]

_CONFIGURATION, _RESOLVED = "cnnaudit.configuration", "cnnaudit.resolved"
_OPTIONS = (
    click.option(
        "--config",
        metavar="FILE",
        expose_value=False,
        help="Take settings from this file, not from ./pyproject.toml ([tool.cnnaudit]) or ./cnnaudit.toml.",
    ),
    click.option(
        "--isolated",
        is_flag=True,
        expose_value=False,
        help="Take settings from the command line only: from no file and no CNNAUDIT_... variable.",
    ),
    click.option(
        "--show-settings",
        is_flag=True,
        expose_value=False,
        help="Print each setting with its value and where that comes from, and do no more.",
    ),
)


class Configured(click.Command):
    """A command that takes its settings from its options, else the environment, else a file, else its defaults.

    Those of its options that are settings are found by their names: ``--device``, ``--format``, ...
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for option in _OPTIONS:
            option(self)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        written, _, _ = self.make_parser(ctx).parse_args(list(args))
        asks_for_help = any(param.is_eager and param.name in written for param in self.get_params(ctx))
        if ctx.resilient_parsing or asks_for_help:
            return super().parse_args(ctx, args)
        configuration = ctx.meta[_CONFIGURATION] = _configuration(ctx, written)
        options = {name: option for name in SETTINGS for option in self.params if _gives(option, name)}
        found = {name: _resolved(name, written.get(str(o.name)), configuration) for name, o in options.items()}
        ctx.meta[_RESOLVED] = {name: {"value": _plain(given), "source": given.source} for name, given in found.items()}
        if written.get("show_settings"):
            click.echo(_table(found))
            ctx.exit()
        # What gives leave is added where it is used: it has to hold for Python, too.
        elsewhere = {n: found[n] for n, o in options.items() if n not in LEAVE and written.get(str(o.name)) is None}
        ctx.default_map = {str(options[name].name): given.value for name, given in elsewhere.items() if given.value}
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            for name, given in elsewhere.items():
                if error.param is options[name] and given.value:
                    raise click.BadParameter(f"{error.message} (from {given.source})", ctx, error.param) from None
            raise

    def invoke(self, ctx: click.Context) -> Any:
        with using(ctx.meta[_CONFIGURATION]):
            return super().invoke(ctx)


def resolved(ctx: click.Context) -> Mapping[str, Any]:
    """Return the value of each setting of a command and its source, for a report: ``{"device": {"value": ...}}``."""
    found: Mapping[str, Any] = ctx.meta[_RESOLVED]
    return found


def _configuration(ctx: click.Context, written: Mapping[str, Any]) -> Configuration:
    file, isolated = written.get("config"), written.get("isolated")
    if file and isolated:
        raise click.UsageError("--isolated takes settings from no file: leave --config out", ctx)
    if file and not Path(file).is_file():
        raise click.UsageError(f"--config: there is no file {file}; check the path", ctx)
    return Configuration() if isolated else Configuration.here(Path(file) if file else None)


def _gives(option: click.Parameter, name: str) -> bool:
    return f"--{name}" in option.opts and option.multiple == (name in LISTS)


def _resolved(name: str, written: Any, configuration: Configuration) -> Given:
    sources = [Given(tuple(written) if name in LISTS else written, "command line")] if written else []
    sources += configuration.all(name)
    if name in LEAVE and sources:
        allowed = dict.fromkeys(glob for given in sources for glob in given.value)
        return Given(tuple(allowed), ", ".join(given.source for given in sources))
    return sources[0] if sources else Given(() if name in LISTS else "", "default")


def _plain(given: Given) -> Any:
    return list(given.value) if isinstance(given.value, tuple) else given.value or None


def _table(found: Mapping[str, Given]) -> str:
    told = {name: " ".join(given.value) if name in LISTS else str(given.value) for name, given in found.items()}
    wide, wider = (max(map(len, texts)) for texts in (told.keys(), told.values()))
    return "\n".join(f"{name:<{wide}}  {told[name] or '-':<{wider}}  {found[name].source}" for name in found)
