"""The accepted run: recorded, read back, and compared with a later run of the same rules on the same images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cnnaudit.errors import EvidenceError
from cnnaudit.gate.files import write_whole
from cnnaudit.gate.regression import Levels, regression
from cnnaudit.result import Outcome, Report, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Baseline", "compare", "data_differences", "key", "measured_differences", "read", "record"]

_DATA = ("sha256", "n_images", "order", "transform", "sources")
_SETTINGS = ("seed", "block", "crop", "groups", "max_images", "mode", "dtype")
_NOTED = ("device", "cnnaudit", "torch", "python")
_NOTHING_MEASURED = (Outcome.NOT_APPLICABLE, Outcome.ERROR)
_TOLD = 5
_MOST_BYTES = 2**29  # of a report, which has about 2 kB for each verdict

_Key: TypeAlias = tuple[str, str, str, str]


@dataclass(frozen=True)
class Baseline:
    """The report of an accepted run.

    Attributes:
        report: The report.
        path: The file, as messages and reports show it.
        sha256: Digest of the file's bytes.
    """

    report: Report
    path: str
    sha256: str


def read(path: str | Path) -> Baseline:
    """Read the report of an accepted run.

    Raises:
        EvidenceError: There is no such file, or it is not a report of this schema version.
    """
    file = Path(path)
    if (
        file.exists() and not file.is_dir() and (not file.is_file() or file.stat().st_size > _MOST_BYTES)
    ):  # a pipe or device may never end
        raise EvidenceError(f"{path}: this is no file, or larger than any report; name one that --format json wrote")
    try:
        data = file.read_bytes()
    except OSError as error:
        words = "give a report that `cnnaudit check --format json=PATH` or --update-baseline has written"
        raise EvidenceError(f"{path}: cannot be read: {error.strerror}; {words}") from None
    try:
        report = Report.from_json(data.decode())
    except UnicodeDecodeError:
        raise EvidenceError(
            f"{path}: this is not a cnnaudit report: it is not UTF-8 text; name one that --format json wrote"
        ) from None
    except EvidenceError as error:
        raise EvidenceError(f"{path}: {error}") from error
    if lacking := _lacking(report):
        raise EvidenceError(f"{path}: this cnnaudit report is incomplete or damaged ({lacking}); audit again")
    return Baseline(report, str(path), hashlib.sha256(data).hexdigest())


def _lacking(report: Report) -> str:
    """What of a report cannot be compared, because it is not there or of another kind; empty where all can."""
    confidence, terms = report.settings.get("confidence"), report.spec.get("terms", {})
    if not isinstance(confidence, float) or not 0 < confidence < 1:
        return "settings.confidence"
    if not isinstance(report.model.get("sha256"), str):
        return "model.sha256"
    for rule, said in terms.items() if isinstance(terms, dict) else [("terms", None)]:
        sections = (
            [said, *(said.get(name, {}) for name in ("measures", "bounds"))] if isinstance(said, dict) else [said]
        )
        regression = said.get("max_regression") if isinstance(said, dict) else None
        if not all(isinstance(section, dict) for section in (*sections, regression or {})):
            return f"spec.terms of {rule}"
    missed = report.coverage.get("not_covered", [])
    if not isinstance(missed, list) or not all(isinstance(m, dict) and {"site", "op"} <= m.keys() for m in missed):
        return "coverage.not_covered"
    return ""


def record(report: Report, path: str | Path) -> None:
    """Write a report as the baseline of later runs; the file is either written as a whole or left as it was.

    Raises:
        EvidenceError: The run did not pass, so that it would make its failure the norm; or no rule has
            ``max_regression``, so that no later run could be compared with it; or the file cannot be written.
    """
    if not report.passed:
        raise EvidenceError(
            f"{path}: no baseline was recorded: this run has not passed (exit code {report.exit_code}), and what fails "
            "would become the norm; mend the network, or waive the failure first"
        )
    if not _regressions(report):
        raise EvidenceError(
            f"{path}: no baseline was recorded: no rule says what a regression is; add max_regression, such as "
            "{absolute: 0.02}, to the rules that later runs are to be compared by"
        )
    try:
        write_whole(path, (report.to_json() + "\n").encode())
    except OSError as error:
        raise EvidenceError(f"{path}: the baseline cannot be written: {error.strerror}; give another path") from None


def compare(report: Report, baseline: Baseline, *, replaced: bool = False) -> Report:
    """Judge every rule with ``max_regression`` against the accepted run.

    Args:
        report: The new run.
        baseline: The accepted one.
        replaced: The new run is to replace it: rules and sites that the accepted one does not know are told in a note
            and nothing else. What both have is compared all the same, or a new site would hide what others lost.

    Returns:
        The report with verdicts of ``RULE:regression`` behind those of each such rule, and the baseline's digests in
        ``gate``.

    Raises:
        EvidenceError: The runs do not measure the same thing on the same images; every difference is named.
    """
    accepted = baseline.report
    unlike = {rule: [f"rule {rule}: {it}" for it in _unlike(rule, report, accepted)] for rule in _regressions(report)}
    problems = [problem for told in unlike.values() for problem in told]
    _refuse(report, baseline, [] if replaced else problems)
    found: list[Verdict] = []
    for rule in report.rules:
        found += report.of(rule)
        if rule in unlike and not unlike[rule]:
            compared = _compared(rule, report, baseline)
            new = [v for v in compared if v.outcome is Outcome.ERROR] if replaced else []
            found += [v for v in compared if v not in new]
            problems += [f"rule {rule}: nothing is known of {v.place}" for v in new]
    apart = (f"Not compared with the old baseline {baseline.path}: {'; '.join(problems)}.",) if problems else ()
    facts = {
        "path": baseline.path,
        "sha256": baseline.sha256,
        "model": accepted.model["sha256"],
        "date": accepted.settings.get("date", ""),
    }
    return replace(
        report,
        verdicts=tuple(found),
        settings=_with_error(report),
        notes=(*report.notes, *apart, *_notes(report, baseline)),
        gate={**report.gate, "baseline": facts},
    )


def _with_error(report: Report) -> dict[str, Any]:
    """Settings in which the probabilities of being misled by chance count the comparisons as rules of their own."""
    alpha = 1 - report.settings["confidence"]
    before = report.settings.get("family_wise_error", {"false_fail": 0.0, "false_pass": 0.0})
    more = sum(any(v.mean and v.mean.low != v.mean.high for v in report.of(rule)) for rule in _regressions(report))
    error = {
        "false_fail": min(1.0, before["false_fail"] + alpha * more),
        "false_pass": max(before["false_pass"], alpha if more else 0.0),
    }
    return {**report.settings, "family_wise_error": error}


def key(verdict: Verdict) -> _Key:
    """What tells verdicts of a report apart."""
    return verdict.rule, verdict.site, verdict.op, verdict.slice


def data_differences(new: Report, old: Report) -> dict[str, tuple[Any, Any]]:
    """Return which data were read differently: the field, the old and the new value."""
    return _differences("data.", old.data, new.data, _DATA)


def measured_differences(rule: str, new: Report, old: Report) -> dict[str, tuple[Any, Any]]:
    """Return what a rule of both reports measures differently: the field, the old and the new value.

    Bounds, severity and the reason do not count: they say what is wanted of a number, not which it is.
    """
    before, now = (report.spec.get("terms", {}).get(rule, {}).get("measures", {}) for report in (old, new))
    return _differences("", before, now, tuple(sorted({*before, *now})))


def _regressions(report: Report) -> dict[str, Mapping[str, Any]]:
    """What the rules that have ``max_regression`` say by it."""
    terms = report.spec.get("terms", {})
    return {rule: said["max_regression"] for rule, said in terms.items() if said.get("max_regression")}


def _differences(
    start: str, old: Mapping[str, Any], new: Mapping[str, Any], names: tuple[str, ...]
) -> dict[str, tuple[Any, Any]]:
    pairs = {f"{start}{name}": (_plain(old.get(name)), _plain(new.get(name))) for name in names}
    return {name: (before, now) for name, (before, now) in pairs.items() if before != now}


def _plain(value: Any) -> Any:
    """As JSON has it, in which a tuple is a list."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _refuse(report: Report, baseline: Baseline, unlike: list[str]) -> None:
    old = baseline.report
    differences = data_differences(report, old)
    differences |= _differences("settings.", old.settings, report.settings, _SETTINGS)
    told = [f"{name}: baseline {_shown(before)}, this run {_shown(now)}" for name, (before, now) in differences.items()]
    told += unlike
    if told:
        listed = "\n".join(f"  {line}" for line in told)
        raise EvidenceError(
            f"{baseline.path}: this run cannot be compared with the baseline:\n{listed}\n"
            "Audit the same images by the same rules, or record a new baseline with --update-baseline."
        )


