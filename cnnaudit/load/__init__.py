"""What a spec names -> a live model and blocks of images; the only place that imports user code or opens weights."""

from cnnaudit.load.blocks import Block
from cnnaudit.load.data import open_images
from cnnaudit.load.images import Images
from cnnaudit.load.masks import as_masks, concepts
from cnnaudit.load.model import Loaded, load_model, unwrapped
from cnnaudit.load.preprocessing import transforms_for
from cnnaudit.load.suggested import suggested_shape
from cnnaudit.load.trust import Trust
from cnnaudit.load.twin import make_twin
from cnnaudit.load.values import source_id

__all__ = [
    "Block",
    "Images",
    "Loaded",
    "Trust",
    "as_masks",
    "concepts",
    "load_model",
    "make_twin",
    "open_images",
    "source_id",
    "suggested_shape",
    "transforms_for",
    "unwrapped",
]
