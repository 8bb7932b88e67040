"""Files that a gate writes."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file as a whole or, where that fails, leave it as it was; what a link points to is what is written.

    Raises:
        OSError: It cannot be written.
    """
    target = Path(os.path.realpath(path))
    # A name that nobody can foresee and that is not there yet: in a shared folder a link might wait.
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    new = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        if target.exists():
            shutil.copymode(target, new)
        else:
            new.chmod(0o666 & ~_umask())
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)


def _umask() -> int:
    """What a new file's mode is taken from; it can be read by setting it only."""
    found = os.umask(0o022)
    os.umask(found)
    return found
