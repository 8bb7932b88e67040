"""What data holds, by name and as tensors, or one message that says what is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cnnaudit.call import expanded
from cnnaudit.data.masks import is_dense
from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from torch import Tensor

    from cnnaudit.call import Call

__all__ = [
    "as_array",
    "as_images",
    "as_labels",
    "as_sources",
    "as_values",
    "first",
    "images_in",
    "named",
    "native",
    "near",
    "require",
    "source_id",
    "telling",
]


_SINGULAR = {"images": "image", "labels": "label", "masks": "mask"}


@contextmanager
def telling(place: str, doing: str = "reading") -> Iterator[None]:
    """Tell where it was that a user's data set or factory raised."""
    try:
        yield
    except Exception as error:
        raise LoadError(
            f"{place}: {doing} it raised {type(error).__name__}: {error}; run it by itself to see where"
        ) from error


def images_in(given: Any, place: str) -> Any:
    """Return the images among what whole arrays, one batch or one sample hold: a tensor, or several.

    Raises:
        LoadError: a mapping has none, or there are too many values to tell which they are.
    """
    if isinstance(given, Mapping):
        return next((given[name] for name in ("images", "image") if name in given), None)
    if not isinstance(given, (tuple, list)):
        return given
    if len(given) not in (1, 2):
        raise LoadError(f"{place}: {len(given)} values; yield (images, labels), images, or a mapping with columns")
    return given[0]


def named(given: Any, place: str, call: Call, *, single: bool = False) -> dict[str, Any]:
    """Return what whole arrays, one batch or one sample hold, by name; None is left out.

    Raises:
        LoadError: something is missing that the network is called with.
    """
    images = images_in(given, place)
    found = dict(images) if isinstance(images, Mapping) else {}
    if isinstance(given, Mapping):
        found |= {own: given[name] for own, name in _SINGULAR.items() if name in given}
        found |= {str(name): value for name, value in given.items()}
    elif isinstance(given, (tuple, list)):
        found |= dict(zip(("images", "labels"), given, strict=False))
    found = {name: value for name, value in found.items() if value is not None}
    found |= {} if images is None else expanded(images)
    for name in call.names:
        if name not in found:
            what = "a mapping without images" if name == "images" else f"nothing is called {name!r}"
            advice = "name them 'images'" if name == "images" else "add what the network is called with"
            raise LoadError(f"{place}: {what}, of {', '.join(found) or 'nothing'}: {advice}")
    found.setdefault("images", found[call.names[0]])
    if "masks" not in found and is_dense(found.get("labels"), found["images"], single=single):
        found["masks"] = found.pop("labels")
    return found


def require(columns: Iterable[str], known: Iterable[str], place: str) -> None:
    """Refuse data that lacks a column.

    Raises:
        LoadError: it does; the message lists those that there are.
    """
    others = [name for name in known if name not in ("images", "image", "masks")]
    for name in columns:
        if name not in others:
            told = f"the columns are {', '.join(others)}" if others else "give it one"
            raise LoadError(f"{place}: no column {name!r}, which a rule slices by{near(name, others) or ';'} {told}")


def first(values: Any, count: int | None) -> Any:
    """Return at most so many of some values."""
    return values[:count] if count is not None and hasattr(values, "__len__") else values


