"""Files of waivers: every mistake at its place, and an append that changes nothing else."""

import json
import os
from datetime import date
from pathlib import Path

import jsonschema
import pytest
import yaml as pyyaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnnaudit.errors import SpecError
from cnnaudit.gate import waiver_file
from cnnaudit.gate.waiver_file import append, check, json_schema, load
from cnnaudit.spec import yaml

DAY = date(2026, 12, 1)
GOOD = """\
cnnaudit-waivers: 1
waivers:
  - rule: no-dead-kernels            # the id
    site: "stage3.**"
    owner: Ada Ito
    reason: Pruned too far.
    category: in_progress
    approved_by: Bo Lind
    approved_on: 2026-11-30
    expires: 2027-01-31
    ticket: ABC-12
    worst: 0.4
"""
ENTRY = {
    "rule": "other",
    "owner": "Ada Ito",
    "reason": "why not",
    "category": "wont_fix",
    "approved_by": "Bo Lind",
    "approved_on": "2026-11-30",
    "expires": "2027-01-31",
    "worst": 0.5,
}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(text: str) -> Path:
    path = Path("w.yaml")
    path.write_bytes(text.encode())
    return path


def names() -> list[str]:
    return [path.name for path in Path().iterdir()]


def mistakes(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load(write(text))
    return [str(problem) for problem in caught.value.problems]


# --- reading ----------------------------------------------------------------------------------------------------


def test_a_file_is_read():
    waivers = load(write(GOOD))
    (waiver,) = waivers.entries
    assert waivers.line(0) == 3
    assert (waiver.rule, waiver.site, waiver.slice, waiver.model) == ("no-dead-kernels", "stage3.**", "*", "*")
    assert (waiver.approved_on, waiver.expires) == (date(2026, 11, 30), date(2027, 1, 31))
    assert (waiver.ticket, waiver.worst) == ("ABC-12", 0.4)


@pytest.mark.parametrize("waivers", ["", " []"])
def test_a_file_may_hold_none(waivers):
    assert load(write(f"cnnaudit-waivers: 1\nwaivers:{waivers}\n")).entries == ()


def test_a_byte_order_mark_is_read_over():
    assert len(load(write("\ufeff" + GOOD)).entries) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("owner: Ada Ito", "ovner: Ada Ito", "w.yaml:5:5: unknown key 'ovner'; did you mean 'owner'?"),
        ("    owner: Ada Ito\n", "", "w.yaml:3:5: the key 'owner' is missing: add it"),
        ("Ada Ito", '"  "', "w.yaml:5:12: owner is blank"),
        ("owner: Ada Ito", "owner:", "w.yaml:5:5: owner has no value; give one, or leave it out"),
        ("Bo Lind", '"ada\\u200b ITO"', "w.yaml:8:18: approved_by is the owner, 'Ada Ito': somebody else must approve"),
        ("Bo Lind", "ada  ITO", "w.yaml:8:18: approved_by is the owner, 'Ada Ito': somebody else must approve"),
        ("in_progress", "in_progres", "did you mean 'in_progress'?"),
        ("2027-01-31", "2027-02-30", "w.yaml:10:14: expires: there is no day 2027-02-30"),
        ("2027-01-31", "20270131", "w.yaml:10:14: expires is a day such as 2027-01-31, not 20270131"),
        ("2027-01-31", "31.01.2027", "w.yaml:10:14: expires is a day such as 2027-01-31, not '31.01.2027'"),
        ("2027-01-31", "2026-11-30", "w.yaml:10:14: expires must be after approved_on 2026-11-30, not 2026-11-30"),
        ("stage3.**", "stage3..x", "w.yaml:4:11: the glob 'stage3..x' has nothing between two dots, or is empty"),
        ("stage3.**", "a -> b -> c", "w.yaml:4:11: site names one pair, 'from -> to', not 'a -> b -> c'"),
        ("0.4", '"0.4"', "w.yaml:12:12: worst must be a number, not the text '0.4': remove the quotes"),
        ("0.4", ".inf", "w.yaml:12:12: worst must be a finite number, not inf"),
        ("cnnaudit-waivers: 1\n", "", "a file of waivers must say the version it is written for: cnnaudit-waivers: 1"),
        ("cnnaudit-waivers: 1", "cnnaudit-waivers: 2", "w.yaml:1:19: cnnaudit-waivers must be one of 1"),
        ("waivers:\n", "wavers:\n", "w.yaml:2:1: unknown key 'wavers'; did you mean 'waivers'?"),
    ],
)
def test_each_mistake_at_its_place(old, new, message):
    assert message in "\n".join(
        mistakes(GOOD.replace(old, new, 1) if old != "waivers:\n" else GOOD.replace("\n" + old, "\n" + new))
    )


