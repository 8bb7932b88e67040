"""``cnnaudit selftest``: does this machine compute what theory says?"""

from __future__ import annotations

import click

from cnnaudit.cli._gate import into, targets

__all__ = ["command"]

_FORMATS = ("text", "json")


@click.command(short_help="Rerun cases with known answers on this machine.")
@click.option("--device", default="cpu", show_default=True, help="Where networks run, such as cuda:0.")
@click.option("-v", "--verbose", is_flag=True, help="Show every case with its source, its answer and the claim.")
@click.option(
    "--format",
    "wanted",
    multiple=True,
    metavar="NAME[=PATH]",
    callback=targets(_FORMATS),
    help=f"Format of the record, repeatable: {', '.join(_FORMATS)}. Without a path it goes to stdout. Default: text.",
)
@click.pass_context
def command(ctx: click.Context, device: str, wanted: list[tuple[str, str]], *, verbose: bool) -> None:
    """Rerun cases whose answers are known, and say whether this machine gives them.

    What is printed names the machine, every version and the code, so that it can be filed. Exit codes: 0 every case
    holds, 1 one does not, 2 they could not be run.
    """
    from cnnaudit.selftest import run  # noqa: PLC0415 - torch is imported when it is needed, not for --help

    record = run(device)
    texts = {"text": record.to_text(verbose=verbose), "json": record.to_json()}
    if all(path for _, path in wanted):
        click.echo(texts["text"], nl=False)
    for name, path in wanted:
        if path:
            into(path, texts[name])
        else:
            click.echo(texts[name], nl=False)
    ctx.exit(0 if record.passed else 1)
