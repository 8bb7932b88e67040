"""``--cnnaudit-baseline``, ``--cnnaudit-waivers`` and ``--cnnaudit-update``."""

import json

import pytest
from reading import section, table

from cnnaudit.result import Report

ALIVE = "cnnaudit: 1\nmodel: model.py:build_alive\ndata: data.npz\n"
MEAN = "  - {id: zeros, metric: activity.apoz, at: conv2, max: 0.99, reduce: mean, max_regression: {absolute: 0.02}}\n"
WAIVER = """
  - {{rule: {rule}, site: "{site}", owner: Ada Ito, reason: Pruned on purpose., category: accepted_risk,
     approved_by: Bo Lind, approved_on: "2020-01-01", expires: "{expires}", worst: 1}}
"""


def read(path):
    return Report.from_json(path.read_text(encoding="utf-8"))


def waive(project, rule="fails", site="conv2", expires="2999-12-31", more=""):
    entry = WAIVER.format(rule=rule, site=site, expires=expires)
    return project.write("waivers.yaml", f"cnnaudit-waivers: 1\nwaivers:{entry}{more}")


@pytest.fixture
def accepted(project):
    """A project whose live network was accepted, and whose network now has a dead kernel."""
    project.rules(MEAN + project.HOLDS, head=ALIVE)
    ran = project.run("--cnnaudit-baseline=accepted.json", "--cnnaudit-update")
    ran.assert_outcomes(passed=2)
    assert section(ran, "baselines and waivers") == ["accepted.json: this run is now the accepted one"]
    project.rules(MEAN + project.HOLDS)
    return project


class TestBaseline:
    def test_a_rule_fails_where_it_has_become_worse(self, accepted):
        accepted.run().assert_outcomes(passed=2)  # by its own bound the dead kernel does not matter
        ran = accepted.run("--cnnaudit-baseline=accepted.json", "--cnnaudit-report=json=report.json")
        ran.assert_outcomes(passed=1, failed=1)
        assert section(ran, "zeros")[0] == "net.audit.yaml:5: zeros:regression fails at 1 of 1 site, 120 images"
        assert table(ran)[0].split()[:4] == ["FAIL", "net.audit.yaml:5", "zeros", "conv2"]
        report = read(accepted.path / "report.json")
        assert {rule: str(report.outcome(rule)) for rule in report.rules} == {
            "zeros": "pass",
            "zeros:regression": "fail",
            "holds": "pass",
        }
        (worse,) = report.of("zeros:regression")
        before = read(accepted.path / "accepted.json").of("zeros")[0].mean.value
        assert worse.value == pytest.approx(report.of("zeros")[0].mean.value - before)
        assert report.gate["baseline"]["path"] == "accepted.json"

    def test_the_ini_file_may_name_it_from_rootdir(self, accepted, monkeypatch):
        accepted.ini("cnnaudit_baseline = accepted.json")
        (accepted.path / "deep").mkdir()
        monkeypatch.chdir(accepted.path / "deep")
        accepted.run("..").assert_outcomes(passed=1, failed=1)

    def test_what_is_not_comparable_fails_every_rule_and_names_the_difference(self, accepted):
        ran = accepted.run("--cnnaudit-baseline=accepted.json", "--cnnaudit-max-images=60")
        ran.assert_outcomes(failed=2)
        assert "accepted.json: this run cannot be compared with the baseline:" in (told := ran.stdout.str())
        assert "n_images: baseline 120, this run 60" in told

    def test_rules_without_max_regression_need_none(self, accepted):
        accepted.write("accepted.json", "{}")
        accepted.run("--cnnaudit-baseline=accepted.json", "-k", "zeros").assert_outcomes(failed=1)
        accepted.run("--cnnaudit-baseline=accepted.json", "-k", "holds").assert_outcomes(passed=1)

    def test_a_folder_holds_the_report_of_each_rule_file_where_that_lies(self, accepted):
        (accepted.path / "net.audit.yaml").unlink()
        head = ALIVE.replace(": model", f": {accepted.path}/model").replace(": data", f": {accepted.path}/data")
        for name in ("a/net.audit.yaml", "b/net.audit.yaml"):
            accepted.rules(MEAN, head=head, name=name)
        accepted.run("--cnnaudit-baseline=all", "--cnnaudit-update").assert_outcomes(passed=2)
        assert read(accepted.path / "all/a/net.json").spec["path"] == "a/net.audit.yaml"
        assert read(accepted.path / "all/b/net.json").spec["path"] == "b/net.audit.yaml"
        accepted.rules(MEAN, head=head.replace("build_alive", "build"), name="b/net.audit.yaml")
        assert accepted.outcomes("--cnnaudit-baseline=all") == {
            "a/net.audit.yaml::zeros": "passed",
            "b/net.audit.yaml::zeros": "failed",
        }


