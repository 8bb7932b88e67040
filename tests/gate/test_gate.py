"""The gate as a whole: a report goes in, and a report comes out."""

from datetime import date

import pytest

from cnnaudit import apply_gate, clock
from cnnaudit.errors import EvidenceError, SpecError
from cnnaudit.result import Outcome, Report, SiteMean, Verdict

PASS, FAIL, WAIVED = Outcome.PASS, Outcome.FAIL, Outcome.WAIVED
DAY = date(2026, 12, 1)


def verdict(outcome, *, value=0.3, mean=None, rule="dead", site="conv1"):
    return Verdict(
        rule=rule,
        line=4,
        severity="error",
        metric="activity",
        field="dead",
        unit="fraction",
        op="conv",
        site=site,
        outcome=outcome,
        value=value,
        low=value,
        high=value,
        bound=0.2,
        side="max",
        n_images=100,
        mean=None if mean is None else SiteMean(mean, mean, mean),
    )


def report(*verdicts, regression=None, sites=4, covered=3):
    missing = [{"site": f"pool{i}", "op": "pool"} for i in range(sites - covered)]
    measures = {"metric": "activity/1", "field": "dead", "params": {}, "at": ["**"]}
    terms = {"dead": {"measures": measures, "bounds": {"max": 0.2}, "max_regression": regression}}
    return Report(
        spec={"path": "x.audit.yaml", "sha256": "ab", "rules": ["dead"], "terms": terms},
        model={"source": "model.py:build", "sha256": "cd", "sites": {"conv": 3}},
        data={"source": "x.npz", "sha256": "ef", "n_images": 100, "order": "seeded", "transform": "", "sources": None},
        settings={"undecided": "fail", "seed": 0, "confidence": 0.95, "looks": [100]},
        verdicts=verdicts,
        coverage={"sites": sites, "covered": covered, "not_covered": missing},
    )


WAIVERS = """\
cnnaudit-waivers: 1
waivers:
  - rule: "{rule}"
    owner: Ada Ito
    reason: pruned too far
    category: in_progress
    approved_by: Bo Lind
    approved_on: 2026-11-30
    expires: 2026-12-31
    worst: {worst}
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write


def test_with_nothing_to_hold_it_against_a_report_only_gets_its_day(monkeypatch):
    monkeypatch.setattr(clock, "today", lambda: DAY)
    given = report(verdict(FAIL))
    found = apply_gate(given, as_of=DAY)
    assert found.verdicts == given.verdicts
    assert found.gate == {"as_of": "2026-12-01"}
    assert found.notes == ()


def test_without_a_baseline_it_says_that_regressions_were_not_judged():
    allowed = {"absolute": 0.1, "relative": None, "worse": "higher"}
    assert apply_gate(report(verdict(PASS), regression=allowed)).notes == (
        "1 rule with max_regression (dead) not compared: no baseline was given.",
    )


@pytest.mark.parametrize(("percent", "outcome", "code"), [(75, PASS, 0), (75.1, FAIL, 1), (0, PASS, 0), (100, FAIL, 1)])
def test_coverage_is_a_rule_of_its_own(percent, outcome, code):
    found = apply_gate(report(verdict(PASS)), coverage=percent)
    assert found.rules == ("dead", "audit:coverage")
    (coverage,) = found.of("audit:coverage")
    assert (coverage.outcome, coverage.value, coverage.bound) == (outcome, 0.75, percent / 100)
    assert found.exit_code == code
    if outcome is FAIL:
        assert coverage.detail == "3 of 4 sites are under a rule that judges; not covered: pool0 (pool)."


def test_a_network_without_sites_is_not_covered():
    assert apply_gate(report(verdict(PASS), sites=0, covered=0), coverage=0).exit_code == 1


def test_many_sites_that_are_not_covered_are_counted():
    (coverage,) = apply_gate(report(verdict(PASS), sites=20, covered=10), coverage=99).of("audit:coverage")
    assert coverage.detail.endswith("pool5 (pool) and 4 more.")


def test_a_waiver_may_accept_a_regression_and_too_little_coverage(written):
    allowed = {"absolute": 0.1, "relative": None, "worse": "higher"}
    written("base.json", report(verdict(PASS, mean=0.1), regression=allowed).to_json())
    worse = report(verdict(PASS, mean=0.3), regression=allowed)
    found = apply_gate(worse, baseline="base.json")
    (regression,) = found.of("dead:regression")
    assert (regression.outcome, regression.value, regression.bound) == (FAIL, pytest.approx(0.2), 0.1)
    assert (regression.baseline, found.exit_code) == (0.1, 1)
    accepted = written("w.yaml", WAIVERS.format(rule="dead:regression", worst=0.25))
    found = apply_gate(worse, baseline="base.json", waivers=accepted, as_of=DAY)
    assert [v.outcome for v in found.verdicts] == [PASS, WAIVED]
    assert found.exit_code == 0
    covering = written("c.yaml", WAIVERS.format(rule="audit:coverage", worst=0.7))
    found = apply_gate(report(verdict(PASS)), coverage=90, waivers=covering, as_of=DAY)
    assert (found.outcome("audit:coverage"), found.exit_code) == (WAIVED, 0)


def test_waivers_that_are_ignored_are_on_record_and_do_nothing(written):
    path = written("w.yaml", WAIVERS.format(rule="dead", worst=0.3))
    assert apply_gate(report(verdict(FAIL)), waivers=path, as_of=DAY).exit_code == 0
    found = apply_gate(report(verdict(FAIL)), waivers=path, ignore_waivers=True, as_of=DAY)
    assert (found.exit_code, found.gate["waivers"]["ignored"], found.gate["waivers"]["entries"]) == (1, True, 1)


def test_the_day_after_it_expires_a_waiver_is_a_finding_and_the_failure_is_back(written):
    path = written("w.yaml", WAIVERS.format(rule="dead", worst=0.3))
    for day, code in ((date(2026, 12, 31), 0), (date(2027, 1, 1), 1)):
        assert apply_gate(report(verdict(FAIL)), waivers=path, as_of=day).exit_code == code
    assert found_rules(report(verdict(FAIL)), path, date(2027, 1, 1)) == ("dead", "waivers:expired")


def found_rules(given, path, day):
    return apply_gate(given, waivers=path, as_of=day).rules


def test_what_cannot_be_read_is_an_error(written):
    with pytest.raises(EvidenceError, match=r"none\.json: cannot be read"):
        apply_gate(report(verdict(PASS)), baseline="none.json")
    with pytest.raises(SpecError, match=r"w\.yaml"):
        apply_gate(report(verdict(PASS)), waivers=written("w.yaml", "cnnaudit-waivers: 2\n"))
