"""Memory is used again where that changes nothing: every network here tempts the runner to overwrite something."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from cnnaudit.data import Block
from cnnaudit.graph import ModelGraph, capture
from cnnaudit.site import Variant
from cnnaudit.statistics import ActivityTally, Probe
from cnnaudit.stream import Folding
from cnnaudit.stream.runner import Runner

ATEN = torch.ops.aten


def conv_norm(seed=0, **options):
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(4, **options)
    for statistic in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        if statistic is not None:
            nn.init.uniform_(statistic, 0.5, 1.5)
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), norm)


class Net(nn.Module):
    def __init__(self, function, **options):
        super().__init__()
        self.one, self.two, self.function = conv_norm(0, **options), conv_norm(1, **options), function

    def forward(self, x):
        return self.function(self, x)


def gate(net, x):
    y = functional.hardswish(net.one(x))
    return torch.sigmoid(y.mean((2, 3), keepdim=True)) * y


def used_again(net, x):
    y = net.one(x)
    return functional.relu(y) + y


def view_lives_on(net, x):
    y = net.one(x)
    seen = y.transpose(2, 3)
    return functional.relu(y) * 2 + net.two(seen)


def slice_lives_on(net, x):
    y = net.one(x)
    half = y[:, :2]
    z = functional.silu(y)
    return torch.cat([z, half], 1)


def slice_is_rectified(net, x):
    y = net.one(x)
    return torch.cat([functional.relu(y[:, :2]), y], 1)


def added_to_itself(net, x):
    y = net.one(x)
    return y + y


def input_is_added(net, x):
    return x + net.one(x) + x


def broadcast(net, x):
    y = net.one(x)
    return y.mean((2, 3), keepdim=True) + net.two(y)


def scaled_addition(net, x):
    return torch.add(net.one(x), net.two(x), alpha=3)


def other_type(net, x):
    y = net.one(x)
    return (y > 0) * y + (y > 1)


def chunks(net, x):
    a, b = net.one(x).chunk(2, 1)
    return torch.cat([functional.relu(a), a * b, b], 1)


NETS = [
    gate,
    used_again,
    view_lives_on,
    slice_lives_on,
    slice_is_rectified,
    added_to_itself,
    input_is_added,
    broadcast,
    scaled_addition,
    other_type,
    chunks,
]


def run(model, x, probes_of=lambda graph: ()):
    graph = capture(model, x)
    probes = probes_of(graph)
    runner, folding = Runner(graph, probes), Folding(probes, 1, 0)
    ids = torch.arange(len(x))
    block = Block(images=x, labels=None, ids=ids, number=0, sources=ids)
    folding.start(block)
    (output,) = ModelGraph.output_tensors(runner.run_block([x], block, 0, folding))
    folding.settle()
    return runner, output


@pytest.fixture
def images():
    return torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.1}], ids=str)
@pytest.mark.parametrize("function", NETS, ids=lambda f: f.__name__)
@torch.no_grad()
def test_the_output_is_the_networks(function, options, images):
    model = Net(function, **options).eval()
    kept = images.clone()
    _, output = run(model, images)
    torch.testing.assert_close(output, model(images), rtol=1e-5, atol=1e-5)
    assert torch.equal(images, kept)


@pytest.mark.parametrize("function", NETS, ids=lambda f: f.__name__)
@torch.no_grad()
def test_runs_that_fork_off_leave_its_values_to_the_network(function, images):
    model = Net(function).eval()

    def without_each_convolution(graph):
        head = graph.sites[-1]
        nodes = [site.taps["output"].node for site in graph.sites if site.op == "conv"]
        taps = {f"without{i}": replace(head.taps["output"], variant=Variant(n, "zero")) for i, n in enumerate(nodes)}
        return [Probe(ActivityTally, head.with_taps({tap: other}), (tap,)) for tap, other in taps.items()]

    _, output = run(model, images, without_each_convolution)
    torch.testing.assert_close(output, model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_run_that_forks_off_reckons_as_the_network_does(kind, images):
    """A branch that is zero anyway changes not a bit where it is taken out."""

    def residual(net, x):
        return functional.relu(net.one(x) + net.two[0](net.one(x)) * 0)

    model = nn.Sequential(Net(residual), conv_norm(3)).eval().to(kind)
    graph = capture(model, images.to(kind))
    add = next(site for site in graph.sites if site.op in ("residual", "merge"))
    node = add.taps.get("branch", add.taps.get("right")).node
    head = graph.sites[-1]
    site = head.with_taps({"without": replace(head.taps["output"], variant=Variant(node, "zero"))})
    kept = {}

    folding = Folding([], 1, 0)
    folding.take = lambda probe, view: kept.update(view.tensors)
    runner = Runner(graph, [Probe(ActivityTally, site, ("output", "without"))])
    ids = torch.arange(3)
    runner.run_block(
        [images.to(kind)], Block(images=images.to(kind), labels=None, ids=ids, number=0, sources=ids), 0, folding
    )
    assert torch.equal(kept["output"], kept["without"])


@torch.no_grad()
def test_norm_activation_and_gate_write_over_their_input(images):
    runner, _ = run(Net(gate).eval(), images)
    replaced = {n.target for n in runner.targets if n.op == "call_function" and runner.targets[n] is not n.target}
    assert replaced >= {ATEN.hardswish.default, ATEN.mul.Tensor, ATEN._native_batch_norm_legit_no_training.default}


@pytest.mark.parametrize(
    ("function", "operator"),
    [(used_again, ATEN.relu.default), (view_lives_on, ATEN.relu.default), (slice_lives_on, ATEN.silu.default)],
    ids=lambda given: getattr(given, "__name__", ""),
)
@torch.no_grad()
def test_what_is_still_needed_is_not_overwritten(function, operator, images):
    runner, _ = run(Net(function).eval(), images)
    (node,) = [n for n in runner.targets if n.target is operator]
    assert runner.targets[node] is operator


@torch.no_grad()
def test_a_norm_of_another_precision_than_its_map_keeps_its_own_operator(images):
    model = Net(lambda net, x: net.one(x)).eval()
    model.one[0].to(torch.bfloat16)
    runner, output = run(model, images.bfloat16())
    (norm,) = [n for n in runner.targets if n.target is ATEN._native_batch_norm_legit_no_training.default]
    assert runner.targets[norm] is norm.target
    torch.testing.assert_close(output, model(images.bfloat16()), rtol=0.02, atol=0.02)
