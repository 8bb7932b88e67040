import random

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from cnnaudit.errors import GraphError
from cnnaudit.graph import ModelGraph, capture

EXAMPLE = torch.zeros(2, 3, 16, 16)


pytestmark = pytest.mark.usefixtures("one_thread")


class Forward(nn.Module):
    """A module of one convolution and any function after it."""

    def __init__(self, function):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.function = function

    def forward(self, x):
        return self.function(self.conv(x))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3, 3, 3))
        self.head = nn.Parameter(torch.randn(5, 6))

    def forward(self, x):
        out = F.relu_(F.conv2d(x, self.weight, padding=1))
        out += F.max_pool2d(out, 3, 1, 1)
        return F.linear(F.adaptive_avg_pool2d(out, 1).flatten(1), self.head)


def test_the_graph_computes_what_the_model_computes_at_any_batch_size():
    model = Functional()
    graph = capture(model, EXAMPLE)
    assert graph.batch is None
    assert graph.input_shape == (3, 16, 16)
    images = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(fx.Interpreter(graph.module).run(images), model.eval()(images))
        assert torch.equal(fx.Interpreter(graph.module).run(images[:1]), model(images[:1]))


def test_the_graph_shares_the_model_s_parameters_and_buffers():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    module = capture(model, EXAMPLE).module
    assert module.get_parameter("0.weight") is model[0].weight
    assert module.get_buffer("1.running_mean") is model[1].running_mean


def test_in_place_operators_are_gone():
    module = capture(Functional(), EXAMPLE).module
    names = [str(n.target) for n in module.graph.nodes if n.op == "call_function"]
    assert not [name for name in names if name.split(".")[1].endswith("_")]


def test_returned_structures_are_kept_and_flatten_in_the_same_order():
    model = Forward(lambda x: {"b": x, "a": (x.mean((2, 3)), None)})
    graph = capture(model, EXAMPLE)
    with torch.no_grad():
        captured, eager = fx.Interpreter(graph.module).run(EXAMPLE), model(EXAMPLE)
    assert list(captured) == ["b", "a"]
    assert captured["a"][1] is None
    pairs = zip(ModelGraph.output_tensors(captured), ModelGraph.output_tensors(eager), strict=True)
    assert [torch.equal(left, right) for left, right in pairs] == [True, True]


@pytest.mark.parametrize(
    ("function", "batch"),
    [
        (lambda x: x.flatten(1), None),
        (lambda x: torch.stack([image * 2 for image in x]), 2),  # export finds by itself that it is fixed
        (lambda x: x * {2: 0.5, 4: 0.25}[x.shape[0]], 2),  # only an export of a fixed batch knows the key
    ],
    ids=["dynamic", "loop", "key"],
)
def test_a_model_that_fixes_its_batch_size_is_captured_with_it(function, batch):
    model = Forward(function)
    images = torch.randn(2, 3, 16, 16)
    graph = capture(model, images)
    assert graph.batch == batch
    with torch.no_grad():
        assert torch.equal(fx.Interpreter(graph.module).run(images), model(images))


def _state(model, example):
    modules = list(model.modules())
    return {
        "modes": [m.training for m in modules],
        "attributes": [{k: v for k, v in vars(m).items() if not isinstance(v, dict)} for m in modules],
        "dicts": [{k: dict(v) for k, v in vars(m).items() if isinstance(v, dict)} for m in modules],
        "identities": [{k: id(v) for k, v in vars(m).items()} for m in modules],
        "gradients": [p.requires_grad for p in model.parameters()],
        "values": [v.tolist() for v in model.state_dict().values()],
        "random": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),  # noqa: NPY002 - the global state
        "grad_mode": torch.is_grad_enabled(),
        "example": (dict(vars(example)), example.tolist()),
    }


class Remembering(nn.Module):
    """Draws, keeps what it computed, counts its calls and then does what it is told."""

    def __init__(self, then):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.calls = 0
        self.cache = {}
        self.then = then

    def forward(self, x):
        self.calls += 1
        self.last = self.conv(x)
        self.cache["last"] = self.last
        return self.then(self.norm(self.last) + torch.rand(()))


@pytest.mark.parametrize(
    ("then", "fails"), [(lambda x: x, False), (lambda x: x if x.sum() > 0 else -x, True)], ids=["sound", "failing"]
)
def test_the_model_and_the_random_state_are_as_before(then, fails):
    model = Remembering(then)
    model.train()
    model.norm.eval()  # a frozen batch norm inside a training model
    model.norm.weight.requires_grad_(False)  # noqa: FBT003 - torch's signature
    model.conv.register_forward_hook(lambda *_: None)
    example = torch.randn(2, 3, 16, 16)
    before = _state(model, example)
    if fails:
        with pytest.raises(GraphError):
            capture(model, example)
    else:
        capture(model, example)
    assert _state(model, example) == before
    assert not hasattr(model, "last")
    assert [m.training for m in model.modules()] == [True, True, False]


def test_evaluation_mode_holds_while_capturing():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9)).train()
    graph = capture(model, EXAMPLE)
    images = torch.randn(4, 3, 16, 16)
    captured = fx.Interpreter(graph.module).run(images)
    assert torch.equal(captured, model.eval()(images))


def test_a_model_that_runs_without_gradients_hides_nothing():
    model = Forward(torch.no_grad()(lambda x: F.max_pool2d(F.relu(x), 2)))
    assert [site.op for site in capture(model, EXAMPLE).sites] == ["input", "conv", "pool", "head"]


def test_a_branch_on_values_is_explained(capfd):
    with pytest.raises(GraphError) as raised:
        capture(Forward(lambda x: x if x.sum() > 0 else -x), EXAMPLE)
    message = str(raised.value).splitlines()
    assert message[0].startswith(
        "Forward cannot be captured as a graph: GuardOnDataDependentSymNode: Could not guard on data-dependent"
    )
    assert message[1] == (
        "torch.export follows the forward without data: it cannot branch on a tensor's values "
        "(`if x.sum() > 0`, `.item()`, `.numpy()`). Replace such code by torch.where or a constant, "
        "or audit a part of the model that has none: `part:` of `model:` names it (conv)."
    )
    assert len(message) == 2
    assert capfd.readouterr() == ("", "")


def test_a_wrong_input_is_explained():
    with pytest.raises(GraphError) as raised:
        capture(nn.Conv2d(4, 4, 3), EXAMPLE)
    message = str(raised.value).splitlines()
    assert message[0].startswith("Conv2d does not run on a batch of shape (2, 3, 16, 16): RuntimeError: ")
    assert message[1:] == ["Give it images of the size, channels and type it was trained with."]


def test_one_image_is_refused():
    with pytest.raises(GraphError, match=r"capturing Conv2d needs a batch of at least 2 images, got 1$"):
        capture(nn.Conv2d(3, 4, 3), EXAMPLE[:1])


def test_an_unknown_path_is_an_error():
    with pytest.raises(GraphError, match="the model has no site 'nowhere'"):
        capture(Functional(), EXAMPLE).site("nowhere")
