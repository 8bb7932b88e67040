"""``cnnaudit init``: a rule file to start from, or one whose bounds come from networks that are known to be good."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnnaudit.cli._network import in_words_of_options, naming, sampling, without_rules
from cnnaudit.cli._options import running
from cnnaudit.cli._settings import Configured
from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cnnaudit.pipeline import Prepared
    from cnnaudit.spec import Source, Spec
    from cnnaudit.starting.writing import Leave

__all__ = ["command"]

_RUNNING = ("device", "allow_imports", "allow_paths", "show_images", "trust_model")


class _Init(Configured):
    """Takes several files behind one ``--good``, up to the next option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        written, good = [], False
        for i, arg in enumerate(args):
            if good and not arg.startswith("-") and args[i - 1] != "--good":
                written.append("--good")
            good = arg == "--good" or (good and not arg.startswith("-"))
            written.append(arg)
        return super().parse_args(ctx, written)


@click.command(cls=_Init, short_help="Write a rule file to start from.")
@naming
@click.option(
    "--good",
    multiple=True,
    metavar="CKPT...",
    help="Checkpoints that are known to be good, several or repeatable: bounds are calibrated from them. Write MODEL "
    "before it.",
)
@click.option(
    "--false-alarm",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="With --good: largest probability that another good network does not pass.",
)
@sampling(None)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Where the rule file goes; - is stdout. Default: NAME.audit.yaml, by the model's name.",
)
@click.option("--force", is_flag=True, help="Overwrite the file where there is one.")
@running
@click.pass_context
def command(
    ctx: click.Context, /, *, good: tuple[str, ...], false_alarm: float, output: str | None, force: bool, **options: Any
) -> None:
    """Write a commented rule file for MODEL to start from.

    MODEL, DATA and the weights are what `cnnaudit profile` takes. With --good CKPT CKPT CKPT the file's bounds are
    such that another network of the same recipe passes all of them with a probability of at least 1 - false-alarm;
    with one checkpoint they speak of other images only.
    """
    asked = {name: options.pop(name) for name in _RUNNING}
    target = _target(output, options["model"], force=force)
    if good and (not options["data"] or options["weights"] is not None):
        raise click.UsageError(
            "--good takes the place of --weights: leave that out"
            if options["data"]
            else "--good needs --data: bounds are calibrated on the images of the audit",
            ctx,
        )
    base = without_rules(**options)
    if good:
        text, summary = _from_good(base, good, false_alarm, target, asked)
    else:
        text, summary = _from_nothing(base, target, asked)
    if target is None:
        click.echo(text, nl=False)
        return
    _write(target, text, force=force)
    click.echo(f"wrote {_shown(target)}: {summary}")
    click.echo(text[text.rindex("# Next:") :].replace("# Next:", "next:").replace("\n#   ", "\n  "), nl=False)


def _from_nothing(base: dict[str, Any], target: Path | None, asked: Mapping[str, Any]) -> tuple[str, str]:
    from cnnaudit import pipeline  # noqa: PLC0415 - torch is imported when it is needed, not for --help
    from cnnaudit.metrics import vocabulary  # noqa: PLC0415
    from cnnaudit.spec import from_mapping  # noqa: PLC0415
    from cnnaudit.starting.calibrating import applying, notes  # noqa: PLC0415
    from cnnaudit.starting.candidates import CANDIDATES  # noqa: PLC0415
    from cnnaudit.starting.writing import starter  # noqa: PLC0415

    with in_words_of_options():
        spec = from_mapping(notes(base, CANDIDATES), vocabulary())
    prepared = pipeline.prepare(spec, **asked)
    sites = _sites(prepared)
    # Without images of the user's own it is not known whether there are labels: every rule for such sites is offered.
    found = {c.id: c for c in applying(prepared)}
    offered = [found.get(c.id, c) for c in CANDIDATES if c.id in found or (not _has_data(base) and c.op in sites)]
    folder = _folder(target)
    text = starter(_moved(base, folder), sites, offered, _leave(spec, folder), _name(target))
    active = len(re.findall(r"^  - id:", text, flags=re.MULTILINE))
    return (
        text,
        f"{sum(map(len, sites.values()))} sites, {len(offered)} rules to begin with, {active} of them switched on",
    )


def _has_data(base: Mapping[str, Any]) -> bool:
    """Whether images were given."""
    return bool(base["data"] != "synthetic")