def test_all_mistakes_at_once():
    text = (
        GOOD.replace("Bo Lind", "Ada Ito")
        .replace("2027-01-31", "2026-01-31")
        .replace("0.4", "no")
        .replace("rule", "rul")
    )
    assert [message.split(": ")[0] for message in mistakes(text)] == [
        "w.yaml:3:5",
        "w.yaml:3:5",
        "w.yaml:8:18",
        "w.yaml:10:14",
        "w.yaml:12:12",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a file of waivers must say the version"),
        ("- rule: x\n", "the file must be a mapping, not a list"),
        ("cnnaudit-waivers: 1\nwaivers: {rule: x}\n", "waivers is a list: start each waiver with '- '"),
        (
            "cnnaudit-waivers: 1\nwaivers: [x]\n",
            "w.yaml:2:11: a waiver must be a mapping: rule, owner, reason, ... each on a line of its own",
        ),
        ("cnnaudit-waivers: 1\nwaivers: [}\n", "w.yaml:2:11"),
    ],
)
def test_files_that_are_something_else(text, message):
    assert message in "\n".join(mistakes(text))


def test_a_file_that_is_not_there():
    with pytest.raises(SpecError, match=r"w\.yaml: cannot be read \(No such file or directory\); check the path"):
        load("w.yaml")


# --- appending --------------------------------------------------------------------------------------------------


def test_a_new_file_has_a_header():
    assert append(Path("w.yaml"), ENTRY, DAY) == 6
    text = Path("w.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=")
    assert text.endswith(
        "cnnaudit-waivers: 1\nwaivers:\n  - rule: other\n    owner: Ada Ito\n    reason: why not\n"
        "    category: wont_fix\n    approved_by: Bo Lind\n    approved_on: 2026-11-30\n    expires: 2027-01-31\n"
        "    worst: 0.5\n"
    )
    assert Path("w.yaml").stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert names() == ["w.yaml"]


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    "old",
    [
        GOOD,
        GOOD.removesuffix("\n"),
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        GOOD + "\n# the end\n",
        GOOD.replace("\n  ", "\n"),
        GOOD.replace("  - rule", "  -   rule").replace("\n    ", "\n      "),
        "cnnaudit-waivers: 1\nwaivers:\n",
        "cnnaudit-waivers: 1\nwaivers: # none yet",
        "cnnaudit-waivers: 1\nwaivers:\n  - " + json.dumps(ENTRY) + "\n",
    ],
)
def test_what_is_there_stays_byte_by_byte(old):
    path = write(old)
    before = load(path).entries
    line = append(path, ENTRY, DAY)
    new = path.read_bytes()
    assert new.startswith(old.encode())
    after = load(path)
    assert after.entries[:-1] == before
    assert after.entries[-1].rule == "other"
    assert after.line(len(before)) == line
    if "\r\n" in old:
        assert new.count(b"\n") == new.count(b"\r\n")


@pytest.mark.parametrize(
    "old",
    [
        "cnnaudit-waivers: 1\nwaivers: []\n",
        "cnnaudit-waivers: 1\nwaivers: [" + json.dumps(ENTRY) + "]\n",
        "waivers:\ncnnaudit-waivers: 1\n",
        GOOD + "...\n",
        GOOD.replace("    ticket: ABC-12\n    worst: 0.4\n", "    worst: 0.4\n    ticket: |+\n      ABC"),
    ],
)
def test_where_nothing_can_be_appended_the_file_stays(old):
    path = write(old)
    with pytest.raises(SpecError, match=r"w\.yaml:[12]:1: nothing was appended: the list under waivers: must end"):
        append(path, ENTRY, DAY)
    assert path.read_bytes() == old.encode()


