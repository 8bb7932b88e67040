"""Networks of many kinds, small enough to know every number: what is found in them and what is measured there.

Weights are set by hand, so that a branch is exactly -s/2, a gate exactly 1/2, a concatenation holds the same map twice.
"""

import math

import pytest
import torch
from torch import nn

import cnnaudit
from cnnaudit.pipeline import prepare
from cnnaudit.result import Outcome
from cnnaudit.site import Op

pytestmark = pytest.mark.usefixtures("one_thread")

PACK = {"cnnaudit": 1, "extends": "cnnaudit:recommended", "sampling": {"looks": 1}}
RANK = {"cnnaudit": 1, "rules": [{"metric": "stable_rank", "severity": "note"}]}


def without_weights(model):
    """The network with all weights 0 and its norms doing nothing."""
    for name, parameter in model.named_parameters():
        nn.init.constant_(parameter, float("norm" in name and name.endswith("weight")))
    return model.eval()


def middle(convolution, weights):
    """Set single weights at the middle of a kernel: ``{(output, input): weight}``."""
    place = tuple(size // 2 for size in convolution.weight.shape[2:])
    with torch.no_grad():
        for pair, weight in weights.items():
            convolution.weight[(*pair, *place)] = weight


def same(channels, weight=1.0):
    return {(k, k): weight for k in range(channels)}


def found(model, data, **spec):
    """What each site is: operator, units, map, receptive field, and pixels between positions."""
    graph = prepare({**RANK, **spec}, model=model, data=data).graph
    return {s.path: (str(s.op), s.units, *(s.taps[s.result].shape[1:], s.receptive_field, s.jump)) for s in graph.sites}


def audited(model, data, *rules, **spec):
    """An audit by the recommended pack and more rules, written as ``(id, metric, bounds and the like)``."""
    written = [{"id": name, "metric": metric, **keys} for name, metric, keys in rules]
    return cnnaudit.audit({**PACK, "rules": written, **spec}, model=model, data=data)


def measured(model, data, *names, **spec):
    """Every unit of some metrics' fields: ``measured(...)["activity.apoz"]["layer"].units``."""
    rules = [{"metric": name, "severity": "note"} for name in names]
    return cnnaudit.profile(model, data, rules={"cnnaudit": 1, "rules": rules, **spec})


def outcomes(report):
    return {rule: str(report.outcome(rule)) for rule in report.spec["rules"]}


RECOMMENDED = {
    "dead-kernels": "undecided",  # some 750 images prove that a kernel is dead
    **dict.fromkeys(("duplicate-filters", "dormant-kernels", "class-information"), "measured"),
    **dict.fromkeys(("pool-entropy-loss", "pool-alternatives"), "measured"),
    "branch-share": "not_applicable",
}
NO_POOL = dict.fromkeys(("pool-entropy-loss", "pool-alternatives"), "not_applicable")  # but global ones


# --- U-Net -----------------------------------------------------------------------------------------------


class UNet(nn.Module):
    """One level; what goes up is doubled in size by a transposed convolution, or by repeating values."""

    def __init__(self, *, transposed=True):
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.mid = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU())
        repeated = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(8, 4, 1))
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2) if transposed else repeated
        self.dec = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        skip = self.enc(x)
        up = self.up(self.mid(self.pool(skip)))
        return self.head(self.dec(torch.cat([skip, up], 1)))


def unet(*, transposed=True):
    """The decoder reads every map twice: as the encoder left it, and the same through the pool and up again."""
    model = without_weights(UNet(transposed=transposed))
    middle(model.enc[0], {(0, 0): 1, (1, 0): -1})
    middle(model.mid[0], {(k, 0): k + 1 for k in range(8)})
    with torch.no_grad():
        model.enc[0].weight[2], model.enc[0].weight[3] = 1, 2
        if transposed:
            model.up.weight[0, 0] = 1
            model.up.weight[0, 1, 0, 0] = 1  # its other three weights are 0
        else:
            model.up[1].weight[0, 0] = model.up[1].weight[1, 0] = 1
    middle(model.dec[0], {(0, 0): 1, (0, 4): 1, (1, 4): 3, (2, 0): 1, (3, 4): 1})
    middle(model.head, {(1, 0): 1, (0, 1): 1 / 3})
    return model


