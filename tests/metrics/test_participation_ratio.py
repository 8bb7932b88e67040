import dataclasses
import math

import numpy as np
import pytest
import torch
from builders import make_site
from scipy import stats

from cnnaudit import MetricError, measure
from cnnaudit.metrics import Need
from cnnaudit.metrics.participation_ratio import participation_ratio
from cnnaudit.metrics.spectrum import attainable
from cnnaudit.site import Op
from cnnaudit.statistics import Covariance, Probe, View

FIELDS = list(participation_ratio.fields)


def fields(x, **facts):
    facts.setdefault("positions", 10_000)
    return {name: measure(f"participation_ratio.{name}", x, **facts) for name in FIELDS}


def values(x, **facts):
    return {name: found.value for name, found in fields(x, **facts).items()}


def spectrum_maps(spectrum, images=20):
    """Images that all hold the same positions, whose covariance has exactly these eigenvalues."""
    spectrum = torch.tensor(spectrum, dtype=torch.float64)
    half = torch.diag((spectrum * len(spectrum)).sqrt())
    return torch.cat([half, -half], 1).expand(images, -1, -1)


def noise(images, channels, *spatial, seed=0):
    return torch.randn(images, channels, *spatial, generator=torch.Generator().manual_seed(seed))


def rotation(channels, seed=3):
    return torch.linalg.qr(noise(channels, channels, seed=seed).double())[0]


# --- closed forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spectrum", "expected"),
    [
        ([1.0] * 7, 7),
        ([5.0, 0, 0, 0], 1),
        ([4.0, 1, 1, 1, 1], 3.2),
        ([2.0**-i for i in range(1, 31)], 3),
        ([2.0, 2, 0], 2),
    ],
)
def test_spectra(spectrum, expected):
    found = fields(spectrum_maps(spectrum))
    for name, wanted in {"ratio": expected, "plugin": expected, "of_rank": expected / len(spectrum)}.items():
        assert found[name].value == pytest.approx(wanted, rel=1e-8)
        assert found[name].high - found[name].low < 1e-6  # the images do not differ


def test_one_direction_is_one_whatever_the_images():
    x = noise(50, 1, 3) * torch.tensor([1.0, -2.0, 0.5])[:, None]
    found = fields(x)
    assert found["ratio"].value == pytest.approx(1, rel=1e-6)
    assert found["plugin"].value == pytest.approx(1, rel=1e-6)
    assert found["ratio"].low == pytest.approx(1, abs=1e-5)


# --- against numpy, and what others compute ---------------------------------------------------------------------


def eigenvalues(x):
    """As layerspec 0.2.0: the covariance with divisor n - 1, rows being positions of images; no value below 0."""
    rows = x.double().movedim(1, -1).reshape(-1, x.shape[1]).numpy()
    return np.linalg.eigvalsh(np.cov(rows.T)).clip(0)


def test_plugin_is_the_number_of_layerspec():
    x = noise(60, 5, 3, 3) * torch.tensor([3.0, 2, 1, 0.5, 0.1])[:, None, None] + 2
    spectrum = eigenvalues(x)
    assert values(x)["plugin"] == pytest.approx(spectrum.sum() ** 2 / (spectrum**2).sum(), rel=1e-10)


def test_squares_of_moments_are_biased_and_products_of_groups_are_not():
    """64 white channels: about 31.4 with as many images (64 / (1 + 65 / 64)), with ever so many positions alike."""
    found = [values(noise(64, 64, 1, seed=seed).expand(-1, -1, 3)) for seed in range(8)]
    mean = {name: np.mean([v[name] for v in found]) for name in FIELDS}
    assert mean["plugin"] == pytest.approx(31.6, abs=0.6)
    assert mean["ratio"] == pytest.approx(64, abs=2)
    assert mean["of_rank"] == pytest.approx(mean["ratio"] / 64)


def test_intervals_cover_the_truth():
    """Eigenvalues 1, 1/2, ... 1/12; three positions that share half of their variance."""
    spectrum = 1 / torch.arange(1, 13.0)
    truth = float(spectrum.sum() ** 2 / spectrum.square().sum())
    covered = []
    for seed in range(60):
        x = noise(100, 12, 1, seed=seed) + noise(100, 12, 3, seed=1000 + seed)
        found = measure("participation_ratio", x * spectrum.sqrt()[:, None], block=100)
        covered.append(found.low <= truth <= found.high)
    assert stats.binom.ppf(0.001, 60, 0.95) <= sum(covered)


# --- laws -------------------------------------------------------------------------------------------------------


def mixed(images=64, channels=6):
    x = noise(images, channels, 2, 2) + noise(images, channels, 1, 1, seed=1)
    return x.double() * torch.arange(1.0, channels + 1)[:, None, None]


