"""JUnit XML, read back by junitparser."""

from collections import Counter
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from junitparser import Error, Failure, JUnitXml, Skipped
from made import EMPTY, FULL, LENIENT, MADE, NAMES, SEEN, report_of, verdict

from cnnaudit.report import as_junit
from cnnaudit.result import Outcome


def judges(report):
    """Whether a verdict says why the audit has not passed, where it has not."""
    return report.passed or not {v.outcome for v in report.verdicts} <= {Outcome.MEASURED, Outcome.NOT_APPLICABLE}


def suite_of(report):
    (suite,) = JUnitXml.fromstring(as_junit.render(report).encode())
    return suite


def outcomes_of(report):
    """For each test case what it is to a reader of JUnit, and the outcome that is told as its type."""
    return {
        case.name: next(((type(result), result.type) for result in case.result), (None, ""))
        for case in suite_of(report)
    }


@pytest.mark.parametrize("name", [name for name, report in MADE.items() if judges(report)])
def test_the_counts_are_those_of_the_report(name):
    report = MADE[name]
    suite = suite_of(report)
    cases = list(suite)
    told = Counter(result.type for case in cases for result in case.result)
    expected = report.summary["verdicts"]
    quiet = (Outcome.PASS, Outcome.MEASURED)
    assert told == Counter({outcome: expected[outcome] for outcome in Outcome if outcome not in quiet})
    assert len(cases) - told.total() == sum(expected[outcome] for outcome in quiet)
    kinds = Counter(type(result) for case in cases for result in case.result)
    assert suite.tests == len(cases) == len(report.verdicts)
    assert (suite.failures, suite.errors, suite.skipped) == (kinds[Failure], kinds[Error], kinds[Skipped])


@pytest.mark.parametrize("name", MADE)
def test_a_suite_is_red_where_the_exit_code_is_not_0(name):
    suite = suite_of(MADE[name])
    assert bool(suite.failures or suite.errors) == (MADE[name].exit_code != 0)


def test_an_audit_that_judged_nothing_is_an_error_of_its_own():
    suite = suite_of(report_of(verdict("shown", "measured", **SEEN)))
    assert (suite.tests, suite.errors) == (2, 1)
    *_, case = suite
    (found,) = case.result
    assert (case.name, found.type) == ("cnnaudit:nothing-judged", "error")
    assert found.message.startswith("nothing was judged: NOT PASSED: ")


def test_one_test_case_for_each_rule_and_site():
    cases = outcomes_of(FULL)
    assert len(cases) == len(FULL.verdicts)
    assert cases["a-passes at layer1.conv1"] == (None, "")
    assert cases["b-fails at layer3.conv1"] == (Failure, "fail")
    assert cases["b-fails at layer4.conv1"] == (Failure, "undecided")
    assert cases["b-fails at layer8.conv1"] == (Skipped, "waived")
    assert cases["b-fails:regression at layer2.conv1"] == (Failure, "fail")
    assert cases["c-elsewhere at layer5.conv1"] == (Skipped, "not_applicable")
    assert cases["d-crashed at layer6.conv1"] == (Error, "error")
    assert cases["e-warns at layer7.conv1"] == (Skipped, "fail")
    assert cases["g-measured at layer7.conv1"] == (None, "")
    assert cases["h-by at layer1.conv1 [scanner=A]"] == (Failure, "fail")
    assert cases["l-absent"] == (Error, "error")
    assert cases["waivers:expired at net.waivers.yaml:24"] == (Skipped, "fail")
    assert cases["audit:coverage"] == (Failure, "fail")
    assert outcomes_of(LENIENT)["a at layer1.conv1"] == (Skipped, "undecided")


def test_a_test_case_stands_in_its_rule_file():
    places = {case.name: (case.classname, case._elem.get("line")) for case in suite_of(FULL)}
    assert places["b-fails at layer3.conv1"] == ("net.audit.yaml", "12")
    assert places["i-pack at layer1.conv1"] == ("net.audit.yaml", "1")
    assert places["j-file at layer2.conv2"] == ("shared/base.audit.yaml", "33")
    assert places["waivers:unused at net.waivers.yaml:14"] == ("net.waivers.yaml", "14")


