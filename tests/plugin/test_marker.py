"""``@pytest.mark.cnnaudit("x.audit.yaml")`` runs a test once for each rule."""

import pytest
from reading import section, table

CHECK = """
import pytest

@pytest.mark.cnnaudit("net.audit.yaml")
def test_net(cnnaudit_rule):
    cnnaudit_rule.check()
"""


def test_check_ends_each_test_as_the_rules_own_test_would_end(project):
    project.write("test_net.py", CHECK)
    assert project.outcomes("test_net.py") == {
        "test_net.py::test_net[holds]": "passed",
        "test_net.py::test_net[fails]": "failed",
        "test_net.py::test_net[undecided]": "failed",
        "test_net.py::test_net[absent]": "skipped",
        "test_net.py::test_net[warns]": "passed",
    }


def test_a_failure_is_told_as_the_rules_own_test_tells_it(project):
    project.write("test_net.py", CHECK)
    ran = project.run("test_net.py", "-k", "fails")
    assert section(ran, "test_net[fails]")[0] == "net.audit.yaml:9: fails fails at 1 of 2 sites, 120 images"
    assert len(section(ran, "test_net[fails]")) < 15
    assert "Traceback" not in ran.stdout.str()
    assert table(ran)[0].split()[:3] == ["FAIL", "net.audit.yaml:9", "test_net[fails]"]


def test_what_a_rule_came_to_can_be_asked(project):
    project.write(
        "test_net.py",
        """
import pytest

EXPECTED = {
    "holds": ("pass", True, ["conv1"]),
    "fails": ("fail", False, ["conv1", "conv2"]),
    "undecided": ("undecided", False, ["conv2"]),
    "absent": ("not_applicable", True, [""]),
    "warns": ("fail", True, ["conv1", "conv2"]),
}

@pytest.mark.cnnaudit("net.audit.yaml")
def test_net(cnnaudit_rule):
    rule = cnnaudit_rule
    assert (rule.outcome, rule.passed, [v.site for v in rule.verdicts]) == EXPECTED[rule.rule]
    assert {v.rule for v in rule.verdicts} == {rule.rule}
    assert rule.report.data["n_images"] == 120
""",
    )
    project.run("test_net.py").assert_outcomes(passed=5)


def test_a_failing_assertion_shows_the_rule_in_words(project):
    project.write("test_net.py", CHECK.replace("cnnaudit_rule.check()", "assert cnnaudit_rule.passed"))
    text = project.run("test_net.py", "-k", "fails").stdout.str()
    assert "net.audit.yaml:9: fails fails at 1 of 2 sites, 120 images" in text


def test_the_marker_shares_the_pass_of_the_files_own_tests(project):
    project.write("test_net.py", CHECK)
    ran = project.run()
    ran.assert_outcomes(passed=4, failed=4, skipped=2)
    assert (project.count("build"), project.count("forward")) == (1, 1)
    assert "cnnaudit: 10 rules of 1 file" in ran.outlines


def test_a_path_is_relative_to_the_tests_own_file(project):
    project.write("deep/test_net.py", CHECK.replace("net.audit.yaml", "../net.audit.yaml"))
    project.run().assert_outcomes(passed=4, failed=4, skipped=2)
    assert project.count("forward") == 1


def test_a_marked_class_marks_its_tests(project):
    project.write(
        "test_net.py",
        'import pytest\n\n@pytest.mark.cnnaudit("net.audit.yaml")\nclass TestNet:\n'
        "    def test_rule(self, cnnaudit_rule):\n        cnnaudit_rule.check()\n",
    )
    assert project.outcomes("test_net.py", "-k", "holds or fails") == {
        "test_net.py::TestNet::test_rule[holds]": "passed",
        "test_net.py::TestNet::test_rule[fails]": "failed",
    }


def test_other_parameters_multiply_and_share_one_model(project):
    project.write(
        "test_net.py", CHECK.replace("def test_net(", '@pytest.mark.parametrize("n", [1, 2])\ndef test_net(n, ')
    )
    project.run("test_net.py").assert_outcomes(passed=4, failed=4, skipped=2)
    assert project.count("build") == 1


def test_a_parametrised_model_multiplies_the_tests(project):
    project.rules(f"{project.HOLDS}{project.FAILS}", head="cnnaudit: 1\ndata: data.npz\n")
    project.write(
        "conftest.py",
        "import pytest\nfrom model import Net\n\n@pytest.fixture(scope='session', params=[True, False])\n"
        "def cnnaudit_model(request):\n    return Net(request.param)\n",
    )
    project.write("test_net.py", CHECK)
    found = project.outcomes("test_net.py")
    assert sorted(found.values()) == ["failed", "passed", "passed", "passed"]
    (failed,) = [test for test, outcome in found.items() if outcome == "failed"]
    assert failed in ("test_net.py::test_net[True-fails]", "test_net.py::test_net[fails-True]")
    assert project.count("forward") == 2


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (CHECK.replace('("net.audit.yaml")', ""), "test_net: @pytest.mark.cnnaudit takes the path of one rule file"),
        (CHECK.replace('yaml")', 'yaml", "b")'), "test_net: @pytest.mark.cnnaudit takes the path of one rule file"),
        (CHECK.replace('("net', '(path="net'), "test_net: @pytest.mark.cnnaudit takes the path of one rule file"),
        (CHECK.replace("(cnnaudit_rule)", "()"), "test_net is marked cnnaudit and must take the fixture cnnaudit_rule"),
        (CHECK.replace("net.audit", "lost"), "lost.yaml: cannot be read (No such file or directory); check the path"),
        (CHECK.replace("net.audit.yaml", "pytest.ini"), "pytest.ini:"),
        (CHECK.replace('"net.audit.yaml"', "3"), "test_net: @pytest.mark.cnnaudit takes the path of one rule file"),
    ],
    ids=["no argument", "two arguments", "keyword", "no fixture", "no file", "no rules", "no path"],
)
def test_misuse_is_an_error_of_collection_without_a_traceback(project, written, told):
    project.write("test_net.py", written)
    ran = project.run("test_net.py")
    ran.assert_outcomes(errors=1)
    assert ran.ret == pytest.ExitCode.INTERRUPTED
    assert any(line.startswith(told) for line in ran.outlines)
    assert "pytest_cnnaudit" not in ran.stdout.str()


def test_the_fixture_without_the_marker_says_which_marker(project):
    project.write("test_net.py", "def test_net(cnnaudit_rule):\n    pass\n")
    ran = project.run("test_net.py")
    ran.assert_outcomes(errors=1)
    assert 'cnnaudit_rule is for tests marked @pytest.mark.cnnaudit("x.audit.yaml")' in ran.outlines
    assert "Traceback" not in ran.stdout.str()


def test_models_whose_names_hold_those_of_rules_are_told_apart(project):
    project.rules("  - {id: avg, metric: activity.dead, max: 0}\n", head="cnnaudit: 1\ndata: data.npz\n")
    project.write(
        "conftest.py",
        "import pytest\nfrom model import Net\n\n@pytest.fixture(scope='session', params=[False, True], "
        "ids=['avgmax', 'maxavg'])\ndef cnnaudit_model(request):\n    return Net(request.param)\n",
    )
    project.write("test_net.py", CHECK)
    assert sorted(project.outcomes("test_net.py").values()) == ["failed", "passed"]
