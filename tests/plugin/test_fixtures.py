"""Models and data from fixtures, and ``cnnaudit.check`` in tests."""

import pytest
from reading import section, table

RULES = """rules:
  - {id: holds, metric: activity.apoz, at: conv1, max: 0.99}
  - {id: fails, metric: activity.dead, max: 0}
"""
BARE = "cnnaudit: 1\n"
CONFTEST = """
import numpy as np
import pytest
from model import Net, build, build_alive

@pytest.fixture(scope="session")
def cnnaudit_data():
    with np.load("data.npz") as file:
        return file["images"], file["labels"]
"""


@pytest.fixture
def bare(project):
    """A project whose rule file names neither model nor data; its conftest gives the data."""
    project.rules(RULES, head=BARE)
    project.write("conftest.py", CONFTEST)
    return project


def add(project, text, name="conftest.py"):
    project.write(name, (project.path / name).read_text(encoding="utf-8") + text)


# --- rule files without a model or data -------------------------------------------------------------------------


def test_model_and_data_come_from_fixtures(bare):
    add(bare, "\n@pytest.fixture(scope='session')\ndef cnnaudit_model():\n    return build()\n")
    ran = bare.run()
    ran.assert_outcomes(passed=1, failed=1)
    assert section(ran, "fails")[0] == "net.audit.yaml:4: fails fails at 1 of 2 sites, 120 images"
    assert bare.count("build") == 1


def test_the_files_own_model_wins_over_a_fixture(bare):
    add(bare, "\n@pytest.fixture(scope='session')\ndef cnnaudit_model():\n    return build_alive()\n")
    bare.rules(RULES, head="cnnaudit: 1\nmodel: model.py:build\n")
    assert bare.outcomes() == {"net.audit.yaml::holds": "passed", "net.audit.yaml::fails": "failed"}


def test_a_fixture_may_give_the_text_of_a_model(bare):
    add(bare, "\n@pytest.fixture(scope='session')\ndef cnnaudit_model():\n    return 'model.py:build_alive'\n")
    bare.run().assert_outcomes(passed=2)


@pytest.mark.parametrize("scope", ["session", "function"])
def test_a_fixture_named_model_is_taken_where_there_is_no_other(bare, scope):
    add(bare, f"\n@pytest.fixture(scope='{scope}')\ndef model():\n    return build()\n")
    assert bare.outcomes() == {"net.audit.yaml::holds": "passed", "net.audit.yaml::fails": "failed"}
    assert bare.count("forward") == 1


def test_without_any_fixture_the_message_says_which_to_write(bare):
    ran = bare.run()
    ran.assert_outcomes(failed=2)
    assert section(ran, "holds") == [
        "net.audit.yaml:3: holds could not be evaluated",
        "  net.audit.yaml: no `model:`, and no fixture gives the model: name it in the rule file, or write a fixture "
        '@pytest.fixture(scope="session") def cnnaudit_model() in conftest.py',
    ]


def test_without_data_the_message_says_which_fixture_to_write(project):
    project.rules(RULES, head="cnnaudit: 1\nmodel: model.py:build\n")
    ran = project.run()
    ran.assert_outcomes(failed=2)
    assert "no `data:`, and no fixture gives the data" in section(ran, "holds")[1]
    assert "def cnnaudit_data() in conftest.py" in section(ran, "holds")[1]


def test_a_fixture_that_gives_no_model_fails_in_one_line(bare):
    add(bare, "\n@pytest.fixture(scope='session')\ndef cnnaudit_model():\n    return 3\n")
    ran = bare.run()
    ran.assert_outcomes(failed=2)
    assert section(ran, "holds")[1] == "  model: a int from Python, not a torch.nn.Module or text"


def test_an_error_in_the_fixture_named_model_is_told(bare):
    add(bare, "\n@pytest.fixture\ndef model(nowhere):\n    return build()\n")
    ran = bare.run()
    assert "fixture 'nowhere' not found" in ran.stdout.str()
    assert ran.ret == pytest.ExitCode.TESTS_FAILED


def test_a_parametrised_model_multiplies_the_rules(bare):
    add(
        bare,
        "\n@pytest.fixture(scope='session', params=[build, build_alive], ids=['dead', 'alive'])\n"
        "def cnnaudit_model(request):\n    return request.param()\n",
    )
    assert bare.outcomes() == {
        "net.audit.yaml::holds[dead]": "passed",
        "net.audit.yaml::fails[dead]": "failed",
        "net.audit.yaml::holds[alive]": "passed",
        "net.audit.yaml::fails[alive]": "passed",
    }
    assert bare.count("forward") == 2


