import numpy as np
import pytest
from kinds import array
from scipy import stats

from cnnaudit.intervals import Binomial, RareEvent


def test_a_rare_event_asks_about_zero_and_one():
    never, often = Binomial(array(0), 300), Binomial(array(60), 300)
    rate = 0.01
    # "at most 0" says that the event is not rare, "at least 1" that it is.
    p_not_rare, p_rare = 0.99**300, stats.binom.sf(59, 300, rate)
    for binomial, p0, p1 in ((never, p_not_rare, 1.0), (often, stats.binom.cdf(60, 300, rate), p_rare)):
        event = RareEvent(binomial, rate)
        assert event.p_at_most(0)[0] == pytest.approx(p0)
        assert event.p_at_most(0.5)[0] == pytest.approx(p0)
        assert event.p_below(1)[0] == pytest.approx(p0)
        assert event.p_at_least(1)[0] == pytest.approx(p1)
        assert event.p_at_least(0.5)[0] == pytest.approx(p1)
        assert event.p_above(0)[0] == pytest.approx(p1)
        # The truth is 0 or 1: these hold or fail whatever was measured.
        assert [event.p_at_most(1)[0], event.p_at_least(0)[0]] == [1, 1]
        assert [event.p_below(0)[0], event.p_above(1)[0], event.p_at_most(-0.1)[0], event.p_at_least(1.1)[0]] == [0] * 4


def test_a_rare_event_has_the_values_zero_and_one():
    event = RareEvent(Binomial(array(0, 1, 40, 200), 400), 0.01)
    assert event.value.tolist() == [1, 1, 0, 0]
    low, high = event.interval(0.95)
    assert low.tolist() == [1, 0, 0, 0]
    assert high.tolist() == [1, 1, 0, 0]
    # About the images that were read: only the first never happened.
    assert event.on_dataset().value.tolist() == [1, 0, 0, 0]
    assert event.on_dataset().p_at_least(1).tolist() == [1, 0, 0, 0]


def test_the_mean_of_rare_events_is_the_share_of_rare_units():
    n = 2000
    share = RareEvent(Binomial(array(0, 0, 1000, 20), n), 0.01).mean()
    assert share.value.tolist() == [0.5]
    low, high = share.interval(0.95)
    assert (low[0], high[0]) == (0.5, 0.75)  # two surely are, one surely is not, one may be
    # "at most 1 of 4": two that surely are contradict it; "at most 2 of 4" nothing does.
    assert share.p_at_most(0.25)[0] < 0.001
    assert share.p_at_most(0.5)[0] > 0.5
    # "at least 4 of 4" is contradicted by the one that surely is not; "at least 3" is not.
    assert share.p_at_least(1.0)[0] < 0.001
    assert share.p_at_least(0.75)[0] > 0.5
    assert share.mean() is share


def test_the_share_of_rare_units_keeps_a_bound_that_it_lies_on():
    n = 2000
    none = RareEvent(Binomial(array(1000, 1000, 1000, 1000), n), 0.01).mean()
    every = RareEvent(Binomial(array(0, 0, 0, 0), n), 0.01).mean()
    half = RareEvent(Binomial(array(0, 0, 1000, 1000), n), 0.01).mean()
    assert none.p_above(0)[0] < 0.001  # as in `activity.dead`, max: 0, reduce: mean
    assert none.p_at_least(0)[0] == 1
    assert every.p_below(1)[0] < 0.001
    assert every.p_at_most(1)[0] == 1
    assert half.p_below(0.5)[0] < 0.001
    assert half.p_above(0.5)[0] < 0.001
    assert half.p_at_most(0.5)[0] > 0.5
    assert half.p_at_least(0.5)[0] > 0.5
    assert half.p_below(0.6)[0] == 1
    assert half.p_above(0.4)[0] == 1


def test_level_of_the_rare_events_test():
    """At a rate of exactly 1 % "it is rare" and "it is not" are each claimed wrongly in at most 5 %."""
    drawn = np.random.default_rng(6).binomial(1000, 0.01, size=4000).astype(float)
    event = RareEvent(Binomial(drawn, 1000), 0.01)
    assert (event.p_at_most(0) <= 0.05).mean() <= 0.05
    assert (event.p_at_least(1) <= 0.05).mean() <= 0.05


def test_an_event_that_is_known_between_two_rates():
    """Of 600 sources 30 surely have it and 90 may: below .2 for sure, neither below nor above .1."""
    few, many = Binomial(array(30), 600), Binomial(array(90), 600)
    for rate, ends in ((0.2, (1, 1)), (0.1, (0, 1)), (0.03, (0, 0))):
        event = RareEvent(many, rate, few)
        assert tuple(end[0] for end in event.interval(0.9)) == ends
        assert event.p_at_most(0) == many.p_at_least(rate)
        assert event.p_at_least(1) == few.p_at_most(rate)
        assert event.value.tolist() == [float(rate == 0.2)]
    assert event.regrouped([event, event], array(300, 300), 600) == event
    assert event.mean().regrouped([], array(300, 300), 600).interval(0.9) == event.mean().interval(0.9)
