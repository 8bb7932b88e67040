"""Images that are made up."""

import pytest
import torch
from patients import everything, opened, source

from cnnaudit.data.synthetic import Synthetic
from cnnaudit.errors import LoadError


def synthetic(*columns, inputs=None, shape=None, **options):
    return opened(source("synthetic", **options), *columns, inputs=inputs, shape=shape)


def test_the_options_say_what_images_there_are():
    found = synthetic(images=20, size=12, channels=1, classes=3)
    assert (found.count, found.classes, found.order, found.source) == (20, 3, "seeded", "synthetic")
    images, labels, ids = everything(found)
    assert images.shape == (20, 1, 12, 12)
    assert images.dtype is torch.float32
    assert torch.equal(labels, ids % 3)


def test_without_options_the_model_says_it():
    assert synthetic().images.shape == (256, 3, 224, 224)
    assert synthetic(shape=(1, 28, 28)).images.shape == (256, 1, 28, 28)
    assert synthetic(shape=(1, 28, 28), size=[16, 8]).images.shape == (256, 1, 16, 8)
    assert synthetic(shape=(2, 100)).images.shape == (256, 2, 100)
    assert synthetic(size=[4, 5, 6], channels=2).images.shape == (256, 2, 4, 5, 6)
    assert not synthetic().labelled


@pytest.mark.parametrize("kind", ["natural", "white"])
def test_an_image_depends_on_the_seed_and_its_index_alone(kind):
    few, many = Synthetic((3, 2, 6, 7), 5, kind), Synthetic((300, 2, 6, 7), 5, kind)
    assert torch.equal(few[[0, 1, 2]], many[[0, 1, 2]])
    assert torch.equal(few[[2, 0]], many[[0, 1, 2]][[2, 0]])
    assert not torch.equal(few[[0]], few[[1]])
    assert not torch.equal(few[[0]], Synthetic((3, 2, 6, 7), 6, kind)[[0]])
    # Seed and index do not add up.
    assert not torch.equal(Synthetic((3, 2, 6, 7), 5, kind)[[1]], Synthetic((3, 2, 6, 7), 6, kind)[[0]])


def test_the_same_options_give_the_same_images():
    read = [everything(synthetic(images=20, size=8, seed=seed))[0] for seed in (3, 3, 4)]
    assert torch.equal(read[0], read[1])
    assert not torch.equal(read[0], read[2])


@pytest.mark.parametrize("kind", ["natural", "white"])
@pytest.mark.parametrize("size", [(16, 16), (15, 4), (32,), (4, 6, 5)])
def test_values_have_mean_0_and_variance_1(kind, size):
    """Of natural noise an image is one sample of its mean: 4000 images know it to 0.016 times its deviation of 1."""
    x = Synthetic((4000, 1, *size), 0, kind)[range(4000)].double()
    assert abs(x.mean()) < 0.05
    assert abs(x.var() - 1) < 0.05
    assert x.var(0).min() > 0.85  # everywhere


def test_the_amplitude_of_natural_noise_falls_with_the_frequency():
    x = Synthetic((400, 1, 32, 32))[range(400)].double()
    power = torch.fft.fft2(x).abs().square().mean((0, 1))
    along = power[0, 1:9] * torch.arange(1, 9) ** 2  # constant where amplitude is 1 / frequency
    assert along.max() / along.min() < 1.5
    diagonal = power[range(1, 9), range(1, 9)] * 2 * torch.arange(1, 9) ** 2
    assert diagonal.max() / along.min() < 1.6
    white = torch.fft.fft2(Synthetic((400, 1, 32, 32), kind="white")[range(400)].double()).abs().square().mean((0, 1))
    assert white.max() / white.min() < 1.6


def test_every_input_is_noise_of_its_own():
    found = synthetic(images=9, size=4, channels=1, inputs=["left", "right"])
    (block,) = found.blocks(16, 0, None)
    assert block.others[0].shape == block.images.shape == (9, 1, 4, 4)
    assert not torch.equal(block.others[0], block.images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"imgs": 3},
            r"data synthetic: there is no option 'imgs'; did you mean 'images'[?] the options are images, size",
        ),
        ({"class": 3}, "no option 'class'; did you mean 'classes'"),
        ({"images": 0}, "images is a whole number from 1 to 1,000,000, not 0"),
        ({"images": 10**9}, "images is a whole number from 1 to 1,000,000, not 1000000000"),
        ({"images": True}, "images is a whole number from 1 to 1,000,000, not True"),
        ({"images": "many"}, "images is a whole number from 1 to 1,000,000, not many"),
        ({"size": 10**6}, "an image of 3 x 1000000 x 1000000 is more than 16,777,216 values"),
        ({"size": 10**9}, "size is a whole number from 1 to 16,777,216, not 1000000000"),
        ({"size": [4, -4]}, "size is a whole number from 1 to 16,777,216, not -4"),
        ({"size": []}, "size is pixels a side, or one number for each of 1 to 3 dimensions"),
        ({"size": [2, 2, 2, 2]}, "size is pixels a side"),
        ({"size": 4.5}, "size is a whole number from 1"),
        ({"channels": 10**7, "size": 2}, "an image of 10000000 x 2 x 2 is more than"),
        ({"classes": 0}, "classes is a whole number from 1 to 256, not 0"),
        ({"classes": 300}, "classes is a whole number from 1 to 256, not 300"),
        ({"seed": -1}, "seed is a whole number from 0 to"),
        ({"kind": "pink"}, "kind is natural or white, not 'pink'"),
    ],
)
def test_options_that_make_no_sense_are_told(options, message):
    with pytest.raises(LoadError, match=message):
        synthetic(**options)


def test_labels_are_the_only_column():
    found = synthetic("labels", images=9, size=4, classes=3)
    assert found.values == {"labels": ["0", "1", "2"]}
    with pytest.raises(LoadError, match="no column 'scanner'"):
        synthetic("scanner", images=9, size=4, classes=3)