def test_a_file_with_mistakes_is_refused_first():
    path = write(GOOD.replace("owner", "ovner"))
    with pytest.raises(SpecError, match="did you mean 'owner'"):
        append(path, ENTRY, DAY)


def test_an_approval_in_the_future_is_refused():
    path = write(GOOD)
    with pytest.raises(SpecError, match=r"approved_on 2026-12-02 is after 2026-12-01"):
        append(path, ENTRY | {"approved_on": "2026-12-02"}, DAY)
    assert path.read_text() == GOOD


def test_text_that_no_file_can_hold():
    told = []
    assert check(ENTRY | {"reason": "\udce4"}, lambda path, message, *, key=False: told.append((path, message))) is None
    assert told == [(("reason",), "reason is not Unicode text; write plain text")]


def test_a_directory_that_is_not_there():
    with pytest.raises(SpecError, match=r"w\.yaml: cannot be written \(No such file or directory\); give another path"):
        append(Path("nowhere/w.yaml"), ENTRY, DAY)


def test_a_failed_write_leaves_nothing_behind(monkeypatch):
    path = write(GOOD)

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SpecError, match="No space left"):
        append(path, ENTRY, DAY)
    assert path.read_text() == GOOD
    assert names() == ["w.yaml"]


def test_mode_and_link_are_kept():
    path = write(GOOD)
    path.chmod(0o640)
    Path("link.yaml").symlink_to("w.yaml")
    append(Path("link.yaml"), ENTRY, DAY)
    assert Path("link.yaml").is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert len(load(path).entries) == 2


ODD = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.sampled_from(
        ["yes", "null", "~", "True", "1e-3", "0o17", "2027-01-31", "=", "<<", "---", "...", "a,b", "? a", "#", "\\"]
    ),
    st.sampled_from(["a: b", "a #b", " lead", "trail ", "- x", "*a", "&a", "!t", "%d", "@x", "`x", "{a}", "[a]", "'"]),
    st.sampled_from(
        ["a\nb", "a\n\n", "\t", "\ufeffx", "\x85", "\u2028", "\x7f", '"', "\U0001f600", "\ufffe", "\0", "x " * 2000]
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(ODD, ODD, ODD)
def test_any_text_comes_back(rule, owner, reason):
    entry = ENTRY | {"rule": f"x{rule}", "owner": f"A{owner}", "reason": reason}
    text = "\n".join(waiver_file._lines(entry, ("  ", " ")))
    assert yaml.parse(text.encode(), "x").value == [entry]
    old = pyyaml.safe_load(text)  # YAML 1.1, which takes a day for a date
    assert old[0]["rule"] == entry["rule"]
    assert old[0]["reason"] == reason


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(ODD)
def test_any_reason_is_appended(reason):
    path = write(GOOD)
    if reason.strip():
        append(path, ENTRY | {"reason": reason}, DAY)
        assert load(path).entries[1].reason == reason


# --- schema -----------------------------------------------------------------------------------------------------


def test_the_schema_takes_what_the_reader_takes():
    schema = json_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    body = yaml.parse(GOOD.encode(), "x").value
    jsonschema.validate(body, schema)
    jsonschema.validate({"cnnaudit-waivers": 1, "waivers": []}, schema)


@pytest.mark.parametrize(
    "change",
    [
        {"ovner": "x"},
        {"owner": " "},
        {"category": "x"},
        {"worst": None},
        {"worst": "0.4"},
        {"ticket": None},
        {"expires": 3},
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(change):
    body = {"cnnaudit-waivers": 1, "waivers": [ENTRY | change]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, json_schema())


@pytest.mark.parametrize("key", [key for key in ENTRY if key != "worst"])
def test_all_but_the_pattern_the_ticket_and_the_value_are_required(key):
    entry = {name: value for name, value in ENTRY.items() if name != key}
    with pytest.raises(jsonschema.ValidationError, match=f"'{key}' is a required property"):
        jsonschema.validate({"cnnaudit-waivers": 1, "waivers": [entry]}, json_schema())
    assert mistakes(f"cnnaudit-waivers: 1\nwaivers: [{json.dumps(entry)}]\n") == [
        f"w.yaml:2:11: the key '{key}' is missing: add it"
    ]
