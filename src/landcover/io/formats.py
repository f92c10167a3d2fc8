"""One size and one decoding function for each file format; they raise what their libraries raise.

JPEG goes through simplejpeg, PNG and WebP through Pillow, TIFF and JPEG 2000 through rasterio.
"""

import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from landcover._typing import BoolArray, UInt8Array

_HEAD_BYTES = 1 << 16
_PNG_END = b"IEND\xaeB`\x82"


class RefusedError(Exception):
    """The file is whole but has a form that is not taken; the text continues "FILE ..."."""


@dataclass(frozen=True, slots=True)
class Picture:
    """The 8-bit pixels of a file.

    Attributes:
        pixels: uint8 (H, W, 3) colours, or (H, W) grey values or, with a palette, its entries.
        palette: uint8 (256, 3), or None.
        outside: bool (H, W), True where the file says that there is no imagery (alpha 0, a transparent
            palette entry, the raster's nodata value); None where it says nothing of the kind.
        lossy: Whether JPEG compression may have changed the values.
    """

    pixels: UInt8Array
    palette: UInt8Array | None = None
    outside: BoolArray | None = None
    lossy: bool = False


@dataclass(frozen=True, slots=True)
class Format:
    """How files of one format begin, and how their (height, width) and their pixels are read."""

    name: str
    magics: tuple[bytes, ...]
    size: Callable[[Path], tuple[int, int]]
    decode: Callable[[Path], Picture]


def _jpeg_size(path: Path) -> tuple[int, int]:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        try:
            header = simplejpeg.decode_jpeg_header(head)
        except ValueError:  # long metadata may stand before the frame header
            header = simplejpeg.decode_jpeg_header(head + file.read())
    return header[0], header[1]


def _decode_jpeg(path: Path) -> Picture:
    data = path.read_bytes()
    colourspace = simplejpeg.decode_jpeg_header(data)[2]
    if colourspace in ("CMYK", "YCCK"):
        raise _cmyk()
    # Accurate DCT and smooth chroma upsampling are pinned: decoders differ slightly, and scores with them.
    options = {"fastdct": False, "fastupsample": False, "strict": True}
    if colourspace == "Gray":
        return Picture(simplejpeg.decode_jpeg(data, "GRAY", **options)[..., 0], lossy=True)
    return Picture(simplejpeg.decode_jpeg(data, "RGB", **options), lossy=True)


def _png_size(path: Path) -> tuple[int, int]:
    with path.open("rb") as file:
        width, height = struct.unpack(">16xII", file.read(24))
    return height, width


def _decode_png(path: Path) -> Picture:
    data = path.read_bytes()
    if _PNG_END not in data[-_HEAD_BYTES:]:  # Pillow does not miss it once it has all rows
        raise ValueError("its end is missing")
    bits, colour_type = data[24], data[25]
    if bits == 16 or (bits < 8 and colour_type == 0):
        raise _wrong_depth(f"{bits}-bit")
    return _from_pillow(PngImageFile(BytesIO(data)))


def _webp_size(path: Path) -> tuple[int, int]:
    with _open_webp(path) as image:
        return image.height, image.width


def _decode_webp(path: Path) -> Picture:
    with _open_webp(path) as image:
        return _from_pillow(image)


def _open_webp(path: Path) -> WebPImageFile:
    try:
        return WebPImageFile(path)
    except Image.DecompressionBombError:
        raise RefusedError("has more pixels than WebP files may have here. Convert it to TIFF.") from None


def _from_pillow(image: PngImageFile | WebPImageFile) -> Picture:
    """Decode what was opened by its class and not by Image.open, whose limit on size no option can raise."""
    if getattr(image, "n_frames", 1) > 1:
        raise RefusedError("is an animation; expected one picture.")
    image.load()
    transparency = image.info.get("transparency")
    if image.mode == "P":
        entries = np.asarray(image)
        colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(colours)] = colours
        return Picture(entries, palette, _outside_palette(entries, transparency))
    if transparency is not None:  # one colour stands for transparent
        return _split_alpha(np.asarray(image.convert("LA" if image.mode == "L" else "RGBA")))
    return _split_alpha(np.asarray(image))


def _outside_palette(entries: UInt8Array, transparency: bytes | int | None) -> BoolArray | None:
    if transparency is None:
        return None
    alpha = np.full(256, 255, np.uint8)
    if isinstance(transparency, int):
        alpha[transparency] = 0
    else:
        alpha[: len(transparency)] = np.frombuffer(transparency, np.uint8)
    outside: BoolArray = (alpha == 0)[entries]
    return outside


def _split_alpha(bands: UInt8Array) -> Picture:
    """Take (H, W), (H, W, 2), (H, W, 3) or (H, W, 4); the second and the fourth have alpha last."""
    if bands.ndim == 2 or bands.shape[2] == 3:
        return Picture(bands)
    pixels = bands[..., 0] if bands.shape[2] == 2 else bands[..., :3]
    return Picture(np.ascontiguousarray(pixels), outside=bands[..., -1] == 0)


def _open_raster(path: Path) -> Any:
    # Here, because most pictures are JPEG or PNG and GDAL takes long to load.
    from rasterio.errors import NotGeoreferencedWarning

    from landcover._gdal import open_raster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return open_raster(path)


def _raster_size(path: Path) -> tuple[int, int]:
    with _open_raster(path) as raster:
        return raster.height, raster.width


def _decode_raster(path: Path) -> Picture:
    from rasterio.enums import ColorInterp, MaskFlags, PhotometricInterp

    with _open_raster(path) as raster:
        meanings = raster.colorinterp
        if raster.photometric == PhotometricInterp.cmyk or ColorInterp.cyan in meanings:
            raise _cmyk()
        if set(raster.dtypes) != {"uint8"}:
            raise _wrong_depth(", ".join(sorted(set(raster.dtypes))))
        bits = raster.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "8")
        if bits == "1" or (bits != "8" and ColorInterp.palette not in meanings):
            raise _wrong_depth(f"{bits}-bit")
        palette = None
        if meanings == (ColorInterp.palette,):
            palette = np.zeros((256, 3), np.uint8)
            for entry, colour in raster.colormap(1).items():
                palette[entry] = colour[:3]
        colours = [band for band, meaning in enumerate(meanings, 1) if meaning != ColorInterp.alpha]
        if len(colours) not in (1, 3):
            raise RefusedError(
                f"has {len(colours)} bands; expected one or three, with or without alpha. Extract three, for "
                "example with gdal_translate -b 1 -b 2 -b 3."
            )
        complete = all(MaskFlags.all_valid in flags for flags in raster.mask_flag_enums)
        outside = None if complete else raster.dataset_mask() == 0
        bands = raster.read(colours)
    pixels = bands[0] if len(bands) == 1 else np.ascontiguousarray(np.moveaxis(bands, 0, 2))
    return Picture(pixels, palette, outside)


def _cmyk() -> RefusedError:
    return RefusedError("is CMYK; expected RGB or grey. Convert it to RGB.")


def _wrong_depth(found: str) -> RefusedError:
    return RefusedError(f"has {found} samples; expected 8-bit ones. Rescale or convert it to 8 bits.")


FORMATS = (
    Format("JPEG", (b"\xff\xd8\xff",), _jpeg_size, _decode_jpeg),
    Format("PNG", (b"\x89PNG\r\n\x1a\n",), _png_size, _decode_png),
    Format("TIFF", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _raster_size, _decode_raster),
    Format("JP2", (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"), _raster_size, _decode_raster),
    Format("WebP", (b"RIFF",), _webp_size, _decode_webp),
)
"""The formats that are read; files are recognised by their first bytes."""
