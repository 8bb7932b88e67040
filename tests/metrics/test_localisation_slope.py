import math
from dataclasses import replace

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
from cnnaudit.site import Altered, Variant
from cnnaudit.statistics import CentreShifts, Probe, View, draw_offsets

METRIC = registry()["localisation_slope"]
MARGIN = 6


def fields(first, second, **facts):
    facts = {"margin": (MARGIN,) * (first.dim() - 2)} | facts
    return {name: measure(f"localisation_slope.{name}", first, second, **facts) for name in METRIC.fields}


def shifts(images, seed=0, margins=(MARGIN, MARGIN)):
    """How much further than the first crop the second lies, for each image and dimension."""
    first, second = (draw_offsets(torch.arange(images), seed, draw, margins) for draw in range(2))
    return (second - first).double().numpy()


def crops(canvas, size, seed=0):
    """Two random crops of each canvas, drawn as an audit draws them."""
    margins = tuple((c - s) // 2 for c, s in zip(canvas.shape[2:], size, strict=True))
    found = []
    for draw in range(2):
        corner = draw_offsets(torch.arange(len(canvas)), seed, draw, margins) + torch.tensor(margins)
        places = zip(canvas, corner.tolist(), strict=True)
        found.append(torch.stack([x[:, y : y + size[0], z : z + size[1]] for x, (y, z) in places]))
    return found


def objects(images=80, size=28, seed=0):
    """One object of 2 x 2 pixels an image, near the middle of an empty ground, brighter in some images."""
    generator = torch.Generator().manual_seed(seed)
    canvas = torch.zeros(images, 2, size, size)
    corner = torch.randint(size // 2 - 2, size // 2 + 1, (images, 2), generator=generator)
    for x, (y, z) in zip(canvas, corner.tolist(), strict=True):
        x[:, y : y + 2, z : z + 2] = 0.1 + torch.rand(2, 2, 2, generator=generator)
    return canvas


# --- closed forms -----------------------------------------------------------------------------------------------


def test_one_object_on_an_empty_ground_moves_with_the_image():
    found = fields(*crops(objects(), (16, 16)))
    for name in METRIC.fields:
        assert found[name].units == pytest.approx((1, 1), abs=1e-6)
        assert found[name].lows == pytest.approx((1, 1), abs=1e-5)


def test_positions_are_counted_in_pixels():
    maps = [F.max_pool2d(x, 2) for x in crops(objects(400), (16, 16))]
    found = fields(*maps, jump=2)
    for slope, r2 in zip(found["slope"].units, found["r2"].units, strict=True):
        assert slope == pytest.approx(1, abs=0.02)
        assert 0.98 < r2 < 1
    assert fields(*maps, jump=1)["slope"].units == pytest.approx([s / 2 for s in found["slope"].units])


def test_what_does_not_move_has_no_slope():
    still = objects()[..., 6:22, 6:22]
    found = fields(still, still.clone())
    assert found["slope"].units == found["slope"].lows == found["slope"].highs == (0, 0)
    assert all(math.isnan(x) for x in found["r2"].units)


def test_what_moves_against_the_image():
    first, second = crops(objects(), (16, 16))
    found = fields(second, first)
    assert found["slope"].units == pytest.approx((-1, -1), abs=1e-6)
    assert found["r2"].units == pytest.approx((1, 1), abs=1e-6)


def test_unrelated_places():
    generator = torch.Generator().manual_seed(2)
    found = fields(*(torch.rand(300, 3, 8, 8, generator=generator).pow(8) for _ in range(2)))
    for low, high in zip(found["slope"].lows, found["slope"].highs, strict=True):
        assert low < 0 < high
    assert max(found["r2"].units) < 0.03
    assert found["r2"].lows == (0, 0, 0)


# --- against numpy ----------------------------------------------------------------------------------------------


def centres(x):
    """Centre of mass of the positive part of one map, value by value."""
    mass = [(v, place) for place, v in np.ndenumerate(x) if v > 0]
    total = sum(v for v, _ in mass)
    return np.array([sum(v * place[d] for v, place in mass) / total for d in range(x.ndim)])


def naive(first, second, jump, seed=0):
    """Sums of x^2, x y and y^2 of each image in which there are centres."""
    found = []
    for x, a, b in zip(shifts(len(first), seed), first.double().numpy(), second.double().numpy(), strict=True):
        if a.max() > 0 and b.max() > 0:
            y = (centres(a) - centres(b)) * jump
            found.append([x @ x, x @ y, y @ y])
    return np.array(found)


def test_fields_are_those_of_numpy():
    generator = torch.Generator().manual_seed(3)
    canvas = torch.randn(90, 3, 32, 32, generator=generator)
    first, second = (F.avg_pool2d((x - 1.5).relu(), 5, 3).sub(0.02) for x in crops(canvas, (20, 20)))
    first[::7, 1] = -1.0  # images in which a kernel is silent
    found = fields(first, second, jump=3, margin=(6, 6))
    for kernel in range(3):
        z = naive(first[:, kernel], second[:, kernel], 3)
        assert len(z) == (77 if kernel == 1 else 90)
        xx, xy, yy = z.sum(0)
        assert found["slope"].units[kernel] == pytest.approx(xy / xx, rel=1e-6)
        assert found["r2"].units[kernel] == pytest.approx(xy**2 / (xx * yy), rel=1e-6)
        residual = z[:, 1] - xy / xx * z[:, 0]
        reach = stats.norm.ppf(0.975) * math.sqrt((residual**2).sum() * 90 / 89) / xx
        assert found["slope"].highs[kernel] == pytest.approx(xy / xx + reach, rel=1e-5)
        # An infinitesimal change of each image's weight.
        r = xy / math.sqrt(xx * yy)
        influence = r * (z[:, 1] / xy - z[:, 0] / (2 * xx) - z[:, 2] / (2 * yy))
        error = math.sqrt((influence**2).sum()) / (1 - r**2) * (1 + math.sqrt((z[:, 2] ** 2).sum()) / yy)
        high = math.tanh(math.atanh(abs(r)) + stats.norm.ppf(0.975) * error) ** 2
        assert found["r2"].highs[kernel] == pytest.approx(high, rel=1e-5)


# --- laws -------------------------------------------------------------------------------------------------------


def example(images=100):
    canvas = objects(images) + 0.02 * torch.rand(images, 2, 28, 28, generator=torch.Generator().manual_seed(4))
    return crops(canvas, (16, 16))


def test_rescaling_a_kernel_changes_nothing():
    scale = torch.tensor([0.25, 64.0])[:, None, None]
    before, after = fields(*example()), fields(*(x * scale for x in example()))
    for name in METRIC.fields:
        assert after[name].units == pytest.approx(before[name].units, rel=1e-9)
        assert after[name].highs == pytest.approx(before[name].highs, rel=1e-9)


def test_only_the_positive_part_counts():
    first, second = example()
    dented = [torch.where(x < 0.02, -5.0, x) for x in (first, second)]
    assert fields(*dented)["slope"].units == pytest.approx(
        fields(*(torch.where(x < 0.02, 0.0, x) for x in (first, second)))["slope"].units, rel=1e-12
    )


def test_channels_are_told_apart():
    first, second = example()
    mixed = [torch.stack([x[:, 0], x[:, 1].sqrt()], 1) for x in (first, second)]
    before, after = fields(*mixed), fields(*(x.flip(1) for x in mixed))
    for name in METRIC.fields:
        assert after[name].units == pytest.approx(before[name].units[::-1], rel=1e-12)
        assert before[name].units[0] != pytest.approx(before[name].units[1], rel=1e-3)


def test_activity_on_the_whole_map_moves_less_than_the_image():
    few, much = (fields(*crops(objects() + ground, (16, 16)))["slope"].units for ground in (0.001, 0.1))
    assert 0.5 < min(few) < 1
    assert 0 <= max(much) < 0.3


def test_maps_of_one_dimension():
    lines = [x.sum(3) for x in crops(objects(), (16, 16))]
    for found in fields(*lines).values():
        assert found.units == pytest.approx((1, 1), abs=1e-6)


def test_images_of_one_source_are_told_by_source():
    first, second = example(120)
    alone, fours = (fields(first, second, sources=[i // k for i in range(120)]) for k in (1, 4))
    for name in METRIC.fields:
        assert fours[name].units == pytest.approx(alone[name].units, rel=1e-9)
        assert all(low < high for low, high in zip(fours[name].lows, fours[name].highs, strict=True))


def test_few_images_that_carry_the_shifts_widen_intervals_by_source_as_well():
    first, second = example(60)
    stray = 0.3 * torch.rand(60, 2, 16, 16, generator=torch.Generator().manual_seed(1)) ** 8
    second = second + stray
    alone, own = (fields(first, second, sources=sources)["r2"] for sources in (None, range(60)))
    widths = np.subtract(own.highs, own.lows) / np.subtract(alone.highs, alone.lows)
    assert widths.mean() == pytest.approx(1, abs=0.2)


# --- edges ------------------------------------------------------------------------------------------------------


def folded(first, second):
    site = make_site(units=first.shape[1], shape=tuple(first.shape[2:]), taps=METRIC.taps, jump=(1, 1))
    runs = {t: Variant("", "crop", (i, MARGIN, MARGIN)) for i, t in enumerate(METRIC.taps)}
    site = site.with_taps({tap: replace(site.taps[tap], variant=variant) for tap, variant in runs.items()})
    statistic = CentreShifts(Probe(CentreShifts, site, METRIC.taps), 1)
    view = View(dict(zip(METRIC.taps, (first, second), strict=True)), torch.arange(len(first)), None, 0)
    statistic.fold(statistic.read(view), torch.zeros(len(first), dtype=torch.int64))
    return statistic, site


def test_kernels_that_hardly_ever_fire_are_left_open():
    first, second = crops(objects(128), (16, 16))
    second[32:, 1] = 0
    statistic, site = folded(first, second)
    gate = METRIC.gate(statistic, site, "slope", {})
    assert gate.images.tolist() == [0, 256]
    assert "active in both crops of 32 images, and 64 are needed" in gate.reason


def test_a_dead_kernel_has_no_place():
    first, second = crops(objects(), (16, 16))
    first[:, 1] = second[:, 1] = 0
    for found in fields(first, second).values():
        assert [math.isnan(x) for x in found.units] == [False, True]


def test_one_image_gives_a_value_and_no_interval():
    first, second = (x[5:6] for x in example())
    found = fields(first, second, seed=1)
    assert found["slope"].lows == (-math.inf, -math.inf)
    assert found["slope"].highs == (math.inf, math.inf)
    assert (found["r2"].lows, found["r2"].highs) == ((0, 0), (1, 1))


def test_where_it_applies_and_what_is_read():
    assert METRIC.applies(make_site(jump=(4, 4)), "slope", {}) is None
    assert "no place" in METRIC.applies(make_site(jump=(0, 0)), "slope", {})
    assert "no place" in METRIC.applies(make_site(shape=(), jump=()), "slope", {})
    assert METRIC.variants(make_site(), {}) == {
        tap: Altered("result", of="image", by="crop", amount=(draw,)) for draw, tap in enumerate(("first", "second"))
    }
    assert METRIC.images(Need(None, "slope", 10, 0.05, {})) == 64
    with pytest.raises(MetricError, match="does not apply: every position sees the whole image"):
        measure("localisation_slope", torch.rand(9, 3), torch.rand(9, 3), margin=())


# --- in a network -----------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Averages of the image at two strides; what is pooled over all positions has no place."""

    def __init__(self):
        super().__init__()
        self.blur, self.wide = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.AvgPool2d(4)
        self.head = nn.Linear(2, 3)
        with torch.no_grad():
            self.blur.weight.zero_()
            self.blur.weight[[0, 1], [0, 1]] = 1 / 9

    def forward(self, x):
        x = self.wide(self.blur(x).relu())
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def test_an_audit_shifts_the_images():
    canvas = objects(100)
    flow = cnnaudit.profile(
        Net().eval(), {"images": canvas}, rules=[{"metric": "localisation_slope.slope"}], crop=20, seed=3
    )
    selection = flow["localisation_slope.slope"]
    reasons = {check.site.path: check.reason for check in selection.checks}
    assert selection["blur"].units == pytest.approx((1, 1), abs=1e-5)
    assert selection["wide"].units == pytest.approx((1, 1), abs=0.05)
    assert [path for path, reason in reasons.items() if "no place" in reason]
    assert reasons["blur"] == reasons["wide"] == ""
