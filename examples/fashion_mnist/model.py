"""A small residual network for the 28x28 photographs of Fashion-MNIST."""

from torch import Tensor, nn


class Unit(nn.Sequential):
    """A 3x3 convolution, its norm and, unless a sum follows, its ReLU."""

    def __init__(self, inputs: int, outputs: int, *, rectified: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        if rectified:
            self.relu = nn.ReLU()


class Block(nn.Module):
    """Two convolutions whose result is added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Unit(channels, channels)
        self.second = Unit(channels, channels, rectified=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape (batch, channels, height, width) to as many maps of the same size."""
        return self.relu(x + self.second(self.first(x)))


class Network(nn.Module):
    """Four stages, at 28, 14, 14 and 7 pixels, an average over the map and a linear layer; 43,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Unit(1, 16)
        self.pool1 = nn.MaxPool2d(2)
        self.widen = Unit(16, 32)
        self.block = Block(32)
        self.pool2 = nn.MaxPool2d(2)
        self.last = Unit(32, 64)
        self.pool3 = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape (batch, 1, 28, 28) to logits of shape (batch, 10)."""
        x = self.pool1(self.stem(x))
        x = self.pool2(self.block(self.widen(x)))
        return self.head(self.pool3(self.last(x)).flatten(1))


def build() -> nn.Module:
    """The network, not trained."""
    return Network()
