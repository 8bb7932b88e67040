"""``--cnnaudit-baseline``, ``--cnnaudit-waivers`` and ``--cnnaudit-update``: what decides beside the rules."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cnnaudit.errors import EvidenceError
from pytest_cnnaudit.audits import folder, reports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cnnaudit.gate.decision import Gate
    from cnnaudit.result import Report, Verdict
    from cnnaudit.spec import Spec

__all__ = ["check", "decided", "update", "write"]

_UNUSED = "waivers:unused"
_UPDATED = pytest.StashKey[list[str]]()


def check(config: pytest.Config) -> None:
    """Refuse what could not be read before hours of audits.

    Raises:
        UsageError: there is no such file, or an option lacks another one.
    """
    renews = config.getoption("cnnaudit_update")
    baseline, waivers = _path(config, "baseline"), _path(config, "waivers")
    if renews and baseline is None:
        raise pytest.UsageError("--cnnaudit-update: which baseline? Add --cnnaudit-baseline PATH")
    if baseline is not None and not renews and not baseline.exists():
        raise pytest.UsageError(
            f"--cnnaudit-baseline: there is no {_shown(baseline)}; record one with --cnnaudit-update"
        )
    if waivers is not None and not waivers.is_file():
        raise pytest.UsageError(f"--cnnaudit-waivers: there is no file {_shown(waivers)}; check the path")


def decided(config: pytest.Config, audit: Callable[[], Report], spec: Spec, whole: Spec, beside: Path) -> Report:
    """Return an audit's report as the options decide it, and keep what an update has to know of it.

    Args:
        config: The session's.
        audit: Measures and judges; what it is held against is read before.
        spec: The rules that the session selects.
        whole: All rules of their file.
        beside: Where the report is going to be kept, without a suffix.

    Raises:
        CnnAuditError: a baseline or the waivers cannot be read, or a baseline is of something else.
    """
    if _path(config, "baseline") is None and _path(config, "waivers") is None:
        return audit()
    from cnnaudit.gate.decision import Gate  # noqa: PLC0415 - only with these options

    target, waivers = _baseline(config, spec), _path(config, "waivers")
    renews = target is not None and config.getoption("cnnaudit_update")
    gate = Gate.open(
        baseline=None if target is None or (renews and not target.exists()) else _shown(target),
        waivers=None if waivers is None else _shown(waivers),
    )
    report = audit()
    if renews:
        told = {"target": str(target), "selected": len(spec.rules), "rules": len(whole.rules)}
        beside.with_suffix(".accept").write_text(json.dumps(told), encoding="utf-8")
        report = _replacing(gate, report)
    else:
        report = gate.applied(report)
    if len(spec.rules) == len(whole.rules):
        return report
    # Whether waivers of the rules that were not selected are of use is not known.
    return replace(report, verdicts=tuple(v for v in report.verdicts if v.rule != _UNUSED))


def _replacing(gate: Gate, report: Report) -> Report:
    """The report held against a baseline that will be replaced, as far as the two can be compared."""
    try:
        return gate.applied(report, replaced=True)
    except EvidenceError as error:
        told = f"Not compared with the old baseline: {error}"
        return replace(gate, baseline=None).applied(replace(report, notes=(*report.notes, told)))


def update(config: pytest.Config) -> None:
    """Write the new baselines."""
    config.stash[_UPDATED] = list(_updated(config))


def write(terminal: pytest.TerminalReporter) -> None:
    """Write what became of the baselines, and what is wrong with the waivers."""
    found = [f"{v.rule}  {v.file}:{v.line}  {v.detail} {v.advice}" for v in _findings(terminal.config)]
    renewed = terminal.config.stash.get(_UPDATED, [])
    if found or renewed:
        terminal.write_sep("=", "baselines and waivers")
    for line in (*found, *renewed):
        terminal.write_line(line)


def _findings(config: pytest.Config) -> list[Verdict]:
    """What is wrong with the waivers; unused is one that no audit of the session uses."""
    held = [report for report in reports(config) if "waivers" in report.gate]
    found = {(v.rule, v.line): v for report in held for v in report.verdicts if v.rule.startswith("waivers:")}
    unused = [{v.line for v in report.of(_UNUSED)} for report in held]
    return [v for v in found.values() if v.rule != _UNUSED or all(v.line in lines for lines in unused)]


def _updated(config: pytest.Config) -> Iterator[str]:
    audits = defaultdict(list)
    for candidate in _candidates(config):
        audits[candidate.target].append(candidate)
    for target, candidates in sorted(audits.items()):
        why = _why_not(candidates)
        yield f"{target} was not written: {why}" if why else _recorded(candidates[0])


def _why_not(candidates: Sequence[_Candidate]) -> str:
    """Why a baseline is left as it was; empty where it is written anew."""
    first, *others = candidates
    file = first.report.spec["path"]
    if others:
        return f"{len(candidates)} audits would be in it; run those of one model and one rule file"
    if first.selected < first.rules:
        return f"only {first.selected} of the {first.rules} rules of {file} were selected"
    return "" if first.report.passed else f"{file} has not passed"


def _recorded(candidate: _Candidate) -> str:
    from cnnaudit.gate import baseline  # noqa: PLC0415 - only with these options

    try:
        Path(candidate.target).parent.mkdir(parents=True, exist_ok=True)
        baseline.record(candidate.report, candidate.target)
    except (EvidenceError, OSError) as error:
        return str(error)
    return f"{candidate.target}: this run is now the accepted one"


@dataclass(frozen=True)
class _Candidate:
    """A finished audit that may become a baseline."""

    target: str
    selected: int
    rules: int
    report: Report


def _candidates(config: pytest.Config) -> Iterator[_Candidate]:
    from cnnaudit.result import Report  # noqa: PLC0415 - see above

    for path in sorted(folder(config).glob("*.accept")):
        finished = path.with_suffix(".json")
        if finished.exists():
            told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            report = Report.from_json(finished.read_text(encoding="utf-8"))
            yield _Candidate(_shown(Path(told["target"])), told["selected"], told["rules"], report)


def _baseline(config: pytest.Config, spec: Spec) -> Path | None:
    """The accepted report of a rule file; None where none of its selected rules asks for one."""
    path = _path(config, "baseline")
    if path is None or not any(rule.max_regression for rule in spec.rules):
        return None
    if path.suffix == ".json" and not path.is_dir():
        return path
    if spec.path is None:
        raise EvidenceError(f"rules from Python have no place in the folder {_shown(path)}: give one report instead")
    file = spec.path.resolve()
    root = config.rootpath.resolve()
    name = file.name.removesuffix(file.suffix).removesuffix(".audit") + ".json"
    return path / (file.parent.relative_to(root) if file.is_relative_to(root) else "") / name


def _path(config: pytest.Config, name: str) -> Path | None:
    """An option's path, from where pytest was started, else that of the ini file, from rootdir."""
    given, ini = config.getoption(f"cnnaudit_{name}"), config.getini(f"cnnaudit_{name}")
    if given:
        return config.invocation_params.dir / str(given)
    return config.rootpath / str(ini) if ini else None


def _shown(path: Path) -> str:
    """As somebody would write it where pytest was started."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
