"""Which of several sources of a setting counts, and what may be a setting at all."""

import json
from pathlib import Path

import pytest

from cnnaudit.cli import main
from cnnaudit.result import Report

RULES = """
cnnaudit: 1
model: net.py:build
data: {load: synthetic, kwargs: {images: 8, channels: 1, size: 6}}
rules:
  - {metric: activity.dead, max: 1}
"""
NETWORK = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working directory and environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("DEVICE", "FORMAT", "BASELINE", "WAIVERS", "ALLOW_IMPORT", "ALLOW_PATH"):
        monkeypatch.delenv(f"CNNAUDIT_{name}", raising=False)
    return tmp_path


def shown(capsys, *argv, command="check"):
    """Setting -> (value, source), as ``--show-settings`` prints it."""
    assert main([command, "--show-settings", *argv]) == 0
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    return {name: (value, source) for name, value, source in ([cell.strip() for cell in row if cell] for row in rows)}


def refused(capsys, *argv):
    assert main(["check", "--show-settings", *argv]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("name", ["device", "baseline", "waivers"])
def test_each_source_overrides_the_next(capsys, monkeypatch, here, name):
    variable = f"CNNAUDIT_{name.upper()}"
    assert shown(capsys)[name] == ("-", "default")
    (here / "pyproject.toml").write_text(f'[tool.cnnaudit]\n{name} = "one"\n')
    assert shown(capsys)[name] == ("one", "pyproject.toml")
    monkeypatch.setenv(variable, "two")
    assert shown(capsys)[name] == ("two", variable)
    assert shown(capsys, f"--{name}", "three")[name] == ("three", "command line")


def test_formats_replace_each_other(capsys, monkeypatch, here):
    (here / "pyproject.toml").write_text('[tool.cnnaudit]\nformat = ["json", "junit=a.xml"]\n')
    assert shown(capsys)["format"] == ("json junit=a.xml", "pyproject.toml")
    monkeypatch.setenv("CNNAUDIT_FORMAT", "text,sarif=b.sarif")
    assert shown(capsys)["format"] == ("text sarif=b.sarif", "CNNAUDIT_FORMAT")
    assert shown(capsys, "--format", "text")["format"] == ("text", "command line")


@pytest.mark.parametrize("name", ["allow-import", "allow-path"])
def test_leave_adds_up(capsys, monkeypatch, here, name):
    variable = f"CNNAUDIT_{name.upper().replace('-', '_')}"
    (here / "pyproject.toml").write_text(f'[tool.cnnaudit]\n{name} = ["c", "a"]\n')
    monkeypatch.setenv(variable, "b")
    assert shown(capsys, f"--{name}", "a")[name] == ("a b c", f"command line, {variable}, pyproject.toml")


def test_a_file_of_its_own_is_as_good_as_pyproject(capsys, here):
    (here / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    (here / "cnnaudit.toml").write_text('device = "cuda"\n')
    assert shown(capsys)["device"] == ("cuda", "cnnaudit.toml")
    (here / "pyproject.toml").write_text('[tool.cnnaudit]\ndevice = "cpu"\n')
    assert refused(capsys) == (
        "error: both pyproject.toml [tool.cnnaudit] and cnnaudit.toml give settings: keep one of them\n"
    )


def test_a_named_file_replaces_that_of_the_directory_but_not_the_environment(capsys, monkeypatch, here):
    (here / "pyproject.toml").write_text('[tool.cnnaudit]\ndevice = "one"\nwaivers = "one"\n')
    (here / "ci.toml").write_text('device = "two"\nbaseline = "two"\n')
    monkeypatch.setenv("CNNAUDIT_BASELINE", "three")
    found = shown(capsys, "--config", "ci.toml")
    assert found["device"] == ("two", "ci.toml")
    assert found["baseline"] == ("three", "CNNAUDIT_BASELINE")
    assert found["waivers"] == ("-", "default")
    assert "--config: there is no file no.toml" in refused(capsys, "--config", "no.toml")


def test_isolated_leaves_the_command_line(capsys, monkeypatch, here):
    (here / "pyproject.toml").write_text('[tool.cnnaudit]\ndevice = "one"\nallow-import = ["a"]\n')
    monkeypatch.setenv("CNNAUDIT_BASELINE", "three")
    found = shown(capsys, "--isolated", "--waivers", "w.yaml")
    assert {name: source for name, (_, source) in found.items() if source != "default"} == {"waivers": "command line"}
    assert "--isolated takes settings from no file: leave --config out" in refused(
        capsys, "--isolated", "--config", "pyproject.toml"
    )


def test_only_the_working_directory_is_looked_into(capsys, monkeypatch, here):
    (here / "pyproject.toml").write_text('[tool.cnnaudit]\ndevice = "cpu"\n')
    (here / "below").mkdir()
    monkeypatch.chdir(here / "below")
    assert shown(capsys)["device"] == ("-", "default")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("confidence = 0.5", "confidence decides verdicts, and belongs in the rule file only; remove it"),
        ('undecided = "pass"', "undecided decides verdicts, and belongs in the rule file only; remove it"),
        ("max = 1", "max decides verdicts, and belongs in the rule file only; remove it"),
        ("coverage-fail-under = 10", "coverage-fail-under is given on the command line only; remove it"),
        ("trust_model = true", "trust_model is given on the command line only; remove it"),
        ("allow_import = []", "allow_import is no setting; did you mean allow-import?"),
        ("colour = 1", "colour is no setting; the settings are device, format, baseline, waivers, allow-import, allow"),
        ("device = 1", "device must be text"),
        ("format = 'json'", "format must be a list of text"),
        ("format = [1]", "format must be a list of text"),
    ],
)
def test_what_is_no_setting_is_refused_with_file_key_and_reason(capsys, here, text, message):
    (here / "pyproject.toml").write_text(f"[tool.cnnaudit]\n{text}\n")
    assert f"error: pyproject.toml: [tool.cnnaudit] {message}" in refused(capsys)
    (here / "pyproject.toml").unlink()
    (here / "cnnaudit.toml").write_text(f"{text}\n")
    assert f"error: cnnaudit.toml: {message}" in refused(capsys)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CONFIDENCE", "confidence decides verdicts, and belongs in the rule file only"),
        ("COVERAGE_FAIL_UNDER", "coverage-fail-under is given on the command line only"),
        ("TRUST_MODEL", "trust-model is given on the command line only"),
    ],
)
def test_the_environment_relaxes_no_gate(capsys, monkeypatch, name, message):
    monkeypatch.setenv(f"CNNAUDIT_{name}", "1")
    assert refused(capsys) == f"error: CNNAUDIT_{name}: {message}; unset the variable\n"


