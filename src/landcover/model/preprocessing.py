"""Preprocessing: from pixels to the network's input, and back to the image's grid.

:class:`Preprocessing` is stored in every model. Training, evaluation and prediction use it and the functions
below, so that a network always gets the input that it was trained on.

Resampling maps pixel centres to pixel centres (pixel ``i`` covers ``[i, i + 1)``), so nothing moves by half a
pixel. The filters are Pillow's, which weight source pixels by their distance from the exact position:
bilinear to enlarge, Hamming to reduce. From 0.5 m to 1.195 m on real imagery Hamming is closest to an exact
average over each pixel's area (RMSE 0.44 grey values; bilinear 1.4; box 1.8, with shifts of 0.3 pixels).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from landcover._typing import BoolArray, Float32Array, IntArray, UInt8Array
from landcover.errors import ConfigError, UsageError
from landcover.scale import check_gsd
from landcover.values import BandSelection, Scaling

Size = tuple[int, int]
"""Height and width in pixels."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of RGB in 0..1 that timm's encoders were pretrained with."""

RGB = ("red", "green", "blue")
PLAIN: Scaling = (0.0, 255.0)
"""The scaling of 8-bit imagery, which does not change it."""

_WHOLE_COLS = 2048
_PIECE_COLS = 256
"""Columns that are resampled at a time where there are more than _WHOLE_COLS, from fixed positions on.

Pillow rounds positions by the columns that it is given, and a part has the values of the whole scene.
"""

