"""Models: what is built, what is refused, and what the messages say."""

import json
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cnnaudit.errors import LoadError
from cnnaudit.load import Trust, load_model
from cnnaudit.load.exported import check_evaluates
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


def loaded(model="model.py:build", weights=None, *, part="", trust_model=False, **options):
    source = resolve(model, base=Path.cwd(), role="model", options=options, part=part)
    found = weights and resolve(weights, base=Path.cwd(), role="weights")
    return load_model(source, found, Trust.here(["*.py"], trust_model=trust_model))


def opened(*args, **options):
    return loaded(*args, **options).model


def trained(*, norm=False):
    torch.manual_seed(5)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)]
    if norm:
        layers.insert(1, nn.BatchNorm2d(4))
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


def test_a_torchvision_network_does_not_fetch_the_weights_of_its_backbone_unasked(here, monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("fetched weights"))
    assert opened("torchvision:lraspp_mobilenet_v3_large", num_classes=3).classifier.low_classifier.out_channels == 3


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("torchvision:resnet17", "torchvision has no model of this name; did you mean resnet18 or "),
        (
            "torchvision:zzz",
            "torchvision has no model of this name; list them with torchvision.models.list_models\\(\\)$",
        ),
        ("timm:resnet17", "timm has no model of this name; did you mean resnet18 or "),
        ("timm:resnet18.a1_in1kk", "timm has no model of this name; did you mean resnet18.a1_in1k or "),
        ("timm:org/name", "timm has no model of this name; did you mean timm:hf-hub:org/name"),
        ("timm:local-dir:somewhere", "only networks of timm's own and hf-hub: are read; name the architecture"),
        ("timm:local_dir:somewhere", "only networks of timm's own and hf-hub: are read; name the architecture"),
    ],
)
def test_a_name_that_no_zoo_knows_is_told_with_near_ones(here, model, message):
    pytest.importorskip(model.partition(":")[0])
    with pytest.raises(LoadError, match=f"{model}: {message}"):
        opened(model)


@pytest.mark.parametrize(("model", "option"), [("timm:resnet10t", "model_name"), ("torchvision:squeezenet1_1", "name")])
def test_options_do_not_name_another_network(here, model, option):
    """timm would build one of any folder: its checks are of the name after the colon."""
    with pytest.raises(LoadError, match=f"{model}: {option} is no option; write the network's name after the colon"):
        opened(model, **{option: f"local-dir:{here}"})


@pytest.mark.parametrize("model", ["torchvision:squeezenet1_1", "timm:resnet10t"])
@pytest.mark.parametrize("name", ["checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay"])
def test_options_that_would_open_files_are_refused(here, model, name):
    pytest.importorskip(model.partition(":")[0])
    with pytest.raises(LoadError, match=f"{model}: {name} would open files; name the weights under `weights:`"):
        opened(model, **{name: "x"})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of Hugging Face and no network: a request is an error like that of a missing network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    http = __import__("huggingface_hub.utils._http", fromlist=["x"])
    asked = []

    def refuse(*_, **__):
        asked.append(constants.HF_HUB_OFFLINE)
        raise http.OfflineModeIsEnabled("no network")

    monkeypatch.setattr(http, "http_backoff", refuse)
    return SimpleNamespace(folder=tmp_path / "hub", constants=constants)


def put(cache, repository, revision, **files):
    """Lay a repository into the cache as the library does: blobs, and links to them by revision."""
    folder = cache.folder / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    (folder / "snapshots" / revision).mkdir(parents=True)
    for name, content in files.items():
        (folder / "snapshots" / revision / name.replace("__", ".")).write_bytes(content)


def test_a_repository_is_read_from_the_cache_only_and_none_of_its_code_is_run(here, cache):
    timm = pytest.importorskip("timm")
    with pytest.raises(LoadError, match=r"it is not in the local cache .* fetch it first: hf download org/name"):
        opened("timm:hf-hub:org/name")
    torch.manual_seed(1)
    state = timm.create_model("test_resnet", num_classes=7).state_dict()
    save_file(state, "m.safetensors")
    auto = {"AutoModel": "modeling.Net"}  # what other libraries import
    config = {"architecture": "test_resnet", "num_classes": 7, "pretrained_cfg": {}, "auto_map": auto}
    code = b"open('exploded', 'w')"
    content = Path("m.safetensors").read_bytes()
    put(
        cache, "org/name", "a" * 40, config__json=json.dumps(config).encode(), model__safetensors=content,
        modeling__py=code,
    )  # fmt: skip
    model = opened("timm:hf-hub:org/name")
    assert holds(model, state)
    assert model.num_classes == 7
    assert not holds(opened("timm:hf-hub:org/name", pretrained=False), state)
    assert cache.constants.HF_HUB_OFFLINE is False
    assert not Path("exploded").exists()


