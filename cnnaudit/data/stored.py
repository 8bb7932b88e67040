"""Arrays in files, read a few rows at a time.

A file may come from anybody. What its headers claim is compared with the bytes that are there before any memory is
taken, and nothing in it is unpickled.
"""

from __future__ import annotations

import io
import math
import stat
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.lib import format as npy
from safetensors import SafetensorError, safe_open

from cnnaudit.data.values import native
from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Member", "Stored", "StoredTensor", "check_inflated", "npy_file", "npz_members", "safetensors_members"]

_HEADER = 2**16  # numpy reads no header of more than 10,000 bytes
_LOCAL_HEADER = 30  # of a member of a zip, before its name
_SUFFIX = ".npy"
_MOST_INFLATED, _MOST_RATIO = 2**28, 100  # deflate reaches 1000:1; images seldom 10:1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class _Header(NamedTuple):
    """What stands before an array's values."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    length: int


@dataclass(frozen=True)
class Stored:
    """An array in a file, mapped anew for each read, so that what was read does not stay in memory.

    Attributes:
        path: The file.
        offset: Where in it the values start, in bytes.
        dtype: Type of its numbers.
        shape: At least one dimension; indices are into the first.
        order: Whether the last dimension varies fastest in the file (``C``) or the first (``F``).
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"] = "C"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Return a copy of some rows.

        Raises:
            LoadError: the file has changed.
        """
        try:
            held = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, self.order)
        except OSError as error:
            raise LoadError(f"{self.path}: it can no longer be read ({error}); audit again when it is there") from error
        except ValueError as error:
            raise LoadError(
                f"{self.path}: it was changed while it was read ({error}); audit again when it is finished"
            ) from error
        # An index of its own makes a copy of its own; a slice would keep the file mapped.
        found: NDArray[Any] = native(np.array(held[rows]) if isinstance(rows, slice) else np.asarray(held[rows]))
        return found


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file, which is opened anew for each read; see :class:`Stored`."""

    path: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    place: str

    def read(self) -> StoredTensor:
        """Return it, if it can be one of arrays that hold a value for each image.

        Raises:
            LoadError: it is a single number or empty.
        """
        _check_shape(self.shape, f"{self.place}: {self.name}")
        return self

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Tensor:
        """Return a copy of some rows.

        Raises:
            LoadError: the file has changed.
        """
        try:
            with safe_open(self.path, "pt") as file:
                held = file.get_slice(self.name)
                return held[rows].clone() if isinstance(rows, slice) else torch.stack([held[int(i)] for i in rows])
        except (OSError, SafetensorError) as error:
            raise LoadError(
                f"{self.path}: it was changed while it was read ({error}); audit again when it is finished"
            ) from error


