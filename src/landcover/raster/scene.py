"""Imagery of any size, read by strips of rows."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from landcover._gdal import open_raster
from landcover._typing import BoolArray, Float64Array, UInt8Array
from landcover.errors import ImageError
from landcover.io import read_imagery
from landcover.io.discovery import MASK_SUFFIXES, PICTURE_SUFFIXES, RASTER_SUFFIXES
from landcover.raster.address import BLOCK_CACHE, Address
from landcover.raster.bands import (
    RGB,
    check_scaling,
    choose_bands,
    is_opaque,
    mask_of,
    percentile_range,
    sample_values,
    to_bytes,
)
from landcover.raster.extent import inside_polygons, part_of
from landcover.raster.fill import Value, find_fill, missing_blocks
from landcover.raster.georeference import Georeference, place_of
from landcover.values import BandSelection, Scaling
from landcover.windows import Window

_ROWS = 256
"""Rows that are read at once at least; formats with lower blocks would need a call for each."""
_VRT_ROWS = 1024
"""The same of VRTs, which do not report the height of the blocks of their files."""
_SEQUENTIAL = frozenset({"GIF", "JPEG", "PNG", "WEBP"})
"""Formats that can only be decoded from the top: nothing can be read below damage.

GDAL reports the damage in a JPEG once; when its rows are read again they are grey.
"""
_SEARCHED_PIXELS = 1 << 27
"""In larger files of these formats no fill is searched: their last row is read after all others."""
_SMALL_CACHE = 64 << 20
_LARGEST_CACHE = 4 << 30
_SHOWN = 8
_CONTEXT_COLS = 8192
"""Columns beside the part that the cache has room for."""


class Strip(NamedTuple):
    """Some rows of a scene.

    Attributes:
        image: uint8 (n, W, C): RGB, or the bands of :class:`Reading`.
        valid: bool (n, W), False where there is no imagery; None where there is imagery everywhere.
        wanted: bool (n, W), False outside of the area of interest; None without one.
    """

    image: UInt8Array
    valid: BoolArray | None
    wanted: BoolArray | None = None


class Reading(NamedTuple):
    """How a file is read as imagery.

    Attributes:
        bands: Numbers of the bands, from 1: red, green, blue, and others for models of more channels. None:
            red, green and blue as named by the file, else the first three (with a warning if it has more),
            else the first one as grey. Those of a model count in files that do not name its bands.
        scaling: The values that become 0 and 255; or "percentile": the 2nd and 98th percentile of the whole
            scene. None: 8-bit values unchanged, others are refused.
        strict: Raise an error for a damaged block instead of pixels without data.
        alpha: Number of the alpha band, or "none"; None: that of the file, unless most of its values are
            neither 0 nor the largest.
        nodata: Value of pixels without imagery; None: that of the file.
        fill: ``nodata``: rows and columns of one value at the edges, which the file does not declare as
            nodata, and blocks that it does not have, are without imagery. ``keep``: they are imagery.
        colour_fill: Whether rows and columns of one colour are fill, too. Not in data sets, whose masks may
            label them as water.
        crs: The coordinate reference system of the file's coordinates; None: that of the file.
    """

    bands: Sequence[int] | None = None
    scaling: Scaling | None = None
    strict: bool = False
    alpha: int | Literal["none"] | None = None
    nodata: float | None = None
    fill: Literal["nodata", "keep"] = "nodata"
    colour_fill: bool = True
    crs: CRS | None = None

    @property
    def channels(self) -> int:
        """Number of bands that are read."""
        return len(self.bands or RGB)


class Scene:
    """Imagery that is open for reading by one thread; made by :func:`open_scene`, closed by :meth:`close`.

    Attributes:
        name: The file or address, for messages, see :func:`~landcover.raster.display_name`.
        height: Rows of the file.
        width: Columns of the file.
        frame: Place of all pixels, which the ground sample distance is of.
        own: The pixels of the file: all but where it is read with its neighbours.
        place: Place of these.
        part: The pixels to map; the others are their surroundings.
        dtype: Data type of its bands in the file; strips are uint8.
        damaged: Windows of the file that could not be read so far; invalid in its strips.
        warnings: Sentences for the user. The first rows that are read may add one.
    """

    def __init__(
        self,
        address: Address,
        reader: DatasetReader,
        *,
        reading: Reading,
        bbox: Sequence[float] | None,
        aoi: str | Path | None,
        layer: str | None,
    ) -> None:
        self.place, reason = place_of(reader, reading.crs)
        self.frame = self.place
        self.part, self._polygons = part_of(address.name, self.place, bbox, aoi, layer)
        self.name = address.name
        self.height, self.width = reader.shape
        self.own = Window(0, 0, self.height, self.width)
        self.damaged: list[Window] = []
        self.warnings: list[str] = []
        self._address, self._reader = address, reader
        self._strict = reading.strict
        self._block, self._rows, cache = _blocks(address.name, reader, self.part)
        self._bands, note = choose_bands(address.name, reader, reading.bands)
        self._end = reader.height
        self.dtype: str = reader.dtypes[self._bands[0] - 1]
        with ExitStack() as cached:
            cached.enter_context(BLOCK_CACHE.share(cache))
            with address.environment():
                self._mask, mask_note = mask_of(
                    address.name, reader, self._bands, reading.alpha, reading.nodata
                )
                if reason:
                    self.warnings.append(f"{self.name} is not georeferenced: {reason}.")
                self.warnings += [text for text in (note, mask_note) if text is not None]
                if len(reader.subdatasets) > 1:
                    self.warnings.append(_several(self.name, reader.subdatasets, "the first is read"))
                masked, band, value = self._mask[:3]
                is_declared = bool(masked) or band is not None or value is not None
                is_declared = is_declared and not is_opaque(reader, self._mask)
                scaling = reading.scaling
                check_scaling(self.name, reader, self._bands[0], scaling)
                is_searched = not is_declared and reading.fill == "nodata"
                self._fill = self._find_fill(reading.colour_fill) if is_searched else ()
                self._range = percentile_range(self.sample()) if scaling == "percentile" else scaling
            self._cached = cached.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_masked(self) -> bool:
        """Whether pixels may lack imagery: by a nodata value, an alpha band, a mask, fill, or as NaN."""
        mask = self._mask
        others = (mask.alpha, mask.nodata, mask.inside, mask.missing)
        is_marked = bool(mask.masked) or any(each is not None for each in others)
        return is_marked or self.dtype.startswith("float")

    def close(self) -> None:
        """Close the file."""
        self._reader.close()
        self._cached.close()

    def read_rows(self, start: int, stop: int, cols: slice | None = None) -> Strip:
        """Read rows ``start`` to ``stop``, at least one. Strips in order read every block of the file once.

        Returns:
            The strip, in new arrays. A pixel is invalid by the nodata value, alpha band or mask of all bands
            that are read, where a value is not finite, and where the file is damaged, which is then added to
            ``damaged``.

        Raises:
            ImageError: If the scene is strict and a block cannot be read; or, strict or not, if the network
                fails, or a VRT refers to a file that does not exist.
        """
        if not 0 <= start < stop <= self.height:
            raise ValueError(f"Found rows {start} to {stop}; expected rows of a scene of {self.height} rows.")
        cols = cols or slice(0, self.width)
        part = Window(start, cols.start, stop - start, cols.stop - cols.start)
        image = np.empty((part.height, part.width, len(self._bands)), np.uint8)
        valid = np.ones((part.height, part.width), bool)
        with self._address.environment():
            # Cut where rows of blocks of the file begin, so that none is read twice.
            row = start
            while row < stop:
                end = min((row // self._rows + 1) * self._rows, stop)
                window = Window(row, part.col, end - row, part.width)
                rows = slice(row - start, end - start)
                try:
                    self._read(window, image[rows], valid[rows])
                except RasterioError as error:
                    self._salvage(error, window, image[rows], valid[rows])
                row = end
        wanted = None if self._polygons is None else inside_polygons(self._polygons, part)
        return Strip(image, None if valid.all() else valid, wanted)

    def sample(self) -> Float64Array:
        """Return values of the whole scene, float64 (N,), which percentiles are taken of."""
        return sample_values(self._address, self._reader, self._bands, self._mask, self._fill)

    def _read(self, window: Window, image: UInt8Array, valid: BoolArray) -> None:
        """Read a window of the file into ``image`` (h, w, C) and ``valid`` (h, w), which must be True."""
        if window.row + window.height > self._end:
            raise RasterioError("nothing can be decoded below the damage")
        part = window.slices
        grey = len(set(self._bands)) == 1
        bands = list(self._bands[:1] if grey else self._bands)
        values = None
        if self._range is None and not grey:
            self._reader.read(bands, window=part, out=np.moveaxis(image, 2, 0))
        else:
            values = self._reader.read(bands, window=part)
            for channel, plane in enumerate(values):
                image[..., channel] = plane if self._range is None else to_bytes(plane, *self._range)
            if grey:
                image[..., 1:] = image[..., :1]
            if values.dtype.kind == "f":
                np.isfinite(values).all(axis=0, out=valid)
        # With a range or grey the bands as they are, else the image.
        plain = values if values is not None else np.moveaxis(image, 2, 0)
        self._mask.apply(self._reader, window, plain, valid)

    def _find_fill(self, with_colours: bool) -> tuple[Value, ...]:
        """Add undeclared fill to the mask, and return the values of corners that may be fill."""
        if self._reader.driver in _SEQUENTIAL and self.height * self.width > _SEARCHED_PIXELS:
            return ()
        bands, end = sorted(set(self._bands)), self.height
        is_sequential = self._reader.driver in _SEQUENTIAL

        def read(window: Window) -> npt.NDArray[Any]:
            nonlocal end
            if window.row + window.height <= end:
                try:
                    values: npt.NDArray[Any] = self._reader.read(bands, window=window.slices)
                    return values
                except RasterioError as error:
                    if self._address.is_fatal(error):
                        raise
                    end = window.row if is_sequential else end
            return np.full((len(bands), window.height, window.width), np.nan)

        fill = find_fill(read, self.height, self.width, self._rows, with_colours=with_colours)
        if end < self.height:
            self._reader.close()  # it would not report the damage again
            self._reader = open_raster(self._address.text)
        missing = missing_blocks(self._reader, bands, fill.inside)
        inside = fill.inside if fill.lines else None
        self._mask = self._mask._replace(inside=inside, missing=missing, block=self._block)
        is_whole = self.place.georeference is not None and len(bands) == self._reader.count
        self.warnings += fill.notes(self.name, is_whole=is_whole)
        if missing is not None:
            self.warnings.append(
                f"{self.name} lacks {missing.sum():,} blocks of {self._block[0]} x {self._block[1]} pixels "
                "(value 0), which were never written: they become nodata. To map them, pass --fill keep."
            )
        return fill.corners

    def _salvage(self, error: RasterioError, window: Window, image: UInt8Array, valid: BoolArray) -> None:
        """Read a damaged window block by block."""
        if self._strict or self._address.is_fatal(error):
            raise self._address.refusal(error) from error
        if self._reader.driver == "VRT" and "GetRasterBand" in str(error.__cause__):
            raise self._address.refusal(error) from error  # of a source that does not have the band
        image[:], valid[:] = 0, False
        if self._reader.driver in _SEQUENTIAL:
            self._end = min(self._end, window.row)
            self._note(window)
            return
        high, wide = self._block
        for row in range(window.row // high * high, window.row + window.height, high):
            top, bottom = max(row, window.row), min(row + high, window.row + window.height)
            for col in range(window.col // wide * wide, window.col + window.width, wide):
                left, right = max(col, window.col), min(col + wide, window.col + window.width)
                block = Window(top, left, bottom - top, right - left)
                target = block._replace(row=top - window.row, col=left - window.col).slices
                valid[target] = True
                try:
                    self._read(block, image[target], valid[target])
                except RasterioError:
                    image[target], valid[target] = 0, False
                    self._note(block)

    def _note(self, window: Window) -> None:
        """Add a window of the file to ``damaged``, joined to the one right above it."""
        for number, other in enumerate(self.damaged):
            if (other.row + other.height, other.col, other.width) == (window.row, *window[1::2]):
                self.damaged[number] = other._replace(height=other.height + window.height)
                return
        self.damaged.append(window)


def open_scene(
    path: str | Path,
    *,
    bbox: Sequence[float] | None = None,
    aoi: str | Path | None = None,
    layer: str | None = None,
    **reading: Any,
) -> Scene:
    """Open imagery of any size to read it by strips of rows.

    GeoTIFF, COG, VRT, JPEG 2000, netCDF and HDF5 are read by blocks, and single blocks may be damaged. PNG
    and JPEG can only be decoded from the top: strips in order cost one decoding, going back starts again.
    WebP and GIF are decoded whole by the first read and take their whole size in memory. In these four,
    nothing is read below damage. Palette images are refused as maps or masks; to classify one, expand it to
    RGB first (gdal_translate -expand rgb).

    Memory, beside the strips: GDAL's block cache, which has room for two rows of blocks across the part and
    8192 columns on either side of it (at least 256 rows, in VRTs 1024), of all bands: rows x width x bands x
    bytes, twice, and at least 64 MiB. The caches of all open scenes and maps add up.

    Addresses are http(s), s3, gs, az; files beside them (.msk, .aux.xml, .ovr) are not used. ``bbox`` (left,
    bottom, right, top in the scene's CRS, outward to whole pixels) and ``aoi`` (a vector file of polygons, in
    any CRS) give the part to map; pixels whose centre is outside of the polygons are not wanted. ``reading``
    are fields of :class:`Reading`.

    Raises:
        ImageError: If it cannot be opened, lacks a band, is not imagery, needs ``scaling``, or a row of its
            blocks does not fit in memory.
        UsageError: If an argument cannot be used, or a part is requested of a scene without georeference.
        DataError: If box or polygons do not touch the scene.
    """
    how = Reading(**reading)
    address = Address.of(path)
    with ExitStack() as stack, address.errors():
        with address.environment():
            reader = stack.enter_context(open_raster(address.text))
            if not reader.count:
                raise ImageError(_several(address.name, reader.subdatasets, "expected one with bands"))
            scene = Scene(address, reader, reading=how, bbox=bbox, aoi=aoi, layer=layer)
        stack.pop_all()
        return scene


def read_picture(
    path: Path, *, max_pixels: int, fill: Literal["nodata", "keep"] = "nodata", colour_fill: bool = True
) -> tuple[UInt8Array, BoolArray | None, list[str]]:
    """Decode a picture, whose undeclared fill is without imagery unless it is kept; see :class:`Reading`.

    Files of more than ``max_pixels`` are refused before anything is decoded.

    Returns:
        uint8 (H, W, 3), RGB; bool (H, W), False where there is no imagery, or None; and warnings.
    """
    image, valid = read_imagery(path, max_pixels=max_pixels)
    if (valid is not None and not valid.all()) or fill == "keep":
        return image, valid, []
    height, width = image.shape[:2]

    def read(window: Window) -> UInt8Array:
        return np.moveaxis(image[window.slices], 2, 0)

    found = find_fill(read, height, width, height, with_colours=colour_fill)
    if found.lines:
        valid = np.zeros((height, width), bool)
        valid[found.inside.slices] = True
    return image, valid, found.notes(str(path))


def is_picture(path: Path, georeference: Georeference | None, reading: Reading) -> bool:
    """Return whether a file is a picture, for :func:`read_picture`; else it is a scene.

    Training, evaluation and prediction go by this rule, so that they have the same pixels.
    """
    bands = reading.bands
    is_rgb = bands is None or (isinstance(bands, BandSelection) and bands.names == RGB)
    is_plain = is_rgb and reading.scaling is None and reading.alpha is None and reading.nodata is None
    suffixes = (PICTURE_SUFFIXES | MASK_SUFFIXES) - RASTER_SUFFIXES
    return georeference is None and is_plain and path.suffix.lower() in suffixes


def _several(name: str, images: Sequence[str], what: str) -> str:
    """Return a sentence about a file of several images, or of none."""
    if not images:
        return f"{name} has no bands and no images in it; {what}."
    shown = ", ".join(images[:_SHOWN]) + (", ..." if len(images) > _SHOWN else "")
    note = f"{name} contains {len(images)} images; {what}. To map another one, pass its name: {shown}."
    return f"{note} If they are bands of one image, join them: gdalbuildvrt -separate OUT.vrt RED GREEN BLUE."


def _blocks(name: str, reader: DatasetReader, window: Window) -> tuple[tuple[int, int], int, int]:
    """Return height and width of a block, the rows that are read at once, and the bytes of cache for two."""
    high, wide = reader.block_shapes[0]
    high, wide = min(high, reader.height), min(wide, reader.width)
    rows = high * math.ceil((_VRT_ROWS if reader.driver == "VRT" else _ROWS) / high)
    across = min(reader.width, window.width + 2 * (wide + _CONTEXT_COLS))
    sizes = (16 if dtype.startswith("complex") else np.dtype(dtype).itemsize for dtype in reader.dtypes)
    bytes_per_pixel = sum(sizes) + 1  # of the mask
    cache = min(2 * rows, reader.height + high) * across * bytes_per_pixel
    if cache > _LARGEST_CACHE:
        raise ImageError(
            f"{name} has {reader.height} x {reader.width} pixels in blocks of {high} x {wide}: two rows of "
            f"blocks take {cache / 2**30:.0f} GiB of memory; expected {_LARGEST_CACHE / 2**30:.0f} at most. "
            "Store it in tiles: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE -co BIGTIFF=YES IN OUT."
        )
    return (high, wide), rows, max(cache, _SMALL_CACHE)
