"""Rules over pairs of sites: what they select, what they read, and what is said where they select nothing."""

import json

import jsonschema
import pytest
import torch
from torch import nn

import cnnaudit
from cnnaudit import SpecError, measure
from cnnaudit.graph import capture
from cnnaudit.metrics import vocabulary
from cnnaudit.plan import make_plan
from cnnaudit.spec import from_mapping, json_schema, loads

IMAGES = torch.rand(70, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(4, 5)

    def maps(self, x):
        first = self.first(x).relu()
        second = self.second(first)
        total = first + second
        pooled = self.pool(total)
        return {"input": x, "first": first, "second": second, "#add.0": total, "pool": pooled}

    def forward(self, x):
        return self.head(self.maps(x)["pool"].mean((2, 3)))


def audit(*rules):
    return cnnaudit.audit({"cnnaudit": 1, "rules": list(rules)}, model=Net(), data=IMAGES)


def cka(start, end, **keys):
    return {"metric": "linear_cka", "min": -1, "at": {"from": start, "to": end}, **keys}


def test_every_pair_from_an_earlier_to_a_later_site_is_judged():
    report = audit(cka(["input", "second"], ["first", "second", "pool"]))
    assert [v.site for v in report.verdicts] == [
        "input -> first",
        "input -> second",
        "input -> pool",
        "second -> pool",
    ]
    assert [v.op for v in report.verdicts] == ["conv", "conv", "pool", "pool"]


def test_a_pair_compares_the_results_of_its_sites():
    with torch.no_grad():
        maps = Net().maps(IMAGES)
    for start, end in (("input", "pool"), ("first", "#add.0"), ("first", "second")):
        (verdict,) = audit(cka(start, end)).verdicts
        wanted = measure("linear_cka", maps[start], maps[end])
        assert verdict.value == pytest.approx(wanted.value, rel=1e-6)
        assert (verdict.low, verdict.high) == pytest.approx((wanted.low, wanted.high), rel=1e-5)


def test_a_single_site_compares_what_goes_in_with_what_comes_out():
    with torch.no_grad():
        maps = Net().maps(IMAGES)
    found = {v.site: v.value for v in audit({"metric": "linear_cka", "min": -1}).verdicts}
    assert found["second"] == pytest.approx(measure("linear_cka", maps["first"], maps["second"]).value, rel=1e-6)
    assert found["#add.0"] == pytest.approx(measure("linear_cka", maps["first"], maps["#add.0"]).value, rel=1e-6)
    assert found["pool"] == pytest.approx(measure("linear_cka", maps["#add.0"], maps["pool"]).value, rel=1e-6)


def test_an_op_is_that_of_the_end():
    report = audit(cka("**", "**", op="pool"))
    assert [v.site for v in report.verdicts][:3] == ["input -> pool", "first -> pool", "second -> pool"]
    assert {v.op for v in report.verdicts} == {"pool"}


def test_rules_on_the_same_pair_share_what_is_read():
    spec = from_mapping(
        {
            "cnnaudit": 1,
            "rules": [cka("input", "pool", id="a"), cka("*", "pool", id="b"), {"metric": "linear_cka", "max": 1}],
        },
        vocabulary(),
    )
    plan = make_plan(spec, capture(Net(), IMAGES[:2]).sites, classes=0, labelled=False, n_images=70)
    mine = [c for c in plan.checks if c.site.path == "input -> pool"]
    assert len(mine) == 2
    assert len({c.probe for c in mine}) == 1
    assert [site.path for site in mine[0].places] == ["input", "pool"]


def test_a_pair_that_cannot_be_is_named_with_near_misses():
    (verdict,) = audit(cka("poool", "pool")).verdicts
    assert verdict.outcome == "error"
    assert "from: 'poool' matches no site before pool; the network has input, first, second" in verdict.detail
    (backwards,) = audit(cka("pool", "first")).verdicts
    assert "from: 'pool' matches pool, which does not come before first" in backwards.detail
    (unknown,) = audit(cka("input", "frist")).verdicts
    assert "first" in unknown.detail


def test_a_metric_of_one_site_refuses_pairs():
    text = "cnnaudit: 1\nrules:\n  - {metric: activity.dead, max: 0, at: {from: input, to: conv1}}\n"
    with pytest.raises(SpecError, match=r"3:\d+: activity is measured at one site"):
        loads(text, vocabulary())


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("{from: input}", "'to' is missing"),
        ("{from: input, too: pool}", "too"),
        ("{from: [], to: pool}", "selects nothing"),
        ("{from: 'a[', to: pool}", r"a\["),
    ],
)
def test_mistakes_in_a_pair_are_named(at, message):
    with pytest.raises(SpecError, match=message):
        loads(f"cnnaudit: 1\nrules:\n  - {{metric: linear_cka, max: 1, at: {at}}}\n", vocabulary())


def test_the_schema_knows_pairs():
    schema = json_schema(vocabulary())
    good = {"cnnaudit": 1, "rules": [cka("input", ["a", "b"])]}
    jsonschema.validate(json.loads(json.dumps(good)), schema)
    bad = {"cnnaudit": 1, "rules": [{"metric": "activity.dead", "max": 0, "at": {"from": "input", "to": "a"}}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, schema)
    half = {"cnnaudit": 1, "rules": [{"metric": "linear_cka", "max": 0, "at": {"from": "input"}}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(half, schema)


@pytest.fixture(scope="module")
def flow():
    return cnnaudit.profile(Net(), IMAGES, rules=[cka(["input", "first"], ["second", "pool"]), "activity"])


class TestProfile:
    def test_pairs_are_selected_by_their_end(self, flow):
        selection = flow["linear_cka"]
        assert list(selection) == ["input -> second", "first -> second", "input -> pool", "first -> pool"]
        assert list(selection.at("pool")) == ["input -> pool", "first -> pool"]
        judged = selection.at("pool").compare(">=", -1)
        assert [v.site for v in judged.verdicts] == ["input -> pool", "first -> pool"]
        assert selection["input -> pool"].value == pytest.approx(selection.estimates["input -> pool"].value)

    def test_the_table_has_a_row_for_each_pair(self, flow):
        lines = flow.table().splitlines()
        assert sum(" -> " in line for line in lines) == 4


def test_the_dry_run_counts_the_ends_as_covered(tmp_path, capsys, monkeypatch):
    from cnnaudit.cli import main

    (tmp_path / "model.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def build():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))\n"
    )
    import numpy as np

    np.savez(tmp_path / "data.npz", images=IMAGES.numpy())
    (tmp_path / "a.audit.yaml").write_text(
        "cnnaudit: 1\nmodel: model.py:build\ndata: data.npz\n"
        "rules:\n  - {metric: linear_cka, max: 1, at: {from: input, to: '2'}}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["check", "a.audit.yaml", "--dry-run", "--allow-import", "model.py"]) == 0
    printed = capsys.readouterr().out
    assert "3 sites, 1 under a rule" in printed
