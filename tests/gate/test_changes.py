"""What differs between two reports: what was audited, and site by site what it came to."""

import json
import math
from dataclasses import replace

import pytest
from audits import mean, report, terms, verdict

from cnnaudit.gate.changes import Difference, changes

GROUPS = [[(10, 0.4), (10, 0.5), (10, 0.6)], [(10, 0.5), (10, 0.6), (10, 0.7)]]


def site(old, new, **facts):
    """The one change of two verdicts of one rule."""
    (found,) = changes(report(old, **facts), report(new, **facts)).sites
    return found


def test_a_report_does_not_differ_from_itself():
    same = report(
        verdict(mean=mean(0.5, 0.4, 0.6, GROUPS[0])), verdict(site="gone", outcome="not_applicable", value=None)
    )
    found = changes(same, same)
    assert not any((found.model, found.data, found.rules, found.settings, found.coverage, found.uncompared))
    assert [(s.changed, s.rank[0]) for s in found.sites] == [(False, 0), (False, 0)]


def test_means_of_the_same_groups_are_compared_in_pairs():
    found = site(
        verdict(mean=mean(0.5, 0.3, 0.7, GROUPS[0])), verdict(mean=mean(0.625, 0.4, 0.8, GROUPS[1]), value=0.9)
    )
    assert (found.old, found.new, found.change, found.how, found.of) == (0.5, 0.625, 0.125, "paired", "mean")
    assert found.low == pytest.approx(found.high) == pytest.approx(0.125)
    assert (found.changed, found.towards) == (True, "worse")


def test_shown_intervals_are_compared_where_there_is_no_mean():
    found = site(verdict(value=0.5, low=0.4, high=0.53), verdict(value=0.9, low=0.86, high=1.0))
    assert (found.old, found.new, found.how, found.of) == (0.5, 0.9, "unpaired", "deciding unit")
    assert (found.low, found.high) == pytest.approx((0.4 - math.hypot(0.04, 0.03), 0.4 + math.hypot(0.1, 0.1)))


def test_what_may_be_chance_has_not_changed():
    assert not site(verdict(value=0.5, low=0.4, high=0.6), verdict(value=0.55, low=0.45, high=0.65)).changed
    assert site(verdict(value=0.5, low=0.4, high=0.6), verdict("sparse", outcome="fail", value=0.55)).changed


@pytest.mark.parametrize(
    ("worse", "new", "towards"), [("higher", 0.6, "worse"), ("higher", 0.4, "better"), ("lower", 0.4, "worse")]
)
def test_towards_what_a_value_moved(worse, new, towards):
    assert site(verdict(), verdict(value=new), rules={"sparse": terms(worse)}).towards == towards


@pytest.mark.parametrize(
    ("bounds", "towards"), [({"max": 1}, "worse"), ({"max": None, "min": 0}, "better"), ({"min": 0, "max": 1}, "")]
)
def test_bounds_tell_what_is_worse_where_nothing_else_does(bounds, towards):
    assert site(verdict(), verdict(value=0.6), rules={"sparse": terms(absolute=None, bounds=bounds)}).towards == towards


def test_other_data_leave_values_side_by_side_and_say_why():
    new = report(verdict(value=0.6), data={"sha256": "3" * 64, "n_images": 9})
    found = changes(report(verdict()), new)
    assert found.uncompared.startswith("The data differ (data.sha256, data.n_images)")
    assert [(s.old, s.new, s.low, s.how, s.changed) for s in found.sites] == [(0.5, 0.6, None, "", True)]
    assert found.data == (Difference("sha256", "2" * 64, "3" * 64), Difference("n_images", 400, 9))


def test_a_rule_that_measures_something_else_is_not_compared():
    old, new = (report(verdict(), rules={"sparse": terms(metric=f"activity/{n}")}) for n in (1, 2))
    found = changes(old, new)
    assert (found.sites[0].why, found.sites[0].low) == ("the rule measures something else: metric differ", None)
    assert found.rules == (Difference("sparse: metric", "activity/1", "activity/2"),)


