"""Formats are found by their files."""

import pytest

from cnnaudit.report import formats, render


def test_there_is_a_format_for_each_file():
    assert formats() == ("github", "gitlab", "html", "json", "junit", "markdown", "sarif", "text")


def test_a_format_that_is_not_there(tmp_path):
    with pytest.raises(ModuleNotFoundError, match="as_pdf"):
        render(None, "pdf")
