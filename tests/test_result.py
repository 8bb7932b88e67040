import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnaudit import EvidenceError
from cnnaudit.result import SCHEMA_VERSION, Outcome, Report, UnitCounts, Verdict


def verdict(outcome=Outcome.PASS, rule="a", severity="error", **facts):
    defaults = {"line": 4, "metric": "activity", "field": "dead", "unit": "kernels", "op": "conv", "site": "stem"}
    return Verdict(rule=rule, severity=severity, outcome=outcome, **(defaults | facts))


def report(*verdicts, undecided="fail", **facts):
    defaults = {
        "spec": {"path": "x.audit.yaml", "sha256": "ab", "rules": list(dict.fromkeys(v.rule for v in verdicts))},
        "model": {"source": "model.py:build", "sites": {"conv": 3}},
        "data": {"n_images": 40},
        "settings": {"undecided": undecided, "seed": 0},
    }
    return Report(**(defaults | facts), verdicts=verdicts)


FULL = verdict(
    Outcome.FAIL,
    value=0.25,
    low=0.2,
    high=0.3,
    bound=0.1,
    side="max",
    share=0.9,
    n_images=40,
    n_needed=80,
    units=UnitCounts(16, 3, 2),
    worst=((4, 0.25, 0.2, 0.3), (7, 0.2, 0.1, 0.3)),
    why="wastes a channel",
    refs=("RISK-12", "RISK-13"),
    detail="what it means",
    advice="what to do",
)


# --- JSON -------------------------------------------------------------------------------------------------------


def test_a_report_survives_json():
    original = report(FULL, verdict(rule="b"), notes=("read in the order given",))
    again = Report.from_json(original.to_json())
    assert again == original
    assert again.verdicts[0].outcome is Outcome.FAIL
    assert again.to_json() == original.to_json()


numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    outcome=st.sampled_from(Outcome),
    values=st.tuples(numbers, numbers, numbers, numbers),
    counts=st.tuples(*[st.integers(0, 10**6)] * 3),
    text=st.text(max_size=20),
)
def test_any_finite_report_survives_json(outcome, values, counts, text):
    value, low, high, bound = values
    original = report(
        verdict(outcome, value=value, low=low, high=high, bound=bound, units=UnitCounts(*counts), why=text, detail=text)
    )
    assert Report.from_json(original.to_json()) == original


def test_numbers_that_do_not_exist_are_null():
    odd = verdict(
        Outcome.UNDECIDED, value=math.nan, low=-math.inf, high=math.inf, worst=((2, math.nan, 0.5, math.inf),)
    )
    text = report(odd, settings={"undecided": "fail", "nested": [{"x": math.nan}]}).to_json()

    def refuse(name):
        raise AssertionError(name)

    body = json.loads(text, parse_constant=refuse)
    (entry,) = body["verdicts"]
    assert (entry["value"], entry["low"], entry["high"]) == (None, None, None)
    assert entry["worst"] == [[2, None, 0.5, None]]
    assert body["settings"]["nested"] == [{"x": None}]
    again = Report.from_json(text).verdicts[0]
    assert again.value is None
    assert again.worst[0][0] == 2
    assert math.isnan(again.worst[0][1])


def test_keys_are_sorted_everywhere():
    def check(value):
        if isinstance(value, dict):
            assert list(value) == sorted(value)
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(item)

    body = json.loads(report(FULL).to_json())
    check(body)
    assert body["schema_version"] == SCHEMA_VERSION == 1


def test_verdicts_carry_what_the_schema_promises():
    body = json.loads(report(FULL).to_json())
    assert set(body) >= {"schema_version", "summary", "model", "data", "settings", "verdicts"}
    (entry,) = body["verdicts"]
    promised = "rule line severity metric field unit site outcome value low high bound n_images units why detail"
    assert set(promised.split()) <= set(entry)
    assert entry["outcome"] == "fail"
    assert entry["units"] == {"total": 16, "failing": 3, "undecided": 2}
    assert entry["refs"] == ["RISK-12", "RISK-13"]


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5])
def test_another_schema_version_is_refused(version):
    body = json.loads(report(FULL).to_json()) | {"schema_version": version}
    with pytest.raises(EvidenceError, match=f"schema_version {version}, this cnnaudit reads 1"):
        Report.from_json(json.dumps(body))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", "null", '"schema_version"'])
