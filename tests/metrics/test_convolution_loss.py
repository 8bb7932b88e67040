import itertools
import math
from types import MappingProxyType

import numpy as np
import pytest
import torch
from builders import make_site

from cnnaudit import measure
from cnnaudit.metrics import registry
from cnnaudit.site import Op, Tap
from cnnaudit.statistics import Parameters, Probe

METRIC = registry()["convolution_loss"]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def found(weight, *, stride=1, groups=1, dilation=1, grid=8, **params):
    """Every field of a convolution, with the spectrum of square maps of the grid's size."""
    site = make_site(
        Op.CONV,
        len(weight),
        taps=("input",),
        shape=(30,) * (weight.dim() - 2),
        channels=weight.shape[1] * groups,
        parameters=MappingProxyType({"weight": Tap("", tuple(weight.shape))}),
        kernel=tuple(weight.shape[2:]),
        stride=stride,
        padding=0,
        dilation=dilation,
        groups=groups,
    )
    parameters = Parameters.of(Probe(Parameters, site, ("weight",)), {"weight": weight})
    values = METRIC.evaluate(parameters, site, params | {"grid": grid})
    for uncertain in values.values():
        low, high = uncertain.interval(0.95)
        np.testing.assert_array_equal(low, uncertain.value)
        np.testing.assert_array_equal(high, uncertain.value)
        assert len(uncertain.value) == 1
    return {name: float(uncertain.value[0]) for name, uncertain in values.items()}


def delta(channels, kernel=3):
    weight = torch.zeros(channels, channels, kernel, kernel, dtype=torch.float64)
    weight[:, :, kernel // 2, kernel // 2] = torch.eye(channels)
    return weight


def circular_matrix(weight, size, groups=1, dilation=1, stride=1):
    """The whole linear map of a circular convolution, by its response to every unit input."""
    inputs, dimensions = weight.shape[1] * groups, weight.dim() - 2
    function = (torch.nn.functional.conv1d, torch.nn.functional.conv2d)[dimensions - 1]
    unit = torch.eye(inputs * size**dimensions, dtype=torch.float64).reshape(-1, inputs, *(size,) * dimensions)
    reach = [(k - 1) * dilation for k in weight.shape[2:]]
    padded = torch.nn.functional.pad(unit, [n for r in reversed(reach) for n in (0, r)], mode="circular")
    return function(padded, weight, groups=groups, dilation=dilation, stride=stride).flatten(1).T


# --- closed forms -----------------------------------------------------------------------------------------------


def test_a_kernel_that_copies_loses_nothing():
    assert found(delta(4)) == pytest.approx(
        {"rank_bound": 1, "position_coverage": 1, "spectral_floor": 1, "spectral_null_share": 0}
    )


def test_the_average_of_two_neighbours_erases_what_alternates():
    weight = torch.full((1, 1, 2), 0.5, dtype=torch.float64)
    values = found(weight)
    assert values["spectral_floor"] == pytest.approx(0, abs=1e-15)
    assert values["spectral_null_share"] == pytest.approx(1 / 8)
    # A ring of seven positions has no pattern that alternates: |1 + exp(2 pi i 3 / 7)| / 2 is left.
    assert found(weight, grid=7)["spectral_floor"] == pytest.approx(math.cos(3 * math.pi / 7))


def test_a_binomial_blur():
    row = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    values = found(torch.outer(row, row).expand(5, 1, 3, 3), groups=5)
    assert values["spectral_floor"] == pytest.approx(0, abs=1e-15)
    assert values["spectral_null_share"] == pytest.approx(15 / 64)  # one of the two frequencies is the highest
    assert values["rank_bound"] == 1


def test_one_position_is_a_matrix():
    matrix = random(4, 6)
    lengths = torch.linalg.svdvals(matrix)
    values = found(matrix[:, :, None, None])
    assert values["spectral_floor"] == pytest.approx(float(lengths[-1] / lengths[0]))
    assert values["rank_bound"] == pytest.approx(4 / 6)
    assert measure("convolution_loss.spectral_floor", matrix).value == pytest.approx(float(lengths[-1] / lengths[0]))


def test_the_shortcut_of_a_residual_network_reads_a_quarter():
    values = found(random(512, 256, 1, 1), stride=2)
    assert values["position_coverage"] == 0.25
    assert values["rank_bound"] == 0.25


def test_outputs_and_stride_bound_the_rank():
    assert found(random(8, 4, 3, 3), stride=2)["rank_bound"] == pytest.approx(8 / 16)
    assert found(random(16, 4, 3, 3), stride=2)["rank_bound"] == 1
    assert found(random(64, 4, 3, 3), stride=2)["rank_bound"] == 1
    assert found(random(2, 8, 3, 3))["rank_bound"] == pytest.approx(2 / 8)
    assert found(random(3, 3, 7, 7), stride=4)["rank_bound"] == pytest.approx(1 / 16)


def test_repeated_filters_do_not_count():
    weight = random(4, 4, 3, 3)
    weight[2:] = weight[:2] * torch.tensor([2.0, -1.0])[:, None, None, None]
    assert found(weight)["rank_bound"] == 0.5
    assert found(weight.float())["rank_bound"] == 0.5
    assert found(weight)["spectral_floor"] == pytest.approx(0, abs=1e-12)
    assert found(weight)["spectral_null_share"] == 0.5


def test_groups_cannot_help_each_other():
    weight = random(8, 2, 3, 3)
    weight[4:] = weight[4]
    # The first group fills its 2 inputs, of the second's 2 one is left.
    assert found(weight, groups=2)["rank_bound"] == 0.75
    assert found(random(6, 1, 3, 3), groups=6, stride=2)["rank_bound"] == 0.25


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "covered"),
    [(1, 2, 1, 1 / 4), (2, 2, 1, 1), (3, 2, 1, 1), (3, 2, 2, 1 / 4), (2, 3, 1, 4 / 9), (2, 3, 3, 1 / 9), (3, 3, 2, 1)],
)
def test_positions_that_are_read(kernel, stride, dilation, covered):
    weight = random(64, 2, kernel, kernel)
    values = found(weight, stride=stride, dilation=dilation)
    assert values["position_coverage"] == pytest.approx(covered)
    assert values["rank_bound"] == pytest.approx(covered)
    matrix = circular_matrix(weight, 12, stride=stride, dilation=dilation)
    assert (matrix != 0).any(0).double().mean() == pytest.approx(covered)


