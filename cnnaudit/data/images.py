"""Images in blocks, in the order of the audit: what is common to all the places they come from."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from cnnaudit.data.blocks import Batch, Block, blocks
from cnnaudit.data.masks import as_masks
from cnnaudit.data.values import as_array, as_images, as_labels, as_sources, as_values, native, require
from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

    from cnnaudit.call import Call
    from cnnaudit.data.exclude import Excluded
    from cnnaudit.data.pseudonyms import Pseudonyms
    from cnnaudit.data.transforms import Transform

__all__ = ["Images", "Wanted", "permutation"]

_MOST_VALUES = 64  # every value has statistics of its own
_TOLD = 5
_LOOKED_THROUGH = 4096  # images, to count those that are excluded once one is found


class Wanted(NamedTuple):
    """What is read, and how.

    Attributes:
        columns: The columns that rules slice by.
        masks: Whether masks are read.
        call: How the network is called; None for what the data suggests.
        transform: What is done to each image, or None.
        max_corrupt: Fraction of images that may be unusable.
        workers: Processes that decode images, or None for a number that suits the data.
        excluded: Images that must not be among them, or None.
        pseudonyms: What images are called in reports; None for their names.
        pictures: What is done instead of ``transform`` to images that were decoded from files, or None.
    """

    columns: tuple[str, ...] = ()
    masks: bool = False
    call: Call | None = None
    transform: Transform | None = None
    max_corrupt: float = 0.01
    workers: int | None = None
    excluded: Excluded | None = None
    pictures: Transform | None = None
    pseudonyms: Pseudonyms | None = None


class Images(ABC):
    """Images that can be visited in blocks.

    Attributes:
        source: What the images come from, for reports.
        columns: The columns whose values are read beside images, labels and sources.
        count: Number of images, None where only reading tells.
        classes: Number of classes, None where only reading tells.
        labelled: True where the images have labels.
        masked: True where masks are read.
        concepts: Number of concepts that the masks tell apart, None where only reading tells.
        clustered: True where a column ``source`` tells which images belong together.
        all_values: True where every value of every column is known before an image is read.
        order: ``seeded`` for a random permutation, ``as given`` where the data decides.
        call: How the network is called with what the data holds.
        met: Classes of the images read so far.
        integers: True where the images come as whole numbers.
        files: True where every image is a file, which a manifest may name.
        hint: What may be wrong with images that the network refuses, or nothing.
    """

    count: int | None
    classes: int | None
    labelled: bool
    clustered: bool
    order: str
    call: Call
    masked = False
    concepts: int | None = None
    all_values = False
    files = False

    def __init__(self, source: str, wanted: Wanted) -> None:
        excluded = wanted.excluded
        if excluded is not None and not excluded.digests and not self.files:
            raise LoadError(
                f"exclude {excluded.path.name}: it lists files, and the images of {source} are none: list the digests "
                "of training images in a column sha256 (docs/data.md, Training images)"
            )
        self.source = source
        self.columns = tuple(dict.fromkeys(wanted.columns))
        self._wanted = wanted
        self.met: set[int] = set()
        self.integers = False
        self._unusables: list[tuple[str, str]] = []
        self.hint = ""
        self._limit: int | None = None
        self._found: list[str] = []
        self._codes: dict[str, dict[str, int]] = {name: {} for name in self.columns}
        self._digests = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        self._rows = hashlib.sha256(repr(sorted(self.columns)).encode())
        self._read = 0
        self._sources: set[int] = set()
        self._counts: dict[str, Counter[int]] = {name: Counter() for name in self.columns}

    @abstractmethod
    def _batches(self, seed: int, limit: int | None) -> Iterable[Batch]:
        """Return batches in the order of the audit."""

    def blocks(self, size: int, seed: int, limit: int | None) -> Iterator[Block]:
        """Visit at most ``limit`` images in blocks of ``size``.

        Raises:
            LoadError: a batch is not one of images of one size with one integer label each, or masks are not of one
                size and form, or a column has not one value an image, one that is neither text nor a whole number, or
                too many different ones; or more images than allowed cannot be used.
        """
        self._limit = limit if self.count is None else min(self.count, limit or self.count)
        for block in blocks(self._sound(self._alike(self._new(self._batches(seed, limit)))), size):
            for digest, tensor in zip(self._digests, (block.images, block.labels, block.masks), strict=True):
                if tensor is not None:
                    _add(digest, tensor)
            for tensor in block.others:
                _add(self._digests[0], tensor)
            self._read += len(block.images)
            self.met.update([] if block.labels is None else torch.unique(block.labels).tolist())
            self._enter(block)
            yield block

    def _enter(self, block: Block) -> None:
        """Count the values of a block's columns and make them part of the digest."""
        cells: list[list[Any]] = []
        if self.clustered:
            cells.append(block.sources.tolist())
            self._sources.update(cells[0])
        for name, values in sorted(self.values.items()):
            codes = block.columns[name].tolist()
            cells.append([values[code] for code in codes])
            self._counts[name].update(codes)
        self._rows.update("".join(f"{row}\n" for row in zip(*cells, strict=True)).encode())

    def _new(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches as long as no image is excluded; then some more are read, to say how many are."""
        read = 0
        for batch in batches:
            read += len(batch)
            if not self._found:
                yield batch
            elif read >= _LOOKED_THROUGH:
                break
        self._refuse_excluded(read)

    def _compare(self, images: Any, ids: Tensor) -> None:
        """Note which of some images, as the data gives them, are excluded; a subclass calls it before any transform."""
        if self._wanted.excluded is not None:
            same = self._wanted.excluded.images(images)
            self._found += [self._name(i) for i, known in zip(ids.tolist(), same, strict=True) if known]

    def _refuse_excluded(self, total: int) -> None:
        """Refuse the data where images were noted as excluded, of so many that were looked at."""
        if self._found and self._wanted.excluded is not None:
            raise LoadError(
                f"data {self.source}: {len(self._found)} of {total} images are in {self._wanted.excluded.path.name}: "
                f"{_told(self._found, ', ')}; audit images that the network was not trained on"
            )

    def _name(self, index: int) -> str:
        """What an image is called in messages."""
        return f"image {index}"

    def _sound(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches without the images that hold NaN or Inf; the end comes when there are too many of those."""
        read = left_out = 0
        for batch in batches:
            finite = torch.stack([_finite(x) for x in (batch.images, *batch.others)]).all(0)
            broken = batch.ids[~finite].tolist()
            for index in broken:
                self._unusable(self._name(index), "holds NaN or Inf")
            read, left_out = read + len(batch), left_out + len(broken)
            self._refuse_corrupt(self._limit)
            if len(broken) < len(batch):
                self.hint = _layout(tuple(batch.images.shape[1:]))
                yield batch[finite] if broken else batch
        # Those that could not even be read were in no batch.
        self._refuse_corrupt(read + len(self.corrupt) - left_out)

    def _unusable(self, name: str, reason: str) -> None:
        """Note an image that is left out."""
        self._unusables.append((name, reason))

    def _refuse_corrupt(self, total: int | None) -> None:
        allowed = self._wanted.max_corrupt
        if self.corrupt and total is not None and len(self.corrupt) > allowed * total:
            raise LoadError(
                f"data {self.source}: {len(self.corrupt)} of {total} images cannot be used, and max_corrupt allows "
                f"{allowed:g} of them; mend them, or allow more: {_told(self.corrupt, '; ')}"
            )

    def _alike(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches that can be joined: images of one shape, all with labels or all without, and the rest likewise."""
        first: tuple[Any, ...] | None = None
        for batch in batches:
            masks = () if batch.masks is None else (batch.masks.dtype, tuple(batch.masks.shape[1:]))
            shape, *others = (tuple(x.shape[1:]) for x in (batch.images, *batch.others))
            found = shape, batch.labels is not None, batch.sources is not None, masks, others
            first = first or found
            if found[0] != first[0]:
                raise LoadError(
                    f"{self.source}: images of shape {found[0]} after images of shape {first[0]}; give all in one shape"
                )
            if found[1] != first[1]:
                raise LoadError(f"{self.source}: some batches have labels and some have none; give all of them labels")
            if found[2] != first[2]:
                raise LoadError(
                    f"{self.source}: some batches have sources and some have none; give all of them sources"
                )
            if bool(masks) != bool(first[3]):
                raise LoadError(f"{self.source}: some batches have masks and some have none; give all of them masks")
            if masks != first[3]:
                raise LoadError(f"{self.source}: {_form(masks)} after {_form(first[3])}; give all masks in one form")
            for name, other, before in zip(self.call.names[1:], others, first[4], strict=True):
                if other != before:
                    raise LoadError(
                        f"{self.source}: {name} of shape {other} after {name} of shape {before}; give all in one shape"
                    )
            yield batch

    def _batch(self, held: Mapping[str, Any], place: str, first: int, *, single: bool = False) -> Batch:
        """Read one batch, or a batch of one sample; ``first`` is the index of its first image."""
        images = self._images(held["images"], place, single=single)
        count = len(images)
        self._compare([held["images"]] if single else held["images"], torch.arange(first, first + count))
        labels = as_labels(held["labels"], place, single=single) if "labels" in held else None
        if labels is not None and len(labels) != count:
            raise LoadError(f"{place}: {count} images but {len(labels)} labels; give one an image")
        return Batch(
            torch.arange(first, first + count),
            images,
            labels,
            as_sources(held, place, count) if "source" in held else None,
            self._coded(held, place, count),
            self._masks(held["masks"], place, images, single=single) if self._reads_masks(held) else None,
            self._others(held, place, count, single=single),
        )

    def _others(self, held: Mapping[str, Any], place: str, count: int, *, single: bool = False) -> tuple[Tensor, ...]:
        """What the network takes besides the images."""
        found = []
        for name in self.call.names[1:]:
            x = as_array(held[name], f"{place}, {name}")
            x = x[None] if single else x
            if x.dim() == 0 or len(x) != count:
                raise LoadError(
                    f"{place}: {count} images but {name} is of shape {tuple(x.shape)}; give it one row an image"
                )
            found.append(self._transformed(x) if x.dim() == self._dimensions else x)
        return tuple(found)

    def _reads_masks(self, held: Mapping[str, Any]) -> bool:
        return self._wanted.masks and "masks" in held

    def _masks(self, given: Any, place: str, images: Tensor, *, single: bool = False) -> Tensor:
        if single:
            given = given[None] if hasattr(given, "shape") else [given]
        masks = as_masks(native(given), place, images=len(images), dimensions=images.dim() - 2)
        return masks if self._wanted.transform is None else self._wanted.transform.masks(masks, self._size)

    def _images(self, images: Any, place: str, *, single: bool = False) -> Tensor:
        """Read images, shape (n, channels, *size); one alone becomes one of one."""
        x = as_images(images, place, single=single)
        x = x[None] if single else x
        self._dimensions, self._size = x.dim(), tuple(x.shape[2:])
        x = self._transformed(x)
        self.integers = self.integers or not x.is_floating_point()
        return x if x.is_floating_point() else x.to(torch.float32)

    def _transformed(self, images: Tensor) -> Tensor:
        if self._wanted.transform is None:
            return images
        try:
            return self._wanted.transform(images)
        except LoadError as error:
            raise LoadError(f"data {self.source}: {error}") from error

    def _coded(self, held: Mapping[str, Any], place: str, count: int, *, ranked: bool = False) -> dict[str, Tensor]:
        """Codes of the values of every wanted column, int64 of shape (count,).

        A value's code is its place among those that were met, or in their order where all are there to be ranked.
        """
        require(self.columns, held, place)
        coded = {}
        for name in self.columns:
            values = as_values(held[name], name, place, count)
            if ranked:
                self._code(name, sorted(set(values), key=lambda value: (isinstance(value, str), value)))
            coded[name] = self._code(name, values)
        return coded

    def _code(self, name: str, values: Iterable[str | int]) -> Tensor:
        codes = self._codes[name]
        numbers = [codes.setdefault(str(value), len(codes)) for value in values]
        if len(codes) > _MOST_VALUES:
            raise LoadError(f"{self.source}: column {name} has more than {_MOST_VALUES} values: slice by one with few")
        return torch.tensor(numbers, dtype=torch.int64)

    @property
    def corrupt(self) -> list[str]:
        """The images that could not be used so far, by their names, each with the reason."""
        return [f"{name} {reason}" for name, reason in self._unusables]

    def _reported(self, name: str, reason: str) -> str:
        """The same as a report may tell it."""
        hidden = self._wanted.pseudonyms
        return f"{name} {reason}" if hidden is None else hidden.told(name, reason)

    @property
    def values(self) -> dict[str, list[str]]:
        """The values behind each column's codes, as far as they are known."""
        return {name: list(self._codes[name]) for name in self.columns}

    @property
    def facts(self) -> dict[str, Any]:
        """What was read, for the report; the digest is of all of it, in the order of the audit."""
        excluded = self._wanted.excluded
        *digests, masks = self._digests
        digests += [self._rows] if self.clustered or self.columns else []
        digests += [masks] if self.masked else []
        return {
            "source": self.source,
            "sha256": hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest(),
            "n_images": self._read,
            "available": self.count,
            "order": self.order,
            "transform": "" if self._wanted.transform is None else str(self._wanted.transform),
            "corrupt": {
                "count": len(self.corrupt),
                "told": [self._reported(*each) for each in self._unusables[:_TOLD]],
            },
            "excluded": None if excluded is None else {"manifest": excluded.path.name, "images": excluded.rows},
            "sources": len(self._sources) if self.clustered else None,
            "columns": {
                name: {value: self._counts[name][code] for code, value in enumerate(values)}
                for name, values in self.values.items()
            },
        }


def _form(masks: tuple[Any, ...]) -> str:
    """What :meth:`Images._alike` found of masks, in words."""
    kind, shape = masks
    return f"{'masks' if kind is torch.bool else 'dense labels'} of shape {shape}"


def permutation(count: int, seed: int) -> Tensor:
    """Return the order in which so many images are visited, int64 of shape (count,)."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def _add(digest: hashlib._Hash, tensor: Tensor) -> None:
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _finite(values: Tensor) -> Tensor:
    """Whether each image is free of NaN and Inf, bool of shape (n,)."""
    if not values.is_floating_point():
        return torch.ones(len(values), dtype=torch.bool)
    return torch.isfinite(values).reshape(len(values), math.prod(values.shape[1:])).all(1).cpu()


def _told(names: list[str], separator: str) -> str:
    """The first of some names, and dots where there are more."""
    return separator.join(names[:_TOLD] + ["..."] * (len(names) > _TOLD))


def _layout(shape: tuple[int, ...]) -> str:
    """Say of the shape of an image that its channels seem to come last; nothing where they do not."""
    *size, channels = shape
    if len(size) < 2 or channels not in (1, 3, 4) or min(size) <= 4:
        return ""
    order = ", ".join(map(str, (0, len(shape), *range(1, len(shape)))))
    return (
        f"images are of shape {shape}, as if their channels came last; torch expects {(channels, *size)}: "
        f"give np.transpose(images, ({order}))"
    )
