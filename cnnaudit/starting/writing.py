"""The text of a starter file: what was found, rules to begin with, and where calibrated bounds come from."""

from __future__ import annotations

import json
import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnnaudit.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from cnnaudit.gate.calibration import Place, Proposal
    from cnnaudit.starting.calibrating import Calibrated, Calibration
    from cnnaudit.starting.candidates import Candidate

__all__ = ["Leave", "calibrated", "starter"]

_WIDTH = 110
_NAMES = 24  # of sites that are written out
_MODELINE = "# yaml-language-server: $schema=cnnaudit.schema.json"
_EDITOR = "For completion and hover help in editors: cnnaudit schema > cnnaudit.schema.json"


@dataclass(frozen=True)
class Leave:
    """What must be allowed before the file can be checked.

    Attributes:
        imports: Globs of code that it names.
        paths: Files outside of its folder and the current one.
    """

    imports: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    @property
    def options(self) -> str:
        """The options that allow it, for a command line."""
        imports = [f"--allow-import '{glob}'" for glob in self.imports]
        return " ".join([*imports, *(f"--allow-path '{glob}'" for glob in self.paths)])


def starter(
    base: Mapping[str, Any],
    sites: Mapping[str, Sequence[str]],
    candidates: Iterable[Candidate],
    leave: Leave,
    name: str,
) -> str:
    """Return a file without calibrated bounds: one rule that warns, and a commented one for each kind of site.

    Args:
        base: What names the network and its images, as the file has it.
        sites: Paths of the network's sites by op.
        candidates: The rules that have sites here.
        leave: What must be allowed.
        name: The file, for the commands that come next.
    """
    offered = list(candidates)
    lines = [_MODELINE, *_comment(_EDITOR), "#", *_found(sites), *_allowing(leave)]
    lines += ["", *_head(base)]
    lines += ["# Few of the pack's rules judge; the others show what is there.", "extends: cnnaudit:recommended"]
    lines += [
        "",
        *_comment(
            "Where to begin. Uncomment what must hold here (take '# ' off). These bounds are places to start from, no "
            "findings: from checkpoints that are known to be good, cnnaudit init MODEL --data DATA --good CKPT CKPT "
            "CKPT proposes bounds with a stated false-alarm rate."
        ),
    ]
    active = [c for c in offered if c.id == "kernels-fire"]
    rules = [line for c in active for line in _rule(c.entry | {c.side: c.start, "severity": "warning"})]
    lines += ["rules:", *rules] if rules else ["rules: []  # take the brackets off when you uncomment one"]
    for candidate in offered:
        if candidate not in active:
            lines += ["  # " + line[2:] for line in _rule(candidate.entry | {candidate.side: candidate.start})]
    lines += ["", *_next(name, leave, baseline=False)]
    return "\n".join(lines) + "\n"


def calibrated(
    base: Mapping[str, Any], sites: Mapping[str, Sequence[str]], found: Calibration, leave: Leave, name: str
) -> str:
    """Return a file whose bounds come from known-good networks, each with where it comes from."""
    one = len(found.checkpoints) == 1
    lines = [_MODELINE, *_comment(_EDITOR), "#", *_origin(found), "#", *_found(sites), *_allowing(leave)]
    lines += [
        "",
        *_head(base),
        "# Bounds were calibrated for one look at the end.",
        f"sampling: {_plain(found.sampling)}",
    ]
    lines += ["", "rules:"]
    for rule in found.rules:
        told = _comment(_once(found), *_told(rule, one=one), width=_WIDTH - 2, indent=8)
        lines += [*("  " + line for line in told), *_rule(_judging(rule))]
    lines += ["", *_next(name, leave, baseline=not one)]
    return "\n".join(lines) + "\n"


