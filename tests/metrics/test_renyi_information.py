import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from cnnaudit import MetricError, measure
from cnnaudit.metrics import Need, registry
from cnnaudit.site import Op, Site, Tap
from cnnaudit.statistics import Probe, View

ENTROPY = registry()["renyi_entropy"]
METRIC = registry()["renyi_information"]
RULES = ("dimension", "median", "silverman")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def folded(*maps, metric=METRIC, batch=8, first=None, seed=0):
    taps = {name: Tap(name, tuple(x.shape[1:])) for name, x in zip(metric.taps, maps, strict=True)}
    probe = Probe(metric.reads, Site("a", Op.CONV, maps[-1].shape[1], taps), metric.taps, (("batch", batch),))
    statistic = metric.reads(probe, 4)
    for ids in torch.arange(len(maps[0])).split(16):
        reading = statistic.read(View({n: x[ids] for n, x in zip(metric.taps, maps, strict=True)}, ids, None, seed))
        statistic.fold(reading, ids % 4, None if first is None else first[ids])
    return statistic


def fields(*maps, metric=METRIC, first=None, **params):
    statistic = folded(*maps, metric=metric, batch=params.get("batch", 8), first=first)
    return metric.evaluate(statistic, statistic.probe.site, dict(metric.params(**({"batch": 8} | params))))


def layers(n=64, seed=0):
    x = normal(n, 3, 4, 4, seed=seed)
    mixed = torch.einsum("ck,nkij->ncij", normal(5, 3, seed=7), x)
    return x, torch.relu(mixed) + 0.1 * normal(n, 5, 4, 4, seed=seed + 1)


# --- naive reference --------------------------------------------------------------------------------------------


def naive_entropy(k, alpha=1.01):
    values = np.linalg.eigvalsh(k / np.trace(k))
    return math.log2(sum(max(v, 0) ** alpha for v in values)) / (1 - alpha)


def naive_gram(x, rule):
    x = x.double().flatten(1).numpy()
    n, d = x.shape
    if rule != "silverman":
        deviation = x.std(0)
        x = (x - x.mean(0)) / np.where(deviation > 0, deviation, 1)
    distance = np.array([[math.dist(a, b) for b in x] for a in x])
    if rule == "median":
        s = np.median(distance[np.triu_indices(n, 1)])
    else:
        s = (5 if rule == "silverman" else math.sqrt(d)) * n ** (-1 / (4 + d))
    return np.exp(-((distance / s) ** 2) / 2)


def naive_information(x, *others):
    together = np.prod(others, axis=0)
    return naive_entropy(x) + naive_entropy(together) - naive_entropy(x * together)


