import math

import numpy as np
import pytest
import torch
from builders import make_site
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score

import cnnaudit
from cnnaudit import MetricError, measure
from cnnaudit.metrics import Need, registry
from cnnaudit.statistics import Probe

METRIC = registry()["class_calibration"]


def folded(x, labels, groups, bins=256):
    """The statistic of responses (images, kernels) whose images belong to these groups."""
    site = make_site(units=x.shape[1], shape=(), nonnegative=False)
    probe = Probe(METRIC.reads, site, METRIC.taps, METRIC.options({"bins": bins}))
    statistic = METRIC.reads(probe, int(groups.max()) + 1)
    first = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:256]
    statistic.calibrate([{"response": x[first]}])
    statistic.fold({"response": x, "labels": labels}, groups)
    return statistic


def fields(x, labels, groups=None, bins=256, quantiles=10):
    """Every field's Uncertain."""
    statistic = folded(x, labels, torch.arange(len(x)) % 2 if groups is None else groups, bins)
    return METRIC.evaluate(statistic, statistic.probe.site, {"bins": bins, "quantiles": quantiles})


def drawn(probability, images, kernels, *, others=4, seed=0):
    """Standard normal responses in which p(class 0 | response) is as given; labels are shared by all kernels."""
    generator = torch.Generator().manual_seed(seed)
    many = torch.randn(8 * images, kernels, generator=generator)
    of_class = torch.rand(many.shape, generator=generator) < probability(many)
    labels = torch.rand(images, generator=generator) < float(probability(many).mean())
    x = torch.empty(images, kernels)
    for k in range(kernels):
        for side in (True, False):
            pool = many[of_class[:, k] == side, k]
            x[labels == side, k] = pool[: int((labels == side).sum())]
    rest = 1 + torch.randint(0, others, (images,), generator=generator)
    return x, torch.where(labels, 0, rest)


def logistic(x):
    return torch.sigmoid(-2 + 1.5 * x)


def jump(x):
    return torch.where(x > 0.5, 0.6, 0.05)


# --- closed forms -----------------------------------------------------------------------------------------------


def test_two_levels_are_always_calibrated():
    """Two numbers are fitted, so two levels are met exactly; the skill is that of knowing the level.

    Of 100 images at 1 the class has 80, of 100 at 0 it has 20: B = .16 and B0 = .25.
    """
    x = torch.tensor([1.0, 0.0]).repeat_interleave(200)[:, None]
    labels = torch.tensor([0] * 160 + [1] * 40 + [0] * 40 + [1] * 160)
    found = fields(x, labels)
    assert found["error"].plain == pytest.approx([0], abs=1e-4)
    assert found["error"].value == [0]
    assert found["skill"].value == pytest.approx([1 - 0.16 / 0.25], abs=1e-6)


def test_a_bent_curve_has_the_error_of_its_levels():
    """Three levels of equally many images with .1, .6 and .1 of the class: the best line is flat, at 4/15."""
    of_class, each = np.array([10, 60, 10]), 100
    x = torch.tensor([1, 2, 3]).repeat_interleave(2 * each)[:, None]
    labels = torch.cat([torch.tensor([0] * (2 * n) + [1] * (2 * (each - n))) for n in of_class.tolist()])
    found = fields(x, labels, bins=5, quantiles=3)
    mean = of_class.mean() / each
    assert found["error"].plain == pytest.approx([np.abs(of_class / each - mean).mean()], abs=1e-3)
    assert found["error"].value == pytest.approx(found["error"].plain, abs=1e-3)
    assert found["error"].p_at_most(0.1)[0] < 0.01
    assert found["skill"].value == pytest.approx([0], abs=1e-3)


