"""What a session says of its audits: one line at its start, a table at its end, properties for machines."""

import json

import pytest
from reading import junit, table

from cnnaudit.result import Report

TITLE = "audits, worst margins first"
FLOATS = ("cnnaudit.value", "cnnaudit.low", "cnnaudit.high", "cnnaudit.bound")
# Margins in half-widths of the interval: kept easily, kept narrowly, violated narrowly, violated clearly.
MARGINS = """rules:
  - {id: easily, metric: activity.apoz, at: conv1, reduce: mean, max: 0.99}
  - {id: clearly, metric: activity.apoz, at: conv1, reduce: mean, max: 0.1}
  - {id: narrowly, metric: activity.apoz, at: conv1, reduce: mean, max: 0.3}
  - {id: violated, metric: activity.apoz, at: conv1, reduce: mean, max: 0.2}
  - {id: absent, metric: branch_variance_share, if_absent: skip, min: 0.02}
  - {id: undecided, metric: activity.dead, estimand: population, at: conv2, max: 0}
  - {id: typo, metric: activity.dead, at: conv9, max: 0}
"""


def rules_of(rows, column=2):
    words = [
        row.replace("NOT APPLICABLE", "NOT_APPLICABLE").replace("FAIL (warning)", "FAIL_(warning)") for row in rows
    ]
    return [row.split()[column] for row in words]


def test_rows_are_ordered_by_gravity_and_then_by_margin(project):
    project.rules(MARGINS)
    rows = table(project.run())[:7]
    assert rules_of(rows) == ["typo", "clearly", "violated", "undecided", "narrowly", "easily", "absent"]
    assert rules_of(rows, 0) == ["ERROR", "FAIL", "FAIL", "UNDECIDED", "PASS", "PASS", "NOT_APPLICABLE"]


def test_a_row_says_where_which_site_value_interval_and_bound(project):
    rows = table(project.run("-k", "fails or warns or absent"))
    fails, warns, absent = (next(row for row in rows if name in row) for name in ("fails", "warns", "absent"))
    assert [part.strip() for part in fails.split("  ") if part] == [
        *("FAIL", "net.audit.yaml:9", "fails", "conv2", "1", "[1, 1]", "max 0"),
    ]
    assert [part.strip() for part in warns.split("  ") if part] == [
        *("FAIL (warning)", "net.audit.yaml:21", "warns", "conv2", "0", "[0, 0.03267]", "min 0.5"),
    ]
    assert absent.split() == ["NOT", "APPLICABLE", "net.audit.yaml:17", "absent"]


def test_at_most_ten_rows_are_shown(project):
    project.rules("".join(f"  - {{id: r{i}, metric: activity.apoz, at: conv1, max: 0.9{i:02}}}\n" for i in range(13)))
    rows = table(project.run())
    assert rules_of(rows[:10]) == [f"r{i}" for i in range(10)]
    assert rows[10] == "... and 3 more"


def test_quiet_shows_only_what_did_not_pass(project):
    rows = [row for row in table(project.run("-q")) if ".yaml" in row]
    assert sorted(rules_of(rows)) == ["fails", "undecided", "warns"]
    assert TITLE not in project.run("-q", "-k", "holds or absent").stdout.str()


def test_workers_tell_the_same(project):
    project.rules(MARGINS)
    ran = project.run_apart("-n", "2", "--junitxml=junit.xml", "--cnnaudit-report=json=report.json")
    ran.assert_outcomes(passed=2, failed=4, skipped=1)
    assert rules_of(table(ran)[:7]) == ["typo", "clearly", "violated", "undecided", "narrowly", "easily", "absent"]
    apart = {name: told for name, (_, told) in junit(project.path / "junit.xml").items()}
    project.run("--junitxml=junit.xml")
    assert apart == {name: told for name, (_, told) in junit(project.path / "junit.xml").items()}
    assert float(apart["clearly"]["cnnaudit.value"]) > 0.1
    report = Report.from_json((project.path / "report.json").read_text(encoding="utf-8"))
    assert {rule: str(report.outcome(rule)) for rule in report.spec["rules"]} == {
        rule: told["cnnaudit.outcome"] for rule, told in apart.items()
    }


