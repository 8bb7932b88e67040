"""Rules that are taken over: from packs and other files, changed by id, and told with the place where they stand."""

from __future__ import annotations

import hashlib

import pytest

from cnnaudit.errors import SpecError
from cnnaudit.metrics import vocabulary as real_vocabulary
from cnnaudit.spec import extending, from_mapping, load, packs

BASE = """\
cnnaudit: 1
rules:
  - {id: dead, why: They do nothing., metric: activity.dead, max: 0, severity: warning, if_absent: skip}
  - id: apart
    metric: class_information
    params: {bins: 4}
    min: 0.1
  - {metric: pool_entropy_loss, severity: note}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.audit.yaml").write_text(BASE)
    return tmp_path


@pytest.fixture
def own(folder, vocabulary):
    """Reads a rule file that extends base.audit.yaml."""

    def own(text: str = "", extends: str = "base.audit.yaml", name: str = "own.audit.yaml"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"cnnaudit: 1\nextends: {extends}\n{text}")
        return load(path, vocabulary)

    return own


@pytest.fixture
def told(own):
    """What is said about a rule file that extends base.audit.yaml."""

    def told(*args, **kwargs):
        with pytest.raises(SpecError) as caught:
            own(*args, **kwargs)
        return str(caught.value).splitlines()

    return told


def test_all_rules_are_taken_over(own):
    spec = own()
    dead, apart, loss = spec.rules
    assert (dead.id, dead.metric, dead.field, dead.bounds) == ("dead", "activity", "dead", {"max": 0})
    assert (dead.severity, dead.if_absent, dead.why) == ("warning", "skip", "They do nothing.")
    assert (apart.id, apart.params, apart.bounds) == ("apart", {"bins": 4}, {"min": 0.1})
    assert (loss.id, loss.bounds) == ("pool_entropy_loss", {})
    assert {rule.pack for rule in spec.rules} == {"base.audit.yaml"}
    assert [spec.place(rule) for rule in spec.rules] == [f"base.audit.yaml:{line}" for line in (3, 4, 8)]
    assert (spec.name, spec.without) == ("own.audit.yaml", ())


def test_own_rules_come_first(own):
    spec = own("rules:\n  - {metric: activity.apoz, max: 0.9}\n")
    assert [rule.id for rule in spec.rules] == ["activity.apoz", "dead", "apart", "pool_entropy_loss"]
    assert [rule.pack for rule in spec.rules] == ["", *["base.audit.yaml"] * 3]
    assert spec.place(spec.rules[0]) == "own.audit.yaml:4"


def test_a_rule_of_the_same_id_changes_key_by_key(own):
    spec = own("rules:\n  - {id: apart, severity: warning, params: {}}\n  - {id: dead, why: Mine., max: 0.5}\n")
    apart, dead, _ = spec.rules
    assert (apart.metric, apart.bounds, apart.severity, apart.params) == (
        *("class_information", {"min": 0.1}, "warning"),
        {"bins": 8},  # params are one key
    )
    assert (dead.why, dead.bounds, dead.severity, dead.if_absent) == ("Mine.", {"max": 0.5}, "warning", "skip")
    # The last word is this file's, and the rule still is one that was taken over.
    assert [spec.place(rule) for rule in (apart, dead)] == ["own.audit.yaml:4", "own.audit.yaml:5"]
    assert [rule.pack for rule in spec.rules] == ["base.audit.yaml"] * 3


def test_the_id_may_be_that_of_the_metric(own):
    rule, *_ = own("rules:\n  - {metric: pool_entropy_loss, severity: error, max: 0.3}\n").rules
    assert (rule.pack, rule.bounds, rule.severity) == ("base.audit.yaml", {"max": 0.3}, "error")


def test_another_metric_replaces_the_whole_rule(own):
    dead, *rest = own("rules:\n  - {id: dead, metric: activity.apoz, max: 0.9}\n").rules
    assert (dead.field, dead.severity, dead.if_absent, dead.why, dead.pack) == ("apoz", "error", "error", "", "")
    assert [rule.id for rule in rest] == ["apart", "pool_entropy_loss"]


def test_rules_are_left_out(own, told):
    spec = own("without: [apart, dead]\n")
    assert ([rule.id for rule in spec.rules], spec.without) == (["pool_entropy_loss"], ("apart", "dead"))
    assert [rule.id for rule in own("without: dead\n").rules] == ["apart", "pool_entropy_loss"]
    assert told("without: [apat, zzz]\n") == [
        "own.audit.yaml:3:11: no rule that is taken over has the id 'apat'; did you mean 'apart'?",
        ("own.audit.yaml:3:17: no rule that is taken over has the id 'zzz'; those are dead, apart, pool_entropy_loss"),
    ]


def test_what_is_left_out_may_be_written_anew(own):
    (dead, *_) = own("without: dead\nrules:\n  - {id: dead, metric: activity.dead, max: 0}\n").rules
    assert (dead.severity, dead.pack) == ("error", "")


def test_nothing_may_be_left_of_it(told):
    assert told("without: [dead, apart, pool_entropy_loss]\n") == [
        "own.audit.yaml:1:1: a file without rules audits nothing: list at least one under rules:"
    ]


def test_only_rules_are_taken_over(own, folder):
    (folder / "base.audit.yaml").write_text(f"{BASE}undecided: pass\nmodel: m.py:build\nby: scanner\nmarks: [slow]\n")
    spec = own("marks: [fast]\nby: site\n")
    assert (spec.undecided, spec.model) == ("fail", None)
    assert {(rule.by.column, rule.marks) for rule in spec.rules} == {("site", ("fast",))}


def test_of_several_the_last_one_wins(own, folder):
    (folder / "strict.yaml").write_text("cnnaudit: 1\nrules:\n  - {id: dead, metric: activity.dead, severity: error}\n")
    spec = own(extends="[base.audit.yaml, strict.yaml]")
    dead = next(rule for rule in spec.rules if rule.id == "dead")
    assert (dead.severity, dead.bounds, spec.place(dead)) == ("error", {"max": 0}, "strict.yaml:3")
    assert [base.name for base in spec.extends] == ["base.audit.yaml", "strict.yaml"]


def test_what_is_extended_may_extend(own, folder):
    (folder / "middle.yaml").write_text(
        "cnnaudit: 1\nextends: base.audit.yaml\nwithout: apart\nrules:\n  - {id: dead, max: 0.1}\n"
    )
    spec = own("rules:\n  - {id: dead, severity: error}\n", extends="middle.yaml")
    dead, loss = spec.rules
    assert (dead.bounds, dead.severity, dead.if_absent) == ({"max": 0.1}, "error", "skip")
    assert (loss.pack, spec.place(loss)) == ("base.audit.yaml", "base.audit.yaml:8")
    assert [base.name for base in spec.extends] == ["base.audit.yaml", "middle.yaml"]


def test_nothing_extends_itself(told, folder):
    (folder / "a.yaml").write_text("cnnaudit: 1\nextends: b.yaml\nrules: []\n")
    (folder / "b.yaml").write_text("cnnaudit: 1\nextends: a.yaml\nrules: []\n")
    assert "a.yaml:2:10: 'b.yaml' extends itself: a.yaml -> b.yaml -> a.yaml" not in told(extends="a.yaml")
    assert told(extends="a.yaml")[0] == (
        "b.yaml:2:10: 'a.yaml' extends itself (own.audit.yaml -> a.yaml -> b.yaml -> a.yaml); remove one of these"
    )
    assert told(extends="own.audit.yaml")[0] == (
        "own.audit.yaml:2:10: 'own.audit.yaml' extends itself (own.audit.yaml -> own.audit.yaml); remove one of these"
    )


def test_paths_are_relative_to_the_file_that_names_them(own, folder):
    spec = own(extends="../base.audit.yaml", name="deep/own.audit.yaml")
    assert spec.place(spec.rules[0]) == "base.audit.yaml:3"
    assert spec.path == folder / "deep/own.audit.yaml"


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("", "2:1: extends has no value; give one, or leave it out"),
        ("3", "2:10: extends must be a list, not the number 3"),
        ("[base.audit.yaml, 3]", "2:28: extends[1] must be text, not the number 3"),
        ("gone.yaml", "gone.yaml: cannot be read (No such file or directory); check the path and its permissions"),
        (
            "cnnaudit:recomended",
            (
                "2:10: 'cnnaudit:recomended' is no pack; did you mean 'cnnaudit:recommended'? the packs are "
                "cnnaudit:deployment, cnnaudit:recommended, cnnaudit:residual; a file ends in .yaml"
            ),
        ),
    ],
)
def test_a_mistake_in_what_is_extended(told, extends, message):
    first = told("rules:\n  - {metric: activity, max: 0}\n", extends=extends)[0]
    assert first.removeprefix("own.audit.yaml:") == message


def test_mistakes_are_told_where_they_are_written(told, folder):
    (folder / "base.audit.yaml").write_text(
        "cnnaudit: 1\nrules:\n"
        "  - {id: a, metric: activity.ded, max: 0}\n"
        "  - {id: b, metric: activity, max: x, min: 1}\n"
        "  - {id: b, metric: activity, max: 1}\n"
        "  - c\n"
    )
    assert told("rules:\n  - {id: b, min: y}\n  - {id: d, max: 0}\n") == [
        "base.audit.yaml:3:21: activity has no field 'ded'; did you mean 'dead'? its fields are dead, apoz, dormant",
        "base.audit.yaml:5:5: b is used twice; give one of both rules another id",
        "base.audit.yaml:6:5: a rule is a mapping such as {metric: activity.dead, max: 0}",
        "own.audit.yaml:4:18: min must be a number, not the text 'y'",
        "own.audit.yaml:5:5: the key 'metric' is missing: add it",
        "own.audit.yaml:5:10: no rule that is taken over has the id 'd'; give the metric of a new rule",
    ]


def test_a_file_for_another_version_is_not_taken_over(told, folder):
    (folder / "base.audit.yaml").write_text("cnnaudit: 2\nrules: []\n")
    assert told("rules:\n  - {metric: activity, max: 0}\n") == [
        "base.audit.yaml:1:11: this cnnaudit reads version 1; write cnnaudit: 1"
    ]
    (folder / "base.audit.yaml").write_text("cnnaudit: 1\n")
    assert told("rules:\n  - {metric: activity, max: 0}\n") == [
        "own.audit.yaml:2:10: 'base.audit.yaml' has no list of rules to take over; write one under rules:"
    ]


def test_the_hash_is_that_of_all_files(own, folder):
    before = own()
    (base,) = before.extends
    assert (base.name, base.version) == ("base.audit.yaml", 0)
    assert base.sha256 == hashlib.sha256(BASE.encode()).hexdigest()
    assert own().sha256 == before.sha256
    (folder / "base.audit.yaml").write_text(BASE + "# changed\n")
    assert own().sha256 != before.sha256
    assert before.sha256 != hashlib.sha256((folder / "own.audit.yaml").read_bytes()).hexdigest()


def test_facts_for_the_report(own):
    spec = own("without: [dead]\n")
    (base,) = spec.extends
    assert spec.facts == {
        "path": "own.audit.yaml",
        "sha256": spec.sha256,
        "rules": ["apart", "pool_entropy_loss"],
        "extends": [{"name": "base.audit.yaml", "version": 0, "sha256": base.sha256}],
        "without": ["dead"],
    }


def test_rules_from_python_extend_as_well(vocabulary, folder):
    spec = from_mapping({"cnnaudit": 1, "extends": "base.audit.yaml", "rules": [{"id": "dead", "max": 1}]}, vocabulary)
    dead, apart, _ = spec.rules
    assert (dead.bounds, dead.line, dead.file) == ({"max": 1}, 0, "")
    assert (apart.line, apart.file) == (4, "base.audit.yaml")
    with pytest.raises(SpecError) as caught:
        from_mapping(
            {"cnnaudit": 1, "extends": "base.audit.yaml", "rules": [{"id": "dead", "maxx": 1}], "without": ["x"]},
            vocabulary,
        )
    assert str(caught.value).splitlines() == [
        (
            "<mapping>: at without[0]: no rule that is taken over has the id 'x'; "
            "those are dead, apart, pool_entropy_loss"
        ),
        "<mapping>: at rules[0].maxx: unknown key 'maxx'; did you mean 'max'?",
    ]


# --- packs ------------------------------------------------------------------------------------------------------


def test_packs_are_found_by_their_files():
    assert packs() == ("cnnaudit:deployment", "cnnaudit:recommended", "cnnaudit:residual")


@pytest.fixture(params=packs())
def pack(request):
    return from_mapping({"cnnaudit": 1, "extends": request.param}, real_vocabulary())


def test_every_pack_can_be_read(pack):
    (base,) = pack.extends
    assert base.version >= 1
    assert base.about.endswith(".")
    assert pack.place(pack.rules[0]) == f"{base.name}:{pack.rules[0].line}"
    assert {rule.pack for rule in pack.rules} == {base.name}


def test_every_rule_of_a_pack_is_skipped_where_it_does_not_apply_and_says_why(pack):
    for rule in pack.rules:
        assert rule.if_absent == "skip", rule.id
        assert rule.why.endswith("."), rule.id
        assert bool(rule.bounds) == (rule.severity != "note"), rule.id


def test_packs_may_be_extended_together_and_rules_of_the_same_id_are_about_the_same():
    spec = from_mapping({"cnnaudit": 1, "extends": list(packs()), "undecided": "pass"}, real_vocabulary())
    assert [base.name for base in spec.extends] == list(packs())
    named = {}
    for name in packs():
        for rule in from_mapping({"cnnaudit": 1, "extends": name}, real_vocabulary()).rules:
            assert named.setdefault(rule.id, (rule.metric, rule.field)) == (rule.metric, rule.field)
    assert {rule.id for rule in spec.rules} == set(named)


def test_the_version_of_a_pack_is_part_of_the_hash(monkeypatch):
    written = {"cnnaudit": 1, "extends": "cnnaudit:residual"}
    before = from_mapping(written, real_vocabulary())

    class Changed:
        @staticmethod
        def read_bytes():
            return b"cnnaudit: 1\nversion: 7\nabout: Another one.\nrules: [{metric: activity, severity: note}]\n"

    monkeypatch.setattr(extending, "_files", lambda: {"residual.audit.yaml": Changed})
    after = from_mapping(written, real_vocabulary())
    assert after.extends[0].version == 7
    assert after.sha256 != before.sha256


def test_the_schema_knows_what_a_file_that_extends_may_leave_out(validator):
    file = {"cnnaudit": 1, "extends": ["cnnaudit:recommended", "../base.audit.yaml"]}
    assert validator.is_valid(file)
    assert validator.is_valid({**file, "extends": "cnnaudit:recommended", "without": "a"})
    assert validator.is_valid({**file, "rules": [{"id": "dead-kernels", "max": 0.1}], "without": ["a"]})
    assert validator.is_valid({**file, "rules": [{"metric": "activity.dead", "severity": "error"}]})
    assert not validator.is_valid({**file, "rules": [{"max": 0.1}]})
    assert not validator.is_valid({**file, "extends": "recommended"})
