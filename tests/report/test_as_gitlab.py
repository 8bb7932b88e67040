"""GitLab Code Quality, by its documented fields."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from made import FULL, MADE, SEEN, report_of, verdict

from cnnaudit.report import as_gitlab

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "gitlab-code-quality.json").read_text(encoding="utf-8"))


def entries(report):
    return json.loads(as_gitlab.render(report))


@pytest.mark.parametrize("name", MADE)
def test_it_is_what_gitlab_documents(name):
    found = entries(MADE[name])
    jsonschema.Draft7Validator(SCHEMA).validate(found)
    fingerprints = [entry["fingerprint"] for entry in found]
    assert len(set(fingerprints)) == len(fingerprints)


def test_the_schema_refuses_what_gitlab_ignores_or_drops():
    (entry, *_) = entries(FULL)
    validator = jsonschema.Draft7Validator(SCHEMA)
    for wrong in (
        entry | {"severity": "error"},
        entry | {"location": {"path": "./net.audit.yaml", "lines": {"begin": 1}}},
        entry | {"location": {"path": "net.audit.yaml", "lines": {"begin": 0}}},
        {key: value for key, value in entry.items() if key != "fingerprint"},
    ):
        assert not validator.is_valid([wrong])


@pytest.mark.parametrize("name", MADE)
def test_a_blocker_or_critical_entry_where_the_exit_code_is_not_0(name):
    grave = [entry for entry in entries(MADE[name]) if entry["severity"] in ("blocker", "critical")]
    assert bool(grave) == (MADE[name].exit_code != 0)


def test_an_audit_that_judged_nothing_is_a_blocker_of_its_own():
    (entry,) = entries(report_of(verdict("shown", "measured", **SEEN)))
    assert (entry["check_name"], entry["severity"]) == ("cnnaudit:nothing-judged", "blocker")
    assert entry["description"].startswith("nothing was judged: NOT PASSED: ")


def test_one_entry_for_each_rule_that_is_not_kept_the_worst_first():
    found = entries(FULL)
    places = [(entry["location"]["path"], entry["location"]["lines"]["begin"]) for entry in found]
    assert [(e["check_name"], e["severity"], *place) for e, place in zip(found, places, strict=True)] == [
        ("d-crashed", "blocker", "net.audit.yaml", 7),
        ("l-absent", "blocker", "net.audit.yaml", 7),
        ("b-fails", "critical", "net.audit.yaml", 12),
        ("b-fails:regression", "critical", "net.audit.yaml", 12),
        ("h-by", "critical", "net.audit.yaml", 7),
        ("i-pack", "critical", "net.audit.yaml", 1),
        ("audit:coverage", "critical", "net.audit.yaml", 1),
        ("j-file", "critical", "shared/base.audit.yaml", 33),
        ("e-warns", "minor", "net.audit.yaml", 7),
        ("waivers:expired", "minor", "net.waivers.yaml", 4),
        ("waivers:unused", "minor", "net.waivers.yaml", 14),
        ("f-notes", "info", "net.audit.yaml", 7),
        ("cnnaudit:waived", "info", "net.audit.yaml", 12),
    ]


def test_a_description_names_the_sites_with_their_numbers_the_worst_first():
    (description,) = [e["description"] for e in entries(FULL) if e["check_name"] == "b-fails"]
    assert description.splitlines() == [
        "b-fails fails at 2 of 5 sites.",
        "layer3.conv1 (conv): activity.apoz = 0.95 fraction, 95 % interval [0.9, 0.925], bound max 0.85",
        "layer2.conv1 (conv): activity.apoz = 0.9123 fraction, 95 % interval [0.9, 0.925], bound max 0.85",
        "layer4.conv1 (conv): undecided, activity.apoz = 0.9123 fraction, 95 % interval [0.9, 0.925], bound max 0.85, "
        "about 4,321 images needed",
        "Bad.",
        "Mend it.",
    ]


def test_findings_that_are_about_no_site_are_all_told():
    descriptions = {entry["check_name"]: entry["description"] for entry in entries(FULL)}
    assert descriptions["waivers:unused"] == "waivers:unused fails.\nNothing is waived by it."
    assert descriptions["waivers:expired"].splitlines() == [
        "waivers:expired fails.",
        "net.waivers.yaml:4: The waiver has expired.",
        "net.waivers.yaml:24: Another has expired, too.",
    ]
    assert descriptions["d-crashed"].splitlines() == [
        "d-crashed could not be evaluated at 1 of 1 site.",
        "layer6.conv1 (conv): The metric crashed.",
    ]


def test_waived_results_are_counted():
    assert entries(FULL)[-1]["description"].startswith("NOT PASSED: ")
    assert "2 waived results not listed" in entries(FULL)[-1]["description"]


def test_an_undecided_rule_weighs_what_the_exit_code_makes_of_it():
    strict = replace(MADE["lenient"], settings=MADE["lenient"].settings | {"undecided": "fail"})
    assert [e["severity"] for e in entries(MADE["lenient"])] == ["info"]
    assert [e["severity"] for e in entries(strict)] == ["critical"]


def test_a_fingerprint_does_not_know_value_line_or_site():
    before = report_of(verdict("a", "fail", **SEEN), verdict("b", "fail", **SEEN))
    after = report_of(
        verdict("b", "undecided", line=70, site="other", **SEEN | {"value": 0.5}), verdict("a", "fail", line=9, **SEEN)
    )
    assert {e["check_name"]: e["fingerprint"] for e in entries(before)} == {
        e["check_name"]: e["fingerprint"] for e in entries(after)
    }


def test_a_fingerprint_knows_rule_model_file_and_selector():
    at = {"terms": {"a": {"measures": {"at": ["stem.**"], "from": []}}}}
    one = verdict("a", "fail", **SEEN)
    reports = [
        report_of(one),
        report_of(replace(one, rule="b")),
        replace(report_of(one), model={"source": "other.py:build"}),
        report_of(one, spec={"path": "other.audit.yaml"}),
        report_of(one, spec=at),
    ]
    assert len({entries(report)[0]["fingerprint"] for report in reports}) == len(reports)


def test_more_sites_than_fit_are_named_and_then_counted():
    sites = [verdict("a", "fail", site=f"stage{n}.conv", **SEEN) for n in range(2_000)]
    (entry,) = entries(report_of(*sites))
    assert len(entry["description"]) <= 8_000
    lines = entry["description"].splitlines()
    assert lines[0] == "a fails at 2,000 of 2,000 sites."
    assert lines[1].startswith("stage0.conv (conv): activity.apoz = ")
    assert len(lines) == 22  # the first, twenty sites, and the others
    names, _, rest = lines[21].rpartition(" and ")
    assert names.startswith("also stage20.conv, stage21.conv, ")
    assert rest == f"{2_000 - 20 - len(names.split(', ')):,} more"
