"""The page: whole, self-contained, accessible, and every verdict is on it."""

import math
import re
import time
from html.parser import HTMLParser

import pytest
from made import FULL, MADE, SEEN, WAIVER, WORSE, report_of, verdict

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


def row(page, name):
    (found,) = [
        " ".join("".join(text).split()) for tag, _, text in page.elements if tag == "tr" and name in "".join(text)
    ]
    return found


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
        assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))

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
        page = Page(PAGES[name])
        judged = [v for v in MADE[name].verdicts if v.outcome is not Outcome.NOT_APPLICABLE and v.site]
        bodies = [text for text in page.texts("section") if not text.startswith("Rules")]
        assert page.all("section")
        sections = [page.elements[i] for i, (tag, attrs, _) in enumerate(page.elements) if attrs.get("class") == "rule"]
        rows = sum(len(re.findall(r"", "")) for _ in sections)
        assert rows == 0
        assert bodies
        assert len(judged) <= PAGES[name].count('<th scope="row"')


def test_rows_of_a_rule_tell_all_that_is_known_of_a_site():
    page = Page(PAGES["full"])
    (row,) = [text for text in page.texts("tr") if "layer4.conv1" in text]
    assert row == (
        "? UNDECIDED layer4.conv1 conv 0.9123 fraction [0.9, 0.925]bound max 0.85 0.9123 [0.9, 0.925] max 0.85 "
        "0 of 16 kernels violate the bound 1,200 about 4,321 needed"
    )
