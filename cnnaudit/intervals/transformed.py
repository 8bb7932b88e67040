"""Shares and correlations whose errors are told on a scale without an end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Self

from cnnaudit.intervals.base import Uncertain
from cnnaudit.intervals.jackknife import Debiased, Jackknife
from cnnaudit.intervals.normal import Normal
from cnnaudit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cnnaudit.intervals.base import Array

__all__ = ["FISHER", "UNEXPLAINED", "Scale", "Transformed"]

# What float64 sums cannot tell from 1.
_CAP = 1 - 1e-12


class Scale(NamedTuple):
    """A rising map from [0, 1) to [0, inf) and back."""

    to: Callable[[Array], Array]
    back: Callable[[Array], Array]


FISHER = Scale(lambda r: np.arctanh(r), lambda z: np.tanh(z))  # noqa: PLW0108 - numpy is imported on first use
UNEXPLAINED = Scale(lambda x: -np.log1p(-x) / 2, lambda x: -np.expm1(-2 * x))


@dataclass(frozen=True)
class Transformed(Uncertain):
    """Values in [0, 1] with the delete-a-group jackknife of their transforms.

    Near 1 the error of a correlation shrinks with its distance from 1, and Student's interval on its own scale reaches
    over the end; on Fisher's scale, atanh r, the error hardly depends on r (Biometrika 10 (1915)). Shares of explained
    variance are told as -ln(1 - R^2) / 2.

    The largest of several values is too large by chance. Where each of ``choices`` candidates had a lower end of its
    own, at confidence 1 - (1 - confidence) / choices, none would lie above the largest truth but with the error that
    is allowed; that is the lower end here.

    Attributes:
        plain: Values, shape (m,).
        scale: Where their errors are told.
        choices: Candidates among which each value is the largest.
        debias: Whether the jackknife also takes its estimate of the bias off, see :class:`Debiased`.
        open_above: True where candidates were left out, so that the truth may lie anywhere above.
        replicates: Values with one group left out, shape (groups, m); told by :meth:`regrouped` only.
        sizes: Number of images in each group, shape (groups,).
    """

    by_groups = True

    plain: Array
    scale: Scale
    choices: int = 1
    debias: bool = False
    open_above: bool = False
    replicates: Array = field(default_factory=lambda: np.zeros((0, 1)))
    sizes: Array = field(default_factory=lambda: np.zeros(0))
    limits: tuple[float, float] = (0.0, 1.0)

    @property
    def value(self) -> Array:  # type: ignore[override]  # an Uncertain's value may be derived
        return self.scale.back(self._claim.value) if self.debias else self.plain

    @property
    def _claim(self) -> Jackknife | Debiased:
        kind = Debiased if self.debias else Jackknife
        return kind(self._to(self.plain), self._to(self.replicates), self.sizes, (0.0, math.inf))

    def _to(self, x: Array) -> Array:
        return self.scale.to(np.minimum(x, _CAP))

    def interval(self, confidence: float) -> tuple[Array, Array]:
        claim, value = self._claim, self.value
        low, _ = claim.interval(1 - (1 - confidence) / self.choices)
        _, high = claim.interval(confidence)
        high = np.full_like(high, math.inf) if self.open_above else high
        return np.minimum(self.scale.back(low), value), np.maximum(self.scale.back(high), value)

    def p_at_most(self, bound: float) -> Array:
        if bound < 0:
            return self._impossible()
        if bound >= 1:
            return np.ones_like(self.plain)
        return np.minimum(1, self.choices * self._claim.p_at_most(float(self._to(np.array(bound)))))

    def p_at_least(self, bound: float) -> Array:
        if bound > 1:
            return self._impossible()
        if bound <= 0 or self.open_above:
            return np.ones_like(self.plain)
        return self._claim.p_at_least(float(self._to(np.array(bound))))

    def mean(self) -> Uncertain:
        if self.open_above:
            return Normal(np.atleast_1d(self.value.mean()), np.array([math.inf]), limits=self.limits)
        kind = Debiased if self.debias else Jackknife
        return kind(self.plain, self.replicates, self.sizes, self.limits).mean()

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:  # noqa: ARG002
        replicates = np.array([part.plain for part in parts]).reshape(-1, len(self.plain))
        return replace(self, replicates=replicates, sizes=sizes)
