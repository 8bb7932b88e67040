"""Responses at positions, by the concepts that masks show there."""

import numpy as np
import pytest
import torch
from builders import make_site
from cases import CASES, name_of
from torch.nn.functional import interpolate

from cnnaudit.errors import EvidenceError
from cnnaudit.statistics import PositionResponses, Probe, View

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
OF_POSITIONS = pytest.mark.parametrize(
    "case", [c for c in CASES if c.probe.statistic is PositionResponses], ids=name_of
)


def started(units, spatial, *, positions=256, quantile=0.005, groups=4, **facts):
    site = make_site(units=units, shape=spatial, nonnegative=False)
    probe = Probe(PositionResponses, site, ("response",), (("positions", positions), ("quantile", quantile)), **facts)
    return PositionResponses(probe, groups)


def view(x, masks, *, seed=0):
    return View({"response": x}, torch.arange(len(x)), None, seed, masks)


def folded(x, masks, *, groups=None, seed=0, **options):
    statistic = started(x.shape[1], tuple(x.shape[2:]), **options)
    reading = statistic.read(view(x, masks, seed=seed))
    statistic.calibrate([reading])
    statistic.fold(reading, torch.arange(len(x)) % 4 if groups is None else groups)
    return statistic


@pytest.mark.parametrize(
    ("spatial", "size"),
    [((4,), (10,)), ((4, 5), (9, 5)), ((7, 7), (3, 20)), ((2, 3, 4), (5, 3, 9)), ((1, 3), (4, 4)), ((4, 4), (4, 4))],
)
def test_values_are_those_of_the_upsampled_map(spatial, size):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, *spatial, generator=generator)
    full = interpolate(x, size=size, mode=MODES[len(size)], align_corners=False).flatten(2).transpose(1, 2)
    masks = torch.randint(-1, 5, (3, *size), generator=generator).to(torch.int16)
    whole = started(2, spatial, positions=10_000).read(view(x, masks))
    torch.testing.assert_close(whole["response"], full, rtol=1e-5, atol=2e-6)
    assert torch.equal(whole["shown"], masks.flatten(1))
    number = torch.arange(masks[0].numel()).reshape(1, *size).expand(3, *size).to(torch.int16)
    some = started(2, spatial, positions=5).read(view(x, number))
    at = some["shown"].long()
    assert at.shape == (3, min(5, masks[0].numel()))
    torch.testing.assert_close(some["response"], full.gather(1, at[..., None].expand(-1, -1, 2)), rtol=1e-5, atol=2e-6)


def test_what_is_equal_on_all_sides_stays_as_it_is():
    """A ceiling would not be one any more if rounding moved it."""
    x = torch.full((2, 1, 3, 5), 6.1)
    reading = started(1, (3, 5), positions=1000).read(view(x, torch.zeros(2, 17, 23, dtype=torch.int16)))
    assert reading["response"].unique().tolist() == [x[0, 0, 0, 0].item()]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_and_the_image_decide_the_positions(seed):
    number = torch.arange(400, dtype=torch.int16).reshape(1, 20, 20).expand(2, 20, 20)
    statistic = started(1, (4, 4), positions=16)
    shown = [statistic.read(view(torch.zeros(2, 1, 4, 4), number, seed=s))["shown"] for s in (seed, seed, seed + 1)]
    assert torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[0], shown[2])
    assert not torch.equal(shown[0][0], shown[0][1])


@OF_POSITIONS
def test_counts_are_those_of_a_naive_loop(case):
    data = case.data(12)
    statistic = case.folded(data, [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9, 10, 11]], groups=3)
    reading = case.read(data, range(12))
    edges = statistic.calibration["edges"].numpy()
    concepts = np.zeros((2, len(edges), 4, 64), dtype=int)
    everyone, images = np.zeros((2, len(edges), 64), dtype=int), np.zeros((2, 4), dtype=int)
    for image in range(12):
        half, met = int(image in (5, 6)), set()
        for at, shown in enumerate(reading["shown"][image]):
            here = [int(shown)] if shown.dim() == 0 else shown.nonzero()[:, 0].tolist()
            here = [] if here == [-1] else here
            met.update(here)
            for kernel, edge in enumerate(edges):
                level = int((edge <= float(reading["response"][image, at, kernel])).sum())
                everyone[half, kernel, level] += bool(here) or shown.dim() > 0
                concepts[half, kernel, here, level] += 1
        images[half, list(met)] += 1
    for halves in (statistic.halves, statistic.pooled().halves, statistic.pooled().pooled().halves):
        assert halves.concepts.tolist() == concepts.tolist()
        assert halves.everyone.tolist() == everyone.tolist()
        assert halves.images.tolist() == halves.sources.tolist() == images.tolist()


@OF_POSITIONS
def test_leaving_a_group_out_leaves_it_out_of_its_half(case):
    data = case.data(12)
    blocks = [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9, 10, 11]]
    whole = case.folded(data, blocks, groups=3)
    for left_out, rest in enumerate(whole.leave_one_out()):
        numbers = [n for n in range(3) if n != left_out]
        wanted = case.folded(data, [blocks[n] for n in numbers], 3, numbers).halves
        for got, other in zip(rest.halves, wanted, strict=True):
            assert torch.equal(got, other)


