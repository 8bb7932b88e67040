from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnnaudit.errors import SpecError
from cnnaudit.site import Op
from cnnaudit.spec import Regression, Sampling, Slices, from_mapping, load, loads
from cnnaudit.spec.model import RuleEntry

FULL = """\
cnnaudit: 1
model: {load: model.py:build, kwargs: {channels: 16}}
weights: weights.safetensors
data: digits.npz
undecided: pass
sampling: {max_images: 1024, looks: 3, seed: 7, confidence: 0.9, block: 32, max_memory: 1.5 GiB}
by: {column: scanner, min_images: 200}
rules:
  - {metric: activity.dead, max: 0}
  - id: kernels-tell-classes-apart
    why: Every kernel is a classifier.
    metric: class_information
    params: {bins: 16}
    op: conv
    at: "stage[23].**"
    by: labels
    min: 1e-3
    max: 3
    share: 0.9
    severity: warning
    estimand: population
    if_absent: skip
    refs: [RISK-12]
  - {metric: activity, at: [layer1.**, "layer2.*"], by: false, max: .5, reduce: mean, estimand: dataset}
"""


BY = "by names one data column, as in by: scanner or by: {column: scanner, min_images: 200}"
BOUND = "a rule needs a bound: min, max or both; with severity: note it measures and judges nothing"
NULL = "null must be twin for newly initialised weights, or {twin: permuted} for the trained ones in another order"
TWINN = "3:31: unknown key 'twinn'; did you mean 'twin'?"
NAME = "a column's name is made of letters, digits, '_', '.' and '-', and starts with a letter or '_'"


def rules(*written: str) -> str:
    return "cnnaudit: 1\nrules:\n" + "".join(f"  - {rule}\n" for rule in written)


def test_a_whole_file(read, tmp_path):
    spec = read(FULL)
    assert spec.path == Path("x.audit.yaml")
    assert spec.directory == tmp_path
    assert spec.sha256 == hashlib.sha256(FULL.encode()).hexdigest()
    assert spec.undecided == "pass"
    assert spec.sampling == Sampling(max_images=1024, looks=3, seed=7, confidence=0.9, block=32, max_memory=3 * 2**29)
    assert (spec.model.kind, spec.model.target) == ("file_factory", str(tmp_path / "model.py"))
    assert spec.model.options == {"channels": 16}
    assert (spec.weights.kind, spec.data.kind) == ("safetensors", "npz")
    dead, apart, mean = spec.rules
    assert (apart.id, apart.why, apart.metric, apart.field) == (
        "kernels-tell-classes-apart",
        "Every kernel is a classifier.",
        "class_information",
        "bits",
    )
    assert (apart.params, apart.op, apart.at) == ({"bins": 16}, Op.CONV, ("stage[23].**",))
    assert (apart.min, apart.max, apart.share, apart.reduce) == (0.001, 3.0, 0.9, "every")
    assert (apart.severity, apart.estimand, apart.if_absent) == ("warning", "population", "skip")
    assert apart.refs == ("RISK-12",)
    assert (dead.by, apart.by, mean.by) == (Slices("scanner", 200), Slices("labels", 100), None)
    assert (apart.line, apart.column) == (10, 5)
    assert (dead.line, dead.column) == (9, 5)
    assert (mean.field, mean.at, mean.reduce, mean.estimand) == ("dead", ("layer1.**", "layer2.*"), "mean", "dataset")


def test_defaults(read):
    spec = read(rules("{metric: activity.apoz, max: 0}", "{metric: class_information, min: 0}"))
    assert (spec.model, spec.weights, spec.data, spec.undecided) == (None, None, None, "fail")
    assert spec.sampling == Sampling(max_images=None, looks=None, seed=0, confidence=0.95, block=16, max_memory=2**30)
    first, second = spec.rules
    assert (first.id, first.metric, first.field, first.params) == ("activity.apoz", "activity", "apoz", {})
    assert (first.why, first.op, first.at, first.min, first.max) == ("", None, ("**",), None, 0.0)
    assert (first.share, first.reduce, first.severity, first.estimand) == (1.0, "every", "error", None)
    assert (first.if_absent, first.refs, first.by) == ("error", (), None)
    assert (second.id, second.params) == ("class_information", {"bins": 8})


