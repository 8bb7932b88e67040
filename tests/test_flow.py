"""Assertions in Python are decided as the rules of a file are, and say as much when they do not hold."""

import math
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import cnnaudit
from cnnaudit import pipeline
from cnnaudit.errors import LoadError, MetricError, SpecError, UndecidedError
from cnnaudit.metrics import Metric, registry
from cnnaudit.result import Outcome

ROOT = Path(__file__).parent.parent
DIGITS = "examples/digits/digits.audit.yaml"


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Net(nn.Module):
    """Two convolutions before ReLU, of which the first has a dead kernel, and one without an activation."""

    def __init__(self, channels=6, classes=3):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU())
            self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
            self.pool = nn.MaxPool2d(2)
            self.fc = nn.Linear(channels, classes)
        with torch.no_grad():
            self.stem[0].bias[2] = -100

    def forward(self, x):
        x = self.stem(x)
        x = self.pool(x + self.conv2(torch.relu(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


class Plain(nn.Module):
    """No pool, no residual, no ReLU: nothing is ever exactly zero."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 2, 3), nn.Linear(72, 3)

    def forward(self, x):
        return self.fc(torch.tanh(self.conv(x)).flatten(1))


def images_and_labels(count=300, classes=3):
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(count) % classes
    return torch.rand(count, 1, 8, 8, generator=generator) + labels.reshape(-1, 1, 1, 1) / 4, labels


@pytest.fixture(scope="module")
def flow():
    return cnnaudit.profile(Net(), images_and_labels())


@pytest.fixture(scope="module")
def few():
    return cnnaudit.profile(Net(), images_and_labels(), rules=["class_information", "activity.apoz"], max_images=130)


# --- decided as a rule is -----------------------------------------------------------------------------------

RULES = (
    ("class_information", {}, {"min": 0.1}),
    ("class_information", {}, {"min": 0.02}),
    ("class_information", {"share": 0.5}, {"min": 0.1}),
    ("class_information", {"share": 0.8, "at": "conv*"}, {"max": 0.3}),
    ("class_information", {"reduce": "mean"}, {"min": 0.2}),
    ("class_information", {"reduce": "mean", "at": ["stem.**", "conv2"]}, {"min": 0.1}),
    ("class_information.chance_adjusted", {"at": "stem.**"}, {"max": 1}),
    ("activity.dead", {}, {"max": 0}),
    ("activity.dead", {"at": "conv1"}, {"max": 0}),
    ("activity.apoz", {}, {"max": 0.9}),
    ("activity.dormant", {"at": "**"}, {"min": 0.01}),
    ("branch_variance_share", {"reduce": "mean"}, {"min": 0.02}),
    ("branch_variance_share.ratio", {}, {"min": 0.02}),
    ("pool_information_dimension_loss", {"op": "pool"}, {"max": 0.75}),
    ("pool_entropy_loss", {"reduce": "mean"}, {"max": 0.9}),
)


@pytest.fixture(scope="module")
def report():
    entries = [{"id": f"r{i}", "metric": m, **keys, **bound} for i, (m, keys, bound) in enumerate(RULES)]
    return cnnaudit.audit({"cnnaudit": 1, "rules": entries}, model=Net(), data=images_and_labels())


def anonymous(verdicts):
    """Verdicts without the rule's own name, as text because NaN is not equal to itself."""
    return [str(replace(v, rule="")) for v in verdicts if v.outcome is not Outcome.NOT_APPLICABLE]


def selected(flow, name, *, at=(), op=None, share=None, reduce="every"):
    found = flow[name]
    if at or op or share:
        found = found.at(*([at] if isinstance(at, str) else at), op=op, share=share)
    return found.mean if reduce == "mean" else found


@pytest.mark.parametrize("i", range(len(RULES)))
def test_verdicts_are_those_of_the_same_rule_in_a_file(i, flow, report):
    name, keys, bound = RULES[i]
    found = selected(flow, name, **keys)
    comparison = found >= bound["min"] if "min" in bound else found <= bound["max"]
    wanted = [v for v in report.verdicts if v.rule == f"r{i}"]
    assert anonymous(comparison.verdicts) == anonymous(wanted)
    assert comparison.outcome is report.outcome(f"r{i}")
    assert comparison.passed == (comparison.outcome is Outcome.PASS)


def test_every_outcome_was_met(report):
    assert {report.outcome(f"r{i}") for i in range(len(RULES))} == {Outcome.PASS, Outcome.FAIL, Outcome.UNDECIDED}


@pytest.mark.parametrize("name", ["class_information.information", "activity.dormant", "branch_variance_share.share"])
def test_an_estimate_holds_the_mean_and_every_unit(name, flow):
    for site, found in flow[name].estimates.items():
        (mean,) = (flow[name].at(site).mean >= 0).verdicts
        assert (found.value, found.low, found.high) == (mean.value, mean.low, mean.high)
        (worst,) = (flow[name].at(site) >= 100).verdicts
        for kernel, value, low, high in worst.worst:
            i = found.kernels.index(kernel)
            assert (found.units[i], found.lows[i], found.highs[i]) == (value, low, high)
        assert (found.unit, found.n_images) == (mean.unit, 300)
        assert flow[name][site] == found


def test_a_claim_about_these_images_has_no_interval(flow):
    dead = flow["activity.dead"]["stem.0"]
    assert dead.units == dead.lows == dead.highs == (0, 0, 1, 0, 0, 0)


# --- one pass, and nothing changed --------------------------------------------------------------------------


def test_one_pass_serves_every_comparison(monkeypatch):
    passes = []
    real = pipeline.sweep
    monkeypatch.setattr(pipeline, "sweep", lambda *given, **keys: passes.append(1) or real(*given, **keys))
    model = Net().train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    batches = zip(*(part.split(20) for part in images_and_labels(130)), strict=True)
    flow = cnnaudit.profile(model, batches)
    for name in ("class_information", "activity.apoz", "branch_variance_share.ratio", "pool_entropy_loss"):
        _ = flow[name] >= 0.5, flow[name].mean <= 0.1, str(flow)
    assert passes == [1]
    assert model.training
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_nothing_is_judged_twice(flow, monkeypatch):
    found = flow["class_information"]
    first = found >= 0.1
    monkeypatch.setattr("cnnaudit.flow.decide", None)
    assert found.compare(">=", 0.1) is first
    assert found.compare(">=", np.float64(0.1)) is first
    assert (found >= 0.1) is first


# --- what is measured ---------------------------------------------------------------------------------------


FIRST_LOOK = {name for name, metric in registry().items() if metric.recommended}


def test_all_that_the_network_and_the_data_allow_is_recommended(flow):
    assert set(flow) == set(flow.metrics) == FIRST_LOOK
    assert len(flow) == len(FIRST_LOOK)
    assert flow.n_images == 300


def test_without_labels_nothing_is_recommended_that_needs_them():
    flow = cnnaudit.profile(Net(), images_and_labels(60)[0])
    assert set(flow) == {name for name in FIRST_LOOK if not registry()[name].labels}
    assert "class_information" not in flow
    with pytest.raises(
        MetricError, match="class_information was not measured: class_information needs labels, and the data has none"
    ):
        flow["class_information"]


def test_a_metric_that_is_named_needs_its_labels():
    with pytest.raises(MetricError, match="'class_information' measures class_information, which needs labels"):
        cnnaudit.profile(Net(), images_and_labels(60)[0], rules="class_information")


def test_a_rule_with_a_bound_is_not_left_out_for_want_of_labels():
    rule = {"metric": "class_information", "min": 0.1, "if_absent": "skip"}
    with pytest.raises(MetricError, match="which needs labels, and the data has none"):
        cnnaudit.audit({"cnnaudit": 1, "rules": [rule]}, model=Net(), data=images_and_labels(60)[0])


def test_a_metric_without_a_site_is_absent():
    flow = cnnaudit.profile(Plain(), images_and_labels(60))
    assert {"branch_variance_share", "pool_entropy_loss"} & set(flow) == set()
    assert {"class_information", "activity"} <= set(flow)
    with pytest.raises(
        MetricError, match=r"branch_variance_share\.ratio was not measured: the network has no residual site"
    ):
        flow["branch_variance_share.ratio"]
    named = cnnaudit.profile(Plain(), images_and_labels(60), rules=["activity", "branch_variance_share"])
    assert list(named) == ["activity"]


def test_all_fields_are_measured_wherever_they_have_a_meaning():
    flow = cnnaudit.profile(Net(), images_and_labels(130), rules="activity.dead")
    assert list(flow) == ["activity.dead"]
    assert list(flow["activity.dead"]) == ["stem.0", "conv1"]
    assert list(flow["activity.dormant"]) == ["stem.0", "conv1", "conv2"]
    assert flow["activity.apoz"]["stem.0"].units[2] == 1
    assert "activity.apoz" in flow
    assert flow.metrics == ("activity",)


def test_fields_that_were_not_named_are_those_of_a_pass_that_names_them(flow):
    named = cnnaudit.profile(Net(), images_and_labels(), rules=["activity.dormant", "class_information.normalised"])
    for name in named:
        assert dict(named[name].estimates) == dict(flow[name].estimates)


def test_rules_may_be_mappings_with_params_and_without_bounds():
    rules = [
        {"metric": "class_information", "params": {"bins": 4}, "at": "conv1"},
        {"id": "few", "metric": "activity.apoz", "share": 0.5, "estimand": "dataset"},
    ]
    flow = cnnaudit.profile(Net(), images_and_labels(130), rules=rules)
    assert list(flow) == ["class_information", "few"]
    assert flow["class_information"].rule.params["bins"] == 4
    assert list(flow["class_information"].estimates) == ["conv1"]
    exact = flow["few"]["conv1"]
    assert exact.units == exact.lows == exact.highs == flow["activity.apoz"]["conv1"].units
    assert flow["activity.apoz"]["conv1"].low < exact.value
    (verdict,) = (flow["few"].at("stem.**") <= 0.9).verdicts
    assert (verdict.rule, verdict.share, verdict.outcome) == ("few", 0.5, Outcome.PASS)
    single = cnnaudit.profile(Net(), images_and_labels(130), rules=rules[0])
    assert single["class_information"].estimates == flow["class_information"].estimates


def test_a_rule_file_says_everything(monkeypatch):
    monkeypatch.chdir(ROOT)
    flow = cnnaudit.profile(rules=DIGITS, max_images=320, confidence=0.9, allow_imports=["examples/**.py"])
    report = cnnaudit.audit(
        replace(pipeline.read_spec(DIGITS), sampling=flow.spec.sampling),
        allow_imports=["examples/**.py"],
    )
    assert (flow.spec.sampling.max_images, flow.spec.sampling.confidence, flow.spec.sampling.seed) == (320, 0.9, 0)
    rules = {rule.id: rule for rule in pipeline.read_spec(DIGITS).rules}
    assert list(flow) == list(rules)
    for name, rule in rules.items():
        found = flow[name] >= rule.min if rule.min is not None else flow[name] <= rule.max
        assert anonymous(found.verdicts) == anonymous(v for v in report.verdicts if v.rule == name)
    assert list(flow["class_information"]) == [
        "stem.conv",
        "stage1.block.conv1",
        "stage3.block.conv1",
        "stage3.block.conv2",
    ]
    assert list(flow["late-kernels-tell-classes-apart"]) == ["stage3.block.conv1", "stage3.block.conv2"]


def test_a_whole_file_may_be_a_mapping_or_a_spec_and_arguments_win():
    file = {
        "cnnaudit": 1,
        "sampling": {"max_images": 64, "seed": 3, "block": 8},
        "rules": [{"metric": "activity.dead", "max": 0}],
    }
    flow = cnnaudit.profile(Net(), images_and_labels(), rules=file)
    assert (flow.n_images, flow.spec.sampling.seed, flow.spec.sampling.block) == (64, 3, 8)
    flow = cnnaudit.profile(Net(), images_and_labels(), rules=pipeline.read_spec(file), max_images=32, seed=0)
    assert (flow.n_images, flow.spec.sampling.seed, flow.spec.sampling.block) == (32, 0, 8)


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ("class_informaton", "no metric is called 'class_informaton'; did you mean 'class_information'"),
        (["activity.ded"], "activity has no field 'ded'; did you mean 'dead'"),
        ([{"metric": "activity", "param": {}}], "unknown key 'param'; did you mean 'params'"),
        ([{"metric": "class_information", "params": {"bin": 4}}], "unknown parameter 'bin'; did you mean 'bins'"),
        (["activity", "activity"], "give each of these rules an id of its own"),
        ([], "a file without rules audits nothing"),
        ([3], "a rule is a mapping such as"),
        ({"cnnaudit": 1, "rules": [{"metric": "activity.dead"}]}, "a rule needs a bound"),
        ("there.is.no.such.yaml", "cannot be read"),
    ],
)
def test_mistakes_in_rules_are_told_as_those_of_a_file(rules, told):
    with pytest.raises(SpecError, match=re.escape(told)):
        cnnaudit.profile(Net(), images_and_labels(20), rules=rules)


@pytest.mark.parametrize("given", [{"confidence": 95}, {"max_images": 0}, {"seed": -1}])
@pytest.mark.parametrize("rules", ["activity", {"cnnaudit": 1, "rules": [{"metric": "activity.dead", "max": 0}]}])
def test_mistakes_in_sampling_are_told(rules, given):
    with pytest.raises(SpecError, match=next(iter(given))):
        cnnaudit.profile(Net(), images_and_labels(20), rules=rules, **given)


def test_what_are_no_rules_is_refused():
    with pytest.raises(LoadError, match="not a int"):
        cnnaudit.profile(Net(), images_and_labels(20), rules=3)
    with pytest.raises(LoadError, match="no `model:`, and none was given"):
        cnnaudit.profile(data=images_and_labels(20))


# --- keys and sites -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (
            "class_informaton",
            "'class_informaton' was not measured; did you mean 'class_information'? choose among activity,",
        ),
        ("activity.dorment", "'activity.dorment' was not measured; did you mean 'activity.dormant'?"),
        ("zzz", "'zzz' was not measured; choose among activity, branch_variance_share,"),
    ],
)
def test_a_key_that_was_not_measured(key, told, flow):
    assert key not in flow
    with pytest.raises(MetricError, match=re.escape(told)):
        flow[key]