@pytest.mark.parametrize("args", [["-k", "nothing"], ["--co"], ["test_other.py"]])
def test_where_nothing_was_audited_there_is_no_table(project, args):
    project.write("test_other.py", "def test_other():\n    pass\n")
    assert TITLE not in project.run(*args).stdout.str()


def test_the_first_line_counts_rules_and_files(project):
    project.rules(project.HOLDS, name="other.audit.yaml")
    assert "cnnaudit: 6 rules of 2 files" in project.run("--co").outlines
    assert "cnnaudit: 1 rule of 1 file" in project.run("other.audit.yaml").outlines


def test_there_is_no_first_line_without_rules(project):
    project.write("test_other.py", "def test_other():\n    pass\n")
    assert "cnnaudit:" not in project.run("test_other.py").stdout.str()
    assert "cnnaudit:" not in project.run("-k", "other").stdout.str()


def test_junit_properties_are_scalars_that_agree_with_the_report(project):
    project.run("--junitxml=junit.xml", "--cnnaudit-report=json=report.json")
    told = {name: properties for name, (_, properties) in junit(project.path / "junit.xml").items()}
    verdicts = json.loads((project.path / "report.json").read_text(encoding="utf-8"))["verdicts"]
    (fails,) = [v for v in verdicts if v["rule"] == "fails" and v["outcome"] == "fail"]
    assert told["fails"] == {
        "cnnaudit.rule": "fails",
        "cnnaudit.file": "net.audit.yaml",
        "cnnaudit.line": "9",
        "cnnaudit.outcome": "fail",
        "cnnaudit.severity": "error",
        "cnnaudit.metric": "activity.dead",
        "cnnaudit.site": "conv2",
        "cnnaudit.value": "1.0",
        "cnnaudit.low": "1.0",
        "cnnaudit.high": "1.0",
        "cnnaudit.side": "max",
        "cnnaudit.bound": "0.0",
        "cnnaudit.images": "120",
    }
    assert [float(told["fails"][name]) for name in FLOATS] == [fails[n] for n in ("value", "low", "high", "bound")]
    assert {name: properties["cnnaudit.outcome"] for name, properties in told.items()} == {
        "holds": "pass",
        "fails": "fail",
        "undecided": "undecided",
        "absent": "not_applicable",
        "warns": "fail",
    }
    assert told["warns"]["cnnaudit.severity"] == "warning"
    assert "cnnaudit.value" not in told["absent"]
    assert all(not value.startswith(("{", "[", "(", "<", "np.")) for p in told.values() for value in p.values())


def test_check_of_several_rules_makes_a_row_of_each(project):
    project.write("test_suite.py", 'def test_suite(cnnaudit):\n    cnnaudit.check("net.audit.yaml")\n')
    rows = [row for row in table(project.run("test_suite.py")) if ".yaml:" in row]
    assert sorted(rules_of(rows)) == ["absent", "fails", "holds", "undecided", "warns"]


def test_a_rule_whose_id_is_part_of_its_tests_name_is_told_by_its_id(project):
    project.rules(
        "  - {id: net, metric: activity.apoz, at: conv1, max: 0.99}\n"
        "  - {id: e, metric: activity.dead, at: conv1, max: 0}\n"
    )
    project.write("test_net.py", 'def test_net(cnnaudit):\n    cnnaudit.check("net.audit.yaml")\n')
    rows = [row for row in table(project.run("test_net.py")) if ".yaml:" in row]
    assert sorted(rules_of(rows)) == ["e", "net"]


def test_a_parametrised_model_is_named_in_its_rows(project):
    project.rules(project.FAILS, head="cnnaudit: 1\ndata: data.npz\n")
    project.write(
        "conftest.py",
        "import pytest\nfrom model import Net\n\n"
        "@pytest.fixture(scope='session', params=[True, False], ids=['dead', 'alive'])\n"
        "def cnnaudit_model(request):\n    return Net(request.param)\n",
    )
    rows = [row for row in table(project.run()) if ".yaml:" in row]
    assert rules_of(rows) == ["fails[dead]", "fails[alive]"]
