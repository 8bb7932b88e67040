"""What a waiver covers, until when, up to which value, and what is found wrong with waivers."""

import dataclasses
import hashlib
import json
import math
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnaudit.errors import SpecError
from cnnaudit.gate.waivers import Standing, hold, load, lower_is_worse, outward, standing
from cnnaudit.result import Outcome, Report, Verdict

DAY = date(2026, 12, 1)
KEYS = {
    "rule": "dead",
    "owner": "Ada Ito",
    "reason": "pruned too far",
    "category": "in_progress",
    "approved_by": "Bo Lind",
    "approved_on": "2026-11-30",
    "expires": "2027-01-31",
    "worst": 0.4,
}


@pytest.fixture
def waivers(tmp_path, monkeypatch):
    """Write a file of waivers, each given as what it has other than KEYS, and read it."""
    monkeypatch.chdir(tmp_path)

    def write(*entries):
        given = [{key: x for key, x in (KEYS | entry).items() if x is not None} for entry in entries]
        lines = [f"- {json.dumps(entry)}" for entry in given]
        (tmp_path / "w.yaml").write_text("\n".join(["cnnaudit-waivers: 1", "waivers:", *lines, ""]), encoding="utf-8")
        return load("w.yaml")

    return write


def verdict(outcome=Outcome.FAIL, value=0.3, **facts):
    defaults = {
        "rule": "dead",
        "line": 9,
        "severity": "error",
        "metric": "activity",
        "field": "dead",
        "unit": "fraction",
        "op": "conv",
        "site": "stage3.conv1",
        "side": "max",
        "bound": 0.2,
        "low": 0.25,
        "high": 0.35,
    }
    return Verdict(**(defaults | facts), outcome=outcome, value=value)


def report(*verdicts, **facts):
    defaults = {
        "spec": {"path": "net.audit.yaml", "sha256": "ab", "rules": list(dict.fromkeys(v.rule for v in verdicts))},
        "model": {"source": "model.py:build", "sha256": "c" * 64, "sites": {"conv": 3}},
        "data": {"n_images": 40},
        "settings": {"undecided": "fail"},
    }
    return Report(**(defaults | facts), verdicts=verdicts)


def outcomes(held):
    return [(v.rule, str(v.outcome)) for v in held.verdicts]


# --- what is covered --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", Outcome)
def test_only_what_fails_or_is_undecided_is_waived(waivers, outcome):
    held = hold(report(verdict(outcome)), waivers({}), DAY)
    waivable = outcome in (Outcome.FAIL, Outcome.UNDECIDED)
    assert held.verdicts[0].outcome is (Outcome.WAIVED if waivable else outcome)
    assert [v.rule for v in held.verdicts[1:]] == ([] if waivable else ["waivers:unused"])


@pytest.mark.parametrize(
    ("side", "value", "covered"),
    [
        ("max", 0.4, True),
        ("max", math.nextafter(0.4, 1), False),
        ("max", 0.1, True),
        ("max_regression", 0.4, True),
        ("max_regression", 0.5, False),
        ("min", 0.4, True),
        ("min", math.nextafter(0.4, 0), False),
        ("min", 0.9, True),
        ("min_excess", 0.4, True),
        ("min_excess", 0.3, False),
    ],
)
@pytest.mark.parametrize("outcome", ["fail", "undecided"])
def test_up_to_and_with_the_worst_value(waivers, side, value, covered, outcome):
    held = hold(report(verdict(Outcome(outcome), value, side=side)), waivers({}), DAY)
    if covered:
        assert outcomes(held) == [("dead", "waived")]
        assert held.exit_code == 0
    else:
        assert outcomes(held) == [("dead", outcome), ("waivers:exceeded", "fail")]
        assert held.exit_code == {"fail": 1, "undecided": 3}[outcome]
        assert ("below" if "min" in side else "above") + " the worst accepted, 0.4" in held.verdicts[1].detail


