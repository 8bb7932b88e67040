import math

import numpy as np
import pytest
import torch
from builders import make_site
from scipy import stats

from cnnaudit import MetricError, measure
from cnnaudit.intervals import BoundedMean
from cnnaudit.metrics import Need, registry
from cnnaudit.statistics import Probe, View

METRIC = registry()["activity"]
LAYER = torch.tensor(
    # Two images of three kernels with 2x2 maps.
    [[[[0, 1], [2, 1]], [[0, 0], [0, 0]], [[4, 4], [4, 4]]], [[[0, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 8], [0, 8]]]],
    dtype=torch.float32,
)


def sparse(images=200, units=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(images, units, 4, 4, generator=generator) - torch.linspace(0, 1.5, units)[:, None, None]).relu()


def fields(*tensors, **facts):
    return {name: measure(f"activity.{name}", *tensors, **facts) for name in METRIC.fields}


def test_by_hand():
    found = fields(LAYER)
    assert found["apoz"].units == (5 / 8, 1, 2 / 8)
    assert found["dead"].units == (0, 1, 0)
    # Mean magnitudes .5, 0 and 4, on average 1.5.
    assert found["dormant"].units == pytest.approx((1 / 3, 0, 8 / 3))
    assert found["dormant"].value == pytest.approx(1)
    for name, estimate in found.items():
        assert estimate.unit == METRIC.fields[name].unit
        assert estimate.kernels == (0, 1, 2)
        assert estimate.n_images == 2


def test_apoz_counts_zeros_not_activity():
    """The indicator is sometimes published the other way round."""
    assert measure("activity.apoz", torch.zeros(3, 1, 2, 2)).value == 1
    assert measure("activity.apoz", torch.ones(3, 1, 2, 2)).value == 0


def test_half_of_a_rectified_standard_normal_is_zero():
    x = torch.randn(400, 2, 8, 8, generator=torch.Generator().manual_seed(1)).relu()
    found = measure("activity.apoz", x)
    assert found.value == pytest.approx(0.5, abs=0.01)
    assert all(low <= 0.5 <= high for low, high in zip(found.lows, found.highs, strict=True))


def test_standard_errors_are_those_over_images():
    x = sparse(300)
    zeros = (x == 0).double().mean((2, 3)).numpy()
    found = measure("activity.apoz", x)
    assert found.units == pytest.approx(zeros.mean(0))
    low, high = BoundedMean(zeros.mean(0), stats.sem(zeros), 300).interval(0.95)
    assert found.lows == pytest.approx(low, rel=1e-9)
    assert found.highs == pytest.approx(high, rel=1e-9)

    a = x.double().mean((2, 3)).numpy()
    score = a.mean(0) / a.mean()
    influence = (a - score * a.mean(1, keepdims=True)) / a.mean()
    found = measure("activity.dormant", x)
    z = stats.norm.ppf(0.975)
    assert found.units == pytest.approx(score, rel=1e-6)
    assert np.subtract(found.highs, found.units) == pytest.approx(z * stats.sem(influence), rel=1e-4)


@pytest.mark.parametrize("n", [5, 60, 298, 299])
def test_silence_is_bounded_by_the_rule_of_three(n):
    """n silent images leave a rate of activation of at most 1 - .05^(1/n): 299 reach the default rate of 1 %."""
    x = torch.zeros(n, 1, 2, 2)
    rate = 1 - 0.05 ** (1 / n)
    assert measure("activity.dead", x, confidence=0.9, rate=rate * 1.0001).units == (1,)
    assert measure("activity.dead", x, confidence=0.9, rate=rate * 1.0001).lows == (1,)
    assert measure("activity.dead", x, confidence=0.9, rate=rate * 0.9999).lows == (0,)
    assert measure("activity.dead", x, confidence=0.9).lows == (1.0 if n >= 299 else 0.0,)


