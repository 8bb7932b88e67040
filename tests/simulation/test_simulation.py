"""A short version of benchmarks/coverage.py."""

import numpy as np
import pytest
from simulation.cases import CASES
from simulation.coverage import NAIVE as NO_TARGET
from simulation.coverage import cover
from simulation.generators import Channel
from simulation.verdicts import NAIVE, audits, informed, limit, multiplicity, noise, repeated

pytestmark = pytest.mark.usefixtures("one_thread")


QUICK = [case for case in CASES if case.classes < 100 and case.per_source == 1 and case.values < 1000]
SLOW = {"branch_variance_share": 60}  # a value a call


def name_of(case):
    return f"{case.method}-{case.metric}-{case.name}-{case.classes}".replace(" ", "-")


@pytest.mark.parametrize("case", [pytest.param(case, id=name_of(case)) for case in QUICK])
def test_intervals_hold_the_truth_as_often_as_they_say(case):
    found = cover(case, 600, SLOW.get(case.metric, 400), 11)
    assert not found.missed, found


def test_windows_are_no_samples():
    (naive,) = [case for case in CASES if case.target is NO_TARGET]
    assert cover(naive, 200, 100, 0).covered < 0.4


def test_audits_err_no_more_often_than_they_say_however_often_they_look():
    runs = 25
    for (metric, side), counts in audits(runs, 5).items():
        for outcome in ("pass", "fail"):
            assert counts[outcome] <= limit(runs), (metric, side, counts)


def test_spending_all_of_alpha_at_every_look_errs_more_often():
    runs = 10
    found = audits(runs, 5, looks=NAIVE[1::2])
    decided = sum(counts["pass"] + counts["fail"] for (_, side), counts in found.items() if side == "min")
    assert decided > limit(4 * runs, 0.1)


@pytest.mark.parametrize(("kind", "bits"), [("graded", 0.5), ("graded", 1.7), ("noisy", 1.05), ("noisy", 1.7)])
@pytest.mark.parametrize("classes", [100, 1000])
def test_information_about_many_classes_is_decided_rightly(classes, kind, bits):
    runs = 200 if classes == 100 else 60
    channel = getattr(Channel, kind)(bits, classes)
    assert max(informed(channel, runs, 50, np.random.default_rng(3))) <= limit(runs)


@pytest.mark.parametrize("silent", [0.0, 0.5])
def test_noise_is_not_selective(silent):
    found = noise(1000, 50, 72, np.random.default_rng(1), silent=silent)
    assert found["class_selectivity_index.crossfit"].mean() == pytest.approx(0, abs=0.03)
    assert found["class_auroc.best"].mean() == pytest.approx(0.5, abs=0.02)
    assert found["class_selectivity_index.plugin"].mean() > 0.18
    assert found["class_auroc.plugin_best"].mean() > 0.6
    assert found["class_information above 0"].sum() <= limit(72)


@pytest.mark.parametrize(("on_bound", "common"), [(1, 0.0), (300, 0.0), (300, 0.95)])
def test_300_kernels_err_together_no_more_often_than_one(on_bound, common):
    runs = 100
    counts = multiplicity(runs, np.random.default_rng(2), on_bound=on_bound, common=common)
    assert max(counts["pass"], counts["fail"]) <= limit(runs)


@pytest.mark.parametrize("metric", ["activity.apoz", "pool_information_dimension_loss", "branch_variance_share"])
def test_repeated_images_tell_no_more_than_once(metric):
    widths = dict(repeated(metric, 10, np.random.default_rng(0)))
    assert widths["10 times, one source"] == pytest.approx(widths["each its own source"], rel=1e-3)
    assert widths["each its own source"] == pytest.approx(1, abs=0.15)
    assert widths["10 times, taken for images"] < 0.4
