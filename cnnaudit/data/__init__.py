"""What a spec names, or Python gives -> blocks of images in the order of the audit."""

from cnnaudit.data.blocks import Block
from cnnaudit.data.images import Images
from cnnaudit.data.masks import as_masks, concepts
from cnnaudit.data.opening import open_images
from cnnaudit.data.preprocessing import transforms_for
from cnnaudit.data.suggested import suggested_shape
from cnnaudit.data.values import source_id

__all__ = [
    "Block",
    "Images",
    "as_masks",
    "concepts",
    "open_images",
    "source_id",
    "suggested_shape",
    "transforms_for",
]
