import math

import numpy as np
import pytest
import torch
from scipy import stats

from cnnaudit import MetricError, measure
from cnnaudit.metrics import Need, registry
from cnnaudit.statistics import deal

METRIC = registry()["branch_variance_share"]
FIELDS = list(METRIC.fields)


def fields(skip, branch, **facts):
    return {name: measure(f"branch_variance_share.{name}", skip, branch, **facts) for name in FIELDS}


def values(skip, branch, **facts):
    return {name: found.value for name, found in fields(skip, branch, **facts).items()}


def pair(images=96, channels=3, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    skip = torch.randn(images, channels, size, size, generator=generator) + 1
    noise = torch.randn(images, channels, size, size, generator=generator)
    return skip, 0.3 * skip + torch.tensor([0.1, 0.5, 1.0])[:channels, None, None] * noise - 0.5


# --- closed forms -----------------------------------------------------------------------------------------------


def test_a_silent_branch():
    skip, _ = pair()
    found = fields(skip, torch.zeros_like(skip))
    for name, expected in {"share": 0, "skip_share": 1, "standardised": 0, "ratio": 0}.items():
        assert found[name].value == expected
        assert found[name].low == found[name].high == expected  # no image disagrees
    assert math.isnan(found["correlation"].value)


def test_an_opposing_branch():
    skip, _ = pair()
    found = values(skip, -skip / 2)
    assert found == pytest.approx({"share": -1, "skip_share": 2, "standardised": -1, "ratio": 0.5, "correlation": -1})


def test_a_branch_that_is_its_skip():
    skip, _ = pair()
    found = values(skip, skip.clone())
    assert found == pytest.approx({"share": 0.5, "skip_share": 0.5, "standardised": 0.5, "ratio": 1, "correlation": 1})


def test_an_uncorrelated_branch_of_equal_variance():
    """Signs of a full factorial design: exactly orthogonal, exactly equal variances."""
    skip = torch.tensor([1.0, 1.0, -1.0, -1.0])[:, None].repeat(4, 2)
    branch = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None].repeat(4, 2)
    found = values(skip, branch)
    assert found == pytest.approx({"share": 0.5, "skip_share": 0.5, "standardised": 0.5, "ratio": 1, "correlation": 0})
    assert values(skip, 3 * branch)["share"] == pytest.approx(9 / 10)


def test_independent_noise_of_equal_variance():
    generator = torch.Generator().manual_seed(1)
    skip, branch = (torch.randn(200, 8, 8, 8, generator=generator) for _ in range(2))
    found = fields(skip, branch)
    for name, truth in {"share": 0.5, "ratio": 1, "correlation": 0}.items():
        assert found[name].value == pytest.approx(truth, abs=0.02)
        assert found[name].low <= truth <= found[name].high


def test_a_constant_branch_shifts_and_does_not_vary():
    skip, _ = pair()
    found = values(skip, torch.full_like(skip, 3.0))
    assert (found["share"], found["skip_share"]) == (0, 1)
    assert found["ratio"] == pytest.approx(3 / skip.double().square().mean().sqrt())


# --- against numpy ----------------------------------------------------------------------------------------------


def naive(skip, branch):
    s, f = (x.double().movedim(1, 0).flatten(1).numpy() for x in (skip, branch))
    covariance = [np.cov(a, b, bias=True) for a, b in zip(s, f, strict=True)]
    ss, ff, sf = (np.array([c[i, j] for c in covariance]) for i, j in ((0, 0), (1, 1), (0, 1)))
    total = ss + ff + 2 * sf
    return {
        "share": (ff + sf).sum() / total.sum(),
        "skip_share": (ss + sf).sum() / total.sum(),
        "standardised": ((ff + sf) / total).mean(),
        "ratio": math.sqrt((f**2).mean() / (s**2).mean()),
        "correlation": sf.sum() / math.sqrt(ss.sum() * ff.sum()),
    }


def test_fields_are_those_of_numpy():
    skip, branch = pair()
    assert values(skip, branch) == pytest.approx(naive(skip, branch), rel=1e-9)


@pytest.mark.parametrize(("images", "groups"), [(40, 40), (128, 64)])
def test_the_jackknife_leaves_out_groups_of_images(images, groups):
    skip, branch = pair(images)
    found = fields(skip, branch, block=8)
    order = torch.randperm(images, generator=torch.Generator().manual_seed(0))
    mine = deal(torch.arange(images), groups, 0, ranked=True)
    rest = [order[mine != group] for group in range(groups)]
    left_out = [naive(skip[ids], branch[ids]) for ids in rest]
    for name in FIELDS:
        pseudo = groups * found[name].value - (groups - 1) * np.array([v[name] for v in left_out])
        reach = stats.t.ppf(0.975, groups - 1) * stats.sem(pseudo)
        assert found[name].high == pytest.approx(found[name].value + reach, rel=1e-6)
        assert found[name].low == pytest.approx(found[name].value - reach, rel=1e-6)


def test_intervals_cover_the_truth():
    """Independent skip and branch, the branch of half the deviation: a share of 1 / 5, in 80 trials."""
    covered = 0
    for seed in range(80):
        generator = torch.Generator().manual_seed(seed)
        # Each image has a level of its own, so its positions depend on each other.
        skip, branch = (
            torch.randn(64, 2, 1, 1, generator=generator) + torch.randn(64, 2, 2, 2, generator=generator)
            for _ in range(2)
        )
        found = measure("branch_variance_share", skip, branch / 2, block=4)
        covered += found.low <= 0.2 <= found.high
    assert stats.binom.ppf(0.001, 80, 0.95) <= covered


