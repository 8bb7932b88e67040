"""Audits of data with more columns than labels: what images come from, and which groups they fall into."""

import numpy as np
import pytest
import torch
from builders import captured_once
from torch import nn

import cnnaudit
from cnnaudit import measure


class Net(nn.Module):
    """One convolution that passes its input on, so that a rule speaks of the images themselves."""

    def __init__(self, units=2):
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(units, units, 1, groups=units), nn.ReLU(), nn.MaxPool2d(2)
        with torch.no_grad():
            self.conv.weight.fill_(1)
            self.conv.bias.zero_()

    def forward(self, x):
        return self.pool(self.relu(self.conv(x))).mean((2, 3))


def audit(data, *rules, **keys):
    return cnnaudit.audit({"cnnaudit": 1, "rules": list(rules), **keys}, model=Net(), data=data)


def draw(count, *, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(count, 2, 1, 1, generator=generator)
    return torch.randn(count, 2, 4, 4, generator=generator) + own + shift


APOZ = {"metric": "activity.apoz", "max": 0.6}


# --- slices -------------------------------------------------------------------------------------------------------


def two_scanners(counts=(400, 200), dark="B"):
    """Images of two scanners; those of the dark one are nearly black."""
    scanner = np.array(["A"] * counts[0] + ["B"] * counts[1])
    images = draw(sum(counts))
    images[torch.from_numpy(scanner == dark)] -= 3
    return {"images": images, "scanner": scanner}


def test_fine_on_average_and_blind_in_one_slice():
    data = two_scanners()
    assert audit(data, APOZ | {"max": 0.8}).exit_code == 0
    report = audit(data, APOZ | {"max": 0.8, "by": "scanner"})
    assert {v.slice: v.outcome for v in report.verdicts} == {"scanner=A": "pass", "scanner=B": "fail"}
    assert report.exit_code == 1
    fails = next(v for v in report.verdicts if v.outcome == "fail")
    assert fails.place == "conv [scanner=B]"
    assert fails.value > 0.9
    text = cnnaudit.render(report, "text")
    assert "  slice     scanner=B\n" in text
    assert report.data["columns"] == {"scanner": {"A": 400, "B": 200}}


def test_a_slice_is_what_its_images_alone_are():
    data = two_scanners((300, 200), dark=None)
    rule = APOZ | {"max": 0.01, "by": "scanner"}
    sliced = {v.slice: v for v in audit(data, rule, sampling={"looks": 1}).verdicts}
    for name in "AB":
        mine = torch.from_numpy(data["scanner"] == name)
        (alone,) = audit(data["images"][mine], APOZ | {"max": 0.01}).verdicts
        found = sliced[f"scanner={name}"]
        for fact in ("value", "low", "high"):
            assert getattr(found, fact) == pytest.approx(getattr(alone, fact), rel=1e-6)
        assert found.n_images == alone.n_images == int(mine.sum())


def test_a_small_slice_is_undecided_and_says_how_many_images_it_needs():
    data = two_scanners((300, 60), dark=None)
    report = audit(data, APOZ | {"by": {"column": "scanner", "min_images": 80}})
    small = next(v for v in report.verdicts if v.slice == "scanner=B")
    assert small.outcome == "undecided"
    assert small.n_images == 60
    assert small.n_needed == 80
    assert small.detail == "The rule wants at least 80 images of a slice."
    assert small.advice == "Audit at least 80 images with scanner=B, or lower the rule's min_images."
    assert next(v for v in report.verdicts if v.slice == "scanner=A").outcome == "pass"
    enough = audit(data, APOZ | {"by": {"column": "scanner", "min_images": 60}, "max": 0.9})
    assert {v.outcome for v in enough.verdicts} <= {"pass", "undecided"}
    assert all("wants at least" not in v.detail for v in enough.verdicts)


def test_a_slice_that_was_not_met_is_undecided():
    data = two_scanners((595, 5), dark=None)
    report = audit(data, APOZ | {"by": "scanner"}, sampling={"max_images": 20})
    met = report.data["columns"]["scanner"]
    missing = next(v for v in report.verdicts if v.slice == "scanner=B")
    assert missing.n_images == met["B"]
    assert missing.outcome == "undecided"


def test_the_files_column_is_every_rules_own():
    rules = {"metric": "activity.apoz", "max": 0.8}, {"id": "whole", "metric": "activity.apoz", "max": 0.8, "by": False}
    report = audit(two_scanners(), *rules, by="scanner")
    assert [(v.rule, v.slice) for v in report.verdicts] == [
        ("activity.apoz", "scanner=A"),
        ("activity.apoz", "scanner=B"),
        ("whole", ""),
    ]


def test_slices_share_the_level_of_a_failure():
    """Four slices whose truth lies on the bound: together they fail in at most 5 %."""
    runs, failed = 30, 0
    rule = {"metric": "activity.apoz", "at": "conv", "min": 0.5, "by": "part", "share": 0.5}
    with captured_once(Net(), draw(2)):
        for seed in range(runs):
            data = {"images": draw(512, seed=seed), "part": np.arange(512) % 4}
            failed += audit(data, rule).exit_code == 1
    assert failed <= 5  # the binomial's 99 % limit for 30 runs at .05


def test_streams_tell_their_columns_by_the_batch():
    data = two_scanners((256, 256))
    batches = [
        {"images": data["images"][i : i + 32], "scanner": data["scanner"][i : i + 32].tolist()}
        for i in range(0, 512, 32)
    ]
    report = audit(batches, APOZ | {"max": 0.8, "by": "scanner"})
    assert {v.slice: v.outcome for v in report.verdicts} == {"scanner=A": "pass", "scanner=B": "fail"}


def test_profiles_keep_slices_apart_in_comparisons_and_together_in_estimates():
    data = two_scanners()
    rules = {"id": "quiet", "metric": "activity.apoz", "by": "scanner"}
    flow = cnnaudit.profile(Net(), data, rules=[rules])
    comparison = flow["quiet"] <= 0.8
    assert {v.slice: v.outcome for v in comparison.verdicts} == {"scanner=A": "pass", "scanner=B": "fail"}
    whole = cnnaudit.profile(Net(), data["images"], rules="activity.apoz")["activity.apoz"]["conv"]
    together = flow["quiet"]["conv"]
    assert together.value == pytest.approx(whole.value, rel=1e-6)
    assert together.n_images == 600


# --- sources ------------------------------------------------------------------------------------------------------


METRICS = [
    "activity.apoz",
    "activity.dormant",
    "class_information",
    "class_selectivity_index",
    "class_auroc",
    "pool_information_dimension_loss",
    "pool_entropy_loss",
    "branch_variance_share",
]
CROSSFITTED = "class_selectivity_index", "class_auroc"
PARAMS = {"pool_entropy_loss": {"levels": 2}, "class_information": {"levels": 8}}


def measured(metric, images, labels, sources=None, **keys):
    taps = [images, images.flip(2) / 2] if metric == "branch_variance_share" else [images]
    if metric in PARAMS:
        # Whole numbers bring their grid along; others would be cut from the first images that are met.
        levels = PARAMS[metric]["levels"]
        taps = [(images if levels == 2 else images.mean((2, 3)) * 4).long().clamp(max=levels - 1)]
    return measure(metric, *taps, labels=labels, sources=sources, **PARAMS.get(metric, {}), **keys)


def width(estimate):
    return np.array(estimate.highs) - np.array(estimate.lows)


@pytest.mark.parametrize("metric", METRICS)
def test_images_that_are_sources_of_their_own_need_no_source_column(metric):
    images, labels = draw(640).relu(), torch.arange(640) % 4
    images += labels.reshape(-1, 1, 1, 1) / 4
    plain = measured(metric, images, labels)
    told = measured(metric, images, labels, torch.arange(640))
    if metric not in CROSSFITTED:  # whose halves are others, and may choose another class
        assert told.units == pytest.approx(plain.units, rel=0.02, abs=0.003)
        # The jackknife's error against the influence function's: 64 groups tell it to about 9 %.
        assert width(told) == pytest.approx(width(plain), rel=0.35)


@pytest.mark.parametrize("metric", METRICS)
def test_repeating_every_image_under_its_source_leaves_intervals_as_they_were(metric):
    images, labels = draw(256).relu(), torch.arange(256) % 4
    images += labels.reshape(-1, 1, 1, 1) / 4
    sources = torch.arange(256)
    once = measured(metric, images, labels, sources)
    again = measured(metric, *(x.repeat_interleave(20, 0) for x in (images, labels, sources)))
    assert again.units == pytest.approx(once.units, rel=0.06, abs=0.005)
    assert width(again) == pytest.approx(width(once), rel=0.1)
    taken_for_images = measured(metric, *(x.repeat_interleave(20, 0) for x in (images, labels)))
    assert (width(taken_for_images) < width(again) / 2).all()


def test_an_audit_takes_the_source_column():
    images, labels = draw(300), np.arange(300) % 3
    sources = np.arange(300) // 10
    rule = {"metric": "activity.apoz", "at": "conv", "max": 0.52}
    report = audit({"images": images, "labels": labels, "source": sources}, rule)
    (verdict,) = report.verdicts
    assert (verdict.n_images, verdict.n_sources) == (300, 30)
    assert verdict.outcome == "undecided"
    assert "Too few sources to judge: this metric needs 100 here" in verdict.detail
    assert verdict.advice == "Audit at least 100 sources."
    assert report.data["sources"] == 30
    assert report.settings["groups"] == 64
    assert "300 images of 30 sources" in cnnaudit.render(report, "text")


def test_related_images_make_intervals_wider():
    # Ten images share a shift: an image tells little that the nine others do not.
    sources = torch.arange(1500) // 10
    shift = torch.randn(150, generator=torch.Generator().manual_seed(3))[sources].reshape(-1, 1, 1, 1)
    images = draw(1500) / 2 + shift
    alone, related = (measure("activity.apoz", images.relu(), sources=s) for s in (None, sources))
    assert (width(related) > 2 * width(alone)).all()


def test_class_sorted_data_give_the_verdicts_of_shuffled_data():
    labels = torch.arange(900) % 9
    images = draw(900) + labels.reshape(-1, 1, 1, 1) / 3
    rules = (
        {"metric": "class_information", "min": 0.1},
        {"metric": "activity.apoz", "max": 0.5},
        {"metric": "pool_entropy_loss", "max": 0.3, "params": {"levels": 2}},
    )
    order = labels.argsort(stable=True)
    shuffled, in_order = (audit((images[i], labels[i]), *rules) for i in (torch.arange(900), order))
    assert [v.outcome for v in shuffled.verdicts] == [v.outcome for v in in_order.verdicts]
    for a, b in zip(shuffled.verdicts, in_order.verdicts, strict=True):
        assert abs(a.value - b.value) < (a.high - a.low + b.high - b.low) / 2
