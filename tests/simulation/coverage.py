"""How often intervals cover the truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from simulation.generators import (
    Array,
    Sample,
)

import cnnaudit

CONFIDENCE = 0.95
Bounds = tuple[Array, Array]

_VALUES = 2**24  # of one tensor


@dataclass(frozen=True)
class Target:
    """What is asked of the coverage of nominal 95 % intervals.

    Attributes:
        name: Of the kind of case.
        least: With at least 500 images, or sources.
        most: The same.
        ever: Least with 200 and more.
    """

    name: str
    least: float
    most: float
    ever: float


NOMINAL = Target("nominal", 0.93, 0.97, 0.90)
BOUNDARY = Target("boundary", 0.93, 1.0, 0.93)
SEQUENCE = Target("sequence", 0.95, 1.0, 0.95)
NAIVE = Target("none", 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Case:
    """A population and the intervals that are put to the test on it.

    Attributes:
        method: Interval method.
        metric: ``"metric.field"``, or what else is estimated.
        name: What the images are like.
        draw: ``(images, units, rng)`` -> a sample.
        target: What is asked of it.
        classes: Number of classes.
        per_source: Images of a source.
        values: Numbers that a unit of an image takes.
        units: Most units of a sample.
        bounds: The two ends of 95 % intervals.
    """

    method: str
    metric: str
    name: str
    draw: Callable[[int, int, Generator], Sample]
    target: Target = NOMINAL
    classes: int = 0
    per_source: int = 1
    values: int = 1
    units: int = 1000
    bounds: Callable[[str, Sample], Bounds] | None = None


@dataclass(frozen=True)
class Coverage:
    """How often the intervals of a case covered the truth."""

    case: Case
    images: int
    replications: int
    covered: float
    too_high: float
    too_low: float
    width: float

    @property
    def missed(self) -> bool:
        """Whether the target is missed by more than chance does in one of a hundred such simulations."""
        n, target = self.images // self.case.per_source, self.case.target
        if n < 200:
            return False
        least, most = (target.least, target.most) if n >= 500 else (target.ever, 1.0)
        slack = 2.6 * math.sqrt(0.05 * 0.95 / self.replications)
        return not least - slack <= self.covered <= most + slack


def measured(metric: str, sample: Sample) -> Bounds:
    """Intervals of the public ``measure``."""
    images = len(sample.tensors[0])
    found = cnnaudit.measure(metric, *sample.tensors, confidence=CONFIDENCE, block=images, **sample.facts)
    return np.array(found.lows), np.array(found.highs)


def cover(case: Case, images: int, replications: int, seed: int) -> Coverage:
    """Draw samples and count which intervals cover the truth."""
    rng = np.random.default_rng([seed, images])
    parts: list[tuple[Array, ...]] = []
    done = 0
    while done < replications:
        units = max(1, min(case.units, replications - done, _VALUES // (images * case.values)))
        sample = case.draw(images, units, rng)
        low, high = (case.bounds or measured)(case.metric, sample)
        done += len(low)  # a site of one value gives one, whatever was asked for
        known = ~np.isnan(low)  # what has no value has no interval and is not judged
        low, high = low[known], high[known]
        parts.append((low > sample.truth, high < sample.truth, high - low))
    above, below, width = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Coverage(case, images, len(above), 1 - above.mean() - below.mean(), above.mean(), below.mean(), width.mean())
