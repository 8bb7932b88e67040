"""``cnnaudit validate`` on files of waivers; rule files are in test_cli.py."""

import datetime as dt

import pytest

from cnnaudit.cli import main

ENTRY = (
    "  - {{rule: dead, owner: Ada, reason: r, category: wont_fix, approved_by: {by}, approved_on: 2026-01-01, "
    "expires: {day}, worst: 1}}\n"
)


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(*entries):
        (tmp_path / "net.waivers.yaml").write_text("cnnaudit-waivers: 1\nwaivers:\n" + "".join(entries))
        return "net.waivers.yaml"

    return write


def test_a_file_of_waivers_is_read_as_one(written, capsys):
    late = dt.date(2999, 1, 1)
    path = written(ENTRY.format(by="Bo", day=late), ENTRY.format(by="Bo", day="2026-02-01"))
    assert main(["validate", path]) == 0
    assert capsys.readouterr().out == "net.waivers.yaml: 2 waivers (1 expired), no mistakes\n"


def test_its_mistakes_are_told_with_their_lines(written, capsys):
    path = written(ENTRY.format(by="Ada", day="2999-01-01"))
    assert main(["validate", path]) == 2
    said = capsys.readouterr().out
    assert said.startswith("net.waivers.yaml:3:")
    assert "approved_by" in said
