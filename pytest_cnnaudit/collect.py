"""Rule files as test modules, and rules as parameters of a test."""

from __future__ import annotations

import os
import types
from typing import TYPE_CHECKING, Any

import pytest

from cnnaudit.errors import SpecError
from pytest_cnnaudit.rules import RuleReference, judged, read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cnnaudit.spec import Rule, Spec

__all__ = ["AuditFile", "parametrize"]

_OWN_MARKS = {"cnnaudit", "filterwarnings", "parametrize", "skipif", "usefixtures"}
_HOOKS = {f"{when}_{what}" for when in ("setup", "teardown") for what in ("module", "function")} | {
    "setUpModule",
    "tearDownModule",
}


class AuditFile(pytest.Module):
    """A rule file as a module of test functions, one a rule.

    They are functions so that fixtures, parametrised ones too, markers and other plugins treat them like any test.
    """

    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:
        for test in super().collect():
            if isinstance(test, pytest.Function) and "." in test.name:
                # pytest takes the dots of a name that a test ends with for those of a Python path, and shows colons.
                where = *test.reportinfo()[:2], f"rule {test.name}"
                test.reportinfo = lambda where=where: where  # type: ignore[method-assign,misc]
            yield test

    def _getobj(self) -> types.ModuleType:
        module = types.ModuleType(self.path.name)
        spec = _read(self.path)
        for rule in spec.rules:
            if rule.id in _HOOKS or rule.id.startswith(("pytest", "__")):
                told = f"{spec.place(rule)}: pytest means something else by {rule.id!r}: give the rule another id"
                raise self.CollectError(told)
            setattr(module, rule.id, _function(self.path, spec, rule))
        return module


def _function(path: Path, spec: Spec, rule: Rule) -> Any:
    reference = RuleReference(path, rule.id)
    check = lambda request: judged(request, reference).check()  # noqa: E731 - its body is on its first line
    # Where a test function begins is where pytest says that the test is. A rule that is taken over has no line here.
    line = 1 if rule.file else max(1, rule.line)
    code = check.__code__.replace(co_filename=str(path), co_firstlineno=line, co_name=rule.id)
    function: Any = types.FunctionType(code, check.__globals__, rule.id, None, check.__closure__)
    function.__test__ = True  # whatever python_functions says
    function.__doc__ = rule.why or None
    function.cnnaudit_rule = reference
    fixtures = [f"cnnaudit_{role}" for role in ("model", "data") if getattr(spec, role) is None]
    for mark in [*_marks(spec, rule), *([pytest.mark.usefixtures(*fixtures)] if fixtures else [])]:
        function = mark(function)
    return function


def parametrize(metafunc: pytest.Metafunc, marker: pytest.Mark) -> None:
    """Run a test once for each rule of the file that its marker names."""
    name = metafunc.definition.name
    if len(marker.args) != 1 or marker.kwargs or not isinstance(marker.args[0], (str, os.PathLike)):
        raise pytest.Collector.CollectError(f"{name}: @pytest.mark.cnnaudit takes the path of one rule file")
    if "cnnaudit_rule" not in metafunc.fixturenames:
        raise pytest.Collector.CollectError(f"{name} is marked cnnaudit and must take the fixture cnnaudit_rule")
    path = (metafunc.definition.path.parent / marker.args[0]).resolve()
    spec = _read(path)
    params = [pytest.param(RuleReference(path, rule.id), id=rule.id, marks=_marks(spec, rule)) for rule in spec.rules]
    metafunc.parametrize("cnnaudit_rule", params, indirect=True)


def _marks(spec: Spec, rule: Rule) -> list[pytest.MarkDecorator]:
    taken = sorted(_OWN_MARKS & set(rule.marks))
    if taken:
        raise pytest.Collector.CollectError(f"{spec.place(rule)}: {taken[0]} is a mark of pytest's own with arguments")
    try:
        return [getattr(pytest.mark, name) for name in rule.marks]
    except pytest.fail.Exception as error:  # under --strict-markers
        told = str(error)
    raise pytest.Collector.CollectError(f"{spec.place(rule)}: {told}")


def _read(path: Path) -> Spec:
    try:
        return read(path)
    except SpecError as error:
        raise pytest.Collector.CollectError(str(error)) from error
