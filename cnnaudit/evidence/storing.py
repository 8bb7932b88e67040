"""A finished audit -> an evidence file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnaudit.errors import EvidenceError
from cnnaudit.evidence.content import SCHEMA_VERSION, Known, key_of, written
from cnnaudit.evidence.file import write
from cnnaudit.metrics import registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from cnnaudit.pipeline import Prepared
    from cnnaudit.result import Report
    from cnnaudit.spec import Spec
    from cnnaudit.statistics import Probe, Statistic

__all__ = ["Seen", "states", "store", "writable"]

States = Mapping["Probe", Mapping[str, "Tensor"]]


@dataclass(frozen=True)
class Seen:
    """What an audit shows at a look.

    Attributes:
        known: What is known of the data.
        states: States of the statistics that are stored of this look; empty where none are.
    """

    known: Known
    states: States


def states(prepared: Prepared, statistics: Mapping[Probe, Statistic], known: Known, shard: tuple[int, int]) -> Seen:
    """Keep what is stored of a look: of the last one everything.

    Of an earlier one a part of the images keeps what may be decided by then, which only all parts together tell; an
    audit of all images has decided that, and its verdicts are in the report.
    """
    last, parted = known.look.last, shard[1] > 1
    early = {
        key_of(probe)
        for check in prepared.plan.checks
        if parted and check.rule.bounds and not check.on_dataset
        for probe in check.probes
    }
    return Seen(
        known,
        {
            probe: _state(statistic, drawn=parted)
            for probe, statistic in statistics.items()
            if last or key_of(probe) in early
        },
    )


def _state(statistic: Statistic, *, drawn: bool) -> dict[str, Tensor]:
    """A statistic's state on the CPU, in memory of its own; which images were drawn only parts need to know."""
    left_out = () if drawn else {f"tally.{name}" for name in statistic.drawn}
    return {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in statistic.state().items()
        if name not in left_out
    }


def writable(path: str | Path) -> Path:
    """Return where evidence goes.

    Raises:
        EvidenceError: it is a folder, or in none: better told before the audit than after it.
    """
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise EvidenceError(
            f"{path}: the evidence cannot be written: there is no such folder, or it is one itself; name a file"
        )
    return path


def store(
    path: Path, prepared: Prepared, *, spec: Spec, seen: Sequence[Seen], report: Report, shard: tuple[int, int]
) -> None:
    """Write the evidence of an audit.

    Args:
        path: The file.
        prepared: What the audit was made from.
        spec: The rules as they were given, before model and data were opened.
        seen: What every look showed.
        report: The report; of a part of the images one without verdicts.
        shard: Which part of how many, from 1.

    Raises:
        EvidenceError: it cannot be written.
    """
    probes = list(dict.fromkeys(probe for one in seen for probe in one.states))
    number = {probe: i for i, probe in enumerate(probes)}
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "metrics": {metric.name: metric.version for metric in registry().values()},
        "shard": shard,
        "written": written(spec),
        "planned": prepared.planned,
        "groups": prepared.plan.groups,
        "known": [one.known for one in seen],
        "undecided": prepared.spec.undecided,
        "confidence": prepared.spec.sampling.confidence,
        "rules": prepared.spec.rules,
        "extends": prepared.spec.extends,
        "without": prepared.spec.without,
        "sites": prepared.graph.sites,
        "probes": [{"key": key_of(p), "kernels": p.kernels, "slice": p.slice} for p in probes],
        "report": json.loads(report.to_json()),
    }
    held = {one.known.look.number: {number[p]: state for p, state in one.states.items()} for one in seen}
    write(path, content, held)
