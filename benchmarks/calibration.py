"""How often bounds from three good networks give a false alarm, and how often they catch a worse one.

    python benchmarks/calibration.py FOLDER

FOLDER keeps the networks and their audits: the first run trains them (10 s of CPU time each) and audits each three
times (5 s each), the next ones read them. Needs examples/digits and tests/release of a clone.

Every network is a digits network of the same recipe with another seed; none was chosen. Of all choices of three of
them some are drawn at random; from each, bounds are calibrated as `cnnaudit init --good` does, and every other network
is judged by the deciding limits of its own audit, and against the first of the three as the accepted run, paired image
by image as `cnnaudit check --baseline` does.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from tabulate import tabulate

from cnnaudit import pipeline
from cnnaudit.gate.calibration import Quantity, calibrate
from cnnaudit.gate.regression import Levels, regression
from cnnaudit.result import Outcome, Report
from cnnaudit.starting.calibrating import applying, measured, notes, places
from cnnaudit.starting.candidates import CANDIDATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import nn

    from cnnaudit.gate.calibration import Proposal
    from cnnaudit.result import Verdict
    from cnnaudit.starting.candidates import Candidate

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "examples" / "digits"
sys.path += [str(ROOT / "tests" / "release"), str(DIGITS)]
CODE = str(DIGITS / "model.py")
KNOWN = 3
FIRST_SEED = 1
SLIMMED, SLIGHTLY = 0.01, 0.003


@dataclass(frozen=True)
class Audited:
    """One network: its deciding limits, and its means for a comparison with another one."""

    limits: Report
    means: Report


def build(name: str) -> Callable[..., nn.Module]:
    """The example's code, which is no package."""
    import model  # type: ignore[import-not-found]  # noqa: PLC0415

    return getattr(model, name)  # type: ignore[no-any-return]


def faults(good: Path) -> dict[str, tuple[str, Callable[[], nn.Module]]]:
    """What a worse network is called, which function builds it and how its weights are made."""
    import checkpoints  # type: ignore[import-not-found]  # noqa: PLC0415
    import train  # type: ignore[import-not-found]  # noqa: PLC0415

    def tuned(function: str, *, silent: bool) -> nn.Module:
        torch.manual_seed(0)
        net = build(function)()
        net.load_state_dict(load_file(good))
        if silent:
            norm = net.get_submodule("stage2.block.norm2").requires_grad_(requires_grad=False)
            with torch.no_grad():
                norm.weight.zero_()
                norm.bias.zero_()
        train.fit(net, epochs=20, rate=0.05)
        return net

    return {
        f"slimmed, penalty {SLIMMED:g}": ("build", lambda: checkpoints.slimmed(9, SLIMMED)),
        f"slimmed, penalty {SLIGHTLY:g}": ("build", lambda: checkpoints.slimmed(9, SLIGHTLY)),
        "branch of stage2.block silent, fine-tuned": ("build", lambda: tuned("build", silent=True)),
        "pool1 a min pool, fine-tuned": ("build_broken", lambda: tuned("build_broken", silent=False)),
    }


def trained(path: Path, make: Callable[[], nn.Module]) -> Path:
    """A checkpoint, trained where it is not there yet."""
    import checkpoints  # noqa: PLC0415

    if not path.exists():
        checkpoints.save(make(), path)
    return path


def base(function: str = "build") -> dict[str, Any]:
    """The rule file less weights and rules."""
    return {"cnnaudit": 1, "model": f"{CODE}:{function}", "data": str(DIGITS / "digits.npz")}


def audited(checkpoint: Path, function: str, candidates: Sequence[Candidate], *, null: bool = False) -> Audited:
    """Audits of one network, read where they are there."""
    found = []
    for kind in ("limits", "means"):
        path = checkpoint.with_suffix(f".{kind}.json")
        if not path.exists():
            if kind == "limits":
                report = measured(base(function), candidates, str(checkpoint), null=null, allow_imports=[CODE])
            else:
                rules = [
                    c.entry | {"max_regression": {"absolute": 0}, c.side: 0, "if_absent": "skip"} for c in candidates
                ]
                spec = base(function) | {"weights": str(checkpoint), "sampling": {"looks": 1}, "rules": rules}
                report = pipeline.audit(spec, allow_imports=[CODE])
            path.write_text(report.to_json())
        found.append(Report.from_json(path.read_text()))
    return Audited(*found)


def alarms(
    candidates: Sequence[Candidate], proposals: Sequence[Proposal], new: Audited, accepted: Audited
) -> Iterator[tuple[str, str]]:
    """The rules that do not pass, by their bound or by regression."""
    for candidate, proposal in zip(candidates, proposals, strict=True):
        sign = 1 if candidate.side == "min" else -1
        if proposal.judges and proposal.bound is not None:
            limits = (sign * x for place in places(candidate, [new.limits], {}) for x in place.limits)
            if not all(limit >= sign * proposal.bound for limit in limits):
                yield candidate.id, "bound"
        if (proposal.absolute, proposal.relative) != (None, None):
            terms = {
                "absolute": proposal.absolute,
                "relative": proposal.relative,
                "worse": "lower" if sign > 0 else "higher",
            }
            there = {v.site: v for v in accepted.means.of(candidate.id) if v.mean is not None}
            here = [v for v in new.means.of(candidate.id) if v.outcome is not Outcome.NOT_APPLICABLE]
            judged = [regression(v, there.get(v.site), terms, Levels(0.95, 0.95, len(here)), 1) for v in here]
            if any(v.outcome is not Outcome.PASS for v in judged):
                yield candidate.id, "regression"


