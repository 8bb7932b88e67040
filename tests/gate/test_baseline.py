"""The accepted run: written whole, read back, compared with what measures the same and nothing else."""

import hashlib
import json
import os
from dataclasses import replace

import pytest
from audits import mean, report, terms, verdict

from cnnaudit.errors import EvidenceError
from cnnaudit.gate.baseline import Baseline, compare, read, record
from cnnaudit.result import Outcome, Report

OLD = report(verdict(site="conv1", mean=mean(0.5)), verdict(site="conv2", mean=mean(0.25)))


def against(new, old=OLD):
    return compare(new, Baseline(old, "base.json", "f" * 64))


def refused(new, old=OLD):
    with pytest.raises(EvidenceError) as caught:
        against(new, old)
    first, *listed, last = str(caught.value).splitlines()
    assert first == "base.json: this run cannot be compared with the baseline:"
    assert "--update-baseline" in last
    return [line.strip() for line in listed]


def test_each_site_is_compared_right_behind_its_rule():
    rules = {"sparse": terms(), "free": terms(absolute=None), "weak": terms("lower", 0.25)}
    old = report(*(verdict(rule, mean=mean(0.5)) for rule in rules), rules=rules)
    new = report(*(verdict(rule, mean=mean(0.75)) for rule in rules), rules=rules)
    found = against(new, old)
    assert [(v.rule, v.outcome, v.value) for v in found.verdicts if v.side == "max_regression"] == [
        ("sparse:regression", Outcome.FAIL, 0.25),
        ("weak:regression", Outcome.PASS, -0.25),
    ]
    assert found.rules == ("sparse", "sparse:regression", "free", "weak", "weak:regression")
    assert found.exit_code == 1
    assert found.gate["baseline"] == {"path": "base.json", "sha256": "f" * 64, "model": "1" * 64, "date": "2026-11-30"}


def test_slices_and_ops_are_told_apart():
    places = [{"slice": "scanner=a"}, {"slice": "scanner=b"}, {"op": "pool"}]
    old = report(*(verdict(mean=mean(i / 4), **place) for i, place in enumerate(places)))
    found = against(report(*(verdict(mean=mean(0.5), **place) for place in reversed(places))), old)
    assert [v.value for v in found.of("sparse:regression")] == [0.0, 0.25, 0.5]


def test_a_fail_is_corrected_for_the_sites_that_were_compared():
    """One error off by 1.7: at one site that is surely worse, at two it is not, however many were not measured."""
    half = 1.959964 * 0.1
    worse = mean(0.17, 0.17 - half, 0.17 + half)
    none = [verdict(site=f"off{i}", outcome="not_applicable", value=None) for i in range(9)]
    rules = {"sparse": terms(absolute=0)}
    old = report(*(verdict(site=s, mean=mean(0.0)) for s in ("a", "b")), rules=rules)
    one = against(report(verdict(site="a", mean=worse), *none, rules=rules), old)
    two = against(report(*(verdict(site=s, mean=worse) for s in ("a", "b")), rules=rules), old)
    assert [v.outcome for v in one.of("sparse:regression")] == [Outcome.FAIL]
    assert [v.outcome for v in two.of("sparse:regression")] == [Outcome.UNDECIDED] * 2


def test_what_only_one_run_has_is_told():
    found = against(report(verdict(site="conv1", mean=mean(0.5)), verdict(site="new", mean=mean(0.5))))
    assert [(v.site, v.outcome) for v in found.of("sparse:regression")] == [
        ("conv1", Outcome.PASS),
        ("new", Outcome.ERROR),
    ]
    assert found.exit_code == 2
    assert any("conv2" in note and "nothing is compared there" in note for note in found.notes)


