"""One pass over the data: values, blocks, groups, variants, and what is freed."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.utils.data import TensorDataset

import cnnaudit
from cnnaudit.data import Block
from cnnaudit.errors import GraphError, LoadError
from cnnaudit.graph import capture
from cnnaudit.site import Variant
from cnnaudit.statistics import ActivityTally, ClassHistogram, PairMoments, Probe, Statistic, deal, draw_offsets
from cnnaudit.stream import sweep
from cnnaudit.stream.runner import PILOT, Runner

pytestmark = pytest.mark.usefixtures("one_thread")


CALIBRATING = ClassHistogram.calibrates


class Keep(Statistic):
    """Stores whole taps, block by block."""

    @classmethod
    def size(cls, probe, groups, classes):
        return 0

    def read(self, view):
        return {tap: view.tensors[tap].clone() for tap in self.probe.taps}

    def add(self, reading, groups, first):
        self.__dict__.setdefault("blocks", []).append(reading)
        self.__dict__.setdefault("row_groups", []).extend(groups.tolist())

    def all_of(self, tap):
        return torch.cat([reading[tap] for reading in self.blocks])


class Functional(nn.Module):
    """Nothing but functions, one in-place ReLU that is used three times, and an addition in place."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)

        def weight(*shape):
            return nn.Parameter(torch.randn(shape, generator=generator) / 3)

        self.stem, self.first, self.second, self.head = (
            weight(6, 2, 3, 3),
            weight(6, 6, 3, 3),
            weight(6, 6, 3, 3),
            weight(4, 6),
        )
        self.shift = weight(6)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(F.conv2d(x, self.stem, self.shift, padding=1))
        identity = x
        out = F.conv2d(x, self.first, padding=1)
        out = self.relu(out)
        out = F.conv2d(out, self.second, padding=1)
        out += identity
        out = self.relu(out)
        out = F.max_pool2d(out, 2)
        return F.linear(out.mean((2, 3)), self.head)


def by_hand(net, x, *, branch=None, block_input=None):
    """Every value of ``Functional``, out of place; the residual branch or the block's input may be replaced."""
    found = {}
    found["stem.output"] = F.conv2d(x, net.stem, net.shift, padding=1)
    found["stem.response"] = skip = F.relu(found["stem.output"])
    if block_input is not None:
        skip = block_input(skip)
    found["first.output"] = F.conv2d(skip, net.first, padding=1)
    found["first.response"] = F.relu(found["first.output"])
    found["second.output"] = f = F.conv2d(found["first.response"], net.second, padding=1)
    if branch is not None:
        f = branch(f)
    found["skip"], found["branch"], found["sum"] = skip, f, skip + f
    found["pool.input"] = F.relu(found["sum"])
    found["pool.output"] = F.max_pool2d(found["pool.input"], 2)
    found["head"] = F.linear(found["pool.output"].mean((2, 3)), net.head)
    return found


SITES = {
    ("#conv.0", "output"): "stem.output",
    ("#conv.0", "response"): "stem.response",
    ("#conv.1", "input"): "stem.response",
    ("#conv.1", "output"): "first.output",
    ("#conv.1", "response"): "first.response",
    ("#conv.2", "output"): "second.output",
    ("#conv.2", "response"): "second.output",
    ("#add.0", "skip"): "skip",
    ("#add.0", "branch"): "branch",
    ("#add.0", "sum"): "sum",
    ("#max_pool.0", "input"): "pool.input",
    ("#max_pool.0", "output"): "pool.output",
}


@pytest.fixture(scope="module")
def net():
    return Functional()


@pytest.fixture(scope="module")
def graph(net):
    return capture(net, torch.zeros(2, 2, 8, 8))


def images(count, *, seed=1):
    return torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def as_blocks(x, size, labels=None):
    return [
        Block(
            i,
            part,
            None if labels is None else labels[i * size : (i + 1) * size],
            torch.arange(len(x))[i * size :][:size],
            torch.arange(len(x))[i * size :][:size],
        )
        for i, part in enumerate(x.split(size))
    ]


def head(graph):
    return next(site for site in graph.sites if site.op == "head")


