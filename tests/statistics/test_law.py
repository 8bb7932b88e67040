"""The one law of all statistics: however images are dealt to parts, merging gives what one pass gives."""

import dataclasses

import pytest
import torch
from cases import CASES, every_statistic, name_of
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from cnnaudit.errors import EvidenceError
from cnnaudit.statistics import ClassHistogram
from cnnaudit.statistics.window_activity import OPERATORS

IMAGES = 24
COUNTERS = ("images", "sources", "nonfinite")


def over(cases):
    return pytest.mark.parametrize("case", [pytest.param(case, id=name_of(case)) for case in cases])


over_all = over(CASES)
over_grids = over([case for case in CASES if case.probe.statistic.calibrates])


def same(got, wanted, *, rtol=1e-9):
    assert got.tally.keys() == wanted.tally.keys()
    for name, tensor in wanted.tally.items():
        other = got.tally[name]
        assert other.dtype == tensor.dtype, name
        assert other.shape == tensor.shape, name
        if tensor.is_floating_point():
            torch.testing.assert_close(other, tensor, rtol=rtol, atol=rtol, msg=lambda m, n=name: f"{n}: {m}")
        else:
            assert torch.equal(other, tensor), name


def test_every_statistic_has_a_case():
    assert {case.probe.statistic for case in CASES} == every_statistic()


@over_all
@settings(max_examples=12, deadline=None, derandomize=True)
@given(plan=st.data())
def test_merged_parts_equal_one_pass(case, plan):
    sizes = plan.draw(st.lists(st.integers(1, 5), min_size=2, max_size=5))
    groups = plan.draw(st.integers(1, 3))
    data = case.data(IMAGES, seed=plan.draw(st.integers(0, 99)))
    blocks = [block.tolist() for block in torch.arange(sum(sizes)).split(sizes)]
    owner = plan.draw(st.lists(st.integers(0, 2), min_size=len(blocks), max_size=len(blocks)))
    order = plan.draw(st.permutations(sorted(set(owner))))

    whole = case.folded(data, blocks, groups)
    parts = {}
    for part in order:
        numbers = [number for number, mine in enumerate(owner) if mine == part]
        parts[part] = case.folded(data, [blocks[n] for n in numbers], groups, numbers)
    merged = parts[order[0]]
    for part in order[1:]:
        merged = merged.merge(parts[part])

    same(merged, whole)
    assert merged.n_images == sum(sizes)
    assert merged.images.tolist() == [sum(sizes[g::groups]) for g in range(groups)]


@over_all
@settings(max_examples=6, deadline=None, derandomize=True)
@given(plan=st.data())
def test_order_of_blocks_within_a_group_does_not_matter(case, plan):
    data = case.data(IMAGES, seed=plan.draw(st.integers(0, 99)))
    blocks = [block.tolist() for block in torch.arange(IMAGES).split(4)]
    order = plan.draw(st.permutations(range(len(blocks))))
    again = case.folded(data, [blocks[i] for i in order], 2, order)
    same(again, case.folded(data, blocks, 2))


@over_all
def test_every_row_goes_to_its_own_group(case):
    data = case.data(IMAGES)
    groups = torch.randint(0, 3, (IMAGES,), generator=torch.Generator().manual_seed(1))
    at_once = case.started(data, 3)
    at_once.fold(case.read(data, range(IMAGES)), groups)
    one_by_one = case.folded(data, [[i] for i in range(IMAGES)], 3, groups.tolist())
    same(at_once, one_by_one)
    assert at_once.images.tolist() == [int((groups == g).sum()) for g in range(3)]


@over_all
def test_sources_are_counted_by_their_first_images(case):
    data = case.data(6)
    statistic = case.started(data, 2)
    first = torch.tensor([1, 0, 1, 0, 0, 1])
    statistic.fold(case.read(data, range(6)), torch.tensor([0, 0, 1, 1, 1, 0]), first)
    assert statistic.tally["sources"].tolist() == [2, 1]
    assert statistic.n_sources == statistic.pooled().n_sources == 3
    assert statistic.n_images == 6
    assert case.folded(data, [[0, 1], [2]]).n_sources == 3


