"""The populations on which every interval method is put to the test."""

# ruff: noqa: PLR0917 - a population is drawn by its facts, and partial() binds them by position

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.random import Generator
from simulation.coverage import BOUNDARY, NAIVE, SEQUENCE, Bounds, Case
from simulation.generators import Activity, Array, Channel, Levels, Residual, Sample, Selectivity, from_sources
from torch import Tensor

from cnnaudit.intervals import Betting, Binomial, EmpiricalBernstein, Normal, linearised_ratio, paired_difference

__all__ = ["CASES", "WINDOWS", "images_of"]

MIXED = Activity((0.1, 0.4, 0.8), (0.3, 0.4, 0.3))
SILENT = Activity((0.0, 0.3), (0.98, 0.02))
DENSE = Activity((1.0, 0.98), (0.97, 0.03))
GREY = Levels(((0.7, 0.1, 0.1, 0.1), (0.1, 0.2, 0.3, 0.4)), (0.5, 0.5))
TWO_LEVELS = Levels(((0.9, 0.1), (0.4, 0.6)), (0.5, 0.5), side=4)


def images_of(case: Case) -> tuple[int, ...]:
    """Numbers of images that a case is tried with: as many as its metric would judge."""
    if case.per_source > 1:
        return (2000, 5000)
    if case.classes >= 100:
        return (50 * case.classes,)
    if case.classes == 10:
        return (500, 1000, 5000)
    return (200, 500, 1000, 5000) if case.classes else (50, 200, 500, 1000, 5000)


def _maps(activity: Activity, truth: str, per_source: int, n: int, units: int, rng: Generator) -> Sample:
    maps = activity.maps(n, units, rng, per_source)
    return Sample((maps,), getattr(activity, truth), from_sources(n, per_source))


def _strength(n: int, units: int, rng: Generator) -> Sample:
    # Kernels are alike, so each has the layer's mean; only a layer of one kernel would know it without error.
    return Sample((MIXED.maps(n, units, rng),), 1.0)


def _levels(levels: Levels, field: str, per_source: int, n: int, units: int, rng: Generator) -> Sample:
    facts = {"levels": len(levels.p[0])} | from_sources(n, per_source)
    return Sample((levels.maps(n, units, rng, per_source),), levels.losses[field], facts)


def _responses(channel: Channel, truth: float, per_source: int, n: int, units: int, rng: Generator) -> Sample:
    x, labels = channel.responses(n, units, rng, per_source)
    return Sample((x,), truth, {"labels": labels, "levels": channel.p.shape[1]} | from_sources(n, per_source))


def _selectivity(population: Selectivity, n: int, units: int, rng: Generator) -> Sample:
    x, labels = population.responses(n, units, rng)
    return Sample((x,), population.index, {"labels": labels})


def _residual(population: Residual, n: int, units: int, rng: Generator) -> Sample:
    return Sample(population.maps(n, rng), population.share)


def _fractions(alpha: float, beta: float, n: int, units: int, rng: Generator) -> Sample:
    return Sample((torch.from_numpy(rng.beta(alpha, beta, (n, units))),), alpha / (alpha + beta))


def _events(p: float, n: int, units: int, rng: Generator) -> Sample:
    return Sample((torch.from_numpy((rng.random((n, units)) < p).astype(float)),), p)


def _pairs(n: int, units: int, rng: Generator) -> Sample:
    common, one, two = rng.random((3, n, units))
    return Sample((torch.from_numpy((common * one - common**2 * two)),), 1 / 4 - 1 / 6)


def _binomial(_: str, sample: Sample) -> Bounds:
    x = sample.tensors[0].numpy()
    return Binomial(x.sum(0), len(x)).interval(0.95)


def _difference(_: str, sample: Sample) -> Bounds:
    d = sample.tensors[0].numpy()
    return paired_difference(d.sum(0), (d**2).sum(0), len(d), limits=(-1.0, 1.0)).interval(0.95)


def _sequence(kind: type[Betting | EmpiricalBernstein], _: str, sample: Sample) -> Bounds:
    return kind(sample.tensors[0].numpy()).interval(0.95)


def _windows_alone(_: str, sample: Sample) -> Bounds:
    """What is wrong: every window is taken for a sample of its own."""
    windows = _windows(sample.tensors[0])
    active = (windows > 0).sum(-1)
    n = active[..., 0].size
    kept = active > 0
    sums = [x.reshape(n, -1).sum(0, dtype=float) for x in (kept, active, kept, kept * active, active**2)]
    value, error = linearised_ratio(sums[0], sums[1], aa=sums[2], ab=sums[3], bb=sums[4], n=n)
    return Normal(1 - value, error).interval(0.95)


