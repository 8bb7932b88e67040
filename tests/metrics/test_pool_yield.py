import math
from collections import Counter

import numpy as np
import pytest
import torch
from builders import as_maps, every_pattern, make_pool
from scipy import stats

from cnnaudit import MetricError, measure
from cnnaudit.metrics import registry
from cnnaudit.site import Tap
from cnnaudit.statistics import Probe, View, WindowHistogram

METRIC = registry()["pool_yield"]
MACS = 10**6


def hb(p):
    return stats.entropy([p, 1 - p], base=2)


def maps(images=80, units=2, size=8, seed=0):
    x = torch.randn(images, units, size, size, generator=torch.Generator().manual_seed(seed))
    return (x - 0.3).relu()


def at(site, x, **params):
    """Every field at a site, whose facts ``measure`` does not take: values without the jackknife's correction."""
    params = dict(METRIC.params(**params))
    return {
        name: value.numpy() for name, value in METRIC.function(folded(site, x, params).pooled(), site, **params).items()
    }


def told(site, x, **params):
    """The same with intervals."""
    params = dict(METRIC.params(**params))
    return METRIC.evaluate(folded(site, x, params), site, params)


def folded(site, x, params):
    histogram = WindowHistogram(Probe(WindowHistogram, site, ("input",), METRIC.options(params)), 16)
    ids = torch.arange(len(x))
    reading = histogram.read(View({"input": x}, ids, None, 0))
    histogram.calibrate([reading])
    histogram.fold(reading, ids)
    return histogram


