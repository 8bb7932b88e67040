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
from cnnaudit.metrics.class_coverage import _mean_overlap
from cnnaudit.statistics import Probe

METRIC = registry()["class_coverage"]
DEFAULTS = {"bins": 256, "threshold": 0.75}


def folded(x, labels, groups, bins=256, kernels=None):
    """The statistic of responses (images, kernels) whose images belong to these groups."""
    site = make_site(units=x.shape[1], shape=(), nonnegative=False)
    probe = Probe(METRIC.reads, site, METRIC.taps, METRIC.options({"bins": bins}), kernels=kernels)
    statistic = METRIC.reads(probe, int(groups.max()) + 1)
    first = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:256]
    statistic.calibrate([{"response": x[first]}])
    statistic.fold({"response": x, "labels": labels}, groups)
    return statistic


def fields(x, labels, groups=None, **params):
    """Every field's Uncertain."""
    params = DEFAULTS | params
    statistic = folded(x, labels, torch.arange(len(x)) // 3 % 2 if groups is None else groups, params["bins"])
    return METRIC.evaluate(statistic, statistic.probe.site, params)


def layer(shifts, images, seed=0):
    """Normal responses; ``shifts`` is the mean of each kernel (row) for each class."""
    shifts = torch.tensor(shifts, dtype=torch.float32)
    labels = torch.arange(shifts.shape[1]).repeat_interleave(images)
    x = torch.randn(len(labels), len(shifts), generator=torch.Generator().manual_seed(seed))
    return x + shifts.T[labels], labels


def areas(shifts):
    """True AUROC of each kernel for each class among equally frequent ones."""
    shifts = np.asarray(shifts, dtype=float)
    wins = stats.norm.cdf((shifts[:, :, None] - shifts[:, None]) / math.sqrt(2))
    return (wins.sum(2) - 0.5) / (shifts.shape[1] - 1)


def jaccard(sets):
    """Mean over pairs of sets that have members."""
    sets = [s for s in sets if s]
    pairs = [len(a & b) / len(a | b) for i, a in enumerate(sets) for b in sets[:i]]
    return np.mean(pairs) if pairs else math.nan


# --- closed forms -----------------------------------------------------------------------------------------------


def test_classes_without_a_detector():
    """Two kernels for classes 0 and 1, one of noise; nobody knows classes 2 and 3."""
    x, labels = layer([[9, 0, 0, 0], [0, 9, 0, 0], [0, 0, 0, 0]], 100)
    found = fields(x, labels)
    assert found["uncovered"].value == [0.5]
    assert [end[0] for end in found["uncovered"].interval(0.95)] == [0.5, 0.5]
    assert found["overlap"].value == [0]


def test_overlap_of_known_sets():
    """Sets {0, 1}, {1, 2} and {3}, and a kernel of noise: one of three in common, and twice none."""
    found = fields(*layer([[9, 9, 0, 0, 0], [0, 9, 9, 0, 0], [0, 0, 0, 9, 0], [0, 0, 0, 0, 0]], 100))
    assert found["overlap"].value == pytest.approx([1 / 9])
    assert [end[0] for end in found["overlap"].interval(0.95)] == pytest.approx([1 / 9, 1 / 9])
    assert found["overlap"].p_at_most(0.1)[0] < 0.001
    assert found["overlap"].p_at_least(0.12)[0] < 0.001
    assert found["uncovered"].value == pytest.approx([0.2])


def test_equal_kernels_overlap_wholly():
    x, labels = layer([[9, 9, 0, 0]], 100)
    found = fields(x.expand(-1, 3), labels)
    assert found["overlap"].value == [1]
    assert found["overlap"].p_above(1) == [0]


def test_the_threshold_decides():
    """AUROC Phi(1 / sqrt 2) = .76 of class 0."""
    found = {t: fields(*layer([[1, 0]], 4000), threshold=t)["uncovered"] for t in (0.7, 0.75, 0.8)}
    # The kernel detects class 0; class 1 would be detected by its silence, which does not count.
    assert {t: f.value.tolist() for t, f in found.items()} == {0.7: [0.5], 0.75: [0.5], 0.8: [1.0]}
    assert found[0.7].p_above(0.5)[0] < 0.001
    assert found[0.8].p_below(1)[0] < 0.001


def test_bounds_of_the_mean_overlap_are_those_of_all_sets():
    """Of small sets every completion is tried."""
    generator = np.random.default_rng(0)
    for _ in range(30):
        may = generator.random((3, 3)) < 0.6
        sure = may & (generator.random((3, 3)) < 0.5)
        open_ = np.argwhere(may & ~sure)
        found = []
        for chosen in range(2 ** len(open_)):
            sets = sure.copy()
            for bit, (i, j) in enumerate(open_):
                sets[i, j] = chosen >> bit & 1
            found.append(jaccard([set(np.flatnonzero(row)) for row in sets]))
        low, high = _mean_overlap(sure, may)
        if np.isnan(found).all():
            assert math.isnan(low)
        else:
            assert low <= np.nanmin(found) + 1e-12
            assert high >= np.nanmax(found) - 1e-12
    sets = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]], dtype=bool)
    assert _mean_overlap(sets, sets) == pytest.approx((1 / 3, 1 / 3))


