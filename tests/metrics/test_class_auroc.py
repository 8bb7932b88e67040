import math

import numpy as np
import pytest
import torch
from builders import make_site
from scipy import stats
from sklearn.metrics import roc_auc_score

import cnnaudit
from cnnaudit import MetricError, measure
from cnnaudit.metrics import Need, registry
from cnnaudit.statistics import Probe

METRIC = registry()["class_auroc"]
FIELDS = ("best", "plugin_best", "anti")


def folded(x, labels, groups, bins=256):
    """The statistic of responses (images, kernels) whose images belong to these groups."""
    site = make_site(units=x.shape[1], shape=(), nonnegative=False)
    probe = Probe(METRIC.reads, site, METRIC.taps, METRIC.options({"bins": bins}))
    statistic = METRIC.reads(probe, int(groups.max()) + 1)
    first = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:256]
    statistic.calibrate([{"response": x[first]}])
    statistic.fold({"response": x, "labels": labels}, groups)
    return statistic


def fields(x, labels, groups=None, bins=256):
    """Every field's Uncertain."""
    statistic = folded(x, labels, torch.arange(len(x)) % 2 if groups is None else groups, bins)
    return METRIC.evaluate(statistic, statistic.probe.site, {"bins": bins})


def gaussian(shifts, images, kernels, seed=0):
    """Normal responses of unit variance with a mean for each class."""
    labels = torch.arange(len(shifts)).repeat_interleave(images)
    x = torch.randn(len(labels), kernels, generator=torch.Generator().manual_seed(seed))
    return x + torch.tensor(shifts, dtype=torch.float32)[labels][:, None], labels


def share(found, truth):
    low, high = found.interval(0.95)
    return float(((low <= truth) & (truth <= high)).mean())


# --- closed forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", FIELDS)
def test_ties_count_half(field):
    """Positives {1, 1, 0}, negatives {1, 0, 0}: of 9 pairs 4 are in order and 4 are tied. Of two classes either."""
    x = torch.tensor([[1], [1], [0], [1], [0], [0]]).repeat_interleave(40, 0)
    labels = torch.tensor([1, 1, 1, 0, 0, 0]).repeat_interleave(40)
    assert fields(x, labels, bins=2)[field].value == pytest.approx([6 / 9])


@pytest.mark.parametrize("field", FIELDS)
def test_normal_responses(field):
    x, labels = gaussian((0, 1), 20_000, 4)
    found = fields(x, labels)[field]
    assert found.value.mean() == pytest.approx(stats.norm.cdf(1 / math.sqrt(2)), abs=0.003)
    assert stats.norm.cdf(1 / math.sqrt(2)) == pytest.approx(0.76025, abs=1e-5)


@pytest.mark.parametrize("field", FIELDS)
def test_exponential_responses(field):
    labels = torch.arange(40_000) // 2 % 2
    x = torch.empty(40_000, 4).exponential_(generator=torch.Generator().manual_seed(1)) / (1 + labels)[:, None]
    assert fields(x, labels)[field].value.mean() == pytest.approx(2 / 3, abs=0.003)


def test_silence_detects_a_class_as_well():
    """Three classes, one of them silent: for it the kernel is no detector, but its silence is."""
    x, labels = gaussian((0, 0, -9), 50, 1)
    found = fields(x, labels)
    assert found["anti"].value == pytest.approx([1])
    assert found["best"].value == pytest.approx([0.75], abs=0.06)


# --- naive references -------------------------------------------------------------------------------------------


def test_estimates_are_those_of_a_loop():
    labels = torch.arange(240) % 4
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(0, 9, (240, 5), generator=generator) + (labels == 2)[:, None] * torch.arange(5)
    groups = torch.randint(0, 6, (240,), generator=generator)
    half = groups.numpy() % 2
    found = fields(x, labels, groups, bins=16)
    for kernel in range(5):
        r, y = x[:, kernel].numpy(), labels.numpy()
        areas = np.array([[roc_auc_score(y[half == h] == c, r[half == h]) for c in range(4)] for h in (0, 1)])
        whole = [roc_auc_score(y == c, r) for c in range(4)]
        assert found["plugin_best"].value[kernel] == pytest.approx(max(whole))
        for field, area, choice in (("best", areas, areas.argmax(1)), ("anti", 1 - areas, areas.argmin(1))):
            crossed = area[0][choice[1]] + area[1][choice[0]]
            assert found[field].value[kernel] == pytest.approx(crossed / 2)


