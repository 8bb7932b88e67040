"""Options that several commands have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["running"]

_Command = TypeVar("_Command", bound="Callable[..., Any]")

_OPTIONS = (
    click.option("--device", help="Where to run, such as cpu or cuda:0. Default: where the model is."),
    click.option(
        "--allow-import",
        "allow_imports",
        multiple=True,
        metavar="GLOB",
        help="Code that may be imported: a module (pkg.models.*) or a file (examples/**.py). Repeatable.",
    ),
    click.option(
        "--allow-path",
        "allow_paths",
        multiple=True,
        metavar="GLOB",
        help="Files and folders that a rule file may open outside of its own folder and the current one. Repeatable.",
    ),
    click.option(
        "--show-images",
        is_flag=True,
        help="Call single images in the report by their names; without it they have salted hashes for names.",
    ),
    click.option(
        "--trust-model",
        is_flag=True,
        help="Load exported programs (.pt2): torch unpickles them, which runs whatever code their author put in.",
    ),
)


def running(command: _Command) -> _Command:
    """Give a command that runs networks the options that say where, and what may be opened."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