# --- against the whole matrix -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "groups", "size", "dilation"),
    [
        ((3, 3, 3, 3), 1, 6, 1),
        ((4, 2, 3, 3), 1, 5, 1),
        ((2, 4, 3, 3), 1, 4, 1),
        ((4, 2, 3, 3), 2, 5, 1),
        ((4, 1, 2, 2), 4, 6, 1),
        ((3, 2, 3, 3), 1, 7, 2),
        ((2, 2, 1, 3), 1, 5, 1),
        ((2, 2, 3, 1), 1, 6, 1),
        ((3, 2, 4), 1, 9, 1),
        ((2, 2, 5, 5), 1, 4, 1),
    ],
)
def test_singular_values_are_those_of_the_circular_matrix(shape, groups, size, dilation):
    weight = random(*shape, seed=3)
    wrapped = weight
    if max(shape[2:]) > size:  # a kernel that is larger than the map meets positions twice
        wrapped = torch.zeros(*shape[:2], size, size, dtype=torch.float64)
        for a, b in itertools.product(range(shape[2]), range(shape[3])):
            wrapped[:, :, a % size, b % size] += weight[:, :, a, b]
    lengths = torch.linalg.svdvals(circular_matrix(wrapped, size, groups, dilation))
    # Of fewer outputs than inputs the matrix has no more singular values than it has rows.
    values = found(weight, groups=groups, grid=size, dilation=dilation, null=0.2)
    assert values["spectral_floor"] == pytest.approx(float(lengths[-1] / lengths[0]))
    assert values["spectral_null_share"] == pytest.approx(float((lengths < 0.2 * lengths[0]).double().mean()))


@pytest.mark.parametrize(
    ("shape", "stride", "groups"),
    [((3, 2, 3, 3), 2, 1), ((9, 2, 3, 3), 2, 1), ((4, 2, 1, 1), 2, 2), ((2, 2, 3, 3), 3, 1)],
)
def test_rank_bounds_what_the_strided_matrix_passes(shape, stride, groups):
    weight = random(*shape, seed=4)
    matrix = circular_matrix(weight, 6, groups, stride=stride)
    passed = int(torch.linalg.matrix_rank(matrix)) / matrix.shape[1]
    assert passed == pytest.approx(found(weight, stride=stride, groups=groups)["rank_bound"])


# --- laws and borders -------------------------------------------------------------------------------------------


def test_scale_order_and_rotation_of_channels_do_not_matter():
    weight = random(5, 4, 3, 3)
    whole = found(weight, null=0.3)
    turned = torch.einsum("oi,ickl->ockl", torch.linalg.qr(random(5, 5, seed=1))[0], weight)
    for other in (-7 * weight, 1e-20 * weight, weight.flip(0), weight[:, [2, 0, 3, 1]], weight.flip(2), turned):
        assert found(other, null=0.3) == pytest.approx(whole)


def test_more_frequencies_find_what_fewer_miss():
    weight = random(4, 4, 3, 3)
    floors = [found(weight, grid=grid)["spectral_floor"] for grid in (2, 4, 8, 16)]
    assert floors == sorted(floors, reverse=True)
    assert floors[0] > floors[-1]


def test_large_layers_get_fewer_frequencies():
    from cnnaudit.metrics.convolution_loss import _grid

    def grid(*shape):
        return _grid(torch.empty(shape, device="meta"), 16)

    assert grid(1, 256, 256, 3, 3) == (16, 16)
    assert grid(1, 512, 512, 3, 3) == (8, 8)
    assert grid(1, 1024, 1024, 3, 3) == grid(1, 2048, 2048, 3, 3) == (4, 4)
    assert grid(1, 2048, 2048, 1, 1) == (1, 1)
    assert grid(1024, 1, 1, 3, 3) == (16, 16)
    assert grid(1, 8, 8, 1, 7) == (1, 16)
    assert _grid(torch.empty(1, 2048, 2048, 3, 3, device="meta"), 2) == (2, 2)


def test_no_weights():
    values = found(torch.zeros(3, 4, 3, 3), stride=2)
    assert values["rank_bound"] == 0
    assert values["position_coverage"] == 1
    assert math.isnan(values["spectral_floor"])
    assert math.isnan(values["spectral_null_share"])


def test_from_a_tensor():
    weight = random(4, 4, 3, 3)
    for field, value in found(weight, grid=16).items():
        estimate = measure(f"convolution_loss.{field}", weight)
        assert estimate.value == estimate.low == estimate.high == pytest.approx(value)
        assert estimate.n_images == 0


def test_a_dead_filter_is_a_floor_of_zero():
    weight = random(4, 4, 3, 3)
    weight[1] = 0
    assert found(weight)["spectral_floor"] == pytest.approx(0, abs=1e-12)
    assert found(weight)["spectral_null_share"] == pytest.approx(0.25, abs=0.02)
    assert found(weight)["rank_bound"] == 0.75