@over_all
def test_merging_leaves_the_other_as_it_was(case):
    data = case.data(8)
    a, b = case.folded(data, [[0, 1, 2]]), case.folded(data, [[3, 4], [5]])
    before = {name: tensor.clone() for name, tensor in b.state().items()}
    a.merge(b)
    a.fold(case.read(data, [6, 7]), torch.tensor([0, 0]))
    assert b.state().keys() == before.keys()
    assert all(torch.equal(b.state()[name], tensor) for name, tensor in before.items())


@over_all
def test_a_part_without_images_changes_nothing(case):
    data = case.data(8)
    folded, empty = case.folded(data, [[0, 1, 2], [3]]), case.started(data)
    expected = case.folded(data, [[0, 1, 2], [3]])
    same(folded.merge(empty), expected)
    same(case.started(data).merge(expected), expected)


@over_all
def test_state_survives_storage_without_pickle(case):
    data = case.data(12)
    original = case.folded(data, [[0, 1, 2], [3, 4], [5]], groups=2)
    stored = load(save(original.state()))
    restored = type(original).restore(case.probe, stored)

    assert restored.groups == 2
    assert restored.calibration.keys() == original.calibration.keys()
    assert all(torch.equal(restored.calibration[n], t) for n, t in original.calibration.items())
    same(restored, original, rtol=0)
    # What comes back from storage goes on counting and merging.
    for statistic in (restored, original):
        statistic.fold(case.read(data, [6, 7]), torch.tensor([1, 0]))
    same(restored.merge(case.folded(data, [[8]], groups=2)), original.merge(case.folded(data, [[8]], groups=2)))


@over_all
def test_pooled_without_a_group_is_as_if_it_was_never_folded(case):
    data = case.data(IMAGES)
    blocks = [block.tolist() for block in torch.arange(IMAGES).split(3)]
    whole = case.folded(data, blocks, 4)
    for left_out in range(4):
        numbers = [n for n in range(len(blocks)) if n % 4 != left_out]
        never = case.folded(data, [blocks[n] for n in numbers], 4, numbers).pooled()
        rest = whole.pooled(without=left_out)
        for statistic in (never, rest):  # ungrouped tallies know no groups, so none can be left out
            statistic.tally = {n: t for n, t in statistic.tally.items() if n not in statistic.ungrouped}
        same(rest, never)
        assert rest.n_images == IMAGES - 6


@over_all
def test_pooled_knows_no_number_of_groups(case):
    data = case.data(IMAGES)
    blocks = [block.tolist() for block in torch.arange(IMAGES).split(5)]
    # Even numbers: what is kept by the parity of groups has the same halves then.
    pooled, fewer = case.folded(data, blocks, 4).pooled(), case.folded(data, blocks, 2).pooled()
    for statistic in (pooled, fewer):
        for name in ("design_effect", "own", "group"):  # are about the groups
            statistic.tally.pop(name, None)
    same(pooled, fewer)
    assert pooled.groups == 1
    assert pooled.n_images == IMAGES


@over([case for case in CASES if len(case.probe.site.taps[case.probe.taps[0]].spatial) == 2])
def test_memory_layout_does_not_matter(case):
    data = case.data(10)
    contiguous = case.read(data, range(10))
    channels_last = case.read(data, range(10), edit=lambda x: x.contiguous(memory_format=torch.channels_last))
    assert contiguous.keys() == channels_last.keys()
    for name, tensor in contiguous.items():
        # Sums may add in another order; what is counted is the same.
        if name in {"strength", "response", "from", "to", "input", "output", *OPERATORS}:
            torch.testing.assert_close(channels_last[name], tensor, rtol=1e-6, atol=1e-7)
        elif tensor.dtype is torch.float64:
            torch.testing.assert_close(channels_last[name], tensor, rtol=1e-13, atol=1e-13)
        else:
            assert torch.equal(channels_last[name], tensor), name


@over_all
def test_reading_is_one_row_an_image_whatever_the_batch(case):
    data = case.data(9)
    together = case.read(data, range(9))
    for name, tensor in together.items():
        assert len(tensor) == 9
        alone = torch.cat([case.read(data, [i])[name] for i in range(9)])
        assert torch.equal(alone, tensor), name


