import itertools
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import distance
from scipy.special import digamma, rel_entr
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import expected_mutual_information as sklearn_expected

from cnnaudit.errors import MetricError
from cnnaudit.information import (
    conditional_entropy,
    cross_entropy,
    entropy,
    expected_mutual_information,
    gaussian_entropy,
    gaussian_entropy_bias,
    gaussian_mutual_information,
    jensen_shannon,
    joint_entropy,
    kullback_leibler,
    mutual_information,
    pointwise_mutual_information,
    self_information,
    total_correlation,
)

PAGE = Path(__file__).parent.parent / "docs" / "information.md"
ESTIMATORS = ("plugin", "miller_madow", "grassberger", "chao_shen", "jackknife")
histograms = st.lists(st.integers(0, 30), min_size=1, max_size=12)
tables = st.integers(1, 5).flatmap(
    lambda columns: st.lists(st.lists(st.integers(0, 9), min_size=columns, max_size=columns), min_size=1, max_size=5)
)
pairs = st.integers(1, 8).flatmap(
    lambda cells: st.tuples(*[st.lists(st.integers(0, 20), min_size=cells, max_size=cells).filter(any)] * 2)
)
many = settings(max_examples=50, deadline=None, derandomize=True)


def counts(values):
    return torch.tensor(values, dtype=torch.int64)


def naive(values, estimator):
    """Each estimator as its paper writes it, one cell at a time."""
    n = sum(values)
    occupied = [v for v in values if v]
    if not n:
        return 0.0
    if estimator == "plugin":
        return -math.fsum(v / n * math.log2(v / n) for v in occupied)
    if estimator == "miller_madow":
        return naive(values, "plugin") + (len(occupied) - 1) / (2 * n * math.log(2))
    if estimator == "jackknife":
        events = [cell for cell, v in enumerate(values) for _ in range(v)]
        without = [[v - (cell == gone) for cell, v in enumerate(values)] for gone in events]
        return n * naive(values, "plugin") - (n - 1) / n * math.fsum(naive(left, "plugin") for left in without)
    if estimator == "grassberger":
        g = [digamma(v) + (-1) ** v * (digamma((v + 1) / 2) - digamma(v / 2)) / 2 for v in occupied]
        return (math.log(n) - math.fsum(v * part for v, part in zip(occupied, g, strict=True)) / n) / math.log(2)
    singletons = occupied.count(1)
    if singletons == n and n > 1:
        singletons -= 1
    coverage = 1 - singletons / n if n > 1 else 1.0
    p = [coverage * v / n for v in occupied]
    return -math.fsum(q * math.log2(q) / (1 - (1 - q) ** n) for q in p)


@many
@given(values=histograms)
def test_plugin_is_scipy_entropy(values):
    expected = stats.entropy(values, base=2) if sum(values) else 0.0
    assert float(entropy(counts(values))) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@many
@given(values=histograms)
def test_estimators_are_their_papers_formulas(estimator, values):
    assert float(entropy(counts(values), estimator)) == pytest.approx(naive(values, estimator), rel=1e-9, abs=1e-12)