def test_what_chance_makes_of_a_perfect_curve():
    """|N(0, s)| has mean s sqrt(2 / pi) in each bin; of it .41 s is taken off where nothing else is known."""
    found = fields(*drawn(lambda x: 0 * x + 0.2, 2000, 200))["error"]
    assert found.plain.mean() == pytest.approx(found.excess.mean(), rel=0.1)
    assert (found.value / found.excess).mean() == pytest.approx(0.468 / math.sqrt(2 / math.pi), abs=0.07)


# --- naive references -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantiles", [4, 10])
def test_estimates_are_those_of_a_loop(quantiles):
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(600) % 4
    x = torch.randint(0, 30, (600, 3), generator=generator) + (labels == 2)[:, None] * torch.tensor([3, 9, 20])
    groups = torch.randint(0, 6, (600,), generator=generator)
    found = fields(x, labels, groups, bins=64, quantiles=quantiles)
    half = groups.numpy() % 2
    for kernel in range(3):
        r, y = x[:, kernel].numpy().astype(float), labels.numpy()
        errors, skills = [], []
        for fit, tried in ((half == 0, half == 1), (half == 1, half == 0)):
            best = np.argmax([roc_auc_score(y[fit] == c, r[fit]) for c in range(4)])
            z = ((r - r[fit].mean()) / r[fit].std())[:, None]
            model = LogisticRegression(C=100, tol=1e-10, max_iter=1000).fit(z[fit], y[fit] == best)
            p, of_class = model.predict_proba(z[tried])[:, 1], y[tried] == best
            start, stop = (np.array([f(r[fit], v).mean() for v in r[tried]]) for f in (np.less, np.less_equal))
            edges = np.arange(quantiles + 1) / quantiles
            overlap = np.minimum(stop[:, None], edges[1:]) - np.maximum(start[:, None], edges[:-1])
            unmet = (edges[:-1] <= stop[:, None]) & (stop[:, None] < edges[1:] + (edges[1:] == 1))
            mass = (stop - start)[:, None]
            weight = np.where(mass > 0, np.maximum(overlap, 0) / np.where(mass > 0, mass, 1), unmet)
            errors.append(np.abs((of_class - p) @ weight).sum() / tried.sum())
            skills.append(1 - brier_score_loss(of_class, p) / of_class.var())
        assert found["error"].plain[kernel] == pytest.approx(np.mean(errors), abs=1e-6)
        assert found["skill"].value[kernel] == pytest.approx(np.mean(skills), abs=1e-6)


def test_the_correction_is_the_mean_of_a_folded_normal():
    from cnnaudit.metrics.class_calibration import _folded_excess

    for size, noise in ((0.0, 1.0), (0.5, 1.0), (2.0, 1.0), (0.3, 0.1)):
        wanted = stats.foldnorm(size / noise, scale=noise).mean() - size
        assert float(_folded_excess(torch.tensor(size).double(), torch.tensor(noise).double())) == pytest.approx(wanted)


# --- what chance makes of it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [300, 1000])
@pytest.mark.parametrize("curve", [logistic, lambda x: 0 * x + 0.15], ids=["logistic", "noise"])
def test_a_calibrated_kernel_is_not_refuted(images, curve):
    found = fields(*drawn(curve, images, 200, seed=images))["error"]
    assert (found.p_at_most(0) <= 0.05).mean() <= 0.05
    assert (found.interval(0.95)[0] <= 0.001).mean() >= 0.95
    assert np.all(found.value < found.plain)


def test_noise_has_no_skill():
    for classes in (1, 9):
        found = fields(*drawn(lambda x: 0 * x + 0.3, 400, 300, others=classes, seed=classes))["skill"]
        assert -10 / 400 < found.value.mean() < -4 / 400
        assert (found.p_at_most(0) <= 0.05).mean() <= 0.05


def rare(x):
    """Classes of a kernel that nearly always fires for class 0 from 1.5 on, and hardly ever below."""
    return torch.where(torch.rand(x.shape) < torch.where(x > 1.5, 0.9, 0.02), 0, 1)


