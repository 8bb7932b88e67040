import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnaudit.statistics.grid import centres, edges, integer_grid, quantise

samples = st.lists(st.sampled_from([0.0, 0.0, 0.0]) | st.floats(-9, 9, width=32), min_size=1, max_size=40)


def column(*values):
    return torch.tensor(values, dtype=torch.float32)[:, None]


def naive_levels(sample, levels, values):
    """Levels by the definition: count values below, give zero its own level, cut each sign at equal ranks."""
    x = sorted(sample)
    n = len(x)

    def cuts(part, pieces):
        """Values that split a sorted part of x into equally full pieces."""
        start = x.index(part[0])
        found = []
        for i in range(1, pieces):
            rank = min(max(round(start + i * len(part) / pieces), 1), n - 1)
            found.append((x[rank - 1] + x[rank]) / 2)
        return found

    if n == 1 and x[0] != 0:
        bounds = [x[0]] * (levels - 1)
    elif 0.0 not in x:
        bounds = cuts(x, levels)
    else:
        negative, positive = [v for v in x if v < 0], [v for v in x if v > 0]
        inner = levels - 1
        below = min(max(round(inner * len(negative) / len(negative + positive)), 1), inner) if negative else 0
        if positive and below == inner and inner > 1:
            below -= 1
        bounds = [*cuts(negative, below), 0.0] if negative else []
        if positive and inner > below:
            bounds += [np.nextafter(0, 1), *cuts(positive, inner - below)]
        else:
            bounds += [np.nextafter(0, 1)] * (inner - below)
    return [sum(b <= v for b in bounds) for v in values]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(sample=samples, levels=st.integers(2, 9))
def test_levels_are_those_of_a_naive_reference(sample, levels):
    values = np.float32(sample).astype(float).tolist()
    edge = edges(column(*sample), levels)
    assert edge.shape == (1, levels - 1)
    assert quantise(column(*sample), edge)[:, 0].tolist() == naive_levels(values, levels, values)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(sample=samples, levels=st.integers(2, 9), values=st.lists(st.floats(-12, 12, width=32), min_size=2, max_size=30))
def test_quantising_is_monotone_and_stays_on_the_grid(sample, levels, values):
    edge = edges(column(*sample), levels)
    assert edge[0].tolist() == sorted(edge[0].tolist())
    code = quantise(column(*sorted(values)), edge)[:, 0].tolist()
    assert code == sorted(code)
    assert {code[0], code[-1]} <= set(range(levels))


@pytest.mark.parametrize("levels", [2, 3, 5, 8, 16])
@pytest.mark.parametrize("n", [16, 100, 257])
def test_levels_are_equally_full_without_zeros(levels, n):
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) + 0.1
    code = quantise(x, edges(x, levels))
    for kernel in range(3):
        counts = torch.bincount(code[:, kernel], minlength=levels).tolist()
        assert max(counts) - min(counts) <= 1
        assert sum(counts) == n


def test_exact_zeros_have_a_level_of_their_own_and_positives_share_the_rest():
    positive = torch.rand(70, 1, generator=torch.Generator().manual_seed(0)) + 1e-30
    x = torch.cat([torch.zeros(300, 1), positive])
    counts = torch.bincount(quantise(x, edges(x, 8))[:, 0], minlength=8)
    assert counts.tolist() == [300, *[10] * 7]


def test_negative_and_positive_levels_are_shared_out_by_their_numbers():
    negative, positive = -torch.arange(1.0, 21.0), torch.arange(1.0, 51.0)
    x = torch.cat([negative, torch.zeros(5), positive])[:, None]
    code = quantise(x, edges(x, 8))[:, 0]
    # 7 levels beside that of zero: 2 for 20 negative values, 5 for 50 positive ones.
    assert torch.bincount(code).tolist() == [10, 10, 5, 10, 10, 10, 10, 10]
    assert code[20:25].unique().tolist() == [2]


def test_few_negative_values_still_have_one_level_and_so_have_few_positive_ones():
    mostly_positive = torch.cat([torch.tensor([-1.0, 0.0]), torch.arange(1.0, 61.0)])[:, None]
    assert torch.bincount(quantise(mostly_positive, edges(mostly_positive, 8))[:, 0]).tolist() == [1, 1, *[10] * 6]
    assert torch.bincount(quantise(-mostly_positive, edges(-mostly_positive, 8))[:, 0]).tolist() == [*[10] * 6, 1, 1]