def blocks_of_four(count=100, side=8):
    """Images whose squares of two by two pixels are of one brightness, and which pixels are bright."""
    torch.manual_seed(0)
    images = nn.functional.interpolate(torch.rand(count, 1, side // 2, side // 2) + 0.1, scale_factor=2)
    return images, (images[:, 0] > 0.6).long()


@pytest.mark.parametrize("transposed", [True, False])
def test_sites_of_a_u_net(transposed):
    up = "up" if transposed else "up.1"
    assert found(unet(transposed=transposed), blocks_of_four()) == {
        "input": ("input", 1, (8, 8), (1, 1), (1, 1)),
        "enc.0": ("conv", 4, (8, 8), (3, 3), (1, 1)),
        "pool": ("pool", 4, (4, 4), (4, 4), (2, 2)),
        "mid.0": ("conv", 8, (4, 4), (8, 8), (2, 2)),  # 4 + 2 * 2
        up: ("conv", 4, (8, 8), (8, 8), (1, 1)),
        "#cat.0": ("concat", 8, (8, 8), (8, 8), (1, 1)),
        "dec.0": ("conv", 4, (8, 8), (8, 8), (1, 1)),  # 10, of which the image has 8
        "head": ("head", 2, (8, 8), (8, 8), (1, 1)),
    }


def test_values_of_a_u_net():
    model, data = unet(), blocks_of_four()
    metrics = ("concat_share.share", "concat_share.ratio", "activity.apoz", "position_auroc", "duplicate_filters")
    flow = measured(model, data, *metrics, "pool_information_dimension_loss", "pool_entropy_loss", "pool_alternatives")
    # z0 = x + x, z1 = 3x, z2 = x, z3 = x, the first of each from the skip: (2 + 1) / (4 + 9 + 1 + 1) of the variance.
    assert flow["concat_share.share"]["#cat.0"].units == pytest.approx([3 / 15, 12 / 15])
    # Parts (x, 0, x, 0) and (x, 3x, 0, x).
    assert flow["concat_share.ratio"]["#cat.0"].units == pytest.approx([math.sqrt(2 / 11), math.sqrt(11 / 2)])
    assert flow["activity.apoz"]["enc.0"].units == (0, 1, 0, 0)  # kernel 1 is the negative image
    assert flow["activity.apoz"]["dec.0"].units == (0, 0, 0, 0)
    # Kernel 0 is the brightness that made the labels; responses in between levels are ties.
    assert flow["position_auroc"]["enc.0"].units[0] == pytest.approx(1, abs=1e-3)
    # A pool of equal values loses nothing, whatever it is.
    for metric in ("pool_information_dimension_loss", "pool_entropy_loss", "pool_alternatives"):
        assert flow[metric]["pool"].units[0] == pytest.approx(0, abs=1e-9)
    # Kernels 2 and 3 are all ones and all twos; of kernels 0 and 1 each is the other's negative.
    assert flow["duplicate_filters"]["enc.0"].units == pytest.approx([1, 1, 1, 1])


def test_verdicts_on_a_u_net():
    report = audited(
        unet(),
        blocks_of_four(),
        ("skip", "concat_share.share", {"min": 0.3}),
        ("rows", "activity.apoz", {"at": "enc.0", "max": 0.5}),
        ("bright", "position_auroc", {"at": "enc.0", "min": 0.9}),
        ("lost", "convolution_loss.rank_bound", {"at": "mid.0", "min": 0}),
        ("copies", "participation_ratio.plugin", {"at": "mid.0", "max": 1.1}),
    )
    assert outcomes(report) == {
        **RECOMMENDED,
        "class-information": "not_applicable",  # labels of positions are masks
        "skip": "fail",
        "rows": "fail",
        "bright": "fail",
        "lost": "pass",
        "copies": "pass",
    }
    assert report.exit_code == 1
    assert report.model["sites"] == {"concat": 1, "conv": 4, "head": 1, "pool": 1}


def test_a_transposed_convolution_repeats_or_spreads():
    """A kernel of ones makes squares of equal values, one with a single weight puts zeros between them."""
    model = unet()
    model.up = nn.Sequential(model.up, nn.ReLU())
    flow = measured(model, blocks_of_four()[0], "activity.apoz", "convolution_loss.position_coverage")
    assert flow["activity.apoz"]["up.0"].units == (0, 0.75, 1, 1)
    assert "up.0" not in flow["convolution_loss.position_coverage"]  # it is about what a convolution leaves out


# --- DenseNet --------------------------------------------------------------------------------------------


class DenseLayer(nn.Module):
    def __init__(self, channels, growth):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(channels, eps=1e-30), nn.Conv2d(channels, growth, 3, padding=1)

    def forward(self, x):
        return torch.cat([x, self.conv(torch.relu(self.norm(x)))], 1)


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.dense = nn.Sequential(DenseLayer(4, 2), DenseLayer(6, 2))
        self.transition = nn.Sequential()
        self.transition.add_module("norm", nn.BatchNorm2d(8, eps=1e-30))
        self.transition.add_module("relu", nn.ReLU())
        self.transition.add_module("conv", nn.Conv2d(8, 4, 1))
        self.transition.add_module("pool", nn.AvgPool2d(2))
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.transition(self.dense(self.stem(x))).mean((2, 3)))


def flat(count=100, side=8, channels=1):
    """Images of one brightness each, and whether they are bright."""
    torch.manual_seed(0)
    brightness = torch.rand(count, channels) + 0.1
    return brightness[:, :, None, None].expand(-1, -1, side, side), (brightness[:, 0] > 0.6).long()


def densenet():
    """The first layer copies channel 0; the second makes three times that of both, the transition four times."""
    model = without_weights(DenseNet())
    middle(model.stem, {(k, 0): k + 1 for k in range(4)})
    middle(model.dense[0].conv, {(0, 0): 1})
    middle(model.dense[1].conv, {(0, 0): 1, (0, 4): 2})
    middle(model.transition.conv, {(0, 0): 1, (0, 6): 1, (1, 1): 1, (2, 2): 1, (3, 5): 1})
    with torch.no_grad():
        model.fc.weight[1, 0] = 1
    return model


def test_sites_of_a_densenet():
    assert found(densenet(), flat()) == {
        "input": ("input", 1, (8, 8), (1, 1), (1, 1)),
        "stem": ("conv", 4, (8, 8), (3, 3), (1, 1)),
        "dense.0.conv": ("conv", 2, (8, 8), (5, 5), (1, 1)),
        "dense.0#cat.0": ("concat", 6, (8, 8), (5, 5), (1, 1)),
        "dense.1.conv": ("conv", 2, (8, 8), (7, 7), (1, 1)),
        "dense.1#cat.0": ("concat", 8, (8, 8), (7, 7), (1, 1)),
        "transition.conv": ("conv", 4, (8, 8), (7, 7), (1, 1)),
        "transition.pool": ("pool", 4, (4, 4), (8, 8), (2, 2)),
        "#avg_pool.0": ("pool", 4, (), (8, 8), (0, 0)),
        "fc": ("head", 2, (), (8, 8), (0, 0)),
    }


def test_values_of_a_densenet():
    metrics = ("concat_share.share", "duplicate_kernels.activation", "stable_rank.rank", "pool_entropy_loss")
    flow = measured(densenet(), flat(), *metrics, "class_auroc.plugin_best")
    # s + 2 copies of s, once: each share is Cov(part, whole) / Var(whole).
    assert flow["concat_share.share"]["dense.0#cat.0"].units == pytest.approx([1 / 3, 2 / 3])
    # The transition makes s + 3s, 2s, 3s and 0: of the variance of 16 + 4 + 9 the second layer has 3 * 4.
    assert flow["concat_share.share"]["dense.1#cat.0"].units == pytest.approx([17 / 29, 12 / 29])
    assert flow["duplicate_kernels.activation"]["stem"].units == pytest.approx([1, 1, 1, 1])
    assert flow["stable_rank.rank"]["stem"].units == pytest.approx([1])
    assert flow["pool_entropy_loss"]["transition.pool"].units[:3] == pytest.approx([0, 0, 0], abs=1e-9)
    assert flow["class_auroc.plugin_best"]["stem"].units == pytest.approx([1, 1, 1, 1])


def test_verdicts_on_a_densenet():
    report = audited(
        densenet(),
        flat(),
        ("share", "concat_share.share", {"min": 0.35}),
        ("alike", "duplicate_kernels.activation", {"at": "stem", "max": 0.9}),
        ("rank", "stable_rank.rank", {"at": "stem", "max": 1.01}),
        ("flip", "block_ablation.flip", {"op": "concat", "max": 0.5}),
    )
    assert outcomes(report) == {
        **RECOMMENDED,
        "dead-kernels": "not_applicable",  # its activations read concatenations, no convolution by itself
        "share": "fail",
        "alike": "fail",
        "rank": "pass",
        "flip": "pass",  # the logit of class 1 stays positive without what a layer adds
    }
    failed = {(v.rule, v.site) for v in report.verdicts if v.outcome is Outcome.FAIL}
    assert failed == {("share", "dense.0#cat.0"), ("alike", "stem")}


# --- residual network with squeeze-excite ----------------------------------------------------------------


class SEBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.se = nn.Sequential(
            *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 2, 1), nn.ReLU(), nn.Conv2d(2, channels, 1), nn.Sigmoid())
        )

    def forward(self, x):
        branch = self.conv2(torch.relu(self.conv1(x)))
        return torch.relu(x + branch * self.se(branch))


class SEResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU())
        self.blocks = nn.Sequential(SEBlock(3), SEBlock(3))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(self.pool(self.blocks(self.stem(x))).flatten(1))


def se_resnet():
    """A first branch of -s/2, behind a gate of 1/2, and a second one that is 0 behind a gate of 3/4."""
    model = without_weights(SEResNet())
    middle(model.stem[0], {(k, 0): k + 1 for k in range(3)})
    middle(model.blocks[0].conv1, same(3))
    middle(model.blocks[0].conv2, same(3, -1))
    middle(model.blocks[1].conv1, same(3))
    nn.init.constant_(model.blocks[1].se[3].bias, math.log(3))
    with torch.no_grad():
        model.fc.weight[1, 0] = 1
    return model


def test_sites_of_a_residual_network_with_gates():
    sites = found(se_resnet(), flat(side=16))
    expected = {
        "input": ("input", 1, (16, 16), (1, 1), (1, 1)),
        "stem.0": ("conv", 3, (8, 8), (3, 3), (2, 2)),
    }
    for block, fields in enumerate([(7, 11), (15, 16)]):  # 19, of which the image has 16
        first, second = ((size, size) for size in fields)
        expected |= {
            f"blocks.{block}.conv1": ("conv", 3, (8, 8), first, (2, 2)),
            f"blocks.{block}.conv2": ("conv", 3, (8, 8), second, (2, 2)),
            f"blocks.{block}.se.0": ("pool", 3, (1, 1), (16, 16), (0, 0)),
            f"blocks.{block}.se.1": ("conv", 2, (1, 1), (16, 16), (0, 0)),
            f"blocks.{block}.se.3": ("conv", 3, (1, 1), (16, 16), (0, 0)),
            f"blocks.{block}#mul.0": ("gate", 3, (8, 8), second, (2, 2)),
            f"blocks.{block}#add.0": ("residual", 3, (8, 8), second, (2, 2)),
        }
    expected |= {"pool": ("pool", 3, (1, 1), (16, 16), (0, 0)), "fc": ("head", 2, (), (16, 16), (0, 0))}
    assert sites == expected
    assert list(sites) == list(expected)


