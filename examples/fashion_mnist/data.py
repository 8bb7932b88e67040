"""Fashion-MNIST, read from where Debian's package dataset-fashion-mnist puts it."""

import gzip
import os
from pathlib import Path

import numpy as np

FOLDER = os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist")


def build(part: str = "t10k", folder: str = FOLDER) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 of shape (n, 1, 28, 28), and labels 0 to 9.

    Args:
        part: ``t10k``, the 10,000 test images, or ``train``, the 60,000 others.
        folder: Where the four files are, if they come from elsewhere.

    Raises:
        FileNotFoundError: The package is not installed.
    """
    images, labels = (Path(folder) / f"{part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    if not images.exists():
        raise FileNotFoundError(
            f"there is no {images}: run `apt-get install dataset-fashion-mnist` (Debian, "
            "Ubuntu), or set FASHION_MNIST to a folder that holds the four files"
        )
    return read_idx(images)[:, None], read_idx(labels).astype(np.int64)


def read_idx(path: Path) -> np.ndarray:
    """The bytes in a gzipped IDX file, which tells its number of dimensions, their sizes and then the values."""
    content = gzip.decompress(path.read_bytes())
    sizes = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + sizes.nbytes).reshape(sizes)
