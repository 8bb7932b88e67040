"""The table at the end of a session: rules with the worst margins first."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

__all__ = ["write"]

_SHOWN = 10
_GRAVITY = ("error", "fail", "undecided", "waived", "pass", "measured", "not_applicable")
_Told = dict[str, Any]


def write(terminal: pytest.TerminalReporter) -> None:
    """Write the table, unless nothing was audited; with ``-q`` only what does not pass."""
    # Several tests may have judged the same rule in the same audit.
    distinct = {tuple(told.items()): told for told in _rules(terminal)}.values()
    found = sorted(distinct, key=lambda told: (_GRAVITY.index(told["outcome"]), _margin(told)))
    if terminal.verbosity < 0:
        found = [told for told in found if told["outcome"] not in ("pass", "measured", "not_applicable")]
    if not found:
        return
    from tabulate import tabulate  # noqa: PLC0415

    from cnnaudit.report.words import number  # noqa: PLC0415

    rows = [_row(told, number) for told in found[:_SHOWN]]
    terminal.write_sep("=", "audits, worst margins first")
    headers = ["outcome", "rule at", "rule", "site", "value", "interval", "bound"]
    terminal.write_line(tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True))
    if len(found) > _SHOWN:
        terminal.write_line(f"... and {len(found) - _SHOWN} more")


def _rules(terminal: pytest.TerminalReporter) -> Iterator[_Told]:
    """What the tests' reports tell of rules; with xdist they come from the workers."""
    for report in (report for reports in terminal.stats.values() for report in reports):
        if getattr(report, "when", None) != "call":
            continue
        told: _Told = {}
        for name, value in report.user_properties:
            if name == "cnnaudit.rule":
                told = {}
            if name.startswith("cnnaudit."):
                told[name.removeprefix("cnnaudit.")] = value
            if name == "cnnaudit.images":  # the last of a rule
                test = report.nodeid.rpartition("::")[2]
                # The name of a test of one rule also tells which model it was.
                yield told | {"rule": test if _stands_for(test, told["rule"]) else told["rule"]}


def _stands_for(test: str, rule: str) -> bool:
    """Whether a test is one rule's, by its name: ``rule``, ``rule[model]``, ``test[rule]`` or ``test[model-rule]``."""
    name, _, parameters = test.removesuffix("]").partition("[")
    return rule in (name, parameters) or parameters.endswith(f"-{rule}") or parameters.startswith(f"{rule}-")


def _row(told: _Told, number: Callable[[float | None], str]) -> list[str]:
    outcome = told["outcome"].upper().replace("_", " ")
    if told["severity"] != "error" and told["outcome"] not in ("pass", "measured"):
        outcome += f" ({told['severity']})"
    file = told["file"].rpartition("/")[2]
    row = [outcome, f"{file}:{told['line']}", told["rule"], told.get("site", "")]
    if "bound" not in told and told["outcome"] != "measured":
        return [*row, "", "", ""]
    interval = f"[{number(told.get('low'))}, {number(told.get('high'))}]"
    bound = f"{told['side']} {number(told['bound'])}" if "bound" in told else ""
    return [*row, number(told.get("value")), interval, bound]


def _margin(told: _Told) -> float:
    """Distance to the bound in half-widths of the interval: how nearly the verdict was another."""
    value: float | None = told.get("value")
    bound: float | None = told.get("bound")
    if value is None or bound is None:
        return 0.0
    distance: float = (value - bound) * (-1 if told["side"] == "max" else 1)
    half: float = (told.get("high", value) - told.get("low", value)) / 2
    if half > 0:
        return distance / half
    return math.copysign(math.inf, distance) if distance else 0.0
