"""What a self-test came to, with all that a reader must know of the machine years later."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tabulate import tabulate

import cnnaudit
from cnnaudit.clock import today
from cnnaudit.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cnnaudit.selftest.case import Result

__all__ = ["SCHEMA_VERSION", "Record", "machine"]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Record:
    """All cases of a self-test.

    Attributes:
        machine: Versions, platform, device, threads and date; see :func:`machine`.
        results: One for each case, in their order.
    """

    machine: Mapping[str, Any]
    results: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        """Whether every case holds."""
        return all(result.ok for result in self.results)

    def to_json(self) -> str:
        """Return the record as JSON with sorted keys; numbers that do not exist are ``null``."""
        body = {
            "selftest_version": SCHEMA_VERSION,
            "passed": self.passed,
            "cases": len(self.results),
            "not_ok": [f"{result.group}: {result.name}" for result in self.results if not result.ok],
            "machine": dict(self.machine),
            "results": [_finite(asdict(result)) for result in self.results],
        }
        return json.dumps(body, indent=2, sort_keys=True, allow_nan=False) + "\n"

    def to_text(self, *, verbose: bool = False) -> str:
        """Return the record as text: a line a group or, where ``verbose``, all of every case."""
        groups = tuple(dict.fromkeys(result.group for result in self.results))
        table = [_counted(group, [r for r in self.results if r.group == group]) for group in groups]
        wanted = [result for result in self.results if verbose or not result.ok]
        parts = [
            *(_told(result) for result in wanted),
            tabulate(
                table, headers=["group", "cases", "hold", "CPU"], tablefmt="plain", colalign=("left",) + ("right",) * 3
            ),
            tabulate(self.machine.items(), tablefmt="plain", disable_numparse=True),
            self._summary(),
        ]
        return "\n\n".join(parts) + "\n"

    def _summary(self) -> str:
        seconds = sum(result.seconds for result in self.results)
        held = sum(result.ok for result in self.results)
        if self.passed:
            return f"All {held} cases hold on this machine ({seconds:.1f} s CPU)."
        names = ", ".join(f"{result.group}: {result.name}" for result in self.results if not result.ok)
        return (
            f"{len(self.results) - held} of {len(self.results)} cases do not hold on this machine: {names}.\n"
            "Do not trust its audits. Install cnnaudit anew with the versions of torch and numpy that it asks for; "
            "where that does not help, report it with this record (--format json=selftest.json)."
        )


def machine(device: str) -> dict[str, str]:
    """Return what a self-test was run on and with.

    Args:
        device: Where networks were run.
    """
    kind = torch.device(device)
    name = torch.cuda.get_device_name(kind) if kind.type == "cuda" else ""
    return {
        "cnnaudit": __version__,
        "code": _code(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "device": f"{device} ({name})" if name else device,
        "threads": str(torch.get_num_threads()),
        "date": str(today()),
    }


def _code() -> str:
    """SHA-256 of every file of the package: which code it was, whatever its version says."""
    root, digest = Path(cnnaudit.__file__).parent, hashlib.sha256()
    files = {file.relative_to(root).as_posix(): file for file in root.rglob("*") if file.is_file()}
    for name in sorted(name for name in files if "__pycache__" not in name):
        digest.update(f"{name}\0".encode())
        digest.update(hashlib.sha256(files[name].read_bytes()).digest())
    return f"sha256 {digest.hexdigest()}"


def _counted(group: str, results: list[Result]) -> list[str]:
    held, seconds = sum(result.ok for result in results), sum(result.seconds for result in results)
    return [group, str(len(results)), str(held) if held == len(results) else f"{held} NOT OK", f"{seconds:.1f} s"]


def _told(result: Result) -> str:
    rows = [
        ("source", result.source),
        ("expected", _shown(result.expected)),
        ("measured", result.error.partition("\n")[0] or _measured(result)),
        ("claim", result.claim),
    ]
    body = tabulate(rows, tablefmt="plain", disable_numparse=True).replace("\n", "\n        ")
    return f"{'ok' if result.ok else 'NOT OK':<7} {result.group}: {result.name}\n        {result.what}\n        {body}"


def _measured(result: Result) -> str:
    interval = "" if result.low is None else f" [{_shown(result.low)}, {_shown(result.high)}]"
    return f"{_shown(result.measured)}{interval}"


def _shown(value: float | str | None) -> str:
    return value if isinstance(value, str) else f"{value:.9g}"


def _finite(result: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in result.items()}
