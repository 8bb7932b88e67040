import math

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


pytestmark = pytest.mark.usefixtures("one_thread")


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
    """The sites after the input."""
    image, *sites = capture(model, torch.zeros(2, channels, *size)).sites
    assert image.op is Op.INPUT
    return tuple(sites)


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


# --- whole networks: more of them in test_architectures.py ------------------------------------------


def test_resnet18_in_detail():
    graph = capture(models.resnet18(weights=None), torch.zeros(2, 3, 448, 448))
    maxpool, stem, last = graph.site("maxpool"), graph.site("conv1"), graph.site("layer4.1.conv2")
    assert (maxpool.operator, maxpool.kernel, maxpool.stride, maxpool.padding) == ("max", (3, 3), (2, 2), (1, 1))
    assert (stem.receptive_field, maxpool.receptive_field) == ((7, 7), (11, 11))
    assert graph.site("layer2.0.conv1").receptive_field == (51, 51)
    assert last.receptive_field == (435, 435)
    assert graph.site("fc").receptive_field == (448, 448)
    assert (stem.depth, last.depth, graph.site("fc").depth) == (1, 17, 18)
    assert [s.path for s in graph.sites if s.op is Op.RESIDUAL] == [
        f"layer{stage}.{block}#add.0" for stage in (1, 2, 3, 4) for block in (0, 1)
    ]
    assert {s.path for s in graph.sites if s.op is Op.CONV and s.downsamples} == {
        "conv1",
        *(f"layer{stage}.0.{conv}" for stage in (2, 3, 4) for conv in ("conv1", "downsample.0")),
    }
    assert [site.path for site in find_sites(graph.module)[:2]] == ["input", "conv1"]


def test_a_receptive_field_is_never_larger_than_the_image():
    model = nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), nn.Conv2d(4, 4, 3, padding=1))
    assert [s.receptive_field for s in sites_of(model, 9, 16)] == [(7, 7), (9, 11)]


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
        s.path: (
            s.op,
            s.units,
            s.kernel,
            s.stride,
            s.padding,
            s.dilation,
            s.groups,
            s.receptive_field[0],
            s.rank,
            s.depth,
        )
        for s in graph.sites
    }
    assert facts == {
        "input": ("input", 3, (), (), (), (), 1, 1, 0, 0),
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
        "input": {"output": ((3, 48, 48), *SIGNED)},
        "#conv.0": {
            "input": ((3, 48, 48), *SIGNED),
            "output": (big, *SIGNED),
            "preactivation": (big, *SIGNED),
            "response": (big, *RELU),
        },
        "#max_pool.0": {"input": (big, *RELU), "output": (small, *RELU)},
        "#conv.1": {
            "input": (small, *RELU),
            "output": (small, *SIGNED),
            "preactivation": (small, *SIGNED),
            "response": (small, *RELU),
        },
        "#conv.2": {"input": (small, *RELU), "output": (small, *SIGNED), "response": (small, *SIGNED)},
        "#add.0": {
            "skip": (small, *RELU),
            "branch": (small, *SIGNED),
            "sum": (small, *SIGNED),
            "preactivation": (small, *SIGNED),
            "activated": (small, *RELU),
        },
        "#avg_pool.0": {"input": (small, *RELU), "output": (small, *RELU)},
        "#cat.0": {
            "input0": (small, *RELU),
            "input1": (small, *RELU),
            "branch": (small, *RELU),
            "output": (cat, *RELU),
        },
        "#avg_pool.1": {"input": (cat, *RELU), "output": (vector, *RELU)},
        "#conv.3": {
            "input": (vector, *RELU),
            "output": (vector, *SIGNED),
            "preactivation": (vector, *SIGNED),
            "response": (vector, (), True),
        },
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


def twice(x):
    return x + x


def forked(m, x):
    return m.act(x) + m.b(x)


def swish(x):
    return x * x.sigmoid()


def norm_by_hand(x):
    return x * x.pow(2).mean((2, 3), keepdim=True).rsqrt()


def additions(model):
    found = sites_of(model, 12, 12)
    return [(s.op, *(tap.node for tap in s.taps.values())) for s in found if s.op in (Op.RESIDUAL, Op.MERGE)]


def test_two_branches_of_one_convolution_have_no_skip():
    model = Net(lambda m, x: m.left(x) + m.right(x), left=conv(), right=conv(kernel=1))
    (merge,) = [s for s in sites_of(model, 12, 12) if s.op is Op.MERGE]
    assert list(merge.taps) == ["left", "right", "sum"]
    assert merge.taps["left"].node == site_of(model, "left", 12, 12).taps["output"].node


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


@pytest.mark.parametrize(
    "split", [lambda x: x.chunk(2, 1), lambda x: torch.split(x, [3, 3], 1), lambda x: (x[:, :3], x[:, 3:])]
)
def test_parts_of_a_split_are_no_skips_of_each_other(split):
    def forward(m, x):
        left, right = split(m.wide(x))
        return m.deep(left) + right

    assert [op for op, *_ in additions(Net(forward, wide=conv(3, 6), deep=conv()))] == ["merge"]


def test_a_part_is_a_skip_of_what_is_computed_from_the_whole():
    def forward(m, x):
        whole = m.wide(x)
        return m.deep(whole) + whole[:, :3]

    assert [op for op, *_ in additions(Net(forward, wide=conv(3, 6), deep=conv(6, 3)))] == ["residual"]


def test_a_part_of_a_projection_is_a_skip():
    model = Net(lambda m, x: m.b(m.a(x)) + m.project(x)[:, :3], a=conv(), b=conv(), project=conv(3, 6, 1))
    assert [op for op, *_ in additions(model)] == ["residual"]


def separable(*, between):
    """A depthwise and a pointwise convolution with something between, beside a branch of three layers."""
    skip = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, groups=3), between, nn.Conv2d(3, 3, 1))
    branch = nn.Sequential(conv(), nn.ReLU(), conv(), conv())
    return Net(lambda m, x: m.branch(x) + m.skip(x), branch=branch, skip=skip)


