import itertools

import pytest
import torch
from builders import make_pool
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cnnaudit.statistics import Windows
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


@pytest.mark.parametrize("size", [6, 7, 8])
@pytest.mark.parametrize("padding", [0, 1])
def test_windows_that_ceil_mode_adds_hang_over_and_are_left_out(size, padding):
    """A full window's maximum is the same in floor and ceil mode; what ceil adds reads beyond the map."""
    site = make_pool((size, size), 3, 2, padding=padding)
    x = numbered((size, size))
    _, at = nn.functional.max_pool2d(x, 3, 2, padding, ceil_mode=True, return_indices=True)
    highest = [max(window) for window in positions(site)]
    assert set(highest) <= set(at.flatten().tolist())
    # The first full window starts at 0, or at 1 where the one before it starts in the padding.
    assert len(highest) == ((size - padding - 3) // 2 + 1) ** 2


def test_windows_of_a_sequence():
    assert positions(make_pool((7,), 3, 2)) == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    assert positions(make_pool((7,), 2, 2, dilation=3)) == [[0, 3], [2, 5]]
    # Padding 1: the windows start at -1, 1, 3, 5; the first and the last touch padding.
    assert positions(make_pool((7,), 3, 2, padding=1)) == [[1, 2, 3], [3, 4, 5]]


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


@pytest.mark.parametrize(
    ("cells", "entries", "root"),
    [(4096, 4, 8), (4096, 9, 2), (4096, 12, 2), (4096, 13, 1), (4096, 1, 4096), (4095, 4, 7), (27, 3, 3), (26, 3, 2)],
)
def test_integer_root(cells, entries, root):
    assert integer_root(cells, entries) == root
    assert root**entries <= cells < (root + 1) ** entries
