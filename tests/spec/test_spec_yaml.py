from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnaudit.errors import SpecError
from cnnaudit.spec import yaml


def parse(text: str) -> yaml.Document:
    return yaml.parse(text.encode(), "x.yaml")


def refusal(data: str | bytes) -> str:
    """What is said about a file that cannot be read any further."""
    with pytest.raises(SpecError) as caught:
        yaml.parse(data.encode() if isinstance(data, str) else data, "x.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("+.5", 0.5),
        ("-2.", -2.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("12", 12),
        ("-012", -12),
        ("0o14", 12),
        ("0x1F", 31),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("tRue", "tRue"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-11-24", "2026-11-24"),
        ("0b11", "0b11"),
        (".", "."),
        ("e3", "e3"),
        ("=", "="),
        ('"1"', "1"),
        ("'true'", "true"),
        ("|\n  1\n", "1\n"),
    ],
)
def test_scalars_are_read_as_yaml_1_2(written, value):
    read = parse(f"key: {written}\n").value["key"]
    assert read == value
    assert type(read) is type(value)


def test_nan_is_a_number():
    assert math.isnan(parse("key: .NaN").value["key"])


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_numbers_survive(number):
    assert parse(f"[{number}]").value == [number]


_PIECES = [
    "a",
    "1",
    ": ",
    "\n",
    "  ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ",",
    '"',
    "'",
    "\\",
    "x",
    "U00110000",
    "&a ",
    "*a",
    "!t ",
]
_PIECES += ["<<", "|", ">", "? ", "#", "%YAML 1.2", "---", "...", "\t", "\u2028", "\x00", "é"]


@given(st.lists(st.sampled_from(_PIECES), max_size=30).map("".join) | st.text() | st.binary())
def test_whatever_the_bytes_nothing_but_a_spec_error_comes_out(data):
    try:
        yaml.parse(data if isinstance(data, bytes) else data.encode(errors="surrogatepass"), "x.yaml")
    except SpecError as error:
        assert str(error).startswith("x.yaml:")  # noqa: PT017 - most texts are no YAML, some are


def test_every_key_and_value_has_a_place():
    document = parse("# a comment\nrules:\n  - {metric: activity.dead, max: 0}\n  - id: x\n")
    assert document.values[()] == (2, 1)
    assert document.keys["rules",] == (2, 1)
    assert document.values["rules",] == (3, 3)
    assert document.values["rules", 0] == (3, 5)
    assert document.keys["rules", 0, "max"] == (3, 29)
    assert document.values["rules", 0, "max"] == (3, 34)
    assert document.values["rules", 1, "id"] == (4, 9)
    assert str(document.problem(("rules", 0, "min"), "gone")) == "x.yaml:3:5: gone"


def test_a_byte_order_mark_moves_nothing():
    assert yaml.parse(b"\xef\xbb\xbfkey: 1", "x.yaml").values["key",] == (1, 6)


def test_an_alias_is_a_copy():
    document = parse("a: &kept {x: 1}\nb: *kept\n")
    assert document.value == {"a": {"x": 1}, "b": {"x": 1}}
    assert document.values["b", "x"] == (1, 14)


def test_mistakes_that_leave_the_rest_readable_are_collected():
    document = parse("a: 1\na: 2\n<<: {b: 1}\n3: x\n[c]: 1\ntrue: 1\nd: !!python/name:os.system x\n")
    assert document.value == {"a": 1, "d": "x"}
    assert sorted(map(str, document.problems)) == [
        "x.yaml:2:1: the key 'a' is already given on line 1; remove one",
        "x.yaml:3:1: merge keys (<<) are not read: write the keys out",
        "x.yaml:4:1: a key must be text: quote it, '3', if it is meant",
        "x.yaml:5:1: a key must be text, not a list or a mapping",
        "x.yaml:6:1: a key must be text: quote it, 'true', if it is meant",
        "x.yaml:7:4: the tag 'tag:yaml.org,2002:python/name:os.system' is not read: write a plain value",
    ]


def test_numbers_and_text_that_no_report_could_hold():
    document = parse(f'a: {"9" * 5000}\nb: "\\ud800"\n')
    assert [str(problem) for problem in document.problems] == [
        "x.yaml:1:4: a number may have at most 300 characters",
        "x.yaml:2:4: the text holds half of a surrogate pair, which no file can hold; remove it",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a: 1\n\tb: 2\n", "x.yaml:2:1: a tab may not indent YAML: use spaces"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2:1: a rule file is one document: remove this '---'"),
        ("a: [1\nb: 2\n", "x.yaml:2:2: expected ',' or ']', but got ':' while parsing a flow sequence"),
        ("a: b: c\n", "x.yaml:1:5: mapping values are not allowed here"),
        ('a: "\\U00110000"\n', "x.yaml:1:7: a number in an escape or a directive is out of range; write plain text"),
        (
            f"%YAML {'1' * 5000}.1\n",
            "x.yaml:1:7: a number in an escape or a directive is out of range; write plain text",
        ),
        ("a: *x\n", "x.yaml:1:4: found undefined alias 'x'"),
        ("a: \x07\n", "x.yaml:1:4: the character '\\x07' is not allowed in YAML"),
        (b"a: 1\nb: \xff\n", "x.yaml:2:4: is not UTF-8 text; save it as UTF-8"),
        ("a: &a [*a]\n", "x.yaml:1:4: values may nest at most 32 levels deep"),
        ("a: " + "[" * 100_000, "x.yaml:1:36: values may nest at most 32 levels deep"),
        (b"#" * (1 << 20) + b"\n", "x.yaml: is larger than the 1,048,576 bytes a rule file may have"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(data, message):
    assert refusal(data) == message


def test_an_alias_bomb_is_refused_at_once():
    levels = ["a0: &a0 [" + ",".join("x" * 10) + "]"]
    levels += [f"a{i}: &a{i} [" + ",".join([f"*a{i - 1}"] * 10) + "]" for i in range(1, 25)]
    started = time.perf_counter()
    assert refusal("\n".join(levels)).endswith("at most 10,000 values, counting every copy an alias makes")
    assert time.perf_counter() - started < 2


def test_a_flood_of_values_is_refused_before_it_is_read():
    started = time.perf_counter()
    assert "at most 10,000 values" in refusal("[" + "a," * 500_000 + "]")
    assert time.perf_counter() - started < 10