def test_the_error_is_delongs_and_variances_of_halves_add():
    x, labels = gaussian((1, 0, 0), 40, 1)
    x = (x * 2).round().long() + 6  # few levels, each a value of its own
    found = fields(x, labels, bins=32)["best"].crossfit
    variances = []
    for half in (0, 1):
        r, y = x[half::2, 0].numpy(), labels[half::2].numpy() == 0
        wins = (r[y][:, None] > r[~y]) + 0.5 * (r[y][:, None] == r[~y])
        variances.append(wins.mean(1).var(ddof=1) / y.sum() + wins.mean(0).var(ddof=1) / (~y).sum())
    assert found.error == pytest.approx([math.sqrt(sum(variances)) / 2])
    assert found.units == [40]


def test_ties_move_the_value_by_no_more_than_the_resolution():
    x, labels = gaussian((1, 0, 0), 60, 20)
    exact = [roc_auc_score(labels.numpy() == 0, r) for r in x.T.numpy()]
    for bins in (4, 16, 64):
        found = fields(x, labels, bins=bins)
        bracket = found["resolution"].value
        assert np.all(np.abs(found["plugin_best"].value - exact) <= 1.1 * bracket)
        assert np.all(bracket < 0.6 / bins)
        low, high = found["plugin_best"].interval(0.95)
        assert np.all((low < exact - bracket) & (exact + bracket < high))


def test_zeros_are_true_ties():
    labels = torch.arange(400) // 2 % 4
    x = torch.randn(400, 8, generator=torch.Generator().manual_seed(3)).relu()
    x[:, 4:] = (x[:, 4:] > 0).float()
    found = fields(x, labels)
    assert np.all(found["resolution"].value[:4] < 0.001)
    assert found["resolution"].value[4:] == pytest.approx(0.125, abs=0.04)  # all ones share a level, as others might
    assert np.all(fields(x.long(), labels, bins=4)["resolution"].value == 0)


# --- what chance makes of it ------------------------------------------------------------------------------------