@dataclass(frozen=True)
class Member:
    """An array of a zip archive of ``.npy`` files.

    Attributes:
        path: The archive.
        info: What its directory says of the member.
        place: Where the archive was named, for messages.
    """

    path: Path
    info: zipfile.ZipInfo
    place: str

    def read(self) -> Stored | NDArray[Any]:
        """Return the array: where it is stored as it is, its place in the archive; where it is compressed, inflated.

        Raises:
            LoadError: it is none, claims other values than it holds, or inflates out of all proportion.
        """
        place = f"{self.place}: {self.info.filename}"
        self._check(place)
        with _readable(place), zipfile.ZipFile(self.path) as archive, archive.open(self.info) as file:
            header = _header(file.read(_HEADER), self.info.file_size, place)
        if self.info.compress_type == zipfile.ZIP_STORED:
            return Stored(self.path, self._start(place) + header.length, *header[:3])
        data: NDArray[Any] = np.empty(self.info.file_size - header.length, np.uint8)
        filled = 0
        with _readable(place), zipfile.ZipFile(self.path) as archive, archive.open(self.info) as file:
            file.read(header.length)
            while part := file.read(2**20):
                data[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
                filled += len(part)
        if filled != len(data):
            raise LoadError(f"{place}: it is cut off after {filled:,} of {len(data):,} bytes; copy it again")
        found: NDArray[Any] = native(data.view(header.dtype).reshape(header.shape, order=header.order))
        return found

    def _check(self, place: str) -> None:
        size, packed = self.info.file_size, self.info.compress_size
        if self.info.compress_type not in _METHODS or self.info.flag_bits & 1:
            raise LoadError(f"{place}: it is encrypted, or compressed as numpy never does; use np.savez")
        if self.info.compress_type == zipfile.ZIP_STORED and size != packed:
            raise LoadError(f"{place}: claims {size:,} bytes but holds {packed:,}; write it again")
        if size > max(_MOST_INFLATED, _MOST_RATIO * packed):
            raise LoadError(
                f"{place}: {packed:,} bytes that would inflate to {size:,}: that is a zip bomb, or hardly anything but "
                "zeros; if it is meant, save it uncompressed with np.savez"
            )

    def _start(self, place: str) -> int:
        """Where in the archive the member's bytes start, by its own header, whose length the directory does not say."""
        with self.path.open("rb") as file:
            file.seek(self.info.header_offset)
            name, extra = struct.unpack_from("<HH", file.read(_LOCAL_HEADER), _LOCAL_HEADER - 4)
        start: int = self.info.header_offset + _LOCAL_HEADER + name + extra
        if start + self.info.file_size > self.path.stat().st_size:
            raise LoadError(f"{place}: claims {self.info.file_size:,} bytes but the file ends before; copy it again")
        return start


def check_inflated(members: Iterable[Member | StoredTensor], path: Path, place: str) -> None:
    """Refuse several arrays that each inflate to what is allowed, and together out of all proportion.

    Raises:
        LoadError: they do.
    """
    packed = [x for x in members if isinstance(x, Member) and x.info.compress_type != zipfile.ZIP_STORED]
    size, held = sum(member.info.file_size for member in packed), path.stat().st_size
    if size > max(_MOST_INFLATED, _MOST_RATIO * held):
        raise LoadError(
            f"{place}: {held:,} bytes that would inflate to {size:,}: that is a zip bomb, or hardly anything but "
            "zeros; if it is meant, save it uncompressed with np.savez"
        )


def npy_file(path: Path, place: str) -> Stored:
    """Return the array in an ``.npy`` file.

    Raises:
        LoadError: there is none, or one that claims other values than the file holds.
    """
    with _readable(place), path.open("rb") as file:
        header = _header(file.read(_HEADER), path.stat().st_size, place)
    return Stored(path, header.length, *header[:3])


def npz_members(path: Path, place: str) -> dict[str, Member]:
    """Return the arrays of an ``.npz`` file, none of them read yet.

    Raises:
        LoadError: it is none, or not as numpy writes it.
    """
    with _readable(place), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    for name, count in Counter(info.filename for info in members).items():
        parts = PurePosixPath(name.replace("\\", "/"))
        if count > 1:
            raise LoadError(f"{place}: {count} members are called {name[:80]!r}: leave one of them in")
        if parts.is_absolute() or ".." in parts.parts or not name.isprintable():
            raise LoadError(
                f"{place}: the name of its member {name[:80]!r} leads out of it; write it with np.savez, "
                "which makes no such"
            )
    for info in members:
        if stat.S_ISLNK(info.external_attr >> 16):
            raise LoadError(
                f"{place}: its member {info.filename[:80]!r} is a link; write it with np.savez, which makes no such"
            )
    found = {
        info.filename.removesuffix(_SUFFIX): Member(path, info, place)
        for info in members
        if info.filename.endswith(_SUFFIX)
    }
    if not found:
        told = ", ".join(info.filename[:40] for info in members[:4])
        raise LoadError(f"{place}: a zip without arrays{': it holds ' * bool(told)}{told}; write it with np.savez")
    return found


def safetensors_members(path: Path, place: str) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file, none of them read yet.

    Raises:
        LoadError: it is none, or its header claims other bytes than it holds.
    """
    found = {}
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - the file is no mapping
                held = file.get_slice(name)
                shape = tuple(held.get_shape())
                found[name] = StoredTensor(path, name, held[:0].dtype if shape else torch.float32, shape, place)
    except (OSError, SafetensorError) as error:
        raise LoadError(f"{place}: not a readable safetensors file ({error}); save it again") from error
    return found


@contextmanager
def _readable(place: str) -> Iterator[None]:
    """Say of a file that cannot be read which it is."""
    try:
        yield
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise LoadError(f"{place}: not readable as arrays of numpy ({error}); save them with np.savez") from error


def _header(start: bytes, size: int, place: str) -> _Header:
    """Read the header of an array; ``start`` is how its file starts, and ``size`` all that it holds."""
    file = io.BytesIO(start)
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            shape, fortran, dtype = read(file)
    except Exception as error:
        hint = _hint(start)
        raise LoadError(
            f"{place}: no array of numpy{hint or f' ({str(error)[:200]}); save it with np.save'}"
        ) from error
    if dtype.hasobject:
        raise LoadError(
            f"{place}: it holds pickled Python objects, which can run code and are never opened; "
            "save numbers or text: array.astype(float), array.astype(str)"
        )
    if dtype.kind == "V" or dtype.subdtype or not dtype.itemsize:
        raise LoadError(f"{place}: its values are of type {str(dtype)[:80]}; save one array of plain numbers or text")
    _check_shape(shape, place)
    length = file.tell()
    if math.prod(shape) * dtype.itemsize != size - length:
        raise LoadError(
            f"{place}: claims {math.prod(shape):,} values, {math.prod(shape) * dtype.itemsize:,} bytes of {dtype}, "
            f"but holds {max(size - length, 0):,} bytes; save it again"
        )
    return _Header(dtype, tuple(map(int, shape)), "F" if fortran else "C", length)


def _check_shape(shape: tuple[int, ...], place: str) -> None:
    if not shape:
        raise LoadError(f"{place}: a single number, not an array of one or more for each image")
    if min(shape) < 0:
        raise LoadError(f"{place}: its shape is {shape}, and no dimension is below 0")
    if 0 in shape:
        raise LoadError(f"{place}: its shape is {shape}: there are no images in it")


def _hint(start: bytes) -> str:
    if start.startswith(b"PK"):
        return " but a zip: open one of .npy files as .npz, and put no archive into another"
    if start.startswith(b"\x80"):
        return " but a pickle, which can run code and is never opened: save it with np.save(..., allow_pickle=False)"
    return ""
