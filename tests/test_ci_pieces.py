"""The files that people copy into their pipelines: valid, and they do what they say."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cnnaudit.cli import main

ROOT = Path(__file__).parents[1]


def loaded(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("schema", "file"), [("vendor.github-actions", "action.yml"), ("vendor.gitlab-ci", "ci/gitlab.yml")]
)
def test_it_is_what_the_platform_reads(schema, file):
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(ROOT / file)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hooks_lint_rule_files_and_waivers_and_nothing_else():
    hooks = loaded(".pre-commit-hooks.yaml")
    assert {hook["id"]: hook["language"] for hook in hooks} == {
        "cnnaudit-validate": "python",
        "cnnaudit-validate-system": "system",
    }
    rules = sorted(ROOT.glob("examples/**/*.audit.yaml"))
    assert rules
    for hook in hooks:
        assert all(re.search(hook["files"], path.as_posix()) for path in rules)
        assert re.search(hook["files"], "cnnaudit.waivers.yaml")
        assert not re.search(hook["files"], "waivers.yaml.txt")
        program, *options = hook["entry"].split()
        assert program == "cnnaudit"
        assert main([*options, str(rules[0])]) == 0


def steps():
    return {step["name"]: step for step in loaded("action.yml")["runs"]["steps"]}


def test_no_input_of_the_action_is_run_as_code():
    for step in steps().values():
        assert "${{" not in step.get("run", "")


@pytest.fixture
def program(tmp_path):
    """A cnnaudit that writes down its arguments, one a line, writes a report and exits as it is told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    file = folder / "cnnaudit"
    file.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > arguments\n[ -z "$REPORT" ] || : > "$REPORT"\nexit "$CODE"\n')
    file.chmod(0o755)
    return folder


def run_check(program, folder, **variables):
    output = folder / "output"
    environment = {"PATH": f"{program}{os.pathsep}{os.environ['PATH']}", "GITHUB_OUTPUT": str(output), **variables}
    bash = [shutil.which("bash"), "--noprofile", "--norc", "-eo", "pipefail", "-c", steps()["Check"]["run"]]
    done = subprocess.run(bash, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, (folder / "arguments").read_text().splitlines(), output.read_text().splitlines()


def test_the_action_keeps_the_exit_code_and_tells_where_the_report_is(program, tmp_path):
    code, arguments, outputs = run_check(
        program,
        tmp_path,
        SPEC="my nets/net.audit.yaml",
        ARGS="--baseline accepted.json\n--waivers $(touch broken)",
        SARIF="out.sarif",
        REPORT="out.sarif",
        CODE="3",
    )
    assert code == 3
    assert arguments == [
        *("check", "my nets/net.audit.yaml", "--format", "github", "--format", "sarif=out.sarif"),
        *("--baseline", "accepted.json", "--waivers", "$(touch", "broken)"),
    ]
    assert outputs == ["exit-code=3", "sarif=out.sarif"]
    assert not (tmp_path / "broken").exists()


def test_the_action_uploads_no_report_of_an_earlier_run(program, tmp_path):
    (tmp_path / "out.sarif").write_text("{}")
    code, arguments, outputs = run_check(
        program, tmp_path, SPEC="net.audit.yaml", ARGS="", SARIF="out.sarif", REPORT="", CODE="2"
    )
    assert code == 2
    assert arguments[-1] == "sarif=out.sarif"
    assert outputs == ["exit-code=2"]
    assert "steps.check.outputs.sarif != ''" in steps()["Upload SARIF"]["if"]


def job_script(**variables):
    job = loaded("ci/gitlab.yml")[".cnnaudit"]
    return "\n".join([*job["before_script"], *job["script"]]), {**job["variables"], **variables}


def test_the_gitlab_job_writes_what_it_hands_over(program, tmp_path):
    script, variables = job_script(
        CNNAUDIT_INSTALL="nothing", CNNAUDIT_SPEC="net.audit.yaml", CNNAUDIT_ARGS="--as-of 2026-12-01"
    )
    environment = {"PATH": f"{program}{os.pathsep}{os.environ['PATH']}", "REPORT": "", "CODE": "1", **variables}
    script = script.replace("python -m pip install $CNNAUDIT_INSTALL", "true")
    done = subprocess.run([shutil.which("bash"), "-ec", script], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 1
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[:4] == ["check", "net.audit.yaml", "--as-of", "2026-12-01"]
    artifacts = loaded("ci/gitlab.yml")[".cnnaudit"]["artifacts"]
    written = {name: path for name, _, path in (text.partition("=") for text in arguments[5::2])}
    assert written == {
        "text": "",
        "junit": artifacts["reports"]["junit"],
        "gitlab": artifacts["reports"]["codequality"],
        **dict(zip(("html", "json"), artifacts["paths"], strict=True)),
    }


@pytest.mark.parametrize("missing", ["CNNAUDIT_INSTALL", "CNNAUDIT_SPEC"])
def test_the_gitlab_job_says_what_it_was_not_told(missing, tmp_path):
    told = {"CNNAUDIT_INSTALL": "nothing", "CNNAUDIT_SPEC": "net.audit.yaml"} | {missing: ""}
    script, variables = job_script(**told)
    environment = {"PATH": os.environ["PATH"], **variables}
    done = subprocess.run(
        [shutil.which("bash"), "-ec", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout.startswith(f"set {missing} to ")
