"""Map-style datasets of single samples, read in processes of their own where that pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from cnnaudit.call import Call, are_several
from cnnaudit.data.images import Images, Wanted, permutation
from cnnaudit.data.masks import as_masks
from cnnaudit.data.pictures import of_pillow
from cnnaudit.data.reading import Failed, Fetch, read
from cnnaudit.data.values import as_array, as_images, images_in, named, require
from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from cnnaudit.data.blocks import Batch
    from cnnaudit.data.exclude import Excluded
    from cnnaudit.data.transforms import Transform

__all__ = ["EXCLUDED", "Samples", "visitable"]

EXCLUDED = "\0excluded"  # beside what a sample holds, under a name that no column has: whether it must not be there


class Samples(Images):
    """A map-style dataset of single samples.

    Args:
        dataset: What has a length and items.
        source: What the images come from, for reports.
        wanted: What is read, and how.
        loader: A loader whose way of joining samples is kept, or None.
    """

    def __init__(self, dataset: Any, source: str, wanted: Wanted, loader: DataLoader[Any] | None = None) -> None:
        super().__init__(source, wanted)
        self.dataset, self.order, self.loader = dataset, "seeded", loader
        self.count = len(dataset)
        if self.count == 0:
            raise LoadError(f"{source}: there are no images; give at least one")
        names = getattr(dataset, "classes", None)
        self.classes = len(names) if isinstance(names, Sequence) and names else None
        self._collate = None if loader is None or loader.collate_fn is default_collate else loader.collate_fn
        sample, place = self._first()
        sample, pictures = of_pillow(sample)
        # It is done where the samples are read, and not once more.
        self._transform = wanted.pictures if pictures or self.files else wanted.transform
        self._wanted = wanted._replace(transform=None)
        self.call = wanted.call or Call.given(images_in(sample, place))
        held = named(sample, place, self.call, single=self._collate is None)
        require(self.columns, held, place)
        self.labelled, self.clustered = "labels" in held, "source" in held
        self.masked = self._reads_masks(held)

    def _place(self, index: int) -> str:
        return f"{self.source}, {self._name(index)}"

    def _first(self) -> tuple[Any, str]:
        """The first sample that can be read, or a batch of it, and what it is called."""
        fetch = Fetch(self.dataset, seed=0, collate=self._collate)
        for index in range(self.count or 0):
            _, found, failures = fetch.joined([fetch[index]])
            if found:
                self._unusables.clear()
                return found[0], self._place(index)
            self._note(failures)
            self._refuse_corrupt(self.count)
        raise LoadError(f"{self.source}: there are no images; give at least one")

    def _note(self, failures: Iterable[Failed]) -> None:
        for failed in failures:
            if failed.fatal:
                raise LoadError(f"{self._place(failed.index)}: {failed.reason}")
            self._unusable(self._name(failed.index), failed.reason)

    def _batches(self, seed: int, limit: int | None) -> Iterable[Batch]:
        order = permutation(self.count or 0, seed)[:limit].tolist()
        single = self._collate is None
        fetch = Fetch(self.dataset, seed=seed, collate=self._collate, prepare=self._prepare())
        shapes: dict[str, tuple[int, ...]] = {}
        for indices, found, failures in read(fetch, order, self._workers(len(order)), self.loader, self._place):
            self._note(failures)
            groups = [[index] for index in indices] if single else [indices]
            for group, held in zip(groups, found, strict=False):
                place = self._place(group[0]) if single else f"{self.source}, images {', '.join(map(str, group))}"
                batch = self._batch(held, place, group[0], single=single)
                if len(batch) != len(group):
                    raise LoadError(
                        f"{place}: the loader's collate_fn made {len(batch)} images of them, and each must stay one"
                    )
                self._check_size(batch, place, shapes)
                self._found += [self._name(i) for i, same in zip(group, held[EXCLUDED], strict=True) if same]
                yield replace(batch, ids=torch.tensor(group))

    def _prepare(self) -> _Prepare:
        names = {*self.call.names, "images", "labels", "source", *self.columns} | ({"masks"} if self.masked else set())
        return _Prepare(self.call, self._transform, self._wanted.excluded, names, single=self._collate is None)

    def _compare(self, images: Any, ids: Tensor) -> None:
        """Nothing: images are compared where they are read."""

    def _check_size(self, batch: Batch, place: str, met: dict[str, tuple[int, ...]]) -> None:
        own = tuple(batch.images.shape[1:])
        if not met:
            met[place] = own
        first, size = next(iter(met.items()))
        if own != size:
            raise LoadError(
                f"{first} is {' x '.join(map(str, size))} and {place} is {' x '.join(map(str, own))}: a network takes "
                "images of one size, so write what is done to them, such as "
                "transform: [{resize: 256}, {crop: 224}, {scale: 255}]"
            )

    def _workers(self, count: int) -> int:  # noqa: ARG002 - what is worth a process depends on how many there are
        """Processes that read so many images."""
        if self._wanted.workers is not None:
            return self._wanted.workers
        return 0 if self.loader is None else self.loader.num_workers

    @property
    def facts(self) -> dict[str, Any]:
        """What was read, and what was done to it."""
        return super().facts | {"transform": "" if self._transform is None else str(self._transform)}


class _Prepare:
    """What is done to a sample, or to a batch of several, where it is read."""

    def __init__(
        self, call: Call, transform: Transform | None, excluded: Excluded | None, names: set[str], *, single: bool
    ) -> None:
        self._call, self._transform, self._excluded = call, transform, excluded
        self._names, self._single = names, single

    def __call__(self, given: Any) -> dict[str, Any]:
        sample, _ = of_pillow(given)
        held = named(sample, "", self._call, single=self._single)
        held = {name: x for name, x in held.items() if name in self._names} | {EXCLUDED: self._known(given, held)}
        return held if self._transform is None else held | self._done(held, self._transform)

    def _known(self, given: Any, held: Mapping[str, Any]) -> list[bool]:
        """Whether each image is excluded; an image is compared as the data gives it."""
        if EXCLUDED in held:
            return [held[EXCLUDED]]
        if self._excluded is None:
            return [False] * (1 if self._single else len(held["images"]))
        images = images_in(given, "")
        if are_several(images) or images is None:
            images = held["images"]
        return self._excluded.images([images] if self._single else images)

    def _done(self, held: Mapping[str, Any], transform: Transform) -> dict[str, Any]:
        """The images, what has as many dimensions as they, and the masks, transformed."""
        images = self._several(as_images(held["images"], "images", single=self._single))
        done = {"images": transform(images)}
        for name in self._call.names:
            other = self._several(as_array(held[name], name))
            if name != "images" and other.dim() == images.dim():
                done[name] = transform(other)
        if "masks" in held:
            masks = as_masks(
                self._several(as_array(held["masks"], "masks")),
                "masks",
                images=len(images),
                dimensions=images.dim() - 2,
            )
            done["masks"] = transform.masks(masks, images.shape[2:])
        return {name: x[0] for name, x in done.items()} if self._single else done

    def _several(self, values: Tensor) -> Tensor:
        return values[None] if self._single else values


def visitable(loader: DataLoader[Any]) -> bool:
    """Whether a loader does no more than visit its dataset once, so that another order is as good."""
    sampler, dataset = loader.sampler, loader.dataset
    once = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    )
    return (
        once
        and type(loader).__iter__ is DataLoader.__iter__
        and type(loader.batch_sampler) is BatchSampler
        and not isinstance(dataset, IterableDataset)
    )
