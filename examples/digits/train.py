"""Train the network on `train.npz` and write `weights.safetensors`.

    python examples/digits/train.py

One thread, one seed: the same machine writes the same file.
"""

from pathlib import Path

import numpy as np
import torch
from model import build
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).parent
EPOCHS = 80
BATCH = 50
SEED = 0


def load(name: str) -> tuple[Tensor, Tensor]:
    """Images and labels of one npz file of this folder."""
    with np.load(HERE / name) as arrays:
        return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])


def deform(images: Tensor) -> Tensor:
    """Shift, turn and scale each image a little: by up to a pixel, 9 degrees and 10 percent."""
    n = len(images)
    angle = (torch.rand(n) * 2 - 1) * 0.15
    scale = 1 + (torch.rand(n, 2) * 2 - 1) * 0.1
    shift = (torch.rand(n, 2) * 2 - 1) * 2 / images.shape[-1]
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(n, 2, 2)
    affine = torch.cat([turn * scale[:, :, None], shift[:, :, None]], dim=2)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def fit(model: nn.Module, *, epochs: int, rate: float) -> None:
    """Train what requires a gradient on the deformed training images."""
    images, labels = load("train.npz")
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        lr=rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH)[: len(images) // BATCH]:
            loss = functional.cross_entropy(model(deform(images[batch])), labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Share of the audit images that the model names correctly."""
    images, labels = load("digits.npz")
    return (model(images).argmax(1) == labels).double().mean().item()


def main() -> None:
    """Train, save, print the accuracy."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(SEED)
    model = build()
    fit(model, epochs=EPOCHS, rate=0.1)
    save_file(model.state_dict(), HERE / "weights.safetensors")
    print(f"accuracy on the audit images: {accuracy(model):.4f}")


if __name__ == "__main__":
    main()
