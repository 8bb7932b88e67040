"""From a spec to a report: what an audit accepts, what it says, and what it leaves as it was."""

import json
import random
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.utils.data import DataLoader, Dataset, TensorDataset

import cnnaudit
from cnnaudit import pipeline
from cnnaudit.errors import LoadError, MetricError, SpecError
from cnnaudit.metrics import Metric, registry

pytestmark = pytest.mark.usefixtures("one_thread")


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        identity = x
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += identity
        return self.relu(out)


class Net(nn.Module):
    def __init__(self, channels=6, classes=3, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
            self.block = Block(channels)
            self.pool = nn.MaxPool2d(2)
            self.drop = nn.Dropout(0.5)
            self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = self.pool(self.block(self.stem(x)))
        return self.fc(self.drop(x.mean((2, 3))))


RULES = (
    {"metric": "activity.dormant", "max": 100},
    {"metric": "class_information", "min": -1},
    {"metric": "class_auroc", "min": 0},
    {"metric": "class_selectivity_index", "min": -1},
    {"metric": "pool_information_dimension_loss", "max": 1},
    {"metric": "pool_entropy_loss", "max": 1.5, "params": {"levels": 2}},
    {"metric": "branch_variance_share", "min": -100},
)


def images_and_labels(count=130, classes=3, size=(8, 8)):
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(count) % classes
    return torch.rand(count, 1, *size, generator=generator) + labels.reshape(-1, 1, *(1 for _ in size)) / 4, labels


def audited(*rules, model=None, data=None, **keys):
    model = Net() if model is None else model
    data = images_and_labels() if data is None else data
    return cnnaudit.audit({"cnnaudit": 1, "rules": list(rules or RULES), **keys}, model=model, data=data)


# --- nothing is changed ------------------------------------------------------------------------------------


def mixed_modes(model):
    """A network in the middle of fine-tuning: frozen norms, some parts in evaluation mode, some gradients off."""
    model.train()
    model.block.norm1.eval()
    model.stem.eval()
    model.stem[1].train()
    model.stem[0].weight.requires_grad_(requires_grad=False)
    model.block.conv1.weight.grad = torch.ones_like(model.block.conv1.weight)
    model.block.register_forward_hook(lambda module, inputs, output: None)
    model.fc.register_forward_pre_hook(lambda module, inputs: None)
    return model


def state_of(model):
    """Everything that an audit might have touched, in a form that can be compared."""
    return {
        "modes": {name: module.training for name, module in model.named_modules()},
        "tensors": {
            name: (id(x), x._version, x.numpy(force=True).tobytes())
            for name, x in model.state_dict(keep_vars=True).items()
        },
        "grads": {
            name: (p.requires_grad, None if p.grad is None else p.grad.numpy().tobytes())
            for name, p in model.named_parameters()
        },
        "hooks": {
            name: [len(hooks) for key, hooks in sorted(vars(module).items()) if key.endswith("hooks")]
            for name, module in model.named_modules()
        },
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "formats": {name: p.stride() for name, p in model.named_parameters()},
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002 - the state that old code draws from
        "python": random.getstate(),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.enabled),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "default type": torch.get_default_dtype(),
        "path": list(sys.path),
    }


