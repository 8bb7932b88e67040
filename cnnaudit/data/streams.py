"""Iterables of batches, in the order in which they give them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from cnnaudit.call import Call
from cnnaudit.data.images import Images, Wanted
from cnnaudit.data.values import first, images_in, named, require, telling
from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cnnaudit.data.blocks import Batch

__all__ = ["Stream"]

_END = object()


class Stream(Images):
    """An iterable of batches, in the order in which it gives them."""

    def __init__(self, batches: Iterable[Any], source: str, wanted: Wanted) -> None:
        super().__init__(source, wanted)
        self.order, self.count, self.classes = "as given", None, None
        iterator = _numbered(batches, source)
        place, given = next(iterator, (source, None))
        if given is None:
            raise LoadError(f"{source}: there are no images; give at least one")
        self.call = wanted.call or Call.given(images_in(given, place))
        held = named(given, place, self.call)
        require(self.columns, held, place)
        self.labelled, self.clustered = "labels" in held, "source" in held
        self.masked = self._reads_masks(held)
        self._rest = itertools.chain([(place, given)], iterator)

    def _batches(self, seed: int, limit: int | None) -> Iterable[Batch]:  # noqa: ARG002 - the data decides the order
        read = 0
        for place, given in self._rest:
            # What lies beyond the limit is not looked at: its values are none of this audit's.
            left = None if limit is None else limit - read
            held = {name: first(values, left) for name, values in named(given, place, self.call).items()}
            batch = self._batch(held, place, read)
            read += len(batch)
            yield batch
            if limit is not None and read >= limit:
                return


def _numbered(batches: Iterable[Any], source: str) -> Iterator[tuple[str, Any]]:
    """Batches with their place in the data."""
    with telling(source):
        iterator = iter(batches)
    for number in itertools.count():
        place = f"{source}, batch {number}"
        with telling(place):
            batch = next(iterator, _END)
        if batch is _END:
            return
        yield place, batch