def test_rotation_scale_and_shift_change_nothing():
    x = mixed()
    wanted = values(x)
    for other in (
        torch.einsum("nc...,cd->nd...", x, rotation(6)),
        x[:, torch.randperm(6, generator=torch.Generator().manual_seed(0))],
        7 * x,
        x + 1000 * torch.arange(6.0)[:, None, None],
    ):
        assert values(other) == pytest.approx(wanted, rel=1e-8)


def test_rescaling_one_channel_changes_it():
    x = mixed()
    scaled = x * torch.tensor([1.0, 1, 1, 1, 1, 1000])[:, None, None]
    assert values(scaled)["plugin"] == pytest.approx(1, abs=1e-3)


def test_duplicating_every_position_changes_nothing():
    x = mixed()
    wanted, found = fields(x), fields(x.repeat(1, 1, 2, 1))
    for name in FIELDS:
        assert (found[name].value, found[name].high) == pytest.approx((wanted[name].value, wanted[name].high), rel=1e-8)


def test_the_order_of_images_moves_the_plugin_by_rounding_only():
    x = mixed()
    assert values(x.flip(0))["plugin"] == pytest.approx(values(x)["plugin"], rel=1e-10)


def test_vectors_are_maps_of_one_position():
    x = noise(40, 5)
    assert values(x) == values(x[..., None, None])


def test_sampled_positions_estimate_all_of_them():
    x = noise(300, 4, 1, 1) + noise(300, 4, 12, 12, seed=1)
    every, some = (measure("participation_ratio", x, positions=p) for p in (144, 8))
    assert some.value == pytest.approx(every.value, abs=0.2)
    assert some.value != every.value


# --- sources ----------------------------------------------------------------------------------------------------


def test_images_of_one_source_do_not_meet_each_other():
    """32 white channels, 64 sources of 4 images that are all the same."""
    sources = torch.arange(64).repeat_interleave(4)
    told = [values(noise(64, 32, seed=s)[sources], sources=sources.tolist())["ratio"] for s in range(8)]
    untold = [values(noise(64, 32, seed=s)[sources])["ratio"] for s in range(3)]
    assert np.mean(told) == pytest.approx(32, abs=2.5)
    assert np.mean(untold) < 25


# --- edges ------------------------------------------------------------------------------------------------------


def test_dead_channels_do_not_count():
    x = noise(40, 4, 3)
    silent = torch.cat([x, torch.full((40, 3, 3), 0.7)], 1)
    wanted, found = values(x), values(silent)
    assert found["ratio"] == pytest.approx(wanted["ratio"], rel=1e-10)
    assert found["of_rank"] == pytest.approx(wanted["ratio"] / 7, rel=1e-10)


def test_a_layer_that_never_varies_is_nothing_by_nothing():
    assert all(math.isnan(value) for value in values(torch.full((30, 4, 2, 2), 1.3)).values())


def test_one_image_tells_no_ratio():
    found = fields(noise(1, 4, 9))
    assert math.isnan(found["ratio"].value)
    assert math.isfinite(found["plugin"].value)
    assert (found["plugin"].low, found["plugin"].high) == (1, math.inf)


@pytest.mark.parametrize(("rank", "channels", "expected"), [(0, 8, 8), (3, 8, 3), (8, 8, 8), (20, 8, 8)])
def test_attainable_rank(rank, channels, expected):
    site = dataclasses.replace(make_site(units=channels), rank=rank)
    statistic = Covariance(Probe(Covariance, site, ("response",), (("positions", 4),)), 4)
    x = noise(40, channels, 4)
    reading = statistic.read(View({"response": x}, torch.arange(40), None, 0))
    statistic.calibrate([reading])
    statistic.fold(reading, torch.arange(40) % 4)
    assert attainable(site, statistic) == expected
    found = participation_ratio.evaluate(statistic, site, {})
    assert found["of_rank"].value == pytest.approx(found["ratio"].value / expected)


def test_a_bent_layer_may_exceed_the_rank_of_its_map():
    """Two inputs, eight outputs: a linear map has two dimensions, rectified ones have more."""
    weights = noise(8, 2, seed=5)
    linear = torch.einsum("nc...,dc->nd...", noise(400, 2, 4), weights)
    assert values(linear)["plugin"] <= 2
    assert values(linear.relu())["plugin"] > 2.05


def test_what_it_is_for():
    assert participation_ratio.at == (Op.CONV, Op.POOL, Op.RESIDUAL, Op.MERGE, Op.CONCAT, Op.LINEAR, Op.HEAD)
    assert participation_ratio.images(Need(make_site(), "ratio", 10, 0.05, {})) == 100
    found = measure("participation_ratio", noise(40, 4))
    assert (len(found.units), found.unit, found.n_images) == (1, "dimensions", 40)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"positions": 0}, "positions: .*greater than or equal to 1"),
        ({"estimand": "dataset"}, "has no exact data-set value"),
    ],
)
def test_wrong_questions(facts, message):
    with pytest.raises(MetricError, match=message):
        measure("participation_ratio", noise(4, 3), **facts)