class Restless(Dataset):
    """Draws from every generator there is, as augmentation does."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        noise = torch.rand(1) + random.random() + np.random.rand()  # noqa: NPY002, S311 - as old code does
        return torch.full((1, 8, 8), float(i)) + noise, i % 3


@pytest.mark.parametrize("grad", [True, False])
def test_the_model_and_the_world_are_as_before(grad):
    model = mixed_modes(Net())
    before = state_of(model)
    with torch.set_grad_enabled(grad):
        audited(model=model)
        assert torch.is_grad_enabled() == grad
    assert state_of(model) == before


@pytest.mark.parametrize(
    "data",
    [Restless(), DataLoader(Restless(), batch_size=7, shuffle=True), DataLoader(Restless(), batch_size=7)],
    ids=["dataset", "shuffled loader", "loader"],
)
def test_random_numbers_that_the_data_draws_are_given_back(data):
    model = mixed_modes(Net())
    before = state_of(model)
    audited(model=model, data=data)
    assert state_of(model) == before


def test_the_model_still_gives_the_same_gradients_afterwards():
    def gradients(model):
        x, y = images_and_labels(16)
        F.cross_entropy(model.eval()(x), y).backward()
        return [p.grad for p in model.parameters()]

    model = Net()
    audited(model=model)
    assert all(torch.equal(a, b) for a, b in zip(gradients(model), gradients(Net()), strict=True))


def breaking(after):
    x, y = images_and_labels(200)
    for number, batch in enumerate(zip(x.split(20), y.split(20), strict=True)):
        if number == after:
            torch.rand(3)
            raise OSError("the disk is gone")
        yield batch


def test_the_model_is_as_before_when_the_data_breaks_in_the_middle():
    model = mixed_modes(Net())
    before = state_of(model)
    with pytest.raises(
        LoadError, match="a generator from Python, batch 3: reading it raised OSError: the disk is gone"
    ):
        audited(model=model, data=breaking(3))
    assert state_of(model) == before


def test_the_model_is_as_before_when_it_is_interrupted():
    def interrupted():
        yield from zip(*(part.split(20) for part in images_and_labels(40)), strict=True)
        raise KeyboardInterrupt

    model = mixed_modes(Net())
    before = state_of(model)
    with pytest.raises(KeyboardInterrupt):
        audited(model=model, data=interrupted())
    assert state_of(model) == before


class Moody(Net):
    """Fails on a bright image, after it changed its own modes and drew random numbers."""

    def forward(self, x):
        self.fc.train()
        torch.rand(2)
        return super().forward(x)


def test_a_model_that_changes_its_modes_has_them_as_before():
    model = mixed_modes(Moody())
    before = state_of(model)
    audited(model=model)
    assert state_of(model) == before


class Stateful(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.log = []

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


def test_buffers_that_a_forward_writes_are_as_before():
    model = Stateful()
    model.calls += 5
    audited(model=model)
    assert model.calls == 5


def test_a_metric_that_crashes_is_a_verdict_and_the_model_is_as_before(monkeypatch):
    def crash(self, statistic, site, params, *more):
        if self.name == "activity":
            raise ZeroDivisionError("a slip")
        return evaluate(self, statistic, site, params, *more)

    evaluate = Metric.evaluate
    monkeypatch.setattr(Metric, "evaluate", crash)
    model = mixed_modes(Net())
    before = state_of(model)
    report = audited(model=model, data=images_and_labels(130))
    assert {v.outcome for v in report.verdicts if v.metric == "activity"} == {"error"}
    assert all("ZeroDivisionError: a slip" in v.detail for v in report.verdicts if v.metric == "activity")
    assert {v.outcome for v in report.verdicts if v.metric == "class_information"} == {"pass"}
    assert state_of(model) == before


def test_no_hook_is_registered_while_images_are_read(monkeypatch):
    def refuse(*given, **keys):
        raise AssertionError("a hook was registered on the user's model")

    real = pipeline.sweep

    def sweep(*given, **keys):
        with monkeypatch.context() as patched:
            for name in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
                patched.setattr(nn.Module, name, refuse)
            return real(*given, **keys)

    monkeypatch.setattr(pipeline, "sweep", sweep)
    assert "error" not in {verdict.outcome for verdict in audited().verdicts}


# --- what may be given ---------------------------------------------------------------------------------------


CODE = """
import torch
from torch import nn

def build(channels=4):
    torch.manual_seed(0)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)
    return nn.Sequential(nn.Conv2d(1, channels, 3), nn.ReLU(), *head)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(CODE)
    x, y = images_and_labels()
    np.savez(tmp_path / "data.npz", images=x.numpy(), labels=y.numpy())
    (tmp_path / "x.audit.yaml").write_text(
        "cnnaudit: 1\nmodel: model.py:build\ndata: data.npz\nrules:\n  - {metric: activity.dead, max: 0}\n"
    )
    return tmp_path


def built(channels=4):
    found = {}
    exec(CODE, found)  # noqa: S102 - the code above
    with torch.random.fork_rng():
        return found["build"](channels)


