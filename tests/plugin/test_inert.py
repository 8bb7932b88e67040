"""Where nobody audits, the plugin costs and says nothing."""

import pytest

LOADED = """
import sys

def pytest_unconfigure(config):
    heavy = ("torch", "pydantic", "numpy", "scipy", "tabulate", "jinja2", "yaml", "cnnaudit.pipeline")
    print("loaded:", *(name for name in heavy if name in sys.modules))
"""
# Plugins of this environment that are not ours may import what they like.
ALONE = ("-p", "no:hypothesispytest", "-p", "no:anyio", "-p", "no:xdist", "-p", "no:pytest_cov", "-s")


def loaded(project, *args):
    project.write("conftest.py", LOADED)
    ran = project.run_apart(*ALONE, *args)
    (line,) = [line for line in ran.outlines if line.startswith("loaded:")]
    return line.split()[1:]


def empty(project):
    (project.path / "net.audit.yaml").unlink()
    (project.path / "model.py").unlink()


def test_no_cnnaudit_collects_nothing(project):
    ran = project.run_apart("-p", "no:cnnaudit")
    assert ran.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "INTERNALERROR" not in ran.stdout.str() + ran.stderr.str()
    assert "cnnaudit" not in "\n".join(line for line in ran.outlines if not line.startswith(("rootdir", "plugins")))


def test_no_cnnaudit_lets_other_tests_run_on_workers(project):
    project.write("test_other.py", "def test_a():\n    pass\n\ndef test_b():\n    pass\n")
    ran = project.run_apart("-p", "no:cnnaudit", "-n", "2")
    ran.assert_outcomes(passed=2)
    assert ran.ret == 0
    assert "INTERNALERROR" not in ran.stdout.str() + ran.stderr.str()


def test_a_project_without_rule_files_reads_nothing_of_ours(project):
    empty(project)
    project.write("test_other.py", "def test_a():\n    pass\n")
    ran = project.run_apart()
    ran.assert_outcomes(passed=1)
    assert "cnnaudit" not in "\n".join(line for line in ran.outlines if not line.startswith(("rootdir", "plugins")))
    assert ran.stderr.str() == ""


def test_loading_the_plugin_imports_nothing_heavy(project):
    empty(project)
    assert loaded(project) == []
    assert loaded(project, "--co") == []


def test_tests_that_audit_nothing_import_nothing_heavy(project):
    empty(project)
    project.write("test_other.py", "def test_a():\n    pass\n")
    assert loaded(project) == []


@pytest.mark.parametrize("args", [["--co"], ["-k", "nothing"]])
def test_collecting_rule_files_imports_no_torch(project, args):
    assert "pydantic" in (found := loaded(project, *args))
    assert not {"torch", "cnnaudit.pipeline"} & set(found)


def test_collecting_marked_tests_imports_no_torch(project):
    project.write(
        "test_net.py",
        'import pytest\n\n@pytest.mark.cnnaudit("net.audit.yaml")\ndef test_net(cnnaudit_rule):\n    pass\n',
    )
    assert "torch" not in loaded(project, "--co", "test_net.py")


def test_the_plugin_is_there_under_its_name(project):
    ran = project.run("--trace-config", "--co")
    assert any("pytest_cnnaudit" in line and "plugin.py" in line for line in ran.outlines)
