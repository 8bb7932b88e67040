"""Every message a user can meet says where, what is wrong, and what to do.

The first half reads all messages from the source (see ``messages.py``) and holds them to rules; the second makes the
mistakes that people make and reads what they are told.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from messages import messages
from safetensors.torch import save_file

from cnnaudit.cli import main

# What a reader is told to do: as a clause of its own.
VERBS = (
    "add allow ask audit bound build call change check choose close compare convert copy correct divide drop "
    "export fetch fill freeze give import install join judge keep leave let list load lower make mark measure "
    "mend merge move name narrow number open pad pass pip profile put quote raise read record remove rename "
    "repeat replace report reshape resize run save say see select set show shuffle slice sort split start "
    "store take turn unpack unset update upgrade use wrap write yield"
)
REMEDY = re.compile(
    rf"""
    (?:^|[:;,.?(]\s+|\n|\b(?:or|and|instead|first)\s)(?:{VERBS.replace(" ", "|")})\b  # what to do
    | did\ you\ mean | \b(?:are|is|has|have|knows|reads|for|were)\ \{{\}}(?:\W|$)  # what there is
    | \bmust\b | \bmay\ (?:have|hold|nest)\b | \bone\ of\b | \bat\ (?:least|most)\b  # what is accepted
    | \bneeds?\b | \bonly\b | \bbetween\b | \bsuch\ as\b | \bas\ in\b | \bexpected\b | \bis\ either\b
    | >=|<= | [,;]\ not\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
RIDDLES = re.compile(r"\b(invalid|illegal|bad (input|value)|oops|sorry|please|failed to|unexpected)\b", re.IGNORECASE)
# An option, a key or an argument that is spelled as it is written.
NAMED = re.compile(r"--[a-z]|\b\w+=|\b\w+:(?:\s|$)|`")

# What carries another message whole: that one has all it takes, and is collected where it is made.
CARRIERS = re.compile(
    r"(data )?\{\}:? ?\{\}|at \{\}: \{\}|\{\}\nThe \{\}|\{\}\.\{\}: \{\}|\{\} \(from \{\}\)|(\{\}|the file): \{\}\{\}"
)

EXCEPTIONS: dict[str, str] = {}

MESSAGES = messages()


def failing(rule):
    found = [m for m in MESSAGES if m.text != "{}" and not CARRIERS.fullmatch(m.text) and m.text not in EXCEPTIONS]
    return [f"{message.place}: {message.text!r}" for message in found if not rule(message)]


def test_they_are_found():
    assert len(MESSAGES) > 400
    assert len({message.place.partition(":")[0] for message in MESSAGES}) > 50
    # What is filled in from elsewhere is the exception.
    assert sum(message.text == "{}" for message in MESSAGES) < 25


def test_every_exception_is_still_needed():
    assert EXCEPTIONS.keys() <= {message.text for message in MESSAGES}


def test_each_says_where():
    """A file, site, rule or value is filled in, or an argument or option is named as it is spelled."""
    assert (
        failing(
            lambda m: (
                m.located or "{}" in m.text or NAMED.search(m.text) or any(m.text.startswith(a) for a in m.arguments)
            )
        )
        == []
    )


def test_each_says_what_to_do_or_what_is_accepted():
    assert failing(lambda m: REMEDY.search(m.text)) == []


def test_each_is_a_plain_sentence():
    """No blanks or punctuation left over, nothing shouted; a full stop ends only what has several lines."""

    def plain(m):
        text = m.text
        ended = not re.search(r"[!\s;,]$", text) and ("\n" in text or "." in text[:-1] or not text.endswith("."))
        return ended and len(text.split()) >= 3 and not re.search(r"^\s|;;|  |::", text) and "rror:" not in text

    assert failing(plain) == []


def test_none_blames_the_user_or_speaks_in_riddles():
    assert failing(lambda m: not RIDDLES.search(m.text)) == []


# --- what people do ----------------------------------------------------------------------------------------------

GOOD = "cnnaudit: 1\nmodel: model.py:build\ndata: data.npz\nrules:\n  - {metric: activity.dead, max: 0}\n"
MODEL = """
import torch

def build(channels=4):
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, channels, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(channels, 3),
    )

def broken():
    raise RuntimeError("no such luck")

def nothing():
    return None
"""
ALLOW = "--allow-import=model.py"


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with a network, weights, data and rules that fit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CNNAUDIT_ALLOW_IMPORT", raising=False)
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "good.yaml").write_text(GOOD, encoding="utf-8")
    images = np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32)
    np.savez("data.npz", images=images, labels=np.arange(40) % 3)
    np.savez("short.npz", images=images, labels=np.arange(39) % 3)
    np.savez("many.npz", images=images, labels=np.arange(40))
    np.savez("colour.npz", images=images.repeat(3, 1), labels=np.arange(40) % 3)
    np.savez("unlabelled.npz", images=images)
    np.savez("empty.npz", images=images[:0], labels=np.arange(0))
    save_file({"0.weight": torch.zeros(4, 1, 3, 3)}, "half.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (tmp_path / "notes.txt").write_text("no rules", encoding="utf-8")
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    return tmp_path


def rules(text, **changes):
    """The good rules with these lines instead."""
    lines = GOOD.splitlines()
    for key, value in changes.items():
        lines = [f"{key}: {value}" if line.startswith(f"{key}:") else line for line in lines]
    return "\n".join([*lines[:-1], f"  - {text}" if text else lines[-1], ""])


# (what was done, the rule file, arguments) -> (place, remedy): both are in the one message.
MISTAKES = {
    "no such command": (None, ["chek"], "'chek'", "check"),
    "no such option": (None, ["check", "good.yaml", "--fast"], "--fast", "No such option"),
    "no such rule file": (None, ["check", "gone.yaml"], "gone.yaml", "does not exist"),
    "rule file is a folder": (None, ["validate", "folder"], "folder", "directory|folder|file"),
    "no such format": (None, ["check", "good.yaml", "--format", "xls"], "xls", "there are .*json"),
    "two formats to stdout": (
        None,
        ["check", "good.yaml", "--format=json", "--format=text"],
        "--format",
        "give the others a path",
    ),
    "format into no folder": (None, ["check", "good.yaml", "--format=json=gone/r.json"], "gone/r.json", "folder"),
    "not a mapping": ("- metric\n", ["check"], "rules.yaml:1:1", "must be a mapping"),
    "no version": ("model: model.py:build\nrules: []\n", ["check"], "rules.yaml", "cnnaudit: 1"),
    "no rules": ("cnnaudit: 1\n", ["check"], "rules.yaml", "list at least one"),
    "unclosed bracket": (rules("{metric: activity.dead, max: 0"), ["check"], r"rules.yaml:\d", "}"),
    "tabs": ("cnnaudit: 1\n\trules: []\n", ["check"], "rules.yaml:2", "tab|spaces"),
    "misspelt metric": (
        rules("{metric: activty.dead, max: 0}"),
        ["validate"],
        "rules.yaml:5:14",
        "did you mean 'activity.dead'",
    ),
    "misspelt field": (
        rules("{metric: activity.ded, max: 0}"),
        ["validate"],
        "rules.yaml:5",
        "did you mean 'dead'|fields are",
    ),
    "misspelt key": (rules("{metric: activity.dead, maxx: 0}"), ["validate"], "rules.yaml:5", "did you mean 'max'"),
    "no bound": (rules("{metric: activity.dead}"), ["validate"], "rules.yaml:5", "needs a bound"),
    "bound as text": (rules("{metric: activity.dead, max: '0'}"), ["validate"], "rules.yaml:5", "remove the quotes"),
    "share in percent": (
        rules("{metric: activity.dead, max: 0, share: 95}"),
        ["validate"],
        "rules.yaml:5",
        r"did you mean 0\.95",
    ),
    "min above max": (rules("{metric: activity.apoz, min: 1, max: 0}"), ["validate"], "rules.yaml:5", "change one"),
    "unknown parameter": (
        rules("{metric: activity.dead, max: 0, params: {rat: 1}}"),
        ["validate"],
        "rules.yaml:5",
        "did you mean 'rate'",
    ),
    "unknown pack": (
        rules("", rules="\nextends: cnnaudit:recomended\nrules:"),
        ["validate"],
        "recomended",
        "did you mean|packs are",
    ),
    "code not allowed": (GOOD, ["check"], "model.py", "--allow-import"),
    "no such function": (rules("", model="model.py:biuld"), ["check", ALLOW], "model.py:biuld", "build"),
    "function that raises": (
        rules("", model="model.py:broken"),
        ["check", ALLOW],
        "model.py:broken",
        "no such luck; .*see where",
    ),
    "function that returns nothing": (
        rules("", model="model.py:nothing"),
        ["check", ALLOW],
        "model.py:nothing",
        "Module",
    ),
    "no such network": (
        rules("", model="torchvision:resnet19"),
        ["check"],
        "torchvision:resnet19",
        "did you mean resnet1",
    ),
    "no such weights": (
        rules("", model="model.py:build\nweights: w.safetensors"),
        ["check", ALLOW],
        "w.safetensors",
        "check the path",
    ),
    "torn weights": (
        rules("", model="model.py:build\nweights: torn.safetensors"),
        ["check", ALLOW],
        "torn.safetensors",
        "copy or save it again",
    ),
    "weights of another network": (
        rules("", model="model.py:build\nweights: half.safetensors"),
        ["check", ALLOW],
        "half.safetensors",
        "saved from it",
    ),
    "no such data": (rules("", data="d.npz"), ["check", ALLOW], "d.npz", "check the path"),
    "fewer labels than images": (
        rules("", data="short.npz"),
        ["check", ALLOW],
        "short.npz",
        "40 images but 39 labels; give one",
    ),
    "label out of range": (rules("", data="many.npz"), ["check", ALLOW], "many.npz", "0 to 2; .*head: false"),
    "colour into a grey network": (
        rules("", data="colour.npz"),
        ["check", ALLOW],
        r"\(40?,? ?.*3, 8, 8\)|Sequential",
        "Give it images",
    ),
    "no labels": (
        rules("{metric: class_information, min: 0}", data="unlabelled.npz"),
        ["check", ALLOW],
        "class_information",
        "labels",
    ),
    "no images": (rules("", data="empty.npz"), ["check", ALLOW], "empty.npz", "no images"),
    "no such device": (GOOD, ["check", ALLOW, "--device", "tpu9"], "'tpu9'", "name another, such as cpu"),
    "no network to profile": (None, ["profile", "notes.txt"], "notes.txt", "such as|one of|forms are|end in|must"),
    "no such metric to explain": (
        None,
        ["explain", "class_infomation"],
        "'class_infomation'",
        "did you mean 'class_information'",
    ),
    "selftest nowhere": (None, ["selftest", "--device", "tpu9"], "--device tpu9", "such as cpu"),
}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_once_with_place_and_remedy(mistake, desk, capsys):
    text, argv, place, remedy = MISTAKES[mistake]
    if text is not None:
        (desk / "rules.yaml").write_text(text, encoding="utf-8")
        argv = [argv[0], "rules.yaml", *argv[1:]]
    code = main(argv)
    out, err = capsys.readouterr()
    told = out + err
    assert code == 2, told
    assert "Traceback" not in told
    assert "fault of cnnaudit" not in told
    assert len(re.findall(r"(?im)^error", told)) <= 1
    assert re.search(place, told), told
    assert re.search(remedy, told, re.DOTALL), told