def test_what_replaces_a_baseline_is_compared_as_far_as_both_go():
    """A new site, or a rule that measures something else now, must not hide what another one lost."""
    rules = {"sparse": terms(), "weak": terms()}
    old = report(*(verdict(rule, mean=mean(0.5)) for rule in rules), rules=rules)
    now = {"sparse": terms(), "weak": terms(at=["conv1"])}
    new = report(
        verdict(mean=mean(0.75)), verdict(site="new", mean=mean(0.5)), verdict("weak", mean=mean(0.5)), rules=now
    )
    found = compare(new, Baseline(old, "base.json", "f" * 64), replaced=True)
    compared = [(v.rule, v.site, v.outcome) for v in found.verdicts if v.side == "max_regression"]
    assert compared == [("sparse:regression", "conv1", Outcome.FAIL)]
    assert [note for note in found.notes if "Not compared with the old baseline" in note] == [
        "Not compared with the old baseline base.json: rule weak: at: baseline ['**'], this run ['conv1']; "
        "rule sparse: nothing is known of new."
    ]
    with pytest.raises(EvidenceError, match=r"data\.sha256"):
        compare(replace(new, data={**new.data, "sha256": "3" * 64}), Baseline(old, "b", ""), replaced=True)


def test_a_site_that_cannot_be_evaluated_gets_no_second_verdict():
    found = against(report(verdict(site="conv1", outcome="error", value=None), verdict(site="conv2", mean=mean(0.25))))
    assert [v.site for v in found.of("sparse:regression")] == ["conv2"]


@pytest.mark.parametrize(
    ("part", "name", "value", "told"),
    [
        ("data", "sha256", "3" * 64, "data.sha256: baseline 222222222222..., this run 333333333333..."),
        ("data", "n_images", 401, "data.n_images: baseline 400, this run 401"),
        ("data", "order", "as given", "data.order: baseline seeded, this run as given"),
        ("data", "transform", "crop 224", "data.transform: baseline none, this run crop 224"),
        ("data", "sources", 40, "data.sources: baseline none, this run 40"),
        ("settings", "seed", 1, "settings.seed: baseline 0, this run 1"),
        ("settings", "block", 32, "settings.block: baseline none, this run 32"),
        ("settings", "crop", (8, 8), "settings.crop: baseline none, this run [8, 8]"),
        ("settings", "groups", 8, "settings.groups: baseline 4, this run 8"),
        ("settings", "max_images", 9, "settings.max_images: baseline none, this run 9"),
        ("settings", "mode", "training", "settings.mode: baseline none, this run training"),
        ("settings", "dtype", "float16", "settings.dtype: baseline none, this run float16"),
    ],
)
def test_another_measurement_is_refused_by_the_name_of_what_differs(part, name, value, told):
    assert refused(replace(OLD, **{part: {**getattr(OLD, part), name: value}})) == [told]


def test_every_difference_is_named_at_once():
    new = report(
        verdict(mean=mean(0.5)),
        rules={"sparse": terms(metric="activity/2", at=["stage1.**"]), "added": terms()},
        data={"n_images": 5},
    )
    assert refused(new) == [
        "data.n_images: baseline 400, this run 5",
        "rule sparse: at: baseline ['**'], this run ['stage1.**']",
        "rule sparse: metric: baseline activity/1, this run activity/2",
        "rule added: the baseline was recorded without it",
    ]


def test_a_baseline_without_means_is_refused():
    assert refused(OLD, report(verdict(), verdict(site="conv2"))) == [
        "rule sparse: the baseline has no means of it: the rule had no max_regression when it was recorded"
    ]


def test_bounds_and_reasons_may_differ_because_they_are_not_what_is_measured():
    new = replace(OLD, spec={**OLD.spec, "terms": {"sparse": terms(absolute=0.5, bounds={"max": 0.6})}})
    assert [v.bound for v in against(new).of("sparse:regression")] == [0.5, 0.5]


def test_what_may_matter_and_is_not_refused_is_a_note():
    old = report(*OLD.verdicts, verdict(rule="other", outcome="fail"), settings={"torch": "2.10"})
    first, second = against(replace(OLD, settings={**OLD.settings, "torch": "2.14"}), old).notes
    assert first.startswith("The baseline base.json had not passed itself (exit code 1)")
    assert second == "The baseline base.json was measured with torch 2.10, now 2.14."