def swept(graph, probes, x, *, size=16, groups=4, labels=None, **given):
    (found,) = sweep(graph, probes, as_blocks(x, size, labels), groups=groups, size=size, seed=0, **given)
    return found


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# --- values ---------------------------------------------------------------------------------------------


def test_every_tap_of_a_functional_network_has_the_value_of_a_forward_written_by_hand(net, graph):
    x = images(40)
    expected = by_hand(net, x)
    assert {site.path for site in graph.sites} >= {path for path, _ in SITES}
    probes = {key: Probe(Keep, graph.site(key[0]), (key[1],)) for key in SITES}
    found = swept(graph, [*probes.values(), output := Probe(Keep, head(graph), ("output",))], x, reference=net)
    for key, name in SITES.items():
        close(found[probes[key]].all_of(key[1]), expected[name])
    close(found[output].all_of("output"), expected["head"])


def test_taps_of_one_site_are_read_together_even_where_the_first_is_made_long_before(net, graph):
    probe = Probe(Keep, graph.site("#add.0"), ("sum", "skip"))
    found = swept(graph, [probe], images(20))[probe]
    expected = by_hand(net, images(20))
    close(found.all_of("skip"), expected["skip"])
    close(found.all_of("sum"), expected["sum"])


# --- blocks and groups --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 33])
def test_a_short_block_is_filled_up_and_the_filling_is_never_folded(net, graph, count):
    conv = graph.site("#conv.1")
    tally, kept = Probe(ActivityTally, conv, ("response",)), Probe(Keep, conv, ("response",))
    found = swept(graph, [tally, kept], images(count))
    expected = by_hand(net, images(count))["first.response"]
    close(found[kept].all_of("response"), expected)
    assert found[tally].n_images == count
    assert torch.equal(found[tally].tally["active"].sum(0), (expected > 0).flatten(2).any(2).sum(0))


def test_every_forward_pass_is_of_the_same_number_of_images(graph, monkeypatch):
    seen = []
    run_block = Runner.run_block

    def watched(self, x, *rest):
        seen.append(tuple(x[0].shape))
        return run_block(self, x, *rest)

    monkeypatch.setattr(Runner, "run_block", watched)
    swept(graph, [Probe(ActivityTally, graph.site("#conv.1"), ("response",))], images(37))
    assert seen == [(16, 2, 8, 8)] * 3


def dealt(count, groups, *, ranked=True):
    return deal(torch.arange(count), groups, 0, ranked=ranked)


def test_an_image_belongs_to_the_group_that_it_was_dealt_to(graph):
    probe = Probe(Keep, graph.site("#conv.1"), ("response",))
    found = swept(graph, [probe], images(45), size=8, groups=4)[probe]
    assert found.row_groups == dealt(45, 4).tolist()
    assert sorted(found.images.tolist()) == [11, 11, 11, 12]


def test_images_of_one_source_are_in_one_group_and_counted_once(graph):
    probe = Probe(Keep, graph.site("#conv.1"), ("response",), clustered=True)
    sources = torch.tensor([5, 0, 5, 1, 1, 2, 5, 0, 0, 4])
    blocks = [dataclasses.replace(b, sources=sources[b.ids]) for b in as_blocks(images(10), 4)]
    (found,) = sweep(graph, [probe], blocks, groups=3, size=4, seed=0)
    groups = deal(sources, 3, 0, ranked=False)
    assert found[probe].row_groups == groups.tolist()
    assert found[probe].images.tolist() == groups.bincount(minlength=3).tolist()
    assert found[probe].n_sources == 5