def _unlike(rule: str, report: Report, old: Report) -> Iterator[str]:
    if rule not in old.spec.get("terms", {}):
        yield "the baseline was recorded without it"
        return
    for name, (before, now) in measured_differences(rule, report, old).items():
        yield f"{name}: baseline {_shown(before)}, this run {_shown(now)}"
    if not any(v.mean for v in old.of(rule)):
        yield "the baseline has no means of it: the rule had no max_regression when it was recorded"


def _shown(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:12]}..."
    return str(value)


def _notes(report: Report, baseline: Baseline) -> Iterator[str]:
    old = baseline.report
    if not old.passed:
        yield (
            f"The baseline {baseline.path} had not passed itself (exit code {old.exit_code}): a run that is no worse "
            "may still be bad."
        )
    if changed := _differences("", old.settings, report.settings, _NOTED):
        told = ", ".join(f"{name} {_shown(before)}, now {_shown(now)}" for name, (before, now) in changed.items())
        yield f"The baseline {baseline.path} was measured with {told}."
    here = {key(v) for v in report.verdicts if v.mean}
    for rule in _regressions(report):
        gone = [v.place for v in old.of(rule) if v.mean and key(v) not in here]
        if gone:
            more = f" and {len(gone) - _TOLD} more" if len(gone) > _TOLD else ""
            yield (
                f"{rule} was measured in the baseline at {', '.join(gone[:_TOLD])}{more}, and is not in this run: "
                "nothing is compared there."
            )


def _compared(rule: str, report: Report, baseline: Baseline) -> list[Verdict]:
    """One verdict for each site and slice where this run measured the rule."""
    terms = _regressions(report)[rule]
    here = [v for v in report.of(rule) if v.site and v.outcome not in _NOTHING_MEASURED]
    there = {key(v): v for v in baseline.report.of(rule)}
    confidences = baseline.report.settings["confidence"], report.settings["confidence"]
    pairs = [(v, there.get(key(v))) for v in here]
    places = max(1, sum(v.mean is not None and old is not None and old.mean is not None for v, old in pairs))
    looks = len(report.settings.get("looks", ()))
    return [regression(v, old, terms, Levels(*confidences, places), looks) for v, old in pairs]
