"""What whole layers do: shares of sums, directions of variance, likeness, usable information, weights."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch

from cnnaudit.measurement import measure
from cnnaudit.selftest.case import CONFIDENCE, Case
from cnnaudit.selftest.draws import labels, normal

if TYPE_CHECKING:
    from cnnaudit.result import Estimate

__all__ = ["CASES"]

VARIANCE = "variance of a sum"
ROY = "Roy & Vetterli 2007"
CKA = "arXiv 1905.00414"
USABLE = "arXiv 2002.10689"
FLOAT = 1e-6
SPECTRUM = (4.0, 1.0, 1.0, 1.0, 1.0)


def _sum(field: str, factor: float, _: object) -> float:
    """A field of a sum whose branch is so many times its skip."""
    skip = normal(400, 3, 6, 6)
    return measure(f"branch_variance_share.{field}", skip, factor * skip).value


def _of_independent(name: str) -> Estimate:
    """A branch of .6 times the skip and .8 times something independent."""
    skip = normal(400, 3, 6, 6)
    return measure(name, skip, 0.6 * skip + 0.8 * normal(400, 3, 6, 6, seed=1), confidence=CONFIDENCE)


def _directions(variances: tuple[float, ...]) -> torch.Tensor:
    """Images along each axis both ways, so that the covariance is diagonal in the ratio of these variances."""
    along = torch.diag(torch.tensor(variances).sqrt())
    return torch.cat([along, -along]).repeat(100, 1)


def _exponential_entropy(*sizes: float) -> float:
    total = sum(sizes)
    return math.exp(-sum(size / total * math.log(size / total) for size in sizes))


def _bits() -> tuple[torch.Tensor, torch.Tensor]:
    """Two bits of 1,200 images in all four combinations equally often."""
    number = labels(1200, 4)
    return (number // 2)[:, None].float(), (number % 2)[:, None].float()


def _usable(name: str, kind: str) -> Estimate:
    """Usable information of two bits about their combination, one of both, or whether they differ."""
    a, b = _bits()
    wanted = {"both": 2 * a + b, "and": a * b, "differ": (a != b).float()}[kind].long()[:, 0]
    read = {"usable_information": [torch.cat([a, b], 1)], "merge_information_loss": [a, b, a + b]}
    return measure(name, *read.get(name, [a, b]), labels=wanted, confidence=CONFIDENCE)


def _turned() -> torch.Tensor:
    """The same points in other coordinates, three times as far apart."""
    axes: torch.Tensor = torch.linalg.qr(normal(6, 6, seed=1)).Q
    return 3 * normal(200, 6) @ axes


CASES = (
    Case("silent branch", "share of a branch of 0: 0", VARIANCE, 0, partial(_sum, "share", 0)),
    Case("equal branch", "share of a branch that equals its skip: 1/2", VARIANCE, 1 / 2, partial(_sum, "share", 1)),
    Case(
        "opposed branch",
        "share of a branch of -1/2 the skip: (1/4 - 1/2) / (1/4) = -1",
        VARIANCE,
        -1,
        partial(_sum, "share", -0.5),
    ),
    Case(
        "mixed branch",
        "share of a branch of .6 skip + .8 noise: (1 + .6) / (2 + 1.2)",
        VARIANCE,
        1 / 2,
        lambda _: _of_independent("branch_variance_share"),
        widest=0.05,
    ),
    Case(
        "unpredictable part",
        "share of that branch that the skip does not tell: .64",
        "variance explained",
        0.64,
        lambda _: _of_independent("branch_unpredictability"),
        widest=0.1,
    ),
    Case(
        "participation",
        "participation ratio of variances (4, 1, 1, 1, 1): 64 / 20",
        "participation ratio",
        3.2,
        lambda _: measure("participation_ratio.plugin", _directions(SPECTRUM)).value,
        tolerance=FLOAT,
    ),
    Case(
        "effective rank",
        "exponential of the entropy of (4, 1, 1, 1, 1) / 8: 4",
        ROY,
        _exponential_entropy(*SPECTRUM),
        lambda _: measure("effective_rank.eigen", _directions(SPECTRUM), confidence=CONFIDENCE),
        widest=1.5,
    ),
    Case(
        "stable rank",
        "stable rank of diag(3, 2, 1): 14/9",
        "Rudelson & Vershynin 2007",
        14 / 9,
        lambda _: measure("stable_rank", torch.diag(torch.tensor([3.0, 2, 1]))),
        tolerance=FLOAT,
    ),
    Case(
        "turned and scaled",
        "linear CKA of a layer and the same turned and scaled: 1",
        CKA,
        1,
        lambda _: measure("linear_cka", normal(200, 6), _turned()).value,
        tolerance=FLOAT,
    ),
    Case(
        "half the directions",
        "linear CKA of 8 equal directions and 4 of them: sqrt(1/2)",
        CKA,
        math.sqrt(1 / 2),
        lambda _: measure("linear_cka", normal(2000, 8), normal(2000, 8)[:, :4], confidence=CONFIDENCE),
        widest=0.15,
    ),
    Case(
        "unrelated",
        "debiased linear CKA of unrelated layers: 0",
        "arXiv 2405.01012",
        0,
        lambda _: measure("linear_cka", normal(500, 64), normal(500, 64, seed=3), confidence=CONFIDENCE),
        widest=0.25,
    ),
    Case(
        "not linear",
        "what a linear reader learns from two bits about whether they differ: 0",
        USABLE,
        0,
        lambda _: _usable("usable_information", "differ"),
        widest=0.1,
    ),
    Case(
        "cost of adding",
        "what adding two bits costs a reader who wants both: 2 - 3/2",
        USABLE,
        1 / 2,
        lambda _: _usable("merge_information_loss", "both"),
        widest=0.3,
    ),
    Case(
        "what a branch adds",
        "what the second bit adds to the first about both being 1: h(1/4) - (h(1/4) - 1/2)",
        USABLE,
        1 / 2,
        lambda _: _usable("added_usable_information", "and"),
        widest=0.3,
    ),
)
