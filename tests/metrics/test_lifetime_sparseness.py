import math

import numpy as np
import pytest
import torch
from builders import make_site

import cnnaudit
from cnnaudit import MetricError, measure
from cnnaudit.metrics import Need, registry
from cnnaudit.statistics import Probe, View

METRIC = registry()["lifetime_sparseness"]
CLOSED_FORMS = {
    "exponential": (lambda x: -torch.log1p(-x), 1 / 2),
    "half-normal": (lambda x: torch.special.ndtri(x).abs(), 1 - 2 / math.pi),
    "rectified normal": (lambda x: torch.special.ndtri(x).relu(), 1 - 1 / math.pi),
    "lognormal": (lambda x: (0.5 * torch.special.ndtri(x)).exp(), 1 - math.exp(-0.25)),
    "a tenth fires": (lambda x: (x < 0.1).double(), 0.9),
}


def responses(images=300, kernels=3, seed=0):
    return torch.empty(images, kernels).exponential_(generator=torch.Generator().manual_seed(seed))


def statistic(x, sources=None):
    """The statistic of responses (images, kernels), each source a group of its own."""
    probe = Probe(METRIC.reads, make_site(units=x.shape[1], shape=()), METRIC.taps, clustered=sources is not None)
    made = METRIC.reads(probe, 64)
    reading = made.read(View({"response": x}, torch.arange(len(x)), None, 0))
    if sources is None:
        made.fold(reading, torch.arange(len(x)) % 64)
    else:
        made.fold(reading, sources % 64, torch.tensor([s not in sources[:i] for i, s in enumerate(sources)]).long())
    return made


# --- closed forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quantile", "truth"), CLOSED_FORMS.values(), ids=CLOSED_FORMS)
def test_distributions_of_known_sparseness(quantile, truth):
    """Responses at evenly spread quantiles, so that no chance is left."""
    x = quantile((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000).float()
    for found in METRIC.evaluate(statistic(x[:, None]), make_site(), {}).values():
        assert found.value == pytest.approx([truth], abs=3e-4)


def test_four_images():
    x = torch.tensor([[4.0], [3.0], [2.0], [1.0]])
    assert measure("lifetime_sparseness.finite", x).value == pytest.approx(0.2222, abs=5e-5)
    # (E r)^2 / E r^2 = 6.25 / 7.5, and the second-order term of a normal approximation.
    assert measure("lifetime_sparseness", x).value == pytest.approx(1 / 6 + 0.02, abs=0.03)


@pytest.mark.parametrize("images", [2, 10, 500])
def test_one_image_gets_all(images):
    x = torch.zeros(images, 1)
    x[1] = 3
    assert measure("lifetime_sparseness.finite", x).value == pytest.approx(1)
    assert measure("lifetime_sparseness", x).value == pytest.approx(1 - 1 / images)


@pytest.mark.parametrize("field", list(METRIC.fields))
def test_all_images_get_the_same(field):
    found = measure(f"lifetime_sparseness.{field}", torch.full((400, 1), 0.3))
    assert found.value == pytest.approx(0, abs=1e-12)
    # A share s of all images may differ and be missed: (1 - s)^400.
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 400), rel=1e-6)


# --- naive references -------------------------------------------------------------------------------------------


def test_value_and_error_are_those_of_a_loop():
    x = responses(250, 4).double().numpy()
    finite, corrected = (measure(f"lifetime_sparseness.{field}", torch.tensor(x)) for field in ("finite", "sparseness"))
    for k in range(4):
        r = x[:, k].astype(np.float32).astype(float)
        plugin = 1 - r.mean() ** 2 / (r**2).mean()
        assert finite.units[k] == pytest.approx(plugin * 250 / 249, rel=1e-6)
        # The jackknife takes the bias of order 1 / n off in another way.
        left_out = np.array([1 - np.delete(r, i).mean() ** 2 / (np.delete(r, i) ** 2).mean() for i in range(250)])
        assert corrected.units[k] == pytest.approx(250 * plugin - 249 * left_out.mean(), abs=1e-3)
        error = math.sqrt(249 / 250 * ((left_out - left_out.mean()) ** 2).sum())
        carriers = (r**2).sum() ** 2 / (r**4).sum()
        width = corrected.highs[k] - corrected.lows[k]
        assert width == pytest.approx(2 * 1.96 * error * (1 + 1 / math.sqrt(carriers)), rel=0.05)