@pytest.mark.parametrize(
    ("day", "covered"), [(date(2026, 11, 30), True), (date(2027, 1, 31), True), (date(2027, 2, 1), False)]
)
def test_until_and_on_the_day_it_expires(waivers, day, covered):
    held = hold(report(verdict()), waivers({}), day)
    assert held.gate["as_of"] == day.isoformat()
    assert outcomes(held) == ([("dead", "waived")] if covered else [("dead", "fail"), ("waivers:expired", "fail")])
    assert held.exit_code == (0 if covered else 1)


def test_an_approval_after_the_day_is_a_mistake(waivers):
    with pytest.raises(SpecError) as caught:
        hold(report(verdict()), waivers({}, {}), date(2026, 11, 29))
    assert [(p.file, p.line) for p in caught.value.problems] == [("w.yaml", 3), ("w.yaml", 4)]
    assert "approved_on 2026-11-30 is after 2026-11-29" in caught.value.problems[0].message


def test_the_numbers_stay_and_the_record_says_who_and_until_when(waivers):
    before = verdict(Outcome.UNDECIDED, detail="Too few images.", advice="Read more.")
    (after,) = hold(report(before), waivers({"ticket": "ABC-12"}), DAY).verdicts
    assert dataclasses.replace(after, outcome=Outcome.UNDECIDED, waiver=None) == before
    assert after.waiver == {
        "owner": "Ada Ito",
        "reason": "pruned too far",
        "category": "in_progress",
        "approved_by": "Bo Lind",
        "approved_on": "2026-11-30",
        "expires": "2027-01-31",
        "ticket": "ABC-12",
        "worst": 0.4,
        "place": "w.yaml:3",
        "outcome": "undecided",
    }


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_without_a_worst_value_only_results_without_a_value(waivers, value):
    both = waivers({"worst": None}, {})
    assert outcomes(hold(report(verdict(Outcome.UNDECIDED, value)), both, DAY))[0] == ("dead", "waived")
    no_worst, worst = waivers({"worst": None}), waivers({})
    exceeded = hold(report(verdict(Outcome.UNDECIDED, value)), worst, DAY)
    assert outcomes(exceeded) == [("dead", "undecided"), ("waivers:exceeded", "fail")]
    assert "has no value to compare" in exceeded.verdicts[1].detail
    exceeded = hold(report(verdict(value=0.3)), no_worst, DAY)
    assert outcomes(exceeded) == [("dead", "fail"), ("waivers:exceeded", "fail")]
    assert "has the value 0.3, and no worst value was accepted" in exceeded.verdicts[1].detail


@pytest.mark.parametrize(
    ("pattern", "site", "covered"),
    [
        ("stage3.**", "stage3.conv1", True),
        ("stage3.**", "stage4.conv1", False),
        ("**", "stage3#add.0", True),
        ("**", "", True),
        ("stage4", "input -> stage4", True),
        ("stage4 -> **", "input -> stage4", False),
        ("input -> stage4", "input -> stage4", True),
        ("stem -> stage4", "input -> stage4", False),
        ("input -> **", "stage4", False),
    ],
)
def test_sites_and_pairs(waivers, pattern, site, covered):
    held = hold(report(verdict(site=site)), waivers({"site": pattern}), DAY)
    assert held.verdicts[0].outcome is (Outcome.WAIVED if covered else Outcome.FAIL)


@pytest.mark.parametrize(
    ("pattern", "slice_", "covered"),
    [
        ("scanner=A", "scanner=A", True),
        ("scanner=A", "scanner=AB", False),
        ("scanner=*", "scanner=AB", True),
        ("scanner=[x]", "scanner=[x]", True),
        ("scanner=A", "", False),
        (None, "scanner=A", True),
    ],
)
def test_slices(waivers, pattern, slice_, covered):
    held = hold(report(verdict(slice=slice_)), waivers({"slice": pattern}), DAY)
    assert held.verdicts[0].outcome is (Outcome.WAIVED if covered else Outcome.FAIL)


