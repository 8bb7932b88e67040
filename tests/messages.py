"""Every message that the package can raise, read from its source: text with ``{}`` where something is filled in."""

from __future__ import annotations

import ast
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cnnaudit
import pytest_cnnaudit

if TYPE_CHECKING:
    from collections.abc import Iterator

ERRORS = {
    *("CnnAuditError", "SpecError", "LoadError", "GraphError", "MetricError", "EvidenceError", "UndecidedError"),
    *("BadParameter", "UsageError", "ArgumentTypeError"),
}
# What takes the message of one mistake of a file, and which of its arguments that is.
COMPLAINTS = {"Problem": 3, "problem": 1, "_problem": 2, "complain": 1, "_complain": 1}
# Functions that ask whether another name was meant, or say nothing.
QUESTIONS = {"did_you_mean", "near"}
# Where a ValueError becomes a message: pydantic passes it on, and its place is told.
VALIDATING = ("cnnaudit/spec/", "cnnaudit/gate/waiver_file.py")
# The words for what pydantic finds.
WORDS = "cnnaudit/spec/messages.py"
_MOST, _DEEPEST = 24, 7


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        place: ``file:line`` of the source.
        text: What is said, ``{}`` where something is filled in.
        located: Whether file, line and column are told beside it.
        arguments: What the function is called with that says it: its caller knows these names.
    """

    place: str
    text: str
    located: bool
    arguments: tuple[str, ...]


def messages() -> list[Message]:
    """Return every message of both packages in the order of their files."""
    found = []
    for package in (cnnaudit, pytest_cnnaudit):
        root = Path(package.__file__).parent
        for file in sorted(root.rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            found += _Module(file.relative_to(root.parent).as_posix(), tree).messages()
    return found


class _Module:
    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name, self.tree = name, tree
        self.functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        validates = name.startswith(VALIDATING)
        self.errors = ERRORS | {"ValueError"} if validates else ERRORS
        self.located = validates

    def messages(self) -> Iterator[Message]:
        yield from self._of(self.tree, [self.tree])

    def _of(self, node: ast.AST, scopes: list[ast.AST]) -> Iterator[Message]:
        for child in ast.iter_child_nodes(node):
            inner = [*scopes, child] if isinstance(child, ast.FunctionDef) else scopes
            told = self._told(child)
            for text in [] if told is None else self._texts(told[0], inner):
                yield Message(f"{self.name}:{child.lineno}", text, told[1], _arguments(inner[-1]))
            yield from self._of(child, inner)

    def _told(self, node: ast.AST) -> tuple[ast.expr, bool] | None:
        """The expression of a message, and whether its place is told beside it."""
        if self.name == WORDS and isinstance(node, ast.Assign) and list(_values(node, "message")):
            return node.value, True
        if not isinstance(node, ast.Call):
            return None
        name = _called(node)
        if name in COMPLAINTS and len(node.args) > COMPLAINTS[name]:
            return node.args[COMPLAINTS[name]], True
        if name in self.errors - {"SpecError"} and node.args:
            return node.args[0], self.located
        return None

    def _texts(self, node: ast.expr, scopes: list[ast.AST], depth: int = 0) -> list[str]:
        """All texts that an expression may be; ``{}`` alone where nothing is known of it."""

        def of(part: ast.expr) -> list[str]:
            return self._texts(part, scopes, depth + 1)

        match node if depth < _DEEPEST else None:
            case ast.Constant(value=str(text)):
                found = [text]
            case ast.JoinedStr(values=parts):
                found = _joined(of(part) for part in parts)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                found = _joined([of(left), of(right)])
            case ast.FormattedValue(value=ast.Name() | ast.IfExp() | ast.BoolOp() | ast.Call() as value):
                found = of(value)
            case ast.BoolOp(op=ast.Or(), values=values):
                found = [text for value in values for text in of(value) if text]
            case ast.IfExp(body=body, orelse=orelse):
                found = of(body) + of(orelse)
            case ast.Name(id=name):
                found = self._assigned(name, scopes, depth)
            case ast.Call():
                found = self._returned(node, scopes, depth)
            case _:
                found = []
        return found or ["{}"]

    def _returned(self, call: ast.Call, scopes: list[ast.AST], depth: int) -> list[str]:
        """What a call may return: of a function of the same module, of a table of texts, or a question."""
        name = _called(call)
        if name in QUESTIONS:
            return ["; did you mean {}?", ""]
        if name == "get" and isinstance(call.func.value, ast.Name):
            tables = [v for s in _own(self.tree) for v in _values(s, call.func.value.id) if isinstance(v, ast.Dict)]
            return [text for t in tables for value in t.values for text in self._texts(value, scopes, depth + 1)]
        if name not in self.functions or not isinstance(call.func, ast.Name):
            return []
        function = self.functions[name]
        values = [r.value for r in _own(function) if isinstance(r, ast.Return) and r.value is not None]
        return [text for value in values for text in self._texts(value, [self.tree, function], depth + 1)]

    def _assigned(self, name: str, scopes: list[ast.AST], depth: int) -> list[str]:
        """What a name may hold: texts that are assigned to it in the nearest scope that assigns it any."""
        for scope in reversed(scopes):
            values = [value for statement in _own(scope) for value in _values(statement, name)]
            texts = [text for value in values for text in self._texts(value, scopes, depth + 1)]
            if any(text != "{}" for text in texts):
                return texts
        return []


def _called(call: ast.Call) -> str:
    return str(getattr(call.func, "attr", getattr(call.func, "id", "")))


def _arguments(scope: ast.AST) -> tuple[str, ...]:
    return tuple(a.arg for a in scope.args.args) if isinstance(scope, ast.FunctionDef) else ()


def _joined(parts: Iterator[list[str]] | list[list[str]]) -> list[str]:
    return ["".join(several) for several in itertools.islice(itertools.product(*parts), _MOST)]


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    """The statements of a scope without those of functions in it."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            yield from _own(child)


def _values(statement: ast.AST, name: str) -> Iterator[ast.expr]:
    targets = {ast.Assign: "targets", ast.AnnAssign: "target", ast.NamedExpr: "target", ast.AugAssign: "target"}
    held = getattr(statement, targets.get(type(statement), ""), None)
    if held is None or getattr(statement, "value", None) is None:
        return
    for target in held if isinstance(held, list) else [held]:
        if isinstance(target, ast.Name) and target.id == name:
            yield statement.value
