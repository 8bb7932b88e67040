"""CPU time of the commands that measure nothing, from the start of Python to its end.

Each command runs once so that files are in memory and byte code is compiled, then all of them in turn for several
rounds; what is printed is the median of user and system time, the least and the most.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tabulate import tabulate

from cnnaudit.result import Outcome, Report, Verdict

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "examples" / "digits" / "digits.audit.yaml"
WAIVE = (
    "waive dead --site stem --owner Ada --reason r --category in_progress --approved-by Bo --expires 2999-12-31 "
    "--report old.json --file waivers.yaml"
)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="rounds of taking turns (default 10)")
    given = parser.parse_args()
    commands = {
        "--help": ["--help"],
        "check --help": ["check", "--help"],
        "validate digits.audit.yaml": ["validate", str(DIGITS)],
        "explain": ["explain"],
        "schema": ["schema"],
        "diff old.json new.json": ["diff", "old.json", "new.json"],
        "waive RULE --report old.json": WAIVE.split(),
    }
    with tempfile.TemporaryDirectory() as folder:
        _reports(Path(folder))
        for argv in commands.values():
            _seconds(folder, argv)
        rounds = [{name: _seconds(folder, argv) for name, argv in commands.items()} for _ in range(given.rounds)]
    rows = []
    for name in commands:
        found = [seconds[name] for seconds in rounds]
        rows.append([f"cnnaudit {name}", statistics.median(found), min(found), max(found)])
    print(f"user and system CPU seconds, {given.rounds} rounds")
    print(tabulate(rows, headers=["command", "median", "least", "most"], floatfmt=".3f"))


def _reports(folder: Path) -> None:
    """Two reports of one rule, which the second one's network keeps worse."""
    bad = Verdict(
        rule="dead",
        line=5,
        severity="error",
        metric="activity",
        field="dead",
        unit="fraction",
        op="conv",
        site="stem",
        outcome=Outcome.FAIL,
        value=0.5,
        low=0.4,
        high=0.6,
        bound=0.0,
        side="max",
    )
    report = Report(
        spec={"path": "net.audit.yaml", "sha256": "a" * 64, "rules": ["dead"], "terms": {}},
        model={"source": "model.py:build", "sha256": "b" * 64, "sites": {"conv": 1}},
        data={"source": "data.npz", "sha256": "c" * 64, "n_images": 100},
        settings={"undecided": "fail", "confidence": 0.95},
        verdicts=(bad,),
    )
    (folder / "old.json").write_text(report.to_json(), encoding="utf-8")
    worse = replace(report, verdicts=(replace(bad, value=0.7, low=0.6, high=0.8),))
    (folder / "new.json").write_text(worse.to_json(), encoding="utf-8")


def _seconds(folder: str, argv: list[str]) -> float:
    """What one run costs; byte code is kept, as it is after an installation."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = f"{folder}/cache"
    Path(folder, "waivers.yaml").unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(  # noqa: S603 - this very program
        [sys.executable, "-m", "cnnaudit", *argv], cwd=folder, env=environment, check=False, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ran.returncode:
        raise SystemExit(f"cnnaudit {' '.join(argv)}\n{ran.stderr.decode()}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
