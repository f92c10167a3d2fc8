"""Maps of classes in files, read by rows: what the values of a file mean, and where it lies."""

import re
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

from landcover.codecs.colours import NO_CLASS, find_classes
from landcover.errors import MaskError
from landcover.legend import CLASS_NAMES, NODATA, Legend, UInt8Array
from landcover.raster import Georeference, read_georeference

_LISTED = re.compile(r"(\d+)=(.*?)(?:,(?=\d+=)|$)")


@dataclass(frozen=True, slots=True)
class ClassMap:
    """An open map.

    Attributes:
        path: The file.
        height: Its rows.
        width: Its columns.
        georeference: Where it lies, or None.
        names: Names of the classes, in index order.
    """

    path: Path
    height: int
    width: int
    georeference: Georeference | None
    names: tuple[str, ...]
    _source: DatasetReader
    _table: UInt8Array
    _known: npt.NDArray[np.bool_]

    def read(self, start: int, stop: int) -> UInt8Array:
        """Return rows ``start`` to ``stop``: uint8 (stop - start, width), class indices and ``NODATA``.

        Raises:
            MaskError: If the file is damaged or holds a value that is no class.
        """
        try:
            values = self._source.read(1, window=((start, stop), (0, self.width)))
        except RasterioError as error:
            raise unreadable(self.path, error) from error
        strays = np.unique(values[~self._known[values]])
        if strays.size:
            raise MaskError(
                f"{self.path} holds {', '.join(map(str, strays[:8]))}, no class of {', '.join(self.names)}. "
                f"Expected classes and {NODATA} for nodata; give the map's legend with --legend."
            )
        index: UInt8Array = np.take(self._table, values)
        return index


@contextmanager
def open_class_map(path: Path, legend: Legend | None = None) -> Iterator[ClassMap]:
    """Open a map of one 8-bit band.

    A map that names its classes in the tag ``CLASS_NAMES``, as those of landcover do, holds their indices.
    Any other needs a legend: a palette then stands for its colours, a band without one for indices. 255, the
    file's own nodata value and transparent entries of a palette are nodata.

    Args:
        path: Any raster that GDAL opens.
        legend: The classes. Where the map names its own, they must be the same.

    Raises:
        MaskError: If it cannot be read, has other bands, or its classes are not known or others.
    """
    if not path.exists():
        raise MaskError(f"{path} does not exist; expected a map of classes.")
    try:
        source = rasterio.open(path)
    except RasterioError as error:
        raise unreadable(path, error) from error
    with source:
        if source.count != 1 or source.dtypes[0] != "uint8":
            raise MaskError(
                f"{path} has {source.count} bands of {source.dtypes[0]}; expected one band of 8-bit class "
                "indices. Colours become indices with landcover convert --to index, other types with "
                "gdal_translate -ot Byte."
            )
        names, table, known = _classes(path, source, legend)
        for value in {NODATA, source.nodata} & set(range(256)):
            table[int(value)], known[int(value)] = NODATA, True
        yield ClassMap(
            path, source.height, source.width, read_georeference(path), names, source, table, known
        )


def unreadable(path: Path, error: RasterioError) -> MaskError:
    """Return the error about a file that GDAL cannot read."""
    reason = str(error.__cause__ or error).rstrip(".")
    return MaskError(
        f"{path} cannot be read as a raster: {reason}. If it is damaged or cut short, fetch it again."
    )


def _classes(
    path: Path, source: DatasetReader, legend: Legend | None
) -> tuple[tuple[str, ...], UInt8Array, npt.NDArray[np.bool_]]:
    """Return the names of the classes, the class of each value, and whether the value stands for one."""
    values = np.arange(256, dtype=np.uint8)
    listing = source.tags().get(CLASS_NAMES)
    if listing is not None:
        names = _names(path, listing)
        if legend is not None and legend.names != names:
            raise MaskError(
                f"{path} is a map of the classes {listing}; the legend {legend.name!r} has {legend.listing}. "
                "Leave --legend out, or give the map's own."
            )
        return names, values, values < len(names)
    if legend is None:
        raise MaskError(
            f"{path} does not say which classes its values stand for (it has no tag {CLASS_NAMES}). Give its "
            "legend with --legend: deepglobe or a YAML file."
        )
    if source.colorinterp[0] != ColorInterp.palette:
        return legend.names, values, values < len(legend)
    palette = np.zeros((256, 4), np.uint8)
    for value, colour in source.colormap(1).items():
        palette[value] = colour
    table = find_classes(palette[None, :, :3], legend)[0]
    clear = palette[:, 3] == 0
    table[clear] = NODATA
    return legend.names, table, clear | (table != NO_CLASS)


def _names(path: Path, listing: str) -> tuple[str, ...]:
    found = _LISTED.findall(listing)
    names = tuple(name for _, name in found)
    if [int(index) for index, _ in found] != list(range(len(names))) or not 1 <= len(names) < NODATA + 1:
        raise MaskError(
            f"{path} has the tag {CLASS_NAMES}={listing[:80]!r}; expected 0=NAME,1=NAME,… in index order."
        )
    return names
