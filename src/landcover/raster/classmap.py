"""Rasters of classes, read by windows: the meaning of the values of a file, and its georeference."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rasterio.enums import ColorInterp, Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from landcover import _gdal
from landcover._typing import UInt8Array
from landcover.errors import ConfigError, ImageError, MaskError, printable
from landcover.io.colours import NO_CLASS, find_classes
from landcover.io.masks import classes_of, present_values
from landcover.legend import CLASS_NAMES, NODATA, Legend, translation
from landcover.raster.address import BLOCK_CACHE, Address
from landcover.raster.georeference import Georeference, Place, place_of
from landcover.windows import Window

_STRIP_PX = 1 << 22
_LEAST_CACHE = 64 << 20
_SHOWN = 500
"""Characters of a tag that a message shows."""


@dataclass(frozen=True, slots=True)
class ClassMap:
    """An open raster of classes.

    Attributes:
        source: rasterio's data set; its values are those of the file.
        place: Where it is.
        legend: The classes, in the order of the indices that are read.
        classes: Class index or NODATA of each value of the file.
        nodata: A value of the file for no data.
    """

    path: Path
    source: DatasetReader
    place: Place
    legend: Legend
    classes: Mapping[int, int]
    nodata: int

    @property
    def required_georeference(self) -> Georeference:
        """The place; a MaskError if the file is not georeferenced."""
        if self.place.georeference is None:
            raise MaskError(
                f"{self.path} is not georeferenced: {place_of(self.source)[1]}. Set its position, for "
                "example with gdal_edit -a_srs EPSG:CODE -a_ullr LEFT TOP RIGHT BOTTOM."
            )
        return self.place.georeference

    def strips(self, rows: int | None = None) -> list[Window]:
        """Return windows of ``rows`` rows from top to bottom; None: whole blocks of the file, about 4 MiB."""
        height, width = self.place.size
        if rows is None:
            block = int(self.source.block_shapes[0][0])
            rows = max(_STRIP_PX // width // block, 1) * block
        return [Window(start, 0, min(rows, height - start), width) for start in range(0, height, rows)]

    @contextmanager
    def on_grid(self, place: Georeference) -> Iterator[Callable[[Window], UInt8Array]]:
        """Yield a function that reads windows of another grid, by the nearest pixel."""
        grid = {"crs": place.crs, "transform": place.transform, "height": place.height, "width": place.width}
        nodata = {"src_nodata": self.nodata, "nodata": self.nodata}
        with (
            reading(self.path),
            WarpedVRT(self.source, resampling=Resampling.nearest, **grid, **nodata) as warped,
        ):
            yield lambda window: self.read(window, warped)

    def read(self, window: Window, source: DatasetReader | WarpedVRT | None = None) -> UInt8Array:
        """Return the classes in a window: uint8 (h, w), class indices and NODATA.

        Memory: about 10 bytes per pixel. ``source`` is this raster on another grid; None: on its own.
        """
        with reading(self.path):
            values = (self.source if source is None else source).read(1, window=window.slices)
        present = present_values(values)
        if strays := [value for value in present if value not in self.classes]:
            raise MaskError(
                f"{self.path} contains {', '.join(map(str, strays[:8]))}; expected classes of "
                f"{', '.join(self.legend.names)}, and {self.nodata} for nodata. Pass the map's own --legend."
            )
        return classes_of(values, present, self.classes)


@contextmanager
def open_class_map(
    path: Path,
    legend: Legend | None = None,
    target: Legend | None = None,
    default: Legend | None = None,
) -> Iterator[ClassMap]:
    """Open a raster of one band of classes: whole numbers of any type.

    A raster that carries its legend (:meth:`Legend.from_tags`), as maps of landcover do, contains indices.
    Any other needs a legend: a palette then has its colours, a band without one the values that it lists, by
    default its indices. 255 (where the legend lists no values), the file's own nodata value and transparent
    entries of a palette are read as nodata.

    ``legend`` has the classes of the file, which must be those that it carries, if any; without it they are
    those that it carries, else those of ``target``, else ``default``. ``target`` has the classes whose
    indices are read, found by name; without it those of the file.

    Memory: GDAL's block cache for :func:`two_rows_of_blocks`.
    """
    if legend is not None and target is not None:
        translation(legend, target)
    with open_raster(path, "a raster of classes") as source:
        if source.count != 1 or np.dtype(source.dtypes[0]).kind not in "ui":
            raise MaskError(
                f"{path} has {source.count} bands of {source.dtypes[0]}; expected one band of whole numbers. "
                "Colours become indices with landcover convert --to index, other types with gdal_translate "
                "-ot Byte."
            )
        if compression := _gdal.lossy_compression(source):
            raise MaskError(
                f"{path} has lossy compression ({compression}), which changes classes. Make the map again, "
                "or store it from the original with gdal_translate -co COMPRESS=DEFLATE."
            )
        own = carried_legend(path, source, legend)
        chosen = legend or own or target or default
        if chosen is None:
            raise MaskError(
                f"{path} does not name the classes of its values (it has no tag {CLASS_NAMES}). Pass "
                "--legend: deepglobe or a YAML file."
            )
        if own is None and source.colorinterp[0] == ColorInterp.palette and source.dtypes[0] == "uint8":
            classes = _palette_classes(source, chosen)
        else:
            classes = {**(chosen if own is None else chosen.of_maps).class_of_value}
        if source.nodata is not None and float(source.nodata).is_integer():
            classes[int(source.nodata)] = NODATA
        if target is not None:
            meaning = translation(chosen, target)
            classes = {value: int(meaning[index]) for value, index in classes.items()}
        nodata = int(source.nodata) if source.nodata in range(256) else NODATA
        with BLOCK_CACHE.share(two_rows_of_blocks(source)):
            yield ClassMap(path, source, place_of(source)[0], target or chosen, classes, nodata)


def carried_legend(path: Path, source: DatasetReader, expected: Legend | None = None) -> Legend | None:
    """Return the legend that an open map file carries, or None; a MaskError if it is not the expected one."""
    palette = source.colormap(1) if source.colorinterp[0] == ColorInterp.palette else {}
    try:
        own = Legend.from_tags(source.tags(), palette, str(path))
    except ConfigError as error:
        raise MaskError(printable(str(error))) from error
    if own is not None and expected is not None and own.listing != expected.listing:
        raise MaskError(
            f"{path} is a map of the classes {printable(own.listing[:_SHOWN])}; the legend {expected.name!r} "
            f"has {expected.listing}. Pass the map's own --legend, or --prediction-legend where evaluate "
            "compares it with data of another legend."
        )
    return own


@contextmanager
def open_raster(path: Path, what: str) -> Iterator[DatasetReader]:
    """Open a raster file; messages say that ``what`` was expected."""
    if not path.exists():
        raise MaskError(f"{path} does not exist; expected {what}.")
    if not (path.is_file() or path.is_dir()):  # some rasters are folders
        raise MaskError(f"{path} is a device or a pipe; expected {what}.")
    with reading(path):
        source = _gdal.open_raster(path)
    with source:
        yield source


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of GDAL inside the block into a :class:`MaskError` that names the file."""
    try:
        with Address.of(path).errors():
            yield
    except ImageError as error:
        raise MaskError(str(error)) from error


def two_rows_of_blocks(source: DatasetReader) -> int:
    """Return bytes of cache that decode no block twice while a raster is read by strips; 64 MiB at least."""
    sizes = (
        min(2 * high, source.height + high) * (source.width + wide) * np.dtype(dtype).itemsize
        for (high, wide), dtype in zip(source.block_shapes, source.dtypes, strict=True)
    )
    return max(int(sum(sizes)), _LEAST_CACHE)


def _palette_classes(source: DatasetReader, legend: Legend) -> dict[int, int]:
    """Return the class of each value of a palette: that of its colour; NODATA if it is transparent."""
    palette = np.zeros((256, 4), np.uint8)
    for value, colour in source.colormap(1).items():
        palette[value] = colour
    found = find_classes(palette[None, :, :3], legend)[0].tolist()
    clear = (palette[:, 3] == 0).tolist()
    known = {n: NODATA if clear[n] else found[n] for n in range(256) if clear[n] or found[n] != NO_CLASS}
    return known | {NODATA: NODATA}
