import math

import numpy as np
import pytest
import torch
from builders import make_site
from scipy import stats

from cnnaudit import MetricError, measure
from cnnaudit.metrics import Need, registry
from cnnaudit.site import Op
from cnnaudit.statistics import PairCovariance, Probe, View, deal

METRIC = registry()["branch_unpredictability"]
FIELDS = list(METRIC.fields)


def fields(skip, branch, **facts):
    return {name: measure(f"branch_unpredictability.{name}", skip, branch, **facts) for name in FIELDS}


def values(skip, branch, **facts):
    return {name: found.value for name, found in fields(skip, branch, **facts).items()}


def plugin(skip, branch, kernels=None):
    """What the metric makes of all images at once, before the jackknife."""
    site = make_site(Op.RESIDUAL, skip.shape[1], taps=("skip", "branch"), shape=tuple(skip.shape[2:]))
    probe = Probe(PairCovariance, site, ("skip", "branch"), (("positions", 10**6),), kernels=kernels)
    statistic, ids = PairCovariance(probe, 4), torch.arange(len(skip))
    reading = statistic.read(View({"skip": skip, "branch": branch}, ids, None, 0))
    statistic.calibrate([reading])
    statistic.fold(reading, ids % 4)
    return {name: float(value) for name, value in METRIC.function(statistic.pooled(), site).items()}


def pair(images=96, channels=3, size=3, seed=0):
    """Channels of the skip that depend on each other, and a branch that is partly a linear function of them."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.eye(channels) + 0.4 * torch.randn(channels, channels, generator=generator)
    skip = torch.einsum("nc...,cd->nd...", torch.randn(images, channels, size, size, generator=generator), mix) + 1
    noise = torch.randn(images, channels, size, size, generator=generator)
    to = torch.randn(channels, channels, generator=generator)
    return skip, torch.einsum("nc...,cd->nd...", skip, to) + torch.tensor([0.2, 1.0, 3.0])[:, None, None] * noise - 2


def naive(skip, branch):
    """Least squares with an intercept, over all positions of all images."""
    s, f = (x.double().movedim(1, -1).flatten(0, -2).numpy() for x in (skip, branch))
    design = np.column_stack([np.ones(len(s)), s])
    solution, *_ = np.linalg.lstsq(design, f, rcond=None)
    left, whole = ((f - design @ solution) ** 2).sum(0), ((f - f.mean(0)) ** 2).sum(0)
    return {"share": left.sum() / whole.sum(), "standardised": (left / whole).mean()}


# --- closed forms -----------------------------------------------------------------------------------------------


def test_a_linear_function_of_the_skip_leaves_nothing():
    skip, _ = pair()
    to = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = fields(skip.double(), torch.einsum("nc...,cd->nd...", skip.double(), to) + 5)
    for name in FIELDS:
        assert found[name].value == pytest.approx(0, abs=1e-9)
        assert found[name].high < 1e-9


def test_an_uncorrelated_branch_keeps_everything():
    """Signs of a full factorial design, over and over: exactly orthogonal in every whole set of images."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
    assert plugin(signs[:, :2], signs[:, 2:]) == pytest.approx(dict.fromkeys(FIELDS, 1.0))
    assert plugin(signs[:, :2], signs[:, 2:] + signs[:, :2]) == pytest.approx(dict.fromkeys(FIELDS, 0.5))
    assert plugin(signs[:, :2], signs[:, 2:] + 3 * signs[:, :2]) == pytest.approx(dict.fromkeys(FIELDS, 0.1))


def test_independent_noise():
    generator = torch.Generator().manual_seed(1)
    skip, branch = (torch.randn(200, 8, 3, 3, generator=generator) for _ in range(2))
    for found in fields(skip, branch).values():
        assert found.value == pytest.approx(1, abs=0.02)
        assert found.high == 1
    for found in fields(skip, skip + branch).values():
        assert found.value == pytest.approx(0.5, abs=0.02)
        assert found.low <= 0.5 <= found.high


def test_what_the_skip_cannot_tell_is_a_function_of_it_all_the_same():
    skip = torch.randn(400, 1, 3, 3, generator=torch.Generator().manual_seed(2))
    found = measure("branch_unpredictability", skip, skip.square())
    assert found.low > 0.9  # a square is uncorrelated with a symmetric variable, and yet it is a function of it


# --- against numpy ----------------------------------------------------------------------------------------------


def test_the_plug_in_is_that_of_least_squares():
    skip, branch = pair()
    assert plugin(skip, branch) == pytest.approx(naive(skip, branch), rel=1e-9)
    wanted = naive(skip, branch[:, [0, 2]])
    assert plugin(skip, branch, kernels=(0, 2)) == pytest.approx(wanted, rel=1e-9)


def test_the_jackknife_takes_the_bias_off_in_16_groups():
    skip, branch = pair(128)
    order = torch.randperm(128, generator=torch.Generator().manual_seed(0))
    mine = deal(torch.arange(128), 64, 0, ranked=True) % 16
    whole = naive(skip, branch)
    rest = [naive(skip[ids], branch[ids]) for ids in (order[mine != group] for group in range(16))]
    for name, found in fields(skip, branch).items():
        left_out = np.array([value[name] for value in rest])
        corrected = 16 * whole[name] - 15 * left_out.mean()
        assert found.value == pytest.approx(corrected, rel=1e-6)
        reach = stats.t.ppf(0.975, 15) * math.sqrt(15 * left_out.var())
        assert found.low == pytest.approx(min(corrected, whole[name]) - reach, rel=1e-6)
        assert found.high == pytest.approx(max(corrected, whole[name]) + reach, rel=1e-6)


