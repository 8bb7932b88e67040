"""What is done to images before the network sees them, against torchvision's and timm's own pipelines."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from cnnaudit.data import transforms_for
from cnnaudit.data.transforms import FRACTIONS, Steps
from cnnaudit.errors import LoadError
from cnnaudit.spec import Reading, Step, resolve

LANDSCAPE, PORTRAIT = (37, 61), (50, 23)


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def steps(*written):
    return Steps.written(Step.model_validate(step) for step in written)


def source(text, **options):
    return resolve(text, base=__import__("pathlib").Path.cwd(), role="model", options=options)


def picture(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


# --- steps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [LANDSCAPE, PORTRAIT, (40, 40)])
@pytest.mark.parametrize("wanted", [16, 45, [20, 30], [80, 11]])
def test_resize_is_torchvisions(size, wanted):
    x = noise(2, 3, *size)
    expected = reference.resize(x.float(), wanted if isinstance(wanted, list) else [wanted], antialias=True)
    found = steps({"resize": wanted})(x)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-4)  # of 255


@pytest.mark.parametrize("wanted", [10**9, [5000, 5000]])
def test_a_step_does_not_take_all_memory(wanted):
    with pytest.raises(LoadError, match=r"resize: .* is more than 16,777,216 pixels, from images of 4 x 4"):
        steps({"resize": wanted})(noise(1, 3, 4, 4))


@pytest.mark.parametrize("size", [LANDSCAPE, PORTRAIT])
@pytest.mark.parametrize("wanted", [21, 22, [10, 23], [9, 12]])
def test_crop_is_torchvisions(size, wanted):
    x = noise(2, 3, *size)
    assert torch.equal(steps({"crop": wanted})(x), reference.center_crop(x.float(), wanted))


def test_all_steps_in_their_order_are_torchvisions():
    x = noise(4, 3, *LANDSCAPE)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    ours = steps({"resize": 32}, {"crop": [24, 20]}, {"scale": 255}, {"normalise": {"mean": mean, "std": std}})
    theirs = v2.Compose([v2.Resize(32, antialias=True), v2.CenterCrop([24, 20]), v2.Normalize(mean, std)])
    assert torch.allclose(ours(x), theirs(x.float() / 255), atol=1e-5)
    assert str(ours) == ("resize 32, crop 24 x 20, scale 255, normalise by mean 0.4, 0.5, 0.6 and std 0.2, 0.25, 0.3")


def test_fractions_are_bytes_over_255():
    assert torch.equal(FRACTIONS(noise(2, 3, 4, 4)), noise(2, 3, 4, 4).float() / 255)
    assert str(FRACTIONS) == "scale 255"


def test_channels():
    x = noise(2, 3, 5, 4)
    grey = steps({"channels": 1})(x)
    by_hand = 0.299 * x[:, 0].double() + 0.587 * x[:, 1].double() + 0.114 * x[:, 2].double()
    assert grey.shape == (2, 1, 5, 4)
    assert torch.allclose(grey[:, 0].double(), by_hand, atol=1e-4)
    pillows = np.stack([np.asarray(picture(image).convert("L")) for image in x])
    assert np.abs(pillows - grey[:, 0].numpy()).max() <= 0.5 + 1e-4  # Pillow rounds
    again = steps({"channels": 3})(grey)
    assert torch.equal(again, torch.cat([grey] * 3, dim=1))
    assert torch.equal(steps({"channels": 3})(x), x.float())


def test_one_dimension_is_resized_as_a_row_and_cropped():
    x = noise(2, 3, 40)
    row = reference.resize(x[:, :, None].float(), [1, 15], antialias=True)[:, :, 0]
    assert torch.allclose(steps({"resize": 15})(x), row, atol=1e-4)
    assert torch.equal(steps({"crop": [13]})(x), x[..., 14:27].float())  # 13.5 to even


def test_three_dimensions_are_resized_one_after_another():
    x = noise(1, 2, 12, 20, 16).float()
    slices = reference.resize(x.transpose(1, 2).flatten(0, 1), [10, 8], antialias=True)  # of 12 slices
    slices = slices.reshape(1, 12, 2, 80).transpose(1, 2)
    expected = reference.resize(slices, [6, 80], antialias=True).reshape(1, 2, 6, 10, 8)
    assert torch.allclose(steps({"resize": [6, 10, 8]})(x), expected, atol=1e-4)
    assert steps({"resize": 6})(x).shape == (1, 2, 6, 10, 8)
    assert torch.equal(steps({"crop": [4, 10, 6]})(x), x[:, :, 4:8, 5:15, 5:11])


@pytest.mark.parametrize(
    ("step", "shape", "message"),
    [
        ({"crop": 24}, (1, 3, 30, 20), "crop: 24 x 24 cannot be cut from an image of 30 x 20: resize it first"),
        ({"crop": [24, 24]}, (1, 3, 30), r"crop: \[24, 24\] has 2 sides, and images of 30 have 1"),
        ({"resize": [24, 24]}, (1, 3, 9, 9, 9), r"resize: \[24, 24\] has 2 sides, and images of 9 x 9 x 9 have 3"),
        ({"channels": 1}, (1, 4, 9, 9), "channels: 1 is made of 1 or 3 channels, and the images have 4"),
        (
            {"normalise": {"mean": [0.1, 0.2], "std": [1]}},
            (1, 3, 9, 9),
            "normalise: mean has 2 numbers, and the images have 3 channels",
        ),
    ],
)
def test_steps_that_cannot_be_done(step, shape, message):
    with pytest.raises(LoadError, match=message):
        steps(step)(noise(*shape))


# --- masks -----------------------------------------------------------------------------------------------


def test_masks_keep_to_the_images_and_are_not_mixed():
    # Four quarters of one colour and one class each: after any resize and crop they still agree.
    quarter = torch.tensor([[0, 1], [2, 3]]).repeat_interleave(20, 0).repeat_interleave(30, 1)
    images = (quarter * 60).to(torch.uint8)[None, None]
    masks = torch.where(quarter == 3, 300, quarter).to(torch.int16)[None]
    both = steps({"resize": [20, 24]}, {"crop": [12, 16]})
    cut = both.masks(masks, images.shape[2:])
    assert cut.dtype is torch.int16
    assert cut.unique().tolist() == [0, 1, 2, 300]
    expected = torch.tensor([[0, 1], [2, 300]]).repeat_interleave(6, 0).repeat_interleave(8, 1)
    assert torch.equal(cut[0], expected.to(torch.int16))
    sharp = (both(images)[0, 0] / 60).round()
    assert torch.equal(sharp[:, :7], torch.where(expected == 300, 3, expected)[:, :7].float())
    concepts = torch.stack([masks == 1, masks == 300], dim=1)
    assert torch.equal(both.masks(concepts, images.shape[2:])[0, 1], expected == 300)


def test_nearest_is_pillows():
    masks = noise(1, *LANDSCAPE)
    expected = Image.fromarray(masks[0].numpy()).resize((23, 17), Image.Resampling.NEAREST)
    assert np.array_equal(steps({"resize": [17, 23]}).masks(masks, LANDSCAPE)[0].numpy(), np.asarray(expected))


def test_masks_of_another_size_do_not_go_along():
    with pytest.raises(LoadError, match="masks of 4 x 4 do not cover images of 8 x 8: crop 2 cannot be done"):
        steps({"crop": 2}).masks(noise(1, 4, 4), (8, 8))
    assert torch.equal(FRACTIONS.masks(noise(1, 4, 4), (8, 8)), noise(1, 4, 4))


# --- auto ------------------------------------------------------------------------------------------------


def auto(model, *source):
    return transforms_for(Reading(transform="auto"), model, *(source or (None,)))


@pytest.mark.parametrize("size", [(80, 100), (300, 240)])
def test_auto_is_torchvisions_pipeline_on_a_picture(size):
    image = noise(3, *size)
    weights = ResNet18_Weights.DEFAULT
    for given in (source("torchvision:resnet18"), source("torchvision:resnet18", weights="IMAGENET1K_V1")):
        found = auto(nn.Identity(), given)
        assert found.arrays is found.pictures
        assert torch.allclose(found.arrays(image[None])[0], weights.transforms()(picture(image)), atol=1e-6)
    assert str(found.arrays) == (
        "auto, torchvision ResNet18_Weights.IMAGENET1K_V1: ImageClassification(crop_size=[224], resize_size=[256], "
        "mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], interpolation=InterpolationMode.BILINEAR)"
    )
    assert "IMAGENET1K_V1, the usual of resnet18: " in str(auto(nn.Identity(), source("torchvision:resnet18")).arrays)


def test_auto_is_timms_pipeline_on_a_picture():
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_resnet.r160_in1k")
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    image = noise(3, 200, 180)
    from_factory = auto(model).arrays
    assert torch.allclose(from_factory(image[None])[0], theirs(picture(image)), atol=1e-6)
    part = auto(model.layer1, source("timm:test_resnet.r160_in1k")).arrays
    assert torch.equal(part(image[None]), from_factory(image[None]))
    assert str(part) == str(from_factory)
    assert str(part).startswith("auto, timm test_resnet.r160_in1k: Resize(size=")
    assert "\n" not in str(part)


def test_auto_takes_whole_numbers_fractions_and_grey():
    image = noise(1, 3, 60, 60)
    ours = auto(nn.Identity(), source("torchvision:resnet18")).arrays
    assert torch.equal(ours(image.long()), ours(image))
    fractions = ResNet18_Weights.DEFAULT.transforms()(image[0].double() / 255)
    assert torch.allclose(ours(image.double() / 255)[0], fractions.float(), atol=1e-6)
    grey = image[:, :1]
    assert torch.equal(ours(grey), ours(grey.expand(1, 3, 60, 60)))


@pytest.mark.parametrize(
    ("images", "told"),
    [(noise(1, 3, 9, 9).float(), "0 to 2"), (torch.randn(1, 3, 9, 9), "-"), (-noise(1, 3, 9, 9).int(), "-")],
)
def test_auto_refuses_what_is_prepared_already(images, told):
    with pytest.raises(
        LoadError, match=f"whole numbers from 0 to 255 or fractions from 0 to 1, and these go from {told}"
    ):
        auto(nn.Identity(), source("torchvision:resnet18")).arrays(images)


def test_auto_does_not_know_every_model():
    with pytest.raises(
        LoadError, match="transform: auto is known for models from torchvision: and timm:, and not for "
    ):
        auto(nn.Identity())
    with pytest.raises(LoadError, match="not for this ResNet: write what was done to its training images"):
        auto(resnet18(), source("model.py:build"))


def test_auto_does_not_know_what_becomes_of_masks():
    with pytest.raises(LoadError, match="it is not known what that makes of masks"):
        auto(nn.Identity(), source("torchvision:resnet18")).arrays.masks(noise(1, 9, 9), (9, 9))


def test_what_cannot_go_through_a_pipeline_is_told():
    with pytest.raises(
        LoadError, match=r"transform auto, torchvision .*: images of shape \(5, 60, 60\) do not go through"
    ):
        auto(nn.Identity(), source("torchvision:resnet18")).arrays(noise(1, 5, 60, 60))


# --- which of them ---------------------------------------------------------------------------------------


def test_by_default_arrays_stay_and_files_are_prepared_for_the_model():
    for model in (None, source("model.py:build")):
        usual = transforms_for(Reading(), nn.Identity(), model)
        assert usual.arrays is None
        assert usual.pictures == FRACTIONS
    zoo = transforms_for(None, nn.Identity(), source("torchvision:resnet18"))
    assert zoo.arrays is None
    assert str(zoo.pictures).startswith("auto, torchvision ")


def test_steps_are_done_to_arrays_and_files():
    written = Reading(transform=(Step(scale=2),))
    found = transforms_for(written, nn.Identity(), source("torchvision:resnet18"))
    assert found.arrays == found.pictures == Steps((("scale", 2),))


def test_auto_is_not_known_for_other_channels_than_the_weights_have():
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_resnet", in_chans=1)
    named = source("timm:test_resnet", in_chans=1)
    assert transforms_for(None, model, named).pictures is FRACTIONS
    with pytest.raises(LoadError, match=r"transform: auto is known for models from .*, and not for this ResNet"):
        transforms_for(Reading(transform="auto"), model, named)
