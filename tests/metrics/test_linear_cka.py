import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from cnnaudit import measure
from cnnaudit.metrics import Need, registry
from cnnaudit.site import Op, Site, Tap
from cnnaudit.statistics import Probe, View

METRIC = registry()["linear_cka"]


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def folded(x, y, *, groups=16, features=512, blocks=4):
    """The statistic of two layers that may differ in width; image i belongs to group i % groups."""
    taps = {"from": Tap("a", tuple(x.shape[1:])), "to": Tap("b", tuple(y.shape[1:]))}
    probe = Probe(METRIC.reads, Site("a -> b", Op.CONV, y.shape[1], taps), METRIC.taps, (("features", features),))
    statistic = METRIC.reads(probe, groups)
    for number, ids in enumerate(torch.arange(len(x)).chunk(blocks)):
        reading = statistic.read(View({"from": x[ids], "to": y[ids]}, ids, None, 0))
        if number == 0:
            statistic.calibrate([reading])
        statistic.fold(reading, ids % groups)
    return statistic


def fields(x, y, **options):
    statistic = folded(x, y, **options)
    params = dict(METRIC.params(features=options.get("features", 512)))
    return METRIC.evaluate(statistic, statistic.probe.site, params)


def values(x, y, **options):
    return {name: float(found.value[0]) for name, found in fields(x, y, **options).items()}


def cka(x, y, **options):
    return values(x, y, **options)["cka"]


def related(n=300, p=8, q=5, seed=0):
    """A layer whose directions differ in variance, and a noisy linear map of it."""
    x = normal(n, p, seed=seed) / torch.arange(1, p + 1).sqrt()
    return x, x @ normal(p, q, seed=99) + 0.5 * normal(n, q, seed=seed + 1000)


# --- naive references -------------------------------------------------------------------------------------------


def gram_hsic(k, l):
    """The unbiased estimate of Song et al. (2012), from Gram matrices without their diagonals."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))
    one = np.ones(n)
    both = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + both - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


def centred_hsic(k, l):
    h = np.eye(len(k)) - 1 / len(k)
    return np.trace(k @ h @ l @ h)


def naive(x, y, hsic=gram_hsic):
    k, l = (z.double().numpy() @ z.double().numpy().T for z in (x, y))
    return hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))


@pytest.mark.parametrize("n", [4, 7, 40])
def test_sums_give_what_gram_matrices_give(n):
    x, y = (z.float() + 3 for z in related(n))
    found = values(x, y, groups=1)
    if gram_hsic(*2 * [x.double().numpy() @ x.double().numpy().T]) > 0:
        assert found["cka"] == pytest.approx(naive(x, y), rel=1e-6, abs=1e-9)
    assert found["biased"] == pytest.approx(naive(x, y, centred_hsic), rel=1e-6)


def test_the_unbiased_estimate_is_unbiased():
    """A U-statistic: leaving out each of seven images, the mean is the value of all seven."""
    x, y = related(7)
    k, l = (z.numpy() @ z.numpy().T for z in (x, y))
    some = [gram_hsic(k[np.ix_(i, i)], l[np.ix_(i, i)]) for i in (np.delete(np.arange(7), j) for j in range(7))]
    assert np.mean(some) == pytest.approx(gram_hsic(k, l))


def test_sums_of_minibatches_agree_as_in_pytorch_cka():
    """pytorch-cka adds up the same unbiased estimate over minibatches and divides then (Nguyen and others, 2020)."""
    x, y = related(1024)
    parts = dict.fromkeys(("xy", "xx", "yy"), 0.0)
    for a, b in zip(x.split(64), y.split(64), strict=True):
        k, l = (z.numpy() @ z.numpy().T for z in (a, b))
        for pair, hsic in zip(parts, (gram_hsic(k, l), gram_hsic(k, k), gram_hsic(l, l)), strict=True):
            parts[pair] += hsic
    minibatch = parts["xy"] / math.sqrt(parts["xx"] * parts["yy"])
    assert cka(x.float(), y.float()) == pytest.approx(minibatch, abs=0.01)


def test_the_jackknife_leaves_out_groups():
    x, y = (z.float() for z in related(160))
    found = fields(x, y)["cka"]
    rest = [naive(x[torch.arange(160) % 16 != g], y[torch.arange(160) % 16 != g]) for g in range(16)]
    error = math.sqrt(15 / 16 * ((np.array(rest) - np.mean(rest)) ** 2).sum())
    low, high = found.interval(0.95)
    z = stats.t.ppf(0.975, 15)
    reach = z * error + z**2 * (1 - found.value[0]) ** 2 / 160
    assert high[0] - found.value[0] == pytest.approx(reach, rel=1e-4)
    assert found.value[0] - low[0] == pytest.approx(reach, rel=1e-4)


@pytest.mark.parametrize("truth", [0.0, 0.01, 0.0625])
def test_one_kernel_a_side_that_hardly_agree(truth):
    """The square of a correlation near 0: the jackknife's own upper end was below the truth in .13 to .2 of these."""
    rho, generator, below, above = math.sqrt(truth), torch.Generator().manual_seed(0), 0, 0
    for _ in range(60):
        a, noise = torch.randn(2, 100, 1, generator=generator).unbind()
        found = measure("linear_cka", a, rho * a + math.sqrt(1 - truth) * noise, confidence=0.9)
        below, above = below + (found.high < truth), above + (found.low > truth)
    assert below <= 7  # P(X > 7) = .01 where .05 are expected
    assert above <= 7


