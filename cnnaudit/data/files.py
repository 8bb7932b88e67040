"""Images that are files, decoded one by one."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from cnnaudit.data.pictures import decoded, decoded_mask
from cnnaudit.data.reading import cpus
from cnnaudit.data.samples import EXCLUDED, Samples
from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cnnaudit.data.exclude import Excluded
    from cnnaudit.data.images import Wanted

__all__ = ["File", "FileImages"]

_MOST_WORKERS = 4
_WORTH_A_PROCESS = 256  # images; starting processes takes as long as decoding so many


@dataclass(frozen=True)
class File:
    """An image's file and what is known of the image.

    Attributes:
        path: Where it really lies.
        name: Its path in the folder, or relative to the manifest.
        label: Its class, or None.
        source: What it belongs to, or None.
        mask: The file of its dense labels, or None.
        values: Its value in each column that rules slice by.
    """

    path: Path
    name: str
    label: int | None = None
    source: str | None = None
    mask: Path | None = None
    values: Mapping[str, str] = field(default_factory=dict)


class _Decoded(Dataset[Any]):
    """Files as samples."""

    def __init__(
        self, files: Sequence[File], classes: Sequence[str], excluded: Excluded | None, *, masks: bool
    ) -> None:
        self.files, self.classes, self._masks = files, classes, masks
        self._excluded = frozenset() if excluded is None else excluded.digests

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file = self.files[index]
        image = decoded(file.path)
        known = {"labels": file.label, "source": file.source}
        held: dict[str, Any] = (
            {"images": image} | {name: x for name, x in known.items() if x is not None} | dict(file.values)
        )
        if self._masks and file.mask is not None:
            held["masks"] = mask = decoded_mask(file.mask)
            if mask.shape != image.shape[1:]:
                sizes = [" x ".join(map(str, shape)) for shape in (mask.shape, image.shape[1:])]
                raise LoadError(f"its mask is {sizes[0]} pixels and the image {sizes[1]}")
        bytes_too = bool(self._excluded)
        return held | {EXCLUDED: bytes_too and hashlib.sha256(file.path.read_bytes()).digest() in self._excluded}


class FileImages(Samples):
    """Images that are files.

    Args:
        files: At least one.
        folder: Absolute path of the folder that the files' names are relative to.
        shown: How the user knows that folder, for messages.
        source: What the images come from, for reports.
        wanted: What is read, and how.
        classes: Names of the classes, or nothing.
        ignored: Number of files beside them that are no images.
    """

    files = True
    all_values = True

    def __init__(
        self,
        files: Sequence[File],
        folder: Path,
        shown: str,
        source: str,
        wanted: Wanted,
        *,
        classes: Sequence[str] = (),
        ignored: int = 0,
    ) -> None:
        self._files, self._shown, self._ignored = files, shown, ignored
        super().__init__(_Decoded(files, classes, wanted.excluded, masks=wanted.masks), source, wanted)
        if self.labelled and self.classes is None:
            self.classes = max(file.label or 0 for file in files) + 1
        for name in self.columns:
            self._code(name, sorted({file.values.get(name, file.label or 0) for file in files}))
        if wanted.excluded is not None:
            self._found = [shown + name for name in wanted.excluded.names([file.name for file in files], folder)]
            self._refuse_excluded(len(files))

    def _name(self, index: int) -> str:
        return f"{self._shown}{self._files[index].name}"

    def _place(self, index: int) -> str:
        return self._name(index)

    def _workers(self, count: int) -> int:
        if self._wanted.workers is not None:
            return self._wanted.workers
        # Where processes do not begin as copies, they import the user's script anew, which must be written for that.
        begun = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
        worth = begun == "fork" and count >= _WORTH_A_PROCESS and "PYTEST_VERSION" not in os.environ and cpus() > 1
        return min(_MOST_WORKERS, cpus()) if worth else 0

    @property
    def facts(self) -> dict[str, Any]:
        """What was read, and how many files beside the images were not."""
        return super().facts | {"ignored": self._ignored}