def test_each_value_of_a_column_has_a_statistic_of_its_own_on_the_same_grid(net, graph):
    probe = Probe(ClassHistogram, graph.site("#conv.2"), ("response",), (("bins", 4),), by="scanner")
    whole = dataclasses.replace(probe, by="")
    x, labels = images(300), torch.arange(300) % 3
    scanner = (torch.arange(300) % 7 == 0).long() * 2 + 1  # codes 1 and 3
    blocks = [dataclasses.replace(b, columns={"scanner": scanner[b.ids]}) for b in as_blocks(x, 16, labels)]
    (found,) = sweep(graph, [probe, whole], blocks, groups=4, size=16, seed=0)
    slices = {p.slice: s for p, s in found.items() if p.by}
    assert sorted(slices) == [1, 3]
    assert [slices[code].n_images for code in (1, 3)] == [257, 43]
    assert all(torch.equal(s.calibration["edges"], found[whole].calibration["edges"]) for s in slices.values())
    assert torch.equal(slices[1].counts + slices[3].counts, found[whole].counts)
    mine = scanner == 3
    alone = as_blocks(x[mine], 16, labels[mine])
    (only,) = sweep(graph, [whole], alone, groups=4, size=16, seed=0)
    assert only[whole].counts.sum((0, 2)).tolist() == slices[3].counts.sum((0, 2)).tolist()


def test_statistics_are_shown_at_looks_and_at_the_end(graph):
    probe = Probe(ActivityTally, graph.site("#conv.1"), ("response",))
    shown = sweep(graph, [probe], as_blocks(images(90), 8), groups=4, size=8, seed=0, looks=[16, 40])
    assert [found[probe].n_images for found in shown] == [16, 40, 90]


@pytest.mark.parametrize(("size", "groups"), [(4, 3), (4, 64), (2, 5), (16, 1)])
def test_every_group_counts_its_own_images_however_many_are_folded_at_once(net, graph, size, groups):
    probe = Probe(ActivityTally, graph.site("#conv.1"), ("response",))
    x = images(83)
    found = swept(graph, [probe], x, size=size, groups=groups)[probe]
    fires = (by_hand(net, x)["first.response"] > 0).flatten(2).any(2).long()
    group = dealt(83, groups)
    assert found.images.tolist() == torch.bincount(group, minlength=groups).tolist()
    assert torch.equal(found.tally["active"], torch.stack([fires[group == g].sum(0) for g in range(groups)]))


@pytest.mark.parametrize("count", [40, CALIBRATING, CALIBRATING + 60])
def test_grids_come_from_the_first_images_and_all_are_counted(net, graph, count):
    probe = Probe(ClassHistogram, graph.site("#conv.2"), ("response",), (("bins", 4),))
    labels = torch.arange(count) % 3
    found = swept(graph, [probe], images(count), labels=labels)[probe]
    response = by_hand(net, images(count))["second.output"].detach().mean((2, 3))
    quartiles = np.quantile(response[:CALIBRATING], [0.25, 0.5, 0.75], axis=0, method="midpoint")
    spread = response.std(0).numpy()
    assert (abs(found.calibration["edges"].numpy() - quartiles.T) < 0.1 * spread[:, None]).all()
    assert found.counts.sum((1, 2)).tolist() == [count] * 6
    assert torch.equal(found.counts.sum(2)[0], torch.bincount(labels).int())
    first = found.counts.sum(1)
    if count <= CALIBRATING:
        assert (first - count / 4).abs().max() <= 1


# --- the same result bit for bit ------------------------------------------------------------------------------


RULES = [
    {"metric": "activity.dormant", "min": 0.1},
    {"metric": "class_information", "min": 0},
    {"metric": "pool_information_dimension_loss", "max": 0.9},
    {"metric": "pool_entropy_loss", "max": 0.9, "params": {"levels": 3}},
    {"metric": "branch_variance_share", "min": 0.1, "params": {"positions": 9}},
]


def audited(net, data, **sampling):
    return cnnaudit.audit({"cnnaudit": 1, "sampling": sampling, "rules": RULES}, model=net, data=data)


def test_the_result_is_the_same_bit_for_bit_whatever_the_batch_size(net):
    x, y = images(70), torch.arange(70) % 4
    reports = [audited(net, list(zip(x.split(size), y.split(size), strict=True))) for size in (1, 7, 16, 64, 70)]
    whole = [report.to_json() for report in reports]
    assert whole == [whole[0]] * 5
    assert any(verdict.value not in (None, 0, 1) for verdict in reports[0].verdicts)