# --- laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_shares_add_up_to_one(seed):
    found = values(*pair(seed=seed))
    assert found["share"] + found["skip_share"] == pytest.approx(1, rel=1e-12)


def test_skip_and_branch_trade_places():
    skip, branch = pair()
    forth, back = values(skip, branch), values(branch, skip)
    assert back["share"] == pytest.approx(forth["skip_share"])
    assert back["standardised"] == pytest.approx(1 - forth["standardised"])
    assert back["ratio"] == pytest.approx(1 / forth["ratio"])
    assert back["correlation"] == pytest.approx(forth["correlation"])


def test_rescaling_a_channel_changes_all_but_the_standardised_share():
    skip, branch = pair()
    scale = torch.tensor([0.25, 1.0, 64.0])[:, None, None]
    before, after = fields(skip, branch), fields(skip * scale, branch * scale)
    assert after["standardised"].value == pytest.approx(before["standardised"].value, rel=1e-9)
    assert after["standardised"].high == pytest.approx(before["standardised"].high, rel=1e-6)
    assert abs(after["share"].value - before["share"].value) > 0.05
    # The third channel decides nearly alone now.
    assert after["share"].value == pytest.approx(naive(skip[:, 2:], branch[:, 2:])["share"], abs=1e-3)


def test_rescaling_everything_changes_nothing():
    skip, branch = pair()
    assert values(skip * 8, branch * 8) == pytest.approx(values(skip, branch), rel=1e-12)


def test_an_offset_changes_no_variance_and_costs_no_digits():
    skip, branch = (x.double() for x in pair())
    before, after = values(skip, branch), values(skip + 1e6, branch - 3e6)
    for name in ("share", "skip_share", "standardised", "correlation"):
        assert after[name] == pytest.approx(before[name], rel=1e-7)


def test_duplicating_every_position_changes_nothing():
    skip, branch = pair()
    wanted, found = fields(skip, branch), fields(skip.repeat(1, 1, 2, 1), branch.repeat(1, 1, 2, 1))
    for name in FIELDS:
        assert found[name].value == pytest.approx(wanted[name].value, rel=1e-9)
        assert found[name].high == pytest.approx(wanted[name].high, rel=1e-9)


def test_the_order_of_channels_does_not_matter():
    skip, branch = pair()
    assert values(skip[:, [2, 0, 1]], branch[:, [2, 0, 1]]) == pytest.approx(values(skip, branch), rel=1e-12)


def test_vectors_are_maps_of_one_position():
    skip, branch = (x[..., 0, 0] for x in pair())
    assert fields(skip, branch) == fields(skip[..., None, None], branch[..., None, None])


def test_sampled_positions_estimate_all_of_them():
    skip, branch = pair(200, size=16)
    every, some = (measure("branch_variance_share", skip, branch, positions=p, confidence=0.99) for p in (256, 16))
    assert some.value == pytest.approx(every.value, abs=0.03)
    assert some.low <= every.value <= some.high


# --- edges ------------------------------------------------------------------------------------------------------


def test_it_is_one_value_for_the_site():
    for name, found in fields(*pair()).items():
        assert len(found.units) == len(found.lows) == len(found.highs) == 1
        assert found.kernels == (0,)
        assert found.unit == METRIC.fields[name].unit
        assert found.n_images == 96


def test_a_sum_that_never_varies_is_nothing_by_nothing():
    skip, _ = pair()
    for branch in (-skip, torch.zeros_like(skip)):
        base = skip if branch.any() else torch.zeros_like(skip)
        found = values(base, branch)
        assert math.isnan(found["share"])
        assert math.isnan(found["skip_share"])
        assert math.isnan(found["standardised"])


def test_a_silent_channel_does_not_count_in_the_standardised_share():
    skip, branch = pair()
    skip[:, 1] = branch[:, 1] = 0
    assert values(skip, branch)["standardised"] == pytest.approx(
        naive(skip[:, ::2], branch[:, ::2])["standardised"], rel=1e-9
    )


def test_one_image_gives_a_value_and_no_interval():
    found = measure("branch_variance_share", *pair(1))
    assert math.isfinite(found.value)
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_images_needed():
    assert METRIC.images(Need(None, "share", 10, 0.05, {"positions": 64})) == 50


@pytest.mark.parametrize(
    ("tensors", "facts", "message"),
    [
        (1, {}, r"reads 2 tensor\(s\): skip, branch; got 1"),
        (2, {"positions": 0}, "positions: .*greater than or equal to 1"),
        (2, {"windows": 3}, "windows: Extra inputs are not permitted"),
        (2, {"estimand": "dataset"}, "has no exact data-set value"),
    ],
)
def test_wrong_questions(tensors, facts, message):
    with pytest.raises(MetricError, match=message):
        measure("branch_variance_share", *pair(4)[:tensors], **facts)


def test_skip_and_branch_have_the_same_images():
    skip, branch = pair(8)
    with pytest.raises(MetricError, match=r"differ in shape: \(8, 3, 4, 4\), \(7, 3, 4, 4\)"):
        measure("branch_variance_share", skip, branch[:7])
