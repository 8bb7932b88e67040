"""Random projections of wide feature vectors."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from cnnaudit.lazy import np, torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["project"]


def project(x: Tensor, features: int, seed: int = 0) -> Tensor:
    """Project feature vectors to ``features`` coordinates by random signs; narrower ones are returned as they are.

    Every entry of the matrix is +-1 / sqrt(features), so that squared distances and inner products are right on
    average (Achlioptas, J. Computer and System Sciences 66 (2003), "Database-friendly random projections").

    Args:
        x: Floating-point tensor of shape (n, width).
        features: Coordinates wanted.
        seed: Decides the signs, together with ``width``: vectors of one width are always projected alike.

    Returns:
        Shape (n, min(width, features)).
    """
    width = x.shape[1]
    if width <= features:
        return x
    matrix = torch.from_numpy(2.0 * _signs(width, features, seed) - 1).to(x) / math.sqrt(features)
    return x @ matrix


@lru_cache(maxsize=8)
def _signs(width: int, features: int, seed: int) -> NDArray[np.int8]:
    return np.random.Generator(np.random.PCG64([seed, width])).integers(0, 2, (width, features), dtype=np.int8)
