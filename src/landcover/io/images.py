"""Read image files: the format by content, the size before the pixels, every problem as one kind of error.

JPEG goes through simplejpeg, PNG, WebP, BMP and GIF through Pillow, TIFF and JPEG 2000 through rasterio.
The functions of a format raise what their libraries raise; :func:`read_picture` turns it into errors of
landcover.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from landcover._typing import BoolArray, UInt8Array
from landcover.errors import DataError, ImageError, LandcoverError, foreign_reason
from landcover.io.discovery import MAX_PIXELS
from landcover.legend import CLASS_NAMES

T = TypeVar("T")

_HEAD_BYTES = 1 << 16
_ORIENTATION = 0x0112
_MOST_TAGS, _MOST_CHUNKS = 1 << 10, 1 << 20
"""Tags and chunks of a file at most that are searched for an EXIF orientation."""
_EXIF, _TIFF = b"Exif\0\0", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTHS = {1: "B", 3: "H", 4: "I"}
"""Types of whole numbers in TIFF tags, as :mod:`struct` has them."""
_DECODING_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)
_LEAST_ALPHA = 32
"""An alpha band whose highest value is smaller, but not 0, is not one."""
_PNG_END = b"IEND\xaeB`\x82"


class RefusedError(Exception):
    """The file is whole but of an unsupported form; the text continues "FILE ..."."""


@dataclass(frozen=True, slots=True)
class Picture:
    """The pixels of a file.

    Attributes:
        pixels: uint8 (H, W, 3) colours, or (H, W) grey values or, with a palette, its entries. Where
            ``depth`` is set, the values as stored, of any type and number of bands.
        palette: uint8 (256, 3), or None.
        outside: bool (H, W), True outside the imagery (alpha 0, a transparent palette entry, the raster's
            nodata value); None without any of these.
        lossy: Name of the compression that may have changed the values, such as JPEG; empty if none has.
        depth: What the samples are, such as ``uint16``, where they are not 8-bit; None where they are.
        is_map: Whether the file carries the classes of its values, as maps of landcover do.
        is_inverted: Whether 0 is white.
        not_labels: Why the file cannot be a mask, a clause such as "contains 2 images"; empty if it can.
    """

    pixels: npt.NDArray[Any]
    palette: UInt8Array | None = None
    outside: BoolArray | None = None
    lossy: str = ""
    depth: str | None = None
    is_map: bool = False
    is_inverted: bool = False
    not_labels: str = ""


@dataclass(frozen=True, slots=True)
class Format:
    """A file format: its first bytes, and the functions that read (height, width) and the pixels."""

    name: str
    magics: tuple[bytes, ...]
    size: Callable[[Path], tuple[int, int]]
    decode: Callable[[Path], Picture]


def _jpeg_size(path: Path) -> tuple[int, int]:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        try:
            header = simplejpeg.decode_jpeg_header(head)
        except ValueError:  # long metadata before the frame header
            header = simplejpeg.decode_jpeg_header(head + file.read())
    return header[0], header[1]


def _decode_jpeg(path: Path) -> Picture:
    data = path.read_bytes()
    colourspace = simplejpeg.decode_jpeg_header(data)[2]
    if colourspace in ("CMYK", "YCCK"):
        raise _wrong_colours("CMYK")
    wanted = "GRAY" if colourspace == "Gray" else "RGB"
    # Accurate DCT and smooth chroma upsampling are pinned: decoders differ slightly, and scores with them.
    pixels = simplejpeg.decode_jpeg(data, wanted, fastdct=False, fastupsample=False, strict=True)
    return Picture(pixels[..., 0] if wanted == "GRAY" else pixels, lossy="JPEG")


def _png_size(path: Path) -> tuple[int, int]:
    with path.open("rb") as file:
        width, height = struct.unpack(">16xII", file.read(24))
    return height, width


def _decode_png(path: Path) -> Picture:
    data = path.read_bytes()
    if _PNG_END not in data[-_HEAD_BYTES:]:  # Pillow does not notice once it has all rows
        raise ValueError("its end is missing")
    bits, colour_type = data[24], data[25]
    image = PngImageFile(BytesIO(data))
    picture = _from_pillow(image)
    if CLASS_NAMES in image.info:
        picture = replace(picture, is_map=True)
    if bits in (2, 4) and colour_type == 0:  # Pillow stretches the values to 0..255
        return replace(picture, pixels=picture.pixels // (255 // (2**bits - 1)), depth=f"{bits}-bit")
    return replace(picture, depth="16-bit") if bits == 16 else picture


def _open_webp(path: Path) -> WebPImageFile:
    try:
        return WebPImageFile(path)
    except Image.DecompressionBombError:
        raise RefusedError("has more pixels than WebP files may have here. Convert it to TIFF.") from None


def _decode_webp(path: Path) -> Picture:
    with _open_webp(path) as image:
        picture = _from_pillow(image)
    content = path.read_bytes()
    start, chunks = 12, set()
    while start + 8 <= len(content):
        chunks.add(content[start : start + 4])
        start += 8 + -(-int.from_bytes(content[start + 4 : start + 8], "little") // 2) * 2
    return replace(picture, lossy="WebP") if b"VP8 " in chunks else picture


def _by_pillow(
    open_image: Callable[[Path], ImageFile],
) -> tuple[Callable[[Path], tuple[int, int]], Callable[[Path], Picture]]:
    """Return the functions that read the size and the pixels of a format that Pillow opens."""

    def size(path: Path) -> tuple[int, int]:
        with open_image(path) as image:
            return image.height, image.width

    def decode(path: Path) -> Picture:
        with open_image(path) as image:
            return _from_pillow(image)

    return size, decode


def _from_pillow(image: ImageFile) -> Picture:
    """Decode an image opened by its class: Image.open has a size limit that no option can raise."""
    if getattr(image, "n_frames", 1) > 1:
        raise RefusedError("is an animation; expected one picture.")
    image.load()
    transparency = image.info.get("transparency")
    if image.mode != "P":
        if transparency is not None:  # one transparent colour
            image = image.convert("LA" if image.mode == "L" else "RGBA")  # type: ignore[assignment]
        bands = np.asarray(image)
        if bands.dtype == bool:
            return Picture(bands.astype(np.uint8), depth="1-bit")
        if bands.ndim == 2 or bands.shape[2] == 3:
            return Picture(bands)
        pixels = bands[..., 0] if bands.shape[2] == 2 else bands[..., :3]  # alpha is last
        alpha = bands[..., -1]
        return Picture(np.ascontiguousarray(pixels), outside=alpha == 0, not_labels=_odd_alpha(alpha, pixels))
    entries = np.asarray(image)
    colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colours)] = colours
    if isinstance(image, BmpImageFile | GifImageFile) and (colours[:, :1] == colours[:, 1:]).all():
        return Picture(np.take(palette[:, 0], entries))  # these formats have no band of greys but this
    if transparency is None:
        return Picture(entries, palette)
    alpha = np.full(256, 255, np.uint8)
    if isinstance(transparency, int):
        alpha[transparency] = 0
    else:
        alpha[: len(transparency)] = np.frombuffer(transparency, np.uint8)
    return Picture(entries, palette, (alpha == 0)[entries])


def _odd_alpha(alpha: UInt8Array, pixels: npt.NDArray[Any]) -> str:
    """Return why alpha, (H, W), cannot be that of a mask with these pixels; an empty text if it can.

    A band that is called alpha because it is the fourth may hold labels.
    """
    highest = int(alpha.max())
    if 0 < highest < _LEAST_ALPHA:
        return f"has an alpha band of 0 to {highest}; expected 255 where there are labels"
    if highest == 0 and (pixels != pixels[0, 0]).any():
        return "is transparent everywhere (alpha 0) and has several colours; expected alpha 255 at labels"
    return ""


def _open_raster(path: Path) -> Any:
    from landcover._gdal import open_raster  # here: most pictures are JPEG or PNG, and GDAL loads slowly

    return open_raster(path)


def _raster_size(path: Path) -> tuple[int, int]:
    with _open_raster(path) as raster:
        return raster.height, raster.width


def _decode_raster(path: Path) -> Picture:
    from rasterio.enums import ColorInterp, MaskFlags

    from landcover._gdal import is_inverted, lossy_compression, other_colours, sample_bits

    with _open_raster(path) as raster:
        meanings = raster.colorinterp
        if found := other_colours(raster):
            raise _wrong_colours(found)
        depth = None if set(raster.dtypes) == {"uint8"} else ", ".join(sorted(set(raster.dtypes)))
        bits = sample_bits(raster, 1)
        if depth is None and (bits == 1 or (bits < 8 and ColorInterp.palette not in meanings)):
            depth = f"{bits}-bit"
        palette = None
        if meanings == (ColorInterp.palette,) and depth is None:
            palette = np.zeros((256, 3), np.uint8)
            for entry, colour in raster.colormap(1).items():
                palette[entry] = colour[:3]
        colours = [band for band, meaning in enumerate(meanings, 1) if meaning != ColorInterp.alpha]
        if len(colours) not in (1, 3) or (depth is not None and len(colours) == 3):
            if depth is not None:
                raise _wrong_depth(depth)
            raise RefusedError(
                f"has {len(colours)} bands; expected one or three, with or without alpha. Extract three, for "
                "example with gdal_translate -b 1 -b 2 -b 3."
            )
        complete = all(MaskFlags.all_valid in flags for flags in raster.mask_flag_enums)
        mask = None if complete else raster.dataset_mask()
        bands = raster.read(colours)
        pixels = bands[0] if len(bands) == 1 else np.ascontiguousarray(np.moveaxis(bands, 0, 2))
        not_labels = ""
        if len(raster.subdatasets) > 1:
            not_labels = f"contains {len(raster.subdatasets)} images; expected one"
        elif mask is not None and ColorInterp.alpha in meanings and depth is None:
            not_labels = _odd_alpha(mask, pixels)
        return Picture(
            pixels,
            palette,
            outside=None if mask is None else mask == 0,
            lossy=lossy_compression(raster),
            depth=depth,
            is_map=CLASS_NAMES in raster.tags(),
            is_inverted=is_inverted(raster),
            not_labels=not_labels,
        )


def _wrong_colours(found: str) -> RefusedError:
    return RefusedError(f"is {found}; expected RGB or grey. Convert it to RGB.")


def _wrong_depth(found: str) -> RefusedError:
    return RefusedError(f"has {found} samples; expected 8-bit ones. Rescale or convert it to 8 bits.")


FORMATS = (
    Format("JPEG", (b"\xff\xd8\xff",), _jpeg_size, _decode_jpeg),
    Format("PNG", (b"\x89PNG\r\n\x1a\n",), _png_size, _decode_png),
    Format("TIFF", _TIFF, _raster_size, _decode_raster),
    Format("JP2", (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"), _raster_size, _decode_raster),
    Format("WebP", (b"RIFF",), _by_pillow(_open_webp)[0], _decode_webp),
    Format("BMP", (b"BM",), *_by_pillow(BmpImageFile)),
    Format("GIF", (b"GIF87a", b"GIF89a"), *_by_pillow(GifImageFile)),
)
"""The formats that are read; files are recognised by their first bytes."""


def read_picture(path: Path, error: type[DataError], *, max_pixels: int) -> Picture:
    """Decode a picture of at most ``max_pixels``; problems are raised as ``error``."""

    def read(file_format: Format) -> Picture:
        check_pixels(path, file_format.size(path), max_pixels)
        return file_format.decode(path)

    return _guarded(path, error, read)


def check_pixels(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    """Raise an :class:`ImageError` about an image whose (height, width) is more than is decoded at once."""
    height, width = size
    if height * width > max_pixels:
        raise ImageError(
            f"{path} has {height} x {width} = {height * width:,} pixels; at most {max_pixels:,} are decoded. "
            f"If the file is what you expect, pass --max-pixels {height * width}; train reads the cache "
            "that prepare makes."
        )


def _guarded(path: Path, error: type[DataError], read: Callable[[Format], T]) -> T:
    """Call ``read`` with the format of the file; problems of it or of a library become ``error``."""
    name = "a picture"
    try:
        if path.exists() and not path.is_file():
            raise RefusedError("is a device, a pipe or a folder. Delete it.")
        with path.open("rb") as file:
            head = file.read(16)
        if not head:
            raise RefusedError("is empty (0 bytes). Fetch it again.")
        file_format = next((known for known in FORMATS if head.startswith(known.magics)), None)
        if file_format is None:
            names = ", ".join(known.name for known in FORMATS)
            raise RefusedError(f"is none of {names}: it begins with {head[:8]!r}. Convert it to one of them.")
        name = file_format.name
        return read(file_format)
    except RefusedError as refusal:
        raise error(f"{path} {refusal}") from None
    except LandcoverError as known:
        raise known if isinstance(known, error) else error(str(known)) from None
    except Exception as problem:
        if not isinstance(problem, _DECODING_ERRORS) and foreign_reason(problem) is None:
            raise
        if isinstance(problem, OSError) and problem.errno is not None:
            raise error(f"{path} cannot be read: {problem.strerror}.") from problem
        reason = str(problem.__cause__ or problem).rstrip(".")
        raise error(
            f"{path} cannot be decoded as {name}: {reason}. It is damaged or cut short; fetch it again."
        ) from problem


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of a picture from its header, without decoding it."""
    path = Path(path)
    return _guarded(path, ImageError, lambda file_format: file_format.size(path))


