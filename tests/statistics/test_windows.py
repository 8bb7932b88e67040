import itertools
import math
from collections import Counter

import pytest
import torch
from builders import make_pool, with_output
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from cnnaudit.site import Op
from cnnaudit.statistics import Probe, View, WindowActivity, WindowHistogram, Windows
from cnnaudit.statistics.windows import integer_root

ALL = 10_000


def numbered(shape):
    """A map whose values are its flattened positions."""
    return torch.arange(float(torch.Size(shape).numel())).reshape(1, 1, *shape)


def positions(site, wanted=ALL, image=0):
    shape = site.taps["input"].spatial
    read = Windows.of(site).read(numbered(shape), torch.tensor([image]), "layer", 0, wanted)
    return read[0, :, :, 0].long().tolist()


def unfolded(shape, kernel, stride, padding, dilation):
    """Windows that torch's unfold makes, without those that touch padding."""
    x = nn.functional.pad(numbered(shape), (padding[1], padding[1], padding[0], padding[0]), value=-1.0)
    columns = nn.functional.unfold(x, kernel, dilation=dilation, stride=stride)[0].T.long()
    return columns[(columns >= 0).all(1)].tolist()


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(7, 11), st.integers(7, 11)),
    kernel=pairs,
    stride=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=pairs,
)
def test_windows_of_a_map_are_those_of_unfold_that_touch_no_padding(shape, kernel, stride, padding, dilation):
    site = make_pool(shape, kernel, stride, padding=padding, dilation=dilation)
    assert positions(site) == unfolded(shape, kernel, stride, padding, dilation)


def untouched(pool, outputs):
    """Outputs whose windows read no padding, by looking at every position that they read."""
    shape, kernel, stride, padding, dilation = pool
    for place in itertools.product(*map(range, outputs)):
        read = [
            {i * s - p + j * d for j in range(k)}
            for i, k, s, p, d in zip(place, kernel, stride, padding, dilation, strict=True)
        ]
        outside = [{*range(-p, 0), *range(n, n + p)} for n, p in zip(shape, padding, strict=True)]
        if not any(positions & pad for positions, pad in zip(read, outside, strict=True)):
            yield place


def same_as_torch(site, x, pooled, places, reduce):
    """Every window, of whatever shape, reduced, is torch's output at exactly the places given."""
    windows = Windows.every(site)
    assert list(itertools.product(*windows.places)) == list(places)
    strata = Windows.strata(site)
    assert sum(part.total for part in strata) == windows.total
    assert [part.total for part in strata] == sorted((part.total for part in strata), reverse=True)
    found = {}
    for part in strata if windows.total else ():
        read = part.read(x, torch.tensor([0]), "layer", 0, ALL)[0, :, :, 0]
        assert read.shape == (part.total, part.entries)
        found |= dict(zip(itertools.product(*part.places), reduce(read, -1).tolist(), strict=True))
    assert found == {place: pytest.approx(float(pooled[(0, 0, *place)]), rel=1e-12) for place in places}
    if reduce is torch.amax and windows.total:
        filled = windows.read(x, torch.tensor([0]), "layer", 0, ALL)[0, :, :, 0]
        assert filled.amax(-1).tolist() == [found[place] for place in itertools.product(*windows.places)]


def drawn_map(shape, seed):
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def pools(draw):
    dims = draw(st.integers(1, 2))
    kernel, stride, dilation = (tuple(draw(st.integers(least, 3)) for _ in range(dims)) for least in (1, 1, 1))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)  # torch allows no more
    shape = tuple(draw(st.integers(4, 9)) for _ in range(dims))
    assume(all((k - 1) * d < n for k, d, n in zip(kernel, dilation, shape, strict=True)))
    return shape, kernel, stride, padding, dilation


