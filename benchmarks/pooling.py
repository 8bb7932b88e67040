"""What pools keep of photographs, of rectified Gabor maps, of white noise, and of independent binary maps.

For each operator the share of a window's entropy that it loses, and the density ratio: entropy per value of
neighbouring outputs over that of neighbouring inputs. Photographs are those that scikit-image and scikit-learn bundle,
cut into tiles; the tiles of one photograph are one source, so the intervals are over photographs. About three minutes
on one core:

    pip install scikit-image scikit-learn
    python benchmarks/pooling.py --write docs/pooling.md
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from skimage import color, data, filters
from sklearn.datasets import load_sample_images
from tabulate import tabulate
from torch.nn import functional as F  # noqa: N812 - its usual name

import cnnaudit

if TYPE_CHECKING:
    from torch import Tensor

    from cnnaudit import Estimate

NAMES = (
    *("astronaut", "brick", "camera", "chelsea", "clock", "coffee", "coins", "grass", "gravel"),
    *("hubble_deep_field", "immunohistochemistry", "moon", "rocket", "stereo_motorcycle"),
)
TILE = 128
OPERATORS = ("max", "avg", "stride", "min")
FREQUENCY, SILENT = 0.25, 0.77
ROOT = 0.2755
BEGIN, END = "<!-- tables: benchmarks/pooling.py -->", "<!-- end of tables -->"


def main() -> None:
    """Measure, and print the tables or write them into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="page to put the tables into")
    page = parser.parse_args().write
    text = "\n\n".join(_tables())
    print(text)
    if page is not None:
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def _tables() -> list[str]:
    tiles, sources = _photographs()
    maps = _gabor(tiles)
    noise = torch.randn(64, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    count = len(set(sources))
    told = f"{len(tiles)} tiles of {count} photographs, {len(tiles) * TILE * TILE // 4:,} windows of 2x2"
    rows = [
        *_rows("photographs, 8 levels", tiles, sources, 8),
        *_rows(f"rectified Gabor maps ({(maps == 0).float().mean():.0%} zeros), 16 levels", maps, sources, 16),
        *_rows("white noise, 8 levels", noise, None, 8),
    ]
    return [told, tabulate(rows, headers="keys", tablefmt="github"), tabulate(_binary(), "keys", "github")]


def _photographs() -> tuple[Tensor, list[str]]:
    """Grey tiles of all photographs, and which photograph each is of."""
    read = {name: getattr(data, name)() for name in NAMES}
    read["stereo_motorcycle"] = read["stereo_motorcycle"][0]
    read |= {f"sample {i}": image for i, image in enumerate(load_sample_images().images)}
    tiles, sources = [], []
    for name, image in read.items():
        grey = torch.from_numpy(color.rgb2gray(image) if image.ndim == 3 else image / 255.0).float()
        parts = grey.unfold(0, TILE, TILE).unfold(1, TILE, TILE).reshape(-1, 1, TILE, TILE)
        tiles.append(parts)
        sources += [name] * len(parts)
    return torch.cat(tiles), sources


def _gabor(tiles: Tensor) -> Tensor:
    """Responses to four orientations, as a kernel with a bias and a ReLU gives them: silent for most pixels."""
    angles = np.linspace(0, np.pi, 4, endpoint=False)
    kernels = [filters.gabor_kernel(FREQUENCY, theta=angle).real for angle in angles]
    maps = []
    for kernel in kernels:
        weight = torch.from_numpy(kernel - kernel.mean()).float()[None, None]
        response = F.conv2d(tiles, weight, padding="same")
        maps.append((response - torch.quantile(response[::4].flatten()[::8], SILENT)).relu())
    return torch.cat(maps, 1)


def _rows(name: str, maps: Tensor, sources: list[str] | None, levels: int) -> list[dict[str, str]]:
    told = {"levels": levels, "windows": TILE * TILE // 4, "sources": sources}
    rows = [{"maps": name, "": "relative loss", **dict.fromkeys(OPERATORS, "")}, {"maps": "", "": "density ratio"}]
    for op in OPERATORS:
        lost = cnnaudit.measure(f"pool_entropy_loss.relative_{op}", maps, op="max", **told)
        dense = cnnaudit.measure("pool_entropy_loss.density_ratio", maps, op=op, **told)
        rows[0][op], rows[1][op] = _shown(lost), _shown(dense)
    return rows


def _shown(found: Estimate) -> str:
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def _binary() -> list[dict[str, str]]:
    """Independent binary maps: pooling by the maximum makes them denser below an activity, and not above."""
    rows = []
    for activity in (0.1, 0.2, 0.25, ROOT, 0.3, 0.4, 0.6):
        maps = torch.rand(400, 1, 32, 32, generator=torch.Generator().manual_seed(1)) < activity
        told = {"levels": 2, "windows": 256}
        found = cnnaudit.measure("pool_entropy_loss.density_ratio", maps.long(), op="max", **told)
        ratio = _binary_entropy(1 - (1 - activity) ** 4) / _binary_entropy(activity)
        rows.append({"activity": f"{activity:g}", "density ratio": _shown(found), "by theory": f"{ratio:.3f}"})
    return rows


def _binary_entropy(p: float) -> float:
    return float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))


if __name__ == "__main__":
    main()
