"""Images in the order of the audit, in blocks of a fixed number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

__all__ = ["Batch", "Block", "blocks"]

Batch = tuple["Tensor", "Tensor | None"]


@dataclass(frozen=True)
class Block:
    """Some images in the order of the audit.

    Attributes:
        number: Position in that order, from 0.
        images: Network input, shape (n, *image).
        labels: int64 of shape (n,), or None.
        ids: Index of each image in the data, int64 of shape (n,).
    """

    number: int
    images: Tensor
    labels: Tensor | None
    ids: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Block:
        """Return the block on a device, its images as numbers of this type."""
        labels = None if self.labels is None else self.labels.to(device)
        return Block(self.number, self.images.to(device, dtype), labels, self.ids.to(device))


def blocks(batches: Iterable[Batch], ids: Iterable[int], size: int) -> Iterator[Block]:
    """Cut batches of any size into blocks of ``size`` images; the last may be shorter."""
    held: list[Batch] = []
    count, number = 0, 0
    ids = iter(ids)
    for batch in batches:
        held.append(batch)
        count += len(batch[0])
        while count >= size:
            images, labels = _joined(held)
            yield _block(number, images[:size], None if labels is None else labels[:size], ids)
            held = [(images[size:], None if labels is None else labels[size:])]
            count, number = count - size, number + 1
    if count:
        yield _block(number, *_joined(held), ids)


def _joined(held: list[Batch]) -> Batch:
    if len(held) == 1:
        return held[0]
    labels = [label for _, label in held if label is not None]
    return torch.cat([images for images, _ in held]), torch.cat(labels) if labels else None


def _block(number: int, images: Tensor, labels: Tensor | None, ids: Iterator[int]) -> Block:
    chosen = torch.tensor([next(ids) for _ in range(len(images))], dtype=torch.int64)
    # Labels wait for the grids of the first images; the loader may use its buffer again.
    return Block(number, images, None if labels is None else labels.clone(), chosen)
