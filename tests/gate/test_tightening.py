"""Bounds that follow what was reached: never looser, and nothing else in the file changes."""

import math

import pytest
from audits import report, terms, verdict

from cnnaudit.errors import EvidenceError, SpecError
from cnnaudit.gate import tightening
from cnnaudit.metrics import vocabulary


def tighten(found, path):
    return tightening.tighten(found, path, vocabulary())


FILE = """\
# Ours.
cnnaudit: 1
model: model.py:build
rules:
  - id: sparse   # the activations
    metric: activity.apoz
    max:  0.9    # two spaces, and a comment
    why: "max: 0.9"
  - {metric: class_information, min: .1, id: "tells"}
"""


def one(side, bound, *reached, old="pass", rule="sparse", regression=None, **facts):
    """A report of one rule with so many sites."""
    bounds = {"min": None, "max": None, side: bound}
    rules = {rule: terms(**({"absolute": None} | (regression or {})), bounds=bounds)}
    sites = [
        verdict(rule, site=f"conv{i}", outcome=old, reached=x, side=side, bound=bound, **facts)
        for i, x in enumerate(reached)
    ]
    return report(*sites, rules=rules)


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "net.audit.yaml"
    path.write_bytes(FILE.encode())
    return path


def test_only_the_number_changes(rules):
    found = tighten(one("max", 0.9, 0.7001, 0.5), rules)
    assert rules.read_text() == FILE.replace("max:  0.9 ", "max:  0.701 ")
    (change,) = found.changes
    assert (change.rule, change.line, change.side, change.old, change.new, change.site) == (
        "sparse", 7, "max", "0.9", "0.701", "conv0",
    )  # fmt: skip
    assert str(found).splitlines()[1:] == ["  sparse (line 7, conv0)", "    - max: 0.9", "    + max: 0.701"]


def test_several_bounds_of_one_file_and_a_flow_form(rules):
    both = one("max", 0.9, 0.5)
    flow = one("min", 0.1, 0.4567, 0.3999, rule="tells")
    joined = report(*both.verdicts, *flow.verdicts, rules={**both.spec["terms"], **flow.spec["terms"]})
    assert [c.new for c in tighten(joined, rules).changes] == ["0.5", "0.399"]
    assert rules.read_text() == FILE.replace("max:  0.9 ", "max:  0.5 ").replace("min: .1,", "min: 0.399,")


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_line_ends_and_a_byte_order_mark_stay(rules, newline):
    text = "\ufeff" + FILE.replace("\n", newline).replace("Ours", "Ün\u00e7a")
    rules.write_bytes(text.encode())
    tighten(one("max", 0.9, 0.5), rules)
    assert rules.read_bytes().decode() == text.replace("max:  0.9 ", "max:  0.5 ")


@pytest.mark.parametrize(
    ("side", "bound", "reached", "written"),
    [
        ("max", 0.9, 0.12341, "0.124"),
        ("max", 0.9, 0.0000123, "0.0000123"),
        ("max", 0.9, 0.0, "0"),
        ("max", 2500.0, 1234.5, "1240"),
        ("min", -0.9, -0.12341, "-0.124"),
        ("min", 0.1, 0.99999, "0.999"),
    ],
)
def test_bounds_have_few_digits_and_are_rounded_to_what_allows_more(rules, side, bound, reached, written):
    rules.write_text(FILE.replace("max:  0.9 ", f"{side}: {bound} "))
    assert [c.new for c in tighten(one(side, bound, reached), rules).changes] == [written]


def test_what_a_regression_may_take_is_left(rules):
    allowed = {"absolute": 0.125, "relative": 0.5}
    assert tighten(one("max", 0.9, 0.5, regression=allowed), rules).changes[0].new == "0.625"


@pytest.mark.parametrize(("reached", "allowed"), [(0.9, None), (0.95, None), (0.8999, None), (0.7, 0.25)])
def test_a_bound_is_never_loosened_nor_written_anew(rules, reached, allowed):
    found = tighten(one("max", 0.9, 0.1, reached, regression=allowed and {"absolute": allowed}), rules)
    assert (found.changes, found.kept) == ((), {"sparse": "at conv1 another audit may come as near to it"})
    assert rules.read_text() == FILE


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (one("max", 0.9, 0.5, old="fail"), "it came to fail"),
        (one("max", 0.9, 0.5, old="waived"), "it came to waived"),
        (one("max", 0.9, None), "these images do not tell how near to it another audit may come"),
        (one("max", 0.9, math.inf), "these images do not tell how near to it another audit may come"),
        (one("max", 0.9, 0.5, rule="of-a-pack"), "its bound is not written in"),
    ],
)
def test_what_is_kept_says_why(rules, found, reason):
    kept = tighten(found, rules)
    assert not kept.changes
    ((rule, told),) = kept.kept.items()
    assert told.startswith(reason)
    assert f"{rule} is kept: {reason}" in str(kept)
    assert rules.read_text() == FILE


def test_of_several_bounds_none_is_moved(rules):
    both = report(verdict(reached=0.5), rules={"sparse": terms(bounds={"min": 0.1, "max": 0.9})})
    assert "several bounds (min, max)" in tighten(both, rules).kept["sparse"]


@pytest.mark.parametrize(
    "text",
    [
        FILE.replace("0.9    #", "&most 0.9  #"),
        FILE.replace("model:", "max_images: &most 0.9\nmodel:").replace("0.9    #", "*most #"),
        FILE.replace("0.9    #", "0x1 #"),
    ],
)
def test_what_is_no_plain_number_of_its_own_is_kept(rules, text):
    bound = 1.0 if "0x1" in text else 0.9
    rules.write_text(text)
    assert "is no plain number of its own" in tighten(one("max", bound, 0.5), rules).kept["sparse"]
    assert rules.read_text() == text


def test_a_file_that_has_changed_since_is_refused(rules):
    with pytest.raises(EvidenceError, match=r":7: the rule sparse has max 0.9 here, and was judged by 0.8"):
        tighten(one("max", 0.8, 0.5), rules)


def test_a_file_that_is_no_rule_file_any_more_is_left(rules):
    text = FILE.replace("metric: activity.apoz", "metric: activity.gone")
    rules.write_text(text)
    with pytest.raises(SpecError, match="gone"):
        tighten(one("max", 0.9, 0.5), rules)
    assert rules.read_text() == text
