import math

import numpy as np
import pytest
import torch
from builders import make_site
from scipy import stats

import cnnaudit
from cnnaudit import MetricError, measure
from cnnaudit.metrics import Need, registry
from cnnaudit.statistics import Probe

METRIC = registry()["class_selectivity_index"]


def folded(x, labels, groups):
    """The statistic of responses (images, kernels) whose images belong to these groups."""
    site = make_site(units=x.shape[1], shape=())
    statistic = METRIC.reads(Probe(METRIC.reads, site, METRIC.taps), int(groups.max()) + 1)
    statistic.fold({"response": x, "labels": labels}, groups)
    return statistic


def fields(x, labels, groups=None):
    """Every field's Uncertain."""
    statistic = folded(x, labels, torch.arange(len(x)) % 2 if groups is None else groups)
    return METRIC.evaluate(statistic, statistic.probe.site, {})


def levels(means, images=40):
    """Images of as many classes whose response is exactly the class's mean, in both halves of the sources."""
    labels = torch.arange(len(means)).repeat_interleave(images)
    return torch.tensor(means, dtype=torch.float32)[labels][:, None], labels


def exponential(means, images, kernels, seed=0):
    """Exponential responses, so that a class's standard deviation is its mean."""
    labels = torch.arange(len(means)).repeat_interleave(images)
    x = torch.empty(len(labels), kernels).exponential_(generator=torch.Generator().manual_seed(seed))
    return x * torch.tensor(means, dtype=torch.float32)[labels][:, None], labels


def share(found, truth):
    low, high = found.interval(0.95)
    return float(((low <= truth) & (truth <= high)).mean())


# --- closed forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("means", "index"),
    [((3, 1, 1, 1), 0.5), ((1, 0, 0), 1), ((2, 2, 2), 0), ((2, 1), 1 / 3), ((10, 9, 0, 0), 7 / 13), ((0, 5), 1)],
)
@pytest.mark.parametrize("field", list(METRIC.fields))
def test_by_hand(field, means, index):
    x, labels = levels(means)
    found = measure(f"class_selectivity_index.{field}", x, labels=labels)
    assert found.units == (pytest.approx(index),)
    assert found.unit == "ratio"


def test_the_mean_over_the_map_is_what_counts():
    x, labels = levels((3, 1, 1, 1))
    maps = x[..., None, None] * torch.tensor([[0.0, 2.0], [0.5, 1.5]])
    assert measure("class_selectivity_index.plugin", maps, labels=labels).value == pytest.approx(0.5)


def test_classes_weigh_the_same_whatever_their_size():
    x, labels = (torch.cat(parts) for parts in zip(levels((3, 1, 1, 1)), levels((3, 1), 400), strict=True))
    assert measure("class_selectivity_index.plugin", x, labels=labels).value == pytest.approx(0.5)
    assert measure("class_selectivity_index.crossfit", x, labels=labels).value == pytest.approx(0.5)


@pytest.mark.parametrize(("means", "truth"), [((3, *[1] * 9), 0.5), ((2, *[1] * 9), 1 / 3)])
def test_both_estimates_find_the_truth_with_many_images(means, truth):
    found = fields(*exponential(means, 1000, 50))
    for field in METRIC.fields:
        assert found[field].value.mean() == pytest.approx(truth, abs=0.004)


# --- naive references -------------------------------------------------------------------------------------------


def naive(means, best):
    rest = np.delete(means, best).mean()
    return means[best] - rest, means[best] + rest


def test_estimates_are_those_of_a_loop():
    x, labels = exponential((1, 1.5, 1, 2), 20, 6, seed=1)
    groups = torch.randint(0, 5, (80,), generator=torch.Generator().manual_seed(2))
    half = groups.numpy() % 2
    found = fields(x, labels, groups)
    for kernel in range(6):
        r, y = x[:, kernel].double().numpy(), labels.numpy()
        means = [np.array([r[(half == h) & (y == c)].mean() for c in range(4)]) for h in (0, 1)]
        parts = [naive(means[0], means[1].argmax()), naive(means[1], means[0].argmax())]
        assert found["crossfit"].value[kernel] == pytest.approx(sum(p[0] for p in parts) / sum(p[1] for p in parts))
        all_means = np.array([r[y == c].mean() for c in range(4)])
        difference, total = naive(all_means, all_means.argmax())
        assert found["plugin"].value[kernel] == pytest.approx(difference / total)


