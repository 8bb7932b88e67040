"""Evidence and rules -> a report, with no model, no data and no user code.

A rule that is as it was keeps what an early look decided: that look spent its part of alpha, and the last one has only
what is left. A rule that was changed or added is judged once, at the last look, with the alpha of that look. Were it
to get all of alpha, or the early looks once more, alpha would be spent twice: a rule that the audit left undecided
could pass on the same images for no other reason than having been judged again. That a bound was moved after the
numbers were known is another matter, which no level makes good: it is told with every such verdict.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from cnnaudit.errors import EvidenceError
from cnnaudit.evidence.changes import Changes
from cnnaudit.evidence.content import canonical, key_of, written
from cnnaudit.evidence.file import read
from cnnaudit.evidence.joining import Joined, join
from cnnaudit.facts import coverage, judging_settings, spec_facts
from cnnaudit.judge import decide
from cnnaudit.metrics import registry, vocabulary
from cnnaudit.plan import make_plan
from cnnaudit.result import Outcome, Report, Verdict
from cnnaudit.spec import Sampling, Spec
from cnnaudit.spec import load as load_spec
from cnnaudit.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cnnaudit.evidence.content import Content, Known
    from cnnaudit.plan import Check, Plan
    from cnnaudit.spec import Rule
    from cnnaudit.statistics import Probe, Statistic

__all__ = ["judge"]

_UNLIMITED = 2**62  # bytes: which kernels were read is settled


def judge(paths: str | Path | Sequence[str | Path], spec: str | Path | Spec | None = None) -> Report:
    """Judge stored evidence by the rules it was made for, or by edited ones.

    Args:
        paths: An evidence file, or those of all parts of one audit.
        spec: A rule file. Nothing that it names is opened but the rules that it extends: its ``model:``, ``data:``
            and all that decides the sampling must be as they were.

    Returns:
        The report. With the rules as they were its verdicts are those of the audit; what was changed afterwards is
        told by :attr:`Verdict.changed <cnnaudit.result.Verdict.changed>` and in the notes.

    Raises:
        EvidenceError: the files are no evidence, were damaged, do not belong together or lack what a rule needs; or
            the rule file asks for another sampling.
        SpecError: the rule file has mistakes.
    """
    files = [paths] if isinstance(paths, (str, Path)) else list(paths)
    joined = join([read(path) for path in files])
    content = joined.content
    if spec is None:
        with _fitting(joined):
            edited = _stored_spec(content)
    else:
        edited = spec if isinstance(spec, Spec) else load_spec(spec, vocabulary())
        _refuse_other_sampling(content, edited)
    changes = Changes(
        content.rules,
        edited.rules,
        {
            "undecided": (content.undecided, edited.undecided),
            "confidence": (content.confidence, edited.sampling.confidence),
        },
    )
    with _fitting(joined):
        report = _report(joined)
        plan = _plan(joined, edited)
        verdicts = _decided(joined, plan, edited, changes.same, report.verdicts)
    return replace(
        report,
        spec=report.spec if spec is None else spec_facts(edited),
        settings={**report.settings, **judging_settings(edited, plan, [known.look for known in content.known])},
        verdicts=tuple(replace(v, changed=changes.told[v.rule]) for v in verdicts),
        notes=(*report.notes, *joined.notes, *changes.notes, *_version(report)),
        coverage=coverage(plan, content.sites),
        gate={"evidence": [{"path": part.path, "sha256": part.sha256} for part in joined.parts]},
    )


@contextmanager
def _fitting(joined: Joined) -> Iterator[None]:
    """Tell what no audit stores by its file: sites without their taps, tensors of other shapes.

    Raises:
        EvidenceError: what is read meanwhile does not fit together.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        words = (str(error).splitlines() or [""])[0][:200]
        raise EvidenceError(
            f"{joined.named}: what is stored does not fit together ({type(error).__name__}: {words}): audit again"
        ) from error


def _report(joined: Joined) -> Report:
    """The report of all parts: what they all say, and the day of the last of them.

    Raises:
        EvidenceError: it is none.
    """
    told = joined.content.report
    last = max(str(part.content.report["settings"]["date"]) for part in joined.parts)
    try:
        return Report.from_json(json.dumps(told | {"settings": told["settings"] | {"date": last}}))
    except EvidenceError as error:
        raise EvidenceError(f"{joined.named}: what is stored of the report is none ({error}); audit again") from error


def _stored_spec(content: Content) -> Spec:
    """The rules as they were, of a file that need not be there any more."""
    told = content.report["spec"]["path"]
    return Spec(
        path=Path(told) if any(rule.line and not rule.file for rule in content.rules) else None,
        directory=Path.cwd(),
        sha256="",
        model=None,
        weights=None,
        data=None,
        undecided=content.undecided,
        sampling=_sampling(content),
        rules=content.rules,
        extends=content.extends,
        without=content.without,
    )


def _sampling(content: Content) -> Sampling:
    names = {name: content.written.get(f"sampling.{name}") for name in Sampling.model_fields}
    names["confidence"] = content.confidence
    return Sampling.model_validate_json(canonical(names))


