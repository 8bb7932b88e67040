"""The images that a model seems to be made for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from cnnaudit.load.zoo import package

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from cnnaudit.load.model import Loaded
    from cnnaudit.spec.source import Source

__all__ = ["suggested_shape"]

_USUAL = {nn.Conv1d: (1024,), nn.Conv2d: (224, 224), nn.Conv3d: (16, 64, 64)}


def suggested_shape(loaded: Loaded, source: Source | None) -> tuple[int, ...] | None:
    """Return the shape of images that a model seems to be made for, (channels, *size); None where nothing tells.

    An exported program says it, and timm's configuration of a model. Else it is the channels of the first convolution,
    of the size to which torchvision crops for the model's usual weights, or of a usual size.

    Args:
        loaded: The model.
        source: Where it comes from, or None where Python gave it.
    """
    if loaded.program is not None:
        return _of_program(loaded.program)
    options = {} if source is None else source.options
    config: Any = getattr(loaded.model, "pretrained_cfg", None) or getattr(loaded.model, "default_cfg", None)
    config = config.to_dict() if hasattr(config, "to_dict") else config
    if isinstance(config, Mapping) and (given := config.get("input_size")):
        return (options.get("in_chans", given[0]), *given[1:])
    for module in loaded.model.modules():
        for kind, usual in _USUAL.items():
            if isinstance(module, kind) and module.in_channels:
                crop = _crop(source)
                return (module.in_channels, *usual[: len(usual) - len(crop)], *crop[-len(usual) :])
    return None


def _of_program(program: ExportedProgram) -> tuple[int, ...] | None:
    """The shape of the first input without the batch, where the program takes one only."""
    for node in program.graph.find_nodes(op="placeholder"):
        if node.name in program.graph_signature.user_inputs and isinstance(node.meta.get("val"), Tensor):
            shape = tuple(node.meta["val"].shape[1:])
            return shape if all(isinstance(side, int) for side in shape) else None
    return None


def _crop(source: Source | None) -> tuple[int, ...]:
    """What torchvision crops images to for the usual weights of a whole model, (height, width)."""
    if source is None or source.kind != "torchvision" or source.part:
        return ()
    weights: Any = getattr(package("torchvision", "vision").models.get_model_weights(source.target), "DEFAULT", None)
    crop = list(getattr(weights and weights.transforms(), "crop_size", ()))
    return tuple(crop * 2 if len(crop) == 1 else crop)
