"""How often rules are decided wrongly when the truth lies on their bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from types import MappingProxyType
from unittest import mock

import numpy as np
import torch
from builders import captured_once, judged, make_rule
from numpy.random import Generator
from scipy import stats
from simulation.generators import Activity, Array, Channel
from torch import Tensor, nn

import cnnaudit
from cnnaudit import pipeline
from cnnaudit.intervals import BoundedMean
from cnnaudit.looks import Look, schedule
from cnnaudit.metrics import registry
from cnnaudit.result import Outcome
from cnnaudit.site import Op, Site, Tap
from cnnaudit.statistics import ClassHistogram, Probe

ALPHA = 0.05
NAIVE = tuple(Look(i + 1, n, 1.0, n == 1200) for i, n in enumerate(range(96, 1201, 48)))


def limit(runs: int, alpha: float = ALPHA) -> int:
    """Most errors in so many runs that a rate of alpha makes at 99 %."""
    return int(stats.binom.ppf(0.99, runs, alpha))


# --- whole audits -------------------------------------------------------------------------------------------------

ACTIVITY = Activity((0.1, 0.4, 0.8), (0.3, 0.4, 0.3))
BINARY = Channel(np.array([[0.75, 0.25], [0.3, 0.7]]))
SHARE = 0.2  # of two independent channels, each of which gets half of the other added


class Open(nn.Module):
    """A network that shows its input to rules: maps, a response that a class decides, and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.response, self.branch = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.Conv2d(2, 2, 1)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)
        with torch.no_grad():
            for conv in (self.maps, self.response, self.branch):
                conv.bias.zero_()
            self.maps.weight.fill_(1)
            self.response.weight.fill_(1)
            self.branch.weight.copy_(torch.tensor([[0.0, 0.5], [0.5, 0.0]])[..., None, None])

    def forward(self, x: Tensor) -> Tensor:
        maps, response, skip = self.relu(self.maps(x[:, :1])), self.relu(self.response(x[:, 1:2])), x[:, 2:]
        added = skip + self.branch(skip)
        return torch.cat([self.pool(maps).mean((2, 3)), response.mean((2, 3)), added.mean((2, 3))], 1)


TRUTHS = {
    "activity.apoz": ("maps", ACTIVITY.zeros),
    "pool_information_dimension_loss": ("pool", ACTIVITY.loss),
    "class_information": ("response", BINARY.information),
    "branch_variance_share": ("**", SHARE),
}


