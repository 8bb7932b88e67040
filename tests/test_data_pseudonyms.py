"""What reports call single images."""

import re

import numpy as np
import pytest
from PIL import Image

import cnnaudit
from cnnaudit.cli import main
from cnnaudit.data.pseudonyms import Pseudonyms

PSEUDONYM = re.compile(r"image [0-9a-f]{12}")


def test_a_name_is_hidden_also_where_the_reason_repeats_it():
    told = Pseudonyms().told("ward/jane_doe.png", "holds nothing (ward/jane_doe.png is no image, see jane_doe.png)")
    assert "jane" not in told
    assert len(PSEUDONYM.findall(told)) == 3
    assert len(set(PSEUDONYM.findall(told))) == 1


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("cannot be read (UnidentifiedImageError: no image '/ward/jane_doe.png')", " (UnidentifiedImageError)"),
        (
            "cannot be read (FileNotFoundError: [Errno 2] No such file:\n'/ward/jane_doe.png' (1))",
            " (FileNotFoundError)",
        ),
        ("cannot be read (jane: her scan is broken)", ""),
    ],
)
def test_what_an_error_says_is_not_told_because_it_may_name_the_file(reason, told):
    """The images of a user's own dataset are called by their numbers, so their names cannot be looked for."""
    assert Pseudonyms().told("54", reason).endswith(f" cannot be read{told}")


def test_one_audit_calls_the_same_image_the_same_and_another_does_not():
    one, other = Pseudonyms(), Pseudonyms()
    assert one.told("a.png", "x") == one.told("a.png", "x") != other.told("a.png", "x")
    assert one.told("a.png", "x") != one.told("b.png", "x")


def test_with_a_salt_of_ones_own_names_stay_the_same(monkeypatch):
    monkeypatch.setenv("CNNAUDIT_SALT", "secret")
    kept = Pseudonyms().told("a.png", "x")
    assert Pseudonyms().told("a.png", "x") == kept
    monkeypatch.setenv("CNNAUDIT_SALT", "another")
    assert Pseudonyms().told("a.png", "x") != kept


@pytest.fixture
def ward(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for kind in ("ill", "well"):
        (tmp_path / "ward" / kind).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "ward" / kind / f"patient{i}.png")
    (tmp_path / "ward" / "ill" / "jane_doe.png").write_bytes(b"nothing")
    (tmp_path / "model.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)\n"
        "    return nn.Sequential(*layers)\n"
    )
    (tmp_path / "ward.audit.yaml").write_text(
        "cnnaudit: 1\nmodel: model.py:build\ndata: {load: ward, max_corrupt: 0.5}\n"
        "rules:\n  - {metric: activity.apoz, max: 1, estimand: dataset}\n"
    )
    return tmp_path


@pytest.mark.parametrize("form", ["text", "json", "html"])
def test_a_report_names_no_image_unless_it_is_asked_to(ward, form, capsys):
    check = ["check", "ward.audit.yaml", "--allow-import", "model.py", "--format", form]
    assert main(check) == 0
    hidden = capsys.readouterr().out
    assert "jane" not in hidden
    assert PSEUDONYM.search(hidden)
    assert main([*check, "--show-images"]) == 0
    assert "jane_doe.png" in capsys.readouterr().out


def test_python_hides_them_too(ward):
    options = {"allow_imports": ["model.py"]}
    assert "jane" not in cnnaudit.audit("ward.audit.yaml", **options).to_json()
    assert "jane" in cnnaudit.audit("ward.audit.yaml", show_images=True, **options).to_json()
    flow = cnnaudit.profile(rules="ward.audit.yaml", **options)
    assert "jane" not in str(flow.data) + str(flow.notes)


def test_what_must_be_mended_is_named_on_the_way(ward, capsys):
    text = (ward / "ward.audit.yaml").read_text().replace("max_corrupt: 0.5", "max_corrupt: 0")
    (ward / "ward.audit.yaml").write_text(text)
    assert main(["check", "ward.audit.yaml", "--allow-import", "model.py"]) == 2
    assert "jane_doe.png" in capsys.readouterr().err
