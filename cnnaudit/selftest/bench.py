"""A network whose every activation is known, and audits of it.

An image of class c holds v = (c + 1) / 4 on the black squares of a chessboard and 0 on the white ones. Of that the
network computes, in this order:

* ``stem``: a convolution and a ReLU, four kernels that give v, 0 (it reads -v and never fires), 2 v and v / 2;
* ``pool``: the maximum of 2 x 2 positions, two of which are active;
* ``same``: a residual block whose branch is a copy of its skip, which doubles everything;
* ``idle``: a residual block whose branch is 0;
* ``mean`` and ``head``: logits (2 v, 0, 4 v, v).

All of these are multiples of powers of 2, so they are exact in any arithmetic that a device may use.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cnnaudit import pipeline

if TYPE_CHECKING:
    from torch import Tensor

    from cnnaudit.result import Report, Verdict

__all__ = ["CLASSES", "IMAGES", "KERNELS", "Bench", "Known", "pictures"]

CLASSES = 4
IMAGES = 64
KERNELS = (1.0, -1.0, 2.0, 0.5)
_SIDE = 8

# (metric, site, parameters): what is measured at once, judging nothing.
_FIGURES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("activity.apoz", "stem", {}),
    ("class_information", "stem", {"estimator": "plugin"}),
    ("branch_variance_share", "same#add.0", {}),
    ("branch_variance_share", "idle#add.0", {}),
    ("block_ablation", "same#add.0", {}),
    ("block_ablation", "idle#add.0", {}),
)


class _Block(nn.Module):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.branch = nn.Conv2d(CLASSES, CLASSES, 1, bias=False)
        nn.init.dirac_(self.branch.weight)
        self.branch.weight.data.mul_(weight)

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor = x + self.branch(x)
        return summed


class Known(nn.Module):
    """The network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, CLASSES, 1, bias=False)
        self.stem.weight.data = torch.tensor(KERNELS).reshape(CLASSES, 1, 1, 1)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)
        self.same, self.idle = _Block(1.0), _Block(0.0)
        self.head = nn.Linear(CLASSES, CLASSES, bias=False)
        nn.init.eye_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.idle(self.same(self.pool(self.relu(self.stem(x))))).mean((2, 3)))
        return logits


def pictures(count: int = IMAGES) -> tuple[Tensor, Tensor]:
    """Return images, float32 of shape (count, 1, 8, 8), and their labels."""
    labels = torch.arange(count) % CLASSES
    row = torch.arange(_SIDE)
    board = ((row[:, None] + row) % 2 == 0).float()
    return board * ((labels + 1) / 4).reshape(-1, 1, 1, 1), labels


class Bench:
    """The network on a device, with what was found there; audits are carried out once."""

    def __init__(self, device: str) -> None:
        self.device = device

    @cached_property
    def model(self) -> Known:
        """The network where it runs."""
        return Known().to(self.device)

    def audit(self, *rules: dict[str, Any], data: Any = None, **keys: Any) -> Report:
        """Audit the network by rules."""
        spec = {"cnnaudit": 1, "rules": list(rules), **keys}
        return pipeline.audit(spec, model=self.model, data=pictures() if data is None else data)

    @cached_property
    def report(self) -> Report:
        """Every figure of the network, measured once."""
        return self.measure()

    def measure(self, **keys: Any) -> Report:
        """Measure every figure of the network."""
        rules = (
            {"id": f"figure{number}", "metric": metric, "at": site, "params": params, "severity": "note"}
            for number, (metric, site, params) in enumerate(_FIGURES)
        )
        return self.audit(*rules, **keys)

    def figure(self, metric: str, site: str) -> Verdict:
        """What was measured at a site, first of all its fields."""
        return next(v for v in self.report.verdicts if v.metric == metric and v.site == site)