def test_a_metric_with_different_params_is_ambiguous():
    rules = [{"id": f"of-{n}", "metric": "class_information", "params": {"bins": n}} for n in (2, 4)]
    flow = cnnaudit.profile(Net(), images_and_labels(130), rules=rules)
    with pytest.raises(MetricError, match="different params: say which by the rules' ids, of-2, of-4"):
        flow["class_information.normalised"]
    assert flow["of-2"]["conv1"].units != flow["of-4"]["conv1"].units


def test_sites_are_narrowed(flow):
    found = flow["class_information"]
    assert list(found) == ["stem.0", "conv1", "conv2"]
    assert list(found.at("conv2", "stem.**")) == ["stem.0", "conv2"]
    assert list(found.at("conv*").at("*2")) == ["conv2"]
    assert list(found.at(op="conv", share=0.5)) == list(found)
    assert len(found) == 3


@pytest.mark.parametrize(
    ("select", "error", "told"),
    [
        (lambda s: s.at("layer4.**"), MetricError, "at: 'layer4.**' matches no conv site; the selection has 3, among"),
        (lambda s: s.at("conv9"), MetricError, "among them conv2, conv1"),
        (lambda s: s.at("pool"), MetricError, "(it matches pool, of op pool)"),
        (lambda s: s.at("conv*").at("stem.**"), MetricError, "matches no conv site; the selection has 2, among them"),
        (lambda s: s.at("a..b"), SpecError, "nothing between two dots"),
        (lambda s: s.at(["conv1"]), SpecError, "must be text, not a list"),
        (lambda s: s.at(op="pool"), SpecError, "class_information is not for pool; it is for conv"),
        (lambda s: s.at(share=90), SpecError, "share is a fraction between 0 and 1; did you mean 0.9?"),
        (lambda s: s.at(share=0.5).mean, SpecError, "share counts units and reduce: mean judges their mean"),
        (lambda s: s.mean.at(share=0.5), SpecError, "share counts units and reduce: mean judges their mean"),
        (
            lambda s: s["conv3"],
            MetricError,
            "was not measured at 'conv3'; did you mean 'conv2'? choose among stem.0, conv1",
        ),
        (lambda s: s.at("stem.**")["conv1"], MetricError, "was not measured at 'conv1'; choose among stem.0"),
    ],
)
def test_what_cannot_be_selected(select, error, told, flow):
    with pytest.raises(error, match=re.escape(told)):
        select(flow["class_information"])