def test_a_spec_is_frozen_and_hashable(read):
    spec = read(FULL)
    assert hash(spec) == hash(read(FULL))
    assert spec == read(FULL)
    with pytest.raises(AttributeError):
        spec.undecided = "fail"
    with pytest.raises(TypeError):
        spec.rules[1].params["bins"] = 2


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("4096", 4096),
        ("1GiB", 2**30),
        ("512 MiB", 2**29),
        ("1KiB", 1024),
        ("2GB", 2 * 10**9),
        ("1.5MB", 1_500_000),
        ("3KB", 3000),
    ],
)
def test_memory(read, written, number):
    text = rules("{metric: activity, max: 0}")
    assert read(f"{text}sampling: {{max_memory: {written}}}\n").sampling.max_memory == number


@pytest.mark.parametrize(
    ("file", "rule", "slices"),
    [
        ("", "", None),
        ("", ", by: scanner", Slices("scanner", 100)),
        ("", ", by: {column: scanner}", Slices("scanner", 100)),
        ("", ", by: false", None),
        ("by: scanner", "", Slices("scanner", 100)),
        ("by: {column: scanner, min_images: 1}", "", Slices("scanner", 1)),
        ("by: {column: scanner, min_images: 1}", ", by: scanner", Slices("scanner", 100)),
        ("by: {column: scanner, min_images: 1}", ", by: {column: _a.b-2, min_images: 7}", Slices("_a.b-2", 7)),
        ("by: site", ", by: labels", Slices("labels", 100)),
        ("by: scanner", ", by: false", None),
    ],
)
def test_slices_are_the_rule_s_own_or_the_file_s(read, file, rule, slices):
    text = rules(f"{{metric: activity, max: 0{rule}}}")
    assert read(f"{text}{file}\n").rules[0].by == slices


def test_params_take_what_json_can_say(read):
    spec = read(rules("{metric: projection, min: 0, params: {rank: 3, scale: 2, span: [1, 5]}}"))
    assert spec.rules[0].params == {"rank": 3, "scale": 2.0, "span": (1, 5)}


