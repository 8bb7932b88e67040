"""Known-good networks -> bounds: one audit for each, of rules without bounds, and then statistics only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cnnaudit import pipeline
from cnnaudit.clock import today
from cnnaudit.errors import LoadError
from cnnaudit.gate.calibration import Place, Proposal, Quantity, calibrate
from cnnaudit.metrics import registry, vocabulary
from cnnaudit.result import Outcome
from cnnaudit.spec import from_mapping
from cnnaudit.starting.candidates import CANDIDATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from cnnaudit.pipeline import Prepared
    from cnnaudit.result import Report, Verdict
    from cnnaudit.starting.candidates import Candidate

__all__ = ["Calibrated", "Calibration", "applying", "calibration", "measured", "notes", "places"]

_MOST_LATE = 8
_SIDES = {"min": "lower", "max": "higher"}


@dataclass(frozen=True)
class Calibrated:
    """A rule and what good networks say of its bound.

    Attributes:
        candidate: The rule less its bound.
        proposal: The bound.
        places: What the good networks have at each site.
        unit: Of what is measured.
        directed: Whether the metric itself says which values are worse, as the rule does.
    """

    candidate: Candidate
    proposal: Proposal
    places: tuple[Place, ...]
    unit: str
    directed: bool


@dataclass(frozen=True)
class Calibration:
    """All rules of a calibrated file, and what they come from.

    Attributes:
        rules: In the order of the candidates.
        checkpoints: Each file with the digest of the parameters it holds.
        data, digest, images: What they were audited on.
        false_alarm: The rate for the whole file.
        sampling: As the file must have it, so that the rate holds.
        day: When.
    """

    rules: tuple[Calibrated, ...]
    checkpoints: tuple[tuple[str, str], ...]
    data: str
    digest: str
    images: int
    false_alarm: float
    sampling: Mapping[str, Any]
    day: str


def notes(base: Mapping[str, Any], candidates: Iterable[Candidate], *, null: bool = False) -> dict[str, Any]:
    """Return a rule file that measures candidates and judges nothing."""
    twin = {"null": "twin"} if null else {}
    entries = [c.entry | twin | {"severity": "note", "if_absent": "skip"} for c in candidates]
    return dict(base) | {"rules": entries}


def applying(prepared: Prepared) -> tuple[Candidate, ...]:
    """Return the candidates that have sites in a prepared network, those for late sites with which these are."""
    found = []
    for candidate in CANDIDATES:
        mine = [c.site for c in prepared.plan.checks if c.rule.id == candidate.id and c.probe is not None]
        if candidate.late:
            order = [site for site in prepared.graph.sites if site in mine]
            later = order[-max(1, min(_MOST_LATE, len(order) // 2)) :]
            candidate = replace(candidate, at=tuple(site.path for site in later))  # noqa: PLW2901 - what is known now
        found += [candidate] if mine else []
    return tuple(found)


def measured(
    base: Mapping[str, Any],
    candidates: Sequence[Candidate],
    weights: Any,
    *,
    null: bool = False,
    **options: Any,
) -> Report:
    """Audit one network without judging it; intervals end at the one-sided limits that would decide.

    Raises:
        CnnAuditError: it cannot be audited.
    """
    own = dict(base.get("sampling") or {})
    # A rule passes by a one-sided limit at 1 - confidence, which is an end of the two-sided interval at twice that.
    doubled = 2 * from_mapping(notes(base, candidates), vocabulary()).sampling.confidence - 1
    sampling = own | {"looks": 1, "confidence": round(doubled, 12)}
    written = notes(dict(base) | {"weights": weights, "sampling": sampling}, candidates, null=null)
    return pipeline.audit(from_mapping(written, vocabulary()), **options)


def calibration(
    base: Mapping[str, Any],
    checkpoints: Sequence[str],
    *,
    false_alarm: float,
    told: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Calibration:
    """Measure good networks and propose the bound of every candidate that has sites in them.

    Args:
        base: The rule file less its rules, which names model and data.
        checkpoints: Files of weights, the first one's null twin is measured, too.
        false_alarm: See :func:`cnnaudit.gate.calibration.calibrate`.
        told: What is called with each checkpoint before its audit.
        options: As :func:`cnnaudit.pipeline.audit` takes them.

    Raises:
        CnnAuditError: a checkpoint cannot be audited, two are the same, or nothing can be calibrated.
    """
    preparing = {name: value for name, value in options.items() if name != "progress"}
    first = dict(base) | {"weights": checkpoints[0]}
    prepared = pipeline.prepare(from_mapping(notes(first, CANDIDATES), vocabulary()), **preparing)
    candidates, units = applying(prepared), {site.path: site.units for site in prepared.graph.sites}
    if not candidates:
        raise LoadError(
            "there is nothing to calibrate: none of the rules has a site in this network; start without --good and "
            "write rules of your own"
        )
    reports = []
    for i, checkpoint in enumerate(checkpoints):
        told(checkpoint)
        reports.append(measured(base, candidates, checkpoint, null=i == 0, **options))
    _refuse_twice(checkpoints, reports)
    held = [places(candidate, reports, units) for candidate in candidates]
    quantities = [Quantity(c.side, c.scale, found) for c, found in zip(candidates, held, strict=True)]
    confidence = prepared.spec.sampling.confidence
    proposals, _ = calibrate(quantities, false_alarm=false_alarm, confidence=confidence)
    rules = tuple(
        _calibrated(candidate, _gated(candidate, proposal, reports), found)
        for candidate, proposal, found in zip(candidates, proposals, held, strict=True)
    )
    data = reports[0].data
    return Calibration(
        rules,
        tuple((file, str(r.model["sha256"])) for file, r in zip(checkpoints, reports, strict=True)),
        str(data["source"]),
        str(data["sha256"]),
        int(data["n_images"]),
        false_alarm,
        dict(base.get("sampling") or {}) | {"looks": 1},
        today().isoformat(),
    )


def _refuse_twice(checkpoints: Sequence[str], reports: Sequence[Report]) -> None:
    met: dict[str, str] = {}
    for checkpoint, report in zip(checkpoints, reports, strict=True):
        digest = str(report.model["sha256"])
        if digest in met:
            raise LoadError(
                f"--good: {checkpoint} holds the same weights as {met[digest]}: the same network twice tells nothing "
                "of how good networks differ; leave one of them out"
            )
        met[digest] = checkpoint
    if len({report.data["sha256"] for report in reports}) > 1:
        raise LoadError("--data: it gave other images each time, so the checkpoints cannot be compared; make it fixed")


def places(candidate: Candidate, reports: Sequence[Report], units: Mapping[str, int]) -> tuple[Place, ...]:
    """Return what networks have at each site of a candidate, from their reports by :func:`measured`."""
    by_site: dict[str, list[Verdict]] = {}
    for report in reports:
        for verdict in report.of(candidate.id):
            if verdict.site and verdict.outcome is not Outcome.NOT_APPLICABLE:
                by_site.setdefault(verdict.site, []).append(verdict)
    found = []
    for site, verdicts in by_site.items():
        numbers = [_deciding(candidate, verdict) for verdict in verdicts]
        null = None if candidate.each else verdicts[0].null
        values, limits = zip(*numbers, strict=True)
        found.append(Place(site, values, limits, units.get(site, 1), null))
    return tuple(found)


def _deciding(candidate: Candidate, verdict: Verdict) -> tuple[float, float]:
    """The value and the one-sided limit by which it would pass; of several units those of the one on the bad side."""
    if verdict.value is None or verdict.low is None or verdict.high is None:
        return math.nan, math.nan
    value, low, high = verdict.value, verdict.low, verdict.high
    if candidate.each and verdict.worst:
        _, value, low, high = verdict.worst[0 if candidate.side == "min" else -1]
    return value, low if candidate.side == "min" else high


def _gated(candidate: Candidate, proposal: Proposal, reports: Sequence[Report]) -> Proposal:
    """No bound where these images are too few for the rule to be judged at all."""
    needed = max((v.n_needed for report in reports for v in report.of(candidate.id)), default=0)
    if not needed:
        return proposal
    return Proposal(None, reason=f"too few images: at least {needed:,} are needed to judge it")


def _calibrated(candidate: Candidate, proposal: Proposal, places: tuple[Place, ...]) -> Calibrated:
    metric, _, field = candidate.metric.partition(".")
    fields = registry()[metric].fields
    told = fields[field or next(iter(fields))]
    directed = told.better is not None and told.better != _SIDES[candidate.side]
    return Calibrated(candidate, proposal, places, told.unit, directed)
