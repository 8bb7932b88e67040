"""How often intervals hold the truth, and how often rules are decided wrongly, by simulation.

Prints tables; ``--write`` makes them a page. Rows that miss their target by more than chance does are marked.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tabulate import tabulate
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from simulation.cases import CASES, images_of
from simulation.coverage import cover
from simulation.generators import Channel
from simulation.verdicts import NAIVE, audits, informed, limit, multiplicity, noise, repeated

import cnnaudit

if TYPE_CHECKING:
    from collections.abc import Iterator

    Rows = Iterator[dict[str, Any]]

# ruff: noqa: E501 - lines of the page, which is as wide as the others

INTRODUCTION = """\
# How often intervals hold the truth

Images are drawn from populations whose true values are known, measured with `cnnaudit.measure` or audited with
`cnnaudit.audit`, and what comes out is compared with the truth. This page is written by

```
{command}
```

with cnnaudit {version}, torch {torch}, numpy {numpy}. The populations are in `tests/simulation`; a short version of every
table runs in the tests.
"""

TEXTS = {
    "Coverage at nominal 95 %": """\
Positions of one image resemble each other, and images of one source mostly are of one kind. Away from boundaries .93 to
.97 of the intervals should hold the truth from 500 images (or sources) on, and never fewer than .90 from 200 on; at a
boundary (nothing to find, nearly all, nearly none) at least .93. `miss` marks what fails that by more than the chance of
one simulation in a hundred. "Too high" is the share of intervals that lie above the truth.

`class_information` with thin cells is wider than nominal on purpose: its lower end supposes the largest bias that rare
cells can hide, its upper end the smallest. Confidence sequences hold at all numbers of images at once, so they are wider.
The last ten rows are of the same images: with every window taken for a sample of its own, and as cnnaudit does it.""",
    "Verdicts with the truth on the bound": """\
Whole audits of 1,200 images with looks at 304, 608 and 1,200, whose rules have the truth for their bound. At most
{limit} of {runs} wrong verdicts of each kind are compatible with alpha = 5 % (99 % binomial limit). "Every 48 images" is
what the same rules do if all of alpha is spent at each of 24 looks.""",
    "Information about many classes": """\
50 images a class, kernels of one table at a time, `min:` at the truth, every scheduled look, gates included. "Graded"
classes respond around levels of their own, of "noisy" ones each has a level and all others are equally rare.""",
    "Kernels of noise": """\
Mean over kernels that know nothing of the classes. Chosen and measured on the same images, the best class looks selective.""",
    "Many kernels": """\
A rule for each of 300 kernels of 500 images: one lies on the bound and the others far above, or all lie on it.""",
    "Repeated images": """\
Median width of intervals over that of 300 images, each a source of its own. Levels are whole numbers, so the grid is
the same; the rest of the difference is the noise of a jackknife over 64 groups.""",
}


def main() -> None:
    """Print the tables, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=400, help="audits, and tables, of each kind (default 400)")
    parser.add_argument("--replications", type=int, default=1000, help="intervals of each row (default 1000)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tables = {
        "Coverage at nominal 95 %": _coverage(given),
        "Verdicts with the truth on the bound": _verdicts(given),
        "Information about many classes": _information(given),
        "Kernels of noise": _noise(given),
        "Many kernels": _kernels(given),
        "Repeated images": _repeated(given),
    }
    facts = {"runs": given.runs, "limit": limit(given.runs)}
    parts = [
        INTRODUCTION.format(
            command=f"python benchmarks/coverage.py --seed {given.seed} --runs {given.runs} "
            f"--replications {given.replications} --write docs/coverage.md",
            version=cnnaudit.__version__,
            torch=torch.__version__.partition("+")[0],
            numpy=np.__version__,
        )
    ]
    for title, rows in tables.items():
        started = time.process_time()
        table = tabulate(list(rows), headers="keys", tablefmt="github", floatfmt=".3f")
        print(f"{title} ({time.process_time() - started:.0f} s)\n\n{table}\n", flush=True)
        parts.append(f"## {title}\n\n{TEXTS[title].format(**facts)}\n\n{table}\n")
    if given.write:
        given.write.write_text("\n".join(parts), encoding="utf-8")


