import numpy as np
import pytest
import torch
from scipy import stats

from cnnaudit.crossfit import Selected, choose, eligible, pick
from cnnaudit.intervals import BoundedMean, Normal


def selected(crossfit, plugin=None, *, error=1.0, choices=10, chance=0.0):
    value = np.atleast_1d(np.asarray(crossfit, dtype=float))
    low = Normal(value, np.full_like(value, error))
    high = low if plugin is None else Normal(np.atleast_1d(np.asarray(plugin, dtype=float)), low.error)
    return Selected(value, low, high, choices, chance)


def test_a_class_is_chosen_on_the_other_half():
    score = torch.tensor([[[1.0, 3.0, 2.0], [5.0, 0.0, 0.0]], [[9.0, 0.0, 4.0], [1.0, 2.0, 3.0]]])
    assert choose(score).tolist() == [[0, 2], [1, 0]]
    assert pick(score, choose(score)).tolist() == [[1, 0], [0, 1]]


def test_of_one_part_the_class_is_chosen_on_itself():
    score = torch.tensor([[[1.0, 3.0, 2.0], [5.0, 0.0, 0.0]]])
    assert choose(score).tolist() == [[1, 0]]
    assert pick(score, choose(score)).tolist() == [[3, 5]]


def test_what_belongs_to_a_class_may_have_any_shape():
    x = torch.arange(2 * 2 * 3 * 4).reshape(2, 2, 3, 4)
    found = pick(x, torch.tensor([[0, 2], [1, 1]]))
    assert found.shape == (2, 2, 4)
    assert found[0, 1].tolist() == x[0, 1, 2].tolist()
    assert found[1, 0].tolist() == x[1, 0, 1].tolist()


def test_classes_need_two_images_in_every_half():
    assert eligible(torch.tensor([[2, 1, 9, 0, 3], [2, 9, 1, 9, 4]])).tolist() == [0, 4]
    assert eligible(torch.tensor([[1, 2, 3]])).tolist() == [1, 2]
    assert eligible(torch.tensor([[9, 0], [0, 9]])).tolist() == []


def test_ends_stand_on_the_estimate_whose_bias_they_can_bear():
    found = selected([10.0, 5.0], [10.0, 7.0])
    low, high = found.interval(0.95)
    z = stats.norm.ppf(0.975)
    assert low == pytest.approx([10 - z, 5 - z])
    assert high == pytest.approx([10 + z, 7 + z])
    assert found.p_at_most(4) == pytest.approx(stats.norm.sf([6, 1]))
    assert found.p_at_least(8) == pytest.approx(stats.norm.cdf([2, -1]))


def test_chance_is_refuted_with_bonferroni_first():
    found = selected([2.5])
    p = stats.norm.sf(2.5)
    assert found.p_at_most(0) == pytest.approx([10 * p])
    assert found.p_below(0) == pytest.approx([10 * p])
    # "At most .1" holds chance within it, so it is no easier to refute; "at most 2.4" is harder anyway.
    assert found.p_at_most(0.1) == pytest.approx([10 * p])
    assert found.p_at_most(2.4) == pytest.approx(stats.norm.sf([0.1]))
    assert found.p_at_most(-0.1) == pytest.approx(stats.norm.sf([2.6]))
    assert selected([0.1]).p_at_most(0).tolist() == [1]


@pytest.mark.parametrize("value", [-1.0, 0.5, 2.1, 2.7, 2.9, 6.0])
@pytest.mark.parametrize("choices", [2, 10, 1000])
def test_intervals_hold_what_the_test_does_not_refute(value, choices):
    found = selected([value], choices=choices)
    low, _ = found.interval(0.95)
    for bound in (low[0] - 1e-6, low[0] + 1e-6):
        assert (found.p_at_most(bound)[0] <= 0.025) == (bound < low[0])
    assert low[0] <= value


def test_an_interval_holds_its_value_whatever_the_halves_are_like():
    low, high = selected([3.0], [0.0]).interval(0.1)
    assert low[0] <= 3 <= high[0]


def test_impossible_bounds_stay_impossible():
    claim = BoundedMean(np.array([0.6]), np.array([0.1]), 50)
    found = Selected(claim.value, claim, claim, 10, 0.5)
    assert found.p_below(0) == found.p_above(1) == [0]
    assert found.p_below(0.5) == found.p_at_most(0.5)


