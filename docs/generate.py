"""Write the generated pages: the JSON Schemas of rule files and waivers, and the reference of metrics."""

from __future__ import annotations

import json
from pathlib import Path

from cnnaudit.cli.explain import story
from cnnaudit.gate import waiver_file
from cnnaudit.metrics import registry, vocabulary
from cnnaudit.spec import json_schema

HERE = Path(__file__).parent


def pages() -> dict[str, str]:
    """Return every generated page by its file name."""
    title = (
        "# Metrics\n\nWritten by `python docs/generate.py`; `cnnaudit explain NAME` prints the same. "
        "[What is left out](left_out.md), [your own](own_metrics.md).\n"
    )
    stories = [f"## {metric.name}\n\n```text\n{story(metric)}\n```\n" for metric in registry().values()]
    return {
        "cnnaudit.schema.json": json.dumps(json_schema(vocabulary()), indent=2) + "\n",
        "cnnaudit.waivers.schema.json": json.dumps(waiver_file.json_schema(), indent=2) + "\n",
        "metrics.md": "\n".join([title, _table(), *stories]),
    }


def _table() -> str:
    rows = [
        f"| [{m.name}](#{m.name}) | {', '.join(dict.fromkeys(f.unit for f in m.fields.values()))} | {', '.join(m.at)} "
        f"| {m.needs} | {m.cost_class} | {m.interval} |"
        for m in registry().values()
    ]
    head = ["| metric | units of its fields | at | needs | cost | interval |", "| --- | --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *rows, ""])


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")