class TestUpdate:
    def updated(self, project, *args):
        before = (project.path / "accepted.json").read_bytes()
        ran = project.run("--cnnaudit-baseline=accepted.json", "--cnnaudit-update", *args)
        assert (project.path / "accepted.json").read_bytes() == before
        return section(ran, "baselines and waivers")

    def test_some_of_a_files_rules_are_no_baseline(self, accepted):
        accepted.rules(MEAN + accepted.HOLDS, head=ALIVE)
        assert self.updated(accepted, "-k", "zeros") == [
            "accepted.json was not written: only 1 of the 2 rules of net.audit.yaml were selected"
        ]

    def test_what_is_worse_does_not_become_the_norm(self, accepted):
        assert self.updated(accepted) == ["accepted.json was not written: net.audit.yaml has not passed"]

    def test_two_audits_are_not_one_baseline(self, accepted):
        accepted.rules(MEAN, head="cnnaudit: 1\ndata: data.npz\n")
        accepted.write(
            "conftest.py",
            "import pytest\nfrom model import Net\n\n@pytest.fixture(scope='session', params=['v1', 'v2'])\n"
            "def cnnaudit_model(request):\n    return Net(False)\n",
        )
        assert self.updated(accepted) == [
            "accepted.json was not written: 2 audits would be in it; run those of one model and one rule file"
        ]

    def test_workers_measure_and_the_controller_writes_once(self, accepted):
        (accepted.path / "accepted.json").unlink()
        accepted.rules(MEAN + accepted.HOLDS, head=ALIVE)
        ran = accepted.run_apart("-n2", "--cnnaudit-baseline=accepted.json", "--cnnaudit-update")
        ran.assert_outcomes(passed=2)
        assert section(ran, "baselines and waivers") == ["accepted.json: this run is now the accepted one"]
        assert read(accepted.path / "accepted.json").rules == ("zeros", "holds")


class TestWaivers:
    def test_a_waived_rule_is_skipped_and_says_by_whom_and_until_when(self, project):
        waive(project)
        project.rules(project.HOLDS + project.FAILS)
        ran = project.run("--cnnaudit-waivers=waivers.yaml", "-rs", "--cnnaudit-report=json=report.json")
        ran.assert_outcomes(passed=1, skipped=1)
        reason = "accepted_risk by Ada Ito until 2999-12-31, approved by Bo Lind on 2020-01-01 (waivers.yaml:3)"
        assert f"waived: {reason}" in ran.stdout.str()
        assert table(ran)[0].split()[:4] == ["WAIVED", "net.audit.yaml:6", "fails", "conv2"]
        assert "baselines and waivers" not in ran.stdout.str()
        assert str(read(project.path / "report.json").outcome("fails")) == "waived"

    def test_a_waived_site_is_not_hidden_by_a_graver_one_that_fails_no_build(self, project):
        """A rule that only warns fails at two sites, of which one is waived."""
        waive(project, rule="zeros", site="conv2")
        project.rules("  - {id: zeros, metric: activity.apoz, max: 0, severity: warning}\n")
        ran = project.run("--cnnaudit-waivers=waivers.yaml", "-rs", "--cnnaudit-report=json=report.json")
        outcomes = {str(v.outcome) for v in read(project.path / "report.json").of("zeros")}
        assert outcomes == {"fail", "waived"}
        ran.assert_outcomes(skipped=1)
        assert "waived: accepted_risk by Ada Ito" in ran.stdout.str()

    def test_check_in_a_test_passes_what_is_waived(self, project):
        waive(project)
        project.rules(project.HOLDS + project.FAILS)
        project.write("test_net.py", 'def test_net(cnnaudit):\n    cnnaudit.check("net.audit.yaml")\n')
        project.run("test_net.py").assert_outcomes(failed=1)
        ran = project.run("test_net.py", "--cnnaudit-waivers=waivers.yaml")
        ran.assert_outcomes(passed=1)
        assert table(ran)[0].split()[0] == "WAIVED"

    def test_an_expired_one_covers_nothing_and_is_told(self, project):
        waive(project, expires="2020-02-01")
        project.rules(project.HOLDS + project.FAILS)
        project.ini("cnnaudit_waivers = waivers.yaml")
        ran = project.run()
        ran.assert_outcomes(passed=1, failed=1)
        (told,) = section(ran, "baselines and waivers")
        assert told.startswith(
            "waivers:expired  waivers.yaml:3  The waiver of fails at conv2, owned by Ada Ito, expired"
        )

    def test_an_unused_one_is_told_where_all_rules_were_selected(self, project):
        waive(project, more=WAIVER.format(rule="holds", site="**", expires="2999-12-31").lstrip("\n"))
        project.rules(project.HOLDS + project.FAILS)
        ran = project.run("--cnnaudit-waivers=waivers.yaml")
        (told,) = section(ran, "baselines and waivers")
        assert told.startswith("waivers:unused  waivers.yaml:5  The waiver of holds, owned by Ada Ito, has nothing")
        ran = project.run("--cnnaudit-waivers=waivers.yaml", "-k", "fails", "--cnnaudit-report=json=report.json")
        assert "waivers:unused" not in ran.stdout.str()
        assert "waivers:unused" not in read(project.path / "report.json").rules

    def test_of_several_files_one_is_enough_to_use_it(self, project):
        waive(project)
        project.rules(project.FAILS)
        project.rules(project.HOLDS, name="other.audit.yaml")
        ran = project.run("--cnnaudit-waivers=waivers.yaml")
        ran.assert_outcomes(passed=1, skipped=1)
        assert "baselines and waivers" not in ran.stdout.str()


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--cnnaudit-update", "--cnnaudit-update: which baseline? Add --cnnaudit-baseline PATH"),
        ("--cnnaudit-baseline=no.json", "--cnnaudit-baseline: there is no no.json; record one with --cnnaudit-update"),
        ("--cnnaudit-waivers=no.yaml", "--cnnaudit-waivers: there is no file no.yaml"),
    ],
)
def test_what_cannot_be_is_a_usage_error_before_any_test(project, argument, told):
    ran = project.run(argument)
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    assert told in ran.stderr.str()
    assert project.count("build") == 0


def test_nothing_of_this_is_in_a_report_that_did_not_ask_for_it(project):
    project.rules(project.HOLDS)
    project.run("--cnnaudit-report=json=report.json")
    assert json.loads((project.path / "report.json").read_text())["gate"] == {}