def test_rules_that_came_went_or_want_something_else_are_told():
    old = report(verdict(), verdict("gone"), rules={"sparse": terms(), "gone": terms()})
    rules = {"sparse": terms(absolute=0.2, bounds={"max": 0.8}), "added": terms()}
    found = changes(old, report(verdict(), verdict("added"), rules=rules))
    assert found.rules == (
        Difference("gone", "there", None),
        Difference("added", None, "there"),
        Difference("sparse: max", 0.9, 0.8),
        Difference("sparse: max_regression.absolute", 0.1, 0.2),
    )
    assert not any(s.changed for s in found.sites)


def test_of_a_new_rule_what_fails_is_listed():
    found = changes(
        report(verdict()), report(verdict(), verdict("waivers:expired", outcome="fail", site="", value=None))
    )
    assert [(s.rule, s.old_outcome, s.new_outcome) for s in found.sites if s.changed] == [
        ("waivers:expired", None, "fail")
    ]
    assert found.sites[0].rule == "waivers:expired"


def test_the_worst_comes_first():
    def both(name, old, new, value, half=0.01):
        return verdict(site=name, outcome=old), verdict(
            site=name, outcome=new, value=value, low=value - half, high=value + half
        )

    pairs = [
        both("same", "pass", "pass", 0.5),
        both("mended", "fail", "pass", 0.2),
        both("better", "pass", "pass", 0.3),
        both("undecided", "pass", "undecided", 0.9),
        both("worse", "pass", "pass", 0.7),
        both("fails", "pass", "fail", 0.8),
        both("broke", "pass", "error", 0.5),
        both("fails-more", "pass", "fail", 0.9),
    ]
    found = changes(report(*(a for a, _ in pairs)), report(*(b for _, b in pairs)))
    assert [s.site for s in found.sites] == [
        "broke", "fails-more", "fails", "undecided", "worse", "same", "better", "mended",
    ]  # fmt: skip
    assert found.moves["pass", "fail"] == 2


def test_sites_of_one_report_only_and_waivers_are_changes():
    waiver = {"owner": "ann", "expires": "2027-01-01"}
    old = report(verdict(site="gone"), verdict(outcome="fail"))
    new = report(verdict(site="new"), verdict(outcome="waived", waiver=waiver))
    found = {s.site: s for s in changes(old, new).sites}
    assert {name: (s.old_outcome, s.new_outcome, s.changed) for name, s in found.items()} == {
        "gone": ("pass", None, True),
        "new": (None, "pass", True),
        "conv1": ("fail", "waived", True),
    }
    assert (found["conv1"].old_waived, found["conv1"].new_waived) == ("", "ann until 2027-01-01")
    later = verdict(outcome="waived", waiver={**waiver, "expires": "2027-06-01"})
    assert site(verdict(outcome="waived", waiver=waiver), later).changed


def test_model_settings_and_coverage_are_told():
    missing = [{"site": "pool1", "op": "pool"}, {"site": "pool2", "op": "pool"}]
    old = report(verdict(), coverage={"sites": 9, "covered": 7, "not_covered": missing})
    new = report(
        verdict(),
        model={"sha256": "9" * 64},
        settings={"torch": "2.14", "date": "2026-12-01"},
        coverage={"sites": 9, "covered": 8, "not_covered": missing[1:]},
    )
    found = changes(old, new)
    assert found.model == (Difference("sha256", "1" * 64, "9" * 64),)
    assert found.settings == (Difference("torch", None, "2.14"), Difference("date", "2026-11-30", "2026-12-01"))
    assert found.coverage == (Difference("covered", 7, 8), Difference("pool1 (pool)", "not covered", None))


def test_what_has_no_value_has_no_change_and_is_json():
    found = changes(report(verdict(value=math.nan)), report(verdict(value=0.5, low=math.nan, high=math.nan)))
    assert (found.sites[0].old, found.sites[0].change, found.sites[0].low) == (None, None, None)
    assert found.sites[0].why == "a value or its error is undefined"
    body = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert body["sites"][0]["changed"] is True


def test_a_regression_is_compared_as_its_rule_is():
    rule = verdict("sparse:regression", side="max_regression", reduce="mean", value=0.1, low=0.1, high=0.1)
    found = site(rule, replace(rule, value=0.2, low=0.2, high=0.2))
    assert (found.of, found.how, found.towards) == ("mean", "exact", "worse")