def test_comparisons_count_as_rules_that_chance_may_mislead():
    means = [verdict(site="conv1", mean=mean(0.5, 0.4, 0.6)), verdict(site="conv2", mean=mean(0.25))]
    sampled = report(*means, settings={"family_wise_error": {"false_fail": 0.05, "false_pass": 0.05}})
    assert against(sampled).settings["family_wise_error"] == pytest.approx({"false_fail": 0.1, "false_pass": 0.05})
    assert against(OLD).settings["family_wise_error"] == {"false_fail": 0.0, "false_pass": 0.0}


def test_a_recorded_run_is_read_back_as_it_was(tmp_path):
    path = tmp_path / "base.json"
    groups = [(100, 0.5), (100, 0.25)]
    new = report(verdict(mean=mean(0.5, 0.4, 0.6, groups)), verdict(site="conv2", mean=mean(float("nan"))))
    record(new, path)
    found = read(path)
    assert found.report.verdicts[0] == new.verdicts[0]
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [v.outcome for v in compare(new, found).of("sparse:regression")] == [Outcome.PASS, Outcome.UNDECIDED]
    assert [file.name for file in tmp_path.iterdir()] == ["base.json"]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (report(verdict(outcome="fail", mean=mean(0.5))), "this run has not passed (exit code 1)"),
        (report(verdict(outcome="undecided", mean=mean(0.5))), "this run has not passed (exit code 3)"),
        (report(verdict(), rules={"sparse": terms(absolute=None)}), "no rule says what a regression is"),
    ],
)
def test_what_must_not_become_the_norm_is_not_recorded(tmp_path, bad, told):
    path = tmp_path / "base.json"
    path.write_text("the old one")
    with pytest.raises(EvidenceError) as caught:
        record(bad, path)
    assert str(caught.value).startswith(f"{path}: no baseline was recorded")
    assert told in str(caught.value)
    assert path.read_text() == "the old one"


def test_a_folder_cannot_be_a_baseline(tmp_path):
    with pytest.raises(EvidenceError, match=r"cannot be written.*give another path"):
        record(OLD, tmp_path / "missing" / "base.json")
    with pytest.raises(EvidenceError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"schema_version": 99}', b"\xff\xfe", b'{"schema_version": 1}'])
def test_what_is_no_report_is_refused_by_its_name(tmp_path, data):
    path = tmp_path / "base.json"
    path.write_bytes(data)
    with pytest.raises(EvidenceError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_nothing_that_a_comparison_needs_is_lost_in_json():
    assert Report.from_json(OLD.to_json()).spec["terms"] == json.loads(json.dumps(OLD.spec["terms"]))
    assert against(Report.from_json(OLD.to_json())).exit_code == 0


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("settings", "confidence"), None),
        (("settings", "confidence"), 1.0),
        (("model", "sha256"), None),
        (("spec", "terms"), 3),
        (("spec", "terms", "sparse"), None),
        (("spec", "terms", "sparse", "measures"), "x"),
        (("coverage", "not_covered"), [1]),
        (("settings",), None),
        (("verdicts", 0, "site"), [1]),
        (("verdicts", 0, "severity"), "none"),
        (("verdicts", 0, "mean", "value"), "x"),
        (("verdicts", 0, "mean", "value"), 10**400),
        (("verdicts", 0, "mean", "groups"), [[1, {}]]),
    ],
)
def test_what_is_damaged_is_refused_when_it_is_read(tmp_path, place, value):
    told = json.loads(OLD.to_json())
    *way, name = place
    part = told
    for step in way:
        part = part[step]
    part[name] = value
    (tmp_path / "base.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(EvidenceError, match="incomplete or damaged"):
        read(tmp_path / "base.json")


def test_a_deep_or_endless_baseline_is_refused(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(EvidenceError, match="not a cnnaudit report"):
        read(tmp_path / "deep.json")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EvidenceError, match="this is no file"):
        read(tmp_path / "pipe")
