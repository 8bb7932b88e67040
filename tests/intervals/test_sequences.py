import math

import numpy as np
import pytest
from hypothesis import given
from kinds import NAN, array, many, sequences

from cnnaudit.intervals import Betting, BoundedMean, EmpiricalBernstein

KINDS = pytest.mark.parametrize("kind", [EmpiricalBernstein, Betting])
RATE = {
    "half": (lambda g, shape: (g.random(shape) < 0.5).astype(float), 0.5),
    "rare": (lambda g, shape: (g.random(shape) < 0.05).astype(float), 0.05),
    "uniform": (lambda g, shape: g.random(shape), 0.5),
    "skewed": (lambda g, shape: g.beta(0.5, 20, shape), 0.5 / 20.5),
}


def bets(x, level=0.05):
    """Waudby-Smith & Ramdas (2024), one image at a time: the mean before each image, and its bet."""
    found = []
    for t in range(1, len(x) + 1):
        past = x[: t - 1]
        means = [(0.5 + sum(x[:i])) / (i + 1) for i in range(t)]
        variance = (0.25 + sum((v - m) ** 2 for v, m in zip(past, means[1:], strict=True))) / t
        found.append((means[-1], math.sqrt(2 * math.log(2 / level) / (variance * t * math.log(1 + t)))))
    return found


def bernstein(x, alpha):
    """Theorem 2: centre and half-width after each image."""
    ends, weighted, spread, total = [], 0.0, 0.0, 0.0
    for value, (mean, best) in zip(x, bets(x), strict=True):
        bet = min(best, 0.5)
        weighted += bet * value
        spread += 4 * (value - mean) ** 2 * (-math.log(1 - bet) - bet) / 4
        total += bet
        reach = (math.log(2 / alpha) + spread) / total
        ends.append((weighted / total - reach, weighted / total + reach))
    return ends


def hedged(x, bound, known=None):
    """Theorem 3: both capitals after each image."""
    higher, lower, capitals = 1.0, 1.0, []
    for value, (_, bet) in zip(x, known or bets(x), strict=True):
        higher *= 1 + min(bet, 0.5 / bound if bound else math.inf) * (value - bound)
        lower *= 1 - min(bet, 0.5 / (1 - bound) if bound < 1 else math.inf) * (value - bound)
        capitals.append((higher, lower))
    return capitals


def some(n=40, seed=0):
    generator = np.random.default_rng(seed)
    return np.column_stack([generator.random(n), generator.random(n) < 0.9, generator.beta(1, 9, n), np.zeros(n)])


# --- against one image at a time ------------------------------------------------------------------------------


def test_empirical_bernstein_is_theorem_2():
    x = some()
    sequence = EmpiricalBernstein(x)
    lows, highs = sequence.running(0.9)
    for unit in range(4):
        low, high = zip(*bernstein(x[:, unit], 0.1), strict=True)
        assert lows[:, unit] == pytest.approx(np.maximum.accumulate(low).clip(0, 1))
        assert highs[:, unit] == pytest.approx(np.minimum.accumulate(high).clip(0, 1))
    assert [end.tolist() for end in sequence.interval(0.9)] == [lows[-1].tolist(), highs[-1].tolist()]


@pytest.mark.parametrize("bound", [0.0, 0.1, 0.5, 0.93, 1.0])
def test_betting_p_values_are_those_of_theorem_3(bound):
    x = some()
    sequence = Betting(x)
    for unit in range(4):
        higher, lower = np.max(hedged(x[:, unit], bound), axis=0)
        assert sequence.p_at_most(bound)[unit] == pytest.approx(min(1, 1 / higher))
        assert sequence.p_at_least(bound)[unit] == pytest.approx(min(1, 1 / lower))


def test_the_betting_interval_is_what_no_capital_has_refuted():
    x = some()
    low, high = Betting(x).interval(0.9)
    for unit in range(4):
        known = bets(x[:, unit])
        kept = [m for m in np.linspace(0, 1, 501) if np.max(hedged(x[:, unit], m, known)) < 2 / 0.1]
        assert (kept[0], kept[-1]) == pytest.approx((low[unit], high[unit]), abs=0.002)


def test_the_running_betting_interval_is_that_after_each_image_on_a_grid():
    x = some(60)
    lows, highs = Betting(x).running(0.9)
    for n in (1, 7, 33, 60):
        low, high = Betting(x[:n]).interval(0.9)
        assert ((lows[n - 1] <= low + 1e-9) & (low < lows[n - 1] + 0.001 + 1e-9)).all()
        assert ((highs[n - 1] >= high - 1e-9) & (high > highs[n - 1] - 0.001 - 1e-9)).all()


# --- laws -----------------------------------------------------------------------------------------------------


