"""Bounds from three good trainings: five further ones keep them, worse ones do not.

On 600 of the 1,200 images, to be fast; docs/starting.md tells how often over many choices of three, on all of them.
"""

from pathlib import Path

import pytest

from cnnaudit import pipeline
from cnnaudit.cli import main
from cnnaudit.gate import baseline
from cnnaudit.gate.baseline import compare
from cnnaudit.result import Outcome

HERE = Path(__file__).parent
DIGITS = HERE.parents[1] / "examples" / "digits"
CODE = str(DIGITS / "model.py")
FALSE_ALARM = 0.05
GOOD = [f"good{seed}" for seed in range(4, 9)]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """The rule file that three good checkpoints give, and the first one's accepted run."""
    file = tmp_path_factory.mktemp("release") / "digits.audit.yaml"
    known = [str(HERE / f"good{seed}.safetensors") for seed in (1, 2, 3)]
    args = ["init", f"{CODE}:build", f"--data={DIGITS / 'digits.npz'}", f"-o{file}", f"--false-alarm={FALSE_ALARM}"]
    assert main([*args, "--max-images=600", f"--allow-import={CODE}", "--good", *known]) == 0
    accepted = file.with_name("accepted.json")
    baseline.record(audited(file), accepted)
    return file, baseline.read(accepted)


def audited(file, name="good1"):
    """The audit of one checkpoint by the rules of the file."""
    other = file.with_name(f"{name}.audit.yaml")
    other.write_text(file.read_text().replace("good1.safetensors\ndata:", f"{name}.safetensors\ndata:"))
    report = pipeline.audit(other, allow_imports=[CODE], allow_paths=[str(HERE), str(DIGITS)])
    assert Path(report.model["weights"]).stem == name
    return report


def test_further_good_ones_give_no_more_alarms_than_stated(calibrated):
    file, accepted = calibrated
    reports = [compare(audited(file, name), accepted) for name in GOOD]
    alarms = [name for name, report in zip(GOOD, reports, strict=True) if any(alarming(report))]
    assert len(alarms) / len(GOOD) <= FALSE_ALARM, alarms


def alarming(report):
    """Rules and regressions that judge, and did not pass."""
    return [rule for rule in report.rules if report.outcome(rule) not in (Outcome.PASS, Outcome.MEASURED)]


def test_a_slimmed_network_fails_by_its_bounds(calibrated):
    file, _ = calibrated
    report = audited(file, "slimmed")
    assert report.exit_code == 1
    assert report.outcome("kernels-fire") is Outcome.FAIL


def test_a_slightly_slimmed_one_fails_by_regression(calibrated):
    file, accepted = calibrated
    report = audited(file, "slightly_slimmed")
    assert report.passed
    assert alarming(compare(report, accepted)) == ["skips-still-carry:regression"]