def test_five_mistakes_are_five_lines(problems):
    text = """\
cnnaudit: 1
model: resnet18
rules:
  - {metric: activity.dead, minimum: 0}
  - {metric: activity.ded, max: 0}
  - id: apart
    metric: class_information
    params: {bin: 8}
    min: "0.1"
    share: 90
"""
    assert problems(text) == [
        (
            "2:8: 'resnet18' does not name a model; did you mean 'torchvision:resnet18'? the forms are model.py:build, "
            "package.module:build, torchvision:resnet18, timm:resnet50 or model.pt2"
        ),
        "4:29: unknown key 'minimum'; did you mean 'min'?",
        "5:14: activity has no field 'ded'; did you mean 'dead'? its fields are dead, apoz, dormant",
        "8:14: unknown parameter 'bin'; did you mean 'bins'?",
        "9:10: min must be a number, not the text '0.1': remove the quotes",
        "10:12: share is a fraction between 0 and 1; did you mean 0.9?",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1:1: a rule file must be a mapping that starts with cnnaudit: 1"),
        ("- a\n", "1:1: a rule file must be a mapping that starts with cnnaudit: 1"),
        ("cnnaudit: 2\nmodle: x\n", "1:11: this cnnaudit reads version 1; write cnnaudit: 1"),
        ("cnnaudit: true\n", "1:11: this cnnaudit reads version 1; write cnnaudit: 1"),
        ("cnnaudit: 1.0\n", "1:11: this cnnaudit reads version 1; write cnnaudit: 1"),
        (
            "rules: [{metric: activity, max: 0}]\n",
            "1:1: the file must say the version it is written for, first of all: cnnaudit: 1",
        ),
        ("cnnaudit: 1\n", "1:1: a file without rules audits nothing: list at least one under rules:"),
        ("cnnaudit: 1\nrules:\n", "2:1: a file without rules audits nothing: list at least one under rules:"),
        ("cnnaudit: 1\nrules: []\n", "2:1: a file without rules audits nothing: list at least one under rules:"),
        ("cnnaudit: 1\nrules: {metric: activity, max: 0}\n", "2:8: rules is a list: start each rule with '- '"),
    ],
)
def test_mistakes_at_the_top(problems, text, message):
    assert problems(text) == [message]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("modle: a.py:b", "4:1: unknown key 'modle'; did you mean 'model'?"),
        (
            "zzz: 1",
            (
                "4:1: unknown key 'zzz'; the keys are "
                "cnnaudit, model, weights, inputs, head, data, extends, without, undecided, marks, sampling, by, rules"
            ),
        ),
        ("model:", "4:1: model has no value; give one, or leave it out"),
        ("model: 5", "4:8: model must be text, not the number 5"),
        ("model: {laod: a.py:b, load: a.py:b}", "4:9: unknown key 'laod'; did you mean 'load'?"),
        ("model: {kwargs: {a: 1}}", "4:8: the key 'load' is missing: add it"),
        ("model: {load: a.py:b, kwargs: [1]}", "4:31: kwargs must be a mapping, not a list"),
        ("model: {load: 7}", "4:15: load must be text, not the number 7"),
        (
            "data: {load: w.pt}",
            (
                "4:14: 'w.pt' does not name data; the forms are images.npz, images.npy, images.safetensors, a folder "
                "of images, a .csv that lists them, data.py:build, package.module:build, torchvision:FashionMNIST or "
                "synthetic"
            ),
        ),
        ("weights: [a.pt]", "4:10: weights must be text, not a list"),
        ("data: {load: p/, transform: {resize: 8}}", "4:29: transform must be a list, not a mapping"),
        (
            "data: {load: p/, transform: atuo}",
            "4:29: transform must be one of auto, not the text 'atuo'; did you mean 'auto'?",
        ),
        (
            "data: {load: p/, transform: [{resize: 8, crop: 8}]}",
            "4:30: a step does one thing: write each of several as an item of its own",
        ),
        ("head: true", "4:7: head must be one of False, not true"),
        ("inputs: [left, 3]", "4:16: inputs are named as the data names them, not '3'"),
        ("model: {load: a.py:b, part: .x}", "4:29: part: string should match pattern '^\\w+(\\.\\w+)*$'"),
        ("undecided: maybe", "4:12: undecided must be one of fail, pass, not the text 'maybe'"),
        ("sampling: 3", "4:11: sampling must be a mapping, not the number 3"),
        ("sampling: {seed: }", "4:12: seed has no value; give one, or leave it out"),
        ("sampling: {max_images: 0}", "4:24: max_images must be at least 1, not 0"),
        ("sampling: {max_images: 1.5}", "4:24: max_images must be a whole number, not the number 1.5"),
        ("sampling: {confidence: 95}", "4:24: confidence is a fraction between 0 and 1; did you mean 0.95?"),
        ("sampling: {confidence: 0.5}", "4:24: confidence must be above 0.5, not 0.5"),
        ("sampling: {confidence: 1}", "4:24: confidence must be below 1, not 1"),
        ("sampling: {looks: 0}", "4:19: looks must be at least 1, not 0"),
        ("sampling: {looks: 2.5}", "4:19: looks must be a whole number, not the number 2.5"),
        ("sampling: {look: 2}", "4:12: unknown key 'look'; did you mean 'looks'?"),
        ("by:", "4:1: by has no value; give one, or leave it out"),
        ("by: 7", f"4:5: {BY}"),
        ("by: false", f"4:5: {BY}"),
        ("by: [scanner]", f"4:5: {BY}"),
        ("by: source", "4:5: sources are the samples, and one sample tells nothing: slice by a column with few values"),
        ("by: images", "4:5: images are what is sliced: by names another column, such as scanner or labels"),
        ("by: 2nd", f"4:5: {NAME}, not '2nd'"),
        ("by: {column: a b}", f"4:14: {NAME}, not 'a b'"),
        ("by: {min_images: 9}", "4:5: the key 'column' is missing: add it"),
        ("by: {column: a, min_image: 9}", "4:17: unknown key 'min_image'; did you mean 'min_images'?"),
        ("sampling: {block: 1}", "4:19: block must be at least 2, not 1"),
        ("sampling: {blocks: 2}", "4:12: unknown key 'blocks'; did you mean 'block'?"),
        (
            "sampling: {max_memory: 1 gig}",
            "4:24: max_memory is a number of bytes or text such as 512MiB or 1GiB, not '1 gig'",
        ),
        (
            f"sampling: {{max_memory: {'9' * 400}GiB}}",
            f"4:24: max_memory is a number of bytes or text such as 512MiB or 1GiB, not '{'9' * 57}...'",
        ),
        ("sampling: {max_memory: 0KB}", "4:24: max_memory must be at least 1, not 0"),
        ("rules: []", "4:1: the key 'rules' is already given on line 2; remove one"),
    ],
)
def test_a_mistake_outside_the_rules(problems, line, message):
    assert problems(rules("{metric: activity, max: 0}") + line + "\n") == [message]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("activity.dead", "3:5: a rule is a mapping such as {metric: activity.dead, max: 0}"),
        ("", "3:4: a rule is a mapping such as {metric: activity.dead, max: 0}"),
        ("{max: 3}", "3:5: the key 'metric' is missing: add it"),
        ("{metric: 3, max: 3}", "3:14: metric must be text, not the number 3"),
        ("{metric: activity}", f"3:5: {BOUND}"),
        ("{metric: activity, severity: warning}", f"3:5: {BOUND}"),
        ("{metric: activity, null: twin}", f"3:5: {BOUND}"),
        ("{metric: activity, null: , max: 0}", "3:24: null has no value; give one, or leave it out"),
        ("{metric: activity, null: fresh, max: 0}", f"3:30: {NULL}"),
        ("{metric: activity, null: {twin: twin}, max: 0}", f"3:37: {NULL}"),
        ("{metric: activity, null: {}, max: 0}", "3:30: the key 'twin' is missing: add it"),
        ("{metric: activity, null: {twinn: fresh, twin: fresh}, max: 0}", TWINN),
        (
            "{metric: activity, min_excess: 0}",
            "3:24: min_excess is above what: say the null twin that is measured as well, null: twin",
        ),
        (
            "{metric: activity, null: twin, min_excess: '1'}",
            "3:48: min_excess must be a number, not the text '1': remove the quotes",
        ),
        (
            "{metric: activity, max_regression: {}}",
            "3:40: max_regression must say how much worse is allowed: absolute, relative or both",
        ),
        (
            "{metric: activity, max_regression: {relative: 10}}",
            "3:51: relative is a fraction between 0 and 1; did you mean 0.1?",
        ),
        (
            "{metric: activity, max_regression: {absolute: -1}}",
            "3:51: absolute must be at least 0, not -1",
        ),
        (
            "{metric: activity, max_regression: {absolut: 1}}",
            "3:41: unknown key 'absolut'; did you mean 'absolute'?",
        ),
        ("{metric: activity, max_regression: 0.1}", "3:40: max_regression must be a mapping, not the number 0.1"),
        ("{metric: activity, minimum: 0}", "3:24: unknown key 'minimum'; did you mean 'min'?"),
        ("{metric: activity, maximum: 0}", "3:24: unknown key 'maximum'; did you mean 'max'?"),
        ("{metric: activity, min: }", "3:24: min has no value; give one, or leave it out"),
        ("{metric: activity, min: '0.1'}", "3:29: min must be a number, not the text '0.1': remove the quotes"),
        ("{metric: activity, min: 1_000}", "3:29: min must be a number, not the text '1_000'"),
        ("{metric: activity, min: true}", "3:29: min must be a number, not true"),
        ("{metric: activity, min: [1]}", "3:29: min must be a number, not a list"),
        ("{metric: activity, min: .inf}", "3:29: min must be a finite number, not inf"),
        ("{metric: activity, max: .nan}", "3:29: max must be a finite number, not nan"),
        ("{metric: activity, max: 1e999}", "3:29: max must be a finite number, not inf"),
        ("{metric: activity, min: 3, max: 1}", "3:29: min 3 is above max 1, and no value can keep to both; change one"),
        ("{metric: activity, max: 0, share: 90}", "3:39: share is a fraction between 0 and 1; did you mean 0.9?"),
        ("{metric: activity, max: 0, share: 0}", "3:39: share must be above 0, not 0"),
        ("{metric: activity, max: 0, share: 101}", "3:39: share must be at most 1, not 101"),
        (
            "{metric: activity, max: 0, share: 1, reduce: mean}",
            "3:32: share counts units and reduce: mean judges their mean: remove one of the two",
        ),
        (
            "{metric: activity, max: 0, reduce: meen}",
            "3:40: reduce must be one of every, mean, not the text 'meen'; did you mean 'mean'?",
        ),
        (
            "{metric: activity, max: 0, severity: ERROR}",
            "3:42: severity must be one of error, warning, note, not the text 'ERROR'; did you mean 'error'?",
        ),
        (
            "{metric: activity, max: 0, if_absent: ignore}",
            "3:43: if_absent must be one of error, skip, not the text 'ignore'",
        ),
        ("{metric: activity, max: 0, id: a b}", "3:36: an id must be made of letters, digits, '.', '_' and '-'"),
        (f"{{metric: activity, max: 0, id: {'a' * 101}}}", "3:36: an id has at most 100 characters"),
        ("{metric: activity, max: 0, refs: RISK-12}", "3:38: refs must be a list, not the text 'RISK-12'"),
        ("{metric: activity, max: 0, refs: [x, 12]}", "3:42: refs[1] must be text, not the number 12"),
        ("{metric: activity, max: 0, why: {a: b}}", "3:37: why must be text, not a mapping"),
        ("{metric: activity, max: 0, by: }", "3:32: by has no value; give one, or leave it out"),
        ("{metric: activity, max: 0, by: true}", f"3:36: {BY}; by: false leaves the rule unsliced"),
        ("{metric: activity, max: 0, by: []}", f"3:36: {BY}; by: false leaves the rule unsliced"),
        ("{metric: activity, max: 0, by: 0}", f"3:36: {BY}; by: false leaves the rule unsliced"),
        ("{metric: activity, max: 0, by: 'a b'}", f"3:36: {NAME}, not 'a b'"),
        ("{metric: activity, max: 0, by: ''}", f"3:36: {NAME}, not ''"),
        (
            "{metric: activity, max: 0, by: {column: images}}",
            "3:45: images are what is sliced: by names another column, such as scanner or labels",
        ),
        ("{metric: activity, max: 0, by: {column: a, colum: b}}", "3:48: unknown key 'colum'; did you mean 'column'?"),
        ("{metric: activity, max: 0, by: {column: 3}}", "3:45: column must be text, not the number 3"),
        ("{metric: activity, max: 0, by: {column: a, min_images: 0}}", "3:60: min_images must be at least 1, not 0"),
        ("{metric: activity, max: 0, at: 4}", "3:36: at must be a list, not the number 4"),
        ("{metric: activity, max: 0, at: []}", "3:36: at selects nothing: give at least one glob, or leave it out"),
        ("{metric: activity, max: 0, at: [a, b, 3]}", "3:43: at[2] must be text, not the number 3"),
        (
            "{metric: activity, max: 0, at: 'a..b'}",
            "3:36: the glob 'a..b' has nothing between two dots, or is empty",
        ),
        (
            "{metric: activity, max: 0, op: convolution}",
            (
                "3:36: op must be one of input, conv, pool, residual, merge, concat, gate, linear, head, not the text "
                "'convolution'; did you mean 'conv'?"
            ),
        ),
        ("{metric: activity, max: 0, op: pool}", "3:36: activity is not for pool; it is for conv, linear"),
        (
            "{metric: activity.dormant, max: 0, estimand: dataset}",
            "3:50: activity.dormant can be estimated for the population only, not for the dataset alone",
        ),
        (
            "{metric: kernel_selectivity, max: 0}",
            "3:14: no metric is called 'kernel_selectivity'; see `cnnaudit explain` for all",
        ),
        (
            "{metric: class_inform, max: 0}",
            "3:14: no metric is called 'class_inform'; did you mean 'class_information'? see `cnnaudit explain` for all",  # noqa: E501
        ),
        (
            "{metric: activty.apoz, max: 0}",
            "3:14: no metric is called 'activty.apoz'; did you mean 'activity.apoz'? see `cnnaudit explain` for all",
        ),
        (
            "{metric: density_ratio, max: 0}",
            (
                "3:14: no metric is called 'density_ratio'; did you mean 'pool_entropy_loss.density_ratio'? "
                "see `cnnaudit explain` for all"
            ),
        ),
        (
            "{metric: activity., max: 0}",
            "3:14: activity has no field ''; its fields are dead, apoz, dormant",
        ),
        ("{metric: class_information, max: 0, params: {bins: 1}}", "3:56: bins must be at least 2, not 1"),
        (
            "{metric: class_information, max: 0, params: {bins: 8.0}}",
            "3:56: bins must be a whole number, not the number 8.0",
        ),
        ("{metric: class_information, max: 0, params: {bins: true}}", "3:56: bins must be a whole number, not true"),
        ("{metric: class_information, max: 0, params: {bins: }}", "3:55: bins must be a whole number, not empty"),
        ("{metric: class_information, max: 0, params: [bins]}", "3:49: params must be a mapping, not a list"),
        ("{metric: class_information, max: 0, params: {q: 1}}", "3:50: unknown parameter 'q'; the parameters are bins"),
        (
            "{metric: activity, max: 0, params: {q: 1}}",
            "3:41: unknown parameter 'q'; leave it out, there are no parameters",
        ),
        ("{metric: projection, max: 0}", "3:5: the parameter 'rank' is missing: add it"),
        (
            "{metric: projection, max: 0, params: {rank: 1, scale: [1]}}",
            "3:59: scale must be a number, not a list; or scale must be text, not a list",
        ),
        (
            "{metric: projection, max: 0, params: {rank: 1, span: [1]}}",
            "3:58: the parameter 'span[1]' is missing: add it",
        ),
    ],
)
def test_a_mistake_in_a_rule(problems, rule, message):
    assert problems(rules(rule)) == [message]