def is_masked(path: Path) -> bool:
    """Return whether pixels of a picture may lack imagery by its header; see :func:`read_imagery`.

    Raises:
        ImageError: If the file is missing, empty or of no known format.
    """

    def by_header(file_format: Format) -> bool:
        if file_format.name in ("TIFF", "JP2"):
            from rasterio.enums import MaskFlags

            with _open_raster(path) as raster:
                return not all(MaskFlags.all_valid in flags for flags in raster.mask_flag_enums)
        if file_format.name == "PNG":
            with path.open("rb") as file:
                head = file.read(_HEAD_BYTES)
            return head[25:26] >= b"\4" or b"tRNS" in head
        return file_format.name in ("WebP", "GIF")

    path = Path(path)
    return _guarded(path, ImageError, by_header)


def exif_orientation(path: Path) -> int:
    """Return the EXIF orientation of a picture, 1 to 8; 1 (as stored) without one, or for other files.

    It is read without a library: Pillow reads all tags of a TIFF, which may be larger than the memory.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
            name = next((known.name for known in FORMATS if head.startswith(known.magics)), "")
            start = _exif_start(file, name)
            orientation = 1 if start is None else _tiff_orientation(file, start)
    except (*_DECODING_ERRORS, OverflowError):
        return 1  # reported when it is decoded
    return orientation if orientation in range(1, 9) else 1


def _exif_start(file: BinaryIO, name: str) -> int | None:
    """Return the byte at which the EXIF data of a file begin, which are a TIFF; None without any."""
    if name == "TIFF":
        return 0
    if name not in ("JPEG", "PNG", "WebP"):
        return None
    position = {"JPEG": 2, "PNG": 8, "WebP": 12}[name]
    for _ in range(_MOST_CHUNKS):
        file.seek(position)
        head = file.read(14)
        if len(head) < 8:
            return None
        if name == "JPEG":
            if head[0] != 0xFF or head[1] == 0xDA:  # the pixels
                return None
            if head[1] == 0xFF:  # fill
                position += 1
                continue
            size, start = int.from_bytes(head[2:4], "big") - 2, 4
            is_exif = head[1] == 0xE1 and head[4:10] == _EXIF
        elif name == "PNG":
            size, start, is_exif = int.from_bytes(head[:4], "big") + 4, 8, head[4:8] == b"eXIf"
        else:
            size, start, is_exif = int.from_bytes(head[4:8], "little"), 8, head[:4] == b"EXIF"
            size += size % 2
        if is_exif:
            return position + start + (6 if head[start : start + 6] == _EXIF else 0)
        position += start + size
    return None


def _tiff_orientation(file: BinaryIO, start: int) -> int:
    """Return the orientation in the first directory of a TIFF or BigTIFF; 1 without one."""
    file.seek(start)
    head = file.read(16)
    if not head.startswith(_TIFF):
        return 1
    order = ">" if head[:2] == b"MM" else "<"
    is_big = struct.unpack(f"{order}H", head[2:4])[0] == 43
    offset, count, entry = ("Q", "Q", "HHQ8s") if is_big else ("I", "H", "HHI4s")
    file.seek(start + struct.unpack_from(order + offset, head, 8 if is_big else 4)[0])
    tags = struct.unpack(order + count, file.read(struct.calcsize(order + count)))[0]
    form = struct.Struct(order + entry)
    content = file.read(min(tags, _MOST_TAGS) * form.size)
    for tag, kind, _, value in form.iter_unpack(content[: len(content) // form.size * form.size]):
        if tag == _ORIENTATION and kind in _WIDTHS:
            return int(struct.unpack_from(order + _WIDTHS[kind], value)[0])
    return 1


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> UInt8Array:
    """Decode a JPEG, PNG, TIFF, JP2, WebP, BMP or GIF file, recognised by its content: uint8 (H, W, 3), RGB.

    Grey is repeated in three bands, palettes are expanded, alpha is dropped (pixels keep the colour stored
    under it). EXIF orientation is ignored on purpose: masks do not have it.

    Raises:
        ImageError: If the file is missing, empty, damaged, cut short or larger than ``max_pixels``, or of an
            unsupported form: 16-bit, 1-bit, float, CMYK, animated, neither one nor three bands.
    """
    return read_imagery(path, max_pixels=max_pixels)[0]


def read_imagery(path: Path, *, max_pixels: int = MAX_PIXELS) -> tuple[UInt8Array, BoolArray | None]:
    """As :func:`read_image`, with the mask of valid pixels, bool (H, W), or None.

    It is False under alpha 0, a transparent palette entry or colour, the raster's nodata value or mask.
    """
    picture = read_picture(Path(path), ImageError, max_pixels=max_pixels)
    if picture.depth is not None:
        raise ImageError(f"{path} {_wrong_depth(picture.depth)}")
    if picture.is_inverted:
        from landcover._gdal import INVERTED

        raise ImageError(f"{path} {INVERTED}.")
    valid = None if picture.outside is None else ~picture.outside
    if picture.palette is not None:
        return np.take(picture.palette, picture.pixels, axis=0), valid
    if picture.pixels.ndim == 2:
        return np.repeat(picture.pixels[..., None], 3, axis=2), valid
    return np.require(picture.pixels, requirements="W"), valid  # Pillow's are read-only
