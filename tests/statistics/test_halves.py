"""Statistics that keep the two halves of the sources apart."""

import numpy as np
import pytest
import torch
from cases import CASES, name_of

from cnnaudit.statistics import ClassMoments, ClassResponses, View, halved
from cnnaudit.statistics.class_moments import split

BLOCKS = [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9, 10, 11]]
HALVES = [[0, 1, 2, 3, 4, 7, 8, 9, 10, 11], [5, 6]]  # of three groups the second is the odd one


def cases_of(statistic):
    return pytest.mark.parametrize("case", [c for c in CASES if c.probe.statistic is statistic], ids=name_of)


def response(case, data, image, kernel):
    x = data["response"][image, kernel]
    return float(x if x.dim() == 0 else x.float().mean())


def test_halves_are_the_even_and_the_odd_groups():
    labels, groups = torch.tensor([0, 2, 2, 1]), torch.tensor([3, 0, 7, 4])
    assert split(labels, groups).tolist() == [1, 4, 5, 2]
    x = torch.arange(12).reshape(6, 2)
    assert halved(x, 0).tolist() == [[[0, 1], [4, 5], [8, 9]], [[2, 3], [6, 7], [10, 11]]]
    assert halved(x.T, 1)[1].tolist() == [[2, 6, 10], [3, 7, 11]]


def test_a_last_class_without_an_odd_half():
    assert halved(torch.tensor([1, 2, 3]), 0).tolist() == [[1, 3], [2, 0]]


@cases_of(ClassMoments)
def test_class_moments(case):
    data = case.data(12)
    statistic = case.folded(data, BLOCKS, groups=3)
    for moments in (statistic.halves, statistic.pooled().halves):
        n = np.zeros((2, 4))
        total, squares = np.zeros((2, 2, len(case.probe.units), 4))
        for half, images in enumerate(HALVES):
            for image in images:
                label = int(data["labels"][image])
                n[half, label] += 1
                for row, kernel in enumerate(case.probe.units):
                    r = response(case, data, image, kernel)
                    total[half, row, label] += r
                    squares[half, row, label] += r * r
        assert moments.n.tolist() == n.tolist()
        np.testing.assert_allclose(moments.total.numpy(), total, rtol=1e-6)
        np.testing.assert_allclose(moments.squares.numpy(), squares, rtol=1e-6)


@cases_of(ClassResponses)
def test_class_responses(case):
    data = case.data(12)
    statistic = case.folded(data, BLOCKS, groups=3)
    edges = statistic.calibration["edges"].numpy()
    wanted = np.zeros((2, len(edges), 4, edges.shape[1] + 1), dtype=int)
    for half, images in enumerate(HALVES):
        for image in images:
            for row, kernel in enumerate(case.probe.units):
                level = sum(edge <= response(case, data, image, kernel) for edge in edges[row])
                wanted[half, row, int(data["labels"][image]), level] += 1
    for counts in (statistic.counts, statistic.pooled().counts):
        assert halved(counts, 1).tolist() == wanted.tolist()


@pytest.mark.parametrize("statistic", [ClassMoments, ClassResponses])
def test_leaving_a_group_out_leaves_it_out_of_its_half(statistic):
    case = next(c for c in CASES if c.probe.statistic is statistic and c.probe.clustered)
    data = case.data(12)
    whole = case.folded(data, BLOCKS, groups=3)
    for left_out, rest in enumerate(whole.leave_one_out()):
        numbers = [n for n in range(3) if n != left_out]
        wanted = case.folded(data, [BLOCKS[n] for n in numbers], 3, numbers).pooled()
        for name in statistic.pooled_counts:
            axis = -1 if name == "class_sources" else -2
            rows = wanted.tally[name].shape[axis]
            kept, beyond = rest.tally[name].tensor_split([rows], axis)
            torch.testing.assert_close(kept, wanted.tally[name])
            assert not beyond.any()


@pytest.mark.parametrize("statistic", [ClassMoments, ClassResponses])
@pytest.mark.parametrize("name", ["map", "sources"])
def test_sources_count_for_the_class_of_their_first_image(statistic, name):
    case = next(c for c in CASES if c.probe.statistic is statistic and c.name == name)
    data = case.data(12)
    found = case.started(data, groups=2)
    reading = case.read(data, range(6)) | {"labels": torch.tensor([0, 0, 2, 0, 1, 1])}
    found.fold(reading, torch.tensor([0, 0, 0, 1, 1, 1]), first=torch.tensor([1, 0, 0, 1, 1, 0]))
    for whole in (found, found.pooled()):
        sources = whole.halves.sources if statistic is ClassMoments else halved(whole.class_sources, 0)
        assert sources.tolist() == [[1, 0, 0], [1, 1, 0]]


def test_true_ties_are_exact_zeros_or_given_levels():
    case = next(c for c in CASES if c.probe.statistic is ClassResponses and c.name == "integers")
    assert case.started(case.data(12)).atoms.all()
    case = next(c for c in CASES if c.probe.statistic is ClassResponses and c.name == "map")
    data = case.data(12)
    assert not case.started(data).atoms.any()
    data["response"][:6, 1] = 0
    data["response"][:, 2] *= torch.tensor([-1.0, 1.0, 0.0]).repeat(4)[:, None, None]
    started = case.started(data)
    assert started.atoms.sum(1).tolist() == [0, 1, 1, 0, 0]
    assert started.atoms[1, 0]
    assert 0 < int(started.atoms[2].nonzero()) < 8


@pytest.mark.parametrize("statistic", [ClassMoments, ClassResponses])
def test_without_labels_is_a_programming_error(statistic):
    case = next(c for c in CASES if c.probe.statistic is statistic)
    view = View({"response": case.data(3)["response"]}, torch.arange(3), None, 0)
    with pytest.raises(ValueError, match="labels; the plan checks that"):
        case.started().read(view)


def test_levels_know_the_mean_response_of_the_calibration_images():
    case = next(c for c in CASES if c.probe.statistic is ClassResponses and c.name == "map")
    data = case.data(40)
    started = case.started(data)
    response, levels = data["response"].mean((2, 3)), started.centres.shape[1]
    level = (response[..., None] >= started.calibration["edges"]).sum(-1)
    for kernel in range(5):
        for b in range(levels):
            inside = response[level[:, kernel] == b, kernel]
            assert started.centres[kernel, b].item() == pytest.approx(inside.mean().item(), rel=1e-6)
    case = next(c for c in CASES if c.probe.statistic is ClassResponses and c.name == "integers")
    assert case.started(case.data(12)).centres[0].tolist() == [0, 1, 2, 3, 4]
