"""One or more ways to use every statistic; the law is tested over all of them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

import torch
from builders import make_pool, make_site

import cnnaudit.statistics
from cnnaudit.site import Op
from cnnaudit.statistics import (
    ActivityTally,
    BatchSample,
    ClassHistogram,
    ClassMoments,
    ClassResponses,
    Covariance,
    CrossMoments,
    ImageSample,
    LevelHistogram,
    MapEntropy,
    PairMoments,
    PairSample,
    Parameters,
    PositionResponses,
    Probe,
    ResponseMoments,
    Statistic,
    View,
    WindowActivity,
    WindowHistogram,
)

Make = Callable[[torch.Generator, int], torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A probe, and how the maps that it reads are drawn (one draw for each tap)."""

    name: str
    probe: Probe
    draw: Make

    def data(self, images: int, seed: int = 0) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        maps = {tap: self.draw(generator, images) for tap in self.probe.taps}
        data = maps | {"labels": torch.randint(0, 4, (images,), generator=generator)}
        if self.probe.statistic.by_concept:
            shape = (images, 6, 7)[: 1 + len(self.probe.site.taps[self.probe.taps[0]].spatial)]
            dense = torch.randint(-1, 4, shape, generator=generator)
            shown = dense[:, None] >= torch.arange(4).reshape(-1, *[1] * (dense.dim() - 1))
            data["masks"] = shown if "concepts" in self.name else dense.to(torch.int16)
        return data

    def read(self, data, ids, *, seed=0, edit=lambda x: x):
        ids = torch.as_tensor(ids)
        taps = {tap: edit(data[tap][ids]) for tap in self.probe.taps}
        masks = data["masks"][ids] if "masks" in data else None
        return self.started().read(View(taps, ids, data["labels"][ids], seed, masks))

    def started(self, data=None, groups: int = 1) -> Statistic:
        """A statistic with nothing folded; its grid, if it has one, is fixed by all of the data."""
        statistic = self.probe.statistic(self.probe, groups)
        if data is not None and statistic.calibrates:
            ids = torch.arange(len(data["labels"]))
            view = View({tap: data[tap] for tap in self.probe.taps}, ids, data["labels"], 0, data.get("masks"))
            statistic.calibrate([statistic.read(view)])
        return statistic

    def folded(self, data, blocks, groups: int = 1, numbers=None) -> Statistic:
        """Fold blocks (lists of image ids); the images of block ``i`` belong to group ``numbers[i] % groups``."""
        statistic = self.started(data, groups)
        for number, ids in zip(range(len(blocks)) if numbers is None else numbers, blocks, strict=True):
            statistic.fold(self.read(data, ids), torch.full((len(ids),), number % groups))
        return statistic


def rectified(units, *spatial) -> Make:
    return lambda generator, n: torch.randn(n, units, *spatial, generator=generator).relu()


def signed(units, *spatial, offset=0.0) -> Make:
    return lambda generator, n: torch.randn(n, units, *spatial, generator=generator) + offset


def integers(levels, units, *spatial) -> Make:
    return lambda generator, n: torch.randint(0, levels, (n, units, *spatial), generator=generator)


def _case(name, statistic, site, taps, draw, *, kernels=None, clustered=False, **options) -> Case:
    given = tuple(sorted((dict(statistic.options) | options).items()))
    return Case(name, Probe(statistic, site, taps, given, kernels=kernels, clustered=clustered), draw)


_PAIR = ("skip", "branch")
_ENDS = ("from", "to")

