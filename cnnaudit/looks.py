"""When results are looked at, and how much of the error is spent each time.

A decision at every one of several looks errs more often than one at the last: each look gets a part of alpha, and
the parts add up to alpha (Bonferroni), whatever is estimated and however the looks depend on each other. The last
look keeps half of it, so that looking early costs little where it does not help.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["LAST", "Look", "schedule"]

_FEWEST = 256


@dataclass(frozen=True)
class Look:
    """One look at the results.

    Attributes:
        number: Which one, from 1.
        images: Images that have been read by then; 0 where only the end of the data tells.
        spent: Share of alpha that it may spend, in (0, 1].
        last: Whether no other follows.
    """

    number: int
    images: int
    spent: float
    last: bool


LAST = Look(1, 0, 1.0, last=True)


def schedule(total: int | None, *, block: int, at_most: int | None = None) -> tuple[Look, ...]:
    """Plan looks at doubling numbers of images.

    Args:
        total: Images that will be read; None where that is unknown, and there is one look at the end.
        block: Images in a block; looks come between blocks.
        at_most: At most so many looks; by default as many as doubling from 256 images on allows.

    Returns:
        The looks in their order; the last one at ``total``.
    """
    if total is None:
        return (LAST,)
    counts = [total]
    while at_most is None or len(counts) < at_most:
        half = math.ceil(counts[0] / 2 / block) * block
        if not _FEWEST <= half < counts[0]:
            break
        counts.insert(0, half)
    early = len(counts) - 1
    spent = [0.5 / early] * early + [0.5] if early else [1.0]
    return tuple(Look(i + 1, n, spent[i], i == early) for i, n in enumerate(counts))
