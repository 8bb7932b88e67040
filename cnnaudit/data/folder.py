"""Folders of images: a folder for each class, or images without labels."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cnnaudit.data.files import File, FileImages
from cnnaudit.data.pictures import SUFFIXES, needs_pillow
from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from cnnaudit.data.images import Images, Wanted
    from cnnaudit.load.trust import Trust
    from cnnaudit.spec.source import Source

__all__ = ["open_folder"]


def open_folder(source: Source, wanted: Wanted, trust: Trust) -> Images:
    """Open a folder of images.

    Where it holds folders, each is a class: labels are their places in alphabetical order, and what lies deeper in one
    belongs to it. Else the images have no labels. Hidden files, and files that are no images by their names, are
    ignored and counted.

    Raises:
        LoadError: it is none, holds no images, or a link in it leads to where the rule file may not reach.
    """
    place, folder = f"data {source.written}", Path(source.target)
    if source.options:
        raise LoadError(
            f"{place}: a folder has no options, and {', '.join(source.options)} is given under kwargs; remove it"
        )
    needs_pillow()
    found = _Walk(trust, place, trust.opened(folder, place))
    if not found.root.is_dir():
        raise LoadError(f"{place}: a file, not a folder")
    beside = found.images(found.root)
    folders = sorted(found.folders.items())
    classes = [name for name, _ in folders]
    labelled = [replace(x, label=i) for i, (name, path) in enumerate(folders) for x in found.below(path, name)]
    if beside and labelled:
        raise LoadError(
            f"{place}: images, such as {beside[0].name}, lie beside folders of images, {', '.join(classes)[:80]}: "
            "put every image into the folder of its class, or all of them into one folder without others"
        )
    files = beside or labelled
    if not files:
        told = f"; {found.ignored} other files were ignored" if found.ignored else ""
        raise LoadError(
            f"{place}: there are no images in it or below{told}; put some there ({', '.join(sorted(SUFFIXES))})"
        )
    shown = source.written.rstrip("/") + "/"
    classes = [] if beside else classes
    return FileImages(files, folder, shown, source.written, wanted, classes=classes, ignored=found.ignored)


class _Walk:
    """Folders on the way through them.

    Attributes:
        root: Where it begins.
        folders: The folders met in the folder that was read last, by name.
        ignored: Number of files so far that are no images, and of hidden files and folders.
    """

    def __init__(self, trust: Trust, place: str, root: Path) -> None:
        self._trust, self._place, self.root = trust, place, root
        self.folders: dict[str, Path] = {}
        self.ignored = 0

    def images(self, folder: Path, prefix: str = "") -> list[File]:
        """The images in a folder in the order of their names; what is below them is left in :attr:`folders`."""
        files, self.folders = [], {}
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    self.ignored += 1
                    continue
                path = self._reached(Path(entry.path), prefix + entry.name) if entry.is_symlink() else Path(entry.path)
                if path.is_dir() if entry.is_symlink() else entry.is_dir():
                    self.folders[entry.name] = path
                elif Path(entry.name).suffix.lower() in SUFFIXES and path.is_file():
                    files.append(File(path, prefix + entry.name))
                else:
                    self.ignored += 1
        return files

    def below(self, folder: Path, name: str, above: tuple[Path, ...] = ()) -> list[File]:
        """The images in a folder and below."""
        if folder in above:
            raise LoadError(f"{self._place}: {name} is a link to a folder that it lies in; remove the link")
        files = self.images(folder, f"{name}/")
        for inner, path in sorted(self.folders.items()):
            files += self.below(path, f"{name}/{inner}", (*above, folder))
        return files

    def _reached(self, link: Path, name: str) -> Path:
        try:
            real = link.resolve()
        except (OSError, RuntimeError):
            real = link
        if real.exists() and real.is_relative_to(self.root):
            return real
        return self._trust.opened(link, f"{self._place}: the link {name}")