def test_values_of_a_residual_network_with_gates():
    names = ("share", "skip_share", "ratio", "correlation", "cosine")
    metrics = [f"branch_variance_share.{name}" for name in names]
    ablation = ("block_ablation.relative_change", "block_ablation.idle")
    gates = ("gate_activity.mean", "gate_activity.variation", "gate_activity.entropy")
    flow = measured(se_resnet(), flat(side=16), *metrics, *ablation, *gates)
    first = {name: flow[metric]["blocks.0#add.0"].value for name, metric in zip(names, metrics, strict=True)}
    # The sum is s/2: Cov(-s/2, s/2) / Var(s/2) = -1.
    assert first == pytest.approx(
        {"share": -1, "skip_share": 2, "ratio": 0.5, "correlation": -1, "cosine": -1}, rel=1e-5
    )
    assert [flow[metric]["blocks.1#add.0"].value for metric in metrics[:3]] == [0, 1, 0]
    for i, gate in enumerate((1 / 2, 3 / 4)):
        known = [flow[metric][f"blocks.{i}#mul.0"].units for metric in gates]
        assert [x for units in known for x in units] == pytest.approx([gate] * 3 + [0] * 6, abs=1e-6)
    # Without the first branch everything behind it, the logits too, is twice as large.
    assert flow[ablation[0]]["blocks.0#add.0"].value == pytest.approx(1, abs=1e-5)
    assert flow[ablation[0]]["blocks.1#add.0"].value == 0
    assert [flow[ablation[1]][f"blocks.{i}#add.0"].value for i in (0, 1)] == [0, 1]


