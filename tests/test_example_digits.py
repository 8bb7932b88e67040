import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

FOLDER = Path(__file__).parents[1] / "examples" / "digits"
RECTIFIED = ("stem", "stage1.block", "stage2.widen", "stage2.block", "stage3.block")
NAMES = ("model", "train", "break_model")


@pytest.fixture(scope="module")
def scripts():
    """The example's scripts, which import each other by bare names, gone from sys.modules afterwards."""
    hidden = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


@pytest.fixture(scope="module")
def arrays():
    return {name: dict(np.load(FOLDER / f"{name}.npz")) for name in ("train", "digits")}


@pytest.fixture(scope="module")
def sound(scripts):
    model = scripts["model"].build()
    model.load_state_dict(load_file(FOLDER / "weights.safetensors"))
    return model.eval()


@pytest.fixture(scope="module")
def broken(scripts):
    model = scripts["model"].build_broken()
    model.load_state_dict(load_file(FOLDER / "broken.safetensors"))
    return model.eval()


@torch.no_grad()
def outputs(model, images):
    """What every named module gave at its first call, copied before an in-place operation overwrites it."""
    seen = {}

    def keep(name):
        def hook(_module, _inputs, output):  # returns nothing: what a hook returns replaces the output
            seen.setdefault(name, output.clone())

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    model(torch.from_numpy(images))
    for handle in handles:
        handle.remove()
    return seen


def never_firing(seen):
    """For each rectified convolution, the kernels that are zero at every position of every image."""
    norm = {name: f"{name}.norm" if name == "stem" else f"{name}.norm1" for name in RECTIFIED}
    return {name: torch.nonzero(seen[norm[name]].amax((0, 2, 3)) <= 0).flatten().tolist() for name in RECTIFIED}


def accuracy(seen, labels):
    return (seen["head"].argmax(1).numpy() == labels).mean()


def test_the_arrays_are_what_the_loader_reads(arrays):
    for part, count in (("train", 597), ("digits", 1_200)):
        images, labels = arrays[part]["images"], arrays[part]["labels"]
        assert images.shape == (count, 1, 8, 8)
        assert images.dtype == np.float32
        assert (images.min(), images.max()) == (0, 1)
        assert labels.shape == (count,)
        assert labels.dtype == np.int64


def test_no_image_is_in_both_parts_and_none_is_lost(arrays):
    def keys(images, labels):
        return {(label, *map(int, image)) for label, image in zip(labels, images.reshape(-1, 64) * 16, strict=True)}

    train, audit = (keys(arrays[part]["images"], arrays[part]["labels"]) for part in ("train", "digits"))
    source = load_digits()
    assert not train & audit
    assert train | audit == keys(source.images / 16, source.target)
    assert len(train) + len(audit) == 1_797


def test_every_class_is_split_alike(arrays):
    train, audit = (np.bincount(arrays[part]["labels"]) for part in ("train", "digits"))
    np.testing.assert_allclose(audit, (train + audit) * 1_200 / 1_797, atol=1)


def test_the_sound_network_is_accurate_and_alive(sound, arrays):
    seen = outputs(sound, arrays["digits"]["images"])
    assert accuracy(seen, arrays["digits"]["labels"]) == pytest.approx(0.9950, abs=0.002)
    assert never_firing(seen) == {name: [] for name in RECTIFIED}


def test_every_branch_of_the_sound_network_contributes(sound, arrays):
    seen = outputs(sound, arrays["digits"]["images"])
    for block in ("stage1.block", "stage2.widen", "stage2.block", "stage3.block"):
        branch = seen[f"{block}.norm2"].double()
        total = branch + seen[f"{block}.skip"].double()
        centred = [tensor - tensor.mean((0, 2, 3), keepdim=True) for tensor in (branch, total)]
        share = (centred[0] * centred[1]).sum() / centred[1].square().sum()
        assert share > 0.3, block


def test_the_broken_network_is_still_accurate(broken, arrays):
    seen = outputs(broken, arrays["digits"]["images"])
    assert accuracy(seen, arrays["digits"]["labels"]) == pytest.approx(0.9875, abs=0.002)


def test_the_broken_network_is_broken_in_three_places_and_nowhere_else(scripts, broken, arrays):
    seen = outputs(broken, arrays["digits"]["images"])
    killed = list(scripts["break_model"].KILLED)
    assert len(killed) == 16 // 4
    assert never_firing(seen) == {name: [] for name in RECTIFIED} | {"stage1.block": killed}
    silent = {name for name, output in seen.items() if name.endswith("norm2") and not output.count_nonzero()}
    assert silent == {"stage2.block.norm2"}
    windows = seen["stage1"].unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    assert torch.equal(seen["pool1"], windows.amin(-1))
    windows = seen["stage2"].unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    assert torch.equal(seen["pool2"], windows.amax(-1))


def test_damage_is_not_healed_by_training(scripts, arrays):
    model = scripts["model"].build_broken()
    model.load_state_dict(load_file(FOLDER / "weights.safetensors"))
    scripts["break_model"].damage(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        scripts["train"].fit(model, epochs=1, rate=0.05)
    after = model.state_dict()
    for norm in ("stage1.block.norm1", "stage2.block.norm2"):
        assert torch.equal(before[f"{norm}.weight"], after[f"{norm}.weight"])
        assert torch.equal(before[f"{norm}.bias"], after[f"{norm}.bias"])
    assert not torch.equal(before["stage1.block.conv1.weight"], after["stage1.block.conv1.weight"])
    seen = outputs(model, arrays["digits"]["images"])
    assert never_firing(seen)["stage1.block"] == list(scripts["break_model"].KILLED)
    assert not seen["stage2.block.norm2"].count_nonzero()


def test_deformation_keeps_what_a_digit_is(scripts, arrays):
    images = torch.from_numpy(arrays["train"]["images"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        deformed = scripts["train"].deform(images)
    assert deformed.shape == images.shape
    assert 0 <= deformed.min() < deformed.max() <= 1
    assert deformed.mean() == pytest.approx(images.mean().item(), rel=0.1)


def test_the_layers_of_the_sound_network_do_what_their_rules_say(capsys):
    """Everything passes: no pool is the bottleneck, the digit arrives, no kernel is there twice."""
    from cnnaudit.cli import main

    assert main(["check", str(FOLDER / "layers.audit.yaml"), "--allow-import", "examples/**.py"]) == 0
    assert "PASSED: 7 rules, 7 passed (exit 0)" in capsys.readouterr().out
