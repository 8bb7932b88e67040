"""Models and their weights: what is opened, what is refused, and what the messages say."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cnnaudit.errors import LoadError
from cnnaudit.load import Trust, load_model
from cnnaudit.load import model as module_under_test
from cnnaudit.spec import resolve

CODE = """
import torch
from torch import nn

def build(width=4, norm=False):
    layers = [nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, 2, 1)]
    if norm:
        layers.insert(1, nn.BatchNorm2d(width))
    return nn.Sequential(*layers)

def build_nothing():
    return {"model": build()}

def build_badly(width):
    raise ValueError(f"width {width} is wrong")

ready = build()
number = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(CODE)
    return tmp_path


def opened(model="model.py:build", weights=None, **options):
    source = resolve(model, base=module_under_test.Path.cwd(), role="model", options=options)
    found = weights and resolve(weights, base=module_under_test.Path.cwd(), role="weights")
    return load_model(source, found, Trust.here(["*.py"]))


def trained(width=4, *, norm=False):
    torch.manual_seed(5)
    layers = [nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, 2, 1)]
    if norm:
        layers.insert(1, nn.BatchNorm2d(width))
    return nn.Sequential(*layers).state_dict()


def holds(model, state):
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


# --- building -------------------------------------------------------------------------------------------


def test_a_factory_is_called_with_the_options(here):
    assert opened(width=6)[0].weight.shape == (6, 1, 3, 3)


def test_a_module_needs_no_factory(here):
    assert isinstance(opened("model.py:ready"), nn.Sequential)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("build_nothing", {}, "model.py:build_nothing returned a dict, not a torch.nn.Module"),
        ("number", {}, "model.py:number is a int, not a function that builds a model"),
        ("build_badly", {"width": 9}, "model.py:build_badly: building it raised ValueError: width 9 is wrong"),
        ("build", {"depth": 1}, r"building it raised TypeError: build\(\) got an unexpected keyword argument 'depth'"),
    ],
)
def test_what_builds_no_model_is_told(here, name, options, message):
    with pytest.raises(LoadError, match=message):
        opened(f"model.py:{name}", **options)


def test_a_torchvision_model_is_built_without_downloading_weights(here):
    model = opened("torchvision:squeezenet1_1", num_classes=5)
    assert model.classifier[1].out_channels == 5


def test_an_unknown_torchvision_model_is_told(here):
    with pytest.raises(LoadError, match="torchvision:resnet17: torchvision has no model of this name"):
        opened("torchvision:resnet17")


def test_a_package_that_is_not_installed_is_told_with_the_extra_that_installs_it(here, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(LoadError, match=r"timm is not installed: pip install 'cnnaudit\[timm\]'"):
        opened("timm:resnet18")


def test_exported_programs_are_not_read_yet(here):
    with pytest.raises(LoadError, match=r"model.pt2: exported programs are not read yet; name the factory"):
        opened("model.pt2")


# --- weights --------------------------------------------------------------------------------------------


def test_safetensors_fill_the_model(here):
    save_file(trained(), "weights.safetensors")
    assert holds(opened(weights="weights.safetensors"), trained())


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "ckpt"])
def test_a_state_dict_fills_the_model(here, suffix):
    torch.save(trained(norm=True), f"weights.{suffix}")
    assert holds(opened(weights=f"weights.{suffix}", norm=True), trained(norm=True))


def test_a_checkpoint_of_lightning_fills_the_model(here):
    torch.save({"state_dict": trained(), "epoch": 3, "hyper_parameters": {"lr": 0.1}}, "last.ckpt")
    assert holds(opened(weights="last.ckpt"), trained())


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_weights_that_are_not_there(here, name):
    with pytest.raises(LoadError, match=f"weights: there is no file .*{name}"):
        opened(weights=name)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("kept", [0, 5, 100, -10])
def test_a_truncated_file_is_not_readable(here, name, kept):
    (save_file if name.endswith("safetensors") else torch.save)(trained(), name)
    whole = (here / name).read_bytes()
    (here / name).write_bytes(whole[:kept])
    with pytest.raises(LoadError, match=f"weights {name}: not a "):
        opened(weights=name)


@pytest.mark.parametrize("content", [b"not weights at all", b"\x80\x02}q\x00X", b"PK\x03\x04 not a zip"])
def test_a_file_of_something_else_is_not_readable(here, content):
    (here / "weights.pt").write_bytes(content)
    with pytest.raises(LoadError, match=r"weights weights.pt: not a state dict"):
        opened(weights="weights.pt")


def test_keys_that_do_not_fit_are_named(here):
    state = trained(width=4)
    state["2.bias"] = torch.zeros(3)
    state["old.weight"] = state.pop("0.bias")
    save_file(state, "weights.safetensors")
    with pytest.raises(LoadError) as told:
        opened(weights="weights.safetensors")
    assert str(told.value) == (
        "weights weights.safetensors do not fit the model: 1 missing (0.bias), 1 unexpected (old.weight), "
        "1 of another shape (2.bias: (3,) in the file, (2,) in the model)"
    )


def test_many_keys_are_counted_and_three_of_them_named(here):
    save_file({"x": torch.zeros(1)}, "weights.safetensors")
    with pytest.raises(LoadError, match=r"4 missing \(0.weight; 0.bias; 2.weight; ...\), 1 unexpected \(x\)"):
        opened(weights="weights.safetensors")


def test_a_state_dict_of_other_things_is_refused(here):
    for number, (found, kind) in enumerate([([1, 2], "list"), ({"epoch": 3}, "dict"), (torch.zeros(2), "Tensor")]):
        torch.save(found, f"w{number}.pt")
        with pytest.raises(LoadError, match=f"a {kind}.*, not a state dict of tensors"):
            opened(weights=f"w{number}.pt")


class Bomb:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("how", ["zip", "legacy", "plain pickle", "hidden"])
def test_a_pickle_with_code_is_refused_and_nothing_is_run(here, how):
    found = {"state_dict": trained(), "extra": Bomb()} if how == "hidden" else Bomb()
    if how == "plain pickle":
        (here / "weights.pt").write_bytes(pickle.dumps(found))
    else:
        torch.save(found, "weights.pt", _use_new_zipfile_serialization=how != "legacy")
    with pytest.raises(LoadError, match="not a state dict that loads without running code"):
        opened(weights="weights.pt")
    assert not (here / "exploded").exists()


def test_a_pickled_module_is_refused_with_the_way_to_save_it(here):
    torch.save(nn.Conv2d(1, 4, 3), "weights.pt")
    with pytest.raises(LoadError, match=r"save it with torch.save\(model.state_dict\(\), ...\) or as safetensors"):
        opened(weights="weights.pt")


@pytest.mark.parametrize("prefix", ["module.", "model."])
def test_a_wrappers_name_before_every_key_is_taken_off(tmp_path, prefix):
    from cnnaudit.load.model import _fill

    model, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    _fill(model, {prefix + key: tensor for key, tensor in other.state_dict().items()}, "w.pt")
    assert torch.equal(model.weight, other.weight)
