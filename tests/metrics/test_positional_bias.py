import math

import numpy as np
import pytest
import torch
from builders import make_site
from scipy import stats

import cnnaudit
from cnnaudit import MetricError, measure
from cnnaudit.metrics import Need, registry
from cnnaudit.site import Op
from cnnaudit.statistics import PositionMeans, Probe, View, deal

METRIC = registry()["positional_bias"]
FIELDS = ("share", "border")


def bias(x, field="share", **facts):
    return measure(f"positional_bias.{field}", x, **facts)


def ring(rows=6, columns=6):
    """1 at the outermost positions."""
    mask = torch.ones(rows, columns)
    mask[1:-1, 1:-1] = 0
    return mask


def standardised(x):
    return (x - x.mean()) / x.std(correction=0)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(images, units, size=6, seed=0):
    """Noise of variance 1, half of it a level of the image's own, in which neighbours resemble each other."""
    x = noise(images, units, size, size, seed=seed)
    x = (x + x.roll(1, 2) + x.roll(1, 3)) / math.sqrt(3)
    return math.sqrt(0.5) * (x + noise(images, units, 1, 1, seed=seed + 1))


# --- closed forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weight", "truth"), [(1.0, 0.5), (3.0, 0.9), (0.5, 0.2)])
def test_a_fixed_map_and_noise(weight, truth):
    x = weight * standardised(noise(1, 1, 6, 6, seed=1)) + noise(400, 3, 6, 6, seed=2)
    found = bias(x)
    assert found.units == pytest.approx([truth] * 3, abs=0.02)
    assert all(low <= truth <= high for low, high in zip(found.lows, found.highs, strict=True))


def test_orthogonal_signs_are_exact():
    """A fixed map of signs, and for each image another one: all products of pairs of groups are known."""
    signs = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])  # rows are orthogonal
    fixed, free = signs[1], signs[[2, 2, 3, 3]] * torch.tensor([1.0, -1, 1, -1])[:, None]
    x = (fixed + free)[:, None]
    # Mean map: fixed, with variance 1; the squares are 2 on average. Pairs: 12 of 16, of whose products those of the
    # free maps sum to -4 over 12.
    assert bias(x).value == pytest.approx((1 - 4 / 12) / 2)


def test_independent_noise_has_none():
    x = noise(300, 40, 6, 6)
    for field in FIELDS:
        found = bias(x, field)
        assert found.value == pytest.approx(0, abs=1e-3)
        assert min(found.units) < 0 < max(found.units)  # unbiased, not cut


def test_a_level_of_each_image_is_none():
    x = noise(300, 4, 1, 1).expand(-1, -1, 5, 5)
    assert bias(x).units == pytest.approx([0] * 4, abs=1e-12)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_the_same_map_in_every_image_is_all(offset):
    x = noise(1, 3, 5, 7).add(offset).expand(40, -1, -1, -1)
    found = bias(x)
    assert found.units == pytest.approx([1] * 3, rel=1e-9)
    assert found.lows == pytest.approx([1] * 3, rel=1e-9)
    assert found.highs == pytest.approx([1] * 3, rel=1e-9)


@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (3, 8)])
def test_a_map_that_is_its_border(rows, columns):
    x = standardised(ring(rows, columns)) + noise(400, 2, rows, columns)
    share, border = (bias(x, field) for field in FIELDS)
    assert border.units == pytest.approx([0.5] * 2, abs=0.02)
    assert border.units == pytest.approx(share.units, abs=0.005)


def test_a_map_that_does_not_tell_the_border():
    checkerboard = (torch.arange(6)[:, None] + torch.arange(6)) % 2
    x = standardised(checkerboard.float()) + noise(400, 2, 6, 6)
    assert bias(x).units == pytest.approx([0.5] * 2, abs=0.02)
    assert bias(x, "border").units == pytest.approx([0] * 2, abs=0.005)


