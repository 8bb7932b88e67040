"""The hooks, and nothing else: what costs time to import is imported by the hook that needs it."""

from __future__ import annotations

import argparse
import sys
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import pytest

from pytest_cnnaudit.fixtures import cnnaudit, cnnaudit_data, cnnaudit_model, cnnaudit_rule

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["cnnaudit", "cnnaudit_data", "cnnaudit_model", "cnnaudit_rule"]

_TURNED = {">=": "<=", "<=": ">="}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "cnnaudit_files", "globs of rule files that are collected as tests", "args", ["*.audit.yaml", "*.audit.yml"]
    )
    parser.addini("cnnaudit_baseline", "as --cnnaudit-baseline, relative to rootdir", "string", "")
    parser.addini("cnnaudit_waivers", "as --cnnaudit-waivers, relative to rootdir", "string", "")
    group = parser.getgroup("cnnaudit", "audits of convolutional networks")
    group.addoption("--cnnaudit-device", metavar="DEVICE", help="where audited models run, such as cpu or cuda:0")
    group.addoption("--cnnaudit-max-images", metavar="N", type=_positive, help="read at most N images in each audit")
    group.addoption(
        "--cnnaudit-trust-model",
        action="store_true",
        help="load exported programs (.pt2), which runs whatever code their author put in",
    )
    group.addoption(
        "--cnnaudit-report",
        metavar="NAME=PATH",
        action="append",
        default=[],
        type=_target,
        help="write each audit's report in a format (json, junit, ...), repeatable; where there are several audits, "
        "the name of the rule file is put before the suffix of PATH",
    )
    group.addoption(
        "--cnnaudit-baseline",
        metavar="PATH",
        help="report of the accepted run (.json), or a folder of them where several rule files are audited: rules "
        "with max_regression are compared with it",
    )
    group.addoption("--cnnaudit-waivers", metavar="PATH", help="what was accepted, by whom and until when")
    group.addoption(
        "--cnnaudit-update",
        action="store_true",
        help="make each audit that passes the accepted one: write --cnnaudit-baseline",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of images, at least 1")
    return int(text)


def _target(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    if not (name and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH, such as json=report.json")
    return name, path


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "cnnaudit(path): run the test once for each rule of a rule file (see cnnaudit_rule)"
    )
    if config.getoption("cnnaudit_report"):
        from pytest_cnnaudit import reports  # noqa: PLC0415

        reports.check(config)
    if any(_set(config, name) for name in ("update", "baseline", "waivers")):
        from pytest_cnnaudit import gate  # noqa: PLC0415

        gate.check(config)


def _set(config: pytest.Config, name: str) -> bool:
    return bool(config.getoption(f"cnnaudit_{name}") or (name != "update" and config.getini(f"cnnaudit_{name}")))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if not any(fnmatch(file_path.name, glob) for glob in parent.config.getini("cnnaudit_files")):
        return None
    from pytest_cnnaudit.collect import AuditFile  # noqa: PLC0415

    return AuditFile.from_parent(parent, path=file_path)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("cnnaudit")
    if marker is not None:
        from pytest_cnnaudit.collect import parametrize  # noqa: PLC0415

        parametrize(metafunc, marker)


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    flow = sys.modules.get("cnnaudit.flow")
    if flow is None or op not in _TURNED:
        return None
    if isinstance(left, flow.Selection):
        comparison = left.compare(op, right)
    elif isinstance(right, flow.Selection):
        comparison = right.compare(_TURNED[op], left)
    else:
        return None
    lines: list[str] = comparison.explanation()
    return lines


def pytest_report_collectionfinish(config: pytest.Config, items: Sequence[pytest.Item]) -> str | None:
    if "pytest_cnnaudit.rules" not in sys.modules or config.get_verbosity() < 0:  # without it none were collected
        return None
    from pytest_cnnaudit.rules import rule_of  # noqa: PLC0415

    files = [ref.path for item in items if (ref := rule_of(item)) is not None]
    if not files:
        return None
    where = f", on {device}" if (device := config.getoption("cnnaudit_device")) else ""
    most = f", at most {n} images" if (n := config.getoption("cnnaudit_max_images")) else ""
    rules, from_files = len(files), len(set(files))
    return f"cnnaudit: {rules} rule{'s' * (rules != 1)} of {from_files} file{'s' * (from_files != 1)}{where}{most}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    from pytest_cnnaudit import summary  # noqa: PLC0415

    summary.write(terminalreporter)
    if _set(terminalreporter.config, "baseline") or _set(terminalreporter.config, "waivers"):
        from pytest_cnnaudit import gate  # noqa: PLC0415

        gate.write(terminalreporter)


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if hasattr(config, "workerinput"):
        return
    if config.getoption("cnnaudit_update"):
        from pytest_cnnaudit import gate  # noqa: PLC0415

        gate.update(config)
    if config.getoption("cnnaudit_report"):
        from pytest_cnnaudit import reports  # noqa: PLC0415

        reports.write(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    if audits := sys.modules.get("pytest_cnnaudit.audits"):  # only then there is something to put away
        audits.close(config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker where the session's finished audits are."""
    from pytest_cnnaudit.audits import folder  # noqa: PLC0415

    node.workerinput["cnnaudit_folder"] = str(folder(node.config))