def enumerated():
    """All maps of 4x4 bits, once each."""
    return as_maps(torch.arange(2**16)[:, None] // 2 ** torch.arange(16) % 2, 4, 4)


# --- closed forms -----------------------------------------------------------------------------------------------


def test_fair_bits_under_max_and_stride():
    """Max leaves 4 values of Hb(1/16) bits of 16 of 1 bit; a stride leaves 4 of 1 bit."""
    for operator, density in (("max", hb(1 / 16)), ("stride", 1.0)):
        site = make_pool((4, 4), units=1, operator=operator, macs_after=2_000_000)
        found = {name: v[0] for name, v in at(site, enumerated(), levels=2, estimator="plugin").items()}
        expected = {"per_mmac": 4 * density / 2, "per_mmac_unpooled": 4 / 2}
        assert found == pytest.approx(expected, abs=1e-9)


def test_sparse_bits_become_denser():
    """P(1) = .1 under 2x2 max: .928502 bits a value of .468996, 64 values of 256, and a quarter of the arithmetic."""
    x = (torch.rand(600, 1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.1).long()
    for field, bits in (("per_mmac", 0.928502), ("per_mmac_unpooled", 0.468996)):
        found = measure(f"pool_yield.{field}", x, levels=2, macs_after=MACS)
        assert found.low <= 64 * bits <= found.high
        assert found.value == pytest.approx(64 * bits, rel=0.02)


def test_a_pool_of_one_value_yields_what_went_in():
    whole = [
        measure(f"pool_yield.{field}", maps(), kernel=1, stride=1, levels=4, macs_after=MACS).units
        for field in METRIC.fields
    ]
    assert whole[0] == pytest.approx(whole[1])


def test_nearest_upsampling_before_the_pool_keeps_the_output_as_it_was():
    """Equal values in a window: the 4 outputs of a block are as many independent values; inputs are one, 4 times."""
    x = as_maps(every_pattern(4, 2), 2, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    found = at(make_pool((4, 4), macs_after=MACS), x, levels=2, estimator="plugin")
    assert found["per_mmac"] == pytest.approx([4])  # 4 outputs of 1 bit
    assert found["per_mmac_unpooled"] == pytest.approx([1])  # 16 inputs of 1 / 4 bit, 4 times the arithmetic


# --- against a naive reference ----------------------------------------------------------------------------------


def naive_density(blocks):
    return stats.entropy(list(Counter(map(tuple, blocks)).values()), base=2) / len(blocks[0])


def test_all_fields_are_those_of_a_naive_reference():
    x = torch.randint(0, 3, (40, 2, 6, 10), generator=torch.Generator().manual_seed(1))
    site = make_pool((6, 10), units=2, macs_after=3_500_000)
    found = at(site, x, levels=3, windows=64, estimator="plugin")
    for unit in range(2):
        outputs, inputs = [], []
        for image in x[:, unit].numpy():
            pooled = image.reshape(3, 2, 5, 2).max((1, 3))
            for i in range(2):
                for j in range(4):
                    outputs.append(pooled[i : i + 2, j : j + 2].ravel().tolist())
                    inputs.append(image[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].ravel().tolist())
        after, before = naive_density(outputs), naive_density(inputs)
        expected = {
            "per_mmac": 2 * 15 * after / 3.5,
            "per_mmac_unpooled": 2 * 60 * before / (3.5 * 60 / 15),
        }
        assert {name: v[unit] for name, v in found.items()} == pytest.approx(expected)


def test_the_jackknife_leaves_out_images():
    x = torch.randint(0, 2, (16, 1, 6, 6), generator=torch.Generator().manual_seed(2))
    site = make_pool((6, 6), macs_after=MACS)
    found = told(site, x, levels=2, estimator="plugin")
    plain = at(site, x, levels=2, estimator="plugin")
    for name, whole in found.items():
        parts = [at(site, x[torch.arange(16) != i], levels=2, estimator="plugin")[name][0] for i in range(16)]
        pseudo = 16 * plain[name][0] - 15 * np.array(parts)
        reach = stats.t.ppf(0.975, 15) * stats.sem(pseudo)
        assert whole.value[0] == pytest.approx(pseudo.mean())
        low, high = (end[0] for end in whole.interval(0.95))
        ends = plain[name][0], pseudo.mean()
        assert (low, high) == pytest.approx((min(ends) - reach, max(ends) + reach))


def test_bits_are_corrected_for_their_bias():
    """Independent uniform values of 4 levels: the plug-in of 256 cells misses .1 bits a neighbourhood."""
    x = torch.randint(0, 4, (60, 20, 6, 6), generator=torch.Generator().manual_seed(4))
    site = make_pool((6, 6), units=20, operator="stride", macs_after=MACS)
    truth = 20 * 9 * 2
    plain = at(site, x, levels=4, estimator="plugin")["per_mmac"].mean()
    found = told(site, x, levels=4, estimator="plugin")["per_mmac"].value.mean()
    assert plain < 0.98 * truth
    assert abs(found - truth) < 0.4 * (truth - plain)


# --- laws -------------------------------------------------------------------------------------------------------


def test_the_ratio_of_both_yields_is_the_density():
    site, loss = make_pool((8, 8), units=2, macs_after=12_345), registry()["pool_entropy_loss"]
    found = at(site, maps())
    same = loss.function(folded(site, maps(), dict(METRIC.params())).pooled(), site, **dict(loss.params()))
    assert found["per_mmac"] / found["per_mmac_unpooled"] == pytest.approx(same["density_ratio"].numpy())


def test_the_number_of_outputs_is_the_networks_where_it_is_known():
    """A last row and column that no window reads are lost, too; with ceil_mode they have outputs of their own."""
    x = maps(size=9)
    tiled = make_pool((9, 9), units=2, macs_after=MACS)
    ceiled = tiled.with_taps({"output": Tap("pooled", (2, 5, 5))})
    plain, more = at(tiled, x), at(ceiled, x)
    for name in METRIC.fields:
        assert more[name] == pytest.approx(plain[name] * 25 / 16)
    padded = make_pool((9, 9), 3, 2, units=2, padding=1, macs_after=MACS)
    told_size = at(padded.with_taps({"output": Tap("pooled", (2, 5, 5))}), x)
    for name, value in at(padded, x).items():
        assert value == pytest.approx(told_size[name])


def test_positive_scaling_and_the_order_of_channels_do_not_matter():
    wanted = measure("pool_yield", maps(units=3), macs_after=MACS)
    scale = torch.tensor([0.25, 1.0, 1024.0])[:, None, None]
    assert measure("pool_yield", maps(units=3) * scale, macs_after=MACS) == wanted
    turned = measure("pool_yield", maps(units=3)[:, [2, 0, 1]], macs_after=MACS)
    assert turned.units == pytest.approx([wanted.units[k] for k in (2, 0, 1)])


def test_images_of_one_source_are_no_more_than_one():
    x = torch.randint(0, 3, (60, 2, 6, 6), generator=torch.Generator().manual_seed(3))
    facts = {"levels": 3, "estimator": "plugin", "macs_after": MACS}
    once = measure("pool_yield", x, sources=range(60), **facts)
    again = measure("pool_yield", x.repeat(2, 1, 1, 1), sources=[*range(60)] * 2, **facts)
    for name in ("units", "lows", "highs"):
        assert getattr(again, name) == pytest.approx(getattr(once, name))


# --- edges ------------------------------------------------------------------------------------------------------


def test_a_kernel_that_never_varies_yields_nothing_to_speak_of():
    x = maps()
    x[:, 1] = 0
    for found in at(make_pool((8, 8), units=2, macs_after=MACS), x).values():
        assert math.isfinite(found[0])
        assert math.isnan(found[1])


def test_one_image_gives_a_value_and_no_interval():
    found = measure("pool_yield", maps(1), macs_after=MACS)
    assert all(value >= 0 for value in found.units)
    assert found.lows == (0, 0)
    assert found.highs == (math.inf, math.inf)


def test_where_it_has_no_meaning():
    def why(field, *shape, **facts):
        return METRIC.applies(make_pool(*shape, **({"macs_after": 1} | facts)), field, {})

    for field in METRIC.fields:
        assert why(field, (8, 8)) is None
        assert "global pool" in why(field, (2, 2), is_global=True)
        assert "no neighbours" in why(field, (2, 2))
        assert "steers a gate" in why(field, (8, 8), steers=True)
        assert "8 levels of 8 neighbours do not fit" in why(field, (4, 4, 4), (1, 1, 2))
        assert "no convolution or linear layer follows" in why(field, (8, 8), macs_after=0)
    with pytest.raises(MetricError, match="no neighbours"):
        measure("pool_yield", maps(4)[..., :2, :2], macs_after=MACS)


def test_measure_takes_the_multiply_adds_behind_the_pool():
    found, double = (measure("pool_yield.per_mmac", maps(), levels=3, macs_after=m) for m in (10**6, 2 * 10**6))
    assert found.value == pytest.approx(2 * double.value)
    assert found.low <= found.value <= found.high
