"""The three networks of the face detector MTCNN, with the weights that facenet-pytorch ships."""

from facenet_pytorch import ONet, PNet, RNet
from torch import nn


def pnet() -> nn.Module:
    """Proposes: boxes and probabilities of two classes for every 12x12 window, on a grid of every second pixel."""
    return PNet()


def rnet() -> nn.Module:
    """Refines: a box and probabilities of two classes for a 24x24 image."""
    return RNet()


def onet() -> nn.Module:
    """Decides: a box, five landmarks and probabilities of two classes for a 48x48 image."""
    return ONet()