_FAR = np.int32(1 << 28)
_TOUCH = 1e-6  # of a pixel: below it, edges of both grids are the same


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Properties of a network's input.

    Attributes:
        gsd: Ground sample distance in metres per pixel; imagery of another one is resampled to it.
        mean: Mean of each band in 0..1.
        std: Standard deviation of each band in 0..1.
        bands: Names of the input's spectral bands, in the order of the network's input channels.
        band_indices: Where these bands usually are in a file, counted from 1; empty: unknown.
        scaling: Values of the imagery that become 0 and 1 before mean and std are applied; or "percentile":
            the 2nd and 98th percentile of each scene.
    """

    gsd: float
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    bands: tuple[str, ...] = RGB
    band_indices: tuple[int, ...] = (1, 2, 3)
    scaling: Scaling = PLAIN

    def __post_init__(self) -> None:
        check_gsd(self.gsd)
        count = len(self.bands)
        if not len(self.mean) == len(self.std) == count or not all(map(math.isfinite, self.mean)):
            raise ConfigError(
                f"mean {self.mean} and std {self.std} must be {count} finite numbers each, as many as bands "
                f"({', '.join(self.bands)})."
            )
        if len(self.band_indices) not in (0, count):
            raise ConfigError(f"band_indices {self.band_indices} must be {count} numbers, or none.")
        if not all(math.isfinite(value) and value > 0 for value in self.std):
            raise ConfigError(f"std {self.std} must be positive: pixels are divided by it.")

    @property
    def channels(self) -> int:
        """Number of bands of the input."""
        return len(self.bands)

    @property
    def reading(self) -> tuple[BandSelection | None, Scaling | None]:
        """The bands and the scaling that files are read with; None for red, green and blue, or for 8 bits."""
        is_rgb = self.bands == RGB and self.band_indices == (1, 2, 3)
        bands = None
        if not is_rgb and self.band_indices:
            bands = BandSelection.of_model(self.band_indices, self.bands)
        return bands, None if self.scaling == PLAIN else self.scaling

    @property
    def factors(self) -> tuple[Float32Array, Float32Array]:
        """``scale`` and ``offset``, float32 (C,) each: normalised = pixel * scale + offset."""
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)


def scaled_size(size: Size, scale: float) -> Size:
    """Height and width times ``scale``, rounded, at least 1 pixel each."""
    height, width = size
    return max(1, round(height * scale)), max(1, round(width * scale))


def resample_image(image: UInt8Array, size: Size | float) -> UInt8Array:
    """Resample uint8 (H, W, C): the average over each new pixel's area to reduce, bilinear to enlarge.

    ``size`` is height and width, or one factor for both. The image itself is returned if it has that size.
    """
    source, target = _sizes(image, size)
    return image if target == source else resample_rows(image, 0, slice(0, target[0]), source, target)


def resample_mask(mask: UInt8Array, size: Size | float) -> UInt8Array:
    """Resample class indices, uint8 (H, W), to the nearest pixel, as :func:`resample_image`."""
    source, target = _sizes(mask, size)
    if target == source:
        return mask
    return np.asarray(Image.fromarray(mask).resize(target[::-1], Image.Resampling.NEAREST))


def source_rows(rows: slice, source_height: int, height: int) -> slice:
    """Return the rows of an image, ``source_height`` high, that ``rows`` of it in ``height`` depend on."""
    step = source_height / height
    reach = max(step, 1.0)  # both filters end one pixel of the coarser grid from the centre
    first = math.floor((rows.start + 0.5) * step - reach)
    last = math.ceil((rows.stop - 0.5) * step + reach)
    return slice(max(0, first), min(source_height, last))


def resample_rows(
    strip: UInt8Array,
    top: int,
    rows: slice,
    source: Size,
    target: Size,
    left: int = 0,
    cols: slice | None = None,
) -> UInt8Array:
    """Return rows and columns (None: all) of the result of :func:`resample_image` without the whole image.

    ``strip`` is uint8 (n, w, C): the part of the image, from its row ``top`` and its column ``left`` on, that
    contains all of :func:`source_rows`; ``source`` and ``target`` are the sizes of the whole image before and
    after.
    """
    cols = cols or slice(0, target[1])
    if target == source:
        return strip[rows.start - top : rows.stop - top, cols.start - left : cols.stop - left]
    step = source[0] / target[0]
    reduces = math.prod(target) < math.prod(source)
    resampling = Image.Resampling.HAMMING if reduces else Image.Resampling.BILINEAR
    first, last = max(0.0, rows.start * step - top), min(rows.stop * step - top, float(len(strip)))
    height = rows.stop - rows.start
    # Vertically first: neighbouring bytes are independent, so four of them can be one pixel. Horizontally
    # first takes 1.4 times as long: Pillow would copy the whole image to give each RGB a fourth byte.
    lines = np.ascontiguousarray(strip).reshape(len(strip), -1)
    mode, width = ("RGBX", lines.shape[1] // 4) if lines.shape[1] % 4 == 0 else ("L", lines.shape[1])
    tall = Image.frombuffer(mode, (width, len(lines)), lines, "raw", mode, 0, 1)
    reduced = np.asarray(tall.resize((width, height), resampling, (0, first, width, last)))
    wide = reduced.reshape(height, *strip.shape[1:])
    across, pieces = source[1] / target[1], list[UInt8Array]()
    length = target[1] if target[1] <= _WHOLE_COLS else _PIECE_COLS
    for start in range(cols.start // length * length, cols.stop, length):
        stop = min(start + length, target[1])
        inside = source_rows(slice(start, stop), source[1], target[1])
        first, last = max(left, inside.start), min(left + wide.shape[1], inside.stop)
        piece = wide[:, first - left : last - left]
        if last - first < inside.stop - inside.start:
            piece = np.pad(piece, ((0, 0), (first - inside.start, inside.stop - last), (0, 0)))
        box = max(0.0, start * across - inside.start), min(stop * across - inside.start, piece.shape[1])
        piece = _widths(piece, stop - start, box, resampling)
        pieces.append(piece[:, max(cols.start - start, 0) : cols.stop - start])
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)


def _widths(
    lines: UInt8Array, width: int, box: tuple[float, float], resampling: Image.Resampling
) -> UInt8Array:
    """Resample lines, uint8 (n, w, C), between two positions to a width."""

    def resized(plane: UInt8Array) -> UInt8Array:
        size, part = (width, len(lines)), (box[0], 0, box[1], len(lines))
        return np.asarray(Image.fromarray(plane).resize(size, resampling, part))

    if lines.shape[2] == 3:
        return resized(lines)
    # Four bands would be RGBA to Pillow, which multiplies colours by alpha.
    return np.stack([resized(np.ascontiguousarray(plane)) for plane in np.moveaxis(lines, 2, 0)], axis=2)


def _sizes(image: UInt8Array, size: Size | float) -> tuple[Size, Size]:
    """Return height and width before and after resampling."""
    source = (image.shape[0], image.shape[1])
    target = tuple(size) if isinstance(size, Sequence) else scaled_size(source, size)
    if len(target) != 2 or min(target) < 1:
        raise UsageError(f"An image of {source[0]} x {source[1]} pixels cannot be resampled to {size}.")
    return source, target


def mirrored(image: UInt8Array, valid: BoolArray) -> UInt8Array:
    """Return an image, uint8 (H, W, 3), with imagery mirrored at its edge where it is not ``valid``.

    A network was not trained on flat colours beside the edge of the imagery, and they distort its predictions
    far into it; mirrored ground looks like ground. The edge is the nearest along the pixel's row or column.
    If the mirrored position has no imagery, pixels filled before count as imagery: narrow strips are mirrored
    repeatedly, about twice as wide each time. ``image`` itself is returned if no or every pixel is missing.
    """
    if valid.all() or not valid.any():
        return image
    image, valid = image.copy(), valid.copy()
    rows, cols = np.nonzero(~valid)
    while len(rows):
        across, beside, inside_across = _mirror(valid, rows, cols)
        down, above, inside_down = _mirror(valid.T, cols, rows)
        sideways = beside <= above
        filled = np.where(sideways, inside_across, inside_down)
        source = np.where(sideways, rows, down)[filled], np.where(sideways, across, cols)[filled]
        image[rows[filled], cols[filled]] = image[source]
        valid[rows[filled], cols[filled]] = True
        rows, cols = rows[~filled], cols[~filled]
    return image


def any_within(missing: BoolArray, pixels: slice, step: float, offset: int, axis: int) -> BoolArray:
    """Return, along axis 0 or 1, whether a source pixel of each resampled pixel is missing: bool (n, m).

    ``missing``, bool (n, m), contains all source pixels, from ``offset`` on; ``step`` of them have the length
    of one of the ``pixels`` of the resampled grid.
    """
    reach = max(step, 1.0) - 0.5
    centre = (np.arange(pixels.start, pixels.stop) + 0.5) * step - offset
    length = missing.shape[axis]
    first = np.clip(np.floor(centre - reach + _TOUCH).astype(np.intp), 0, length - 1)
    stop = np.clip(np.ceil(centre + reach - _TOUCH).astype(np.intp), first + 1, length)
    padding = [(0, 0), (0, 0)]
    padding[axis] = (0, 1)  # reduceat accepts no end after the last
    pairs = np.stack([first, stop], axis=1).ravel()
    result: BoolArray = np.logical_or.reduceat(np.pad(missing, padding), pairs, axis=axis)
    return result.take(range(0, len(pairs), 2), axis=axis)


def resample_valid(valid: BoolArray, size: Size) -> BoolArray:
    """Return which pixels of an image resampled to ``size`` are made of imagery alone: bool (h, w)."""
    missing = ~valid
    for axis in (0, 1):
        step = valid.shape[axis] / size[axis]
        missing = any_within(missing, slice(0, size[axis]), step, 0, axis)
    return ~missing


def _mirror(valid: BoolArray, rows: IntArray, cols: IntArray) -> tuple[IntArray, IntArray, BoolArray]:
    """Mirror pixels within their rows: column to copy from, distance to imagery, whether that is imagery."""
    width = valid.shape[1]
    at = np.arange(width, dtype=np.int32)
    left = np.maximum.accumulate(np.where(valid, at, -_FAR), axis=1)[rows, cols]
    right = np.minimum.accumulate(np.where(valid, at, _FAR)[:, ::-1], axis=1)[:, ::-1][rows, cols]
    edge = np.where(cols - left <= right - cols, left, right)
    mirror = 2 * edge - cols + np.sign(cols - edge)
    inside = np.clip(mirror, 0, width - 1)
    return inside, np.abs(edge - cols), valid[rows, inside] & (inside == mirror)