def _origin(found: Calibration) -> Iterator[str]:
    held = [f"{file}  parameters sha256 {digest[:16]}" for file, digest in found.checkpoints]
    several = len(held) > 1
    word = "checkpoints" if several else "checkpoint"
    yield from _comment(
        f"Calibrated on {found.day} by cnnaudit {__version__} from {len(held)} {word}, on {found.images:,} images of "
        f"{found.data} (sha256 {found.digest[:16]}):"
    )
    yield from (f"#   {line}" for line in held)
    rate = f"{100 * found.false_alarm:g} %"
    if several:
        yield from _comment(
            f"False-alarm rate {rate} for the whole file, half of it for bounds and half for max_regression: with at "
            "most this probability any rule does not PASS (an UNDECIDED counts) on another network that was trained "
            "as these were, audited on these images. Other recipes, other images and images that trained these "
            "checkpoints are outside of that."
        )
    else:
        yield from _comment(
            "ONE CHECKPOINT: the bounds speak of other images of the same network, not of other trainings. False-alarm "
            f"rate {rate} for the whole file: with at most this probability any rule does not PASS on as many other "
            "images of the same kind, by this very checkpoint. Another good training may fail; calibrate from three "
            "or more as soon as there are so many."
        )


def _once(found: Calibration) -> str:
    count = _count(len(found.checkpoints), "checkpoint")
    return (
        f"calibrated on {found.day} from {count}, {found.images:,} images; false-alarm rate "
        f"{100 * found.false_alarm:g} % for the whole file"
    )


def _told(rule: Calibrated, *, one: bool) -> Iterator[str]:
    """The comment of a rule: what the good ones have, where the bound is, and what the null twin has."""
    candidate, proposal, places = rule.candidate, rule.proposal, rule.places
    values = [value for place in places for value in place.values if not math.isnan(value)]
    good = f"{_n(min(values))} to {_n(max(values))}" if values else "undefined"
    yield f"good    {good} {rule.unit} over {_count(len(places), 'site')}"
    worst = proposal.worst
    if worst is None or proposal.bound is None:
        yield f"bound   none: {proposal.reason}"
        return
    yield f"worst   {worst.site}, deciding limits {_listed(worst.limits)}"
    if candidate.each:
        yield "each    unit is judged; these are of the lowest one"
    limit = min(worst.limits) if candidate.side == "min" else max(worst.limits)
    where = "below" if candidate.side == "min" else "above"
    told = f"{candidate.side} {proposal.bound:g}, {_n(proposal.margin)} {where} the worst of these ({_n(limit)})"
    yield f"bound   {told}" if proposal.judges else f"bound   none: {proposal.reason}"
    yield f"twin    {_twin(proposal, worst, [p for p in places if p.null is not None])}"
    if one:
        yield "retrain no max_regression: one checkpoint does not tell how trainings differ"
    elif not candidate.each and proposal.absolute is None and proposal.relative is None:
        yield "retrain no max_regression: good networks differ by so much that it would say nothing"


def _twin(proposal: Proposal, worst: Place, known: Sequence[Place]) -> str:
    if not known:
        return "not measured"
    there = "undefined there" if worst.null is None else f"{_n(worst.null)} there"
    worse = f"worse than every good one at {len(proposal.worse)} of {_count(len(known), 'site')}"
    if not proposal.judges:
        return f"{there}; {worse}"
    if not proposal.told:
        return f"{there}; {worse}; the bound does not tell it from the good ones, and is for other faults"
    return f"{there}; {worse}; the bound tells it from the good ones at {len(proposal.told)}"


def _judging(rule: Calibrated) -> dict[str, Any]:
    """The rule with what was found to judge by; a note where that is nothing."""
    candidate, proposal = rule.candidate, rule.proposal
    entry = candidate.entry
    if proposal.judges:
        entry[candidate.side] = proposal.bound
    allowed = {"absolute": proposal.absolute, "relative": proposal.relative}
    regression = {key: value for key, value in allowed.items() if value is not None}
    if regression and not candidate.each and (proposal.judges or rule.directed):
        entry["max_regression"] = regression
    if not {candidate.side, "max_regression"} & entry.keys():
        entry["severity"] = "note"
    return entry


def _found(sites: Mapping[str, Sequence[str]]) -> Iterator[str]:
    yield from _comment(f"The network has {_count(sum(map(len, sites.values())), 'site')}:")
    for op, paths in sites.items():
        shown = ", ".join(paths[:_NAMES]) + (f", and {len(paths) - _NAMES} more" if len(paths) > _NAMES else "")
        first, *more = textwrap.wrap(f"{len(paths):>3} {op:<9} {shown}", _WIDTH - 4, subsequent_indent=" " * 14)
        yield from (f"#   {line}" for line in (first, *more))
    yield "#   cnnaudit check FILE --dry-run lists them with the rules that cover them."