@pytest.mark.parametrize(
    ("model", "covered"), [("c" * 64, True), ("d" * 64, False), ("model.py:*", True), ("other.py:*", False)]
)
def test_a_model_of_its_own(waivers, model, covered):
    held = hold(report(verdict()), waivers({"model": model}), DAY)
    assert held.verdicts[0].outcome is (Outcome.WAIVED if covered else Outcome.FAIL)
    if not covered:
        assert held.verdicts[1].rule == "waivers:unused"
        assert f"it is for the model {model}, and this is model.py:build with sha256 ccc" in held.verdicts[1].detail


# --- findings ---------------------------------------------------------------------------------------------------


def test_a_finding_stands_at_its_entry_and_is_a_warning(waivers):
    held = hold(
        report(verdict(), verdict(site="stem", value=0.9)), waivers({"site": "stem"}, {"site": "stage3.**"}), DAY
    )
    assert outcomes(held) == [("dead", "waived"), ("dead", "fail"), ("waivers:exceeded", "fail")]
    finding = held.verdicts[2]
    assert (finding.file, finding.line, held.where(finding)) == ("w.yaml", 3, "w.yaml:3")
    assert (finding.severity, finding.site, finding.metric, finding.value) == ("warning", "", "", None)
    assert finding.detail == (
        "The waiver of dead at stem, owned by Ada Ito, does not go so far: stem (0.9 is above the worst accepted, 0.4)."
    )


def test_one_waiver_may_hold_here_and_be_exceeded_there(waivers):
    held = hold(report(verdict(), verdict(site="stem", value=0.9)), waivers({}), DAY)
    assert outcomes(held) == [("dead", "waived"), ("dead", "fail"), ("waivers:exceeded", "fail")]


def test_an_expired_waiver_is_found_only_where_it_is_needed(waivers):
    late = date(2027, 3, 1)
    finding = hold(report(verdict()), waivers({}), late).verdicts[1]
    assert finding.rule == "waivers:expired"
    assert finding.detail == (
        "The waiver of dead, owned by Ada Ito, expired after 2027-01-31 and would still be needed: stage3.conv1 (fail)."
    )
    assert outcomes(hold(report(verdict(Outcome.PASS)), waivers({}), late))[1] == ("waivers:unused", "fail")


def test_a_renewed_waiver_makes_the_old_one_unused(waivers):
    held = hold(report(verdict()), waivers({"expires": "2026-12-31"}, {"expires": "2027-06-30"}), date(2027, 3, 1))
    assert outcomes(held) == [("dead", "waived"), ("waivers:unused", "fail")]
    assert held.verdicts[0].waiver["place"] == "w.yaml:4"
    assert held.verdicts[1].line == 3
    assert "covers nothing that the one on line 4 does not cover" in held.verdicts[1].detail
    assert held.exit_code == 0


def test_of_two_that_hold_the_later_end_is_told_and_neither_is_unused(waivers):
    for ends in (("2027-01-31", "2027-06-30"), ("2027-06-30", "2027-01-31")):
        held = hold(report(verdict()), waivers(*({"expires": end} for end in ends)), DAY)
        assert outcomes(held) == [("dead", "waived")]
        assert held.verdicts[0].waiver["expires"] == "2027-06-30"
    held = hold(report(verdict()), waivers({}, {}), DAY)
    assert held.verdicts[0].waiver["place"] == "w.yaml:3"