# --- naive references -------------------------------------------------------------------------------------------


def test_estimates_are_those_of_a_loop():
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(240) % 4
    shifts = torch.tensor([[4, 0, 0, 2], [4, 4, 0, 0], [0, 1, 1, 3], [0, 0, 0, 0], [3, 3, 0, 3]])
    x = torch.randint(0, 9, (240, 5), generator=generator) + shifts.T[labels]
    groups = torch.randint(0, 6, (240,), generator=generator)
    half = groups.numpy() % 2
    r, y = x.numpy(), labels.numpy()
    by_half = np.array(
        [[[roc_auc_score(y[half == h] == c, r[half == h, k]) for c in range(4)] for k in range(5)] for h in (0, 1)]
    )
    whole = np.array([[roc_auc_score(y == c, r[:, k]) for c in range(4)] for k in range(5)])
    first, second = by_half.argmax(1)
    best = (by_half[0][second, range(4)] + by_half[1][first, range(4)]) / 2
    for threshold in (0.6, 0.7, 0.8):
        found = fields(x, labels, groups, bins=16, threshold=threshold)
        assert found["uncovered"].value == pytest.approx([(best < threshold).mean()])
        assert found["uncovered"].events.proportion.value == pytest.approx(best)
        assert found["uncovered"].events.proportion.plugin.value == pytest.approx(whole.max(0))
        sets = [set(np.flatnonzero(row >= threshold)) for row in whole]
        assert found["overlap"].value == pytest.approx([jaccard(sets)], nan_ok=True)


# --- what chance makes of it ------------------------------------------------------------------------------------


def test_noise_covers_nothing():
    """Of 60 kernels of noise some seems to know each of 10 classes of 30 images."""
    x, labels = layer(np.zeros((60, 10)).tolist(), 30)
    found = fields(x, labels, threshold=0.58)["uncovered"]
    assert (found.events.proportion.plugin.value > 0.58).all()
    assert found.value == [1]
    assert found.p_at_least(1) == [1]


def test_intervals_cover_the_truth():
    generator = np.random.default_rng(3)
    hits = {"uncovered": 0, "overlap": 0}
    for seed in range(40):
        shifts = generator.uniform(0, 2.5, (12, 6)) * (generator.random((12, 6)) < 0.2)
        detects = areas(shifts) >= 0.75
        truth = {
            "uncovered": 1 - detects.any(0).mean(),
            "overlap": jaccard([set(np.flatnonzero(row)) for row in detects]),
        }
        found = fields(*layer(shifts.tolist(), 60, seed))
        for field in hits:
            low, high = found[field].interval(0.95)
            hits[field] += bool(low[0] - 1e-9 <= truth[field] <= high[0] + 1e-9) or math.isnan(truth[field])
    assert min(hits.values()) >= 38


def test_many_kernels_on_the_threshold_make_no_detector():
    """All 50 kernels have AUROC .75 for class 0; the best of them by chance does not exceed it."""
    shift = math.sqrt(2) * stats.norm.ppf(0.75)
    claims = []
    for seed in range(30):
        x, labels = layer([[shift, 0, 0, 0]] * 50, 60, seed)
        claims.append(fields(x, labels)["uncovered"].events.p_yes()[0] <= 0.05)
    assert np.mean(claims) <= 0.05


# --- laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", list(METRIC.fields))
def test_what_changes_no_ranks_and_no_names_changes_nothing(field):
    x, labels = layer([[1, 3, 0, 0], [0, 2, 2, 0], [0, 0, 0, 1]], 60)
    wanted = fields(x, labels)[field]
    renamed = torch.tensor([5, 0, 3, 2])[labels]
    for found in (fields(x * 8, labels), fields(x.exp(), labels), fields(x, renamed), fields(x[:, [2, 0, 1]], labels)):
        assert found[field].value == pytest.approx(wanted.value)
        assert found[field].interval(0.95) == wanted.interval(0.95)