def test_a_note_needs_no_bound(read):
    note, bounded = read(
        rules("{metric: activity, severity: note}", "{id: b, metric: activity, max: 0, severity: note}")
    ).rules
    assert (note.bounds, note.severity) == ({}, "note")
    assert bounded.bounds == {"max": 0}


@pytest.mark.parametrize(
    ("written", "null"),
    [("twin", "twin"), ("{twin: fresh}", "twin"), ("{twin: permuted}", "permuted"), ('"twin"', "twin")],
)
def test_null_twins(read, written, null):
    (rule,) = read(rules(f"{{metric: activity, null: {written}, min_excess: -1e-3, max: 2}}")).rules
    assert rule.null == null
    assert rule.bounds == {"max": 2, "min_excess": -0.001}
    (shown,) = read(rules(f"{{metric: activity, null: {written}, severity: note}}")).rules
    assert (shown.null, shown.min_excess, shown.bounds) == (null, None, {})


@pytest.mark.parametrize(
    ("written", "worse"),
    [
        ("metric: activity.dead, max: 0", "higher"),
        ("metric: activity.dead, min: 0", "lower"),
        ("metric: activity.dead, null: twin, min_excess: 0", "lower"),
        ("metric: activity.dead", "higher"),  # the metric's own: fewer dead kernels are better
        ("metric: activity.dead, min: 0, max: 1", "higher"),
        ("metric: projection, params: {rank: 1}", "lower"),
    ],
)
def test_a_regression_is_what_is_beyond_the_bound_or_worse_by_the_metric(read, written, worse):
    (rule,) = read(rules(f"{{{written}, max_regression: {{absolute: 0.5, relative: 0.25}}}}")).rules
    assert rule.max_regression == Regression(0.5, 0.25, worse)
    assert "max_regression" not in rule.bounds


