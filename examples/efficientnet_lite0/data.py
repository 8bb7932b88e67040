"""Crops of the eight colour photographs that scikit-image and scikit-learn ship."""

import numpy as np
import skimage.data
from PIL import Image
from sklearn.datasets import load_sample_image

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "retina", "rocket", "stereo_motorcycle", "china.jpg", "flower.jpg")
SIDE = 224


def build(each: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Square crops of random place and size, uint8 of shape (n, 3, 224, 224), and which photograph each is of.

    Args:
        each: Crops of a photograph.
        seed: Of place and size.
    """
    random = np.random.default_rng(seed)
    crops = [crop(image, random) for image in map(photograph, PHOTOGRAPHS) for _ in range(each)]
    return np.stack(crops), np.repeat(np.arange(len(PHOTOGRAPHS)), each)


def photograph(name: str) -> np.ndarray:
    """A photograph, uint8 of shape (height, width, 3)."""
    if name.endswith(".jpg"):
        return load_sample_image(name)
    image = getattr(skimage.data, name)()
    return image[0] if isinstance(image, tuple) else image  # of a stereo pair the left one


def crop(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A square of at least 224 pixels, scaled to 224, uint8 of shape (3, 224, 224)."""
    side = random.integers(SIDE, min(image.shape[:2]) + 1)
    top, left = (random.integers(0, size - side + 1) for size in image.shape[:2])
    square = Image.fromarray(image[top : top + side, left : left + side])
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
