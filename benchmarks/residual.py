"""What the residual branches of the digits network do, block by block, beside the same network with fresh weights.

About a minute on one core, from the directory of the project:

    python benchmarks/residual.py --write docs/residual.md
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

import cnnaudit

if TYPE_CHECKING:
    from cnnaudit import Verdict

EXAMPLE = Path(__file__).parent.parent / "examples" / "digits"
MEASURED: dict[str, dict[str, Any]] = {
    "branch's share": {"metric": "branch_variance_share.share"},
    "standardised": {"metric": "branch_variance_share.standardised"},
    "size, branch over skip": {"metric": "branch_variance_share.ratio"},
    "constant part of the branch": {"metric": "branch_variance_share.mean_shift"},
    "1 - R2 of the branch": {"metric": "branch_unpredictability"},
    "flips without the branch": {"metric": "block_ablation.flip"},
    "JSD without it, bits": {"metric": "block_ablation.jsd"},
    "flips with its mean": {"metric": "block_ablation.flip", "params": {"by": "mean"}},
    "JSD with its mean, bits": {"metric": "block_ablation.jsd", "params": {"by": "mean"}},
    "usable in the skip, bits": {"metric": "added_usable_information.information_skip"},
    "added by the branch, bits": {"metric": "added_usable_information.added"},
    "lost by adding, bits": {"metric": "merge_information_loss"},
}
BEGIN, END = "<!-- table: benchmarks/residual.py -->", "<!-- end of table -->"


def main() -> None:
    """Measure, and print the table or write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="page to put the table into")
    page = parser.parse_args().write
    text = _table()
    print(text)
    if page is not None:
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def _table() -> str:
    asked = [
        {"id": f"m{i}", "op": "residual", "severity": "note", "null": "twin", **rule}
        for i, rule in enumerate(MEASURED.values())
    ]
    spec = {
        "cnnaudit": 1,
        "model": str(EXAMPLE / "model.py:build"),
        "weights": str(EXAMPLE / "weights.safetensors"),
        "data": str(EXAMPLE / "digits.npz"),
        "rules": asked,
    }
    report = cnnaudit.audit(spec, allow_imports=[str(EXAMPLE / "**.py")])
    blocks = dict.fromkeys(verdict.site for verdict in report.verdicts)
    rows = []
    for i, name in enumerate(MEASURED):
        found = {verdict.site: verdict for verdict in report.verdicts if verdict.rule == f"m{i}"}
        rows.append({"": name, **{block: _shown(found[block]) for block in blocks}})
    return tabulate(rows, headers="keys", tablefmt="github")


def _shown(verdict: Verdict) -> str:
    if verdict.value is None or verdict.null is None:
        return verdict.detail
    return f"{verdict.value:.2f} ({verdict.low:.2f} to {verdict.high:.2f}); twin {verdict.null:.2f}"


if __name__ == "__main__":
    main()