def test_the_result_is_the_same_twice_in_a_row_and_from_a_file(net, tmp_path):
    x, y = images(70), torch.arange(70) % 4
    np.savez(tmp_path / "data.npz", images=x.numpy(), labels=y.numpy())
    given = [(x, y), (x, y), (x.numpy(), y.numpy()), TensorDataset(x, y)]
    verdicts = [audited(net, data).verdicts for data in given]
    spec = {"cnnaudit": 1, "data": str(tmp_path / "data.npz"), "rules": RULES}
    verdicts.append(cnnaudit.audit(spec, model=net).verdicts)
    assert all(found == verdicts[0] for found in verdicts)


def test_another_seed_draws_other_images_and_positions(net):
    x, y = images(70), torch.arange(70) % 4
    one, other = (audited(net, (x, y), seed=seed, max_images=64) for seed in (0, 1))
    assert one.data["sha256"] != other.data["sha256"]
    assert one.verdicts != other.verdicts


def test_neither_memory_format_nor_other_probes_change_a_value(net, graph):
    probe = Probe(PairMoments, graph.site("#add.0"), ("skip", "branch"), (("positions", 5),))
    x = images(40)
    alone = swept(graph, [probe], x)[probe]
    more = [Probe(ActivityTally, site, (tap,)) for site in graph.sites for tap in site.taps]
    beside = swept(graph, [*more, probe], x.contiguous(memory_format=torch.channels_last))[probe]
    assert all(torch.equal(alone.tally[name], beside.tally[name]) for name in alone.tally)


# --- other runs ----------------------------------------------------------------------------------------------


def other(site, **taps):
    """A site with further taps, each ``(tap, value replaced, how, ...)``."""
    extra = {}
    for name, (tap, node, *how) in taps.items():
        extra[name] = dataclasses.replace(tap, variant=None if not how else Variant(node, *how))
    return site.with_taps(extra)


def logits(graph):
    return head(graph).taps["output"]


def silenced(graph, by="zero", **more):
    add = graph.site("#add.0")
    return other(add, logits=(logits(graph), ""), ablated=(logits(graph), add.taps["branch"].node, by), **more)


def test_a_silenced_branch_gives_what_a_forward_without_it_gives(net, graph):
    x = images(37)
    pool, node = graph.site("#max_pool.0"), graph.site("#add.0").taps["branch"].node
    both = Probe(Keep, silenced(graph), ("logits", "ablated"))
    late = Probe(Keep, other(pool, changed=(pool.taps["output"], node, "zero")), ("input", "changed"))
    base = Probe(Keep, head(graph), ("output",))
    found = swept(graph, [base, both, late], x, reference=net)
    expected = by_hand(net, x, branch=torch.zeros_like)
    close(found[both].all_of("ablated"), expected["head"])
    close(found[late].all_of("changed"), expected["pool.output"])
    close(found[late].all_of("input"), by_hand(net, x)["pool.input"])
    close(found[both].all_of("logits"), by_hand(net, x)["head"])
    assert torch.equal(found[both].all_of("logits"), found[base].all_of("output"))


def test_a_mean_is_that_of_the_first_images(net, graph):
    x = images(90)
    probe = Probe(Keep, silenced(graph, "mean"), ("logits", "ablated"))
    found = swept(graph, [probe], x)[probe]
    mean = by_hand(net, x[:PILOT])["branch"].mean(0, keepdim=True)
    close(found.all_of("ablated"), by_hand(net, x, branch=mean.expand_as)["head"])
    assert len(found.all_of("ablated")) == 90
    few = swept(graph, [probe], x[:20])[probe]  # a last block that is filled up does not weigh more
    mean = by_hand(net, x[:20])["branch"].mean(0, keepdim=True)
    close(few.all_of("ablated"), by_hand(net, x[:20], branch=mean.expand_as)["head"])


def test_a_changed_input_of_a_block_reaches_its_skip_and_its_branch(net, graph):
    x, node, add = images(20), graph.site("#conv.1").taps["input"].node, graph.site("#add.0")
    names = ("skip", "branch", "sum")
    site = other(add, **{f"no_{name}": (add.taps[name], node, "zero") for name in names})
    probe = Probe(Keep, site, tuple(f"no_{name}" for name in names))
    found = swept(graph, [probe], x)[probe]
    expected = by_hand(net, x, block_input=torch.zeros_like)
    for name in names:
        close(found.all_of(f"no_{name}"), expected[name])


