"""The report itself."""

import json

from made import FULL

from cnnaudit.report import render
from cnnaudit.result import Report


def test_it_holds_everything_and_can_be_read_back():
    text = render(FULL, "json")
    body = json.loads(text)
    assert body["summary"]["exit_code"] == 2
    assert [v["outcome"] for v in body["verdicts"]] == [str(v.outcome) for v in FULL.verdicts]
    assert Report.from_json(text) == FULL
