"""How a network may be called and what it may return, whatever it is made of: the numbers stay the same."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.utils.data import DataLoader
from torchvision.ops import FrozenBatchNorm2d

import cnnaudit
from cnnaudit.errors import GraphError, LoadError
from cnnaudit.result import Outcome

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT = 66  # the last block is not full
RULES = [
    {"id": "rows", "metric": "activity.apoz", "severity": "note"},
    {"id": "share", "metric": "branch_variance_share.share", "severity": "note"},
    {"id": "known", "metric": "class_information", "severity": "note"},
    {"id": "kept", "metric": "effective_rank.eigen", "op": "head", "severity": "note"},
]
OTHER_RUNS = [
    {"id": "without", "metric": "block_ablation.jsd", "op": "residual", "severity": "note"},
    {"id": "mean", "metric": "block_ablation.jsd", "op": "residual", "params": {"by": "mean"}, "severity": "note"},
    {"id": "agree", "metric": "shift_consistency", "severity": "note"},
    {"id": "moves", "metric": "shift_equivariance_error.pixel", "severity": "note"},
]


class Net(nn.Module):
    """A stem, a residual block and a head; ``tail`` is all that follows the stem."""

    def __init__(self, channels=1, classes=3):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.branch = nn.Conv2d(4, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, classes)

    def tail(self, x):
        x = torch.relu(x + self.branch(x))
        return self.fc(self.drop(x.mean((2, 3))))

    def forward(self, x):
        return self.tail(self.stem(x))


class Pair(Net):
    """A second image is added behind a convolution of its own."""

    def __init__(self):
        super().__init__()
        self.second = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, left, right):
        return self.tail(self.stem(left) * 0.5 + self.second(right))


def made(kind, *args):
    """A network that knows something: weights at random, and norms that have seen images."""
    torch.manual_seed(0)
    model = kind(*args)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def images(count=COUNT, side=8, seed=1):
    torch.manual_seed(seed)
    return torch.rand(count, 1, side, side)


def labels(count=COUNT):
    return torch.arange(count) % 3


def audited(model, data, rules=RULES, *, sampling=None, **keys):
    spec = {"cnnaudit": 1, "rules": [*rules, {"id": "any", "metric": "stable_rank", "min": 0}]}
    return cnnaudit.audit({**spec, "sampling": {"looks": 1, **(sampling or {})}, **keys}, model=model, data=data)


def numbers(report):
    """Every number of an audit and whether it could be had, by rule and site."""
    assert report.passed
    return {
        (v.rule, v.site): (v.value, v.low, v.high, dict(v.fields))
        for v in report.verdicts
        if v.outcome is not Outcome.NOT_APPLICABLE
    }


def nearly(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for key, (value, *_) in expected.items():
        assert found[key][0] == pytest.approx(value, rel=tolerance, abs=tolerance), key


# --- what goes in ----------------------------------------------------------------------------------------


def pair_data():
    return images(seed=1), images(seed=2)


def as_loader(left, right):
    samples = [((a, b), y) for a, b, y in zip(left, right, labels(), strict=True)]
    return DataLoader(samples, batch_size=7)


PAIRS = {
    "tuple": (lambda left, right: ((left, right), labels()), {}),
    "arrays": (lambda left, right: ((left.numpy(), right.numpy()), labels().numpy()), {}),
    "names": (lambda left, right: {"l": left, "r": right, "labels": labels()}, {"inputs": ["l", "r"]}),
    "keywords": (
        lambda left, right: {"l": left, "r": right, "labels": labels()},
        {"inputs": {"left": "l", "right": "r"}},
    ),
    "keywords in another order": (
        lambda left, right: {"images": left, "r": right, "labels": labels()},
        {"inputs": {"right": "r", "left": "images"}},
    ),
    "loader": (as_loader, {}),
}


@pytest.fixture(scope="module")
def pair():
    """The two-input network, and what it is in two of its forms."""
    model = made(Pair)
    return model, numbers(audited(model, ((pair_data()), labels())))


@pytest.mark.parametrize("form", PAIRS)
def test_two_inputs_in_any_form(pair, form):
    model, expected = pair
    make, keys = PAIRS[form]
    assert numbers(audited(model, make(*pair_data()), **keys)) == expected


def test_what_two_inputs_give(pair):
    """Against the sums themselves; of several units a verdict shows the one in the middle."""
    model, found = pair
    left, right = pair_data()
    with torch.no_grad():
        rows = (model.stem(left) == 0).float().mean((0, 2, 3))
        skip = model.stem(left) * 0.5 + model.second(right)
        share = share_of(model.branch(skip), skip)
    assert found["rows", "stem.0"][0] == pytest.approx(float(rows.sort().values[1]))
    assert found["share", "#add.1"][0] == pytest.approx(share, rel=1e-4)


def test_the_same_image_twice():
    """It is one input, whatever reads it."""
    model, left = made(Pair), images()
    assert numbers(audited(model, (left, labels()), inputs=["images", "images"])) == numbers(
        audited(model, ((left, left), labels()))
    )
    report = audited(model, (left, labels()), inputs=["images", "images"])
    assert report.model["inputs"] == ["images"]
    assert report.model["sites"] == {"conv": 3, "head": 1, "merge": 1, "pool": 1, "residual": 1}


def share_of(branch, skip):
    """Cov(branch, sum) / Var(sum), both summed over channels."""
    total = branch + skip
    branch, total = (x - x.mean((0, 2, 3), keepdim=True) for x in (branch, total))
    return float((branch * total).sum() / total.square().sum())


def test_two_inputs_from_an_archive(pair, tmp_path):
    model, expected = pair
    left, right = (x.numpy() for x in pair_data())
    np.savez(tmp_path / "pairs.npz", after=right, before=left, labels=labels().numpy())
    report = audited(model, tmp_path / "pairs.npz", inputs=["before", "after"])
    assert numbers(report) == expected
    assert report.model["inputs"] == ["before", "after"]
    with pytest.raises(LoadError, match=r"pairs.npz: no array 'later'; it has after, before, labels"):
        audited(model, tmp_path / "pairs.npz", inputs=["before", "later"])


class AsDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = made(Pair)

    def forward(self, batch):
        return self.net(batch["left"], batch["right"])


def test_one_argument_that_is_a_mapping(pair):
    left, right = pair_data()
    expected = {
        (rule, f"net.{site}" if not site.startswith("#") else f"net{site}"): told
        for (rule, site), told in pair[1].items()
    }
    report = audited(AsDict(), ({"left": left, "right": right}, labels()))
    assert numbers(report) == expected
    named = {"a": left, "b": right, "labels": labels()}
    assert numbers(audited(AsDict(), named, inputs=[{"left": "a", "right": "b"}])) == expected


class Conditioned(Net):
    """Next to the image a number of the place where it was taken, or a vector of measurements."""

    def __init__(self, *, whole):
        super().__init__()
        self.side = nn.Embedding(5, 4) if whole else nn.Linear(2, 4)

    def forward(self, x, side):
        return self.tail(self.stem(x) + self.side(side)[:, :, None, None])


@pytest.mark.parametrize("whole", [True, False])
def test_a_number_or_a_vector_beside_the_image(whole):
    model, x = made(lambda: Conditioned(whole=whole)), images()
    side = torch.arange(COUNT) % 5 if whole else torch.stack([torch.arange(COUNT) % 2, torch.ones(COUNT)], 1).float()
    data = {"images": x, "side": side, "labels": labels()}
    report = audited(model, data, inputs=["images", "side"])
    found = numbers(report)
    with torch.no_grad():
        skip = model.stem(x) + model.side(side)[:, :, None, None]
        assert found["share", "#add.0"][0] == pytest.approx(share_of(model.branch(skip), skip), rel=1e-4)
    assert report.model["inputs"] == ["images", "side"]


def test_what_is_wrong_with_inputs_is_said():
    model, (left, right) = made(Pair), pair_data()
    with pytest.raises(GraphError, match=r"Pair does not run on a batch of shape \(16, 1, 8, 8\).*missing"):
        audited(model, (left, labels()))
    with pytest.raises(LoadError, match=r"66 images but 65 of images.1|66 images but"):
        audited(model, ((left, right[1:]), labels()))
    with pytest.raises(LoadError, match="holds NaN or Inf"):
        audited(model, ((left, right / 0), labels()))


class Stacked(nn.Module):
    """The same network to which both images are channels of one."""

    def __init__(self, pair):
        super().__init__()
        self.pair = pair

    def forward(self, x):
        return self.pair(x[:, :1], x[:, 1:])


def test_other_runs_of_a_network_with_two_inputs():
    """Blocks are left out, and both images shifted together, as if they were one of two channels."""
    model, left, right = made(Pair), images(100, 10, seed=1), images(100, 10, seed=2)
    found = numbers(audited(model, ((left, right), labels(100)), OTHER_RUNS, sampling={"crop": 8}))
    both = torch.cat([left, right], 1)
    expected = numbers(audited(Stacked(model), (both, labels(100)), OTHER_RUNS, sampling={"crop": 8}))
    expected = {(rule, site.removeprefix("pair").removeprefix(".")): told for (rule, site), told in expected.items()}
    assert {rule for rule, _ in found} == {"without", "mean", "agree", "moves", "any"}
    nearly(found, expected, 1e-5)
    assert found["without", "#add.1"][0] > 0
    assert 0 < found["moves", "second"][0] < 1e-9  # away from its border a convolution follows every shift


# --- what comes out --------------------------------------------------------------------------------------


@dataclasses.dataclass
class Prediction:
    scores: torch.Tensor
    maps: torch.Tensor


torch.export.register_dataclass(Prediction, serialized_type_name="tests.Prediction")


class Returning(Net):
    """Two heads, for three and for four numbers an image, and the maps; ``form`` says how they are returned."""

    def __init__(self, form):
        super().__init__()
        self.boxes, self.form = nn.Linear(4, 4), form

    def forward(self, x):
        maps = self.stem(x)
        pooled = maps.mean((2, 3))
        return self.form(self.fc(pooled), self.boxes(pooled), maps)


FORMS = {
    "tuple": (lambda scores, boxes, maps: (scores, boxes), {None: "fc", "0": "fc", "1": "boxes"}),
    "maps first": (lambda scores, boxes, maps: (maps, scores), {None: "fc", "1": "fc"}),
    "mapping": (lambda scores, boxes, maps: {"boxes": boxes, "logits": scores}, {None: "fc", "boxes": "boxes"}),
    "nested": (
        lambda scores, boxes, maps: {"heads": [boxes, {"scores": scores}], "maps": maps},
        {None: "boxes", "heads.1.scores": "fc", "heads.1": "fc"},
    ),
    "dataclass": (lambda scores, boxes, maps: Prediction(scores, maps), {None: "fc", "scores": "fc"}),
    "one of a list": (lambda scores, boxes, maps: [scores], {None: "fc", "0": "fc"}),
    "segmentation": (lambda scores, boxes, maps: {"out": maps * 2, "aux": scores}, {None: "output", "aux": "fc"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_which_output_holds_the_logits(form):
    make, heads = FORMS[form]
    model = made(lambda: Returning(make))
    for head, path in heads.items():
        report = audited(model, (images(), labels()), RULES[-1:], **({} if head is None else {"head": head}))
        assert report.model["head"] == path, head
        assert [v.site for v in report.verdicts if v.rule == "kept"] == [path]


def test_a_network_may_have_no_logits():
    """Its labels may then be more than it has outputs."""
    model, far = made(lambda: Returning(FORMS["tuple"][0])), labels() * 50
    with pytest.raises(LoadError, match=r"label 100 is out of range: fc, .* tells 3 classes.* head: false"):
        audited(model, (images(), far), RULES[:1])
    report = audited(model, (images(), far), RULES[:1], head=False)
    assert report.model["head"] == ""
    assert "head" not in report.model["sites"]


@pytest.mark.parametrize(
    ("form", "head", "message"),
    [
        ("tuple", "2", "head: 2 is none of the model's outputs; the outputs are 0, 1"),
        ("tuple", "logits", "head: logits is none of the model's outputs; the outputs are 0, 1"),
        ("nested", "heads", "head: heads holds 2 values; the outputs are heads.0, heads.1.scores, maps"),
        ("dataclass", "boxes", "head: boxes is none of the model's outputs; the outputs are scores, maps"),
    ],
)
def test_an_output_that_is_not_there_is_told(form, head, message):
    with pytest.raises(GraphError) as told:
        audited(made(lambda: Returning(FORMS[form][0])), (images(), labels()), RULES[:1], head=head)
    assert str(told.value) == message


def test_a_network_of_one_output_needs_no_head():
    with pytest.raises(GraphError, match="head: out is none of the model's outputs; the outputs are one value"):
        audited(made(Net), (images(), labels()), RULES[:1], head="out")


# --- in whatever state it comes --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def usual():
    return numbers(audited(made(Net), (images(), labels())))


def test_dropout_and_norms_are_those_of_evaluation(usual):
    model = made(Net).train()
    modes = {name: module.training for name, module in model.named_modules()}
    before = copy.deepcopy(model.state_dict())
    assert numbers(audited(model, (images(), labels()))) == usual
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_network_that_stays_random_is_refused():
    class Random(Net):
        def forward(self, x):
            return self.tail(F.dropout(self.stem(x), 0.5, training=True))

    with pytest.raises(GraphError, match=r"computes something else than the model: .* Does the model draw random"):
        audited(made(Random), (images(), labels()))


def test_channels_last(usual):
    model = made(Net).to(memory_format=torch.channels_last)
    nearly(numbers(audited(model, (images().to(memory_format=torch.channels_last), labels()))), usual, 1e-5)
    assert model.branch.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.05)])
def test_half_precision(usual, dtype, tolerance):
    model = made(Net).to(dtype)
    report = audited(model, (images(), labels()))
    assert report.settings["dtype"] == str(dtype).removeprefix("torch.")
    nearly(numbers(report), usual, tolerance)


def test_double_precision(usual):
    nearly(numbers(audited(made(Net).double(), (images(), labels()))), usual, 1e-4)


def test_frozen_norms(usual):
    frozen = made(Net)
    norm = FrozenBatchNorm2d(4)
    norm.load_state_dict({k: v for k, v in frozen.stem[1].state_dict().items() if k != "num_batches_tracked"})
    frozen.stem[1] = norm
    frozen.requires_grad_(requires_grad=False)
    nearly(numbers(audited(frozen, (images(), labels()))), usual, 1e-5)


def test_a_network_that_is_spread_or_compiled(usual):
    assert numbers(audited(nn.DataParallel(made(Net)), (images(), labels()))) == usual
    assert numbers(audited(torch.compile(made(Net)), (images(), labels()))) == usual


class OfFour(Net):
    """It can only take four images at a time."""

    def forward(self, x):
        return self.fc(torch.relu(self.stem(x) + self.branch(self.stem(x))).reshape(4, 4, -1).mean(2))


def test_a_network_of_a_fixed_number_of_images():
    class OfAny(OfFour):
        def forward(self, x):
            return self.fc(torch.relu(self.stem(x) + self.branch(self.stem(x))).flatten(2).mean(2))

    sampling = {"block": 4}
    expected = numbers(audited(made(OfAny), (images(), labels()), sampling=sampling))
    assert numbers(audited(made(OfFour), (images(), labels()), sampling=sampling)) == expected


# --- exported programs -----------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CNNAUDIT_ALLOW_IMPORT", raising=False)
    return tmp_path


def export(model, example, shapes=None):
    torch.export.save(torch.export.export(model, example, dynamic_shapes=shapes, strict=False), "model.pt2")


def of_file(folder, rules, *, trust_model=True, **keys):
    """Audit what a rule file names."""
    sampling = {"looks": 1, **keys.pop("sampling", {})}
    rules = [*rules, {"id": "any", "metric": "stable_rank", "min": 0}]
    spec = {"cnnaudit": 1, "model": "model.pt2", "data": "data.npz", "rules": rules, "sampling": sampling, **keys}
    (folder / "flow.audit.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    return cnnaudit.audit(folder / "flow.audit.yaml", trust_model=trust_model)


BATCH, SIDE = torch.export.Dim("batch", min=2, max=1024), torch.export.Dim("side", min=6, max=64)


@pytest.mark.parametrize(
    ("shapes", "block"),
    [(({0: BATCH},), 16), (None, 4), (({0: BATCH, 2: SIDE, 3: SIDE},), 16)],
    ids=["any number", "four", "any size"],
)
def test_an_exported_program(here, shapes, block):
    """It holds no dropout and the same numbers; one for four images is run with four at a time."""
    model, x = made(Net), images()
    export(model, (torch.zeros(4, 1, 8, 8),), shapes)
    np.savez("data.npz", images=x.numpy(), labels=labels().numpy())
    report = of_file(here, RULES)
    assert report.settings["block"] == block
    assert report.model["exported"] is True
    expected = numbers(audited(model, (x, labels()), sampling={"block": block}))
    nearly(numbers(report), expected, 1e-5)


@pytest.mark.parametrize("count", [4, None])
def test_other_runs_of_an_exported_program(here, count):
    model, x = made(Net), images(100, 10)
    export(model, (torch.zeros(4, 1, 8, 8),), None if count else ({0: BATCH},))
    np.savez("data.npz", images=x.numpy(), labels=labels(100).numpy())
    found = numbers(of_file(here, OTHER_RUNS, sampling={"crop": 8}))
    assert {rule for rule, _ in found} == {"without", "mean", "agree", "moves", "any"}
    sampling = {"crop": 8, "block": count or 16}
    nearly(found, numbers(audited(model, (x, labels(100)), OTHER_RUNS, sampling=sampling)), 1e-5)


def test_an_exported_program_of_two_inputs_that_returns_a_mapping(here, pair):
    class Told(Pair):
        def forward(self, left, right):
            return {"logits": super().forward(left, right), "second": right}

    left, right = pair_data()
    export(made(Told), (torch.zeros(4, 1, 8, 8), torch.ones(4, 1, 8, 8)), ({0: BATCH}, {0: BATCH}))
    np.savez("data.npz", left=left.numpy(), right=right.numpy(), labels=labels().numpy())
    report = of_file(here, RULES, inputs=["left", "right"], head="logits")
    nearly(numbers(report), pair[1], 1e-5)
    assert report.model["head"] == "fc"
    with pytest.raises(GraphError, match=r"the program takes 2 inputs, .* say how under inputs:"):
        of_file(here, RULES, inputs=["left"])


def test_an_exported_program_has_no_twin(here):
    """Its modules have no weights to start anew with."""
    export(made(Net), (torch.zeros(4, 1, 8, 8),))
    np.savez("data.npz", images=images().numpy(), labels=labels().numpy())
    with pytest.raises(LoadError, match="null: twin: an exported program has no layers that could start anew"):
        of_file(here, [{**RULES[0], "null": "twin"}])


def test_an_exported_program_without_leave_or_of_another_size(here):
    export(made(Net), (torch.zeros(4, 1, 8, 8),))
    np.savez("data.npz", images=images(side=9).numpy(), labels=labels().numpy())
    with pytest.raises(LoadError, match=r"model.pt2: torch unpickles exported programs, .* add --trust-model"):
        of_file(here, RULES, trust_model=False)
    with pytest.raises(GraphError, match=r"was exported for images of shape \(1, 8, 8\), and these are of \(1, 9, 9\)"):
        of_file(here, RULES)
