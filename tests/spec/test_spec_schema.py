from __future__ import annotations

import json
import subprocess
import sys

import pytest

from cnnaudit.errors import SpecError
from cnnaudit.spec import from_mapping
from cnnaudit.spec.model import By, File, LoadData, LoadModel, LoadWeights, RuleEntry, Sampling, Step


def file(**changes):
    return {"cnnaudit": 1, "rules": [{"metric": "activity", "max": 0}]} | changes


def rule(**changes):
    return file(rules=[{"metric": "class_information", "min": 0.1} | changes])


GOOD = [
    file(),
    file(model="model.py:build", weights="w.pt", data={"load": "x.npz", "kwargs": {"a": [1, None]}}),
    file(undecided="pass", sampling={"max_images": 4, "max_memory": "1.5 GiB", "confidence": 0.9}),
    rule(params={"bins": 2}, op="conv", at=["a", "b.**"], share=0.5, max=3, id="x", why="y", refs=["z"]),
    rule(at="a", reduce="mean", severity="note", if_absent="skip", estimand="population"),
    file(by="scanner", sampling={"looks": 1}),
    file(by={"column": "labels", "min_images": 1}, rules=[{"metric": "activity", "max": 0, "by": False}]),
    rule(by="_a.b-2"),
    rule(by={"column": "site"}),
    file(rules=[{"metric": "activity.apoz", "max": 1, "estimand": "dataset"}]),
    file(rules=[{"metric": "projection", "max": 1, "params": {"rank": 1, "span": [1, 2], "scale": 0.5}}]),
    file(rules=[{"metric": "activity", "severity": "note"}]),
    file(rules=[{"metric": "activity", "null": "twin", "min_excess": 1}]),
    file(rules=[{"metric": "activity", "null": {"twin": "permuted"}, "max": 1}]),
    file(without=[]),
    file(rules=[{"metric": "activity", "max_regression": {"absolute": 0.1}}]),
    file(rules=[{"metric": "activity", "max": 1, "max_regression": {"absolute": 0.1, "relative": 0.1}}]),
]
BAD = [
    file(cnnaudit=2),
    file(rules=[]),
    file(modle="x"),
    file(model=None),
    file(model={"kwargs": {}}),
    file(undecided="maybe"),
    file(sampling={"block": 1}),
    file(sampling={"looks": 0}),
    file(by=False),
    file(by="images"),
    file(by=["scanner"]),
    file(by={"min_images": 3}),
    file(sampling={"max_memory": "1 gig"}),
    file(sampling={"confidence": 1}),
    file(rules=[{"metric": "activity"}]),
    file(rules=[{"metric": "nothing", "max": 1}]),
    file(rules=[{"id": "a", "max": 1}]),
    file(rules=[{"metric": "activity", "null": "twin"}]),
    file(rules=[{"metric": "activity", "null": "permuted", "max": 1}]),
    file(rules=[{"metric": "activity", "null": {"twin": "other"}, "max": 1}]),
    file(rules=[{"metric": "activity", "min_excess": 1}]),
    file(rules=[{"metric": "activity", "max_regression": {}}]),
    file(rules=[{"metric": "activity", "max_regression": {"absolute": -1}}]),
    file(rules=[{"metric": "activity", "max_regression": 0.1}]),
    file(extends=["cnnaudit:nothing"]),
    file(extends=3),
    file(without=["a"]),
    {"cnnaudit": 1},
    file(rules=[{"metric": "activity", "max": 1, "params": {"bins": 8}}]),
    file(rules=[{"metric": "activity.dormant", "max": 1, "estimand": "dataset"}]),
    file(rules=[{"metric": "projection", "max": 1}]),
    file(rules=[{"metric": "projection", "max": 1, "params": {"rank": 1, "span": [1, "x"]}}]),
    file(rules=[{"metric": "projection", "max": 1, "params": {"rank": 1, "span": [1, 2, 3]}}]),
    rule(params={"bins": 1}),
    rule(params={"bin": 8}),
    rule(op="pool"),
    rule(min="0.1"),
    rule(min=True),
    rule(min=None),
    rule(share=90),
    rule(share=0),
    rule(share=0.5, reduce="mean"),
    rule(at=[]),
    rule(by=True),
    rule(by=0),
    rule(by=[]),
    rule(by=None),
    rule(by="a b"),
    rule(by={"column": "images"}),
    rule(by={"column": "a", "min_images": 0}),
    rule(by={"column": "a", "min": 3}),
    rule(id="a b"),
    rule(severity="eror"),
]


@pytest.mark.parametrize("mapping", GOOD)
def test_the_schema_takes_what_the_loader_takes(validator, vocabulary, mapping):
    from_mapping(mapping, vocabulary)
    assert [error.message for error in validator.iter_errors(mapping)] == []


@pytest.mark.parametrize("mapping", BAD)
def test_the_schema_refuses_what_the_loader_refuses(validator, vocabulary, mapping):
    with pytest.raises(SpecError):
        from_mapping(mapping, vocabulary)
    assert not validator.is_valid(mapping)


def test_it_is_draft_07(schema, tmp_path):
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    text = json.dumps(schema)
    for newer in ("$defs", "prefixItems", '"null"}], "default": null'):
        assert newer not in text
    path = tmp_path / "schema.json"
    path.write_text(text)
    check = [sys.executable, "-m", "check_jsonschema", "--check-metaschema", str(path)]
    assert subprocess.run(check, check=False, capture_output=True, text=True).returncode == 0


def test_no_reference_has_siblings(schema):
    """Draft-07 ignores them, and a description with them."""

    def nodes(value):
        if isinstance(value, dict):
            yield value
        for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from nodes(child)

    references = [node for node in nodes(schema) if "$ref" in node]
    assert references
    assert all(len(node) == 1 for node in references)


_NAMES = ("RuleEntry", "Sampling", "By", "LoadModel", "LoadWeights", "LoadData", "Step")


def test_every_key_has_help(schema):
    objects = [schema, *(schema["definitions"][name] for name in _NAMES)]
    keys = {key: value for each in objects for key, value in each["properties"].items()}
    models = File, RuleEntry, Sampling, By, LoadModel, LoadWeights, LoadData, Step
    assert (
        len(keys) == sum(len(model.model_fields) for model in models) - 6
    )  # two have kwargs, crop, marks and by, three have load
    for key, value in keys.items():
        assert value["title"] == key
        assert value["description"].endswith(".")
        assert "default" in value or "examples" in value or key == "sampling"


def test_metrics_are_an_enumeration_with_summaries(schema):
    metric = schema["definitions"]["RuleEntry"]["properties"]["metric"]
    assert metric["enum"][:4] == ["activity", "activity.dead", "activity.apoz", "activity.dormant"]
    summaries = dict(zip(metric["enum"], metric["enumDescriptions"], strict=True))
    assert summaries["class_information.bits"] == "Information between a kernel's response and the class."
