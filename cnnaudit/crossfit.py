"""Cross-fitting: the class that looks best on one half of the sources is measured on the other half.

The largest of many noisy values is too large: among 1,000 classes of 50 images each, a kernel that tells none of them
apart has a best AUROC of .64. On images that had no part in the choice the chosen class has no such luck.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from cnnaudit.intervals import Uncertain
from cnnaudit.lazy import np, torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from cnnaudit.intervals import Array

__all__ = ["Selected", "choose", "eligible", "pick"]


def eligible(n: Tensor) -> Tensor:
    """Return the classes of which every half holds at least two images; of fewer there is no variance.

    Args:
        n: Images, shape (halves, classes).

    Returns:
        Their indices, int64, ascending.
    """
    return (n >= 2).all(0).nonzero()[:, 0]


def choose(score: Tensor) -> Tensor:
    """Return for each half the class that has the highest score on the other half; of one part, its own.

    Args:
        score: Shape (halves, kernels, classes), of one or two halves.

    Returns:
        int64 of shape (halves, kernels).
    """
    return score.flip(0).argmax(-1)


def pick(x: Tensor, choice: Tensor) -> Tensor:
    """Return what belongs to the chosen classes.

    Args:
        x: Shape (halves, kernels, classes, ...).
        choice: Class of each half and kernel, int64 of shape (halves, kernels).

    Returns:
        Shape (halves, kernels, ...).
    """
    return torch.take_along_dim(x, choice.reshape(*choice.shape, *(1,) * (x.dim() - 2)), 2).squeeze(2)


@dataclass(frozen=True)
class Selected(Uncertain):
    """A quantity of the best class, known from a cross-fitted and from a plug-in estimate.

    Where one class clearly is the best, the two agree. Else the cross-fitted one is too low on average, because each
    half may choose another class than the best, and the plug-in one is too high; so the lower end of the interval
    stands on the first and the upper end on the second, or on the first where that reaches higher: halves of unequal
    size count alike in the one and not in the other.

    Where nothing is to be found and one class happens to be best on both halves, both err upwards together, and the
    cross-fitted p-value is too small by up to the number of classes: its value is that class's own mean over the
    halves. Where the halves choose two classes, each is measured where it was not the best. So Bonferroni over the
    classes is valid for "no class exceeds chance". No bound from chance on is cleared before that is refuted.

    Attributes:
        value: Estimates to be shown, shape (m,).
        crossfit: The estimate that the lower end stands on.
        plugin: The estimate that the upper end stands on, too.
        choices: Classes that there were to choose from.
        chance: Value of every class where nothing is to be found; shape (m,) where it differs from unit to unit.
        excess: A quantity that is positive where the cross-fitted one truly exceeds chance, where ``crossfit`` cannot
            tell that by itself: where chance differs, or where the interval is not made for its surroundings.
    """

    value: Array
    crossfit: Uncertain
    plugin: Uncertain
    choices: int
    chance: Array | float
    excess: Uncertain | None = None

    def interval(self, confidence: float) -> tuple[Array, Array]:
        low, top = self.crossfit.interval(confidence)
        simultaneous = 1 - (1 - confidence) / self.choices
        sure = self.crossfit.interval(simultaneous)[0] > self.chance
        if self.excess is not None:
            sure = self.excess.interval(simultaneous)[0] > 0
        low = np.where(sure, low, np.minimum(low, self.chance))
        _, high = self.plugin.interval(confidence)
        return np.minimum(low, self.value), np.maximum(np.maximum(high, top), self.value)

    def p_at_most(self, bound: float) -> Array:
        return self._nested(self.crossfit.p_at_most, bound)

    def p_at_least(self, bound: float) -> Array:
        return np.maximum(self.plugin.p_at_least(bound), self.crossfit.p_at_least(bound))

    def p_below(self, bound: float) -> Array:
        return self._nested(self.crossfit.p_below, bound)

    def p_above(self, bound: float) -> Array:
        return np.maximum(self.plugin.p_above(bound), self.crossfit.p_above(bound))

    def _nested(self, p: Callable[[float], Array], bound: float) -> Array:
        """p-value of the hypothesis at a bound, not below that of chance where chance is a part of it."""
        outside = np.asarray(bound < self.chance)
        if outside.all():
            return p(bound)
        null = p(float(self.chance)) if self.excess is None else self.excess.p_at_most(0)
        return np.where(outside, p(bound), np.maximum(p(bound), np.minimum(1, self.choices * null)))

    def mean(self) -> Self:
        return replace(
            self,
            value=np.atleast_1d(self.value.mean()),
            crossfit=self.crossfit.mean(),
            plugin=self.plugin.mean(),
            chance=np.atleast_1d(np.mean(self.chance)) if self.excess else self.chance,
            excess=self.excess and self.excess.mean(),
        )

    def regrouped(self, parts: Sequence[Self], sizes: Array, units: int) -> Self:
        crossfit = self.crossfit.regrouped([part.crossfit for part in parts], sizes, units)
        plugin = self.plugin.regrouped([part.plugin for part in parts], sizes, units)
        excess = self.excess
        if excess is not None:
            rest = [part.excess for part in parts if part.excess is not None]
            excess = excess.regrouped(rest, sizes, units)
        return replace(self, crossfit=crossfit, plugin=plugin, excess=excess)