def test_a_path_is_enough(project):
    report = cnnaudit.audit("x.audit.yaml", allow_imports=["model.py"])
    assert report.spec["path"] == "x.audit.yaml"
    assert report.model["source"] == "model.py:build"
    assert report.data == {
        "source": "data.npz",
        "sha256": report.data["sha256"],
        "n_images": 130,
        "available": 130,
        "order": "seeded",
        "sources": None,
        "columns": {},
        "transform": "",
        "corrupt": {"count": 0, "told": []},
        "excluded": None,
    }
    assert [v.rule for v in report.verdicts] == ["activity.dead"]
    assert cnnaudit.audit(project / "x.audit.yaml", allow_imports=["model.py"]) == report


def test_weights_are_filled_in_and_told(project):
    save_file(built().state_dict(), "weights.safetensors")
    spec = project / "x.audit.yaml"
    spec.write_text(spec.read_text().replace("data:", "weights: weights.safetensors\ndata:"))
    report = cnnaudit.audit("x.audit.yaml", allow_imports=["model.py"])
    assert report.model["weights"] == "weights.safetensors"
    assert report.model["sha256"] == audited({"metric": "activity.dead", "max": 0}, model=built()).model["sha256"]


def test_a_mapping_a_spec_and_a_file_give_the_same_verdicts(project):
    mapping = {"cnnaudit": 1, "model": "model.py:build", "data": "data.npz"}
    mapping["rules"] = [{"metric": "activity.dead", "max": 0}]
    from_file = cnnaudit.audit("x.audit.yaml", allow_imports=["model.py"])
    from_mapping = cnnaudit.audit(mapping, allow_imports=["model.py"])
    from_spec = cnnaudit.audit(pipeline.read_spec("x.audit.yaml"), allow_imports=["model.py"])
    assert from_spec == from_file
    assert from_mapping.spec["path"] == "rules from Python"
    outcomes = [[(v.site, v.outcome, v.value, v.low, v.high) for v in r.verdicts] for r in (from_file, from_mapping)]
    assert outcomes[0] == outcomes[1]


def test_the_models_and_datas_own_are_replaced_by_what_python_gives(project):
    report = cnnaudit.audit("x.audit.yaml", model=built(), data=images_and_labels(40))
    assert report.model["source"] == "a Sequential from Python"
    assert (report.data["source"], report.data["n_images"]) == ("a tuple from Python", 40)


def test_without_model_or_data_the_error_says_so():
    rules = {"cnnaudit": 1, "rules": [{"metric": "activity.dead", "max": 0}]}
    with pytest.raises(LoadError, match="rules from Python: no `model:`, and none was given from Python"):
        cnnaudit.audit(rules, data=images_and_labels())
    with pytest.raises(LoadError, match="rules from Python: no `data:`, and none was given from Python"):
        cnnaudit.audit(rules, model=Net())


def test_a_model_may_be_text(project):
    report = cnnaudit.audit("x.audit.yaml", model="model.py:build", allow_imports=["model.py"])
    assert (report.model["source"], report.model["weights"]) == ("model.py:build", "")
    with pytest.raises(LoadError, match=r"model\.py:build is code, and importing it is not allowed"):
        cnnaudit.audit("x.audit.yaml", model="model.py:build")


@pytest.mark.parametrize("model", [Net, lambda x: x])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(LoadError, match=r"model: a [a-z]+ from Python, not a torch"):
        audited(model=model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_numbers_are_audited_as_they_are(dtype):
    x, y = images_and_labels()
    report = audited(model=Net().to(dtype), data=(x.to(dtype), y))
    assert "error" not in {verdict.outcome for verdict in report.verdicts}


def test_mistakes_in_a_mapping_are_all_told():
    with pytest.raises(SpecError) as told:
        audited({"metric": "activity.dad", "max": 0}, {"metric": "class_information", "mix": 1})
    assert len(told.value.problems) >= 2


class Named(Dataset):
    classes = ("a", "b", "c")

    def __init__(self):
        self.x, self.y = images_and_labels()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], int(self.y[i])


def in_batches(size=20):
    x, y = images_and_labels()
    return list(zip(x.split(size), y.split(size), strict=True))


SEEDED = {
    "tensors": images_and_labels,
    "list of tensors": lambda: list(images_and_labels()),
    "numpy": lambda: tuple(x.numpy() for x in images_and_labels()),
    "TensorDataset": lambda: TensorDataset(*images_and_labels()),
    "dataset": Named,
    "DataLoader": lambda: DataLoader(TensorDataset(*images_and_labels()), batch_size=11),
}
AS_GIVEN = {
    "list of batches": in_batches,
    "generator": lambda: iter(in_batches()),
    "numpy batches": lambda: [tuple(x.numpy() for x in batch) for batch in in_batches(1)],
}


