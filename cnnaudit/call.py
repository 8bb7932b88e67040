"""How a network is called with what the data gives: which of its values is which argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

__all__ = ["Call", "are_several", "expanded"]

_USUAL = "images"


@dataclass(frozen=True)
class Call:
    """The arguments of a network, as names of what the data holds.

    The leaves of ``args`` and ``kwargs`` are names; lists, tuples and mappings around them are passed as they are.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
    """

    args: tuple[Any, ...] = (_USUAL,)
    kwargs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def written(cls, inputs: Any) -> Call:
        """Return the call that a rule file's ``inputs:`` says: names in a list, in a mapping, or one."""
        if isinstance(inputs, Mapping):
            return cls((), MappingProxyType(dict(inputs)))
        return cls((inputs,) if isinstance(inputs, str) else tuple(inputs))

    @classmethod
    def given(cls, images: Any) -> Call:
        """Return the call that data suggests: a tuple of images is several arguments, a mapping is one."""
        if not are_several(images):
            return cls()
        names = dict(_leaves(images))
        return cls((names,) if isinstance(images, Mapping) else tuple(names.values()))

    def __reduce__(self) -> tuple[Any, ...]:
        """A mapping that cannot be changed cannot be pickled, and processes that read images are sent this."""
        return Call, (self.args, dict(self.kwargs))

    @property
    def names(self) -> tuple[str, ...]:
        """Every name once; the images come first: what is called so, else what comes first."""
        found = dict.fromkeys(_names([*self.args, *self.kwargs.values()]))
        return tuple(sorted(found, key=lambda name: name != _USUAL))

    def arguments(self, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and keyword arguments, given a value for each of :attr:`names`."""
        by_name = dict(zip(self.names, values, strict=True))
        return tuple(_filled(x, by_name) for x in self.args), {k: _filled(x, by_name) for k, x in self.kwargs.items()}


def are_several(images: Any) -> bool:
    """Whether these are several arrays that a network takes together: in a tuple, a list or a mapping."""
    held = list(images.values()) if isinstance(images, Mapping) else images
    return isinstance(held, (tuple, list)) and len(held) > 0 and all(hasattr(x, "shape") for x in held)


def expanded(images: Any) -> dict[str, Any]:
    """Return the values of images that may be several, under the names that :meth:`Call.given` has for them."""
    if not are_several(images):
        return {_USUAL: images}
    items = images if isinstance(images, Mapping) else dict(enumerate(images))
    return {name: items[key] for key, name in _leaves(images)}


def _leaves(images: Any) -> list[tuple[Any, str]]:
    """Keys or indices of several images with the names that these go by; the first is what is called images."""
    keys = list(images) if isinstance(images, Mapping) else range(len(images))
    first = _USUAL if _USUAL in keys else next(iter(keys), None)
    return [(key, _USUAL if key == first else f"{_USUAL}.{key}") for key in keys]


def _names(template: Any) -> list[str]:
    if isinstance(template, str):
        return [template]
    items = template.values() if isinstance(template, Mapping) else template
    return [name for item in items for name in _names(item)]


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(template, str):
        return values[template]
    if isinstance(template, Mapping):
        return {key: _filled(item, values) for key, item in template.items()}
    return [_filled(item, values) for item in template]
