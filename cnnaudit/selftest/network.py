"""A network that is known activation by activation: its capture, its figures, the verdicts on it and their report.

What the network computes is told in :mod:`cnnaudit.selftest.bench`.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cnnaudit import pipeline
from cnnaudit.graph import capture
from cnnaudit.result import Report
from cnnaudit.selftest.bench import CLASSES, IMAGES, KERNELS, pictures
from cnnaudit.selftest.case import Case

if TYPE_CHECKING:
    from cnnaudit.selftest.bench import Bench

__all__ = ["CASES"]

CONSTRUCTION = "by construction"
VERDICTS = "docs/verdicts.md"

_DEAD = {"id": "alive", "metric": "activity.dead", "op": "conv", "at": "stem", "max": 0}
_SHARE = {"id": "contributes", "metric": "branch_variance_share", "at": "same#add.0", "min": 0.4}


def _logits(bench: Bench) -> float:
    """Largest difference from logits (2 v, 0, 4 v, v)."""
    images, labels = pictures()
    with torch.no_grad():
        got = bench.model(images.to(bench.device)).cpu()
    wanted = torch.tensor(KERNELS).relu() * 2 * ((labels + 1) / 4)[:, None]
    return float((got - wanted).abs().max())


def _captured(bench: Bench) -> str:
    images = pictures()[0].to(bench.device)
    with torch.no_grad():
        graph = capture(bench.model, images[:8])
        return "the same bits" if torch.equal(graph.module(images), bench.model(images)) else "other bits"


def _sites(bench: Bench) -> str:
    images = pictures()[0].to(bench.device)
    found = Counter(str(site.op) for site in capture(bench.model, images[:8]).sites)
    return ", ".join(f"{found[op]} {op}" for op in ("conv", "pool", "residual", "head"))


def _divergence(factor: float) -> float:
    """Mean over the classes of the Jensen-Shannon divergence of logits and so many times the same."""

    def softmax(v: float) -> list[float]:
        raised = [math.exp(max(kernel, 0) * v) for kernel in KERNELS]
        return [x / sum(raised) for x in raised]

    def bits(p: list[float]) -> float:
        return -sum(x * math.log2(x) for x in p)

    found = []
    for label in range(CLASSES):
        p, q = softmax((label + 1) / 2), softmax(factor * (label + 1) / 2)
        found.append(bits([(a + b) / 2 for a, b in zip(p, q, strict=True)]) - (bits(p) + bits(q)) / 2)
    return sum(found) / CLASSES


def _told_by_kernels(bench: Bench) -> list[float]:
    """Information of the stem's kernels that tell least and most."""
    return [value for _, value, *_ in bench.figure("class_information", "stem").worst]


def _told(report: Report) -> str:
    outcomes = dict.fromkeys(str(verdict.outcome) for verdict in report.verdicts)
    return f"{', '.join(outcomes)}; exit code {report.exit_code}"


def _blamed(bench: Bench) -> str:
    """Where a rule file's broken rule stands, and which kernel broke it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "known.audit.yaml"
        file.write_text(
            "cnnaudit: 1\nrules:\n  - {metric: activity.dead, op: conv, at: stem, max: 0}\n", encoding="utf-8"
        )
        report = pipeline.audit(file, model=bench.model, data=pictures())
    (verdict,) = report.verdicts
    return f"line {verdict.line}, kernel {verdict.worst[0][0]}"


def _figures(report: Report) -> list[float]:
    return [value for verdict in report.verdicts for value in verdict.fields.values()]


def _farthest(bench: Bench, other: Report) -> float:
    """Largest difference between any figures of two audits; what is undefined must be so in both."""
    pairs = zip(_figures(bench.report), _figures(other), strict=True)
    return max(0.0 if math.isnan(a) and math.isnan(b) else abs(a - b) for a, b in pairs)


def _read_back(report: Report) -> str:
    text = report.to_json()
    return "the same bytes" if Report.from_json(text).to_json() == text else "other bytes"


def _mixed() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = pictures()
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(1))
    return images[order], labels[order]


CASES = (
    Case("logits", "largest difference of the logits from (2 v, 0, 4 v, v): 0", CONSTRUCTION, 0, _logits, tolerance=0),
    Case("capture", "output of the captured graph, and of the network", CONSTRUCTION, "the same bits", _captured),
    Case(
        "sites", "what is found in it, the mean as a pool", CONSTRUCTION, "3 conv, 2 pool, 2 residual, 1 head", _sites
    ),
    Case(
        "zeros",
        "zeros of the stem's first kernel: the white squares, 1/2",
        CONSTRUCTION,
        1 / 2,
        lambda bench: bench.figure("activity", "stem").value,
        tolerance=0,
    ),
    Case(
        "what kernels tell",
        "information of a kernel whose response is the class, of 4: 2",
        CONSTRUCTION,
        2,
        lambda bench: max(_told_by_kernels(bench)),
    ),
    Case(
        "what dead kernels tell",
        "information of the kernel that never fires: 0",
        CONSTRUCTION,
        0,
        lambda bench: min(_told_by_kernels(bench)),
    ),
    Case(
        "block that doubles",
        "share of the branch that equals its skip: 1/2",
        CONSTRUCTION,
        1 / 2,
        lambda bench: bench.figure("branch_variance_share", "same#add.0").value,
    ),
    Case(
        "block that does nothing",
        "share of the branch of 0: 0",
        CONSTRUCTION,
        0,
        lambda bench: bench.figure("branch_variance_share", "idle#add.0").value,
        tolerance=0,
    ),
    Case(
        "without the first",
        "divergence of the output when the first block's branch is taken away",
        "Lin 1991",
        _divergence(0.5),
        lambda bench: bench.figure("block_ablation", "same#add.0").value,
        tolerance=1e-6,
    ),
    Case(
        "without the second",
        "the same of the branch of 0: 0",
        "Lin 1991",
        0,
        lambda bench: bench.figure("block_ablation", "idle#add.0").value,
        tolerance=0,
    ),
    Case(
        "PASS",
        "verdict on a share of 1/2 that must be .4",
        VERDICTS,
        "pass; exit code 0",
        lambda bench: _told(bench.audit(_SHARE)),
    ),
    Case(
        "FAIL",
        "verdict on four kernels of which none may be dead",
        VERDICTS,
        "fail; exit code 1",
        lambda bench: _told(bench.audit(_DEAD)),
    ),
    Case(
        "UNDECIDED",
        "the same for all images there are, by 64 of the 299 that it takes",
        VERDICTS,
        "undecided; exit code 3",
        lambda bench: _told(bench.audit(_DEAD | {"estimand": "population"})),
    ),
    Case(
        "ERROR",
        "verdict of a rule for a layer that is not there",
        VERDICTS,
        "error; exit code 2",
        lambda bench: _told(bench.audit(_SHARE | {"at": "nowhere"})),
    ),
    Case("blame", "where the broken rule of a file stands, and what broke it", VERDICTS, "line 3, kernel 1", _blamed),
    Case(
        "blocks",
        "largest difference of any figure when 8 images are read at once: 0",
        CONSTRUCTION,
        0,
        lambda bench: _farthest(bench, bench.measure(sampling={"block": 8})),
    ),
    Case(
        "order",
        "largest difference of any figure when the images come in another order: 0",
        CONSTRUCTION,
        0,
        lambda bench: _farthest(bench, bench.measure(data=_mixed())),
    ),
    Case(
        "report",
        "report written as JSON and read back",
        CONSTRUCTION,
        "the same bytes",
        lambda bench: _read_back(bench.report),
    ),
)
