"""Read images, read and write masks: all files of pixels without a map projection."""

from landcover.io.colours import index_to_colours
from landcover.io.discovery import MAX_PIXELS
from landcover.io.images import image_size, read_image, read_imagery
from landcover.io.masks import Mask, MaskFormat, encode_mask, read_mask, write_mask

__all__ = [
    "MAX_PIXELS",
    "Mask",
    "MaskFormat",
    "encode_mask",
    "image_size",
    "index_to_colours",
    "read_image",
    "read_imagery",
    "read_mask",
    "write_mask",
]