# --- closed forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "q"), [(16, 4), (16, 9), (4, 1)])
def test_an_isotropic_layer_and_its_first_kernels(p, q):
    x = normal(6000, p)
    assert cka(x, x[:, :q]) == pytest.approx(math.sqrt(q / p), abs=0.01)


def test_noise_looks_similar_only_to_the_biased_estimate():
    found = [values(normal(100, 64, seed=s), normal(100, 64, seed=s + 50)) for s in range(6)]
    assert np.mean([f["biased"] for f in found]) == pytest.approx(0.40, abs=0.02)
    assert np.mean([f["cka"] for f in found]) == pytest.approx(0, abs=0.01)
    low, high = fields(normal(100, 64), normal(100, 64, seed=50))["cka"].interval(0.95)
    assert -0.15 < low[0] < 0 < high[0] < 0.15


def test_wide_noise():
    found = values(normal(200, 2048), normal(200, 2048, seed=1), features=2048, groups=1)
    assert found["biased"] == pytest.approx(0.91, abs=0.01)
    assert found["cka"] == pytest.approx(0, abs=0.02)


def test_a_layer_and_itself():
    x, _ = related()
    found = fields(x, x)
    assert found["cka"].value == pytest.approx([1])
    assert found["biased"].value == pytest.approx([1])
    low, _ = found["cka"].interval(0.95)
    assert low == pytest.approx([1], abs=1e-6)


# --- laws -------------------------------------------------------------------------------------------------------


def test_rotation_scale_and_shift_do_not_matter_and_other_linear_maps_do():
    x, y = related()
    rotation = torch.linalg.qr(normal(8, 8, seed=5))[0]
    plain = cka(x, y)
    assert cka(3 * x @ rotation - 2, -0.1 * y + 5) == pytest.approx(plain, rel=1e-4)
    assert cka(x * torch.tensor([9.0, 1, 1, 1, 1, 1, 1, 1]), y) != pytest.approx(plain, abs=0.02)


def test_order_of_kernels_images_and_positions_does_not_matter():
    x, y = related(60)
    plain = values(x, y)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert values(x[order], y[order].flip(1)) == pytest.approx(plain, rel=1e-6)
    maps = x[..., None, None].expand(-1, -1, 3, 3)
    assert values(maps, y) == pytest.approx(plain, rel=1e-6)


def test_the_two_sites_trade_places():
    x, y = related()
    assert values(y, x) == pytest.approx(values(x, y), rel=1e-9)


def test_a_dead_kernel_does_not_matter():
    x, y = related()
    assert cka(torch.cat([x, torch.zeros(300, 2)], 1), y) == pytest.approx(cka(x, y), rel=1e-9)


def test_a_large_offset_costs_no_digits():
    """Offsets that float64 maps can hold; the mean over a map is float32 with seven digits."""
    x, y = related()
    assert cka(x + 1000, y + 1000) == pytest.approx(cka(x, y), abs=1e-4)
    offset = folded((x + 1000).float(), y.float()).pooled()
    assert float(offset.tally["xx"].abs().max()) < 1e4  # 3e8 about 0


