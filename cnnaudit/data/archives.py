"""Data in files of arrays: .npz, .npy and .safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnaudit.data.arrays import Arrays
from cnnaudit.data.stored import check_inflated, npy_file, npz_members, safetensors_members
from cnnaudit.data.values import near, require
from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cnnaudit.data.images import Images, Wanted
    from cnnaudit.data.stored import Member, StoredTensor
    from cnnaudit.load.trust import Trust
    from cnnaudit.spec.source import Source

__all__ = ["open_npy", "open_npz", "open_safetensors"]

_OWN = ("images", "labels", "source", "masks")
_MOST_TOLD = 12


def open_npz(source: Source, wanted: Wanted, trust: Trust) -> Images:
    """Open an npz; options say what an array is called in it (``labels: y``).

    What was saved with ``np.savez`` is read a few images at a time, and what was compressed is inflated as a whole.

    Raises:
        LoadError: it may not be read, is none, lacks an array, or an array in it is not what it claims.
    """
    path, place = _file(source, trust)
    return _opened(npz_members(path, place), path, source, wanted, "an npz")


def open_safetensors(source: Source, wanted: Wanted, trust: Trust) -> Images:
    """Open a safetensors file as :func:`open_npz` opens an npz; it is read a few images at a time."""
    path, place = _file(source, trust)
    return _opened(safetensors_members(path, place), path, source, wanted, "a safetensors file")


def open_npy(source: Source, wanted: Wanted, trust: Trust) -> Images:
    """Open an npy of images; options name the files, relative to its folder, of all else (``labels: labels.npy``).

    It is what the network takes first where that takes several.

    Raises:
        LoadError: a file may not be read, holds no array, or is not what it claims.
    """
    path, place = _file(source, trust)
    _check_options(source, wanted, "an npy", own=_OWN[1:])
    own = "images" if wanted.call is None else wanted.call.names[0]
    if own in source.options:
        raise LoadError(f"{place}: {own} are those of {source.written} itself: leave out the option {own!r}")
    found: dict[str, Any] = {own: npy_file(path, place)}
    unread = () if wanted.masks else ("masks",)
    read = _read(wanted)
    for name, file in source.options.items():
        if not isinstance(file, str) or not file.lower().endswith(".npy"):
            raise LoadError(f"{place}: the option {name!r} names an .npy file, relative to {path.parent}; not {file!r}")
        if name in read and name not in unread:
            told = f"{place}, {name}: {file}"
            found[name] = npy_file(trust.opened(path.parent / file, told), told)
    require(wanted.columns, [*found, *source.options], place)
    return Arrays(found, source.written, wanted)


def _file(source: Source, trust: Trust) -> tuple[Path, str]:
    place = f"data {source.written}"
    path = trust.opened(Path(source.target), place)
    if not path.is_file():
        raise LoadError(f"{place}: {path} is a folder, not a file")
    return path, place


def _read(wanted: Wanted) -> set[str]:
    """Names of all that is read where it is there."""
    return {*_OWN, *wanted.columns, *(() if wanted.call is None else wanted.call.names)}


def _check_options(source: Source, wanted: Wanted, kind: str, own: tuple[str, ...] = _OWN) -> None:
    read = _read(wanted)
    for name in source.options:
        # Any other name is a column: one that no rule slices by, or none of those that run this time.
        if name not in read and (hint := near(name, own, cutoff=0.8)):
            raise LoadError(
                f"data {source.written}: {kind} has no option {name!r}{hint} the options are {', '.join(own)} "
                "and columns"
            )


def _opened(held: Mapping[str, Member | StoredTensor], path: Path, source: Source, wanted: Wanted, kind: str) -> Images:
    """Open the arrays of one file."""
    place = f"data {source.written}"
    _check_options(source, wanted, kind)
    read = _read(wanted)
    names = {name: name for name in read} | dict(source.options)
    inputs = ("images",) if wanted.call is None else wanted.call.names
    for name in (*inputs, *source.options):
        if not isinstance(names[name], str) or names[name] not in held:
            told = ", ".join(list(held)[:_MOST_TOLD]) + (", ..." if len(held) > _MOST_TOLD else "")
            way = (
                ""
                if name in source.options
                else f"; say which one is meant, kwargs: {{{name}: {next(iter(held), '')}}}"
            )
            raise LoadError(f"{place}: no array {names[name]!r}; it has {told}{way}")
    found = [name for name in read if names[name] in held and (wanted.masks or name != "masks")]
    require(wanted.columns, [*found, *source.options, *(array for array in held if array not in names.values())], place)
    return Arrays(_arrays(held, {name: names[name] for name in found}, path, place), source.written, wanted)


def _arrays(
    held: Mapping[str, Member | StoredTensor], names: Mapping[str, str], path: Path, place: str
) -> dict[str, Any]:
    """The arrays by what they are; one that has two names is read once, and all together must not swell either."""
    members = {name: held[name] for name in names.values()}
    check_inflated(members.values(), path, place)
    arrays = {name: member.read() for name, member in members.items()}
    return {name: arrays[own] for name, own in names.items()}
