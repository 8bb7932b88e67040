"""``marks:`` of a rule and of a whole file are pytest markers."""

import pytest

MARKED = """  - {id: holds, metric: activity.apoz, at: conv1, max: 0.99, marks: [slow]}
  - {id: fails, metric: activity.dead, max: 0, marks: [slow, gate]}
  - {id: plain, metric: activity.dormant, max: 100}
"""
MARKERS = "markers =\n    slow: takes long\n    gate: decides a release\n    net: of the network"


def selected(project, expression):
    return [line.partition("::")[2] for line in project.run("--co", "-q", "-m", expression).outlines if "::" in line]


def test_m_selects_by_the_marks_of_a_rule(project):
    project.ini(MARKERS)
    project.rules(MARKED)
    assert selected(project, "slow") == ["holds", "fails"]
    assert selected(project, "slow and not gate") == ["holds"]
    assert selected(project, "not slow") == ["plain"]


def test_marks_of_the_file_are_marks_of_every_rule(project):
    project.ini(MARKERS)
    project.rules(MARKED, head=project.HEAD + "marks: [net]\n")
    assert selected(project, "net") == ["holds", "fails", "plain"]
    assert selected(project, "net and gate") == ["fails"]


def test_only_the_selected_rules_run(project):
    project.ini(MARKERS)
    project.rules(MARKED)
    project.run("-m", "not gate").assert_outcomes(passed=2, deselected=1)


def test_an_unregistered_mark_is_an_error_that_names_it(project):
    project.rules(MARKED.replace("slow", "slwo"))  # in one process pytest remembers what any run registered
    ran = project.run()
    ran.assert_outcomes(errors=1)
    text = ran.stdout.str()
    assert "'slwo' not found in `markers` configuration option" in text
    assert "ERROR collecting net.audit.yaml" in text or "ERROR net.audit.yaml" in text
    assert "collect.py" not in text


@pytest.mark.parametrize("written", ["_slow", "slow mark", "skip()", "1st"])
def test_what_can_be_no_mark_is_a_mistake_of_the_file_with_its_place(project, written):
    project.rules(f"  - {{id: holds, metric: activity.apoz, max: 1, marks: ['{written}']}}\n")
    ran = project.run()
    ran.assert_outcomes(errors=1)
    assert [line.partition(" ")[0] for line in ran.outlines if line.startswith("net.audit.yaml:")][:1] == [
        "net.audit.yaml:5:56:"
    ]
    assert "Traceback" not in ran.stdout.str()
    assert "collect.py" not in ran.stdout.str()


def test_skip_keeps_a_rule_from_being_audited(project):
    project.rules("  - {id: fails, metric: activity.dead, max: 0, marks: [skip]}\n")
    project.run().assert_outcomes(skipped=1)
    assert project.count("build") == 0


def test_xfail_expects_a_rule_to_fail(project):
    project.rules(
        "  - {id: fails, metric: activity.dead, max: 0, marks: [xfail]}\n"
        "  - {id: holds, metric: activity.apoz, at: conv1, max: 0.99, marks: [xfail]}\n"
    )
    ran = project.run()
    ran.assert_outcomes(xfailed=1, xpassed=1)
    assert ran.ret == 0


def test_marks_reach_tests_that_are_marked_with_the_file(project):
    project.ini(MARKERS)
    project.rules(MARKED)
    project.write(
        "test_net.py",
        'import pytest\n\n@pytest.mark.cnnaudit("net.audit.yaml")\ndef test_net(cnnaudit_rule):\n    pass\n',
    )
    assert selected(project, "gate") == ["fails", "test_net[fails]"]


def test_strict_selection_knows_the_plugins_own_marker(project):
    assert project.run("-m", "cnnaudit").ret == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize("mark", ["parametrize", "usefixtures", "skipif", "filterwarnings", "cnnaudit"])
def test_marks_that_mean_something_with_arguments_are_refused(project, mark):
    project.rules(f"  - {{id: holds, metric: activity.apoz, max: 1, marks: [{mark}]}}\n")
    ran = project.run()
    ran.assert_outcomes(errors=1)
    assert f"net.audit.yaml:5: {mark} is a mark of pytest's own with arguments" in ran.outlines
