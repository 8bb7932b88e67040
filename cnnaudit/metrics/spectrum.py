"""What the metrics of a layer's covariance share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.lazy import torch
from cnnaudit.site import Op, Site

if TYPE_CHECKING:
    from torch import Tensor

    from cnnaudit.statistics import Covariance

__all__ = ["LAYERS", "attainable", "eigenvalues"]

LAYERS = (Op.CONV, Op.POOL, Op.RESIDUAL, Op.MERGE, Op.CONCAT, Op.LINEAR, Op.HEAD)


def attainable(site: Site, covariance: Covariance) -> int:
    """Return the largest rank that the site's covariance can have before an activation bends it."""
    channels = covariance.tally["sum"].shape[-1]
    return min(site.rank or channels, channels)


def eigenvalues(covariance: Covariance) -> Tensor:
    """Return the eigenvalues of a pooled covariance over their sum, descending; NaN where nothing varies."""
    found: Tensor = torch.linalg.eigvalsh(covariance.matrix).flip(0).clamp(min=0)
    return found / found.sum()
