"""The images that a model seems to be made for."""

import pytest
import torch
from torch import nn

from cnnaudit.data.suggested import suggested_shape
from cnnaudit.load.model import Loaded, load_model
from cnnaudit.load.trust import Trust
from cnnaudit.spec import resolve


def convolutional(*layers):
    return nn.Sequential(nn.ReLU(), *layers)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (convolutional(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3)), (1, 224, 224)),
        (convolutional(nn.Conv1d(2, 4, 3)), (2, 1024)),
        (convolutional(nn.Conv3d(5, 4, 3)), (5, 16, 64, 64)),
        (convolutional(nn.Flatten(), nn.Linear(4, 2)), None),
        (convolutional(nn.LazyConv2d(4, 3), nn.Conv2d(6, 4, 3)), (6, 224, 224)),
    ],
)
def test_the_first_convolution_tells_the_channels(model, shape):
    assert suggested_shape(Loaded(model), None) == shape


def test_a_configuration_as_timm_has_it_tells_more(tmp_path):
    model = convolutional(nn.Conv2d(48, 4, 3))
    model.pretrained_cfg = {"input_size": (3, 299, 288), "mean": (0.5,)}
    assert suggested_shape(Loaded(model), None) == (3, 299, 288)
    source = resolve("timm:x", base=tmp_path, role="model", options={"in_chans": 1})
    assert suggested_shape(Loaded(model), source) == (1, 299, 288)


@pytest.mark.parametrize(("dynamic", "shape"), [(None, (1, 9, 8)), ({0: torch.export.Dim.AUTO}, (1, 9, 8))])
def test_an_exported_program_says_it(dynamic, shape):
    model = convolutional(nn.Conv2d(1, 4, 3)).eval()
    program = torch.export.export(model, (torch.zeros(4, 1, 9, 8),), dynamic_shapes=None if not dynamic else (dynamic,))
    assert suggested_shape(Loaded(program.module(), program), None) == shape


def test_torchvision_tells_the_size(tmp_path):
    pytest.importorskip("torchvision")
    for name, shape in {
        "torchvision:efficientnet_b1": (3, 240, 240),
        "torchvision:mc3_18": (3, 16, 112, 112),
        "torchvision:squeezenet1_1": (3, 224, 224),
    }.items():
        source = resolve(name, base=tmp_path, role="model")
        with torch.device("meta"):
            loaded = load_model(source, None, Trust())
        assert suggested_shape(loaded, source) == shape
