import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from builders import make_site
from scipy import stats
from torch import nn

import cnnaudit
from cnnaudit import MetricError, measure
from cnnaudit.metrics import Need, registry
from cnnaudit.site import Altered
from cnnaudit.statistics import common_positions, shifts

METRIC = registry()["shift_equivariance_error"]


def noise(images=60, units=2, size=34, *, uniform=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand if uniform else torch.randn
    return draw(images, units, size, size, generator=generator)


def runs(canvas, layer, jump=2):
    """A layer's maps on the image, shifted by the jump in each dimension and by one pixel to the side."""
    size = canvas.shape[-1] - jump
    return [layer(x) for x in (canvas[..., :size, :size], canvas[..., jump:, jump:], canvas[..., :size, 1 : size + 1])]


def both(*maps, **facts):
    return {name: measure(f"shift_equivariance_error.{name}", *maps, **facts) for name in METRIC.fields}


# --- closed forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "uniform", "truth"),
    [
        (lambda x: x[..., ::2, ::2], False, 1),
        (lambda x: F.avg_pool2d(x, 2), False, 0.5),
        (lambda x: F.max_pool2d(x, 2), True, 0.625),
    ],
    ids=["every second", "average", "maximum"],
)
def test_white_noise_shifted_by_one_pixel(layer, uniform, truth):
    found = both(*runs(noise(uniform=uniform), layer), jump=2)
    for value, low, high in zip(found["pixel"].units, found["pixel"].lows, found["pixel"].highs, strict=True):
        assert value == pytest.approx(truth, abs=0.02)
        assert low < truth < high
    # A shift by the stride moves the map by one position, and nothing else.
    assert found["stride"].units == found["stride"].lows == (0, 0)
    assert found["stride"].highs == pytest.approx([2 * (1 - 0.025 ** (1 / 59))] * 2, rel=0.02)


def test_a_dense_map_follows_every_pixel():
    kernel = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    maps = runs(noise().double(), lambda x: F.conv2d(x, kernel), jump=1)
    found = both(*maps, jump=1)
    assert max(found["stride"].units + found["pixel"].units) < 1e-25


def test_opposite_and_unrelated_maps():
    u, other = noise(size=16), noise(size=16, seed=1)
    # Where a map is laid over itself, its opposite follows at no position.
    moved = torch.roll(u, (-1, -1), (2, 3))
    assert both(u, -moved, u, jump=2)["stride"].units == pytest.approx((2, 2), abs=0.02)
    assert both(u, -moved, -u, jump=2)["pixel"].units == pytest.approx((2, 2), abs=0.02)
    assert both(u, other, other, jump=2)["pixel"].units == pytest.approx((1, 1), abs=0.03)


# --- against numpy ----------------------------------------------------------------------------------------------


def naive(u, v, interior, by):
    """One kernel's error and its standard error over images, position by position."""
    a, b = np.zeros(len(u)), np.zeros(len(u))
    (top, bottom), (left, right) = interior
    for i, (x, y) in enumerate(zip(u.double().numpy(), v.double().numpy(), strict=True)):
        pairs = [
            (x[p + by[0], q + by[1]], y[p, q])
            for p in range(top, bottom)
            for q in range(left, right)
            if p + by[0] < bottom and q + by[1] < right
        ]
        mean = np.mean(pairs)
        a[i] = sum((s - t) ** 2 for s, t in pairs)
        b[i] = sum((s - mean) ** 2 + (t - mean) ** 2 for s, t in pairs)
    ratio = a.sum() / b.sum()
    carrying = b.sum() ** 2 / (b**2).sum()
    error = math.sqrt(((a - ratio * b) ** 2).sum() * len(u) / (len(u) - 1)) / b.sum()
    return ratio, error * (1 + 1 / math.sqrt(carrying))


@pytest.mark.parametrize(("jump", "sideways"), [(1, 1), (2, 0)])
def test_only_positions_that_see_the_image_count(jump, sideways):
    maps = [noise(20, 3, 7, seed=s).relu() for s in range(3)]
    interior = ((1, 6), (2, 7))
    found = both(*maps, jump=jump, interior=interior)
    for kernel in range(3):
        u, by_stride, by_pixel = (x[:, kernel] for x in maps)
        stride, error = naive(u, by_stride, interior, (1, 1))
        assert found["stride"].units[kernel] == pytest.approx(stride, rel=1e-6)
        n = stride / 2 * (1 - stride / 2) / (error / 2) ** 2 + 1
        low = stats.beta.ppf(0.025, n * stride / 2, n - n * stride / 2 + 1)
        assert found["stride"].lows[kernel] == pytest.approx(2 * low, rel=1e-4)
        assert found["pixel"].units[kernel] == pytest.approx(naive(u, by_pixel, interior, (0, sideways))[0], rel=1e-6)


