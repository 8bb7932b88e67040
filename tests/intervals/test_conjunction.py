import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds import NAN, array, levels, many

from cnnaudit.intervals import Binomial, BoundedMean, Conjunction, Indicator, Normal, RareEvent

ALL_OF = {
    "both": RareEvent(Binomial(array(0), 400), 0.01),
    "neither": RareEvent(Binomial(array(200), 400), 0.01),
    "open": RareEvent(Binomial(array(4), 400), 0.01),
}

conjunctions = st.integers(1, 4).flatmap(
    lambda units: st.lists(
        st.builds(
            lambda k, n, rate: RareEvent(Binomial(array(*k), n), rate),
            st.lists(st.integers(0, 50), min_size=units, max_size=units),
            st.integers(50, 400),
            st.sampled_from([0.01, 0.1, 0.5]),
        ),
        min_size=1,
        max_size=3,
    ).map(lambda events: Conjunction(tuple(events)))
)


@pytest.mark.parametrize(
    ("names", "value", "ends"),
    [
        (("both", "both"), 1, (1, 1)),
        (("both", "open"), 0, (0, 1)),
        (("both", "neither"), 0, (0, 0)),
        (("open", "neither"), 0, (0, 0)),
    ],
)
def test_what_two_facts_come_to(names, value, ends):
    events = [ALL_OF[name] for name in names]
    found = Conjunction(tuple(events))
    assert found.value == [value]
    assert tuple(end[0] for end in found.interval(0.95)) == ends
    assert found.p_at_most(0) == max(event.p_at_most(0) for event in events)
    assert found.p_at_least(1) == min(1, 2 * min(event.p_at_least(1) for event in events))
    assert [found.p_at_most(1)[0], found.p_at_least(0)[0]] == [1, 1]
    assert [found.p_below(0)[0], found.p_above(1)[0]] == [0, 0]
    assert isinstance(found, Indicator)


def test_the_interval_excludes_a_bound_where_the_one_sided_test_does():
    @many
    @given(found=conjunctions, bound=st.sampled_from([0.0, 0.25, 0.5, 1.0]), alpha=levels)
    def law(found, bound, alpha):
        low, high = found.interval(1 - 2 * alpha)
        assert ((low > bound) == (found.p_at_most(bound) <= alpha)).all()
        assert ((high < bound) == (found.p_at_least(bound) <= alpha)).all()
        assert (low <= found.value).all()
        assert (found.value <= high).all()

    law()


def test_of_one_fact_it_is_that_fact():
    event = ALL_OF["open"]
    alone = Conjunction((event,))
    for bound in (0.0, 0.5, 1.0):
        assert alone.p_at_most(bound) == event.p_at_most(bound)
        assert alone.p_at_least(bound) == event.p_at_least(bound)


def test_the_mean_is_the_share_of_units_of_which_all_is_true():
    one = RareEvent(Binomial(array(0, 0, 0, 1000), 2000), 0.01)
    other = RareEvent(Binomial(array(0, 1000, 20, 1000), 2000), 0.01)
    share = Conjunction((one, other)).mean()
    assert share.value == [0.25]
    low, high = share.interval(0.95)
    assert (low[0], high[0]) == (0.25, 0.5)  # one surely is, two surely are not
    assert share.p_at_least(0.75)[0] < 0.001
    assert share.p_at_most(0.25)[0] > 0.5


def test_on_the_images_that_were_read_all_must_be_true():
    never, once = (RareEvent(Binomial(array(k), 400), 0.01) for k in (0, 1))
    assert Conjunction((never, never)).on_dataset().value == [1]
    assert Conjunction((never, once)).on_dataset().value == [0]


def test_an_undefined_fact_may_be_either():
    undefined = RareEvent(BoundedMean(array(NAN), array(NAN), 400), 0.01)
    assert tuple(end[0] for end in undefined.interval(0.95)) == (0, 1)
    found = Conjunction((ALL_OF["both"], undefined))
    assert tuple(end[0] for end in found.interval(0.95)) == (0, 1)
    assert found.p_at_most(0) == found.p_at_least(1) == [1]
    # But another one may settle it.
    assert Conjunction((ALL_OF["neither"], undefined)).p_at_least(1)[0] < 0.001


def test_regrouping_regroups_every_fact():
    def fact(value, rate):
        return RareEvent(BoundedMean(array(value), array(0.001), 400), rate)

    sizes = array(100, 100, 200)
    parts = [Conjunction((fact(a, 0.3), fact(b, 0.4))) for a, b in ((0.1, 0.3), (0.3, 0.3), (0.2, 0.3))]
    found = Conjunction((fact(0.2, 0.3), fact(0.3, 0.4))).regrouped(parts, sizes, 300)
    alone = fact(0.2, 0.3).proportion.regrouped([part.events[0].proportion for part in parts], sizes, 300)
    assert found.events[0].proportion.error == alone.error
    assert alone.error[0] > 0.05
    assert found.events[1].proportion.error == [0]
    assert [event.rate for event in found.events] == [0.3, 0.4]


def test_the_fact_that_leaves_units_open_decides_how_many_images_are_needed():
    clear = RareEvent(Binomial(array(0, 0), 4000), 0.01)
    doubtful = RareEvent(Binomial(array(6, 7), 400), 0.02)
    for events in ((clear, doubtful), (doubtful, clear)):
        quantity, bound = Conjunction(events).deciding(0)
        assert quantity is doubtful.proportion
        assert bound == 0.02


@pytest.mark.parametrize("second", [0.0, 0.01])
def test_level_where_a_fact_is_on_its_limit(second):
    """ "Both are rare" and "not both are" are each claimed wrongly in at most 5 %."""
    generator = np.random.default_rng(7)
    drawn = [generator.binomial(1000, p, size=4000).astype(float) for p in (0.01, second)]
    found = Conjunction(tuple(RareEvent(Binomial(x, 1000), 0.01) for x in drawn))
    assert (found.p_at_most(0) <= 0.05).mean() <= 0.05
    assert (found.p_at_least(1) <= 0.05).mean() <= 0.05


def test_an_indicator_that_knows_no_sources_says_so():
    class Positive(Indicator):
        value = array(1)

        def interval(self, confidence):
            return self.value * confidence, self.value

        def p_no(self):
            return Normal(array(1), array(1)).p_at_most(0)

        def p_yes(self):
            return Normal(array(1), array(1)).p_at_least(0)

    assert Positive().p_at_most(0.5)[0] == pytest.approx(0.5 * math.erfc(1 / math.sqrt(2)))
    with pytest.raises(NotImplementedError, match="Positive cannot be told by sources"):
        Positive().regrouped([], array(1), 1)
