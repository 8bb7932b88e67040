import math

import numpy as np
import pytest
import torch
from builders import make_site
from scipy import stats
from sklearn.metrics import average_precision_score

import cnnaudit
from cnnaudit import MetricError, measure
from cnnaudit.metrics import Need, registry
from cnnaudit.statistics import Probe

METRIC = registry()["class_ap"]
FIELDS = ("best", "plugin_best", "excess")


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


def average_precision(shift, classes):
    """AP of a class whose responses are shifted, one of as many equally frequent classes."""
    t = np.linspace(-8, 12, 20_001)
    hits, others = stats.norm.sf(t - shift) / classes, stats.norm.sf(t) * (1 - 1 / classes)
    return np.trapezoid(stats.norm.pdf(t - shift) * hits / (hits + others), t)


def share(found, truth):
    low, high = found.interval(0.95)
    return float(((low <= truth) & (truth <= high)).mean())


def left_out(y, r):
    """Mean over positives of the share of positives among the others that respond as strongly."""
    found = []
    for i in np.flatnonzero(y):
        others = np.delete(y, i)[np.delete(r, i) >= r[i]]
        found.append(others.mean() if len(others) else 1.0)
    return np.mean(found)


# --- closed forms -----------------------------------------------------------------------------------------------


def test_tied_images_enter_together():
    """Positives {1, 1, 0}, negatives {1, 0, 0}: precision 2/3 at recall 2/3, then 3/6. Either class alike."""
    x = torch.tensor([[1], [1], [0], [1], [0], [0]]).repeat_interleave(40, 0)
    labels = torch.tensor([1, 1, 1, 0, 0, 0]).repeat_interleave(40)
    found = fields(x, labels, bins=2)
    assert found["plugin_best"].value == pytest.approx([2 / 3 * 2 / 3 + 1 / 3 * 1 / 2])
    # Of 60 images in a half that respond 40 are positive; without itself each sees 39 of 59, and of all 59 of 119.
    assert found["best"].value == pytest.approx([2 / 3 * 39 / 59 + 1 / 3 * 59 / 119])
    assert found["chance"].value == pytest.approx([0.5])


def test_normal_responses():
    """The mean over the class of P(class | a response at least as strong), by numerical integration."""
    assert average_precision(0, 4) == pytest.approx(0.25)
    found = fields(*gaussian((2, 0, 0, 0), 5_000, 4))
    truth = average_precision(2, 4)
    assert found["best"].value.mean() == pytest.approx(truth, abs=0.01)
    assert found["excess"].value.mean() == pytest.approx(truth - 0.25, abs=0.01)
    assert np.all(found["resolution"].value < 0.02)


def test_perfect_retrieval_leaves_a_doubt():
    labels = torch.arange(400) // 2 % 4
    found = fields((labels == 2).float()[:, None], labels)
    assert found["best"].value == [1]
    low, high = found["best"].interval(0.95)
    assert high == [1]
    assert low == pytest.approx([0.025 ** (1 / 100)])
    # Its chance is not known exactly either: .25 within .02.
    assert found["excess"].value == pytest.approx([0.75])
    assert found["excess"].interval(0.95)[0] == pytest.approx([0.75 - 1.96 * math.sqrt(0.25 * 0.75 / 398)], abs=1e-4)


# --- naive references -------------------------------------------------------------------------------------------


def test_estimates_are_those_of_a_loop():
    """Classes of unequal shares: the one that comes closest to 1, from its share, is the best."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.tensor([0, 0, 0, 1, 2, 3]).repeat(40)
    x = torch.randint(0, 9, (240, 5), generator=generator) + (labels == 2)[:, None] * torch.arange(5)
    groups = torch.randint(0, 6, (240,), generator=generator)
    half = groups.numpy() % 2
    found = fields(x, labels, groups, bins=16)
    y = labels.numpy()
    shares = np.array([[(y[half == h] == c).mean() for c in range(4)] for h in (0, 1)])
    for kernel in range(5):
        r = x[:, kernel].numpy()
        ap = np.array([[left_out(y[half == h] == c, r[half == h]) for c in range(4)] for h in (0, 1)])
        a, b = ((ap - shares) / (1 - shares)).argmax(1)
        assert found["best"].value[kernel] == pytest.approx((ap[0][b] + ap[1][a]) / 2)
        assert found["chance"].value[kernel] == pytest.approx((shares[0][b] + shares[1][a]) / 2)
        rest = np.array([(left_out(y == c, r) - (y == c).mean()) / (1 - (y == c).mean()) for c in range(4)])
        best = rest.argmax()
        assert found["plugin_best"].value[kernel] == pytest.approx(average_precision_score(y == best, r))
    assert found["excess"].value == pytest.approx(found["best"].value - found["chance"].value)


def test_the_error_is_that_of_the_influence_function():
    """Each image's influence by brute force: what a thousandth of an image more would change."""
    x, labels = gaussian((1, 0, 0), 20, 1)
    x = (x * 2).round().long() + 6
    found = fields(x, labels, bins=32)
    variances, excesses = [], []
    for half in (0, 1):
        r, y = x[half::2, 0].numpy(), labels[half::2].numpy() == 0

        def ap(weight, r=r, y=y):
            return average_precision_score(y, r, sample_weight=weight), (weight * y).sum() / weight.sum()

        n = len(y)
        whole = np.array(ap(np.ones(n)))
        influence = np.array([(np.array(ap(np.ones(n) + 1e-5 * n * (np.arange(n) == i))) - whole) for i in range(n)])
        influence *= (1 + 1e-5) / 1e-5
        variances.append((influence[:, 0] ** 2).sum() / n / (n - 1))
        excesses.append(((influence[:, 0] - influence[:, 1]) ** 2).sum() / n / (n - 1))
    assert found["best"].crossfit.error == pytest.approx([math.sqrt(sum(variances)) / 2], rel=1e-3)
    assert found["excess"].crossfit.error == pytest.approx([math.sqrt(sum(excesses)) / 2], rel=1e-3)
    assert found["best"].crossfit.units == [20]


