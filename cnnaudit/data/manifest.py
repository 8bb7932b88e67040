"""Manifests: CSV files that list images with what is known of them."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from cnnaudit.data.files import File, FileImages
from cnnaudit.data.pictures import needs_pillow
from cnnaudit.data.tables import check_separator, table
from cnnaudit.data.values import near, require
from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cnnaudit.data.images import Images, Wanted
    from cnnaudit.load.trust import Trust
    from cnnaudit.spec.source import Source

__all__ = ["open_manifest"]

_OWN = ("file", "label", "source", "mask")
_FRACTION = re.compile(r"-?\d*\.\d+")
_LONGEST_LABEL = 18  # digits; 64 bits hold as many


def open_manifest(source: Source, wanted: Wanted, trust: Trust) -> Images:
    """Open a CSV file that lists images.

    Its header names a column ``file``, of paths relative to the CSV file, and perhaps ``label`` (whole numbers, or
    names, which count in alphabetical order), ``source``, ``mask`` (files of dense labels) and any columns that rules
    slice by. Options say what these are called in the file where it is something else.

    Raises:
        LoadError: with ``file:line`` where a row is wrong, or names a file that is not there or may not be opened.
    """
    place = f"data {source.written}"
    path = trust.opened(Path(source.target), place)
    needs_pillow()
    rows = list(table(path))
    if len(rows) < 2:
        raise LoadError(f"{place}: there are no images; write a row for each below the header")
    (head, columns), *rows = rows
    names = _columns(columns, source, head)
    own = ["labels"] if "label" in names else []
    require(wanted.columns, [*own, *(name for name in columns if name not in names.values())], place)
    at = {name: columns.index(column) for name, column in names.items()}
    others = {name: columns.index(name) for name in wanted.columns if name not in own}
    for row, cells in rows:
        if len(cells) != len(columns):
            raise LoadError(f"{row}: {len(cells)} values in a row, but there are {len(columns)} columns")
        for i in at.values():
            if not cells[i]:
                raise LoadError(f"{row}: {columns[i]} is empty; fill it in, or remove the row")
    opened = _Opened(trust, Path(source.target).parent)
    label, classes = _labels([(row, cells[at["label"]]) for row, cells in rows]) if own else ([None] * len(rows), [])
    files = [
        File(
            path=opened.file(cells[at["file"]], row),
            name=cells[at["file"]],
            label=code,
            source=cells[at["source"]] if "source" in at else None,
            mask=opened.file(cells[at["mask"]], row) if wanted.masks and "mask" in at else None,
            values={name: cells[i] for name, i in others.items()},
        )
        for (row, cells), code in zip(rows, label, strict=True)
    ]
    shown = source.written[: len(source.written) - len(Path(source.written).name)]
    return FileImages(files, opened.folder, shown, source.written, wanted, classes=classes)


def _columns(columns: Sequence[str], source: Source, head: str) -> dict[str, str]:
    """What file, label, source and mask are called in a manifest, as far as it has them."""
    check_separator(columns, _OWN, head)
    if doubled := [name for name in columns if columns.count(name) > 1]:
        raise LoadError(f"{head}: two columns are called {doubled[0]!r}; rename one")
    for name, column in source.options.items():
        if name not in _OWN:
            raise LoadError(
                f"data {source.written}: a manifest has no option {name!r}{near(name, _OWN) or ';'} "
                f"the options are {', '.join(_OWN)}"
            )
        if column not in columns:
            raise LoadError(f"{head}: no column {column!r}; the columns are {', '.join(columns)[:200]}")
    names = {name: str(source.options.get(name, name)) for name in _OWN}
    if names["file"] not in columns:
        raise LoadError(f"{head}: no column 'file'; the columns are {', '.join(columns)[:200]}")
    return {name: column for name, column in names.items() if column in columns}


def _labels(written: Sequence[tuple[str, str]]) -> tuple[Sequence[int | None], list[str]]:
    """Labels as numbers, and the names of the classes where names are written."""
    for row, text in written:
        if _FRACTION.fullmatch(text):
            raise LoadError(f"{row}: label {text} is a fraction; labels must be whole numbers, or names")
        if text.startswith("-") and text[1:].isdecimal():
            raise LoadError(f"{row}: label {text} is negative; classes must count from 0")
        if text.isdecimal() and len(text) > _LONGEST_LABEL:
            raise LoadError(f"{row}: label {text[:20]}... is no number of a class; classes must count from 0")
    if all(text.isdecimal() for _, text in written):
        return [int(text) for _, text in written], []
    classes = sorted({text for _, text in written})
    codes: Mapping[str, int] = {name: code for code, name in enumerate(classes)}
    return [codes[text] for _, text in written], classes


class _Opened:
    """Files that a manifest names; most lie in few folders, which are followed once."""

    def __init__(self, trust: Trust, folder: Path) -> None:
        self._trust, self.folder = trust, folder
        self._real: dict[str, Path] = {}

    def file(self, written: str, row: str) -> Path:
        """Return where a file really lies."""
        parent, name = os.path.split(written)
        if parent not in self._real:
            self._real[parent] = self._trust.opened(self.folder / parent, f"{row}: {parent or '.'}")
        path = self._real[parent] / name
        try:
            mode = path.lstat().st_mode
        except (OSError, ValueError):
            raise LoadError(f"{row}: there is no file {written}; give its path from the manifest's folder") from None
        if not stat.S_ISREG(mode):
            path = self._trust.opened(path, f"{row}: {written}")
            if path.is_dir():
                raise LoadError(f"{row}: {written} is a folder; name one image")
        return path
