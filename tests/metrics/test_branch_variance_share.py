import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import cnnaudit
from cnnaudit import MetricError, measure
from cnnaudit.metrics import Need, registry
from cnnaudit.statistics import deal

METRIC = registry()["branch_variance_share"]
FIELDS = list(METRIC.fields)


def fields(skip, branch, **facts):
    return {name: measure(f"branch_variance_share.{name}", skip, branch, **facts) for name in FIELDS}


def values(skip, branch, **facts):
    return {name: found.value for name, found in fields(skip, branch, **facts).items()}


def pair(images=40, channels=3, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    skip = torch.randn(images, channels, size, size, generator=generator) + 1
    noise = torch.randn(images, channels, size, size, generator=generator)
    return skip, 0.3 * skip + torch.tensor([0.1, 0.5, 1.0])[:channels, None, None] * noise - 0.5


# --- closed forms -----------------------------------------------------------------------------------------------


def test_a_silent_branch():
    skip, _ = pair()
    found = fields(skip, torch.zeros_like(skip))
    silent = {"share": 0, "skip_share": 1, "standardised": 0, "skip_standardised": 1, "ratio": 0}
    for name, expected in silent.items():
        assert found[name].value == expected
        assert found[name].low == found[name].high == expected  # no image disagrees
    for name in ("correlation", "cosine", "mean_shift"):
        assert math.isnan(found[name].value)


def test_an_opposing_branch():
    skip, _ = pair()
    found = values(skip, -skip / 2)
    wanted = {"share": -1, "skip_share": 2, "standardised": -1, "skip_standardised": 2}
    wanted |= {"ratio": 0.5, "correlation": -1, "cosine": -1}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert (skip - skip / 2).double().var() == pytest.approx(skip.double().var() / 4)


def test_a_branch_that_is_its_skip():
    skip, _ = pair()
    found = values(skip, skip.clone())
    half = dict.fromkeys(("share", "skip_share", "standardised", "skip_standardised"), 0.5)
    wanted = half | dict.fromkeys(("ratio", "correlation", "cosine"), 1)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)


def test_an_uncorrelated_branch_of_equal_variance():
    """Signs of a full factorial design: exactly orthogonal, exactly equal variances."""
    skip = torch.tensor([1.0, 1.0, -1.0, -1.0])[:, None].repeat(4, 2)
    branch = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None].repeat(4, 2)
    found = values(skip, branch)
    half = dict.fromkeys(("share", "skip_share", "standardised", "skip_standardised"), 0.5)
    assert found == pytest.approx(half | {"ratio": 1, "correlation": 0, "cosine": 0, "mean_shift": 0})
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
    assert (found["share"], found["skip_share"], found["mean_shift"]) == (0, 1, 1)
    assert found["ratio"] == pytest.approx(3 / skip.double().square().mean().sqrt())


def test_a_shift_of_one_deviation_is_half_of_the_power():
    signs = torch.tensor([1.0, -1.0])[:, None, None].repeat(32, 2, 3)
    found = measure("branch_variance_share.mean_shift", signs.roll(1, 0), signs + 1, positions=1000)
    assert found.value == pytest.approx(0.5, abs=1e-2)
    assert found.low <= 0.5 <= found.high
    assert values(signs, 2 * signs + torch.tensor([6.0, 0.0])[:, None])["mean_shift"] == pytest.approx(
        36 / (36 + 8), abs=1e-2
    )


def test_cosines_are_those_of_channel_vectors_where_both_have_one():
    skip = torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.0, 0.0], [5.0, 5.0]])
    branch = torch.tensor([[4.0, 3.0], [-2.0, -2.0], [1.0, 0.0], [0.0, 0.0]])
    assert measure("branch_variance_share.cosine", skip, branch).value == pytest.approx((0.8 - 1) / 2)
    # Opposed at one position of each image, equal at the other.
    skip, branch = torch.ones(8, 4, 2), torch.tensor([-3.0, 2.0]).expand(8, 4, 2)
    assert measure("branch_variance_share.cosine", skip, branch).value == pytest.approx(0, abs=1e-12)


# --- against numpy ----------------------------------------------------------------------------------------------


def naive(skip, branch):
    s, f = (x.double().movedim(1, 0).flatten(1).numpy() for x in (skip, branch))
    covariance = [np.cov(a, b, bias=True) for a, b in zip(s, f, strict=True)]
    ss, ff, sf = (np.array([c[i, j] for c in covariance]) for i, j in ((0, 0), (1, 1), (0, 1)))
    total = ss + ff + 2 * sf
    cosines = (s * f).sum(0) / np.linalg.norm(s, axis=0) / np.linalg.norm(f, axis=0)
    return {
        "share": (ff + sf).sum() / total.sum(),
        "skip_share": (ss + sf).sum() / total.sum(),
        "standardised": ((ff + sf) / total).mean(),
        "skip_standardised": ((ss + sf) / total).mean(),
        "ratio": math.sqrt((f**2).mean() / (s**2).mean()),
        "correlation": sf.sum() / math.sqrt(ss.sum() * ff.sum()),
        "cosine": cosines.mean(),
        "mean_shift": (f.mean(1) ** 2).sum() / (f**2).mean(1).sum(),
    }