@settings(max_examples=120, deadline=None, derandomize=True)
@given(pool=pools(), ceil_mode=st.booleans(), seed=st.integers(0, 99))
def test_maxima_of_windows_are_what_torch_pools_wherever_no_padding_is_read(pool, ceil_mode, seed):
    shape, kernel, stride, padding, dilation = pool
    x = drawn_map(shape, seed)
    call = nn.functional.max_pool1d if len(shape) == 1 else nn.functional.max_pool2d
    pooled = call(x, kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    site = with_output(make_pool(shape, kernel, stride, padding=padding, dilation=dilation), *pooled.shape[2:])
    places = list(untouched(pool, pooled.shape[2:]))
    same_as_torch(site, x, pooled, places, torch.amax)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(pool=pools(), ceil_mode=st.booleans(), count_include_pad=st.booleans(), seed=st.integers(0, 99))
def test_means_of_windows_are_what_torch_pools_wherever_no_padding_is_read(pool, ceil_mode, count_include_pad, seed):
    """Where zeros are counted, the mean of ones tells which windows hold any; what ceil adds is not counted."""
    shape, kernel, stride, padding, _ = pool
    x = drawn_map(shape, seed)
    call = nn.functional.avg_pool1d if len(shape) == 1 else nn.functional.avg_pool2d
    pooled = call(x, kernel, stride, padding, ceil_mode, count_include_pad)
    ones = call(torch.ones_like(x), kernel, stride, padding, ceil_mode, count_include_pad=True)[0, 0]
    places = [place for place in itertools.product(*map(range, ones.shape)) if math.isclose(ones[place], 1)]
    site = with_output(make_pool(shape, kernel, stride, padding=padding, operator="avg"), *pooled.shape[2:])
    same_as_torch(site, x, pooled, places, torch.mean)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(sizes=st.lists(st.tuples(st.integers(1, 11), st.integers(1, 8)), min_size=1, max_size=2), seed=st.integers(0, 9))
def test_adaptive_windows_are_those_of_torch(sizes, seed):
    """Also of sizes that do not divide, and of outputs larger than the map."""
    shape, outputs = zip(*sizes, strict=True)
    x = drawn_map(shape, seed)
    one = len(shape) == 1
    for reduce, call in (
        (torch.amax, nn.functional.adaptive_max_pool1d if one else nn.functional.adaptive_max_pool2d),
        (torch.mean, nn.functional.adaptive_avg_pool1d if one else nn.functional.adaptive_avg_pool2d),
    ):
        site = with_output(make_pool(shape, (), ()), *outputs)
        same_as_torch(site, x, call(x, outputs), list(itertools.product(*map(range, outputs))), reduce)


def test_windows_of_volumes_of_unequal_shape_are_those_of_torch():
    x = drawn_map((5, 4, 7), 0)
    every = list(itertools.product(range(3), range(2), range(4)))
    pooled = nn.functional.max_pool3d(x, 2, ceil_mode=True)
    same_as_torch(with_output(make_pool((5, 4, 7), 2), 3, 2, 4), x, pooled, every, torch.amax)
    pooled = nn.functional.avg_pool3d(x, 2, ceil_mode=True)
    same_as_torch(with_output(make_pool((5, 4, 7), 2, operator="avg"), 3, 2, 4), x, pooled, every, torch.mean)
    pooled = nn.functional.adaptive_avg_pool3d(x, (3, 2, 4))
    same_as_torch(with_output(make_pool((5, 4, 7), (), ()), 3, 2, 4), x, pooled, every, torch.mean)
    dilated = nn.functional.max_pool3d(x, 2, 1, dilation=(2, 1, 3))
    site = with_output(make_pool((5, 4, 7), 2, 1, dilation=(2, 1, 3)), *dilated.shape[2:])
    same_as_torch(site, x, dilated, list(itertools.product(range(3), range(3), range(4))), torch.amax)


def entries(site):
    """The input positions of the windows of each shape along the one dimension of a map."""
    return [list(windows.entries_at[0]) for windows in Windows.strata(site)]


def test_windows_that_the_end_of_the_map_cuts_off():
    """Seven values, windows of three: every two 0-2, 2-4, 4-6; every three 0-2, 3-5, and 6 alone in ceil mode."""
    site = make_pool((7,), 3, 3)
    assert entries(site) == [[(0, 1, 2), (3, 4, 5)]]
    assert entries(with_output(site, 3)) == [[(0, 1, 2), (3, 4, 5)], [(6,)]]
    assert Windows.every(with_output(site, 3)).entries_at == (((0, 1, 2), (3, 4, 5), (6, 6, 6)),)
    # Padding 1: 0 to 2 of the padded map touches it, 2-4 is 1-3 of the map, and the last reads the padding behind it.
    padded = with_output(make_pool((6,), 3, 2, padding=1), 4)
    assert entries(padded) == [[(1, 2, 3), (3, 4, 5)]]
    assert nn.functional.max_pool1d(torch.zeros(1, 1, 6), 3, 2, 1, ceil_mode=True).shape[2] == 4


def test_a_window_cut_off_in_two_dimensions_is_of_another_shape_than_those_cut_off_in_one():
    strata = Windows.strata(with_output(make_pool((5, 7), 2), 3, 4))
    assert [(windows.kernel, windows.total) for windows in strata] == [
        ((2, 2), 6), ((1, 2), 3), ((2, 1), 2), ((1, 1), 1),
    ]  # fmt: skip
    assert Windows.of(with_output(make_pool((5, 7), 2), 3, 4)) is strata[0]


def test_dilated_windows_by_hand():
    assert entries(make_pool((8,), 3, 2, dilation=2)) == [[(0, 2, 4), (2, 4, 6)]]
    # In ceil mode a third starts at 4 and would read 8.
    assert entries(with_output(make_pool((8,), 3, 2, dilation=2), 3)) == [[(0, 2, 4), (2, 4, 6)], [(4, 6)]]
    # Padding 1, every value: -1 is padding; 0, 3, 6; 1, 4, 7; the fourth reads 8, which is padding.
    assert entries(make_pool((8,), 3, 1, padding=1, dilation=3)) == [[(0, 3, 6), (1, 4, 7)]]
    # 4, 7, 10: of the padding behind the map, 8, it reads nothing, so ceil mode only cuts it off.
    assert entries(with_output(make_pool((8,), 3, 5, padding=1, dilation=3), 2)) == [[(4, 7)]]
    found = positions(make_pool((3, 4), 2, 1, dilation=(2, 3)))
    assert found == [[0, 3, 8, 11]]


def test_adaptive_windows_by_hand():
    assert entries(with_output(make_pool((7,), (), ()), 3)) == [[(0, 1, 2), (2, 3, 4), (4, 5, 6)]]
    # From floor(7i / 4) to ceil(7(i + 1) / 4); of equally many the larger windows come first.
    assert entries(with_output(make_pool((7,), (), ()), 4)) == [[(1, 2, 3), (3, 4, 5)], [(0, 1), (5, 6)]]
    windows = Windows.of(with_output(make_pool((7, 6), (), ()), 3, 4))
    assert windows.spacing == (7 / 3, 1.5)
    assert Windows.of(make_pool((7, 6), 3, 2)).spacing == (2, 2)


def test_only_a_pool_has_windows_that_the_end_of_the_map_cuts_off():
    """A convolution with more outputs than that was padded behind the map alone."""
    site = with_output(make_pool((7,), 3, 3), 3)
    conv = type(site)("conv", Op.CONV, 1, site.taps, kernel=(3,), stride=(3,))
    assert entries(conv) == [[(0, 1, 2), (3, 4, 5)]]


def test_the_size_of_a_vector_that_a_reduction_hands_on_says_nothing():
    site = make_pool((4, 6), (4, 6))
    assert Windows.of(with_output(site)) == Windows.of(site)
    assert Windows.of(site).total == 1


@pytest.mark.parametrize("shape", [(), (7,)])
def test_where_there_are_no_windows(shape):
    windows = Windows.of(make_pool(shape, (), ()))
    assert (windows.total, windows.blocks) == (0, 0)
    assert Windows.strata(make_pool(shape, (), ())) == (windows,)


def test_windows_of_a_sequence():
    assert positions(make_pool((7,), 3, 2)) == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    assert positions(make_pool((7,), 2, 2, dilation=3)) == [[0, 3], [2, 5]]
    # Padding 1: the windows start at -1, 1, 3, 5; the first and the last touch padding.
    assert positions(make_pool((7,), 3, 2, padding=1)) == [[1, 2, 3], [3, 4, 5]]


def test_windows_inside_a_map_that_is_padded_already():
    assert Windows.inside((7,), (3,), (2,), (1,)) == Windows.of(make_pool((7,), 3, 2))
    assert Windows.inside((9, 7), (3, 2), (2, 1), (1, 3)).count == (4, 4)


def test_windows_of_a_volume():
    site = make_pool((2, 3, 4), (1, 2, 2), (1, 2, 2))
    # One layer of the volume is 12 positions, one row 4.
    assert positions(site) == [[0, 1, 4, 5], [2, 3, 6, 7], [12, 13, 16, 17], [14, 15, 18, 19]]
    cube = make_pool((2, 2, 2), 2, 2)
    assert positions(cube) == [[0, 1, 2, 3, 4, 5, 6, 7]]


def test_a_window_larger_than_the_map_does_not_exist():
    windows = Windows.of(make_pool((3, 3), 4, 1))
    assert windows.total == 0
    assert windows.blocks == 0
    assert Windows.of(make_pool((2, 2), 3, 2, padding=1)).total == 0


def test_counts():
    windows = Windows.of(make_pool((8, 6), 2))
    assert (windows.entries, windows.count, windows.total, windows.blocks) == (4, (4, 3), 12, 6)


def test_values_of_all_units_are_read_together_in_either_layout():
    x = torch.randn(3, 4, 6, 6)
    windows = Windows.of(make_pool((6, 6), 2, units=4))
    read = windows.read(x, torch.arange(3), "layer", 0, ALL)
    assert read.shape == (3, 9, 4, 4)
    expected = nn.functional.unfold(x, 2, stride=2).reshape(3, 4, 4, 9).permute(0, 3, 2, 1)
    assert torch.equal(read, expected)
    assert torch.equal(
        windows.read(x.contiguous(memory_format=torch.channels_last), torch.arange(3), "layer", 0, ALL), read
    )


def test_sampled_windows_are_some_of_all_and_depend_on_the_image():
    site = make_pool((16, 16), 2)
    every = positions(site)
    drawn = {image: positions(site, wanted=8, image=image) for image in range(20)}
    for windows in drawn.values():
        assert len(windows) == 8
        assert all(window in every for window in windows)
        assert len({tuple(w) for w in windows}) == 8
    assert len({str(windows) for windows in drawn.values()}) == 20


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (2, 1, 0), (1, 1, 0)])
def test_neighbourhoods_are_two_windows_along_each_dimension_with_adjacent_inputs(kernel, stride, padding):
    shape = (7, 8)
    site = make_pool(shape, kernel, stride, padding=padding)
    every = Windows.of(site)
    grid = torch.tensor(positions(site)).reshape(*every.count, -1)
    outputs, inputs = every.read_blocks(numbered(shape), torch.tensor([0]), "layer", 0, ALL)
    assert outputs.shape == (1, every.blocks, 4, kernel**2, 1)
    assert inputs.shape == (1, every.blocks, 4, 1)
    block = 0
    for row, column in itertools.product(range(every.count[0] - 1), range(every.count[1] - 1)):
        near = [grid[row + i, column + j].tolist() for i, j in itertools.product(range(2), repeat=2)]
        assert outputs[0, block, :, :, 0].long().tolist() == near
        corner = near[0][0]
        assert inputs[0, block, :, 0].long().tolist() == [corner, corner + 1, corner + 8, corner + 9]
        block += 1
    assert block == every.blocks