@over([case for case in CASES if case.data(1)[case.probe.taps[0]].is_floating_point()])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_images_with_nan_or_inf_are_counted(case, value):
    data = case.data(10)
    tap = [tap for tap in case.probe.taps if tap not in case.probe.site.parameters][-1]
    statistic = case.started(data, groups=2)
    for image in (3, 7):
        # All of a map, so that whichever positions are sampled see it.
        data[tap][image] = value
    for number, ids in enumerate([[0, 1, 2, 3], [4, 5], [6, 7, 8, 9]]):
        statistic.fold(case.read(data, ids), torch.full((len(ids),), number % 2))
    assert statistic.nonfinite == 2
    assert statistic.tally["nonfinite"].tolist() == [2, 0]
    assert statistic.n_images == 10


@over_all
def test_size_is_that_of_the_tally(case):
    data = case.data(IMAGES)
    data["labels"] = torch.arange(IMAGES) % 4
    statistic = case.folded(data, [list(range(12)), list(range(12, 24))], groups=2)
    held = sum(t.numel() * t.element_size() for name, t in statistic.tally.items() if name not in COUNTERS)
    planned = type(statistic).size(case.probe, 2, 4)
    assert held <= planned
    if statistic.sampled_kernels:
        assert planned == held


@over_all
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": (("something", 1),)}, "options differs"),
        ({"taps": ("other",)}, "taps differs"),
        ({"network": "twin"}, "network differs"),
        ({"kernels": (0,)}, "kernels differs"),
    ],
)
def test_merge_refuses_what_was_read_differently(case, change, message):
    data = case.data(6)
    a, b = case.folded(data, [[0, 1]]), case.folded(data, [[2, 3]])
    b.probe = dataclasses.replace(b.probe, **change)
    with pytest.raises(EvidenceError, match=f"cannot merge at layer: {message}"):
        a.merge(b)


@over_all
def test_merge_refuses_another_site(case):
    data = case.data(6)
    a, b = case.folded(data, [[0, 1]]), case.folded(data, [[2, 3]])
    b.probe = dataclasses.replace(b.probe, site=dataclasses.replace(b.probe.site, path="elsewhere"))
    with pytest.raises(EvidenceError, match="cannot merge layer with elsewhere"):
        a.merge(b)


@over_all
def test_merge_refuses_another_number_of_groups(case):
    data = case.data(6)
    with pytest.raises(EvidenceError, match="2 and 3 groups"):
        case.folded(data, [[0, 1]], 2).merge(case.folded(data, [[2, 3]], 3))


@over_grids
def test_merge_refuses_another_grid(case):
    data = case.data(6)
    a, b = case.folded(data, [[0, 1]]), case.folded(data, [[2, 3]])
    name = next(iter(b.calibration))
    b.calibration[name] = b.calibration[name] * 1.001 + 1e-3
    with pytest.raises(EvidenceError, match=rf"grids differ \({name}\)"):
        a.merge(b)


@over_grids
@pytest.mark.parametrize("lost", ["mine", "theirs"])
def test_merge_refuses_a_grid_on_one_side_only(case, lost):
    data = case.data(6)
    mine, theirs = case.folded(data, [[0, 1]]), case.folded(data, [[2, 3]])
    (mine if lost == "mine" else theirs).calibration = {}
    with pytest.raises(EvidenceError, match="grids differ"):
        mine.merge(theirs)


def test_merge_of_a_refused_part_leaves_the_first_as_it_was():
    case = next(c for c in CASES if c.name == "map" and c.probe.statistic is ClassHistogram)
    few = case.data(4)
    few["labels"] = torch.zeros(4, dtype=torch.int64)
    many = few | {"labels": torch.tensor([0, 1, 2, 3])}
    a, b = case.folded(few, [[0, 1]]), case.folded(many, [[2, 3]])
    b.calibration = {"edges": b.calibration["edges"] + 1}
    before = {name: tensor.clone() for name, tensor in a.state().items()}
    with pytest.raises(EvidenceError):
        a.merge(b)
    assert all(torch.equal(a.state()[name], tensor) for name, tensor in before.items())
