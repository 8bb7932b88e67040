"""Names of sites: module paths that survive a change of torch's node names."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch.fx import Node

__all__ = ["name_sites"]

_CALL = re.compile(r"@\d+")  # torch marks the second call of a module in the keys of its stack


def name_sites(nodes: Iterable[Node], sites: Sequence[tuple[Node, str]]) -> list[str]:
    """A unique path for each site.

    An operator that is all its module does (a convolution, a pool) has the module's path; one of
    several operators of a module is ``path#label.0``, counted for each label in execution order; a
    module that is called again is ``path@1``.

    Args:
        nodes: All nodes of the graph in execution order.
        sites: Each site's node and the label of its operator.
    """
    calls = _calls(nodes)
    held = Counter(calls[node] for node, _ in sites)
    parents = {parent for call in calls.values() for parent in _above(call[0])}
    counters: defaultdict[tuple[str, str], int] = defaultdict(int)
    paths = []
    for node, label in sites:
        module, call = calls[node]
        path = f"{module}@{call}" if call else module
        if not module or held[module, call] > 1 or module in parents:
            index = counters[path, label]
            counters[path, label] += 1
            path = f"{path}#{label}.{index}"
        paths.append(path)
    return paths


def _calls(nodes: Iterable[Node]) -> dict[Node, tuple[str, int]]:
    """Innermost module of each node and which call of it this is; the model itself is called once."""
    calls: defaultdict[str, dict[str, int]] = defaultdict(dict)
    found = {}
    for node in nodes:
        stack = node.meta.get("nn_module_stack") or {"": ("",)}
        key, (path, *_) = list(stack.items())[-1]
        module = _CALL.sub("", path)
        found[node] = (module, calls[module].setdefault(key, len(calls[module])) if module else 0)
    return found


def _above(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]
