"""One site against the accepted run: what is allowed, which way is worse, how sure it must be."""

import math
from dataclasses import replace

import pytest
from audits import mean, verdict
from scipy import stats

from cnnaudit.gate.regression import Levels, regression
from cnnaudit.result import Outcome, UnitCounts

ONE = Levels(0.95, 0.95, 1)
HALF = stats.norm.ppf(0.975)  # half an interval of error 1


def judged(old, new, *, worse="higher", absolute=None, relative=None, levels=ONE, **facts):
    terms = {"absolute": absolute, "relative": relative, "worse": worse}
    return regression(verdict(mean=new, **facts), verdict(mean=old), terms, levels, looks=1)


@pytest.mark.parametrize(
    ("worse", "new", "outcome", "value"),
    [("higher", 0.75, "fail", 0.25), ("higher", 0.25, "pass", -0.25), ("lower", 0.25, "fail", 0.25)],
)
def test_only_the_worse_direction_is_judged(worse, new, outcome, value):
    found = judged(mean(0.5), mean(new), worse=worse, absolute=0.125)
    assert (found.outcome, found.value, found.low, found.high) == (outcome, value, value, value)
    assert (found.bound, found.side, found.baseline, found.reduce) == (0.125, "max_regression", 0.5, "mean")


@pytest.mark.parametrize(
    ("absolute", "relative", "old", "allowed"),
    [
        (0.5, None, -2.0, 0.5),
        (None, 0.25, -2.0, 0.5),
        (0.25, 0.25, 2.0, 0.25),
        (0.5, 0.125, 2.0, 0.25),
        (None, 1, 0.0, 0),
    ],
)
def test_both_limits_hold_and_the_relative_one_is_of_the_accepted_value(absolute, relative, old, allowed):
    assert judged(mean(old), mean(old), absolute=absolute, relative=relative).bound == allowed


@pytest.mark.parametrize("allowed", [0.0, 0.25])
def test_equality_keeps_the_bound(allowed):
    assert judged(mean(0.5), mean(0.5 + allowed), absolute=allowed).outcome is Outcome.PASS


def test_a_bound_that_these_images_do_not_reach_is_undecided():
    found = judged(mean(0.0), mean(1.0, 1 - HALF, 1 + HALF), absolute=2.0, n_images=100)
    assert (found.outcome, found.units) == (Outcome.UNDECIDED, UnitCounts(1, 0, 1))
    assert (found.low, found.high) == pytest.approx((1 - HALF, 1 + HALF))
    # One-sided at 5 % the interval reaches 1.645 errors, and the bound is one error away.
    assert found.n_needed == math.ceil(1.05 * 100 * stats.norm.ppf(0.95) ** 2)
    assert "worse by more than 2 fraction" in found.detail
    assert "Audit about 285 images in both runs" in found.advice


@pytest.mark.parametrize(("distance", "outcome"), [(1.6, Outcome.UNDECIDED), (1.7, Outcome.PASS)])
def test_a_pass_is_one_sided_at_alpha_whatever_the_number_of_sites(distance, outcome):
    new = mean(0.0, -HALF, HALF)
    for places in (1, 50):
        assert judged(mean(0.0), new, absolute=distance, levels=Levels(0.95, 0.95, places)).outcome is outcome


@pytest.mark.parametrize(
    ("places", "distance", "outcome"),
    [(1, 1.7, "fail"), (10, 1.7, "undecided"), (10, 2.5, "undecided"), (10, 2.6, "fail")],
)
def test_a_fail_is_corrected_for_the_number_of_sites(places, distance, outcome):
    found = judged(
        mean(0.0), mean(distance, distance - HALF, distance + HALF), absolute=0, levels=Levels(0.95, 0.95, places)
    )
    assert found.outcome == outcome
    assert ("the worst of 10 sites" in found.detail) == (distance == 2.5)


@pytest.mark.parametrize(("old", "new", "run"), [(math.nan, 0.5, "the accepted run"), (0.5, math.nan, "this run")])
def test_what_has_no_value_is_undecided(old, new, run):
    found = judged(mean(old), mean(new), relative=0.5)
    assert found.outcome is Outcome.UNDECIDED
    assert f"In {run} the mean is 0 / 0" in found.detail


def test_an_interval_that_does_not_exist_is_undecided():
    found = judged(mean(0.5), mean(0.5, -math.inf, math.inf), absolute=1)
    assert (found.outcome, found.n_needed) == (Outcome.UNDECIDED, 0)
    assert "does not exist" in found.detail


def test_a_site_that_the_baseline_lacks_is_an_error():
    terms = {"absolute": 0.1, "relative": None, "worse": "lower"}
    missing = regression(verdict(mean=mean(0.5)), None, terms, ONE, looks=1)
    unmeasured = regression(verdict(mean=mean(0.5)), verdict(outcome="undecided"), terms, ONE, looks=1)
    assert missing.outcome is unmeasured.outcome is Outcome.ERROR
    assert missing.value is missing.bound is None
    assert missing.detail == "The baseline has no such site."
    assert unmeasured.detail == "The baseline has no mean here: its verdict was undecided."


def test_a_site_without_a_mean_in_this_run_is_undecided():
    found = regression(
        verdict(outcome="undecided", advice="Audit more of them."),
        verdict(mean=mean(0.5)),
        {"worse": "lower"},
        ONE,
        looks=1,
    )
    assert (found.outcome, found.baseline, found.advice) == (Outcome.UNDECIDED, 0.5, "Audit more of them.")


def test_the_verdict_stands_where_its_rule_stands_and_holds_nothing_else_of_it():
    groups = ((100, 0.5), (200, 0.5))
    new = verdict(
        mean=mean(0.5, 0.4, 0.6, groups), null=0.1, fields={"apoz": 0.5}, worst=((3, 0.5, 0.4, 0.6),), why="Because.",
        severity="warning", file="pack.yaml", slice="scanner=a", reached=0.7, changed="max 0.8 -> 0.9",
    )  # fmt: skip
    found = regression(
        new, verdict(mean=mean(0.5, 0.4, 0.6, groups)), {"absolute": 0.1, "worse": "higher"}, ONE, looks=3
    )
    same = ("line", "severity", "metric", "field", "unit", "op", "site", "slice", "why", "file")
    assert [getattr(found, name) for name in same] == [getattr(new, name) for name in same]
    assert (found.rule, found.n_images, found.look) == ("sparse:regression", 300, 3)
    assert found.null is found.mean is found.waiver is found.reached is None
    assert (found.fields, found.changed, found.worst) == ({}, "", ((-1, 0.0, 0.0, 0.0),))
    assert replace(found, outcome=Outcome.PASS) == found


def test_what_was_changed_of_the_regression_is_told_with_it_and_no_other_bound():
    told = "max 0.8 -> 0.9; share 1.0 -> 0.5; max_regression none -> {absolute: 1}; confidence 0.99 -> 0.9"
    found = judged(mean(0.5), mean(0.5), absolute=1, changed=told)
    assert found.changed == "max_regression none -> {absolute: 1}; confidence 0.99 -> 0.9"
