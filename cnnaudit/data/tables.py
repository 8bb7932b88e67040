"""Rows of CSV files that may come from anybody."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING

from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

__all__ = ["check_separator", "table"]

_LONGEST = 2**17  # the csv module reads no longer field


def table(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Read the rows that are not empty, each with its place, ``file:line``; cells come without blanks around them.

    Raises:
        LoadError: the file cannot be read, is not text in UTF-8, or not CSV.
    """
    reader = csv.reader(_lines(path), strict=True)
    while True:
        place = f"{path.name}:{reader.line_num + 1}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise LoadError(f"{place}: not a row of CSV ({error}); write it as Python's csv module does") from error
        if row is None:
            return
        if row:
            yield place, [cell.strip() for cell in row]


def check_separator(header: Sequence[str], known: Iterable[str], place: str) -> None:
    """Refuse a header of one cell that holds a known column, separated from others by something else than commas.

    Raises:
        LoadError: it is.
    """
    names = re.split(r"[;\t|]", header[0].lower())
    if len(header) == 1 and len(names) > 1 and set(names) & set(known):
        raise LoadError(f"{place}: columns are separated by commas, not as in {header[0][:70]!r}")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file of text, none of them longer than may be."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(_LONGEST):
                number += 1
                if len(line) == _LONGEST:
                    raise LoadError(
                        f"{path.name}:{number}: a line of more than {_LONGEST:,} bytes; name a manifest, in CSV"
                    )
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise LoadError(f"{path.name}:{number}: not text in UTF-8 ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise LoadError(f"{path.name}: it cannot be read ({error}); check its permissions") from error
