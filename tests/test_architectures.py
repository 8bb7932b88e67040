"""Twenty kinds of networks, with the sites that their forwards have when they are read; and the benchmark of all."""

import importlib.util
import json
import math
import multiprocessing
import os
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import fx, nn

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
    # Three pools and an adaptive one, to 6 x 6; three linear layers, of which one is the head.
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

NOTHING = dict.fromkeys(architectures.KINDS, 0)


@pytest.mark.parametrize(
    ("model", "sites"),
    [
        # A deep stem; three blocks of two convolutions and one of three; three skips are pooled and projected.
        ("timm:test_resnet", {"conv": 3 + 3 * 2 + 3 + 3, "residual": 4, "pool": 1 + 3 + 1}),
        # Six blocks of attention and of an MLP, two linear layers each.
        ("timm:test_vit", {"conv": 1, "linear": 6 * 4, "residual": 6 * 2}),
    ],
)
def test_a_network_is_captured_and_audited_whole(model, sites):
    row = architectures.measure(model)
    assert (row["failure"], row["differ"], row["sites"]) == ("", 0.0, NOTHING | sites)
    assert row["values"] >= 2 * sites["conv"]  # activity and filters of each convolution, at least


def test_a_rule_that_cannot_be_judged_is_a_failure(monkeypatch):
    rules = [{"metric": "stable_rank", "at": "nowhere", "severity": "note"}]
    monkeypatch.setattr(architectures, "SPEC", {"cnnaudit": 1, "rules": rules, "sampling": {"block": 2}})
    assert "nowhere" in architectures.measure("timm:test_resnet")["failure"]


def test_outputs_are_compared_bit_by_bit():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    graph, images = capture(model, torch.zeros(2, 1, 2, 2)), torch.ones(2, 1, 2, 2)
    assert architectures.compared(graph, model, images) == (True, 0.0)
    other = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other[1].bias[0] += 1
    same, largest = architectures.compared(graph, other, images)
    assert (same, largest > 0) == (False, True)
    with torch.no_grad():
        other[1].bias[0] = torch.inf
    assert architectures.compared(graph, other, images) == (False, math.inf)


def test_constant_parameters_and_fresh_norms_come_alive():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    nn.init.zeros_(model[0].weight)
    images = torch.randn(8, 1, 4, 4)
    architectures.enliven(model, images)
    assert not model.training
    assert not model[1].training
    assert model[0].weight.unique().numel() == 2
    with torch.no_grad():
        assert torch.allclose(model[1].running_mean, model[0](images).mean((0, 2, 3)), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("timm:resnet18", "resnet"),
        ("timm:resnetv2_50", "resnetv"),
        ("timm:tf_efficientnet_b0", "efficientnet"),
        ("timm:gc_efficientnetv2_rw_t", "efficientnetv"),
        ("timm:legacy_senet154", "senet"),
        ("timm:gcresnet50t", "gcresnet"),
    ],
)
def test_a_family_is_the_letters_that_a_name_starts_with(model, family):
    assert architectures.family_of(model) == family


@pytest.fixture
def rows(tmp_path):
    """Every model has as many parameters as its name has letters, and one of torchvision's too many."""
    models = [f"timm:{name}" for name in timm.list_models()]
    models += [f"torchvision:{name}" for name in torchvision.models.list_models(module=torchvision.models)]
    sizes = {model: len(model) for model in models} | {"torchvision:vgg11": architectures.LARGEST + 1}
    rows = architectures.Rows(tmp_path / "rows.jsonl")
    rows.keep({"model": "", "parameters": sizes})
    return rows


def test_the_smallest_of_each_family_and_of_each_module_is_chosen(rows):
    chosen = {network.family: network.model for network in architectures.choose(rows, 1)}
    assert chosen["resnext"] == "timm:resnext26ts"
    assert len([family for family in chosen if family and not family.startswith("(")]) >= 158
    assert chosen["(inception_v4)"] == "timm:inception_v4"  # of the family that inception_v3 stands for
    models = {network.model for network in architectures.choose(rows, 1)}
    assert {"torchvision:resnet18", "torchvision:vgg13"} < models
    assert "torchvision:vgg11" not in models
    for module in timm.list_modules():
        assert models.intersection(f"timm:{name}" for name in timm.list_models(module=module)), module


def passed(model, failure=""):
    row = {"model": model, "failure": failure, "parameters": 1, "size": [3, 64, 32], "sites": NOTHING}
    return row | {"values": 3, "seconds": 0.5}


def test_what_passed_is_not_run_again_and_a_failure_is_told(rows, tmp_path, monkeypatch, capsys):
    rows.keep(passed("torchvision:resnet18"))
    rows.keep(passed("torchvision:resnet34", "it was tired"))
    ran = []

    def run(model):
        ran.append(model)
        return passed(model, "" if model.endswith("34") else "no graph")

    page = tmp_path / "page.md"
    page.write_text(f"# Page\n{architectures.BEGIN}\nold\n{architectures.END}\nEnd\n", encoding="utf-8")
    arguments = [
        "--rows",
        str(tmp_path / "rows.jsonl"),
        "--only",
        "torchvision:resnet[135][084]*",
        "--write",
        str(page),
    ]
    monkeypatch.setattr(architectures, "in_a_process", run)
    monkeypatch.setattr(sys, "argv", ["architectures.py", *arguments])
    assert architectures.main() == 1
    assert sorted(ran) == [f"torchvision:resnet{depth}" for depth in (101, 34, 50)]
    text = capsys.readouterr().out
    assert text.strip().endswith(
        "0 of 0 timm families, 0 of 0 timm modules beside these, 2 of 4 torchvision models; the same bits"
    )
    assert "| torchvision:resnet50  | no graph  |" in text
    assert "64x32" in text
    written = page.read_text(encoding="utf-8")
    assert written.startswith("# Page\n")
    assert written.endswith("\nEnd\n")
    assert "old" not in written
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(line)["model"] for line in lines[3:]) == sorted(ran)  # as they end, not as they begin


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of a process with threads
@pytest.mark.parametrize(
    ("measure", "failure"),
    [
        (passed, ""),
        (lambda model: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda model: os._exit(3), "the process ended with exit code 3"),
        (lambda model: time.sleep(60), "not done after 0.5 s"),
    ],
)
def test_whatever_a_network_does_is_its_row(monkeypatch, measure, failure):
    monkeypatch.setattr(architectures, "PROCESSES", multiprocessing.get_context("fork"))
    monkeypatch.setattr(architectures, "PATIENCE", 0.5 if "not done" in failure else 60)
    monkeypatch.setattr(architectures, "measure", measure)
    row = architectures.in_a_process("timm:resnet18")
    assert (row["model"], row["failure"]) == ("timm:resnet18", failure)