def proposals_of(
    candidates: Sequence[Candidate], units: Mapping[str, int], known: Sequence[Report], rate: float
) -> tuple[Proposal, ...]:
    """What `init --good` proposes."""
    quantities = [Quantity(c.side, c.scale, places(c, known, units)) for c in candidates]
    return calibrate(quantities, false_alarm=rate)[0]


def by_images(candidates: Sequence[Candidate], units: Mapping[str, int], goods: Sequence[Path], rate: float) -> int:
    """How many networks give an alarm on one half of the images with bounds from their own audit of the other half."""
    with np.load(DIGITS / "digits.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    order = np.random.default_rng(0).permutation(len(images))
    halves = [(images[half], labels[half]) for half in np.array_split(order, 2)]
    found = 0
    for checkpoint in goods:
        first, second = (
            measured(base(), candidates, str(checkpoint), null=False, allow_imports=[CODE], data=half)
            for half in halves
        )
        proposals = proposals_of(candidates, units, [first], rate)
        found += any(True for _ in alarms(candidates, proposals, Audited(second, second), Audited(first, first)))
    return found


def main() -> None:
    """Train, audit, draw and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", type=int, default=24)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--false-alarm", type=float, default=0.05)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    import checkpoints  # noqa: PLC0415

    folder = arguments.folder
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.networks)
    goods = [trained(folder / f"good{seed}.safetensors", lambda seed=seed: checkpoints.good(seed)) for seed in seeds]
    prepared = pipeline.prepare(notes(base() | {"weights": str(goods[0])}, CANDIDATES), allow_imports=[CODE])
    candidates, units = applying(prepared), {site.path: site.units for site in prepared.graph.sites}
    good = [audited(path, "build", candidates, null=i == 0) for i, path in enumerate(goods)]
    bad = {}
    for name, (function, make) in faults(goods[0]).items():
        path = trained(folder / f"{name.replace(' ', '_').replace(',', '')}.safetensors", make)
        bad[name] = audited(path, function, candidates)

    generator, drawn = np.random.default_rng(0), 0
    false: Counter[Any] = Counter()
    caught: dict[str, Counter[str]] = {name: Counter() for name in bad}
    silent: Counter[str] = Counter()
    for _ in range(arguments.draws):
        known = [int(i) for i in generator.choice(len(good), KNOWN, replace=False)]
        # The null twin is the same for all of them, and was measured with the first one.
        reports = [good[i].limits for i in known]
        proposals = proposals_of(
            candidates, units, [with_null(reports[0], good[0].limits), *reports[1:]], arguments.false_alarm
        )
        silent.update(c.id for c, p in zip(candidates, proposals, strict=True) if not p.judges)
        for i in set(range(len(good))) - set(known):
            found = {kind for _, kind in alarms(candidates, proposals, good[i], good[known[0]])}
            drawn += 1
            false.update([*found, *(["any"] if found else [])])
        for name, network in bad.items():
            kinds = {kind for _, kind in alarms(candidates, proposals, network, good[known[0]])}
            caught[name].update([*kinds, *(["any"] if kinds else [])])
    rows = [["another good network", *(f"{false[kind] / drawn:.1%}" for kind in ("any", "bound", "regression"))]]
    rows += [
        [name, *(f"{counts[kind] / arguments.draws:.0%}" for kind in ("any", "bound", "regression"))]
        for name, counts in caught.items()
    ]
    print(
        f"{arguments.networks} good networks, {arguments.draws} draws of {KNOWN}: {drawn:,} judgements of another one;"
    )
    print(f"stated false-alarm rate {arguments.false_alarm:.0%}. Share that did not pass:\n")
    print(tabulate(rows, headers=["network", "any rule", "a bound", "a regression"], tablefmt="github"))
    told = ", ".join(f"{name} in {count / arguments.draws:.0%} of the draws" for name, count in silent.most_common())
    print(f"\nBounds that would say nothing, and were not written: {told or 'none'}.")
    one = by_images(candidates, units, goods, arguments.false_alarm)
    print(
        f"From one checkpoint on 600 images, judged on 600 others: {one} of {len(goods)} networks did not pass all "
        "bounds."
    )


def with_null(report: Report, twin: Report) -> Report:
    """A report with the null twin's values of another one."""
    from dataclasses import replace  # noqa: PLC0415

    known: dict[tuple[str, str], Verdict] = {(v.rule, v.site): v for v in twin.verdicts}
    return replace(report, verdicts=tuple(replace(v, null=known[v.rule, v.site].null) for v in report.verdicts))


if __name__ == "__main__":
    main()