def test_what_is_no_report_is_refused(text):
    with pytest.raises(EvidenceError, match="this is not a cnnaudit report"):
        Report.from_json(text)


@pytest.mark.parametrize("lost", ["verdicts", "settings", "rule", "outcome"])
def test_a_mutilated_report_is_refused(lost):
    body = json.loads(report(FULL).to_json())
    for part in (body, body["verdicts"][0]):
        part.pop(lost, None)
    with pytest.raises(EvidenceError):
        Report.from_json(json.dumps(body))


# --- outcomes and exit codes ------------------------------------------------------------------------------------


def outcomes(*given, severity="error", undecided="fail"):
    return report(*(verdict(o, severity=severity) for o in given), undecided=undecided)


P, F, U, N, E = Outcome.PASS, Outcome.FAIL, Outcome.UNDECIDED, Outcome.NOT_APPLICABLE, Outcome.ERROR
M = Outcome.MEASURED


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ([P], 0),
        ([P, N], 0),
        ([N], 2),  # nothing was judged, though each rule was told to be skipped
        ([P, F], 1),
        ([U], 3),
        ([U, F], 1),
        ([E], 2),
        ([E, F, U, P], 2),
        ([], 2),  # nothing was judged
        ([M], 2),
        ([M, N], 2),
        ([M, P], 0),
        ([M, F], 1),
        ([M, U], 3),
        ([M, E], 2),
    ],
)
def test_exit_codes(given, code):
    found = outcomes(*given)
    assert found.exit_code == code
    assert found.passed == (code == 0)
    assert found.summary["exit_code"] == code
    assert outcomes(*reversed(given)).exit_code == code


@pytest.mark.parametrize("severity", ["warning", "note"])
def test_what_is_no_error_does_not_fail_the_audit(severity):
    assert outcomes(F, severity=severity).exit_code == 0
    assert outcomes(U, severity=severity).exit_code == 0
    assert outcomes(E, severity=severity).exit_code == 2  # could not be evaluated, whatever a failure would count as
    mixed = report(verdict(F, severity=severity), verdict(U, severity="error"))
    assert mixed.exit_code == 3


def test_undecided_counts_as_the_spec_says():
    assert outcomes(U, P, undecided="pass").exit_code == 0
    assert outcomes(U, F, undecided="pass").exit_code == 1
    assert outcomes(U, E, undecided="pass").exit_code == 2
    assert report(verdict(U), settings={}).exit_code == 3  # the default is the strict one


def test_a_rule_is_as_grave_as_its_gravest_site():
    found = report(
        *(verdict(o, rule="mixed") for o in (P, N, U)),
        *(verdict(o, rule="failing") for o in (U, F, P)),
        *(verdict(o, rule="broken") for o in (F, E)),
        verdict(N, rule="skipped"),
    )
    assert [found.outcome(r) for r in ("mixed", "failing", "broken", "skipped", "unknown")] == [U, F, E, N, N]
    assert found.summary["rules"] == {
        "pass": 0,
        "fail": 1,
        "undecided": 1,
        "waived": 0,
        "measured": 0,
        "not_applicable": 1,
        "error": 1,
    }
    assert found.summary["verdicts"] == {
        "pass": 2,
        "fail": 2,
        "undecided": 2,
        "waived": 0,
        "measured": 0,
        "not_applicable": 2,
        "error": 1,
    }


def test_measuring_decides_nothing_where_anything_is_judged():
    found = report(
        *(verdict(o, rule="judged") for o in (M, P)),
        *(verdict(o, rule="shown", severity="note") for o in (M, N)),
        *(verdict(o, rule="broken", severity="note") for o in (M, E)),
    )
    assert [found.outcome(r) for r in ("judged", "shown", "broken")] == [P, M, E]
    assert found.summary["rules"]["measured"] == 1
    assert found.summary["verdicts"]["measured"] == 3


def test_a_rule_stands_in_the_file_that_it_was_taken_over_from():
    found = report(verdict(), verdict(file="cnnaudit:recommended", line=12), verdict(line=0))
    assert [found.where(v) for v in found.verdicts] == ["x.audit.yaml:4", "cnnaudit:recommended:12", "x.audit.yaml"]


def test_a_report_from_before_there_were_twins_and_packs_is_read():
    body = json.loads(report(FULL).to_json())
    for key in ("null", "file", "pack"):
        del body["verdicts"][0][key]
    assert Report.from_json(json.dumps(body)).verdicts == (FULL,)