def either(x):
    """Classes of a kernel that fires for class 0 as strongly as it is silent for class 2, so halves may disagree."""
    firing = torch.where(torch.rand(x.shape) < torch.where(x.abs() > 1.2, 0.9, 0.05), 0, 1)
    return torch.where((firing == 0) & (x < 0), 2, firing)


@pytest.mark.parametrize("labels", [rare, either])
def test_the_error_is_what_values_differ_by(labels):
    # An image that tells in its half teaches the other half's curve, and for a wrong curve both err together: apart
    # they came to .75 of what the values of `rare` differ by.
    with torch.random.fork_rng():
        torch.manual_seed(5)
        draws = [torch.randn(1000, 1) for _ in range(250)]
        skills = [fields(x, labels(x[:, 0]))["skill"] for x in draws]
    spread = np.std([float(skill.value[0]) for skill in skills])
    told = np.mean([float(skill.crossfit.error[0]) for skill in skills])
    assert 0.88 < told / spread < 1.15


def test_intervals_cover_the_truth():
    """Truths from 200,000 images; four draws of the labels that kernels share."""
    for curve in (logistic, jump):
        large = fields(*drawn(curve, 200_000, 2, seed=1))
        truths = {"error": large["error"].plain.mean() if curve is jump else 0.0, "skill": large["skill"].value.mean()}
        covered = dict.fromkeys(truths, 0.0)
        for seed in range(4):
            found = fields(*drawn(curve, 1000, 50, seed=10 + seed))
            for field, truth in truths.items():
                low, high = found[field].interval(0.95)
                covered[field] += ((low <= truth + 1e-6) & (truth <= high)).mean() / 4
        assert min(covered.values()) >= 0.9


# --- laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", list(METRIC.fields))
def test_the_unit_of_the_response_does_not_matter(field):
    x, labels = drawn(logistic, 400, 3)
    wanted = fields(x, labels)[field]
    renamed = torch.tensor([5, 0, 3, 2, 1])[labels]
    for found in (fields(x * 8, labels), fields(x + 2, labels), fields(x, renamed)):
        assert found[field].value == pytest.approx(wanted.value, abs=1e-5)
        assert found[field].interval(0.95)[1] == pytest.approx(wanted.interval(0.95)[1], abs=1e-5)


def test_channels_are_told_apart():
    x, labels = drawn(logistic, 400, 3)
    wanted, found = (measure("class_calibration.skill", y, labels=labels) for y in (x, x[:, [2, 0, 1]]))
    assert found.units == pytest.approx([wanted.units[k] for k in (2, 0, 1)])


def test_many_kernels_are_measured_a_few_at_a_time(monkeypatch):
    x, labels = drawn(logistic, 300, 7)
    wanted = fields(x, labels)
    monkeypatch.setattr("cnnaudit.detection._CELLS", 2 * 10 * 256)
    for field, found in fields(x, labels).items():
        assert found.value == pytest.approx(wanted[field].value)


def test_images_of_one_source_count_once():
    """Each image thrice: intervals are as wide as those of the images that there really are."""
    x, labels = drawn(logistic, 300, 4)
    x = (x * 8).round().long() + 40
    facts = {"labels": labels.repeat(3), "levels": 96}
    thrice = measure("class_calibration.skill", x.repeat(3, 1), sources=np.tile(np.arange(300), 3), **facts)
    blind = measure("class_calibration.skill", x.repeat(3, 1), **facts)
    once = measure("class_calibration.skill", x, labels=labels, levels=96)
    widths = [np.subtract(found.highs, found.lows).mean() for found in (thrice, blind, once)]
    assert 0.7 < widths[0] / widths[2] < 1.4
    assert widths[1] < 0.75 * widths[2]