def test_many_kernels_are_measured_a_few_at_a_time(monkeypatch):
    x, labels = layer([[1, 3, 0, 0], [0, 2, 2, 0], [0, 0, 0, 1]], 60)
    wanted = fields(x, labels)
    monkeypatch.setattr("cnnaudit.detection._CELLS", 2 * 8 * 256)
    for field, found in fields(x, labels).items():
        assert found.interval(0.95) == wanted[field].interval(0.95)


def test_images_of_one_source_count_once():
    """Class 1 at AUROC .82: 40 images tell too little, and so do three copies of each."""
    x, labels = layer([[9, 0, 0, 0], [0, 1.3, 0, 0]], 40)
    x = (x * 8).round().long().clamp(min=-40) + 40
    facts = {"labels": labels.repeat(3), "levels": 160}
    once, blind, thrice = (
        measure("class_coverage", part, **told)
        for part, told in (
            (x, {"labels": labels, "levels": 160}),
            (x.repeat(3, 1), facts),
            (x.repeat(3, 1), facts | {"sources": np.tile(np.arange(160), 3)}),
        )
    )
    assert (once.low, once.high) == (thrice.low, thrice.high) == (0.5, 0.75)
    assert (blind.low, blind.high) == (0.5, 0.5)


# --- edges ------------------------------------------------------------------------------------------------------


def test_dead_kernels_detect_nothing():
    labels = torch.arange(400) // 2 % 4
    found = fields(torch.zeros(400, 3), labels)
    assert found["uncovered"].value == [1]
    assert math.isnan(found["overlap"].value[0])
    assert found["overlap"].p_at_most(0.5) == found["overlap"].p_at_least(0.5) == [1]
    assert all(math.isnan(end[0]) for end in found["overlap"].interval(0.95))


def test_one_class_or_one_image_tells_nothing():
    x, labels = layer([[9, 0], [0, 9]], 30)
    for field in METRIC.fields:
        for part, told in ((x, labels * 0), (x[:1], labels[:1]), (x[::30], labels[::30])):
            assert math.isnan(measure(f"class_coverage.{field}", part, labels=told).value)


def test_a_class_that_was_hardly_met_is_left_out():
    x, labels = layer([[9, 0, 0], [0, 9, 0]], 50)
    more = torch.cat([x, torch.full((1, 2), 0.5)]), torch.cat([labels, torch.tensor([7])])
    for field, found in fields(*more).items():
        assert found.interval(0.95) == fields(x, labels)[field].interval(0.95)


def test_images_needed_are_thirty_of_each_class():
    assert METRIC.images(Need(make_site(), "uncovered", 10, 0.05, DEFAULTS)) == 300
    x, labels = layer([[0, 0, 9], [0, 0, 1]], 40)

    def gate(keep):
        statistic = folded(x[:keep], labels[:keep], torch.arange(keep) % 2)
        return METRIC.gate(statistic, make_site(units=2), "uncovered", DEFAULTS)

    assert gate(120).images.tolist() == [0]
    assert gate(95).images.tolist() == [190]  # 15 of the third class
    assert gate(95).reason == "the rarest class has 15 images, and 30 are needed of each"


def test_the_threshold_belongs_to_the_identity():
    assert METRIC.identified(DEFAULTS | {"threshold": 0.8}) == "class_coverage/1(threshold=0.8)"
    with pytest.raises(MetricError, match="greater than"):
        measure("class_coverage", torch.rand(3, 2), labels=torch.arange(3), threshold=0.5)


def test_in_an_audit():
    """Channels for classes 0 and 1; classes 2 and 3 look alike."""
    generator = torch.Generator().manual_seed(9)
    labels = torch.arange(400) % 4
    images = torch.rand(400, 2, 4, 4, generator=generator)
    for c in (0, 1):
        images[:, c] += (labels == c)[:, None, None]
    convolution = torch.nn.Conv2d(2, 2, 1, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(torch.eye(2)[..., None, None])
    net = torch.nn.Sequential(convolution, torch.nn.ReLU())
    rules = [
        {"id": "half", "metric": "class_coverage", "max": 0.5},
        {"id": "all", "metric": "class_coverage", "max": 0.25},
        {"id": "apart", "metric": "class_coverage.overlap", "max": 0.2},
    ]
    report = cnnaudit.audit({"cnnaudit": 1, "rules": rules}, model=net, data=(images, labels))
    assert {v.rule: str(v.outcome) for v in report.verdicts} == {"half": "pass", "all": "fail", "apart": "pass"}
