"""What of the rules was changed after the evidence existed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnaudit.spec import Rule

__all__ = ["ADDED", "Changes"]

ADDED = "the rule was added"

_BOUNDS = ("min", "max", "min_excess", "share", "reduce", "estimand")
_MEASURES = ("metric", "field", "params", "op", "at", "start", "by", "null")
# What decides neither a number nor what it is held against.
_BESIDE = ("max_regression", "severity", "if_absent")


class Changes:
    """What is different in edited rules, by their ids.

    Attributes:
        told: For each rule that is not as it was what was changed: ``max 0.75 -> 0.9``.
        same: Ids of the rules that decide as they did, on the same measurements at the same confidence.
        notes: All of it, as sentences.
    """

    def __init__(self, before: Sequence[Rule], after: Sequence[Rule], policy: Mapping[str, tuple[Any, Any]]) -> None:
        """Compare rules; ``policy`` has what the whole file says, as it was and as it is."""
        old = {rule.id: rule for rule in before}
        general = {name: values for name, values in policy.items() if values[0] != values[1]}
        confidence = _words({name: values for name, values in general.items() if name == "confidence"})
        own = {rule.id: _differences(old[rule.id], rule) for rule in after if rule.id in old}
        deciding = {*_BOUNDS, *_MEASURES}
        self.same = frozenset(rule for rule, found in own.items() if not (deciding & found.keys() or confidence))
        self.told = {
            rule.id: ADDED
            if rule.id not in old
            else "; ".join(filter(None, (_words(own[rule.id]), confidence if rule.bounds else "")))
            for rule in after
        }
        changed = [f"{rule} ({_words(found)})" for rule, found in own.items() if found]
        added = [rule.id for rule in after if rule.id not in old]
        removed = [rule for rule in old if rule not in {edited.id for edited in after}]
        self.notes = tuple(
            f"{what} after the evidence existed: {', '.join(which)}."
            for what, which in (
                ("Changed", [_words({name: values}) for name, values in general.items()] + changed),
                ("Rules added", added),
                ("Rules removed", removed),
            )
            if which
        )


def _differences(before: Rule, after: Rule) -> dict[str, tuple[Any, Any]]:
    pairs = {name: (getattr(before, name), getattr(after, name)) for name in (*_BOUNDS, *_MEASURES, *_BESIDE)}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}


def _words(found: Mapping[str, tuple[Any, Any]]) -> str:
    names = {"start": "from"}
    return "; ".join(f"{names.get(name, name)} {_shown(old)} -> {_shown(new)}" for name, (old, new) in found.items())


def _shown(value: Any) -> str:
    if value is None or value in ("", ()):
        return "none"
    if is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        return _shown({name: part for name, part in parts.items() if part is not None})
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_shown(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(_shown, value))
    return str(value)