@pytest.mark.parametrize("kinds", [SEEDED, AS_GIVEN], ids=["seeded", "as given"])
def test_every_form_of_the_same_data_gives_the_same_verdicts(kinds):
    reports = [audited(data=make()) for make in kinds.values()]
    for report in reports:
        # As JSON, because a value of 0 / 0 is equal to nothing, not even to itself.
        assert json.loads(report.to_json())["verdicts"] == json.loads(reports[0].to_json())["verdicts"]
        assert report.data["sha256"] == reports[0].data["sha256"]
        assert report.data["n_images"] == 130
        assert report.data["order"] == ("seeded" if kinds is SEEDED else "as given")
        assert bool(report.notes) == (kinds is AS_GIVEN)


def test_data_in_its_own_order_is_noted():
    report = audited(data=in_batches())
    assert report.notes == (
        "The data was read in the order it gave, not in a random one: intervals suppose that it is mixed.",
    )


@pytest.mark.parametrize("data", [images_and_labels, in_batches])
def test_a_limit_reads_no_more_images(data):
    report = audited(data=data(), sampling={"max_images": 33})
    assert report.data["n_images"] == 33
    assert {v.n_images for v in report.verdicts if v.outcome != "not_applicable"} == {33}
    assert audited(data=data(), sampling={"max_images": 500}).data["n_images"] == 130


def test_one_image_can_be_audited():
    dead = {"metric": "activity.dead", "at": "stem.**", "max": 1}
    report = audited(dead, *RULES[1:], data=images_and_labels(1))
    outcomes = {v.metric: v.outcome for v in report.verdicts if v.op != "pool" or v.site == "pool"}
    assert outcomes.pop("activity") == "pass"
    assert set(outcomes.values()) - {"not_applicable"} == {"undecided"}
    assert report.exit_code == 3


def test_labels_are_not_needed_where_no_rule_needs_them():
    assert audited(RULES[0], data=images_and_labels()[0]).exit_code == 0


@pytest.mark.parametrize("data", [lambda: images_and_labels()[0], lambda: [images_and_labels()[0]]])
def test_missing_labels_are_an_error_that_names_the_rule(data):
    rule = {"id": "kernels-tell", "metric": "class_information", "min": 0}
    with pytest.raises(MetricError) as told:
        audited(rule, data=data())
    assert str(told.value) == (
        "rules from Python: rule 'kernels-tell' measures class_information, which needs labels, and the data has "
        "none: give the data a `labels` array or have the iterable yield (images, labels)"
    )


def test_missing_labels_name_the_line_of_the_rule_in_a_file(project):
    np.savez("data.npz", images=images_and_labels()[0].numpy())
    text = (project / "x.audit.yaml").read_text() + "  - metric: class_information\n    min: 0\n"
    (project / "x.audit.yaml").write_text(text)
    with pytest.raises(MetricError, match=r"^x\.audit\.yaml:6: rule 'class_information' measures class_information"):
        cnnaudit.audit("x.audit.yaml", allow_imports=["model.py"])


