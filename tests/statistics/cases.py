"""One or more ways to use every statistic; the law is tested over all of them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from builders import make_pool, make_site, with_output

import cnnaudit.statistics
from cnnaudit.site import Op, Site, Tap, Variant
from cnnaudit.statistics import (
    ActivityTally,
    AliasedEnergy,
    BatchSample,
    CentreShifts,
    ClassHistogram,
    ClassMoments,
    ClassResponses,
    Covariance,
    CrossMoments,
    GateValues,
    ImageSample,
    LevelHistogram,
    LogitPairs,
    LogitsAndLabels,
    MapEntropy,
    PairCovariance,
    PairMoments,
    PairSample,
    Parameters,
    PartMoments,
    PatchCovariance,
    PoolSample,
    PositionMeans,
    PositionResponses,
    Probe,
    Rectification,
    ResponseMoments,
    ShiftErrors,
    Statistic,
    View,
    WindowActivity,
    WindowCovariance,
    WindowHistogram,
    WindowMoments,
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
        whole = self.probe.site.parameters
        maps = {tap: self.draw(generator, images) for tap in self.probe.taps if tap not in whole}
        maps |= {tap: torch.randn(whole[tap].shape, generator=generator) for tap in self.probe.taps if tap in whole}
        data = maps | {"labels": torch.randint(0, 4, (images,), generator=generator)}
        if self.probe.statistic.by_concept:
            shape = (images, 6, 7)[: 1 + len(self.probe.site.taps[self.probe.taps[0]].spatial)]
            dense = torch.randint(-1, 4, shape, generator=generator)
            shown = dense[:, None] >= torch.arange(4).reshape(-1, *[1] * (dense.dim() - 1))
            data["masks"] = shown if "concepts" in self.name else dense.to(torch.int16)
        return data

    def read(self, data, ids, *, seed=0, edit=lambda x: x):
        ids = torch.as_tensor(ids)
        whole = self.probe.site.parameters
        taps = {tap: data[tap] if tap in whole else edit(data[tap][ids]) for tap in self.probe.taps}
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


def uniform(units, *spatial) -> Make:
    return lambda generator, images: torch.rand(images, units, *spatial, generator=generator)


def integers(levels, units, *spatial) -> Make:
    return lambda generator, n: torch.randint(0, levels, (n, units, *spatial), generator=generator)


def _case(name, statistic, site, taps, draw, *, kernels=None, clustered=False, **options) -> Case:
    given = tuple(sorted((dict(statistic.options) | options).items()))
    return Case(name, Probe(statistic, site, taps, given, kernels=kernels, clustered=clustered), draw)


def outputs(sizes, shape, kernel):
    return with_output(make_pool(shape, kernel, units=3), *sizes)


_PAIR = ("skip", "branch")
_ENDS = ("from", "to")
_POOLED = make_site(
    Op.POOL, taps=("input", "output"), shape=(5, 5), kernel=3, stride=1, padding=1, dilation=1, operator="max"
)
_RUNS = ("result", "first", "second")
_CROPS = _RUNS[1:]
_ABLATED = ("logits", "ablated", *_PAIR)
_READ = ("preactivation", "response")
_READ_BY = ("input", "weight")


def make_strided(units, channels, kernel, *, groups=1):
    """A convolution of stride 2 over maps of 7 x 7, with the shape of its weight."""
    weight = Tap("weight", (units, channels // groups, kernel, kernel))
    facts = {"kernel": kernel, "stride": 2, "padding": 1, "dilation": 1, "groups": groups, "downsamples": True}
    parameters = {"weight": weight}
    return make_site(Op.CONV, units, taps=("input",), shape=(7, 7), channels=channels, parameters=parameters, **facts)


def make_shifted(units, *spatial, jump=2, margin=3):
    """A site whose map is seen in three runs: as it is, and on two random crops."""
    site = make_site(
        units=units,
        shape=spatial,
        taps=_RUNS,
        jump=(jump,) * len(spatial),
        interior=tuple((1, size) for size in spatial),
    )
    margins = (margin,) * len(spatial)
    crops = {tap: replace(site.taps[tap], variant=Variant("", "crop", (i, *margins))) for i, tap in enumerate(_CROPS)}
    return site.with_taps(crops)


def _concat(*channels) -> Site:
    """A concatenation that a convolution of 3 outputs reads."""
    inputs = {f"input{i}": Tap("node", (number, 5, 4)) for i, number in enumerate(channels)}
    weight = Tap("weight", (3, sum(channels), 3, 2))
    facts = {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 1)}
    taps = {"taps": ("consumed",), "shape": (5, 4), "parameters": {"weight": weight}}
    return make_site(Op.CONCAT, sum(channels), **taps, **facts).with_taps(inputs)


CASES = (
    _case("rectified map", ActivityTally, make_site(), ("response",), rectified(3, 4, 4)),
    _case("sources", ActivityTally, make_site(), ("response",), rectified(3, 4, 4), clustered=True),
    _case("signed vector", ActivityTally, make_site(shape=(), nonnegative=False), ("response",), signed(3)),
    _case("max", AliasedEnergy, make_pool((8, 8), 3, 2, units=3, padding=1), ("input",), rectified(3, 8, 8)),
    _case(
        "sources",
        AliasedEnergy,
        make_pool((6, 7), units=2, operator="avg"),
        ("input",),
        signed(2, 6, 7),
        clustered=True,
    ),
    _case("line", AliasedEnergy, make_pool((9,), 3, units=2), ("input",), signed(2, 9, offset=2.0)),
    _case("map", CentreShifts, make_shifted(3, 5, 6), _CROPS, rectified(3, 5, 6)),
    _case("line", CentreShifts, make_shifted(2, 7), _CROPS, signed(2, 7), clustered=True),
    _case("kernels", CentreShifts, make_shifted(4, 4, 4), _CROPS, signed(4, 4, 4), kernels=(0, 3)),
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
    _case("excitation", GateValues, make_site(Op.GATE, taps=("gate",), shape=(1, 1)), ("gate",), rectified(3, 1, 1)),
    _case("map", GateValues, make_site(Op.GATE, taps=("gate",)), ("gate",), signed(3, 4, 4), positions=5),
    _case("bounded", GateValues, make_site(Op.GATE, taps=("gate",), shape=(1, 1)), ("gate",), uniform(3, 1, 1)),
    _case("vector", GateValues, make_site(Op.GATE, taps=("gate",), shape=()), ("gate",), signed(3), clustered=True),
    _case("mean", ImageSample, make_site(), ("response",), rectified(3, 4, 4), images=9),
    _case("grid", ImageSample, make_site(shape=(5, 4)), ("response",), signed(3, 5, 4), readout="grid", features=7),
    _case("sources", ImageSample, make_site(shape=(5,)), ("response",), signed(3, 5), clustered=True, images=12),
    _case("integers", ImageSample, make_site(shape=()), ("response",), integers(5, 3), readout="grid"),
    _case("map", LevelHistogram, make_site(units=5), ("response",), rectified(5, 4, 4), levels=4, positions=6),
    _case("vector", LevelHistogram, make_site(shape=()), ("response",), signed(3), levels=3),
    _case("integers", LevelHistogram, make_site(shape=(4,)), ("response",), integers(5, 3, 4), levels=5),
    _case("vector", LogitPairs, make_site(Op.HEAD, shape=(), taps=_CROPS), _CROPS, signed(5)),
    _case("map", LogitPairs, make_site(taps=_CROPS), _CROPS, signed(3, 4, 4), clustered=True),
    _case("vector", LogitsAndLabels, make_site(Op.HEAD, shape=(), taps=_CROPS), _CROPS, signed(4)),
    _case("sources", LogitsAndLabels, make_site(Op.HEAD, shape=(), taps=_CROPS), _CROPS, signed(4), clustered=True),
    _case("block", LogitPairs, make_site(Op.RESIDUAL, taps=_ABLATED), _ABLATED, signed(3, 4, 4)),
    _case("gate", LogitPairs, make_site(Op.GATE, shape=(), taps=_ABLATED[:2]), _ABLATED[:2], signed(4)),
    _case("map", MapEntropy, make_site(units=5), ("response",), rectified(5, 4, 4), temperature=0.5),
    _case("large map", MapEntropy, make_site(shape=(12, 12)), ("response",), rectified(3, 12, 12)),
    _case("sources", MapEntropy, make_site(shape=(5,)), ("response",), signed(3, 5), clustered=True),
    _case("map", PairCovariance, make_site(taps=_PAIR), _PAIR, signed(3, 4, 4, offset=2.0), positions=7),
    _case("kernels", PairCovariance, make_site(units=5, taps=_PAIR), _PAIR, signed(5, 4, 4), kernels=(1, 4)),
    _case("vector", PairCovariance, make_site(shape=(), taps=_PAIR), _PAIR, signed(3), clustered=True),
    _case("map", PairMoments, make_site(Op.RESIDUAL, taps=_PAIR), _PAIR, signed(3, 4, 4, offset=2.0), positions=7),
    _case("vector", PairMoments, make_site(Op.RESIDUAL, shape=(), taps=_PAIR), _PAIR, signed(3)),
    _case("map", PairSample, make_site(taps=_ENDS), _ENDS, rectified(3, 4, 4), readout="grid", images=9, positions=5),
    _case("sources", PairSample, make_site(taps=_ENDS, shape=()), _ENDS, signed(3), clustered=True, levels=3),
    _case("map", PositionMeans, make_site(), ("response",), rectified(3, 4, 4)),
    _case("kernels", PositionMeans, make_site(units=4, shape=(3, 5)), ("response",), signed(4, 3, 5), kernels=(1, 3)),
    _case("sources", PositionMeans, make_site(shape=(7,)), ("response",), signed(3, 7, offset=2.0), clustered=True),
    _case("vector", PositionMeans, make_site(shape=()), ("response",), signed(3)),
    _case("strided", PatchCovariance, make_strided(6, 4, 3, groups=2), _READ_BY, signed(4, 7, 7, offset=2), windows=3),
    _case("sources", PatchCovariance, make_strided(5, 2, 1), _READ_BY, rectified(2, 7, 7), clustered=True),
    _case("pool", PoolSample, _POOLED, ("input", "output"), rectified(3, 5, 5), images=9),
    _case("alone", PoolSample, _POOLED, ("input", "output"), signed(3, 5, 5), clustered=True, alternatives=False),
    _case("concat", PartMoments, _concat(2, 1, 3), ("consumed", "weight"), signed(6, 5, 4), positions=7),
    _case("sources", PartMoments, _concat(1, 1), ("consumed", "weight"), rectified(2, 5, 4), clustered=True),
    _case("dense labels", PositionResponses, make_site(), ("response",), rectified(3, 4, 4), positions=50),
    _case("concepts", PositionResponses, make_site(), ("response",), signed(3, 4, 4), positions=9),
    _case("kernels", PositionResponses, make_site(units=4), ("response",), rectified(4, 3, 7), kernels=(1, 3)),
    _case("line", PositionResponses, make_site(shape=(4,)), ("response",), rectified(3, 4), positions=4, quantile=0.2),
    _case("integers", PositionResponses, make_site(), ("response",), integers(3, 3, 4, 4), clustered=True),
    _case("map", Rectification, make_site(taps=_READ), _READ[:1], signed(3, 4, 4), positions=7),
    _case("six", Rectification, make_site(taps=_READ, atoms=(0.0, 6.0), shape=()), _READ[:1], signed(3, offset=6.0)),
    _case("sources", Rectification, make_site(taps=_READ), _READ[:1], signed(3, 4, 4), clustered=True),
    _case("map", ResponseMoments, make_site(), ("response",), rectified(3, 4, 4)),
    _case("sources", ResponseMoments, make_site(), ("response",), rectified(3, 4, 4), clustered=True),
    _case("map", ShiftErrors, make_shifted(3, 5, 6), _RUNS, rectified(3, 5, 6)),
    _case("line", ShiftErrors, make_shifted(2, 7, jump=1), _RUNS, signed(2, 7, offset=9.0), clustered=True),
    _case("kernels", ShiftErrors, make_shifted(4, 4, 4), _RUNS, signed(4, 4, 4), kernels=(0, 3)),
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
    _case("pool", WindowCovariance, make_pool((7, 7), 3, 2, units=3, padding=1), ("input",), rectified(3, 7, 7)),
    _case("cut off", WindowCovariance, outputs((2, 3), (5, 8), 3), ("input",), signed(3, 5, 8), windows=4),
    _case("global", WindowCovariance, make_pool((3, 4), (3, 4), units=2), ("input",), signed(2, 3, 4, offset=2.0)),
    _case("kernels", WindowCovariance, make_pool((6, 6), units=4), ("input",), signed(4, 6, 6), kernels=(0, 2)),
    _case("integers", WindowCovariance, make_pool((4, 4), units=2), ("input",), integers(3, 2, 4, 4), clustered=True),
    _case("max", WindowHistogram, make_pool((8, 8), units=3), ("input",), rectified(3, 8, 8), levels=3, windows=6),
    _case("kernels", WindowHistogram, make_pool((6, 6), units=4), ("input",), rectified(4, 6, 6), kernels=(0, 2)),
    _case(
        "ceil mode", WindowHistogram, outputs((2, 3), (5, 8), 3), ("input",), rectified(3, 5, 8), levels=2, windows=4
    ),
    _case("adaptive", WindowHistogram, outputs((4,), (7,), ()), ("input",), integers(3, 3, 7), levels=3, windows=2),
    _case("ceil mode", WindowActivity, outputs((2, 3), (5, 8), 3), ("input",), rectified(3, 5, 8), windows=4),
    _case("adaptive", WindowActivity, outputs((4,), (7,), ()), ("input",), integers(3, 3, 7)),
    _case("line", WindowHistogram, make_pool((9,), 3, units=2, operator="avg"), ("input",), signed(2, 9), levels=4),
    _case("integers", WindowHistogram, make_pool((4, 4), units=2), ("input",), integers(3, 2, 4, 4), levels=3),
    _case(
        "max", WindowMoments, make_pool((8, 8), units=3), ("input",), signed(3, 8, 8, offset=2.0), levels=3, windows=6
    ),
    _case("kernels", WindowMoments, make_pool((6, 6), units=4), ("input",), rectified(4, 6, 6), kernels=(0, 2)),
    _case("ceil mode", WindowMoments, outputs((2, 3), (5, 8), 3), ("input",), rectified(3, 5, 8), levels=2, windows=4),
    _case("integers", WindowMoments, make_pool((4, 4), units=2), ("input",), integers(3, 2, 4, 4), clustered=True),
)


def every_statistic() -> set[type[Statistic]]:
    """Every concrete statistic that a module of the package defines."""
    found = set()
    for module in pkgutil.walk_packages(cnnaudit.statistics.__path__, "cnnaudit.statistics."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Statistic) and value is not Statistic:
                found.add(value)
    return {kind for kind in found - {Parameters} if not inspect.isabstract(kind)}  # no image fills Parameters


def name_of(case: Case) -> str:
    return f"{case.probe.statistic.__name__}-{case.name}".replace(" ", "-")
