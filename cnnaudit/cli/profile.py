"""``cnnaudit profile``: a first look at a network, with nothing to write first."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnnaudit.cli._network import in_words_of_options, naming, sampling, without_rules
from cnnaudit.cli._options import running
from cnnaudit.cli._settings import Configured
from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from cnnaudit.flow import Flow

__all__ = ["command"]


def _target(ctx: click.Context, param: click.Parameter, text: str | None) -> Path | None:  # noqa: ARG001
    if text is None:
        return None
    name, _, path = text.partition("=")
    if name != "json" or not path:
        raise click.BadParameter(f"{text} must be json=PATH")
    if Path(path).is_dir() or not Path(path).parent.is_dir():
        raise click.BadParameter(f"{path} cannot be written: there is no such folder, or it is one itself; name a file")
    return Path(path)


@click.command(cls=Configured, short_help="Measure a network on images: a first look without rules.")
@naming
@click.option(
    "--rules",
    multiple=True,
    metavar="NAME",
    help="Measure these instead: metrics (`cnnaudit explain` lists them) or packs (cnnaudit:residual). Repeatable.",
)
@sampling(256)
@click.option("--format", "target", metavar="json=PATH", callback=_target, help="Write all that was measured as JSON.")
@running
def command(**options: Any) -> None:
    """Measure MODEL on images and print, site by site, what it does to them.

    MODEL is what `model:` of a rule file may be: model.py:build, package.module:build, torchvision:NAME, timm:NAME,
    model.pt2, or a mapping '{load: torchvision:fcn_resnet50, part: backbone}'. DATA and the weights may be mappings
    too. Nothing is judged: `cnnaudit check` does that, by rules that you write.
    """
    from cnnaudit import flow  # noqa: PLC0415 - torch is imported when it is needed, not for --help
    from cnnaudit.cli._first_look import describe  # noqa: PLC0415
    from cnnaudit.metrics import vocabulary  # noqa: PLC0415
    from cnnaudit.spec import from_mapping  # noqa: PLC0415

    started, target, rules = time.monotonic(), options.pop("target"), options["rules"]
    running = {
        name: options.pop(name) for name in ("device", "allow_imports", "allow_paths", "show_images", "trust_model")
    }
    with in_words_of_options():
        spec = from_mapping(_file(**options), vocabulary())
    found = flow.profile(rules=spec, progress=sys.stderr.isatty(), **running)
    if target is not None:
        _write(found, target)
    click.echo(describe(found, time.monotonic() - started, compact=not rules))


def _file(rules: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """The rule file that says the same."""
    from cnnaudit.cli._first_look import METRICS  # noqa: PLC0415 - see above

    packs = [name for name in rules if ":" in name]
    named = [{"metric": name, "severity": "note"} for name in rules if name not in packs]
    usual = [{"metric": name, "severity": "note", "if_absent": "skip"} for name in METRICS]
    return without_rules(**options) | ({"extends": packs} if packs else {}) | {"rules": named if rules else usual}


def _write(flow: Flow, path: Path) -> None:
    held = {"model": flow.model, "data": flow.data, "settings": flow.settings, "notes": flow.notes}
    body = json.dumps(held | {"measured": flow.records()}, sort_keys=True, allow_nan=False)
    try:
        path.write_text(body + "\n", encoding="utf-8")
    except OSError as error:
        raise LoadError(f"--format: {path} cannot be written ({error.strerror}); give another path") from error