def test_dead_is_about_the_rate_or_about_these_images():
    x = torch.zeros(400, 2, 2, 2)
    x[0, 1, 0, 0] = 1e-30  # one position of one image
    assert measure("activity.dead", x).units == (1, 1)  # fewer than 1 % of images activate either
    on_these = measure("activity.dead", x, estimand="dataset")
    assert (on_these.units, on_these.lows, on_these.highs) == ((1, 0), (1, 0), (1, 0))
    assert measure("activity.dead", x, rate=0.002).units == (1, 0)


def test_images_needed_before_a_population_verdict():
    def needed(field, **params):
        return METRIC.images(Need(make_site(), field, 10, 0.05, {"rate": 0.01} | params))

    assert needed("dead") == 299
    assert 0.99**299 <= 0.05 < 0.99**298
    assert needed("dead", rate=0.1) == 29
    assert needed("apoz") == needed("dormant") == 100


def test_claims_about_the_data_set_have_no_error():
    found = measure("activity.apoz", sparse(20), estimand="dataset")
    assert found.lows == found.highs == found.units
    with pytest.raises(MetricError, match=r"activity\.dormant samples positions"):
        measure("activity.dormant", sparse(20), estimand="dataset")


def test_positive_rescaling_of_a_kernel_changes_neither_zeros_nor_death():
    x = sparse()
    scaled = x * torch.tensor([0.25, 8.0, 1.0, 1024.0])[:, None, None]
    for name in ("dead", "apoz"):
        assert measure(f"activity.{name}", scaled) == measure(f"activity.{name}", x)
    # Rescaling the whole layer leaves the ratio as it is.
    assert measure("activity.dormant", x * 4).units == pytest.approx(measure("activity.dormant", x).units)


def test_duplicating_every_position_changes_nothing():
    x = sparse()
    for name, found in fields(x.repeat(1, 1, 1, 2)).items():
        wanted = measure(f"activity.{name}", x)
        assert found.units == pytest.approx(wanted.units, rel=1e-6)
        assert found.lows == pytest.approx(wanted.lows, rel=1e-5)
        assert found.highs == pytest.approx(wanted.highs, rel=1e-5)


def test_duplicating_every_image_shrinks_intervals_by_the_root_of_two():
    x = sparse(300)
    # Near its limits a fraction is counted, and twice a count has not half of its relative error.
    for name, rel in (("apoz", 0.03), ("dormant", 1e-6)):
        one, two = measure(f"activity.{name}", x), measure(f"activity.{name}", torch.cat([x, x]))
        assert two.units == pytest.approx(one.units, rel=1e-9)
        widths = np.subtract(one.highs, one.lows) / np.subtract(two.highs, two.lows)
        assert widths == pytest.approx(math.sqrt(599 / 299), rel=rel)


def test_channels_are_told_apart():
    x = sparse()
    order = [2, 0, 3, 1]
    for name, found in fields(x[:, order]).items():
        wanted = measure(f"activity.{name}", x)
        assert found.units == pytest.approx([wanted.units[k] for k in order])
        assert found.highs == pytest.approx([wanted.highs[k] for k in order])


def test_vectors_are_maps_of_one_position():
    x = sparse()[..., 0, 0]
    for name, found in fields(x).items():
        assert found == measure(f"activity.{name}", x[..., None, None])


def test_signed_responses_count_exact_zeros():
    """measure takes zeros as made by an activation; signs do not cancel."""
    x = torch.tensor([[[-1.0, 1.0, 0.0, 0.0]], [[-3.0, 3.0, 0.0, 0.0]]])
    found = fields(x)
    assert found["apoz"].units == (0.5,)
    assert found["dead"].units == (0,)
    assert found["dormant"].units == (1,)


