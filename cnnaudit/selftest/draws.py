"""Random numbers that are the same on every machine."""

from __future__ import annotations

import torch

__all__ = ["labels", "normal", "uniform"]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return independent normal numbers, float32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return independent uniform numbers in [0, 1), float32."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def labels(images: int, classes: int) -> torch.Tensor:
    """Return classes in turn, equally many of each where they divide the images."""
    return torch.arange(images) % classes