def test_verdicts_on_a_residual_network_with_gates():
    report = audited(
        se_resnet(),
        flat(side=16),
        ("share", "branch_variance_share.share", {"min": 0.01}),
        ("gate", "gate_activity.mean", {"max": 0.9}),
        ("constant", "gate_activity.variation", {"min": 0.1}),
        ("idle", "block_ablation.idle", {"op": "residual", "max": 0}),
        ("alike", "linear_cka.biased", {"at": {"from": "stem.0", "to": "blocks.*#add.0"}, "min": 0.9}),
    )
    assert outcomes(report) == {
        **RECOMMENDED,
        **NO_POOL,
        "branch-share": "measured",
        "share": "fail",
        "gate": "pass",
        "alike": "pass",
        "constant": "undecided",  # gates that open wide for one image in hundreds may not have been met
        "idle": "undecided",  # and some 3,300 images prove that a block is idle
    }
    failed = {v.site for v in report.verdicts if v.outcome is Outcome.FAIL}
    assert failed == {"blocks.0#add.0", "blocks.1#add.0"}


# --- one dimension, and three ----------------------------------------------------------------------------


def volume_net():
    model = nn.Sequential(
        *(nn.Conv3d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2)),
        *(nn.Conv3d(2, 3, (1, 3, 3), padding=(0, 1, 1)), nn.ReLU()),
        *(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 2)),
    )
    without_weights(model)
    middle(model[0], {(0, 0): 1, (1, 0): -1})
    middle(model[3], {(0, 0): 1, (1, 0): -2, (2, 1): 1})
    with torch.no_grad():
        model[7].weight[1, 0] = 1
    return model


def volumes(count=100):
    torch.manual_seed(0)
    values = torch.rand(count, 1, 6, 12, 12) + 0.1
    return values, (values.mean((1, 2, 3, 4)) > 0.6).long()


def test_a_network_of_volumes():
    model, data = volume_net(), volumes()
    assert found(model, data) == {
        "input": ("input", 1, (6, 12, 12), (1, 1, 1), (1, 1, 1)),
        "0": ("conv", 2, (6, 12, 12), (3, 3, 3), (1, 1, 1)),
        "2": ("pool", 2, (3, 6, 6), (4, 4, 4), (2, 2, 2)),
        "3": ("conv", 3, (3, 6, 6), (4, 8, 8), (2, 2, 2)),
        "5": ("pool", 3, (1, 1, 1), (6, 12, 12), (0, 0, 0)),
        "7": ("head", 2, (), (6, 12, 12), (0, 0, 0)),
    }
    report = audited(
        model,
        data,
        ("rows", "activity.apoz", {"max": 0.5}),
        ("lost", "pool_information_dimension_loss", {"at": "2", "share": 0.5, "max": 0.9}),
    )
    assert outcomes(report) == {**RECOMMENDED, "rows": "fail", "lost": "pass"}
    flow = measured(model, data, "activity.apoz", "pool_information_dimension_loss")
    assert flow["activity.apoz"]["0"].units == (0, 1)
    assert flow["activity.apoz"]["3"].units == (0, 1, 1)
    # Of eight values of a window one is left; where all are zero there is nothing to lose.
    assert flow["pool_information_dimension_loss"]["2"].units == pytest.approx([7 / 8, math.nan], nan_ok=True)


def sequence_net():
    model = nn.Sequential(
        *(nn.Conv1d(1, 2, 5, stride=2, padding=2), nn.ReLU()),
        *(nn.Conv1d(2, 3, 3, dilation=2, padding=2), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(3, 2)),
    )
    without_weights(model)
    middle(model[0], {(0, 0): 1, (1, 0): 2})
    middle(model[2], {(0, 0): 1, (1, 1): -1, (2, 0): 1, (2, 1): 1})
    with torch.no_grad():
        model[7].weight[1, 0] = 1
    return model


