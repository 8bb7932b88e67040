"""The words in which a mistake is told: pydantic's findings, in terms of the rule file."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic_core import ErrorDetails

    from cnnaudit.spec.yaml import Path

__all__ = ["NO_RULES", "describe", "did_you_mean", "quoted"]

NO_RULES = "a file without rules audits nothing: list at least one under rules:"

_MARK = "a mark must be made of letters, digits and '_', and start with a letter"
_BY = "by names one data column, as in by: scanner or by: {column: scanner, min_images: 200}"
_NULL = "null must be twin for newly initialised weights, or {twin: permuted} for the trained ones in another order"

# (keys of the path, pydantic's error type) -> words better than the general ones below
_OWN_WORDS: Mapping[tuple[tuple[str, ...], str], str] = {
    (("cnnaudit",), "missing"): "the file must say the version it is written for, first of all: cnnaudit: 1",
    (("rules",), "missing"): NO_RULES,
    (("rules",), "tuple_type"): "rules is a list: start each rule with '- '",
    (("rules",), "model_type"): "a rule is a mapping such as {metric: activity.dead, max: 0}",
    (("cnnaudit-waivers",), "missing"): "a file of waivers must say the version it is written for: cnnaudit-waivers: 1",
    (("waivers",), "tuple_type"): "waivers is a list: start each waiver with '- '",
    (("waivers",), "model_type"): "a waiver must be a mapping: rule, owner, reason, ... each on a line of its own",
    (("rules", "id"), "string_pattern_mismatch"): "an id must be made of letters, digits, '.', '_' and '-'",
    (("rules", "marks"), "string_pattern_mismatch"): _MARK,
    (("marks",), "string_pattern_mismatch"): _MARK,
    (("by",), "string_type"): _BY,
    (("rules", "by"), "string_type"): f"{_BY}; by: false leaves the rule unsliced",
    (("rules", "null"), "literal_error"): _NULL,
    (("rules", "null", "twin"), "literal_error"): _NULL,
    (("rules", "id"), "string_too_long"): "an id has at most 100 characters",
}

_EXPECTED: Mapping[str, str] = {
    "string_type": "text",
    "bool_type": "true or false",
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "none_required": "empty",
}

_LIMITS: Mapping[str, str] = {
    "finite_number": "must be a finite number",
    "greater_than": "must be above {gt:.9g}",
    "greater_than_equal": "must be at least {ge:.9g}",
    "less_than": "must be below {lt:.9g}",
    "less_than_equal": "must be at most {le:.9g}",
    "multiple_of": "must be a multiple of {multiple_of:.9g}",
}


def describe(error: ErrorDetails, path: Path, known: Iterable[str], noun: str = "key") -> str:
    """One of pydantic's findings as a sentence.

    Args:
        error: The finding.
        path: Where it is in the document, up to the key concerned; that key need not exist.
        known: The keys that could have been written beside it.
        noun: What such a key is called.
    """
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    keys = tuple(part for part in path if isinstance(part, str))
    name = _name(path)
    if own := _OWN_WORDS.get((keys, kind)):
        message = own
    elif kind == "extra_forbidden":
        message = f"unknown {noun} {quoted(keys[-1])}" + (did_you_mean(keys[-1], known) or _listed(noun, known))
    elif kind == "missing":
        message = f"the {noun} {quoted(name)} is missing: add it"
    elif kind in ("literal_error", "enum"):
        options = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        hint = did_you_mean(value, options) if isinstance(value, str) else ""
        message = f"{name} must be one of {', '.join(options)}, not {_spoken(value)}{hint}"
    elif kind in _EXPECTED:
        message = f"{name} must be {_EXPECTED[kind]}, not {_spoken(value)}"
        if kind in ("float_type", "int_type") and isinstance(value, str) and re.fullmatch(r"[-+.0-9eE]*\d", value):
            message += ": remove the quotes"
    elif kind in _LIMITS:
        message = f"{name} {_LIMITS[kind].format(**context)}, not {value}"
    elif kind in ("value_error", "assertion_error"):
        message = str(context["error"])
    else:
        message = f"{name}: {error['msg'][:1].lower()}{error['msg'][1:]}"
    return message


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """``; did you mean 'min'?`` with the option nearest to a word, or nothing where none is near."""
    word, options = word.lower(), list(options)
    near = get_close_matches(word, options, n=1) or [it for it in options if word.startswith(it)]  # convolution
    return f"; did you mean {near[0]!r}?" if near else ""


def quoted(text: str) -> str:
    """Text as a message shows it: on one line, without control characters, at most 60 characters long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _name(path: Path) -> str:
    """The last key of a path with the numbers that follow it: ``("rules", 0, "at", 1)`` is ``at[1]``."""
    name = ""
    for part in path:
        name = f"{name}[{part}]" if isinstance(part, int) else part
    return name or "the file"


def _listed(noun: str, known: Iterable[str]) -> str:
    names = ", ".join(known)
    return f"; the {noun}s are {names}" if names else f"; leave it out, there are no {noun}s"


def _spoken(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {quoted(value)}"
    if isinstance(value, int | float):
        return f"the number {value}"
    return "a list" if isinstance(value, list | tuple) else "a mapping"
