import math

import numpy as np
import pytest
import torch
from builders import make_site
from scipy import stats

from cnnaudit import measure
from cnnaudit.metrics import Need
from cnnaudit.metrics.effective_rank import effective_rank
from cnnaudit.statistics import Covariance, Probe, View

ROOT = 0.5**0.5
FIELDS = list(effective_rank.fields)


def fields(x, **facts):
    facts.setdefault("positions", 10_000)
    return {name: measure(f"effective_rank.{name}", x, **facts) for name in FIELDS}


def values(x, **facts):
    return {name: found.value for name, found in fields(x, **facts).items()}


def plain(x):
    """The values before the correction."""
    site = make_site(units=x.shape[1])
    statistic = Covariance(Probe(Covariance, site, ("response",), (("positions", 10_000),)), 4)
    reading = statistic.read(View({"response": x}, torch.arange(len(x)), None, 0))
    statistic.calibrate([reading])
    statistic.fold(reading, torch.arange(len(x)) % 4)
    return {name: float(v) for name, v in effective_rank.function(statistic.pooled(), site).items()}


def spectrum_maps(spectrum, images=20):
    """Images that all hold the same positions, whose covariance has exactly these eigenvalues."""
    spectrum = torch.tensor(spectrum, dtype=torch.float64)
    half = torch.diag((spectrum * len(spectrum)).sqrt())
    return torch.cat([half, -half], 1).expand(images, -1, -1)


def noise(images, channels, *spatial, seed=0):
    return torch.randn(images, channels, *spatial, generator=torch.Generator().manual_seed(seed))


# --- closed forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spectrum", "eigen", "singular"),
    [
        ([1.0] * 7, 7, 7),
        ([5.0, 0, 0, 0], 1, 1),
        ([4.0, 1, 1, 1, 1], 4.000, 4.762),
        ([2.0, 2, 0], 2, 2),
        # Geometric series with ratio q: H = -ln(1 - q) - q ln q / (1 - q), with q = 1/2 and its root.
        ([2.0**-i for i in range(1, 61)], 4, 2 ** (ROOT / 2 / (1 - ROOT)) / (1 - ROOT)),
    ],
)  # fmt: skip
def test_spectra(spectrum, eigen, singular):
    found = fields(spectrum_maps(spectrum))
    # In float64 the roots of 1e-16 would still count: silent directions are a millionth of all.
    wanted = {"eigen": eigen, "singular": singular}
    for name, value in wanted.items():
        assert found[name].value == pytest.approx(value, abs=1e-3)
        assert found[f"{name}_of_rank"].value == pytest.approx(value / len(spectrum), abs=1e-3)
        assert found[name].high - found[name].low < 1e-3


# --- against numpy, and what others compute ---------------------------------------------------------------------


def naive(x):
    rows = x.double().movedim(1, -1).reshape(-1, x.shape[1]).numpy()
    centred = rows - rows.mean(0)
    found = {}
    for name, power in (("eigen", 2), ("singular", 1)):
        p = np.linalg.svd(centred, compute_uv=False) ** power
        found[name] = math.exp(stats.entropy(p))  # which makes them add up to one
        found[f"{name}_of_rank"] = found[name] / x.shape[1]
    return found


def test_fields_are_those_of_the_singular_values():
    x = noise(60, 5, 3, 3) * torch.tensor([3.0, 2, 1, 0.5, 0.1])[:, None, None] + 2
    assert plain(x) == pytest.approx(naive(x), rel=1e-9)


def test_eigen_before_its_correction_is_the_number_of_layerspec():
    """layerspec 0.2.0: the entropy of the covariance's eigenvalues, without those that are 0."""
    x = noise(60, 5, 3, 3) * torch.tensor([3.0, 2, 1, 0.5, 0.0])[:, None, None]
    rows = x.double().movedim(1, -1).reshape(-1, 5).numpy()
    spectrum = np.linalg.eigvalsh(np.cov(rows.T)).clip(0)
    p = spectrum[spectrum > 0] / spectrum.sum()
    assert plain(x)["eigen"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-10)


