"""Rule files are collected: one test a rule, where the rule stands."""

import pytest
from reading import junit

IDS = ["holds", "fails", "undecided", "absent", "warns"]
LINES = [5, 9, 12, 17, 21]


def collected(project, *args):
    ran = project.run("--co", "-q", *args)
    return [line for line in ran.outlines if "::" in line]


def test_every_rule_is_one_test_in_the_order_of_the_file(project):
    assert collected(project) == [f"net.audit.yaml::{rule}" for rule in IDS]


def test_k_selects_rules_by_their_ids(project):
    assert collected(project, "-k", "fails or warns") == ["net.audit.yaml::fails", "net.audit.yaml::warns"]
    assert collected(project, "-k", "not fails and not absent and not warns") == [
        "net.audit.yaml::holds",
        "net.audit.yaml::undecided",
    ]


def test_a_node_id_selects_one_rule_only(project):
    ran = project.run("-v", "net.audit.yaml::holds")
    ran.assert_outcomes(passed=1)
    assert ran.outlines.count("cnnaudit: 1 rule of 1 file") == 1
    assert any(line.startswith("net.audit.yaml::holds PASSED") for line in ran.outlines)


def test_a_node_id_of_no_rule_is_a_usage_error(project):
    ran = project.run("net.audit.yaml::nothing")
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    assert any("not found" in line and "net.audit.yaml::nothing" in line for line in ran.errlines)


def test_each_test_is_located_at_its_rules_line(project):
    items, _ = project.pytester.inline_genitems()
    assert [item.location for item in items] == [
        ("net.audit.yaml", line - 1, rule) for line, rule in zip(LINES, IDS, strict=True)
    ]
    assert [item.reportinfo()[:2] for item in items] == [(project.path / "net.audit.yaml", line - 1) for line in LINES]


def test_junit_says_file_and_line_of_the_rule(project):
    project.run("--junitxml=junit.xml", "-o", "junit_family=xunit1")
    cases = junit(project.path / "junit.xml")
    assert {name: (case.get("file"), case.get("line")) for name, (case, _) in cases.items()} == {
        rule: ("net.audit.yaml", str(line - 1)) for rule, line in zip(IDS, LINES, strict=True)
    }


def test_the_reason_for_a_rule_is_its_description(project):
    project.rules("  - {id: a, why: Because it must., metric: activity.dead, max: 0}\n")
    ran = project.run("--co", "-v")
    assert any("Because it must." in line for line in ran.outlines)


def test_a_file_in_a_folder_is_found_and_named_from_the_root(project):
    project.rules(name="models/deep/net.audit.yaml")
    (project.path / "net.audit.yaml").unlink()
    assert collected(project) == [f"models/deep/net.audit.yaml::{rule}" for rule in IDS]


def test_two_files_keep_their_rules_apart(project):
    project.rules(project.HOLDS, name="other.audit.yaml")
    assert collected(project) == [*(f"net.audit.yaml::{rule}" for rule in IDS), "other.audit.yaml::holds"]


def test_other_yaml_is_not_collected(project):
    project.write("config.yaml", "a: [")
    project.write("audit.yaml", "a: [")
    assert len(collected(project)) == len(IDS)


def test_cnnaudit_files_says_which_files_are_collected(project):
    project.ini("cnnaudit_files = *.rules.yml gate_*.yaml")
    project.rules(project.HOLDS, name="a.rules.yml")
    project.rules(project.FAILS, name="gate_b.yaml")
    assert collected(project) == ["a.rules.yml::holds", "gate_b.yaml::fails"]


def test_a_file_with_mistakes_lists_each_of_them_with_its_place(project):
    project.write(
        "net.audit.yaml",
        "cnnaudit: 1\nmodel: model.py:build\ndata: data.npz\nundecided: maybe\nrules:\n"
        "  - {metric: activity.deaf, max: 0}\n  - {metric: activity.dead, max: zero}\n"
        "  - {id: 'a b', metric: activity}\n",
    )
    ran = project.run()
    ran.assert_outcomes(errors=1)
    assert ran.ret == pytest.ExitCode.INTERRUPTED
    told = [line for line in ran.outlines if line.startswith("net.audit.yaml:")]
    assert [line.split(": ")[0] for line in told[:4]] == [
        "net.audit.yaml:4:12",
        "net.audit.yaml:6:14",
        "net.audit.yaml:7:34",
        "net.audit.yaml:8:5",
    ]
    assert "activity has no field 'deaf'; did you mean 'dead'?" in told[1]
    text = ran.stdout.str()
    assert "Traceback" not in text
    assert "pytest_cnnaudit" not in text
    assert "spec/reader" not in text


