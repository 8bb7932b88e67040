"""Which of the values that a network returns are its logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node
from torch.utils import _pytree

from cnnaudit.errors import GraphError
from cnnaudit.graph import ops

if TYPE_CHECKING:
    from torch.fx import GraphModule
    from torch.utils._pytree import KeyPath, TreeSpec

__all__ = ["logits_of"]

_USUAL = ("logits", "out")


def logits_of(module: GraphModule, returned: TreeSpec | None = None, head: str | None = None) -> Node | None:
    """Find the logits among the returned values.

    Args:
        module: A captured graph.
        returned: The structure of what it returns; None where that does not matter.
        head: Keys or indices of the logits in that structure, joined by dots; empty for none; None for the only value,
            else the one called ``logits`` or ``out``, else the first matrix.

    Raises:
        GraphError: there is no such value, or it is no tensor of numbers.
    """
    values = _named(module, returned)
    if head is not None:
        return _chosen(values, head) if head else None
    floats = {name: node for name, node in values.items() if ops.is_float(node)}
    if len(values) == 1:
        return next(iter(floats.values()), None)
    usual = [node for name in _USUAL for key, node in floats.items() if key.rpartition(".")[2] == name]
    matrices = [node for node in floats.values() if len(ops.shape(node)) == 2]
    return next(iter([*usual, *matrices]), None)


def _named(module: GraphModule, returned: TreeSpec | None) -> dict[str, Node]:
    """The returned tensors by their names."""
    flat = _pytree.tree_leaves(next(node for node in module.graph.nodes if node.op == "output").args[0])
    if returned is None:
        return {str(i): value for i, value in enumerate(flat) if isinstance(value, Node)}
    paths, _ = _pytree.tree_flatten_with_path(_pytree.tree_unflatten(list(range(len(flat))), returned))
    return {_name(path): flat[i] for path, i in paths if isinstance(flat[i], Node)}


def _name(path: KeyPath) -> str:
    """Keys, indices and attributes, joined by dots."""
    kinds = ("key", "idx", "name")
    return ".".join(str(next(getattr(entry, kind) for kind in kinds if hasattr(entry, kind))) for entry in path)


def _chosen(values: dict[str, Node], head: str) -> Node:
    found = [node for name, node in values.items() if name == head or name.startswith(f"{head}.")]
    if len(found) != 1:
        several = f"holds {len(found)} values" if found else "is none of the model's outputs"
        told = ", ".join(name for name in values if name) or "one value, which needs no head"
        raise GraphError(f"head: {head} {several}; the outputs are {told}")
    if not ops.is_float(found[0]):
        raise GraphError(
            f"head: {head} holds no fractions, so it cannot be logits; name another output, or say head: false"
        )
    return found[0]
