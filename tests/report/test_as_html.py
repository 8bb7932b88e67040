"""The page: whole, self-contained, accessible, and every verdict is on it."""

import math
import re
import time
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from made import MADE, SEEN, WAIVER, WORSE, report_of, verdict

from cnnaudit.report import render
from cnnaudit.result import Outcome

VOID = {"meta", "rect", "path", "circle"}
PAGES = {name: render(report, "html") for name, report in MADE.items()}


class Page(HTMLParser):
    """Elements in their order as (tag, attributes, text inside), and whether each is closed by its own end."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.mistakes = [], [], []
        self.feed(text)
        self.mistakes += [f"{tag} is not closed" for tag, _, _ in self.open]

    def handle_starttag(self, tag, attrs):
        element = (tag, dict(attrs), [])
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag):
        if not self.open or self.open[-1][0] != tag:
            self.mistakes.append(f"</{tag}> at {self.getpos()}")
        else:
            self.open.pop()

    def handle_data(self, data):
        for _, _, text in self.open:
            text.append(data)

    def texts(self, *tags):
        return [" ".join("".join(text).split()) for tag, _, text in self.elements if tag in tags]

    def all(self, tag):
        return [attrs for found, attrs, _ in self.elements if found == tag]


@pytest.mark.parametrize("name", PAGES)
class TestEveryPage:
    def test_it_is_well_formed(self, name):
        assert Page(PAGES[name]).mistakes == []

    def test_it_needs_nothing_else_and_runs_nothing(self, name):
        page = Page(PAGES[name])
        assert not {tag for tag, _, _ in page.elements} & {"script", "link", "img", "iframe", "object"}
        style = "".join(page.texts("style"))
        assert "url(" not in style
        assert "@import" not in style
        for _, attrs, _ in page.elements:
            assert not {key for key in attrs if key.startswith("on") or key in ("src", "style", "srcset")}

    def test_links_lead_to_parts_of_the_page(self, name):
        page = Page(PAGES[name])
        ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
        assert len(set(ids)) == len(ids)
        assert {attrs["href"] for attrs in page.all("a")} <= {f"#{name}" for name in ids}

    def test_headings_are_in_order(self, name):
        levels = [int(tag[1]) for tag, _, _ in Page(PAGES[name]).elements if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))

    def test_tables_have_captions_and_heads_have_scopes(self, name):
        page = Page(PAGES[name])
        assert len(page.all("caption")) == len(page.all("table")) > 0
        assert {attrs.get("scope") for attrs in page.all("th")} <= {"col", "row"}

    def test_every_bar_has_a_title_and_legends_are_not_read_out(self, name):
        page = Page(PAGES[name])
        bars = [attrs for attrs in page.all("svg") if "bar" in attrs.get("class", "")]
        assert {attrs["role"] for attrs in bars} <= {"img"}
        titles = page.texts("title")[1:]
        assert len(titles) == len(bars)
        assert all(titles)
        assert all("aria-hidden" in attrs for attrs in page.all("svg") if attrs not in bars)

    def test_every_verdict_is_there(self, name):
        sections = [attrs for attrs in Page(PAGES[name]).all("section") if attrs.get("class") == "rule"]
        judged = {v.rule for v in MADE[name].verdicts if v.outcome is not Outcome.NOT_APPLICABLE}
        assert len(sections) == len(judged)
        rows = PAGES[name].partition('class="rule"')[2].partition('id="whole"')[0].partition('id="nowhere"')[0]
        placed = [v for v in MADE[name].verdicts if v.outcome is not Outcome.NOT_APPLICABLE and v.site]
        assert rows.count('<th scope="row"') == len(placed)


def page_of(*verdicts, **facts):
    return Page(render(report_of(*verdicts, **facts), "html"))


def texts_of_row(page, site):
    """The cells of the last row that names a site: that of its rule's table."""
    at = [i for i, (tag, _, text) in enumerate(page.elements) if tag == "tr" and site in "".join(text)][-1]
    cells = []
    for tag, _, text in page.elements[at + 1 :]:
        if tag == "tr":
            break
        if tag in ("td", "th"):
            cells.append(" ".join("".join(text).split()))
    return cells


def test_a_row_tells_all_that_is_known_of_a_site():
    assert texts_of_row(Page(PAGES["full"]), "layer4.conv1") == [
        "? UNDECIDED",
        "layer4.conv1 conv",
        "0.9123 fraction [0.9, 0.925]bound max 0.85",
        "0.9123 [0.9, 0.925]",
        "max 0.85",
        "0 of 16 kernels violate the bound",
        "1,200 about 4,321 needed",
    ]


def test_columns_are_there_where_a_site_fills_them():
    plain = page_of(verdict("a", "pass", reduce="mean", **SEEN))
    assert [t for t in plain.texts("th") if t in ("null twin", "baseline", "units", "beside")] == []
    full = page_of(verdict("a", "pass", null=0.1, baseline=0.2, fields={"dead": 0.5}, **SEEN))
    assert [t for t in full.texts("th") if t in ("null twin", "baseline", "units", "beside")] == [
        "null twin",
        "baseline",
        "units",
        "beside",
    ]
    assert texts_of_row(full, "layer1.conv1")[4:] == [
        "0.1",
        "0.2",
        "max 0.85",
        "0 of 16 kernels violate the bound",
        "1,200",
        "dead 0.5",
    ]


