"""How a command line names a network and its images: the options, and the rule file that says the same."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cnnaudit.errors import LoadError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["in_words_of_options", "naming", "sampling", "with_key", "without_rules"]

_Command = TypeVar("_Command", bound="Callable[..., Any]")


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


_NAMING = (
    click.argument("model", callback=_named),
    click.option(
        "--data",
        metavar="DATA",
        callback=_named,
        help="The images: a folder, .npz, .npy, .safetensors, a .csv that lists files, data.py:build, "
        "torchvision:DATASET. Default: noise, which shows that the network runs and no more.",
    ),
    click.option(
        "--weights",
        metavar="FILE",
        callback=_named,
        help="Trained weights: .safetensors, or a state dict or checkpoint.",
    ),
    click.option(
        "--kwarg",
        "kwargs",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_arguments,
        help="Argument that the model is built with, such as pretrained=true (timm), weights=DEFAULT (torchvision). "
        "Repeatable.",
    ),
    click.option(
        "--transform",
        metavar="auto|STEPS",
        callback=_structure,
        help="What is done to each image: auto, what belongs to the weights; or steps, '[{resize: 256}, {crop: 224}, "
        "{scale: 255}]'. Default: arrays go in as they are, files as auto where that is known.",
    ),
    click.option(
        "--head", metavar="KEY", callback=_head, help="Which of several outputs holds the logits; false: none."
    ),
    click.option("--inputs", metavar="NAMES", callback=_structure, help="How the model is called: '[left, right]'."),
)


def naming(command: _Command) -> _Command:
    """Give a command the argument and the options that name a network and its images."""
    for option in reversed(_NAMING):
        command = option(command)
    return command


def sampling(max_images: int | None) -> Callable[[_Command], _Command]:
    """Give a command the options that say which part of the images is read; ``max_images`` by default."""

    def options(command: _Command) -> _Command:
        crop = click.option(
            "--crop", metavar="PIXELS", callback=_sides, help="Show the network the middle only: 224 or 192x256."
        )
        most = click.option(
            "--max-images",
            type=click.IntRange(min=1),
            default=max_images,
            show_default=max_images is not None,
            help="Read at most so many.",
        )
        return most(crop(command))

    return options


def without_rules(
    *,
    model: Any,
    data: Any,
    weights: Any,
    kwargs: dict[str, Any],
    transform: Any,
    max_images: int | None,
    crop: Any,
    **calling: Any,
) -> dict[str, Any]:
    """Return the rule file that names the same network and images, less its rules."""
    if kwargs:
        model = with_key(model, "kwargs", kwargs)
    data = data or "synthetic"
    if transform is not None:
        data = with_key(data, "transform", transform)
    read = {"max_images": max_images, "crop": crop}
    return {
        "cnnaudit": 1,
        "model": model,
        **({} if weights is None else {"weights": weights}),
        "data": data,
        "sampling": {name: value for name, value in read.items() if value is not None},
        **{name: value for name, value in calling.items() if value is not None},
    }


def with_key(written: Any, key: str, value: Any) -> dict[str, Any]:
    """Return a source that was written as text or as a mapping, and one thing more."""
    return {**(written if isinstance(written, dict) else {"load": written}), key: value}


@contextmanager
def in_words_of_options() -> Iterator[None]:
    """Say of a mistake which option it is in, instead of where a rule file would have it."""
    try:
        yield
    except SpecError as error:
        told = [re.sub(r"^at (data\.transform|\w+)[^:]*: ", _option, problem.message) for problem in error.problems]
        raise LoadError("\n".join(told)) from None


def _option(place: re.Match[str]) -> str:
    names = {"model": "MODEL", "data.transform": "--transform", "sampling": "--crop", "extends": "--rules"}
    return f"{names.get(place[1], f'--{place[1]}')}: "