def test_other_runs_know_nothing_of_each_other_and_the_base_run_nothing_of_them(net, graph):
    add, x = graph.site("#add.0"), images(33)
    nodes = {
        "branch": add.taps["branch"].node,
        "block": graph.site("#conv.1").taps["input"].node,
        "stem": graph.site("#conv.0").taps["output"].node,
    }
    site = other(add, **{name: (logits(graph), node, "zero") for name, node in nodes.items()})
    probe = Probe(Keep, site, tuple(nodes))
    base = [Probe(ActivityTally, site, (tap,)) for site in graph.sites for tap in site.taps]
    found = swept(graph, [*base, probe], x)
    close(found[probe].all_of("branch"), by_hand(net, x, branch=torch.zeros_like)["head"])
    close(found[probe].all_of("block"), by_hand(net, x, block_input=torch.zeros_like)["head"])
    assert found[probe].all_of("stem").std(0).max() == 0
    alone = swept(graph, base, x)
    for tally in base:
        for name, tensor in alone[tally].tally.items():
            assert torch.equal(tensor, found[tally].tally[name]), (tally.site.path, name)


def test_what_lies_before_the_change_is_that_of_the_base_run(net, graph):
    conv, x = graph.site("#conv.0"), images(20)
    node = graph.site("#add.0").taps["branch"].node
    site = other(conv, early=(conv.taps["response"], node, "zero"), late=(logits(graph), node, "zero"))
    probe = Probe(Keep, site, ("response", "early", "late"))
    found = swept(graph, [probe], x)[probe]
    assert torch.equal(found.all_of("early"), found.all_of("response"))
    close(found.all_of("late"), by_hand(net, x, branch=torch.zeros_like)["head"])


def test_the_replaced_value_can_be_read_itself(net, graph):
    add = graph.site("#add.0")
    node = add.taps["branch"].node
    site = other(add, gone=(add.taps["branch"], node, "zero"), rest=(add.taps["sum"], node, "zero"))
    probe = Probe(Keep, site, ("branch", "gone", "rest"))
    found = swept(graph, [probe], images(20))[probe]
    assert found.all_of("gone").count_nonzero() == 0
    close(found.all_of("rest"), by_hand(net, images(20))["skip"])
    close(found.all_of("branch"), by_hand(net, images(20))["branch"])


def canvases(count):
    return torch.randn(count, 2, 14, 12, generator=torch.Generator().manual_seed(8))


def on_canvas(x, size, labels=None):
    return [block.cropped((8, 8)) for block in as_blocks(x, size, labels)]


def run_on_canvas(graph, probes, x):
    *_, statistics = sweep(graph, probes, on_canvas(x, 16), groups=4, size=16, seed=5)
    return statistics


def test_a_shifted_run_sees_another_part_of_the_canvas(net, graph):
    conv, x = graph.site("#conv.1"), canvases(37)
    site = other(conv, moved=(conv.taps["response"], "", "shift", (2, -1)), far=(logits(graph), "", "shift", (-3, 2)))
    probe = Probe(Keep, site, ("response", "moved", "far"))
    found = run_on_canvas(graph, [probe], x)[probe]
    close(found.all_of("response"), by_hand(net, x[:, :, 3:11, 2:10])["first.response"])
    close(found.all_of("moved"), by_hand(net, x[:, :, 5:13, 1:9])["first.response"])
    close(found.all_of("far"), by_hand(net, x[:, :, 0:8, 4:12])["head"])


