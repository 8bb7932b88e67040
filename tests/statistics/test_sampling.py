import itertools
from collections import Counter

import pytest
import torch
from scipy import stats

from cnnaudit.statistics import deal, sample_kernels, sample_positions
from cnnaudit.statistics.sampling import _uniform, gather

# 1 in 100,000 of sound samplers fails such a test; the seeds are fixed, so it either always does or never.
RARE = 1e-5


@pytest.mark.parametrize(("positions", "count"), [(49, 7), (100, 64), (10, 9), (3, 2), (196, 32)])
def test_every_position_is_drawn_equally_often(positions, count):
    images = 40_000
    drawn = sample_positions(torch.arange(images), "layer", 0, positions, count)
    assert drawn.shape == (images, count)
    assert drawn.dtype == torch.int64
    counts = torch.bincount(drawn.flatten(), minlength=positions)
    assert len(counts) == positions
    # Strata make the counts less variable than independent draws, so chi-square is conservative.
    assert stats.chisquare(counts.numpy()).pvalue > RARE


def test_every_first_position_is_drawn_equally_often_at_every_seed():
    counts = Counter(int(sample_positions(torch.tensor([7]), "layer", seed, 16, 1)) for seed in range(4_000))
    assert stats.chisquare([counts[i] for i in range(16)]).pvalue > RARE


@pytest.mark.parametrize(
    ("positions", "count"),
    [
        (64, 16),
        (128, 64),
        *[(100, 64), (3, 2), (10, 9), (65, 64), (49, 32)],
    ],
)
def test_no_position_is_drawn_twice_for_an_image(positions, count):
    drawn = sample_positions(torch.arange(500), "layer", 0, positions, count)
    assert ((drawn >= 0) & (drawn < positions)).all()
    assert all(len(set(row)) == count for row in drawn.tolist())


@pytest.mark.parametrize(("positions", "count"), [(1, 1), (5, 5), (5, 64), (64, 64)])
def test_all_positions_in_order_where_there_are_no_more_than_wanted(positions, count):
    drawn = sample_positions(torch.tensor([3, 1]), "layer", 0, positions, count)
    assert drawn.tolist() == [list(range(positions))] * 2


def test_draws_depend_on_image_site_and_seed_only():
    def draw(images, site="layer", seed=0):
        return sample_positions(torch.tensor(images), site, seed, 1000, 20)

    base = draw([5, 9, 1000])
    assert torch.equal(draw([5, 9, 1000]), base)
    assert torch.equal(draw([9])[0], base[1])
    assert torch.equal(draw([1000, 5])[1], base[0])
    for other in (draw([5], site="layer2"), draw([5], seed=1), draw([6])):
        assert not torch.equal(other[0], base[0])


def test_draws_are_these():
    """Pinned: a stored audit can only be merged with a later one while the same positions are drawn."""
    splitmix = _splitmix64(0)
    # The first outputs of SplitMix64 with seed 0, as published with the reference implementation.
    assert [next(splitmix) for _ in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    expected = [x / 2**64 for x in itertools.islice(_splitmix64(0), 5)]
    assert _uniform(torch.arange(1, 6)).tolist() == pytest.approx(expected, abs=2**-53)


def _splitmix64(state):
    """Steele, Lea & Flood (2014), in Python integers."""
    mask = 2**64 - 1
    while True:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        yield z ^ (z >> 31)


def test_neighbouring_images_draw_independently():
    drawn = sample_positions(torch.arange(20_000), "layer", 0, 1024, 1)[:, 0].double()
    correlation = torch.corrcoef(torch.stack([drawn[:-1], drawn[1:]]))[0, 1]
    assert abs(float(correlation)) < 4.5 / 20_000**0.5


def test_kernels_are_a_sorted_sample_without_repetition():
    drawn = sample_kernels("layer", 0, 50, 12)
    assert len(set(drawn)) == 12
    assert list(drawn) == sorted(drawn)
    assert set(drawn) <= set(range(50))
    assert drawn == sample_kernels("layer", 0, 50, 12)
    assert drawn != sample_kernels("layer", 1, 50, 12)
    assert drawn != sample_kernels("other", 0, 50, 12)


def test_every_kernel_is_drawn_equally_often():
    counts = Counter(k for seed in range(2_000) for k in sample_kernels("layer", seed, 10, 3))
    assert stats.chisquare([counts[k] for k in range(10)]).pvalue > RARE


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 1, 5, 6), (1, 3, 5, 6), (4, 3, 7), (4, 3, 2, 3, 4)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_gather_picks_flattened_positions(shape, channels_last):
    x = torch.rand(shape)
    given = x.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else x
    positions = x[0, 0].numel()
    index = torch.randint(positions, (shape[0], 9), generator=torch.Generator().manual_seed(0))
    got = gather(given, index)
    assert got.shape == (shape[0], 9, shape[1])
    for image, row in itertools.product(range(shape[0]), range(9)):
        assert got[image, row].tolist() == x[image].flatten(1)[:, index[image, row]].tolist()


# --- groups -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 3, 64])
def test_every_run_of_ranked_sources_is_spread_over_all_groups(groups):
    dealt = deal(torch.arange(groups * 5), groups, 7, ranked=True)
    for run in dealt.split(groups):
        assert sorted(run.tolist()) == list(range(groups))


def test_a_group_is_drawn_so_that_nothing_keeps_time_with_it():
    dealt = deal(torch.arange(6400), 64, 0, ranked=True)
    for period in (2, 10, 64):
        for phase in range(period):
            found = dealt[phase::period].bincount(minlength=64)
            assert (found > 0).sum() > 40
        assert abs(float((dealt[::period] % 2).double().mean()) - 0.5) < 0.2


def test_a_source_is_dealt_by_its_number_and_the_seed_alone():
    sources = torch.tensor([2**62, -5, 17, 2**62, 0])
    dealt = deal(sources, 64, 3, ranked=False)
    assert dealt[0] == dealt[3]
    assert torch.equal(deal(sources.flip(0), 64, 3, ranked=False), dealt.flip(0))
    assert not torch.equal(deal(sources, 64, 4, ranked=False), dealt)
    many = deal(torch.arange(64_000), 64, 0, ranked=False).bincount(minlength=64)
    assert 850 < int(many.min()) <= int(many.max()) < 1150
