"""``--cnnaudit-report``: reports of the session's audits as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cnnaudit.report import formats, render
from pytest_cnnaudit.audits import reports

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnaudit.result import Report

__all__ = ["check", "write"]


def check(config: pytest.Config) -> None:
    """Refuse what could not be written before hours of audits, and remove what an earlier session wrote.

    Raises:
        UsageError: there is no such format, or no such folder.
    """
    for name, path in config.getoption("cnnaudit_report"):
        if name not in formats():
            raise pytest.UsageError(f"--cnnaudit-report: no format {name!r}; there are {', '.join(formats())}")
        target = config.invocation_params.dir / path
        if target.is_dir() or not target.parent.is_dir():
            raise pytest.UsageError(
                f"--cnnaudit-report: {path} cannot be written: no such folder, or one itself; name a file"
            )
        if not hasattr(config, "workerinput"):
            target.unlink(missing_ok=True)  # where no audit is finished, nobody must take it for this session's


def write(config: pytest.Config) -> None:
    """Write every finished audit in every format asked for."""
    finished = reports(config)
    names = _names(finished)
    for form, path in config.getoption("cnnaudit_report"):
        target = config.invocation_params.dir / path
        for name, report in zip(names, finished, strict=True):
            part = target if len(finished) == 1 else target.with_name(f"{target.stem}-{name}{target.suffix}")
            part.write_text(render(report, form), encoding="utf-8")


def _names(finished: Sequence[Report]) -> list[str]:
    """A name for each report that no other has."""
    stems = [Path(str(report.spec["path"])).name.removesuffix(".yaml").removesuffix(".audit") for report in finished]
    names: list[str] = []
    for stem in stems:
        name, number = stem, 2
        while name in names or (name != stem and name in stems):
            name, number = f"{stem}-{number}", number + 1
        names.append(name)
    return names
