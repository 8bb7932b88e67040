import math

import numpy as np
import pytest
import torch
from builders import make_site
from scipy import stats
from torch import nn
from torch.nn import functional

import cnnaudit
from cnnaudit import measure
from cnnaudit.metrics import Need, registry
from cnnaudit.site import Op, Tap
from cnnaudit.statistics import PartMoments, Probe, View

METRIC = registry()["concat_share"]
FIELDS = list(METRIC.fields)


def concat(inputs, weight, *, stride=1, padding=0, dilation=1, groups=1):
    """The site of a concatenation that a convolution reads."""
    spatial = tuple(inputs[0].shape[2:])
    taps = {f"input{i}": Tap("", tuple(x.shape[1:])) for i, x in enumerate(inputs)}
    channels = sum(x.shape[1] for x in inputs)
    site = make_site(
        Op.CONCAT,
        channels,
        taps=("consumed", "output"),
        shape=spatial,
        parameters={"weight": Tap("", tuple(weight.shape))},
        kernel=tuple(weight.shape[2:]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    return site.with_taps(taps)


def statistic(inputs, weight, *, groups=8, positions=10**6, seed=0, **geometry):
    site = concat(inputs, weight, **geometry)
    found = PartMoments(Probe(PartMoments, site, ("consumed", "weight"), (("positions", positions),)), groups)
    ids = torch.arange(len(inputs[0]))
    for block in ids.split(16):
        tensors = {"consumed": torch.cat([x[block] for x in inputs], 1), "weight": weight}
        found.fold(found.read(View(tensors, block, None, seed)), block % groups)
    return found


def estimates(inputs, weight, **facts):
    found = statistic(inputs, weight, **facts)
    return METRIC.evaluate(found, found.probe.site, {"positions": 64})


def values(inputs, weight, **facts):
    return {name: found.value for name, found in estimates(inputs, weight, **facts).items()}


def made(images=48, *, channels=(2, 1, 3), outputs=4, kernel=(3, 3), size=(5, 6), seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = [
        torch.randn(images, c, *size, generator=generator) * (i + 1)
        + torch.randn(images, 1, *size, generator=generator)
        for i, c in enumerate(channels)
    ]
    return inputs, torch.randn(outputs, sum(channels), *kernel, generator=generator)


# --- against F.conv and numpy -----------------------------------------------------------------------------------


def parts(inputs, weight, **geometry):
    """What each input adds to the result: the convolution of the concatenation with all others set to zero."""
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[weight.dim() - 2]
    found = []
    for kept in range(len(inputs)):
        alone = torch.cat([x if i == kept else torch.zeros_like(x) for i, x in enumerate(inputs)], 1)
        found.append(convolve(alone.double(), weight.double(), **geometry).movedim(1, 0).flatten(1).numpy())
    return found


def naive(inputs, weight, **geometry):
    z = parts(inputs, weight, **geometry)
    whole = sum(z)
    variance = whole.var(1)
    found = {name: [] for name in FIELDS}
    for part in z:
        covariance = np.array([np.cov(a, b, bias=True)[0, 1] for a, b in zip(part, whole, strict=True)])
        rest = whole - part
        between = sum(np.cov(a, b, bias=True)[0, 1] for a, b in zip(part, rest, strict=True))
        found["share"].append(covariance.sum() / variance.sum())
        found["standardised"].append((covariance / variance).mean())
        found["ratio"].append(math.sqrt((part**2).sum() / (rest**2).sum()))
        found["correlation"].append(between / math.sqrt(part.var(1).sum() * rest.var(1).sum()))
    return found


@pytest.mark.parametrize(
    ("kernel", "size", "geometry"),
    [
        ((1, 1), (5, 6), {}),
        ((3, 3), (5, 6), {"padding": 1}),
        ((3, 2), (7, 6), {"stride": (2, 1), "padding": (1, 0)}),
        ((2, 3), (7, 9), {"dilation": (2, 3), "padding": 2}),
        ((3,), (9,), {"padding": 1, "stride": 2}),
        ((2, 2, 2), (3, 4, 3), {"padding": (1, 0, 1)}),
        ((5, 6), (5, 6), {}),
    ],
)
def test_fields_are_those_of_convolutions_of_one_input_alone(kernel, size, geometry):
    inputs, weight = made(24, kernel=kernel, size=size)
    found, wanted = values(inputs, weight, **geometry), naive(inputs, weight, **geometry)
    for name in FIELDS:
        assert found[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-5), name


def test_two_inputs_are_a_skip_and_a_branch():
    """The same numbers as those of a residual sum of the two parts."""
    inputs, weight = made(channels=(3, 2))
    skip, branch = (functional.conv2d(x, w, padding=1) for x, w in zip(inputs, weight.split([3, 2], 1), strict=True))
    found = values(inputs, weight, padding=1)
    for name in FIELDS:
        summed = measure(f"branch_variance_share.{name}", skip, branch, positions=1000)
        assert found[name][1] == pytest.approx(summed.value, rel=1e-4), name
    assert found["share"][0] == pytest.approx(
        measure("branch_variance_share.skip_share", skip, branch, positions=1000).value, rel=1e-4
    )


def test_the_jackknife_leaves_out_groups_of_images():
    inputs, weight = made()
    groups = torch.arange(48) % 8
    whole = naive(inputs, weight)["share"]
    rest = [naive([x[groups != g] for x in inputs], weight)["share"] for g in range(8)]
    found = estimates(inputs, weight)["share"]
    low, high = found.interval(0.95)
    moved = np.array(rest) - np.mean(rest, axis=0)
    reach = stats.t.ppf(0.975, 7) * np.sqrt((moved**2).sum(0) * 7 / 8)
    assert high == pytest.approx(np.array(whole) + reach, rel=1e-4)
    assert low == pytest.approx(np.array(whole) - reach, rel=1e-4)


# --- closed forms -----------------------------------------------------------------------------------------------


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


ONES = torch.ones(1, 2, 1, 1)


def test_an_input_that_the_weights_ignore():
    a, b = noise(32, 1, 4, 4), noise(32, 1, 4, 4, seed=1)
    found = values([a, b], torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1))
    assert found["share"] == pytest.approx([1, 0])
    assert found["standardised"] == pytest.approx([1, 0])
    assert found["ratio"][1] == 0
    assert math.isnan(found["ratio"][0])  # nothing to compare with
    assert np.isnan(found["correlation"]).all()


def test_equal_inputs_and_an_opposing_one():
    a = noise(32, 1, 4, 4)
    same = values([a, a], ONES)
    assert same["share"] == pytest.approx([0.5, 0.5])
    assert same["correlation"] == pytest.approx([1, 1])
    assert same["ratio"] == pytest.approx([1, 1])
    opposing = values([a, -a / 2], ONES)
    assert opposing["share"] == pytest.approx([2, -1])
    assert opposing["correlation"] == pytest.approx([-1, -1])


def test_uncorrelated_inputs_share_by_variance():
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)[:, :, None, None]
    inputs = [signs[:, i : i + 1] * scale for i, scale in enumerate((1, 2, 2))]
    found = values(inputs, torch.ones(2, 3, 1, 1), groups=2)
    assert found["share"] == pytest.approx([1 / 9, 4 / 9, 4 / 9])
    assert found["standardised"] == pytest.approx([1 / 9, 4 / 9, 4 / 9])
    assert found["correlation"] == pytest.approx([0, 0, 0], abs=1e-9)
    assert found["ratio"] == pytest.approx([math.sqrt(1 / 8), math.sqrt(4 / 5), math.sqrt(4 / 5)])


def test_a_constant_input_has_no_share_but_power():
    a = noise(32, 1, 4, 4)
    found = values([a, torch.full_like(a, 3.0)], ONES)
    assert found["share"] == pytest.approx([1, 0], abs=1e-9)
    assert found["ratio"][1] == pytest.approx(3 / float(a.double().square().mean().sqrt()), rel=1e-5)


def test_parts_that_cancel_are_nothing_by_nothing():
    a = noise(32, 1, 4, 4)
    found = values([a, -a], ONES)
    assert np.isnan(found["share"]).all()
    assert np.isnan(found["standardised"]).all()
    assert found["correlation"] == pytest.approx([-1, -1])


def test_as_many_inputs_as_a_dense_block_has():
    inputs = [noise(40, 2, 3, 3, seed=i) for i in range(33)]
    found = values(inputs, noise(5, 66, 3, 3, seed=99), padding=1)
    assert found["share"].shape == (33,)
    assert found["share"].sum() == pytest.approx(1)


# --- laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_shares_add_up_to_one(seed):
    found = values(*made(seed=seed), padding=1, positions=9)
    assert found["share"].sum() == pytest.approx(1, rel=1e-9)
    assert found["standardised"].sum() == pytest.approx(1, rel=1e-9)


def test_scales_of_outputs_leave_the_standardised_share():
    inputs, weight = made()
    scaled = weight * torch.tensor([0.01, 1.0, 3.0, 50.0])[:, None, None, None]
    before, after = values(inputs, weight), values(inputs, scaled)
    assert after["standardised"] == pytest.approx(before["standardised"], rel=1e-4)
    assert np.abs(after["share"] - before["share"]).max() > 0.01
    everything = values([x * 8 for x in inputs], weight)
    for name in FIELDS:
        assert everything[name] == pytest.approx(before[name], rel=1e-9)


def test_the_order_of_inputs_and_of_outputs():
    inputs, weight = made(channels=(2, 1, 3))
    before = values(inputs, weight)
    a, b, c = weight.split([2, 1, 3], 1)
    after = values([inputs[2], inputs[0], inputs[1]], torch.cat([c, a, b], 1).flip(0))
    for name in FIELDS:
        assert after[name] == pytest.approx(before[name][[2, 0, 1]], rel=1e-4)


def test_a_shift_of_an_input_changes_no_share_where_nothing_is_padded():
    inputs, weight = made()
    before, after = values(inputs, weight), values([inputs[0] + 5, *inputs[1:]], weight)
    for name in ("share", "standardised", "correlation"):
        assert after[name] == pytest.approx(before[name], rel=1e-3, abs=1e-5)
    assert after["ratio"][0] > before["ratio"][0]


def test_sampled_positions_estimate_all_of_them():
    inputs, weight = made(200, size=(12, 12))
    every, some = (estimates(inputs, weight, padding=1, positions=p)["share"] for p in (144, 12))
    low, high = some.interval(0.99)
    assert some.value == pytest.approx(every.value, abs=0.03)
    assert (low <= every.value).all()
    assert (every.value <= high).all()
    assert (some.value != every.value).all()


def test_intervals_cover_the_truth():
    """Independent inputs of variances 1 and 1/4 whose images have levels of their own, in 40 trials."""
    covered = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        a, b = (
            torch.randn(64, 1, 1, 1, generator=generator) + torch.randn(64, 1, 2, 2, generator=generator)
            for _ in range(2)
        )
        low, high = estimates([a, b / 2], ONES, groups=16)["share"].interval(0.95)
        covered += low[1] <= 0.2 <= high[1]
    assert stats.binom.ppf(0.001, 40, 0.95) <= covered


# --- where it applies -------------------------------------------------------------------------------------------


def test_where_it_means_something():
    inputs, weight = made()
    assert METRIC.applies(concat(inputs, weight), "share", {}) is None
    assert "has groups" in METRIC.applies(concat(inputs, weight, groups=2), "share", {})
    plain = make_site(Op.CONCAT, taps=("input0", "input1", "output"))
    assert "no convolution reads it" in METRIC.applies(plain, "share", {})
    assert METRIC.images(Need(plain, "share", 10, 0.05, {})) == 50


def test_plain_tensors():
    inputs, weight = made()
    maps, together = torch.cat(inputs, 1), values(inputs, weight, padding=1)["share"]
    told = measure("concat_share", maps, weight, padding=1, inputs=(2, 1, 3))
    assert told.units == pytest.approx(together.tolist(), rel=1e-4)
    # Where nothing is told of the inputs each channel is one.
    found = measure("concat_share", maps, weight, padding=1)
    assert len(found.units) == 6
    units = np.array(found.units)
    assert [units[:2].sum(), units[2], units[3:].sum()] == pytest.approx(together.tolist(), rel=1e-4)


def test_one_image_gives_values_and_no_interval():
    inputs, weight = made(1)
    found = estimates(inputs, weight)["share"]
    low, high = found.interval(0.95)
    assert found.value.sum() == pytest.approx(1)
    assert np.isinf(low).all()
    assert np.isinf(high).all()


def test_images_of_one_source_are_no_new_ones():
    inputs, weight = made(32)
    maps, sources = torch.cat(inputs, 1), list(range(32))
    one = measure("concat_share", maps, weight, sources=sources)
    same = measure("concat_share", torch.cat([maps, maps]), weight, sources=sources * 2)
    assert same.units == pytest.approx(one.units, rel=1e-6)
    assert same.highs == pytest.approx(one.highs, rel=1e-5)


# --- in an audit ------------------------------------------------------------------------------------------------


class Dense(nn.Module):
    """A dense block of two layers, and a concatenation that a pool reads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.first = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 5, 3, stride=2, padding=1)
        self.head = nn.Linear(7, 2)

    def forward(self, x):
        x = self.stem(x)
        new = self.first(x)
        y = self.second(torch.relu(self.norm(torch.cat([x, new], 1))))
        return self.head(torch.cat([y, new[..., ::2, ::2]], 1).mean((2, 3)))


def test_the_inputs_of_a_dense_layer():
    net, images = Dense().eval(), torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(5))
    rules = [{"metric": f"concat_share.{name}"} for name in FIELDS]
    flow = cnnaudit.profile(net, {"images": images}, rules=rules)
    with torch.no_grad():
        x = net.stem(images)
        read = torch.relu(net.norm(torch.cat([x, net.first(x)], 1)))
        wanted = naive([read[:, :4], read[:, 4:]], net.second.weight, stride=2, padding=1)
    for name in FIELDS:
        selection = flow[f"concat_share.{name}"]
        dense, last = selection.checks
        assert "no convolution reads it" in last.reason
        assert selection[dense.site.path].units == pytest.approx(wanted[name], rel=1e-4)
