"""37 small images of 10 patients, and how they come back from whatever they were given as."""

from pathlib import Path

import torch

from cnnaudit.data import open_images
from cnnaudit.load import Trust
from cnnaudit.spec import resolve

COUNT = 37
SCANNERS = ["Siemens", "GE", "Philips"]


def patient(i):
    return 9 - i // 4


def images_and_labels(count=COUNT):
    images = torch.arange(count * 8, dtype=torch.float32).reshape(count, 2, 2, 2)
    return images, torch.arange(count) % 5


def dense_labels(count=COUNT):
    """Classes 0 to 3 of 3 x 2 positions, and -1 here and there."""
    return (torch.arange(count * 6).reshape(count, 3, 2) % 5 - 1).to(torch.int16)


def patients(**changes):
    """The arrays of Patients, which are 10 patients."""
    images, labels = images_and_labels()
    held = {
        "images": images,
        "labels": labels,
        "source": [f"patient {patient(i)}" for i in range(COUNT)],
        "scanner": [SCANNERS[i % 3] for i in range(COUNT)],
        "age": 30 + torch.arange(COUNT) % 4,
    }
    return held | changes


def with_masks(masks=None, name="masks"):
    images, labels = images_and_labels()
    return {"images": images, "labels": labels, name: dense_labels() if masks is None else masks}


def source(text="data.npz", **options):
    return resolve(text, base=Path.cwd(), role="data", options=options)


def opened(data, *columns, globs=("*.py",), **others):
    return open_images(data, Trust.here(globs), columns, **others)


def everything(images, size=8, seed=0, limit=None):
    """All images, labels and ids in the order of the audit; blocks must be full but the last."""
    found = list(images.blocks(size, seed, limit))
    assert [block.number for block in found] == list(range(len(found)))
    assert all(len(block.images) == size for block in found[:-1])
    labels = None if found[0].labels is None else torch.cat([block.labels for block in found])
    return torch.cat([block.images for block in found]), labels, torch.cat([block.ids for block in found])


def masks_and_ids(images, size=8, seed=0, limit=None):
    found = list(images.blocks(size, seed, limit))
    return torch.cat([block.masks for block in found]), torch.cat([block.ids for block in found])


def sources_and_columns(images, size=8, seed=0, limit=None):
    """Ids, ranks of sources and names of values in the order of the audit."""
    found = list(images.blocks(size, seed, limit))
    values = images.values
    names = {name: [values[name][code] for block in found for code in block.columns[name].tolist()] for name in values}
    return (*(torch.cat([getattr(block, of) for block in found]).tolist() for of in ("ids", "sources")), names)
