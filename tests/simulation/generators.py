"""Populations of images whose true values are known in closed form.

An image is of some kind, and what is drawn at its positions depends on the kind: positions of one image resemble each
other, so images are the samples. Images of one source mostly are of the source's kind, which changes how much they
tell together but not the population: one truth holds with and without sources. Every unit has kinds of its own, so
units of one tensor are as many independent repetitions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import optimize, stats
from torch import Tensor

Array = NDArray[np.float64]

LIKE_ITS_SOURCE = 0.7  # probability that an image is of its source's kind
WINDOW = 4  # entries of a 2x2 window


@dataclass(frozen=True)
class Sample:
    """Images, the true value of each unit, and what else ``cnnaudit.measure`` wants to know."""

    tensors: tuple[Tensor, ...]
    truth: float | Array
    facts: dict[str, Any] = field(default_factory=dict)


def from_sources(images: int, per_source: int) -> dict[str, Any]:
    """The argument of ``measure`` that tells which source an image comes from; none where each is its own."""
    return {"sources": np.arange(images) // per_source} if per_source > 1 else {}


def kinds(p: Array, images: int, units: int, rng: Generator, per_source: int = 1) -> NDArray[np.int64]:
    """Draw the kind of each image for each unit, shape (images, units).

    Args:
        p: Probability of each kind; one row for each image where they differ, the same within a source.
        images: Number of images.
        units: Number of units.
        rng: Source of randomness.
        per_source: Images of a source.
    """

    def drawn(p: Array, rows: int) -> NDArray[np.int64]:
        u, kind = rng.random((rows, units), np.float32), np.zeros((rows, units), np.int64)
        for edge in np.moveaxis(p.cumsum(-1), -1, 0)[:-1]:
            kind += u >= edge[..., None]
        return kind

    own = drawn(p, images)
    if per_source == 1:
        return own
    of_source = drawn(p[::per_source] if p.ndim == 2 else p, -(-images // per_source))
    return np.where(rng.random(own.shape) < LIKE_ITS_SOURCE, of_source.repeat(per_source, 0)[:images], own)


def entropy(p: Array) -> float:
    """Entropy of a distribution in bits."""
    positive = p[p > 0]
    return float(-(positive * np.log2(positive)).sum())


@dataclass(frozen=True)
class Activity:
    """Maps whose positions are active at a rate that the image's kind decides; active values are exponential.

    Attributes:
        rates: Probability that a position is active, for each kind of image.
        weights: Probability of each kind.
        side: Height and width of a map.
    """

    rates: tuple[float, ...]
    weights: tuple[float, ...]
    side: int = 4

    @property
    def zeros(self) -> float:
        """True fraction of zeros."""
        return 1 - float(np.dot(self.weights, self.rates))

    @property
    def loss(self) -> float:
        """True information dimension loss of a 2x2 max pool."""
        rates = np.array(self.rates)
        kept = np.dot(self.weights, 1 - (1 - rates) ** WINDOW)
        return 1 - float(kept / WINDOW / np.dot(self.weights, rates))

    def maps(self, images: int, units: int, rng: Generator, per_source: int = 1) -> Tensor:
        """Draw maps, float32 of shape (images, units, side, side)."""
        rate = np.float32(self.rates)[kinds(np.array(self.weights), images, units, rng, per_source)]
        size = (images, units, self.side, self.side)
        active = rng.random(size, np.float32) < rate[..., None, None]
        return torch.from_numpy(active * rng.standard_exponential(size, np.float32))


@dataclass(frozen=True)
class Levels:
    """Maps of whole numbers, drawn at every position from a distribution that the image's kind decides.

    Attributes:
        p: Probability of each level, for each kind of image.
        weights: Probability of each kind.
        side: Height and width of a map.
    """

    p: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    side: int = 8

    @property
    def losses(self) -> dict[str, float]:
        """True entropy loss of a 2x2 max pool, by field of the metric."""
        cells, highest = np.zeros(1), np.zeros(1)
        for p, weight in zip(np.array(self.p), self.weights, strict=True):
            cells = cells + weight * np.einsum("i,j,k,l->ijkl", p, p, p, p).ravel()
            highest = highest + weight * np.diff(p.cumsum() ** WINDOW, prepend=0)
        bits = entropy(cells) - entropy(highest)
        return {"bits": bits, "relative": bits / entropy(cells)}

    def maps(self, images: int, units: int, rng: Generator, per_source: int = 1) -> Tensor:
        """Draw maps, uint8 of shape (images, units, side, side)."""
        kind = kinds(np.array(self.weights), images, units, rng, per_source)
        u = rng.random((images, units, self.side, self.side), np.float32)
        level = np.zeros(u.shape, np.uint8)
        for edge in np.float32(self.p).cumsum(1).T[:-1]:
            level += u >= edge[kind][..., None, None]
        return torch.from_numpy(level)


@dataclass(frozen=True, eq=False)
class Channel:
    """One response an image, a level that its class decides; classes are equally likely.

    Attributes:
        p: Probability of each level, shape (classes, levels).
    """

    p: Array

    @classmethod
    def graded(cls, bits: float, classes: int, levels: int = 8) -> Channel:
        """Every class responds around a level of its own, so closely that the response tells so many bits."""
        distance = np.arange(levels) - np.linspace(0, levels - 1, classes)[:, None]

        def channel(log_width: float) -> Channel:
            p = np.exp(-((distance / np.exp(log_width)) ** 2))
            return cls(p / p.sum(1, keepdims=True))

        return channel(optimize.brentq(lambda width: channel(width).information - bits, -1.5, 6))

    @classmethod
    def noisy(cls, bits: float, classes: int, levels: int = 8) -> Channel:
        """Every class has its level and responds with any other equally often, each of them rarely."""
        own = np.eye(levels)[np.arange(classes) % levels]

        def channel(share: float) -> Channel:
            return cls(share * own + (1 - share) / levels)

        return channel(optimize.brentq(lambda share: channel(share).information - bits, 0, 1))

    @classmethod
    def detector(cls, distance: float, classes: int, levels: int = 64) -> Channel:
        """Normal responses of variance 1, cut finely; the mean of the first class is so much higher."""
        cut = np.linspace(-4, 4 + distance, levels - 1)
        below = stats.norm.cdf(cut - np.where(np.arange(classes) == 0, distance, 0.0)[:, None])
        return cls(np.diff(below, axis=1, prepend=0, append=1))

    @property
    def information(self) -> float:
        """True mutual information of level and class in bits."""
        return entropy(self.p.mean(0)) - float(np.mean([entropy(row) for row in self.p]))

    @property
    def best_auroc(self) -> float:
        """True AUROC of the class that the level tells best from all others."""
        others = (self.p.sum(0) - self.p) / (len(self.p) - 1)
        return float((self.p * (others.cumsum(1) - others / 2)).sum(1).max())

    def responses(self, images: int, units: int, rng: Generator, per_source: int = 1) -> tuple[Tensor, Tensor]:
        """Draw levels, uint8 of shape (images, units), and labels; images of one source are of one class."""
        labels = rng.integers(len(self.p), size=-(-images // per_source)).repeat(per_source)[:images]
        level = kinds(self.p[labels], images, units, rng, per_source)
        return torch.from_numpy(level.astype(np.uint8)), torch.from_numpy(labels)


@dataclass(frozen=True)
class Selectivity:
    """One response an image: often none, else gamma distributed; the first of the classes gets more of it.

    Attributes:
        index: True class selectivity index.
        classes: Number of classes, equally likely.
        active: Probability that an image has a response.
    """

    index: float
    classes: int
    active: float = 1.0

    def responses(self, images: int, units: int, rng: Generator) -> tuple[Tensor, Tensor]:
        """Draw responses, float32 of shape (images, units), and labels."""
        labels = rng.integers(self.classes, size=images)
        strength = np.where(labels == 0, (1 + self.index) / (1 - self.index), 1.0).astype(np.float32)
        x = rng.standard_exponential((images, units), np.float32) * strength[:, None]
        if self.active < 1:
            x *= rng.random(x.shape, np.float32) < self.active
        return torch.from_numpy(x), torch.from_numpy(labels)


@dataclass(frozen=True)
class Residual:
    """A skip and a branch that partly repeats it; images differ in contrast, and half of the variance is per image.

    Attributes:
        slope: Regression of the branch on the skip.
        rest: Standard deviation of what is the branch's own, that of the skip being 1.
        channels: Number of channels.
        side: Height and width of a map.
    """

    slope: float
    rest: float
    channels: int = 4
    side: int = 4

    @property
    def share(self) -> float:
        """True share of the branch in the variance of the sum."""
        branch = self.slope**2 + self.rest**2
        return (branch + self.slope) / (1 + branch + 2 * self.slope)

    def maps(self, images: int, rng: Generator) -> tuple[Tensor, Tensor]:
        """Draw skip and branch, float64 of shape (images, channels, side, side)."""
        contrast = rng.gamma(2, 0.5, (images, 1, 1, 1))
        size = (2, images, self.channels)
        x = (rng.normal(size=(*size, 1, 1)) + rng.normal(size=(*size, self.side, self.side))) * contrast
        return torch.from_numpy(x[0]), torch.from_numpy(self.slope * x[0] + self.rest * x[1])
