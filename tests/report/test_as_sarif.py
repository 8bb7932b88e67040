"""SARIF: by the OASIS schema, and each thing that GitHub's documentation demands by a check of its own."""

import gzip
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import jsonschema
import pytest
from made import FULL, MADE, SEEN, WAIVER, report_of, verdict

from cnnaudit.report import as_sarif
from cnnaudit.result import Outcome

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "sarif-2.1.0.json").read_text(encoding="utf-8"))
OASIS = jsonschema.Draft4Validator(SCHEMA)
BOTH = pytest.mark.parametrize("include_suppressed", [False, True])
REPORTS = pytest.mark.parametrize("name", MADE)


def run_of(report, **options):
    (run,) = json.loads(as_sarif.render(report, **options))["runs"]
    return run


def results_of(report, **options):
    return {result["ruleId"]: result for result in run_of(report, **options)["results"]}


@BOTH
@REPORTS
def test_it_is_sarif(name, include_suppressed):
    OASIS.check_schema(SCHEMA)
    log = json.loads(as_sarif.render(MADE[name], include_suppressed=include_suppressed))
    OASIS.validate(log)
    assert log["$schema"] == SCHEMA["id"]


def test_the_schema_sees_a_mistake():
    log = json.loads(as_sarif.render(FULL))
    log["runs"][0]["results"][0]["level"] = "critical"
    assert not OASIS.is_valid(log)


@BOTH
@REPORTS
class TestWhatGitHubReads:
    """https://docs.github.com/en/code-security/reference/code-scanning/sarif-files/sarif-support, table by table."""

    def test_log_and_tool(self, name, include_suppressed):
        log = json.loads(as_sarif.render(MADE[name], include_suppressed=include_suppressed))
        assert log["version"] == "2.1.0"
        assert len(log["runs"]) == 1
        driver = log["runs"][0]["tool"]["driver"]
        assert driver["name"] == "cnnaudit"
        assert driver["semanticVersion"] == "0.1.0-dev0"
        assert len(driver["rules"]) <= 25_000

    def test_rules(self, name, include_suppressed):
        rules = run_of(MADE[name], include_suppressed=include_suppressed)["tool"]["driver"]["rules"]
        assert [rule["id"] for rule in rules] == list(MADE[name].rules)
        for rule in rules:
            for text in (rule["shortDescription"]["text"], rule["fullDescription"]["text"]):
                assert 0 < len(text) <= 1_024
            assert rule["help"]["text"]
            assert rule["help"]["markdown"]
            assert rule["defaultConfiguration"]["level"] in ("error", "warning", "note")
            assert len(rule["properties"]["tags"]) <= 10
            assert rule["properties"]["precision"] in ("very-high", "high", "medium", "low")
            assert rule["properties"]["problem.severity"] in ("error", "warning", "recommendation")
            assert "security-severity" not in rule["properties"]  # it would make a security alert of it

    def test_results(self, name, include_suppressed):
        run = run_of(MADE[name], include_suppressed=include_suppressed)
        ids = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
        assert len(run["results"]) <= 25_000
        for result in run["results"]:
            assert result["ruleId"] in ids
            assert result["level"] in ("error", "warning", "note")
            assert result["message"]["text"]
            (location,) = result["locations"]
            assert len(location["logicalLocations"]) <= 1_000
            uri = location["physicalLocation"]["artifactLocation"]["uri"]
            assert not urlsplit(uri).scheme
            assert not uri.startswith(("/", "./", "../"))
            region = location["physicalLocation"]["region"]
            assert region["startLine"] == region["endLine"] >= 1
            assert (region["startColumn"], region["endColumn"]) == (1, 2)

    def test_fingerprints(self, name, include_suppressed):
        results = run_of(MADE[name], include_suppressed=include_suppressed)["results"]
        prints = [result["partialFingerprints"] for result in results]
        assert all(re.fullmatch(r"[0-9a-f]{16}:1", found["primaryLocationLineHash"]) for found in prints)
        for kind in ("primaryLocationLineHash", "cnnaudit/v1"):
            assert len({found[kind] for found in prints}) == len(results)

    def test_category(self, name, include_suppressed):
        identity = run_of(MADE[name], include_suppressed=include_suppressed)["automationDetails"]["id"]
        assert identity == "cnnaudit/net.audit.yaml-net.py-build/"

    def test_what_it_would_show_as_open_alerts_is_left_out(self, name, include_suppressed):
        results = run_of(MADE[name], include_suppressed=include_suppressed)["results"]
        accepted = [result["ruleId"] for result in results if "suppressions" in result]
        waived = dict.fromkeys(v.rule for v in MADE[name].verdicts if v.outcome is Outcome.WAIVED)
        assert accepted == (list(waived) if include_suppressed else [])


