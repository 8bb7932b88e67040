"""``cnnaudit waive`` from outside: what it appends, what it refuses."""

import dataclasses
import json
from datetime import date
from pathlib import Path

import pytest

from cnnaudit import clock
from cnnaudit.cli import main
from cnnaudit.gate.waivers import hold, load
from cnnaudit.result import Outcome, Report, Verdict

DAY = date(2026, 12, 1)
OPTIONS = ["--owner", "Ada Ito", "--reason", "Under way: #12", "--category", "in_progress", "--approved-by", "Bo Lind"]
OPTIONS += ["--expires", "2027-01-31"]
FROM = [*OPTIONS, "--report", "report.json"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clock, "today", lambda: DAY)


def verdict(rule="dead", site="stem", outcome="fail", value=0.123456, side="max", **facts):
    facts = {"line": 1, "severity": "error", "metric": "activity", "field": "dead", "unit": "", "op": "conv"} | facts
    return Verdict(rule=rule, site=site, outcome=Outcome(outcome), value=value, side=side, **facts)


def report(*verdicts) -> Report:
    made = Report(
        spec={"path": "net.audit.yaml", "sha256": "ab", "rules": list(dict.fromkeys(v.rule for v in verdicts))},
        model={"source": "model.py:build", "sha256": "c" * 64, "sites": {"conv": 3}},
        data={"n_images": 40},
        settings={"undecided": "fail"},
        verdicts=verdicts,
    )
    Path("report.json").write_text(made.to_json(), encoding="utf-8")
    return made


def waived(*argv: str) -> dict:
    """Run it and return the last waiver of the file."""
    assert main(["waive", *argv]) == 0
    return load("cnnaudit.waivers.yaml").entries[-1].model_dump(exclude_none=True)


def refused(capsys, *argv: str) -> str:
    assert main(["waive", *argv]) == 2
    assert not Path("cnnaudit.waivers.yaml").exists()
    return capsys.readouterr().err


def test_all_that_was_said_is_written(capsys):
    entry = waived(
        "dead", *OPTIONS, "--site", "stage3.**", "--slice", "scanner=A", "--model", "model.py:*", "--worst", "0.4"
    )  # fmt: skip
    assert entry == {
        "rule": "dead",
        "site": "stage3.**",
        "slice": "scanner=A",
        "model": "model.py:*",
        "owner": "Ada Ito",
        "reason": "Under way: #12",
        "category": "in_progress",
        "approved_by": "Bo Lind",
        "approved_on": DAY,
        "expires": date(2027, 1, 31),
        "worst": 0.4,
    }
    told = "waives dead at stage3.** [scanner=A] up to and on 2027-01-31; the worst value accepted is 0.4\n"
    assert capsys.readouterr().out == f"cnnaudit.waivers.yaml:6: {told}"


def test_ticket_and_day_of_approval_and_another_file():
    argv = ["dead", *OPTIONS, "--worst", "1", "--ticket", "#7", "--approved-on", "2026-11-01", "--file", "w.yaml"]
    assert main(["waive", *argv]) == 0
    (entry,) = load("w.yaml").entries
    assert (entry.ticket, entry.approved_on) == ("#7", date(2026, 11, 1))


@pytest.mark.parametrize(
    ("side", "values", "worst"),
    [
        ("max", [0.123456, 0.3], 0.3),
        ("max", [0.123456, 0.1], 0.1235),
        ("min", [0.123456, 0.3], 0.1234),
        ("min_excess", [-0.123456], -0.1235),
        ("max_regression", [0.00123451], 0.001235),
    ],
)
def test_the_worst_value_of_the_report_and_the_same_run_passes(side, values, worst):
    made = report(*(verdict(site=f"s{i}", value=value, side=side) for i, value in enumerate(values)))
    assert waived("dead", *FROM)["worst"] == worst
    held = hold(made, load("cnnaudit.waivers.yaml"), DAY)
    assert {v.outcome for v in held.verdicts} == {Outcome.WAIVED}
    assert held.exit_code == 0


def test_only_results_that_are_selected_are_looked_up(capsys):
    report(
        verdict(value=0.9),
        verdict(site="stage3.a", value=0.5),
        verdict(site="stage3.b", outcome="pass", value=0.95),
        verdict("other", "stage3.c", value=0.99),
        verdict(site="stage3.d", outcome="undecided", value=0.2),
    )
    assert waived("dead", *FROM, "--site", "stage3.**")["worst"] == 0.5
    assert "2 results (stage3.a, stage3.d), worst value accepted 0.5" in capsys.readouterr().out


def test_a_waived_result_may_be_waived_for_longer():
    report(dataclasses.replace(verdict(value=0.3), outcome=Outcome.WAIVED, waiver={"owner": "x"}))
    assert waived("dead", *FROM)["worst"] == 0.3


def test_a_result_without_a_value_needs_no_worst(capsys):
    made = report(verdict(outcome="undecided", value=None, slice="scanner=A"))
    assert "worst" not in waived("dead", *FROM)
    assert "1 result (stem [scanner=A]), which have no value" in capsys.readouterr().out
    assert hold(made, load("cnnaudit.waivers.yaml"), DAY).exit_code == 0


