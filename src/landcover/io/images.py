"""Images in: uint8 RGB from any supported file."""

from pathlib import Path

import numpy as np

from landcover._typing import BoolArray, UInt8Array
from landcover.errors import ImageError
from landcover.io.decoding import read_picture, read_size
from landcover.io.discovery import MAX_PIXELS


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of a picture from its header, without decoding it.

    Raises:
        ImageError: If the file is missing, empty, or of no supported format.
    """
    return read_size(Path(path), ImageError)


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> UInt8Array:
    """Decode a JPEG, PNG, TIFF, JP2 or WebP file; the content decides, whatever the suffix says.

    Grey is repeated in three bands, palettes are expanded, alpha is dropped (pixels keep the colour stored
    under it). EXIF orientation is ignored on purpose: the mask of an image knows nothing of it. JPEG is
    decoded by simplejpeg (libjpeg-turbo) with accurate DCT and smooth chroma upsampling; another decoder may
    differ by a few grey values.

    Args:
        path: The file.
        max_pixels: Larger files are refused before anything is decoded.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ImageError: If the file is missing, empty, damaged, cut short or larger than ``max_pixels``, or has a
            form that is refused: 16-bit, 1-bit, float, CMYK, animated, neither one nor three bands.
    """
    return read_imagery(path, max_pixels=max_pixels)[0]


def read_imagery(path: Path, *, max_pixels: int = MAX_PIXELS) -> tuple[UInt8Array, BoolArray | None]:
    """As :func:`read_image`, but say too where the file has imagery.

    Returns:
        uint8 (H, W, 3), RGB, and bool (H, W): False under alpha 0, a transparent palette entry or colour, the
        raster's nodata value or mask; None where the file has nothing of the kind.
    """
    picture = read_picture(Path(path), ImageError, max_pixels=max_pixels)
    valid = None if picture.outside is None else ~picture.outside
    if picture.palette is not None:
        return np.take(picture.palette, picture.pixels, axis=0), valid
    if picture.pixels.ndim == 2:
        return np.repeat(picture.pixels[..., None], 3, axis=2), valid
    return np.require(picture.pixels, requirements="W"), valid  # Pillow's are read-only