def images_of(count: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Images for :class:`Open`, and their labels."""
    response, labels = BINARY.responses(count, 1, rng)
    maps = ACTIVITY.maps(count, 1, rng)
    # A position's part is its own, half of the variance is the image's.
    skip = torch.from_numpy(rng.normal(size=(count, 2, 1, 1)) + rng.normal(size=(count, 2, 4, 4))).float()
    return torch.cat([maps, response[..., None, None].expand(-1, -1, 4, 4).float(), skip], 1), labels


def audits(runs: int, seed: int, *, looks: tuple[Look, ...] | None = None) -> dict[tuple[str, str], Counter[Outcome]]:
    """Audit as many data sets of 1,200 images by rules whose bounds are the truth; count outcomes by rule."""
    model, rng = Open(), np.random.default_rng(seed)
    rules = [
        {"id": f"{metric}-{side}", "metric": metric, "at": at, side: truth}
        for metric, (at, truth) in TRUTHS.items()
        for side in ("min", "max")
    ]
    found: dict[tuple[str, str], Counter[Outcome]] = {}
    planned = (lambda *_, **__: looks) if looks else schedule
    example, _ = images_of(2, np.random.default_rng(0))
    with mock.patch.object(pipeline, "schedule", planned), captured_once(model, example):
        for _ in range(runs):
            report = cnnaudit.audit({"cnnaudit": 1, "rules": rules}, model=model, data=images_of(1200, rng))
            for verdict in report.verdicts:
                metric, _, side = verdict.rule.rpartition("-")
                found.setdefault((metric, side), Counter())[verdict.outcome] += 1
    return found


# --- information about many classes -------------------------------------------------------------------------------


def informed(channel: Channel, runs: int, each: int, rng: Generator) -> tuple[int, int]:
    """Decide `min: truth` for so many kernels at every scheduled look, as the judge does for a site of one unit.

    Returns:
        False FAIL and false PASS.
    """
    metric = registry()["class_information"]
    classes, bins = channel.p.shape
    tap = Tap("", (runs,), atoms=(0.0,), nonnegative=True)
    site = Site("layer", Op.CONV, runs, MappingProxyType({"response": tap}))
    probe = Probe(ClassHistogram, site, metric.taps, metric.options({"bins": bins}))
    counts = np.zeros((runs, classes, bins), np.int64)
    failed = passed = np.zeros(runs, bool)
    before = 0
    for look in schedule(classes * each, block=16):
        share = np.diff(np.round(np.linspace(0, look.images - before, classes + 1))).astype(int)
        counts += rng.multinomial(share, channel.p, size=(runs, classes))
        before = look.images
        if before < 5 * bins * classes:
            continue
        statistic = ClassHistogram(probe, 1)
        statistic.tally = {
            "images": torch.tensor([before]),
            "sources": torch.tensor([before]),
            "nonfinite": torch.tensor([0]),
            "counts": torch.from_numpy(counts).int(),
        }
        found = metric.evaluate(statistic, site, {"bins": bins, "estimator": "corrected"})["information"]
        still = ~(failed | passed)
        failed = failed | (still & (found.p_at_least(channel.information) <= ALPHA * look.spent))
        passed = passed | (still & (found.p_at_most(channel.information) <= ALPHA * look.spent))
    return int(failed.sum()), int(passed.sum())


# --- many kernels ---------------------------------------------------------------------------------------------------


def kernels(truth: Array, images: int, rng: Generator, *, common: float = 0.0) -> BoundedMean:
    """Means of fractions of images; where they have something in common all kernels err together."""
    noise = common * rng.normal(size=(images, 1)) + np.sqrt(1 - common**2) * rng.normal(size=(images, len(truth)))
    x = stats.norm.cdf(noise) / 2 + truth - 0.25  # uniform over half of the range about the truth
    return BoundedMean(x.mean(0), x.std(0, ddof=1) / np.sqrt(images), images)


def multiplicity(runs: int, rng: Generator, *, on_bound: int, common: float = 0.0) -> Counter[Outcome]:
    """Judge 300 kernels by their minimum, some of which lie on it and the others far above."""
    truth = np.where(np.arange(300) < on_bound, 0.4, 0.6)
    rule = make_rule(min=0.4)
    return Counter(judged(rule, {"layer": kernels(truth, 500, rng, common=common)})[0].outcome for _ in range(runs))


# --- noise ----------------------------------------------------------------------------------------------------------


def noise(classes: int, each: int, units: int, rng: Generator, *, silent: float = 0.0) -> dict[str, Array]:
    """Measure kernels that know nothing of the classes."""
    n = classes * each
    x = torch.from_numpy(rng.standard_exponential((n, units), np.float32))
    if silent:
        x *= torch.from_numpy(rng.random((n, units), np.float32) >= silent)
    labels = torch.from_numpy(rng.permutation(n) % classes)
    fields = {
        "class_selectivity_index": ("crossfit", "plugin"),
        "class_auroc": ("best", "plugin_best"),
    }
    found = {
        f"{metric}.{field}": np.array(cnnaudit.measure(f"{metric}.{field}", x, labels=labels, block=n).units)
        for metric, names in fields.items()
        for field in names
    }
    levels = torch.from_numpy(rng.integers(0, 8, (n, units)).astype(np.uint8))
    lows = cnnaudit.measure("class_information", levels, labels=labels, levels=8, block=n, confidence=0.9).lows
    return found | {"class_information above 0": np.array(lows) > 0}


# --- repeated images --------------------------------------------------------------------------------------------------


def repeated(metric: str, times: int, rng: Generator) -> Iterator[tuple[str, float]]:
    """Widths of intervals of repeated images over those of the images themselves."""
    n = 300
    maps, labels = ACTIVITY.maps(n, 20, rng), torch.arange(n) % 4
    maps += labels.reshape(-1, 1, 1, 1) * (maps > 0) / 4
    sources, keys = torch.arange(n), {}
    if metric in ("class_information", "pool_entropy_loss"):
        levels = 8 if metric == "class_information" else 2
        maps, keys = ((maps.mean((2, 3)) if levels == 8 else maps) * 4).long().clamp(max=levels - 1), {"levels": levels}

    def width(*, again: int, told: bool) -> float:
        x, y, s = (t.repeat_interleave(again, 0) for t in (maps, labels, sources))
        taps = (x, x.flip(2) / 2) if metric == "branch_variance_share" else (x,)
        found = cnnaudit.measure(metric, *taps, labels=y, sources=s if told else None, **keys)
        return float(np.median(np.array(found.highs) - np.array(found.lows)))

    plain, told = width(again=1, told=False), width(again=1, told=True)
    yield "each its own source", told / plain
    yield f"{times} times, one source", width(again=times, told=True) / plain
    yield f"{times} times, taken for images", width(again=times, told=False) / plain


def unspent(looks: tuple[Look, ...]) -> tuple[Look, ...]:
    """Looks each of which spends all of alpha: what is wrong."""
    return tuple(replace(look, spent=1.0) for look in looks)
