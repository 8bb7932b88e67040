"""What single kernels do: activity, detection of classes, information, sparseness, likeness."""

from __future__ import annotations

import math

import torch

from cnnaudit.measurement import measure
from cnnaudit.selftest.case import CONFIDENCE, Case
from cnnaudit.selftest.draws import labels, normal, uniform

__all__ = ["CASES"]

TREVES = "Treves & Rolls 1991"
NOISE = -0.11 * math.log2(0.11) - 0.89 * math.log2(0.89)
FLOAT = 1e-6  # what float32 may round away


def _maps(*values: float, images: int = 20) -> torch.Tensor:
    """One constant 2 x 2 map a kernel, the same in every image."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1).expand(images, -1, 2, 2).contiguous()


def _responses(*values: float) -> torch.Tensor:
    """One kernel's response to each image."""
    return torch.tensor(values, dtype=torch.float32)[:, None]


def _channel() -> tuple[torch.Tensor, torch.Tensor]:
    """200 images of two classes whose kernel errs on exactly 11 of 100."""
    classes = torch.arange(2).repeat_interleave(100)
    errs = torch.arange(200) % 100 >= 89
    return (classes ^ errs).float()[:, None], classes


def _left() -> torch.Tensor:
    """A concept that covers the left quarter of every 8 x 8 image."""
    return (torch.arange(8) < 2).expand(50, 1, 8, 8)


CASES = (
    Case(
        "zeros of noise",
        "share of zeros behind the ReLU of white noise: 1/2",
        "arXiv 1607.03250",
        1 / 2,
        lambda _: measure("activity.apoz", normal(400, 1, 8, 8).relu(), confidence=CONFIDENCE),
        widest=0.05,
    ),
    Case(
        "dead",
        "one of three kernels never fires: 1/3 are dead",
        "arXiv 1607.03250",
        1 / 3,
        lambda _: measure("activity.dead", _maps(0, 1, 1), estimand="dataset"),
    ),
    Case(
        "selectivity",
        "index of class means (3, 1, 1, 1): (3 - 1) / (3 + 1)",
        "arXiv 1803.06959",
        1 / 2,
        lambda _: (
            measure(
                "class_selectivity_index.plugin",
                torch.tensor([3.0, 1, 1, 1])[labels(400, 4)][:, None],
                labels=labels(400, 4),
            ).value
        ),
        tolerance=FLOAT,
    ),
    Case(
        "ranks by hand",
        "AUROC of responses (1, 1, 0) over (1, 0, 0): 6 of 9 pairs, ties half",
        "Hanley & McNeil 1982",
        6 / 9,
        lambda _: (
            measure(
                "class_auroc.plugin_best", _responses(1, 1, 0, 1, 0, 0), labels=torch.tensor([1, 1, 1, 0, 0, 0])
            ).value
        ),
    ),
    Case(
        "ranks of normals",
        "AUROC of normals one deviation apart: Phi(1 / sqrt 2)",
        "Green & Swets 1966",
        (1 + math.erf(1 / 2)) / 2,
        lambda _: measure(
            "class_auroc.plugin_best",
            normal(4000, 1) + labels(4000, 2)[:, None],
            labels=labels(4000, 2),
            confidence=CONFIDENCE,
        ),
        widest=0.08,
    ),
    Case(
        "precision by hand",
        "average precision of a class at ranks 1 and 3 of 3: (1 + 2/3) / 2",
        "Salton & McGill 1983",
        5 / 6,
        lambda _: measure("class_ap.plugin_best", _responses(3, 2, 1), labels=torch.tensor([1, 0, 1])).value,
    ),
    Case(
        "class told with errors",
        "information of a kernel that errs on exactly 11 of 100: 1 - h(.11)",
        "Shannon 1948",
        1 - NOISE,
        lambda _: measure("class_information", _channel()[0], labels=_channel()[1], estimator="plugin").value,
    ),
    Case(
        "class told by chance",
        "information of a kernel that errs at random on 11 %: 1 - h(.11)",
        "Shannon 1948",
        1 - NOISE,
        lambda _: measure(
            "class_information",
            (labels(4000, 2) ^ (uniform(4000) < 0.11)).float()[:, None],
            labels=labels(4000, 2),
            confidence=CONFIDENCE,
        ),
        widest=0.16,
    ),
    Case(
        "class not told",
        "information of noise about the class: 0",
        "Shannon 1948",
        0,
        lambda _: measure("class_information", normal(4000, 1), labels=labels(4000, 2), confidence=CONFIDENCE),
        widest=0.02,
    ),
    Case(
        "sparseness of a ReLU",
        "sparseness of rectified normals: 1 - 1 / pi",
        TREVES,
        1 - 1 / math.pi,
        lambda _: measure("lifetime_sparseness", normal(4000, 1).relu(), confidence=CONFIDENCE),
        widest=0.08,
    ),
    Case(
        "overlap",
        "IoU of a kernel that fires where the concept is and nowhere else: 1",
        "arXiv 1704.05796",
        1,
        lambda _: measure(
            "iou.plugin_best",
            _left().float() + 0.001 * normal(50, 1, 8, 8),
            masks=_left(),
            quantile=0.25,
            confidence=CONFIDENCE,
        ),
        widest=0.2,
    ),
    Case(
        "correlated",
        "correlation of x and .6 x + .8 z: .6",
        "Pearson 1895",
        0.6,
        lambda _: measure(
            "duplicate_kernels",
            torch.cat([normal(400, 1, 4, 4), 0.6 * normal(400, 1, 4, 4) + 0.8 * normal(400, 1, 4, 4, seed=1)], 1),
            confidence=CONFIDENCE,
        ),
        widest=0.16,
    ),
)
