"""Entropies and information of known distributions, and estimators on counts that fit on a page."""

from __future__ import annotations

import math

import torch

from cnnaudit import information, renyi
from cnnaudit.selftest.case import Case

__all__ = ["CASES"]

SHANNON = "Shannon 1948"
COVER = "Cover & Thomas 2006"
RENYI = "arXiv 1211.2459"
EULER = 0.5772156649015329
COUNTS = (4, 2, 1, 1)
KAPPA = math.exp(-0.5)  # similarity of two samples that are one width apart


def _table(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _bits(*p: float) -> float:
    """Entropy of probabilities, term by term."""
    return -sum(x * math.log2(x) for x in p if x)


def _plugin(counts: tuple[int, ...]) -> float:
    return _bits(*(n / sum(counts) for n in counts))


def _leave_one_out() -> float:
    """Zahl's jackknife as it is defined: one event is left out, once for each event."""
    n = sum(COUNTS)
    without = [tuple(c - (i == j) for j, c in enumerate(COUNTS)) for i in range(len(COUNTS))]
    return n * _plugin(COUNTS) - (n - 1) / n * sum(c * _plugin(w) for c, w in zip(COUNTS, without, strict=True))


def _horvitz_thompson() -> float:
    """Chao and Shen's sum over cells; two of the eight events are singletons, so the coverage is 3/4."""
    n = sum(COUNTS)
    seen = [0.75 * count / n for count in COUNTS]
    return -sum(p * math.log2(p) / (1 - (1 - p) ** n) for p in seen)


def _grassberger() -> float:
    """With G(1) = -gamma - ln 2, G(2) = G(3) = 2 + G(1) and G(4) = G(2) + 2/3."""
    one = -EULER - math.log(2)
    g = {1: one, 2: one + 2, 4: one + 2 + 2 / 3}
    return (math.log(8) - sum(n * g[n] for n in COUNTS) / 8) / math.log(2)


def _estimated(estimator: information.EntropyEstimator) -> torch.Tensor:
    return information.entropy(torch.tensor(COUNTS), estimator)


def _similar(n: int, kappa: float) -> torch.Tensor:
    """Gram matrix of n samples that are all as similar as kappa, over its trace."""
    return (torch.eye(n, dtype=torch.float64) * (1 - kappa) + kappa) / n


def _renyi(alpha: float, *eigenvalues: float) -> float:
    return math.log2(sum(value**alpha for value in eigenvalues)) / (1 - alpha)


def _parity() -> torch.Tensor:
    """Two fair bits and their parity."""
    table = torch.zeros(2, 2, 2)
    for a in range(2):
        for b in range(2):
            table[a, b, a ^ b] = 1
    return table


_NOISE = _bits(0.11, 0.89)
_CHANNEL = _table((0.445, 0.055), (0.055, 0.445))
_PAIR = (1 + KAPPA) / 2, (1 - KAPPA) / 2
_PAIR_TWICE = (1 + KAPPA**2) / 2, (1 - KAPPA**2) / 2

CASES = (
    Case("die", "entropy of a fair die: log2 6", SHANNON, math.log2(6), lambda _: information.entropy(torch.ones(6))),
    Case(
        "equivocation",
        "what a binary symmetric channel of .11 leaves unknown: h(.11)",
        COVER,
        _NOISE,
        lambda _: information.conditional_entropy(_CHANNEL),
    ),
    Case(
        "channel",
        "information through a binary symmetric channel of .11: 1 - h(.11)",
        COVER,
        1 - _NOISE,
        lambda _: information.mutual_information(_CHANNEL),
    ),
    Case(
        "independence",
        "information of independent variables: 0",
        COVER,
        0,
        lambda _: information.mutual_information(_table((1, 2, 3), (2, 4, 6))),
    ),
    Case(
        "parity",
        "total correlation of two fair bits and their parity: 1",
        "Watanabe 1960",
        1,
        lambda _: information.total_correlation(_parity(), 3),
    ),
    Case("plug-in", "entropy of counts (4, 2, 1, 1): 7/4", SHANNON, 1.75, lambda _: _estimated("plugin")),
    Case(
        "miller-madow",
        "the same counts: 7/4 + 3 / (16 ln 2)",
        "Miller 1955",
        1.75 + 3 / (16 * math.log(2)),
        lambda _: _estimated("miller_madow"),
    ),
    Case(
        "grassberger",
        "the same counts, by the recurrence of G",
        "arXiv physics/0307138",
        _grassberger(),
        lambda _: _estimated("grassberger"),
    ),
    Case(
        "chao-shen",
        "the same counts, cell by cell at coverage 3/4",
        "Chao & Shen 2003",
        _horvitz_thompson(),
        lambda _: _estimated("chao_shen"),
    ),
    Case(
        "jackknife",
        "the same counts, leaving out each event in turn",
        "Zahl 1977",
        _leave_one_out(),
        lambda _: _estimated("jackknife"),
    ),
    Case(
        "chance",
        "information that chance gives a 2 x 2 table of margins (2, 2): 1/3",
        "Vinh, Epps & Bailey 2010",
        1 / 3,
        lambda _: information.expected_mutual_information(torch.ones(2, 2)),
    ),
    Case(
        "correlated normals",
        "information of normals correlated by .6: -log2(.64) / 2",
        COVER,
        -math.log2(0.64) / 2,
        lambda _: information.gaussian_mutual_information(_table((1, 0.6), (0.6, 1)), 1),
    ),
    Case(
        "log-determinant",
        "bias of a normal's entropy from 3 samples: -gamma / (2 ln 2)",
        "Ahmed & Gokhale 1989",
        -EULER / (2 * math.log(2)),
        lambda _: information.gaussian_entropy_bias(1, 3),
    ),
    Case(
        "renyi of equals",
        "matrix entropy of 8 equal samples: 0",
        RENYI,
        0,
        lambda _: renyi.entropy(renyi.gram(torch.ones(8, 3, dtype=torch.float64), "dimension"), 1.01),
    ),
    Case(
        "renyi of a pair",
        "order 2 of two samples, eigenvalues (1 +- e^-1/2) / 2",
        RENYI,
        _renyi(2, *_PAIR),
        lambda _: renyi.entropy(_similar(2, KAPPA), 2),
    ),
    Case(
        "renyi's limit",
        "order 1 of the same: Shannon's entropy of the eigenvalues",
        RENYI,
        _bits(*_PAIR),
        lambda _: renyi.entropy(_similar(2, KAPPA), 1),
    ),
    Case(
        "renyi of itself",
        "order 1.01 information of a pair with itself: twice its entropy less that of its squares",
        "arXiv 1808.07912",
        2 * _renyi(1.01, *_PAIR) - _renyi(1.01, *_PAIR_TWICE),
        lambda _: renyi.information(_similar(2, KAPPA), _similar(2, KAPPA), 1.01),
    ),
)
