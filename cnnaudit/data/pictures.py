"""Pictures in files, and Pillow's, as tensors."""

from __future__ import annotations

import struct
import sys
import warnings
import zlib
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

__all__ = ["SUFFIXES", "decoded", "decoded_mask", "guarded", "needs_pillow", "of_pillow", "unreadable"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp"})

# Of Pillow's many formats some run other programs on the file, whatever it is called.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
_GREY = ("1", "L", "LA", "La")
_CLASSES = ("labels", "label", "masks", "mask")


def needs_pillow() -> None:
    """Tell how to install Pillow before a file is looked for.

    Raises:
        LoadError: it is not installed.
    """
    try:
        import PIL  # noqa: F401, PLC0415 - most audits do without
    except ModuleNotFoundError as error:
        raise LoadError("Pillow, which decodes images, is not installed: pip install 'cnnaudit[vision]'") from error


def decoded(path: Path) -> Tensor:
    """Return the picture in a file as it is looked at, uint8 of shape (3, height, width).

    It is turned as its EXIF data says. Grey, palette and CMYK become RGB, transparency is dropped, and 16 bits become
    8.

    Raises:
        OSError: it cannot be decoded, or has more pixels than Pillow's limit; none of them is read then.
    """
    with _opened(path) as image:
        from PIL import ImageOps  # noqa: PLC0415 - most audits do without

        return _picture(ImageOps.exif_transpose(image), grey=False)


def decoded_mask(path: Path) -> Tensor:
    """Return the numbers in a file of dense labels, of shape (height, width).

    Raises:
        OSError: it cannot be decoded.
        LoadError: it holds colours.
    """
    with _opened(path) as image:
        values = np.array(image)
        if values.ndim != 2 or values.dtype.kind not in "biu":
            raise LoadError(f"{path}: a mask holds one class at each position, not a picture in {image.mode}")
    return torch.from_numpy(values.astype(np.int32) if values.dtype == np.uint16 else values)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from PIL import Image  # noqa: PLC0415 - most audits do without

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                yield image
    except LoadError:
        raise
    except Exception as error:  # Pillow raises whatever a broken file makes its parts raise
        raise OSError(_told(error)) from error


@contextmanager
def guarded(check: Callable[[Path], object]) -> Iterator[None]:
    """Let other code open pictures of the usual formats only, and only from files that pass a check."""
    from PIL import Image  # noqa: PLC0415 - most audits do without

    before = Image.open

    def opened(fp: Any, mode: Any = "r", formats: Any = None) -> Any:
        name = getattr(fp, "name", fp)
        if isinstance(name, (str, Path)):
            check(Path(name))
        return before(fp, mode, formats or _FORMATS)

    Image.open = opened
    try:
        yield
    finally:
        Image.open = before


def _told(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def of_pillow(sample: Any) -> tuple[Any, bool]:
    """Return a sample with tensors for Pillow's pictures, and whether images were among them.

    A picture among images is of shape (channels, height, width), grey ones with one channel; one that stands for
    labels or masks is of shape (height, width) and holds its numbers.
    """
    if "PIL.Image" not in sys.modules:
        return sample, False
    if isinstance(sample, Mapping):
        plain = {name: _classes(x) if name in _CLASSES else _pictures(x) for name, x in sample.items()}
        return plain, any(plain[name] is not x for name, x in sample.items() if name not in _CLASSES)
    if isinstance(sample, (tuple, list)) and len(sample) == 2:
        images = _pictures(sample[0])
        return (images, _classes(sample[1])), images is not sample[0]
    plain = _pictures(sample)
    return plain, plain is not sample


def _pictures(images: Any) -> Any:
    if _is_picture(images):
        return _picture(images, grey=images.mode in _GREY or images.mode.startswith("I"))
    if isinstance(images, (tuple, list)) and any(_is_picture(x) for x in images):
        return tuple(_pictures(x) for x in images)
    if isinstance(images, Mapping) and any(_is_picture(x) for x in images.values()):
        return {name: _pictures(x) for name, x in images.items()}
    return images


def _is_picture(value: Any) -> bool:
    return isinstance(value, sys.modules["PIL.Image"].Image)


def _picture(image: Any, *, grey: bool) -> Tensor:
    """A picture of Pillow's, uint8 of shape (channels, height, width)."""
    if image.mode == "F":
        raise OSError("holds fractions of an unknown range; give such images as arrays")
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 2**16 - 1:
            raise OSError("holds whole numbers beyond 16 bits; give such images as arrays")
        values = np.rint(wide / 257).astype(np.uint8)  # 65535 is 255
        values = values if grey else np.repeat(values[..., None], 3, axis=2)
    else:
        values = np.array(image.convert("L" if grey else "RGB"))
    return torch.from_numpy(values[..., None] if values.ndim == 2 else values).permute(2, 0, 1).contiguous()


def _classes(values: Any) -> Any:
    return np.array(values) if _is_picture(values) else values


def unreadable(error: Exception) -> str:
    """Return why a single image cannot be decoded; nothing where the error is the code's and not the image's."""
    pillows = type(error).__module__.startswith("PIL.") or (isinstance(error, SyntaxError) and _raised_in_pillow(error))
    if pillows or isinstance(error, (OSError, EOFError, struct.error, zlib.error)):
        kind = "" if type(error) is OSError else f"{type(error).__name__}: "
        return f"cannot be read ({kind}{error})"
    return ""


def _raised_in_pillow(error: Exception) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("PIL.")
