"""Manifests of images that must not be among those of an audit: what a network was trained on tells nothing new."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cnnaudit.data.tables import check_separator, table
from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Excluded", "digest"]

_COLUMNS = ("sha256", "file")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Excluded:
    """Images that were trained on, by their bytes or by their names.

    Attributes:
        path: The manifest.
        digests: SHA-256 of the bytes of files, or of images as :func:`digest` takes them; 32 bytes each.
        files: Paths, as they are written in the manifest but normalised.
        rows: Number of images that it lists.
    """

    path: Path
    digests: frozenset[bytes]
    files: frozenset[str]
    rows: int

    @classmethod
    def read(cls, path: Path) -> Excluded:
        """Read a CSV file with a header that has the columns ``sha256``, ``file`` or both; or a list of paths.

        Raises:
            LoadError: it is neither, or lists nothing; the message has the line.
        """
        digests, files, rows = set(), set(), 0
        for place, row in _rows(path):
            rows += 1
            if written := row.get("sha256", ""):
                if not _DIGEST.fullmatch(written):
                    raise LoadError(f"{place}: {written[:70]!r} is no SHA-256; write its 64 hexadecimal digits")
                digests.add(bytes.fromhex(written))
            if name := row.get("file", ""):
                files.add(_normal(name))
            if not (written or name):
                raise LoadError(
                    f"{place}: it names no image: {' and '.join(row)} are empty; fill one in, or remove the row"
                )
        if not rows:
            raise LoadError(f"{path.name}: it lists no images, so that nothing would be excluded; leave it out")
        return cls(path, frozenset(digests), frozenset(files), rows)

    def names(self, names: Iterable[str], folder: Path) -> list[str]:
        """Return those of some file names, relative to a folder, that the manifest has.

        A path in the manifest is absolute, or relative to the folder of the data, or to that of the manifest itself.
        """
        if not self.files:
            return []
        ways = [Path(os.path.abspath(folder))]  # noqa: PTH100 - as written: links are not followed
        here = os.path.relpath(ways[0], os.path.abspath(self.path.parent))  # noqa: PTH100
        return [
            name
            for name in names
            if not self.files.isdisjoint((_normal(name), _normal(f"{here}/{name}"), _normal(f"{ways[0]}/{name}")))
        ]

    def images(self, images: Any) -> list[bool]:
        """Say of each of some images, as the data gives them, whether the manifest has its digest."""
        return [digest(image) in self.digests for image in images] if self.digests else [False] * len(images)


def digest(image: Any) -> bytes:
    """Return what stands for an image in a manifest where images are no files of their own.

    Args:
        image: One image as the data gives it, before any transform: a tensor, an array, or what numpy makes one of
            (such as a PIL image), of any shape and type.

    Returns:
        SHA-256 of its numbers in C order and little-endian, in the type that they have; 32 bytes. The shape is no part
        of it. ``digest(image).hex()`` is what the manifest holds.
    """
    if isinstance(image, torch.Tensor):
        values = image.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        return hashlib.sha256(values.data).digest()
    held = np.asarray(image)
    return hashlib.sha256(held.astype(held.dtype.newbyteorder("<"), copy=False).tobytes()).digest()


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a manifest by column, each with its place."""
    columns: list[str] = []
    for place, cells in table(path):
        if not columns:
            columns, listed = _columns(cells, place)
            if not listed:
                continue
        if len(cells) != len(columns):
            raise LoadError(f"{place}: {len(cells)} values in a row, but there are {len(columns)} columns")
        yield place, dict(zip(columns, cells, strict=True))


def _columns(cells: Sequence[str], place: str) -> tuple[list[str], bool]:
    """Names of the columns by the first row, and whether that is an image already."""
    names = [cell.lower() for cell in cells]
    known = [name for name in names if name in _COLUMNS]
    if len(known) > len(set(known)):
        raise LoadError(f"{place}: two columns are called {max(known, key=known.count)}; rename one")
    if known:
        return names, False
    (first, *more) = cells
    if more:
        raise LoadError(f"{place}: no column sha256 or file; the header has {', '.join(cells)[:200]}")
    if _DIGEST.match(first):
        raise LoadError(f"{place}: digests need a header: write sha256 into the first line, or sha256,file above both")
    check_separator(cells, _COLUMNS, place)
    return ["file"], True


def _normal(name: str) -> str:
    """A path with slashes, without ``.`` and ``..``."""
    return os.path.normpath(name.replace("\\", "/")).replace("\\", "/")