def test_layers_without_an_activation_are_a_projected_skip():
    graph = capture(separable(between=nn.BatchNorm2d(3)), torch.zeros(2, 3, 12, 12))
    (site,) = [s for s in graph.sites if s.op in (Op.RESIDUAL, Op.MERGE)]
    assert site.op is Op.RESIDUAL
    assert site.taps["skip"].node == graph.site("skip.2").taps["output"].node
    assert site.taps["branch"].node == graph.site("branch.3").taps["output"].node


def test_layers_with_an_activation_are_a_branch():
    assert [op for op, *_ in additions(separable(between=nn.ReLU()))] == ["merge"]


def test_of_two_linear_maps_of_several_layers_neither_is_a_skip():
    model = separable(between=nn.Identity())
    model.branch[1] = nn.Identity()
    assert [op for op, *_ in additions(model)] == ["merge"]


def test_a_cropped_skip_is_a_skip():
    model = Net(lambda m, x: m.narrow(x) + x[..., 1:-1, 1:-1], narrow=nn.Conv2d(3, 3, 3))
    assert [op for op, *_ in additions(model)] == ["residual"]


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
        lambda m, x: twice(m.a(x)),
        lambda m, x: x.flatten(1) + m.a(x).flatten(1),  # vectors
    ],
)
def test_what_is_no_meeting_of_two_maps_is_no_site(forward):
    assert additions(Net(forward, a=conv())) == []


# --- responses -------------------------------------------------------------------------------------


ACTIVATIONS = [
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
    (lambda x: x * (F.relu6(x + 3) / 6), ((0.0,), False)),
    (lambda x: x * torch.sigmoid(x), SIGNED),
    (F.silu, SIGNED),
    (F.mish, SIGNED),
    (F.gelu, SIGNED),
    (F.elu, SIGNED),
    (F.leaky_relu, SIGNED),
    (F.tanh, SIGNED),
]


def path(name, call):
    return f"{name}@{call}" if call else name


def after(cases):
    """One convolution, each of the functions, another convolution; captured at once since that is quicker."""
    model = Net(lambda m, x: [m.b(follow(m.a(x))) for follow, _ in cases], a=conv(), b=conv())
    graph = capture(model, torch.zeros(2, 3, 8, 8))
    x = torch.randn(3, 3, 8, 8) * 20
    return model, graph, x, values(graph, x)


@pytest.fixture(scope="module")
def activations():
    return after(ACTIVATIONS)


@pytest.mark.parametrize("case", range(len(ACTIVATIONS)))
def test_activations_end_a_response(activations, case):
    model, graph, x, found = activations
    follow, expected = ACTIVATIONS[case]
    response = graph.site(path("a", case)).taps["response"]
    assert known(response) == expected
    with torch.no_grad():
        assert torch.equal(found[response.node], follow(model.a(x)))


class FrozenNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor([2.0, 3.0, 4.0]))

    def forward(self, x):
        return x * self.scale[:, None, None] + 1


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(3),
        nn.GroupNorm(1, 3),
        nn.InstanceNorm2d(3, affine=True),
        nn.LayerNorm([3, 8, 8]),
        FrozenNorm(),
        nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3), nn.GroupNorm(3, 3)),
        nn.Identity(),
    ],
    ids=lambda norm: type(norm).__name__,
)
@pytest.mark.parametrize("act", [nn.PReLU(3), nn.Identity()], ids=lambda a: type(a).__name__)
def test_a_response_lies_behind_norm_and_activation(norm, act):
    model = Net(lambda m, x: m.b(m.act(m.norm(m.a(x)))), a=conv(), b=conv(), norm=norm, act=act)
    graph = capture(model, torch.zeros(2, 3, 8, 8))
    x = torch.randn(3, 3, 8, 8)
    model.eval()
    with torch.no_grad():
        found = values(graph, x)
        assert torch.equal(found[graph.site("a").taps["response"].node], act(norm(model.a(x))))
        assert torch.equal(found[graph.site("b").taps["input"].node], act(norm(model.a(x))))


def test_a_response_behind_a_layer_norm_over_channels_is_read_channels_first():
    def forward(m, x):
        return m.point(m.norm(m.a(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)

    model = Net(forward, a=conv(3, 5), norm=nn.LayerNorm(5), point=nn.Linear(5, 7))
    graph = capture(model, torch.zeros(2, 3, 6, 8))
    response, point = graph.site("a").taps["response"], graph.site("point")
    assert response.shape == (5, 6, 8)
    assert (point.op, point.units, point.rank) == ("linear", 7, 5)
    assert point.taps["output"].shape == (7, 6, 8)
    found = values(graph, torch.randn(2, 3, 6, 8))[response.node]
    assert found.shape == (2, 6, 8, 5)
    assert torch.equal(graph.channels_first(response.node, found), found.permute(0, 3, 1, 2))
    assert graph.channels_first("x", found) is found


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: forked(m, m.a(x)),
        lambda m, x: m.act(F.max_pool2d(m.a(x), 2)),  # something else in between
        lambda m, x: m.act(m.a(x) + x),
        lambda m, x: m.act(m.a(x) + m.b.weight[0]),  # not one constant a kernel
    ],
)
def test_a_response_ends_where_the_value_is_used_otherwise(forward):
    site = site_of(Net(forward, a=conv(), b=conv(), act=nn.ReLU()), "a", 3, 3)
    assert site.taps["response"] == site.taps["output"]