PLAIN = [name for name in FIELDS if not METRIC.fields[name].debias]


def test_fields_are_those_of_numpy():
    skip, branch = pair()
    found, wanted = values(skip, branch), naive(skip, branch)
    assert [found[name] for name in PLAIN] == pytest.approx([wanted[name] for name in PLAIN], rel=1e-9)
    # The jackknife takes off what the sample's mean adds.
    assert found["mean_shift"] < wanted["mean_shift"]
    assert found["mean_shift"] == pytest.approx(wanted["mean_shift"], rel=0.02)


@pytest.mark.parametrize(("images", "groups"), [(40, 40), (128, 64)])
def test_the_jackknife_leaves_out_groups_of_images(images, groups):
    skip, branch = pair(images)
    found = fields(skip, branch, block=8)
    order = torch.randperm(images, generator=torch.Generator().manual_seed(0))
    mine = deal(torch.arange(images), groups, 0, ranked=True)
    rest = [order[mine != group] for group in range(groups)]
    left_out = [naive(skip[ids], branch[ids]) for ids in rest]
    for name in PLAIN:
        pseudo = groups * found[name].value - (groups - 1) * np.array([v[name] for v in left_out])
        reach = stats.t.ppf(0.975, groups - 1) * stats.sem(pseudo)
        assert found[name].high == pytest.approx(found[name].value + reach, rel=1e-6)
        assert found[name].low == pytest.approx(found[name].value - reach, rel=1e-6)


def test_intervals_cover_the_truth():
    """Independent skip and branch, the branch of half the deviation: a share of 1 / 5, in 40 trials."""
    covered = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        # Each image has a level of its own, so its positions depend on each other.
        skip, branch = (
            torch.randn(64, 2, 1, 1, generator=generator) + torch.randn(64, 2, 2, 2, generator=generator)
            for _ in range(2)
        )
        found = measure("branch_variance_share", skip, branch / 2, block=4)
        covered += found.low <= 0.2 <= found.high
    assert stats.binom.ppf(0.001, 40, 0.95) <= covered


# --- laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_the_shares_add_up_to_one(seed):
    found = values(*pair(seed=seed))
    assert found["share"] + found["skip_share"] == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_the_standardised_shares_add_up_to_one(seed):
    found = values(*pair(seed=seed))
    assert found["standardised"] + found["skip_standardised"] == pytest.approx(1, rel=1e-12)


def test_skip_and_branch_trade_places():
    skip, branch = pair()
    forth, back = values(skip, branch), values(branch, skip)
    assert back["share"] == pytest.approx(forth["skip_share"])
    assert back["standardised"] == pytest.approx(forth["skip_standardised"])
    assert back["cosine"] == pytest.approx(forth["cosine"])
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


@pytest.mark.parametrize("seed", range(3))
def test_random_scales_leave_the_standardised_shares(seed):
    skip, branch = pair(seed=seed)
    scale = torch.empty(3, 1, 1).exponential_(generator=torch.Generator().manual_seed(seed)) + 0.01
    before, after = fields(skip, branch), fields(skip.double() * scale, branch.double() * scale)
    for name in ("standardised", "skip_standardised"):
        assert after[name].value == pytest.approx(before[name].value, rel=1e-9)
        assert after[name].low == pytest.approx(before[name].low, rel=1e-6)
    assert abs(after["share"].value - before["share"].value) > 1e-3


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
        assert found.n_images == 40


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
    with pytest.raises(MetricError, match=r"differ in shape, and must agree: \(8, 3, 4, 4\), \(7, 3, 4, 4\)"):
        measure("branch_variance_share", skip, branch[:7])


# --- in an audit ------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A residual block, in torchvision's way or without any operator in place."""

    def __init__(self, *, in_place):
        super().__init__()
        torch.manual_seed(0)
        self.in_place = in_place
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=in_place)
        self.head = nn.Linear(4, 2)
        nn.init.uniform_(self.norm.weight, 0.2, 1.5)

    def forward(self, x):
        x = self.relu(self.stem(x))
        identity = x
        out = self.norm(self.conv(x))
        if self.in_place:
            out += identity
        else:
            out = out + identity
        return self.head(self.relu(out).mean((2, 3)))


def profiled(*, in_place):
    images = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(5))
    rules = [{"metric": f"branch_variance_share.{name}"} for name in FIELDS]
    flow = cnnaudit.profile(Block(in_place=in_place), {"images": images}, rules=rules)
    found = {}
    for name in FIELDS:
        selection = flow[f"branch_variance_share.{name}"]
        (check,) = selection.checks
        found[name] = selection[check.site.path]
    return found


def test_an_addition_in_place_and_its_twin_have_identical_shares():
    in_place, twin = profiled(in_place=True), profiled(in_place=False)
    for name in FIELDS:
        mine, other = in_place[name], twin[name]
        assert (mine.value, mine.low, mine.high) == (other.value, other.low, other.high), name
        assert math.isfinite(mine.value)
    assert 0 < in_place["share"].value < 1
