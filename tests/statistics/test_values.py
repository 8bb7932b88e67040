"""What statistics hold, against loops over single values in plain Python and NumPy."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from builders import make_pool, make_site
from cases import CASES, Case, integers, name_of

from cnnaudit.site import Op
from cnnaudit.statistics import ActivityTally, ClassHistogram, PairMoments, Probe, View, WindowActivity, WindowHistogram

BLOCKS = [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9, 10, 11]]


def probe(statistic, site, taps, **options):
    return Probe(statistic, site, taps, tuple(sorted((dict(statistic.options) | options).items())))


def cases_of(statistic):
    return pytest.mark.parametrize("case", [c for c in CASES if c.probe.statistic is statistic], ids=name_of)


@cases_of(ActivityTally)
def test_activity_tally(case):
    data = case.data(12)
    tally = case.folded(data, BLOCKS, groups=3)
    for group, ids in enumerate(BLOCKS):
        x = data["response"][ids].double().numpy().reshape(len(ids), 3, -1)
        zeros = (x == 0).sum(2)
        a = np.abs(x).mean(2)
        mean = a.mean(1)
        got = {name: tensor[group].numpy() for name, tensor in tally.tally.items()}
        assert got["active"].tolist() == (x != 0).any(2).sum(0).tolist()
        assert got["zeros"].tolist() == zeros.sum(0).tolist()
        assert got["zeros2"].tolist() == (zeros**2).sum(0).tolist()
        np.testing.assert_allclose(got["a"], a.sum(0), rtol=1e-6)
        np.testing.assert_allclose(got["a2"], (a**2).sum(0), rtol=1e-6)
        np.testing.assert_allclose(got["a_mean"], (a * mean[:, None]).sum(0), rtol=1e-6)
        np.testing.assert_allclose(got["mean"], [mean.sum()], rtol=1e-6)
        np.testing.assert_allclose(got["mean2"], [(mean**2).sum()], rtol=1e-6)
    assert tally.positions == x.shape[2]


@cases_of(ClassHistogram)
def test_class_histogram(case):
    data = case.data(12)
    histogram = case.folded(data, BLOCKS, groups=3)
    edges = histogram.calibration["edges"].numpy()
    wanted = np.zeros(histogram.counts.shape, dtype=int)
    for image in range(12):
        for row, kernel in enumerate(case.probe.units):
            response = float(data["response"][image, kernel].to(torch.float32).mean())
            level = sum(edge <= response for edge in edges[row])
            wanted[row, int(data["labels"][image]), level] += 1
    assert histogram.counts.tolist() == wanted.tolist()
    assert histogram.counts.shape[0] == len(case.probe.units)
    assert histogram.counts.sum((1, 2)).tolist() == [12] * len(case.probe.units)


def test_class_histogram_grows_with_the_classes_it_meets():
    """Two images were there when the grid was fixed, both of class 0; later parts bring classes 5 and 2."""
    case = Case("", probe(ClassHistogram, make_site(units=1, shape=()), ("response",), bins=2), integers(2, 1))
    first = {"response": torch.tensor([[0], [1]]), "labels": torch.tensor([0, 0])}
    later = {"response": torch.tensor([[1], [1]]), "labels": torch.tensor([5, 2])}

    def part(*blocks):
        statistic = case.started(first)
        for data in blocks:
            statistic.fold(case.read(data, [0, 1]), torch.tensor([0, 0]))
        return statistic

    assert part(first).counts.tolist() == [[[1, 1]]]
    assert part(later).counts.tolist() == [[[0, 0], [0, 0], [0, 1], [0, 0], [0, 0], [0, 1]]]
    both = [[[1, 1], [0, 0], [0, 1], [0, 0], [0, 0], [0, 1]]]
    assert part(first, later).counts.tolist() == both
    assert part(first).merge(part(later)).counts.tolist() == both
    assert part(later).merge(part(first)).counts.tolist() == both


def test_pair_moments_are_those_of_numpy_in_spite_of_an_offset():
    site = make_site(Op.RESIDUAL, taps=("skip", "branch"), shape=(2, 2))
    case = Case("", probe(PairMoments, site, ("skip", "branch")), lambda g, n: torch.randn(n, 3, 2, 2, generator=g))
    data = case.data(12)
    for tap, offset in (("skip", 3e6), ("branch", -5e5)):
        data[tap] = data[tap].double() + offset
    moments = case.folded(data, BLOCKS, groups=2).pooled()
    s, f = (data[tap].numpy().transpose(1, 0, 2, 3).reshape(3, -1).astype(np.longdouble) for tap in ("skip", "branch"))
    got = {name: tensor[0].numpy() for name, tensor in moments.tally.items()}
    assert got["rows"] == [48]
    np.testing.assert_allclose(got["mean_s"], s.mean(1).astype(float), rtol=1e-14)
    np.testing.assert_allclose(got["mean_f"], f.mean(1).astype(float), rtol=1e-14)
    s, f = s - s.mean(1, keepdims=True), f - f.mean(1, keepdims=True)
    np.testing.assert_allclose(got["ss"], (s * s).sum(1).astype(float), rtol=1e-8)
    np.testing.assert_allclose(got["ff"], (f * f).sum(1).astype(float), rtol=1e-8)
    np.testing.assert_allclose(got["sf"], (s * f).sum(1).astype(float), rtol=1e-7)


def test_pair_moments_read_as_many_positions_as_they_were_told_and_the_same_of_both():
    case = next(c for c in CASES if c.probe.statistic is PairMoments and c.name == "map")
    data = case.data(6)
    data["branch"] = data["skip"] * 4
    reading = case.read(data, range(6))
    assert reading["rows"].tolist() == [[7.0]] * 6
    assert reading["ss"].shape == (6, 3)
    # 4: without rounding.
    assert torch.equal(reading["mean_f"], reading["mean_s"] * 4)
    assert torch.equal(reading["sf"], reading["ss"] * 4)
    assert torch.equal(reading["ff"], reading["ss"] * 16)


def full_windows(x, kernel, stride, padding):
    """Windows that lie inside a 2-D map, as (row, column, flattened values), in raster order."""
    height, width = x.shape[-2:]
    for top in range(-padding, height, stride):
        for left in range(-padding, width, stride):
            if top >= 0 and left >= 0 and top + kernel <= height and left + kernel <= width:
                yield top, left, x[..., top : top + kernel, left : left + kernel].flatten(-2)


@pytest.mark.parametrize("atoms", [(0.0,), (0.0, 6.0), ()], ids=["relu", "relu6", "nothing known"])
def test_window_activity_of_a_pool(atoms):
    site = make_pool((7, 7), 3, 2, units=2, padding=1, atoms=atoms)
    # Few different values, so that windows hold equal ones, atoms at both ends.
    case = Case(
        "", probe(WindowActivity, site, ("input",)), lambda g, n: torch.randint(-2, 8, (n, 2, 7, 7), generator=g)
    )
    data = case.data(12)
    data["input"] = data["input"].clamp(0, 6).float()
    tally = case.folded(data, BLOCKS, groups=3)
    read, kept = np.zeros((12, 2), dtype=int), np.zeros((12, 4, 2), dtype=int)
    for image, kernel in itertools.product(range(12), range(2)):
        for _, _, values in full_windows(data["input"][image, kernel], 3, 2, 1):
            window = values.tolist()
            active = {v for v in window if v not in atoms}
            read[image, kernel] += len(active)
            results = (max(window) in active, bool(active), min(window) in active, window[0] in active)
            kept[image, :, kernel] += np.array(results, dtype=int)
    for group, ids in enumerate(BLOCKS):
        r, k = read[ids], kept[ids]
        got = {name: tensor[group].tolist() for name, tensor in tally.tally.items()}
        assert got["read"] == r.sum(0).tolist()
        assert got["read2"] == (r**2).sum(0).tolist()
        assert got["kept"] == k.sum(0).tolist()
        assert got["kept2"] == (k**2).sum(0).tolist()
        assert got["kept_read"] == (k * r[:, None]).sum(0).tolist()


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (1, 0), (2, 0)])
def test_window_activity_of_a_strided_convolution(kernel, padding):
    site = make_site(
        Op.CONV, 4, taps=("input",), shape=(6, 6), channels=6, kernel=kernel, stride=2, padding=padding, dilation=1,
        groups=2, downsamples=True,
    )  # fmt: skip
    case = Case("", probe(WindowActivity, site, ("input",)), lambda g, n: torch.randn(n, 6, 6, 6, generator=g).relu())
    data = case.data(12)
    tally = case.folded(data, BLOCKS, groups=3).pooled()
    read, kept = np.zeros(2, dtype=int), np.zeros(2, dtype=int)
    for image, group in itertools.product(range(12), range(2)):
        x = data["input"][image, group * 3 : group * 3 + 3]
        for top, left in itertools.product(range(0, 6, 2), repeat=2):
            tile = x[:, top : top + 2, left : left + 2] != 0
            # A 1x1 kernel of stride 2 reads one position of four, the others all.
            reached = tile[:, :1, :1] if kernel == 1 else tile
            read[group] += int(tile.sum())
            kept[group] += min(int(reached.sum()), 2)  # a group has two output channels
    assert tally.tally["read"][0].tolist() == read.tolist()
    assert tally.tally["kept"][0, 0].tolist() == kept.tolist()


@pytest.mark.parametrize("operator", ["max", "min", "avg", "stride"])
def test_window_histogram_on_integers(operator):
    site = make_pool((5, 6), 2, units=2, operator=operator)
    levels = 3
    case = Case("", probe(WindowHistogram, site, ("input",), levels=levels), integers(levels, 2, 5, 6))
    data = case.data(12)
    histogram = case.folded(data, BLOCKS, groups=3)
    act = {"max": max, "min": min, "avg": lambda w: int(np.floor(np.mean(w) + 0.5)), "stride": lambda w: w[0]}[operator]

    def code(values):
        return sum(v * levels**i for i, v in enumerate(values))

    for group, ids in enumerate(BLOCKS):
        for kernel in range(2):
            wanted = {"windows": Counter(), "outputs": Counter(), "inputs": Counter()}
            for image in ids:
                x = data["input"][image, kernel]
                pooled = {}
                for top, left, values in full_windows(x, 2, 2, 0):
                    wanted["windows"][code(values.tolist())] += 1
                    pooled[top // 2, left // 2] = act(values.tolist())
                assert len(pooled) == 6
                for row, column in itertools.product(range(1), range(2)):
                    near = [pooled[row + i, column + j] for i, j in itertools.product(range(2), repeat=2)]
                    wanted["outputs"][code(near)] += 1
                    beside = x[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten().tolist()
                    wanted["inputs"][code(beside)] += 1
            for name, counted in wanted.items():
                cells = histogram.tally[name][group, kernel]
                assert {i: int(n) for i, n in enumerate(cells) if n} == counted, name
    assert histogram.levels == levels
    assert histogram.counts("windows").sum(1).tolist() == [72, 72]


def test_window_histogram_without_neighbours_has_no_blocks():
    case = Case("", probe(WindowHistogram, make_pool((2, 2)), ("input",), levels=2), integers(2, 1, 2, 2))
    histogram = case.folded(case.data(4), [[0, 1, 2, 3]])
    assert set(histogram.tally) == {"images", "sources", "nonfinite", "windows"}
    assert histogram.counts("outputs") is None


def test_window_histogram_takes_as_many_levels_as_4096_cells_allow():
    def levels(**facts):
        case = Case("", probe(WindowHistogram, make_pool(**facts), ("input",)), None)
        data = {"input": torch.rand(4, 1, *facts["shape"]), "labels": torch.zeros(4, dtype=torch.int64)}
        return case.folded(data, [[0, 1, 2, 3]]).levels

    assert levels(shape=(8, 8), kernel=2) == 8
    assert levels(shape=(8, 8), kernel=3) == 2
    assert levels(shape=(8, 8), kernel=1) == 8  # never more than 8
    assert levels(shape=(9,), kernel=3) == 8
    assert levels(shape=(4, 4, 4), kernel=2) == 2


def test_a_class_histogram_without_labels_is_a_programming_error():
    case = next(c for c in CASES if c.probe.statistic is ClassHistogram)
    data = case.data(3)
    statistic = case.started(data)
    with pytest.raises(ValueError, match="needs labels"):
        statistic.read(View({"response": data["response"]}, torch.arange(3), None, 0))