# --- laws -------------------------------------------------------------------------------------------------------


def maps(images=80):
    """Rectified maps of a pool, related but not equal."""
    return runs(noise(images, 3, 18), lambda x: F.max_pool2d(x, 2).sub(0.8).relu())


def test_rescaling_a_kernel_changes_nothing():
    scale = torch.tensor([0.25, 1.0, 64.0])[:, None, None]
    before, after = both(*maps(), jump=2), both(*(x * scale for x in maps()), jump=2)
    for name in METRIC.fields:
        assert after[name].units == pytest.approx(before[name].units, rel=1e-9)
        assert after[name].highs == pytest.approx(before[name].highs, rel=1e-9)


def test_an_offset_changes_nothing():
    before, after = both(*maps(), jump=2), both(*(x + 100 for x in maps()), jump=2)
    for name in METRIC.fields:
        assert after[name].units == pytest.approx(before[name].units, rel=1e-3, abs=1e-9)


def test_channels_are_told_apart():
    order = [2, 0, 1]
    before, after = both(*maps(), jump=2), both(*(x[:, order] for x in maps()), jump=2)
    for name in METRIC.fields:
        assert after[name].units == pytest.approx([before[name].units[k] for k in order], rel=1e-12)


def test_duplicating_every_image_shrinks_intervals_by_the_root_of_two():
    one = both(*maps(), jump=2)["pixel"]
    two = both(*(torch.cat([x, x]) for x in maps()), jump=2)["pixel"]
    assert two.units == pytest.approx(one.units, rel=1e-9)
    widths = np.subtract(one.highs, one.lows) / np.subtract(two.highs, two.lows)
    assert widths == pytest.approx(math.sqrt(2), rel=0.06)  # the surcharge for few images shrinks as well


