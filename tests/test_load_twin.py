"""Null twins: the same network without what it has learned."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

import cnnaudit
from cnnaudit.errors import LoadError
from cnnaudit.load import make_twin

IMAGES = torch.rand(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BLOCKS = list(IMAGES.split(16))
CALLS = [((block,), {}) for block in BLOCKS]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.scale = nn.Parameter(torch.rand(5))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(5, 4)
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 2)
            self.norm.bias.uniform_(-0.5, 0.5)
            self.norm.running_mean.fill_(50)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu() * self.scale[:, None, None]
        return self.head(self.drop(x.mean((2, 3))))


def parameters(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kind", ["twin", "permuted"])
def test_every_weight_is_another_one_and_the_model_is_left_alone(kind):
    net = Net().train()
    before = copy.deepcopy(net.state_dict())
    state = torch.get_rng_state()
    twin = make_twin(net, kind, CALLS, 3)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    assert net.norm.training
    assert not any(module.training for module in twin.modules())
    for name, value in parameters(twin).items():
        assert value.shape == parameters(net)[name].shape
        assert not torch.equal(value, parameters(net)[name]), name
    again, other = make_twin(net, kind, CALLS, 3), make_twin(net, kind, CALLS, 4)
    assert all(torch.equal(x, parameters(again)[name]) for name, x in parameters(twin).items())
    assert not torch.equal(other.conv.weight, twin.conv.weight)


def test_fresh_weights_are_those_of_the_layers_own_initialisation():
    twin = make_twin(Net(), "twin", CALLS, 0)
    assert twin.norm.weight.tolist() == [1.0] * 5
    assert float(twin.conv.weight.detach().abs().max()) <= 1 / 27**0.5
    assert sorted(twin.scale.tolist()) == sorted(Net().scale.tolist())  # nobody knows how to start it: permuted


def test_permuted_weights_are_the_trained_ones_in_another_order():
    net = Net()
    twin = make_twin(net, "permuted", CALLS, 0)
    for name, value in parameters(twin).items():
        assert value.flatten().sort().values.equal(parameters(net)[name].flatten().sort().values)


def test_batch_norms_know_the_maps_of_the_twin():
    net = Net()
    twin = make_twin(net, "twin", CALLS, 0)
    maps = [F.conv2d(block, twin.conv.weight, twin.conv.bias, padding=1) for block in BLOCKS]
    assert torch.allclose(twin.norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in maps]).mean(0), atol=1e-6)
    assert torch.allclose(twin.norm.running_var, torch.stack([x.var((0, 2, 3)) for x in maps]).mean(0), rtol=1e-5)
    assert twin.norm.momentum == net.norm.momentum


def test_a_model_that_cannot_be_copied_is_told():
    net = Net()
    net.more = (x for x in ())
    with pytest.raises(LoadError, match="a Net cannot be copied for its null twin"):
        make_twin(net, "twin", CALLS, 0)


@pytest.mark.parametrize("kind", ["twin", "permuted"])
def test_a_twin_is_measured_as_if_it_were_audited(kind):
    rule = {"metric": "activity.apoz", "max": 1, "at": "conv", "reduce": "mean"}
    null = {"twin": "permuted"} if kind == "permuted" else "twin"
    rules = {"cnnaudit": 1, "sampling": {"seed": 2}, "rules": [{**rule, "null": null}]}
    (verdict,) = cnnaudit.audit(rules, model=Net(), data=IMAGES).verdicts
    shuffled = torch.randperm(48, generator=torch.Generator().manual_seed(2))
    twin = make_twin(Net(), kind, [((x,), {}) for x in IMAGES[shuffled].split(16)], 2)
    plain = {**rules, "rules": [rule]}
    (alone,) = cnnaudit.audit(plain, model=twin, data=IMAGES).verdicts
    (model,) = cnnaudit.audit(plain, model=Net(), data=IMAGES).verdicts
    assert verdict.null == pytest.approx(alone.value, abs=0.02)
    assert verdict.value == model.value
    assert abs(verdict.null - verdict.value) > 0.1


class Particular(nn.Linear):
    def __init__(self, *sizes):
        nn.Module.__init__(self)
        self.weight, self.bias = nn.Parameter(torch.rand(*sizes)), None

    def reset_parameters(self, std):
        nn.init.normal_(self.weight, std=std)


def test_a_layer_that_nobody_can_start_anew_is_permuted():
    layer = Particular(4, 3)
    twin = make_twin(nn.Sequential(layer), "twin", [], 0)
    assert sorted(twin[0].weight.flatten().tolist()) == sorted(layer.weight.flatten().tolist())
    assert not torch.equal(twin[0].weight, layer.weight)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: torchvision.ops.FrozenBatchNorm2d(3),
        lambda: nn.InstanceNorm2d(3, track_running_stats=True),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 1)),
    ],
    ids=["frozen batch norm", "instance norm", "spectral norm"],
)
def test_statistics_of_the_trained_weights_that_do_not_learn_are_refused(layer):
    with pytest.raises(LoadError, match=r"no null twin: 0.*buffers are of the trained weights"):
        make_twin(nn.Sequential(layer()), "twin", CALLS, 0)