def test_wide_layers_are_projected():
    """Isotropic with 256 kernels and 64 directions kept: 1 / sqrt(1 + 256 / 64) of what it is."""
    x = normal(4000, 256)
    assert cka(x, x[:, :64], features=256) == pytest.approx(0.5, abs=0.01)
    assert cka(x, x[:, :64], features=64) == pytest.approx(0.5 / math.sqrt(5), abs=0.02)
    assert folded(x, x[:, :4], features=64).tally["xy"].shape == (16, 64, 4)
    # Layers of one width are projected alike.
    assert cka(x[:300], 2 * x[:300] + 1, features=64) == pytest.approx(1, abs=1e-5)


# --- degenerate, sources, measure -------------------------------------------------------------------------------


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_a_layer_that_never_varies_has_no_value(constant):
    x, _ = related(50)
    found = fields(x, torch.full((50, 3), constant))
    assert np.isnan(found["cka"].value)
    assert np.isnan(found["biased"].value)
    assert found["cka"].p_at_most(0.5) == 1


@pytest.mark.parametrize("images", [1, 3])
def test_too_few_images(images):
    x, y = related(images)
    assert np.isnan(values(x, y, blocks=1)["cka"])


def test_measure():
    x, _ = related(300, 5, 5)
    y = x @ normal(5, 5, seed=3) + 0.3 * normal(300, 5, seed=4)
    found = measure("linear_cka", x[..., None], y[..., None], block=8)
    assert found.value == pytest.approx(naive(x, y), abs=1e-5)
    assert found.low < found.value < found.high
    assert measure("linear_cka.biased", x, y).value == pytest.approx(naive(x, y, centred_hsic), abs=1e-5)


def test_images_of_one_source_are_no_evidence_of_their_own():
    x, _ = related(40, 5, 5)
    y = x @ normal(5, 5, seed=3) + 0.5 * normal(40, 5, seed=4)
    many_x, many_y = (z.repeat_interleave(8, 0) for z in (x, y))
    alone = measure("linear_cka", many_x, many_y)
    grouped = measure("linear_cka", many_x, many_y, sources=torch.arange(40).repeat_interleave(8))
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_what_it_says_of_itself():
    assert METRIC.of_pairs
    assert METRIC.identified({"features": 512}) == "linear_cka/1(features=512)"
    assert METRIC.images(Need(folded(*related(8)).probe.site, "cka", 0, 0.05, {"features": 512})) == 100
    assert METRIC.reads.most_groups == 16
    assert METRIC.fields["cka"].better == ""


def test_sources_are_not_paired_with_themselves():
    # Unrelated layers of 64 kernels, 10 images that resemble each other from each of 100 sources: with images as
    # the samples of the correction the value was .22, and the interval surely above 0.
    sources = torch.arange(100).repeat_interleave(10)
    x, y = (
        0.7**0.5 * normal(100, 64, seed=seed)[sources] + 0.3**0.5 * normal(1000, 64, seed=seed + 1) for seed in (0, 2)
    )
    found = measure("linear_cka", x, y, sources=sources)
    assert found.value == pytest.approx(0, abs=0.03)
    assert found.low < 0 < found.high
    assert measure("linear_cka", x, x @ torch.linalg.qr(normal(64, 64))[0], sources=sources).value == pytest.approx(1)


def test_products_across_groups_are_those_of_a_loop():
    x, y = normal(24, 3, seed=1).float().double(), (normal(24, 2, seed=2) + 5).float().double()
    sources = torch.arange(24)
    xc, yc = x - x.mean(0), y - y.mean(0)

    statistic = folded(x, y, groups=4)
    statistic.probe = replace(statistic.probe, clustered=True)
    groups = [sources % 4 == g for g in range(4)]

    def across(a, b):
        parts = [a[g].T @ b[g] for g in groups]
        return sum((p * q).sum() for i, p in enumerate(parts) for j, q in enumerate(parts) if i != j)

    wanted = torch.stack([across(xc, yc), across(xc, xc), across(yc, yc)])
    assert statistic.pooled().across.tolist() == pytest.approx(wanted.tolist(), rel=1e-9)
    left = statistic.pooled(without=2)
    kept = ~groups[2]
    groups = [g[kept] for number, g in enumerate(groups) if number != 2]
    xc, yc = (z[kept] - z[kept].mean(0) for z in (x, y))
    wanted = torch.stack([across(xc, yc), across(xc, xc), across(yc, yc)])
    assert left.across.tolist() == pytest.approx(wanted.tolist(), rel=1e-9)
