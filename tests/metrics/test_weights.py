"""Metrics of weights: exact values, from an audit and from plain tensors."""

import math

import pytest
import torch
from torch import nn

import cnnaudit
from cnnaudit import EvidenceError, MetricError, measure
from cnnaudit.metrics import registry
from cnnaudit.site import Op, Site
from cnnaudit.statistics import Parameters, Probe

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def exactly(found, *values, **tolerance):
    assert found.units == pytest.approx(values, **(tolerance or {"rel": 1e-12}))
    assert found.lows == found.units == found.highs
    assert found.n_images == 0


class TestStableRank:
    def test_equal_singular_values_count_one_each(self):
        exactly(measure("stable_rank", torch.eye(5)), 5.0)

    def test_rank_one_is_one(self):
        exactly(measure("stable_rank", random(6, 1) @ random(1, 9)), 1.0)

    def test_known_spectrum(self):
        # (4 + 1 + 1) / 4 with singular values 2, 1, 1.
        exactly(measure("stable_rank", torch.diag(torch.tensor([2.0, 1.0, 1.0]))), 1.5)
        exactly(measure("stable_rank.of_rank", torch.diag(torch.tensor([2.0, 1.0, 1.0]))), 0.5)

    def test_kernels_of_a_convolution_are_rows(self):
        weight = random(6, 4, 3, 3)
        squares = torch.linalg.svdvals(weight.reshape(6, 36)) ** 2
        exactly(measure("stable_rank", weight), float(squares.sum() / squares[0]))

    def test_groups_are_blocks_of_one_matrix(self):
        weight = random(6, 2, 3, 3)
        matrix = torch.zeros(6, 3 * 18, dtype=torch.float64)
        for g in range(3):
            matrix[2 * g : 2 * g + 2, 18 * g : 18 * g + 18] = weight.reshape(6, 18)[2 * g : 2 * g + 2]
        squares = torch.linalg.svdvals(matrix) ** 2
        exactly(measure("stable_rank", weight, groups=3), float(squares.sum() / squares[0]))
        exactly(measure("stable_rank.of_rank", weight, groups=3), float(squares.sum() / squares[0]) / 6)

    def test_a_depthwise_convolution_has_one_direction_a_channel(self):
        weight = torch.ones(5, 1, 3, 3)
        exactly(measure("stable_rank", weight, groups=5), 5.0)
        exactly(measure("stable_rank.of_rank", weight, groups=5), 1.0)

    def test_scale_and_rotation_do_not_matter(self):
        weight = random(5, 7)
        rotation = torch.linalg.qr(random(5, 5))[0]
        wanted = measure("stable_rank", weight).value
        assert measure("stable_rank", 3 * rotation @ weight).value == pytest.approx(wanted)

    def test_no_weights_no_value(self):
        assert math.isnan(measure("stable_rank", torch.zeros(3, 4)).value)


class TestPredictedActivity:
    def test_closed_form(self):
        # Phi(-10) = 7.6e-24, Phi(0) = .5, Phi(1) = .8413
        gamma, beta = torch.tensor([0.1, 1.0, -2.0], dtype=torch.float64), torch.tensor([-1.0, 0.0, 2.0])
        found = measure("predicted_activity", gamma, beta)
        exactly(found, 7.6198530241605e-24, 0.5, 0.8413447460685429, rel=1e-6, abs=0)
        exactly(measure("predicted_activity.dead", gamma, beta), 1.0, 0.0, 0.0)

    def test_four_deviations_are_the_border(self):
        gamma, beta = torch.tensor([1.0, 1.0]), torch.tensor([-4.0, -4.001])
        exactly(measure("predicted_activity.dead", gamma, beta), 0.0, 1.0)
        exactly(measure("predicted_activity", gamma, beta), 3.167e-5, 3.154e-5, rel=1e-3)
        exactly(measure("predicted_activity.dead", gamma, beta, deviations=5.0), 0.0, 0.0)

    def test_without_a_scale_the_shift_decides(self):
        found = measure("predicted_activity", torch.zeros(3), torch.tensor([1.0, -1.0, 0.0]))
        exactly(found, 1.0, 0.0, 0.0)

    def test_the_prediction_is_what_normal_values_do(self):
        gamma, beta = torch.tensor([0.5, 2.0]), torch.tensor([0.3, -1.0])
        values = random(200_000, 2) * gamma + beta
        found = measure("predicted_activity", gamma, beta)
        assert (values > 0).double().mean(0).tolist() == pytest.approx(found.units, abs=0.005)


