import math

import numpy as np
import pytest
import torch
from builders import make_site
from scipy import stats
from torch import nn

import cnnaudit
from cnnaudit import MetricError, measure
from cnnaudit.metrics import Need, registry
from cnnaudit.site import Altered, Op
from cnnaudit.statistics import LogitPairs, Probe, View

METRIC = registry()["block_ablation"]
OUTPUT = ("jsd", "flip", "relative_change")


def fields(*tensors, names=OUTPUT, **facts):
    return {name: measure(f"block_ablation.{name}", *tensors, **facts) for name in names}


def values(*tensors, **facts):
    return {name: found.value for name, found in fields(*tensors, **facts).items()}


def pair(images=120, classes=5, *positions, seed=0, change=1.0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, classes, *positions, generator=generator)
    return logits, logits + change * torch.randn(images, classes, *positions, generator=generator)


def parts(images=120, seed=0, branch=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [size * torch.randn(images, 3, 4, 4, generator=generator) for size in (1.0, branch)]


def log_odds(*p):
    return torch.tensor(p).log().repeat(40, 1)


# --- closed forms -----------------------------------------------------------------------------------------------


def test_a_block_that_adds_nothing():
    logits, _ = pair()
    for found in fields(logits, logits.clone()).values():
        assert found.value == found.low == 0
    # Of 120 images none differs, and still 2.5 % of chance are left for a share of others.
    assert measure("block_ablation.jsd", logits, logits.clone()).high == pytest.approx(1 - 0.025 ** (1 / 120))
    assert measure("block_ablation.flip", logits, logits.clone()).high == pytest.approx(1 - 0.025 ** (1 / 120))


def test_an_output_that_is_turned_round():
    found = values(torch.tensor([[60.0, 0.0]] * 40), torch.tensor([[0.0, 60.0]] * 40))
    assert found == pytest.approx({"jsd": 1, "flip": 1, "relative_change": 2})


def test_softmaxes_of_two_classes():
    """p = (1/2, 1/2), q = (3/4, 1/4): H(5/8) - (1 + H(3/4)) / 2 bits."""
    p, q = log_odds(0.5, 0.5), log_odds(0.75, 0.25)
    entropy = [-sum(x * math.log2(x) for x in (y, 1 - y)) for y in (5 / 8, 1 / 2, 3 / 4)]
    assert measure("block_ablation", p, q).value == pytest.approx(entropy[0] - (entropy[1] + entropy[2]) / 2, rel=1e-6)
    assert measure("block_ablation", p, q).value == pytest.approx(0.0488, abs=5e-5)


def test_without_the_block_the_logits_are_even():
    logits, _ = pair()
    found = values(logits, torch.full_like(logits, 7.0))
    assert found["relative_change"] == pytest.approx(1)
    assert found["flip"] == 0  # the class that was chosen is still among the highest


def test_half_of_the_images_flip():
    logits = torch.tensor([[1.0, 0.0]]).repeat(40, 1)
    ablated = logits.clone()
    ablated[::2] = torch.tensor([0.0, 1.0])
    found = measure("block_ablation.flip", logits, ablated)
    exact = stats.binomtest(20, 40).proportion_ci(0.95, method="exact")
    assert (found.value, found.low, found.high) == pytest.approx((0.5, exact.low, exact.high))


def test_that_no_image_changes_does_not_bound_how_much_others_would():
    logits, _ = pair()
    for facts in ({}, {"sources": [i // 2 for i in range(120)]}):
        found = measure("block_ablation.relative_change", logits, logits.clone(), **facts)
        assert (found.value, found.low, found.high) == (0, 0, math.inf)
    here = measure("block_ablation.relative_change", logits, logits.clone(), estimand="dataset")
    assert (here.value, here.low, here.high) == (0, 0, 0)


def test_a_change_of_rare_images_is_not_excluded():
    """One image in a hundred changes, by as much as all of them hold on average: the truth is 1."""
    generator = torch.Generator().manual_seed(0)
    low = 0
    for _ in range(30):
        logits, noise = torch.randn(2, 100, 5, generator=generator)
        on = (torch.rand(100, 1, generator=generator) < 0.01).float()
        high = measure("block_ablation.relative_change", logits, logits + 10 * on * noise).high
        low += high == 0
    assert low == 0


# --- against numpy ----------------------------------------------------------------------------------------------


def naive(first, second):
    """Fields one image and position at a time."""
    jsd, flip, change, power = [], [], [], []
    for a, b in zip(first.double().numpy(), second.double().numpy(), strict=True):
        rows = []
        for u, v in zip(a.reshape(len(a), -1).T, b.reshape(len(b), -1).T, strict=True):
            p, q = np.exp(u) / np.exp(u).sum(), np.exp(v) / np.exp(v).sum()
            m = (p + q) / 2
            d, z = (x - x.mean() for x in (u - v, u))
            rows.append([((p * np.log2(p / m)) + q * np.log2(q / m)).sum() / 2, u.argmax() != v.argmax(), d @ d, z @ z])
        for values_, x in zip((jsd, flip, change, power), np.mean(rows, 0), strict=True):
            values_.append(x)
    return {"jsd": np.mean(jsd), "flip": np.mean(flip), "relative_change": math.sqrt(sum(change) / sum(power))}


@pytest.mark.parametrize("positions", [(), (1, 1), (3, 4)])
def test_fields_are_those_of_numpy(positions):
    first, second = pair(30, 5, *positions)
    assert values(first, second) == pytest.approx(naive(first, second), rel=1e-9)


def test_the_interval_of_the_mean_divergence_is_over_images():
    first, second = pair(200)
    each = [naive(a[None], b[None])["jsd"] for a, b in zip(first, second, strict=True)]
    mean, error = np.mean(each), stats.sem(each)
    found = measure("block_ablation.jsd", first, second)
    n = mean * (1 - mean) / error**2 + 1
    low, high = stats.beta.ppf(0.025, n * mean, n - n * mean + 1), stats.beta.ppf(0.975, n * mean + 1, n - n * mean)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6)


# --- laws -------------------------------------------------------------------------------------------------------


def test_what_softmaxes_do_not_see_changes_nothing():
    first, second = pair()
    shifted = first + 3, second - 5
    assert values(*shifted) == pytest.approx(values(first, second), rel=1e-5)


def test_the_order_of_classes_does_not_matter():
    first, second = pair()
    order = [3, 0, 4, 1, 2]
    assert values(first[:, order], second[:, order]) == pytest.approx(values(first, second), rel=1e-12)


def test_rescaled_logits_flip_as_often_and_change_as_much():
    first, second = pair()
    before, after = values(first, second), values(first * 4, second * 4)
    assert after["flip"] == before["flip"]
    assert after["relative_change"] == pytest.approx(before["relative_change"], rel=1e-12)
    assert after["jsd"] > before["jsd"]


def test_divergence_and_flips_know_no_first_and_second():
    first, second = pair()
    forth, back = values(first, second), values(second, first)
    assert (forth["jsd"], forth["flip"]) == pytest.approx((back["jsd"], back["flip"]), rel=1e-12)


def test_duplicating_every_position_changes_nothing():
    first, second = pair(60, 4, 3, 3)
    wanted, found = fields(first, second), fields(first.repeat(1, 1, 1, 2), second.repeat(1, 1, 1, 2))
    for name in OUTPUT:
        assert found[name].value == pytest.approx(wanted[name].value, rel=1e-9)
        assert found[name].high == pytest.approx(wanted[name].high, rel=1e-6)


def test_images_of_one_source_tell_no_more_than_one():
    first, second = pair(60)
    sources = [i // 4 for i in range(240)]
    repeated = [x.repeat_interleave(4, 0) for x in (first, second)]
    for name in OUTPUT:
        alone = measure(f"block_ablation.{name}", first, second, sources=range(60))
        four = measure(f"block_ablation.{name}", *repeated, sources=sources)
        independent = measure(f"block_ablation.{name}", *repeated)
        assert four.value == pytest.approx(alone.value, rel=1e-9)
        assert four.high - four.low == pytest.approx(alone.high - alone.low, rel=0.25)
        assert independent.high - independent.low < 0.7 * (four.high - four.low)


def test_few_images_that_carry_the_change_widen_intervals_by_source_as_well():
    first, second = pair(60)
    second = first + (second - first) * torch.logspace(0, 1, 60)[:, None]
    alone, own = (
        measure("block_ablation.relative_change", first, second, sources=sources) for sources in (None, range(60))
    )
    twice = measure(
        "block_ablation.relative_change",
        *(x.repeat(2, 1) for x in (first, second)),
        sources=[*range(60)] * 2,
    )
    for found in (own, twice):
        assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=0.1)


# --- a block that does nothing ----------------------------------------------------------------------------------


def idle(images, branch, change, **facts):
    logits, ablated = pair(images, change=change)
    return measure("block_ablation.idle", logits, ablated, *parts(images, branch=branch), confidence=0.9, **facts)


def test_a_silent_branch_is_idle_once_there_are_enough_images():
    enough, few = idle(2995, 0.0, 0.0), idle(2994, 0.0, 0.0)  # where nothing changes at all
    assert (enough.value, enough.low, enough.high) == (1, 1, 1)
    assert (few.value, few.low, few.high) == (1, 0, 1)


def test_fewer_images_decide_a_coarser_claim():
    assert idle(299, 0.0, 0.0, idle_jsd=0.01).low == 1


def test_the_images_needed_decide_a_tiny_change_too():
    needed, exactly = (idle(n, 0.001, 0.01) for n in (3327, 2995))
    assert 0 < measure("block_ablation.jsd", *pair(3327, change=0.01)).value < 1e-5
    assert needed.low == 1
    assert exactly.low == 0


def test_a_tiny_branch_on_which_the_output_hangs_is_not_idle():
    found = idle(200, 0.001, 3.0)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_a_large_branch_that_changes_nothing_is_not_idle():
    found = idle(200, 0.02, 0.0)
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert idle(200, 0.02, 0.0, idle_ratio=0.05).high == 1


def test_maps_need_not_wait_whole():
    """What is kept of skip and branch while the rest of the network runs tells the same."""
    site = make_site(Op.RESIDUAL, taps=METRIC.taps)
    probe = Probe(LogitPairs, site, METRIC.taps)
    tensors = dict(zip(METRIC.taps, (*pair(8), *parts(8)), strict=True))
    kept = {tap: LogitPairs.kept(tap, x) for tap, x in tensors.items()}
    assert [tuple(x.shape) for x in kept.values()] == [(8, 5), (8, 5), (8, 1), (8, 1)]
    read = [LogitPairs(probe, 1).read(View(x, torch.arange(8), None, 0))["values"] for x in (tensors, kept)]
    torch.testing.assert_close(read[0], read[1], rtol=1e-12, atol=0)
    power = tensors["branch"].double().square().mean((1, 2, 3))
    torch.testing.assert_close(read[1][:, 0, 5], power, rtol=1e-12, atol=0)


# --- edges ------------------------------------------------------------------------------------------------------


def test_one_image_gives_a_value_and_no_interval():
    found = fields(*pair(1))
    assert (found["jsd"].low, found["jsd"].high) == (0, 1)
    assert (found["relative_change"].low, found["relative_change"].high) == (0, math.inf)


def test_logits_that_are_even_have_no_relative_change():
    found = values(torch.zeros(20, 3), torch.zeros(20, 3))
    assert (found["jsd"], found["flip"]) == (0, 0)
    assert math.isnan(found["relative_change"])


def test_a_change_that_few_images_carry_is_left_open():
    logits, _ = pair(200)
    ablated = logits + 0.001
    ablated[:6, 0] += 5
    probe = Probe(LogitPairs, make_site(Op.RESIDUAL, shape=(), taps=METRIC.taps[:2]), METRIC.taps[:2])
    statistic = LogitPairs(probe, 1)
    view = View(dict(zip(METRIC.taps, (logits, ablated), strict=False)), torch.arange(200), None, 0)
    statistic.fold(statistic.read(view), torch.zeros(200, dtype=torch.int64))
    gate = METRIC.gate(statistic, probe.site, "relative_change", {})
    assert gate.images.tolist() == [1000]  # 6 of 200 carry it, and 30 are needed
    assert METRIC.gate(statistic, probe.site, "jsd", {}) is None


def test_images_needed():
    assert [METRIC.images(Need(None, name, 10, 0.05, {"idle_jsd": 0.9})) for name in METRIC.fields] == [64] * 4


@pytest.mark.parametrize(
    ("op", "taps", "by", "field", "reason"),
    [
        (Op.GATE, ("gate", "logits"), "zero", "jsd", "shuts out"),
        (Op.GATE, ("gate", "logits"), "mean", "idle", "only the branch of a residual addition"),
        (Op.CONCAT, ("branch", "logits"), "zero", "idle", "only the branch of a residual addition"),
        (Op.GATE, ("gate", "logits"), "mean", "jsd", None),
        (Op.RESIDUAL, ("skip", "branch", "logits"), "zero", "idle", None),
    ],
)
def test_where_it_applies(op, taps, by, field, reason):
    found = METRIC.applies(make_site(op, taps=taps), field, {"by": by})
    assert (reason is None and found is None) or reason in found


def test_one_output_has_no_softmax():
    with pytest.raises(MetricError, match="does not apply: the network has one output"):
        measure("block_ablation", *(x[:, :1] for x in pair()))


def test_what_is_replaced():
    told = {op: METRIC.variants(make_site(op), {"by": "mean"})["ablated"] for op in METRIC.at}
    assert told == {
        Op.RESIDUAL: Altered("logits", of="branch", by="mean"),
        Op.GATE: Altered("logits", of="gate", by="mean"),
        Op.CONCAT: Altered("logits", of="branch", by="mean"),
    }


# --- in a network -----------------------------------------------------------------------------------------------


class Blocks(nn.Module):
    """A block that does nothing, one whose branch is a constant, an ordinary one, a gate and a concatenation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.silent, self.constant, self.usual = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.squeeze, self.more, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(8, 3)
        nn.init.zeros_(self.silent.weight)
        nn.init.zeros_(self.silent.bias)
        nn.init.zeros_(self.constant.weight)
        nn.init.constant_(self.constant.bias, 2.0)

    def forward(self, x, without=""):
        def branch(name, x):
            return torch.zeros_like(x) if name == without else getattr(self, name)(x)

        x = self.stem(x).relu()
        x = x + branch("silent", x)
        x = (x + branch("constant", x)).relu()
        x = (x + branch("usual", x)).relu()
        x = x * self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.head(torch.cat([x, branch("more", x).tanh()], 1).mean((2, 3)))


IMAGES = torch.rand(70, 3, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def net():
    return Blocks().eval()


@pytest.fixture(scope="module")
def flows(net):
    rules = [
        [{"metric": f"block_ablation.{name}", "params": {"by": by}, "if_absent": "skip"} for name in OUTPUT]
        for by in ("zero", "mean")
    ]
    return [cnnaudit.profile(net, {"images": IMAGES}, rules=each) for each in rules]


def measured(flow, name):
    selection = flow[f"block_ablation.{name}"]
    return {check.site.op: [] for check in selection.checks} | {
        op: [selection[c.site.path].value for c in selection.checks if c.site.op is op and c.probe is not None]
        for op in (Op.RESIDUAL, Op.GATE, Op.CONCAT)
    }


def test_removing_a_block_is_running_the_network_without_it(net, flows):
    with torch.no_grad():
        whole = net(IMAGES)
        without = [values(whole, net(IMAGES, name)) for name in ("silent", "constant", "usual", "more")]
    for name in OUTPUT:
        found = measured(flows[0], name)
        assert found[Op.RESIDUAL] == pytest.approx([w[name] for w in without[:3]], rel=1e-4, abs=1e-9)
        assert found[Op.CONCAT] == pytest.approx([without[3][name]], rel=1e-4, abs=1e-9)
        assert found[Op.GATE] == []


def test_a_constant_branch_is_its_mean(flows):
    for name in OUTPUT:
        zero, mean = (measured(flow, name) for flow in flows)
        assert zero[Op.RESIDUAL][0] == mean[Op.RESIDUAL][0] == 0
        assert mean[Op.RESIDUAL][1] == pytest.approx(0, abs=1e-6)
        assert zero[Op.RESIDUAL][1] > 0 or name == "flip"
        assert len(mean[Op.GATE]) == 1