def near(name: str, options: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return a question whether the nearest of some names was meant; nothing where none is near."""
    found = get_close_matches(name, list(options), n=1, cutoff=cutoff)
    return f"; did you mean {found[0]!r}?" if found else ""


def source_id(value: str | int) -> int:
    """Return what stands for a source: the same number in all data, 64 bits of a hash of its name."""
    return int.from_bytes(hashlib.blake2b(str(value).encode(), digest_size=8).digest(), "little", signed=True)


def as_sources(held: Mapping[str, Any], place: str, count: int) -> Tensor:
    """Return what stands for each image's source, int64 of shape (count,)."""
    return torch.tensor([source_id(value) for value in as_values(held["source"], "source", place, count)])


def as_values(given: Any, name: str, place: str, count: int) -> list[str | int]:
    """The values of a column; one that stands alone is one image's."""
    given = given.reshape(-1) if tuple(getattr(given, "shape", ()))[1:] == (1,) else given
    held = given.tolist() if hasattr(given, "tolist") else given
    held = held if isinstance(held, (list, tuple)) else [held]
    values = [value.tolist() if hasattr(value, "tolist") else value for value in held]
    for value in values:
        if not isinstance(value, (str, int)):
            raise LoadError(
                f"{place}: column {name} holds {str(value)[:40]}, a {type(value).__name__}: "
                "a column must hold text or whole numbers, one an image"
            )
    if len(values) != count:
        raise LoadError(f"{place}: {count} images but {len(values)} values in column {name}; give one an image")
    return values


def native(given: Any) -> Any:
    """Return an array as torch can take it over: in the machine's byte order, writable, with no negative strides."""
    if not isinstance(given, np.ndarray):
        return given
    if not given.dtype.isnative:
        given = given.astype(given.dtype.newbyteorder("="))
    return np.require(given, requirements=["C", "W"])


def as_array(given: Any, place: str) -> Tensor:
    """Return a tensor of any shape."""
    try:
        return torch.as_tensor(native(given))
    except (TypeError, ValueError, RuntimeError) as error:
        raise LoadError(
            f"{place}: {type(given).__name__} is not an array of images ({error}); give (images, channels, *size)"
        ) from error


def as_images(given: Any, place: str, *, single: bool = False) -> Tensor:
    """Return a tensor of shape (n, channels, *size), or of one image without n."""
    x = as_array(given, place)
    if x.dim() < (2 if single else 3):
        raise LoadError(f"{place}: images have shape {tuple(x.shape)}; expected (images, channels, *size)")
    if x.is_complex():
        raise LoadError(f"{place}: images hold complex numbers ({x.dtype}): give their parts as channels")
    return x


def as_labels(labels: Any, place: str, *, single: bool = False) -> Tensor:
    """Return labels as int64 of shape (n,), from one of shape (n,) or (n, 1); True is 1.

    Raises:
        LoadError: they are not one whole number an image, or one is negative.
    """
    one = labels[0] if isinstance(labels, (list, tuple)) and labels else labels
    if isinstance(one, str) or getattr(getattr(labels, "dtype", None), "kind", "") in ("U", "S"):
        raise LoadError(f"{place}: labels are text: number them with np.unique(labels, return_inverse=True)[1]")
    if len(shape := tuple(getattr(labels, "shape", ()))) > 2:  # before it is read, where it is in a file
        raise LoadError(f"{place}: labels must be one integer an image, not {labels.dtype} of shape {shape}")
    try:
        y = torch.as_tensor(native(labels))
    except (TypeError, ValueError, RuntimeError) as error:
        raise LoadError(f"{place}: labels are not integers ({error}); give one whole number an image") from error
    y = y[None] if single else y
    y = y[:, 0] if y.dim() == 2 and y.shape[1] == 1 else y
    if y.dim() != 1 or y.is_floating_point() or y.is_complex():
        raise LoadError(
            f"{place}: labels must be one integer an image, not {y.dtype} of shape {tuple(y.shape)}{_advice(y, labels)}"
        )
    y = y.long()
    if len(y) and int(y.min()) < 0:
        raise LoadError(f"{place}: label {int(y.min())} is negative; classes must count from 0, and each image has one")
    return y


def _advice(y: Tensor, labels: Any) -> str:
    """What to do about labels that are not one integer an image."""
    if y.dim() == 2:
        return ": if they are one-hot, give labels.argmax(-1)"
    if y.dim() == 1 and y.is_floating_point():
        cast = "astype(int)" if isinstance(labels, np.ndarray) else "long()"
        return f": if they are classes and not something measured, give labels.{cast}"
    return ""
