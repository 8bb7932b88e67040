"""The rules that a starter file offers: few, and each one a fault that an engineer can act on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cnnaudit.gate.calibration import Scale

__all__ = ["CANDIDATES", "Candidate"]


@dataclass(frozen=True)
class Candidate:
    """A rule less its bound.

    Attributes:
        id, why, metric, params, op, estimand: As a rule has them.
        side: The bound that it needs.
        scale: On which its spread between networks is predicted.
        start: A bound to begin with where there is nothing to calibrate from.
        each: Whether each unit is judged, because the mean says nothing; else it is the mean.
        late: Whether only the later sites are meant.
        at: The sites, once they are known; empty for all.
    """

    id: str
    why: str
    metric: str
    side: Literal["min", "max"]
    scale: Scale
    start: float
    op: str
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    estimand: str = ""
    each: bool = False
    late: bool = False
    at: tuple[str, ...] = ()

    @property
    def entry(self) -> dict[str, Any]:
        """The rule as a file has it, without a bound."""
        given = {
            "id": self.id,
            "why": self.why,
            "metric": self.metric,
            "params": dict(self.params),
            "op": self.op,
            "at": list(self.at),
            "estimand": self.estimand,
            "reduce": "" if self.each else "mean",
        }
        return {key: value for key, value in given.items() if value}


CANDIDATES = (
    Candidate(
        "kernels-fire",
        "A kernel that no image activates is paid for at every image and does nothing.",
        "activity.dead",
        "max",
        "count",
        0.0,
        "conv",
        estimand="dataset",
    ),
    Candidate(
        "maps-are-not-silent",
        "ReLU makes maps sparse; maps that are zero nearly everywhere pass nothing on.",
        "activity.apoz",
        "max",
        "fraction",
        0.9,
        "conv",
    ),
    Candidate(
        "late-kernels-know-the-class",
        "Early kernels may be general; late ones that say nothing about the class waste their channels.",
        "class_information",
        "min",
        "positive",
        0.1,
        "conv",
        late=True,
    ),
    Candidate(
        "filters-differ",
        "A filter that another one repeats adds nothing.",
        "duplicate_filters",
        "max",
        "fraction",
        0.95,
        "conv",
    ),
    Candidate(
        "directions-are-used",
        "A layer whose variance lies in a few directions is narrower than it was built.",
        "participation_ratio.of_rank",
        "min",
        "positive",
        0.05,
        "conv",
    ),
    Candidate(
        "pools-keep-entropy",
        "Neighbours are correlated, so a pool should lose less than it would of unrelated values.",
        "pool_entropy_loss",
        "max",
        "fraction",
        0.9,
        "pool",
        params={"levels": 4},
    ),
    Candidate(
        "pools-keep-active-values",
        "A pool that drops nearly all active values cuts the signal off.",
        "pool_information_dimension_loss",
        "max",
        "fraction",
        0.95,
        "pool",
    ),
    Candidate(
        "branches-contribute",
        "A residual branch that adds nothing to the sum is a block that does nothing.",
        "branch_variance_share",
        "min",
        "fraction",
        0.02,
        "residual",
    ),
    Candidate(
        "skips-still-carry",
        "Where the branch is all of the sum, the block is no longer residual.",
        "branch_variance_share.skip_share",
        "min",
        "fraction",
        0.02,
        "residual",
    ),
    Candidate(
        "inputs-contribute",
        "An input of a concatenation from which the next convolution takes nothing need not be there.",
        "concat_share",
        "min",
        "fraction",
        0.01,
        "concat",
        each=True,
    ),
    Candidate(
        "gates-vary",
        "A gate that is the same for every image is a constant that could be folded into the weights.",
        "gate_activity.between_images",
        "min",
        "positive",
        0.01,
        "gate",
    ),
)