@pytest.mark.parametrize("rule", RULES)
def test_fields_are_those_of_loops(rule):
    x, t = layers(16)
    found = fields(x, t, batch=16, width=rule)
    a, b = naive_gram(x, rule), naive_gram(t, rule)
    assert found["information"].value == pytest.approx([naive_information(a, b)], rel=1e-6)
    kernels = [naive_gram(t[:, i], rule) for i in range(5)]
    trade, rest = [], []
    for i, j in itertools.combinations(range(5), 2):
        one, other = naive_information(a, kernels[i]), naive_information(a, kernels[j])
        both = naive_information(a, kernels[i], kernels[j])
        trade.append(one + other - both)
        rest.append(2 * both - one - other)
    assert found["redundancy_synergy"].value == pytest.approx([np.mean(trade)], rel=1e-6)
    assert found["non_redundant"].value == pytest.approx([np.mean(rest)], rel=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_entropy_is_that_of_a_loop(rule):
    x, _ = layers(16)
    found = fields(x, metric=ENTROPY, batch=16, width=rule)["entropy"]
    assert found.value == pytest.approx([naive_entropy(naive_gram(x, rule))], rel=1e-6)


def test_values_are_means_over_batches_and_errors_are_between_them():
    x, t = layers(64)
    statistic = folded(x, t)
    batches = statistic.batches(0), statistic.batches(1)
    assert batches[0].shape == (8, 8, 3, 16)
    each = [
        naive_information(naive_gram(a.flatten(1), "dimension"), naive_gram(b.flatten(1), "dimension"))
        for a, b in zip(*batches, strict=True)
    ]
    found = fields(x, t)["information"]
    low, high = found.interval(0.95)
    reach = stats.t.ppf(0.975, 7) * stats.sem(each)
    assert found.value == pytest.approx([np.mean(each)])
    assert high - low == pytest.approx([2 * reach])


# --- closed forms -----------------------------------------------------------------------------------------------


def test_a_constant_layer_tells_nothing():
    x, _ = layers()
    found = fields(x, torch.ones(64, 4, 4, 4))
    for name in METRIC.fields:
        assert found[name].value == pytest.approx([0], abs=1e-9)
    entropy = fields(torch.ones(64, 4, 4, 4), metric=ENTROPY)["entropy"]
    assert entropy.value == pytest.approx([0], abs=1e-9)
    assert np.concatenate(entropy.interval(0.95)) == pytest.approx(0, abs=1e-9)


def test_clusters_of_equal_size():
    """Two clusters far apart: 1 bit, however they fall into the batches' halves."""
    cluster = torch.arange(64) % 2
    x = (200.0 * cluster)[:, None].expand(-1, 3)
    found = fields(x, metric=ENTROPY, batch=64, width="silverman")["entropy"]
    assert found.value == pytest.approx([1], abs=1e-6)


def test_a_saturated_layer_has_all_bits_under_silverman_only():
    x = normal(256, 64, 4, 4)
    saturated, relative = (fields(x, metric=ENTROPY, batch=32, width=w)["entropy"] for w in ("silverman", "dimension"))
    assert saturated.value == pytest.approx([5], abs=1e-3)
    assert relative.value < 4.9


# --- laws -------------------------------------------------------------------------------------------------------


def test_the_two_pair_fields_add_up_to_the_joint_information():
    x, t = layers(16)
    found = fields(x, t[:, :2], batch=16)
    a = naive_gram(x, "dimension")
    both = naive_information(a, *(naive_gram(t[:, i], "dimension") for i in range(2)))
    assert found["redundancy_synergy"].value + found["non_redundant"].value == pytest.approx([both], rel=1e-6)


def test_two_copies_of_a_kernel_are_more_redundant_than_two_independent_ones():
    x = normal(512, 2, 2, 2)
    apart = fields(x, x, batch=64)["redundancy_synergy"]
    copies = fields(x, x[:, :1].repeat(1, 2, 1, 1), batch=64)["redundancy_synergy"]
    assert copies.interval(0.95)[0] > apart.interval(0.95)[1]


@pytest.mark.parametrize("rule", ["dimension", "median"])
def test_scale_shift_and_order_of_kernels_do_not_matter(rule):
    x, t = layers()
    scale = torch.tensor([0.1, 1, 10, 2, 3])[:, None, None]
    plain, changed = (fields(x, y, width=rule)["information"].value for y in (t, (t * scale + 4).flip(1)))
    assert changed == pytest.approx(plain, rel=1e-5)


def test_scale_matters_under_silverman():
    x, t = layers()
    plain, changed = (fields(x, y, width="silverman")["information"].value for y in (t, 0.03 * t))
    assert changed < 0.5 * plain


def test_repeated_positions_do_not_matter():
    x, _ = layers()
    wide = x.repeat_interleave(3, 2).repeat_interleave(2, 3)
    plain, changed = (fields(y, metric=ENTROPY)["entropy"].value for y in (x, wide))
    assert changed == pytest.approx(plain, rel=1e-6)


# --- which images are read --------------------------------------------------------------------------------------


def test_the_sample_is_the_images_with_the_smallest_hash():
    x = torch.arange(300.0)[:, None]
    drawn = folded(x, metric=ENTROPY).batches()[..., 0, 0].flatten()
    assert len(set(drawn.tolist())) == 64
    again = folded(x, metric=ENTROPY).batches()[..., 0, 0].flatten()
    assert torch.equal(drawn, again)
    other = folded(x, metric=ENTROPY, seed=1).batches()[..., 0, 0].flatten()
    assert not torch.equal(drawn, other)
    assert abs(float(drawn.mean()) - 150) < 4 * 300 / math.sqrt(12 * 64)


def test_maps_are_averaged_to_four_positions_a_dimension():
    x = normal(16, 2, 8, 3)
    kept = folded(x, metric=ENTROPY, batch=16).batches()
    assert kept.shape == (1, 16, 2, 12)
    everything = x.unflatten(2, (4, 2)).mean(3).flatten(2)
    torch.testing.assert_close(kept.sum((0, 1)), everything.sum(0).double(), rtol=1e-5, atol=1e-5)


def test_of_several_images_of_a_source_only_the_first_is_drawn():
    x = torch.arange(80.0)[:, None]
    first = (torch.arange(80) % 4 == 0).long()
    drawn = folded(x, metric=ENTROPY, batch=4, first=first).batches()[..., 0, 0].flatten()
    assert sorted(drawn.tolist()) == list(range(0, 80, 4))


# --- degenerate, sources, measure -------------------------------------------------------------------------------


def test_too_few_images():
    x, t = layers(7)
    found = fields(x, t)
    assert all(np.isnan(u.value).all() for u in found.values())
    x, t = layers(9)
    one = fields(x, t)["information"]
    assert np.isfinite(one.value)
    assert one.interval(0.95) == (-np.inf, np.inf)
    assert one.p_at_most(0) == 1


def test_one_kernel_has_no_pairs():
    x, t = layers()
    found = fields(x, t[:, :1])
    assert np.isnan(found["non_redundant"].value)
    assert np.isfinite(found["information"].value)
    site = folded(x, t[:, :1]).probe.site
    assert METRIC.applies(site, "information", {}) is None
    assert "pairs of kernels" in METRIC.applies(site, "redundancy_synergy", {})


def test_measure():
    x, _ = layers(128)
    y = torch.relu(x) + 0.1 * normal(128, 3, 4, 4, seed=9)
    for name in METRIC.fields:
        found = measure(f"renyi_information.{name}", x, y, batch=16, width="median")
        assert found.low < found.value < found.high
    found = measure("renyi_entropy", x, batch=16)
    assert 0 < found.low < found.value < found.high <= 4
    with pytest.raises(MetricError, match="width"):
        measure("renyi_entropy", x, width="mine")


def test_sources():
    x, _ = layers(64)
    many = x.repeat_interleave(3, 0)
    found = measure("renyi_entropy", many, batch=8, sources=torch.arange(64).repeat_interleave(3))
    alone = measure("renyi_entropy", x, batch=8)
    assert found.value == pytest.approx(alone.value, abs=0.1)  # no batch holds an image twice
    assert found.low < found.value < found.high


def test_what_they_say_of_themselves():
    assert METRIC.of_pairs
    params = dict(ENTROPY.params())
    assert ENTROPY.identified(params) == "renyi_entropy/1(alpha=1.01, batch=64, width=dimension)"
    site = folded(*layers(8)).probe.site
    assert ENTROPY.images(Need(site, "entropy", 0, 0.05, params)) == 512
    assert METRIC.images(Need(site, "information", 0, 0.05, params | {"batch": 16})) == 128