def test_a_regression_of_what_is_neither_better_nor_worse_needs_a_bound(problems):
    written = "metric: activity.apoz, max_regression: {absolute: 0.5}"
    assert problems(rules(f"{{{written}}}")) == [
        "3:29: neither higher nor lower values of activity.apoz are worse: add min or max, which tells"
    ]


def test_without_a_twin_there_is_none(read):
    (rule,) = read(rules("{metric: activity, max: 0}")).rules
    assert (rule.null, rule.min_excess) == ("", None)


def test_a_field_that_says_too_little_alone_needs_the_other_one_beside_it(problems, read):
    alone = "{metric: shift.consistency, min: 0.9}"
    told = (
        "shift.consistency alone says too little: a network may score well on it by being bad; "
        "bound shift.accuracy in a rule beside it"
    )
    assert problems(rules(alone)) == [f"3:14: {told}"]
    assert problems(rules("{metric: activity, max: 0}", "{metric: shift, min: 0.9}")) == [f"4:14: {told}"]
    # Measured is not bounded, and a bound on the one says nothing of what the other wants.
    assert problems(rules(alone, "{metric: shift.accuracy, severity: note}")) == [f"3:14: {told}"]
    assert len(read(rules(alone, "{metric: shift.accuracy, min: 0.5}")).rules) == 2
    assert len(read(rules("{metric: shift.accuracy, min: 0.5}")).rules) == 1
    assert len(read(rules("{metric: shift.consistency, severity: note}")).rules) == 1


