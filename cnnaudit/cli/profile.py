"""``cnnaudit profile``: a first look at a network, with nothing to write first."""

from __future__ import annotations

import json
import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnnaudit.cli._options import running
from cnnaudit.errors import LoadError, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnnaudit.flow import Flow

__all__ = ["command"]


def _value(text: str | None, place: str) -> Any:
    """What a rule file would read there."""
    from cnnaudit.spec import yaml  # noqa: PLC0415 - not for --help

    return None if text is None else yaml.parse(text.encode(), place).value


def _named(ctx: click.Context, param: click.Parameter, text: str | None) -> Any:  # noqa: ARG001 - click's signature
    """Text, or a mapping as a rule file has it."""
    return _value(text, str(param.opts[0])) if text and text.startswith("{") else text


def _structure(ctx: click.Context, param: click.Parameter, text: str | None) -> Any:  # noqa: ARG001
    return _value(text, str(param.opts[0]))


def _head(ctx: click.Context, param: click.Parameter, text: str | None) -> Any:  # noqa: ARG001
    return False if text == "false" else text


def _sides(ctx: click.Context, param: click.Parameter, text: str | None) -> Any:  # noqa: ARG001
    if text is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*){0,2}", text):
        raise click.BadParameter(f"{text} is not pixels a side, such as 224 or 192x256")
    sides = [int(side) for side in text.split("x")]
    return sides[0] if len(sides) == 1 else sides


def _arguments(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:  # noqa: ARG001
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise click.BadParameter(f"{name} is not NAME=VALUE, such as pretrained=true")
    return {name: _value(value, f"--kwarg {name}") for name, _, value in pairs}


def _target(ctx: click.Context, param: click.Parameter, text: str | None) -> Path | None:  # noqa: ARG001
    if text is None:
        return None
    name, _, path = text.partition("=")
    if name != "json" or not path:
        raise click.BadParameter(f"{text} is not json=PATH")
    if Path(path).is_dir() or not Path(path).parent.is_dir():
        raise click.BadParameter(f"{path} cannot be written: there is no such folder, or it is one itself")
    return Path(path)


@click.command(short_help="Measure a network on images: a first look without rules.")
@click.argument("model", callback=_named)
@click.option(
    "--data",
    metavar="DATA",
    callback=_named,
    help="The images: a folder, .npz, .npy, .safetensors, a .csv that lists files, data.py:build, "
    "torchvision:DATASET. Default: noise, which shows that the network runs and no more.",
)
@click.option(
    "--weights", metavar="FILE", callback=_named, help="Trained weights: .safetensors, or a state dict or checkpoint."
)
@click.option(
    "--kwarg",
    "kwargs",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_arguments,
    help="Argument that the model is built with, such as pretrained=true (timm), weights=DEFAULT (torchvision). "
    "Repeatable.",
)
@click.option(
    "--transform",
    metavar="auto|STEPS",
    callback=_structure,
    help="What is done to each image: auto, what belongs to the weights; or steps, '[{resize: 256}, {crop: 224}, "
    "{scale: 255}]'. Default: arrays go in as they are, files as auto where that is known.",
)
@click.option("--head", metavar="KEY", callback=_head, help="Which of several outputs holds the logits; false: none.")
@click.option("--inputs", metavar="NAMES", callback=_structure, help="How the model is called: '[left, right]'.")
@click.option(
    "--rules",
    multiple=True,
    metavar="NAME",
    help="Measure these instead: metrics (`cnnaudit explain` lists them) or packs (cnnaudit:residual). Repeatable.",
)
@click.option("--max-images", type=click.IntRange(min=1), default=256, show_default=True, help="Read at most so many.")
@click.option("--crop", metavar="PIXELS", callback=_sides, help="Show the network the middle only: 224 or 192x256.")
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
    running = {name: options.pop(name) for name in ("device", "allow_imports", "allow_paths", "trust_model")}
    with _in_words_of_options():
        spec = from_mapping(_file(**options), vocabulary())
    found = flow.profile(rules=spec, progress=sys.stderr.isatty(), **running)
    if target is not None:
        _write(found, target)
    click.echo(describe(found, time.monotonic() - started, compact=not rules))


def _file(
    *,
    model: Any,
    data: Any,
    weights: Any,
    kwargs: dict[str, Any],
    transform: Any,
    rules: tuple[str, ...],
    max_images: int,
    crop: Any,
    **calling: Any,
) -> dict[str, Any]:
    """The rule file that says the same."""
    from cnnaudit.cli._first_look import METRICS  # noqa: PLC0415 - see above

    if kwargs:
        model = _with(model, "kwargs", kwargs)
    data = data or "synthetic"
    if transform is not None:
        data = _with(data, "transform", transform)
    packs = [name for name in rules if ":" in name]
    named = [{"metric": name, "severity": "note"} for name in rules if name not in packs]
    usual = [{"metric": name, "severity": "note", "if_absent": "skip"} for name in METRICS]
    sampling = {"max_images": max_images, "crop": crop}
    return {
        "cnnaudit": 1,
        "model": model,
        "data": data,
        "sampling": {name: value for name, value in sampling.items() if value is not None},
        **{name: value for name, value in (calling | {"weights": weights}).items() if value is not None},
        **({"extends": packs} if packs else {}),
        "rules": named if rules else usual,
    }


def _with(written: Any, key: str, value: Any) -> dict[str, Any]:
    """A source that was written as text or as a mapping, and one thing more."""
    return {**(written if isinstance(written, dict) else {"load": written}), key: value}


@contextmanager
def _in_words_of_options() -> Iterator[None]:
    """Say of a mistake which option it is in, instead of where a rule file would have it."""
    try:
        yield
    except SpecError as error:
        told = [re.sub(r"^at (data\.transform|\w+)[^:]*: ", _option, problem.message) for problem in error.problems]
        raise LoadError("\n".join(told)) from None


def _option(place: re.Match[str]) -> str:
    names = {"model": "MODEL", "data.transform": "--transform", "sampling": "--crop", "extends": "--rules"}
    return f"{names.get(place[1], f'--{place[1]}')}: "


def _write(flow: Flow, path: Path) -> None:
    held = {"model": flow.model, "data": flow.data, "settings": flow.settings, "notes": flow.notes}
    body = json.dumps(held | {"measured": flow.records()}, sort_keys=True, allow_nan=False)
    try:
        path.write_text(body + "\n", encoding="utf-8")
    except OSError as error:
        raise LoadError(f"--format: {path} cannot be written: {error.strerror}") from error
