"""What one case is: a question whose answer is known, what this machine answers, and what they may differ by."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnnaudit.result import Estimate

if TYPE_CHECKING:
    from collections.abc import Callable

    from cnnaudit.selftest.bench import Bench

__all__ = ["CONFIDENCE", "Case", "Result"]

# Of intervals that must hold the truth: so high that a machine which draws other numbers is not blamed for its luck.
CONFIDENCE = 0.9999


@dataclass(frozen=True)
class Result:
    """What a case came to.

    Attributes:
        group, name, what, source, claim: Of the case.
        expected, measured: The known answer and this machine's.
        low, high: Interval of ``measured``, where there is one.
        ok: Whether the claim holds.
        error: What was raised instead of an answer; empty where nothing was.
        seconds: Processor time that it took.
    """

    group: str
    name: str
    what: str
    source: str
    claim: str
    expected: float | str
    measured: float | str | None
    low: float | None
    high: float | None
    ok: bool
    error: str
    seconds: float


@dataclass(frozen=True)
class Case:
    """One closed form.

    Attributes:
        name: Short, unique in its group.
        what: What is known, as a phrase.
        source: Where it is known from.
        expected: The answer: a number, or a text that must be the same.
        ask: Returns this machine's answer: a number, an :class:`~cnnaudit.result.Estimate`, or a text; it is given the
            bench, which holds the network that all cases share.
        tolerance: By how much a number may differ.
        widest: Where random images answer: the interval at ``CONFIDENCE`` must hold the number and be no wider.
    """

    name: str
    what: str
    source: str
    expected: float | str
    ask: Callable[[Bench], Any]
    tolerance: float = 1e-9
    widest: float | None = None

    @property
    def claim(self) -> str:
        """What must hold, in words."""
        if isinstance(self.expected, str):
            return "the same"
        if self.widest is not None:
            return f"{CONFIDENCE:.2%} interval holds it and is at most {self.widest:g} wide"
        return f"within {self.tolerance:g}"

    def run(self, group: str, bench: Bench) -> Result:
        """Ask, and compare with what is known."""
        start = time.process_time()
        measured: float | str | None = None
        low = high = None
        error = ""
        try:
            answer = self.ask(bench)
            if isinstance(answer, Estimate):
                measured, low, high = answer.value, answer.low, answer.high
            else:
                measured = answer if isinstance(answer, str) else float(answer)
        except Exception as reason:  # noqa: BLE001 - whatever is raised here is a finding, and the other cases must run
            error = f"{type(reason).__name__}: {reason}"
        ok = not error and self._holds(measured, low, high)
        seconds = time.process_time() - start
        told = (self.name, self.what, self.source, self.claim, self.expected)
        return Result(group, *told, measured, low, high, ok, error, seconds)

    def _holds(self, measured: float | str | None, low: float | None, high: float | None) -> bool:
        if isinstance(self.expected, str) or isinstance(measured, str) or measured is None:
            return measured == self.expected
        if self.widest is None:
            return math.isclose(measured, self.expected, rel_tol=0, abs_tol=self.tolerance)
        return low is not None and high is not None and low <= self.expected <= high and high - low <= self.widest