def test_a_metric_used_twice_needs_ids(problems, read):
    twice = ("{metric: activity, max: 0}", "{metric: pool_entropy_loss, max: 1}", "{metric: activity, min: 0}")
    assert problems(rules(*twice)) == [
        "5:14: activity is used on lines 3 and 5: give each of these rules an id of its own"
    ]
    assert problems(rules(*twice, "{metric: activity, max: 1}")) == [
        "5:14: activity is used on lines 3, 5 and 6: give each of these rules an id of its own"
    ]
    assert problems(rules("{id: a, metric: activity, max: 0}", "{id: a, metric: class_information, min: 0}")) == [
        "4:10: a is used on lines 3 and 4: give all but one another id"
    ]
    spec = read(rules("{metric: activity, max: 0}", "{id: second, metric: activity, min: 0}"))
    assert [rule.id for rule in spec.rules] == ["activity", "second"]


def test_a_mistake_of_shape_hides_none_of_meaning(problems):
    assert problems(rules("{metric: class_information, max: 'x', op: pool, params: {bins: 0}}", "activity")) == [
        "3:38: max must be a number, not the text 'x'",
        "3:47: class_information is not for pool; it is for conv",
        "3:68: bins must be at least 2, not 0",
        "4:5: a rule is a mapping such as {metric: activity.dead, max: 0}",
    ]


