import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import cnnaudit
from cnnaudit import measure
from cnnaudit.metrics import Need, registry

METRIC = registry()["gate_activity"]
FIELDS = list(METRIC.fields)


def fields(gate, **facts):
    return {name: measure(f"gate_activity.{name}", gate, **facts) for name in FIELDS}


def units(gate, **facts):
    return {name: np.array(found.units) for name, found in fields(gate, **facts).items()}


def gates(images=200, channels=3, seed=0):
    """Gates of squeeze and excitation: one number for each channel and image."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, channels, 1, 1, generator=generator)
    return (x * torch.tensor([0.1, 1.0, 4.0])[:channels, None, None]).sigmoid()


# --- closed forms -----------------------------------------------------------------------------------------------


def test_a_constant_gate():
    for value in (0.0625, 0.3, 1.0, 7.0, -2.0):
        found = fields(torch.full((120, 2, 1, 1), value))
        assert found["variation"].units == pytest.approx((0, 0), abs=1e-6)
        assert found["entropy"].units == (0, 0)
        assert found["mean"].units == pytest.approx((value, value))
        # Images that were not met may differ.
        assert 0 < found["variation"].highs[0] < 0.3
        assert found["variation"].lows == pytest.approx((0, 0), abs=1e-6)


def test_a_gate_that_is_open_or_closed():
    gate = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(60)[:, None, None, None]
    found = fields(gate)
    # Four outcomes, one of which is 1: sd / mean = sqrt(p (1 - p)) / p.
    assert found["variation"].value == pytest.approx(math.sqrt(3), rel=0.01)
    assert found["between_images"].value == pytest.approx(math.sqrt(3), rel=0.01)
    assert found["mean"].value == 0.25
    wanted = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert found["entropy"].value == pytest.approx(wanted, abs=0.02)
    for name, truth in {"variation": math.sqrt(3), "mean": 0.25, "entropy": wanted}.items():
        assert found[name].low <= truth <= found[name].high


@pytest.mark.parametrize("centre", [0.0, 0.5, 1.0])
def test_a_gate_that_rests_at_a_centre_has_no_entropy(centre):
    noise = torch.randn(500, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    found = measure("gate_activity.entropy", (centre + 1e-6 * noise).clamp(0, 1))
    assert found.units == found.lows == found.highs == (0, 0)


def test_a_gate_at_an_edge_has_up_to_a_bit():
    noise = torch.randn(500, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    assert measure("gate_activity.entropy", 15 / 32 + 1e-6 * noise).value == pytest.approx(1, abs=0.01)
    assert measure("gate_activity.entropy", 14.9 / 32 + 1e-6 * noise).value == 0


def test_a_uniform_gate_fills_all_bins():
    gate = ((torch.arange(510) % 17) / 16)[:, None]
    found = fields(gate)
    assert found["entropy"].value == pytest.approx(math.log2(17), abs=1e-3)
    assert found["variation"].value == pytest.approx(math.sqrt((17**2 - 1) / 12) / 16 / 0.5, rel=0.01)


def test_a_gate_that_is_never_open_is_nothing_by_nothing():
    found = fields(torch.zeros(120, 1, 1, 1))
    assert math.isnan(found["variation"].value)
    assert math.isnan(found["between_images"].value)
    assert found["mean"].value == found["entropy"].value == 0


def test_a_gate_about_zero_has_no_variation():
    signs = torch.tensor([1.0, -1.0]).repeat(60)[:, None]
    assert math.isnan(measure("gate_activity", signs).value)


# --- against numpy ----------------------------------------------------------------------------------------------


def bias(x):
    """Second-order term of the delta method for (E x)^2 / E x^2."""
    s, q = x, x**2
    a, n = s.mean() ** 2 / q.mean(), len(x)
    scaled = a * (
        (s**2).mean() / s.mean() ** 2 - 2 * (s * q).mean() / (s.mean() * q.mean()) + (q**2).mean() / q.mean() ** 2
    )
    return -scaled / (n - 1)


def naive_variation(x):
    share = 1 - x.mean() ** 2 / (x**2).mean() - bias(x)
    return math.sqrt(share / (1 - share))


def test_fields_are_those_of_numpy():
    gate = gates()
    found = units(gate)
    for channel, x in enumerate(gate[:, :, 0, 0].double().numpy().T):
        assert found["mean"][channel] == pytest.approx(x.mean(), rel=1e-6)
        assert found["variation"][channel] == pytest.approx(naive_variation(x), rel=1e-5)
        assert found["variation"][channel] == pytest.approx(x.std(ddof=1) / x.mean(), rel=0.01)
        counts, _ = np.histogram(x, [0, *np.arange(1, 32, 2) / 32, 1])
        p = counts[counts > 0] / len(x)
        plugin = -(p * np.log2(p)).sum()
        # What few images leave out is of the order of (bins - 1) / (2 images ln 2).
        assert plugin <= found["entropy"][channel] + 1e-9 <= plugin + 2 * 16 / (2 * 200 * math.log(2))


def test_maps_vary_over_positions_and_images():
    generator = torch.Generator().manual_seed(3)
    between = torch.rand(200, 1, 1, 1, generator=generator)
    gate = (between + torch.rand(200, 1, 4, 4, generator=generator)) / 2
    found = fields(gate)
    x = gate.double().numpy()
    assert found["variation"].value == pytest.approx(x.std() / x.mean(), rel=0.02)
    whole = x.mean((1, 2, 3))
    assert found["between_images"].value == pytest.approx(whole.std() / whole.mean(), rel=0.02)
    assert found["mean"].value == pytest.approx(x.mean(), rel=1e-6)


def test_a_gate_that_weighs_positions_alone_is_the_same_for_all_images():
    gate = torch.linspace(0, 1, 16).reshape(1, 1, 4, 4).repeat(120, 1, 1, 1)
    found = fields(gate)
    assert found["between_images"].value == pytest.approx(0, abs=1e-6)
    assert found["variation"].value == pytest.approx(float(gate[0].double().std(correction=0)) / 0.5, rel=1e-6)
    assert found["entropy"].value == pytest.approx(4, abs=0.3)


# --- grids ------------------------------------------------------------------------------------------------------


def test_values_beyond_one_are_binned_over_the_range_that_the_first_images_span():
    gate = 5 * ((torch.arange(510) % 17) / 16)[:, None]
    found = fields(gate)
    assert found["entropy"].value == pytest.approx(math.log2(17), abs=1e-3)
    assert found["mean"].value == pytest.approx(2.5)
    bounded = units(gate / 5)
    assert units(gate)["variation"] == pytest.approx(bounded["variation"], rel=1e-6)


def test_the_mean_of_a_bounded_gate_stays_within_its_bounds():
    gate = torch.ones(150, 1)
    gate[:2] = 0.5
    within = measure("gate_activity.mean", gate)
    assert within.high <= 1
    beyond = measure("gate_activity.mean", 3 * gate)
    assert beyond.high > 3
    assert beyond.value == pytest.approx(3 * within.value)


# --- laws -------------------------------------------------------------------------------------------------------


def test_a_positive_scale_changes_the_mean_alone():
    gate = gates()
    before, after = fields(gate), fields(gate / 4)
    for name in ("variation", "between_images"):
        assert after[name].units == pytest.approx(before[name].units, rel=1e-6)
        assert after[name].highs == pytest.approx(before[name].highs, rel=1e-5)
    assert after["mean"].units == pytest.approx([x / 4 for x in before["mean"].units])


def test_a_shift_lowers_the_variation():
    gate = gates()
    before, after = units(gate), units(gate + 10)
    assert (after["variation"] < before["variation"]).all()
    assert after["mean"] == pytest.approx(before["mean"] + 10)


def test_the_order_of_channels():
    gate = gates()
    before, after = units(gate), units(gate[:, [2, 0, 1]])
    for name in FIELDS:
        assert after[name] == pytest.approx(before[name][[2, 0, 1]], rel=1e-9)


def test_duplicating_every_position_changes_nothing():
    gate = torch.rand(60, 2, 2, 3, generator=torch.Generator().manual_seed(1))
    wanted, found = fields(gate), fields(gate.repeat(1, 1, 2, 1))
    for name in FIELDS:
        assert found[name].units == pytest.approx(wanted[name].units, rel=1e-6)
        assert found[name].highs == pytest.approx(wanted[name].highs, rel=1e-5)


def test_vectors_are_maps_of_one_position():
    gate = gates()
    assert fields(gate[..., 0, 0]) == fields(gate)


def test_images_of_one_source_are_no_new_ones():
    gate, sources = gates(100), list(range(100))
    for name in FIELDS:
        one = measure(f"gate_activity.{name}", gate, sources=sources)
        same = measure(f"gate_activity.{name}", torch.cat([gate, gate]), sources=sources * 2)
        other = measure(f"gate_activity.{name}", torch.cat([gate, gate]))
        assert same.units == pytest.approx(one.units, rel=0.05)
        width = [found.highs[1] - found.lows[1] for found in (one, same, other)]
        assert width[1] == pytest.approx(width[0], rel=0.2)
        assert width[2] < 0.95 * width[1]


def test_intervals_cover_the_truth():
    """Gates of a beta distribution whose positions depend on each other, in 40 trials."""
    covered = dict.fromkeys(("variation", "mean"), 0)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = stats.norm.cdf(0.8 * rng.normal(size=(100, 1, 1)) + 0.6 * rng.normal(size=(100, 1, 4)))
        found = fields(torch.from_numpy(stats.beta.ppf(x, 2, 5)), block=50)
        truth = {"variation": stats.beta.std(2, 5) / stats.beta.mean(2, 5), "mean": stats.beta.mean(2, 5)}
        for name, value in truth.items():
            covered[name] += found[name].low <= value <= found[name].high
    assert all(stats.binom.ppf(0.001, 40, 0.95) <= count for count in covered.values())


# --- edges ------------------------------------------------------------------------------------------------------


def test_one_image_tells_nothing():
    found = fields(gates(1))
    assert found["variation"].lows == (0, 0, 0)
    assert found["variation"].highs == (math.inf,) * 3
    assert found["entropy"].highs == (math.log2(17),) * 3


def test_images_needed():
    assert METRIC.images(Need(None, "variation", 10, 0.05, {"positions": 16})) == 100


# --- in an audit ------------------------------------------------------------------------------------------------


class Excited(nn.Module):
    """Squeeze and excitation, and a spatial gate that all channels share."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.where = nn.Conv2d(4, 1, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def excitation(self, x):
        return self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()

    def forward(self, x):
        x = self.conv(x).relu()
        x = x * self.excitation(x)
        x = x * self.where(x).sigmoid()
        return self.head(x.mean((2, 3)))


def test_the_gates_of_a_network():
    net = Excited().eval()
    images = torch.randn(128, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    flow = cnnaudit.profile(net, {"images": images}, rules=[{"metric": f"gate_activity.{name}"} for name in FIELDS])
    with torch.no_grad():
        x = net.conv(images).relu()
        gate = net.excitation(x)
        where = net.where(x * gate).sigmoid()
    for name in FIELDS:
        selection = flow[f"gate_activity.{name}"]
        excitation, spatial = (selection[check.site.path] for check in selection.checks)
        assert excitation.units == pytest.approx(measure(f"gate_activity.{name}", gate).units, rel=1e-4, abs=1e-5)
        assert spatial.units == pytest.approx(measure(f"gate_activity.{name}", where).units, rel=1e-4, abs=1e-5)
        assert (len(excitation.units), len(spatial.units)) == (4, 1)
