"""What is done to images before the network sees them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.nn import functional

from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from cnnaudit.spec import Step

__all__ = ["FRACTIONS", "Steps", "Transform", "Transforms"]

_LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
_MOST_PIXELS = 2**24  # of an image: a step of a few letters must not take all memory
_Size: TypeAlias = "tuple[int, ...]"


class Transform(ABC):
    """What is done to images; as text it is what reports say."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Return images as the network takes them.

        Args:
            images: Shape (n, channels, *size), whole numbers or fractions.

        Returns:
            Fractions of shape (n, channels, *size), of other channels and another size where that is what is done.

        Raises:
            LoadError: it cannot be done to such images.
        """

    @abstractmethod
    def masks(self, masks: Tensor, size: Sequence[int]) -> Tensor:
        """Return the part of masks that is left of the images, each position with the value nearest to it.

        Args:
            masks: Shape (n, *size) or (n, concepts, *size).
            size: Size of the images to which nothing has been done.

        Raises:
            LoadError: the masks have another size than the images, or it is not known what becomes of them.
        """


@dataclass(frozen=True)
class Transforms:
    """What is done to images, which depends on what they are.

    Attributes:
        arrays: To images that come as arrays; None for nothing.
        pictures: To images that were decoded from files.
    """

    arrays: Transform | None
    pictures: Transform


@dataclass(frozen=True)
class Steps(Transform):
    """Steps that a rule file lists; each is a name and what was written after it.

    ``resize`` is bilinear, and with ``antialias`` as torchvision does it to tensors; ``crop`` is the middle.
    """

    steps: tuple[tuple[str, Any], ...]

    @classmethod
    def written(cls, steps: Iterable[Step]) -> Steps:
        """Return the steps of a rule file."""
        return cls(tuple((name, getattr(step, name)) for step in steps for name in step.model_fields_set))

    def __call__(self, images: Tensor) -> Tensor:
        x = images if images.is_floating_point() else images.to(torch.float32)
        for name, value in self.steps:
            x = _STEPS[name](x, value)
        return x

    def masks(self, masks: Tensor, size: Sequence[int]) -> Tensor:
        steps = [(name, value) for name, value in self.steps if name in ("resize", "crop")]
        if steps and tuple(masks.shape[-len(size) :]) != tuple(size):
            raise LoadError(
                f"masks of {_by(masks.shape[-len(size) :])} do not cover images of {_by(size)}: {self} cannot be done "
                "to both; give masks of the images' size"
            )
        for name, value in steps:
            here = masks.shape[-len(size) :]
            if name == "crop":
                masks = masks[_middle(here, value)]
                continue
            for axis, (old, new) in enumerate(zip(here, _resized(here, value), strict=True), -len(size)):
                nearest = ((torch.arange(new) + 0.5) * old / new).long()
                masks = masks.index_select(axis, nearest.to(masks.device))
        return masks

    def __str__(self) -> str:
        return ", ".join(_told(name, value) for name, value in self.steps)


def _told(name: str, value: Any) -> str:
    if name == "normalise":
        mean, std = (", ".join(f"{x:g}" for x in part) for part in (value.mean, value.std))
        return f"normalise by mean {mean} and std {std}"
    return f"{name} {_by(value) if isinstance(value, tuple) else format(value, 'g')}"


def _channels(x: Tensor, count: int) -> Tensor:
    if x.shape[1] == count:
        return x
    if x.shape[1] not in (1, 3):
        raise LoadError(f"channels: {count} is made of 1 or 3 channels, and the images have {x.shape[1]}")
    if count == 1:
        return (x * _along(torch.tensor(_LUMINANCE), x)).sum(1, keepdim=True)
    return x.expand(-1, count, *x.shape[2:])


def _resize(x: Tensor, wanted: _Size) -> Tensor:
    size = tuple(x.shape[2:])
    new = _resized(size, wanted)
    if new == size:
        return x
    # Bilinear in pairs of axes, because torch smooths before it shrinks in two dimensions only.
    pairs = x.shape[0], math.prod(x.shape[1:-2]) if len(size) > 1 else x.shape[1]
    x = _bilinear(x.reshape(*pairs, *(size[-2:] if len(size) > 1 else (1, *size))), (1, *new)[-2:])
    if len(size) == 3:
        x = _bilinear(x.reshape(*x.shape[:1], -1, size[0], new[1] * new[2]), (new[0], new[1] * new[2]))
    return x.reshape(pairs[0], -1, *new)


def _bilinear(x: Tensor, size: _Size) -> Tensor:
    return functional.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)


def _resized(size: Sequence[int], wanted: _Size) -> _Size:
    if len(wanted) == 1:
        shorter = min(size)  # the longer sides are cut to whole pixels, as torchvision does
        wanted = tuple(int(wanted[0] * side / shorter) for side in size)
    if math.prod(wanted) > _MOST_PIXELS:
        raise LoadError(f"resize: {_by(wanted)} is more than {_MOST_PIXELS:,} pixels, from images of {_by(size)}")
    if len(wanted) != len(size):
        raise LoadError(f"resize: {list(wanted)} has {len(wanted)} sides, and images of {_by(size)} have {len(size)}")
    return tuple(wanted)


def _crop(x: Tensor, wanted: _Size) -> Tensor:
    return x[_middle(x.shape[2:], wanted)]


def _middle(size: Sequence[int], wanted: _Size) -> tuple[Any, ...]:
    sides = wanted * len(size) if len(wanted) == 1 else wanted
    if len(sides) != len(size):
        raise LoadError(f"crop: {list(sides)} has {len(sides)} sides, and images of {_by(size)} have {len(size)}")
    if any(side > there for side, there in zip(sides, size, strict=True)):
        raise LoadError(f"crop: {_by(sides)} cannot be cut from an image of {_by(size)}: resize it first")
    starts = [round((there - side) / 2) for side, there in zip(sides, size, strict=True)]  # to even, as torchvision
    return (..., *(slice(start, start + side) for start, side in zip(starts, sides, strict=True)))


def _scale(x: Tensor, divisor: float) -> Tensor:
    return x / divisor


def _normalise(x: Tensor, by: Any) -> Tensor:
    for name, part in (("mean", by.mean), ("std", by.std)):
        if len(part) not in (1, x.shape[1]):
            raise LoadError(f"normalise: {name} has {len(part)} numbers, and the images have {x.shape[1]} channels")
    mean, std = (_along(torch.tensor(part, dtype=x.dtype), x) for part in (by.mean, by.std))
    return (x - mean) / std


_STEPS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "channels": _channels,
    "resize": _resize,
    "crop": _crop,
    "scale": _scale,
    "normalise": _normalise,
}


def _along(values: Tensor, x: Tensor) -> Tensor:
    """One value for each channel, in a shape that goes with images."""
    return values.to(x.device, x.dtype).reshape(-1, *[1] * (x.dim() - 2))


def _by(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


FRACTIONS = Steps((("scale", 255),))  # what decoded files become where nothing else is known: values from 0 to 1