def sequences(count=100, length=32):
    torch.manual_seed(0)
    values = torch.rand(count, 1, length) + 0.1
    return values, (values.mean((1, 2)) > 0.6).long()


def test_a_network_of_sequences():
    model, data = sequence_net(), sequences()
    assert found(model, data) == {
        "input": ("input", 1, (32,), (1,), (1,)),
        "0": ("conv", 2, (16,), (5,), (2,)),
        "2": ("conv", 3, (16,), (13,), (2,)),  # 5 + 2 * 2 * 2
        "4": ("pool", 3, (8,), (15,), (4,)),
        "5": ("pool", 3, (1,), (32,), (0,)),
        "7": ("head", 2, (), (32,), (0,)),
    }
    report = audited(
        model,
        data,
        ("rows", "activity.apoz", {"at": "2", "max": 0.5}),
        ("alike", "duplicate_kernels.activation", {"at": "0", "min": 0.9}),
        ("lost", "pool_information_dimension_loss", {"at": "4", "share": 0.6, "max": 0.6}),
    )
    assert outcomes(report) == {**RECOMMENDED, "rows": "fail", "alike": "pass", "lost": "pass"}
    flow = measured(model, data, "activity.apoz", "duplicate_kernels.activation", "pool_information_dimension_loss")
    assert flow["activity.apoz"]["2"].units == (0, 1, 0)
    assert flow["duplicate_kernels.activation"]["0"].units == pytest.approx([1, 1])
    assert flow["pool_information_dimension_loss"]["4"].units == pytest.approx([1 / 2, math.nan, 1 / 2], nan_ok=True)


# --- two images ------------------------------------------------------------------------------------------


class Siamese(nn.Module):
    """One tower for both images; their difference and their sum."""

    def __init__(self):
        super().__init__()
        self.tower = nn.Sequential()
        self.tower.add_module("conv", nn.Conv2d(1, 3, 3, padding=1))
        self.tower.add_module("relu", nn.ReLU())
        self.mix, self.fc = nn.Conv2d(6, 2, 1), nn.Linear(2, 2)

    def forward(self, left, right):
        left, right = self.tower(left), self.tower(right)
        both = torch.cat([(left - right).abs(), left + right], 1)
        return self.fc(self.mix(both).mean((2, 3)))


def siamese():
    model = without_weights(Siamese())
    middle(model.tower.conv, {(0, 0): 1, (1, 0): 2, (2, 0): -1})
    middle(model.mix, {(0, 0): 1, (0, 3): 1, (1, 3): 1})
    with torch.no_grad():
        model.fc.weight[1, 0] = 1
    return model


def pairs(count=100):
    """The right image is three times the left one."""
    torch.manual_seed(0)
    left = torch.rand(count, 1, 8, 8) + 0.1
    return {"left": left, "right": 3 * left, "labels": (left.mean((1, 2, 3)) > 0.6).long()}


