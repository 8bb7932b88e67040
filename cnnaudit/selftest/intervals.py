"""Intervals against exact tails, and the law of merging."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch

from cnnaudit.intervals import Binomial, Jackknife, Normal
from cnnaudit.measurement import measure
from cnnaudit.metrics import registry
from cnnaudit.selftest.case import Case
from cnnaudit.selftest.draws import normal
from cnnaudit.site import Op, Site, Tap
from cnnaudit.statistics import Probe, View

if TYPE_CHECKING:
    from cnnaudit.statistics import Statistic

__all__ = ["CASES"]

CLOPPER = "Clopper & Pearson 1934"
CHAN = "Chan, Golub & LeVeque 1983"
_IMAGES = 48


def _tail(n: int, k: int, p: float) -> float:
    """P(X >= k) of n trials, term by term."""
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


def _ends(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    low, high = Binomial(np.array([float(successes)]), trials).interval(confidence)
    return float(low[0]), float(high[0])


def _jackknifed() -> float:
    """Half the width of the jackknife's interval of the mean of (1, 2, 3)."""
    without = np.array([[2.5], [2.0], [1.5]])
    low, high = Jackknife(np.array([2.0]), without, np.ones(3)).interval(0.95)
    return float(high[0] - low[0]) / 2


def _normal_end() -> float:
    """What the normal distribution has below the upper end of a 95 % interval."""
    _, high = Normal(np.zeros(1), np.ones(1)).interval(0.95)
    return (1 + math.erf(float(high[0]) / math.sqrt(2))) / 2


def _fewest_silent() -> int:
    """Images without an activation that it takes to call a kernel dead, one-sided 95 %, at a rate of 1 %."""
    return next(
        n for n in range(290, 310) if measure("activity.dead", torch.zeros(n, 1, 1, 1), confidence=0.9).low == 1
    )


def _read(metric: str, op: Op, *blocks: range) -> Statistic:
    """What a metric's statistic holds after these images of a fixed set."""
    known = registry()[metric]
    shape = (3, 4, 4)
    site = Site("layer", op, 3, MappingProxyType({tap: Tap("", shape, atoms=(0.0,)) for tap in known.taps}))
    probe = Probe(known.reads, site, known.taps, known.options(dict(known.params())))
    statistic = known.reads(probe, 4)
    tensors = {tap: normal(_IMAGES, *shape, seed=seed).relu() for seed, tap in enumerate(known.taps)}

    def reading(block: range) -> dict[str, torch.Tensor]:
        rows = torch.tensor(block)
        return statistic.read(View({tap: x[rows] for tap, x in tensors.items()}, rows, None, 0))

    if statistic.calibrates:
        statistic.calibrate([reading(range(_IMAGES))])
    for block in blocks:
        statistic.fold(reading(block), torch.tensor(block) % 4)
    return statistic


def _difference(metric: str, op: Op) -> float:
    """Largest difference in any tally between one pass and two halves that were merged the other way round."""
    half = _IMAGES // 2
    whole = _read(metric, op, range(_IMAGES))
    merged = _read(metric, op, range(half, _IMAGES)).merge(_read(metric, op, range(half)))
    return max(float((merged.tally[name] - x).abs().max()) for name, x in whole.tally.items())


CASES = (
    Case(
        "binomial, low end",
        "chance of 5 or more of 10 at the low end of 5 of 10: 2.5 %",
        CLOPPER,
        0.025,
        lambda _: _tail(10, 5, _ends(5, 10, 0.95)[0]),
    ),
    Case(
        "never seen",
        "high end of 0 of 299 at 90 %: 1 - .05^(1/299)",
        CLOPPER,
        1 - 0.05 ** (1 / 299),
        lambda _: _ends(0, 299, 0.9)[1],
    ),
    Case(
        "surely dead",
        "silent images until a kernel surely fires in fewer than 1 %: 299",
        "rule of three",
        math.ceil(math.log(0.05) / math.log(0.99)),
        lambda _: _fewest_silent(),
    ),
    Case(
        "Student",
        "reach of the jackknifed mean of (1, 2, 3), t of 2 degrees: .95 / sqrt(2 .975 .025 3)",
        "Student 1908",
        0.95 / math.sqrt(2 * 0.975 * 0.025 * 3),
        lambda _: _jackknifed(),
    ),
    Case(
        "normal", "normal distribution below the high end of 95 %: .975", "Laplace 1812", 0.975, lambda _: _normal_end()
    ),
    Case(
        "moments merge",
        "moments of a sum's two halves, merged, less those of one pass: 0",
        CHAN,
        0,
        lambda _: _difference("branch_variance_share", Op.RESIDUAL),
    ),
    Case(
        "covariances merge",
        "covariances of two halves, merged, less those of one pass: 0",
        CHAN,
        0,
        lambda _: _difference("participation_ratio", Op.CONV),
    ),
)
