"""Stored evidence: what it holds, what is decided again from it, how parts are joined, and what it refuses."""

import hashlib
import json
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import cnnaudit
from cnnaudit import Outcome, evidence
from cnnaudit.errors import EvidenceError
from cnnaudit.evidence.content import SCHEMA_VERSION, canonical
from cnnaudit.evidence.file import read
from cnnaudit.metrics import registry
from cnnaudit.pipeline import audit
from cnnaudit.result import Report
from cnnaudit.spec import load
from cnnaudit.statistics import ImageSample, Parameters

pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    """A convolution of stride 2, a sum with a gate in its branch, a concatenation, two pools and a head."""

    def __init__(self, channels=4, classes=3):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, 2, 1), nn.BatchNorm2d(channels), nn.ReLU())
            self.branch = nn.Conv2d(channels, channels, 3, padding=1)
            self.excite = nn.Conv2d(channels, channels, 1)
            self.left, self.right = nn.Conv2d(channels, 2, 1), nn.Conv2d(channels, 2, 3, padding=1)
            self.mix = nn.Conv2d(4, channels, 3, padding=1)
            self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(channels, classes)

    def forward(self, x):
        x = self.stem(x)
        branch = self.branch(x)
        branch = branch * torch.sigmoid(self.excite(branch.mean((2, 3), keepdim=True)))
        x = torch.relu(x + branch)
        x = torch.relu(self.mix(torch.cat([self.left(x), self.right(x)], 1)))
        return self.fc(self.pool(x).mean((2, 3)))


def images_of(count, *, size=8, clustered=False):
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 3, (count,), generator=generator)
    images = torch.rand(count, 1, size, size, generator=generator) + labels.reshape(-1, 1, 1, 1)
    held = {"images": images, "labels": labels}
    if clustered:
        held["source"] = [f"patient {i // 8}" for i in range(count)]
        held["scanner"] = ["AB"[i % 2] for i in range(count)]
        held["masks"] = torch.randint(-1, 4, (count, size, size), generator=generator).to(torch.int16)
    return held


ALL = [
    {
        "metric": name,
        "severity": "note",
        "if_absent": "skip",
        "params": {"batch": 12} if name.startswith("renyi") else {},
        "at": ["pool", "#*"] if issubclass(metric.reads, ImageSample) else "**",  # which learn, and take time
    }
    for name, metric in registry().items()
]
BOUNDED = [
    {"id": "sliced", "metric": "class_information", "min": 0.01, "by": {"column": "scanner", "min_images": 20}},
    {"id": "learned", "metric": "class_information", "null": "twin", "min_excess": -0.1, "share": 0.5},
    {"id": "accepted", "metric": "class_auroc", "at": "mix", "max_regression": {"absolute": 0.1}},
]
# Some are decided at the first look of two, some at the last, some never.
LOOKED = [
    {"id": "active", "metric": "activity.dormant", "max": 5.0, "at": ["stem.0", "mix"]},
    {"id": "tells", "metric": "class_information", "min": 0.06, "reduce": "mean", "at": "mix"},
    {"id": "near", "metric": "class_information", "min": 0.01, "at": "stem.0"},
    {"id": "entropy", "metric": "pool_entropy_loss", "max": 0.8, "reduce": "mean"},
    {"id": "added", "metric": "branch_variance_share", "min": 0.0001},
    {"id": "compared", "metric": "class_auroc", "min": 0.01, "at": "mix", "max_regression": {"relative": 0.1}},
    {"id": "weights", "metric": "duplicate_filters", "max": 0.999},
]


def spec_of(rules, **keys):
    return {"cnnaudit": 1, "rules": rules, **keys}


def told(report):
    """A report but for what says where it comes from."""
    body = json.loads(report.to_json())
    del body["gate"], body["settings"]["threads"]
    return body


def close(mine, theirs, place=""):
    """Compare integers and text exactly, fractions to 1e-9."""
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys(), place
        for name in mine:
            close(mine[name], theirs[name], f"{place}.{name}")
    elif isinstance(mine, list):
        assert len(mine) == len(theirs), place
        for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            close(a, b, f"{place}[{i}]")
    elif isinstance(mine, float) and isinstance(theirs, float):
        assert mine == pytest.approx(theirs, rel=1e-9, abs=1e-12), place
    else:
        assert mine == theirs, place