def _from_good(
    base: dict[str, Any], good: tuple[str, ...], false_alarm: float, target: Path | None, asked: Mapping[str, Any]
) -> tuple[str, str]:
    from cnnaudit import pipeline  # noqa: PLC0415 - torch is imported when it is needed, not for --help
    from cnnaudit.metrics import vocabulary  # noqa: PLC0415
    from cnnaudit.spec import from_mapping  # noqa: PLC0415
    from cnnaudit.starting.calibrating import calibration, notes  # noqa: PLC0415
    from cnnaudit.starting.candidates import CANDIDATES  # noqa: PLC0415
    from cnnaudit.starting.writing import calibrated  # noqa: PLC0415

    base = base | {"weights": good[0]}
    with in_words_of_options():
        spec = from_mapping(notes(base, CANDIDATES), vocabulary())
    for checkpoint in good:
        if not Path(checkpoint).is_file():
            raise LoadError(f"--good: there is no file {checkpoint}; check the path")
    found = calibration(
        base,
        good,
        false_alarm=false_alarm,
        told=lambda checkpoint: click.echo(f"measuring {checkpoint}", err=True),
        progress=sys.stderr.isatty(),
        **asked,
    )
    sites = _sites(pipeline.prepare(spec, **asked))
    folder = _folder(target)
    text = calibrated(_moved(base, folder) | {"sampling": {}}, sites, found, _leave(spec, folder), _name(target))
    judged = [rule for rule in found.rules if rule.proposal.judges]
    told = f"{len(judged)} bounds calibrated from {len(good)} good checkpoint{'s' * (len(good) > 1)}"
    rest = len(found.rules) - len(judged)
    return text, told + (f"; {rest} would say nothing, as the file tells" if rest else "")


def _target(output: str | None, model: Any, *, force: bool) -> Path | None:
    """Where the file goes; None for stdout. Told before anything is measured."""
    if output == "-":
        return None
    path = Path(output) if output else Path(f"{_stem(model)}.audit.yaml")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise LoadError(
            f"-o: {path} cannot be written: no such folder, or one itself; name a file in a folder that exists"
        )
    if path.exists() and not force:
        raise LoadError(f"{path} exists: give another name with -o FILE, or overwrite it with --force")
    return path


def _stem(model: Any) -> str:
    """The model's name for a file: model of model.py:build, resnet18 of torchvision:resnet18."""
    text = str(model.get("load", "model")) if isinstance(model, dict) else str(model)
    head, _, tail = text.partition(":")
    name = Path(head).stem if "." in head or not tail else tail
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name.rpartition(".")[2]).strip("_") or "model"


def _write(path: Path, text: str, *, force: bool) -> None:
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise LoadError(f"-o: {path} cannot be written: {error.strerror}; give another path") from error


def _sites(prepared: Prepared) -> dict[str, list[str]]:
    from cnnaudit.site import Op  # noqa: PLC0415 - not for --help

    found: dict[str, list[str]] = {}
    for site in prepared.graph.sites:
        if site.op is not Op.INPUT:
            found.setdefault(str(site.op), []).append(site.path)
    return found


def _folder(target: Path | None) -> Path:
    return Path.cwd() if target is None else target.absolute().parent


def _name(target: Path | None) -> str:
    return "FILE" if target is None else _shown(target)


def _shown(path: Path) -> str:
    here = Path.cwd()
    absolute = path.absolute()
    return (absolute.relative_to(here) if absolute.is_relative_to(here) else absolute).as_posix()


def _moved(base: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The same sources for a file that lies in another folder, which paths are relative to."""
    moved = dict(base)
    for role in ("model", "weights", "data"):
        if role in moved:
            moved[role] = _relative(moved[role], role, folder)
    return moved


def _relative(written: Any, role: Any, folder: Path) -> Any:
    from cnnaudit.spec import resolve  # noqa: PLC0415 - not for --help

    if isinstance(written, dict):
        changed = {"load": _relative(written["load"], role, folder)}
        if "exclude" in written:
            changed["exclude"] = Path(os.path.relpath(written["exclude"], folder)).as_posix()
        return {**written, **changed}
    source = resolve(written, base=Path.cwd(), role=role)
    if not Path(source.target).is_absolute():
        return written
    path = Path(os.path.relpath(source.target, folder)).as_posix()
    end = "/" if written.endswith("/") and source.kind == "folder" else ""
    return path + end + (f":{source.attribute}" if source.attribute else "")


def _leave(spec: Spec, folder: Path) -> Leave:
    from cnnaudit.starting.writing import Leave  # noqa: PLC0415 - not for --help

    sources = [source for source in (spec.model, spec.weights, spec.data) if source is not None]
    code = [s for s in sources if s.kind in ("file_factory", "module_factory")]
    imports = [_shown(Path(s.target)) if s.kind == "file_factory" else s.target for s in code]
    return Leave(tuple(dict.fromkeys(imports)), tuple(dict.fromkeys(_outside(sources, folder))))


def _outside(sources: list[Source], folder: Path) -> Iterator[str]:
    for source in sources:
        path = Path(source.target)
        inside = any(path.resolve().is_relative_to(place.resolve()) for place in (folder, Path.cwd()))
        if path.is_absolute() and source.kind != "file_factory" and not inside:
            yield path.resolve().as_posix()