def test_ties_move_the_value_by_no_more_than_the_resolution():
    x, labels = gaussian((1, 0, 0), 60, 20)
    exact = np.array([average_precision_score(labels.numpy() == 0, r) for r in x.T.numpy()])
    before = 1.0
    for bins in (4, 16, 64):
        found = fields(x, labels, bins=bins)
        resolution = found["resolution"].value
        assert np.all(np.abs(found["plugin_best"].value - exact) <= 1.1 * resolution)
        assert resolution.mean() < before / 2
        before = resolution.mean()
        low, high = found["plugin_best"].interval(0.95)
        assert np.all((low < exact) & (exact < high))


def test_the_resolution_is_what_orders_within_levels_allow():
    """One level of 4 positives and 3 negatives above one of 1 and 6, in each half."""
    labels = torch.tensor([1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0])
    level = (torch.arange(14) < 7).double()
    x = (1 + level).repeat(2)[:, None] + 0.01 * torch.rand(28, 1, generator=torch.Generator().manual_seed(0))
    found = fields(x, labels.repeat(2), torch.arange(28) // 14, bins=2)
    y, r = labels.numpy(), level.numpy()
    order = np.arange(14) / 1000
    first, last = (average_precision_score(y, r + side * 0.1 * y + order) for side in (1, -1))
    together = average_precision_score(y, r)
    assert found["plugin_best"].value == pytest.approx([together])
    assert found["resolution"].value == pytest.approx([max(first - together, together - last)])
    assert found["best"].value - found["best"].crossfit.value == pytest.approx([together - last])
    assert found["best"].plugin.value - together == pytest.approx([first - together], rel=0.1)  # of all 28


def test_zeros_are_true_ties():
    labels = torch.arange(400) // 2 % 4
    x = torch.randn(400, 8, generator=torch.Generator().manual_seed(3)).relu()
    x[:, 4:] = 0
    found = fields(x, labels)
    assert np.all(found["resolution"].value[:4] < 0.02)
    assert np.all(found["resolution"].value[4:] == 0)


# --- what chance makes of it ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "images"), [(2, 60), (10, 60), (100, 50)])
def test_noise_retrieves_nothing(classes, images):
    found = fields(*gaussian((0,) * classes, images, 200, seed=5), torch.arange(classes * images) % 2)
    assert found["chance"].value == pytest.approx([1 / classes] * 200)
    assert found["best"].value.mean() * classes == pytest.approx(1, abs=0.06)
    assert found["plugin_best"].value.mean() * classes > 1.08
    for field, chance in (("best", 1 / classes), ("excess", 0)):
        assert (found[field].p_below(chance) <= 0.05).mean() <= stats.binom.ppf(0.999, 200, 0.05) / 200
        assert share(found[field], chance) >= 0.93


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("shift", [1, 2, 3])
def test_intervals_cover_the_truth(classes, shift):
    """Conservative, because ties are taken for the worst."""
    labels = torch.randint(0, classes, (100 * classes,), generator=torch.Generator().manual_seed(shift))
    x = torch.randn(len(labels), 300, generator=torch.Generator().manual_seed(9)) + shift * (labels == 0)[:, None]
    found = fields(x, labels)
    truth = average_precision(shift, classes)
    for field in ("best", "plugin_best"):
        assert share(found[field], truth) >= 0.93
    assert share(found["excess"], truth - 1 / classes) >= 0.93


def test_permuted_labels_leave_nothing():
    x, labels = gaussian((0, 3, 0, 0), 50, 20)
    shuffled = labels[torch.randperm(200, generator=torch.Generator().manual_seed(7))]
    assert (fields(x, labels)["best"].interval(0.95)[0] > 0.6).all()
    assert share(fields(x, shuffled)["best"], 0.25) >= 0.9


def test_a_frequent_class_does_not_win_by_its_share():
    """Class 0 has 80 % of the images and AP .8; class 1 is told apart and has 5 %."""
    labels = torch.tensor([0] * 16 + [1] + [2] * 3).repeat(40)
    x = torch.rand(800, 3, generator=torch.Generator().manual_seed(8)) + 1.5 * (labels == 1)[:, None]
    found = fields(x, labels, torch.arange(800) // 20 % 2)
    assert found["best"].value == pytest.approx([1] * 3)
    assert found["chance"].value == pytest.approx([0.05] * 3)


# --- laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", list(METRIC.fields))
def test_increasing_transformations_and_renaming_classes_change_nothing(field):
    x, labels = gaussian((1, 3, 1, 2), 50, 3)
    wanted = fields(x, labels)[field]
    renamed = torch.tensor([5, 0, 3, 2])[labels]
    for found in (fields(x * 8, labels), fields(x + 3, labels), fields(x.exp(), labels), fields(x, renamed)):
        assert found[field].value == pytest.approx(wanted.value)
        assert found[field].interval(0.95)[0] == pytest.approx(wanted.interval(0.95)[0])


def test_channels_are_told_apart():
    x, labels = gaussian((1, 3, 1, 2), 50, 3)
    wanted, found = (measure("class_ap", y, labels=labels) for y in (x, x[:, [2, 0, 1]]))
    assert found.units == pytest.approx([wanted.units[k] for k in (2, 0, 1)])


def test_many_kernels_are_measured_a_few_at_a_time(monkeypatch):
    x, labels = gaussian((1, 3, 1, 2), 50, 7)
    wanted = fields(x, labels)
    monkeypatch.setattr("cnnaudit.detection._CELLS", 2 * 8 * 256)
    for field, found in fields(x, labels).items():
        assert found.value.tolist() == wanted[field].value.tolist()


@pytest.mark.parametrize("field", FIELDS)
def test_images_of_one_source_count_once(field):
    """Each image thrice: about the same value, the width of the images that there really are."""
    x, labels = gaussian((0, 1, 0, 0), 60, 4)
    x = (x * 8).round().long() + 40
    facts = {"labels": labels.repeat(3), "levels": 96}
    thrice = measure(f"class_ap.{field}", x.repeat(3, 1), sources=np.tile(np.arange(240), 3), **facts)
    blind = measure(f"class_ap.{field}", x.repeat(3, 1), **facts)
    once = measure(f"class_ap.{field}", x, labels=labels, levels=96)
    widths = [np.subtract(found.highs, found.lows).mean() for found in (thrice, blind, once)]
    assert 0.75 < widths[0] / widths[2] < 1.4
    assert widths[1] < 0.75 * widths[2]


# --- edges ------------------------------------------------------------------------------------------------------


def test_a_silent_kernel_is_at_chance():
    labels = torch.arange(400) // 2 % 4
    found = fields(torch.zeros(400, 2), labels)
    assert found["plugin_best"].value == pytest.approx([0.25, 0.25])
    assert found["best"].value == pytest.approx([49 / 199] * 2)
    assert found["best"].p_below(0.25).tolist() == [1, 1]
    assert found["excess"].p_below(0).tolist() == [1, 1]


def test_one_class_or_one_image_retrieves_nothing():
    x, labels = gaussian((0, 1), 30, 2)
    for field in METRIC.fields:
        for part, told in ((x, labels * 0), (x[:1], labels[:1]), (x[::30], labels[::30])):
            assert all(math.isnan(v) for v in measure(f"class_ap.{field}", part, labels=told).units)


def test_images_needed_are_thirty_of_the_chosen_class():
    assert METRIC.images(Need(make_site(), "best", 10, 0.05, {"bins": 256})) == 300
    x, labels = gaussian((0, 0, 9), 40, 2)

    def gate(keep):
        kept = torch.arange(120) < keep
        return METRIC.gate(folded(x[kept], labels[kept], torch.arange(keep) % 2), make_site(), "best", {"bins": 256})

    assert gate(120).images.tolist() == [0, 0]
    assert gate(95).images[0] == 190  # 15 of the third class
    assert gate(95).reason == "a chosen class has 15 images, and 30 are needed"


def test_levels_must_be_fine_enough():
    x, labels = gaussian((0, 0, 1), 100, 1)
    for bins, needed in ((16, 300), (256, 0)):
        gate = METRIC.gate(folded(x, labels, torch.arange(300) % 2, bins), make_site(), "best", {"bins": bins})
        assert gate.images == [needed]
        if needed:
            assert gate.reason.startswith("16 levels are too coarse whatever their number: ties leave ±0.")
            assert gate.instead == "rather the same ones with params: {bins: 256}"


def test_wrong_questions():
    labels = torch.arange(3)
    for facts, message in (({}, "needs labels"), ({"labels": labels, "bins": 257}, "less than or equal to 256")):
        with pytest.raises(MetricError, match=message):
            measure("class_ap", torch.rand(3, 2), **facts)


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
        {"id": "detector", "metric": "class_ap", "min": 0.9, "share": 0.5},
        {"id": "detectors", "metric": "class_ap.excess", "min": 0.5},
        {"id": "shares", "metric": "class_ap.chance", "max": 0.4},
    ]
    report = cnnaudit.audit({"cnnaudit": 1, "rules": rules}, model=net, data=(images, labels))
    assert {v.rule: str(v.outcome) for v in report.verdicts} == {
        "detector": "pass",
        "detectors": "fail",
        "shares": "pass",
    }
