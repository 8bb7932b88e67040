"""Site means: what a later audit of the same images may be compared with."""

import math

import numpy as np
import pytest
import torch
from builders import judged, make_rule
from scipy import stats
from torch import nn

import cnnaudit
from cnnaudit.data.images import permutation
from cnnaudit.intervals import Normal
from cnnaudit.looks import Look
from cnnaudit.spec import Regression
from cnnaudit.statistics import deal

ALLOWED = Regression(0.1, None, "lower")
REACH = stats.norm.ppf(0.975)


def normal(*values, error=1.0):
    return Normal(np.array(values, dtype=float), np.full(len(values), error))


def mean_of(rule, *values, **facts):
    (verdict,) = judged(rule, {"layer": normal(*values)}, **facts)
    return verdict.mean


@pytest.mark.parametrize("reduce", ["every", "mean"])
def test_the_mean_over_the_units_is_told_however_they_are_judged(reduce):
    found = mean_of(make_rule(min=0, reduce=reduce, max_regression=ALLOWED), 1, 2, 6)
    reach = REACH  # units may err together
    assert (found.value, found.low, found.high) == (3, pytest.approx(3 - reach), pytest.approx(3 + reach))


def test_without_a_regression_there_is_no_mean():
    assert mean_of(make_rule(min=0), 1, 2, 6) is None


def test_a_rule_with_nothing_but_a_regression_measures():
    (verdict,) = judged(make_rule(max_regression=ALLOWED), {"layer": normal(1, 2)})
    assert (verdict.outcome, verdict.mean.value) == ("measured", 1.5)


def test_it_is_of_all_images_also_where_an_early_look_decided():
    rule = make_rule(min=0, max_regression=ALLOWED)
    early = judged(rule, {"layer": normal(9)}, look=Look(1, 256, 0.25, last=False))
    assert (early[0].outcome, early[0].mean) == ("pass", None)
    (last,) = judged(rule, {"layer": normal(7)}, look=Look(2, 1000, 0.5, last=True), earlier=early)
    assert (last.look, last.value, last.mean.value) == (1, 9, 7)


def test_what_is_broken_has_none():
    (verdict,) = judged(make_rule(min=0, max_regression=ALLOWED), {"layer": normal(9)}, nonfinite=3)
    assert (verdict.outcome, verdict.mean) == ("error", None)


# --- groups of images -------------------------------------------------------------------------------------------


def audited(images, labels=None, **rule):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    rules = {"cnnaudit": 1, "rules": [{"max_regression": {"absolute": 0.1}, "max": 9} | rule]}
    given = images if labels is None else (images, labels)
    return cnnaudit.audit(rules, model=model, data=given if labels is not None else {"images": images})


@pytest.fixture(scope="module")
def images():
    return torch.rand(100, 1, 6, 6, generator=torch.Generator().manual_seed(2)) - 0.4


def test_the_mean_without_a_group_is_that_of_the_other_images(images):
    (verdict,) = audited(images, metric="activity.apoz", estimand="population", at="0").verdicts
    group = deal(torch.arange(100), 64, 0, ranked=True)
    assert [n for n, _ in verdict.mean.groups] == torch.bincount(group, minlength=64).tolist()
    order = permutation(100, 0)
    for number in (0, 17, 63):
        rest = images[order[group != number]]
        (without,) = audited(rest, metric="activity.apoz", estimand="dataset", at="0").verdicts
        assert verdict.mean.groups[number][1] == pytest.approx(without.mean.value, rel=1e-12)


def test_what_is_kept_by_groups_changes_no_verdict(images):
    labels = torch.arange(100) % 3
    for metric in ("class_information", "class_auroc", "activity.apoz"):
        with_mean, without = _both(images, labels, metric)
        assert (with_mean.value, with_mean.low, with_mean.high) == (without.value, without.low, without.high)
        assert with_mean.n_sources == without.n_sources == 0


def _both(images, labels, metric):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    for more in ({"max_regression": {"absolute": 1}}, {}):
        rules = {"cnnaudit": 1, "rules": [{"metric": metric, "at": "0", "max": 9} | more]}
        yield cnnaudit.audit(rules, model=model, data=(images, labels)).verdicts[0]


def test_a_claim_about_these_images_has_no_error_and_no_groups(images):
    (verdict,) = audited(images, metric="activity.apoz", estimand="dataset", at="0").verdicts
    assert verdict.mean.low == verdict.mean.value == verdict.mean.high
    assert verdict.mean.groups == ()


def test_where_images_also_teach_a_probe_there_are_no_groups(images):
    labels = torch.arange(100) % 3
    (verdict,) = audited(images, labels, metric="usable_information", at="0").verdicts
    assert math.isfinite(verdict.mean.value)
    assert verdict.mean.groups == ()


def test_a_mean_survives_json(images):
    report = audited(images, metric="activity.apoz", estimand="population", at="0")
    again = cnnaudit.Report.from_json(report.to_json())
    assert again.verdicts[0].mean == report.verdicts[0].mean


def test_with_too_few_images_there_is_none():
    rule = make_rule(min=0, max_regression=ALLOWED)
    assert mean_of(rule, 1, 2, images=29, need=lambda need: 30) is None
    assert mean_of(rule, 1, 2, images=30, need=lambda need: 30).value == 1.5