def _coverage(given: argparse.Namespace) -> Rows:
    todo = [(case, n) for case in CASES for n in images_of(case)]
    for case, n in tqdm(todo, disable=None, leave=False):
        # One value a site costs a call each.
        fewer = 4 if case.metric == "branch_variance_share" else 1
        found = cover(case, n, given.replications // fewer, given.seed)
        yield {
            "method": case.method,
            "metric": case.metric,
            "of": case.name,
            "classes": case.classes or "",
            "images": f"{n:,}",
            "coverage": found.covered,
            "too high": found.too_high,
            "too low": found.too_low,
            "width": found.width,
            "kind": case.target.name,
            "": "miss" if found.missed else "",
        }


def _verdicts(given: argparse.Namespace) -> Rows:
    planned = audits(given.runs, given.seed)
    naive = audits(given.runs // 4, given.seed, looks=NAIVE)
    for (metric, side), counts in planned.items():
        yield {
            "metric": metric,
            "bound": f"{side}: truth",
            "audits": given.runs,
            "PASS": counts["pass"],
            "FAIL": counts["fail"],
            "": "miss" if max(counts["pass"], counts["fail"]) > limit(given.runs) else "",
            "every 48 images: audits": given.runs // 4,
            "PASS ": naive[metric, side]["pass"],
            "FAIL ": naive[metric, side]["fail"],
        }


def _information(given: argparse.Namespace) -> Rows:
    rng = np.random.default_rng(given.seed)
    for classes, kind, bits in (
        *((100, kind, bits) for kind in ("graded", "noisy") for bits in (0.5, 1.05, 1.7)),
        *((1000, kind, bits) for kind in ("graded", "noisy") for bits in (0.5, 1.05, 1.7)),
    ):
        failed, passed = informed(getattr(Channel, kind)(bits, classes), given.runs, 50, rng)
        yield {
            "classes": f"{classes:,}",
            "table": kind,
            "bits": bits,
            "kernels": given.runs,
            "false FAIL": failed,
            "false PASS": passed,
            "": "miss" if max(failed, passed) > limit(given.runs) else "",
        }


def _noise(given: argparse.Namespace) -> Rows:
    for classes, each, units in ((10, 100, 1000), (100, 100, 200), (1000, 50, 60)):
        for told, silent in (("exponential", 0.0), ("half silent", 0.5)):
            found = noise(classes, each, units, np.random.default_rng(given.seed), silent=silent)
            yield {
                "classes": f"{classes:,}",
                "images of each": each,
                "responses": told,
                "kernels": units,
                **{name.removeprefix("class_"): values.mean() for name, values in found.items()},
            }


def _kernels(given: argparse.Namespace) -> Rows:
    rng = np.random.default_rng(given.seed)
    for told, on_bound, common in (
        ("one on the bound", 1, 0.0),
        ("all on the bound", 300, 0.0),
        ("all on the bound, erring together", 300, 0.95),
    ):
        counts = multiplicity(given.runs, rng, on_bound=on_bound, common=common)
        yield {
            "kernels": told,
            "audits": given.runs,
            "PASS": counts["pass"],
            "FAIL": counts["fail"],
            "at most": limit(given.runs),
        }


def _repeated(given: argparse.Namespace) -> Rows:
    for metric in (
        *("activity.apoz", "activity.dormant", "class_information", "class_selectivity_index", "class_auroc"),
        *("pool_information_dimension_loss", "pool_entropy_loss", "branch_variance_share"),
    ):
        yield {"metric": metric} | dict(repeated(metric, 100, np.random.default_rng(given.seed)))


if __name__ == "__main__":
    main()