def test_pretrained_weights_that_are_nowhere_are_told(here, cache):
    pytest.importorskip("timm")
    cache.constants.HF_HUB_OFFLINE = True  # what the second try meets without a network
    with pytest.raises(LoadError, match=r"weights are not in the local cache and cannot be fetched .*`weights:`"):
        opened("timm:test_resnet.r160_in1k", pretrained=True)


def test_a_package_that_is_not_installed_is_told_with_the_extra_that_installs_it(here, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(LoadError, match=r"timm is not installed: pip install 'cnnaudit\[timm\]'"):
        opened("timm:resnet18")


# --- what code may return ---------------------------------------------------------------------------------


def test_a_model_is_taken_out_of_what_spreads_or_compiles_it(here):
    Path("model.py").write_text(CODE + "def spread(): return nn.DataParallel(torch.compile(build()))\n")
    assert isinstance(opened("model.py:spread"), nn.Sequential)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_torchscript_from_code_is_refused(here):
    Path("model.py").write_text(CODE + "def build_script(): return torch.jit.trace(build(), torch.zeros(2, 1, 8, 8))\n")
    with pytest.raises(LoadError, match=r"TorchScript programs are not read; build the torch.nn.Module itself, or"):
        opened("model.py:build_script")


def test_code_that_ends_the_program_does_not_end_the_audit(here):
    Path("model.py").write_text("def build(): raise SystemExit(0)\n")
    with pytest.raises(LoadError, match="building it raised SystemExit: 0"):
        opened()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_model_runs_in_the_type_that_it_is_built_in(here, dtype):
    Path("model.py").write_text(CODE + f"def low(): return build().to({dtype})\n")
    found = loaded("model.py:low")
    assert {value.dtype for value in found.model.parameters()} == {dtype}
    assert (found.weights_dtype, found.notes) == (str(dtype).removeprefix("torch."), ())


# --- a part -----------------------------------------------------------------------------------------------

PARTS = (
    CODE
    + """
class Net(nn.Module):
    def __init__(self, classes=2):
        super().__init__()
        self.backbone = build(norm=True)
        self.head = nn.Linear(2, classes)
"""
)


def test_a_part_is_taken_by_its_name(here):
    Path("model.py").write_text(PARTS)
    assert isinstance(opened("model.py:Net", part="backbone.0"), nn.Conv2d)
    with pytest.raises(LoadError, match=r"model.py:Net has no part 'backbones'; there are backbone"):
        opened("model.py:Net", part="backbones")
    with pytest.raises(LoadError, match=r"model.py:Net has no part 'x'; there are backbone, head$"):
        opened("model.py:Net", part="x")


def test_weights_of_the_whole_model_fill_its_part(here):
    Path("model.py").write_text(PARTS)
    state = {f"backbone.{key}": value for key, value in trained(norm=True).items()}
    save_file(state | {"head.weight": torch.zeros(2, 2), "head.bias": torch.zeros(2)}, "w.safetensors")
    assert holds(opened("model.py:Net", "w.safetensors", part="backbone"), trained(norm=True))
    # A head of other classes does not matter to the part.
    found = loaded("model.py:Net", "w.safetensors", part="backbone", classes=9)
    assert holds(found.model, trained(norm=True))
    assert found.notes == (
        "The weights w.safetensors were taken from backbone; tensors elsewhere were left out: head (2).",
    )


def test_weights_of_the_part_alone_fill_it(here):
    Path("model.py").write_text(PARTS)
    save_file(trained(norm=True), "w.safetensors")
    assert holds(opened("model.py:Net", "w.safetensors", part="backbone"), trained(norm=True))


# --- exported programs ------------------------------------------------------------------------------------


def network():
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))


def export(model, path="model.pt2"):
    program = torch.export.export(model, (torch.zeros(2, 1, 8, 8),), strict=False)
    torch.export.save(program, path)
    return program


def test_an_exported_program_is_loaded_where_it_is_trusted(here):
    model = network().eval()
    export(model)
    found = loaded("model.pt2", trust_model=True)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(found.model(images), model(images))
    assert isinstance(found.program, torch.export.ExportedProgram)
    assert found.weights_dtype == "float32"


def test_an_exported_program_is_not_even_opened_where_it_is_not(here, monkeypatch):
    export(network().eval())
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("opened"))
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("opened"))
    with pytest.raises(LoadError, match=r"model.pt2: torch unpickles .* can run any code. .* add --trust-model"):
        loaded("model.pt2")