def test_related_images_do_not_refute_a_calibrated_kernel():
    """Each of 300 images ten times: ten times as many images would not deviate as much by chance."""
    x, labels = drawn(logistic, 300, 40)
    x = (x * 8).round().long() + 40
    facts = {"labels": labels.repeat(10), "levels": 96}
    told = measure("class_calibration.error", x.repeat(10, 1), sources=np.tile(np.arange(300), 10), **facts)
    blind = measure("class_calibration.error", x.repeat(10, 1), **facts)
    assert (np.array(told.lows) > 0.005).mean() <= 0.05
    assert (np.array(blind.lows) > 0.005).mean() > 0.3


# --- edges ------------------------------------------------------------------------------------------------------


def test_separable_classes_stay_finite():
    labels = torch.arange(400) // 2 % 4
    found = fields((labels == 2).float()[:, None], labels)
    assert found["skill"].value[0] == pytest.approx(1, abs=1e-3)
    assert 0 <= found["error"].value[0] < 0.01
    low, high = found["skill"].interval(0.95)
    assert 0.9 < low[0] < 0.99  # what 100 images of the class leave open
    assert high[0] == 1
    assert found["error"].interval(0.95)[1][0] > 3 / 400


def test_a_dead_kernel_is_calibrated_and_knows_nothing():
    labels = torch.arange(400) // 2 % 4
    found = fields(torch.zeros(400, 2), labels)
    assert found["error"].value == pytest.approx([0, 0], abs=1e-6)
    assert found["skill"].value == pytest.approx([0, 0], abs=1e-6)
    assert found["skill"].p_at_most(0).tolist() == [1, 1]


def test_one_class_or_one_image_tells_nothing():
    x, labels = drawn(logistic, 60, 2)
    for field in METRIC.fields:
        for part, told in ((x, labels * 0), (x[:1], labels[:1])):
            found = measure(f"class_calibration.{field}", part, labels=told)
            assert all(math.isnan(v) for v in found.units)


def test_images_needed_are_thirty_of_the_chosen_class():
    params = {"bins": 256, "quantiles": 10}
    assert METRIC.images(Need(make_site(), "error", 10, 0.05, params)) == 300
    labels = torch.arange(3).repeat_interleave(40)
    x = 9.0 * (labels == 2)[:, None] + torch.rand(120, 1, generator=torch.Generator().manual_seed(1))

    def gate(keep):
        statistic = folded(x[:keep], labels[:keep], torch.arange(keep) % 2)
        return METRIC.gate(statistic, make_site(), "error", params)

    assert gate(120).images.tolist() == [0]
    assert gate(95).images.tolist() == [190]  # 15 of the third class
    assert gate(95).reason == "a chosen class has 15 images, and 30 are needed"


def test_bins_belong_to_the_identity():
    assert METRIC.identified({"bins": 256, "quantiles": 15}) == "class_calibration/1(quantiles=15)"
    with pytest.raises(MetricError, match="greater than or equal to 2"):
        measure("class_calibration", torch.rand(3, 2), labels=torch.arange(3), quantiles=1)


def test_in_an_audit():
    """Class 1 adds to the second channel and nothing to the first."""
    generator = torch.Generator().manual_seed(9)
    labels = torch.arange(400) % 4
    images = torch.rand(400, 2, 4, 4, generator=generator)
    images[:, 1] += (labels == 1)[:, None, None]
    convolution = torch.nn.Conv2d(2, 2, 1, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(torch.eye(2)[..., None, None])
    net = torch.nn.Sequential(convolution, torch.nn.ReLU())
    rules = [
        {"id": "calibrated", "metric": "class_calibration", "max": 0.15},
        {"id": "skilled", "metric": "class_calibration.skill", "min": 0.8, "share": 0.5},
        {"id": "all-skilled", "metric": "class_calibration.skill", "min": 0.5},
    ]
    report = cnnaudit.audit({"cnnaudit": 1, "rules": rules}, model=net, data=(images, labels))
    outcomes = {v.rule: str(v.outcome) for v in report.verdicts}
    assert outcomes == {"calibrated": "pass", "skilled": "pass", "all-skilled": "fail"}