def test_neighbourhoods_of_a_sequence():
    windows = Windows.of(make_pool((6,), 2))
    outputs, inputs = windows.read_blocks(numbered((6,)), torch.tensor([0]), "layer", 0, ALL)
    assert outputs[0, :, :, :, 0].long().tolist() == [[[0, 1], [2, 3]], [[2, 3], [4, 5]]]
    assert inputs[0, :, :, 0].long().tolist() == [[0, 1], [2, 3]]


def test_neighbourhoods_of_unequal_windows_are_of_the_most_frequent_shape():
    """Adaptive, 9 to 5: 0-1, 1-3, 3-5, 5-7, 7-8; neighbours of three values start at 1 and 3, at 3 and 5."""
    windows = Windows.of(with_output(make_pool((9,), (), ()), 5))
    outputs, inputs = windows.read_blocks(numbered((9,)), torch.tensor([0]), "layer", 0, ALL)
    assert outputs[0, :, :, :, 0].long().tolist() == [[[1, 2, 3], [3, 4, 5]], [[3, 4, 5], [5, 6, 7]]]
    assert inputs[0, :, :, 0].long().tolist() == [[1, 2], [3, 4]]


def test_windows_with_others_between_them_are_no_neighbours():
    """Adaptive, 7 to 4 and 4 to 8: two at either end; each value twice, and none beside the last."""
    assert [part.blocks for part in Windows.strata(with_output(make_pool((7,), (), ()), 4))] == [1, 0]
    doubled = Windows.of(with_output(make_pool((4,), (), ()), 8))
    assert doubled.entries_at == (((0,), (0,), (1,), (1,), (2,), (2,), (3,), (3,)),)
    outputs, inputs = doubled.read_blocks(numbered((4,)), torch.tensor([0]), "layer", 0, ALL)
    assert outputs[0, :, :, 0, 0].long().tolist() == [[0, 0], [0, 1], [1, 1], [1, 2], [2, 2], [2, 3]]
    assert inputs[0, :, :, 0].long().tolist() == [[0, 1], [0, 1], [1, 2], [1, 2], [2, 3], [2, 3]]


