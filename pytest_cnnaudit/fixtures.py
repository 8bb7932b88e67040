"""What tests may ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cnnaudit.flow import Flow
    from cnnaudit.result import Report
    from cnnaudit.spec import Spec
    from pytest_cnnaudit.rules import RuleResult

NOT_GIVEN = object()  # what a fixture gives that nobody overrides: None may be somebody's mistake

__all__ = ["NOT_GIVEN", "Auditor", "cnnaudit", "cnnaudit_data", "cnnaudit_model", "cnnaudit_rule"]


class Auditor:
    """What the fixture ``cnnaudit`` gives: audits with the options of the session."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request

    def check(self, spec: str | Path | Mapping[str, Any] | Spec, *, model: Any = None, data: Any = None) -> Report:
        """Audit, and fail the test where that does not pass.

        Args:
            spec: A rule file, relative to the test's own file; or rules as a mapping.
            model: A live model, or text, instead of the file's. Where neither gives one the fixture
                ``cnnaudit_model`` does, or one named ``model``.
            data: Likewise; the fixture is ``cnnaudit_data``.

        Returns:
            The report of an audit that passed.

        Raises:
            CnnAuditError: the audit could not be carried out.
        """
        __tracebackhide__ = True
        from cnnaudit.errors import CnnAuditError  # noqa: PLC0415
        from cnnaudit.pipeline import read_spec  # noqa: PLC0415 - torch is imported when a test audits
        from pytest_cnnaudit.audits import alone  # noqa: PLC0415
        from pytest_cnnaudit.rules import RuleResult, properties  # noqa: PLC0415

        try:
            found = read_spec(self._path(spec) if isinstance(spec, (str, Path)) else spec)
            report = alone(self._request, found, model=model, data=data)
        except CnnAuditError as error:
            raise error.with_traceback(None) from None  # the test's own line and the message are enough
        results = [RuleResult(rule.id, report) for rule in found.rules]
        for result in results:
            self._request.node.user_properties.extend(properties(result))
        failed = [result for result in results if not result.passed]
        if failed:
            pytest.fail("\n".join(map(repr, failed)))
        if not report.passed:
            pytest.fail("\n".join(["nothing was judged", *map(repr, results)]))
        return report

    def profile(
        self, model: Any = None, data: Any = None, *, rules: Any = "recommended", max_images: int | None = None
    ) -> Flow:
        """Measure a model in one pass, for assertions; see :func:`cnnaudit.profile`.

        A model or data that is not given comes from the fixtures ``cnnaudit_model`` and ``cnnaudit_data``.
        """
        __tracebackhide__ = True
        from cnnaudit.errors import CnnAuditError  # noqa: PLC0415
        from pytest_cnnaudit.audits import profile  # noqa: PLC0415

        if isinstance(rules, (str, Path)) and str(rules).endswith((".yaml", ".yml")):
            rules = self._path(rules)
        try:
            return profile(self._request, model, data, rules=rules, max_images=max_images)
        except CnnAuditError as error:
            raise error.with_traceback(None) from None

    def _path(self, written: str | Path) -> Path:
        return self._request.path.parent / written


@pytest.fixture
def cnnaudit(request: pytest.FixtureRequest) -> Auditor:
    """Audit models in tests: ``cnnaudit.check("x.audit.yaml")``, ``cnnaudit.profile(model, loader)``."""
    return Auditor(request)


@pytest.fixture(scope="session")
def cnnaudit_model() -> Any:
    """The model of rule files without ``model:``; override it in conftest.py."""
    return NOT_GIVEN


@pytest.fixture(scope="session")
def cnnaudit_data() -> Any:
    """The data of rule files without ``data:``; override it in conftest.py."""
    return NOT_GIVEN


@pytest.fixture
def cnnaudit_rule(
    request: pytest.FixtureRequest,
    cnnaudit_model: Any,  # noqa: ARG001 - asked for here so that a parametrised one multiplies the tests
    cnnaudit_data: Any,  # noqa: ARG001
) -> RuleResult:
    """What a rule came to, in a test marked ``@pytest.mark.cnnaudit("x.audit.yaml")``; one test a rule."""
    from pytest_cnnaudit.rules import RuleReference, judged  # noqa: PLC0415

    if not isinstance(getattr(request, "param", None), RuleReference):
        pytest.fail('cnnaudit_rule is for tests marked @pytest.mark.cnnaudit("x.audit.yaml")', pytrace=False)
    return judged(request, request.param)
