"""Bounds from known-good networks: by hand, by naive references, and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from cnnaudit.gate.calibration import BORROWED, GROUPS, Place, Quantity, calibrate


def one(side, scale, *places, false_alarm=0.05, **others):
    (proposal, *_), rate = calibrate([Quantity(side, scale, places)], false_alarm=false_alarm, **others)
    return proposal, rate


def place(*limits, site="a", values=None, units=1, null=None):
    return Place(site, tuple(values or limits), tuple(limits), units, null)


class TestOneSite:
    def test_the_bound_is_the_prediction_limit_of_one_more_network(self):
        proposal, rate = one("min", "real", place(1.0, 2.0, 3.0))
        assert rate == 0.025  # half of it for max_regression
        limit = 2.0 - stats.t.ppf(0.975, 2) * 1.0 * math.sqrt(1 + 1 / 3)
        assert proposal.dof == 2
        assert limit - 0.01 < proposal.bound <= limit

    def test_a_max_is_its_mirror_image(self):
        low, _ = one("min", "real", place(-1.0, -2.0, -3.0))
        high, _ = one("max", "real", place(1.0, 2.0, 3.0))
        assert high.bound == -low.bound

    def test_fractions_are_predicted_on_logits(self):
        p = np.array([0.4, 0.5, 0.6])
        logits = np.log(p / (1 - p))
        end = logits.mean() - stats.t.ppf(0.975, 2) * logits.std(ddof=1) * math.sqrt(4 / 3)
        proposal, _ = one("min", "fraction", place(*p))
        assert proposal.bound == pytest.approx(1 / (1 + math.exp(-end)), rel=0.01)

    def test_positive_quantities_are_predicted_on_logs(self):
        values = np.array([1.0, 1.1, 1.21])
        end = np.log(1.1) - stats.t.ppf(0.975, 2) * math.log(1.1) * math.sqrt(4 / 3)
        proposal, _ = one("min", "positive", place(*values))
        assert proposal.bound == pytest.approx(math.exp(end), rel=0.01)
        apart = stats.t.ppf(0.975, 2) * math.log(1.1) * math.sqrt(2)
        assert proposal.relative == pytest.approx(1 - math.exp(-apart), rel=0.01)
        assert proposal.absolute is None

    def test_what_reaches_the_end_of_its_range_is_taken_as_it_is(self):
        proposal, _ = one("max", "fraction", place(0.0, 0.1, 0.2))
        assert proposal.bound == pytest.approx(0.1 + stats.t.ppf(0.975, 2) * 0.1 * math.sqrt(4 / 3), rel=0.01)

    def test_the_spread_is_never_below_the_images_own_error(self):
        proposal, _ = one("min", "real", place(1.0, 1.0, 1.0, values=(2.0, 2.0, 2.0)))
        error = 1.0 / stats.norm.ppf(0.95)
        assert proposal.bound == pytest.approx(1 - stats.t.ppf(0.975, 2) * error * math.sqrt(4 / 3), rel=0.01)

    def test_two_good_ones_may_differ_by_root_two_of_the_spread(self):
        proposal, _ = one("min", "real", place(1.0, 2.0, 3.0))
        assert proposal.absolute == pytest.approx(stats.t.ppf(0.975, 2) * math.sqrt(2), rel=0.01)

    def test_what_would_allow_a_fall_to_nothing_is_left_out(self):
        assert one("min", "fraction", place(0.2, 0.5, 0.8))[0].absolute is None


class TestSeveralSites:
    def test_other_sites_lend_degrees_of_freedom(self):
        a, b = place(1.0, 2.0, 3.0), place(11.0, 13.0, 15.0, site="b")
        proposal, rate = one("min", "real", a, b)
        assert rate == 0.0125
        assert proposal.dof == 4  # two of its own, two of the other site
        spread = math.sqrt((2 * 1 + 2 * 4) / 4)
        end = 2 - stats.t.ppf(1 - 0.0125, 4) * spread * math.sqrt(4 / 3)
        assert proposal.worst.site == "a"
        assert end - 0.1 < proposal.bound <= end

    def test_but_not_more_than_a_few(self):
        sites = [place(1.0 + i, 2.0 + i, 3.0 + i, site=str(i)) for i in range(9)]
        assert one("min", "real", *sites)[0].dof == 2 + BORROWED

    def test_the_rate_is_split_over_everything(self):
        quantities = [Quantity("min", "real", (place(1.0, 2.0), place(1.0, 2.0, site="b")))] * 3
        assert calibrate(quantities, false_alarm=0.06)[1] == pytest.approx(0.06 / 2 / 6)

    def test_a_site_without_a_value_costs_its_rule_the_bound_and_no_other(self):
        broken = Quantity("min", "real", (place(1.0, math.nan, 3.0, site="x"),))
        sound = Quantity("min", "real", (place(1.0, 2.0, 3.0),))
        (first, second), rate = calibrate([broken, sound], false_alarm=0.05)
        assert first.bound is None
        assert "x" in first.reason
        assert second.bound is not None
        assert rate == 0.025


class TestCounts:
    @pytest.mark.parametrize("dead", [0, 1, 5])
    def test_the_bound_is_the_beta_binomial_quantile(self, dead):
        seen = (dead / 16, 0.0, 0.0)
        proposal, rate = one("max", "count", place(*seen, units=16))
        share = dead / 48
        expected = np.array([dead, 0, 0]) - 16 * share
        design = max(1.0, float((expected**2).sum() / (16 * share * (1 - share)) / 2)) if dead else 1.0
        n = round(16 / design)
        predicted = stats.betabinom(n, dead / design + 1, (48 - dead) / design)
        fewest = next(k for k in range(n + 1) if predicted.sf(k) <= rate)
        assert proposal.bound == pytest.approx(max(fewest / n, dead / 16), rel=0.01)

    def test_no_dead_kernel_in_three_networks_does_not_forbid_the_first_one(self):
        proposal, _ = one("max", "count", place(0.0, 0.0, 0.0, units=32))
        assert 0 < proposal.bound < 0.2
        assert proposal.absolute == proposal.bound


class TestWhatABoundSays:
    def test_the_twin_that_is_worse_must_be_told(self):
        proposal, _ = one("min", "positive", place(1.0, 1.1, 1.21, null=0.9))
        assert not proposal.judges
        assert "learned nothing" in proposal.reason
        proposal, _ = one("min", "positive", place(2.0, 2.01, 2.02, null=0.5))
        assert proposal.judges
        assert proposal.told == proposal.worse == ("a",)

    def test_the_twin_that_is_no_worse_says_nothing_against_a_bound(self):
        proposal, _ = one("min", "fraction", place(0.5, 0.51, 0.52, null=0.5))
        assert proposal.judges
        assert proposal.worse == proposal.told == ()

    def test_a_bound_at_the_end_of_the_range_does_not_judge(self):
        proposal, _ = one("min", "fraction", place(0.2, 0.5, 0.8))
        assert not proposal.judges
        assert "end of the range" in proposal.reason

    def test_a_good_network_at_the_end_of_the_range_leaves_no_room_for_a_bound(self):
        proposal, _ = one("min", "positive", place(0.0, 0.1, 0.2))
        assert proposal.bound == 0
        assert not proposal.judges

    def test_the_margin_is_from_the_worst_good_limit(self):
        proposal, _ = one("min", "fraction", place(0.5, 0.51, 0.52))
        assert proposal.margin == pytest.approx(0.5 - proposal.bound)

    def test_bounds_are_rounded_away_from_the_good_networks(self):
        low, _ = one("min", "real", place(1.0, 2.0, 3.0), false_alarm=0.04)
        high, _ = one("max", "real", place(1.0, 2.0, 3.0), false_alarm=0.04)
        reach = stats.t.ppf(0.98, 2) * math.sqrt(4 / 3)
        assert low.bound <= 2 - reach < low.bound + 0.011
        assert high.bound - 0.011 < 2 + reach <= high.bound


class TestOneNetwork:
    def test_the_bound_speaks_of_other_images(self):
        proposal, rate = one("min", "real", place(1.0, values=(2.0,)))
        assert rate == 0.05  # no part of it for regressions, of which one network tells nothing
        error = 1.0 / stats.norm.ppf(0.95)
        assert proposal.bound == pytest.approx(1 - stats.t.ppf(0.95, GROUPS - 1) * error * math.sqrt(2), rel=0.01)
        assert proposal.absolute is proposal.relative is None

    def test_what_images_do_not_change_cannot_be_told(self):
        proposal, _ = one("min", "real", place(1.0))
        assert proposal.bound is None


@pytest.mark.parametrize("false_alarm", [0.0, 1.0, 5.0])
def test_a_rate_is_a_probability(false_alarm):
    with pytest.raises(ValueError, match="between 0 and 1"):
        one("min", "real", place(1.0, 2.0), false_alarm=false_alarm)


def test_every_site_has_as_many_networks():
    with pytest.raises(ValueError, match="same number"):
        one("min", "real", place(1.0, 2.0), place(1.0, site="b"))


@pytest.mark.parametrize("together", [0.0, 0.7])
@pytest.mark.parametrize("networks", [2, 3, 6])
def test_another_good_network_rarely_gives_an_alarm(networks, together):
    """Sites whose spreads differ fourfold, which move together or not; both halves of the rate at once."""
    generator = np.random.default_rng(networks)
    sites, rules, trials, rate = 5, 4, 400, 0.2
    found = 0
    for _ in range(trials):
        spread = 0.1 * 2.0 ** generator.uniform(-1, 1, (rules, sites, 1))
        common = generator.normal(size=(1, 1, networks + 1))
        own = generator.normal(size=(rules, sites, networks + 1))
        x = 5 + spread * (math.sqrt(together) * common + math.sqrt(1 - together) * own)
        quantities = [
            Quantity("min", "real", tuple(place(*x[r, s, :networks], site=str(s)) for s in range(sites)))
            for r in range(rules)
        ]
        proposals, _ = calibrate(quantities, false_alarm=rate)
        new, accepted = x[:, :, networks], x[:, :, 0]
        found += any(
            new[r].min() < proposal.bound
            or (proposal.absolute is not None and (accepted[r] - new[r]).max() > proposal.absolute)
            for r, proposal in enumerate(proposals)
        )
    # 400 trials at 20 % have a standard error of 2 %.
    assert found / trials <= rate + 0.04