# --- one, two and three dimensions ---------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 3])
def test_networks_of_one_and_three_dimensions(dims):
    conv, norm = getattr(nn, f"Conv{dims}d"), getattr(nn, f"BatchNorm{dims}d")
    pool, last = getattr(nn, f"MaxPool{dims}d"), getattr(nn, f"AdaptiveAvgPool{dims}d")

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm, self.conv = conv(1, 4, 3, padding=1), norm(4), conv(4, 4, 3, padding=1)
            self.pool, self.last, self.fc = pool(2), last(1), nn.Linear(4, 3)

        def forward(self, x):
            x = self.norm(self.stem(x)).relu()
            x = self.pool((x + self.conv(x)).relu())
            return self.fc(self.last(x).flatten(1))

    torch.manual_seed(0)
    model, size = Small(), (24,) if dims == 1 else (6, 6, 6)
    x, y = images_and_labels(120, size=size)
    report = audited(model=model, data=(x, y))
    assert report.model["input_shape"] == [1, *size]
    assert report.model["sites"] == {"conv": 2, "head": 1, "pool": 2, "residual": 1}
    assert {v.outcome for v in report.verdicts} <= {"pass", "undecided", "not_applicable"}
    found = {(v.metric, v.site): v for v in report.verdicts}
    with torch.no_grad():
        stem = model.eval().norm(model.stem(x)).relu()
        s, f = stem.double(), model.conv(stem).double()
    expected = stem.flatten(2).mean((0, 2))
    value = found["activity", "stem"].value
    assert value == pytest.approx((expected / expected.mean()).max().item(), rel=1e-5)
    if dims == 1:  # all 24 positions are read
        total = s + f

        def cov(a, b):
            return ((a - a.mean((0, 2), keepdim=True)) * (b - b.mean((0, 2), keepdim=True))).sum()

        share = (cov(f, total) / cov(total, total)).item()
        assert found["branch_variance_share", "#add.0"].value == pytest.approx(share, rel=1e-6)


# --- outcomes --------------------------------------------------------------------------------------------------


def test_a_rule_that_selects_nothing_is_an_error_and_the_others_are_judged():
    absent = {"id": "absent", "metric": "activity.dormant", "at": "blok.conv1", "max": 100}
    report = audited(RULES[0], absent, RULES[1])
    assert report.exit_code == 2
    (verdict,) = (v for v in report.verdicts if v.rule == "absent")
    assert (verdict.outcome, verdict.site) == ("error", "")
    assert "matches no conv site" in verdict.detail
    assert "block.conv1" in verdict.detail
    assert report.outcome("activity.dormant") == report.outcome("class_information") == "pass"


def test_a_rule_that_may_select_nothing_is_counted_as_not_applicable():
    report = audited(RULES[0], {"metric": "activity.apoz", "at": "nowhere", "max": 1, "if_absent": "skip"})
    assert report.exit_code == 0
    assert report.outcome("activity.apoz") == "not_applicable"
    assert report.summary["rules"]["not_applicable"] == 1


def test_a_rule_that_applies_nowhere_is_an_error():
    rule = {"metric": "activity.dead", "at": "block.conv2", "max": 0}
    report = audited(RULES[0], rule)
    assert [v.outcome for v in report.verdicts if v.rule == "activity.dead"] == ["not_applicable", "error"]
    assert "the metric applies at none of the 1 sites" in report.verdicts[-1].detail
    assert report.exit_code == 2
    assert audited(RULES[0], rule | {"if_absent": "skip"}).exit_code == 0


@pytest.mark.parametrize(("severity", "code"), [("error", 1), ("warning", 0), ("note", 0)])
def test_only_a_failure_of_severity_error_fails_the_audit(severity, code):
    report = audited(RULES[1], {"metric": "activity.dormant", "max": -1, "severity": severity})
    assert report.outcome("activity.dormant") == "fail"
    assert report.exit_code == code
    assert report.passed == (code == 0)


@pytest.mark.parametrize(("policy", "code"), [("fail", 3), ("pass", 0)])
def test_the_spec_says_what_undecided_comes_to(policy, code):
    undecided = {"metric": "branch_variance_share", "min": 0.3}
    report = audited(RULES[0], undecided, data=images_and_labels(20), undecided=policy)
    assert report.outcome("branch_variance_share") == "undecided"
    assert report.exit_code == code
    assert report.settings["undecided"] == policy


def test_too_few_images_for_the_classes_say_how_many_are_needed():
    x, _ = images_and_labels(150, size=(8, 8))
    data = x, torch.arange(150) % 100
    report = audited({"metric": "class_information", "min": 0.1}, model=Net(classes=100), data=data)
    assert report.exit_code == 3
    for verdict in report.verdicts:
        assert verdict.outcome == "undecided"
        assert verdict.n_needed >= 5 * 8 * 100
        assert "this metric needs 4,000" in verdict.detail
        assert "4,000" in verdict.advice


# --- digests -----------------------------------------------------------------------------------------------------