def test_two_images_through_one_tower():
    model, data, how = siamese(), pairs(), {"inputs": ["left", "right"]}
    assert found(model, data, **how) == {
        "input": ("input", 1, (8, 8), (1, 1), (1, 1)),
        "input.right": ("input", 1, (8, 8), (1, 1), (1, 1)),
        "tower.conv": ("conv", 3, (8, 8), (3, 3), (1, 1)),
        "tower.conv@1": ("conv", 3, (8, 8), (3, 3), (1, 1)),
        "#add.0": ("merge", 3, (8, 8), (3, 3), (1, 1)),
        "#cat.0": ("concat", 6, (8, 8), (3, 3), (1, 1)),
        "mix": ("conv", 2, (8, 8), (3, 3), (1, 1)),
        "#avg_pool.0": ("pool", 2, (), (8, 8), (0, 0)),
        "fc": ("head", 2, (), (8, 8), (0, 0)),
    }
    report = audited(
        model,
        data,
        ("rows", "activity.apoz", {"at": "tower.*", "max": 0.5}),
        ("share", "concat_share.share", {"min": 0.1}),
        ("same", "linear_cka.biased", {"at": {"from": "tower.conv", "to": "tower.conv@1"}, "min": 0.9}),
        ("directions", "participation_ratio.plugin", {"op": "merge", "max": 1.1}),
        **how,
    )
    assert outcomes(report) == {
        **RECOMMENDED,
        **NO_POOL,
        "rows": "fail",
        "share": "pass",
        "same": "pass",
        "directions": "pass",
    }
    assert report.model["inputs"] == ["left", "right"]
    metrics = ("activity.apoz", "concat_share.share", "participation_ratio.plugin")
    flow = measured(model, data, *metrics, "merge_information_loss.loss", **how)
    for call in ("tower.conv", "tower.conv@1"):
        assert flow["activity.apoz"][call].units == (0, 0, 1)
    # The difference is 2s and the sum 4s; they add up to 6s, and 4s once more: 2 * 6 and 4 * 6 + 16 of 36 + 16.
    assert flow["concat_share.share"]["#cat.0"].units == pytest.approx([12 / 52, 40 / 52])
    assert flow["participation_ratio.plugin"]["#add.0"].value == pytest.approx(1)
    # The sum is four times one of its addends, so nothing is lost by adding them.
    assert flow["merge_information_loss.loss"]["#add.0"].value == pytest.approx(0, abs=0.05)
    (same_maps,) = [v for v in report.verdicts if v.rule == "same"]
    assert same_maps.value == pytest.approx(1)


# --- encoder and decoder ---------------------------------------------------------------------------------


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 2, 4, stride=2, padding=1), nn.Conv2d(2, 3, 2, stride=2)
        self.up1, self.up2 = nn.ConvTranspose2d(3, 2, 4, stride=2, padding=1), nn.ConvTranspose2d(2, 1, 2, stride=2)

    def forward(self, x):
        x = torch.relu(self.down2(torch.relu(self.down1(x))))
        return self.up2(torch.relu(self.up1(x)))


def autoencoder():
    model = without_weights(Autoencoder())
    with torch.no_grad():
        model.down1.weight[0, 0, 1:3, 1:3] = 1 / 4  # the mean of four pixels
        model.down2.weight[0, 0] = 1 / 4
        model.down2.weight[1, 0] = -1
        model.up1.weight[0, 0, 1:3, 1:3] = 1  # squares of two by two
        model.up2.weight[0, 0] = 1
    return model


def test_an_encoder_with_a_decoder():
    model, data = autoencoder(), flat(side=16)
    sites = found(model, data)
    assert sites == {
        "input": ("input", 1, (16, 16), (1, 1), (1, 1)),
        "down1": ("conv", 2, (8, 8), (4, 4), (2, 2)),
        "down2": ("conv", 3, (4, 4), (6, 6), (4, 4)),
        "up1": ("conv", 2, (8, 8), (10, 10), (2, 2)),  # each position reads two neighbours, 4 pixels apart
        "up2": ("head", 1, (16, 16), (10, 10), (1, 1)),
    }
    report = audited(
        model,
        data,
        ("rows", "activity.apoz", {"max": 0.5}),
        ("kept", "linear_cka.biased", {"at": {"from": "down2", "to": "up2"}, "min": 0.9}),
        ("read", "convolution_loss.position_coverage", {"at": "down*", "min": 1}),
    )
    assert outcomes(report) == {**RECOMMENDED, **NO_POOL, "rows": "fail", "kept": "pass", "read": "pass"}
    flow = measured(model, data, "activity.apoz", "positional_bias.share")
    units = {site: flow["activity.apoz"][site].units for site in ("down1", "down2", "up1")}
    assert units == {"down1": (0, 1), "down2": (0, 1, 1), "up1": (0, 1)}
    assert flow["positional_bias.share"]["up1"].units[0] == pytest.approx(0, abs=1e-9)
    (kept,) = [v for v in report.verdicts if v.rule == "kept"]
    assert kept.value == pytest.approx(1)
    graph = prepare(RANK, model=model, data=data).graph
    assert [s.path for s in graph.sites if s.transposed] == ["up1", "up2"]
    assert all(s.op is not Op.RESIDUAL for s in graph.sites)
    # What comes out of a flat image is that image.
    images = data[0][:3]
    assert torch.allclose(graph.module(images), images)