def _refuse_other_sampling(content: Content, spec: Spec) -> None:
    """Refuse rules of another audit: what was not read cannot be judged."""
    asked = written(spec)
    different = [name for name in sorted({*asked, *content.written}) if asked.get(name) != content.written.get(name)]
    if different:
        told = "; ".join(
            f"{name} is {_told(asked.get(name))} here and was {_told(content.written.get(name))}" for name in different
        )
        raise EvidenceError(
            f"{spec.name}: the evidence was measured otherwise than this file says: {told}; audit again, or put it back"
        )


def _told(value: Any) -> str:
    return "not given" if value is None else value if isinstance(value, str) else canonical(value)


def _version(report: Report) -> tuple[str, ...]:
    measured = report.settings.get("cnnaudit")
    if measured == __version__:
        return ()
    return (f"The evidence was measured with cnnaudit {measured} and judged with {__version__}.",)


def _plan(joined: Joined, spec: Spec) -> Plan:
    """The plan of the rules on the sites that were measured, every probe with the kernels that were read.

    Raises:
        EvidenceError: a rule needs what was not measured, or another version of its metric.
    """
    content = joined.content
    for rule in spec.rules:
        version, known = registry()[rule.metric].version, content.metrics.get(rule.metric)
        if version != known:
            was = f"version {known}" if known is not None else "none"
            raise EvidenceError(
                f"{spec.place(rule)}: rule {rule.id!r} measures {rule.metric}, of which there was {was} when "
                f"{joined.named} was made, and this is version {version}: audit again"
            )
    unlimited = replace(spec, sampling=spec.sampling.model_copy(update={"max_memory": _UNLIMITED}))
    known_before = {name: getattr(content.planned, name) for name in content.planned.__dataclass_fields__}
    plan = make_plan(unlimited, content.sites, **known_before)
    checks = [_with_stored(check, joined, spec) for check in plan.checks]
    probes = tuple(dict.fromkeys(probe for check in checks for probe in check.probes))
    return replace(plan, checks=tuple(checks), probes=probes, groups=content.groups)


def _with_stored(check: Check, joined: Joined, spec: Spec) -> Check:
    """A check that reads the kernels which were read."""
    if check.probe is None:
        return check
    try:
        (kernels,) = {joined.kernels(key_of(probe)) for probe in check.probes}
    except (KeyError, ValueError):  # of all that the rule compares something is not there, or of other kernels
        rule = check.rule
        named = f"{rule.metric} {canonical(rule.params)}" if rule.params else rule.metric
        beside = f", by {rule.by.column}" if rule.by else ""
        beside += ", with its null twin" if rule.null else ""
        beside += ", by groups of images for max_regression" if rule.max_regression else ""
        raise EvidenceError(
            f"{spec.place(rule)}: rule {rule.id!r} needs {named} at {check.site.path}{beside}, which "
            f"{joined.named} does not hold: audit again"
        ) from None
    return replace(check, probe=replace(check.probe, kernels=kernels))


def _decided(
    joined: Joined, plan: Plan, spec: Spec, same: frozenset[str], before: Iterable[Verdict]
) -> tuple[Verdict, ...]:
    """The verdicts of the last look, those that an earlier one decided standing where the rule is as it was."""
    content = joined.content
    *early, last = content.known
    rules = {rule.id: rule for rule in spec.rules}
    stand: list[Verdict] = []
    if joined.whole:
        stand = [v for v in map(_sound, before) if v.look < last.look.number and _stands(v, same)]
    else:
        again = tuple(c for c in plan.checks if c.rule.id in same and c.rule.bounds and not c.on_dataset)
        for known in early:
            part = replace(plan, checks=again, absent=())
            stand = [v for v in _look(joined, part, spec, known, stand) if _stands(v, same)]
    return _look(joined, plan, spec, last, [_as_written(v, rules[v.rule]) for v in stand])


def _sound(verdict: Verdict) -> Verdict:
    """A stored verdict whose fields are what they should be.

    Raises:
        ValueError: they are not.
    """
    return TypeAdapter(Verdict).validate_python(asdict(verdict))


def _stands(verdict: Verdict, same: frozenset[str]) -> bool:
    return verdict.rule in same and verdict.outcome in (Outcome.PASS, Outcome.FAIL)


def _as_written(verdict: Verdict, rule: Rule) -> Verdict:
    """A verdict that stands, with what the rule says beside its bounds now."""
    return replace(
        verdict,
        line=rule.line,
        severity=str(rule.severity),
        why=rule.why or "",
        refs=tuple(rule.refs),
        file=rule.file,
        pack=rule.pack,
        mean=None,  # which the last look tells
    )


def _look(joined: Joined, plan: Plan, spec: Spec, known: Known, earlier: Iterable[Verdict]) -> tuple[Verdict, ...]:
    statistics: dict[Probe, Statistic] = {}
    for probe in dict.fromkeys(probe for check in plan.checks for probe in check.probes):
        statistics |= joined.statistics(probe, key_of(probe), known.look.number)
        if not probe.by and probe not in statistics:
            raise EvidenceError(
                f"{joined.parts[0].path}: what was measured at {probe.site.path} is not there: audit again"
            )
    return decide(plan, statistics, spec, classes=known.classes, values=known.values, look=known.look, earlier=earlier)