def test_intervals_cover_the_truth_with_few_images_a_channel():
    """16 channels, 64 images, one position each: the plug-in is low by a quarter."""
    covered, plain = 0, []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        skip, noise = (torch.randn(64, 16, generator=generator) for _ in range(2))
        found = measure("branch_unpredictability", skip, skip + noise, block=64)
        covered += found.low <= 0.5 <= found.high
        plain.append(plugin(skip, skip + noise)["share"])
    assert np.mean(plain) < 0.4
    assert stats.binom.ppf(0.001, 40, 0.95) <= covered


# --- laws -------------------------------------------------------------------------------------------------------


def test_scales_of_the_skip_do_not_matter():
    skip, branch = pair()
    scale = torch.tensor([1e-4, 1.0, 1e4])[:, None, None]
    assert values(skip * scale, branch) == pytest.approx(values(skip, branch), rel=1e-6)
    # Nor does an invertible mix of its channels.
    mix = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 0.5], [1.0, 0.0, 1.0]])
    mixed = torch.einsum("nc...,cd->nd...", skip, mix)
    assert values(mixed, branch) == pytest.approx(values(skip, branch), rel=1e-4)


def test_scales_of_the_branch_leave_the_standardised_share():
    skip, branch = pair()
    scale = torch.tensor([8.0, 0.01, 2.0])[:, None, None]
    before, after = fields(skip, branch), fields(skip, branch * scale)
    assert after["standardised"].value == pytest.approx(before["standardised"].value, rel=1e-6)
    assert after["standardised"].high == pytest.approx(before["standardised"].high, rel=1e-5)
    assert abs(after["share"].value - before["share"].value) > 0.05


def test_an_offset_costs_no_digits():
    skip, branch = (x.double() for x in pair())
    assert values(skip + 1e6, branch - 3e6) == pytest.approx(values(skip, branch), rel=1e-6)


def test_the_order_of_channels_does_not_matter():
    skip, branch = pair()
    assert values(skip[:, [2, 0, 1]], branch[:, [1, 2, 0]]) == pytest.approx(values(skip, branch), rel=1e-9)


def test_duplicating_every_position_changes_nothing():
    skip, branch = pair(size=2)
    wanted, found = fields(skip, branch), fields(skip.repeat(1, 1, 2, 1), branch.repeat(1, 1, 2, 1))
    for name in FIELDS:
        assert found[name].value == pytest.approx(wanted[name].value, rel=1e-9)
        assert found[name].high == pytest.approx(wanted[name].high, rel=1e-9)


def test_vectors_are_maps_of_one_position():
    skip, branch = (x[..., 0, 0] for x in pair())
    assert fields(skip, branch) == fields(skip[..., None, None], branch[..., None, None])


def test_images_of_one_source_are_no_new_ones():
    skip, branch = pair(64)
    twice = [torch.cat([x, x]) for x in (skip, branch)]
    sources = list(range(64)) * 2
    one, same, other = (
        measure("branch_unpredictability", *tensors, **facts)
        for tensors, facts in (((skip, branch), {"sources": sources[:64]}), (twice, {"sources": sources}), (twice, {}))
    )
    assert same.value == pytest.approx(one.value, rel=1e-9)
    assert same.high - same.low == pytest.approx(one.high - one.low, rel=1e-6)
    assert other.high - other.low < 0.9 * (same.high - same.low)


# --- edges ------------------------------------------------------------------------------------------------------


def test_equal_and_dead_channels_of_the_skip():
    skip, branch = pair()
    skip[:, 1] = 0
    wanted = naive(skip[:, [0, 2]], branch)
    assert plugin(skip, branch) == pytest.approx(wanted, rel=1e-9)
    skip[:, 1] = skip[:, 0]
    assert plugin(skip, branch) == pytest.approx(wanted, rel=1e-5)


def test_a_constant_skip_predicts_nothing_and_a_constant_branch_needs_no_prediction():
    skip, branch = pair()
    found = fields(torch.full_like(skip, 0.3), branch)
    assert [(f.low, f.value, f.high) for f in found.values()] == [(1, 1, 1)] * 2
    assert all(math.isnan(value) for value in values(skip, torch.full_like(branch, 0.3)).values())
    branch[:, 1] = 0.3
    assert plugin(skip, branch) == pytest.approx(naive(skip, branch[:, [0, 2]]), rel=1e-9)


def test_one_image_gives_a_value_and_no_interval():
    found = measure("branch_unpredictability", *pair(1))
    assert 0 <= found.value <= 1
    assert (found.low, found.high) == (0, 1)


def test_wide_skips_are_left_out_unless_they_are_asked_for():
    skip, branch = (torch.randn(4, 20, 2, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    with pytest.raises(MetricError, match=r"its skip has 20 channels: .* params: \{widest: 20\} allows it"):
        measure("branch_unpredictability", skip, branch, widest=19)
    assert math.isfinite(measure("branch_unpredictability", skip, branch, widest=20).value)


def test_images_needed():
    site = make_site(Op.RESIDUAL, 64, taps=("skip", "branch"))
    assert METRIC.images(Need(site, "share", 10, 0.05, {})) == 256
    assert METRIC.images(Need(make_site(Op.RESIDUAL, 8, taps=("skip",)), "share", 10, 0.05, {})) == 100