def test_by_hand():
    values = counts([4, 2, 1, 1])
    assert float(entropy(values)) == pytest.approx(1.75, abs=1e-12)
    assert float(entropy(values, "miller_madow")) == pytest.approx(2.0205, abs=5e-5)
    # Coverage 1 - 2/8 = 3/4: p = 3/8, 3/16, 3/32, 3/32.
    p = [3 / 8, 3 / 16, 3 / 32, 3 / 32]
    by_hand = sum(-q * math.log2(q) / (1 - (1 - q) ** 8) for q in p)
    assert float(entropy(values, "chao_shen")) == pytest.approx(by_hand, rel=1e-12)
    # D(8) - (4 D(4) + 2 D(2)) / 8 with D(n) = n log2 n - (n - 1) log2(n - 1), D(1) = 0.
    by_hand = 24 - 7 * math.log2(7) - (4 * (8 - 3 * math.log2(3)) + 2 * 2) / 8
    assert float(entropy(values, "jackknife")) == pytest.approx(by_hand, rel=1e-12)
    # Probabilities are counts that sum to one.
    assert float(entropy(torch.tensor([0.5, 0.25, 0.25]))) == pytest.approx(1.5, abs=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_nothing_and_one_cell(estimator):
    assert float(entropy(counts([0, 0, 0]), estimator)) == 0
    # Grassberger's form is a difference of logarithm and digamma: it misses 0 by about 1 / N nats, to either side.
    assert float(entropy(counts([0, 9, 0]), estimator)) == pytest.approx(
        0, abs=0.17 if estimator == "grassberger" else 0
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
@many
@given(values=histograms, zeros=st.integers(0, 5), seed=st.integers(0, 99))
def test_empty_cells_and_the_order_of_cells_do_not_matter(estimator, values, zeros, seed):
    more = values + [0] * zeros
    shuffled = torch.tensor(more)[torch.randperm(len(more), generator=torch.Generator().manual_seed(seed))]
    assert float(entropy(shuffled, estimator)) == pytest.approx(float(entropy(counts(values), estimator)), abs=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_leading_dimensions_are_batches(estimator):
    batch = torch.randint(0, 4, (3, 2, 6), generator=torch.Generator().manual_seed(0))
    got = entropy(batch, estimator)
    assert got.shape == (3, 2)
    for i, j in itertools.product(range(3), range(2)):
        assert float(got[i, j]) == pytest.approx(naive(batch[i, j].tolist(), estimator), rel=1e-9)


@many
@given(values=histograms)
def test_bounds(values):
    h = {name: float(entropy(counts(values), name)) for name in ESTIMATORS}
    occupied = max(1, sum(v > 0 for v in values))
    assert -1e-12 <= h["plugin"] <= math.log2(occupied) + 1e-12
    assert h["miller_madow"] >= h["plugin"] - 1e-12
    assert h["chao_shen"] >= 0
    assert h["jackknife"] >= -1e-12
    assert all(math.isfinite(v) for v in h.values())


@pytest.mark.parametrize(
    ("estimator", "worst"), [("miller_madow", 0.12), ("chao_shen", 0.08), ("grassberger", 0.08), ("jackknife", 0.08)]
)
def test_corrections_take_most_of_the_bias(estimator, worst):
    """64 equally likely cells, 60 draws: the plug-in misses more than half a bit of six."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(0, 64, (2000, 60), generator=generator)
    drawn = torch.zeros(2000, 64, dtype=torch.int64).scatter_add(1, draws, torch.ones_like(draws))
    plugin = 6 - float(entropy(drawn).mean())
    assert plugin > 0.55
    assert abs(6 - float(entropy(drawn, estimator).mean())) < plugin * (worst / 0.12) * 0.5


def test_an_unknown_estimator_is_refused_with_the_known_ones():
    with pytest.raises(
        MetricError, match="'nsb' is unknown; there are plugin, miller_madow, grassberger, chao_shen, jackknife"
    ):
        entropy(counts([1, 2]), "nsb")


@many
@given(table=tables)
def test_mutual_information_is_sklearns(table):
    table = np.array(table)
    if not table.sum():
        assert float(mutual_information(torch.tensor(table))) == 0
        return
    expected = mutual_info_score(None, None, contingency=table) / math.log(2)
    assert float(mutual_information(torch.tensor(table))) == pytest.approx(expected, abs=1e-12)


@many
@given(table=tables)
def test_mutual_information_is_symmetric_and_bounded(table):
    table = torch.tensor(table)
    information = float(mutual_information(table))
    assert information == pytest.approx(float(mutual_information(table.T)), abs=1e-12)
    most = min(float(entropy(table.sum(0))), float(entropy(table.sum(1))))
    assert 0 <= information <= most + 1e-12


def test_mutual_information_by_hand():
    assert float(mutual_information(counts([[5, 0], [0, 5]]))) == pytest.approx(1, abs=1e-12)
    assert float(mutual_information(counts([[6, 3], [4, 2]]))) == pytest.approx(0, abs=1e-12)
    flipped = torch.tensor([[0.445, 0.055], [0.055, 0.445]])
    assert float(mutual_information(flipped)) == pytest.approx(0.50008, abs=5e-6)


@many
@given(table=tables)
def test_expected_information_is_sklearns(table):
    table = np.array(table)
    expected = 0.0
    if table.sum():
        kept = table[table.sum(1) > 0][:, table.sum(0) > 0].astype(np.int64)
        expected = sklearn_expected(kept, int(kept.sum())) / math.log(2)
    assert float(expected_mutual_information(torch.tensor(table))) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_expected_information_is_the_mean_over_all_permutations():
    labels, response = [0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 0, 0]

    def table(order):
        found = torch.zeros(3, 2, dtype=torch.int64)
        for label, i in zip(labels, order, strict=True):
            found[label, response[i]] += 1
        return found

    every = torch.stack([table(order) for order in itertools.permutations(range(6))])
    mean = float(mutual_information(every).mean())
    assert float(expected_mutual_information(table(range(6)))) == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize(("classes", "images", "bins"), [(1000, 40_000, 8), (10, 1_000_000, 8), (2, 300, 5)])
def test_expected_information_of_large_tables_is_sklearns(classes, images, bins):
    generator = np.random.default_rng(0)
    skew = generator.dirichlet(np.full(bins, 0.7))
    table = generator.multinomial(images // classes, skew, size=classes).astype(np.int64)
    expected = sklearn_expected(table, int(table.sum())) / math.log(2)
    assert float(expected_mutual_information(torch.tensor(table))) == pytest.approx(expected, rel=1e-6)


def test_expected_information_of_kernels_that_share_their_classes():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (60,), generator=generator)
    response = torch.randint(0, 4, (2, 5, 60), generator=generator)
    table = torch.zeros(2, 5, 12, dtype=torch.int64)
    table.scatter_add_(2, labels * 4 + response, torch.ones_like(response))
    table = table.reshape(2, 5, 3, 4)
    got = expected_mutual_information(table)
    assert got.shape == (2, 5)
    for i, j in itertools.product(range(2), range(5)):
        expected = sklearn_expected(table[i, j].numpy(), 60) / math.log(2)
        assert float(got[i, j]) == pytest.approx(expected, rel=1e-9)


def test_expected_information_of_nothing_is_zero():
    assert expected_mutual_information(torch.zeros(2, 3, 4)).tolist() == [0, 0]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_small_alphabet_bias(estimator):
    """Four cells, 20 draws: the plug-in is low by its first-order bias, every correction is closer."""
    p = np.array([0.4, 0.3, 0.2, 0.1])
    drawn = torch.tensor(np.random.default_rng(0).multinomial(20, p, size=20_000))
    truth = stats.entropy(p, base=2)
    plugin = float(entropy(drawn).mean()) - truth
    assert plugin == pytest.approx(-3 / (2 * 20 * math.log(2)), rel=0.1)
    if estimator != "plugin":
        assert abs(float(entropy(drawn, estimator).mean()) - truth) < abs(plugin) / 2


def test_self_information():
    bits = self_information(torch.tensor([[1, 0.5], [0.125, 0]]))
    assert bits.dtype == torch.float64
    assert bits.tolist() == [[0, 1], [3, math.inf]]
    assert float(self_information(torch.tensor(0.25))) == 2
    # A softmax in float32 may exceed 1 by rounding.
    assert float(self_information(torch.tensor(1 + 2e-7))) == 0


@many
@given(table=tables)
def test_entropies_of_a_table_are_scipys_and_obey_the_chain_rule(table):
    table = torch.tensor(table)
    joint = float(joint_entropy(table))
    expected = stats.entropy(table.flatten(), base=2) if table.sum() else 0
    assert joint == pytest.approx(float(expected), abs=1e-12)
    rows, columns = float(entropy(table.sum(1))), float(entropy(table.sum(0)))
    assert rows + float(conditional_entropy(table, "rows")) == pytest.approx(joint, abs=1e-12)
    assert columns + float(conditional_entropy(table)) == pytest.approx(joint, abs=1e-12)
    assert float(conditional_entropy(table)) == pytest.approx(float(conditional_entropy(table.T, "rows")), abs=1e-12)
    assert 0 <= float(conditional_entropy(table)) <= rows + 1e-12
    assert float(mutual_information(table)) == pytest.approx(rows - float(conditional_entropy(table)), abs=1e-12)


def test_conditional_entropy_is_the_mean_over_columns():
    table = counts([[4, 0, 1], [4, 2, 1]])
    # Column 1 (8 of 12 events) leaves one bit, column 2 none, column 3 (2 of 12) one bit.
    assert float(conditional_entropy(table)) == pytest.approx(10 / 12, abs=1e-12)
    assert float(conditional_entropy(counts([[3, 0], [0, 5]]))) == 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
@many
@given(table=tables)
def test_information_is_made_of_entropies(estimator, table):
    table = torch.tensor(table)
    rows, columns = (naive(table.sum(i).tolist(), estimator) for i in (1, 0))
    joint = naive(table.flatten().tolist(), estimator)
    close = {"rel": 1e-9, "abs": 1e-11}
    assert float(joint_entropy(table, estimator=estimator)) == pytest.approx(joint, **close)
    assert float(mutual_information(table, estimator)) == pytest.approx(rows + columns - joint, **close)
    assert float(conditional_entropy(table, estimator=estimator)) == pytest.approx(joint - columns, **close)
    assert float(total_correlation(table, 2, estimator)) == pytest.approx(rows + columns - joint, **close)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@many
@given(table=tables, seed=st.integers(0, 99))
def test_information_ignores_order_empty_cells_and_transposition(estimator, table, seed):
    table = torch.tensor(table)
    generator = torch.Generator().manual_seed(seed)
    padded = torch.nn.functional.pad(table, (0, 2, 0, 1))
    mixed = padded[torch.randperm(len(padded), generator=generator)]
    mixed = mixed[:, torch.randperm(padded.shape[1], generator=generator)]
    bits = float(mutual_information(table, estimator))
    assert float(mutual_information(mixed, estimator)) == pytest.approx(bits, abs=1e-11)
    assert float(mutual_information(mixed.T, estimator)) == pytest.approx(bits, abs=1e-11)


@many
@given(table=tables, seed=st.integers(0, 99))
def test_data_processing(table, seed):
    """Merging columns never adds information, nor does it add entropy."""
    table = torch.tensor(table)
    onto = torch.randint(0, 3, (table.shape[1],), generator=torch.Generator().manual_seed(seed))
    merged = torch.zeros(len(table), 3, dtype=table.dtype).index_add(1, onto, table)
    assert float(mutual_information(merged)) <= float(mutual_information(table)) + 1e-12
    assert float(joint_entropy(merged)) <= float(joint_entropy(table)) + 1e-12


def test_pool_windows_of_the_closed_form():
    """Max, min and one of four independent bits with P(1) = .1, max with .5; and what a max tells of the class."""
    window = torch.tensor(
        [math.prod(0.1 if bit else 0.9 for bit in bits) for bits in itertools.product((0, 1), repeat=4)]
    )
    largest = torch.tensor([[0.9**4, 1 - 0.9**4], [1 - 0.1**4, 0.1**4], [0.9, 0.1], [0.5**4, 1 - 0.5**4]])
    assert float(entropy(window)) == pytest.approx(1.875982, abs=1e-6)
    assert entropy(largest.double()).tolist() == pytest.approx([0.928502, 0.001473, 0.468996, 0.337290], abs=1e-6)
    rare, common = 1 - 0.95**4, 1 - 0.75**4
    assert float(mutual_information(torch.tensor([[rare, 1 - rare], [common, 1 - common]]))) == pytest.approx(
        0.1914, abs=5e-5
    )


@many
@given(table=tables)
def test_pointwise_information_is_the_naive_loop(table):
    found = pointwise_mutual_information(torch.tensor(table))
    table = np.array(table)
    for x, y in np.ndindex(*table.shape):
        row, column = table[x].sum(), table[:, y].sum()
        if row == 0 or column == 0:
            assert math.isnan(found[x, y])
        elif table[x, y] == 0:
            assert found[x, y] == -math.inf
        else:
            expected = math.log2(table[x, y] * table.sum() / (row * column))
            assert float(found[x, y]) == pytest.approx(expected, abs=1e-12)


def test_pointwise_information_by_hand_and_its_mean():
    table = torch.tensor([[0.25, 0.25], [0, 0.5]])
    assert pointwise_mutual_information(table)[0].tolist() == pytest.approx([1, math.log2(0.25 / 0.375)])
    mean = torch.where(table > 0, table * pointwise_mutual_information(table), 0.0).sum()
    assert float(mean) == pytest.approx(float(mutual_information(table)), abs=1e-12)


@many
@given(pair=pairs)
def test_divergences_are_scipys(pair):
    p, q = (np.array(x) / sum(x) for x in pair)
    left, right = map(counts, pair)
    with np.errstate(divide="ignore"):
        expected = rel_entr(p, q).sum() / math.log(2)
    assert float(kullback_leibler(left, right)) == pytest.approx(expected, abs=1e-12)
    assert float(kullback_leibler(left, right)) >= 0
    assert float(kullback_leibler(left, left)) == 0
    assert float(cross_entropy(left, right)) == pytest.approx(expected + stats.entropy(p, base=2), abs=1e-12)
    # scipy takes a root of a sum of rounding errors.
    with np.errstate(invalid="ignore"):
        expected = np.nan_to_num(distance.jensenshannon(p, q, base=2)) ** 2
    bits = float(jensen_shannon(left, right))
    assert bits == pytest.approx(expected, abs=1e-12)
    assert bits == pytest.approx(float(jensen_shannon(right, left)), abs=1e-12)
    assert 0 <= bits <= 1


@many
@given(pair=pairs, a=st.floats(0, 1))
def test_jensen_shannon_is_the_information_about_the_source(pair, a):
    p, q = (torch.tensor(x, dtype=torch.float64) / sum(x) for x in pair)
    expected = float(mutual_information(torch.stack([a * p, (1 - a) * q])))
    assert float(jensen_shannon(p, q, (3 * a, 3 - 3 * a))) == pytest.approx(expected, abs=1e-12)


def test_divergences_by_hand():
    p, q = torch.tensor([0.5, 0.5, 0]), torch.tensor([0.25, 0.75, 0])
    assert float(kullback_leibler(p, q)) == pytest.approx(0.5 - 0.5 * math.log2(1.5), abs=1e-12)
    assert float(cross_entropy(p, q)) == pytest.approx(1.5 - 0.5 * math.log2(1.5), abs=1e-12)
    apart = counts([3, 0]), counts([0, 7])
    assert float(kullback_leibler(*apart)) == float(cross_entropy(*apart)) == math.inf
    assert float(jensen_shannon(*apart)) == 1
    assert float(jensen_shannon(*apart, weights=(1, 3))) == pytest.approx(2 - 0.75 * math.log2(3), abs=1e-12)
    nothing = counts([0, 0])
    for divergence in (cross_entropy, kullback_leibler, jensen_shannon):
        assert math.isnan(divergence(nothing, apart[0]))
        assert math.isnan(divergence(apart[0], nothing))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("variables", [1, 2, 3, 4])
def test_total_correlation_is_the_naive_loop(variables, estimator):
    joint = np.random.default_rng(0).integers(0, 4, size=(2, 3, 2, 2, 4)[: 1 + variables])
    found = total_correlation(torch.tensor(joint), variables, estimator)
    assert found.shape == (2,)
    for one, bits in zip(joint, found, strict=True):
        margins = [
            [int(np.take(one, cell, axis).sum()) for cell in range(one.shape[axis])] for axis in range(variables)
        ]
        expected = sum(naive(m, estimator) for m in margins) - naive(one.flatten().tolist(), estimator)
        assert float(bits) == pytest.approx(expected, abs=1e-11)
        assert variables > 1 or float(bits) == 0


def test_total_correlation_of_copies_of_parity_and_of_independence():
    copies, parity = torch.zeros(2, 2, 2, 2), torch.zeros(2, 2, 2)
    copies[0, 0, 0, 0] = copies[1, 1, 1, 1] = 1
    for x, y in itertools.product(range(2), repeat=2):
        parity[x, y, x ^ y] = 1
    assert float(total_correlation(copies, 4)) == pytest.approx(3, abs=1e-12)  # (k - 1) H(x)
    assert float(total_correlation(parity, 3)) == pytest.approx(1, abs=1e-12)
    assert float(total_correlation(parity.sum(2), 2)) == 0
    outer = torch.einsum("i,j,k->ijk", *(torch.tensor(p).double() for p in ([0.2, 0.8], [0.5, 0.5], [0.1, 0.3, 0.6])))
    assert float(total_correlation(outer, 3)) == pytest.approx(0, abs=1e-12)


def batched(function, *shapes):
    """One value over a batch and the same one by one."""
    generator = torch.Generator().manual_seed(3)
    arguments = [torch.randint(1, 6, (2, 3, *shape), generator=generator) for shape in shapes]
    whole = function(*arguments)
    one = [function(*(a[i, j] for a in arguments)) for i in range(2) for j in range(3)]
    return whole, torch.stack(one).reshape(whole.shape)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda p: self_information(p / 6), [(4,)]),
        (joint_entropy, [(3, 4)]),
        (lambda t: joint_entropy(t, 3), [(2, 3, 2)]),
        (conditional_entropy, [(3, 4)]),
        (mutual_information, [(3, 4)]),
        (pointwise_mutual_information, [(3, 4)]),
        (lambda t: total_correlation(t, 3), [(2, 3, 2)]),
        (cross_entropy, [(4,), (4,)]),
        (kullback_leibler, [(4,), (4,)]),
        (lambda p, q: jensen_shannon(p, q, (1, 2)), [(4,), (4,)]),
        (lambda a: gaussian_entropy(a.double() @ a.double().mT + torch.eye(3)), [(3, 3)]),
        (lambda a: gaussian_mutual_information(a.double() @ a.double().mT + torch.eye(3), 1, n=9), [(3, 3)]),
    ],
)
def test_batching_is_looping(function, shapes):
    whole, one = batched(function, *shapes)
    assert whole.dtype == torch.float64
    torch.testing.assert_close(whole, one, rtol=1e-12, atol=1e-12)


def test_leading_dimensions_of_a_pair_broadcast():
    p, q = torch.rand(5, 1, 4, generator=torch.Generator().manual_seed(0)), torch.ones(3, 4)
    for divergence in (cross_entropy, kullback_leibler, jensen_shannon):
        assert divergence(p, q).shape == (5, 3)
        assert float(divergence(p, q)[2, 1]) == pytest.approx(float(divergence(p[2, 0], q[1])), abs=1e-12)


def test_gaussian_entropy_is_scipys():
    a = np.random.default_rng(0).normal(size=(4, 4))
    covariance = a @ a.T
    expected = stats.multivariate_normal(cov=covariance).entropy() / math.log(2)
    assert float(gaussian_entropy(torch.tensor(covariance))) == pytest.approx(expected, rel=1e-12)
    assert float(gaussian_entropy(torch.tensor([[1.0]]))) == pytest.approx(0.5 * math.log2(2 * math.pi * math.e))
    # Scales of 1e-30 are no singularity; a copy, a constant and a sum are one.
    tiny = gaussian_entropy(torch.diag(torch.tensor([1e-30, 1.0], dtype=torch.float64)))
    assert float(tiny) == pytest.approx(math.log2(2 * math.pi * math.e) + 0.5 * math.log2(1e-30))
    for singular in ([[1, 1], [1, 1]], [[2, 0], [0, 0]], [[1, 0, 1], [0, 1, 1], [1, 1, 2]]):
        assert float(gaussian_entropy(torch.tensor(singular))) == -math.inf


@pytest.mark.parametrize("rho", [0, 0.5, -0.9, 0.999])
def test_gaussian_information_of_a_correlation(rho):
    covariance = torch.tensor([[4, 2 * rho], [2 * rho, 1]], dtype=torch.float64)
    expected = 0.5 * math.log2(1 / (1 - rho**2))
    assert float(gaussian_mutual_information(covariance, 1)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("rho", "expected"), [(0.5, 0.8390), (0.9, 4.0391), (0.95, 5.5105)])
def test_gaussian_total_correlation_of_the_closed_form(rho, expected):
    """Four equicorrelated variables: chain of informations X1;X2, X12;X3, X123;X4."""
    covariance = torch.full((4, 4), rho, dtype=torch.float64).fill_diagonal_(1)
    chain = sum(float(gaussian_mutual_information(covariance[:k, :k], k - 1)) for k in (2, 3, 4))
    assert chain == pytest.approx(expected, abs=5e-5)
    total = 4 * gaussian_entropy(torch.eye(1)) - gaussian_entropy(covariance)
    assert float(total) == pytest.approx(expected, abs=5e-5)


def test_gaussian_channel_of_the_closed_form():
    """X of four equicorrelated pixels, Y = X + noise, or their mean or first pixel of it."""
    x = torch.full((4, 4), 0.9, dtype=torch.float64).fill_diagonal_(1)
    noise = 0.01 * torch.eye(4, dtype=torch.float64)

    def channel(a):
        y = a @ (x + noise) @ a.T
        return float(gaussian_mutual_information(torch.cat([torch.cat([x, x @ a.T], 1), torch.cat([a @ x, y], 1)]), 4))

    eye = torch.eye(4, dtype=torch.float64)
    found = [channel(eye), channel(torch.full((1, 4), 0.25, dtype=torch.float64)), channel(eye[:1])]
    assert found == pytest.approx([9.4568, 4.2676, 3.3291], abs=5e-5)


def test_gaussian_information_of_singular_parts():
    copy = torch.ones(2, 2)
    assert float(gaussian_mutual_information(copy, 1)) == math.inf
    three = torch.block_diag(copy, torch.eye(1))
    assert math.isnan(gaussian_mutual_information(three, 2))


@pytest.mark.parametrize(("d", "n", "expected"), [(4, 20, -0.4119), (64, 1000, -1.535)])
def test_gaussian_bias_of_the_closed_form(d, n, expected):
    assert gaussian_entropy_bias(d, n) == pytest.approx(expected, abs=5e-4)
    by_hand = (d * math.log(2 / (n - 1)) + sum(digamma((n - i) / 2) for i in range(1, d + 1))) / (2 * math.log(2))
    assert gaussian_entropy_bias(d, n) == pytest.approx(by_hand, rel=1e-12)


def test_gaussian_estimates_are_unbiased():
    """4,000 data sets of 12 samples of 5 variables: within 4 standard errors, the plug-ins far outside."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(5, 5))
    truth = torch.tensor(a @ a.T)
    samples = torch.tensor(rng.normal(size=(4000, 12, 5)) @ a.T)
    centred = samples - samples.mean(1, keepdim=True)
    covariance = centred.mT @ centred / 11
    for function in (gaussian_entropy, lambda s, n=None: gaussian_mutual_information(s, 2, n)):
        found, plugin = function(covariance, n=12), function(covariance)
        error = float(found.std()) / math.sqrt(4000)
        assert abs(float(found.mean() - function(truth))) < 4 * error
        assert abs(float(plugin.mean() - function(truth))) > 20 * error


TABLE_FUNCTIONS = (
    joint_entropy,
    conditional_entropy,
    mutual_information,
    pointwise_mutual_information,
    expected_mutual_information,
    lambda table: total_correlation(table, 2),
)


@pytest.mark.parametrize("function", [self_information, entropy, *TABLE_FUNCTIONS])
@pytest.mark.parametrize(
    ("value", "says"),
    [(-1.0, "holds -1, which is negative; pass counts or probabilities"), (math.nan, "NaN"), (math.inf, "infinity")],
)
def test_what_is_no_count_is_refused(function, value, says):
    with pytest.raises(MetricError, match=says):
        function(torch.tensor([[0.0, 1.0], [value, 1.0]]))


@pytest.mark.parametrize("divergence", [cross_entropy, kullback_leibler, jensen_shannon])
def test_pairs_that_do_not_fit_are_refused(divergence):
    p = torch.ones(2, 3)
    for q in (torch.ones(2, 4), torch.ones(2, 1), torch.ones(5, 3)):
        with pytest.raises(MetricError, match=re.escape(f"p has shape (2, 3) and q {tuple(q.shape)}; pass the same")):
            divergence(p, q)
    with pytest.raises(MetricError, match="q holds -1, which is negative"):
        divergence(p, -p)
    with pytest.raises(MetricError, match="p has shape"):
        divergence(torch.tensor(1.0), p)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: entropy([1, 2]), "counts is no tensor but of type list; pass torch.as_tensor(counts)"),
        (lambda: entropy(torch.tensor(3)), "counts has shape (); pass at least 1 dimension, none of them empty"),
        (lambda: entropy(torch.zeros(3, 0)), "counts has shape (3, 0); pass at least 1 dimension"),
        (lambda: mutual_information(torch.ones(3)), "table has shape (3,); pass at least 2 dimensions, none"),
        (lambda: total_correlation(torch.ones(2, 2), 3), "joint has shape (2, 2); pass at least 3 dimensions"),
        (lambda: total_correlation(torch.ones(2, 2), 0), "variables=0 counts nothing; pass a whole number"),
        (lambda: joint_entropy(torch.ones(2, 2), 1.5), "variables=1.5 counts nothing; pass a whole number"),
        (lambda: conditional_entropy(torch.ones(2, 2), "x"), "given='x' is unknown; pass 'columns' for H(row |"),
        (lambda: self_information(torch.tensor([2.0])), "p holds 2, which is no probability; divide counts by"),
        (lambda: jensen_shannon(torch.ones(2), torch.ones(2), (1, -1)), "weights=(1, -1) are not two numbers >= 0"),
        (lambda: jensen_shannon(torch.ones(2), torch.ones(2), (1, 1, 1)), "weights=(1, 1, 1) are not two numbers"),
        (lambda: expected_mutual_information(counts([[[1, 2]], [[1, 1]]])), "tables of different row totals"),
        (lambda: expected_mutual_information(torch.full((2, 2), 0.25)), "table holds values that are not whole"),
        (lambda: gaussian_entropy(torch.ones(2)), "covariance is no matrix; pass a tensor of shape (..., d, d)"),
        (lambda: gaussian_entropy(torch.ones(2, 3)), "covariance has shape (2, 3); pass (..., d, d)"),
        (lambda: gaussian_entropy(torch.full((2, 2), math.nan)), "covariance holds NaN or infinity"),
        (lambda: gaussian_entropy(torch.tensor([[1, 0.5], [0, 1]])), "covariance is not symmetric"),
        (lambda: gaussian_entropy(torch.tensor([[1.0, 2.0], [2.0, 1.0]])), "covariance has a negative eigenvalue"),
        (lambda: gaussian_entropy(-torch.eye(2)), "covariance has a negative eigenvalue"),
        (lambda: gaussian_entropy(torch.eye(3), n=3), "3 samples of 3 dimensions have a singular covariance"),
        (lambda: gaussian_entropy_bias(0, 3), "dimensions=0 counts nothing"),
        (lambda: gaussian_mutual_information(torch.eye(3), 3), "split=3 of 3 variables leaves X or Y empty; pass 1 to"),
        (lambda: gaussian_mutual_information(torch.eye(3), 0), "split=0 counts nothing"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(call, says):
    with pytest.raises(MetricError, match=re.escape(says)):
        call()


@pytest.mark.parametrize("estimator", ESTIMATORS[1:])
def test_corrections_refuse_probabilities(estimator):
    says = f"not whole, and estimator '{estimator}' reads the sample size from whole counts; pass counts, or"
    for call in (entropy, mutual_information, conditional_entropy, joint_entropy):
        with pytest.raises(MetricError, match=says):
            call(torch.tensor([[0.25, 0.75], [3, 2]]), estimator=estimator)
    # Whole numbers are counts in any dtype.
    assert float(entropy(torch.tensor([4.0, 2.0]), estimator)) == float(entropy(counts([4, 2]), estimator))


def test_counts_of_a_numpy_number_are_numbers():
    assert float(joint_entropy(torch.ones(2, 2), np.int64(2))) == 2
    assert gaussian_entropy_bias(np.int64(4), np.int64(20)) == gaussian_entropy_bias(4, 20)


def test_module_is_read_without_torch():
    code = "import sys; from cnnaudit import information; information.entropy; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_page_shows_what_happens_and_lists_every_function(capsys):
    from cnnaudit import information

    page = PAGE.read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    exec(compile(example, str(PAGE), "exec"), {})  # noqa: S102 - the page's own code
    assert capsys.readouterr().out == shown
    listed = re.findall(r"^\| `(\w+)\(", page, re.MULTILINE)
    assert sorted([*listed, "EntropyEstimator"]) == sorted(information.__all__)
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == ["estimator", *ESTIMATORS]