def test_a_response_has_one_activation():
    model = Net(lambda m, x: m.norm(F.relu(m.a(x))), a=conv(), norm=nn.BatchNorm2d(3))
    assert known(site_of(model, "a", 8, 8).taps["response"]) == RELU


# --- what is known about values --------------------------------------------------------------------


CARRIERS = [
    (lambda x: F.max_pool2d(F.relu6(x), 2), ((0.0, 6.0), True)),
    (lambda x: F.avg_pool2d(F.relu6(x), 2), RELU),
    (lambda x: F.relu(x).mean((2, 3), keepdim=True), RELU),
    (lambda x: F.relu(x).amax((2, 3), keepdim=True), RELU),
    (lambda x: F.dropout(F.relu(x).permute(0, 1, 3, 2).contiguous(), training=False), RELU),
    (lambda x: F.relu(x).flatten(2).view(x.shape[0], 3, 8, 8), RELU),
    (lambda x: -F.relu6(x), ((-6.0, 0.0), False)),
    (lambda x: torch.cat([F.relu(x), F.relu(-x)], 1)[:, :3], RELU),
    (lambda x: torch.cat([F.relu(x), x], 1)[:, :3], ((0.0,), False)),
    (lambda x: F.relu(x) + F.relu(-x), RELU),
    (lambda x: F.relu(x) + x.sigmoid(), ((), True)),
    (lambda x: F.relu(x) + x, SIGNED),
    (lambda x: F.relu(x) - F.relu(-x), SIGNED),
    (lambda x: torch.sub(F.relu(x), F.relu(-x), alpha=-1), SIGNED),
    (lambda x: torch.add(F.relu(x), F.relu(-x), alpha=-1), SIGNED),
    (lambda x: F.relu(x) * x.sigmoid(), RELU),
    (lambda x: F.relu(x) * x, ((0.0,), False)),
    (lambda x: F.relu(x) * 2, RELU),
    (lambda x: F.relu(x) / 2, RELU),
    (lambda x: F.relu(x) * -2, ((0.0,), False)),
    (lambda x: F.relu(x) / F.softplus(x), SIGNED),
    (torch.abs, ((), True)),
    (lambda x: F.hardtanh(x).abs(), ((1.0,), True)),
    (lambda x: torch.maximum(F.relu(x), x), ((), True)),
    (lambda x: F.pad(F.relu(x), (1, 1, 1, 1), mode="reflect"), RELU),
    (lambda x: F.interpolate(F.relu6(x), scale_factor=2), ((0.0, 6.0), True)),
    (lambda x: F.interpolate(F.relu6(x), scale_factor=2, mode="bilinear"), RELU),
    (lambda x: F.interpolate(F.relu(x), scale_factor=2, mode="bicubic"), SIGNED),
    (lambda x: F.relu(x).clamp(min=x.mean()), SIGNED),
]


@pytest.fixture(scope="module")
def carriers():
    return after(CARRIERS)


@pytest.mark.parametrize("case", range(len(CARRIERS)))
def test_atoms_and_sign_are_carried_along(carriers, case):
    model, graph, x, found = carriers
    follow, expected = CARRIERS[case]
    tap = graph.site(path("b", case)).taps["input"]
    assert known(tap) == expected
    with torch.no_grad():
        assert torch.equal(found[tap.node], follow(model.a(x)))
    assert found[tap.node].min() >= 0 or not tap.nonnegative


