"""Cut the UCI digits shipped with scikit-learn into `train.npz` and `digits.npz`.

    python examples/digits/data.py

597 images train the network and 1,200 audit it: the audit gets the larger part because intervals
narrow with the number of images, and this network learns from few. No image is in both.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent
AUDIT_IMAGES = 1_200
SEED = 0


def main() -> None:
    """Write both files: `images` float32 [N, 1, 8, 8] in 0..1 and `labels` int64 [N]."""
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    labels = digits.target.astype(np.int64)
    train, audit = train_test_split(np.arange(len(labels)), test_size=AUDIT_IMAGES, stratify=labels, random_state=SEED)
    for name, chosen in (("train.npz", train), ("digits.npz", audit)):
        np.savez_compressed(HERE / name, images=images[chosen], labels=labels[chosen])
        print(f"{name}: {len(chosen)} images")


if __name__ == "__main__":
    main()
