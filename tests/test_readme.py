"""What the README shows is what happens."""

import re
import shutil
from pathlib import Path

import pytest

from cnnaudit.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(autouse=True)
def _at_the_root(request, monkeypatch):
    if "pytester" not in request.fixturenames:
        monkeypatch.chdir(ROOT)


def test_two_commands_that_can_be_pasted():
    commands = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert [c.count("\n") for c in commands] == [1, 1]
    assert commands[0].rstrip().endswith("cnnaudit check examples/digits/digits.audit.yaml")
    assert commands[1].rstrip().endswith("python -m pytest -n auto")


def test_python_example_runs():
    (example,) = [code for code in PYTHON if not code.startswith("# ")]
    exec(compile(example, "README.md", "exec"), {})  # noqa: S102 - the README's own code


def test_five_lines_audit_a_model_from_conftest(pytester):
    files = {code.partition("\n")[0].removeprefix("# "): code for code in PYTHON if code.startswith("# ")}
    assert sorted(files) == ["conftest.py", "test_flow.py"]
    assert files["test_flow.py"].count("\n") == 1 + 5
    for name, code in files.items():
        pytester.path.joinpath(name).write_text(code, encoding="utf-8")
    for name in ("model.py", "weights.safetensors", "digits.npz"):
        shutil.copy(ROOT / "examples" / "digits" / name, pytester.path / name)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
    test = pytester.path / "test_flow.py"
    test.write_text(files["test_flow.py"].replace(">= 0.02", ">= 0.5"), encoding="utf-8")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*branch_variance_share.share >= 0.5: fails at * of 4 sites (1,200 images, 95 %)"])


def test_shown_output_is_the_real_one(capsys):
    (session,) = re.findall(r"```console\n\$ cnnaudit (.*?)```", README, re.DOTALL)
    command, _, shown = session.partition("\n")
    assert main(command.split()) == 1
    assert shown in capsys.readouterr().out


def test_first_rule_file_is_the_one_that_passes(tmp_path, capsys):
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    digits = ROOT / "examples" / "digits"
    for name in ("model.py", "weights.safetensors", "digits.npz"):
        text = text.replace(f" {name}", f" {digits / name}")
    spec = tmp_path / "readme.audit.yaml"
    spec.write_text(text, encoding="utf-8")
    assert len(text.splitlines()) <= 10
    assert main(["check", str(spec)]) == 0
    assert "PASSED: 4 rules, 4 passed (exit 0)" in capsys.readouterr().out


def test_linked_pages_exist():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []
