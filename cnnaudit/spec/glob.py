"""Globs over the dotted paths of sites, as a rule's ``at:`` writes them.

A path is made of components between dots: ``layer1.0.conv2``. Within one component ``*`` stands for
any characters, ``?`` for one, ``[23]`` and ``[!2]`` for one of a class; a component ``**`` stands for
any number of components, also none.

A functional op inside a module, ``layer1.0#add.0``, may be read in two ways: as text of the module's own
component (``layer1.0#*``, ``layer1.*``) or as one component below the module (``layer1.0.**``). So ``x.**``
always means ``x`` and everything inside it, and ``x`` alone never means an op inside ``x``.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

__all__ = ["check", "matches"]

# One component: ordinary characters, wildcards, and classes that are closed, filled and free of separators,
# because a path is cut at its dots before the classes are read.
_COMPONENT = re.compile(r"(?:[^\s\[\]]|\[!?[^\s\[\]!.#]+\])+")


def matches(pattern: str, path: str) -> bool:
    """Whether a glob selects the path of a site."""
    globs = _components(pattern)
    return any(_matches(globs, pieces) for pieces in _readings(path))


def check(pattern: str) -> str:
    """Return the pattern unchanged.

    Raises:
        ValueError: A component is empty, holds a blank or an unclosed or empty class, or ``**`` beside more.
    """
    for component in _components(pattern):
        if not component:
            raise ValueError(f"the glob {pattern!r} has nothing between two dots, or is empty")
        if "**" in component and component != "**":
            raise ValueError(f"the glob {pattern!r} has ** inside a component: write it between dots, as in a.**.b")
        if not _COMPONENT.fullmatch(component):
            raise ValueError(
                f"the glob {pattern!r} must have no blank, and no [class] that is not closed, empty or cut by a dot"
            )
    return pattern


def _components(text: str) -> list[str]:
    """Cut at the dots before the first ``#``; what follows ``#`` belongs to the last component."""
    module, mark, op = text.partition("#")
    *above, last = module.split(".")
    return [*above, last + mark + op]


def _readings(path: str) -> list[list[str]]:
    module, mark, op = path.partition("#")
    if not (module and mark):
        return [_components(path)]
    return [_components(path), [*module.split("."), mark + op]]


def _matches(globs: list[str], pieces: list[str]) -> bool:
    # How many pieces the globs read so far can account for: a set of states instead of backtracking, so that
    # a pattern of many ** costs no more than the product of the two lengths.
    reached = {0}
    for glob in globs:
        if glob == "**":
            reached = set(range(min(reached), len(pieces) + 1))
        else:
            reached = {i + 1 for i in reached if i < len(pieces) and fnmatchcase(pieces[i], glob)}
        if not reached:
            return False
    return len(pieces) in reached