# --- kinds of convolution --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "size", "facts"),
    [  # kernel, stride, padding, dilation, groups, output, receptive field, rank, downsamples
        (nn.Conv1d(4, 6, 5, 2, 2), (16,), ((5,), (2,), (2,), (1,), 1, (6, 8), (5,), 6, True)),
        (nn.Conv1d(4, 6, 4, padding="same"), (16,), ((4,), (1,), (1,), (1,), 1, (6, 16), (4,), 6, False)),
        (nn.Conv1d(4, 6, 4, padding="valid"), (16,), ((4,), (1,), (0,), (1,), 1, (6, 13), (4,), 6, False)),
        (
            nn.Conv3d(4, 200, (1, 2, 3), (1, 2, 1), dilation=(1, 1, 2)),
            (3, 8, 9),
            ((1, 2, 3), (1, 2, 1), (0, 0, 0), (1, 1, 2), 1, (200, 3, 4, 5), (1, 2, 5), 24, True),
        ),
        (nn.Conv2d(4, 8, 3, groups=2), (9, 9), ((3, 3), (1, 1), (0, 0), (1, 1), 2, (8, 7, 7), (3, 3), 8, False)),
        (nn.Conv2d(4, 40, 3, groups=4), (9, 9), ((3, 3), (1, 1), (0, 0), (1, 1), 4, (40, 7, 7), (3, 3), 36, False)),
        (nn.Conv2d(4, 4, 3, 3, groups=4), (9, 9), ((3, 3), (3, 3), (0, 0), (1, 1), 4, (4, 3, 3), (3, 3), 4, True)),
        (nn.Conv2d(4, 8, 1, 2), (9, 9), ((1, 1), (2, 2), (0, 0), (1, 1), 1, (8, 5, 5), (1, 1), 4, True)),
        (
            nn.ConvTranspose2d(4, 6, 4, 2, 1, groups=2),
            (9, 9),
            ((4, 4), (2, 2), (1, 1), (1, 1), 2, (6, 18, 18), (2, 2), 6, False),
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_convolutions(layer, size, facts):
    s = site_of(nn.Sequential(layer, nn.ReLU()), "0", *size, channels=4)
    output = s.taps["output"].shape
    assert (
        s.kernel, s.stride, s.padding, s.dilation, s.groups, output, s.receptive_field, s.rank, s.downsamples
    ) == facts  # fmt: skip
    assert s.units == output[0]
    assert s.transposed == isinstance(layer, nn.ConvTranspose2d)


def test_receptive_field_of_an_encoder_decoder():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1),  # sees 3, positions 2 apart
        nn.Conv2d(4, 4, 3, 2, 1),  # sees 7, 4 apart
        nn.ConvTranspose2d(4, 4, 3, 2, 1),  # two neighbours at most: 11, 2 apart
        nn.Upsample(scale_factor=2),  # 1 apart
        nn.Conv2d(4, 4, 3),  # 13
        nn.PixelUnshuffle(2),  # 14, 2 apart
        nn.Conv2d(16, 4, 3),  # 18
        nn.PixelShuffle(2),  # 1 apart
        nn.Conv2d(1, 4, 2),  # 19
        nn.Upsample(scale_factor=2, mode="bilinear"),  # 20, half a pixel apart
        nn.Conv2d(4, 4, 3),  # 21
    )
    fields = {s.path: s.receptive_field for s in sites_of(model, 64, 48) if s.op is Op.CONV}
    assert fields == {
        "0": (3, 3),
        "1": (7, 7),
        "2": (11, 11),
        "4": (13, 13),
        "6": (18, 18),
        "8": (19, 19),
    }
    assert sites_of(model, 64, 48)[-1].receptive_field == (21, 21)


def test_a_strided_slice_spreads_positions_and_attention_sees_everything():
    def forward(m, x):
        x = m.b(m.a(x)[..., ::2, ::2])
        weights = (x.flatten(2).transpose(1, 2) @ x.flatten(2)).softmax(-1)
        return m.c((x.flatten(2) @ weights).view(x.shape))

    model = Net(forward, a=conv(), b=conv(), c=conv())
    fields = [s.receptive_field for s in sites_of(model, 32, 32)]
    assert fields == [(3, 3), (7, 7), (32, 32)]


