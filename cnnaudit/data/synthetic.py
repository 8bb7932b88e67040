"""Images that are made up: a smoke test needs no data."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from cnnaudit.call import Call
from cnnaudit.data.arrays import Arrays
from cnnaudit.data.values import near
from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from cnnaudit.data.images import Images, Wanted
    from cnnaudit.spec.source import Source

__all__ = ["Synthetic", "open_synthetic"]

_OPTIONS = ("images", "size", "channels", "classes", "seed", "kind")
_KINDS = ("natural", "white")
_USUAL = (3, 224, 224)
_MOST_IMAGES = 10**6
_MOST_VALUES = 2**24  # of an image: 64 MB
_MOST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Synthetic:
    """Noise that can be indexed like an array of images; image i depends on the seed and on i alone.

    The values are those of images that are normalised already: over many images each has mean 0 and variance 1.
    ``natural`` noise has the spectrum of photographs, an amplitude that falls with 1 / frequency, so that neighbours
    are alike and images differ in brightness; that of ``white`` noise is flat.

    Attributes:
        shape: (images, channels, *size).
        seed: Any whole number from 0.
        kind: ``natural`` or ``white``.
        dtype: Single precision.
    """

    shape: tuple[int, ...]
    seed: int = 0
    kind: Literal["natural", "white"] = "natural"
    dtype: torch.dtype = torch.float32

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Iterable[int]) -> Tensor:
        """Return some images, shape (n, channels, *size)."""
        return torch.stack([self._image(int(i)) for i in rows])

    def _image(self, index: int) -> Tensor:
        noise = np.random.default_rng((self.seed, index)).standard_normal(self.shape[1:], np.float32)
        x = torch.from_numpy(noise)
        if self.kind == "white":
            return x
        size = self.shape[2:]
        axes = tuple(range(1, 1 + len(size)))
        found: Tensor = torch.fft.irfftn(torch.fft.rfftn(x, dim=axes) * _falling(size), s=size, dim=axes)
        return found


def open_synthetic(source: Source, wanted: Wanted, shape: Sequence[int] | None = None) -> Images:
    """Make images up, in number and form as the options say.

    The options are ``images`` (256), ``size`` (pixels a side, or one number for each dimension), ``channels``,
    ``classes`` (labels that take turns; without it there are none), ``seed`` (0) and ``kind`` (``natural`` or
    ``white``). Every input of the network is such images.

    Args:
        source: Whose options they are.
        wanted: What is read.
        shape: What the model is made for, (channels, *size); None for 3 x 224 x 224.

    Raises:
        LoadError: an option is unknown, or has a value that makes no sense or too large images.
    """
    options, place = source.options, f"data {source.written}"
    for name in options:
        if name not in _OPTIONS:
            hint = near(name, _OPTIONS) or ";"
            raise LoadError(f"{place}: there is no option {name!r}{hint} the options are {', '.join(_OPTIONS)}")
    channels, *size = shape or _USUAL
    channels = _number(options, "channels", channels, place, most=_MOST_VALUES)
    size = _size(options.get("size", size), place)
    if channels * math.prod(size) > _MOST_VALUES:
        raise LoadError(
            f"{place}: an image of {' x '.join(map(str, (channels, *size)))} is more than {_MOST_VALUES:,} values; "
            "give a smaller size"
        )
    count = _number(options, "images", 256, place, most=_MOST_IMAGES)
    seed = _number(options, "seed", 0, place, least=0, most=_MOST_SEED)
    kind = options.get("kind", "natural")
    if kind not in _KINDS:
        raise LoadError(f"{place}: kind is {' or '.join(_KINDS)}, not {kind!r}")
    call = wanted.call or Call()
    # What the network takes besides is other noise: images that are equal would be a special case.
    held: dict[str, Any] = {
        name: Synthetic((count, channels, *size), seed + number * _MOST_SEED, kind)
        for number, name in enumerate(call.names)
    }
    if "classes" in options:
        held["labels"] = torch.arange(count) % _number(options, "classes", 1, place, most=count)
    return Arrays(held, source.written, wanted._replace(call=call))


def _number(options: Mapping[str, Any], name: str, default: int, place: str, *, least: int = 1, most: int) -> int:
    value = options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise LoadError(f"{place}: {name} is a whole number from {least} to {most:,}, not {str(value)[:40]}")
    return value


def _size(value: Any, place: str) -> list[int]:
    sides = list(value) if isinstance(value, (list, tuple)) else [value, value]
    if not 1 <= len(sides) <= 3:
        raise LoadError(f"{place}: size is pixels a side, or one number for each of 1 to 3 dimensions, not {value}")
    return [_number({"size": side}, "size", 1, place, most=_MOST_VALUES) for side in sides]


@functools.lru_cache(maxsize=4)
def _falling(size: tuple[int, ...]) -> Tensor:
    """Amplitudes that fall with 1 / frequency, of a real transform, scaled so that the variance stays what it was."""
    square = torch.zeros(())
    for number, side in enumerate(size):
        along = torch.fft.fftfreq(side).reshape(-1, *[1] * (len(size) - 1 - number))
        square = square + along**2
    # The mean is given the amplitude of the lowest frequency: it would be infinite.
    amplitude = square.clamp(min=1 / max(size) ** 2).rsqrt()
    amplitude /= amplitude.square().mean().sqrt()
    return amplitude[..., : size[-1] // 2 + 1]
