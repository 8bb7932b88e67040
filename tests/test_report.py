"""Every format shows every verdict; the text is fit to read."""

import json
import math

import pytest

from cnnaudit.report import formats, render
from cnnaudit.report.as_text import number
from cnnaudit.result import Outcome, Report, UnitCounts, Verdict


def verdict(rule, outcome, **facts):
    defaults = {
        "line": 7,
        "severity": "error",
        "metric": "activity",
        "field": "apoz",
        "unit": "fraction",
        "op": "conv",
        "site": "layer1.conv1",
        "n_images": 1200,
        "units": UnitCounts(16, 0, 0),
    }
    return Verdict(rule=rule, outcome=Outcome(outcome), **(defaults | facts))


def report_of(*verdicts, **settings):
    rules = list(dict.fromkeys(v.rule for v in verdicts))
    return Report(
        spec={"path": "net.audit.yaml", "sha256": "0" * 64, "rules": rules},
        model={"source": "net.py:build", "weights": "w.safetensors", "sites": {"conv": 3}, "sha256": "1" * 64},
        data={"source": "x.npz", "n_images": 1200, "available": 5000, "order": "seeded", "sha256": "2" * 64},
        settings={"confidence": 0.95, "undecided": "fail"} | settings,
        verdicts=verdicts,
    )


MEASURED = {"value": 0.91234567, "low": 0.9, "high": 0.925, "bound": 0.9, "side": "max"}
FULL = report_of(
    verdict("a-passes", "pass", **MEASURED),
    verdict("b-fails", "fail", site="layer2.conv1", **MEASURED, detail="Bad.", advice="Mend it."),
    verdict(
        "b-fails",
        "fail",
        site="layer3.conv1",
        **MEASURED | {"value": 0.95},
        units=UnitCounts(16, 3, 1),
        worst=((5, 0.95, 0.94, 0.96), (2, 0.91, 0.9, 0.92)),
        detail="Bad.",
        advice="Mend it.",
    ),
    verdict("b-fails", "undecided", site="layer4.conv1", **MEASURED, n_needed=4321),
    verdict("c-elsewhere", "not_applicable", site="layer5.conv1", detail="Not measured: no zeros."),
    verdict("d-crashed", "error", site="layer6.conv1", detail="The metric crashed.", severity="note"),
    verdict("e-warns", "fail", site="layer7.conv1", **MEASURED, severity="warning", why="Because.", refs=("RISK-1",)),
)


@pytest.mark.parametrize("name", formats())
def test_no_rule_and_no_judged_site_is_lost(name):
    text = render(FULL, name)
    for v in FULL.verdicts:
        assert v.rule in text
        if v.outcome not in (Outcome.PASS, Outcome.NOT_APPLICABLE):
            assert v.site in text
    assert text.endswith("\n")


def test_formats_are_found_by_their_files():
    assert formats() == ("json", "text")


def test_json_holds_everything():
    body = json.loads(render(FULL, "json"))
    assert body["summary"]["exit_code"] == 2
    assert [v["outcome"] for v in body["verdicts"]] == [str(v.outcome) for v in FULL.verdicts]
    assert body["verdicts"][-1]["refs"] == ["RISK-1"]


class TestText:
    TEXT = render(FULL, "text")

    def test_lines_fit_a_terminal(self):
        assert max(map(len, self.TEXT.splitlines())) <= 110

    def test_the_worst_site_speaks_for_a_rule_and_the_others_are_named(self):
        (block,) = [b for b in self.TEXT.split("\n\n") if b.startswith("FAIL  b-fails")]
        assert block.splitlines() == [
            "FAIL  b-fails  net.audit.yaml:7",
            "  layer     layer3.conv1 (conv)",
            "  also      layer2.conv1 (0.9123)",
            "  measured  activity.apoz = 0.95 fraction, 95 % interval [0.9, 0.925]",
            "  bound     max 0.9",
            "  units     3 of 16 kernels violate the bound, 1 undecided; worst: 5 (0.95), 2 (0.91)",
            "  images    1,200 read",
            "  means     Bad.",
            "  do        Mend it.",
        ]

    def test_undecided_names_the_images_needed(self):
        assert "  images    1,200 read, about 4,321 needed" in self.TEXT

    def test_a_warning_says_that_it_is_one_and_why_it_is_there(self):
        assert "FAIL  e-warns  (warning)  net.audit.yaml:7\n  why       Because.\n" in self.TEXT

    def test_heading_and_last_line(self):
        assert self.TEXT.startswith(
            "model  net.py:build with w.safetensors: 3 conv\ndata   x.npz: 1,200 of 5,000 images, order seeded\n"
        )
        assert self.TEXT.splitlines()[-1] == (
            "NOT PASSED: 5 rules, 1 passed, 2 failed, 1 not applicable, 1 could not be evaluated (exit 2)"
        )

    def test_table_has_a_row_for_each_rule(self):
        rows = [line.split()[:2] for line in self.TEXT.splitlines()]
        for outcome, rule in [("PASS", "a-passes"), ("FAIL", "b-fails"), ("ERROR", "d-crashed"), ("FAIL", "e-warns")]:
            assert [outcome, rule] in rows

    def test_notes_are_printed(self):
        noted = Report(**{**vars(report_of(verdict("a", "pass", **MEASURED))), "notes": ("Read in its own order.",)})
        assert "\nnote  Read in its own order.\n" in render(noted, "text")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (0.123456, "0.1235"),
        (1234567.0, "1.235e+06"),
        (math.nan, "undefined"),
        (None, "undefined"),
    ],
)
def test_number(value, shown):
    assert number(value) == shown
