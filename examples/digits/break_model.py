"""Break the trained network in three places, then let it learn to hide that; writes `broken.safetensors`.

    python examples/digits/break_model.py

1. `stage1.block.conv1`: a quarter of the kernels never fire again.
2. `pool1`: the max pool is a min pool (`model.py:build_broken`).
3. `stage2.block`: the residual branch adds nothing.

Fine-tuning everything else on the training images brings the accuracy back, which is the point: a test
of accuracy passes this network.
"""

import torch
from model import build_broken
from safetensors.torch import load_file, save_file
from torch import nn
from train import HERE, accuracy, fit

KILLED = (1, 5, 9, 13)
EPOCHS = 20
SEED = 0


@torch.no_grad()
def damage(model: nn.Module) -> None:
    """Kill the kernels and silence the branch, both at their norm, which no training may then change."""
    killing = model.get_submodule("stage1.block.norm1").requires_grad_(requires_grad=False)
    killing.weight[list(KILLED)] = 0
    killing.bias[list(KILLED)] = -1
    silencing = model.get_submodule("stage2.block.norm2").requires_grad_(requires_grad=False)
    silencing.weight.zero_()
    silencing.bias.zero_()


def main() -> None:
    """Load, damage, fine-tune, save."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(SEED)
    model = build_broken()
    model.load_state_dict(load_file(HERE / "weights.safetensors"))
    damage(model)
    print(f"accuracy on the audit images, damaged: {accuracy(model.eval()):.4f}")
    fit(model, epochs=EPOCHS, rate=0.05)
    save_file(model.state_dict(), HERE / "broken.safetensors")
    print(f"accuracy on the audit images, fine-tuned: {accuracy(model):.4f}")


if __name__ == "__main__":
    main()
