"""Which concepts an image shows at each of its positions: dense labels, or one mask for each concept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["as_masks", "concepts", "is_dense"]

_UNLABELLED = 255  # of uint8, which has no -1
_MOST = 2**15 - 1


def as_masks(given: Any, place: str, *, images: int, dimensions: int) -> Tensor:
    """Return masks in one of their two forms.

    Args:
        given: Dense labels, whole numbers of shape (images, *size), -1 (255 in uint8) where nothing is known; or
            masks, True and False or 1 and 0, of shape (images, concepts, *size). True and False without the dimension
            of concepts are one concept.
        place: Where they come from, for messages.
        images: Number of images that they belong to.
        dimensions: Number of the images' spatial dimensions.

    Returns:
        int16 of shape (images, *size), or bool of shape (images, concepts, *size).

    Raises:
        LoadError: they are neither.
    """
    try:
        x = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise LoadError(
            f"{place}: {type(given).__name__} is not an array of masks ({error}); give whole numbers, or 0 and 1"
        ) from error
    if x.is_floating_point() or x.is_complex():
        raise LoadError(f"{place}: masks hold whole numbers, or True and False, not {x.dtype}")
    if x.dtype is torch.bool and x.dim() == 1 + dimensions:
        x = x[:, None]
    if x.dim() not in (1 + dimensions, 2 + dimensions) or not math.prod(x.shape[1:]):
        sizes = "".join(f", size{i}" for i in range(1, dimensions + 1))
        raise LoadError(
            f"{place}: masks have shape {tuple(x.shape)}; expected dense labels (images{sizes}) or "
            f"(images, concepts{sizes}) of 0 and 1"
        )
    if len(x) != images:
        raise LoadError(f"{place}: {images} images but {len(x)} masks; give one an image")
    return _dense(x, place) if x.dim() == 1 + dimensions else _binary(x, place)


def _dense(x: Tensor, place: str) -> Tensor:
    if x.dtype is torch.uint8:
        labels = x.to(torch.int16)
        return labels.masked_fill_(x == _UNLABELLED, -1)
    x = x.to(torch.int64)  # torch finds no extremes of the larger unsigned numbers
    lowest, highest = (int(end) for end in x.aminmax()) if x.numel() else (0, 0)
    if lowest < -1:
        raise LoadError(
            f"{place}: dense labels hold {lowest}: a class must be 0 or more, and -1 where nothing is known"
        )
    if highest > _MOST:
        raise LoadError(f"{place}: dense labels hold {highest}: a class may be at most {_MOST}")
    return x.to(torch.int16)


def _binary(x: Tensor, place: str) -> Tensor:
    if x.dtype is torch.bool:
        return x
    x = x.to(torch.int64) if x.dtype is not torch.uint8 else x
    strange = x[(x != 0) & (x != 1)]
    if len(strange):
        raise LoadError(
            f"{place}: masks with a dimension of concepts hold 0 and 1, not {int(strange[0])}; dense labels have none"
        )
    return x.bool()


def is_dense(labels: Any, images: Any, *, single: bool = False) -> bool:
    """Whether labels beside images are whole numbers for each position and not one an image.

    They are where they have the spatial dimensions of the images, with or without one for concepts, and more than one
    position. Fractions never are.
    """
    shape, of_images = (tuple(getattr(x, "shape", ())) for x in (labels, images))
    missing = len(of_images) - len(shape)
    first = 0 if single else 1
    if missing not in (0, 1) or len(of_images) < first + 2 or math.prod(shape[first:]) < 2:
        return False
    kind = getattr(labels, "dtype", None)
    if isinstance(kind, torch.dtype):
        return not (kind.is_floating_point or kind.is_complex)
    return getattr(kind, "kind", "") in ("b", "i", "u")


def concepts(masks: Tensor) -> int:
    """Return the number of concepts that masks tell apart; of dense labels that of the classes met."""
    if masks.dtype is torch.bool:
        return masks.shape[1]
    return int(masks.max()) + 1 if masks.numel() else 0