def test_the_smallest_numbers_are_not_zero():
    x = column(*[0.0] * 10, *[1.0] * 10)
    edge = edges(x, 4)
    smallest = torch.tensor([[1e-45], [0.0], [-0.0], [-1e-45]])
    assert quantise(smallest, edge)[:, 0].tolist() == [1, 0, 0, 0]


def test_two_levels_with_zeros_and_both_signs_part_at_zero():
    x = column(-2, -1, 0, 0, 3)
    assert quantise(x, edges(x, 2))[:, 0].tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("sample", "levels", "distinct"),
    [
        ([3.5] * 10, 4, 1),  # constant
        ([0.0] * 10, 4, 1),  # dead
        ([-1.0] * 10, 4, 1),
        ([7.0], 4, 1),  # one value
        ([1.0] * 50 + [2.0] * 50, 8, 2),  # ties never part
        ([1.0] * 98 + [2.0, 3.0], 4, 1),  # no edge falls between rare values
        ([0.0] * 98 + [2.0, 3.0], 4, 3),  # but zeros take no edges from them
    ],
)
def test_equal_values_share_a_level(sample, levels, distinct):
    x = column(*sample)
    code = quantise(x, edges(x, levels))[:, 0].tolist()
    assert len(set(code)) == distinct
    assert len(set(zip(sample, code, strict=True))) == len(set(sample))


def test_every_kernel_has_its_own_grid():
    x = torch.cat([torch.arange(1.0, 9.0)[:, None], 100 * torch.arange(1.0, 9.0)[:, None]], 1)
    edge = edges(x, 4)
    assert edge.tolist() == [[2.5, 4.5, 6.5], [250.0, 450.0, 650.0]]
    assert quantise(x.reshape(2, 4, 2), edge).tolist() == [
        [[0, 0], [0, 0], [1, 1], [1, 1]],
        [[2, 2], [2, 2], [3, 3], [3, 3]],
    ]


def test_nan_goes_to_the_last_level_and_infinities_to_the_ends():
    edge = edges(torch.arange(8.0)[:, None] + 1, 4)
    values = torch.tensor([[float("nan")], [float("inf")], [float("-inf")]])
    assert quantise(values, edge)[:, 0].tolist() == [3, 3, 0]


def test_integers_are_their_own_levels():
    grid = integer_grid(2, 5)
    assert grid.tolist() == [[0.5, 1.5, 2.5, 3.5]] * 2
    x = torch.arange(5).expand(2, -1).T
    assert torch.equal(quantise(x, grid), x)


def test_centres_are_means_of_levels():
    x = column(0, 0, 0, 1, 2, 3, 4)
    edge = edges(x, 3)
    assert centres(x, edge)[0].tolist() == [0.0, 1.5, 3.5]


def test_an_empty_level_has_its_centre_between_its_edges():
    edge = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    assert centres(column(0.5, 1.5, 5.0), edge)[0].tolist() == [0.5, 1.5, 3.0, 5.0]
    assert centres(column(3.0), edge)[0].tolist() == [1.0, 1.5, 3.0, 4.0]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(sample=samples, levels=st.integers(2, 8))
def test_the_centre_of_an_occupied_level_lies_in_it(sample, levels):
    """So a window whose values are all in one level has its average in that level."""
    x = column(*sample)
    edge = edges(x, levels)
    code = quantise(x, edge)[:, 0].unique()
    again = quantise(centres(x, edge).T, edge)[:, 0]
    assert again[code].tolist() == code.tolist()


def test_the_centre_of_equal_float64_values_lies_in_their_level():
    """As of float32 values, whose sums are exact: else averaging (x, x, x, x) loses bits."""
    x = torch.tensor([[0.1], [0.7], [0.3]], dtype=torch.float64).repeat(30, 1)
    edge = edges(x, 8)
    code = quantise(x, edge)[:, 0].unique()
    assert quantise(centres(x, edge).T, edge)[code, 0].tolist() == code.tolist()
