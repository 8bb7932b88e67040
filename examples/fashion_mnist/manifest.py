"""Write the manifest of the 60,000 training images that `exclude:` reads: a digest for each.

    python examples/fashion_mnist/manifest.py

It goes to `train.csv` beside this file, or to the path that is given. The repository does not hold it: it is 3.9 MB.
"""

import sys
from pathlib import Path

from data import build

from cnnaudit.data.exclude import digest


def main(path: Path) -> None:
    """Write it, and tell how many images it has."""
    images, _ = build("train")
    rows = [digest(image).hex() for image in images]
    path.write_text("\n".join(["sha256", *rows, ""]), encoding="utf-8")
    print(f"{len(rows):,} images, {len(set(rows)):,} of them different")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("train.csv"))
