"""Train the network on the 60,000 training images; writes `weights.safetensors`.

    python examples/fashion_mnist/train.py

That takes five minutes of CPU time. It is seeded and runs on one thread: the same machine with the same torch writes
the same bytes.
"""

from pathlib import Path

import torch
from data import build as images_of
from model import build
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).parent
EPOCHS = 8
BATCH = 128
RATE = 0.1
SEED = 0


def tensors(part: str) -> tuple[Tensor, Tensor]:
    """Images with values 0 to 1, and labels, of one part of the data."""
    images, labels = images_of(part)
    return torch.tensor(images) / 255, torch.tensor(labels)


def fit(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Stochastic gradient descent with a rate that rises and falls once; half of the images are mirrored."""
    steps = EPOCHS * (len(images) // BATCH)
    optimiser = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    model.train()
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images))
        for chosen in order.split(BATCH)[: len(images) // BATCH]:
            mirrored = torch.rand(BATCH, 1, 1, 1) < 0.5
            batch = torch.where(mirrored, images[chosen].flip(-1), images[chosen])
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(batch), labels[chosen]).backward()
            optimiser.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}", flush=True)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that get their label."""
    model.eval()
    right = torch.cat([model(part).argmax(1) for part in images.split(500)]) == labels
    return right.double().mean().item()


def main() -> None:
    """Train, save, tell the accuracy."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(SEED)
    model = build()
    fit(model, *tensors("train"))
    save_file(model.state_dict(), HERE / "weights.safetensors")
    print(f"accuracy on the 10,000 test images: {accuracy(model, *tensors('t10k')):.4f}")


if __name__ == "__main__":
    main()
