"""Write maps and probabilities as tiled, deflated GeoTIFF from strips of rows.

The strips go into a plain file of bytes in a private folder beside the target; once it is complete, GDAL
copies it in one pass and a fixed order. The same pixels give the same bytes in every run and for any strips,
Python reports a full disk, and memory stays that of a row of blocks. The price is disk space: a byte per
pixel and band while the file is written, a third more for overviews. A killed process leaves them until the
same file is written again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.shutil import copy

from landcover._gdal import CPLE_BaseError, unplaced
from landcover._typing import UInt8Array
from landcover.errors import OutOfMemoryError, OutputError
from landcover.io.files import atomic_path, check_output
from landcover.legend import NODATA, Legend
from landcover.machine import lacks_memory
from landcover.raster.address import BLOCK_CACHE
from landcover.raster.georeference import Georeference, Place
from landcover.raster.style import colour_table, style_files, write_style
from landcover.windows import Window

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_BLOCK_PX = 512
_SMALL_CACHE = 16 << 20

_BAND = """
  <VRTRasterBand dataType="Byte" band="{band}" subClass="VRTRawRasterBand">
    <SourceFilename relativeToVRT="1">{file}</SourceFilename>
    <ImageOffset>{offset}</ImageOffset>
    <PixelOffset>1</PixelOffset>
    <LineOffset>{line}</LineOffset>
  </VRTRasterBand>"""


Rows = Iterable[UInt8Array] | Path
"""Pixels from the top: strips of rows; or a file of bytes, row by row, in each row all bands."""


def write_map(
    path: Path,
    rows: Rows,
    place: Place,
    legend: Legend,
    *,
    tags: Mapping[str, str] | None = None,
    cog: bool = False,
    style: bool = True,
    force: bool = False,
) -> None:
    """Write class indices as a tiled, deflated GeoTIFF with colour table, class names and nodata 255.

    Overviews are reduced by powers of two until one fits in a block, by the most frequent class.
    Memory: a strip, and in GDAL about a row of 512 x 512 blocks (512 x width bytes) and 100 MB, for any
    number of rows. Disk: see the module.

    Rows are uint8 (n, width) strips of class indices and NODATA, from the top, ``place.height`` rows
    together; or a file of these bytes in a private folder, which GDAL reads directly. ``tags`` are metadata
    by name, such as the provenance of a map. With ``style`` names and colours
    for other software are written beside it, see :func:`~landcover.raster.style.write_style`; the unknown
    class is listed if ``rows`` are strips that contain it.
    """
    if style:
        for beside in style_files(path):
            check_output(beside, force=force)
    unknown = False

    def bands(strips: Iterable[UInt8Array]) -> Iterator[UInt8Array]:
        nonlocal unknown
        for strip in strips:
            unknown = unknown or (legend.unknown is not None and bool((strip == legend.unknown).any()))
            yield strip[None]

    pixels = rows if isinstance(rows, Path) else bands(rows)
    write_bands(path, pixels, place, ["land cover"], legend, tags=tags, cog=cog, force=force)
    if style:
        write_style(path, legend, unknown=unknown)


class Coding(NamedTuple):
    """How bytes stand for values in 0..1: 0 to ``steps`` in equal steps, and a value for no data."""

    steps: int
    nodata: int


CONFIDENCE = Coding(255, 0)
"""The probability of the predicted class, which is never 0."""

PROBABILITIES = Coding(254, NODATA)
"""Probabilities of all classes, which may be 0."""


def write_bands(
    path: Path,
    rows: Rows,
    place: Place,
    names: Sequence[str],
    meaning: Legend | Coding = PROBABILITIES,
    *,
    tags: Mapping[str, str] | None = None,
    cog: bool = False,
    force: bool = False,
) -> None:
    """Write a band for each name as :func:`write_map`: classes of a legend, or values in 0..1 as bytes.

    Strips are uint8 (bands, n, width). Bands of values have GDAL's scale, the tag ``SCALE`` such as
    ``1/254``, and averages as overviews. Memory and disk are those of a map times the number of bands.
    """
    check_output(path, force=force)
    count, predictor = len(names), 1 if isinstance(meaning, Legend) else 2
    shape = count, *place.size
    options = {
        "GDAL_NUM_THREADS": "ALL_CPUS",
        "GDAL_PAM_ENABLED": False,  # no files of statistics beside the map
        "BIGTIFF_OVERVIEW": "IF_SAFER",
    }
    cache = _SMALL_CACHE + _BLOCK_PX * place.width * count
    with atomic_path(path, force=force) as temporary:
        if isinstance(rows, Path):
            pixels = rows
        else:
            pixels, given = temporary.with_name("pixels.raw"), 0
            with pixels.open("xb") as file:
                for strip in rows:
                    if strip.dtype != np.uint8 or strip.shape[0] != count or strip.shape[2:] != shape[2:]:
                        raise ValueError(
                            f"A strip {strip.dtype} {strip.shape} does not fit in uint8 {shape}."
                        )
                    file.write(np.ascontiguousarray(np.moveaxis(strip, 0, 1)).data)
                    given += strip.shape[1]
            if given != place.height:
                raise ValueError(f"Strips of {given} rows were given for a raster of {place.height}.")
        common = {"compress": "deflate", "num_threads": "all_cpus", "bigtiff": "if_safer"}
        form: dict[str, Any] = {"driver": "GTiff", "predictor": predictor, "copy_src_overviews": True}
        form |= {"tiled": True, "blockxsize": _BLOCK_PX, "blockysize": _BLOCK_PX, "interleave": "band"}
        if cog:
            form = {
                "driver": "COG",
                "blocksize": _BLOCK_PX,
                "predictor": "no" if isinstance(meaning, Legend) else "yes",
                "overviews": "auto",  # those of the source
            }
        files = CheckedFiles()
        try:
            with BLOCK_CACHE.share(cache), rasterio.Env(**options):
                source = pixels.with_suffix(".vrt")  # GDAL reads raw files only beside a VRT
                levels = _describe(source, pixels, place, names, meaning, tags or {})
                with unplaced():
                    described = rasterio.open(source, opener=files.open)
                with described:
                    if described.nodata is None or len(described.overviews(1)) != levels:
                        raise RasterioError("its description or its overviews are incomplete")
                    copy(described, described.name.replace(str(source), str(temporary)), **form, **common)
        except (RasterioError, CPLE_BaseError) as error:
            problem = files.error or error.__cause__ or error
        else:
            problem = files.error
        if problem is not None:
            if lacks_memory(problem):
                raise OutOfMemoryError(f"{path} cannot be written: not enough memory. Close other programs.")
            raise OutputError(
                f"{path} cannot be written: {problem}. Check disk space and memory."
            ) from problem


def write_class_raster(
    path: Path,
    index: UInt8Array,
    legend: Legend,
    georeference: Georeference | None,
    *,
    tags: Mapping[str, str] | None = None,
    force: bool = False,
) -> None:
    """Write class indices in memory, uint8 (H, W), as :func:`write_map` does, with its style.

    Their first pixel is that of the georeference.
    """
    window = Window(0, 0, *index.shape)
    place = Place(*index.shape) if georeference is None else georeference.part(window)
    write_map(path, [index], place, legend, tags=tags, force=force)


def _describe(
    vrt: Path,
    pixels: Path,
    place: Place,
    names: Sequence[str],
    meaning: Legend | Coding,
    tags: Mapping[str, str],
) -> int:
    """Write a VRT that makes a raster of the file of bytes beside it, and its overviews.

    Returns:
        The number of overviews.

    Raises:
        RasterioError: If it cannot be written; of the VRT itself GDAL does not report that.
    """
    count, (height, width) = len(names), place.size
    bands = (
        _BAND.format(band=band + 1, file=pixels.name, offset=band * width, line=count * width)
        for band in range(count)
    )
    with vrt.open("x") as file:
        file.write(
            f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{"".join(bands)}\n</VRTDataset>\n'
        )
    with unplaced():
        target = rasterio.open(vrt, "r+")  # not through Python: threads make the overviews
    with target:
        if isinstance(place, Georeference):
            target.crs = place.crs
        if place.transform is not None:
            target.transform = place.transform
        if isinstance(meaning, Coding):
            target.update_tags(**tags)
            target.nodata = meaning.nodata
            target.scales = [1 / meaning.steps] * count
        else:
            target.update_tags(**{**meaning.tags, **tags})
            target.nodata = NODATA
            target.write_colormap(1, colour_table(meaning))
        for band, name in enumerate(names, 1):
            target.set_band_description(band, name)
            if isinstance(meaning, Coding):
                target.update_tags(band, SCALE=f"1/{meaning.steps}")
        levels: list[int] = []
        while max(height, width) > _BLOCK_PX << len(levels):
            levels.append(2 << len(levels))
        if levels:
            target.build_overviews(
                levels, Resampling.mode if isinstance(meaning, Legend) else Resampling.average
            )
    reduced = sum((height // level) * (width // level) for level in levels)
    if levels and vrt.with_name(f"{vrt.name}.ovr").stat().st_size < count * reduced:
        raise RasterioError("its overviews are incomplete")
    return len(levels)


class CheckedFiles:
    """Open files for GDAL, which does not report each call that fails: a map could lose its georeference.

    ``rasterio.open(path, opener=files.open)`` makes GDAL read and write through it. A failing call does not
    raise, as GDAL is its caller; the first one is kept in ``error``.
    """

    def __init__(self) -> None:
        self.error: OSError | None = None

    def open(self, path: str, mode: str = "rb") -> "_CheckedFile":
        """Open a file for GDAL, which looks for many that do not exist (FileNotFoundError)."""
        try:
            return _CheckedFile(path, mode.replace("t", "").replace("b", ""), self)
        except FileNotFoundError:
            raise
        except OSError as error:
            self.error = self.error or error
            raise


class _CheckedFile(FileIO):
    """A file that keeps its first error in place of raising it."""

    def __init__(self, path: str, mode: str, files: CheckedFiles) -> None:
        super().__init__(path, mode)
        self._files = files

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            return super().read(size) or b""
        except OSError as error:
            self._files.error = self._files.error or error
            return b""

    def write(self, data: "ReadableBuffer", /) -> int:
        view, done = memoryview(data), 0
        try:
            while done < len(view):
                done += super().write(view[done:]) or 0
        except OSError as error:
            self._files.error = self._files.error or error
        return done

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:
            self._files.error = self._files.error or error