def test_a_crop_is_drawn_for_each_image(net, graph):
    conv, x = graph.site("#conv.0"), canvases(40)
    site = other(
        conv, a=(conv.taps["response"], "", "crop", (0, 3, 2)), b=(conv.taps["response"], "", "crop", (1, 3, 2))
    )
    probe = Probe(Keep, site, ("a", "b"))
    found = run_on_canvas(graph, [probe], x)[probe]
    for draw, tap in enumerate("ab"):
        offsets = draw_offsets(torch.arange(40), 5, draw, (3, 2))
        assert {int(y) for y, _ in offsets} == set(range(-3, 4))
        assert {int(z) for _, z in offsets} == set(range(-2, 3))
        parts = [one[:, 3 + y : 11 + y, 2 + z : 10 + z] for one, (y, z) in zip(x, offsets.tolist(), strict=True)]
        close(found.all_of(tap), by_hand(net, torch.stack(parts))["stem.response"])
    assert not torch.equal(found.all_of("a"), found.all_of("b"))


def test_a_crop_that_does_not_fit_is_refused():
    (block,) = as_blocks(images(4), 4)
    with pytest.raises(LoadError, match=r"sampling.crop of 9 x 4 pixels cannot be cut from images of 8 x 8"):
        block.cropped((9, 4))


