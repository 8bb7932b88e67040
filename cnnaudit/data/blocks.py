"""Images in the order of the audit, in blocks of a fixed number."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

__all__ = ["Batch", "Block", "blocks"]


@dataclass(frozen=True)
class Batch:
    """Some images as the data gives them.

    Attributes:
        ids: Index of each image in the data, int64 of shape (n,).
        images: Network input, shape (n, *image).
        labels: int64 of shape (n,), or None.
        sources: Number that stands for each image's source, int64 of shape (n,); None where every image is its own.
        columns: Codes of each column's values, int64 of shape (n,).
        masks: Concepts at each position, int16 of shape (n, *size) or bool of shape (n, concepts, *size), or None; see
            :func:`cnnaudit.data.masks.as_masks`.
        others: What the network takes besides the images, each of shape (n, ...).
    """

    ids: Tensor
    images: Tensor
    labels: Tensor | None = None
    sources: Tensor | None = None
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Tensor | None = None
    others: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice | Tensor) -> Batch:
        """Return those images that a slice or a mask of shape (n,) names."""
        labels, sources, masks = (None if x is None else x[part] for x in (self.labels, self.sources, self.masks))
        columns = {name: codes[part] for name, codes in self.columns.items()}
        others = tuple(x[part] for x in self.others)
        return Batch(self.ids[part], self.images[part], labels, sources, columns, masks, others)


@dataclass(frozen=True)
class Block:
    """Some images in the order of the audit.

    Attributes:
        number: Position in that order, from 0.
        images: Network input, shape (n, *image).
        labels: int64 of shape (n,), or None.
        ids: Index of each image in the data, int64 of shape (n,).
        sources: Number that stands for each image's source, int64 of shape (n,); where every image is its own source,
            the image's place in the order.
        columns: Codes of the values of each column that rules slice by, int64 of shape (n,).
        masks: Concepts at each position, int16 of shape (n, *size), the class or -1 where nothing is known; or bool of
            shape (n, concepts, *size); None where there are none or no rule needs them.
        canvas: The larger images that ``images`` are the middle of, shape (n, channels, *size), or None.
        others: What the network takes besides the images, each of shape (n, ...).
        canvases: For each of these the larger pictures that it is the middle of, or None; empty without a canvas.
    """

    number: int
    images: Tensor
    labels: Tensor | None
    ids: Tensor
    sources: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Tensor | None = None
    canvas: Tensor | None = None
    others: tuple[Tensor, ...] = ()
    canvases: tuple[Tensor | None, ...] = ()

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """All that the network takes, the images first."""
        return (self.images, *self.others)

    def cropped(self, size: tuple[int, ...]) -> Block:
        """Return the block with the middle of each image as the image, and the whole of it as its canvas.

        Pictures of the same size that the network takes besides show the same scene and are cut along.

        Raises:
            LoadError: the images are smaller than that.
        """
        spatial = tuple(self.images.shape[2:])
        if len(spatial) != len(size) or any(s > c for s, c in zip(size, spatial, strict=True)):
            raise LoadError(
                f"sampling.crop of {' x '.join(map(str, size))} pixels cannot be cut from images of "
                f"{' x '.join(map(str, spatial))}; give sizes of at most that"
            )
        if self.masks is not None and tuple(self.masks.shape[-len(size) :]) != spatial:
            raise LoadError(
                "sampling.crop takes the middle of masks as well, so they must be of the images' size: "
                f"{' x '.join(map(str, spatial))}, not {' x '.join(map(str, self.masks.shape[-len(size) :]))}"
            )
        middle = [slice((c - s) // 2, (c - s) // 2 + s) for c, s in zip(spatial, size, strict=True)]
        within = (slice(None), slice(None), *middle)
        images = self.images[within]
        masks = None if self.masks is None else self.masks[within[-self.masks.dim() :]]
        canvases = tuple(x if tuple(x.shape[2:]) == spatial else None for x in self.others)
        others = tuple(x if canvas is None else canvas[within] for x, canvas in zip(self.others, canvases, strict=True))
        return replace(self, images=images, masks=masks, canvas=self.images, others=others, canvases=canvases)

    def to(self, device: torch.device, dtype: torch.dtype) -> Block:
        """Return the block on a device, its images as numbers of this type.

        Of what the network takes besides, bytes and fractions become such numbers too; indices stay whole. Sources and
        columns stay on the CPU: they say where a reading goes, and are never reckoned with.
        """
        labels, masks = (None if x is None else x.to(device) for x in (self.labels, self.masks))
        images, ids = self.images.to(device, dtype), self.ids.to(device)
        canvas = None if self.canvas is None else self.canvas.to(device, dtype)
        others = tuple(_moved(x, device, dtype) for x in self.others)
        canvases = tuple(None if x is None else _moved(x, device, dtype) for x in self.canvases)
        return replace(
            self, images=images, labels=labels, ids=ids, masks=masks, canvas=canvas, others=others, canvases=canvases
        )


def _moved(values: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    measured = values.is_floating_point() or values.dtype is torch.uint8
    return values.to(device, dtype if measured else values.dtype)


def blocks(batches: Iterable[Batch], size: int) -> Iterator[Block]:
    """Cut batches of any size into blocks of ``size`` images; the last may be shorter."""
    held: list[Batch] = []
    count, number = 0, 0
    for batch in batches:
        held.append(batch)
        count += len(batch)
        while count >= size:
            joined = _joined(held)
            yield _block(number, joined[:size], number * size)
            held = [joined[size:]]
            count, number = count - size, number + 1
    if count:
        yield _block(number, _joined(held), number * size)


def _joined(held: Sequence[Batch]) -> Batch:
    if len(held) == 1:
        return held[0]
    return Batch(
        torch.cat([batch.ids for batch in held]),
        torch.cat([batch.images for batch in held]),
        _cat([batch.labels for batch in held]),
        _cat([batch.sources for batch in held]),
        {name: torch.cat([batch.columns[name] for batch in held]) for name in held[0].columns},
        _cat([batch.masks for batch in held]),
        tuple(torch.cat(several) for several in zip(*(batch.others for batch in held), strict=True)),
    )


def _cat(parts: Iterable[Tensor | None]) -> Tensor | None:
    given = [part for part in parts if part is not None]
    return torch.cat(given) if given else None


def _block(number: int, batch: Batch, first: int) -> Block:
    # Labels wait for the grids of the first images; the loader may use its buffer again.
    labels = None if batch.labels is None else batch.labels.clone()
    sources = torch.arange(first, first + len(batch)) if batch.sources is None else batch.sources
    return Block(number, batch.images, labels, batch.ids, sources, batch.columns, batch.masks, others=batch.others)