def test_noise_detects_nothing():
    """1,000 classes of 50 images, among which a plug-in AUROC finds .63: 48 dense and 48 half silent kernels."""
    generator = torch.Generator().manual_seed(4)
    labels = torch.arange(50_000) % 1000
    x = torch.randn(50_000, 96, generator=generator)
    x[:, 48:] = x[:, 48:].relu()
    found = fields(x, labels, torch.arange(50_000) // 1000 % 2)
    best, anti, plugin = (found[field].value.reshape(2, 48).mean(1) for field in ("best", "anti", "plugin_best"))
    assert best == pytest.approx([0.5, 0.5], abs=0.01)
    assert anti == pytest.approx([0.5, 0.5], abs=0.01)
    assert plugin == pytest.approx([0.633, 0.623], abs=0.005)
    assert share(found["best"], 0.5) >= 0.95
    assert (found["best"].p_at_most(0.5) <= 0.05).mean() <= 0.05


@pytest.mark.parametrize("classes", [2, 10])
def test_more_than_chance_is_not_found_in_noise(classes):
    found = fields(*gaussian((0,) * classes, 60, 1000, seed=5))
    for field in ("best", "anti"):
        assert (found[field].p_below(0.5) <= 0.05).sum() <= stats.binom.ppf(0.999, 1000, 0.05)
        assert share(found[field], 0.5) >= 0.95


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("shift", [1, 2])
def test_intervals_cover_the_truth(classes, shift):
    found = fields(*gaussian((shift, *[0] * (classes - 1)), 50, 300, seed=6))
    for field in ("best", "plugin_best"):
        assert 0.91 <= share(found[field], stats.norm.cdf(shift / math.sqrt(2))) <= 0.99


def test_permuted_labels_leave_nothing():
    x, labels = gaussian((0, 2, 0, 0), 50, 20)
    shuffled = labels[torch.randperm(200, generator=torch.Generator().manual_seed(7))]
    assert (fields(x, labels)["best"].interval(0.95)[0] > 0.7).all()
    assert share(fields(x, shuffled)["best"], 0.5) >= 0.9


# --- laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", list(METRIC.fields))
def test_increasing_transformations_and_renaming_classes_change_nothing(field):
    x, labels = gaussian((1, 3, 1, 2), 50, 3)
    wanted = fields(x, labels)[field]
    renamed = torch.tensor([5, 0, 3, 2])[labels]
    # All images are there when the grid is fixed, and so lie on the same side of its edges.
    for found in (fields(x * 8, labels), fields(x + 3, labels), fields(x.exp(), labels), fields(x, renamed)):
        assert found[field].value == pytest.approx(wanted.value)
        assert found[field].interval(0.95)[0] == pytest.approx(wanted.interval(0.95)[0])


def test_best_of_the_opposite_is_anti():
    x, labels = gaussian((1, 3, 1, 2), 50, 3)
    one, other = fields(x, labels), fields(-x, labels)
    assert one["best"].value == pytest.approx(other["anti"].value)
    assert one["best"].interval(0.9)[1] == pytest.approx(other["anti"].interval(0.9)[1])


def test_channels_are_told_apart():
    x, labels = gaussian((1, 3, 1, 2), 50, 3)
    wanted, found = (measure("class_auroc", y, labels=labels) for y in (x, x[:, [2, 0, 1]]))
    assert found.units == pytest.approx([wanted.units[k] for k in (2, 0, 1)])


def test_many_kernels_are_measured_a_few_at_a_time(monkeypatch):
    x, labels = gaussian((1, 3, 1, 2), 50, 7)
    wanted = fields(x, labels)
    monkeypatch.setattr("cnnaudit.detection._CELLS", 2 * 8 * 256)
    for field, found in fields(x, labels).items():
        assert found.value.tolist() == wanted[field].value.tolist()


@pytest.mark.parametrize("field", ["best", "plugin_best"])
def test_images_of_one_source_count_once(field):
    """Each image thrice: the same values, the width of the images that there really are."""
    x, labels = gaussian((0, 1, 0, 0), 60, 4)
    x = (x * 8).round().long() + 40
    sources = np.arange(240)
    once = measure(f"class_auroc.{field}", x, labels=labels, sources=sources, levels=96)
    thrice = measure(
        f"class_auroc.{field}", x.repeat(3, 1), labels=labels.repeat(3), sources=np.tile(sources, 3), levels=96
    )
    unrelated = measure(f"class_auroc.{field}", x, labels=labels, levels=96)
    assert thrice.units == pytest.approx(once.units)
    for other in (once, unrelated):
        ratio = np.subtract(thrice.highs, thrice.lows) / np.subtract(other.highs, other.lows)
        assert np.all((ratio > 0.7) & (ratio < 1.4))


# --- edges ------------------------------------------------------------------------------------------------------


def test_perfect_detection_leaves_a_doubt():
    labels = torch.arange(400) // 2 % 4
    found = fields((labels == 2).float()[:, None], labels)["best"]
    assert found.value == [1]
    low, high = found.interval(0.95)
    assert high == [1]
    assert low == pytest.approx([0.025 ** (1 / 100)])


def test_a_silent_kernel_is_at_chance():
    labels = torch.arange(400) // 2 % 4
    found = fields(torch.zeros(400, 2), labels)
    for field in FIELDS:
        assert found[field].value.tolist() == [0.5, 0.5]
        assert found[field].p_below(0.5).tolist() == [1, 1]


def test_one_class_or_one_image_detects_nothing():
    x, labels = gaussian((0, 1), 30, 2)
    for field in FIELDS:
        assert all(math.isnan(v) for v in measure(f"class_auroc.{field}", x, labels=labels * 0).units)
        assert all(math.isnan(v) for v in measure(f"class_auroc.{field}", x[:1], labels=labels[:1]).units)
        found = measure(f"class_auroc.{field}", x[::30], labels=labels[::30])
        assert all(math.isnan(v) for v in found.units)


def test_a_class_that_was_hardly_met_is_not_chosen():
    x, labels = gaussian((0, 1, 0), 50, 2)
    more = torch.cat([x, torch.full((1, 2), 9.0)]), torch.cat([labels, torch.tensor([7])])
    for field in ("best", "plugin_best"):
        assert fields(*more)[field].value == pytest.approx(fields(x, labels)[field].value, abs=0.01)


def test_images_needed_are_thirty_of_the_chosen_class():
    assert METRIC.images(Need(make_site(), "best", 10, 0.05, {"bins": 256})) == 300
    x, labels = gaussian((0, 0, 9), 40, 2)
    x[:, 1] = -x[:, 1]

    def gate(keep, field="best"):
        kept = torch.arange(120) < keep
        statistic = folded(x[kept], labels[kept], torch.arange(keep) % 2)
        return METRIC.gate(statistic, make_site(), field, {"bins": 256})

    assert gate(120).images.tolist() == [0, 0]
    assert gate(95).images[0] == 190  # 15 of the third class
    assert gate(95, "anti").images[1] == 190
    assert gate(95).reason == "a chosen class has 15 images, and 30 are needed"


def test_levels_must_be_fine_enough():
    x, labels = gaussian((0, 0, 1), 100, 1)
    for bins, needed in ((16, 300), (256, 0)):
        statistic = folded(x, labels, torch.arange(300) % 2, bins)
        gate = METRIC.gate(statistic, make_site(), "best", {"bins": bins})
        assert gate.images == [needed]
        if needed:
            assert gate.reason.startswith("16 levels are too coarse whatever their number: ties leave ±0.0")
            assert gate.instead == "rather the same ones with params: {bins: 256}"


def test_wrong_questions():
    labels = torch.arange(3)
    for facts, message in (
        ({}, "needs labels"),
        ({"labels": labels, "bins": 257}, "less than or equal to 256"),
        ({"labels": labels, "estimand": "dataset"}, "has no exact data-set value"),
    ):
        with pytest.raises(MetricError, match=message):
            measure("class_auroc", torch.rand(3, 2), **facts)


def test_in_an_audit():
    """A convolution whose second channel responds to class 1 alone, and whose first to none."""
    generator = torch.Generator().manual_seed(9)
    labels = torch.arange(400) % 4
    images = torch.rand(400, 2, 4, 4, generator=generator)
    images[:, 1] += (labels == 1)[:, None, None]
    convolution = torch.nn.Conv2d(2, 2, 1, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(torch.eye(2)[..., None, None])
    net = torch.nn.Sequential(convolution, torch.nn.ReLU())
    rules = [
        {"id": "detector", "metric": "class_auroc", "min": 0.9, "share": 0.5},
        {"id": "detectors", "metric": "class_auroc", "min": 0.7},
        {"id": "silence", "metric": "class_auroc.anti", "max": 0.8},
        {"id": "coarse", "metric": "class_auroc", "min": 0.3, "params": {"bins": 8}},
    ]
    report = cnnaudit.audit({"cnnaudit": 1, "rules": rules}, model=net, data=(images, labels))
    outcomes = {v.rule: str(v.outcome) for v in report.verdicts}
    assert outcomes == {"detector": "pass", "detectors": "fail", "silence": "pass", "coarse": "undecided"}
    assert "bins: 256" in next(v.advice for v in report.verdicts if v.rule == "coarse")


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
    rules = {"cnnaudit": 1, "rules": [{"metric": "class_auroc", "at": "0", "min": 0.6}]}
    (verdict,) = cnnaudit.audit(rules, model=net, data=data).verdicts
    assert verdict.outcome == "undecided"
    assert "a chosen class has 4 sources, and 30 are needed" in verdict.detail
    assert verdict.n_needed == 630  # sources
    x, labels, sources = sorted_by_source(1, 60)
    data = {"images": x.reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4), "labels": labels.numpy(), "source": sources.numpy()}
    (verdict,) = cnnaudit.audit(rules, model=net, data=data).verdicts
    assert "Too few" not in verdict.detail


def test_units_are_the_sources_of_the_chosen_class():
    """Sources that agree leave the doubt that their number leaves: 60 of 600 images make 60 units."""
    x, labels, sources = sorted_by_source(0, 60)
    x = x + 9 * labels  # separated whatever fires
    low = measure("class_auroc", x[:, None], labels=labels, sources=sources).low
    assert 1 - low == pytest.approx(1 - 0.025 ** (1 / 60), rel=0.35)