def parts_of(folder, spec, data, count, model=None):
    paths = [folder / f"part{i + 1}.evidence" for i in range(count)]
    for i, path in enumerate(paths):
        report = audit(spec, model=model or Net(), data=data, evidence=path, shard=(i + 1, count))
        assert report.verdicts == ()
    return paths


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    """An audit with two looks, by a file of rules, and its evidence."""
    folder = tmp_path_factory.mktemp("looked")
    spec = folder / "rules.audit.yaml"
    spec.write_text(json.dumps(spec_of(LOOKED), indent=1))
    path = folder / "out.evidence"
    report = audit(spec, model=Net(), data=images_of(528), evidence=path)
    return report, path, spec


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """An audit by every metric of images of which several come from one source, and its evidence."""
    path = tmp_path_factory.mktemp("everything") / "out.evidence"
    spec = spec_of(ALL + BOUNDED, sampling={"crop": 8})
    data = images_of(64, size=12, clustered=True)
    return audit(spec, model=Net(), data=data, evidence=path), path, spec, data


def edited(looked, tmp_path, **changes):
    """The rule file with keys of rules changed; None takes a rule out, and what is new is added."""
    rules = {rule["id"]: rule for rule in LOOKED}
    for name, keys in changes.items():
        rules[name] = None if keys is None else rules.get(name, {"id": name}) | keys
    path = tmp_path / "edited.audit.yaml"
    path.write_text(json.dumps(spec_of([rule for rule in rules.values() if rule]), indent=1))
    return path


# --- the same rules -----------------------------------------------------------------------------------------