class TestBatchNormScale:
    def test_over_the_median(self):
        gamma, beta = torch.tensor([-1.0, 2.0, 4.0, 0.0]), torch.zeros(4)
        exactly(measure("batch_norm_scale", gamma, beta), 1 / 1.5, 2 / 1.5, 4 / 1.5, 0.0, rel=1e-9)
        exactly(measure("batch_norm_scale.magnitude", gamma, beta), 1.0, 2.0, 4.0, 0.0)

    def test_no_median_no_ratio(self):
        assert all(map(math.isnan, measure("batch_norm_scale", torch.zeros(2), torch.zeros(2)).units))


class TestDuplicateFilters:
    def test_multiples_are_duplicates_whatever_their_sign(self):
        weight = random(4, 3, 3, 3)
        weight[2] = -0.5 * weight[0]
        found = measure("duplicate_filters", weight)
        flat = weight.reshape(4, -1)
        cosine = (flat @ flat.T / flat.norm(dim=1) / flat.norm(dim=1)[:, None]).abs().fill_diagonal_(0)
        exactly(found, *cosine.amax(1).tolist())
        assert found.units[0] == found.units[2] == pytest.approx(1)

    def test_a_filter_of_zeros_duplicates_nothing(self):
        weight = torch.tensor([[1.0, 0], [0, 0], [0, 0], [1, 1]])
        exactly(measure("duplicate_filters", weight), 0.5**0.5, 0.0, 0.0, 0.5**0.5)

    def test_only_filters_on_the_same_inputs_are_compared(self):
        weight = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
        exactly(measure("duplicate_filters", weight, groups=2), 0.0, 0.0, 0.0, 0.0)
        exactly(measure("duplicate_filters", weight), 1.0, 1.0, 1.0, 1.0)

    def test_a_depthwise_convolution_has_none(self):
        with pytest.raises(MetricError, match="depthwise"):
            measure("duplicate_filters", torch.ones(4, 1, 3, 3), groups=4)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.plain = nn.Conv2d(3, 4, 3)
        self.normed = nn.Conv2d(4, 6, 3, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.smooth = nn.Conv2d(6, 6, 1)
        self.other = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 6, 2)
        self.head = nn.Linear(6, 5)
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([1.0, 0.1, 1, 1, 1, 1]))
            self.norm.bias.copy_(torch.tensor([0.0, -1.0, 0, 0, 0, 0]))

    def forward(self, x):
        x = self.norm(self.normed(self.plain(x).relu())).relu()
        return self.head(self.up(self.other(self.smooth(x)).tanh()).mean((2, 3)))


def audit(*rules, **facts):
    spec = {"cnnaudit": 1, "rules": list(rules)} | facts
    return cnnaudit.audit(spec, model=Net(), data=torch.rand(8, 3, 8, 8)).verdicts