def test_a_file_with_mistakes_keeps_no_other_file_from_being_collected(project):
    project.write("bad.audit.yaml", "cnnaudit: 2\n")
    ran = project.run("--continue-on-collection-errors", "-k", "holds")
    ran.assert_outcomes(errors=1, passed=1, deselected=4)


@pytest.mark.parametrize("option", ["--setup-plan", "--setup-only", "--fixtures-per-test", "--fixtures", "--markers"])
def test_pytests_own_listings_do_not_crash(project, option):
    ran = project.run(option)
    assert "INTERNALERROR" not in ran.stdout.str() + ran.stderr.str()
    if option in ("--setup-plan", "--fixtures", "--markers"):
        assert ran.ret == 0
    if option == "--setup-plan":
        assert project.count("build") == 0


def test_listings_name_what_the_plugin_offers(project):
    fixtures = project.run("--fixtures").stdout.str()
    for name in ("cnnaudit ", "cnnaudit_model [session scope]", "cnnaudit_data [session scope]", "cnnaudit_rule "):
        assert f"\n{name}" in fixtures
    assert "@pytest.mark.cnnaudit(path): " in project.run("--markers").stdout.str()
    options = project.run("--help").stdout.str()
    for option in ("--cnnaudit-device=DEVICE", "--cnnaudit-max-images=N", "--cnnaudit-report=NAME=PATH"):
        assert option in options
    assert "cnnaudit_files (args)" in options


def test_doctests_of_modules_run_beside_rules(project):
    project.write("documented.py", '"""\n>>> 1 + 1\n2\n"""\n')
    ran = project.run("--doctest-modules", "-v", "-k", "documented or holds")
    assert ran.ret == 0
    ran.assert_outcomes(passed=2, deselected=4)


def test_lf_runs_only_the_rules_that_failed(project):
    project.run()
    assert collected(project, "--lf") == ["net.audit.yaml::fails", "net.audit.yaml::undecided"]
    project.run("--lf").assert_outcomes(failed=2)


def test_ff_runs_the_rules_that_failed_first(project):
    project.run()
    assert collected(project, "--ff")[:2] == ["net.audit.yaml::fails", "net.audit.yaml::undecided"]


@pytest.mark.parametrize("rule", ["activity.dead", "a-b_c.1", "-x", "42", "not", "Test", "class", "..."])
def test_ids_that_are_no_names_of_python_are_selected_by_their_node_ids(project, rule):
    project.rules(f"  - {{id: '{rule}', metric: activity.apoz, at: conv1, max: 0.99}}\n{project.FAILS}")
    assert project.outcomes(f"net.audit.yaml::{rule}") == {f"net.audit.yaml::{rule}": "passed"}


def test_verbose_runs_name_rules_by_ids_that_can_be_selected(project):
    project.rules("  - {id: activity.apoz, metric: activity.apoz, at: conv1, max: 0.99}\n")
    assert [line.split()[0] for line in project.run("-v").outlines if "PASSED" in line] == [
        "net.audit.yaml::activity.apoz"
    ]


@pytest.mark.parametrize(
    "rule",
    [
        *("setup_module", "teardown_module", "setUpModule", "setup_function", "teardown_function"),
        *("pytestmark", "pytest_plugins", "pytest_generate_tests"),
        *("__name__", "__doc__", "__file__", "__test__", "__builtins__", "__init__", "__dict__"),
    ],
)
def test_ids_that_mean_something_else_to_pytest_are_refused_with_their_line(project, rule):
    project.rules(f"{project.HOLDS}  - {{id: {rule}, metric: activity.dead, max: 0}}\n")
    ran = project.run()
    ran.assert_outcomes(errors=1)
    ran.stdout.fnmatch_lines([f"net.audit.yaml:*: pytest means something else by '{rule}': give the rule another id"])
