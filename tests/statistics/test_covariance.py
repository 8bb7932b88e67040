import numpy as np
import pytest
import torch
from builders import make_site

from cnnaudit.statistics import Covariance, Probe, View


def folded(x, groups=4, *, positions=10_000, kernels=None, calibrated=None, taps=("response",)):
    """All images of ``x``, image i in group i modulo the number of groups."""
    site = make_site(units=x.shape[1])
    statistic = Covariance(Probe(Covariance, site, taps, (("positions", positions),), kernels=kernels), groups)
    ids = torch.arange(len(x))
    reading = statistic.read(View({taps[0]: x}, ids, None, 0))
    statistic.calibrate([reading if calibrated is None else {"values": reading["values"][:calibrated]}])
    statistic.fold(reading, ids % groups)
    return statistic


def maps(images=40, channels=3, size=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(channels, channels, generator=generator)
    level = torch.randn(images, channels, 1, 1, generator=generator)
    x = level + torch.randn(images, channels, size, size, generator=generator)
    return torch.einsum("nc...,cd->nd...", x, mix) + 3


def rows(x):
    return x.double().movedim(1, -1).reshape(-1, x.shape[1]).numpy()


def test_the_matrix_is_that_of_numpy():
    x = maps()
    found = folded(x, calibrated=5).pooled().matrix.numpy()
    np.testing.assert_allclose(found, np.cov(rows(x).T, bias=True), rtol=1e-10)


def test_moments_are_products_of_different_groups():
    x = maps()
    mean = rows(x).mean(0)
    scatters = []
    for group in range(4):
        centred = rows(x[group::4]) - mean
        scatters.append(centred.T @ centred)
    pairs = [(a, b) for i, a in enumerate(scatters) for j, b in enumerate(scatters) if i != j]
    trace2, norm2 = folded(x, calibrated=5).pooled().moments
    assert float(trace2) == pytest.approx(sum(np.trace(a) * np.trace(b) for a, b in pairs), rel=1e-10)
    assert float(norm2) == pytest.approx(sum((a * b).sum() for a, b in pairs), rel=1e-10)


def test_moments_without_a_group_are_those_of_the_rest():
    x = maps()
    left = [part.moments for part in folded(x).leave_one_out()]
    for group, found in enumerate(left):
        kept = [i for i in range(40) if i % 4 != group]
        fresh = folded(x)
        fresh.tally = {}
        reading = fresh.read(View({"response": x[kept]}, torch.tensor(kept), None, 0))
        fresh.fold(reading, torch.tensor(kept) % 4)
        np.testing.assert_allclose(torch.stack(found), torch.stack(fresh.pooled().moments), rtol=1e-10)


def test_one_group_has_no_product_with_another():
    assert all(moment.isnan() for moment in folded(maps(), groups=1).pooled().moments)


def test_pooled_once_is_pooled():
    pooled = folded(maps()).pooled()
    assert pooled.pooled() is pooled


def test_groups_are_sixteen_at_most():
    x = maps(images=64)
    statistic = folded(x, groups=64)
    assert statistic.groups == 16
    assert statistic.images.tolist() == [4] * 16
    assert statistic.tally["scatter"].shape == (16, 3, 3)
    assert statistic.tally["rows"].tolist() == [16] * 16
    assert Covariance.size(statistic.probe, 64, 0) == Covariance.size(statistic.probe, 16, 0) == 16 * 13 * 8


@pytest.mark.parametrize("value", [0.1, 1e6, -3.3e-5])
def test_a_channel_that_never_varies_has_no_variance_at_all(value):
    x = maps()
    x[:, 1] = value
    for part in [(statistic := folded(x)).pooled(), *statistic.leave_one_out()]:
        assert not part.matrix[1].any()
        assert not part.matrix[:, 1].any()
        assert (part.matrix.diagonal()[[0, 2]] > 0).all()


def test_a_channel_that_varies_in_one_group_alone_is_still_without_it():
    x = maps()
    x[:, 1] = 0
    x[::4, 1] = torch.rand(10, 2, 2) + 1
    varies = [bool(part.matrix[1, 1] > 0) for part in folded(x).leave_one_out()]
    assert varies == [False, True, True, True]


def test_an_offset_costs_no_digits():
    x = maps().double()
    found = folded(x + 1e6, calibrated=5).pooled().matrix.numpy()
    np.testing.assert_allclose(found, folded(x).pooled().matrix.numpy(), rtol=1e-7)


def test_some_kernels_are_a_part_of_the_matrix():
    x = maps(channels=5)
    whole, part = folded(x).pooled().matrix, folded(x, kernels=(1, 4)).pooled().matrix
    torch.testing.assert_close(part, whole[[1, 4]][:, [1, 4]], rtol=1e-12, atol=0)


def test_half_precision_is_read_as_single():
    x = maps()
    for dtype, read in ((torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64,) * 2):
        statistic = folded(x)
        reading = statistic.read(View({"response": x.to(dtype)}, torch.arange(40), None, 0))
        assert reading["values"].dtype is read


def test_a_pilot_without_finite_values_is_zero():
    x = maps()
    x[3, 0, 0, 0], x[5, 1, 0, 0] = torch.nan, torch.inf
    statistic = folded(x)
    assert statistic.calibration["pilot"].isfinite().all()
    assert statistic.calibration["pilot"][:2].tolist() == [0, 0]
    assert statistic.nonfinite == 2


def test_any_tap_can_be_read():
    statistic = folded(maps(), taps=("result",))
    assert statistic.probe.taps == ("result",)
    assert torch.equal(statistic.tally["scatter"], folded(maps()).tally["scatter"])


def test_what_was_left_out_is_told_about_the_mean_of_the_rest():
    x = maps()
    statistic = folded(x, calibrated=5)
    assert statistic.pooled().left_out is None
    for group, part in enumerate(statistic.leave_one_out()):
        rest = rows(x[[i for i in range(40) if i % 4 != group]])
        centred = rows(x[group::4]) - rest.mean(0)
        np.testing.assert_allclose(part.left_out.numpy(), centred.T @ centred, rtol=1e-10)
