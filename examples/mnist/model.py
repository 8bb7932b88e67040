"""The network of the package digit-recognizer-py with the weights that it ships."""

from importlib import resources

import torch
from digit_recognizer.model import CNN
from torch import nn


def build() -> nn.Module:
    """Three convolutions of 32, 64 and 128 kernels, each with a ReLU and a max pool, and two linear layers."""
    model = CNN()
    with resources.as_file(resources.files("digit_recognizer") / "models" / "handwriting_model.pth") as path:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model
