"""What all formats say alike."""

import math

import pytest
from made import FULL, SEEN, WAIVER, WORSE, report_of, verdict

from cnnaudit.report import words
from cnnaudit.result import Outcome, UnitCounts

REPORT = report_of(verdict("a", "pass", **SEEN))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (0.123456, "0.1235"),
        (1234567.0, "1.235e+06"),
        (math.nan, "undefined"),
        (None, "undefined"),
    ],
)
def test_number(value, shown):
    assert words.number(value) == shown


@pytest.mark.parametrize(
    ("facts", "shown"),
    [
        ({"value": 0.5, "low": 0.25, "high": 0.75}, "[0.25, 0.75]"),
        ({"value": 0.5, "low": None, "high": math.inf}, "[-inf, inf]"),
        ({"value": 0.5, "low": -math.inf, "high": math.nan}, "[-inf, inf]"),
        ({"value": math.nan, "low": math.nan, "high": math.nan}, "[undefined, undefined]"),
    ],
)
def test_interval(facts, shown):
    assert words.interval(verdict("a", "pass", **facts)) == shown


@pytest.mark.parametrize(
    ("side", "value", "margin"),
    [
        ("max", 0.75, -0.25),
        ("min", 0.75, 0.25),
        ("min_excess", 0.25, -0.25),
        ("max_regression", 0.75, -0.25),
        ("max_regression", -0.5, 1.0),
        ("max", math.nan, 0.0),
    ],
)
def test_a_margin_is_negative_where_the_bound_is_violated(side, value, margin):
    assert words.margin(verdict("a", "fail", value=value, bound=0.5, side=side)) == margin


def test_a_margin_without_a_bound():
    assert words.margin(verdict("a", "measured", value=1.0)) == 0.0


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.031, "0.031 bits worse than the baseline's 0.62"),
        (-0.031, "0.031 bits better than the baseline's 0.62"),
        (0.0, "as good as the baseline's 0.62"),
    ],
)
def test_a_regression_in_words(value, told):
    worse = verdict("a", "fail", unit="bits", baseline=0.62, **WORSE | {"value": value, "low": -1.0, "high": 1.0})
    assert words.as_measured(worse) == told
    assert words.measured(worse, REPORT) == (f"activity.apoz: {told}, at most 0.02 allowed, 95 % interval [-1, 1]")


def test_what_has_no_metric_is_its_value():
    found = verdict("audit:coverage", "fail", metric="", field="", value=0.934, low=0.934, high=0.934)
    assert words.measured(found, REPORT) == "0.934 fraction"


def test_a_waiver_in_words():
    assert words.accepted(WAIVER) == (
        "accepted_risk by ann until 2027-03-01, approved by bob on 2026-11-01, ticket NET-12 (net.waivers.yaml:4)"
    )
    assert words.accepted(WAIVER | {"ticket": None}).endswith("on 2026-11-01 (net.waivers.yaml:4)")
    assert words.accepted_worst(WAIVER) == "FAIL without this waiver, which accepts nothing worse than 0.95"
    assert words.accepted_worst(WAIVER | {"worst": None}).endswith("which accepts any value")


def test_the_days_that_are_left_of_a_waiver():
    assert words.until(WAIVER, FULL) == "2027-03-01 (90 days left)"
    assert words.until(WAIVER, REPORT) == "2027-03-01"


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        (0, "61 of 61 sites are under a rule"),
        (2, "59 of 61 sites are under a rule; not covered: pool0, pool1"),
        (8, "53 of 61 sites are under a rule; not covered: pool0, pool1, pool2, pool3, pool4, pool5, ... and 2 more"),
    ],
)
def test_coverage(missing, told):
    not_covered = [{"site": f"pool{i}", "op": "pool"} for i in range(missing)]
    counted = report_of(coverage={"sites": 61, "covered": 61 - missing, "not_covered": not_covered})
    assert words.coverage(counted) == told


def test_coverage_that_nobody_counted():
    assert words.coverage(REPORT) == ""


def test_what_a_gate_used():
    gate = {
        "as_of": "2026-12-01",
        "baseline": {"path": "accepted.json", "sha256": "a" * 64, "model": "b" * 64, "date": "2026-11-02"},
        "waivers": {"path": "w.yaml", "sha256": "c" * 64, "entries": 1, "ignored": True},
        "evidence": [{"path": f"{i}.evidence", "sha256": str(i) * 64} for i in (1, 2)],
    }
    assert list(words.gate(report_of(gate=gate), digits=4)) == [
        ("baseline", "accepted.json (sha256 aaaa, model bbbb, of 2026-11-02)"),
        ("waivers", "w.yaml (sha256 cccc, 1 entry, ignored)"),
        ("evidence", "1.evidence (sha256 1111)"),
        ("evidence", "2.evidence (sha256 2222)"),
        ("as of", "2026-12-01"),
    ]
    assert list(words.gate(REPORT)) == []


def test_result():
    assert words.result(REPORT, {Outcome.PASS: 1200, Outcome.WAIVED: 1}) == (
        "PASSED",
        "1,201 rules, 1,200 passed, 1 waived (exit 0)",
    )
    assert words.result(report_of(), {}) == ("NOT PASSED", "0 rules, nothing judged (exit 2)")


def test_more():
    assert words.more(["a"]) == "a"
    assert words.more(["a", "b"]) == "a and 1 more site"
    assert words.more(["a", "b", "c", "d"], "rule", 2) == "a, b and 2 more rules"


def test_values_of_several_sites():
    assert words.reach([0.5, None, 0.25, math.nan]) == "0.25 to 0.5"
    assert words.reach([0.5, 0.5]) == "0.5"
    assert words.reach([math.nan]) == "undefined"


def test_units():
    counts = UnitCounts(64, 3, 2)
    judged = verdict("a", "fail", units=counts, share=0.9, worst=((5, 0.95, 0.9, 1.0),))
    assert words.units(judged) == ("3 of 64 kernels violate the bound, 2 undecided, 90% must keep it; worst: 5 (0.95)")
    assert words.units(verdict("a", "fail", units=UnitCounts(1))) == "judged as a whole"
    assert words.units(verdict("a", "fail", units=counts, reduce="mean")) == "judged by the mean of the site's units"


def test_a_name_is_one_line_of_letters():
    assert words.plain(" two\nlines\x1b[31m \u202eright\u2066 naïve 名 ") == "two lines [31m right naïve 名"


@pytest.mark.parametrize(
    ("undecided", "more"),
    [
        ("pass", ""),
        ("fail", "; a network that violates some rule passes all with at most 5 %"),
    ],
)
def test_error_rates(undecided, more):
    rates = {"false_pass": 0.05, "false_fail": 0.4512}
    told = words.error_rates(report_of(settings={"family_wise_error": rates, "undecided": undecided}))
    assert told == (
        "A rule that holds is failed by chance with a probability of at most 5 %, any rule of this file with at most "
        f"45.1 %{more}."
    )
    assert words.error_rates(REPORT) == ""
