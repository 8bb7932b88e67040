"""GitHub-flavoured Markdown: what stands where, escapes, and room in a comment."""

import pytest
from made import FULL, SEEN, WAIVER, WORSE, report_of, verdict

from cnnaudit.report import render
from cnnaudit.result import UnitCounts


def parts(*verdicts, **facts):
    return render(report_of(*verdicts, **facts), "markdown").rstrip("\n").split("\n\n")


def rows(table):
    """The cells of a table, without the line between its head and its body."""
    head, _, *body = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    return [head, *body]


def test_it_begins_with_the_verdict_and_the_rules_the_gravest_first():
    title, verdict_line, table, *_ = parts(
        verdict("b", "pass", **SEEN | {"value": 0.5}), verdict("a", "fail", **SEEN, severity="warning")
    )
    assert title == "## Audit of `net.audit.yaml`"
    assert verdict_line == "**PASSED**: 2 rules, 1 passed, 1 failed (exit 0)"
    assert rows(table) == [
        ["outcome", "rule", "sites passed", "worst site", "value", "interval", "bound"],
        ["✗ FAIL (warning)", "`a`", "0/1", "`layer1.conv1`", "0.9123", "[0.9, 0.925]", "max 0.85"],
        ["✓ PASS", "`b`", "1/1", "`layer1.conv1`", "0.5", "[0.9, 0.925]", "max 0.85"],
    ]


def test_a_regression_has_its_baseline():
    _, _, table, *_ = parts(
        verdict("a", "pass", **SEEN),
        verdict("a:regression", "pass", baseline=0.4, **WORSE | {"value": -0.05}),
        verdict("b:regression", "fail", baseline=0.62, **WORSE),
    )
    head, *body = rows(table)
    assert head[4:] == ["value", "interval", "bound", "baseline"]
    assert [row[4:] for row in body] == [
        ["0.05 worse", "[0.03, 0.07]", "max_regression 0.02", "0.62"],
        ["0.9123", "[0.9, 0.925]", "max 0.85", ""],
        ["0.05 better", "[0.03, 0.07]", "max_regression 0.02", "0.4"],
    ]


def test_a_bound_that_changed_is_told():
    _, _, table, *_ = parts(verdict("a", "pass", **SEEN, changed="max 0.75 -> 0.85"))
    assert rows(table)[1][-1] == "max 0.85 (changed after the evidence existed: max 0.75 -&gt; 0.85)"


def test_what_is_wrong_is_told_with_why_means_and_do():
    told = {"why": "Because.", "detail": "Bad.", "advice": "Mend it.", "refs": ("RISK-1",)}
    found = parts(
        verdict("a", "fail", site="x", **SEEN, **told),
        verdict("a", "fail", site="y", **SEEN | {"value": 0.95}, **told, units=UnitCounts(16, 3, 1)),
    )
    assert found[3:7] == [
        "### What is wrong",
        "**✗ FAIL** `a` (`net.audit.yaml:7`, RISK-1)",
        "Because.",
        "- `y` (conv)\n"
        "- activity.apoz = 0.95 fraction, 95 % interval \\[0.9, 0.925]; bound max 0.85\n"
        "- 3 of 16 kernels violate the bound, 1 undecided; images: 1,200 read\n"
        "- also at `x` (0.9123)\n"
        "- means: Bad.\n"
        "- do: Mend it.",
    ]


def test_waivers_have_a_table():
    found = parts(
        verdict("a", "waived", **SEEN, waiver=WAIVER), gate={"as_of": "2026-12-01"}, notes=["Read in its own order."]
    )
    head, row = rows(found[found.index("### Waived") + 1])
    assert dict(zip(head, row, strict=True)) == {
        "rule": "`a`",
        "sites, worst first": "`layer1.conv1`",
        "value": "0.9123",
        "interval": "[0.9, 0.925]",
        "bound": "max 0.85",
        "accepts": "FAIL without this waiver, which accepts nothing worse than 0.95",
        "by": "`ann`, NET-12",
        "approved": "`bob`, 2026-11-01",
        "until": "**2027-03-01 (90 days left)**",
        "because": "accepted_risk: pruned on purpose (`net.waivers.yaml:4`)",
    }
    assert found[found.index("### The audit as a whole") + 1] == "- Read in its own order."