def test_the_bias_is_gone():
    x = responses(40, 5000, seed=1)
    found = {field: np.mean(measure(f"lifetime_sparseness.{field}", x).units) for field in METRIC.fields}
    plugin = found["finite"] * 39 / 40
    assert found["sparseness"] == pytest.approx(0.5, abs=0.008)
    assert plugin < 0.48


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda g, s: torch.empty(s).exponential_(generator=g), 0.5),
        (lambda g, s: torch.randn(s, generator=g).relu(), 1 - 1 / math.pi),
        (lambda g, s: torch.bernoulli(torch.full(s, 0.2), generator=g), 0.8),
    ],
)
@pytest.mark.parametrize("images", [200, 1000])
def test_intervals_cover_the_truth(draw, truth, images):
    found = measure("lifetime_sparseness", draw(torch.Generator().manual_seed(images), (images, 1000)))
    covered = np.mean((np.array(found.lows) <= truth) & (truth <= np.array(found.highs)))
    assert covered >= 0.94


# --- laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", list(METRIC.fields))
def test_scale_order_and_positions_do_not_matter(field):
    x = torch.rand(200, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    wanted = measure(f"lifetime_sparseness.{field}", x)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(3))
    for same in (x * torch.tensor([0.25, 8, 1024])[:, None, None], x.repeat(1, 1, 1, 2), x[order]):
        found = measure(f"lifetime_sparseness.{field}", same)
        assert found.units == pytest.approx(wanted.units, rel=1e-5)
        assert found.lows == pytest.approx(wanted.lows, rel=1e-5)
    found = measure(f"lifetime_sparseness.{field}", x[:, [2, 0, 1]])
    assert found.units == pytest.approx([wanted.units[k] for k in (2, 0, 1)])


def test_a_shift_makes_it_less_sparse():
    x = responses()
    assert np.all(np.array(measure("lifetime_sparseness", x + 1).units) < measure("lifetime_sparseness", x).units)


def test_twice_the_images_shrink_the_interval_unless_they_are_of_the_same_sources():
    x = responses()
    twice, of = torch.cat([x, x]), torch.arange(300).repeat(2)
    one, two = measure("lifetime_sparseness.finite", x), measure("lifetime_sparseness.finite", twice)
    same = measure("lifetime_sparseness.finite", twice, sources=of)
    once = measure("lifetime_sparseness.finite", x, sources=of[:300])
    widths = [np.subtract(found.highs, found.lows) for found in (one, two, once, same)]
    assert widths[0] / widths[1] == pytest.approx([math.sqrt(2)] * 3, rel=0.06)
    assert widths[3] / widths[2] == pytest.approx([1] * 3, rel=0.05)
    assert same.units == pytest.approx(once.units, rel=0.01)


# --- edges ------------------------------------------------------------------------------------------------------


def test_a_dead_kernel_and_a_single_image():
    dead = measure("lifetime_sparseness", torch.zeros(30, 2))
    assert all(math.isnan(value) for value in dead.units)
    for field in METRIC.fields:
        one = measure(f"lifetime_sparseness.{field}", torch.ones(1, 1))
        assert (one.value, one.low, one.high) == (0, 0, 1)


def test_images_needed():
    assert METRIC.images(Need(make_site(), "sparseness", 10, 0.05, {})) == 100
    x = torch.zeros(400, 3)
    x[:100, 0], x[:20, 1] = 1, 1
    gate = METRIC.gate(statistic(x), make_site(), "sparseness", {})
    assert gate.images.tolist() == [0, 600, 12000]
    assert gate.reason == "fewer than 30 images carry the squared response of some kernels"
    gate = METRIC.gate(statistic(x, torch.arange(400) // 4), make_site(), "sparseness", {})
    assert gate.images.tolist() == [120, 600, 3000]
    assert "30 sources" in gate.reason


def test_signed_responses_have_none():
    assert "may be negative" in METRIC.applies(make_site(nonnegative=False), "sparseness", {})
    with pytest.raises(MetricError, match="responses here may be negative"):
        measure("lifetime_sparseness", torch.randn(20, 2))


def test_about_the_data_set_only_as_published():
    found = measure("lifetime_sparseness.finite", responses(), estimand="dataset")
    assert found.lows == found.highs == found.units
    with pytest.raises(MetricError, match="has no exact data-set value"):
        measure("lifetime_sparseness", responses(), estimand="dataset")


def test_in_an_audit():
    """Two channels: one gets the same from all images, the other something from a tenth of them."""
    images = torch.rand(600, 2, 4, 4, generator=torch.Generator().manual_seed(5))
    images[:, 1] *= (torch.arange(600) % 10 == 0)[:, None, None]
    convolution = torch.nn.Conv2d(2, 2, 1, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(torch.eye(2)[..., None, None])
    rules = [
        {"id": "half", "metric": "lifetime_sparseness", "min": 0.8, "share": 0.5},
        {"id": "all", "metric": "lifetime_sparseness", "min": 0.8},
    ]
    net = torch.nn.Sequential(convolution, torch.nn.ReLU())
    report = cnnaudit.audit({"cnnaudit": 1, "rules": rules}, model=net, data=images)
    assert {v.rule: str(v.outcome) for v in report.verdicts} == {"half": "pass", "all": "fail"}
