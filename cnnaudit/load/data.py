"""Images, labels and further columns from files and from Python."""

from __future__ import annotations

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

from cnnaudit.errors import LoadError
from cnnaudit.load.blocks import Batch, Block, blocks
from cnnaudit.load.masks import as_masks, concepts, is_dense

if TYPE_CHECKING:
    from torch import Tensor

    from cnnaudit.load.trust import Trust
    from cnnaudit.spec.source import Source

__all__ = ["Images", "open_images", "source_id"]

_CHUNK = 64
_END = object()
_MOST_VALUES = 64  # every value has statistics of its own
_OWN = ("images", "labels", "source", "masks")
_SINGULAR = {"images": "image", "labels": "label", "masks": "mask"}


class Wanted(NamedTuple):
    """What is read beside images, labels and sources: the columns that rules slice by, and whether masks are."""

    columns: tuple[str, ...] = ()
    masks: bool = False


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
        met: Classes of the images read so far.
        integers: True where the images come as whole numbers.
    """

    count: int | None
    classes: int | None
    labelled: bool
    clustered: bool
    order: str
    masked = False
    concepts: int | None = None
    all_values = False

    def __init__(self, source: str, wanted: Wanted) -> None:
        self.source = source
        self.columns = tuple(dict.fromkeys(wanted.columns))
        self._wanted = wanted
        self.met: set[int] = set()
        self.integers = False
        self._codes: dict[str, dict[str, int]] = {name: {} for name in self.columns}
        self._digests = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        self._rows = hashlib.sha256(repr(sorted(self.columns)).encode())
        self._read = 0
        self._sources: set[int] = set()
        self._counts: dict[str, Counter[int]] = {name: Counter() for name in self.columns}

    @abstractmethod
    def _batches(self, seed: int, limit: int | None) -> tuple[Iterable[Batch], Iterable[int]]:
        """Return batches in the order of the audit, and the images' indices in the same order."""

    def blocks(self, size: int, seed: int, limit: int | None) -> Iterator[Block]:
        """Visit at most ``limit`` images in blocks of ``size``.

        Raises:
            LoadError: a batch is not one of images of one size with one integer label each, or masks are not of one
                size and form, or a column has not one value an image, one that is neither text nor a whole number, or
                too many different ones.
        """
        batches, ids = self._batches(seed, limit)
        for block in blocks(self._alike(batches), ids, size):
            for digest, tensor in zip(self._digests, (block.images, block.labels, block.masks), strict=True):
                if tensor is not None:
                    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
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

    def _alike(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches that can be joined: images of one shape, all with labels or all without, and the rest likewise."""
        first: tuple[Any, ...] | None = None
        for batch in batches:
            masks = () if batch.masks is None else (batch.masks.dtype, tuple(batch.masks.shape[1:]))
            found = tuple(batch.images.shape[1:]), batch.labels is not None, batch.sources is not None, masks
            first = first or found
            if found[0] != first[0]:
                raise LoadError(f"{self.source}: images of shape {found[0]} after images of shape {first[0]}")
            if found[1] != first[1]:
                raise LoadError(f"{self.source}: some batches have labels and some have none")
            if found[2] != first[2]:
                raise LoadError(f"{self.source}: some batches have sources and some have none")
            if bool(masks) != bool(first[3]):
                raise LoadError(f"{self.source}: some batches have masks and some have none")
            if masks != first[3]:
                raise LoadError(f"{self.source}: {_form(masks)} after {_form(first[3])}")
            yield batch

    def _batch(self, named: Mapping[str, Any], place: str, *, single: bool = False) -> Batch:
        """Read one batch, or a batch of one sample."""
        images = self._tensor(named["images"], place, single=single)
        images = images[None] if single else images
        labels = _labels(named["labels"], place, single=single) if "labels" in named else None
        if labels is not None and len(labels) != len(images):
            raise LoadError(f"{place}: {len(images)} images but {len(labels)} labels")
        coded = self._coded(named, place, len(images))
        sources = _sources(named, place, len(images)) if "source" in named else None
        masks = self._masks(named["masks"], place, images, single=single) if self._reads_masks(named) else None
        return Batch(images, labels, sources, coded, masks)

    def _reads_masks(self, named: Mapping[str, Any]) -> bool:
        return self._wanted.masks and "masks" in named

    def _masks(self, given: Any, place: str, images: Tensor, *, single: bool = False) -> Tensor:
        if single:
            given = given[None] if hasattr(given, "shape") else [given]
        return as_masks(given, place, images=len(images), dimensions=images.dim() - 2)

    def _tensor(self, images: Any, place: str, *, single: bool = False) -> Tensor:
        x = _tensor(images, place, single=single)
        self.integers = self.integers or not x.is_floating_point()
        return x if x.is_floating_point() else x.to(torch.float32)

    def _coded(self, named: Mapping[str, Any], place: str, count: int, *, ranked: bool = False) -> dict[str, Tensor]:
        """Codes of the values of every wanted column, int64 of shape (count,).

        A value's code is its place among those that were met, or in their order where all are there to be ranked.
        """
        _require(self.columns, named, place)
        coded = {}
        for name in self.columns:
            values = _values(named[name], name, place, count)
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
    def values(self) -> dict[str, list[str]]:
        """The values behind each column's codes, as far as they are known."""
        return {name: list(self._codes[name]) for name in self.columns}

    @property
    def facts(self) -> dict[str, Any]:
        """What was read, for the report; the digest is of all of it, in the order of the audit."""
        *digests, masks = self._digests
        digests += [self._rows] if self.clustered or self.columns else []
        digests += [masks] if self.masked else []
        return {
            "source": self.source,
            "sha256": hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest(),
            "n_images": self._read,
            "available": self.count,
            "order": self.order,
            "sources": len(self._sources) if self.clustered else None,
            "columns": {
                name: {value: self._counts[name][code] for code, value in enumerate(values)}
                for name, values in self.values.items()
            },
        }


class _Arrays(Images):
    """Arrays that can be indexed."""

    all_values = True

    def __init__(self, named: Mapping[str, Any], source: str, wanted: Wanted) -> None:
        super().__init__(source, wanted)
        self.images, self.order = named["images"], "seeded"
        if not getattr(self.images, "shape", ()):
            raise LoadError(f"{source}: images are a {type(self.images).__name__}, not an array of images")
        self.count = count = len(self.images)
        if count == 0:
            raise LoadError(f"{source}: there are no images")
        self.labelled, self.clustered = "labels" in named, "source" in named
        self.labels = _labels(named["labels"], source) if self.labelled else None
        if self.labels is not None and len(self.labels) != count:
            raise LoadError(f"{source}: {count} images but {len(self.labels)} labels")
        self.classes = None if self.labels is None else int(self.labels.max()) + 1
        self.coded = self._coded(named, source, count, ranked=True)
        self.sources = _sources(named, source, count) if self.clustered else None
        self.masked = self._reads_masks(named)
        self.masks = named["masks"] if self.masked else None
        if self.masked:
            self.concepts = self._checked_concepts(self.masks, count)

    def _checked_concepts(self, masks: Any, count: int) -> int:
        """Number of concepts; a few images at a time, because masks may come in a smaller type."""
        dimensions = len(self.images.shape) - 2
        if not getattr(masks, "shape", ()):
            raise LoadError(f"{self.source}: masks are a {type(masks).__name__}, not an array of masks")
        if len(masks) != count:
            raise LoadError(f"{self.source}: {count} images but {len(masks)} masks")
        chunks = (masks[i : i + _CHUNK] for i in range(0, count, _CHUNK))
        return max(concepts(as_masks(x, self.source, images=len(x), dimensions=dimensions)) for x in chunks)

    def _batches(self, seed: int, limit: int | None) -> tuple[Iterable[Batch], Iterable[int]]:
        order = _permutation(self.count or 0, seed)[:limit]

        def read() -> Iterator[Batch]:
            for i in range(0, len(order), _CHUNK):
                index = order[i : i + _CHUNK]
                images = self._tensor(_at(self.images, index), self.source)
                yield Batch(
                    images,
                    None if self.labels is None else self.labels[index],
                    None if self.sources is None else self.sources[index],
                    {name: self.coded[name][index] for name in self.columns},
                    self._masks(_at(self.masks, index), self.source, images) if self.masked else None,
                )

        return read(), order.tolist()


class _Samples(Images):
    """A map-style dataset of single samples."""

    def __init__(self, dataset: Dataset[Any], source: str, wanted: Wanted) -> None:
        super().__init__(source, wanted)
        self.dataset, self.order = dataset, "seeded"
        self.count = len(dataset)  # type: ignore[arg-type]  # a map-style dataset has a length
        if self.count == 0:
            raise LoadError(f"{source}: there are no images")
        names = getattr(dataset, "classes", None)
        self.classes = len(names) if names else None
        named, place = self._sample(0)
        _require(self.columns, named, place)
        self.labelled, self.clustered = "labels" in named, "source" in named
        self.masked = self._reads_masks(named)

    def _sample(self, index: int) -> tuple[dict[str, Any], str]:
        place = f"{self.source}, image {index}"
        with _reading(place):
            sample = self.dataset[index]
        return _named(sample, place, single=True), place

    def _batches(self, seed: int, limit: int | None) -> tuple[Iterable[Batch], Iterable[int]]:
        order = _permutation(self.count or 0, seed)[:limit].tolist()
        return (self._batch(*self._sample(i), single=True) for i in order), order


class _Stream(Images):
    """An iterable of batches, in the order in which it gives them."""

    def __init__(self, batches: Iterable[Any], source: str, wanted: Wanted) -> None:
        super().__init__(source, wanted)
        self.order, self.count, self.classes = "as given", None, None
        iterator = _numbered(batches, source)
        place, first = next(iterator, (source, None))
        if first is None:
            raise LoadError(f"{source}: there are no images")
        named = _named(first, place)
        _require(self.columns, named, place)
        self.labelled, self.clustered = "labels" in named, "source" in named
        self.masked = self._reads_masks(named)
        self._rest = itertools.chain([(place, first)], iterator)

    def _batches(self, seed: int, limit: int | None) -> tuple[Iterable[Batch], Iterable[int]]:  # noqa: ARG002
        def read() -> Iterator[Batch]:
            left = limit
            for place, given in self._rest:
                # What lies beyond the limit is not looked at: its values are none of this audit's.
                named = {name: _first(values, left) for name, values in _named(given, place).items()}
                batch = self._batch(named, place)
                yield batch
                if left is not None:
                    left -= len(batch)
                    if left <= 0:
                        return

        return read(), itertools.count()


def open_images(data: Source | Any, trust: Trust, columns: Sequence[str] = (), *, masks: bool = False) -> Images:
    """Open the images that a source names, or that Python gives.

    Args:
        data: A source; ``(images, labels)`` arrays; a map-style dataset of ``(image, label)``; an iterable of batches
            ``(images, labels)`` or ``images``, such as a DataLoader. Instead of a tuple each of them may be a mapping
            with the keys images, labels, masks, source and any column. Labels that have the images' spatial dimensions
            and are whole numbers are masks.
        trust: What may be imported.
        columns: The columns that rules slice by; of the others only ``source`` is read.
        masks: Whether a rule needs masks; they are not read otherwise.

    Raises:
        LoadError: there is nothing there that can be read as images, or a column is missing.
    """
    wanted = Wanted(tuple(columns), masks)
    kind = getattr(data, "kind", None)
    if kind == "npz":
        return _npz(data, wanted)
    if kind in ("file_factory", "module_factory"):
        made = trust.factory(data)
        if callable(made):
            with _reading(data.written, "calling"):
                made = made(**dict(data.options))
        return _from_python(made, data.written, wanted)
    if kind is not None:
        raise LoadError(f"data {data.written}: {kind} data is not read yet; use an .npz file or a Python factory")
    return _from_python(data, f"a {type(data).__name__} from Python", wanted)


def _npz(source: Source, wanted: Wanted) -> Images:
    path, place = Path(source.target), f"data {source.written}"
    if not path.is_file():
        raise LoadError(f"data: there is no file {path}")
    read = {*_OWN, *wanted.columns}
    for name in source.options:
        # Any other name is a column: one that no rule slices by, or none of those that run this time.
        if name not in read and (near := _near(name, _OWN, cutoff=0.8)):
            raise LoadError(
                f"{place}: an npz has no option {name!r}{near} the options are {', '.join(_OWN)} and columns"
            )
    names = {name: name for name in read} | dict(source.options)
    read -= set() if wanted.masks else {"masks"}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            held = list(archive)
            found = {name: archive[names[name]] for name in read if names[name] in held}
    except Exception as error:
        raise LoadError(f"{place}: not a readable npz of plain arrays ({error})") from error
    for name in ("images", *source.options):
        if names[name] not in held:
            raise LoadError(f"{place}: no array {names[name]!r}; it has {', '.join(held)}")
    _require(
        wanted.columns, [*found, *source.options, *(array for array in held if array not in names.values())], place
    )
    return _Arrays(_named(found, place), source.written, wanted)


def _from_python(data: Any, source: str, wanted: Wanted) -> Images:
    if isinstance(data, Mapping):
        return _Arrays(_named(data, source), source, wanted)
    if isinstance(data, (tuple, list)) and len(data) == 2 and hasattr(data[0], "shape"):
        images, labels = data
        labels = np.asarray(labels) if isinstance(labels, list) else labels
        flat = labels is None or (hasattr(labels, "shape") and len(images.shape) >= 3 > len(labels.shape))
        if flat or _masks_of_arrays(images, labels):
            return _Arrays(_named((images, labels), source), source, wanted)
    if isinstance(data, (torch.Tensor, np.ndarray)):
        return _Arrays({"images": data}, source, wanted)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return _Samples(data, source, wanted)
    if isinstance(data, Iterable):
        return _Stream(data, source, wanted)
    raise LoadError(f"data: {source} is neither arrays, a dataset nor an iterable of (images, labels)")


def _masks_of_arrays(images: Any, labels: Any) -> bool:
    """Whether the second of two arrays holds masks of the first, and not more images of the same form."""
    return is_dense(labels, images) and (len(labels.shape) < len(images.shape) or str(labels.dtype).endswith("bool"))


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


def _named(given: Any, place: str, *, single: bool = False) -> dict[str, Any]:
    """What whole arrays, one batch or one sample hold, by name; None is left out."""
    if isinstance(given, Mapping):
        named = {own: given[name] for own, name in _SINGULAR.items() if name in given}
        named |= {str(name): value for name, value in given.items()}
        if "images" not in named:
            raise LoadError(
                f"{place}: a mapping without images, of {', '.join(named) or 'nothing'}: name them 'images'"
            )
    elif isinstance(given, (tuple, list)):
        if len(given) not in (1, 2):
            raise LoadError(f"{place}: {len(given)} values; yield (images, labels), images, or a mapping with columns")
        named = dict(zip(("images", "labels"), given, strict=False))
    else:
        named = {"images": given}
    named = {name: value for name, value in named.items() if value is not None or name == "images"}
    if "masks" not in named and is_dense(named.get("labels"), named["images"], single=single):
        named["masks"] = named.pop("labels")
    return named


def _at(values: Any, index: Tensor) -> Any:
    return values[index if isinstance(values, torch.Tensor) else index.numpy()]


def _form(masks: tuple[Any, ...]) -> str:
    """What :meth:`Images._alike` found of masks, in words."""
    kind, shape = masks
    return f"{'masks' if kind is torch.bool else 'dense labels'} of shape {shape}"


def _require(columns: Iterable[str], known: Iterable[str], place: str) -> None:
    others = [name for name in known if name not in ("images", "image", "masks")]
    for name in columns:
        if name not in others:
            told = f"the columns are {', '.join(others)}" if others else "there are no columns"
            raise LoadError(f"{place}: no column {name!r}, which a rule slices by{_near(name, others) or ';'} {told}")


def _first(values: Any, count: int | None) -> Any:
    return values[:count] if count is not None and hasattr(values, "__len__") else values


def _near(name: str, options: Iterable[str], *, cutoff: float = 0.6) -> str:
    near = get_close_matches(name, list(options), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""


def source_id(value: str | int) -> int:
    """Return what stands for a source: the same number in all data, 64 bits of a hash of its name."""
    return int.from_bytes(hashlib.blake2b(str(value).encode(), digest_size=8).digest(), "little", signed=True)


def _sources(named: Mapping[str, Any], place: str, count: int) -> Tensor:
    return torch.tensor([source_id(value) for value in _values(named["source"], "source", place, count)])


def _values(given: Any, name: str, place: str, count: int) -> list[str | int]:
    """The values of a column; one that stands alone is one image's."""
    held = given.tolist() if hasattr(given, "tolist") else given
    held = held if isinstance(held, (list, tuple)) else [held]
    values = [value.tolist() if hasattr(value, "tolist") else value for value in held]
    for value in values:
        if not isinstance(value, (str, int)):
            raise LoadError(
                f"{place}: column {name} holds {str(value)[:40]}, a {type(value).__name__}: "
                "a column holds text or whole numbers, one an image"
            )
    if len(values) != count:
        raise LoadError(f"{place}: {count} images but {len(values)} values in column {name}")
    return values


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
