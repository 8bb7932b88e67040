"""Metrics of other packages, offered by entry points: found, judged and explained like our own, or refused by name."""

import subprocess
import sys
from pathlib import Path

import pytest

METRIC = '''
"""A metric of somebody else."""

from cnnaudit.intervals import Exact
from cnnaudit.metrics import Field, metric
from cnnaudit.site import Op
from cnnaudit.statistics import Parameters


@metric(
    reads=Parameters,
    at=Op.CONV,
    taps="weight",
    fields={"norm": Field("norm", "largest absolute weight of a kernel", exact=True)},
    interval="none",
    cost="weights: one maximum",
)
def largest_weight(parameters, site, *, power: float = 1.0):
    """Largest absolute weight of a kernel."""
    return {"norm": Exact(parameters["weight"].flatten(1).abs().amax(1).pow(power).numpy())}
'''
AUDIT = """
import sys, torch, cnnaudit
from torch import nn
sys.path.insert(0, {path!r})
net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())
net[0].weight.data[:] = torch.tensor([3.0, -4.0]).reshape(2, 1, 1, 1)
spec = {{"cnnaudit": 1, "rules": [{{"metric": "largest_weight", "max": 15, "params": {{"power": 2.0}}}}]}}
report = cnnaudit.audit(spec, model=net, data=torch.rand(4, 1, 2, 2))
print(report.verdicts[0].outcome, report.verdicts[0].value, report.settings["metrics"])
"""


@pytest.fixture
def package(tmp_path):
    def make(entry, source=METRIC):
        (tmp_path / "foreign.py").write_text(source)
        info = tmp_path / "foreign_metrics-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-metrics\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[cnnaudit.metrics]\n{entry}\n")
        return str(tmp_path)

    return make


def run(path, *argv, code=None):
    command = f"import sys; sys.path.insert(0, {path!r}); from cnnaudit.cli import main; sys.exit(main({list(argv)!r}))"
    ran = subprocess.run([sys.executable, "-c", code or command], capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout, ran.stderr


def test_it_is_judged_like_any_other(package):
    status, out, err = run("", code=AUDIT.format(path=package("largest_weight = foreign:largest_weight")))
    assert (status, out) == (0, "fail 16.0 ['largest_weight/1']\n"), err


def test_it_is_explained_like_any_other(package):
    path = package("largest_weight = foreign:largest_weight")
    status, out, _ = run(path, "explain")
    assert status == 0
    assert "largest_weight: Largest absolute weight of a kernel.\n  at conv; needs weights; cost weights;" in out
    status, out, _ = run(path, "explain", "largest_weight")
    assert status == 0
    assert "power" in out


def test_its_name_must_be_its_own(package):
    source = METRIC.replace("largest_weight(", "stable_rank(")
    status, _, err = run(package("mine = foreign:stable_rank", source), "explain")
    assert status == 2
    assert "entry point mine = 'foreign:stable_rank' in cnnaudit.metrics of foreign-metrics 1.2" in err
    assert "there is a metric stable_rank already" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("entry", "source", "message"),
    [
        ("a = foreign:missing", METRIC, "cannot be loaded: AttributeError"),
        (
            "a = foreign:largest_weight",
            "raise RuntimeError('no key')",
            "cannot be loaded: RuntimeError: no key",
        ),
        ("a = foreign:largest_weight", "largest_weight = 3", "is a int, not a metric"),
    ],
)
def test_what_cannot_be_loaded_is_named_with_its_package(package, entry, source, message):
    status, _, err = run(package(entry, source), "explain")
    assert status == 2
    assert message in err
    assert "foreign-metrics 1.2" in err
    assert "Traceback" not in err


def test_the_metric_of_the_documentation_works(package):
    text = (Path(__file__).parent.parent / "docs" / "own_metrics.md").read_text(encoding="utf-8")
    source = text.partition("```python\n")[2].partition("```")[0]
    path = package("variance_share = foreign:variance_share", source)
    code = (
        f"import sys; sys.path.insert(0, {path!r}); import torch, cnnaudit\n"
        "x = torch.randn(200, 2, 3, 3, generator=torch.Generator().manual_seed(0))\n"
        "x[:, 1] *= 2\n"
        "found = cnnaudit.measure('variance_share', x)\n"
        "assert found.lows[0] < 0.2 < found.highs[0] and found.highs[0] < 0.3, found\n"
        "assert abs(sum(found.units) - 1) < 1e-12\n"
    )
    status, _, err = run("", code=code)
    assert status == 0, err
