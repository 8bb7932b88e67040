"""Annotations within the limits of a step, and the summary of the job."""

import re

import pytest
from made import AWKWARD, FULL, MADE, SEEN, report_of, verdict

from cnnaudit.report import as_github, as_markdown


def commands(report):
    """What the runner understands: the kind, the properties and the message of each line."""
    for line in as_github.render(report).splitlines():
        kind, properties, text = re.fullmatch(r"::(error|warning|notice) ([^:]*)::(.*)", line).groups()
        pairs = dict(pair.split("=", 1) for pair in properties.split(","))
        yield kind, {key: decoded(value, ":,") for key, value in pairs.items()}, decoded(text)


def decoded(text, more=""):
    for sign in f"{more}\r\n%":
        text = text.replace(f"%{ord(sign):02X}", sign)
    return text


def test_one_annotation_for_each_rule_that_is_not_kept_and_one_that_counts():
    found = list(commands(FULL))
    assert [(kind, told.get("file"), told.get("line"), told["title"]) for kind, told, _ in found] == [
        ("error", "net.audit.yaml", "7", "d-crashed"),
        ("error", "net.audit.yaml", "7", "l-absent"),
        ("error", "net.audit.yaml", "12", "b-fails"),
        ("error", "net.audit.yaml", "12", "b-fails:regression"),
        ("error", "net.audit.yaml", "7", "h-by"),
        ("error", "net.audit.yaml", "1", "i-pack"),
        ("error", "net.audit.yaml", "1", "audit:coverage"),
        ("error", "shared/base.audit.yaml", "33", "j-file"),
        ("warning", "net.audit.yaml", "7", "e-warns"),
        ("warning", "net.waivers.yaml", "4", "waivers:expired"),
        ("warning", "net.waivers.yaml", "14", "waivers:unused"),
        ("notice", "net.audit.yaml", "7", "f-notes"),
        ("notice", None, None, "cnnaudit"),
    ]
    assert found[2][2].startswith(
        "b-fails fails at 2 of 5 sites.\nlayer3.conv1 (conv): activity.apoz = 0.95 fraction, "
    )
    assert found[-1][2] == (
        "NOT PASSED: 16 rules, 1 passed, 9 failed, 1 undecided, 1 waived, 1 measured only, 1 not applicable, "
        "2 could not be evaluated (exit 2); 2 waived results not listed; 57 of 61 sites are under a rule; "
        "not covered: pool0, pool1, pool2, pool3"
    )


def test_what_the_runner_would_read_as_a_command_is_escaped():
    found = {told["title"]: text for _, told, text in commands(AWKWARD)}
    assert found["rule two lines::error"].startswith(
        "rule two lines::error fails at 1 of 2 sites.\nsite two lines::error "
    )
    text = as_github.render(report_of(verdict("100 %, a:b\r\n", "fail", site="::stop", **SEEN)))
    assert text.startswith(
        "::error file=net.audit.yaml,line=7,title=100 %25%2C a%3Ab::100 %25, a:b fails at 1 of 1 site.%0A::stop "
    )
    text = as_github.render(report_of(verdict("a", "fail", file="my,\r\nfile:1.yaml", **SEEN)))
    assert text.startswith("::error file=my%2C%0D%0Afile%3A1.yaml,line=7,title=a::")


@pytest.mark.parametrize("severity", ["error", "warning", "note"])
def test_a_step_shows_ten_of_each_kind_and_the_last_names_the_others(severity):
    def rules(count):
        return report_of(*(verdict(f"r{n}", "fail", severity=severity, **SEEN) for n in range(count)))

    kind = "notice" if severity == "note" else severity
    room = 9 if severity == "note" else 10  # a notice counts all rules
    for count, rest in (
        (room, []),
        (room + 1, [f"r{room - 1}", f"r{room}"]),
        (40, [f"r{n}" for n in range(room - 1, 40)]),
    ):
        found = [(told["title"], text) for name, told, text in commands(rules(count)) if name == kind]
        assert len(found) == min(count, room) + (kind == "notice")
        if rest:
            title, text = found[room - 1]
            assert title == f"{len(rest)} more"
            assert text == f"and {len(rest)} more, see the job summary: {', '.join(rest)}"


def test_the_worst_come_first():
    order = [("w", "fail", "warning"), ("u", "undecided", "error"), ("f", "fail", "error"), ("e", "error", "note")]
    found = commands(
        report_of(*(verdict(rule, outcome, severity=severity, **SEEN) for rule, outcome, severity in order))
    )
    assert [told["title"] for _, told, _ in found] == ["e", "f", "u", "w", "cnnaudit"]


@pytest.mark.parametrize("name", MADE)
def test_no_message_is_longer_than_the_runner_keeps(name):
    assert all(len(text) <= 4_096 for _, _, text in commands(MADE[name]))
    many = report_of(
        *(verdict("r", "fail", site=f"stage{n}.{'x' * 90}", detail="Bad. " * 99, **SEEN) for n in range(500))
    )
    (_, _, text), _ = commands(many)
    assert 3_000 < len(text) <= 4_096


def test_what_is_in_order_is_told_in_one_notice():
    (only,) = commands(report_of(verdict("a", "pass", **SEEN)))
    assert only == ("notice", {"title": "cnnaudit"}, "PASSED: 1 rule, 1 passed (exit 0)")


@pytest.mark.parametrize(("name", "count"), [("empty", "0 rules"), ("nothing judged", "2 rules")])
def test_where_nothing_was_judged_the_count_is_the_error(name, count):
    ((kind, _, text),) = commands(MADE[name])
    assert kind == "error"
    assert text.startswith(f"NOT PASSED: {count}, ")
    assert text.endswith("nothing judged (exit 2)")


class TestSummary:
    def test_it_is_the_markdown_report(self):
        assert as_github.summary(FULL) == as_markdown.render(FULL)

    def test_what_is_larger_than_github_takes_is_cut_at_a_line(self, monkeypatch):
        assert as_github._SUMMARY == 1_048_576
        monkeypatch.setattr(as_github, "_SUMMARY", 20_000)
        many = report_of(*(verdict(f"r{n}", "fail", detail="ü" * 700, **SEEN) for n in range(50)))
        whole, cut = as_markdown.render(many), as_github.summary(many)
        assert len(whole.encode()) > 20_000 >= len(cut.encode()) > 18_000
        kept, _, note = cut.removesuffix("\n").rpartition("\n\n")
        assert note == "_The rest is left out: a job summary may have 1 MiB. The whole report is in the other formats._"
        assert whole.startswith(f"{kept}\n")
