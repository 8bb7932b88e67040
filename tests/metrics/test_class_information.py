import math
import sys

import numpy as np
import pytest
import torch
from builders import make_site
from scipy import special, stats
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import expected_mutual_information

from cnnaudit import MetricError, measure
from cnnaudit.metrics import Need, registry
from cnnaudit.statistics import Probe, View

METRIC = registry()["class_information"]


def exact(response, labels, levels, field="information"):
    return measure(f"class_information.{field}", response, labels=labels, levels=levels, estimator="plugin")


def estimate(response, labels, bins):
    """Every field's Uncertain for integer responses of shape (images, kernels)."""
    site = make_site(units=response.shape[1], shape=())
    probe = Probe(METRIC.reads, site, METRIC.taps, METRIC.options({"bins": bins}))
    statistic = METRIC.reads(probe, 1)
    reading = statistic.read(View({"response": response}, torch.arange(len(labels)), labels, 0))
    statistic.calibrate([reading])
    statistic.fold(reading, torch.zeros_like(labels))
    return METRIC.evaluate(statistic, site, {"bins": bins, "estimator": "corrected"})


def noisy(images=400, units=3, classes=4, seed=0):
    """Maps whose mean leans on the class, each kernel more than the one before."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (images,), generator=generator)
    x = torch.randn(images, units, 3, 3, generator=generator)
    lean = labels[:, None] * torch.linspace(0, 0.4, units)
    return x + lean[:, :, None, None], labels


# --- closed forms by exact enumeration --------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 4, 7])
def test_a_response_that_is_the_class_says_all_of_it(classes):
    labels = torch.arange(classes).repeat(6)
    found = exact(labels[:, None], labels, classes)
    assert found.value == pytest.approx(math.log2(classes))
    assert found.unit == "bits"
    assert exact(labels[:, None], labels, classes, "normalised").value == pytest.approx(1)
    assert exact(labels[:, None], labels, classes, "uncertainty_coefficient").value == pytest.approx(1)


def test_unequal_classes():
    labels = torch.tensor([0] * 8 + [1] * 4 + [2] * 2 + [3] * 2)
    assert exact(labels[:, None], labels, 4).value == pytest.approx(1.75)


def test_an_independent_response_says_nothing():
    response, labels = (x.flatten() for x in torch.meshgrid(torch.arange(5), torch.arange(3), indexing="ij"))
    found = exact(response[:, None], labels, 5)
    assert found.value == pytest.approx(0, abs=1e-12)
    assert exact(response[:, None], labels, 5, "normalised").value == pytest.approx(0, abs=1e-12)


def test_a_binary_symmetric_channel():
    """Every hundredth image counts: 11 of 100 of each class are flipped."""
    labels = torch.arange(2).repeat_interleave(100)
    flipped = torch.arange(200) % 100 < 11
    response = torch.where(flipped, 1 - labels, labels)[:, None]
    found = exact(response, labels, 2)
    assert found.value == pytest.approx(0.50008, abs=5e-6)
    # An image adds to n log2 n of its cell of 89 or 11 images, less the same of its class and level of 100.
    added = {n: n * math.log2(n) - (n - 1) * math.log2(n - 1) for n in (11, 89)}
    gain = np.where(flipped.numpy(), added[11], added[89])
    reach = stats.norm.ppf(0.975) * gain.std() / math.sqrt(200)
    assert (found.low, found.high) == pytest.approx((found.value - reach, found.value + reach))


def test_what_eight_bins_can_say_about_many_classes():
    labels = torch.arange(64).repeat(2)
    response = (labels // 8)[:, None]
    assert exact(response, labels, 8).value == pytest.approx(3)
    assert exact(response, labels, 8, "uncertainty_coefficient").value == pytest.approx(3 / 6)
    assert exact(response, labels, 8, "normalised").value == pytest.approx(1)


# --- corrections ------------------------------------------------------------------------------------------------


def grassberger(counts):
    m = counts[counts > 0].astype(float)
    g = special.digamma(m) + (-1) ** m * (special.digamma((m + 1) / 2) - special.digamma(m / 2)) / 2
    return (math.log(m.sum()) - (m * g).sum() / m.sum()) / math.log(2)


def test_value_floor_and_error_one_image_at_a_time():
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 4, (90,), generator=generator)
    response = torch.stack([torch.randint(0, 5, (90,), generator=generator), labels.clone()], 1)
    response[:40, 1] = torch.randint(0, 5, (40,), generator=generator)
    information = measure("class_information", response, labels=labels, levels=5)
    adjusted = measure("class_information.chance_adjusted", response, labels=labels, levels=5)
    z, ln2 = stats.norm.ppf(0.975), math.log(2)
    for kernel in range(2):
        table = np.zeros((4, 5), dtype=np.int64)
        np.add.at(table, (labels.numpy(), response[:, kernel].numpy()), 1)
        rows, columns = table.sum(1), table.sum(0)
        plugin = mutual_info_score(None, None, contingency=table) / ln2
        value = grassberger(rows) + grassberger(columns) - grassberger(table.ravel())
        assert information.units[kernel] == pytest.approx(max(0, value))
        chance = expected_mutual_information(table, 90) / ln2
        assert adjusted.units[kernel] == pytest.approx(plugin - chance)

        def total(n):
            return (special.xlogy(n, n).sum() - special.xlogy(n.sum(1), n.sum(1)).sum()
                    - special.xlogy(n.sum(0), n.sum(0)).sum()) / ln2  # fmt: skip

        # What an image adds, by leaving it out; where there is none, a first one is put into its cell alone.
        gain = np.zeros_like(table, dtype=float)
        for cell in np.ndindex(*table.shape):
            full = table.copy().astype(float)
            full[cell] = max(full[cell], 1)
            less = full.copy()
            less[cell] -= 1
            margins = sum(special.xlogy(m, m) - special.xlogy(m - 1, m - 1) for m in (rows[cell[0]], columns[cell[1]]))
            gain[cell] = (special.xlogy(full, full).sum() - special.xlogy(less, less).sum() - margins) / ln2
            if table[cell]:
                assert gain[cell] == pytest.approx(total(full) - total(less))
        weight = (table + 4 * np.outer(rows, columns) / 90**2) / 94
        variance = (weight * (gain - (weight * gain).sum()) ** 2).sum() / 90 + 12 / (2 * (90 * ln2) ** 2)
        reach = z * math.sqrt(variance) + z**2 / (2 * 90 * ln2)
        floor = value - 0.144 * (table <= 1).sum() / (90 * ln2)
        assert information.highs[kernel] == pytest.approx(max(0, value) + reach)
        assert information.lows[kernel] == pytest.approx(max(0, floor - reach))


def test_the_residue_of_a_rare_cell_is_bounded():
    x = np.geomspace(1e-4, 30, 20_000)
    missed = x * special.exp1(2 * x)
    assert (0.144 * stats.poisson.cdf(1, x) >= missed).all()
    assert (missed / stats.poisson.cdf(1, x)).max() == pytest.approx(0.144, abs=2e-4)


def drawn(p, images, tables, seed):
    """Claims about tables of counts drawn from joint probabilities."""
    counts = np.random.default_rng(seed).multinomial(images, p.ravel(), size=tables).reshape(tables, *p.shape)

    class Drawn:
        lacks_a_group = False
        design_effect = class_effect = torch.ones(tables, dtype=torch.float64)
        excess_bias = torch.zeros(tables, dtype=torch.float64)

    Drawn.counts = torch.as_tensor(counts)
    return METRIC.function(Drawn, make_site(), bins=p.shape[1])["information"]


@pytest.mark.parametrize(
    ("classes", "images", "own", "tables"),
    [(2, 40, 0.99, 400), (2, 40, 0.9, 400), (100, 50, 0.8, 60), (100, 50, 0.95, 60), (100, 40, 0.3, 60)],
)
def test_thin_tables_are_rarely_judged_wrong(monkeypatch, classes, images, own, tables):
    """Each class has its own level, the other ones are equally rare; the bound is the truth."""
    module = sys.modules["cnnaudit.metrics.class_information"]
    # Only the bound 0 and chance_adjusted read it.
    monkeypatch.setattr(module, "expected_mutual_information", lambda counts: torch.zeros(len(counts)).double())
    p = (own * np.eye(8)[np.arange(classes) % 8] + (1 - own) / 8) / classes
    truth = stats.entropy(p.sum(0), base=2) + math.log2(classes) - stats.entropy(p.ravel(), base=2)
    found = drawn(p, classes * images, tables, 8)
    most = stats.binom.ppf(0.999, tables, 0.05)
    assert (found.p_at_most(truth) <= 0.05).sum() <= most
    assert (found.p_at_least(truth) <= 0.05).sum() <= most


def by_source(response, labels, sources, bins):
    """Claim of responses of shape (images, kernels) where images have sources."""
    site = make_site(units=response.shape[1], shape=())
    probe = Probe(METRIC.reads, site, METRIC.taps, METRIC.options({"bins": bins}), clustered=True)
    statistic = METRIC.reads(probe, 64)
    reading = {"response": response, "labels": labels}
    statistic.calibrate([reading])
    first = torch.cat([torch.ones(1), (sources[1:] != sources[:-1])]).long()
    statistic.fold(reading, sources % 64, first)
    return METRIC.evaluate(statistic, site, {"bins": bins, "estimator": "corrected"})["information"]


def test_sources_that_turn_the_label_around_say_nothing():
    """250 sources of 8 images, balanced labels; the response is the label, or its opposite, by source and kernel."""
    generator = torch.Generator().manual_seed(9)
    sources = torch.arange(250).repeat_interleave(8)
    labels = torch.arange(2).repeat(1000)
    turned = torch.randint(0, 2, (250, 200), generator=generator)[sources]
    p = by_source(labels[:, None] ^ turned, labels, sources, 2).p_at_most(0)
    assert (p <= 0.05).sum() <= stats.binom.ppf(0.999, 200, 0.05)
    assert (p <= 0.5).sum() >= 60


def test_sources_that_say_next_to_nothing_have_an_error():
    """120 sources of 20 images: half of what a response shows is its source's own, whatever the class."""
    generator = torch.Generator().manual_seed(10)
    sources = torch.arange(120).repeat_interleave(20)
    labels = torch.randint(0, 2, (2400,), generator=generator)
    noise = torch.randint(0, 2, (120, 200), generator=generator)[sources]
    own = torch.rand(2400, 200, generator=generator) < 0.1
    found = by_source(torch.where(own, labels[:, None], noise), labels, sources, 2)
    truth = 1 - stats.entropy([0.45, 0.55], base=2)
    _, high = found.interval(0.95)
    assert (high > 0).all()
    assert (found.p_at_least(truth) <= 0.05).sum() <= stats.binom.ppf(0.999, 200, 0.05)
    assert (found.p_at_most(truth) <= 0.05).sum() <= stats.binom.ppf(0.999, 200, 0.05)


