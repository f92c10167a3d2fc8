"""Masks in and out: class indices from colours, palettes or grey values, and PNG files from class indices."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from landcover._typing import UInt8Array
from landcover.errors import MaskError, OutputError, UsageError, did_you_mean, first_few
from landcover.io.colours import NO_CLASS, find_classes, index_to_colours, on_corners, settle_off_palette
from landcover.io.discovery import MAX_PIXELS
from landcover.io.files import atomic_path
from landcover.io.images import read_picture
from landcover.io.png import encode_png
from landcover.legend import NODATA, Legend
from landcover.values import MaskFormat as MaskFormat


class Mask(NamedTuple):
    """A decoded mask: class indices, uint8 (H, W), and the number of pixels whose colour has no class."""

    index: UInt8Array  # type: ignore[assignment]  # replaces tuple.index
    off_palette: int


def read_mask(
    path: Path, legend: Legend, *, max_pixels: int = MAX_PIXELS, max_off_palette: float = 1.0
) -> Mask:
    """Read a mask of any supported format as class indices of ``legend``.

    Three bands are colours, a palette is its colours (see :func:`colours_to_index`), one band holds indices
    in the legend's order, with 255 as ``NODATA``. Pixels that the file marks as no imagery (alpha 0, a
    transparent palette entry, the raster's nodata value) become ``NODATA``; other alpha is ignored.

    Args:
        path: The file; see :func:`read_image` for formats and forms.
        legend: The classes. Indices in another order need a legend in that order.
        max_pixels: Larger files are refused before anything is decoded.
        max_off_palette: Fraction of off-palette pixels, 0..1, above which the mask is refused.

    Raises:
        MaskError: If the file cannot be read (see :func:`read_image`) or is not a mask: values that are not
            classes, three equal bands of greys, indices in a JPEG, too many off-palette pixels.
        UsageError: If ``max_off_palette`` is not in 0..1.
    """
    if not 0 <= max_off_palette <= 1:
        raise UsageError(f"max_off_palette is {max_off_palette}; expected a fraction in 0..1.")
    path = Path(path)
    picture = read_picture(path, MaskError, max_pixels=max_pixels)
    if picture.palette is None and picture.pixels.ndim == 2:
        if picture.lossy:
            raise MaskError(f"{path} is a grey JPEG, and compression changes indices. Save the mask as PNG.")
        index = picture.pixels
        if picture.outside is not None:
            index = np.where(picture.outside, np.uint8(NODATA), index)
        if strays := _stray_values(index, legend):
            guess = "It looks like a greyscale picture" if len(strays) > 8 else "It may follow another legend"
            raise MaskError(
                f"{path} has one band with values that are not in the legend {legend.name!r}: "
                f"{first_few(strays, 8)}. Expected indices 0 to {len(legend) - 1}, and {NODATA} for nodata. "
                f"{guess}: pass the right file, or its legend with --legend."
            )
        return Mask(np.require(index, requirements="W"), 0)
    if picture.palette is not None:
        index = np.take(find_classes(picture.palette[None], legend)[0], picture.pixels)
    else:
        # Three equal bands of greys are indices or a picture saved as RGB, which thresholds would garble.
        # A sample comes first: most masks are colourful.
        if (
            not picture.lossy
            and on_corners(legend)
            and all(
                (rgb[..., :1] == rgb[..., 1:]).all() for rgb in (picture.pixels[::16, ::16], picture.pixels)
            )
        ):
            greys = [int(value) for value in np.unique(picture.pixels[..., 0]) if 0 < value < 240]
            if greys:
                raise MaskError(
                    f"{path} has three equal bands with the greys {first_few(greys, 8)}; expected colours of "
                    f"the legend {legend.name!r}. It holds indices or a greyscale picture: save indices in "
                    "one band, or pass the right file."
                )
        index = find_classes(picture.pixels, legend)
    off_palette = index == NO_CLASS
    if picture.outside is not None:
        off_palette &= ~picture.outside
        index[picture.outside] = NODATA
    count = settle_off_palette(index, off_palette, legend)
    if count > max_off_palette * index.size:
        raise MaskError(
            f"{path} has {count:,} pixels ({count / index.size:.1%}) whose colour is not in the legend "
            f"{legend.name!r}; at most {max_off_palette:.1%} are allowed. Pass the right legend with "
            "--legend, or raise --max-off-palette."
        )
    return Mask(index, count)


def _stray_values(index: UInt8Array, legend: Legend) -> list[int]:
    """Return the values that are neither a class nor nodata, sorted."""
    if index.max() < len(legend):
        return []
    return [int(value) for value in np.unique(index) if len(legend) <= value != NODATA]


def encode_mask(
    index: UInt8Array,
    legend: Legend,
    mask_format: MaskFormat = "palette",
    tags: Mapping[str, str] | None = None,
) -> bytes:
    """Return a mask as the bytes of a PNG file.

    Args:
        index: Class indices, uint8 (H, W), with ``NODATA`` outside the imagery.
        legend: The classes.
        mask_format: ``palette``: indices with the legend's colours; nodata, if any, is entry 255, black and
            transparent. ``rgb``: three bands as in the challenge; nodata is black and read back as a black
            class. ``index``: one band of indices; nodata is 255.
        tags: Stored as text chunks beside :attr:`Legend.tags`, such as the map's provenance.

    Raises:
        MaskError: If ``index`` is not uint8 (H, W) of classes and nodata.
        UsageError: If the format is unknown.
    """
    if mask_format not in get_args(MaskFormat):
        raise UsageError(
            f"Unknown mask format {mask_format!r}. {did_you_mean(mask_format, get_args(MaskFormat))}"
        )
    if index.dtype != np.uint8 or index.ndim != 2 or index.size == 0:
        raise MaskError(f"Expected a mask as uint8 (height, width); found {index.dtype} {index.shape}.")
    strays = _stray_values(index, legend)
    if strays:
        raise MaskError(f"The values {first_few(strays, 8)} are not in the legend {legend.name!r}.")
    texts = {**legend.tags, **(tags or {})}
    if mask_format == "rgb":
        return encode_png(index_to_colours(index, legend), texts=texts)
    if mask_format == "index":
        return encode_png(index, texts=texts)
    has_nodata = index.max() == NODATA
    palette = legend.colours if has_nodata else legend.colours[: len(legend)]
    return encode_png(index, palette=palette, transparent=NODATA if has_nodata else None, texts=texts)


def write_mask(
    path: Path,
    index: UInt8Array,
    legend: Legend,
    *,
    mask_format: MaskFormat = "palette",
    tags: Mapping[str, str] | None = None,
    force: bool = False,
) -> None:
    """Write a mask as PNG, whole or not at all; :func:`encode_mask` describes the three formats and the tags.

    Raises:
        OutputError: If ``path`` is not named ``.png``, exists and ``force`` is off, or cannot be written.
        MaskError: If ``index`` is not uint8 (H, W) of classes and nodata.
        UsageError: If the format is unknown.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise OutputError(f"Plain masks are written as PNG; name it {path.with_suffix('.png')}, not {path}.")
    with atomic_path(path, force=force) as temporary:
        temporary.write_bytes(encode_mask(index, legend, mask_format, tags))
