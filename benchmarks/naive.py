"""Random small networks, each statistic and metric of which is compared with a naive float64 computation.

The networks are drawn from seeds: the n-th from ``--seed`` plus n. A failure is printed with the command that
shows it again. See ``tests/reference`` for the networks and for the naive computation.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

import torch
from tabulate import tabulate
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from reference.comparison import Tally, compare
from reference.networks import random_plan


def main() -> int:
    """Print one table; the exit code is 1 where a network differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=1000, help="number of networks (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first network (default 0)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tally, failures, started = Tally(), [], time.perf_counter()
    for seed in tqdm(range(given.seed, given.seed + given.networks), unit=" networks", disable=None, leave=False):
        try:
            compare(random_plan(random.Random(seed)), tally)  # noqa: S311 - reproducible, not secret
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is a finding, and the next network is another
            failures.append((seed, f"{type(error).__name__}: {error}".replace("\n", " ")[:200]))
    rows = [["networks that agree", tally.networks, "", ""]]
    rows += [[f"sites: {op}", number, "", ""] for op, number in sorted(tally.sites.items())]
    rows += [
        [name, number, tally.close[name] or "", f"{tally.largest[name]:.1e}" if name in tally.largest else "equal"]
        for name, number in sorted(tally.compared.items())
    ]
    print(tabulate(rows, headers=["", "compared", "left out (close to an edge)", "largest difference"]))
    print(f"{time.perf_counter() - started:.0f} s, {len(failures)} networks differ")
    for seed, message in failures:
        print(f"python benchmarks/naive.py --networks 1 --seed {seed}\n    {message}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
