from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnaudit.spec import glob


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("**", "layer1.0.conv2"),
        ("**", ""),
        ("layer1.0.conv2", "layer1.0.conv2"),
        ("layer1.*.conv?", "layer1.0.conv2"),
        ("stage[23].**", "stage2.0.conv1"),
        ("stage[!2].**", "stage3.0.conv1"),
        ("stage1.**", "stage1"),
        ("stage1.**", "stage1.0.conv1"),
        ("**.conv1", "conv1"),
        ("**.conv1", "layer1.0.conv1"),
        ("a.**.b", "a.b"),
        ("a.**.b.**.c", "a.x.b.y.z.c"),
        ("**.relu@1", "layer1.0.relu@1"),
        ("**.relu*", "layer1.0.relu@1"),
        ("layer1.*", "layer1.0#add.0"),
        ("layer1.**", "layer1.0#add.0"),
        ("layer1.0#*", "layer1.0#add.0"),
        ("layer1.0#add.0", "layer1.0#add.0"),
        ("layer1.0.**", "layer1.0#add.0"),
        ("**.#add.*", "layer1.0#add.0"),
        ("#add.*", "#add.0"),
        ("**", "#add.0"),
    ],
)
def test_a_glob_selects_a_path(pattern, path):
    assert glob.matches(pattern, path)
    assert glob.check(pattern) == pattern


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("layer1", "layer1.0"),
        ("layer1.*", "layer1.0.conv2"),
        ("layer1.*", "layer1"),
        ("*.conv1", "conv1"),
        ("stage[23].**", "stage1.0"),
        ("stage[!2].**", "stage2.0"),
        ("conv?", "conv"),
        ("Conv1", "conv1"),
        ("layer1.0", "layer1.0#add.0"),
        ("layer1.0.relu", "layer1.0.relu@1"),
        ("stage1.**", "stage10.0"),
        ("a.**.b", "a.b.c"),
    ],
)
def test_a_glob_leaves_a_path_out(pattern, path):
    assert not glob.matches(pattern, path)


def test_many_stars_cost_little():
    assert not glob.matches(".".join(["**"] * 200 + ["x"]), ".".join(["a"] * 200))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "the glob '' has nothing between two dots, or is empty"),
        ("a..b", "the glob 'a..b' has nothing between two dots, or is empty"),
        ("a.b**", "the glob 'a.b**' has ** inside a component: write it between dots, as in a.**.b"),
        ("a[1", "the glob 'a[1' must have no blank, and no [class] that is not closed, empty or cut by a dot"),
        ("a[]", "the glob 'a[]' must have no blank, and no [class] that is not closed, empty or cut by a dot"),
        ("a[!]", "the glob 'a[!]' must have no blank, and no [class] that is not closed, empty or cut by a dot"),
        ("a[.]b", "the glob 'a[.]b' must have no blank, and no [class] that is not closed, empty or cut by a dot"),
        ("a b", "the glob 'a b' must have no blank, and no [class] that is not closed, empty or cut by a dot"),
    ],
)
def test_a_glob_that_means_nothing_is_refused(pattern, message):
    with pytest.raises(ValueError, match=r".") as caught:
        glob.check(pattern)
    assert str(caught.value) == message


def _one(pattern: str, text: str) -> bool:
    """A component against a glob without ``**``, by the book."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(_one(pattern[1:], text[i:]) for i in range(len(text) + 1))
    if not text:
        return False
    if pattern[0] == "[":
        end = pattern.index("]")
        members = pattern[1:end]
        inside = text[0] not in members[1:] if members[0] == "!" else text[0] in members
        return inside and _one(pattern[end + 1 :], text[1:])
    return pattern[0] in ("?", text[0]) and _one(pattern[1:], text[1:])


def _all(globs: list[str], pieces: list[str]) -> bool:
    if not globs:
        return not pieces
    if globs[0] == "**":
        return any(_all(globs[1:], pieces[i:]) for i in range(len(pieces) + 1))
    return bool(pieces) and _one(globs[0], pieces[0]) and _all(globs[1:], pieces[1:])


_NAME = st.text("ab1", min_size=1, max_size=3)
_GLOB = st.lists(st.sampled_from(["a", "b", "1", "?", "[ab]", "[!a]"]), min_size=1, max_size=3).map("".join)
_STARRED = st.builds(lambda left, right: f"{left}*{right}", st.just("") | _GLOB, st.just("") | _GLOB)


@given(
    globs=st.lists(st.just("**") | _GLOB | _STARRED, min_size=1, max_size=5),
    pieces=st.lists(_NAME, min_size=1, max_size=5),
    op=st.sampled_from(["", "#add.0", "#b"]),
)
def test_agrees_with_a_naive_reference(globs, pieces, op):
    readings = [[*pieces[:-1], pieces[-1] + op]] + ([[*pieces, op]] if op else [])
    expected = any(_all(globs, reading) for reading in readings)
    assert glob.matches(".".join(globs), ".".join(pieces) + op) is expected
    assert glob.check(".".join(globs)) == ".".join(globs)