def test_a_worse_value_than_the_report_s_may_be_accepted():
    report(verdict(value=0.3))
    assert waived("dead", *FROM, "--worst", "0.5")["worst"] == 0.5


@pytest.mark.parametrize(
    ("verdicts", "argv", "told"),
    [
        ([verdict()], ["daed"], "report.json: nothing to waive: there is no rule 'daed'; did you mean 'dead'?"),
        ([verdict(outcome="pass")], ["dead"], "nothing to waive: the one result that it is for does not fail"),
        ([verdict(outcome="error", value=None)], ["dead"], "an ERROR cannot be waived, and there is one at stem"),
        ([verdict()], ["dead", "--site", "x"], "nothing matches its site and slice, for the rule was judged at stem"),
        ([verdict()], ["dead", "--model", "x"], "it is for the model x, and this is model.py:build with sha256 cccc"),
        ([verdict()], ["dead", "--worst", "0.1"], "--worst 0.1 does not go so far as the report: the worst there is 0"),
        ([verdict(), verdict(site="b", side="min")], ["dead"], "break different bounds (max at stem, min at b)"),
        ([verdict(), verdict(site="b", value=None)], ["dead"], "b have no value, and are waived apart"),
        ([verdict(value=None)], ["dead", "--worst", "1"], "stem have no value, and are waived apart"),
    ],
)  # fmt: skip
def test_what_a_report_does_not_bear_out(capsys, verdicts, argv, told):
    report(*verdicts)
    assert told in refused(capsys, *argv, *FROM)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["dead"], "a waiver needs --owner, --reason, --category, --approved-by, --expires as well"),
        (["dead", *OPTIONS], "say the --worst value that is accepted, or give the --report to take it from"),
        (["dead", *OPTIONS, "--worst", "nan"], "--worst: worst must be a finite number"),
        ([" ", *OPTIONS, "--worst", "1"], "rule is blank"),
        (["dead", *OPTIONS, "--worst", "1", "--expires", "2026-11-30"], "--expires: "),
        (["dead", *OPTIONS, "--worst", "1", "--expires", "31.1.27"], "--expires: expires is a day such as 2027-01-31"),
        (["dead", *OPTIONS, "--worst", "1", "--approved-by", "ada ito"], "--approved-by: approved_by is the owner"),
        (["dead", *OPTIONS, "--worst", "1", "--approved-on", "2026-12-02"], "approved_on 2026-12-02 is after 2026-12"),
        (["dead", *OPTIONS, "--worst", "1", "--reason", "\udce4"], "--reason: reason is not Unicode text"),
        (["dead", *OPTIONS, "--category", "whatever"], "'whatever' is not one of 'accepted_risk'"),
    ],
)  # fmt: skip
def test_what_is_no_waiver(capsys, argv, told):
    assert told in refused(capsys, *argv)


def test_a_waiver_that_is_over(capsys):
    argv = ["dead", *OPTIONS, "--worst", "1", "--approved-on", "2026-10-01", "--expires", "2026-11-30"]
    assert "--expires: 2026-11-30 is over; today is 2026-12-01 (UTC)" in refused(capsys, *argv)


def test_all_mistakes_at_once(capsys):
    told = refused(
        capsys, "dead", *OPTIONS, "--worst", "1", "--site", "a..b", "--approved-by", "Ada Ito", "--expires", "x"
    )
    assert [name for name in ("--site:", "--approved-by:", "--expires:") if name in told] == [
        "--site:",
        "--approved-by:",
        "--expires:",
    ]


@pytest.mark.parametrize(("text", "told"), [("{}", "this is not a cnnaudit report"), ("\udcff", "cannot be read")])
def test_a_report_that_is_none(capsys, text, told):
    Path("report.json").write_bytes(text.encode(errors="surrogateescape"))
    error = refused(capsys, "dead", *FROM)
    assert error.startswith("error: report.json: ")
    assert told in error


def test_a_file_with_mistakes_stays_as_it_is(capsys):
    Path("w.yaml").write_text("cnnaudit-waivers: 1\nwaivers:\n- rule: x\n")
    assert main(["waive", "dead", *OPTIONS, "--worst", "1", "--file", "w.yaml"]) == 2
    assert "w.yaml:3:3: the key 'owner' is missing: add it" in capsys.readouterr().err
    assert Path("w.yaml").read_text() == "cnnaudit-waivers: 1\nwaivers:\n- rule: x\n"


def test_help_has_an_example(capsys):
    assert main(["waive", "--help"]) == 0
    assert "  cnnaudit waive no-dead-kernels --site 'stage3.**' --report report.json \\\n" in capsys.readouterr().out


def test_the_schema_of_waivers(capsys):
    assert main(["schema", "waivers"]) == 0
    assert set(json.loads(capsys.readouterr().out)["properties"]) == {"cnnaudit-waivers", "waivers"}