def test_one_result_for_each_rule_that_is_not_kept_the_worst_first():
    found = run_of(FULL)["results"]
    assert [(r["ruleId"], r["level"], r["properties"]["outcome"]) for r in found] == [
        ("d-crashed", "error", "error"),
        ("l-absent", "error", "error"),
        ("b-fails", "error", "fail"),
        ("b-fails:regression", "error", "fail"),
        ("h-by", "error", "fail"),
        ("i-pack", "error", "fail"),
        ("audit:coverage", "error", "fail"),
        ("j-file", "error", "undecided"),
        ("e-warns", "warning", "fail"),
        ("waivers:expired", "warning", "fail"),
        ("waivers:unused", "warning", "fail"),
        ("f-notes", "note", "fail"),
    ]


def test_a_result_stands_at_its_rules_line_and_names_its_layers():
    (location,) = results_of(FULL)["b-fails"]["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "net.audit.yaml"
    assert location["physicalLocation"]["region"]["startLine"] == 12
    assert [place["fullyQualifiedName"] for place in location["logicalLocations"]] == [
        "layer3.conv1",
        "layer2.conv1",
        "layer4.conv1",
    ]
    (location,) = results_of(FULL)["h-by"]["locations"]
    assert location["logicalLocations"][0] == {
        "name": "layer1.conv1",
        "fullyQualifiedName": "layer1.conv1 [scanner=A]",
        "kind": "conv",
    }


def places_of(report):
    return {
        rule: (where["artifactLocation"]["uri"], where["region"]["startLine"])
        for rule, result in results_of(report).items()
        for where in [result["locations"][0]["physicalLocation"]]
    }


def test_what_stands_in_no_line_of_the_repository_is_shown_at_the_first_of_the_rule_file():
    places = places_of(FULL)
    assert places["i-pack"] == places["audit:coverage"] == ("net.audit.yaml", 1)
    assert places["j-file"] == ("shared/base.audit.yaml", 33)
    assert places["waivers:expired"] == ("net.waivers.yaml", 4)


def test_places_are_told_from_the_root_of_the_repository(tmp_path, monkeypatch):
    inner = tmp_path / "my models"
    inner.mkdir()
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(inner)
    for path, shown in {
        "net.audit.yaml": "my models/net.audit.yaml",
        "../net.audit.yaml": "net.audit.yaml",
        str(inner / "naïve #1.audit.yaml"): "my models/naïve #1.audit.yaml",
        os.fspath(tmp_path.parent / "net.audit.yaml"): "net.audit.yaml",  # elsewhere: only its name
    }.items():
        (uri, _) = places_of(report_of(verdict("a", "fail", **SEEN), spec={"path": path}))["a"]
        assert unquote(uri) == shown
        assert re.fullmatch(r"[A-Za-z0-9./%-]+", uri)


def test_models_have_categories_of_their_own():
    other = replace(FULL, model=FULL.model | {"source": "torchvision:resnet18"})
    assert run_of(other)["automationDetails"]["id"] == "cnnaudit/net.audit.yaml-torchvision-resnet18/"


def test_a_category_is_the_same_on_every_machine(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    absolute = replace(FULL, spec=FULL.spec | {"path": str(tmp_path / "net.audit.yaml")})
    assert run_of(absolute)["automationDetails"] == run_of(FULL)["automationDetails"]
    assert str(tmp_path) not in as_sarif.render(absolute)


def test_the_run_counts_everything():
    run = run_of(FULL)
    assert run["properties"]["verdicts"] == FULL.summary["verdicts"]
    assert run["properties"]["rules"] == FULL.summary["rules"]
    assert run["properties"]["verdicts"]["waived"] == 2
    assert run["properties"]["sha256"] == {"spec": "0" * 64, "model": "1" * 64, "data": "2" * 64}
    assert run["properties"]["coverage"]["covered"] == 57
    (invocation,) = run["invocations"]
    assert (invocation["exitCode"], invocation["executionSuccessful"]) == (2, False)
    told = [note["message"]["text"] for note in invocation["toolExecutionNotifications"]]
    assert told[0] == "The model was captured eagerly."
    assert told[-1].startswith("NOT PASSED: ")


def test_waived_results_are_told_where_they_are_asked_for():
    results = run_of(FULL, include_suppressed=True)["results"]
    accepted = results[-2:]
    assert [(result["ruleId"], result["baselineState"]) for result in accepted] == [
        ("b-fails", "unchanged"),
        ("k-waived", "unchanged"),
    ]
    assert accepted[0]["suppressions"] == [
        {
            "kind": "external",
            "status": "accepted",
            "justification": "waived, accepted_risk by ann until 2027-03-01, approved by bob on 2026-11-01, "
            "ticket NET-12 (net.waivers.yaml:4): pruned on purpose",
        }
    ]
    assert {result["baselineState"] for result in results[:-2]} == {"new"}
    assert all("baselineState" not in result for result in run_of(FULL)["results"])


def test_several_waivers_of_one_rule_are_one_result():
    two = [verdict("a", "waived", site=f"s{n}", **SEEN, waiver=WAIVER | {"place": f"w.yaml:{n}"}) for n in (1, 1, 2)]
    (result,) = run_of(report_of(*two), include_suppressed=True)["results"]
    told = [found["justification"].partition("NET-12 ")[2] for found in result["suppressions"]]
    assert told == ["(w.yaml:1): pruned on purpose", "(w.yaml:2): pruned on purpose"]


def test_an_undecided_rule_weighs_what_the_exit_code_makes_of_it():
    strict = replace(MADE["lenient"], settings=MADE["lenient"].settings | {"undecided": "fail"})
    assert results_of(MADE["lenient"])["a"]["level"] == "note"
    assert results_of(strict)["a"]["level"] == "error"


def test_long_texts_are_cut():
    long = report_of(
        verdict("a", "fail", why="Because. " * 1_000, detail="Bad. " * 9_000, refs=tuple("abcdefghijk"), **SEEN)
    )
    run = run_of(long)
    (rule,) = run["tool"]["driver"]["rules"]
    assert len(rule["fullDescription"]["text"]) <= 1_024
    assert rule["properties"]["tags"] == ["cnn", "information-flow", "activity", *"abcdefg"]
    assert len(run["results"][0]["message"]["text"]) <= 16_000


def test_more_results_than_github_takes_are_left_out_and_told(monkeypatch):
    assert as_sarif._RESULTS == 25_000
    monkeypatch.setattr(as_sarif, "_RESULTS", 250)
    count = 260
    many = report_of(
        *(verdict(f"r{n}", "pass", value=0.0, side="max", bound=1.0, low=0.0, high=0.0) for n in range(5)),
        *(verdict(f"w{n}", "fail", severity="warning", **SEEN) for n in range(count - 1)),
        verdict("worst", "fail", **SEEN),
    )
    run = run_of(many)
    assert len(run["results"]) == 250
    assert run["results"][0]["ruleId"] == "worst"
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert len(rules) == 250
    assert {result["ruleId"] for result in run["results"]} == rules
    (invocation,) = run["invocations"]
    assert "10 results left out" in invocation["toolExecutionNotifications"][0]["message"]["text"]
    assert run["properties"]["verdicts"]["fail"] == count


def test_a_file_that_is_too_large_loses_its_least_results(monkeypatch):
    assert as_sarif._BYTES == 10_000_000
    monkeypatch.setattr(as_sarif, "_BYTES", 4_000)
    many = report_of(*(verdict(f"r{n}", "fail", **SEEN, detail=f"{n**9:x}" * 30) for n in range(64)))
    text = as_sarif.render(many)
    assert len(gzip.compress(text.encode())) <= 4_000
    kept = json.loads(text)["runs"][0]["results"]
    assert [result["ruleId"] for result in kept] == [f"r{n}" for n in range(len(kept))]
    assert 0 < len(kept) < 64
    OASIS.validate(json.loads(text))