def histogram_of(site, x, *, levels=None, windows=ALL):
    probe = Probe(WindowHistogram, site, ("input",), (("levels", levels), ("windows", windows)))
    histogram = WindowHistogram(probe, 1)
    reading = histogram.read(View({"input": x}, torch.arange(len(x)), None, 0))
    histogram.calibrate([reading])
    histogram.fold(reading, torch.zeros(len(x), dtype=torch.int64))
    return histogram


def test_each_shape_is_counted_on_its_own():
    x = torch.randint(0, 3, (6, 2, 5, 8), generator=torch.Generator().manual_seed(1))
    site = with_output(make_pool((5, 8), (2, 3), units=2), 3, 3)
    histogram = histogram_of(site, x, levels=3)
    rows, columns = ((0, 1), (2, 3), (4,)), ((0, 1, 2), (3, 4, 5), (6, 7))
    counted = {}
    for image, kernel, at, over in itertools.product(range(6), range(2), rows, columns):
        window = [int(x[image, kernel, r, c]) for r, c in itertools.product(at, over)]
        code = sum(value * 3**i for i, value in enumerate(window))
        counted.setdefault((len(at), len(over)), [Counter(), Counter()])[kernel][code] += 1
    # 4 whole windows of nine, 2 cut off below, 2 at the right of the larger shape, one at the corner.
    shares = [(2, 3), (2, 2), (1, 3), (1, 2)]
    assert [(s.entries, s.share) for s in histogram.strata] == [
        (h * w, n / 9) for (h, w), n in zip(shares, (4, 2, 2, 1), strict=True)
    ]
    for stratum, shape in zip(histogram.strata, shares, strict=True):
        assert stratum.counts.shape == (2, 3**stratum.entries)
        for kernel in range(2):
            cells = stratum.counts[kernel].tolist()
            assert {i: n for i, n in enumerate(cells) if n} == counted[shape][kernel]
    assert torch.equal(histogram.counts("windows"), histogram.strata[0].counts)