def test_noise_is_found_to_say_nothing():
    """400 kernels of noise: a G test at 5 % calls at most about 5 % of them informative, thin tables included."""
    generator = torch.Generator().manual_seed(4)
    for classes, images in ((10, 400), (50, 400)):
        labels = torch.arange(images) % classes
        response = torch.randint(0, 8, (images, 400), generator=generator)
        found = estimate(response, labels, 8)["information"]
        p = found.p_at_most(0)
        assert p.shape == (400,)
        assert (p <= 0.05).sum() <= stats.binom.ppf(0.999, 400, 0.05)
        assert np.median(p) == pytest.approx(0.5, abs=0.12)


def test_a_weak_signal_is_found():
    x, labels = noisy(2000, 2)
    response = (x.mean((2, 3)) > 0.3).long()
    p = estimate(response, labels, 2)["information"].p_at_most(0)
    assert p[1] < 1e-6


def test_intervals_cover_the_truth():
    """A binary symmetric channel seen through 500 images, 300 times."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 2, (500,), generator=generator)
    flipped = torch.rand(500, 300, generator=generator) < 0.11
    response = torch.where(flipped, 1 - labels[:, None], labels[:, None])
    found = measure("class_information", response, labels=labels, levels=2)
    covered = sum(low <= 0.50008 <= high for low, high in zip(found.lows, found.highs, strict=True))
    assert 0.91 * 300 <= covered <= 0.99 * 300


def test_permuted_labels_leave_nothing():
    x, labels = noisy(400, 3)
    shuffled = labels[torch.randperm(400, generator=torch.Generator().manual_seed(6))]
    found = measure("class_information.chance_adjusted", x, labels=shuffled)
    assert all(low <= 0 <= high for low, high in zip(found.lows, found.highs, strict=True))
    sound = measure("class_information.chance_adjusted", x, labels=labels)
    assert sound.lows[2] > 0


# --- laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", list(METRIC.fields))
def test_positive_rescaling_and_renaming_classes_change_nothing(field):
    x, labels = noisy()
    wanted = measure(f"class_information.{field}", x, labels=labels)
    scaled = measure(f"class_information.{field}", x * torch.tensor([0.5, 4.0, 2.0**20])[:, None, None], labels=labels)
    renamed = measure(f"class_information.{field}", x, labels=torch.tensor([5, 0, 3, 2])[labels])
    for found in (scaled, renamed):
        for name in ("units", "lows", "highs"):
            assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=1e-9, abs=1e-12)


def test_shifting_a_signed_response_changes_nothing():
    x, labels = noisy()
    shifted = torch.round(x * 64) / 64  # so that adding an integer rounds nothing
    wanted = measure("class_information", shifted, labels=labels)
    assert measure("class_information", shifted + 32, labels=labels).units == pytest.approx(wanted.units)


def test_duplicating_every_position_changes_nothing():
    x, labels = noisy()
    x = torch.round(x * 64) / 64
    wanted = measure("class_information", x, labels=labels)
    assert measure("class_information", x.repeat(1, 1, 2, 2), labels=labels).units == pytest.approx(wanted.units)


def test_channels_are_told_apart():
    x, labels = noisy()
    wanted, found = (measure("class_information", y, labels=labels) for y in (x, x[:, [2, 0, 1]]))
    assert found.units == pytest.approx([wanted.units[k] for k in (2, 0, 1)])
    assert found.kernels == (0, 1, 2)


@pytest.mark.parametrize("bins", [2, 5, 8])
def test_it_never_exceeds_what_bins_and_classes_hold(bins):
    x, labels = noisy(classes=3)
    found = measure("class_information", x * 100, labels=labels, bins=bins, estimator="plugin")
    h_y = stats.entropy(np.bincount(labels), base=2)
    assert all(0 <= v <= min(math.log2(bins), h_y) + 1e-9 for v in found.units)


def test_zeros_are_a_level_of_their_own():
    """Silent for class 0, anything positive for class 1: the zero atom alone tells them apart."""
    labels = torch.arange(2).repeat(100)
    x = torch.rand(200, 1, 2, 2, generator=torch.Generator().manual_seed(7)) * labels[:, None, None, None]
    assert measure("class_information", x, labels=labels, estimator="plugin").value == pytest.approx(1)


# --- edges ------------------------------------------------------------------------------------------------------


def test_a_constant_kernel_says_nothing():
    labels = torch.arange(4).repeat(25)
    found = measure("class_information", torch.zeros(100, 2, 2, 2), labels=labels)
    assert found.units == (0, 0)
    assert found.lows == (0, 0)
    # A level that 100 images did not show may still say a little: z / sqrt(2) + z^2 / 2 over 100 ln 2.
    assert found.highs == pytest.approx([(1.959964 / math.sqrt(2) + 1.959964**2 / 2) / (100 * math.log(2))] * 2)


def test_one_class_leaves_nothing_to_say():
    x, _ = noisy(40)
    labels = torch.zeros(40, dtype=torch.int64)
    for field in ("information", "uncertainty_coefficient"):
        found = measure(f"class_information.{field}", x, labels=labels)
        assert all(math.isnan(v) for v in found.units)  # 0 / 0


def test_one_image_says_nothing():
    x, labels = noisy(1)
    assert all(math.isnan(v) for v in measure("class_information", x, labels=labels).units)


def test_classes_without_images_do_not_count():
    x, labels = noisy()
    assert measure("class_information", x, labels=labels * 50).units == pytest.approx(
        measure("class_information", x, labels=labels).units
    )


def test_images_needed_are_five_for_each_cell():
    need = Need(make_site(), "information", 10, 0.05, {"bins": 8})
    assert METRIC.images(need) == 400


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({}, "class_information needs labels: pass labels="),
        ({"labels": torch.zeros(3)}, "labels are 3 integers >= 0, one an image; got torch.float32"),
        ({"labels": torch.zeros(2, dtype=torch.int64)}, r"labels are 3 integers.*shape \(2,\)"),
        ({"labels": torch.tensor([0, -1, 2])}, "labels are 3 integers >= 0"),
        ({"labels": torch.arange(3), "bins": 1}, "bins: .*greater than or equal to 2"),
        ({"labels": torch.arange(3), "bins": 300}, "bins: .*less than or equal to 256"),
        ({"labels": torch.arange(3), "estimator": "nsb"}, "estimator: .*'corrected' or 'plugin'"),
        ({"labels": torch.arange(3), "estimand": "dataset"}, "has no exact data-set value"),
    ],
)
def test_wrong_questions(facts, message):
    with pytest.raises(MetricError, match=message):
        measure("class_information", torch.rand(3, 2), **facts)


def test_integers_need_to_be_told_how_many_levels_there_are():
    labels = torch.arange(3)
    with pytest.raises(MetricError, match=r"say how many there are \(levels=\)"):
        measure("class_information", labels[:, None], labels=labels)
    with pytest.raises(MetricError, match="must hold levels 0 to 1, found 0 to 2"):
        measure("class_information", labels[:, None], labels=labels, levels=2)
    with pytest.raises(MetricError, match="must hold levels 0 to 2"):
        measure("class_information", labels[:, None] - 1, labels=labels, levels=3)
