"""What every metric costs by itself: CPU time of a pass over a ResNet-18 with it, and of judging it at its sites.

Times are CPU times of one thread, passes with and without the metric taken in turn; what is printed are medians over
rounds, the pass as what it adds to one that reads nothing, over that. Weights, images, labels and masks are random.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
import torchvision
from tabulate import tabulate
from tqdm import tqdm

from cnnaudit.judge import decide
from cnnaudit.metrics import registry
from cnnaudit.pipeline import prepare
from cnnaudit.stream import sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cnnaudit.data import Block
    from cnnaudit.pipeline import Prepared
    from cnnaudit.statistics import Probe

BLOCK, CLASSES, SIZE = 16, 10, 112
MIB = 2**20


def main() -> None:
    """Print one row a metric."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256, help="images in a pass")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of taking turns")
    parser.add_argument("--only", nargs="+", default=list(registry()), metavar="NAME", help="metrics")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [_row(name, given) for name in tqdm(given.only, file=sys.stderr)]
    print(f"ResNet-18, {given.images} images of {SIZE} x {SIZE}, {CLASSES} classes, {given.rounds} rounds, one thread")
    print(tabulate(rows, headers="keys", floatfmt=".2f", tablefmt="github"))


def _row(name: str, given: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None, num_classes=CLASSES).eval()
    data = {
        "images": torch.randn(given.images, 3, SIZE, SIZE),
        "labels": torch.arange(given.images) % CLASSES,
        "masks": torch.randint(3, (given.images, SIZE, SIZE)),
    }
    spec = {"cnnaudit": 1, "sampling": {"max_memory": "4GiB"}, "rules": [{"metric": name, "max": 1e9}]}
    prepared = prepare(spec, model=model, data=data)
    blocks = list(prepared.blocks)
    probes = prepared.plan.probes
    rounds = [
        (_seconds(lambda: _pass(prepared, (), blocks)), _seconds(lambda: _pass(prepared, probes, blocks)))
        for _ in range(given.rounds + 1)
    ][1:]
    found = _pass(prepared, probes, blocks)
    judging = _seconds(lambda: decide(prepared.plan, found, prepared.spec, classes=CLASSES))
    sites = sum(check.probe is not None for check in prepared.plan.checks)
    return {
        "metric": name,
        "cost": registry()[name].cost_class,
        "sites": sites,
        "pass +": f"{statistics.median(with_ / plain - 1 for plain, with_ in rounds):+.0%}",
        "judging, ms a site": f"{1000 * judging / max(sites, 1):,.0f}",
        "MiB": f"{prepared.plan.bytes / MIB:,.1f}",
    }


def _pass(prepared: Prepared, probes: Sequence[Probe], blocks: Sequence[Block]) -> dict[Any, Any]:
    *_, found = sweep(prepared.graph, probes, blocks, groups=prepared.plan.groups, size=BLOCK, seed=0)
    return found


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
