import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds import NAN, array, covers, finite, left_out_means, many
from scipy import stats

from cnnaudit.intervals import Jackknife


def test_jackknife_of_a_mean_with_single_images_is_the_classical_standard_error():
    x = np.random.default_rng(0).normal(size=23)
    jackknife = Jackknife(array(x.mean()), left_out_means(x, [[i] for i in range(23)]), np.ones(23))
    assert jackknife.claim.error[0] == pytest.approx(stats.sem(x), rel=1e-12)
    assert jackknife.claim.dof == 22


def test_jackknife_of_a_mean_with_equal_groups_is_that_of_the_groups_means():
    x = np.random.default_rng(1).normal(size=24)
    groups = np.arange(24).reshape(6, 4)
    jackknife = Jackknife(array(x.mean()), left_out_means(x, groups), np.full(6, 4.0))
    assert jackknife.claim.error[0] == pytest.approx(stats.sem(x.reshape(6, 4).mean(1)), rel=1e-12)
    low, high = jackknife.interval(0.9)
    expected = stats.t.interval(0.9, 5, x.mean(), stats.sem(x.reshape(6, 4).mean(1)))
    assert (low[0], high[0]) == pytest.approx(expected)


def rust_and_rao(replicates, sizes):
    """The cluster jackknife JK1, one group at a time, about the centre that is the value itself for a mean."""
    n, g = sum(sizes), len(sizes)
    centre = sum((n - m) * r for m, r in zip(sizes, replicates, strict=True)) / (n * (g - 1))
    return (g - 1) / g * sum((r - centre) ** 2 for r in replicates)


@many
@given(data=st.lists(st.tuples(finite, finite, st.integers(1, 30)), min_size=2, max_size=9), value=finite)
def test_jackknife_of_unequal_groups_is_that_of_clusters(data, value):
    first, second, sizes = zip(*data, strict=True)
    claim = Jackknife(array(value, -value), np.array([first, second]).T, array(*sizes)).claim
    assert claim.error[0] ** 2 == pytest.approx(rust_and_rao(first, sizes), rel=1e-6, abs=1e-12)
    assert claim.error[1] ** 2 == pytest.approx(rust_and_rao(second, sizes), rel=1e-6, abs=1e-12)
    assert claim.dof == pytest.approx(sum(sizes) ** 2 / sum(m**2 for m in sizes) - 1)


def test_unequal_groups_of_a_mean_give_nearly_its_standard_error():
    generator = np.random.default_rng(2)
    sizes = [30] * 20 + [10]
    ratios = []
    for _ in range(300):
        x = generator.normal(size=sum(sizes))
        groups = np.split(np.arange(len(x)), np.cumsum(sizes)[:-1])
        jackknife = Jackknife(array(x.mean()), left_out_means(x, groups), array(*sizes))
        ratios.append(jackknife.claim.error[0] ** 2 * len(x))
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)


def test_one_group_has_no_error_to_know():
    jackknife = Jackknife(array(1.0, 2.0), np.array([]), array(16))
    low, high = jackknife.interval(0.95)
    assert low.tolist() == [-math.inf] * 2
    assert high.tolist() == [math.inf] * 2
    assert jackknife.p_at_most(0).tolist() == [1, 1]
    assert jackknife.mean().value.tolist() == [1.5]
    assert jackknife.mean().p_at_least(9).tolist() == [1]


def test_the_mean_of_jackknifed_units_is_jackknifed_itself():
    generator = np.random.default_rng(3)
    x = generator.normal(size=(40, 3))
    groups = np.arange(40).reshape(8, 5)
    rest = np.array([np.delete(x, group, 0).mean(0) for group in groups])
    mean = Jackknife(x.mean(0), rest, np.full(8, 5.0)).mean()
    together = x.mean(1)
    assert mean.value[0] == pytest.approx(together.mean())
    assert mean.claim.error[0] == pytest.approx(stats.sem(together.reshape(8, 5).mean(1)))


def test_coverage_of_jackknifed_ratios():
    """A ratio of means over 320 images in 20 groups, 400 times."""
    generator = np.random.default_rng(5)
    a = generator.exponential(2.0, size=(320, 400))
    b = 0.5 * a + generator.exponential(1.0, size=(320, 400))
    total_a, total_b = a.sum(0), b.sum(0)
    rest = np.array([(total_a - a[g::20].sum(0)) / (total_b - b[g::20].sum(0)) for g in range(20)])
    interval = Jackknife(total_a / total_b, rest, np.full(20, 16.0)).interval(0.95)
    assert 0.92 <= covers(interval, 1.0) <= 0.98


def test_what_is_not_finite_without_a_group_has_no_error():
    x = array(1.0, 1.0, 1.0, 1.0)
    rest = np.array([[1.0, NAN, math.inf, 1.0], [1.1, 1.0, 1.0, 1.0], [0.9, 1.0, 1.0, 1.0]])
    jackknife = Jackknife(x, rest, array(5, 5, 1))
    assert np.isnan(jackknife.claim.error).tolist() == [False, True, True, False]
    for p in (jackknife.p_at_most(-9), jackknife.p_at_least(9)):
        assert (p < 0.01).tolist() == [True, False, False, True]
        assert p[1:3].tolist() == [1, 1]
    assert jackknife.claim.error[3] == 0  # every group agrees


def test_limits_cut_the_interval_and_make_what_is_beyond_impossible():
    jackknife = Jackknife(array(0.9), np.array([[0.8], [0.95]]), array(5, 5), limits=(0, 1))
    low, high = jackknife.interval(0.95)
    assert (low[0], high[0]) == (0, 1)
    assert jackknife.p_above(1).tolist() == jackknife.p_below(0).tolist() == [0]
    assert jackknife.mean().limits == (0, 1)


@pytest.mark.parametrize("groups", [13, 32, 64])
def test_coverage_with_few_groups_of_unequal_size(groups):
    generator = np.random.default_rng(groups)
    of = np.sort(generator.choice(groups, 400, p=generator.dirichlet(np.full(groups, 4.0))))
    a = generator.exponential(2.0, size=(400, 1500))
    b = 0.5 * a + generator.exponential(1.0, size=(400, 1500))
    ids, sizes = np.unique(of, return_counts=True)
    rest = np.array([a[of != g].sum(0) / b[of != g].sum(0) for g in ids])
    interval = Jackknife(a.sum(0) / b.sum(0), rest, sizes.astype(float)).interval(0.95)
    assert 0.93 <= covers(interval, 1.0) <= 0.97


@pytest.mark.parametrize("spread", [0.5, 1.0])
@pytest.mark.parametrize("sources", [13, 64])
def test_coverage_with_sources_of_unequal_size(sources, spread):
    """Images of a source are equal; as groups of independent images they would cover .81 where sizes spread by 1."""
    generator = np.random.default_rng(sources)
    covered = []
    for _ in range(1500):
        sizes = np.ceil(10 * np.exp(spread * generator.normal(size=sources)))
        total = sizes * generator.normal(size=sources)
        value = total.sum() / sizes.sum()
        rest = (total.sum() - total) / (sizes.sum() - sizes)
        covered.append(covers(Jackknife(array(value), rest[:, None], sizes).interval(0.95), 0))
    assert 0.93 <= np.mean(covered) <= 0.97