def test_images_of_one_source_tell_no_more_than_one():
    alone = both(*maps(), jump=2, sources=range(80))["pixel"]
    repeated = [x.repeat_interleave(4, 0) for x in maps()]
    four = both(*repeated, jump=2, sources=[i // 4 for i in range(320)])["pixel"]
    assert four.units == pytest.approx(alone.units, rel=1e-9)
    widths = np.subtract(four.highs, four.lows) / np.subtract(alone.highs, alone.lows)
    assert widths == pytest.approx(1, abs=0.3)


def test_few_images_that_carry_the_spread_widen_intervals_by_source_as_well():
    unlike = [x * torch.logspace(0, 1.3, 160)[:, None, None, None] for x in maps(160)]
    alone, own = (both(*unlike, jump=2, sources=sources)["pixel"] for sources in (None, range(160)))
    twice = both(*(x.repeat(2, 1, 1, 1) for x in unlike), jump=2, sources=[*range(160)] * 2)["pixel"]
    for found in (own, twice):
        widths = np.subtract(found.highs, found.lows) / np.subtract(alone.highs, alone.lows)
        assert widths.mean() == pytest.approx(1, abs=0.06)


# --- edges ------------------------------------------------------------------------------------------------------


def test_a_kernel_that_never_varies_has_no_error():
    still = torch.full((20, 2, 6, 6), 3.3)
    still[:, 1] = noise(20, 1, 6)[:, 0]
    found = both(still, still, still, jump=2)
    assert [math.isnan(x) for x in found["pixel"].units] == [True, False]
    assert found["pixel"].units[1] == 0


def test_a_kernel_that_one_image_carries_is_hardly_known():
    u, v = (torch.zeros(200, 1, 6, 6) for _ in range(2))
    u[7] = noise(1, 1, 6)[0]
    v[7] = u[7]
    found = measure("shift_equivariance_error.pixel", u, v, v, jump=2)
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(2 * (1 - 0.025))


def test_one_image_gives_a_value_and_no_interval():
    found = measure("shift_equivariance_error.pixel", *(x[:1] for x in maps()), jump=2)
    assert 0 < found.value < 2
    assert found.lows == (0, 0, 0)
    assert found.highs == (2, 2, 2)


def test_claims_about_the_data_set_have_no_error():
    found = measure("shift_equivariance_error.pixel", *maps(), jump=2, estimand="dataset")
    assert found.lows == found.units == found.highs


def place(jump=(2, 2), interior=((1, 7), (1, 7)), **facts):
    return make_site(shape=(8, 8), jump=jump, interior=interior, receptive_field=(5, 5), **facts)


@pytest.mark.parametrize(
    ("facts", "field", "reason"),
    [
        ({}, "stride", None),
        ({"jump": (), "interior": ()}, "stride", "every position sees the whole image"),
        ({"jump": (0, 0)}, "stride", "every position sees the whole image"),
        ({"jump": (0.5, 0.5)}, "pixel", "0.5 x 0.5 pixels of the image apart"),
        ({"interior": ((0, 0), (0, 0))}, "stride", "before and after the shift: 0, and 4 are needed"),
        ({"interior": ((2, 4), (2, 4))}, "stride", "before and after the shift: 1, and 4 are needed"),
        ({"interior": ((2, 4), (2, 4))}, "pixel", None),
        ({"interior": ((2, 4), (2, 3))}, "pixel", "a receptive field is 5 x 5 pixels"),
    ],
)
def test_where_it_applies(facts, field, reason):
    found = METRIC.applies(place(**facts), field, {})
    assert (reason is None and found is None) or reason in found


def test_how_far_images_and_maps_are_shifted():
    told = METRIC.variants(place(jump=(4, 2)), {})
    assert told["by_stride"] == Altered("result", of="image", by="shift", amount=(4, 2))
    assert told["by_pixel"] == Altered("result", of="image", by="shift", amount=(0, 1))
    assert shifts(place(jump=(4, 2))) == {"stride": (1, 1), "pixel": (0, 0)}
    assert shifts(place(jump=(2, 1))) == {"stride": (1, 1), "pixel": (0, 1)}
    assert common_positions(place(), (1, 0)) == (slice(1, 6), slice(1, 7))
    assert METRIC.images(Need(None, "stride", 10, 0.05, {})) == 64


def test_vectors_have_no_positions():
    with pytest.raises(MetricError, match="does not apply: every position sees the whole image"):
        measure("shift_equivariance_error", *(torch.rand(9, 3) for _ in range(3)))


# --- in a network -----------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.pool, self.branch = nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.down, self.head = nn.Conv2d(4, 5, 3, stride=2, padding=1), nn.Linear(5, 3)

    def forward(self, x):
        x = self.pool(self.norm(self.stem(x)).relu())
        x = (x + self.branch(x)).relu()
        return self.head(self.down(x).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def flow():
    canvas = torch.randn(64, 1, 46, 48, generator=torch.Generator().manual_seed(1))
    rules = [{"metric": f"shift_equivariance_error.{name}", "if_absent": "skip"} for name in METRIC.fields]
    return cnnaudit.profile(Net().eval(), {"images": canvas}, rules=rules, crop=[38, 40])


def test_whole_strides_move_maps_and_nothing_else(flow):
    selection = flow["shift_equivariance_error.stride"]
    told = {check.site.path: selection[check.site.path] for check in selection.checks if check.probe is not None}
    assert {"stem", "pool", "branch", "down"} <= set(told)
    assert max(max(found.units) for found in told.values()) < 1e-10


def test_downsampling_aliases_below_its_stride(flow):
    selection = flow["shift_equivariance_error.pixel"]
    assert max(selection["stem"].units) < 1e-10
    assert min(selection["pool"].units) > 0.1
    assert min(selection["down"].units) > 0.1


def test_the_border_is_left_out(flow):
    """Zero padding is seen at the border, and differs between the runs there."""
    (check,) = [c for c in flow["shift_equivariance_error.stride"].checks if c.site.path == "stem"]
    assert check.site.interior == ((1, 37), (1, 39))
    canvas = torch.randn(8, 1, 46, 48, generator=torch.Generator().manual_seed(1))
    net = Net().eval()
    with torch.no_grad():
        u, v, w = (net.norm(net.stem(x)).relu() for x in (canvas[..., 4:42, 4:44], *[canvas[..., 5:43, 5:45]] * 2))
    assert max(both(u, v, w)["stride"].units) > 1e-3
    assert max(both(u, v, w, interior=check.site.interior)["stride"].units) < 1e-10