CASES = (
    _case("rectified map", ActivityTally, make_site(), ("response",), rectified(3, 4, 4)),
    _case("sources", ActivityTally, make_site(), ("response",), rectified(3, 4, 4), clustered=True),
    _case("signed vector", ActivityTally, make_site(shape=(), nonnegative=False), ("response",), signed(3)),
    _case("map", ClassHistogram, make_site(units=5), ("response",), rectified(5, 4, 4), bins=4),
    _case("kernels", ClassHistogram, make_site(units=5), ("response",), rectified(5, 3, 3), kernels=(1, 4), bins=3),
    _case("sources", ClassHistogram, make_site(units=5), ("response",), rectified(5, 4, 4), bins=4, clustered=True),
    _case("integers", ClassHistogram, make_site(shape=()), ("response",), integers(5, 3), bins=5),
    _case("map", ClassMoments, make_site(units=5), ("response",), rectified(5, 4, 4)),
    _case("kernels", ClassMoments, make_site(units=5), ("response",), rectified(5, 3, 3), kernels=(1, 4)),
    _case("sources", ClassMoments, make_site(units=5), ("response",), rectified(5, 4, 4), clustered=True),
    _case("vector", ClassMoments, make_site(shape=()), ("response",), rectified(3)),
    _case("map", ClassResponses, make_site(units=5), ("response",), rectified(5, 4, 4), bins=9),
    _case("kernels", ClassResponses, make_site(units=5), ("response",), rectified(5, 3, 3), kernels=(1, 4), bins=3),
    _case("sources", ClassResponses, make_site(units=5), ("response",), rectified(5, 4, 4), bins=4, clustered=True),
    _case("integers", ClassResponses, make_site(shape=()), ("response",), integers(5, 3), bins=5),
    _case("map", BatchSample, make_site(shape=(9, 5)), ("response",), rectified(3, 9, 5), batch=2),
    _case("pair", BatchSample, make_site(taps=_ENDS, shape=()), _ENDS, signed(3), batch=64),
    _case("sources", BatchSample, make_site(shape=(9,)), ("response",), rectified(3, 9), clustered=True, batch=2),
    _case("map", CrossMoments, make_site(taps=_ENDS), _ENDS, signed(3, 4, 4, offset=2.0)),
    _case("projected", CrossMoments, make_site(units=5, taps=_ENDS, shape=()), _ENDS, signed(5), features=3),
    _case("sources", CrossMoments, make_site(taps=_ENDS, shape=()), _ENDS, signed(3), clustered=True),
    _case("map", Covariance, make_site(units=5), ("response",), rectified(5, 4, 4), positions=7),
    _case("kernels", Covariance, make_site(units=5), ("response",), signed(5, 3, 3, offset=2.0), kernels=(1, 4)),
    _case("sources", Covariance, make_site(units=3), ("response",), rectified(3, 4, 4), clustered=True),
    _case("vector", Covariance, make_site(shape=()), ("response",), signed(3)),
    _case("integers", Covariance, make_site(shape=()), ("response",), integers(5, 3)),
    _case("mean", ImageSample, make_site(), ("response",), rectified(3, 4, 4), images=9),
    _case("grid", ImageSample, make_site(shape=(5, 4)), ("response",), signed(3, 5, 4), readout="grid", features=7),
    _case("sources", ImageSample, make_site(shape=(5,)), ("response",), signed(3, 5), clustered=True, images=12),
    _case("integers", ImageSample, make_site(shape=()), ("response",), integers(5, 3), readout="grid"),
    _case("map", LevelHistogram, make_site(units=5), ("response",), rectified(5, 4, 4), levels=4, positions=6),
    _case("vector", LevelHistogram, make_site(shape=()), ("response",), signed(3), levels=3),
    _case("integers", LevelHistogram, make_site(shape=(4,)), ("response",), integers(5, 3, 4), levels=5),
    _case("map", MapEntropy, make_site(units=5), ("response",), rectified(5, 4, 4), temperature=0.5),
    _case("large map", MapEntropy, make_site(shape=(12, 12)), ("response",), rectified(3, 12, 12)),
    _case("sources", MapEntropy, make_site(shape=(5,)), ("response",), signed(3, 5), clustered=True),
    _case("map", PairMoments, make_site(Op.RESIDUAL, taps=_PAIR), _PAIR, signed(3, 4, 4, offset=2.0), positions=7),
    _case("vector", PairMoments, make_site(Op.RESIDUAL, shape=(), taps=_PAIR), _PAIR, signed(3)),
    _case("map", PairSample, make_site(taps=_ENDS), _ENDS, rectified(3, 4, 4), readout="grid", images=9, positions=5),
    _case("sources", PairSample, make_site(taps=_ENDS, shape=()), _ENDS, signed(3), clustered=True, levels=3),
    _case("dense labels", PositionResponses, make_site(), ("response",), rectified(3, 4, 4), positions=50),
    _case("concepts", PositionResponses, make_site(), ("response",), signed(3, 4, 4), positions=9),
    _case("kernels", PositionResponses, make_site(units=4), ("response",), rectified(4, 3, 7), kernels=(1, 3)),
    _case("line", PositionResponses, make_site(shape=(4,)), ("response",), rectified(3, 4), positions=4, quantile=0.2),
    _case("integers", PositionResponses, make_site(), ("response",), integers(3, 3, 4, 4), clustered=True),
    _case("map", ResponseMoments, make_site(), ("response",), rectified(3, 4, 4)),
    _case("sources", ResponseMoments, make_site(), ("response",), rectified(3, 4, 4), clustered=True),
    _case("pool", WindowActivity, make_pool((7, 7), 3, 2, units=3, padding=1), ("input",), rectified(3, 7, 7)),
    _case("few windows", WindowActivity, make_pool((8, 8), units=3), ("input",), rectified(3, 8, 8), windows=5),
    _case(
        "strided convolution",
        WindowActivity,
        make_site(
            Op.CONV,
            4,
            taps=("input",),
            shape=(6, 6),
            channels=6,
            kernel=3,
            stride=2,
            padding=1,
            dilation=1,
            groups=2,
            downsamples=True,
        ),
        ("input",),
        rectified(6, 6, 6),
    ),
    _case("max", WindowHistogram, make_pool((8, 8), units=3), ("input",), rectified(3, 8, 8), levels=3, windows=6),
    _case("kernels", WindowHistogram, make_pool((6, 6), units=4), ("input",), rectified(4, 6, 6), kernels=(0, 2)),
    _case("line", WindowHistogram, make_pool((9,), 3, units=2, operator="avg"), ("input",), signed(2, 9), levels=4),
    _case("integers", WindowHistogram, make_pool((4, 4), units=2), ("input",), integers(3, 2, 4, 4), levels=3),
)


def every_statistic() -> set[type[Statistic]]:
    """Every concrete statistic that a module of the package defines."""
    found = set()
    for module in pkgutil.walk_packages(cnnaudit.statistics.__path__, "cnnaudit.statistics."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Statistic) and value is not Statistic:
                found.add(value)
    return found - {Parameters}  # which no image fills


def name_of(case: Case) -> str:
    return f"{case.probe.statistic.__name__}-{case.name}".replace(" ", "-")