def test_what_was_measured_only():
    found = parts(
        verdict("one", "measured", value=0.5, low=0.4, high=0.6),
        verdict("two", "measured", site="x", value=0.5, low=0.4, high=0.6, null=0.1),
        verdict("two", "measured", site="y", value=0.75, low=0.4, high=0.6, null=0.1),
    )
    assert rows(found[found.index("### Measured only") + 1]) == [
        ["rule", "sites", "measured", "value", "interval", "null twin"],
        ["`one`", "`layer1.conv1`", "activity.apoz (fraction)", "0.5", "[0.4, 0.6]", ""],
        ["`two`", "`x`, `y`", "activity.apoz (fraction)", "0.5 to 0.75", "", "0.1"],
    ]


def test_the_rest_is_folded():
    found = render(FULL, "markdown").split("\n\n")
    at = found.index("<details><summary>Not applicable</summary>")
    assert rows(found[at + 1])[1] == ["`c-elsewhere`", "`layer5.conv1`", "Not measured: no zeros."]
    assert found[at + 2] == "</details>"
    whole = found.index("### The audit as a whole")
    assert found[whole + 1].splitlines()[0] == (
        "- 57 of 61 sites are under a rule; not covered: pool0, pool1, pool2, pool3"
    )
    facts = dict(rows(found[found.index("<details><summary>What was audited</summary>") + 1]))
    assert facts["rules"] == f"net.audit.yaml (sha256 {'0' * 64})"
    assert facts["waivers"] == f"net.waivers.yaml (sha256 {'4' * 64}, 4 entries)"


@pytest.mark.parametrize(
    ("why", "shown"),
    [
        ("<b>&", "&lt;b&gt;&amp;"),
        ("*s* `c` [l](u) ~x~ \\", "\\*s\\* \\`c\\` \\[l](u) \\~x\\~ \\\\"),
        ("a_b __init__", "a_b \\_\\_init\\_\\_"),
        ("# head", "\\# head"),
        ("- item", "\\- item"),
        ("12. item", "12\\. item"),
        ("0.5 is low", "0.5 is low"),
        ("two\n\nlines", "two lines"),
    ],
)
def test_a_sentence_of_somebody_else_is_a_sentence(why, shown):
    assert parts(verdict("a", "fail", **SEEN, why=why))[5] == shown


@pytest.mark.parametrize(
    ("site", "shown"),
    [
        ("a|b", "`a\\|b`"),
        ("<i>", "`<i>`"),
        ("a`b", "``a`b``"),
        ("`a``", "``` `a`` ```"),
        ("x\ny", "`x y`"),
    ],
)
def test_a_name_is_code_that_ends_where_it_ends(site, shown):
    _, _, table, *_ = parts(verdict("a", "fail", site=site, **SEEN))
    assert f" | {shown} | " in table.splitlines()[-1]


def test_much_is_cut_to_what_github_takes_in_a_comment():
    told = {"why": "Because. " * 10, "detail": "Bad. " * 30, "advice": "Mend it. " * 30}
    many = [
        verdict(f"rule-{i}", "fail" if i % 2 else "waived", site=f"features.{i}", line=i, **SEEN, **told)
        for i in range(500)
    ]
    many = [v if v.outcome == "fail" else verdict(v.rule, "waived", **SEEN, waiver=WAIVER) for v in many]
    text = render(report_of(*many), "markdown")
    assert len(text) <= 65_536
    shown = text.count("**✗ FAIL**")
    assert 10 <= shown < 250
    assert f"\nand {250 - shown} more findings\n" in text
    assert f"\nand {500 - shown} more rules: {250 - shown} failed, 250 waived\n" in text
    assert f"\nand {250 - shown} more waivers\n" in text
