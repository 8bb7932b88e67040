from collections import Counter

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torchvision import models
from torchvision.models.resnet import BasicBlock

from cnnaudit.graph import capture, find_sites
from cnnaudit.site import Op

RELU = ((0.0,), True)
SIGNED = ((), False)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Net(nn.Module):
    """Layers by name and what to do with them."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


def sites_of(model, *size, channels=3):
    return capture(model, torch.zeros(2, channels, *size)).sites


def site_of(model, path, *size, channels=3):
    return capture(model, torch.zeros(2, channels, *size)).site(path)


def values(graph, images):
    """All values of a graph by the names of their nodes."""

    class Recorder(fx.Interpreter):
        def run_node(self, n):
            found[n.name] = super().run_node(n)
            return found[n.name]

    found = {}
    with torch.no_grad():
        Recorder(graph.module).run(images)
    return found


def known(tap):
    return tap.atoms, tap.nonnegative


# --- counts in whole networks ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", {"conv": 20, "residual": 8, "pool": 2, "head": 1}),
        ("resnet50", {"conv": 53, "residual": 16, "pool": 2, "head": 1}),
        ("resnet152", {"conv": 155, "residual": 50, "pool": 2, "head": 1}),
        ("densenet121", {"conv": 120, "concat": 58, "pool": 5, "head": 1}),
        ("googlenet", {"conv": 57, "concat": 9, "pool": 14, "head": 1}),
        ("vgg11", {"conv": 8, "pool": 6, "linear": 2, "head": 1}),
        ("mobilenet_v2", {"conv": 52, "residual": 10, "pool": 1, "head": 1}),
        ("mobilenet_v3_small", {"conv": 52, "residual": 6, "gate": 9, "pool": 10, "linear": 1, "head": 1}),
        ("convnext_tiny", {"conv": 22, "residual": 18, "pool": 1, "linear": 36, "head": 1}),
        ("efficientnet_b0", {"conv": 81, "residual": 9, "gate": 16, "pool": 17, "head": 1}),
        ("squeezenet1_1", {"conv": 26, "concat": 8, "pool": 4, "head": 1}),
    ],
)
def test_counts(name, expected):
    extra = {"init_weights": False} if name == "googlenet" else {}
    graph = capture(models.get_model(name, weights=None, **extra), torch.zeros(2, 3, 64, 64))
    assert Counter(site.op for site in graph.sites) == expected
    assert len({site.path for site in graph.sites}) == len(graph.sites)
    assert [site.is_global for site in graph.sites if site.op is Op.POOL].count(True) == 1 + expected.get("gate", 0) - (
        name == "vgg11"  # its adaptive pool makes 7x7 maps
    )


def test_resnet18_in_detail():
    graph = capture(models.resnet18(weights=None), torch.zeros(2, 3, 64, 64))
    maxpool, stem, last = graph.site("maxpool"), graph.site("conv1"), graph.site("layer4.1.conv2")
    assert (maxpool.operator, maxpool.kernel, maxpool.stride, maxpool.padding) == ("max", (3, 3), (2, 2), (1, 1))
    assert (stem.receptive_field, maxpool.receptive_field) == ((7, 7), (11, 11))
    assert graph.site("layer2.0.conv1").receptive_field == (51, 51)
    assert last.receptive_field == (64, 64)  # 435 pixels at most, the image has 64
    assert (stem.depth, last.depth, graph.site("fc").depth) == (1, 17, 18)
    assert [s.path for s in graph.sites if s.op is Op.RESIDUAL] == [
        f"layer{stage}.{block}#add.0" for stage in (1, 2, 3, 4) for block in (0, 1)
    ]
    assert {s.path for s in graph.sites if s.op is Op.CONV and s.downsamples} == {
        "conv1",
        *(f"layer{stage}.0.{conv}" for stage in (2, 3, 4) for conv in ("conv1", "downsample.0")),
    }
    assert find_sites(graph.module)[0].path == "conv1"


def test_receptive_field_of_a_large_image_is_that_of_the_literature():
    site = site_of(models.resnet18(weights=None), "layer4.1.conv2", 448, 448)
    assert site.receptive_field == (435, 435)


# --- one network that has no module but a shared activation ----------------------------------------


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.stem = nn.Parameter(torch.randn(8, 3, 5, 5))
        self.first = nn.Parameter(torch.randn(8, 8, 3, 3))
        self.second = nn.Parameter(torch.randn(8, 4, 3, 3))
        self.excite = nn.Parameter(torch.randn(16, 16, 1, 1))
        self.scores = nn.Parameter(torch.randn(5, 16))

    def forward(self, x):
        x = F.max_pool2d(self.relu(F.conv2d(x, self.stem, stride=2, padding=2)), 2)
        identity = x
        out = self.relu(F.conv2d(x, self.first, padding=1))
        out = F.conv2d(out, self.second, padding=2, dilation=2, groups=2)
        out += identity
        out = self.relu(out)
        out = torch.cat([out, F.avg_pool2d(out, 3, 1, 1)], 1)
        out = out * F.conv2d(out.mean((2, 3), keepdim=True), self.excite).sigmoid()
        return F.linear(F.adaptive_avg_pool2d(out, 1).flatten(1), self.scores)


def test_every_fact_of_a_functional_network():
    graph = capture(Functional(), torch.zeros(2, 3, 48, 48))
    facts = {
        s.path: (s.op, s.units, s.kernel, s.stride, s.padding, s.dilation, s.groups, s.receptive_field[0], s.rank, s.depth)
        for s in graph.sites
    }
    assert facts == {
        "#conv.0": ("conv", 8, (5, 5), (2, 2), (2, 2), (1, 1), 1, 5, 8, 1),
        "#max_pool.0": ("pool", 8, (2, 2), (2, 2), (0, 0), (1, 1), 1, 7, 0, 1),
        "#conv.1": ("conv", 8, (3, 3), (1, 1), (1, 1), (1, 1), 1, 15, 8, 2),
        "#conv.2": ("conv", 8, (3, 3), (1, 1), (2, 2), (2, 2), 2, 31, 8, 3),
        "#add.0": ("residual", 8, (), (), (), (), 1, 31, 0, 3),
        "#avg_pool.0": ("pool", 8, (3, 3), (1, 1), (1, 1), (1, 1), 1, 39, 0, 3),
        "#cat.0": ("concat", 16, (), (), (), (), 1, 39, 0, 3),
        "#avg_pool.1": ("pool", 16, (12, 12), (12, 12), (0, 0), (1, 1), 1, 48, 0, 3),
        "#conv.3": ("conv", 16, (1, 1), (1, 1), (0, 0), (1, 1), 1, 48, 16, 4),
        "#mul.0": ("gate", 16, (), (), (), (), 1, 39, 0, 4),
        "#avg_pool.2": ("pool", 16, (12, 12), (12, 12), (0, 0), (1, 1), 1, 48, 0, 4),
        "#linear.0": ("head", 5, (), (), (), (), 1, 48, 5, 5),
    }
    assert list(facts) == [site.path for site in graph.sites]
    taps = {s.path: {name: (t.shape, *known(t)) for name, t in s.taps.items()} for s in graph.sites}
    big, small, cat, vector = (8, 24, 24), (8, 12, 12), (16, 12, 12), (16, 1, 1)
    assert taps == {
        "#conv.0": {"input": ((3, 48, 48), *SIGNED), "output": (big, *SIGNED), "response": (big, *RELU)},
        "#max_pool.0": {"input": (big, *RELU), "output": (small, *RELU)},
        "#conv.1": {"input": (small, *RELU), "output": (small, *SIGNED), "response": (small, *RELU)},
        "#conv.2": {"input": (small, *RELU), "output": (small, *SIGNED), "response": (small, *SIGNED)},
        "#add.0": {"skip": (small, *RELU), "branch": (small, *SIGNED), "sum": (small, *SIGNED)},
        "#avg_pool.0": {"input": (small, *RELU), "output": (small, *RELU)},
        "#cat.0": {"input0": (small, *RELU), "input1": (small, *RELU), "output": (cat, *RELU)},
        "#avg_pool.1": {"input": (cat, *RELU), "output": (vector, *RELU)},
        "#conv.3": {"input": (vector, *RELU), "output": (vector, *SIGNED), "response": (vector, (), True)},
        "#mul.0": {"input": (cat, *RELU), "gate": (vector, (), True), "output": (cat, *RELU)},
        "#avg_pool.2": {"input": (cat, *RELU), "output": (vector, *RELU)},
        "#linear.0": {"input": ((16,), *RELU), "output": ((5,), *SIGNED)},
    }
    assert [s.path for s in graph.sites if s.downsamples] == ["#conv.0", "#max_pool.0", "#avg_pool.1", "#avg_pool.2"]
    assert [s.path for s in graph.sites if s.is_global] == ["#avg_pool.1", "#avg_pool.2"]
    assert [s.operator for s in graph.sites if s.op is Op.POOL] == ["max", "avg", "avg", "avg"]


def test_tapped_values_are_those_of_a_hand_written_forward():
    torch.manual_seed(0)
    model = Functional()
    graph = capture(model, torch.zeros(2, 3, 48, 48))
    x = torch.randn(3, 3, 48, 48)
    found = values(graph, x)
    stem = F.relu(F.conv2d(x, model.stem, stride=2, padding=2))
    skip = F.max_pool2d(stem, 2)
    branch = F.conv2d(F.relu(F.conv2d(skip, model.first, padding=1)), model.second, padding=2, dilation=2, groups=2)
    taps = graph.site("#add.0").taps
    assert torch.equal(found[graph.site("#conv.0").taps["response"].node], stem)
    assert torch.equal(found[taps["skip"].node], skip)
    assert torch.equal(found[taps["branch"].node], branch)
    assert torch.equal(found[taps["sum"].node], branch + skip)


# --- additions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("projected", [False, True])
def test_skip_and_branch_of_a_basic_block(projected):
    torch.manual_seed(0)
    shortcut = nn.Sequential(nn.Conv2d(3, 6, 1, 2), nn.BatchNorm2d(6)) if projected else None
    block = BasicBlock(3, 6, 2, shortcut) if projected else BasicBlock(3, 3)
    graph = capture(block, torch.zeros(2, 3, 12, 12))
    x = torch.randn(4, 3, 12, 12)
    found, site = values(graph, x), graph.site("#add.0")
    block.eval()
    with torch.no_grad():
        branch = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
        skip = shortcut(x) if projected else x
    assert site.op is Op.RESIDUAL
    assert torch.equal(found[site.taps["branch"].node], branch)
    assert torch.equal(found[site.taps["skip"].node], skip)
    assert torch.equal(found[site.taps["sum"].node], branch + skip)


def conv(inputs=3, outputs=3, kernel=3, **options):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def additions(model):
    found = sites_of(model, 12, 12)
    return [(s.op, *(tap.node for tap in s.taps.values())) for s in found if s.op in (Op.RESIDUAL, Op.MERGE)]


def test_two_branches_of_one_convolution_have_no_skip():
    model = Net(lambda m, x: m.left(x) + m.right(x), left=conv(), right=conv(kernel=1))
    assert additions(model) == [("merge", "conv2d", "conv2d_1", "add_12")] or additions(model)[0][0] == "merge"


def test_a_chain_of_additions_is_one_site_with_its_last_sum():
    def repvgg(m, x):
        return m.wide(x) + m.narrow(x) + m.norm(x)

    model = Net(repvgg, wide=conv(), narrow=conv(kernel=1), norm=nn.BatchNorm2d(3))
    graph = capture(model, torch.zeros(2, 3, 12, 12))
    x = torch.randn(3, 3, 12, 12)
    found = values(graph, x)
    (site,) = [s for s in graph.sites if s.op in (Op.RESIDUAL, Op.MERGE)]
    assert (site.op, site.path) == ("residual", "#add.0")
    with torch.no_grad():
        assert torch.equal(found[site.taps["skip"].node], model.eval().norm(x))
        assert torch.equal(found[site.taps["branch"].node], model.wide(x) + model.narrow(x))


def test_branches_alone_in_a_chain_are_one_merge():
    model = Net(lambda m, x: m.a(x) + m.b(x) + m.c(x), a=conv(), b=conv(), c=conv())
    assert [op for op, *_ in additions(model)] == ["merge"]


def test_each_branch_added_to_a_skip_is_a_residual_addition():
    model = Net(lambda m, x: x + m.a(x) + m.b(x), a=conv(), b=conv())
    graph = capture(model, torch.zeros(2, 3, 12, 12))
    first, second = (s for s in graph.sites if s.op is Op.RESIDUAL)
    assert first.taps["skip"].node == "x"
    assert second.taps["skip"].node == first.taps["sum"].node
    assert second.taps["branch"].node == graph.site("b").taps["output"].node


def test_sum_starts_with_zero_and_dropout_is_nothing():
    model = Net(lambda m, x: sum([m.drop(x), m.a(x)]), a=conv(), drop=nn.Dropout())
    assert [op for op, *_ in additions(model)] == ["residual"]


@pytest.mark.parametrize("split", [lambda x: x.chunk(2, 1), lambda x: torch.split(x, [3, 3], 1)])
def test_parts_of_a_split_are_no_skips_of_each_other(split):
    def forward(m, x):
        left, right = split(m.wide(x))
        return m.deep(left) + right

    assert [op for op, *_ in additions(Net(forward, wide=conv(3, 6), deep=conv()))] == ["merge"]


def test_a_part_of_a_split_can_be_a_skip():
    def forward(m, x):
        left, _ = m.wide(x).chunk(2, 1)
        return m.deep(left) + left

    assert [op for op, *_ in additions(Net(forward, wide=conv(3, 6), deep=conv()))] == ["residual"]


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.a(x) + m.a(x).mean((2, 3), keepdim=True),  # broadcast
        lambda m, x: m.a(x) + m.a.bias[:, None, None],  # a constant
        lambda m, x: m.a(x) + 1,
        lambda m, x: (lambda y: y + y)(m.a(x)),  # twice itself
        lambda m, x: x.flatten(1) + m.a(x).flatten(1),  # vectors
    ],
)
def test_what_is_no_meeting_of_two_maps_is_no_site(forward):
    assert additions(Net(forward, a=conv())) == []


# --- responses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("follow", "expected"),
    [
        (F.relu, RELU),
        (F.relu6, ((0.0, 6.0), True)),
        (lambda x: F.hardtanh(x, -1, 2), ((-1.0, 2.0), False)),
        (lambda x: x.clamp(min=0), RELU),
        (lambda x: x.clamp_(0, 1), ((0.0, 1.0), True)),
        (lambda x: x.clamp(max=2), ((2.0,), False)),
        (lambda x: F.threshold(x, 0.5, 0.25), ((0.25,), True)),
        (F.sigmoid, ((), True)),
        (F.softplus, ((), True)),
        (F.hardsigmoid, ((0.0, 1.0), True)),
        (F.hardswish, ((0.0,), False)),
        (lambda x: x * F.relu6(x + 3) / 6, ((0.0,), False)),
        (lambda x: x * (F.relu6(x + 3) / 6), ((0.0,), False)),
        (lambda x: x * torch.sigmoid(x), SIGNED),
        (F.silu, SIGNED),
        (F.mish, SIGNED),
        (F.gelu, SIGNED),
        (F.elu, SIGNED),
        (F.leaky_relu, SIGNED),
        (F.tanh, SIGNED),
    ],
)
def test_activations_end_a_response(follow, expected):
    graph = capture(Net(lambda m, x: m.b(follow(m.a(x))), a=conv(), b=conv()), torch.zeros(2, 3, 8, 8))
    response = graph.site("a").taps["response"]
    x = torch.randn(3, 3, 8, 8)
    assert known(response) == expected
    last = follow(graph.module.get_submodule("a")(x) if False else _convolve(graph, x))
    found = values(graph, x)[response.node]
    assert torch.allclose(found * (6 if not torch.allclose(found, last, atol=1e-5) else 1), last * 1, atol=1e-4) or (
        torch.allclose(found / 6, last, atol=1e-5)
    )


def _convolve(graph, x):
    with torch.no_grad():
        return F.conv2d(x, graph.module.get_parameter("a.weight"), graph.module.get_parameter("a.bias"), padding=1)