def test_the_error_is_that_of_the_delta_method():
    x, labels = exponential((1, 3, 1, 1), 60, 1)
    r, y = x[:, 0].double().numpy(), labels.numpy()
    means = np.array([r[y == c].mean() for c in range(4)])
    variances = np.array([r[y == c].var(ddof=1) / 60 for c in range(4)])
    best, rest = means[1], np.delete(means, 1).mean()
    variance = (2 * rest / (best + rest) ** 2) ** 2 * variances[1]
    variance += (2 * best / (best + rest) ** 2) ** 2 * np.delete(variances, 1).sum() / 9
    found = fields(x, labels)
    assert found["plugin"].plugin.error == pytest.approx([math.sqrt(variance)])
    # The halves of a class that clearly is the best are as good as one sample.
    assert found["crossfit"].crossfit.error == pytest.approx([math.sqrt(variance)], rel=0.1)
    z = stats.norm.ppf(0.975)
    low, high = found["plugin"].interval(0.95)
    ends = [claim.value + z * claim.error for claim in (found["crossfit"].crossfit, found["plugin"].plugin)]
    assert low == pytest.approx(found["crossfit"].value - z * found["crossfit"].crossfit.error)
    assert high == pytest.approx(max(ends))


# --- what chance makes of it ------------------------------------------------------------------------------------