def test_a_parametrised_model_is_audited_once_each_on_two_workers(bare):
    add(
        bare,
        "\n@pytest.fixture(scope='session', params=[True, False], ids=['dead', 'alive'])\n"
        "def cnnaudit_model(request):\n    return Net(request.param)\n",
    )
    ran = bare.run_apart("-n", "2", "-v")
    ran.assert_outcomes(passed=3, failed=1)
    assert [line.split()[1] for line in ran.outlines if line.startswith("FAILED ")] == ["net.audit.yaml::fails[dead]"]
    assert bare.count("forward") == 2


def test_the_model_is_left_as_it_was(bare):
    add(
        bare,
        """
import torch

@pytest.fixture(scope="session")
def cnnaudit_model():
    model = build().train()
    model.conv1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    torch.manual_seed(3)
    yield model
    assert torch.get_rng_state().equal(torch.manual_seed(3).get_state())
    assert [name for name, m in model.named_modules() if not m.training] == ["conv1"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    print("looked at the model")
""",
    )
    ran = bare.run("-s", "-k", "holds")
    ran.assert_outcomes(passed=1, deselected=1)
    assert "looked at the model" in ran.stdout.str()


# --- cnnaudit.check ---------------------------------------------------------------------------------------------


def check(project, body, name="test_net.py", head=""):
    project.write("net.rules.yaml", (project.path / "net.audit.yaml").read_text(encoding="utf-8"))
    (project.path / "net.audit.yaml").unlink()
    return project.write(name, f"{head}\ndef test_net(cnnaudit):\n    {body}\n")


def test_check_returns_the_report_of_an_audit_that_passes(project):
    project.rules(project.HOLDS)
    check(
        project,
        'report = cnnaudit.check("net.rules.yaml")\n'
        "    assert type(report).__name__ == 'Report' and report.passed\n"
        "    assert report.outcome('holds') == 'pass' and report.data['n_images'] == 120",
    )
    project.run().assert_outcomes(passed=1)


def test_check_fails_with_the_place_of_each_rule_that_fails(project):
    check(project, 'cnnaudit.check("net.rules.yaml")')
    ran = project.run()
    ran.assert_outcomes(failed=1)
    told = [line.removeprefix("E").replace("Failed:", "").split() for line in ran.outlines if line.startswith("E")]
    assert [words[0] for words in told if "net.rules.yaml:" in words[0]] == ["net.rules.yaml:9:", "net.rules.yaml:12:"]
    assert 'cnnaudit.check("net.rules.yaml")' in ran.stdout.str()
    assert "def check(" not in ran.stdout.str()
    assert {row.split()[1] for row in table(ran)} >= {"net.rules.yaml:9", "net.rules.yaml:12", "net.rules.yaml:5"}


def test_check_takes_rules_model_and_data_from_python(project):
    check(
        project,
        "from model import build_alive\n    import torch\n    torch.manual_seed(0)\n"
        "    rules = [{'metric': 'activity.dead', 'max': 0}]\n"
        "    data = torch.rand(120, 1, 10, 10), torch.arange(120) % 3\n"
        "    report = cnnaudit.check({'cnnaudit': 1, 'rules': rules}, model=build_alive(), data=data)\n"
        "    assert report.outcome('activity.dead') == 'pass'",
    )
    project.run().assert_outcomes(passed=1)


def test_a_failing_mapping_is_told_as_rules_from_python(project):
    check(
        project,
        "from model import build\n    import torch\n"
        "    rules = [{'metric': 'activity.dead', 'max': 0}]\n"
        "    cnnaudit.check({'cnnaudit': 1, 'rules': rules}, model=build(), data=(torch.rand(120, 1, 10, 10), None))",
    )
    ran = project.run()
    ran.assert_outcomes(failed=1)
    assert "rules from Python: activity.dead fails at 1 of 2 sites, 120 images" in ran.stdout.str()


def test_a_model_that_is_given_wins_over_the_files(project):
    project.rules(RULES)
    check(project, "from model import build_alive\n    cnnaudit.check('net.rules.yaml', model=build_alive())")
    project.run().assert_outcomes(passed=1)


def test_two_models_that_are_given_are_two_audits(project):
    project.rules(RULES)
    check(
        project,
        "from model import build, build_alive\n    import pytest\n"
        "    assert cnnaudit.check('net.rules.yaml', model=build_alive()).passed\n"
        "    with pytest.raises(pytest.fail.Exception):\n"
        "        cnnaudit.check('net.rules.yaml', model=build())",
    )
    project.run().assert_outcomes(passed=1)
    assert project.count("forward") == 2


