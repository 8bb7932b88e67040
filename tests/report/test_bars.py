"""Marks of interval bars, worked out by hand: the scale lies between 14 and 226 of 240."""

import math

import pytest
from made import verdict

from cnnaudit.report.bars import WIDTH, Bar, Scale, bar, scale


def at(value, low, high, **facts):
    return verdict("a", facts.pop("outcome", "pass"), value=value, low=low, high=high, **facts)


def test_a_scale_holds_all_numbers_of_a_rule():
    found = scale([at(0.4, 0.3, 0.5, bound=0.9, side="max"), at(0.6, 0.55, 0.65, bound=0.9, side="max", null=0.1)])
    assert found == Scale(0.1, 0.9)


@pytest.mark.parametrize(("value", "place"), [(0.0, 14), (2.0, 226), (0.5, 67), (-0.1, 0), (2.1, 240)])
def test_places_on_a_scale(value, place):
    assert Scale(0.0, 2.0).at(value) == place


def test_one_number_alone_lies_in_the_middle():
    assert scale([at(0.0, 0.0, 0.0, bound=0.0, side="max")]) == Scale(0.0, 0.0)
    assert Scale(0.0, 0.0).at(0.0) == WIDTH / 2


def test_without_a_number_there_is_no_scale():
    assert scale([verdict("a", "error"), at(math.nan, math.nan, math.nan, outcome="undecided")]) is None


def test_all_marks_of_a_bar():
    judged = at(0.5, 0.25, 1.0, bound=0.75, side="max", null=0.0, baseline=2.0)
    assert bar(judged, Scale(0.0, 2.0)) == Bar(
        low=40.5,
        high=120.0,
        open_low=False,
        open_high=False,
        value=67.0,
        bound=93.5,
        twin=14.0,
        baseline=226.0,
        allowed=(0.0, 93.5),
        title="0.5 fraction [0.25, 1]",
        desc="bound max 0.75; null twin 0; baseline 2",
    )


def test_above_a_min_values_keep_the_bound():
    assert bar(at(0.5, 0.4, 0.6, bound=1.0, side="min"), Scale(0.0, 2.0)).allowed == (120.0, 120.0)


@pytest.mark.parametrize("end", [math.inf, None, math.nan])
def test_an_end_that_does_not_exist_reaches_the_edge(end):
    drawn = bar(at(0.5, 0.25, end, bound=1.0, side="max"), Scale(0.0, 2.0))
    assert (drawn.low, drawn.open_low, drawn.high, drawn.open_high) == (40.5, False, 240.0, True)
    assert drawn.title == "0.5 fraction [0.25, inf]"


def test_one_wide_interval_does_not_press_the_others_into_a_point():
    narrow = [at(0.1 * i, 0.1 * i - 0.01, 0.1 * i + 0.01) for i in range(5)]
    found = scale([*narrow, at(0.2, -1000.0, 1000.0)])
    assert found == Scale(pytest.approx(-0.01), pytest.approx(0.41))
    wide = bar(at(0.2, -1000.0, 1000.0), found)
    assert (wide.low, wide.open_low, wide.high, wide.open_high) == (0.0, True, 240.0, True)


def test_an_undefined_value_has_no_bar():
    drawn = bar(at(math.nan, math.nan, math.nan, bound=1.0, side="max", outcome="undecided"), Scale(0.0, 2.0))
    assert (drawn.value, drawn.low, drawn.high, drawn.open_low, drawn.open_high) == (None, None, None, False, False)
    assert drawn.bound == 120.0


def test_what_a_difference_is_taken_to_lies_at_zero():
    excess = at(0.5, 0.4, 0.6, null=7.0, bound=1.0, side="min_excess")
    assert scale([excess]) == Scale(0.0, 1.0)
    assert bar(excess, Scale(0.0, 1.0)).twin == 14.0
    regression = at(0.5, 0.4, 0.6, baseline=7.0, bound=1.0, side="max_regression")
    drawn = bar(regression, Scale(0.0, 1.0))
    assert (drawn.baseline, drawn.allowed) == (14.0, (0.0, 226.0))
    assert drawn.title == "0.5 fraction worse than the baseline's 7 [0.4, 0.6]"
