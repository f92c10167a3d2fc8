"""Georeferenced rasters of classes, read strip by strip."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from landcover.codecs.colours import NO_CLASS, find_classes
from landcover.errors import MaskError
from landcover.legend import CLASS_NAMES, NODATA, Legend, UInt8Array, translation
from landcover.progress import track
from landcover.raster import Georeference, read_georeference
from landcover.windows import Window

_STRIP_PX = 1 << 22


@dataclass(frozen=True, slots=True)
class ClassMap:
    """An open raster of classes.

    Attributes:
        path: The file.
        source: rasterio's data set; its values are those of the file.
        georeference: Where it lies.
        table: uint8 (256,), class index of each value of the file in the legend that was asked for.
        allowed: bool (256,), the values that stand for a class or for no data.
        empty: A value of the file that stands for no data.
    """

    path: Path
    source: DatasetReader
    georeference: Georeference
    table: UInt8Array
    allowed: npt.NDArray[np.bool_]
    empty: int

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.source.height)

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.source.width)

    def read(self, window: Window, source: DatasetReader | WarpedVRT | None = None) -> UInt8Array:
        """Return the classes in a window: uint8 (h, w), class indices and NODATA.

        Args:
            window: Where to read.
            source: This raster on another grid; None: as it is.

        Raises:
            MaskError: If the file is damaged or holds a value that is no class.
        """
        rows, cols = window.slices
        try:
            values = (source or self.source).read(
                1, window=((rows.start, rows.stop), (cols.start, cols.stop))
            )
        except RasterioError as error:
            raise _unreadable(self.path, error) from error
        if not self.allowed.all():
            strays = np.unique(values[~self.allowed[values]])
            if strays.size:
                raise MaskError(
                    f"{self.path} holds the value {strays[0]}, which is no class of its legend; expected a "
                    f"class or nodata ({self.empty}). Give the raster's legend."
                )
        classes: UInt8Array = self.table[values]
        return classes

    @property
    def strip_rows(self) -> int:
        """Rows of a strip: of 4 MiB, or one row of blocks."""
        block = int(self.source.block_shapes[0][0])
        return max(_STRIP_PX // self.width // block, 1) * block

    def strips(self) -> Iterator[tuple[int, UInt8Array]]:
        """Yield (first row, classes uint8 (n, width)) from top to bottom, under a progress bar."""
        starts = range(0, self.height, self.strip_rows)
        for row in track(starts, f"Reading {self.path.name}"):
            yield row, self.read(Window(row, 0, min(self.strip_rows, self.height - row), self.width))


@contextmanager
def open_class_map(path: Path, legend: Legend, target: Legend) -> Iterator[ClassMap]:
    """Open a raster of one 8-bit band of classes.

    A map of landcover, which names its classes in a tag, and a band without a palette hold indices of
    ``legend``; any other palette stands for its colours. 255, the file's own nodata value and transparent
    entries of a palette are no data, wherever they are used.

    Args:
        path: The file.
        legend: Its classes.
        target: The classes to return, by name.

    Raises:
        MaskError: If it cannot be read, lies nowhere, or has other bands or other classes.
        UsageError: If the two legends have other classes.
    """
    table = translation(legend, target)
    if not path.exists():
        raise MaskError(f"{path} does not exist; expected a raster of classes.")
    try:
        source = rasterio.open(path)
    except RasterioError as error:
        raise _unreadable(path, error) from error
    with source:
        if source.count != 1 or source.dtypes[0] != "uint8":
            raise MaskError(
                f"{path} has {source.count} bands of {source.dtypes[0]}; expected one band of 8-bit class "
                "indices. Colours become indices with landcover convert --to index, other types with "
                "gdal_translate -ot Byte."
            )
        place = read_georeference(path)
        if place is None:
            raise MaskError(
                f"{path} does not say where it lies (CRS and transform), so nothing can be laid over it. "
                "Declare it, for example with gdal_edit -a_srs EPSG:CODE -a_ullr LEFT TOP RIGHT BOTTOM."
            )
        classes, allowed = _meanings(path, source, legend)
        empty = _declared_nodata(source)
        for value in {empty, NODATA}:
            classes[value], allowed[value] = NODATA, True
        yield ClassMap(path, source, place, table[classes], allowed, empty)


def _meanings(path: Path, source: DatasetReader, legend: Legend) -> tuple[UInt8Array, npt.NDArray[np.bool_]]:
    """Return the class index of each value of a file, uint8 (256,), and whether it is one, bool (256,)."""
    listing = source.tags().get(CLASS_NAMES)
    if listing not in (None, legend.listing):
        raise MaskError(
            f"{path} is a map of the classes {listing}; the legend {legend.name!r} has {legend.listing}. "
            "Give its own with --legend; where evaluate scores a map whose legend is not that of the truth, "
            "give the map's with --prediction-legend."
        )
    if listing is None and source.colorinterp[0] == ColorInterp.palette:
        palette = np.zeros((256, 4), np.uint8)
        for value, colour in source.colormap(1).items():
            palette[value] = colour
        classes = find_classes(palette[None, :, :3], legend)[0]
        classes[palette[:, 3] == 0] = NODATA
        return classes, (classes != NO_CLASS) | (palette[:, 3] == 0)
    values = np.arange(256)
    classes = np.where(values < len(legend), values, NODATA).astype(np.uint8)
    return classes, values < len(legend)


def _declared_nodata(source: DatasetReader) -> int:
    """Return the file's nodata value, or NODATA where it declares none that its pixels can have."""
    return int(source.nodata) if source.nodata in range(256) else NODATA


def _unreadable(path: Path, error: RasterioError) -> MaskError:
    reason = str(error.__cause__ or error).rstrip(".")
    return MaskError(
        f"{path} cannot be read as a raster: {reason}. If it is damaged or cut short, fetch it again."
    )
