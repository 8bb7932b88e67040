"""A small project with a network, images and a rule file, in which pytest runs inside pytest."""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import cnnaudit
import pytest_cnnaudit
from cnnaudit.report import formats, render

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL = '''
"""Two convolutions; kernel 0 of the second is dead unless asked otherwise."""

import os

import torch
from torch import nn


def note(what):
    with open(os.environ["COUNTER"] + what, "a") as file:
        file.write(f"{os.getpid()}\\n")


class Net(nn.Module):
    def __init__(self, dead=True, noted=True):
        super().__init__()
        self.noted = noted
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.avg = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, 3)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.4)
            if dead:
                self.conv2.bias[0] = -100.0

    def forward(self, x):
        if self.noted and type(x) is torch.Tensor:
            note(".forward")
        x = self.pool(self.relu1(self.conv1(x)))
        x = self.avg(self.relu2(self.conv2(x)))
        return self.head(x.flatten(1))


def build(dead=True):
    note(".build")
    return Net(dead)


def build_alive():
    return build(dead=False)


def build_nan():
    model = build()
    with torch.no_grad():
        model.conv1.bias[0] = float("nan")
    return model


def build_raising():
    note(".build")
    raise OSError("the disk is on fire")
'''

HEAD = "cnnaudit: 1\nmodel: model.py:build\ndata: data.npz\n"
# Lines 5, 9, 12, 17 and 21 of the file.
RULES = """rules:
  - id: holds
    metric: activity.apoz
    at: conv1
    max: 0.99
  - id: fails
    metric: activity.dead
    max: 0
  - id: undecided
    metric: activity.dead
    estimand: population
    at: conv2
    max: 0
  - id: absent
    metric: branch_variance_share
    if_absent: skip
    min: 0.02
  - id: warns
    metric: activity.dormant
    min: 0.5
    severity: warning
"""
HOLDS = "  - {id: holds, metric: activity.apoz, at: conv1, max: 0.99}\n"
FAILS = "  - {id: fails, metric: activity.dead, max: 0}\n"
# Hypothesis imports itself anew at the end of each run inside this process.
INI = "[pytest]\naddopts = --strict-markers --strict-config -p no:hypothesispytest\nfilterwarnings = error\n"


class Project:
    """A folder with a network, images and rules, and what pytest makes of it."""

    HEAD, RULES, HOLDS, FAILS = HEAD, RULES, HOLDS, FAILS

    def __init__(self, pytester: pytest.Pytester, counter: Path) -> None:
        self.pytester, self.path, self._counter = pytester, pytester.path, counter

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def rules(self, rules: str = RULES, *, head: str = HEAD, name: str = "net.audit.yaml") -> Path:
        return self.write(name, head + (rules if rules.startswith("rules:") else f"rules:\n{rules}"))

    def ini(self, *lines: str) -> None:
        self.write("pytest.ini", INI + "".join(f"{line}\n" for line in lines))

    def run(self, *args: str | Path, plugins: Sequence[object] = ()) -> pytest.RunResult:
        """Run pytest in this process."""
        return self.pytester.runpytest_inprocess(*args, plugins=plugins)

    def run_apart(self, *args: str | Path) -> pytest.RunResult:
        """Run pytest in a process of its own."""
        return self.pytester.runpytest_subprocess(*args)

    def outcomes(self, *args: str | Path) -> dict[str, str]:
        """Run pytest in this process; what each test came to, by its id; the gravest of setup and call."""
        recorder = _Recorder()
        self.run(*args, plugins=[recorder])
        return recorder.outcomes

    def count(self, what: str) -> int:
        """How often the network was called (``forward``) or built (``build``), or anything else was noted."""
        return sum(self.processes(what).values())

    def processes(self, what: str) -> Counter[str]:
        path = Path(f"{self._counter}.{what}")
        return Counter(path.read_text(encoding="utf-8").split() if path.exists() else [])


class _Recorder:
    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            told = report.outcome if report.when == "call" or report.skipped else f"error in {report.when}"
            self.outcomes[report.nodeid] = told


@pytest.fixture(scope="session")
def _everything_is_imported():
    """What a run inside this process were the first to import would be forgotten at its end, which torch minds."""
    for module in pkgutil.iter_modules(pytest_cnnaudit.__path__, "pytest_cnnaudit."):
        importlib.import_module(module.name)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32, 2))
    data = torch.rand(60, 1, 6, 6), torch.arange(60) % 2
    cnnaudit.profile(model, data).table()
    report = cnnaudit.audit({"cnnaudit": 1, "rules": [{"metric": "activity", "max": 0}]}, model=model, data=data)
    for name in formats():
        render(report, name)
    gc.freeze()  # each run inside this process collects garbage five times, and torch holds many objects
    yield
    gc.unfreeze()


@pytest.fixture
def project(_everything_is_imported, pytester, tmp_path_factory, monkeypatch):
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_ADDOPTS", "CNNAUDIT_ALLOW_IMPORT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("CI", "BUILD_NUMBER"):  # with these pytest tells whole messages twice
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    counter = tmp_path_factory.mktemp("counter") / "noted"
    monkeypatch.setenv("COUNTER", os.fspath(counter))
    made = Project(pytester, counter)
    made.ini()
    made.write("model.py", MODEL)
    labels = torch.arange(120) % 3
    torch.manual_seed(7)
    images = torch.rand(120, 1, 10, 10) + labels.reshape(-1, 1, 1, 1) / 4
    np.savez(made.path / "data.npz", images=images.numpy(), labels=labels.numpy())
    made.rules()
    threads = torch.get_num_threads()
    yield made
    torch.set_num_threads(threads)