def test_one_image_tells_nothing_about_others():
    found = fields(LAYER[:1])
    assert found["apoz"].units == (1 / 4, 1, 0)
    assert found["apoz"].lows == (0, 0, 0)
    assert found["apoz"].highs == (1, 1, 1)
    assert found["dormant"].highs == (math.inf,) * 3
    # A kernel that fired in the one image there is hardly fires in fewer than 1 % of all.
    assert (found["dead"].lows, found["dead"].highs) == ((0, 0, 0), (0, 1, 0))


def test_a_layer_that_is_dead_all_over():
    found = fields(torch.zeros(40, 3, 2, 2))
    assert found["dead"].units == (1, 1, 1)
    assert found["apoz"].units == (1, 1, 1)
    assert all(math.isnan(v) for v in found["dormant"].units)  # 0 / 0
    assert math.isnan(found["dormant"].value)


def test_a_single_kernel_is_its_own_layer():
    assert measure("activity.dormant", sparse(30, 1)).units == (1,)


def test_zeros_mean_nothing_where_no_activation_makes_them():
    smooth = make_site(atoms=(), nonnegative=False)
    assert "no activation here makes exact zeros" in METRIC.applies(smooth, "dead", {})
    assert METRIC.applies(smooth, "apoz", {}) is not None
    assert METRIC.applies(smooth, "dormant", {}) is None
    assert METRIC.applies(make_site(), "dead", {}) is None


def test_nan_and_infinities_are_counted_as_images():
    x = sparse(20)
    x[3, 0, 0, 0] = math.nan
    x[9, 1, 2, 2] = math.inf
    probe = Probe(METRIC.reads, make_site(units=4), METRIC.taps)
    statistic = METRIC.reads(probe, 1)
    statistic.fold(statistic.read(View({"response": x}, torch.arange(20), None, 0)), torch.zeros(20, dtype=torch.int64))
    assert statistic.nonfinite == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measure("activty", LAYER), "no metric is called 'activty'; did you mean 'activity'?"),
        (lambda: measure("activity.apz", LAYER), "activity has no field 'apz'; did you mean 'apoz'?"),
        (
            lambda: measure("activity", LAYER, rate=0.0),
            "activity: rate: .*greater than 0.*it knows rate, on_zeros, on_cv, kernel",
        ),
        (lambda: measure("activity", LAYER, rate="1"), "activity: rate: .*valid number"),
        (lambda: measure("activity", LAYER, bins=3), "activity: bins: Extra inputs are not permitted"),
        (lambda: measure("activity", LAYER, LAYER), r"reads 1 tensor\(s\): response; got 2"),
        (lambda: measure("activity"), r"reads 1 tensor\(s\): response; got 0"),
        (lambda: measure("activity", torch.zeros(3)), r"shape \(images, units, \*positions\).*not \(3,\)"),
        (lambda: measure("activity", torch.zeros(0, 3)), "at least one image"),
    ],
)
def test_wrong_questions(call, message):
    with pytest.raises(MetricError, match=message):
        call()


def tallied(x, sources):
    """The statistic of maps whose images come from these sources, each source a group."""
    statistic = METRIC.reads(Probe(METRIC.reads, make_site(units=x.shape[1]), METRIC.taps, clustered=True), 64)
    first = torch.tensor([int(s not in sources[:i].tolist()) for i, s in enumerate(sources)])
    view = View({"response": x}, torch.arange(len(x)), None, 0)
    statistic.fold(statistic.read(view), sources % 64, first)
    return statistic


def test_dead_in_the_population_is_about_sources():
    """400 sources; one of 500 images fires in all of them, 20 of two images in the second one only."""
    sources = torch.cat([torch.arange(400), torch.full((499,), 7), torch.arange(100, 120)])
    x = torch.zeros(len(sources), 3, 2, 2)
    x[sources == 7, 0] = 1
    x[-20:, 1] = 1
    found = METRIC.evaluate(tallied(x, sources), make_site(units=3), {"rate": 0.05})["dead"]
    assert found.at_least.successes.tolist() == [1, 1, 0]  # those whose first image fires, and one where any does
    assert found.proportion.successes.tolist() == [400, 20, 0]
    low, high = found.interval(0.9)
    assert (low.tolist(), high.tolist()) == ([0, 0, 1], [1, 1, 1])
    assert found.on_dataset().value.tolist() == [0, 0, 1]