def test_centred_and_uncentred_differ():
    """RankMe's number of the same responses: a common offset is one large direction to it."""
    x = noise(500, 6) + 10
    uncentred = np.linalg.svd(x.double().numpy(), compute_uv=False)
    assert math.exp(stats.entropy(uncentred)) < 4
    assert plain(x)["singular"] == pytest.approx(6, abs=0.05)


@pytest.mark.parametrize(("images", "biased"), [(128, 49.6), (640, 60.9)])
def test_the_bias_of_few_images(images, biased):
    """64 white channels."""
    x = noise(images, 64)
    assert plain(x)["eigen"] == pytest.approx(biased, abs=0.7)
    if images == 640:
        found = measure("effective_rank", x)
        assert found.value == pytest.approx(64, abs=0.4)
        assert found.low < 61.5
        assert found.high > 64


def test_intervals_cover_the_truth():
    spectrum = 1 / torch.arange(1, 9.0)
    truth = math.exp(stats.entropy(spectrum.numpy()))
    covered = []
    for seed in range(60):
        x = noise(100, 8, 1, seed=seed) + noise(100, 8, 3, seed=1000 + seed)
        found = measure("effective_rank", x * spectrum.sqrt()[:, None], block=100)
        covered.append(found.low <= truth <= found.high)
    assert stats.binom.ppf(0.001, 60, 0.95) <= sum(covered)


# --- laws -------------------------------------------------------------------------------------------------------


def test_rotation_scale_and_shift_change_nothing():
    x = noise(64, 6, 2, 2).double() * torch.arange(1.0, 7)[:, None, None]
    wanted = values(x)
    turn = torch.linalg.qr(noise(6, 6, seed=3).double())[0]
    for other in (torch.einsum("nc...,cd->nd...", x, turn), 7 * x, x + 1000, x.flip(1)):
        assert values(other) == pytest.approx(wanted, rel=1e-7)


def test_participation_ratio_is_the_smaller_dimension():
    """Renyi's entropies fall with their order: of order 2 it is the participation ratio."""
    x = noise(100, 6, 2, 2) * torch.arange(1.0, 7)[:, None, None]
    found = plain(x)
    assert measure("participation_ratio.plugin", x, positions=4).value < found["eigen"] < found["singular"] < 6


def test_duplicating_every_position_changes_nothing():
    x = noise(64, 4, 2, 2)
    wanted, found = fields(x), fields(x.repeat(1, 1, 1, 2))
    for name in FIELDS:
        assert (found[name].value, found[name].low) == pytest.approx((wanted[name].value, wanted[name].low), rel=1e-8)


def test_images_of_one_source_are_one_sample():
    sources = torch.arange(48).repeat_interleave(3)
    x = noise(48, 4, 2) * torch.tensor([2.0, 1, 1, 0.5])[:, None]
    once = measure("effective_rank", x, sources=list(range(48)))
    thrice = measure("effective_rank", x[sources], sources=sources.tolist())
    wrong = measure("effective_rank", x[sources])
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=1e-6)
    assert wrong.high - wrong.low < 0.8 * (thrice.high - thrice.low)


# --- edges ------------------------------------------------------------------------------------------------------


def test_dead_channels_do_not_count():
    x = noise(40, 4, 3)
    silent = torch.cat([x, torch.full((40, 3, 3), 0.7)], 1)
    wanted, found = values(x), values(silent)
    assert found["eigen"] == pytest.approx(wanted["eigen"], rel=1e-9)
    assert found["singular"] == pytest.approx(wanted["singular"], rel=1e-6)
    assert found["eigen_of_rank"] == pytest.approx(wanted["eigen"] / 7, rel=1e-9)


def test_a_layer_that_never_varies_is_nothing_by_nothing():
    assert all(math.isnan(value) for value in values(torch.zeros(30, 4, 2, 2)).values())


def test_one_image_gives_a_value_and_no_interval():
    found = measure("effective_rank", noise(1, 4, 9))
    assert math.isfinite(found.value)
    assert (found.low, found.high) == (1, math.inf)


def test_images_needed():
    assert effective_rank.images(Need(make_site(units=32), "eigen", 10, 0.05, {})) == 320
