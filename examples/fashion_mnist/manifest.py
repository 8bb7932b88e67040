"""Write `train.csv`, which tells the 60,000 training images by their digests, for `exclude:`.

    python examples/fashion_mnist/manifest.py
"""

from pathlib import Path

from data import build

from cnnaudit.load.exclude import digest

if __name__ == "__main__":
    images, _ = build("train")
    rows = [digest(image).hex() for image in images]
    Path(__file__).with_name("train.csv").write_text("\n".join(["sha256", *rows, ""]), encoding="utf-8")
    print(f"{len(rows):,} images, {len(set(rows)):,} of them different")
