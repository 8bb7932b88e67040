"""CPU time and memory of an audit over plain forward passes on the same images.

Each model runs in processes of its own: one that takes the times, and one each for the peak memory of eager
forward passes and of the audit. Times are CPU times of one thread, taken in turn within every round; what is
printed are medians over rounds, and of ratios within a round. Weights, images and labels are random.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
import torchvision
from tabulate import tabulate

from cnnaudit.judge import decide
from cnnaudit.pipeline import audit, prepare
from cnnaudit.stream import sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from cnnaudit.data import Block
    from cnnaudit.pipeline import Prepared

MODELS = ("resnet18", "resnet50", "mobilenet_v3_small")
BLOCK = 16
MIB = 2**20

# The metrics of a first audit, with bounds that hold: what is measured is measuring. benchmarks/metrics.py has all.
RULES = (
    {"metric": "activity", "min": 0},
    {"metric": "class_information", "min": -1},
    {"metric": "pool_information_dimension_loss", "max": 1},
    {"metric": "pool_entropy_loss", "max": 1},
    {"metric": "branch_variance_share", "min": -100},
)


def main() -> None:
    """Print one row a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="torchvision models")
    parser.add_argument("--images", type=int, default=256, help="images in a pass")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of taking turns")
    parser.add_argument("--classes", type=int, default=1000, help="classes that the labels are drawn from")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.part:
        print(json.dumps(PARTS[given.part](given.models[0], given)))
        return
    rows = [_row(name, given) for name in given.models]
    print(f"{given.images} images in blocks of {BLOCK}, {given.classes} classes, {given.rounds} rounds, one thread")
    print(tabulate(rows, headers="keys", floatfmt=".2f"))


def _row(name: str, given: argparse.Namespace) -> dict[str, Any]:
    taken, eager, whole = (_in_process(part, name, given) for part in PARTS)
    return {
        "model": name,
        "eager s": taken["eager"],
        "sweep/\neager": taken["ratio"],
        "sweep/\nchannels_last": taken["ratio_channels_last"],
        "capture s": taken["capture"],
        "judging s": taken["judging"],
        "whole audit s": taken["audit"],
        "eager\nMiB": eager["peak"],
        "audit\nMiB": whole["peak"],
        "of it planned\nMiB": taken["planned"],
    }


def _in_process(part: str, name: str, given: argparse.Namespace) -> dict[str, float]:
    options = [f"--{key}={getattr(given, key)}" for key in ("images", "rounds", "classes")]
    command = [sys.executable, __file__, "--part", part, *options, "--models", name]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)  # noqa: S603
    return found


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None).eval()


def _data(given: argparse.Namespace) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(given.images, 3, 224, 224, generator=random)
    return images, torch.randint(given.classes, (given.images,), generator=random)


def _spec(given: argparse.Namespace) -> dict[str, Any]:
    return {"cnnaudit": 1, "sampling": {"block": BLOCK, "max_images": given.images}, "rules": list(RULES)}


@torch.no_grad()
def _forward(model: nn.Module, batches: Sequence[Tensor]) -> None:
    for batch in batches:
        model(batch)


def _sweep(prepared: Prepared, blocks: Sequence[Block]) -> dict[Any, Any]:
    *_, found = sweep(prepared.graph, prepared.plan.probes, blocks, groups=prepared.plan.groups, size=BLOCK, seed=0)
    return found


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _times(name: str, given: argparse.Namespace) -> dict[str, float]:
    model, spec, data = _model(name), _spec(given), _data(given)
    capture = _seconds(lambda: prepare(spec, model=model, data=data))
    prepared = prepare(spec, model=model, data=data)
    blocks = list(prepared.blocks)
    batches = [block.images.contiguous() for block in blocks]
    moved = _model(name).to(memory_format=torch.channels_last)
    channels_last = [batch.contiguous(memory_format=torch.channels_last) for batch in batches]
    passes = {
        "eager": lambda: _forward(model, batches),
        "channels_last": lambda: _forward(moved, channels_last),
        "sweep": lambda: _sweep(prepared, blocks),
    }
    for warm in passes.values():
        warm()
    rounds = [{kind: _seconds(run) for kind, run in passes.items()} for _ in range(given.rounds)]
    found = _sweep(prepared, blocks)
    return {
        "eager": statistics.median(taken["eager"] for taken in rounds),
        "ratio": statistics.median(taken["sweep"] / taken["eager"] for taken in rounds),
        "ratio_channels_last": statistics.median(taken["sweep"] / taken["channels_last"] for taken in rounds),
        "capture": capture,
        "judging": _seconds(lambda: decide(prepared.plan, found, prepared.spec, classes=prepared.classes)),
        "audit": _seconds(lambda: audit(spec, model=model, data=data)),
        "planned": prepared.plan.bytes / MIB,
    }


def _eager_peak(name: str, given: argparse.Namespace) -> dict[str, float]:
    model, (images, _) = _model(name), _data(given)
    _forward(model, images.split(BLOCK))
    return {"peak": _peak()}


def _audit_peak(name: str, given: argparse.Namespace) -> dict[str, float]:
    audit(_spec(given), model=_model(name), data=_data(given))
    return {"peak": _peak()}


def _peak() -> float:
    """Peak resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)


PARTS: dict[str, Callable[[str, argparse.Namespace], dict[str, float]]] = {
    "times": _times,
    "eager": _eager_peak,
    "audit": _audit_peak,
}

if __name__ == "__main__":
    main()
