"""``transform: auto``: the preprocessing that belongs to a model's weights, in its own library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from cnnaudit.data.transforms import FRACTIONS, Steps, Transform, Transforms
from cnnaudit.errors import LoadError
from cnnaudit.load.zoo import package

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from cnnaudit.spec import Reading
    from cnnaudit.spec.source import Source

__all__ = ["transforms_for"]


def transforms_for(written: Reading | None, model: nn.Module, source: Source | None) -> Transforms:
    """Return what is done to images before a model sees them.

    Steps that are written are done to all images. Where nothing is written, arrays go in as they are, and images from
    files as the zoo that the model is from prepares them, else with values from 0 to 1.

    Args:
        written: How the rule file wants images to be read, or None.
        model: The model with its weights.
        source: Where it comes from, or None where Python gave it.

    Raises:
        LoadError: ``auto`` is written, and nobody knows what belongs to the model.
    """
    wanted = None if written is None else written.transform
    if isinstance(wanted, tuple):
        steps = Steps.written(wanted)
        return Transforms(steps, steps)
    from_zoo = source is not None and source.kind in ("torchvision", "timm")
    auto = _auto(model, source) if wanted == "auto" or from_zoo else None
    if wanted is None:
        return Transforms(None, auto or FRACTIONS)
    if auto is None:
        raise LoadError(
            "transform: auto is known for models from torchvision: and timm:, and not for this "
            f"{type(model).__name__}: write what was done to its training images, such as "
            "[{resize: 256}, {crop: 224}, {scale: 255}, {normalise: {mean: [...], std: [...]}}]"
        )
    return Transforms(auto, auto)


class _Auto(Transform):
    """A library's own pipeline.

    Args:
        pipeline: What it does to a picture of Pillow's, or to a tensor of shape (channels, *size).
        channels: Channels that the network takes; grey images get as many.
        told: What it is, for reports.
    """

    def __init__(self, pipeline: Callable[[Any], Tensor], channels: int, told: str) -> None:
        self._pipeline, self._channels, self._told = pipeline, channels, told

    def __call__(self, images: Tensor) -> Tensor:
        try:
            return torch.stack([self._pipeline(self._given(x)) for x in _in_range(images)])
        except (TypeError, ValueError, RuntimeError) as error:
            raise LoadError(
                f"transform {self}: images of shape {tuple(images.shape[1:])} do not go through ({error}); "
                "name another transform"
            ) from error

    def _given(self, image: Tensor) -> Any:
        """What the weights were evaluated on: a picture, where an image can be one."""
        if image.dim() != 3 or image.shape[0] not in (1, 3):
            return image
        image = image.expand(max(self._channels, len(image)), -1, -1)
        if image.dtype is not torch.uint8 or len(image) != 3:
            return image
        from PIL import Image  # noqa: PLC0415 - most audits do without

        return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())

    def masks(self, masks: Tensor, size: Sequence[int]) -> Tensor:
        raise LoadError(
            f"transform {self}: it is not known what that makes of masks of shape {tuple(masks.shape[1:])} beside "
            f"images of {' x '.join(map(str, size))}: write its steps, transform: [{{resize: ...}}, ...]"
        )

    def __str__(self) -> str:
        return self._told


def _in_range(images: Tensor) -> Tensor:
    """Images as bytes, or as fractions from 0 to 1.

    Raises:
        LoadError: they are neither: somebody has already done something to them.
    """
    if images.dtype is torch.uint8:
        return images
    lowest, highest = (float(end) for end in images.aminmax())
    whole = not images.is_floating_point()
    if lowest < 0 or highest > (255 if whole else 1):
        raise LoadError(
            "transform: auto takes whole numbers from 0 to 255 or fractions from 0 to 1, and these go from "
            f"{lowest:g} to {highest:g}: if the images are prepared already, leave transform out"
        )
    return images.to(torch.uint8 if whole else torch.float32)


def _auto(model: nn.Module, source: Source | None) -> Transform | None:
    if source is not None and source.kind == "torchvision":
        return _of_torchvision(source)
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if config is None and source is not None and source.kind == "timm":  # a part of the model is audited
        config = package("timm", "timm").get_pretrained_cfg(source.target)
    config = config.to_dict() if config is not None and hasattr(config, "to_dict") else config
    if not isinstance(config, Mapping) or "mean" not in config:
        return None
    # timm's configuration stays that of the pretrained weights where the network is built for other channels.
    channels = config["input_size"][0]
    other = source is not None and source.options.get("in_chans", channels) != channels
    return None if other else _of_timm(config)


def _of_torchvision(source: Source) -> Transform | None:
    models = package("torchvision", "vision").models
    known = models.get_model_weights(source.target)
    named = source.options.get("weights")
    weights = getattr(known, "DEFAULT", None) if named is None else known.verify(named)
    if weights is None:
        return None
    origin = f"torchvision {weights}" + ("" if named else f", the usual of {source.target}")
    pipeline = weights.transforms()
    return _Auto(pipeline, 3, f"auto, {origin}: {_line(pipeline)}")


def _of_timm(config: Mapping[str, Any]) -> Transform:
    data = package("timm", "timm").data
    chosen = data.resolve_data_config(pretrained_cfg=config)
    pipeline = data.create_transform(**chosen, is_training=False)
    name = ".".join(str(config[key]) for key in ("architecture", "tag") if config.get(key))
    return _Auto(pipeline, chosen["input_size"][0], f"auto, timm {name or 'configuration'}: {_line(pipeline)}")


def _line(pipeline: Any) -> str:
    """A pipeline's description of itself on one line."""
    parts = getattr(pipeline, "transforms", None) or [pipeline]
    lines = [re.sub(r"\(\s+|\s+\)", lambda found: found[0].strip(), repr(part)) for part in parts]
    return " ".join(re.sub(r",?\s*\n\s*", ", ", line) for line in lines)