def test_sources_count_by_their_first_images():
    x, masks = torch.randn(4, 1, 3, 3), torch.tensor([0, 1, 1, 0], dtype=torch.int16)[:, None, None].expand(4, 3, 3)
    statistic = started(1, (3, 3), groups=2)
    reading = statistic.read(view(x, masks))
    statistic.calibrate([reading])
    statistic.fold(reading, torch.tensor([0, 0, 1, 1]), first=torch.tensor([1, 0, 1, 0]))
    assert statistic.halves.images.tolist() == [[1, 1], [1, 1]]
    assert statistic.halves.sources.tolist() == [[1, 0], [0, 1]]


def test_unlabelled_positions_are_left_out_of_the_grid_too():
    x = torch.cat([torch.arange(100.0), torch.full((100,), 1e6)]).reshape(1, 1, 200).repeat(2, 1, 1)
    labels = torch.cat([torch.zeros(100), torch.full((100,), -1.0)]).to(torch.int16).repeat(2, 1)
    statistic = folded(x, labels, quantile=0.05)
    assert 94 < statistic.calibration["threshold"].item() <= 95
    assert statistic.halves.everyone.sum().item() == 200
    above = statistic.halves.everyone.sum(0)[statistic.above]
    assert above.sum().item() == 10


def test_where_the_first_images_have_no_label_the_grid_is_of_all_positions():
    x = torch.arange(100.0).reshape(1, 1, 100)
    statistic = folded(x, torch.full((1, 100), -1, dtype=torch.int16), quantile=0.05)
    assert 94 < statistic.calibration["threshold"].item() <= 95
    assert statistic.halves.concepts.shape == (2, 1, 0, 64)
    assert statistic.halves.everyone.sum() == 0


@pytest.mark.parametrize(
    ("values", "quantile", "wanted"),
    [
        (list(range(1, 101)), 0.05, {96, 97, 98, 99, 100}),
        (list(range(1, 101)), 0.059, {96, 97, 98, 99, 100}),  # no more than that share
        ([0] * 98 + [1, 2], 0.05, {1, 2}),  # T = 0
        ([0] * 90 + [1] * 10, 0.1, {1}),
        ([0] * 50 + [3] * 10 + [6] * 40, 0.05, {6}),  # a ceiling holds more than the share
        ([0] * 100, 0.05, set()),  # nothing to part
        ([7] * 100, 0.05, set()),
        (list(range(1, 11)), 0.005, set()),  # too few to have such a share
    ],
)
def test_what_lies_above_the_threshold(values, quantile, wanted):
    x = torch.tensor(values, dtype=torch.float32).reshape(1, 1, -1)
    statistic = folded(x, torch.zeros(1, len(values), dtype=torch.int16), quantile=quantile)
    above = {float(v) for v in values if statistic.above[0, int((statistic.calibration["edges"][0] <= float(v)).sum())]}
    assert above == wanted


def test_levels_are_of_equal_share_and_finer_at_the_top():
    x = torch.randn(2, 1, 56 * 128, generator=torch.Generator().manual_seed(0))
    statistic = folded(x, torch.zeros(2, 56 * 128, dtype=torch.int16), positions=10_000)
    counts = statistic.halves.everyone.sum((0, 1)).tolist()
    assert len(counts) == 64
    assert counts[:55] == [256] * 55
    assert sum(counts[55:]) == 256
    assert counts[-1] == 2
    assert not statistic.atoms.any()


def test_exact_zero_is_a_level_of_its_own():
    x = torch.randn(2, 3, 500, generator=torch.Generator().manual_seed(0))
    x[:, 0] = x[:, 0].relu()
    x[:, 1] *= torch.rand(500, generator=torch.Generator().manual_seed(1)) > 0.3
    statistic = folded(x, torch.zeros(2, 500, dtype=torch.int16), positions=1000)
    zeros = (statistic.halves.everyone.sum(0) * statistic.atoms).sum(1)
    assert zeros.tolist() == [int((x[:, k] == 0).sum()) for k in range(2)] + [0]
    assert statistic.atoms.sum(1).tolist() == [1, 1, 0]


def test_maps_of_other_dimensions_than_the_masks_are_told():
    with pytest.raises(EvidenceError, match="masks of 2 dimensions cannot be laid over the maps of layer, which"):
        started(1, (4,)).read(view(torch.zeros(2, 1, 4), torch.zeros(2, 4, 4, dtype=torch.int16)))


def test_without_masks_is_a_programming_error():
    with pytest.raises(ValueError, match="masks; the plan checks that"):
        started(1, (4,)).read(view(torch.zeros(2, 1, 4), None))


def test_groups_are_at_most_16():
    assert started(1, (4,), groups=64).groups == 16
    assert PositionResponses.size(started(1, (4,)).probe, 64, 3) == 16 * (4 * 64 * 4 + 3 * 16)