def test_shapes_are_sampled_in_proportion_and_the_largest_decides_the_levels():
    """Adaptive, 88 to 24: windows of four and, fewer, of five values; five levels of those fit 4,096 cells."""
    x = torch.rand(5, 1, 88)
    site = with_output(make_pool((88,), (), ()), 24)
    assert [(part.entries, part.total) for part in Windows.strata(site)] == [(4, 16), (5, 8)]
    histogram = histogram_of(site, x, windows=12)
    assert histogram.levels == 5
    assert [int(s.counts.sum()) for s in histogram.strata] == [5 * 8, 5 * 4]
    whole = with_output(make_pool((101,), 2), 51)
    assert [int(s.counts.sum()) for s in histogram_of(whole, torch.rand(5, 1, 101), windows=10).strata] == [50, 5]


def test_windows_of_one_shape_are_one_stratum():
    histogram = histogram_of(with_output(make_pool((8, 8), 2), 4, 4), torch.rand(4, 1, 8, 8), windows=5)
    (stratum,) = histogram.strata
    assert (stratum.entries, stratum.share, int(stratum.counts.sum())) == (4, 1.0, 20)
    assert "windows1" not in histogram.tally
    assert WindowHistogram(histogram.probe, 1).strata == ()


def test_smaller_windows_are_read_with_what_they_hold():
    """(3, 0 | 2): two values of which max keeps one; the lone one at the end is kept by every operator."""
    site = with_output(make_pool((3,), 2), 2)
    statistic = WindowActivity(Probe(WindowActivity, site, ("input",), (("windows", ALL),)), 1)
    x = torch.tensor([[[3.0, 0.0, 2.0]], [[3.0, 1.0, 0.0]]])
    statistic.fold(statistic.read(View({"input": x}, torch.arange(2), None, 0)), torch.tensor([0, 0]))
    assert statistic.total("read").tolist() == [4]
    # Images (3, 0, 2) and (3, 1, 0): max and average keep 2 + 1, min 1 + 1, the first value 2 + 1.
    assert statistic.total("kept")[:, 0].tolist() == [3, 3, 2, 3]


@pytest.mark.parametrize(
    ("cells", "entries", "root"),
    [(4096, 4, 8), (4096, 9, 2), (4096, 12, 2), (4096, 13, 1), (4096, 1, 4096), (4095, 4, 7), (27, 3, 3), (26, 3, 2)],
)
def test_integer_root(cells, entries, root):
    assert integer_root(cells, entries) == root
    assert root**entries <= cells < (root + 1) ** entries