# --- pools -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pool", "size", "facts"),
    [  # operator, kernel, stride, padding, dilation, output, global, downsamples
        (nn.MaxPool1d(2), (8,), ("max", (2,), (2,), (0,), (1,), (3, 4), False, True)),
        (nn.MaxPool2d(3, 2, 1, 1), (8, 8), ("max", (3, 3), (2, 2), (1, 1), (1, 1), (3, 4, 4), False, True)),
        (nn.MaxPool2d(2, 1, dilation=2), (8, 8), ("max", (2, 2), (1, 1), (0, 0), (2, 2), (3, 6, 6), False, False)),
        (nn.MaxPool3d(2), (4, 4, 4), ("max", (2,) * 3, (2,) * 3, (0,) * 3, (1,) * 3, (3, 2, 2, 2), False, True)),
        (nn.AvgPool1d(4), (8,), ("avg", (4,), (4,), (0,), (1,), (3, 2), False, True)),
        (nn.AvgPool2d((1, 2)), (8, 8), ("avg", (1, 2), (1, 2), (0, 0), (1, 1), (3, 8, 4), False, True)),
        (nn.AvgPool2d(8), (8, 8), ("avg", (8, 8), (8, 8), (0, 0), (1, 1), (3, 1, 1), True, True)),
        (nn.AdaptiveAvgPool2d((2, 4)), (8, 8), ("avg", (4, 2), (4, 2), (0, 0), (1, 1), (3, 2, 4), False, True)),
        (nn.AdaptiveMaxPool2d(3), (8, 8), ("max", (), (), (0, 0), (1, 1), (3, 3, 3), False, True)),
        (nn.AdaptiveAvgPool2d(10), (8, 8), ("avg", (), (), (0, 0), (1, 1), (3, 10, 10), False, False)),
        (nn.AdaptiveMaxPool1d(1), (8,), ("max", (8,), (8,), (0,), (1,), (3, 1), True, True)),
        (
            nn.AdaptiveAvgPool3d(1),
            (2, 3, 4),
            ("avg", (2, 3, 4), (2, 3, 4), (0,) * 3, (1,) * 3, (3, 1, 1, 1), True, True),
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_pools(pool, size, facts):
    s = site_of(nn.Sequential(pool, nn.ReLU()), "0", *size)
    output = s.taps["output"].shape
    assert (s.operator, s.kernel, s.stride, s.padding, s.dilation, output, s.is_global, s.downsamples) == facts
    assert (s.op, s.units, s.taps["input"].shape) == ("pool", 3, (3, *size))


@pytest.mark.parametrize(
    ("reduce", "operator", "output"),
    [
        (lambda x: x.mean((2, 3)), "avg", (3,)),
        (lambda x: x.mean((-1, -2), keepdim=True), "avg", (3, 1, 1)),
        (lambda x: x.amax((2, 3)), "max", (3,)),
        (lambda x: x.flatten(2).max(-1)[0], "max", (3,)),
        (lambda x: x.permute(0, 2, 3, 1).mean((1, 2)), "avg", (3,)),
    ],
)
def test_reductions_over_all_positions_are_global_pools(reduce, operator, output):
    s = next(s for s in sites_of(Net(lambda m, x: reduce(m.a(x)), a=conv()), 4, 6) if s.op is Op.POOL)
    assert (s.operator, s.is_global, s.taps["output"].shape, s.receptive_field) == (operator, True, output, (4, 6))
    assert math.prod(s.kernel) == 24
    assert s.taps["input"].shape[0] == 3


@pytest.mark.parametrize(
    "reduce",
    [lambda x: x.mean(1), lambda x: x.mean((1, 2, 3)), lambda x: x * x.mean(), lambda x: F.local_response_norm(x, 2)],
)
def test_other_reductions_are_no_pools(reduce):
    assert Op.POOL not in {s.op for s in sites_of(Net(lambda m, x: reduce(m.a(x)), a=conv()), 4, 6)}


def test_max_pool_with_indices():
    model = Net(lambda m, x: F.max_unpool2d(*m.pool(m.a(x)), 2), a=conv(), pool=nn.MaxPool2d(2, return_indices=True))
    s = site_of(model, "pool", 8, 8)
    assert (s.operator, s.taps["output"].shape) == ("max", (3, 4, 4))


# --- gates and concatenations ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "squeeze_excite",
    [
        lambda m, x: x * m.b(m.a(x.mean((2, 3), keepdim=True)).relu()).sigmoid(),
        lambda m, x: m.b(m.a(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid() * x,
        lambda m, x: x * F.hardsigmoid(m.a(F.adaptive_avg_pool2d(x, 1))).expand_as(x),
        lambda m, x: x * (F.relu6(m.a(F.adaptive_avg_pool2d(x, 1)) + 3) / 6),
        lambda m, x: x * m.c(x.mean((2, 3))).softmax(1).view(x.shape[0], 3, 1, 1),
        lambda m, x: x * m.a(x).sigmoid(),
    ],
)
def test_gates(squeeze_excite):
    model = Net(squeeze_excite, a=conv(kernel=1), b=conv(kernel=1), c=nn.Linear(3, 3))
    graph = capture(model, torch.zeros(2, 3, 6, 6))
    gate = next(s for s in graph.sites if s.op is Op.GATE)
    assert gate.path == "#mul.0"
    assert gate.taps["input"].node == "x"
    x = torch.randn(2, 3, 6, 6)
    found = values(graph, x)
    product = found[gate.taps["gate"].node] * x
    assert torch.equal(found[gate.taps["output"].node], product)


@pytest.mark.parametrize(
    "product",
    [
        lambda m, x: m.a(x) * 2,
        lambda m, x: m.a(x) * m.a.bias[:, None, None],
        lambda m, x: swish(m.a(x)),
        lambda m, x: m.a(x) * x,
        lambda m, x: norm_by_hand(m.a(x)),
    ],
)
def test_other_products_are_no_gates(product):
    assert Op.GATE not in {s.op for s in sites_of(Net(product, a=conv()), 6, 6)}


def test_concatenations_name_their_inputs_in_order():
    model = Net(lambda m, x: torch.cat([m.a(x), x, m.a(x)], 1), a=conv(3, 4))
    graph = capture(model, torch.zeros(2, 3, 6, 6))
    s = graph.site("#cat.0")
    channels = {"input0": 4, "input1": 3, "input2": 4, "branch": 4, "output": 11}
    assert {name: tap.shape[0] for name, tap in s.taps.items()} == channels
    assert s.units == 11
    assert s.taps["input1"].node == "x"
    assert s.taps["branch"].node == s.taps["input2"].node  # computed last


def test_a_concatenation_knows_the_convolution_that_reads_it_channel_by_channel():
    def dense(m, x):
        joined = torch.cat([m.a(x), x], 1)
        return m.c(m.norm(joined).relu()) + m.d(joined)

    c, d = nn.Conv2d(7, 2, (3, 1), stride=2, padding=1), nn.Conv2d(7, 2, (3, 1), stride=2, padding=1)
    graph = capture(Net(dense, a=conv(3, 4), norm=nn.BatchNorm2d(7), c=c, d=d), torch.zeros(2, 3, 6, 6))
    s = graph.site("#cat.0")
    assert (s.kernel, s.stride, s.padding, s.dilation, s.groups) == ((3, 1), (2, 2), (1, 1), (1, 1), 1)
    assert s.taps["consumed"].node == graph.site("c").taps["input"].node
    assert graph.parameters(s)["weight"] is c.weight
    mixed = Net(lambda m, x: m.c(F.avg_pool2d(torch.cat([m.a(x), x], 1), 2)), a=conv(3, 4), c=conv(7, 2))
    assert "consumed" not in capture(mixed, torch.zeros(2, 3, 6, 6)).site("#cat.0").taps


# --- what shifts and costs need ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [31, 40])
def test_the_interior_is_where_no_border_is_seen(size):
    """Positions outside it change with what lies around the image, positions inside do not."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(2, 3, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
        nn.ZeroPad2d((1, 0, 2, 0)),
        nn.Conv2d(3, 3, 3, dilation=2, padding=(1, 0)),
        nn.Sigmoid(),
    ]
    model = nn.Sequential(*layers).double()
    graph = capture(model, torch.zeros(2, 2, size, size, dtype=torch.double))
    site = graph.sites[-2]
    assert site.jump == (4, 4)
    around = torch.randn(50, 2, size + 32, size + 32, dtype=torch.double)
    with torch.no_grad():
        alone, within = model(around[..., 16:-16, 16:-16]), model(around)
    steps = [16 // 4] * 2  # the larger image starts so many positions before
    (top, bottom), (left, right) = site.interior
    same = within[..., steps[0] : steps[0] + alone.shape[2], steps[1] : steps[1] + alone.shape[3]] - alone
    same = same.abs().amax((0, 1)) < 1e-12
    expected = torch.zeros_like(same)
    expected[top:bottom, left:right] = True
    assert torch.equal(same, expected)


def test_what_lies_behind_a_gate_or_a_norm_over_positions_depends_on_all():
    gate = Net(lambda m, x: m.b(x * m.a(x.mean((2, 3), keepdim=True)).sigmoid()), a=conv(kernel=1), b=conv(kernel=1))
    norm = Net(lambda m, x: m.b(m.norm(m.a(x))), a=conv(kernel=1), b=conv(kernel=1), norm=nn.GroupNorm(1, 3))
    for model in (gate, norm):
        graph = capture(model, torch.zeros(2, 3, 6, 6))
        assert graph.site("b").depends_on_all
        assert graph.site("b").interior == ((0, 6), (0, 6))
    assert graph.site("a").depends_on_all  # what it hands on lies behind the norm
    assert not graph.site("input").depends_on_all
    pooled = capture(gate, torch.zeros(2, 3, 6, 6)).site("#avg_pool.0")
    assert (pooled.depends_on_all, pooled.interior) == (True, ((0, 0), (0, 0)))


def upsampled(**options):
    return Net(
        lambda m, x: m.b(F.interpolate(m.a(x), scale_factor=2, **options)), a=conv(2, 3, stride=2), b=conv(kernel=1)
    )


@pytest.mark.parametrize(
    ("model", "jump", "period", "interior"),
    [
        # Position 1 is a copy of position 0, which sees the pixel before the first.
        (upsampled(mode="nearest"), 1, 2, (2, 16)),
        # Positions 2p + 1 and 2p + 2 lie between p and p + 1.
        (upsampled(mode="bilinear"), 1, 2, (3, 15)),
        (upsampled(mode="bicubic"), 1, 2, (5, 13)),
        (upsampled(mode="bilinear", align_corners=True), 1, 2, (0, 0)),
        # Windows of the transposed convolution reach from position p to 2p - 1 ... 2p + 1.
        (Net(lambda m, x: m.b(m.a(x)), a=conv(2, 3, stride=2), b=nn.ConvTranspose2d(3, 3, 3, 2, 1, 1)), 1, 2, (2, 15)),
        (Net(lambda m, x: m.b(F.pixel_shuffle(m.a(x), 2)), a=conv(2, 12, stride=2), b=conv(kernel=1)), 1, 2, (2, 16)),
        # Down by 2 again: the shift that the upsampling needs moves the map by one position.
        (Net(lambda m, x: m.b(F.interpolate(m.a(x), scale_factor=2)), a=conv(2, 3, stride=2), b=conv(stride=2)), 2, 2,
         (2, 8)),
        # 4 behind the first, 2 behind the upsampling, 6 behind the pool: 12 is the first multiple of all.
        (Net(lambda m, x: m.b(F.max_pool2d(F.interpolate(m.a(x), scale_factor=2), 3)), a=conv(2, 3, stride=4),
             b=conv(kernel=1)), 6, 12, (1, 2)),
        # The last 9 positions are 7 ... 15; the first and the last of them border on padding.
        (Net(lambda m, x: m.b(m.a(x)[..., -9:, -9:]), a=conv(2, 3, 1), b=conv()), 1, 1, (1, 8)),
        (Net(lambda m, x: m.b(F.pad(m.a(x), (-2, -3) * 2)), a=conv(2, 3, 1), b=conv()), 1, 1, (1, 10)),
        (Net(lambda m, x: m.b(m.a(x.permute(0, 2, 3, 1)[:, 3::2, 3::2]).permute(0, 3, 1, 2)), a=nn.Linear(2, 3),
             b=conv()), 2, 2, (1, 6)),
    ],
)  # fmt: skip
def test_jump_period_and_interior_behind_upsampling_and_crops(model, jump, period, interior):
    graph = capture(model, torch.zeros(2, 2, 16, 16))
    site = graph.site("b")
    assert (site.jump, site.period, site.interior) == ((jump,) * 2, (period,) * 2, (interior,) * 2)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_what_borders_on_padding_is_seen_through_an_upsampled_map(mode):
    """What lies inside, computed from a larger image, is the same; what lies outside is not."""
    torch.manual_seed(0)
    model = upsampled(mode=mode).double().eval()
    (top, bottom), (left, right) = capture(model, torch.zeros(2, 2, 16, 16, dtype=torch.double)).site("b").interior
    around = torch.randn(20, 2, 48, 48, dtype=torch.double)
    with torch.no_grad():
        same = (model(around[..., 16:-16, 16:-16]) - model(around)[..., 16:-16, 16:-16]).abs().amax((0, 1)) < 1e-12
    expected = torch.zeros_like(same)
    expected[top:bottom, left:right] = True
    assert torch.equal(same, expected)


@pytest.mark.parametrize(
    "move",
    [
        lambda x: x.flip(-1),
        lambda x: x.roll(2, -1),
        lambda x: x[..., torch.arange(0, 16, 2)],
        lambda x: x.view(x.shape[0], 3, 8, 2, 8, 2).permute(0, 1, 3, 5, 2, 4).reshape(x.shape[0], 12, 8, 8)[:, :3],
        lambda x: F.unfold(x, 2, stride=2).view(x.shape[0], 12, 8, 8)[:, :3],
        lambda x: F.interpolate(x, size=(8, 8), mode="bilinear", antialias=True),
        lambda x: torch.cat([x[:, :, 8:], x[:, :, :8]], 2),
        lambda x: F.grid_sample(x, torch.zeros(1, 16, 16, 2).expand(x.shape[0], 16, 16, 2)),
    ],
)
def test_positions_that_are_moved_without_a_rule_may_see_everything(move):
    model = Net(lambda m, x: m.b(move(m.a(x))), a=conv(2, 3), b=conv(kernel=1))
    site = site_of(model, "b", 16, 16, channels=2)
    assert (site.jump, site.interior, site.depends_on_all) == ((0, 0), ((0, 0), (0, 0)), True)
    assert site.receptive_field == (16, 16)


@pytest.mark.parametrize(
    "keep",
    [
        lambda x: x.flip(1),
        lambda x: x[:, torch.tensor([2, 0, 1])],
        lambda x: x.flatten(2).transpose(1, 2).transpose(1, 2).reshape(x.shape[0], 3, 16, 16),
        lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], 4, 4, 4, 4, 3).reshape(x.shape[0], 16, 16, 3).permute(
            0, 3, 1, 2),
    ],
)  # fmt: skip
def test_positions_that_stay_are_followed(keep):
    model = Net(lambda m, x: m.b(keep(m.a(x))), a=conv(2, 3), b=conv())
    site = site_of(model, "b", 16, 16, channels=2)
    assert (site.receptive_field, site.jump, site.interior) == ((5, 5), (1, 1), ((2, 14), (2, 14)))


def test_a_convolution_whose_kernels_each_image_computes_is_no_site():
    def forward(m, x):
        x = m.a(x)
        images = x.shape[0]
        kernels = m.make(x.mean((2, 3))).view(images * 3, 3, 3, 3)
        y = F.conv2d(x.reshape(1, images * 3, 8, 8), kernels, padding=1, groups=images)
        return m.b(y.view(images, 3, 8, 8))

    graph = capture(Net(forward, a=conv(), make=nn.Linear(3, 81), b=conv(kernel=1)), torch.zeros(2, 3, 8, 8))
    assert [s.path for s in graph.sites if s.op in (Op.CONV, Op.HEAD)] == ["a", "b"]
    assert graph.site("a").macs_after == 3 * 81 + 9 * 64
    assert graph.site("b").depends_on_all
    # Where torch does not know that 3 n / 3 images are n (2.10), the map might be another, and all may be seen.
    assert graph.site("b").receptive_field in ((5, 5), (8, 8))


def test_a_concatenation_with_a_constant_offers_no_weight():
    def forward(m, x):
        return m.c(torch.cat([m.a(x), m.places.expand(x.shape[0], 2, 6, 6), x], 1))

    model = Net(forward, a=conv(3, 4), c=conv(9, 2))
    model.register_buffer("places", torch.rand(1, 2, 6, 6))
    site = site_of(model, "#cat.0", 6, 6)
    assert list(site.taps) == ["input0", "input1", "branch", "output"]
    assert not site.parameters


def test_multiplications_are_counted_and_those_after_a_site():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1, groups=2), nn.Flatten(), nn.Linear(36, 5)
    )
    graph = capture(model, torch.zeros(2, 3, 8, 8))
    assert {s.path: (s.macs, s.macs_after) for s in graph.sites} == {
        "input": (0, 8 * 27 * 36 + 4 * 4 * 9 + 180),
        "0": (8 * 27 * 36, 4 * 4 * 9 + 180),
        "1": (0, 4 * 4 * 9 + 180),
        "2": (4 * 4 * 9, 180),
        "4": (180, 0),
    }
    up = nn.Sequential(nn.ConvTranspose2d(3, 2, 2, stride=2), nn.Conv2d(2, 1, 1))
    assert capture(up, torch.zeros(2, 3, 4, 4)).site("0").macs == 3 * 2 * 4 * 16


@pytest.mark.parametrize(
    "join",
    [
        lambda m, x: torch.cat([x, x], 1),
        lambda m, x: torch.cat([x]),
        lambda m, x: torch.cat([m.a(x), x], 2),  # positions, not channels
        lambda m, x: torch.cat([x, torch.ones_like(x[:1]).expand(x.shape)], 0),
    ],
)
def test_other_concatenations_are_no_sites(join):
    assert Op.CONCAT not in {s.op for s in sites_of(Net(join, a=conv()), 6, 6)}


# --- heads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forward", "path", "taps"),
    [
        (lambda m, x: m.fc(x.mean((2, 3))), "fc", {"input": (3,), "output": (5,)}),
        (
            lambda m, x: m.conv(x.mean((2, 3), keepdim=True)).flatten(1),
            "conv",
            {"input": (3, 1, 1), "output": (5, 1, 1)},
        ),
        (lambda m, x: m.conv(x), "conv", {"input": (3, 4, 4), "output": (5, 4, 4)}),
        (lambda m, x: m.conv(x).mean((2, 3)), "output", {"input": (5,), "output": (5,)}),
        (lambda m, x: m.conv(x).flatten(1), "output", {"input": (80,), "output": (80,)}),
        (lambda m, x: m.fc(x.mean((2, 3))).softmax(1), "output", {"input": (5,), "output": (5,)}),
        (lambda m, x: (m.conv(x), m.fc(x.mean((2, 3)))), "fc", {"input": (3,), "output": (5,)}),
        (lambda m, x: {"map": m.conv(x), "score": m.fc(x.mean((2, 3)))}, "fc", {"input": (3,), "output": (5,)}),
        (lambda m, x: [m.fc(x.mean((2, 3)))], "fc", {"input": (3,), "output": (5,)}),
    ],
)
def test_heads(forward, path, taps):
    found = sites_of(Net(forward, fc=nn.Linear(3, 5), conv=nn.Conv2d(3, 5, 1)), 4, 4)
    (head,) = [s for s in found if s.op is Op.HEAD]
    assert head.path == path
    assert {name: tap.shape for name, tap in head.taps.items()} == taps
    assert head.units == head.taps["output"].shape[0]


@pytest.mark.parametrize(
    "forward", [lambda m, x: (m.conv(x), x), lambda m, x: m.conv(x).mean((2, 3)).argmax(1), lambda m, x: m.conv.bias]
)
def test_networks_without_a_head(forward):
    assert Op.HEAD not in {s.op for s in sites_of(Net(forward, conv=nn.Conv2d(3, 5, 1)), 4, 4)}


def test_a_module_called_output_keeps_its_name():
    found = sites_of(Net(lambda m, x: m.output(x).mean((2, 3)), output=conv()), 4, 4)
    assert [(s.path, s.op) for s in found] == [
        ("output", "conv"),
        ("#avg_pool.0", "pool"),
        ("output#head.0", "head"),
    ]


# --- paths -----------------------------------------------------------------------------------------


class Twice(nn.Module):
    """Two convolutions and a sum without a module of their own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, 1, 1))

    def forward(self, x):
        return x + F.conv2d(F.conv2d(x, self.weight), self.weight)


class Standardized(nn.Conv2d):
    """A convolution with a forward of its own."""

    def forward(self, x):
        return F.conv2d(x, F.batch_norm(self.weight, None, None, training=True))


def test_paths_of_functional_operators_and_repeated_calls():
    def forward(m, x):
        for _ in range(2):
            x = m.pool(m.block(m.own(x)))
        return m.outer(x)

    outer = nn.Sequential(Twice(), nn.Sequential(Twice()))
    model = Net(forward, own=Standardized(3, 3, 1), block=Twice(), pool=nn.MaxPool2d(2), outer=outer)
    assert [s.path for s in sites_of(model, 16, 16)] == [
        "own",
        "block#conv.0",
        "block#conv.1",
        "block#add.0",
        "pool",
        "own@1",
        "block@1#conv.0",
        "block@1#conv.1",
        "block@1#add.0",
        "pool@1",
        "outer.0#conv.0",
        "outer.0#conv.1",
        "outer.0#add.0",
        "outer.1.0#conv.0",
        "outer.1.0#conv.1",
        "outer.1.0#add.0",
        "output",
    ]


def test_values_whose_first_dimension_is_not_the_image_are_no_sites():
    def forward(m, x):
        images = x.shape[0]
        patches = x.view(images, 3, 2, 4, 8).permute(0, 2, 1, 3, 4).reshape(images * 2, 3, 4, 8)
        return m.b(m.a(patches).view(images, 6, 4, 8))

    model = Net(forward, a=conv(), b=conv(6, 3))
    assert [s.path for s in sites_of(model, 8, 8)] == ["b"]


def test_images_behind_another_dimension_may_be_mixed():
    def forward(m, x):
        rows_first = m.a(x).permute(2, 0, 1, 3)
        return m.b((2 * rows_first).permute(1, 2, 0, 3))

    a, b = sites_of(Net(forward, a=conv(), b=conv()), 8, 8)
    assert (a.receptive_field, a.depends_on_all) == ((3, 3), False)
    assert (b.receptive_field, b.depends_on_all) == ((8, 8), True)


def test_images_taken_out_of_their_batch_are_no_sites():
    def forward(m, x):
        return torch.stack([F.max_pool2d(m.a(image), 2) for image in x[:2]])

    assert {s.op for s in sites_of(Net(forward, a=conv()), 8, 8)} <= {Op.HEAD}


def test_what_only_steers_a_gate_is_marked():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.squeeze = nn.AdaptiveAvgPool2d(1)
            self.excite = nn.Conv2d(4, 4, 1)
            self.pool = nn.MaxPool2d(2)

        def forward(self, x):
            x = self.conv(x)
            return self.pool(x * torch.sigmoid(self.excite(self.squeeze(x))))

    graph = capture(Gated(), torch.rand(2, 3, 8, 8))
    assert {site.path: site.steers for site in graph.sites if site.op is not Op.HEAD} == {
        "input": False,
        "conv": False,
        "squeeze": True,
        "excite": True,
        "#mul.0": False,
        "pool": False,
    }


def test_explicit_constant_padding_belongs_to_what_follows():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, stride=2)
            self.pool = nn.MaxPool2d(3, 2, padding=1)

        def forward(self, x):
            x = F.pad(F.pad(x, (0, 1)), (0, 0, 2, 3))
            x = self.conv(x)
            x = self.pool(F.pad(x, (1, 0, 0, 1), value=-math.inf))
            return self.pool(F.pad(x, (1, 1, 1, 1), mode="reflect"))

    sites = {site.path: site for site in capture(Padded(), torch.rand(2, 3, 16, 16)).sites}
    assert (sites["conv"].padding, sites["conv"].taps["input"].shape) == ((2, 0), (3, 16, 16))
    assert (sites["pool"].padding, sites["pool"].taps["input"].shape) == ((1, 2), (4, 10, 8))
    assert (sites["pool@1"].padding, sites["pool@1"].taps["input"].shape) == ((1, 1), (4, 8, 7))