def test_a_file_that_is_no_toml_is_refused(capsys, here):
    (here / "cnnaudit.toml").write_text("device =\n")
    assert "error: cnnaudit.toml: Invalid value (at line 1, column 9)" in refused(capsys)


def test_help_is_shown_whatever_the_file_says(capsys, here):
    (here / "cnnaudit.toml").write_text("device =\n")
    assert main(["check", "--help"]) == 0
    assert "--show-settings" in capsys.readouterr().out


def test_a_value_that_an_option_refuses_is_refused_with_its_source(capsys, monkeypatch, here):
    (here / "net.audit.yaml").write_text(RULES)
    monkeypatch.setenv("CNNAUDIT_FORMAT", "jsn")
    assert main(["check", "net.audit.yaml"]) == 2
    assert "there is no format 'jsn'" in (told := capsys.readouterr().err)
    assert "(from CNNAUDIT_FORMAT)" in told


def test_a_first_look_has_the_settings_that_are_options_of_it(capsys, here):
    (here / "cnnaudit.toml").write_text('device = "cpu"\nformat = ["json"]\nbaseline = "x"\n')
    assert list(shown(capsys, command="profile")) == ["device", "allow-import", "allow-path"]


def test_settings_take_effect_and_are_kept_in_the_report(capsys, here):
    (here / "net.py").write_text(NETWORK)
    (here / "net.audit.yaml").write_text(RULES)
    (here / "elsewhere.toml").write_text('device = "cpu"\nformat = ["json=report.json"]\nallow-import = ["net.py"]\n')
    assert main(["check", "net.audit.yaml", "--isolated"]) == 2
    assert "net.py:build is code, and importing it is not allowed" in capsys.readouterr().err
    assert main(["check", "net.audit.yaml", "--config", "elsewhere.toml"]) == 0
    kept = json.loads(Path("report.json").read_text())["settings"]["resolved"]
    assert kept == {
        "device": {"value": "cpu", "source": "elsewhere.toml"},
        "format": {"value": ["json=report.json"], "source": "elsewhere.toml"},
        "baseline": {"value": None, "source": "default"},
        "waivers": {"value": None, "source": "default"},
        "allow-import": {"value": ["net.py"], "source": "elsewhere.toml"},
        "allow-path": {"value": [], "source": "default"},
    }
    assert Report.from_json(Path("report.json").read_text()).settings["resolved"] == kept
    assert main(["check", "net.audit.yaml"]) == 2, "a command leaves no configuration behind"
