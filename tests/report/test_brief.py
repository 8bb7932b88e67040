"""One rule in a few lines."""

from made import SEEN, WAIVER, WORSE, found, report_of, verdict

from cnnaudit.report.brief import brief
from cnnaudit.result import UnitCounts


def told(*verdicts):
    return brief(report_of(*verdicts), verdicts[0].rule).splitlines()


def cells(line):
    return line.split()


def test_what_was_measured():
    numbers = {"value": 0.25, "low": 0.15, "high": 0.35, "null": 0.1, "severity": "note"}
    lines = told(verdict("shares", "measured", site="layer1", file="cnnaudit:recommended", line=12, **numbers))
    assert lines[0] == "cnnaudit:recommended:12: shares was measured at 1 of 1 site, 1,200 images"
    assert [cells(line) for line in lines[1:]] == [
        ["site", "activity.apoz", "interval", "null", "twin"],
        ["layer1", "0.25", "[0.15,", "0.35]", "0.1"],
    ]


def test_an_excess():
    numbers = {"value": 0.75, "low": 0.5, "high": 1.0, "null": 0.15, "side": "min_excess", "bound": 0.8}
    lines = told(verdict("a", "fail", **numbers))
    assert [cells(line) for line in lines[1:3]] == [
        ["site", "activity.apoz", "excess", "interval", "null", "twin", "bound", "failing"],
        ["layer1.conv1", "0.75", "[0.5,", "1]", "0.15", "min_excess", "0.8", "0", "of", "16"],
    ]


def test_a_regression():
    lines = told(verdict("a:regression", "fail", baseline=0.62, units=UnitCounts(), **WORSE))
    assert [cells(line) for line in lines[1:]] == [
        ["site", "activity.apoz", "worse", "by", "interval", "baseline", "bound"],
        ["layer1.conv1", "0.05", "[0.03,", "0.07]", "0.62", "max_regression", "0.02"],
    ]


def test_of_a_waived_rule_the_waiver_is_told_instead_of_what_to_do():
    lines = told(verdict("a", "waived", **SEEN, detail="Bad.", advice="Mend it.", waiver=WAIVER))
    assert lines[0] == "net.audit.yaml:7: a is waived at 1 of 1 site, 1,200 images"
    assert lines[-3:] == [
        "  means Bad.",
        "  waived accepted_risk by ann until 2027-03-01, approved by bob on 2026-11-01, ticket NET-12",
        "         (net.waivers.yaml:4)",
    ]


def test_what_a_gate_found_has_no_table():
    lines = told(found("waivers:unused", severity="warning", file="w.yaml", line=9, detail="Nothing.", advice="Go on."))
    assert lines == ["w.yaml:9: waivers:unused fails", "  means Nothing.", "  do    Go on."]


def test_of_many_sites_the_worst_four():
    lines = told(*(verdict("a", "fail", site=f"conv{i}", **SEEN | {"value": 0.9 + i / 100}) for i in range(6)))
    assert [cells(line)[0] for line in lines[2:6]] == ["conv5", "conv4", "conv3", "conv2"]
    assert lines[6] == "  ... and 2 more"
