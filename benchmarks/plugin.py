"""CPU time that the installed but unused pytest plugin adds to collecting an empty project.

``pytest --collect-only`` in an empty folder, with the plugin and with ``-p no:cnnaudit``, in turn; what is printed
are medians over rounds, and of the differences within a round.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile

from tabulate import tabulate


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of taking turns (default 20)")
    given = parser.parse_args()
    without = ["-p", "no:cnnaudit"]
    with tempfile.TemporaryDirectory() as empty:
        for options in ([], without):
            _seconds(empty, options)  # byte code is compiled, files are in memory
        rounds = [(_seconds(empty, []), _seconds(empty, without)) for _ in range(given.rounds)]
    rows = [
        ["with the plugin", statistics.median(a for a, _ in rounds) * 1000],
        ["-p no:cnnaudit", statistics.median(b for _, b in rounds) * 1000],
        ["difference", statistics.median(a - b for a, b in rounds) * 1000],
    ]
    print(f"pytest --collect-only of an empty project, {given.rounds} rounds")
    print(tabulate(rows, headers=["", "CPU ms"], floatfmt=".1f"))


def _seconds(folder: str, options: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *options]
    subprocess.run(command, cwd=folder, check=False, stdout=subprocess.DEVNULL)  # noqa: S603 - exits with 5
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
