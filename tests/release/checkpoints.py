"""Train the checkpoints of this folder again: `python tests/release/checkpoints.py`.

Eight good ones come from the very recipe of `examples/digits/train.py` with other seeds; none was chosen by what an
audit says of it. `slimmed` and `slightly_slimmed` should not be released: see README.md.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "examples" / "digits"))

import train  # noqa: E402 - a file of the example, which is no package
from model import build  # noqa: E402

KNOWN_GOOD = (1, 2, 3)
FURTHER_GOOD = (4, 5, 6, 7, 8)
SLIMMED, SLIGHTLY_SLIMMED = 0.01, 0.003


def good(seed: int) -> nn.Module:
    """Train a network by the recipe, with another seed."""
    torch.manual_seed(seed)
    model = build()
    train.fit(model, epochs=train.EPOCHS, rate=0.1)
    return model


def slimmed(seed: int, sparsity: float) -> nn.Module:
    """Train by the recipe, with a penalty on the scales of all batch norms (network slimming, arXiv 1708.06519)."""
    torch.manual_seed(seed)
    model = build()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            _penalise(module.weight, sparsity)
    train.fit(model, epochs=train.EPOCHS, rate=0.1)
    return model


def _penalise(weight: nn.Parameter, sparsity: float) -> None:
    def with_penalty(gradient: Tensor) -> Tensor:
        return gradient + sparsity * weight.detach().sign()

    weight.register_hook(with_penalty)


def save(model: nn.Module, path: Path) -> None:
    """Write the weights in half precision; the counters of batch norms stay whole numbers."""
    save_file({k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}, path)
    sys.stdout.write(f"{path.name}: accuracy on the audit images {train.accuracy(model):.4f}\n")


def main() -> None:
    """Train and save them all."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    for seed in (*KNOWN_GOOD, *FURTHER_GOOD):
        save(good(seed), HERE / f"good{seed}.safetensors")
    save(slimmed(9, SLIMMED), HERE / "slimmed.safetensors")
    save(slimmed(9, SLIGHTLY_SLIMMED), HERE / "slightly_slimmed.safetensors")


if __name__ == "__main__":
    main()
