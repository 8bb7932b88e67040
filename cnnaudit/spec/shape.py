"""Values of a YAML file against a pydantic model: every finding in the file's words, at its line."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from cnnaudit.spec.messages import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cnnaudit.spec.yaml import Path

__all__ = ["Complain", "filled", "shaped"]

_Model = TypeVar("_Model", bound=BaseModel)


class Complain(Protocol):
    """Takes a mistake at the value, or the key, of a path."""

    def __call__(self, path: Path, message: str, *, key: bool = False) -> None: ...


def filled(value: Any, path: Path, complain: Complain) -> Any:
    """Return a mapping without the keys that have no value: ``min:`` with nothing after it is a slip."""
    if not isinstance(value, dict):
        return value
    for key in value:
        if value[key] is None:
            complain((*path, key), f"{key} has no value; give one, or leave it out", key=True)
    return {key: item for key, item in value.items() if item is not None}


def shaped(
    model: type[_Model],
    value: Any,
    path: Path,
    complain: Complain,
    *,
    beside: Callable[[Path], Iterable[str]] | None = None,
    noun: str = "key",
) -> _Model | None:
    """Return the value as a pydantic model, or None after complaints.

    It goes through JSON because pydantic's strict mode then allows what JSON can hold and nothing else: a
    list for a tuple and text for an enum, but never text or a boolean for a number.

    Args:
        model: What the value should be.
        value: Plain values.
        path: Where the value is in its document.
        complain: Takes each mistake.
        beside: The keys that are known where a path within the value ends; by default those of the model.
        noun: What such a key is called.
    """
    try:
        return model.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        findings = error.errors(include_url=False)
    told: dict[tuple[Path, Path, bool], list[str]] = defaultdict(list)
    for finding in findings:
        place = _within(value, finding["loc"])
        missing = finding["type"] == "missing"
        named = (*place, finding["loc"][-1]) if missing else place
        known = model.model_fields if beside is None else beside(named)
        words = describe(finding, (*path, *named), known, noun)
        told[(*path, *place), (*path, *named), finding["type"] == "extra_forbidden"].append(words)
    for (where, _, key), messages in told.items():
        complain(where, "; or ".join(messages), key=key)  # several where a union was meant
    return None


def _within(value: Any, loc: tuple[str | int, ...]) -> Path:
    """Pydantic's location without the steps that are its own: a union's member, a key that is not there."""
    path: list[str | int] = []
    for part in loc:
        if isinstance(value, dict) and part in value:
            value = value[str(part)]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            continue
        path.append(part)
    return tuple(path)