@many
@given(quantity=sequences)
def test_running_intervals_only_shrink_and_end_in_the_interval(quantity):
    lows, highs = quantity.running(0.9)
    assert (np.diff(lows, axis=0) >= 0).all()
    assert (np.diff(highs, axis=0) <= 0).all()
    for running, end in zip((lows, highs), quantity.interval(0.9), strict=True):
        assert running[-1] == pytest.approx(end, abs=0.00101)


@KINDS
def test_scale_and_shift_change_nothing(kind):
    x = some()
    plain, moved = kind(x), kind(3 * x - 1, (-1, 2))
    for one, other in zip(plain.interval(0.95), moved.interval(0.95), strict=True):
        assert other == pytest.approx(3 * one - 1, abs=1e-8)
    assert moved.p_at_most(0.2) == pytest.approx(plain.p_at_most(0.4))
    assert moved.p_at_least(0.2) == pytest.approx(plain.p_at_least(0.4))


@KINDS
def test_the_mirror_image_has_the_mirrored_interval(kind):
    low, high = kind(some()).interval(0.95)
    lower, higher = kind(1 - some()).interval(0.95)
    assert (lower, higher) == (pytest.approx(1 - high, abs=1e-8), pytest.approx(1 - low, abs=1e-8))


@KINDS
def test_beyond_the_limits_is_impossible(kind):
    quantity = kind(np.column_stack([np.zeros(9), np.full(9, NAN)]))
    for p in (quantity.p_below(0), quantity.p_above(1), quantity.p_at_most(-0.1), quantity.p_at_least(1.1)):
        assert p.tolist() == [0, 1]


@KINDS
def test_the_mean_over_units_is_that_of_the_images_means(kind):
    x = some()
    mean = kind(x).mean()
    assert mean.value == pytest.approx([x.mean()])
    for one, other in zip(mean.interval(0.9), kind(x.mean(1, keepdims=True)).interval(0.9), strict=True):
        assert one.tolist() == other.tolist()


@KINDS
def test_by_sources_it_is_a_claim_at_this_number_only(kind):
    x = some(40)
    groups = np.arange(40).reshape(8, 5)
    parts = [kind(np.delete(x, group, 0)) for group in groups]
    found = kind(x).regrouped(parts, np.full(8, 5.0), 20)
    assert isinstance(found, BoundedMean)
    assert found.error == pytest.approx(x.reshape(8, 5, 4).mean(1).std(0, ddof=1) / math.sqrt(8))
    assert (found.units, found.dof, found.limits) == (20, 7, (0, 1))


@KINDS
def test_many_units_are_read_a_few_at_a_time(kind, monkeypatch):
    x = some()
    whole = kind(x).interval(0.9), kind(x).p_at_most(0.4)
    monkeypatch.setattr("cnnaudit.intervals.sequences._CELLS", 80)
    parts = kind(x).interval(0.9), kind(x).p_at_most(0.4)
    assert np.array(whole[0]).tolist() == np.array(parts[0]).tolist()
    assert whole[1].tolist() == parts[1].tolist()


@KINDS
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (array(0.5, 0.5), r"shape \(images, units\), not \(2,\)"),
        (np.ones((0, 3)), r"shape \(images, units\), not \(0, 3\)"),
        (np.array([[0.5], [1.01]]), r"outside their limits \(0.0, 1.0\)"),
        (np.array([[-0.01], [1.0]]), r"outside their limits"),
    ],
)
def test_values_that_are_none(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(values)


# --- do they keep what they promise? --------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("name", RATE)
def test_a_look_at_every_image_misses_the_truth_no_more_often_than_allowed(kind, name):
    """600 runs of 300 images, level .1: the running interval has the truth where it had it at every image."""
    draw, truth = RATE[name]
    sequence = kind(draw(np.random.default_rng(1), (300, 600)))
    low, high = sequence.interval(0.9)
    assert ((low > truth) | (high < truth)).mean() <= 0.1
    for p in (sequence.p_at_most(truth), sequence.p_at_least(truth)):
        assert (p <= 0.05).mean() <= 0.05


@pytest.mark.parametrize("name", RATE)
def test_the_price_of_looking(name):
    """At 2,000 images three times the normal interval at most; betting costs less where little varies."""
    draw, _ = RATE[name]
    x = draw(np.random.default_rng(2), (2000, 20))
    normal = 2 * 1.96 * x.std(0).mean() / math.sqrt(2000)
    widths = [np.diff(kind(x).interval(0.95), axis=0).mean() for kind in (Betting, EmpiricalBernstein)]
    assert widths[0] < (0.8 if x.std() < 0.1 else 1.1) * widths[1]
    assert max(widths) < 3 * normal