def test_a_path_is_relative_to_the_tests_own_file(project):
    project.rules(RULES, head=project.HEAD.replace("model: ", "model: ../").replace("data: ", "data: ../"))
    check(project, 'cnnaudit.check("net.rules.yaml")')
    project.write("deep/net.rules.yaml", (project.path / "net.rules.yaml").read_text(encoding="utf-8"))
    project.write("deep/test_deep.py", 'def test_deep(cnnaudit):\n    cnnaudit.check("net.rules.yaml")\n')
    ran = project.run("deep")
    ran.assert_outcomes(failed=1)
    assert "deep/net.rules.yaml:6: fails fails at 1 of 2 sites" in ran.stdout.str()


def test_a_file_where_pytest_was_started_is_not_taken_for_one_beside_the_test(project):
    project.rules(project.HOLDS, name="net.rules.yaml")
    project.write("deep/test_deep.py", 'def test_deep(cnnaudit):\n    cnnaudit.check("net.rules.yaml")\n')
    ran = project.run("deep")
    ran.assert_outcomes(failed=1)
    assert "deep/net.rules.yaml: cannot be read (No such file or directory); check the path" in ran.stdout.str()


def test_a_file_that_is_not_there_is_told(project):
    check(project, 'cnnaudit.check("lost.yaml")')
    ran = project.run()
    ran.assert_outcomes(failed=1)
    assert "lost.yaml: cannot be read (No such file or directory); check the path" in ran.stdout.str()


def test_check_takes_model_and_data_from_fixtures(bare):
    add(bare, "\n@pytest.fixture\ndef model():\n    return build_alive()\n")
    check(bare, 'assert cnnaudit.check("net.rules.yaml").passed')
    bare.run().assert_outcomes(passed=1)


def test_check_without_any_model_says_which_fixture_to_write(bare):
    check(bare, 'cnnaudit.check("net.rules.yaml")')
    ran = bare.run()
    ran.assert_outcomes(failed=1)
    assert "no fixture gives the model: name it in the rule file, or write a fixture" in ran.stdout.str()


def test_a_file_that_a_test_writes_anew_is_audited_anew(project):
    project.rules(project.FAILS, head=project.HEAD + "weights: weights.pt\n", name="net.rules.yaml")
    project.write(
        "test_net.py",
        """
import pytest
import torch
from model import Net

@pytest.mark.parametrize("dead", [False, True])
def test_net(cnnaudit, dead, request):
    torch.save(Net(dead).state_dict(), request.path.parent / "weights.pt")
    cnnaudit.check("net.rules.yaml")
""",
    )
    assert project.outcomes("test_net.py") == {
        "test_net.py::test_net[False]": "passed",
        "test_net.py::test_net[True]": "failed",
    }


def test_rules_that_python_changes_are_audited_anew(project):
    project.rules(project.HOLDS, name="net.rules.yaml")
    project.write(
        "test_net.py",
        """
from dataclasses import replace
from pathlib import Path

import pytest
from pytest_cnnaudit.rules import read

def test_net(cnnaudit, request):
    spec = read(request.path.parent / "net.rules.yaml")
    assert cnnaudit.check(spec).passed
    (rule,) = spec.rules
    with pytest.raises(pytest.fail.Exception, match="holds fails at 1 of 1 site"):
        cnnaudit.check(replace(spec, rules=(replace(rule, max=0.01),)))
""",
    )
    project.run("test_net.py").assert_outcomes(passed=1)


def test_rules_of_which_none_was_judged_do_not_pass(project):
    project.rules("  - {metric: branch_variance_share, min: 0.1, if_absent: skip}\n")
    project.write("test_net.py", 'def test_net(cnnaudit):\n    cnnaudit.check("net.audit.yaml")\n')
    ran = project.run("test_net.py")
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(["*nothing was judged", "*branch_variance_share does not apply*"])


@pytest.mark.parametrize("what", ["model", "data"])
def test_a_fixture_that_forgets_to_return_is_told(bare, what):
    add(bare, "\n@pytest.fixture\ndef model():\n    return build_alive()\n")
    add(bare, f"\n@pytest.fixture(scope='session')\ndef cnnaudit_{what}():\n    pass\n")
    ran = bare.run()
    ran.assert_outcomes(failed=2)
    assert ran.stdout.str().count(f"  the fixture cnnaudit_{what} returned None") == 2