def test_the_banner_tells_the_verdict_and_the_counts():
    page = Page(PAGES["full"])
    assert page.texts("h1") == ["✗ NOT PASSED"]
    assert page.texts("header")[0].startswith("✗ NOT PASSED 16 rules, 1 passed, 9 failed, 1 undecided, 1 waived,")
    passed = page_of(verdict("a", "pass", **SEEN))
    assert passed.texts("h1") == ["✓ PASSED"]
    assert passed.all("header") == [{"class": "passed"}]


def test_a_waiver_tells_who_and_until_when():
    page = page_of(verdict("a", "waived", **SEEN, waiver=WAIVER), gate={"as_of": "2026-12-01"})
    at = page.texts("td").index("FAIL without this waiver, which accepts nothing worse than 0.95")
    assert page.texts("td")[at + 1 : at + 4] == [
        "ann, approved by bob on 2026-11-01",
        "2027-03-01 (90 days left)",
        "accepted_risk: pruned on purpose (NET-12) net.waivers.yaml:4",
    ]


def test_what_is_said_of_several_sites_is_said_once():
    told = {"detail": "Bad.", "advice": "Mend it."}
    page = page_of(*(verdict("a", "fail", site=f"x{i}", **SEEN, **told) for i in range(8)))
    (finding,) = [text for tag, attrs, text in page.elements if attrs.get("class") == "finding fail"]
    assert " ".join("".join(finding).split()) == ("FAIL at x0, x1, x2, x3, x4, x5 and 2 more sitesBad.Do: Mend it.")


def test_bars_of_a_regression_and_of_an_infinite_end():
    page = page_of(
        verdict("a:regression", "fail", baseline=0.4, **WORSE | {"high": math.inf}),
        verdict("a:regression", "pass", site="y", baseline=0.4, **WORSE | {"value": 0.0, "low": 0.0, "high": 0.1}),
    )
    assert page.texts("title")[1:] == [
        "0.05 fraction worse than the baseline's 0.4 [0.03, inf]",
        "as good as the baseline's 0.4 [0, 0.1]",
    ]
    assert page.texts("desc") == ["bound max_regression 0.02; baseline 0.4"] * 2
    assert "Sites of a:regression, drawn on a scale from 0 to 0.1" in page.texts("caption")
    assert [attrs["d"] for attrs in page.all("path") if attrs["class"] == "end"][2:] == [
        "M77.6 8V16M234 7L239 12L234 17",
        "M14.0 8V16M226.0 8V16",
    ]
    assert any(text.startswith("baseline; at 0") for text in page.texts("li"))


def test_a_bound_that_changed_is_told():
    page = page_of(verdict("a", "pass", **SEEN, changed="max 0.75 -> 0.85"))
    assert "Changed after the evidence existed: max 0.75 -> 0.85." in page.texts("p")
    assert "changed after the evidence existed: max 0.75 -> 0.85" in page.texts("span")


def test_all_that_is_not_covered_and_how_to_do_it_again():
    page = Page(PAGES["full"])
    assert "57 of 61 sites are under a rule; not covered: pool0, pool1, pool2, pool3." in page.texts("p")
    facts = dict(zip(page.texts("dt"), page.texts("dd"), strict=True))
    assert facts["parameters and buffers"] == f"sha256 {'1' * 64}"
    assert facts["waivers"] == f"net.waivers.yaml (sha256 {'4' * 64}, 4 entries)"


def test_where_a_rule_does_not_apply_all_sites_are_named():
    page = page_of(
        verdict("a", "pass", **SEEN),
        *(verdict("a", "not_applicable", site=f"y{i}", detail="No zeros.") for i in range(9)),
    )
    assert page.texts("td")[-2:] == ["No zeros.", "y0, y1, y2, y3, y4, y5, y6, y7, y8"]


def test_what_is_not_letters_is_no_mark_up():
    page = page_of(verdict("<script>alert(1)</script>\x00\x1b", "fail", site='"><b>', why="<img src=x>", **SEEN))
    assert page.mistakes == []
    assert "<img src=x>" in page.texts("p")
    assert "<script>alert(1)</script>" in page.texts("h3")[0]
    assert not page.all("script")


def test_two_thousand_verdicts_are_a_page_that_opens():
    fields = dict.fromkeys(("apoz", "dead", "dormant", "always_on"), 0.5)
    report = report_of(
        *(verdict(f"rule-{i % 20}", "pass", site=f"features.stage.{i}", fields=fields, **SEEN) for i in range(2000))
    )
    started = time.process_time()
    text = render(report, "html")
    assert time.process_time() - started < 5
    assert text.count('<svg class="bar pass"') == 2000
    assert len(text) < 4e6
