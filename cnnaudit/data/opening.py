"""Opens what a source names, or what Python gives, as images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from cnnaudit.call import Call, are_several
from cnnaudit.data.archives import open_npy, open_npz, open_safetensors
from cnnaudit.data.arrays import Arrays
from cnnaudit.data.datasets import is_module, loader_of, torchvision_dataset
from cnnaudit.data.exclude import Excluded
from cnnaudit.data.folder import open_folder
from cnnaudit.data.images import Images, Wanted
from cnnaudit.data.manifest import open_manifest
from cnnaudit.data.masks import is_dense
from cnnaudit.data.pseudonyms import Pseudonyms
from cnnaudit.data.samples import Samples, visitable
from cnnaudit.data.streams import Stream
from cnnaudit.data.synthetic import open_synthetic
from cnnaudit.data.transforms import FRACTIONS, Transforms
from cnnaudit.data.values import telling
from cnnaudit.errors import LoadError

if TYPE_CHECKING:
    from cnnaudit.load.trust import Trust
    from cnnaudit.spec import Reading
    from cnnaudit.spec.source import Source

__all__ = ["open_images"]

_FILES = {
    "npz": open_npz,
    "npy": open_npy,
    "safetensors": open_safetensors,
    "folder": open_folder,
    "manifest": open_manifest,
}


def open_images(
    data: Source | Any,
    trust: Trust,
    columns: Sequence[str] = (),
    *,
    masks: bool = False,
    inputs: Any = None,
    reading: Reading | None = None,
    transforms: Transforms | None = None,
    shape: Sequence[int] | None = None,
    show_images: bool = True,
) -> Images:
    """Open the images that a source names, or that Python gives.

    Args:
        data: A source; ``(images, labels)`` arrays; a map-style dataset of ``(image, label)``; an iterable of batches
            ``(images, labels)`` or ``images``, such as a DataLoader. Instead of a tuple each of them may be a mapping
            with the keys images, labels, masks, source and any column. Labels that have the images' spatial dimensions
            and are whole numbers are masks. Instead of one tensor of images there may be a tuple or a mapping of
            several, which the network takes. A data module such as Lightning's gives its test data, else its
            validation data, else what it predicts on.
        trust: What may be imported and opened.
        columns: The columns that rules slice by; of the others only ``source`` is read.
        masks: Whether a rule needs masks; they are not read otherwise.
        inputs: How the network is called: a name, or names in a list (positional) or a mapping (keywords); None for
            what the data suggests.
        reading: How images are read; None for the usual way.
        transforms: What is done to images before the network sees them; None leaves arrays as they are and brings
            images from files to values from 0 to 1.
        show_images: Whether what is told of single images names them; else they have salted hashes for names.
        shape: Images that the model is made for, (channels, *size), or None: of these synthetic ones are made.

    Raises:
        LoadError: there is nothing there that can be read as images, or a column is missing.
    """
    transforms = transforms or Transforms(None, FRACTIONS)
    call = None if inputs is None else Call.written(inputs)
    hidden = None if show_images else Pseudonyms()
    wanted = Wanted(tuple(columns), masks, call, transforms.arrays, pictures=transforms.pictures, pseudonyms=hidden)
    if reading is not None:
        wanted = wanted._replace(max_corrupt=reading.max_corrupt, workers=reading.workers)
        if reading.exclude is not None:
            wanted = wanted._replace(excluded=Excluded.read(trust.opened(reading.exclude, "exclude")))
    kind = getattr(data, "kind", None)
    if kind in _FILES:
        return _FILES[kind](data, wanted, trust)
    if kind == "synthetic":
        return open_synthetic(data, wanted, shape)
    if kind == "torchvision":
        return Samples(torchvision_dataset(data, trust), data.written, wanted)
    if kind is not None:
        return _from_python(_made(data, trust), data.written, wanted)
    return _from_python(data, f"a {type(data).__name__} from Python", wanted)


def _made(source: Source, trust: Trust) -> Any:
    """What a factory returns."""
    made = trust.factory(source)
    if not callable(made) or (is_module(made) and not isinstance(made, type)):
        return made
    with telling(source.written, "calling"):
        return made(**dict(source.options))


def _from_python(data: Any, source: str, wanted: Wanted) -> Images:
    if is_module(data):
        data, name = loader_of(data, source)
        source = f"{source}, its {name}"
    given = _arrays(data)
    if given is not None:
        return Arrays(given, source, wanted)
    if isinstance(data, DataLoader) and visitable(data):
        return Samples(data.dataset, source, wanted, data)
    # What fetches several items at once is visited by index, as torch's loaders do: Hugging Face's datasets are such.
    by_index = isinstance(data, Dataset) or hasattr(data, "__getitems__")
    if by_index and not isinstance(data, IterableDataset):
        return Samples(data, source, wanted)
    if isinstance(data, Iterable):
        return Stream(data, source, wanted)
    raise LoadError(f"data: {source} is no data; give arrays, a dataset or an iterable of (images, labels)")


def _arrays(data: Any) -> Any:
    """What is given, where it is whole arrays and not batches."""
    if isinstance(data, (Mapping, torch.Tensor, np.ndarray)):
        return data
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        return None
    images, labels = data
    if hasattr(images, "shape"):
        labels = np.asarray(labels) if isinstance(labels, list) else labels
        flat = labels is None or (hasattr(labels, "shape") and len(images.shape) >= 3 > len(labels.shape))
        return (images, labels) if flat or _masks_of_arrays(images, labels) else None
    several = isinstance(data, tuple) and are_several(images) and (labels is None or hasattr(labels, "shape"))
    return data if several else None


def _masks_of_arrays(images: Any, labels: Any) -> bool:
    """Whether the second of two arrays holds masks of the first, and not more images of the same form."""
    return is_dense(labels, images) and (len(labels.shape) < len(images.shape) or str(labels.dtype).endswith("bool"))