def test_where_a_metric_has_no_meaning_it_is_left_out(flow):
    dead = flow["activity.dead"]
    assert list(dead) == list(dead.estimates) == ["stem.0", "conv1"]
    assert [v.site for v in (dead <= 0).verdicts] == ["stem.0", "conv1"]
    with pytest.raises(MetricError, match=r"activity.dead does not apply at conv2: no activation here"):
        dead["conv2"]
    with pytest.raises(MetricError, match=r"applies at none of the 1 site selected \(conv2: no activation here"):
        _ = dead.at("conv2") <= 0


# --- truth --------------------------------------------------------------------------------------------------


def test_a_pass_and_a_fail_are_true_and_false(flow):
    assert flow["activity.apoz"].at("conv1") <= 1
    assert not flow["activity.dead"] <= 0
    assert (flow["activity.dead"] <= 0).outcome is Outcome.FAIL
    assert (flow["activity.dead"].at("conv1") <= 0).passed
    assert flow["activity.dead"].at("stem.**", share=0.8) <= 0
    assert 0 <= flow["activity.apoz"] <= 1


def test_an_undecided_comparison_is_neither(few):
    found = few["activity.apoz"].at("conv1").mean
    near = found["conv1"].value - 0.2 * (found["conv1"].value - found["conv1"].low)
    comparison = found >= near
    (verdict,) = comparison.verdicts
    assert (comparison.outcome, comparison.passed) == (Outcome.UNDECIDED, False)
    assert verdict.n_needed > 130
    for asserted in (lambda: bool(comparison), lambda: not comparison):
        with pytest.raises(UndecidedError) as told:
            asserted()
        first, header, row, means, do = str(told.value).splitlines()
        assert first == (
            f"activity.apoz (mean of the units) >= {near:g} at conv1: undecided at 1 of 1 site (130 images, 95 %)"
        )
        assert header.split("  ")[-1].strip() == "images needed"
        assert row.split()[:3] == ["conv1", "undecided", f"{verdict.value:.4g}"]
        assert row.endswith(f"{verdict.n_needed:,}")
        assert (means, do) == (verdict.detail, verdict.advice)
        assert do.startswith(f"Audit about {verdict.n_needed:,} images")


