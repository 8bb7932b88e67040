"""What a spec names -> a live model and blocks of images; the only place that imports user code or opens weights."""

from cnnaudit.load.blocks import Block
from cnnaudit.load.data import Images, open_images, source_id
from cnnaudit.load.masks import as_masks, concepts
from cnnaudit.load.model import load_model
from cnnaudit.load.trust import Trust
from cnnaudit.load.twin import make_twin

__all__ = ["Block", "Images", "Trust", "as_masks", "concepts", "load_model", "make_twin", "open_images", "source_id"]