def test_the_models_digest_changes_with_a_weight_and_a_buffer_and_with_nothing_else():
    def digest(edit=lambda model: None, **keys):
        model = Net()
        with torch.no_grad():
            edit(model)
        return audited(RULES[0], model=model, **keys).model["sha256"]

    assert digest() == digest(lambda model: model.train()) == digest(sampling={"seed": 3})
    assert digest() == digest(data=images_and_labels(30))
    assert digest() == digest(lambda model: model.to(memory_format=torch.channels_last))
    assert digest() != digest(lambda model: model.fc.bias[0].add_(1e-6))
    assert digest() != digest(lambda model: model.block.norm1.running_mean[2].add_(1e-6))


def test_the_datas_digest_changes_with_an_image_and_a_label_and_with_nothing_else():
    def digest(edit=lambda x, y: None, **keys):
        x, y = images_and_labels()
        edit(x, y)
        return audited(RULES[0], data=(x, y), **keys).data["sha256"]

    assert digest() == digest(model=Net(seed=4)) == digest(sampling={"block": 8})
    assert digest() != digest(lambda x, y: x[5, 0, 0].add_(1e-6))
    assert digest() != digest(lambda x, y: y[6].add_(1))


def test_the_specs_digest_changes_with_a_rule():
    one, same, other = (audited({"metric": "activity.dormant", "max": most}).spec["sha256"] for most in (9, 9, 8))
    assert one == same != other


def test_everything_that_decides_a_number_is_told():
    report = audited(sampling={"seed": 4, "block": 8, "confidence": 0.9, "max_images": 60, "max_memory": "512MiB"})
    told = dict(report.settings)
    assert told["statistics_bytes"] > 0
    ids = {registry()[rule["metric"].partition(".")[0]].id for rule in RULES}
    assert told["metrics"] == sorted(ids - {"pool_entropy_loss/3"} | {"pool_entropy_loss/3(levels=2)"})
    expected = {"seed": 4, "block": 8, "confidence": 0.9, "max_images": 60, "max_memory": 2**29, "groups": 60}
    assert told.items() >= expected.items()
    assert (told["device"], told["threads"], told["torch"]) == ("cpu", 1, torch.__version__)
    assert cnnaudit.Report.from_json(report.to_json()).settings == told


# --- memory ----------------------------------------------------------------------------------------------------


WIDE = {"metric": "class_information", "min": -1}


def recorded(monkeypatch):
    """The statistics of each audit that follows."""
    found = []
    real = pipeline.sweep

    def sweep(*given, **keys):
        (statistics,) = real(*given, **keys)
        found.append(statistics)
        return [statistics]

    monkeypatch.setattr(pipeline, "sweep", sweep)
    return found


def test_a_small_budget_samples_kernels_and_says_so(monkeypatch):
    statistics = recorded(monkeypatch)
    budget = 3000
    keys = {"model": Net(channels=24), "data": images_and_labels(130), "sampling": {"max_memory": budget}}
    report = audited(WIDE, **keys)
    assert report.settings["statistics_bytes"] <= budget
    (note,) = report.notes
    assert "Memory did not reach for all kernels: at 3 places as few as" in note
    for verdict in report.verdicts:
        assert verdict.outcome == "undecided"
        assert verdict.units.total == 24
        assert "kernels, and the rule speaks of all" in verdict.detail
        assert verdict.advice == "Raise sampling.max_memory or narrow `at:`, or judge `reduce: mean`."
    held = [
        t
        for s in statistics[0].values()
        for name, t in s.tally.items()
        if name not in ("images", "sources", "nonfinite")
    ]
    assert sum(t.numel() * t.element_size() for t in held) <= budget
    assert audited(WIDE | {"reduce": "mean"}, **keys).exit_code == 0


def test_the_sampled_kernels_are_measured_as_they_would_be_among_all(monkeypatch):
    statistics = recorded(monkeypatch)
    keys = {"model": Net(channels=24), "data": images_and_labels(130)}
    whole, few = (audited(WIDE, **keys, sampling=s) for s in ({}, {"max_memory": 3000}))
    assert whole.exit_code == 0
    assert few.exit_code == 3
    all_of, some = ({probe.site.path: s for probe, s in found.items()} for found in statistics)
    for path, statistic in some.items():
        kernels = list(statistic.probe.kernels)
        assert 1 <= len(kernels) < 24
        assert torch.equal(statistic.counts, all_of[path].counts[kernels])