def test_too_few_images_are_undecided_with_the_number_needed():
    flow = cnnaudit.profile(Net(), images_and_labels(60), rules="class_information")
    with pytest.raises(UndecidedError, match="Audit at least 120 images"):
        bool(flow["class_information"] >= 0.1)


def test_a_failure_beside_something_undecided_is_a_failure(few):
    found = few["class_information"].at("stem.**", "conv2")  # the dead kernel of the first says nothing
    comparison = found >= min(found["conv2"].units)
    assert {v.site: v.outcome for v in comparison.verdicts} == {"stem.0": Outcome.FAIL, "conv2": Outcome.UNDECIDED}
    assert not comparison
    lines = comparison.explanation()
    assert [line.split()[:2] for line in lines[2:4]] == [["stem.0", "fail"], ["conv2", "undecided"]]


def test_nan_is_an_error():
    model = Net()
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] = math.nan
    flow = cnnaudit.profile(model, images_and_labels(130), rules="activity.dormant")
    found = flow["activity.dormant"]
    comparison = found >= 0
    assert comparison.outcome is Outcome.ERROR
    for asserted in (lambda: bool(comparison), lambda: not comparison):
        with pytest.raises(MetricError, match="130 of 130 images give NaN or Inf here"):
            asserted()
    assert found.at("stem.**") >= 0
    with pytest.raises(MetricError, match=r"130 of 130 images give NaN or Inf at conv1: activity\.dormant is"):
        found["conv1"]
    assert "130 of 130 images give NaN" in repr(found)
    assert re.search(r"conv1 +conv +activity\.dormant +undefined", str(flow))