def test_noise_has_no_selectivity():
    """1,000 classes of 50 images, which a plug-in index calls selective: 64 dense and 64 half silent kernels."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(50_000) % 1000
    dense = torch.empty(50_000, 64).exponential_(generator=generator)
    sparse = torch.randn(50_000, 64, generator=generator).relu()
    found = fields(torch.cat([dense, sparse], 1), labels, torch.arange(50_000) // 1000 % 2)
    crossfit, plugin = (found[field].value.reshape(2, 64).mean(1) for field in ("crossfit", "plugin"))
    assert crossfit == pytest.approx([0, 0], abs=0.02)
    assert plugin == pytest.approx([0.21, 0.27], abs=0.01)
    assert share(found["crossfit"], 0) >= 0.95
    assert (found["crossfit"].p_at_most(0) <= 0.05).mean() <= 0.05


@pytest.mark.parametrize(("classes", "images"), [(2, 200), (10, 60)])
def test_more_than_none_is_not_found_in_noise(classes, images):
    found = fields(*exponential((1,) * classes, images, 2000, seed=4))["crossfit"]
    assert (found.p_below(0) <= 0.05).sum() <= stats.binom.ppf(0.999, 2000, 0.05)
    assert share(found, 0) >= 0.95


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize(("ratio", "truth"), [(3, 0.5), (2, 1 / 3)])
def test_intervals_cover_the_truth(classes, ratio, truth):
    """With 50 images a class the halves often do not agree on the best of 100; the interval bears that."""
    found = fields(*exponential((ratio, *[1] * (classes - 1)), 50, 400, seed=5))
    for field in METRIC.fields:
        assert 0.91 <= share(found[field], truth) <= 0.99


def test_permuted_labels_leave_nothing():
    x, labels = exponential((1, 4, 1, 1), 50, 20)
    shuffled = labels[torch.randperm(200, generator=torch.Generator().manual_seed(6))]
    assert (fields(x, labels)["crossfit"].interval(0.95)[0] > 0.3).all()
    assert share(fields(x, shuffled)["crossfit"], 0) >= 0.9


# --- laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", list(METRIC.fields))
def test_positive_rescaling_and_renaming_classes_change_nothing(field):
    x, labels = exponential((1, 3, 1, 2), 30, 3)
    wanted = measure(f"class_selectivity_index.{field}", x, labels=labels)
    scaled = measure(f"class_selectivity_index.{field}", x * torch.tensor([0.5, 4.0, 2.0**20]), labels=labels)
    renamed = measure(f"class_selectivity_index.{field}", x, labels=torch.tensor([5, 0, 3, 2])[labels])
    for found in (scaled, renamed):
        for name in ("units", "lows", "highs"):
            assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=1e-9, abs=1e-12)


def test_a_shift_lowers_it():
    x, labels = exponential((1, 3, 1, 2), 30, 3)
    wanted = measure("class_selectivity_index", x, labels=labels)
    assert np.all(np.less(measure("class_selectivity_index", x + 1, labels=labels).units, wanted.units))


def test_channels_are_told_apart():
    x, labels = exponential((1, 3, 1, 2), 30, 3)
    wanted, found = (measure("class_selectivity_index", y, labels=labels) for y in (x, x[:, [2, 0, 1]]))
    assert found.units == pytest.approx([wanted.units[k] for k in (2, 0, 1)])


@pytest.mark.parametrize("field", list(METRIC.fields))
def test_images_of_one_source_count_once(field):
    """Each image thrice: the same values, the width of the images that there really are."""
    x, labels = exponential((1, 3, 1, 1), 60, 4)
    sources = np.arange(240)
    once = measure(f"class_selectivity_index.{field}", x, labels=labels, sources=sources)
    thrice = measure(
        f"class_selectivity_index.{field}", x.repeat(3, 1), labels=labels.repeat(3), sources=np.tile(sources, 3)
    )
    unrelated = measure(f"class_selectivity_index.{field}", x, labels=labels)
    for name in ("units", "lows", "highs"):
        assert getattr(thrice, name) == pytest.approx(getattr(once, name))
    ratio = np.subtract(thrice.highs, thrice.lows) / np.subtract(unrelated.highs, unrelated.lows)
    assert np.all((ratio > 0.75) & (ratio < 1.35))


# --- edges ------------------------------------------------------------------------------------------------------


def test_silence_is_undefined():
    x, labels = levels((0, 0, 0))
    for field in METRIC.fields:
        assert math.isnan(measure(f"class_selectivity_index.{field}", x, labels=labels).value)


def test_a_kernel_that_is_silent_in_one_half_is_undefined():
    x, labels = torch.zeros(80, 1), torch.arange(80) // 2 % 4
    x[0] = 1
    found = fields(x, labels)
    assert np.isnan(found["crossfit"].value)
    assert found["plugin"].value == [1]
    assert found["plugin"].p_below(0.5) == found["crossfit"].p_below(0.5) == [1]


def test_hardly_any_response_tells_hardly_anything():
    """One image of each half responds; whether of one class or of two, the interval is nearly all there is."""
    labels = torch.arange(400) // 2 % 4
    for second, index in ((8, 1), (10, -1)):
        x = torch.zeros(400, 1)
        x[0] = x[second + 1] = 1
        found = fields(x, labels)["crossfit"]
        assert found.value == pytest.approx([index])
        assert labels[0] == 0
        assert (labels[second + 1] == 0) == (index == 1)
    low, high = found.interval(0.95)
    assert high[0] - low[0] > 1.5


def test_agreement_of_all_images_leaves_a_doubt():
    """Had one of the 80 other images responded, too, the index would be (1 - 1/80) / (1 + 1/80)."""
    x, labels = levels((1, 0, 0))
    found = fields(x, labels)["crossfit"]
    assert found.value == [1]
    assert found.crossfit.error == pytest.approx([2 / 80])


def test_agreement_of_all_sources_leaves_the_doubt_of_one_more():
    """Images of 40 sources of each class, three each: as wide as with one each, and not without any width."""
    x, labels = levels((1, 0, 0))
    sources = torch.arange(120)
    once = measure("class_selectivity_index", x, labels=labels, sources=sources)
    thrice = measure("class_selectivity_index", *(x.repeat(3, 1),), labels=labels.repeat(3), sources=sources.repeat(3))
    assert once.low == thrice.low < 0.97
    assert once.low == pytest.approx(measure("class_selectivity_index", x, labels=labels).low, abs=0.02)


def test_one_class_or_one_image_has_no_selectivity():
    x, labels = exponential((1, 3), 30, 2)
    assert all(math.isnan(v) for v in measure("class_selectivity_index", x, labels=labels * 0).units)
    assert all(math.isnan(v) for v in measure("class_selectivity_index", x[:1], labels=labels[:1]).units)
    assert all(math.isnan(v) for v in measure("class_selectivity_index", x[::30], labels=labels[::30]).units)


def test_classes_that_were_hardly_met_do_not_count():
    x, labels = exponential((1, 3, 1, 2), 30, 3)
    wanted = fields(x, labels)
    more = torch.cat([x, torch.full((1, 3), 100.0)]), torch.cat([labels, torch.tensor([50])])
    for field in METRIC.fields:
        assert fields(*more)[field].value == pytest.approx(wanted[field].value)


def test_images_needed_are_thirty_of_every_class():
    assert METRIC.images(Need(make_site(), "crossfit", 10, 0.05, {})) == 300
    x, labels = exponential((1, 3, 1), 40, 2)

    def gate(keep):
        kept = torch.arange(120) < keep
        return METRIC.gate(folded(x[kept], labels[kept], torch.arange(keep) % 2), make_site(), "crossfit", {})

    assert gate(120).images.tolist() == [0, 0]
    assert gate(110).images.tolist() == [0, 0]
    assert gate(95).images.tolist() == [190, 190]  # 15 of the third class
    assert gate(95).reason == "the rarest class has 15 images, and 30 are needed of each"


def test_a_response_must_come_from_thirty_images():
    x, labels = exponential((1, 1), 400, 2)
    x[:, 1] = (torch.arange(800) % 80 == 0) * 2.0
    gate = METRIC.gate(folded(x, labels, torch.arange(800) % 2), make_site(), "crossfit", {})
    assert gate.images.tolist() == [0, 2400]
    assert gate.reason == "fewer than 30 images carry the response of some kernels"


def test_signed_responses_have_no_selectivity():
    assert METRIC.applies(make_site(), "crossfit", {}) is None
    assert "class_auroc" in METRIC.applies(make_site(nonnegative=False), "plugin", {})
    with pytest.raises(MetricError, match="responses here may be negative"):
        measure("class_selectivity_index", torch.tensor([[1.0], [-1.0]]), labels=torch.tensor([0, 1]))


def test_only_the_plugin_is_a_fact_about_these_images():
    x, labels = levels((3, 1, 1, 1))
    found = measure("class_selectivity_index.plugin", x, labels=labels, estimand="dataset")
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    with pytest.raises(MetricError, match="has no exact data-set value"):
        measure("class_selectivity_index.crossfit", x, labels=labels, estimand="dataset")
    with pytest.raises(MetricError, match="needs labels"):
        measure("class_selectivity_index", x)


def test_in_an_audit():
    """A convolution whose second channel passes only the images of class 1."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(240) % 3
    images = torch.rand(240, 1, 4, 4, generator=generator) + (labels == 1)[:, None, None, None]
    convolution = torch.nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        convolution.weight.fill_(1)
        convolution.bias.copy_(torch.tensor([0.0, -1.0]))
    net = torch.nn.Sequential(convolution, torch.nn.ReLU())
    rules = [
        {"id": "selective", "metric": "class_selectivity_index", "min": 0.9, "share": 0.5},
        {"id": "broad", "metric": "class_selectivity_index", "max": 0.8, "share": 0.5},
        {"id": "all", "metric": "class_selectivity_index", "min": 0.9},
    ]
    report = cnnaudit.audit({"cnnaudit": 1, "rules": rules}, model=net, data=(images, labels))
    assert {v.rule: str(v.outcome) for v in report.verdicts} == {"selective": "pass", "broad": "pass", "all": "fail"}


