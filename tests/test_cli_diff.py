"""`cnnaudit diff`, run as a user runs it."""

import json
import subprocess
import sys

import pytest

from cnnaudit.cli import main
from cnnaudit.result import Outcome, Report, SiteMean, Verdict


def audit(outcome, value, half=0.01, **data):
    facts = {"line": 7, "severity": "error", "metric": "activity", "field": "apoz", "unit": "fraction", "op": "conv"}
    mean = SiteMean(value, value - half, value + half)
    return Report(
        spec={"path": "net.audit.yaml", "sha256": "0" * 64, "rules": ["sparse"], "terms": {}},
        model={"source": "net.py:build", "sha256": f"{value:.4f}".ljust(64, "0")},
        data={"source": "x.npz", "sha256": "2" * 64, "n_images": 400} | data,
        settings={"confidence": 0.95},
        verdicts=(
            Verdict(
                rule="sparse", site="conv|1", outcome=Outcome(outcome), side="max", mean=mean, value=value, **facts
            ),
            Verdict(
                rule="sparse", site="conv2", outcome=Outcome.PASS, side="max", mean=SiteMean(0.1, 0.1, 0.1), **facts
            ),
        ),
    )


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, found in zip(paths, (audit("pass", 0.5), audit("fail", 0.75)), strict=True):
        path.write_text(found.to_json())
    return [str(path) for path in paths]


def test_the_worst_is_shown_and_what_did_not_change_is_counted(files, capsys):
    assert main(["diff", *files]) == 0
    out = capsys.readouterr().out
    assert f"A  {files[0]}: passed\nB  {files[1]}: not passed, exit code 1" in out
    assert "sha256: 0.5000000000... -> 0.7500000000..." in out
    assert "pass -> fail  sparse  conv|1  0.5  0.75  +0.25" in out
    assert "[+0.2359, +0.2641]" in out  # 0.25 -+ 0.01 sqrt(2)
    assert "1 of 2 verdicts changed: pass -> fail 1. 1 did not (pass 1); --all lists them." in out
    assert "conv2" not in out
    assert main(["diff", "--all", *files]) == 0
    assert "conv2" in capsys.readouterr().out


def test_nothing_differs(files, capsys):
    assert main(["diff", files[0], files[0]]) == 0
    assert "0 of 2 verdicts changed. 2 did not (pass 2)" in capsys.readouterr().out


def test_markdown_keeps_its_columns(files, capsys):
    assert main(["diff", "--format", "markdown", *files]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "conv" in line)
    assert "conv\\|1" in row
    assert row.replace("\\|", "").count("|") == 10


@pytest.mark.parametrize(("flags", "sites"), [([], ["conv|1"]), (["--all"], ["conv|1", "conv2"])])
def test_json_is_whole(files, capsys, flags, sites):
    assert main(["diff", "--format", "json", *flags, *files]) == 0
    body = json.loads(capsys.readouterr().out)
    assert [s["site"] for s in body["sites"]] == sites
    assert (body["unchanged"], body["old_exit"], body["new_exit"]) == (1, 0, 1)
    assert (body["a"], body["b"]) == tuple(files)


def test_other_data_are_shown_without_intervals(files, tmp_path, capsys):
    other = tmp_path / "c.json"
    other.write_text(audit("pass", 0.5, n_images=9).to_json())
    assert main(["diff", files[0], str(other)]) == 0
    out = capsys.readouterr().out
    assert "n_images: 400 -> 9" in out
    assert "The data differ (data.n_images)" in out


def test_what_is_no_report_exits_with_2(files, tmp_path, capsys):
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    assert main(["diff", files[0], str(bad)]) == 2
    assert f"error: {bad}: this is not a cnnaudit report" in capsys.readouterr().err
    assert main(["diff", files[0], str(tmp_path / "none.json")]) == 2


def test_it_never_imports_torch(files):
    code = "import sys; from cnnaudit.cli import main; main(['diff', *sys.argv[1:]]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, *files], check=True, capture_output=True)