def test_messages_tell_what_was_measured_and_who_accepted_it():
    told = {case.name: case.result[0] for case in suite_of(FULL) if case.result}
    measured = "layer2.conv1 (conv): activity.apoz = 0.9123 fraction, 95 % interval [0.9, 0.925], bound max 0.85"
    assert told["b-fails at layer2.conv1"].message == f"net.audit.yaml:12: b-fails: {measured}"
    assert told["b-fails at layer2.conv1"].text.splitlines() == [
        measured,
        "images: 1,200 read",
        "Because.",
        "Bad.",
        "Mend it.",
    ]
    assert told["b-fails at layer8.conv1"].message == (
        "waived, accepted_risk by ann until 2027-03-01, approved by bob on 2026-11-01, ticket NET-12 "
        "(net.waivers.yaml:4): pruned on purpose"
    )
    assert told["e-warns at layer7.conv1"].message.startswith("failed, decides nothing (warning): net.audit.yaml:7: ")
    assert told["waivers:unused at net.waivers.yaml:14"].message == (
        "failed, decides nothing (warning): net.waivers.yaml:14: waivers:unused: Nothing is waived by it."
    )
    assert told["c-elsewhere at layer5.conv1"].message == "Not measured: no zeros."
    assert "0.05 fraction worse than the baseline's 0.4" in told["b-fails:regression at layer2.conv1"].message


def test_what_passes_tells_its_numbers():
    told = {case.name: case.system_out for case in suite_of(FULL)}
    assert told["a-passes at layer1.conv1"].startswith("layer1.conv1 (conv): activity.apoz = 0.9123 fraction")
    assert told["g-measured at layer7.conv1"].startswith("layer7.conv1 (conv): activity.apoz = 1.5 fraction")


def test_the_suite_tells_what_an_auditor_needs():
    suite = suite_of(replace(FULL, settings=FULL.settings | {"torch": "2.14.1", "seed": 0}))
    properties = {found.name.removeprefix("cnnaudit."): found.value for found in suite.properties()}
    assert suite.name == "net.audit.yaml"
    assert properties["rules"] == f"net.audit.yaml (sha256 {'0' * 64})"
    assert properties["model"] == "net.py:build with w.safetensors: 3 conv"
    assert properties["parameters_and_buffers"] == f"sha256 {'1' * 64}"
    assert properties["images_and_labels"] == f"sha256 {'2' * 64}"
    assert "cnnaudit 0.1.0.dev0" in properties["versions"]
    assert "torch 2.14.1" in properties["versions"]
    assert properties["seed"] == "0"
    assert properties["exit_code"] == "2"
    assert properties["waivers"] == f"net.waivers.yaml (sha256 {'4' * 64}, 4 entries)"
    assert properties["coverage"] == "57 of 61 sites are under a rule; not covered: pool0, pool1, pool2, pool3"
    counts = {name.removeprefix("verdicts."): int(n) for name, n in properties.items() if name.startswith("verdicts.")}
    assert counts == FULL.summary["verdicts"]


def test_names_that_xml_cannot_hold_stay_apart():
    names = [f"s{chr(code)}" for code in (*range(32), 0x7F, 0xFFFE, 0xD800, 0x2028, 0x1F600)]
    text = as_junit.render(report_of(*(verdict("r", "fail", site=name, detail=name, **SEEN) for name in names)))
    found = [case.get("name") for case in ET.fromstring(text.encode()).iter("testcase")]  # noqa: S314 - our own
    assert len(set(found)) == len(names)
    assert found[0] == "r at s\\u0000"
    assert found[-1] == "r at s\U0001f600"


def test_markup_in_names_is_text():
    names = {case.name for case in suite_of(MADE["awkward"])}
    assert f"rule {NAMES[0]} at site {NAMES[0]}" in names
    assert f"rule {NAMES[3]} at site {NAMES[3]}" in names


def test_an_empty_report_has_judged_nothing():
    assert [case.name for case in suite_of(EMPTY)] == ["cnnaudit:nothing-judged"]
