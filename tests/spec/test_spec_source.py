from __future__ import annotations

import pytest

from cnnaudit.errors import LoadError
from cnnaudit.spec import resolve


@pytest.mark.parametrize(
    ("role", "text", "expected"),
    [
        ("model", "model.py:build", ("file_factory", "{base}/model.py", "build")),
        ("model", "../nets/model.py:Net.small", ("file_factory", "{base}/../nets/model.py", "Net.small")),
        ("model", "/abs/model.py:build", ("file_factory", "/abs/model.py", "build")),
        ("model", "package.module:build", ("module_factory", "package.module", "build")),
        ("model", "torchvision:resnet18", ("torchvision", "resnet18", None)),
        ("model", "timm:resnet50.a1_in1k", ("timm", "resnet50.a1_in1k", None)),
        ("model", "timm:hf-hub:org/name", ("timm", "hf-hub:org/name", None)),
        ("model", "net.pt2", ("exported", "{base}/net.pt2", None)),
        ("weights", "weights.safetensors", ("safetensors", "{base}/weights.safetensors", None)),
        ("weights", "w.pt", ("state_dict", "{base}/w.pt", None)),
        ("weights", "w.PTH", ("state_dict", "{base}/w.PTH", None)),
        ("weights", "pytorch_model.bin", ("state_dict", "{base}/pytorch_model.bin", None)),
        ("weights", "runs/last.ckpt", ("state_dict", "{base}/runs/last.ckpt", None)),
        ("data", "digits.npz", ("npz", "{base}/digits.npz", None)),
        ("data", "digits.npy", ("npy", "{base}/digits.npy", None)),
        ("data", "images/", ("folder", "{base}/images", None)),
        ("data", "existing", ("folder", "{base}/existing", None)),
        ("data", "synthetic", ("synthetic", "synthetic", None)),
        ("data", "data.py:build", ("file_factory", "{base}/data.py", "build")),
        ("data", "package.data:build", ("module_factory", "package.data", "build")),
    ],
)
def test_every_form(tmp_path, role, text, expected):
    (tmp_path / "existing").mkdir()
    source = resolve(text, base=tmp_path, role=role)
    target = source.target.replace(str(tmp_path), "{base}")
    assert (source.kind, target, source.attribute) == expected
    assert source.written == text


def test_options_are_read_only_and_a_source_is_hashable(tmp_path):
    given = {"channels": 16}
    source = resolve("model.py:build", base=tmp_path, role="model", options=given)
    given["channels"] = 32
    assert source.options == {"channels": 16}
    with pytest.raises(TypeError):
        source.options["channels"] = 1
    assert hash(source) == hash(resolve("model.py:build", base=tmp_path, role="model"))
    assert source != resolve("model.py:build", base=tmp_path, role="model")


MODEL = "the forms are model.py:build, package.module:build, torchvision:resnet18, timm:resnet50 or model.pt2"
WEIGHTS = "the forms are weights.safetensors or a state dict in .pt, .pth, .bin or .ckpt"
DATA = (
    "the forms are images.npz, images.npy, images.safetensors, a folder of images, a .csv that lists them, "
    "data.py:build, package.module:build, torchvision:FashionMNIST or synthetic"
)


@pytest.mark.parametrize(
    ("role", "text", "message"),
    [
        ("model", "resnet18", f"'resnet18' does not name a model; did you mean 'torchvision:resnet18'? {MODEL}"),
        ("model", "model.py", f"'model.py' does not name a model; did you mean 'model.py:build'? {MODEL}"),
        ("model", "a.b.build", f"'a.b.build' does not name a model; did you mean 'a.b:build'? {MODEL}"),
        (
            "model",
            "torchvison:vgg11",
            f"'torchvison:vgg11' does not name a model; did you mean 'torchvision:vgg11'? {MODEL}",
        ),
        ("model", "TIMM:vgg11", f"'TIMM:vgg11' does not name a model; did you mean 'timm:vgg11'? {MODEL}"),
        ("model", "timm:", f"'timm:' does not name a model; {MODEL}"),
        ("model", "model.onnx", f"'model.onnx' does not name a model; {MODEL}"),
        ("model", "digits.npz", f"'digits.npz' does not name a model; {MODEL}"),
        ("model", "", f"'' does not name a model; {MODEL}"),
        ("model", "a\x1b[31m.py:build", f"'a\\x1b[31m.py:build' does not name a model; {MODEL}"),
        (
            "model",
            "net.pt",
            (
                "'net.pt' is a file of weights, not a model: name the code that builds the model under model: "
                "(model.py:build) and this file under weights:; a whole model, pickled or of TorchScript, is not read: "
                "save it with torch.export.save as .pt2"
            ),
        ),
        ("weights", "w.safetensor", f"'w.safetensor' does not name weights; did you mean 'w.safetensors'? {WEIGHTS}"),
        ("weights", "model.py:build", f"'model.py:build' does not name weights; {WEIGHTS}"),
        ("data", "timm:cifar", f"'timm:cifar' does not name data; {DATA}"),
        ("data", "images", f"'images' does not name data, and there is no folder images; {DATA}"),
        (
            "data",
            "https://example.org/x.npz",
            "'https://example.org/x.npz' does not name data, and nothing is downloaded: fetch it and name the file; "
            f"{DATA}",
        ),
    ],
)
def test_what_has_no_form_is_refused(tmp_path, role, text, message):
    with pytest.raises(LoadError) as caught:
        resolve(text, base=tmp_path, role=role)
    assert str(caught.value) == message
