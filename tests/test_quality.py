"""Style, types and the import contract are part of the tests."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"], ["lint-imports"]],
    ids=["ruff-check", "ruff-format", "mypy", "import-linter"],
)
def test_tool_finds_nothing(command):
    ran = subprocess.run([SCRIPTS / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_all_lists_exactly_the_public_names_and_each_resolves():
    import cnnaudit

    assert sorted(cnnaudit.__all__) == cnnaudit.__all__
    assert set(dir(cnnaudit)) >= set(cnnaudit.__all__)
    for name in cnnaudit.__all__:
        assert getattr(cnnaudit, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'audits'"):
        _ = cnnaudit.audits


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        ["check", "--help"],
        ["schema"],
        ["explain"],
        ["explain", "class_information"],
        ["validate", "examples/digits/digits.audit.yaml"],
    ],
    ids=" ".join,
)
def test_torch_is_not_imported(argv):
    code = (
        "import sys; from cnnaudit.cli import main; "
        f"code = main({argv!r}); "
        "loaded = [m for m in ('torch', 'torchvision', 'timm') if m in sys.modules]; "
        "assert not loaded, loaded; sys.exit(code)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("argv", "unwanted"),
    [
        (["--help"], {"numpy", "pydantic", "scipy", "tabulate", "yaml"}),
        (["check", "--help"], {"numpy", "pydantic", "scipy", "tabulate", "yaml"}),
        (["validate", "examples/digits/digits.audit.yaml"], {"jinja2", "numpy", "scipy", "tabulate"}),
        (["schema"], {"jinja2", "numpy", "scipy", "tabulate"}),
        (["explain"], {"jinja2", "numpy", "scipy"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_takes_long_to_import_is_not_imported_to_no_purpose(argv, unwanted):
    code = (
        "import sys; from cnnaudit.cli import main; "
        f"code = main({argv!r}); loaded = {unwanted!r} & set(sys.modules); assert not loaded, loaded; sys.exit(code)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_importing_the_package_imports_neither_torch_nor_pydantic():
    code = "import sys, cnnaudit; assert not {'torch', 'pydantic', 'numpy', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_generated_pages_are_up_to_date():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from generate import pages
    finally:
        sys.path.pop(0)
    for name, text in pages().items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, f"run python docs/generate.py ({name})"