def test_a_budget_for_less_than_one_kernel_is_an_error():
    with pytest.raises(
        MetricError, match=r"sampling\.max_memory of 10 bytes does not reach even with one kernel a site"
    ):
        audited(sampling={"max_memory": 10})


def test_the_memory_that_is_planned_is_the_memory_that_is_taken(monkeypatch):
    statistics = recorded(monkeypatch)
    report = audited(data=images_and_labels(140))
    taken = sum(
        t.numel() * t.element_size()
        for s in statistics[0].values()
        for name, t in s.tally.items()
        if name not in ("images", "sources", "nonfinite")
    )
    assert taken == pytest.approx(report.settings["statistics_bytes"], rel=0.02)


# --- progress -----------------------------------------------------------------------------------------------------


def test_a_progress_bar_is_shown_on_a_terminal_only(monkeypatch, capsys):
    spec = {"cnnaudit": 1, "rules": [RULES[0]]}
    cnnaudit.audit(spec, model=Net(), data=images_and_labels(), progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for data in (images_and_labels(), in_batches()):
        cnnaudit.audit(spec, model=Net(), data=data, progress=True)
        assert " images" in capsys.readouterr().err


def test_the_specs_model_runs_on_the_device_that_is_asked_for_and_a_live_one_where_it_is(project):
    assert cnnaudit.audit("x.audit.yaml", allow_imports=["model.py"], device="cpu").settings["device"] == "cpu"
    with pytest.raises(LoadError, match="device 'nowhere' cannot be used"):
        cnnaudit.audit("x.audit.yaml", allow_imports=["model.py"], device="nowhere")
    with pytest.raises(LoadError, match="a live model runs where it is"):
        cnnaudit.audit("x.audit.yaml", model=built(), device="cpu")


def test_one_block_is_read_before_anything_is_measured():
    taken = []

    def give():
        for batch in in_batches(10):
            taken.append(len(batch[0]))
            yield batch

    prepared = pipeline.prepare({"cnnaudit": 1, "rules": [RULES[0]]}, model=Net(), data=give())
    assert sum(taken) == 20
    assert [len(block.images) for block in prepared.blocks] == [16] * 8 + [2]


class Unrolled(nn.Module):
    """Goes through its images one by one, so that its graph is of one batch size."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)

    def forward(self, x):
        return torch.stack([self.conv(image[None])[0] for image in x]).mean((2, 3))


@pytest.mark.parametrize("count", [1, 10, 16, 20, 40])
def test_a_graph_of_one_batch_size_reads_data_of_any_number(count):
    rule = {"metric": "activity.dormant", "max": 9}
    for model in (Unrolled(), nn.Sequential(Unrolled())):
        report = audited(rule, RULES[2] | {"if_absent": "skip"}, model=model, data=images_and_labels(count))
        assert report.data["n_images"] == count


def test_a_block_beyond_all_memory_is_refused():
    """As 4096 images of 512 x 512, of which there are two."""
    rules = {"cnnaudit": 1, "sampling": {"block": 4096}, "rules": [{"metric": "activity.dead", "max": 0}]}
    with pytest.raises(LoadError, match=r"sampling.block of 4096 images of 1 x 512 x 512 is more than 536,870,912"):
        cnnaudit.audit(rules, model=nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU()), data=torch.zeros(2, 1, 512, 512))


def test_the_report_tells_what_data_are_made_up_compared_or_beside_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(4):
        Image.fromarray(np.full((8, 8, 3), 50 * i, np.uint8)).save(tmp_path / f"photos/{i}.png")
    (tmp_path / "photos/notes.txt").write_text("of the photographer")
    (tmp_path / "train.csv").write_text("file\nother.png\n")

    def notes(data):
        rule = {"metric": "activity.dormant", "max": 9}
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
        return cnnaudit.audit({"cnnaudit": 1, "data": data, "rules": [rule]}, model=model).notes

    assert notes({"load": "photos/", "exclude": "train.csv"}) == (
        "None of these images is among the 1 of train.csv.",
        "Files in the folder that are no images, and were not read: 1.",
    )
    assert notes({"load": "synthetic", "kwargs": {"images": 4, "size": 8}}) == (
        "The images are made up: the network runs, and no figure says anything about real images.",
    )
