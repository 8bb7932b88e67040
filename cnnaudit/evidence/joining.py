"""The parts of an audit -> what they measured together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from cnnaudit.errors import EvidenceError
from cnnaudit.statistics import Parameters

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from cnnaudit.evidence.content import Content
    from cnnaudit.evidence.file import Stored
    from cnnaudit.statistics import Probe, Statistic

__all__ = ["Joined", "join"]

_COUNTERS = ("images", "sources", "nonfinite")
# What two parts of one audit share: by the place in the report.
_SAME = {
    "model": ("sha256", "input_shape", "inputs", "head"),
    "data": ("sha256", "n_images", "order", "transform", "sources"),
    "spec": ("sha256",),
    "settings": ("cnnaudit", "dtype", "looks", "mode"),
}
_TOLD = ("device", "torch", "tf32", "memory_format")


@dataclass(frozen=True)
class _Place:
    """Where a statistic is stored: which file, which number, of which kernels."""

    stored: Stored
    number: int
    kernels: tuple[int, ...] | None


class Joined:
    """What one audit measured, be it stored in one file or in several.

    Attributes:
        content: What all files say, apart from which part each is.
        parts: The files in the order of their parts.
        notes: What differs between them and may change last digits, as sentences.
    """

    def __init__(self, parts: Sequence[Stored]) -> None:
        self.parts = tuple(sorted(parts, key=lambda part: part.content.shard))
        self.content = self.parts[0].content
        self.notes = tuple(_notes(self.parts))
        self._places: dict[str, dict[int | None, list[_Place]]] = {}
        for part in self.parts:
            for number, probe in enumerate(part.content.probes):
                places = self._places.setdefault(probe.key, {}).setdefault(probe.slice, [])
                places.append(_Place(part, number, probe.kernels))

    @property
    def whole(self) -> bool:
        """Whether this is one audit of all images, which was judged when it was made."""
        return self.content.shard == (1, 1)

    @property
    def named(self) -> str:
        """The files, for messages."""
        return ", ".join(part.path for part in self.parts)

    def kernels(self, key: str) -> tuple[int, ...] | None:
        """Return the kernels that were read for a key; None for all.

        Raises:
            KeyError: nothing was.
        """
        ((place, *_), *_) = self._places[key].values()
        return place.kernels

    def statistics(self, probe: Probe, key: str, look: int) -> Iterator[tuple[Probe, Statistic]]:
        """Yield what a probe has read by a look: for all images, or for each slice that was met.

        Raises:
            EvidenceError: what is stored is no such statistic, or the parts do not belong together.
        """
        for code, places in self._places[key].items():
            of = replace(probe, slice=code)
            held = [_restored(of, place, look) for place in places if place.number in place.stored.states.get(look, {})]
            if held:
                yield of, _merged(held, places)


def join(parts: Sequence[Stored]) -> Joined:
    """Put the parts of one audit together.

    Raises:
        EvidenceError: they are not the parts of one audit, or not all of them, or one is there twice.
    """
    if not parts:
        raise EvidenceError("there is nothing to judge: name an evidence file")
    _refuse_incomplete(parts)
    first, *others = parts
    for other in others:
        for (place, mine), theirs in zip(
            _must_agree(first.content), (value for _, value in _must_agree(other.content)), strict=True
        ):
            if mine != theirs:
                raise EvidenceError(
                    f"{first.path} and {other.path} are of different audits: {place} is {_short(mine)} and "
                    f"{_short(theirs)}; join the parts of one audit"
                )
    return Joined(parts)


def _refuse_incomplete(parts: Sequence[Stored]) -> None:
    for part in parts:
        number, of = part.content.shard
        if not 1 <= number <= of:
            raise EvidenceError(
                f"{part.path}: it says to be part {number} of {of}, and there is no such part: audit again"
            )
        if of == 1 and len(parts) > 1:
            others = ", ".join(other.path for other in parts if other is not part)
            raise EvidenceError(f"{part.path} is of all images: judge it alone, without {others}")
    of = parts[0].content.shard[1]
    for part in parts:
        if part.content.shard[1] != of:
            raise EvidenceError(
                f"{parts[0].path} is one of {of} parts and {part.path} one of {part.content.shard[1]}: join the parts "
                "of one audit"
            )
    given: dict[int, str] = {}
    for part in parts:
        number = part.content.shard[0]
        if number in given:
            raise EvidenceError(f"{given[number]} and {part.path} are both part {number} of {of}: name each part once")
        given[number] = part.path
    if missing := [str(number) for number in range(1, of + 1) if number not in given][:20]:
        raise EvidenceError(
            f"{', '.join(given.values())}: of {of} parts these are missing: {', '.join(missing)}; name the evidence of "
            "all of them"
        )


def _must_agree(content: Content) -> Iterator[tuple[str, Any]]:
    """What the parts of one audit have in common, the most telling first."""
    for section, names in _SAME.items():
        for name in names:
            yield f"{section} {name}", content.report[section].get(name)
    for name, value in sorted(content.written.items()):
        yield name, value
    for name in sorted(content.metrics):
        yield f"the version of {name}", content.metrics[name]
    for name in ("groups", "planned", "known", "confidence", "undecided", "rules", "metrics"):
        yield name, getattr(content, name)
    yield "what the network consists of", [repr(site) for site in content.sites]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _notes(parts: Sequence[Stored]) -> Iterator[str]:
    for name in _TOLD:
        counted = Counter(str(part.content.report["settings"].get(name)) for part in parts)
        if len(counted) > 1:
            values = ", ".join(f"{value} in {count}" for value, count in counted.items())
            yield f"The parts of this audit were measured under different conditions: {name} is {values} of them."


def _restored(probe: Probe, place: _Place, look: int) -> Statistic:
    """A statistic from what is stored, whose counters are those of such a one."""
    state = place.stored.states[look][place.number]
    groups = probe.statistic(probe, place.stored.content.groups).groups
    counters = [state.get(f"tally.{name}") for name in _COUNTERS]
    if not all(_counts(counter, groups) for counter in counters):
        raise EvidenceError(
            f"{place.stored.path}: what is stored of {probe.site.path} is no {probe.statistic.__name__}: audit again"
        )
    return probe.statistic.restore(probe, state)


def _counts(counter: Tensor | None, groups: int) -> bool:
    if counter is None or counter.dtype is not torch.int64 or tuple(counter.shape) != (groups,):
        return False
    return bool((counter >= 0).all())


def _merged(held: Sequence[Statistic], places: Sequence[_Place]) -> Statistic:
    first, *others = held
    if isinstance(first, Parameters):  # the network's own, which is the same everywhere
        return first
    try:
        for other in others:
            first.merge(other)
    except (RuntimeError, KeyError, IndexError, ValueError, TypeError) as error:
        paths = ", ".join(place.stored.path for place in places)
        raise EvidenceError(
            f"{paths}: what is stored of {first.probe.site.path} cannot be joined ({type(error).__name__}): audit again"
        ) from error
    return first
