"""What downsampling loses, of windows that hold every combination of levels once or whose law is known."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from cnnaudit.measurement import measure
from cnnaudit.selftest.case import CONFIDENCE, Case
from cnnaudit.selftest.draws import normal, uniform

if TYPE_CHECKING:
    from cnnaudit.result import Estimate

__all__ = ["CASES"]

GEIGER = "arXiv 1203.6791"
SHANNON = "Shannon 1948"
ZHANG = "arXiv 1904.11486"
FLOAT = 1e-6
NOISE = 0.1


def _bits(*p: float) -> float:
    return -sum(x * math.log2(x) for x in p)


def _every_window(levels: int) -> torch.Tensor:
    """Each 2 x 2 window of so many levels once: the values in it are independent and uniform."""
    axis = torch.arange(levels)
    return torch.cartesian_prod(axis, axis, axis, axis).reshape(-1, 1, 2, 2)


def _largest(levels: int) -> float:
    """Entropy of the largest of four independent uniform levels."""
    below = [(level / levels) ** 4 for level in range(levels + 1)]
    return _bits(*(b - a for a, b in itertools.pairwise(below)))


def _equal_pixels() -> torch.Tensor:
    """Noise of which every value fills a window."""
    return normal(60, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)


def _half_alike() -> torch.Tensor:
    """Normal maps of unit variance whose values within a window correlate by 1/2."""
    shared = normal(400, 1, 8, 8, seed=2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return math.sqrt(0.5) * (shared + normal(400, 1, 16, 16))


def _half_active() -> torch.Tensor:
    """Positive values at a random half of the positions, 0 elsewhere."""
    return (uniform(400, 1, 16, 16) < 0.5) * (uniform(400, 1, 16, 16, seed=1) + 0.1)


def _one_active() -> torch.Tensor:
    """Windows with one active value each, at each position in turn."""
    return torch.eye(4).reshape(4, 1, 2, 2)


def _lost(op: str, levels: int, _: object) -> float:
    windows = _every_window(levels)
    return measure("pool_entropy_loss.bits", windows, op=op, levels=levels, kernel=2, estimator="plugin").value


def _dimension(op: str, maps: torch.Tensor) -> Estimate:
    return measure("pool_information_dimension_loss", maps, op=op, kernel=2, confidence=CONFIDENCE)


def _of_windows(name: str, maps: torch.Tensor, **options: Any) -> Estimate:
    return measure(name, maps, kernel=2, confidence=CONFIDENCE, **options)


def _aliased(maps: torch.Tensor) -> Estimate:
    return measure("aliased_energy_fraction", maps, kernel=1, stride=2, op="stride", confidence=CONFIDENCE)


CASES = (
    Case(
        "max of bits",
        "entropy that the maximum of four independent bits loses: 4 - h(1/16)",
        SHANNON,
        4 - _largest(2),
        partial(_lost, "max", 2),
    ),
    Case(
        "average of bits",
        "entropy that their rounded average loses: 4 - h(11/16)",
        SHANNON,
        4 - _bits(11 / 16, 5 / 16),
        partial(_lost, "avg", 2),
    ),
    Case("stride over bits", "entropy that taking the first loses: 3", SHANNON, 3, partial(_lost, "stride", 2)),
    Case(
        "equal pixels",
        "relative loss of a window of equal pixels: 0",
        SHANNON,
        0,
        lambda _: _of_windows("pool_entropy_loss", _equal_pixels(), op="max", levels=4),
        widest=FLOAT,
    ),
    Case(
        "dense",
        "dimensions that max pooling of a dense map loses: 3 of 4",
        GEIGER,
        3 / 4,
        lambda _: _dimension("max", uniform(5, 1, 4, 4) + 0.1).value,
    ),
    Case(
        "half active",
        "dimensions that it loses where a random half is active: 1 - (1 - 1/16) / 2",
        GEIGER,
        1 - (1 - 1 / 16) / 2,
        lambda _: _dimension("max", _half_active()),
        widest=0.02,
    ),
    Case(
        "sparse, min",
        "dimensions that min pooling of these loses: all",
        GEIGER,
        1,
        lambda _: _dimension("min", _one_active()).value,
    ),
    Case(
        "copies within windows",
        "total correlation of four copies of a bit: 3",
        "Watanabe 1960",
        3,
        lambda _: _of_windows(
            "window_total_correlation",
            (torch.arange(200) % 2).reshape(200, 1, 1, 1).expand(200, 1, 2, 2).contiguous(),
            levels=2,
            estimator="plugin",
        ),
        widest=0.2,
    ),
    Case(
        "alike within windows",
        "total correlation of four normals correlated by 1/2: -log2(5/16) / 2",
        "Watanabe 1960",
        -math.log2(5 / 16) / 2,
        lambda _: _of_windows("window_total_correlation.gaussian", _half_alike()),
        widest=0.12,
    ),
    Case(
        "normal windows, average",
        "bits that their average loses above noise of deviation .1: 3/2 log2(1 + 50)",
        "Cover & Thomas 2006",
        1.5 * math.log2(1 + 0.5 / NOISE**2),
        lambda _: _of_windows(
            "pool_gaussian_information_loss.bits", _half_alike(), op="avg", noise=NOISE, absolute=True
        ),
        widest=0.15,
    ),
    Case(
        "blur of noise",
        "bits that the mean of white noise in 2 x 2 loses above noise of .1: 3/2 log2(101)",
        "Cover & Thomas 2006",
        1.5 * math.log2(101),
        lambda _: measure(
            "convolution_information_loss.bits",
            normal(500, 1, 8, 8),
            torch.full((1, 1, 2, 2), 0.5),
            stride=2,
            op="conv",
            noise=NOISE,
            confidence=CONFIDENCE,
        ),
        widest=0.2,
    ),
    Case(
        "white noise",
        "energy of white noise of 16 x 16 that every second position cannot tell: 175 of 255 frequencies",
        ZHANG,
        175 / 255,
        lambda _: _aliased(normal(200, 1, 16, 16)),
        widest=0.05,
    ),
)