def test_a_payload_in_an_exported_program_is_not_run_where_it_is_not_trusted(here):
    """It is run where it is trusted: the test would notice if torch stopped unpickling."""

    class Payload:
        def __reduce__(self):
            return os.system, ("touch exploded",)

    export(network().eval())
    torch.save(Payload(), "payload")
    with zipfile.ZipFile("model.pt2") as old, zipfile.ZipFile("bad.pt2", "w") as new:
        for name in old.namelist():
            sample = name.endswith("sample_inputs/model.pt")
            new.writestr(name.replace("model/", "bad/", 1), Path("payload").read_bytes() if sample else old.read(name))
    with pytest.raises(LoadError, match="add --trust-model"):
        loaded("bad.pt2")
    assert not Path("exploded").exists()
    with pytest.raises(LoadError, match=r"not an exported program that torch .* reads"):
        loaded("bad.pt2", trust_model=True)
    assert Path("exploded").exists()


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize(
    ("layers", "trains"),
    [
        ([nn.BatchNorm2d(1)], True),
        ([nn.Dropout(0.5)], True),
        ([nn.Dropout2d(0.5)], True),
        # As in evaluation mode:
        ([nn.Dropout(0.0), nn.BatchNorm2d(1, track_running_stats=False), nn.InstanceNorm2d(1)], False),
        ([nn.BatchNorm2d(1).eval(), nn.Dropout(0.5).eval(), nn.Dropout2d(0.5).eval()], False),
    ],
)
def test_a_program_that_trains_is_refused_with_the_way_out(here, layers, trains, decomposed):
    model = nn.Sequential(*layers)
    program = torch.export.export(model, (torch.zeros(2, 1, 8, 8),), strict=False)
    program = program.run_decompositions({}) if decomposed else program
    if trains:
        with pytest.raises(LoadError, match=r"was exported in training mode \(\d+ operators, .* after model.eval\(\)"):
            check_evaluates(program, "model.pt2")
    else:
        check_evaluates(program, "model.pt2")


def test_a_program_with_weights_or_a_part_is_refused(here):
    export(network().eval())
    save_file(trained(), "w.safetensors")
    with pytest.raises(LoadError, match=r"model.pt2 is an exported program, which holds its own weights: leave out"):
        loaded("model.pt2", "w.safetensors", trust_model=True)
    with pytest.raises(LoadError, match=r"model.pt2 is an exported program, whose parts cannot be called: leave out"):
        loaded("model.pt2", part="0", trust_model=True)


@pytest.mark.parametrize("content", [b"", b"hello", "cut", "state dict", "folder"])
def test_what_is_no_exported_program_is_told(here, content):
    if content == "folder":
        Path("model.pt2").mkdir()
    elif content == "state dict":
        torch.save(trained(), "model.pt2")
    elif content == "cut":
        export(network().eval())
        Path("model.pt2").write_bytes(Path("model.pt2").read_bytes()[:-100])
    else:
        Path("model.pt2").write_bytes(content)
    with pytest.raises(LoadError, match=r"model.pt2: not an exported program"):
        loaded("model.pt2", trust_model=True)


def test_code_may_return_an_exported_program(here):
    Path("model.py").write_text(
        CODE + "def build_program(): return torch.export.export(build().eval(), (torch.zeros(2, 1, 8, 8),))\n"
    )
    assert loaded("model.py:build_program").program is not None


def test_a_class_of_hugging_faces_hub_needs_a_factory(here):
    """Its method would open whatever repository the rule file names."""
    pytest.importorskip("huggingface_hub")
    mixin = "from huggingface_hub import PyTorchModelHubMixin\nclass Net(nn.Module, PyTorchModelHubMixin):\n"
    net = "    def __init__(self):\n        super().__init__()\n        self.conv = nn.Conv2d(1, 4, 3)\n"
    made = "def make(): return Net.from_pretrained('saved', local_files_only=True)\n"
    Path("model.py").write_text(CODE + mixin + net + made)
    Path("saved").mkdir()
    save_file({"conv.weight": torch.ones(4, 1, 3, 3), "conv.bias": torch.zeros(4)}, "saved/model.safetensors")
    with pytest.raises(LoadError, match=r"leads to an object of the module 'huggingface_hub.hub_mixin', which is not"):
        opened("model.py:Net.from_pretrained", pretrained_model_name_or_path="saved")
    assert bool((opened("model.py:make").conv.weight == 1).all())