@pytest.mark.parametrize("images", [1, 60])
def test_dead_errs_as_seldom_as_it_should_whatever_sources_hold(images):
    """Exactly 1 % of sources fire and each of them has many images: "fewer than 1 %" is passed in at most 5 %."""
    generator, passed = torch.Generator().manual_seed(images), 0
    for _ in range(60):
        fires = torch.rand(300, generator=generator) < 0.01
        of = torch.arange(300).repeat_interleave(torch.where(fires, images, 1))
        x = fires[of].float().reshape(-1, 1, 1, 1)
        passed += measure("activity.dead", x, sources=of, confidence=0.9).low == 1
    assert passed <= 8  # the binomial's 99 % limit for 60 runs at .05


@pytest.mark.parametrize(("images", "most"), [(2, 0.02), (10, 0.035), (50, 0.035), (100, 0.05)])
def test_strength_that_few_images_carry_is_not_trusted(images, most):
    """On average so many of 500 images respond, by .15 or .9, beside a layer that always does."""
    generator = torch.Generator().manual_seed(images)
    level = torch.rand(500, 1000, generator=generator) * 500 / images
    x = torch.where(level < 0.5, 0.15, torch.where(level < 1, 0.9, 0.0))
    x = torch.cat([x, torch.full((500, 9000), 1.0)], 1)
    truth = 0.525 * images / 500
    truth = truth / (0.1 * truth + 0.9)
    found = measure("activity.dormant", x[:, :, None], confidence=0.95)
    assert np.mean(np.array(found.highs[:1000]) < truth) <= most
    assert np.mean(np.array(found.lows[:1000]) > truth) <= 0.035
    assert max(found.highs[:1000]) < truth + 0.2  # still far below the layer