def test_data_that_can_be_read_only_once_is_refused(bare):
    add(bare, "\n@pytest.fixture\ndef model():\n    return build_alive()\n")
    add(bare, "\n@pytest.fixture(scope='session')\ndef cnnaudit_data():\n    yield iter([])\n")
    ran = bare.run()
    ran.assert_outcomes(failed=2)
    assert (
        "cnnaudit_data gave an iterator, which can be read once only: return a list or a DataLoader" in ran.stdout.str()
    )


def test_a_spec_is_measured_with_the_model_that_it_names(bare):
    add(bare, "\n@pytest.fixture(scope='session')\ndef cnnaudit_model():\n    return build_alive()\n")
    bare.rules(bare.FAILS, name="net.rules.yaml")
    bare.write(
        "test_net.py",
        """
from pytest_cnnaudit.rules import read

def test_net(cnnaudit, request):
    spec = read(request.path.parent / "net.rules.yaml")
    assert not cnnaudit.profile(rules=spec)["activity.dead"] <= 0
    assert cnnaudit.profile(rules={"metric": "activity"})["activity.dead"] <= 0
""",
    )
    bare.run("test_net.py").assert_outcomes(passed=1)


# --- one file, several models -----------------------------------------------------------------------------------

TWO = """
import pytest
from model import {build}

@pytest.fixture{scope}
def {fixture}():
    return {build}()

def test_{build}(cnnaudit):
    cnnaudit.check("net.rules.yaml")
"""


@pytest.mark.parametrize("fixture", ["model", "cnnaudit_model"])
@pytest.mark.parametrize("scope", ["", "(scope='module')"], ids=["function", "module"])
def test_modules_with_models_of_their_own_are_audited_with_their_own(bare, fixture, scope):
    check(bare, "pass")
    bare.write("test_alive.py", TWO.format(build="build_alive", fixture=fixture, scope=scope))
    bare.write("test_dead.py", TWO.format(build="build", fixture=fixture, scope=scope))
    assert bare.outcomes("test_alive.py", "test_dead.py") == {
        "test_alive.py::test_build_alive": "passed",
        "test_dead.py::test_build": "failed",
    }


def test_classes_with_models_of_their_own_are_audited_with_their_own(bare):
    check(bare, "pass")
    bare.write(
        "test_two.py",
        """
import pytest
from model import build, build_alive

class TestAlive:
    @pytest.fixture
    def cnnaudit_model(self):
        return build_alive()

    def test_net(self, cnnaudit):
        cnnaudit.check("net.rules.yaml")

class TestDead:
    @pytest.fixture
    def cnnaudit_model(self):
        return build()

    def test_net(self, cnnaudit):
        cnnaudit.check("net.rules.yaml")
""",
    )
    assert bare.outcomes("test_two.py") == {
        "test_two.py::TestAlive::test_net": "passed",
        "test_two.py::TestDead::test_net": "failed",
    }


def test_a_parameter_of_the_same_place_in_two_tests_is_not_the_same_model(bare):
    check(bare, "pass")
    bare.write(
        "test_two.py",
        """
import pytest
from model import build, build_alive

@pytest.fixture
def cnnaudit_model(request):
    return request.param()

@pytest.mark.parametrize("cnnaudit_model", [build_alive], indirect=True)
def test_alive(cnnaudit, cnnaudit_model):
    cnnaudit.check("net.rules.yaml")

@pytest.mark.parametrize("cnnaudit_model", [build], indirect=True)
def test_dead(cnnaudit, cnnaudit_model):
    cnnaudit.check("net.rules.yaml")
""",
    )
    assert bare.outcomes("test_two.py") == {
        "test_two.py::test_alive[build_alive]": "passed",
        "test_two.py::test_dead[build]": "failed",
    }


def test_a_model_that_a_test_changes_is_audited_anew(bare):
    add(bare, "\n@pytest.fixture(scope='session')\ndef cnnaudit_model():\n    return build_alive()\n")
    check(
        bare,
        "cnnaudit.check('net.rules.yaml')\n"
        "    with torch.no_grad():\n        cnnaudit_model.conv2.bias[0] = -100\n"
        "    with pytest.raises(pytest.fail.Exception):\n        cnnaudit.check('net.rules.yaml')",
        head="import pytest\nimport torch\n",
    )
    text = (bare.path / "test_net.py").read_text(encoding="utf-8")
    bare.write("test_net.py", text.replace("test_net(cnnaudit)", "test_net(cnnaudit, cnnaudit_model)"))
    assert bare.outcomes("test_net.py") == {"test_net.py::test_net": "passed"}