def test_nothing_is_decided_where_nothing_is_known():
    found = selected([np.nan, 1.0])
    assert [p[0] for p in (found.p_at_most(0), found.p_at_least(0), found.p_below(0), found.p_above(0))] == [1] * 4
    assert np.isnan(found.interval(0.95)).tolist() == [[True, False]] * 2


def test_the_mean_of_units():
    mean = selected([4.0, 6.0], [5.0, 6.0]).mean()
    z = stats.norm.ppf(0.975)
    assert mean.value.tolist() == [5]
    assert [end[0] for end in mean.interval(0.95)] == pytest.approx([5 - z, 5.5 + z])


def test_errors_by_source_replace_those_by_image():
    whole, parts = selected([4.0], [5.0]), [selected([3.0], [4.5]), selected([5.0], [5.5])]
    sizes = np.array([1.0, 1.0])
    found = whole.regrouped(parts, sizes, 2)
    lower = whole.crossfit.regrouped([part.crossfit for part in parts], sizes, 2)
    upper = whole.plugin.regrouped([part.plugin for part in parts], sizes, 2)
    assert lower.error[0] == 2 * upper.error[0] > 0
    assert found.interval(0.95)[1] == max(lower.interval(0.95)[1], upper.interval(0.95)[1])
    assert found.p_at_most(3) == pytest.approx(np.maximum(lower.p_at_most(3), 10 * lower.p_at_most(0)).clip(max=1))


def test_chance_is_refuted_as_seldom_as_it_should_be():
    """Two halves of noise in which one class may be best on both: the mean of halves alone errs twice as often."""
    generator = torch.Generator().manual_seed(0)
    halves = torch.randn(2, 20_000, 2, dtype=torch.float64, generator=generator)
    halves = halves - halves.mean(2, keepdim=True)
    claim = Normal(pick(halves, choose(halves)).mean(0).numpy(), np.full(20_000, 0.5))
    errs = [(found.p_at_most(0) <= 0.05).mean() for found in (claim, Selected(claim.value, claim, claim, 2, 0.0))]
    assert errs[0] == pytest.approx(0.095, abs=0.01)
    assert errs[1] == pytest.approx(0.05, abs=0.01)


def test_the_upper_end_bears_a_crossfitted_value_above_the_plugin_one():
    """Of 2 and 48 images of the best class the small half counts as much as the large one."""
    found, z = selected([3.0, 1.0], [2.0, 2.0]), stats.norm.ppf(0.975)
    assert found.interval(0.95)[1] == pytest.approx([3 + z, 2 + z])
    assert found.p_at_least(2.5) == pytest.approx(stats.norm.cdf([0.5, -0.5]))
    assert found.p_above(2.5) == pytest.approx(stats.norm.cdf([0.5, -0.5]))


def test_chance_may_differ_from_unit_to_unit():
    """Two kernels of value 3: chance is 0 for one and 2 for the other, and their excess is known by itself."""
    claim = Normal(np.array([3.0, 3.0]), np.ones(2))
    excess = Normal(np.array([3.0, 1.0]), np.full(2, 0.5))
    found = Selected(claim.value, claim, claim, 10, np.array([0.0, 2.0]), excess)
    z, refuted = stats.norm.ppf(0.975), stats.norm.sf([6, 2])
    assert found.interval(0.95)[0] == pytest.approx([3 - z, min(2, 3 - z)])
    assert found.p_at_most(1) == pytest.approx([stats.norm.sf(2), stats.norm.sf(2)])  # outside chance for the second
    assert found.p_at_most(2) == pytest.approx([stats.norm.sf(1), max(10 * refuted[1], stats.norm.sf(1))])
    mean = found.mean()
    assert (mean.chance, mean.excess.value) == (pytest.approx([1]), pytest.approx([2]))
    parts = [
        Selected(claim.value, claim, claim, 10, found.chance, Normal(excess.value + d, excess.error)) for d in (-1, 1)
    ]
    by_source = found.regrouped(parts, np.array([1.0, 1.0]), 2)
    assert by_source.excess.error == pytest.approx(excess.regrouped([p.excess for p in parts], np.ones(2), 2).error)
