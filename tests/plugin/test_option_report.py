"""``--cnnaudit-report``: the audits' reports as files."""

import pytest

from cnnaudit.report import formats
from cnnaudit.result import Report

OUTCOMES = {"holds": "pass", "fails": "fail", "undecided": "undecided", "absent": "not_applicable", "warns": "fail"}


def read(path):
    return Report.from_json(path.read_text(encoding="utf-8"))


def test_the_json_report_says_what_the_tests_say(project):
    ran = project.run("--cnnaudit-report=json=report.json")
    ran.assert_outcomes(passed=2, failed=2, skipped=1)
    report = read(project.path / "report.json")
    assert report.spec["rules"] == list(OUTCOMES)
    assert {rule: str(report.outcome(rule)) for rule in report.spec["rules"]} == OUTCOMES
    assert report.spec["path"] == "net.audit.yaml"
    assert report.data["n_images"] == 120
    assert report.exit_code == 1


def test_text_and_json_are_written_together(project):
    project.run("--cnnaudit-report=json=report.json", "--cnnaudit-report", "text=report.txt")
    text = (project.path / "report.txt").read_text(encoding="utf-8")
    assert text.splitlines()[-1] == ("NOT PASSED: 5 rules, 1 passed, 2 failed, 1 undecided, 1 not applicable (exit 1)")
    assert read(project.path / "report.json").exit_code == 1


def test_only_the_selected_rules_are_in_the_report(project):
    project.run("--cnnaudit-report=json=report.json", "-k", "holds")
    report = read(project.path / "report.json")
    assert (report.spec["rules"], report.passed) == (["holds"], True)


def names(project, *files):
    (project.path / "net.audit.yaml").unlink()
    for name in files:
        head = project.HEAD.replace(": model", f": {project.path}/model").replace(": data", f": {project.path}/data")
        project.rules(project.HOLDS, name=name, head=head)
    project.run("--cnnaudit-report=json=report.json").assert_outcomes(passed=len(files))
    return {path.name: read(path).spec["path"] for path in project.path.glob("*.json")}


def test_several_files_are_told_apart_by_their_names(project):
    assert names(project, "small.audit.yaml", "deep/large.audit.yaml") == {
        "report-small.json": "small.audit.yaml",
        "report-large.json": "deep/large.audit.yaml",
    }


def test_files_of_one_name_are_numbered(project):
    assert names(project, "a/net.audit.yaml", "b/net.audit.yaml", "c/net.audit.yaml") == {
        "report-net.json": "a/net.audit.yaml",
        "report-net-2.json": "b/net.audit.yaml",
        "report-net-3.json": "c/net.audit.yaml",
    }


def test_a_name_that_starts_like_another_keeps_its_own(project):
    assert names(project, "net.audit.yaml", "net-small.audit.yaml") == {
        "report-net.json": "net.audit.yaml",
        "report-net-small.json": "net-small.audit.yaml",
    }


def test_no_report_is_written_over_another(project):
    assert sorted(names(project, "net.audit.yaml", "net-2.audit.yaml").values()) == [
        "net-2.audit.yaml",
        "net.audit.yaml",
    ]


def test_a_parametrised_model_makes_one_report_each(project):
    project.rules(project.FAILS, head="cnnaudit: 1\ndata: data.npz\n")
    project.write(
        "conftest.py",
        "import pytest\nfrom model import Net\n\n@pytest.fixture(scope='session', params=[True, False])\n"
        "def cnnaudit_model(request):\n    return Net(request.param)\n",
    )
    project.run("--cnnaudit-report=json=report.json").assert_outcomes(passed=1, failed=1)
    found = {path.name: str(read(path).outcome("fails")) for path in project.path.glob("*.json")}
    assert set(found) == {"report-net.json", "report-net-2.json"}
    assert sorted(found.values()) == ["fail", "pass"]


def test_check_in_a_test_writes_its_report_too(project):
    project.rules(project.HOLDS)
    project.write("test_net.py", 'def test_net(cnnaudit):\n    cnnaudit.check("net.audit.yaml")\n')
    project.run("test_net.py", "--cnnaudit-report=json=report.json").assert_outcomes(passed=1)
    assert read(project.path / "report.json").passed


def test_check_of_a_live_model_writes_its_report_too(project):
    project.rules(project.HOLDS)
    project.write(
        "test_net.py",
        'from model import build\n\ndef test_net(cnnaudit):\n    cnnaudit.check("net.audit.yaml", model=build())\n',
    )
    project.run("test_net.py", "--cnnaudit-report=json=report.json").assert_outcomes(passed=1)
    assert read(project.path / "report.json").model["source"] == "a Net from Python"


def test_where_nothing_was_audited_nothing_is_written(project):
    project.run("--co", "--cnnaudit-report=json=report.json")
    assert not (project.path / "report.json").exists()


def test_a_path_is_relative_to_where_pytest_was_started(project, monkeypatch):
    (project.path / "deep").mkdir()
    monkeypatch.chdir(project.path / "deep")
    project.run("..", "--cnnaudit-report=json=report.json")
    assert read(project.path / "deep" / "report.json").spec["rules"] == list(OUTCOMES)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("pdf=report.pdf", f"no format 'pdf'; there are {', '.join(formats())}"),
        ("json=nowhere/report.json", "nowhere/report.json cannot be written"),
        ("json=.", ". cannot be written"),
        ("json", "'json' is not NAME=PATH, such as json=report.json"),
        ("=report.json", "'=report.json' is not NAME=PATH"),
        ("json=", "'json=' is not NAME=PATH"),
    ],
)
def test_what_cannot_be_written_is_a_usage_error_before_any_test(project, written, told):
    ran = project.run(f"--cnnaudit-report={written}")
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    assert told in ran.stderr.str()
    assert "Traceback" not in ran.stderr.str()
    assert project.count("build") == 0


def test_a_report_that_is_not_asked_for_is_not_written(project):
    before = {path.name for path in project.path.iterdir()}
    project.run()
    assert {path.name for path in project.path.iterdir()} - before <= {".pytest_cache", "__pycache__"}


def test_a_report_of_an_earlier_session_does_not_outlive_one_without_audits(project):
    project.rules(project.HOLDS)
    project.run("--cnnaudit-report=json=report.json").assert_outcomes(passed=1)
    assert (project.path / "report.json").exists()
    project.rules(project.HOLDS, head="cnnaudit: 1\nmodel: nowhere.py:build\ndata: data.npz\n")
    project.run("--cnnaudit-report=json=report.json").assert_outcomes(failed=1)
    assert not (project.path / "report.json").exists()
