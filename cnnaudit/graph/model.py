"""The captured model: a graph to interpret and the sites found in it."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree

from cnnaudit.errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch.fx import GraphModule, Node

    from cnnaudit.site import Site

__all__ = ["ModelGraph"]


@dataclass(frozen=True, eq=False)
class ModelGraph:
    """A model in evaluation mode as a graph of functional operators.

    Attributes:
        module: The graph to interpret. It shares the model's parameters, takes what the model takes and returns
            what the model returns, structure included.
        sites: Where information can be measured, in execution order.
        batch: The only batch size the graph can run, None for any.
        input_shape: Shape of one image.
        order: For each value that the graph takes, which of the network's inputs it is.
        channel_axes: Dimension that holds the channels of a tapped value, for those where it is not 1.
    """

    module: GraphModule
    sites: tuple[Site, ...]
    batch: int | None
    input_shape: tuple[int, ...]
    channel_axes: Mapping[str, int]
    order: tuple[int, ...] = (0,)

    @property
    def images(self) -> Node:
        """The value that holds the images."""
        taken: list[Node] = [node for node in self.module.graph.nodes if node.op == "placeholder"]
        return taken[self.order.index(0)]

    def site(self, path: str) -> Site:
        """The site of a path."""
        for site in self.sites:
            if site.path == path:
                return site
        raise GraphError(f"the model has no site {path!r}; `cnnaudit check SPEC --dry-run` must list it")

    def parameters(self, site: Site) -> dict[str, Tensor]:
        """The parameters of a site by their names, in the shapes that the model gave them."""
        targets = {node.name: str(node.target) for node in self.module.graph.nodes if node.op == "get_attr"}
        return {name: operator.attrgetter(targets[tap.node])(self.module) for name, tap in site.parameters.items()}

    def channels_first(self, node: str, value: Tensor) -> Tensor:
        """A tapped value as its tap describes it: images, then channels, then positions; a view."""
        axis = self.channel_axes.get(node, 1)
        return value if axis == 1 else value.movedim(axis, 1)

    @staticmethod
    def output_tensors(output: Any) -> list[Tensor]:
        """The tensors of a returned structure in a fixed order, to compare graph and model."""
        return [leaf for leaf in _pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]