class Projected(nn.Module):
    """The skip is computed after the branch, from the same input."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv1, self.conv2 = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.projection = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        branch = self.conv2(self.conv1(x).relu())
        return (branch + self.projection(x)).mean((2, 3))


def test_a_value_that_is_made_after_the_change_and_apart_from_it_is_there_in_both_runs():
    torch.manual_seed(0)
    net, x = Projected().eval(), images(20)
    graph = capture(net, torch.zeros(2, 2, 8, 8))
    add = next(site for site in graph.sites if site.op == "residual")
    node = add.taps["branch"].node
    site = other(add, other=(add.taps["skip"], node, "zero"), rest=(add.taps["sum"], node, "zero"))
    probe = Probe(Keep, site, ("skip", "other", "rest"))
    found = swept(graph, [probe], x)[probe]
    assert torch.equal(found.all_of("skip"), found.all_of("other"))
    with torch.no_grad():
        close(found.all_of("rest"), net.projection(net.stem(x)))


class Shortened(Keep):
    """Keeps of its first tap only what it needs until the others are there."""

    @classmethod
    def kept(cls, tap, x):
        return x.flatten(1).square().mean(1, keepdim=True) if tap == "branch" else x


def test_what_waits_is_shortened(net, graph):
    probe = Probe(Shortened, silenced(graph), ("branch", "ablated"))
    found = swept(graph, [probe], images(20))[probe]
    close(found.all_of("branch")[:, 0], by_hand(net, images(20))["branch"].square().mean((1, 2, 3)))


# --- what is freed ------------------------------------------------------------------------------------------


class Watched(Runner):
    """Notes how many values are held after each node."""

    held: list[int]

    def run_node(self, n):
        value = super().run_node(n)
        self.held.append(sum(node.op != "get_attr" for node in self.env))
        return value


def chain(length):
    return nn.Sequential(*[layer for _ in range(length) for layer in (nn.Conv2d(2, 2, 3, padding=1), nn.ReLU())])


def held_by(model, probes_of):
    graph = capture(model, torch.zeros(2, 2, 8, 8))
    Watched.held = []
    runner = Watched(graph, probes_of(graph))
    fold = SimpleNamespace(start=lambda *given: None, take=lambda *given: None)
    (block,) = on_canvas(canvases(4), 4)
    with torch.no_grad():
        runner.run_block([block.images], block, 0, fold)
    assert runner.env == {}
    return max(Watched.held)


def test_values_are_freed_as_soon_as_nobody_needs_them():
    def everywhere(graph):
        return [Probe(ActivityTally, site, ("response",)) for site in graph.sites if site.op == "conv"]

    assert held_by(chain(12), everywhere) <= 3
    assert held_by(chain(12), everywhere) == held_by(chain(4), everywhere)


@pytest.mark.parametrize("early", [False, True])
def test_another_run_holds_no_more_than_is_alive(early):
    def ablated(graph):
        site, changed = graph.sites[-1], graph.sites[1 if early else -2]
        tap = site.taps["output"]
        return [Probe(Keep, other(site, v=(tap, changed.taps["output"].node, "zero")), ("output", "v"))]

    def shifted(graph):
        sites = [other(s, v=(s.taps["output"], "", "shift", (1, 1))) for s in graph.sites if s.op == "conv"]
        return [Probe(Keep, site, ("output", "v")) for site in sites]

    for probes_of in (ablated, shifted):
        assert held_by(chain(12), probes_of) == held_by(chain(4), probes_of) <= 3


# --- what goes wrong -------------------------------------------------------------------------------------------


def test_an_image_that_overflows_is_an_error_at_the_sites_that_it_reaches(net):
    x = images(60)
    x[17, 0, 3, 3] = torch.finfo(x.dtype).max
    report = audited(net, (x, torch.arange(60) % 4))
    told = {verdict.metric: verdict.detail for verdict in report.verdicts if verdict.outcome != "not_applicable"}
    assert told == {rule["metric"].partition(".")[0]: "1 of 60 images give NaN or Inf here." for rule in RULES}
    assert {verdict.outcome for verdict in report.verdicts} == {"error", "not_applicable"}
    assert report.exit_code == 2


def test_a_nan_that_arises_in_the_middle_is_an_error_only_from_there_on():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            x = self.one(x).relu()
            return self.two(x + torch.log(x.amax((1, 2, 3), keepdim=True) - 2)).relu().mean((2, 3))

    torch.manual_seed(0)
    x = images(60)
    x[5] = 0
    report = cnnaudit.audit(
        {"cnnaudit": 1, "rules": [{"metric": "activity.dormant", "max": 9}]}, model=Broken(), data=x
    )
    found = {verdict.site: verdict for verdict in report.verdicts}
    assert found["one"].outcome != "error"
    assert found["two"].outcome == "error"


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
def test_an_infinity_counts_like_a_nan(net, graph, value):
    x = images(20)
    x[3] = value
    probe = Probe(ActivityTally, graph.site("#conv.0"), ("output",))
    assert swept(graph, [probe], x)[probe].nonfinite == 1


def test_a_model_that_draws_random_numbers_is_an_error():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3)

        def forward(self, x):
            return F.dropout(self.conv(x), 0.5, training=True).mean((2, 3))

    with pytest.raises(GraphError, match="computes something else than the model: their outputs differ by"):
        cnnaudit.audit(
            {"cnnaudit": 1, "rules": [{"metric": "activity.dormant", "max": 9}]}, model=Noisy(), data=images(40)
        )


def test_a_model_that_keeps_state_is_an_error():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.calls = nn.Conv2d(2, 3, 3), 0

        def forward(self, x):
            self.calls += 1
            return self.conv(x).mean((2, 3)) * self.calls

    model = Counting()
    model(images(2))
    with pytest.raises(GraphError, match="keep state between calls"):
        list(
            sweep(
                capture(model, images(2)),
                [],
                as_blocks(images(16), 16),
                groups=1,
                size=16,
                seed=0,
                reference=nn.Sequential(model, nn.Identity(), Scale()),
            )
        )


class Scale(nn.Module):
    def forward(self, x):
        return 1.01 * x


def test_rounding_is_no_difference(net, graph):
    swept(graph, [], images(16), reference=lambda_module(lambda x: net(x) * (1 + 1e-5)))
    with pytest.raises(GraphError):
        swept(graph, [], images(16), reference=lambda_module(lambda x: net(x) * (1 + 1e-2)))


def lambda_module(function):
    class Lambda(nn.Module):
        def forward(self, x):
            return function(x)

    return Lambda()


@pytest.mark.parametrize(
    "flatten", [nn.Flatten(), lambda_module(lambda x: x.view(x.shape[0], -1))], ids=["flatten", "view"]
)
def test_a_map_may_be_flattened_into_a_vector(flatten):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), flatten, nn.Linear(4 * 64, 3))
    graph = capture(model, torch.zeros(2, 2, 8, 8))
    output = Probe(Keep, head(graph), ("input", "output"))
    found = swept(graph, [output], images(20), reference=model)[output]
    close(found.all_of("input"), model[1](model[0](images(20))).flatten(1))
    close(found.all_of("output"), model(images(20)))
