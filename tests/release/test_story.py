"""A team's release, from known-good checkpoints to evidence that is judged again, through the real command line."""

import datetime as dt
import json
import re
import shutil
from pathlib import Path

import pytest

from cnnaudit.cli import main

HERE = Path(__file__).parent
DIGITS = HERE.parents[1] / "examples" / "digits"
GOOD = ("good1", "good2", "good3")
REGRESSION = "skips-still-carry:regression"


@pytest.fixture
def team(tmp_path, monkeypatch):
    """A folder with the network, images and checkpoints, and a configuration that allows the network's code."""
    for source in (DIGITS / "model.py", DIGITS / "digits.npz", *(HERE / f"{name}.safetensors" for name in GOOD)):
        shutil.copy(source, tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.cnnaudit]\nallow-import = ["model.py"]\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *argv):
    """Exit code, what went to stdout, and what went to stderr."""
    code = main(list(argv))
    said = capsys.readouterr()
    return code, said.out, said.err


def outcomes(path, rule):
    report = json.loads(Path(path).read_text(encoding="utf-8"))
    return sorted({v["outcome"] for v in report["verdicts"] if v["rule"] == rule})


def move_clock(monkeypatch, day):
    class Moved(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return dt.datetime.combine(day, dt.time(12), tz)

    monkeypatch.setattr("cnnaudit.clock.datetime", Moved)


def test_a_release(team, capsys, monkeypatch):
    # Bounds from three networks that are known to be good.
    good = [f"{name}.safetensors" for name in GOOD]
    code, said, _ = run(
        capsys, "init", "model.py:build", "--data", "digits.npz", "--good", *good, "-o", "net.audit.yaml"
    )
    assert code == 0
    assert "bounds calibrated from 3 good checkpoints" in said
    rules = (team / "net.audit.yaml").read_text(encoding="utf-8")

    # The first of them is released, and becomes what later ones are compared with.
    check = ("check", "net.audit.yaml", "--baseline", "accepted.json")
    code, said, told = run(capsys, *check, "--update-baseline")
    assert code == 0, said
    assert "accepted.json: this run is now the accepted one" in told
    code, said, _ = run(capsys, *check)
    assert code == 0, said

    # A candidate that classifies as well keeps every bound and is worse than the accepted run.
    shutil.copy(HERE / "slightly_slimmed.safetensors", team / "candidate.safetensors")
    candidate = rules.replace("weights: good1.safetensors", "weights: candidate.safetensors")
    (team / "net.audit.yaml").write_text(candidate, encoding="utf-8")
    code, said, _ = run(capsys, *check, "--format", "text", "--format", "json=report.json", "--evidence", "c.evidence")
    assert code == 1
    assert re.findall(r"^FAIL  (\S+)", said, re.MULTILINE) == [REGRESSION]
    assert outcomes("report.json", "skips-still-carry") == ["pass"]
    assert outcomes("report.json", REGRESSION) == ["fail", "pass"]

    # It is accepted for now, by somebody else than its owner, up to what was measured.
    today = dt.datetime.now(dt.UTC).date()
    expires = today + dt.timedelta(days=30)
    code, said, _ = run(
        capsys,
        *("waive", REGRESSION, "--report", "report.json", "--owner", "Ada Ito", "--approved-by", "Bo Lind"),
        *("--category", "in_progress", "--reason", "Channels are cut out next week.", "--expires", expires.isoformat()),
    )
    assert code == 0
    waived = (*check, "--waivers", "cnnaudit.waivers.yaml")
    code, said, _ = run(capsys, *waived, "--format", "text", "--format", "json=waived.json")
    assert code == 0, said
    assert re.search(rf"^WAIVED  {REGRESSION}", said, re.MULTILINE)
    assert "Ada Ito" in said
    assert "Bo Lind" in said
    assert expires.isoformat() in said
    assert "1 waived" in said.splitlines()[-1]
    assert "waived" in outcomes("waived.json", REGRESSION)
    code, said, _ = run(capsys, *waived, "--ignore-waivers")
    assert code == 1, said

    # On its last day the waiver holds; the day after it is a finding, and the failure is back.
    move_clock(monkeypatch, expires)
    assert run(capsys, *waived)[0] == 0
    move_clock(monkeypatch, expires + dt.timedelta(days=1))
    code, said, _ = run(capsys, *waived)
    assert code == 1
    assert re.findall(r"^FAIL  (\S+)", said, re.MULTILINE) == [REGRESSION, "waivers:expired"]

    # Years later: no network, no images, a looser bound. What was changed since is told.
    for name in ("candidate.safetensors", "model.py", "digits.npz"):
        (team / name).unlink()
    same = ("judge", "c.evidence", "--baseline", "accepted.json")
    code, said, _ = run(capsys, *same)
    assert code == 1
    assert f"FAIL  {REGRESSION}" in said
    start, end = candidate.split("  - id: skips-still-carry\n")
    looser = re.sub(r"max_regression: \{absolute: [0-9.]+\}", "max_regression: {absolute: 0.5}", end, count=1)
    assert looser != end
    (team / "looser.audit.yaml").write_text(f"{start}  - id: skips-still-carry\n{looser}", encoding="utf-8")
    code, said, _ = run(
        capsys, *same, "--spec", "looser.audit.yaml", "--format", "text", "--format", "html=report.html"
    )
    assert code == 0, said
    assert "0.5" in next(part for part in said.split("\n\n") if "skips-still-carry" in part and "->" in part)
    assert REGRESSION in (team / "report.html").read_text(encoding="utf-8")
