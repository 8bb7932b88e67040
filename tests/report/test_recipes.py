"""The scripts of docs/reports.md, run as they stand there on a real report."""

import hashlib
import json
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from made import FULL

from cnnaudit.report import render

ROOT = Path(__file__).parents[2]
SCRIPTS = {
    re.match(r"# (\w+)\.py", code)[1]: code
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "reports.md").read_text("utf-8"), re.DOTALL)
}
WEIGHTS = ROOT / "examples" / "digits" / "broken.safetensors"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def started(name, report, *arguments):
        for form, path in (("json", "report.json"), ("markdown", "report.md"), ("html", "report.html")):
            Path(path).write_text(render(report, form), encoding="utf-8")
        Path(f"{name}.py").write_text(SCRIPTS[name], encoding="utf-8")
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        runpy.run_path(f"{name}.py", run_name="__main__")

    return started


def test_in_toto(run, audited, capsys):
    run("statement", audited, "report.json", WEIGHTS)
    statement = json.loads(capsys.readouterr().out)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert statement["subject"] == [{"name": "broken.safetensors", "digest": {"sha256": digest}}]
    predicate = statement["predicate"]
    assert predicate["result"] == "FAILED"
    assert [file["name"] for file in predicate["configuration"]] == ["broken.audit.yaml", "report.json"]
    stored = hashlib.sha256(Path("report.json").read_bytes()).hexdigest()
    assert predicate["configuration"][1]["digest"] == {"sha256": stored}
    assert predicate["failedTests"] == [
        "no-dead-kernels",
        "branches-contribute",
        "pools-keep-entropy",
        "pools-keep-active-values",
    ]
    assert predicate["warnedTests"] == ["pools-make-maps-denser"]
    assert len(predicate["passedTests"]) == 5


def test_in_toto_of_what_a_gate_found(run, capsys):
    run("statement", FULL, "report.json", WEIGHTS)
    predicate = json.loads(capsys.readouterr().out)["predicate"]
    assert [file["name"] for file in predicate["configuration"]][1] == "net.waivers.yaml"
    assert predicate["passedTests"] == ["a-passes"]
    assert predicate["warnedTests"] == ["e-warns", "f-notes", "k-waived", "waivers:expired", "waivers:unused"]
    assert "d-crashed" in predicate["failedTests"]  # an error counts whatever its severity
    assert not [rule for tests in predicate.values() for rule in tests if rule in ("c-elsewhere", "g-measured")]


class _Card:
    """Keeps a card as huggingface_hub's does: its text, and data with evaluation results."""

    def __init__(self, path):
        self.text = Path(path).read_text(encoding="utf-8")
        self.data = SimpleNamespace(model_name=None, eval_results=None)
        self.load.kept.append(self)

    def save(self, path):
        Path(path).write_text(self.text, encoding="utf-8")


def test_model_card(run, audited, monkeypatch):
    cards = []

    def load(path):
        return _Card(path)

    load.kept = cards
    _Card.load = load
    hub = ModuleType("huggingface_hub")
    hub.ModelCard, hub.EvalResult = _Card, SimpleNamespace
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    Path("README.md").write_text("# Digits\n\nAbout it.\n", encoding="utf-8")
    for _ in range(2):  # the second run replaces what the first one wrote
        run("card", audited, "README.md", "report.json", "report.md")
    text = Path("README.md").read_text(encoding="utf-8")
    assert text.startswith("# Digits\n\nAbout it.\n\n<!-- cnnaudit -->\n\n## Audit of")
    assert text.count("**NOT PASSED**") == 1
    results = cards[-1].data.eval_results
    assert len(results) == sum(v.value is not None for v in audited.verdicts)
    dead = next(r for r in results if r.metric_name == "no-dead-kernels at stage1.block.conv1")
    assert (dead.metric_type, dead.metric_value, dead.dataset_name) == ("activity.dead", 1.0, "digits.npz")


def test_mlflow(run, audited, monkeypatch):
    calls = []

    class Run:
        def __enter__(self):
            calls.append(("start",))

        def __exit__(self, *_):
            calls.append(("end",))

    tracking = ModuleType("mlflow")
    tracking.start_run = Run
    for name in ("set_tags", "log_metrics", "log_artifact"):
        setattr(tracking, name, lambda value, name=name: calls.append((name, value)))
    monkeypatch.setitem(sys.modules, "mlflow", tracking)
    run("track", audited, "report.json", "report.html")
    assert [call[0] for call in calls] == ["start", "set_tags", "log_metrics", "log_artifact", "log_artifact", "end"]
    assert calls[1][1]["cnnaudit.status"] == "failed"
    assert calls[1][1]["cnnaudit.exit_code"] == 1
    metrics = calls[2][1]
    assert len(metrics) == 10
    assert metrics["cnnaudit/no-dead-kernels"] == 1.0
    assert metrics["cnnaudit/branches-contribute"] == 0.0
    assert [value for _, value in calls[3:5]] == ["report.json", "report.html"]