def test_the_border_of_a_line_is_its_ends():
    line = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 1])
    assert bias(line.expand(20, 1, -1), "border").value == pytest.approx(1)
    assert bias(line.roll(1).expand(20, 1, -1), "border").value == pytest.approx(
        ((0.5 - 1 / 6) ** 2 * 3 / 16) / (3 / 16)
    )


# --- against numpy ----------------------------------------------------------------------------------------------


def naive(x, group):
    """Share and border of each kernel by explicit loops over pairs of groups."""
    x = x.double().flatten(2).numpy()
    units = x.shape[1]
    sums = np.array([x[group == g].sum(0) for g in range(group.max() + 1)])
    counts = np.bincount(group)
    squares = np.array([(x[group == g] ** 2).mean(2).sum(0) for g in range(group.max() + 1)])
    pairs, difference, spread, contrast = 0, np.zeros(units), np.zeros(units), np.zeros(units)
    border = ring().flatten().bool().numpy()
    weight = border.mean() * (1 - border.mean())
    for g, a in enumerate(sums):
        for h, b in enumerate(sums):
            if g == h:
                continue
            pairs += counts[g] * counts[h]
            difference += counts[h] * squares[g] + counts[g] * squares[h] - 2 * a.mean(1) * b.mean(1)
            spread += ((a - a.mean(1, keepdims=True)) * (b - b.mean(1, keepdims=True))).mean(1)
            contrast += weight * np.prod([s[:, border].mean(1) - s[:, ~border].mean(1) for s in (a, b)], 0)
    variance = difference / 2 / pairs
    return {"share": spread / pairs / variance, "border": contrast / pairs / variance}


@pytest.mark.parametrize("images", [12, 75])
def test_it_is_that_of_numpy_with_the_jackknife_over_groups(images):
    x = correlated(images, 3) + ring() + 1
    groups = min(images, 16)
    group = (deal(torch.arange(images), min(images, 64), 0, ranked=True) % 16).numpy()
    order = torch.randperm(images, generator=torch.Generator().manual_seed(0))
    x_read = x[order]
    wanted = naive(x_read, group)
    for field in FIELDS:
        found = bias(x, field)
        assert found.units == pytest.approx(wanted[field], rel=1e-9)
    if images == 12:  # groups of one image each: the classical jackknife
        rest = np.array([naive(np_without(x_read, i), np.arange(11))["share"] for i in range(12)])
        found = bias(x)
        reach = stats.t.ppf(0.975, groups - 1) * np.sqrt((rest.std(0) ** 2) * (groups - 1))
        assert found.highs == pytest.approx(wanted["share"] + reach, rel=1e-6)


def np_without(x, i):
    return torch.cat([x[:i], x[i + 1 :]])


