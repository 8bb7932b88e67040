"""Options of the commands that decide: what a report is held against, and where it goes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cnnaudit.errors import LoadError
from cnnaudit.report import formats, render

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import date, datetime

    from cnnaudit.result import Report

__all__ = ["deciding", "into", "targets", "writable", "write"]

_Command = TypeVar("_Command", bound="Callable[..., Any]")


def targets(known: Sequence[str]) -> Callable[..., list[tuple[str, str]]]:
    """Return what reads ``NAME[=PATH]`` of these formats."""

    def parsed(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, str]]:  # noqa: ARG001
        wanted = [(name, path) for name, _, path in (value.partition("=") for value in values)]
        for name, path in wanted:
            if name not in known:
                raise click.BadParameter(f"there is no format {name!r}; there are {', '.join(known)}")
            if path:
                writable(path)
        if sum(not path for _, path in wanted) > 1:
            raise click.BadParameter("only one format can go to stdout: give the others a path")
        return wanted

    return parsed


def writable(path: str) -> str:
    """Return a path that can be written.

    Raises:
        BadParameter: it is a folder, or in none.
    """
    if Path(path).is_dir() or not Path(path).parent.is_dir():
        raise click.BadParameter(f"{path} cannot be written: there is no such folder, or it is one itself; name a file")
    return path


def _day(ctx: click.Context, param: click.Parameter, value: datetime | None) -> date | None:  # noqa: ARG001
    return None if value is None else value.date()


_OPTIONS = (
    click.option(
        "--baseline",
        metavar="REPORT",
        type=click.Path(dir_okay=False),
        help="JSON report of the accepted run: rules with max_regression are compared with it.",
    ),
    click.option(
        "--waivers",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False),
        help="What was accepted, by whom and until when; `cnnaudit waive` adds to it.",
    ),
    click.option("--ignore-waivers", is_flag=True, help="Judge as if nothing had been accepted."),
    click.option(
        "--as-of",
        metavar="DATE",
        type=click.DateTime(["%Y-%m-%d"]),
        callback=_day,
        help="Hold waivers against this day. Default: today in UTC.",
    ),
    click.option(
        "--coverage-fail-under",
        "coverage",
        metavar="PERCENT",
        type=click.FloatRange(0, 100),
        help="Fail where rules judge fewer of the network's sites.",
    ),
    click.option(
        "--format",
        "targets",
        multiple=True,
        metavar="NAME[=PATH]",
        callback=targets(formats()),
        help=f"Report format, repeatable: {', '.join(formats())}. Without a path it goes to stdout. Default: text.",
    ),
    click.option(
        "--sarif-include-suppressed",
        is_flag=True,
        help="Write waived results into SARIF, too, as suppressed; GitHub shows them as open all the same.",
    ),
)


def deciding(command: _Command) -> _Command:
    """Give a command the options of a release decision."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def write(report: Report, targets: list[tuple[str, str]], *, suppressed: bool) -> None:
    """Write a report in every format asked for: text to stdout where nothing else goes there.

    Raises:
        LoadError: a file cannot be written.
    """
    if all(path for _, path in targets):
        click.echo(render(report, "text"), nl=False)
    for name, path in targets:
        options = {"include_suppressed": suppressed} if name == "sarif" else {}
        text = render(report, name, **options)
        if not path:
            click.echo(text, nl=False)
        else:
            into(path, text)
        if name == "github" and (summary := os.environ.get("GITHUB_STEP_SUMMARY")):
            from cnnaudit.report import as_github  # noqa: PLC0415 - only where a workflow runs

            into(summary, as_github.summary(report), mode="a")


def into(path: str, text: str, mode: str = "w") -> None:
    """Write a text into a file.

    Raises:
        LoadError: it cannot be written.
    """
    try:
        with Path(path).open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise LoadError(f"the report cannot be written to {path}: {error.strerror}; give another path") from error