def _windows(maps: Tensor) -> Array:
    """2x2 windows of maps, shape (images, windows, units, 4)."""
    n, units, side, _ = maps.shape
    parts = maps.reshape(n, units, side // 2, 2, side // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(n, -1, units, 4).numpy()


def _information(bits: float, classes: int, per_source: int = 1, kind=Channel.graded, **facts) -> Case:
    method = "jackknife over sources" if per_source > 1 else "delete-one jackknife"
    told = f"{bits:g} bits" + (f", {per_source} images a source" if per_source > 1 else "")
    channel = kind(bits, classes) if bits else Channel(np.full((classes, 8), 1 / 8))
    draw = partial(_responses, channel, bits, per_source)
    return Case(method, "class_information", told, draw, classes=classes, per_source=per_source, **facts)


def _auroc(distance: float, classes: int, **facts) -> Case:
    channel = Channel.detector(distance, classes)
    draw = partial(_responses, channel, channel.best_auroc, 1)
    return Case("DeLong", "class_auroc", f"AUROC {channel.best_auroc:.3f}", draw, classes=classes, units=100, **facts)


def _index(index: float, classes: int, **facts) -> Case:
    draw = partial(_selectivity, Selectivity(index, classes))
    return Case("delta method", "class_selectivity_index", f"index {index:.2g}", draw, classes=classes, **facts)


# The tests on maps of 2x2 windows, 256 of them in an image.
WINDOWS = Activity((0.1, 0.4, 0.8), (0.3, 0.4, 0.3), side=32)

CASES = (
    Case("exact binomial", "activity.dead", "30 % of images", partial(_events, 0.3), bounds=_binomial),
    Case("exact binomial", "activity.dead", "1 % of images", partial(_events, 0.01), target=BOUNDARY, bounds=_binomial),
    Case("effective binomial", "activity.apoz", ".57 of positions", partial(_maps, MIXED, "zeros", 1), values=16),
    Case(
        "effective binomial",
        "activity.apoz",
        "nearly all",
        partial(_maps, SILENT, "zeros", 1),
        values=16,
        target=BOUNDARY,
    ),
    Case(
        "effective binomial",
        "activity.apoz",
        "nearly none",
        partial(_maps, DENSE, "zeros", 1),
        values=16,
        target=BOUNDARY,
    ),
    Case("influence function", "activity.dormant", "as the layer", _strength, values=16, units=200),
    Case("linearised ratio", "pool_information_dimension_loss", "max", partial(_maps, MIXED, "loss", 1), values=16),
    Case(
        "jackknife",
        "pool_entropy_loss.relative",
        "4 levels",
        partial(_levels, GREY, "relative", 1),
        values=64,
        units=50,
    ),
    Case(
        "jackknife", "pool_entropy_loss.bits", "2 levels", partial(_levels, TWO_LEVELS, "bits", 1), values=16, units=100
    ),
    Case("jackknife", "branch_variance_share", "share .55", partial(_residual, Residual(0.3, 0.8)), values=64),
    Case("jackknife", "branch_variance_share", "opposing", partial(_residual, Residual(-0.3, 0.2)), values=64),
    Case(
        "jackknife",
        "branch_variance_share",
        "share .00",
        partial(_residual, Residual(0.0, 0.01)),
        values=64,
        target=BOUNDARY,
    ),
    _information(0.3, 2),
    _information(0.3, 10),
    _information(1.0, 10),
    _information(1.0, 10, kind=Channel.noisy),
    _information(0.5, 100, units=200),
    _information(1.05, 100, units=200),
    _information(1.67, 100, units=200),
    _information(0.48, 1000, units=100),
    _information(1.06, 1000, units=100),
    _information(1.72, 1000, units=100),
    _information(0.0, 10, target=BOUNDARY),
    _information(0.0, 100, target=BOUNDARY, units=200),
    _index(0.5, 2),
    _index(1 / 3, 10),
    _index(0.5, 10),
    _index(0.5, 100),
    _index(0.0, 10, target=BOUNDARY),
    _auroc(1.0, 2),
    _auroc(1.0, 10),
    _auroc(2.0, 10),
    _auroc(1.0, 100),
    _auroc(0.0, 10, target=BOUNDARY),
    Case(
        "jackknife over sources",
        "activity.apoz",
        "10 images a source",
        partial(_maps, MIXED, "zeros", 10),
        values=16,
        per_source=10,
    ),
    Case(
        "jackknife over sources",
        "pool_entropy_loss.relative",
        "2 levels, 10 images a source",
        partial(_levels, TWO_LEVELS, "relative", 10),
        values=16,
        units=50,
        per_source=10,
    ),
    _information(0.3, 2, per_source=10, units=100),
    Case("paired difference", "mean difference", "in [-1, 1]", _pairs, bounds=_difference),
    Case(
        "empirical-Bernstein sequence",
        "mean of values in [0, 1]",
        "Beta(2, 5)",
        partial(_fractions, 2, 5),
        target=SEQUENCE,
        bounds=partial(_sequence, EmpiricalBernstein),
    ),
    Case(
        "betting sequence",
        "mean of values in [0, 1]",
        "Beta(2, 5)",
        partial(_fractions, 2, 5),
        target=SEQUENCE,
        bounds=partial(_sequence, Betting),
        units=200,
    ),
    Case(
        "windows as samples",
        "pool_information_dimension_loss",
        "256 windows an image",
        partial(_maps, WINDOWS, "loss", 1),
        values=1024,
        target=NAIVE,
        bounds=_windows_alone,
        units=50,
    ),
    Case(
        "linearised ratio",
        "pool_information_dimension_loss",
        "the same images",
        partial(_maps, WINDOWS, "loss", 1),
        values=1024,
        units=50,
    ),
)
