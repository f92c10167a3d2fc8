"""Read images, read and write masks: all files of pixels without a map projection."""

from landcover.io.colours import index_to_colours as index_to_colours
from landcover.io.discovery import MAX_PIXELS as MAX_PIXELS
from landcover.io.images import image_size as image_size
from landcover.io.images import read_image as read_image
from landcover.io.images import read_imagery as read_imagery
from landcover.io.masks import Mask as Mask
from landcover.io.masks import MaskFormat as MaskFormat
from landcover.io.masks import encode_mask as encode_mask
from landcover.io.masks import read_mask as read_mask
from landcover.io.masks import write_mask as write_mask