def test_leaving_out_a_group_equals_never_having_read_it():
    x = correlated(40, 3) + ring()
    site = make_site(units=3, shape=(6, 6))

    def folded(ids):
        statistic = PositionMeans(Probe(PositionMeans, site, ("response",)), 5)
        statistic.fold(statistic.read(View({"response": x[ids]}, ids, None, 0)), ids % 5)
        return statistic

    ids = torch.arange(40)
    for group, part in enumerate(folded(ids).leave_one_out()):
        never = folded(ids[ids % 5 != group]).pooled()
        for a, b in zip(part.moments, never.moments, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


# --- interval ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("truth", "most"), [(0.0, 1.0), (0.2, 0.985)])
def test_intervals_cover_the_truth(truth, most):
    x = math.sqrt(1 - truth) * correlated(100, 300) + math.sqrt(truth) * standardised(ring())
    for field in FIELDS:
        found = bias(x, field)
        covered = sum(low <= truth <= high for low, high in zip(found.lows, found.highs, strict=True))
        assert 0.92 * 300 <= covered <= most * 300


def test_images_of_one_source_do_not_make_a_bias():
    """Ten patients with an arrangement of their own, 20 images of each: of independent images that would be a bias."""
    x = noise(10, 60, 6, 6).repeat_interleave(20, 0) + 0.3 * noise(200, 60, 6, 6, seed=1)
    sources = [i // 20 for i in range(200)]
    assert np.mean(bias(x).units) > 0.05
    found = bias(x, sources=sources)
    assert abs(np.mean(found.units)) < 0.03
    covered = sum(low <= 0 <= high for low, high in zip(found.lows, found.highs, strict=True))
    assert covered >= 0.92 * 60


# --- laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", FIELDS)
def test_shift_and_scale_change_nothing(field):
    x = correlated(60, 3).double() + ring()
    moved = x * torch.tensor([0.01, -3.0, 500.0])[:, None, None] + torch.tensor([0.0, 50.0, -1e5])[:, None, None]
    wanted, found = bias(x, field), bias(moved, field)
    assert found.units == pytest.approx(wanted.units, rel=1e-6)
    assert found.highs == pytest.approx(wanted.highs, rel=1e-6)


def test_positions_have_no_order_and_no_number():
    x = correlated(60, 2) + ring()
    shuffled = x.flatten(2)[..., torch.randperm(36, generator=torch.Generator().manual_seed(3))]
    assert bias(shuffled).units == pytest.approx(bias(x).units, rel=1e-9)
    assert bias(x.repeat(1, 1, 2, 3)).highs == pytest.approx(bias(x).highs, rel=1e-9)
    assert bias(x.flip(2, 3), "border").units == pytest.approx(bias(x, "border").units, rel=1e-9)


def test_kernels_are_told_apart():
    x = correlated(60, 3) + torch.tensor([0.0, 1.0, 3.0])[:, None, None] * ring()
    wanted = bias(x)
    assert wanted.units[0] < wanted.units[1] < wanted.units[2]
    assert bias(x[:, [2, 0, 1]]).units == pytest.approx([wanted.units[k] for k in (2, 0, 1)])


def test_the_border_is_at_most_the_whole():
    x = correlated(200, 20) + noise(1, 20, 6, 6, seed=7)
    assert all(b <= s + 0.01 for s, b in zip(bias(x).units, bias(x, "border").units, strict=True))


# --- edges ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 0.1, -7.0, 1e30])
def test_a_kernel_that_never_varies_is_nothing_by_nothing(value):
    x = correlated(40, 2)
    x[:, 1] = value
    found = bias(x)
    assert math.isfinite(found.units[0])
    assert math.isnan(found.units[1])


def test_one_image_tells_no_mean_map():
    assert math.isnan(bias(correlated(1, 2)).value)
    two = bias(correlated(2, 2))
    assert all(map(math.isfinite, two.units))


def test_where_it_applies():
    def why_not(field, *shape):
        return METRIC.applies(make_site(shape=shape), field, {})

    assert why_not("share", 1, 1) == why_not("share") == "its map has one position"
    assert why_not("share", 1, 2) is None
    assert why_not("border", 2, 5) == "every position of its map is at the border"
    assert why_not("border", 3, 3) is None
    assert set(METRIC.at) == {Op.CONV, Op.POOL, Op.RESIDUAL}
    assert METRIC.images(Need(None, "share", 10, 0.05, {})) == 50
    with pytest.raises(MetricError, match="does not apply: its map has one position"):
        bias(torch.rand(5, 2))


def test_zero_padding_makes_a_bias_that_no_padding_has_not():
    """Noise has no arrangement of its own: what is found is the network's."""
    torch.manual_seed(0)
    padded, plain = (torch.nn.Conv2d(1, 4, 3, padding=p, bias=False) for p in (1, 0))
    for conv in (padded, plain):
        conv.weight.data[:] = torch.rand(4, 1, 3, 3)
    images = torch.rand(80, 1, 10, 10)
    for conv, biased in ((padded, True), (plain, False)):
        net = torch.nn.Sequential(conv, torch.nn.ReLU())
        flow = cnnaudit.profile(net, images, rules=[{"metric": f"positional_bias.{field}"} for field in FIELDS])
        for field in FIELDS:
            lows = flow[f"positional_bias.{field}"]["0"].lows
            assert (min(lows) > 0.05) == biased
            assert all(low < 0.01 for low in lows) != biased
