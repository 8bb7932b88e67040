"""Images and labels from files and from Python."""

from __future__ import annotations

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

from cnnaudit.errors import LoadError
from cnnaudit.load.blocks import Batch, Block, blocks

if TYPE_CHECKING:
    from torch import Tensor

    from cnnaudit.load.trust import Trust
    from cnnaudit.spec.source import Source

__all__ = ["Images", "open_images"]

_CHUNK = 64
_END = object()


class Images(ABC):
    """Images that can be visited in blocks.

    Attributes:
        source: What the images come from, for reports.
        count: Number of images, None where only reading tells.
        classes: Number of classes, None where only reading tells.
        order: ``seeded`` for a random permutation, ``as given`` where the data decides.
        met: Classes of the images read so far.
        integers: True where the images come as whole numbers.
    """

    source: str
    count: int | None
    classes: int | None
    labelled: bool
    order: str

    def __init__(self) -> None:
        self._digests = hashlib.sha256(), hashlib.sha256()
        self._read = 0
        self.met: set[int] = set()
        self.integers = False

    @abstractmethod
    def _batches(self, seed: int, limit: int | None) -> tuple[Iterable[Batch], Iterable[int]]:
        """Return batches in the order of the audit, and the images' indices in the same order."""

    def blocks(self, size: int, seed: int, limit: int | None) -> Iterator[Block]:
        """Visit at most ``limit`` images in blocks of ``size``.

        Raises:
            LoadError: a batch is not one of images of one size with one integer label each.
        """
        batches, ids = self._batches(seed, limit)
        for block in blocks(self._alike(batches), ids, size):
            for digest, tensor in zip(self._digests, (block.images, block.labels), strict=True):
                if tensor is not None:
                    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            self._read += len(block.images)
            self.met.update([] if block.labels is None else torch.unique(block.labels).tolist())
            yield block

    def _alike(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches that can be joined: images of one shape, all with labels or all without."""
        first: tuple[Any, bool] | None = None
        for images, labels in batches:
            found = tuple(images.shape[1:]), labels is not None
            first = first or found
            if found[0] != first[0]:
                raise LoadError(f"{self.source}: images of shape {found[0]} after images of shape {first[0]}")
            if found[1] != first[1]:
                raise LoadError(f"{self.source}: some batches have labels and some have none")
            yield images, labels

    def _tensor(self, images: Any, place: str, *, single: bool = False) -> Tensor:
        x = _tensor(images, place, single=single)
        self.integers = self.integers or not x.is_floating_point()
        return x if x.is_floating_point() else x.to(torch.float32)

    @property
    def facts(self) -> dict[str, Any]:
        """What was read, for the report; the digest is of images and labels in the order of the audit."""
        return {
            "source": self.source,
            "sha256": hashlib.sha256(b"".join(digest.digest() for digest in self._digests)).hexdigest(),
            "n_images": self._read,
            "available": self.count,
            "order": self.order,
        }


class _Arrays(Images):
    """Arrays that can be indexed."""

    def __init__(self, images: Any, labels: Any, source: str) -> None:
        super().__init__()
        self.images, self.source, self.order = images, source, "seeded"
        self.count = len(images)
        self.labels = None if labels is None else _labels(labels, source)
        self.labelled = labels is not None
        self.classes = None if self.labels is None else int(self.labels.max()) + 1 if self.count else None
        if self.count == 0:
            raise LoadError(f"{source}: there are no images")
        if self.labels is not None and len(self.labels) != self.count:
            raise LoadError(f"{source}: {self.count} images but {len(self.labels)} labels")

    def _batches(self, seed: int, limit: int | None) -> tuple[Iterable[Batch], Iterable[int]]:
        order = _permutation(self.count or 0, seed)[:limit]

        def read() -> Iterator[Batch]:
            for i in range(0, len(order), _CHUNK):
                index = order[i : i + _CHUNK]
                chosen = self.images[index if isinstance(self.images, torch.Tensor) else index.numpy()]
                yield self._tensor(chosen, self.source), None if self.labels is None else self.labels[index]

        return read(), order.tolist()


class _Samples(Images):
    """A map-style dataset of single samples."""

    def __init__(self, dataset: Dataset[Any], source: str) -> None:
        super().__init__()
        self.dataset, self.source, self.order = dataset, source, "seeded"
        self.count = len(dataset)  # type: ignore[arg-type]  # a map-style dataset has a length
        if self.count == 0:
            raise LoadError(f"{source}: there are no images")
        names = getattr(dataset, "classes", None)
        self.classes = len(names) if names else None
        self.labelled = self._sample(0)[1] is not None

    def _sample(self, index: int) -> Batch:
        place = f"{self.source}, image {index}"
        with _reading(place):
            sample = self.dataset[index]
        image, label = _split(sample, place)
        return self._tensor(image, place, single=True)[None], None if label is None else _labels(
            label, place, single=True
        )

    def _batches(self, seed: int, limit: int | None) -> tuple[Iterable[Batch], Iterable[int]]:
        order = _permutation(self.count or 0, seed)[:limit].tolist()

        def read() -> Iterator[Batch]:
            for i in order:
                yield self._sample(i)

        return read(), order


class _Stream(Images):
    """An iterable of batches, in the order in which it gives them."""

    def __init__(self, batches: Iterable[Any], source: str) -> None:
        super().__init__()
        self.source, self.order, self.count, self.classes = source, "as given", None, None
        iterator = _numbered(batches, source)
        _, first = next(iterator, (0, None))
        if first is None:
            raise LoadError(f"{source}: there are no images")
        self.labelled = _split(first, source)[1] is not None
        self._rest = itertools.chain([(f"{source}, batch 0", first)], iterator)

    def _batches(self, seed: int, limit: int | None) -> tuple[Iterable[Batch], Iterable[int]]:  # noqa: ARG002
        def read() -> Iterator[Batch]:
            left = limit
            for place, batch in self._rest:
                images, labels = _split(batch, place)
                x = self._tensor(images, place)[:left]
                y = None if labels is None else _labels(labels, place)[:left]
                if y is not None and len(x) != len(y):
                    raise LoadError(f"{place}: {len(x)} images but {len(y)} labels")
                yield x, y
                if left is not None:
                    left -= len(x)
                    if left <= 0:
                        return

        return read(), itertools.count()


def open_images(data: Source | Any, trust: Trust) -> Images:
    """Open the images that a source names, or that Python gives.

    Args:
        data: A source; a ``(images, labels)`` pair of arrays; a map-style dataset of ``(image, label)``; an
            iterable of batches ``(images, labels)`` or ``images``, such as a DataLoader.
        trust: What may be imported.

    Raises:
        LoadError: there is nothing there that can be read as images.
    """
    kind = getattr(data, "kind", None)
    if kind == "npz":
        return _npz(data)
    if kind in ("file_factory", "module_factory"):
        made = trust.factory(data)
        if callable(made):
            with _reading(data.written, "calling"):
                made = made(**dict(data.options))
        return _from_python(made, data.written)
    if kind is not None:
        raise LoadError(f"data {data.written}: {kind} data is not read yet; use an .npz file or a Python factory")
    return _from_python(data, f"a {type(data).__name__} from Python")


def _npz(source: Source) -> Images:
    path, place = Path(source.target), f"data {source.written}"
    if not path.is_file():
        raise LoadError(f"data: there is no file {path}")
    known = {"images": "images", "labels": "labels"}
    for name in source.options:
        if name not in known:
            raise LoadError(f"{place}: an npz has no option {name!r}; the options are {', '.join(known)}")
    names = known | dict(source.options)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            held = list(archive)
            found = {name: archive[array] for name, array in names.items() if array in held}
    except Exception as error:
        raise LoadError(f"{place}: not a readable npz of plain arrays ({error})") from error
    for name in ("images", *source.options):
        if name not in found:
            raise LoadError(f"{place}: no array {names[name]!r}; it has {', '.join(held)}")
    return _Arrays(found["images"], found.get("labels"), source.written)


def _from_python(data: Any, source: str) -> Images:
    if isinstance(data, (tuple, list)) and len(data) == 2 and hasattr(data[0], "shape"):
        images, labels = data
        labels = np.asarray(labels) if isinstance(labels, list) else labels
        if labels is None:
            return _Arrays(images, None, source)
        if hasattr(labels, "shape") and len(images.shape) >= 3 > len(labels.shape):
            return _Arrays(images, labels, source)
    if isinstance(data, (torch.Tensor, np.ndarray)):
        return _Arrays(data, None, source)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return _Samples(data, source)
    if isinstance(data, Iterable):
        return _Stream(data, source)
    raise LoadError(f"data: {source} is neither arrays, a dataset nor an iterable of (images, labels)")


@contextmanager
def _reading(place: str, doing: str = "reading") -> Iterator[None]:
    """Tell where it was that a user's data set or factory raised."""
    try:
        yield
    except Exception as error:
        raise LoadError(f"{place}: {doing} it raised {type(error).__name__}: {error}") from error


def _numbered(batches: Iterable[Any], source: str) -> Iterator[tuple[str, Any]]:
    """Batches with their place in the data."""
    with _reading(source):
        iterator = iter(batches)
    for number in itertools.count():
        place = f"{source}, batch {number}"
        with _reading(place):
            batch = next(iterator, _END)
        if batch is _END:
            return
        yield place, batch


def _permutation(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def _split(batch: Any, place: str) -> tuple[Any, Any]:
    """Return images and labels of one batch or sample."""
    if isinstance(batch, Mapping):
        raise LoadError(f"{place}: a mapping; yield (images, labels)")
    if isinstance(batch, (tuple, list)):
        if len(batch) not in (1, 2):
            raise LoadError(f"{place}: {len(batch)} values; yield (images, labels) or images")
        return batch[0], batch[1] if len(batch) == 2 else None
    return batch, None


def _tensor(images: Any, place: str, *, single: bool = False) -> Tensor:
    try:
        x = torch.as_tensor(images)
    except (TypeError, ValueError, RuntimeError) as error:
        raise LoadError(f"{place}: {type(images).__name__} is not an array of images ({error})") from error
    if x.dim() < (2 if single else 3):
        raise LoadError(f"{place}: images have shape {tuple(x.shape)}; expected (images, channels, *size)")
    return x


def _labels(labels: Any, place: str, *, single: bool = False) -> Tensor:
    try:
        y = torch.as_tensor(labels)
        y = y[None] if single else y
    except (TypeError, ValueError, RuntimeError) as error:
        raise LoadError(f"{place}: labels are not integers ({error})") from error
    if y.dim() != 1 or y.is_floating_point() or y.is_complex():
        raise LoadError(f"{place}: labels must be one integer an image, not {y.dtype} of shape {tuple(y.shape)}")
    if len(y) and int(y.min()) < 0:
        raise LoadError(f"{place}: label {int(y.min())} is negative")
    return y.long()