def test_a_kernel_that_never_responded_is_dormant_up_to_a_doubt():
    x = sparse(200, 2) + 0.1
    x[:, 1] = 0
    for sources, error in ((None, 2 / 200), (torch.arange(200) // 2, 2 / 100)):
        found = measure("activity.dormant", x, sources=sources)
        assert found.units[1] == found.lows[1] == 0
        assert found.highs[1] == pytest.approx(stats.norm.ppf(0.975) * error, rel=0.05)


# --- kernels that act as a bias -----------------------------------------------------------------------------------


def varying(variation, zeros=0.0, *, images=600, units=1, side=2):
    """Maps of mean 1 whose coefficient of variation is given, and images that are silent throughout."""
    generator = torch.Generator().manual_seed(0)
    x = 1 + variation * torch.randn(images, units, side, side, generator=generator)
    silent = torch.rand(images, units, 1, 1, generator=generator) < zeros
    return torch.where(silent, torch.zeros_like(x), x)


def on(x, field="always_on", **facts):
    found = measure(f"activity.{field}", x, confidence=0.9, **facts)
    return found.value, found.low, found.high


def test_a_kernel_that_hardly_varies_is_always_on():
    assert on(torch.full((600, 1, 2, 2), 3.0)) == (1, 1, 1)
    assert on(varying(0.05)) == (1, 1, 1)
    assert on(varying(0.05), on_cv=0.04) == (0, 0, 0)
    assert on(varying(0.3)) == (0, 0, 0)  # never zero, but it varies
    assert on(varying(0.05, zeros=0.2)) == (0, 0, 0)
    assert on(varying(0.05, zeros=0.2), on_zeros=0.5, on_cv=2.0) == (1, 1, 1)
    assert on(torch.full((100, 1, 2, 2), 3.0)) == (1, 0, 1)  # 1 % of images may yet be otherwise
    assert on(torch.zeros(600, 1, 2, 2)) == (0, 0, 0)  # dead


def test_variation_is_that_over_positions_and_images():
    x = sparse(300, 3) + 0.5
    tally = METRIC.reads(Probe(METRIC.reads, make_site(units=3, shape=(2, 4)), METRIC.taps), 4)
    small = x[..., :2, :]
    tally.fold(tally.read(View({"response": small}, torch.arange(300), None, 0)), torch.arange(300) % 4)
    found = METRIC.evaluate(tally, make_site(), {})["always_on"].events[1].proportion.value
    own = small.double().movedim(1, 0).flatten(1).numpy()
    spread = (own.std(1) / own.mean(1)) ** 2
    assert found == pytest.approx(spread / (1 + spread), rel=0.01)  # up to the bias of order 1 / images
    limit = float(np.sqrt(spread.max()))
    assert measure("activity.always_on", small, on_cv=1.02 * limit).units == (1, 1, 1)
    assert measure("activity.always_on", small, on_cv=0.98 * limit).units != (1, 1, 1)


def test_larger_maps_tell_the_variation_by_a_sample():
    x = varying(0.1, images=400, units=40, side=24)
    tally = METRIC.reads(Probe(METRIC.reads, make_site(units=40, shape=(24, 24)), METRIC.taps), 1)
    tally.fold(tally.read(View({"response": x}, torch.arange(400), None, 0)), torch.zeros(400, dtype=torch.int64))
    found = METRIC.evaluate(tally, make_site(), {})["always_on"].events[1].proportion
    assert found.value.mean() == pytest.approx(0.01 / 1.01, rel=0.01)
    low, high = found.interval(0.95)
    truth = 0.01 / 1.01
    assert np.mean((low <= truth) & (truth <= high)) >= 0.85


def test_always_on_is_claimed_wrongly_as_seldom_as_it_should():
    """Kernels on the limit of either condition: "always on" and "not always on" in about 5 % at most."""
    for x in (varying(0.1, images=400, units=500, side=3), varying(0.001, 0.0099, images=1000, units=500, side=1)):
        found = measure("activity.always_on", x, confidence=0.9)
        assert np.mean(np.array(found.lows) == 1) <= 0.075
        assert np.mean(np.array(found.highs) == 0) <= 0.075


def test_where_no_activation_makes_zeros_the_variation_decides():
    assert METRIC.applies(make_site(atoms=(), nonnegative=False), "always_on", {}) is None
    assert on(-varying(0.05)) == (1, 1, 1)
    assert on(varying(0.05) - 1) == (0, 0, 0)


def test_scale_and_positions_do_not_change_what_is_always_on():
    x = torch.cat([varying(0.05, side=1, units=2), varying(0.12, side=1, units=2)], 1)
    wanted = measure("activity.always_on", x)
    assert wanted.units == (1, 1, 0, 0)
    scaled = x * torch.tensor([0.25, 8.0, 1.0, 1024.0])[:, None, None]
    for same in (scaled, x.repeat(1, 1, 2, 4)):
        found = measure("activity.always_on", same)
        assert (found.units, found.lows, found.highs) == (wanted.units, wanted.lows, wanted.highs)


def test_always_on_is_about_sources():
    """Six images of each of 100 sources: no more is known of others than 100 tell."""
    x = varying(0.05)
    assert on(x, sources=torch.arange(600)) == (1, 1, 1)
    assert on(x, sources=torch.arange(600) // 6) == (1, 0, 1)


def test_images_needed_for_always_on():
    def needed(**params):
        return METRIC.images(Need(make_site(), "always_on", 10, 0.05, {"on_zeros": 0.01, "on_cv": 0.1} | params))

    assert needed() == 302
    assert needed(on_zeros=0.001) == 2995
    assert needed(on_cv=0.05) == 1200


def test_one_image_tells_nothing_of_what_is_always_on():
    assert on(torch.ones(1, 1, 2, 2)) == (1, 0, 1)