def _allowing(leave: Leave) -> Iterator[str]:
    if leave.imports:
        yield "#"
        yield from _comment(
            "This file names code, which is imported only where somebody else allowed it: by "
            f"{Leave(leave.imports).options}, or in the pyproject.toml of the directory where cnnaudit is started:"
        )
        yield "#   [tool.cnnaudit]"
        yield f"#   allow-import = {json.dumps(list(leave.imports))}"
    if leave.paths:
        yield "#"
        yield from _comment(
            "It also names files outside of its folder, which must be allowed: by "
            f"{Leave(paths=leave.paths).options}, or under [tool.cnnaudit] as allow-path = "
            f"{json.dumps(list(leave.paths))}"
        )


def _head(base: Mapping[str, Any]) -> Iterator[str]:
    yield "cnnaudit: 1"
    yield f"model: {_plain(base['model'])}"
    yield (
        f"weights: {_plain(base['weights'])}"
        if "weights" in base
        else ("# weights: model.safetensors  # .safetensors, or a state dict in .pt, .pth, .bin or .ckpt")
    )
    if base["data"] == "synthetic":
        yield from _comment(
            "Noise shows that the network runs and no more. Name images that did not train it: an .npz with images and "
            "labels, a folder of images, a .csv that lists them, data.py:build, torchvision:DATASET."
        )
    yield f"data: {_plain(base['data'])}"
    for key in ("inputs", "head"):
        if key in base:
            yield f"{key}: {_plain(base[key])}"
    if base.get("sampling"):
        yield f"sampling: {_plain(base['sampling'])}"


def _next(name: str, leave: Leave, *, baseline: bool) -> Iterator[str]:
    options = f" {leave.options}" if leave.options else ""
    yield "# Next:"
    yield f"#   cnnaudit check {name} --dry-run{options}"
    yield f"#   cnnaudit check {name}{options}"
    if baseline:
        yield "#   and, to judge max_regression, accept this run and compare later ones with it:"
        yield f"#   cnnaudit check {name} --baseline accepted.json --update-baseline{options}"
        yield f"#   cnnaudit check {name} --baseline accepted.json{options}"


def _rule(entry: Mapping[str, Any]) -> Iterator[str]:
    for i, (key, value) in enumerate(entry.items()):
        start = "  - " if i == 0 else "    "
        yield from textwrap.wrap(
            f"{key}: {_plain(value)}",
            _WIDTH,
            initial_indent=start,
            subsequent_indent="      ",
            break_long_words=False,
            break_on_hyphens=False,
        )


def _plain(value: Any) -> str:
    """A value as YAML in one line; text bare where that is still the same text."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_plain(key)}: {_plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return (
            "[" + ", ".join(json.dumps(x, ensure_ascii=False) if isinstance(x, str) else _plain(x) for x in value) + "]"
        )
    if isinstance(value, str):
        return value if _bare(value) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, float) and not isinstance(value, bool):
        return f"{value:.12g}"
    return json.dumps(value)


def _bare(text: str) -> bool:
    """Whether text needs no quotes in YAML, also within braces."""
    from cnnaudit.spec import yaml  # noqa: PLC0415 - not for --help

    if not text.isprintable() or text != text.strip() or set(text) & set("{}[]#&*!|>%@`\"'") or ": " in text:
        return False
    if text.endswith(":"):
        return False
    return bool(
        yaml.parse(f"[{{key: {text.replace(',', '')}}}]".encode(), "a word").value == [{"key": text.replace(",", "")}]
    )


def _comment(*paragraphs: str, width: int = _WIDTH, indent: int = 0) -> Iterator[str]:
    for paragraph in paragraphs:
        yield from textwrap.wrap(
            paragraph,
            width,
            initial_indent="# ",
            subsequent_indent="# " + " " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )


def _listed(values: Sequence[float]) -> str:
    return ", ".join(map(_n, values))


def _n(value: float) -> str:
    return f"{value:.3g}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
