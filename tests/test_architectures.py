"""Twenty kinds of networks, with the sites that their forwards have when they are read; and the benchmark of all."""

import importlib.util
import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import fx

from cnnaudit.graph import capture
from cnnaudit.site import Op

pytestmark = pytest.mark.usefixtures("one_thread")


def _benchmark():
    path = Path(__file__).parents[1] / "benchmarks" / "architectures.py"
    spec = importlib.util.spec_from_file_location("architectures", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["architectures"] = module
    spec.loader.exec_module(module)
    return module


architectures = _benchmark()

# The sites, and how many pools are of whole maps.
TORCHVISION = {
    # Five convolutions, three pools; the last one, to 6 x 6, is adaptive. Three linear layers, of which one is the head.
    "alexnet": ({"conv": 5, "pool": 4, "linear": 2}, 0),
    "vgg11": ({"conv": 8, "pool": 6, "linear": 2}, 0),
    # A block of each is an addition; the first of all stages but the first is projected (resnet50: of all stages).
    "resnet18": ({"conv": 1 + 8 * 2 + 3, "residual": 8, "pool": 2}, 1),
    "resnet50": ({"conv": 1 + 16 * 3 + 4, "residual": 16, "pool": 2}, 1),
    "resnet152": ({"conv": 1 + 50 * 3 + 4, "residual": 50, "pool": 2}, 1),
    # 58 layers of two convolutions, three transitions; stem's and transitions' pools and the last.
    "densenet121": ({"conv": 1 + 58 * 2 + 3, "concat": 58, "pool": 5}, 1),
    # Nine inceptions of six convolutions, a concatenation and a pool; four pools between them and the last.
    "googlenet": ({"conv": 3 + 9 * 6, "concat": 9, "pool": 9 + 5}, 1),
    # Eleven inceptions, and in both of the last kind two branches fork once more.
    "inception_v3": ({"conv": 5 + 3 * 7 + 4 + 4 * 10 + 6 + 2 * 9, "concat": 11 + 2 * 2, "pool": 2 + 11 + 1}, 1),
    # Eight fires of three convolutions; the last layer is a convolution, its mean the head.
    "squeezenet1_1": ({"conv": 2 + 8 * 3, "concat": 8, "pool": 4}, 1),
    # Sixteen units, all concatenated; three in two branches of convolutions (3 + 2), the others in one and a copy.
    "shufflenet_v2_x0_5": ({"conv": 2 + 3 * 5 + 13 * 3, "concat": 16, "pool": 2}, 1),
    "mobilenet_v2": ({"conv": 2 + 2 + 16 * 3, "residual": 10, "pool": 1}, 1),
    # Eleven blocks, the first without an expansion; nine gates of two convolutions behind a pool.
    "mobilenet_v3_small": ({"conv": 2 + 11 * 3 - 1 + 9 * 2, "residual": 6, "gate": 9, "pool": 10, "linear": 1}, 10),
    # Sixteen blocks behind a separable one; in each stage all but the first add.
    "mnasnet0_5": ({"conv": 3 + 16 * 3 + 1, "residual": 2 + 2 + 2 + 1 + 3, "pool": 1}, 1),
    # Eighteen blocks of a convolution and two linear layers; a stem and three reductions.
    "convnext_tiny": ({"conv": 4 + 18, "residual": 18, "linear": 36, "pool": 1}, 1),
    # Sixteen gated blocks, the first without an expansion.
    "efficientnet_b0": ({"conv": 2 + 16 * 3 - 1 + 16 * 2, "residual": 9, "gate": 16, "pool": 17}, 17),
    # Sixteen gated blocks in four stages, the first of each projected.
    "regnet_y_400mf": ({"conv": 1 + 16 * (3 + 2) + 4, "residual": 16, "gate": 16, "pool": 17}, 17),
}
TIMM = {
    # Sixteen blocks of two ghost modules, each a concatenation of two convolutions; five are projected by a depthwise
    # and a pointwise one, four have one for the stride, seven are gated.
    "ghostnet_050": (
        {"conv": 1 + 16 * 4 + 5 * 2 + 4 + 7 * 2 + 2, "residual": 16, "concat": 32, "gate": 7, "pool": 8},
        8,
    ),
    # Four gated blocks, whose three separable convolutions are concatenated; three reduce their input.
    "ese_vovnet19b_slim_dw": ({"conv": 5 + 4 * (6 + 1 + 1) + 3, "concat": 4, "gate": 4, "pool": 3 + 4 + 1}, 5),
    # Eight blocks; two dilations are weighed against each other by a softmax that two convolutions compute.
    "skresnet18": ({"conv": 1 + 8 * (2 + 2 + 1) + 3, "residual": 8, "gate": 8, "pool": 1 + 8 + 1}, 9),
    # Twenty-two blocks of a 3x3 and a 1x1 convolution; seventeen add the normed input, five have none to add.
    "repvgg_a0": ({"conv": 22 * 2, "residual": 17, "merge": 5, "pool": 1}, 1),
}


SIDES = {"alexnet": 96, "inception_v3": 128}  # below, pools find no map, or take all of it


def network(name):
    torch.manual_seed(0)
    if name in TIMM:
        return timm.create_model(name)
    drawn_slowly = {"googlenet", "inception_v3"}
    return torchvision.models.get_model(name, weights=None, **({"init_weights": False} if name in drawn_slowly else {}))


@pytest.mark.parametrize(
    ("name", "expected", "of_whole_maps"), [(name, *found) for name, found in (TORCHVISION | TIMM).items()]
)
def test_sites_are_those_that_the_forward_has_and_the_graph_computes_the_same(name, expected, of_whole_maps):
    model, side = network(name), SIDES.get(name, 64)
    graph = capture(model, torch.zeros(2, 3, side, side))
    assert Counter(site.op for site in graph.sites) == {"input": 1, "head": 1, **expected}
    assert len({site.path for site in graph.sites}) == len(graph.sites)
    assert sum(site.is_global for site in graph.sites if site.op is Op.POOL) == of_whole_maps
    images = torch.randn(3, 3, side, side)
    with torch.inference_mode():
        assert torch.equal(fx.Interpreter(graph.module).run(images), model.eval()(images))


# --- the benchmark ----------------------------------------------------------------------------------

NONE = dict.fromkeys(architectures.KINDS, 0)


@pytest.mark.parametrize(
    ("model", "parameters", "sites"),
    [
        # A deep stem; three blocks of two convolutions and one of three; three skips are pooled and projected.
        ("timm:test_resnet", 471_016, {"conv": 3 + 3 * 2 + 3 + 3, "residual": 4, "pool": 1 + 3 + 1}),
        # Six blocks of attention and of an MLP, two linear layers each.
        ("timm:test_vit", 372_072, {"conv": 1, "linear": 6 * 4, "residual": 6 * 2}),
    ],
)
def test_a_network_is_captured_and_audited_whole(model, parameters, sites):
    row = architectures.measure(model)
    assert (row["failure"], row["differ"], row["parameters"], row["sites"]) == ("", 0.0, parameters, NONE | sites)
    assert row["values"] >= 2 * sites["conv"]  # activity and filters of each convolution, at least


def test_what_a_rule_cannot_judge_and_what_differs_is_a_failure(monkeypatch):
    monkeypatch.setitem(architectures.SPEC, "extends", [])
    monkeypatch.setitem(architectures.SPEC, "rules", [{"metric": "linear_cka", "at": "nowhere"}])
    assert "nowhere" in architectures.measure("timm:test_resnet")["failure"]