def test_a_file(vocabulary, tmp_path, monkeypatch):
    folder = tmp_path / "audits"
    folder.mkdir()
    file = folder / "x.yaml"
    file.write_bytes(FULL.encode())
    spec = load(file, vocabulary)
    assert (spec.path, spec.directory) == (file, folder)
    assert spec.weights.target == str(folder / "weights.safetensors")
    assert spec.sha256 == hashlib.sha256(FULL.encode()).hexdigest()

    file.write_text("cnnaudit: 2\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"^audits/x\.yaml:1:11: this cnnaudit reads version 1; write cnnaudit: 1$"):
        load(file, vocabulary)
    monkeypatch.chdir(folder)
    with pytest.raises(SpecError, match=r"^x\.yaml:1:11: "):
        load("x.yaml", vocabulary)
    with pytest.raises(
        SpecError,
        match=r"^\.\./audits/gone\.yaml: cannot be read \(No such file or directory\); check the path and its permissions$",  # noqa: E501
    ):
        load("../audits/gone.yaml", vocabulary)
    with pytest.raises(SpecError, match=r"^/dev/zero: is larger than"):
        load("/dev/zero", vocabulary)


def test_text_without_a_file(vocabulary, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = loads(FULL, vocabulary)
    assert (spec.path, spec.directory) == (None, tmp_path)
    with pytest.raises(SpecError, match=r"^<text>:1:4: is not UTF-8 text; save it as UTF-8$"):
        loads("a: \ud800", vocabulary)


def test_a_mapping(vocabulary, tmp_path):
    written = {"cnnaudit": 1, "data": "x.npz", "rules": [{"metric": "activity", "max": 0, "at": ("a", "b")}]}
    spec = from_mapping(written, vocabulary, directory=tmp_path)
    assert spec.data.target == str(tmp_path / "x.npz")
    assert (spec.path, spec.rules[0].at, spec.rules[0].line) == (None, ("a", "b"), 0)
    canonical = b'{"cnnaudit":1,"data":"x.npz","rules":[{"at":["a","b"],"max":0,"metric":"activity"}]}'
    assert spec.sha256 == hashlib.sha256(canonical).hexdigest()


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (
            {"cnnaudit": 1, "rules": [{"metric": "activity", "max": 0}, {"metric": "activity", "maxi": 0}]},
            (
                "<mapping>: at rules[1].maxi: unknown key 'maxi'; did you mean 'max'?\n"
                "<mapping>: at rules[1].metric: activity is used by rules[0] and rules[1]: "
                "give each of these rules an id of its own"
            ),
        ),
        ({}, "<mapping>: the file must say the version it is written for, first of all: cnnaudit: 1\n"),
        ({"cnnaudit": 1, "rules": object()}, "<mapping>: must hold plain values only: Object of type object is not"),
        ({"cnnaudit": 1, "model": "\ud800"}, "<mapping>: must hold plain values only: 'utf-8' codec can't encode"),
        ([1], "<mapping>: a rule file must be a mapping that starts with cnnaudit: 1"),
    ],
)
def test_mistakes_in_a_mapping_say_the_path(vocabulary, mapping, message):
    with pytest.raises(SpecError) as caught:
        from_mapping(mapping, vocabulary)
    assert str(caught.value).startswith(message)


_PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["activity", "conv"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_RULE = st.fixed_dictionaries(
    {"metric": st.sampled_from(["activity", "class_information", "projection"]) | _PLAIN},
    optional={key: _PLAIN for key in (*RuleEntry.model_fields, "zzz") if key != "metric"},
)
_FILE = st.fixed_dictionaries(
    {"cnnaudit": st.just(1), "rules": st.lists(_RULE | _PLAIN, max_size=3) | _PLAIN},
    optional=dict.fromkeys(("model", "weights", "data", "undecided", "sampling", "by", "zzz"), _PLAIN)
    | dict.fromkeys(("extends", "without"), st.sampled_from(["cnnaudit:recommended", "x"]) | _PLAIN),
)


@given(_FILE)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_values_nothing_but_a_spec_error_comes_out(vocabulary, validator, mapping):
    try:
        from_mapping(mapping, vocabulary)
    except SpecError as error:
        assert error.problems  # noqa: PT017 - most values are no rule file, some are
    else:
        assert validator.is_valid(mapping)


def test_torch_stays_out():
    code = "import sys, cnnaudit.spec; print([m for m in ('torch', 'numpy', 'jsonschema') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout == "[]\n"
