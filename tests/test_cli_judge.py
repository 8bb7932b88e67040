"""``cnnaudit judge``, as a user runs it: with the model and the data gone."""

import json
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from cnnaudit.cli import main

DIGITS = Path(__file__).parent.parent / "examples" / "digits"
RULES = """cnnaudit: 1
model: model.py:build
weights: weights.safetensors
data: digits.npz
sampling: {max_images: 320}
rules:
  - id: pools-keep-entropy
    metric: pool_entropy_loss
    params: {levels: 4}
    at: "pool[12]"
    reduce: mean
    max: 0.6
  - id: no-dead-kernels
    metric: activity.dead
    max: 0
"""


@pytest.fixture(scope="module")
def gone(tmp_path_factory):
    """A folder with the evidence of an audit that failed, and of its two parts; nothing else is left."""
    folder = tmp_path_factory.mktemp("digits")
    for name in ("model.py", "weights.safetensors", "digits.npz"):
        shutil.copy(DIGITS / name, folder)
    (folder / "rules.audit.yaml").write_text(RULES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = ["check", "rules.audit.yaml", "--allow-import", "model.py", "--evidence"]
        assert main([*run, "whole.evidence", "--format", "json=checked.json"]) == 1
        with Path("printed").open("w") as printed, redirect_stdout(printed):
            for part in ("1", "2"):
                assert main([*run, f"part{part}.evidence", "--shard", f"{part}/2"]) == 0
    for name in ("model.py", "weights.safetensors", "digits.npz"):
        (folder / name).unlink()
    return folder


@pytest.fixture
def here(gone, monkeypatch):
    monkeypatch.chdir(gone)
    return gone


def verdicts(path):
    body = json.loads(Path(path).read_text())
    return body["verdicts"], body["gate"]


def test_a_part_says_what_was_written(here):
    assert Path("printed").read_text() == (
        "part1.evidence: part 1 of 2; `cnnaudit judge` joins all of them\n"
        "part2.evidence: part 2 of 2; `cnnaudit judge` joins all of them\n"
    )


def test_without_a_model_it_decides_as_it_did(here, capsys):
    assert main(["judge", "whole.evidence", "--format", "json=judged.json"]) == 1
    checked, _ = verdicts("checked.json")
    judged, gate = verdicts("judged.json")
    assert judged == checked
    assert [entry["path"] for entry in gate["evidence"]] == ["whole.evidence"]
    assert "pools-keep-entropy" in capsys.readouterr().out


def test_the_rule_file_need_not_be_there_either(here, tmp_path, monkeypatch, capsys):
    shutil.copy("whole.evidence", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["judge", "whole.evidence"]) == 1
    assert "rules.audit.yaml:7" in capsys.readouterr().out


def test_a_looser_bound_passes_and_is_told(here, capsys):
    Path("looser.audit.yaml").write_text(RULES.replace("0.6", "0.95"))
    assert main(["judge", "whole.evidence", "--spec", "looser.audit.yaml"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "max 0.6 -> 0.95" in out
    assert "Changed after the evidence existed: pools-keep-entropy (max 0.6 -> 0.95)." in out


def test_parts_are_joined(here):
    assert main(["judge", "part2.evidence", "part1.evidence", "--format", "json=joined.json"]) == 1
    checked, _ = verdicts("checked.json")
    joined, gate = verdicts("joined.json")
    assert [(v["rule"], v["site"], v["outcome"], v["units"]) for v in joined] == [
        (v["rule"], v["site"], v["outcome"], v["units"]) for v in checked
    ]
    for v, w in zip(joined, checked, strict=True):
        assert v["value"] == (w["value"] if w["value"] is None else pytest.approx(w["value"], rel=1e-9))
    assert [entry["path"] for entry in gate["evidence"]] == ["part1.evidence", "part2.evidence"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["part1.evidence"], "error: part1.evidence: of 2 parts these are missing: 2"),
        (["rules.audit.yaml"], "error: rules.audit.yaml: this is no evidence file"),
        (["nothing.evidence"], "'nothing.evidence' does not exist"),
        ([], "Missing argument 'EVIDENCE...'"),
    ],
)
def test_what_cannot_be_judged_ends_with_2(here, capsys, args, words):
    assert main(["judge", *args]) == 2
    assert words in capsys.readouterr().err


def test_another_seed_is_refused(here, capsys):
    Path("seed.audit.yaml").write_text(RULES.replace("{max_images", "{seed: 1, max_images"))
    assert main(["judge", "whole.evidence", "--spec", "seed.audit.yaml"]) == 2
    assert capsys.readouterr().err == (
        "error: seed.audit.yaml: the evidence was measured otherwise than this file says: sampling.seed is 1 here and "
        "was 0; audit again, or put it back\n"
    )