def sorted_by_source(seed, positive=4, images=10):
    """80 negative sources of two images, and few positive ones of many, of which 80 % respond."""
    generator = torch.Generator().manual_seed(seed)
    of = torch.cat([torch.arange(80).repeat_interleave(2), 80 + torch.arange(positive).repeat_interleave(images)])
    fires = 3.0 * (torch.rand(80 + positive, generator=generator) < 0.8)
    labels = (of >= 80).long()
    return torch.rand(len(of), generator=generator) + fires[of] * labels, labels, of


def test_sources_of_a_class_are_counted_and_not_their_images():
    """Four sources of a class may well agree by chance, however many images they have."""
    x, labels, sources = sorted_by_source(1)
    data = {"images": x.reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4), "labels": labels.numpy(), "source": sources.numpy()}
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    torch.nn.init.ones_(net[0].weight)
    torch.nn.init.zeros_(net[0].bias)
    rules = {"cnnaudit": 1, "rules": [{"metric": "class_selectivity_index", "at": "0", "min": 0.6}]}
    (verdict,) = cnnaudit.audit(rules, model=net, data=data).verdicts
    assert verdict.outcome == "undecided"
    assert "the rarest class has 4 sources, and 30 are needed of each" in verdict.detail
    assert verdict.n_needed == 630  # sources
    x, labels, sources = sorted_by_source(1, 60)
    data = {"images": x.reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4), "labels": labels.numpy(), "source": sources.numpy()}
    (verdict,) = cnnaudit.audit(rules, model=net, data=data).verdicts
    assert "Too few" not in verdict.detail
