import math

import numpy as np
import pytest
import torch
from builders import make_site

from cnnaudit import MetricError, measure
from cnnaudit.metrics import Need
from cnnaudit.metrics.saturation import saturation

FIELDS = list(saturation.fields)


def fields(x, **facts):
    facts.setdefault("positions", 10_000)
    return {name: measure(f"saturation.{name}", x, **facts) for name in FIELDS}


def values(x, **facts):
    return {name: found.value for name, found in fields(x, **facts).items()}


def spectrum_maps(spectrum, images=20):
    """Images that all hold the same positions, whose covariance has exactly these eigenvalues."""
    spectrum = torch.tensor(spectrum, dtype=torch.float64)
    half = torch.diag((spectrum * len(spectrum)).sqrt())
    return torch.cat([half, -half], 1).expand(images, -1, -1)


def noise(images, channels, *spatial, seed=0):
    return torch.randn(images, channels, *spatial, generator=torch.Generator().manual_seed(seed))


# --- closed forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spectrum", "delta", "expected"),
    [
        ([1.0] * 10, 0.99, 10),
        ([1.0] * 10, 0.9, 9),
        ([1.0] * 10, 0.91, 10),
        ([5.0, 0, 0, 0], 0.99, 1),
        # 1 - 2^-k of a halving spectrum: 127 / 128 is the first above .99.
        ([2.0**-i for i in range(1, 31)], 0.99, 7),
        ([4.0, 1, 1, 1, 1], 0.5, 1),
        ([4.0, 1, 1, 1, 1], 0.51, 2),
    ],
)
def test_spectra(spectrum, delta, expected):
    found = fields(spectrum_maps(spectrum), delta=delta)
    for name, wanted in {"dimensions": expected, "fraction": expected / len(spectrum)}.items():
        assert found[name].value == pytest.approx(wanted)
        # The images do not differ, and only rounding decides where a share lies on delta itself.
        if (delta, len(spectrum)) not in {(0.9, 10), (0.5, 5)}:
            assert (found[name].low, found[name].high) == pytest.approx((wanted, wanted))


# --- against numpy, and what others compute ---------------------------------------------------------------------


def cumulative(x):
    rows = x.double().movedim(1, -1).reshape(-1, x.shape[1]).numpy()
    spectrum = np.linalg.eigvalsh(np.cov(rows.T, bias=True))[::-1].clip(0)
    return np.cumsum(spectrum) / spectrum.sum()


def delve(x, delta):
    """delve 0.1.50, compute_intrinsic_dimensionality: the directions below the threshold, and when one is added."""
    share = cumulative(x)
    below = share[share < delta]
    if len(below) == 0:
        return 1
    return len(below) + (1 if delta - below[-1] > 0.02 else 0)


def layers():
    """Narrow and wide spectra of correlated positions."""
    for seed, power in enumerate((0.5, 1.0, 2.0, 4.0)):
        scale = torch.arange(1.0, 13) ** (-power / 2)
        x = noise(150, 12, 1, 1, seed=seed) + noise(150, 12, 3, 3, seed=50 + seed)
        yield torch.einsum("nc...,cd->nd...", x * scale[:, None, None], noise(12, 12, seed=99))


@pytest.mark.parametrize("delta", [0.5, 0.9, 0.99, 0.999])
def test_fields_are_those_of_the_papers_of_delve_and_of_layerspec(delta):
    counted = []
    for x in layers():
        found = values(x, delta=delta)
        dimensions = int(np.searchsorted(cumulative(x), delta)) + 1  # layerspec's k*
        assert found["dimensions"] == dimensions
        assert found["fraction"] == found["of_rank"] == pytest.approx(dimensions / 12)
        assert found["delve"] == pytest.approx(delve(x, delta) / 12)
        counted.append(dimensions - delve(x, delta))
    assert set(counted) <= {0, 1}
    if delta >= 0.99:
        assert 1 in counted  # the code is one lower than the definition


def test_intervals_cover_the_truth():
    """Of 10 channels with variances 1, 1/2, ... 1/10, seven hold .88 and eight .927."""
    spectrum = 1 / torch.arange(1, 11.0)
    covered = []
    for seed in range(50):
        x = noise(100, 10, 1, seed=seed) + noise(100, 10, 3, seed=1000 + seed)
        found = measure("saturation.dimensions", x * spectrum.sqrt()[:, None], delta=0.9, block=100)
        covered.append(found.low <= 8 <= found.high)
        assert found.high - found.low <= 3
    assert sum(covered) >= 45


# --- laws -------------------------------------------------------------------------------------------------------


def test_rotation_scale_and_shift_change_nothing():
    x = noise(80, 6, 2, 2).double() * torch.arange(1.0, 7)[:, None, None]
    wanted = fields(x, delta=0.9)
    turn = torch.linalg.qr(noise(6, 6, seed=3).double())[0]
    for other in (torch.einsum("nc...,cd->nd...", x, turn), 7 * x, x + 1000, x.flip(1), x.repeat(1, 1, 2, 1)):
        for name, found in fields(other, delta=0.9).items():
            assert (found.value, found.low, found.high) == pytest.approx(
                (wanted[name].value, wanted[name].low, wanted[name].high)
            )


def test_dimensions_rise_with_delta():
    x = next(layers())
    found = [measure("saturation.dimensions", x, delta=d) for d in (0.3, 0.6, 0.9, 0.99)]
    for attribute in ("value", "low", "high"):
        ends = [getattr(f, attribute) for f in found]
        assert ends == sorted(ends)
        assert len(set(ends)) > 1


def test_delta_makes_another_quantity_of_it():
    assert saturation.identified({"delta": 0.9, "positions": 16}) == "saturation/1(delta=0.9)"


def test_images_of_one_source_are_one_sample():
    sources = torch.arange(60).repeat_interleave(4)
    x = noise(60, 12, 2) * (1 / torch.arange(1, 13.0)).sqrt()[:, None]
    once = measure("saturation.dimensions", x, delta=0.8, sources=list(range(60)))
    told = measure("saturation.dimensions", x[sources], delta=0.8, sources=sources.tolist())
    untold = measure("saturation.dimensions", x[sources], delta=0.8)
    assert (told.low, told.high) == (once.low, once.high)
    assert told.high - told.low > untold.high - untold.low


# --- edges ------------------------------------------------------------------------------------------------------


def test_dead_channels_do_not_count():
    x = noise(60, 4, 3)
    silent = torch.cat([x, torch.full((60, 4, 3), 0.7)], 1)
    assert values(silent)["dimensions"] == values(x)["dimensions"] == 4
    assert values(silent)["fraction"] == 0.5


def test_a_layer_that_never_varies_is_nothing_by_nothing():
    assert all(math.isnan(value) for value in values(torch.zeros(30, 4, 2, 2)).values())


def test_one_image_gives_a_value_and_the_whole_range():
    found = measure("saturation.dimensions", noise(1, 4, 90))
    assert (found.value, found.low, found.high) == (4, 1, 4)


def test_images_needed():
    assert saturation.images(Need(make_site(units=32), "fraction", 10, 0.05, {})) == 320


@pytest.mark.parametrize("delta", [0.0, 1.0])
def test_delta_lies_between_nothing_and_all(delta):
    with pytest.raises(MetricError, match="delta: Input should be"):
        measure("saturation", noise(4, 3), delta=delta)