@pytest.mark.parametrize(
    ("entry", "verdicts", "told"),
    [
        ({"rule": "daed"}, [verdict()], "there is no rule 'daed'; did you mean 'dead'?"),
        ({"rule": "dead:regression"}, [verdict()], "dead was not compared with a baseline"),
        (
            {"site": "nowhere"},
            [verdict()],
            "nothing matches its site and slice, for the rule was judged at stage3.conv1",
        ),
        ({}, [verdict(Outcome.PASS)], "the one result that it is for does not fail"),
        ({}, [verdict(Outcome.PASS), verdict(Outcome.MEASURED)], "none of 2 results fails"),
        ({}, [verdict(Outcome.ERROR, None)], "an ERROR cannot be waived, and there is one at stage3.conv1"),
    ],
)
def test_why_a_waiver_is_unused(waivers, entry, verdicts, told):
    finding = hold(report(*verdicts), waivers(entry), DAY).verdicts[-1]
    assert (finding.rule, finding.outcome) == ("waivers:unused", Outcome.FAIL)
    assert told in finding.detail
    assert finding.advice


def test_many_places_are_counted_not_listed(waivers):
    many = [verdict(site=f"s{i}", value=0.9) for i in range(9)]
    assert (
        "s5 (0.9 is above the worst accepted, 0.4) and 3 more."
        in hold(report(*many), waivers({}), DAY).verdicts[-1].detail
    )


def test_a_value_that_reads_like_the_worst_is_told_in_full(waivers):
    finding = hold(report(verdict(value=0.40000001)), waivers({}), DAY).verdicts[-1]
    assert "0.40000001 is above the worst accepted, 0.4" in finding.detail


# --- what the audit comes to ------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", Outcome)
def test_findings_never_change_the_exit_code(waivers, outcome):
    judged = report(verdict(outcome))
    unused = waivers({"rule": "other"}, {"site": "nowhere"})
    held = hold(judged, unused, DAY)
    assert [v.rule for v in held.verdicts[1:]] == ["waivers:unused"] * 2
    assert held.exit_code == judged.exit_code


def test_an_error_beside_a_waived_failure_still_decides(waivers):
    held = hold(report(verdict(), verdict(Outcome.ERROR, None, site="stem")), waivers({}), DAY)
    assert outcomes(held) == [("dead", "waived"), ("dead", "error")]
    assert held.exit_code == 2


def test_the_file_is_on_record_and_may_be_ignored(waivers):
    read = waivers({}, {"rule": "other"})
    digest = hashlib.sha256(Path("w.yaml").read_bytes()).hexdigest()
    record = {"path": "w.yaml", "sha256": digest, "entries": 2}
    judged = report(verdict(), gate={"baseline": {"path": "b.json"}})
    held = hold(judged, read, DAY)
    assert held.gate == {"baseline": {"path": "b.json"}, "as_of": "2026-12-01", "waivers": record | {"ignored": False}}
    ignored = hold(judged, read, date(2000, 1, 1), ignored=True)
    assert ignored.gate["waivers"] == record | {"ignored": True}
    assert ignored.verdicts == judged.verdicts


def test_json_keeps_all_of_it(waivers):
    held = hold(report(verdict(), verdict(site="stem", value=0.9)), waivers({}), DAY)
    again = Report.from_json(held.to_json())
    assert again.verdicts == held.verdicts
    assert again.gate == held.gate
    assert again.summary["verdicts"]["waived"] == 1
    assert again.to_json() == held.to_json()


# --- rounding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "down", "rounded"),
    [
        (0.038478, True, 0.03847),
        (0.038471, False, 0.03848),
        (-0.12345, True, -0.1235),
        (0.5, True, 0.5),
        (0.0, False, 0),
    ],
)
def test_outward(value, down, rounded):
    assert outward(value, down=down) == rounded


@given(
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300), st.sampled_from(["min", "max"])
)
def test_a_rounded_value_covers_itself(waiver_of, value, side):
    worst = outward(value, down=lower_is_worse(side))
    assert math.isclose(worst, value, rel_tol=2e-3, abs_tol=1e-320)
    assert standing(waiver_of(worst), verdict(value=value, side=side), DAY) is Standing.HOLDS


@pytest.fixture(scope="module")
def waiver_of():
    from cnnaudit.gate.waiver_file import Waiver

    return lambda worst: Waiver.model_validate_json(json.dumps(KEYS | {"worst": worst}))
