"""What rules came to, from verdicts made by hand."""

from collections import Counter

import pytest
from made import MADE, SEEN, WAIVER, found, report_of, verdict

from cnnaudit.report.standing import by_gravity, counts, nowhere, standings, waived
from cnnaudit.result import Outcome


@pytest.mark.parametrize("name", MADE)
def test_it_agrees_with_the_report(name):
    report = MADE[name]
    rules = standings(report)
    assert [(rule.rule, rule.outcome, rule.verdicts) for rule in rules] == [
        (rule, report.outcome(rule), report.of(rule)) for rule in report.rules
    ]
    assert counts(rules) == Counter({o: n for o in Outcome if (n := report.summary["rules"][o])})


def test_the_worst_site_speaks_and_sites_are_counted():
    (rule,) = standings(
        report_of(
            verdict("a", "fail", site="x", **SEEN),
            verdict("a", "fail", site="y", **SEEN | {"value": 0.99}),
            verdict("a", "pass", site="z", **SEEN | {"value": 0.1}),
            verdict("a", "not_applicable", site="w"),
        )
    )
    assert rule.worst.site == "y"
    assert rule.sites == "1/3 +1 n/a"


def test_what_a_gate_found_counts_no_sites():
    (rule,) = standings(report_of(found("waivers:unused")))
    assert rule.sites == ""


def test_a_rule_without_a_verdict_does_not_apply():
    (rule,) = standings(report_of(spec={"rules": ["a"]}))
    assert (rule.outcome, rule.worst, rule.verdicts) == (Outcome.NOT_APPLICABLE, None, ())


def test_the_gravest_comes_first_then_severity_then_margin():
    made = report_of(
        verdict("passes", "pass", **SEEN | {"value": 0.1}),
        verdict("just-passes", "pass", **SEEN | {"value": 0.84}),
        verdict("warns", "fail", **SEEN | {"value": 9.0}, severity="warning"),
        verdict("fails", "fail", **SEEN | {"value": 0.86}),
        verdict("fails-by-far", "fail", **SEEN | {"value": 0.99}),
        verdict("crashed", "error"),
    )
    assert [rule.rule for rule in by_gravity(standings(made))] == [
        "crashed",
        "fails-by-far",
        "fails",
        "warns",
        "just-passes",
        "passes",
    ]


def test_waived_results_are_told_by_their_waivers():
    other = WAIVER | {"place": "w.yaml:9"}
    (rule,) = standings(
        report_of(
            verdict("a", "waived", site="x", waiver=WAIVER, **SEEN),
            verdict("a", "waived", site="y", waiver=other, **SEEN),
            verdict("a", "waived", site="z", waiver=WAIVER, **SEEN | {"value": 0.99}),
            verdict("a", "fail", site="w", **SEEN),
        )
    )
    assert [[v.site for v in group] for group in waived(rule)] == [["z", "x"], ["y"]]


def test_where_rules_do_not_apply_is_told_by_reason():
    made = report_of(
        verdict("a", "not_applicable", site="x", detail="No zeros."),
        verdict("a", "not_applicable", site="y", detail="One position."),
        verdict("a", "not_applicable", site="z", detail="No zeros."),
        verdict("b", "not_applicable", site="x", detail="No zeros."),
    )
    assert [[(v.rule, v.site) for v in group] for group in nowhere(standings(made))] == [
        [("a", "x"), ("a", "z")],
        [("a", "y")],
        [("b", "x")],
    ]