def test_stored_rules_decide_as_they_did(looked):
    report, path, _ = looked
    again = evidence.judge(path)
    assert {v.look for v in report.verdicts if v.outcome is Outcome.PASS} == {1, 2}
    assert Outcome.UNDECIDED in {v.outcome for v in report.verdicts}
    assert json.loads(again.to_json()) == json.loads(report.to_json()) | {"gate": again.gate}
    assert again.gate == {"evidence": [{"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}]}


def test_an_unchanged_rule_file_decides_as_it_did(looked):
    report, path, spec = looked
    assert told(evidence.judge([path], spec)) == told(report)
    assert told(evidence.judge([str(path)], load(spec, cnnaudit.metrics.vocabulary()))) == told(report)


def test_every_metric_decides_as_it_did(everything):
    report, path, _, _ = everything
    read_kinds = {registry()[rule].reads for rule in report.rules if rule in registry()}
    assert {metric.reads for metric in registry().values()} == read_kinds
    measured = {v.metric for v in report.verdicts if v.value is not None}
    assert len(measured) >= len(registry()) - 3  # where this network has no such site
    assert told(evidence.judge(path)) == told(report)


def test_the_same_audit_gives_the_same_bytes(looked, tmp_path):
    _, path, spec = looked
    audit(spec, model=Net(), data=images_of(528), evidence=tmp_path / "again.evidence")
    assert (tmp_path / "again.evidence").read_bytes() == path.read_bytes()


# --- other rules --------------------------------------------------------------------------------------------


def test_a_bound_that_was_moved_is_told(looked, tmp_path):
    _, path, _ = looked
    spec = edited(looked, tmp_path, tells={"min": 0.02}, near=None, quiet={"metric": "activity.dead", "max": 1.0})
    report = evidence.judge(path, spec)
    changed = {v.rule: v.changed for v in report.verdicts}
    assert changed["tells"] == "min 0.06 -> 0.02"
    assert changed["quiet"] == "the rule was added"
    assert {changed[rule] for rule in ("active", "entropy", "added", "weights")} == {""}
    assert report.notes[-3:] == (
        "Changed after the evidence existed: tells (min 0.06 -> 0.02).",
        "Rules added after the evidence existed: quiet.",
        "Rules removed after the evidence existed: near.",
    )
    assert report.spec["path"] == str(spec)
    assert "near" not in report.rules


CHANGES = {
    "max": ("active", {"max": 0.5}, "max 5.0 -> 0.5"),
    "min to max": ("tells", {"min": 0.01, "max": 1.0}, "min 0.06 -> 0.01; max none -> 1.0"),
    "share": ("near", {"share": 0.5}, "share 1.0 -> 0.5"),
    "reduce": ("near", {"reduce": "mean"}, "reduce every -> mean"),
    "severity": ("near", {"severity": "warning"}, "severity error -> warning"),
    "estimand": ("weights", {"estimand": "dataset"}, "estimand none -> dataset"),
    "max_regression": (
        "compared",
        {"max_regression": {"absolute": 0.5}},
        "max_regression {relative: 0.1, worse: lower} -> {absolute: 0.5, worse: lower}",
    ),
    "at": ("active", {"at": "mix"}, "at stem.0, mix -> mix"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_told(looked, tmp_path, name):
    rule, keys, words = CHANGES[name]
    report = evidence.judge(looked[1], edited(looked, tmp_path, **{rule: keys}))
    assert {v.changed for v in report.of(rule)} == {words}
    assert {v.changed for v in report.verdicts if v.rule != rule} == {""}
    assert report.notes[-1] == f"Changed after the evidence existed: {rule} ({words})."


def test_confidence_and_policy_are_told(looked, tmp_path):
    _, path, _ = looked
    spec = tmp_path / "edited.audit.yaml"
    spec.write_text(json.dumps(spec_of(LOOKED, undecided="pass", sampling={"confidence": 0.9})))
    report = evidence.judge(path, spec)
    assert {v.changed for v in report.verdicts} == {"confidence 0.95 -> 0.9"}
    assert report.settings["undecided"] == "pass"
    assert report.settings["alpha"] == pytest.approx([0.05, 0.05])
    assert report.notes[-1] == "Changed after the evidence existed: undecided fail -> pass, confidence 0.95 -> 0.9."


def test_what_an_early_look_decided_stands_and_what_changed_is_judged_at_the_last(looked, tmp_path):
    report, path, _ = looked
    early = {v.rule for v in report.verdicts if v.look == 1 and v.outcome in (Outcome.PASS, Outcome.FAIL)}
    assert {"active", "added"} <= early
    spec = edited(looked, tmp_path, active={"max": 5.5}, added={"why": "other words"})
    again = evidence.judge(path, spec)
    assert {v.look for v in again.of("active")} == {2}
    assert {v.look for v in again.of("added")} == {1}
    assert {v.why for v in again.of("added")} == {"other words"}
    assert [replace(v, why="", line=0) for v in again.of("added")] == [replace(v, line=0) for v in report.of("added")]


def test_judging_again_spends_no_more_than_the_alpha_of_the_last_look(looked, tmp_path):
    """Of a mean the interval at which it is decided tells the level: that of the last look is half of alpha."""
    report, path, _ = looked
    (last,) = (v for v in report.of("tells"))
    (changed,) = evidence.judge(path, edited(looked, tmp_path, tells={"min": 0.0600001})).of("tells")
    assert (changed.outcome, changed.value, changed.look) == (last.outcome, last.value, 2)

    def passes(alpha_bound):
        spec = edited(looked, tmp_path, tells={"min": alpha_bound})
        return evidence.judge(path, spec).of("tells")[0].outcome is Outcome.PASS

    stored = read(path)
    joined = evidence.joining.join([stored])
    (probe,) = (p for p in _probes(joined, "tells"))
    ((_, statistic),) = joined.statistics(probe, evidence.content.key_of(probe), 2)
    mean = registry()["class_information"].evaluate(statistic, probe.site, {"bins": 8})["information"].mean()
    half, whole = (float(mean.interval(1 - 2 * alpha)[0][0]) for alpha in (0.025, 0.05))
    assert half < whole
    assert passes(half - 1e-6)
    assert not passes(half + 1e-6)
    assert not passes((half + whole) / 2)


def _probes(joined, rule):
    spec = evidence.judging._stored_spec(joined.content)
    plan = evidence.judging._plan(joined, spec)
    return [check.probe for check in plan.checks if check.rule.id == rule]


def test_a_rule_that_moved_in_its_file_keeps_its_line(looked, tmp_path):
    _, path, _ = looked
    spec = tmp_path / "edited.audit.yaml"
    spec.write_text("# a line more\n" + json.dumps(spec_of(LOOKED), indent=1))
    report = evidence.judge(path, spec)
    before = {v.rule: v.line for v in looked[0].verdicts}
    assert {v.rule: v.line - 1 for v in report.verdicts} == before
    assert not any(v.changed for v in report.verdicts)


REFUSED = {
    "another statistic": ({"rules": [*LOOKED, {"metric": "effective_rank", "min": 1}]}, "rule 'effective_rank' needs"),
    "other params": ({"rules": [LOOKED[0], {**LOOKED[1], "params": {"bins": 5}}]}, 'class_information {"bins":5,'),
    "another site": (
        {"rules": [{**LOOKED[1], "at": "left"}]},
        "out.evidence does not hold: audit again",
    ),
    "a twin": ({"rules": [{**LOOKED[1], "null": "twin"}]}, "with its null twin"),
    "seed": ({"sampling": {"seed": 4}}, "sampling.seed is 4 here and was 0"),
    "block": ({"sampling": {"block": 8}}, "sampling.block is 8 here and was 16"),
    "crop": ({"sampling": {"crop": 6}}, "sampling.crop is [6,6] here and was not given"),
    "looks": ({"sampling": {"looks": 1}}, "sampling.looks is 1 here and was not given"),
    "max_images": ({"sampling": {"max_images": 300}}, "sampling.max_images is 300 here"),
    "head": ({"head": False}, "head is  here and was not given"),
    "inputs": ({"inputs": ["left"]}, 'inputs is ["left"] here'),
    "model": ({"model": "torchvision:resnet18"}, "model is torchvision:resnet18 here and was not given"),
    "transform": ({"data": {"load": "x.npz", "transform": [{"scale": 2}]}}, "data.transform is"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_was_not_measured_is_not_judged(looked, tmp_path, name):
    keys, words = REFUSED[name]
    spec = tmp_path / "edited.audit.yaml"
    spec.write_text(json.dumps(spec_of(LOOKED) | keys))
    with pytest.raises(EvidenceError) as error:
        evidence.judge(looked[1], spec)
    assert words in str(error.value)
    assert "edited.audit.yaml" in str(error.value)
    assert "audit again" in str(error.value)


def test_a_metric_of_another_version_is_not_judged(looked, monkeypatch):
    newer = replace(registry()["class_information"], version=99)
    monkeypatch.setattr(evidence.judging, "registry", lambda: {**registry(), "class_information": newer})
    with pytest.raises(
        EvidenceError, match=r"there was version \d when .*out\.evidence was made, and this is version 99: audit again"
    ):
        evidence.judge(looked[1])


def test_nothing_that_a_spec_names_is_opened(looked, tmp_path):
    """Judging runs where neither torchvision nor timm nor any code of the user can be imported."""
    _, path, spec = looked
    script = """
import sys
class Refused:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("torchvision", "timm", "PIL"):
            raise AssertionError(f"{name} is imported")
sys.meta_path.insert(0, Refused())
from cnnaudit import evidence
report = evidence.judge(sys.argv[1], sys.argv[2])
print(len(report.verdicts))
"""
    ran = subprocess.run([sys.executable, "-c", script, path, spec], capture_output=True, text=True, check=True)
    assert int(ran.stdout) == len(looked[0].verdicts)


# --- parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3])
def test_parts_are_the_whole_at_every_look(looked, tmp_path, count):
    report, _, spec = looked
    paths = parts_of(tmp_path, spec, images_of(528), count)
    joined = evidence.judge(paths[::-1])
    close(told(joined), told(report))
    assert [entry["path"] for entry in joined.gate["evidence"]] == sorted(map(str, paths))


def test_parts_of_every_statistic_are_the_whole(everything, tmp_path):
    report, _, spec, data = everything
    close(told(evidence.judge(parts_of(tmp_path, spec, data, 2))), told(report))


def test_more_parts_than_blocks(tmp_path):
    spec, data = spec_of(LOOKED[:2], sampling={"block": 16}), images_of(40)
    whole = audit(spec, model=Net(), data=data)
    close(told(evidence.judge(parts_of(tmp_path, spec, data, 5))), told(whole))


def test_a_part_runs_what_it_folds_and_what_fixes_grids(tmp_path):
    """17 of 33 blocks are the second part's; of the others the 16 that fix the grid of 256 images are half its own."""
    runs = []
    model = Net()
    spec = spec_of([LOOKED[1]])
    seen = cnnaudit.stream.runner.Runner.run_block

    def counted(self, inputs, block, *rest):
        runs.append(block.number)
        return seen(self, inputs, block, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cnnaudit.stream.runner.Runner, "run_block", counted)
        audit(spec, model=model, data=images_of(528), evidence=tmp_path / "x.evidence", shard=(2, 3))
    assert runs == [*range(16), *range(16, 33, 3)]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return parts_of(folder, spec_of(LOOKED[:1]), images_of(40), 3)


def test_parts_that_are_missing_or_given_twice_are_named(parts):
    with pytest.raises(EvidenceError, match="of 3 parts these are missing: 1, 3"):
        evidence.judge(parts[1])
    with pytest.raises(EvidenceError, match=r"part1\.evidence and .*part1\.evidence are both part 1 of 3"):
        evidence.judge([parts[0], parts[1], parts[0]])
    with pytest.raises(EvidenceError, match="nothing to judge"):
        evidence.judge([])


def test_parts_of_other_numbers_and_wholes_are_refused(parts, looked, tmp_path):
    (first, _) = parts_of(tmp_path, spec_of(LOOKED[:1]), images_of(40), 2)
    with pytest.raises(EvidenceError, match=r"is one of 3 parts and .* one of 2"):
        evidence.judge([parts[1], first])
    with pytest.raises(EvidenceError, match=r"out\.evidence is of all images: judge it alone"):
        evidence.judge([parts[0], looked[1]])


OTHERS = {
    "model": ({"model": Net(classes=3, channels=4)}, "model sha256 is"),
    "data": ({"data": images_of(41)}, "data sha256 is"),
    "spec": ({"spec": spec_of(LOOKED[1:2])}, "spec sha256 is"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_parts_of_other_audits_are_refused(parts, tmp_path, name):
    changes, words = OTHERS[name]
    given = {"spec": spec_of(LOOKED[:1]), "model": Net(), "data": images_of(40)} | changes
    if name == "model":
        with torch.no_grad():
            given["model"].fc.bias += 1
    spec = given.pop("spec")
    other = tmp_path / "other.evidence"
    audit(spec, **given, evidence=other, shard=(2, 3))
    with pytest.raises(EvidenceError, match=f"are of different audits: {words} [0-9a-f]+ and [0-9a-f]+"):
        evidence.judge([parts[0], other, parts[2]])


def test_a_shard_needs_a_place_for_its_evidence(tmp_path):
    with pytest.raises(EvidenceError, match="say where its evidence goes"):
        audit(spec_of(LOOKED[:1]), model=Net(), data=images_of(40), shard=(1, 2))
    with pytest.raises(EvidenceError, match="shard 3 of 2"):
        audit(spec_of(LOOKED[:1]), model=Net(), data=images_of(40), shard=(3, 2), evidence=tmp_path / "x")
    with pytest.raises(EvidenceError, match="there is no such folder"):
        audit(spec_of(LOOKED[:1]), model=Net(), data=images_of(40), evidence=tmp_path / "no" / "x")


def test_parts_measured_under_other_conditions_are_joined_and_told(parts, tmp_path):
    body, tensors = opened(parts[1])
    body["report"]["settings"]["device"] = "cuda:0"
    other = forged(tmp_path / "other.evidence", body, tensors)
    report = evidence.judge([parts[0], other, parts[2]])
    assert "device is cpu in 2, cuda:0 in 1 of them" in report.notes[-1]


# --- what is kept -------------------------------------------------------------------------------------------


def opened(path):
    with safe_open(path, "pt") as file:
        body = json.loads(file.metadata()["cnnaudit"])
    del body["sha256"]
    return body, load_file(path)


def forged(path, body, tensors):
    """A file with a digest that is right, whatever it holds."""
    text = canonical(body).encode()
    digest = hashlib.sha256(text)
    for name in sorted(tensors):
        x = tensors[name]
        digest.update(f"\n{name} {x.dtype} {tuple(x.shape)}\n".encode())
        digest.update(x.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    whole = '{"sha256":"' + digest.hexdigest() + '",' + text[1:].decode()
    save_file(tensors, path, metadata={"cnnaudit": whole})
    return path


def test_nothing_says_which_images_were_read(everything):
    """Neither a number of an image nor the hash that it was drawn by is in the evidence of a whole audit."""
    report, path, _, _ = everything
    body, tensors = opened(path)
    kinds = {name.rpartition(".")[2] for name in tensors}
    assert not kinds & {"image", "draw", "keys", "ids"}
    assert "label" in kinds  # of the samples themselves
    assert "patient" not in canonical(body)
    assert report.data["sources"] == 8


def test_parts_keep_the_hash_by_which_samples_are_merged(parts, everything, tmp_path):
    spec = spec_of([{"metric": "usable_information", "severity": "note", "at": "mix"}])
    (path,) = parts_of(tmp_path, spec, images_of(40), 2)[:1]
    _, tensors = opened(path)
    assert {name.rpartition(".")[2] for name in tensors} == {
        *("images", "sources", "nonfinite", "draw", "label", "response")
    }


# --- hostile files ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "small.evidence"
    rules = [LOOKED[0], LOOKED[1], LOOKED[6]]
    audit(spec_of(rules), model=Net(), data=images_of(64), evidence=path)
    return path


def test_flipped_bytes_are_met_with_one_message(small, tmp_path):
    whole = small.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    draw = random.Random(1)  # noqa: S311 - any bytes will do
    places = [
        *range(16),
        *(draw.randrange(header) for _ in range(40)),
        *(draw.randrange(len(whole)) for _ in range(40)),
    ]
    bad = tmp_path / "bad.evidence"
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        bad.write_bytes(changed)
        with pytest.raises(EvidenceError, match=r"bad\.evidence") as error:
            evidence.judge(bad)
        assert "again" in str(error.value)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 5000, -1])
def test_a_part_of_a_file_is_none(small, tmp_path, length):
    bad = tmp_path / "bad.evidence"
    bad.write_bytes(small.read_bytes()[:length])
    with pytest.raises(EvidenceError, match=r"bad\.evidence"):
        evidence.judge(bad)


def test_edited_text_is_noticed(small, tmp_path):
    bad = tmp_path / "bad.evidence"
    bad.write_bytes(small.read_bytes().replace(b"0.06", b"0.01"))
    with pytest.raises(EvidenceError, match=r"bad\.evidence: the evidence was damaged or edited since"):
        evidence.judge(bad)


def dropped(value, path=()):
    """Every way to leave out one key of nested mappings, and the first of each list."""
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1]
    for key, item in list(items):
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from dropped(item, (*path, key))


def test_a_forged_file_without_some_key_ends_in_a_message_or_a_report(small, tmp_path):
    """Whoever makes a file can make its digest; what is left out is refused or was not needed, and nothing crashes."""
    body, tensors = opened(small)
    report = body.pop("report")
    paths = [path for path in dropped(body) if len(path) <= 4]
    paths += [("report", *path) for path in dropped(report) if len(path) <= 2]
    refused = 0
    draw = random.Random(0)  # noqa: S311 - any keys will do
    for path in [("sites",), ("probes",), ("known",), ("report",), *draw.sample(paths, 70)]:
        copy = json.loads(json.dumps(body | {"report": report}))
        inside = copy
        for key in path[:-1]:
            inside = inside[key]
        del inside[path[-1]]
        refused += was_refused(forged(tmp_path / "bad.evidence", copy, tensors))
    assert refused > 25


def was_refused(path):
    """Whether a file is refused with a message that names it; else it must give a report that can be written."""
    message = ""
    try:
        report = evidence.judge(path)
    except EvidenceError as error:
        message = str(error)
    if message:
        assert path.name in message
    else:
        assert Report.from_json(report.to_json()).rules == report.rules
    return bool(message)


TENSORS = {
    "missing": lambda held: held.popitem(),
    "all missing": lambda held: held.clear(),
    "another type": lambda held: held.update({name: x.to(torch.float16) for name, x in held.items()}),
    "another shape": lambda held: held.update({name: x[:1] for name, x in held.items() if x.dim()}),
    "no values": lambda held: held.update({name: x.flatten()[:0] for name, x in held.items()}),
    "NaN": lambda held: held.update(
        {n: torch.full_like(x, torch.nan) for n, x in held.items() if x.is_floating_point()}
    ),
    "below zero": lambda held: held.update({name: -x - 1 for name, x in held.items() if x.dtype is torch.int64}),
    "a name": lambda held: held.update({"1/0/tally.../../x": torch.zeros(1)}),
    "a number": lambda held: held.update({"1/999/tally.images": torch.zeros(1)}),
    "a look": lambda held: held.update({"9/0/tally.images": torch.zeros(1)}),
}


@pytest.mark.parametrize("name", TENSORS)
def test_forged_tensors_end_in_a_message_or_a_report(small, tmp_path, name):
    body, tensors = opened(small)
    TENSORS[name](tensors)
    refused = was_refused(forged(tmp_path / "bad.evidence", body, tensors))
    assert refused or name in ("NaN", "missing")


def forge(body, path, value):
    for key in path[:-1]:
        body = body[key]
    body[path[-1]] = value


FORGED = {
    "schema": (("schema_version",), SCHEMA_VERSION + 1, "schema_version 2, and this cnnaudit reads 1"),
    "huge site": (("sites", 1, "units"), 10**12, "has a size that no site has"),
    "huge map": (("sites", 1, "taps", "output", "shape"), [4, 10**6, 10**6], "is larger than any site"),
    "below zero": (("sites", 1, "units"), -1, "has a size that no site has"),
    "groups": (("groups",), 10**9, "groups"),
    "alpha": (("known", 0, "look", "spent"), 2.0, "more of alpha than there is"),
    "look": (("known", 0, "look", "number"), 3, "looks are numbered from 1"),
    "last look": (("known", 0, "look", "last"), False, "one look is the last"),
    "metric": (("rules", 0, "metric"), "os.system", "there is no metric os.system"),
    "field": (("rules", 0, "field"), "__class__", "activity has no field __class__"),
    "params": (("rules", 1, "params"), {"bins": "many"}, "rules"),
    "glob": (("rules", 0, "at"), ["[["], "rules"),
    "bound": (("rules", 0, "max"), "high", "rules.0.max"),
    "shard": (("shard",), [5, 3], "part 5 of 3"),
    "report": (("report",), {}, "the report lacks"),
    "settings": (("report", "settings"), [], "the report lacks"),
    "probe": (("probes", 0, "key"), "{}", "bad.evidence does not hold: audit again"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_file_is_told_what_is_wrong(small, tmp_path, name):
    body, tensors = opened(small)
    path, value, words = FORGED[name]
    forge(body, path, value)
    bad = forged(tmp_path / "bad.evidence", body, tensors)
    with pytest.raises(EvidenceError) as error:
        evidence.judge(bad)
    assert words in str(error.value)
    assert len(str(error.value)) < 600


TEXTS = {
    "deep": '{"sha256":"' + "0" * 64 + '","x":' + "[" * 100_000 + "}",
    "many": '{"sha256":"' + "0" * 64 + '","x":[' + "0," * 4_000_001 + "0]}",
    "nothing": "",
    "other": "[]",
}


@pytest.mark.parametrize("name", TEXTS)
def test_strange_texts_are_refused(tmp_path, name):
    bad = tmp_path / "bad.evidence"
    save_file({"x": torch.zeros(1)}, bad, metadata={"cnnaudit": TEXTS[name]})
    with pytest.raises(EvidenceError, match=r"bad\.evidence"):
        evidence.judge(bad)


def test_deep_texts_with_a_right_digest_are_refused(tmp_path):
    text = '"x":' + "[" * 100_000 + "]" * 100_000 + "}"
    digest = hashlib.sha256(b"{" + text.encode()).hexdigest()
    bad = tmp_path / "bad.evidence"
    save_file({}, bad, metadata={"cnnaudit": '{"sha256":"' + digest + '",' + text})
    with pytest.raises(EvidenceError, match=r"bad\.evidence: this evidence is damaged"):
        evidence.judge(bad)


def test_a_huge_header_is_not_read(tmp_path):
    bad = tmp_path / "bad.evidence"
    bad.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(EvidenceError, match="no evidence file, or only a part of one"):
        evidence.judge(bad)


def test_tensors_that_claim_to_be_huge_are_not_read(tmp_path):
    header = json.dumps({"x": {"dtype": "F64", "shape": [2**40], "data_offsets": [0, 2**43]}}).encode()
    bad = tmp_path / "bad.evidence"
    bad.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(EvidenceError, match="is no evidence file, or is damaged"):
        evidence.judge(bad)


def test_what_is_no_file_is_no_evidence(tmp_path):
    with pytest.raises(EvidenceError, match="name an evidence file"):
        evidence.judge(tmp_path)
    with pytest.raises(EvidenceError, match="cannot be read"):
        evidence.judge(tmp_path / "none.evidence")


def test_broken_parameters_are_joined(tmp_path):
    """The parameters of all parts are the network's own, NaN or not."""
    model = Net()
    with torch.no_grad():
        model.fc.weight[0, 0] = torch.nan
    spec = spec_of([{"metric": "stable_rank", "severity": "note"}])
    assert registry()["stable_rank"].reads is Parameters
    whole = audit(spec, model=model, data=images_of(40))
    close(told(evidence.judge(parts_of(tmp_path, spec, images_of(40), 2, model))), told(whole))
