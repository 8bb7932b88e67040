"""Arrays that can be indexed, in memory or in files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from cnnaudit.call import Call
from cnnaudit.data.blocks import Batch
from cnnaudit.data.images import Images, Wanted, permutation
from cnnaudit.data.masks import as_masks, concepts
from cnnaudit.data.values import as_labels, as_sources, images_in, named, native
from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

__all__ = ["Arrays"]

_MOST_IMAGES = 10**7  # their order alone takes 80 MB, and a few kilobytes can inflate to more images
_MOST_VALUES = 2**28  # of an image: files that are mostly holes claim more than any memory
_MOST_BYTES = 2**30  # of a column, which is read as a whole
_CHUNK = 64
_CHUNK_VALUES = 2**21  # 8 MB of single precision


class Arrays(Images):
    """Arrays that can be indexed, in memory or in files; they are read a few images at a time."""

    all_values = True

    def __init__(self, given: Any, source: str, wanted: Wanted) -> None:
        super().__init__(source, wanted)
        self.call = wanted.call or Call.given(images_in(given, source))
        held = named(given, source, self.call)
        self.images, self.order = held["images"], "seeded"
        if not getattr(self.images, "shape", ()):
            raise LoadError(f"{source}: images are a {type(self.images).__name__}, not an array of images")
        self.count = count = len(self.images)
        if not math.prod(self.images.shape):
            raise LoadError(f"{source}: there are no images; give at least one")
        if count > _MOST_IMAGES:
            raise LoadError(f"{source}: {count:,} images; an audit takes at most {_MOST_IMAGES:,}: give a part of them")
        if math.prod(self.images.shape[1:]) > _MOST_VALUES:
            told = " x ".join(map(str, self.images.shape[1:]))
            raise LoadError(f"{source}: images of {told}, and an audit takes at most {_MOST_VALUES:,} values an image")
        self._check_lengths(held, count)
        self.others = {name: held[name] for name in self.call.names[1:]}
        # The rest is a few bytes an image, and all of it has to be known before the first one is read.
        small = {
            name: _whole(held[name], f"{source}: {name}")
            for name in ("labels", "source", *self.columns)
            if name in held
        }
        self.labelled, self.clustered = "labels" in small, "source" in small
        self.labels = as_labels(small["labels"], source) if self.labelled else None
        self.classes = None if self.labels is None else int(self.labels.max()) + 1
        self.coded = self._coded(held | small, source, count, ranked=True)
        self.sources = as_sources(small, source, count) if self.clustered else None
        self.masked = self._reads_masks(held)
        self.masks = held["masks"] if self.masked else None
        if self.masked:
            self.concepts = self._checked_concepts(self.masks, count)

    def _check_lengths(self, held: dict[str, Any], count: int) -> None:
        """Refuse arrays that are not one value an image, before any of them is read."""
        for name in ("labels", *self.call.names[1:], *(("masks",) if self._reads_masks(held) else ())):
            if not getattr(held.get(name), "shape", ()):
                continue  # a list, or nothing, is judged by what reads it
            if len(held[name]) != count:
                told = name if name in ("labels", "masks") else f"of {name}"
                raise LoadError(f"{self.source}: {count} images but {len(held[name])} {told}; give one an image")
        for name in ("source", *self.columns):
            if getattr(held.get(name), "shape", ()) and len(held[name]) != count:
                raise LoadError(
                    f"{self.source}: {count} images but {len(held[name])} values in column {name}; give one an image"
                )

    def _checked_concepts(self, masks: Any, count: int) -> int:
        """Number of concepts; a few images at a time, because masks may come in a smaller type."""
        dimensions = len(self.images.shape) - 2
        if not getattr(masks, "shape", ()):
            raise LoadError(f"{self.source}: masks are a {type(masks).__name__}, not an array of masks")
        chunks = (native(masks[part]) for part in _parts(count, masks))
        return max(concepts(as_masks(x, self.source, images=len(x), dimensions=dimensions)) for x in chunks)

    def _batches(self, seed: int, limit: int | None) -> Iterable[Batch]:
        order = permutation(self.count or 0, seed)[:limit]
        for part in _parts(len(order), self.images):
            index = order[part]
            given = _at(self.images, index)
            self._compare(given, index)
            images = self._images(given, self.source)
            yield Batch(
                index,
                images,
                None if self.labels is None else self.labels[index],
                None if self.sources is None else self.sources[index],
                {name: self.coded[name][index] for name in self.columns},
                self._masks(_at(self.masks, index), self.source, images) if self.masked else None,
                self._others({k: _at(x, index) for k, x in self.others.items()}, self.source, len(index)),
            )


def _parts(count: int, values: Any) -> Iterator[slice]:
    """Cut so many rows of an array into parts that fit in memory."""
    size = max(1, min(_CHUNK, _CHUNK_VALUES // max(1, math.prod(values.shape[1:]))))
    return (slice(i, min(i + size, count)) for i in range(0, count, size))


def _at(values: Any, index: Tensor) -> Any:
    return values[index if isinstance(values, torch.Tensor) else index.numpy()]


def _whole(values: Any, place: str) -> Any:
    """Return a column as an array in memory; what cannot be one is left where it is, to be refused."""
    in_memory = isinstance(values, (list, tuple)) or not hasattr(values, "shape") or hasattr(values, "tolist")
    if in_memory or len(values.shape) > 2:
        return values
    size = math.prod(values.shape) * values.dtype.itemsize
    if size > _MOST_BYTES:
        raise LoadError(f"{place}: {size:,} bytes, and one short text or number for each image is meant")
    return values[:]