def test_a_metric_that_crashes_is_an_error(monkeypatch):
    flow = cnnaudit.profile(Net(), images_and_labels(20), rules="activity.dormant")
    monkeypatch.setattr(Metric, "evaluate", lambda *given: 1 / 0)
    with pytest.raises(MetricError, match="The metric crashed: ZeroDivisionError"):
        bool(flow["activity.dormant"] >= 0)
    with pytest.raises(MetricError, match=r"activity.dormant crashed at stem.0: ZeroDivisionError"):
        flow["activity.dormant"]["stem.0"]


# --- comparing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "compare",
    [
        lambda s: s > 0.1,
        lambda s: s < 0.1,
        lambda s: s == 0.1,
        lambda s: s != 0.1,
        lambda s: s.compare("==", 0.1),
    ],
)
def test_a_strict_comparison_is_refused(compare, flow):
    with pytest.raises(TypeError, match="a bound is kept at equality, so write >= or <="):
        compare(flow["activity.apoz"])


@pytest.mark.parametrize("number", [0.5, np.float64(0.5), np.float32(0.5), Fraction(1, 2)])
def test_a_number_may_stand_on_either_side(number, flow):
    found = flow["activity.apoz"]
    comparison = found >= number
    assert (comparison.op, comparison.bound) == (">=", 0.5)
    assert (number <= found) is comparison
    assert (number >= found) is (found <= number)


