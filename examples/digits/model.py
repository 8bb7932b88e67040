"""A small residual network for 8x8 digits, and the same network with its first pool replaced."""

from collections import OrderedDict

from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions and a skip, which is a 1x1 convolution where the width changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.skip: nn.Module = nn.Identity()
        if inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Add what the branch found to what came in."""
        identity = self.skip(x)
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += identity
        return self.relu(out)


class MinPool2d(nn.MaxPool2d):
    """The smallest value of each window: on rectified maps, mostly zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Turn the max pool upside down."""
        return -super().forward(-x)


def build(pool1: type[nn.Module] = nn.MaxPool2d) -> nn.Sequential:
    """Three stages, at 8x8, 4x4 and 2x2."""
    return nn.Sequential(
        OrderedDict(
            stem=named(
                conv=nn.Conv2d(1, 16, 3, padding=1, bias=False),
                norm=nn.BatchNorm2d(16),
                relu=nn.ReLU(inplace=True),
            ),
            stage1=named(block=Block(16, 16)),
            pool1=pool1(2),
            stage2=named(widen=Block(16, 32), block=Block(32, 32)),
            pool2=nn.MaxPool2d(2),
            stage3=named(block=Block(32, 32)),
            pool3=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            head=nn.Linear(32, 10),
        )
    )


def build_broken() -> nn.Sequential:
    """The same network whose first max pool is a min pool."""
    return build(pool1=MinPool2d)


def named(**layers: nn.Module) -> nn.Sequential:
    """A sequence of layers, each under its own name."""
    return nn.Sequential(OrderedDict(layers))
