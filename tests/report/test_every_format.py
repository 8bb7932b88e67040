"""Every format there is shows every verdict, whatever its names are, and the same counts."""

import json
import re
import string
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from junitparser import JUnitXml
from made import MADE

from cnnaudit.report import formats, render
from cnnaudit.report.words import OUTCOMES
from cnnaudit.result import Outcome, Report

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(__file__).parent / "schemas"
LOUD = (Outcome.FAIL, Outcome.UNDECIDED, Outcome.ERROR)
# A code review must not show as open what was accepted: there it is counted.
COUNT_WAIVED = ("github", "gitlab", "sarif")


@pytest.fixture(scope="module")
def reports(audited):
    return MADE | {"audited": audited}


@pytest.fixture(params=[*MADE, "audited"])
def report(request, reports, monkeypatch):
    monkeypatch.chdir(ROOT)
    return reports[request.param]


every_format = pytest.mark.parametrize("name", formats())


class _Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.texts = []
        self.feed(text)

    def handle_data(self, data):
        self.texts.append(data)


def strings(value):
    """All strings of a JSON value."""
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


def read(text):
    """What a reader of a format sees of it: JSON, XML, HTML, workflow commands, or else the text as it is."""
    if text.startswith(("{", "[")):
        return " ".join(strings(json.loads(text)))
    if text.startswith("<?xml"):
        elements = list(ET.fromstring(text.encode()).iter())  # noqa: S314 - our own
        shown = " ".join(part for e in elements for part in (*e.attrib.values(), e.text or ""))
        return re.sub(r"\\u[0-9a-f]{4}", "", shown)
    if text.lower().startswith("<!doctype html"):
        return " ".join(_Page(text).texts)
    if text.startswith("::"):
        return re.sub("%(0A|0D|25|2C|3A)", lambda sign: chr(int(sign[1], 16)), text)
    return text


NOTHING = "cnnaudit:nothing-judged"  # an entry of those formats that have one for each verdict or rule


def letters(text):
    """A name without what formats escape, break or wrap."""
    return "".join(filter(str.isalnum, text))


def shown(text, name):
    return letters(name) in text


@every_format
def test_no_verdict_is_lost(report, name):
    text = render(report, name)
    assert text.endswith("\n")
    seen = letters(read(text))
    for v in report.verdicts:
        if v.outcome in LOUD or (v.outcome is Outcome.WAIVED and name not in COUNT_WAIVED):
            assert shown(seen, v.rule)
            assert shown(seen, v.site)
            assert shown(seen, v.slice)
            assert v.site or shown(seen, v.detail)  # what is about no site says what it is about


@every_format
def test_the_counts_are_those_of_the_report(report, name):
    text, summary = render(report, name), report.summary
    if name == "json":
        assert json.loads(text)["summary"] == summary
    elif name == "sarif":
        (run,) = json.loads(text)["runs"]
        assert run["properties"]["verdicts"] == summary["verdicts"]
        assert run["properties"]["rules"] == summary["rules"]
        assert Counter(result["properties"]["outcome"] for result in run["results"]) == Counter(
            {outcome: summary["rules"][outcome] for outcome in LOUD}
        )
    elif name == "junit":
        cases = ET.fromstring(text.encode()).iter("testcase")  # noqa: S314 - our own
        told = Counter(
            e.get("type") for case in cases if case.get("name") != NOTHING for e in case.iter() if e.get("type")
        )
        quiet = (Outcome.PASS, Outcome.MEASURED)
        assert told == Counter({o: summary["verdicts"][o] for o in Outcome if o not in quiet})
    elif name == "gitlab":
        entries = json.loads(text)
        listed = [entry for entry in entries if entry["check_name"] not in ("cnnaudit:waived", NOTHING)]
        assert len(listed) == sum(summary["rules"][outcome] for outcome in LOUD)
        waived = summary["verdicts"]["waived"]
        assert [
            f"{waived} waived result" in e["description"] for e in entries if e["check_name"] == "cnnaudit:waived"
        ] == [True] * (waived > 0)
    else:
        seen = " ".join(read(text).split())
        for outcome, word in OUTCOMES.items():
            count = summary["rules"][outcome]
            assert (f"{count} {word}" in seen) == (count > 0)
        if name == "github" and (waived := summary["verdicts"]["waived"]):
            assert f"{waived} waived result" in seen


@every_format
def test_a_report_says_the_same_again(report, name):
    assert render(report, name) == render(report, name)


@every_format
def test_a_report_that_was_stored_says_the_same(report, name):
    """In another order at most: JSON sorts what it stores by name."""
    again = render(Report.from_json(report.to_json()), name)
    assert sorted(re.findall(r"\w+", again)) == sorted(re.findall(r"\w+", render(report, name)))


@every_format
def test_nothing_tells_of_the_machine(report, name, tmp_path):
    text = render(report, name)
    for folder in (ROOT, Path.home(), tmp_path.parent):
        assert str(folder) not in text


@every_format
def test_what_goes_to_a_terminal_cannot_steer_it(name):
    """Control characters of names are shown, or dropped: a report is read in terminals and logs."""
    allowed = set(string.whitespace) - set("\v\f\r")
    text = render(MADE["awkward"], name)
    assert not {sign for sign in text if ord(sign) < 32} - allowed


class TestSchemas:
    @pytest.mark.parametrize("options", [{}, {"include_suppressed": True}])
    def test_sarif(self, report, options):
        schema = json.loads((SCHEMAS / "sarif-2.1.0.json").read_text(encoding="utf-8"))
        jsonschema.Draft4Validator(schema).validate(json.loads(render(report, "sarif", **options)))

    def test_gitlab(self, report):
        schema = json.loads((SCHEMAS / "gitlab-code-quality.json").read_text(encoding="utf-8"))
        jsonschema.Draft7Validator(schema).validate(json.loads(render(report, "gitlab")))

    def test_junit(self, report):
        (suite,) = JUnitXml.fromstring(render(report, "junit").encode())
        assert suite.tests == len(report.verdicts) + (NOTHING in [case.name for case in suite])


def test_the_real_network_is_judged_as_it_was_broken(reports):
    assert reports["audited"].summary["rules"]["fail"] == 5
