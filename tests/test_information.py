import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import digamma
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import expected_mutual_information as sklearn_expected

from cnnaudit.errors import MetricError
from cnnaudit.information import entropy, expected_mutual_information, mutual_information

ESTIMATORS = ("plugin", "miller_madow", "chao_shen", "grassberger")
histograms = st.lists(st.integers(0, 30), min_size=1, max_size=12)
tables = st.integers(1, 5).flatmap(
    lambda columns: st.lists(st.lists(st.integers(0, 9), min_size=columns, max_size=columns), min_size=1, max_size=5)
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
    assert all(math.isfinite(v) for v in h.values())


@pytest.mark.parametrize(("estimator", "worst"), [("miller_madow", 0.12), ("chao_shen", 0.08), ("grassberger", 0.08)])
def test_corrections_take_most_of_the_bias(estimator, worst):
    """64 equally likely cells, 60 draws: the plug-in misses more than half a bit of six."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(0, 64, (2000, 60), generator=generator)
    drawn = torch.zeros(2000, 64, dtype=torch.int64).scatter_add(1, draws, torch.ones_like(draws))
    plugin = 6 - float(entropy(drawn).mean())
    assert plugin > 0.55
    assert abs(6 - float(entropy(drawn, estimator).mean())) < plugin * (worst / 0.12) * 0.5


def test_an_unknown_estimator_is_refused_with_the_known_ones():
    with pytest.raises(MetricError, match="'nsb' is unknown; there are plugin, miller_madow, chao_shen, grassberger"):
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