@pytest.mark.parametrize("bound", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_a_bound_that_is_not_finite_is_refused(bound, flow):
    with pytest.raises(ValueError, match=r"activity\.apoz is compared with a finite number, not with -?(nan|inf)"):
        _ = flow["activity.apoz"] >= bound


@pytest.mark.parametrize("bound", [True, "0.1", None, [0.1], torch.tensor(0.1)])
def test_a_bound_that_is_no_number_is_refused(bound, flow):
    with pytest.raises(TypeError, match=r"activity\.apoz is compared with a number, not with a"):
        flow["activity.apoz"].compare("<=", bound)


def test_a_forgotten_bound_is_no_success(flow):
    with pytest.raises(TypeError, match=r"activity\.apoz is a selection of sites, neither true nor false"):
        assert flow["activity.apoz"]


def test_a_selection_can_be_a_key_and_cannot_be_changed(flow):
    found = flow["activity.apoz"]
    assert {found: 1}[found] == 1
    with pytest.raises(AttributeError):
        found.where = "elsewhere"
    with pytest.raises(TypeError):
        found.estimates["conv1"] = None


# --- words --------------------------------------------------------------------------------------------------


def test_explanation_of_a_failure(flow):
    comparison = flow["class_information"].at("**", share=0.9) >= 2
    lines = comparison.explanation()
    worst = min(comparison.verdicts, key=lambda v: v.value)
    assert lines[0] == (
        "class_information.information >= 2 for 0.9 of the units at **: fails at 3 of 3 sites (300 images, 95 %)"
    )
    assert lines[1].split("  ")[0] == "site"
    assert [line.split()[1] for line in lines[2:5]] == ["fail"] * 3
    assert re.split(r"  +", lines[2]) == [
        worst.site,
        "fail",
        f"{worst.value:.4g}",
        f"[{worst.low:.4g}, {worst.high:.4g}]",
        "6 of 6",
    ]
    assert lines[5:] == [worst.detail, worst.advice]
    assert repr(comparison) == (
        "<Comparison class_information.information >= 2 for 0.9 of the units at **: fails at 3 of 3 sites>"
    )


def test_sites_that_pass_are_not_part_of_an_explanation(flow):
    lines = (flow["activity.dead"] <= 0).explanation()
    assert lines[0] == "activity.dead <= 0: fails at 1 of 2 sites (300 images, 95 %)"
    assert re.split(r"  +", lines[2]) == ["stem.0", "fail", "1", "[1, 1]", "1 of 6"]
    assert "conv1" not in "\n".join(lines)
    passing = (flow["activity.dead"].at("conv1") <= 0).explanation()
    assert passing[0] == "activity.dead <= 0 at conv1: passes at 1 of 1 site (300 images, 95 %)"
    assert len(passing) == 3


def test_an_explanation_is_short():
    layers = [part for _ in range(8) for part in (nn.Conv2d(1, 1, 1), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3))
    flow = cnnaudit.profile(model, images_and_labels(130), rules="activity.apoz")
    lines = (flow["activity.apoz"].at("**") <= -1).explanation()
    assert lines[0].startswith("activity.apoz <= -1 at **: fails at 8 of 8 sites")
    assert lines[8] == "... and 2 more"
    assert len(lines) <= 12


def test_short_forms(flow, few):
    assert repr(few) == "<Flow of class_information, activity.apoz: 130 images>"
    found = flow["class_information"].at("stem.**", "conv1")
    units = [unit for estimate in found.estimates.values() for unit in estimate.units]
    assert repr(found) == (
        "<Selection class_information.information at stem.** or conv1: 2 sites, "
        f"values {min(units):.4g} to {max(units):.4g}; bins=8, estimator=corrected>"
    )
    header, _, first, *rest = few.table().splitlines()
    assert header.split() == ["site", "op", "metric", "value", "interval", "unit", "units"]
    estimate = few["class_information"]["stem.0"]
    interval = f"[{estimate.low:.4g}, {estimate.high:.4g}]"
    assert re.split(r"  +", first) == [
        *("stem.0", "conv", "class_information.information", f"{estimate.value:.4g}", interval, "bits", "6")
    ]
    assert [line.split()[0] for line in rest] == ["stem.0", "conv1", "conv1", "conv2"]
    assert str(few) == few.table()


class Pair(nn.Module):
    """Two inputs by name, of which the second gates the first; the logits are one of two outputs."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, left, right):
        maps = torch.relu(self.conv(left)) * torch.sigmoid(self.conv(right))
        return {"maps": maps, "scores": self.fc(maps.mean((2, 3)))}


class TestCalling:
    @pytest.fixture
    def pairs(self):
        left, labels = images_and_labels(48)
        return {"left": left, "right": left.flip(0), "labels": labels}

    def test_inputs_and_head(self, pairs):
        model = Pair()
        flow = cnnaudit.profile(model, pairs, rules="activity.apoz", inputs=["left", "right"], head="scores")
        assert [site.path for site in flow.sites if site.op == "head"] == ["fc"]
        assert (flow.model["inputs"], flow.model["head"]) == (["left", "right"], "fc")
        # The first call of the convolution reads the left images and is followed by the ReLU.
        zeros = (model.conv(pairs["left"]) <= 0).float().mean((0, 2, 3))
        assert flow["activity.apoz"]["conv"].units == pytest.approx(zeros.tolist(), abs=1e-6)
        other = cnnaudit.profile(model, pairs, rules="activity.apoz", inputs=["right", "left"], head="scores")
        zeros = (model.conv(pairs["right"]) <= 0).float().mean((0, 2, 3))
        assert other["activity.apoz"]["conv"].units == pytest.approx(zeros.tolist(), abs=1e-6)

    def test_no_head(self, pairs):
        flow = cnnaudit.profile(Pair(), pairs, rules="stable_rank", inputs=["left", "right"], head=False)
        assert [site.op for site in flow.sites if site.path == "fc"] == ["linear"]

    def test_they_win_over_a_rule_file(self, pairs):
        rules = {"cnnaudit": 1, "head": "maps", "inputs": ["left"], "rules": [{"metric": "stable_rank", "max": 9}]}
        flow = cnnaudit.profile(Pair(), pairs, rules=rules, inputs={"left": "left", "right": "right"}, head="scores")
        assert flow.model["head"] == "fc"

    def test_a_mistake_is_named(self, pairs):
        with pytest.raises(SpecError, match="inputs are named as the data names them, not '3'"):
            cnnaudit.profile(Pair(), pairs, rules="stable_rank", inputs=[3])


def test_records_hold_every_field_in_the_order_of_the_network(few):
    records = few.records()
    assert {(r["id"], r["metric"]) for r in records} == {
        ("class_information", "class_information"),
        ("activity.apoz", "activity"),
    }
    order = [site.path for site in few.sites]
    places = [order.index(record["site"]) for record in records]
    assert places == sorted(places)
    (dead,) = [r for r in records if (r["site"], r["field"]) == ("stem.0", "dead")]
    estimate = few["activity.dead"]["stem.0"]
    assert dead["units"] == list(estimate.units) == [0, 0, 1, 0, 0, 0]
    assert (dead["value"], dead["low"], dead["high"]) == (estimate.value, estimate.low, estimate.high)
    assert (dead["op"], dead["unit"], dead["kernels"], dead["n_images"]) == ("conv", "indicator", [*range(6)], 130)


def test_it_tells_on_what_and_how_it_was_measured(few):
    assert few.model["parameters"] == 10 * 6 + 2 * (54 + 1) * 6 + 7 * 3
    assert few.data["n_images"] == 130
    assert (few.settings["mode"], few.settings["dtype"], few.settings["memory_format"]) == (
        *("evaluation", "float32"),
        "contiguous",
    )
    assert few.notes == ()


def test_the_memory_format_is_told():
    model = Net().to(memory_format=torch.channels_last)
    assert cnnaudit.profile(model, images_and_labels(8), rules="stable_rank").settings["memory_format"] == (
        "channels_last"
    )


def test_what_a_rule_file_may_open_and_trust_is_handed_on(tmp_path):
    rules, outside = tmp_path / "in" / "net.audit.yaml", tmp_path / "x.npz"
    rules.parent.mkdir()
    x, y = images_and_labels(20)
    np.savez(outside, images=x.numpy(), labels=y.numpy())
    rules.write_text("cnnaudit: 1\ndata: ../x.npz\nrules: [{metric: stable_rank, severity: note}]\n", encoding="utf-8")
    with pytest.raises(LoadError, match="--allow-path"):
        cnnaudit.profile(Net(), rules=rules)
    assert cnnaudit.profile(Net(), rules=rules, allow_paths=[str(outside)]).data["n_images"] == 20
    with pytest.raises(LoadError, match="there is no file"):
        cnnaudit.profile(str(tmp_path / "no.pt2"), (x, y), rules="stable_rank", trust_model=True)
    with pytest.raises(LoadError, match="--trust-model"):
        cnnaudit.profile(str(tmp_path / "no.pt2"), (x, y), rules="stable_rank")


def test_documented_examples_run(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "assertions.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        capsys.readouterr()
        exec(compile(block, "docs/assertions.md", "exec"), names)  # noqa: S102 - the page's own code
    (shown,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    assert shown in capsys.readouterr().out
