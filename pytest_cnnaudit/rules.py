"""One rule as one test: which it is, and how its verdict becomes a test's outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from cnnaudit.errors import CnnAuditError
from cnnaudit.result import GRAVITY, Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from cnnaudit.result import Report, Verdict
    from cnnaudit.spec import Spec

__all__ = ["RuleReference", "RuleResult", "judged", "properties", "read", "rule_of"]


@dataclass(frozen=True)
class RuleReference:
    """A rule of a file."""

    path: Path
    rule: str


@dataclass(frozen=True, repr=False)
class RuleResult:
    """What a rule came to.

    Attributes:
        rule: Its id.
        report: The audit that judged it.
    """

    rule: str
    report: Report

    @property
    def outcome(self) -> Outcome:
        """The gravest outcome of any site."""
        return next(outcome for outcome in GRAVITY if outcome in map(self.report.outcome, self._rules))

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One verdict for each site, and one for each site that was compared with a baseline."""
        return tuple(v for rule in self._rules for v in self.report.of(rule))

    @property
    def passed(self) -> bool:
        """True where the rule fails no build: it holds or judges nothing, is a warning, waived, or may be undecided."""
        return all(map(self._passes, self._rules))

    def check(self) -> None:
        """End the test: failed with where and why in a few lines, or skipped where the rule is waived or not judged."""
        __tracebackhide__ = True
        if not self.passed:
            pytest.fail(repr(self), pytrace=False)
        if self.outcome is Outcome.NOT_APPLICABLE:
            pytest.skip(self.verdicts[0].detail)
        # One site may be waived while another, undecided or a warning, is graver and fails no build.
        if waived := [v.waiver for v in self.verdicts if v.outcome is Outcome.WAIVED and v.waiver]:
            from cnnaudit.report.words import accepted  # noqa: PLC0415 - see below

            waivers = dict.fromkeys(map(accepted, waived))
            pytest.skip(f"waived: {'; '.join(waivers)}")

    @property
    def _rules(self) -> tuple[str, ...]:
        """The rule, and what a comparison with a baseline adds to it."""
        regression = f"{self.rule}:regression"
        return (self.rule, regression) if regression in self.report.rules else (self.rule,)

    def _passes(self, rule: str) -> bool:
        outcome = self.report.outcome(rule)
        if outcome is Outcome.ERROR:
            return False
        binding = any(v.severity == "error" for v in self.report.of(rule))
        undecided_fails = self.report.settings["undecided"] == "fail"
        failed = outcome is Outcome.FAIL or (outcome is Outcome.UNDECIDED and undecided_fails)
        return not (binding and failed)

    def __repr__(self) -> str:
        from cnnaudit.report.brief import brief  # noqa: PLC0415 - only what fails is put into words

        told = [rule for rule in self._rules if not self._passes(rule)] or [self.rule]
        return "\n".join(brief(self.report, rule) for rule in told)


def read(path: Path) -> Spec:
    """Read a rule file without torch.

    Raises:
        SpecError: it has mistakes.
    """
    from cnnaudit.metrics import vocabulary  # noqa: PLC0415 - pydantic is imported when a file is read
    from cnnaudit.spec import load  # noqa: PLC0415

    return load(path, vocabulary())


def rule_of(item: pytest.Item) -> RuleReference | None:
    """Return the rule that a test stands for, if it does for one."""
    reference = getattr(getattr(item, "function", None), "cnnaudit_rule", None)
    if reference is None and hasattr(item, "callspec"):
        reference = item.callspec.params.get("cnnaudit_rule")
    return reference if isinstance(reference, RuleReference) else None


def judged(request: pytest.FixtureRequest, reference: RuleReference) -> RuleResult:
    """Judge a rule in one audit with all rules of its file that this session selects."""
    from pytest_cnnaudit.audits import shared  # noqa: PLC0415

    __tracebackhide__ = True
    spec = read(reference.path)
    wanted = {found.rule for item in request.session.items if (found := rule_of(item)) and found.path == reference.path}
    selected = [rule.id for rule in spec.rules if rule.id in wanted | {reference.rule}]
    report, told = None, ""
    try:
        report = shared(request, spec, selected)
    except CnnAuditError as error:
        told = str(error)
    if report is None:  # told outside of the except clause, or pytest would show both
        place = next(spec.place(rule) for rule in spec.rules if rule.id == reference.rule)
        pytest.fail(f"{place}: {reference.rule} could not be evaluated\n  {told}", pytrace=False)
    result = RuleResult(reference.rule, report)
    request.node.user_properties.extend(properties(result))
    return result


def properties(result: RuleResult) -> list[tuple[str, str | float]]:
    """Return what JUnit and the summary tell of a rule: scalars, of the site that stands for it."""
    from cnnaudit.report.words import margin  # noqa: PLC0415

    worst = min((v for v in result.verdicts if v.outcome is result.outcome), key=margin)
    told: dict[str, str | float | None] = {
        "rule": result.rule,
        "file": str(worst.file or result.report.spec["path"]),
        "line": worst.line,
        "outcome": str(result.outcome),
        "severity": worst.severity,
        "metric": f"{worst.metric}.{worst.field}",
        "site": worst.place,
        "value": worst.value,
        "low": worst.low,
        "high": worst.high,
        "null": worst.null,
        "side": worst.side,
        "bound": worst.bound,
        "images": worst.n_images,
    }
    return [(f"cnnaudit.{name}", value) for name, value in told.items() if value is not None and value != ""]