class TestAudit:
    def test_weights_are_those_of_the_model(self):
        net = Net()
        found = {v.site: v for v in audit({"metric": "stable_rank", "min": 1.0, "if_absent": "skip"})}
        assert {site: v.outcome for site, v in found.items()} == {
            "plain": "pass",
            "normed": "pass",
            "smooth": "pass",
            "up": "not_applicable",
            "head": "pass",
        }
        assert "transposed" in found["up"].detail
        for site, groups in (("plain", 1), ("normed", 2), ("head", 1)):
            wanted = measure("stable_rank", getattr(net, site).weight, groups=groups)
            assert (found[site].value, found[site].low, found[site].n_images) == (wanted.value, wanted.value, 0)

    def test_a_dead_kernel_is_predicted_where_a_batch_norm_and_a_relu_follow(self):
        found = {v.site: v for v in audit({"metric": "predicted_activity.dead", "max": 0})}
        assert {site: v.outcome for site, v in found.items()} == {
            "plain": "not_applicable",
            "normed": "fail",
            "smooth": "not_applicable",
            "up": "not_applicable",
        }
        assert found["normed"].worst[0][0] == 1
        assert "no batch norm" in found["plain"].detail
        assert "no ReLU" in found["smooth"].detail

    def test_an_estimand_makes_no_difference_and_slices_make_no_sense(self):
        rule = {"metric": "batch_norm_scale", "min": 0.05, "at": "normed"}
        (asked,) = audit(rule | {"estimand": "population"})
        (plain,) = audit(rule)
        assert (asked.outcome, asked.value) == (plain.outcome, plain.value)
        images = {"images": torch.rand(8, 3, 8, 8), "scanner": ["a", "b"] * 4}
        report = cnnaudit.audit({"cnnaudit": 1, "by": "scanner", "rules": [rule]}, model=Net(), data=images)
        assert [(v.slice, v.outcome) for v in report.verdicts] == [("", "pass")]

    def test_broken_weights_are_an_error(self):
        net = Net()
        net.plain.weight.data[0, 0, 0, 0] = math.nan
        spec = {"cnnaudit": 1, "rules": [{"metric": "stable_rank", "min": 1, "at": "plain"}]}
        (verdict,) = cnnaudit.audit(spec, model=net, data=torch.rand(4, 3, 8, 8)).verdicts
        assert verdict.outcome == "error"
        assert verdict.detail == "The layer's parameters hold NaN or Inf."

    @pytest.mark.parametrize(
        ("name", "tensors", "message"),
        [
            ("stable_rank", [torch.ones(5)], r"weight has shape \(outputs, inputs"),
            ("stable_rank", [torch.ones(5, 0)], r"not \(5, 0\)"),
            ("batch_norm_scale", [torch.ones(6, 2), torch.ones(6)], r"gamma has shape \(kernels,\)"),
        ],
    )
    def test_parameters_of_another_shape_are_refused(self, name, tensors, message):
        with pytest.raises(MetricError, match=message):
            measure(name, *tensors)

    def test_a_profile_shows_them(self):
        flow = cnnaudit.profile(Net(), torch.rand(8, 3, 8, 8), rules=["stable_rank", "duplicate_filters"])
        assert flow["stable_rank"]["plain"] == measure("stable_rank", Net().plain.weight)
        assert flow["stable_rank"] >= 1
        assert "plain" in flow.table()


class TestStatistic:
    def probe(self):
        return Probe(Parameters, Site("layer", Op.CONV, 2), ("gamma", "beta"))

    def test_equal_parts_merge_and_others_do_not(self):
        probe = self.probe()
        tensors = {"gamma": random(2), "beta": random(2)}
        one, other = (Parameters.of(probe, tensors) for _ in range(2))
        assert torch.equal(one.merge(other)["gamma"], tensors["gamma"])
        assert (one.n_images, one.n_sources, one.nonfinite) == (0, 0, 0)
        with pytest.raises(EvidenceError, match="the parameters differ"):
            one.merge(Parameters.of(probe, tensors | {"beta": random(2)}))

    def test_state_is_restored(self):
        probe = self.probe()
        one = Parameters.of(probe, {"gamma": random(2), "beta": torch.tensor([1.0, math.inf])})
        again = Parameters.restore(probe, one.state())
        assert torch.equal(again["beta"], one["beta"])
        assert again.nonfinite == 1


def test_all_of_them_are_here():
    mine = {name for name, metric in registry().items() if metric.reads is Parameters}
    assert mine == {"stable_rank", "predicted_activity", "batch_norm_scale", "duplicate_filters", "convolution_loss"}
    assert all(registry()[name].needs == "weights" for name in mine)
