"""The file formats of maps: one table of their properties, one way to write and to read them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from affine import Affine
from rasterio.errors import RasterioError

from landcover._gdal import open_raster
from landcover._typing import UInt8Array
from landcover.errors import ImageError, MaskError
from landcover.io import MaskFormat, read_mask, write_mask
from landcover.io.files import write_text
from landcover.legend import Legend
from landcover.raster.classmap import carried_legend, open_class_map
from landcover.raster.georeference import Place, place_of
from landcover.raster.writing import Rows, write_map


class MapFormat(NamedTuple):
    """A file format of maps.

    Attributes:
        suffix: End of the file name.
        is_geotiff: Whether it stores CRS and transform, has a style beside it, and is written and read by
            strips of rows, so that a map may be larger than memory.
        is_cog: Whether it is a Cloud Optimized GeoTIFF.
        mask_format: Form of a PNG.
    """

    suffix: str
    is_geotiff: bool = True
    is_cog: bool = False
    mask_format: MaskFormat = "palette"


MAP_FORMATS = {
    "png": MapFormat(".png", is_geotiff=False),
    "tif": MapFormat(".tif"),
    "cog": MapFormat(".tif", is_cog=True),
}
"""Formats by their name on the command line."""


def choose_map_format(name: str, *, georeferenced: bool) -> MapFormat:
    """Return the format of that name; of ``auto`` the one for an image with or without georeference."""
    return MAP_FORMATS[("tif" if georeferenced else "png") if name == "auto" else name]


def write_map_file(
    path: Path,
    rows: Rows,
    place: Place,
    legend: Legend,
    map_format: MapFormat,
    *,
    tags: Mapping[str, str],
    style: bool = True,
    force: bool = False,
) -> None:
    """Write a map in a file format, as :func:`landcover.raster.write_map` or :func:`landcover.io.write_mask`.

    ``style`` applies to GeoTIFF. A PNG of a known position gets a world file.
    """
    if map_format.is_geotiff:
        write_map(path, rows, place, legend, tags=tags, cog=map_format.is_cog, style=style, force=force)
        return
    strips = [np.fromfile(rows, np.uint8).reshape(place.size)] if isinstance(rows, Path) else [*rows]
    whole = strips[0] if len(strips) == 1 else np.concatenate(strips)
    if place.transform is not None:
        write_world_file(path, place.transform, force=force)
    write_mask(path, whole, legend, mask_format=map_format.mask_format, tags=tags, force=force)


def world_file(path: Path) -> Path:
    """Return the world file of a PNG."""
    return path.with_suffix(".pgw")


def write_world_file(path: Path, transform: Affine, *, force: bool = False) -> None:
    """Write the world file of a PNG: the transform, from the centre of the first pixel; without the CRS."""
    a, b, c, d, e, f = transform[:6]
    lines = (a, d, b, e, c + (a + b) / 2, f + (d + e) / 2)
    write_text(world_file(path), "".join(f"{value!r}\n" for value in map(float, lines)), force=force)


class MapReader(NamedTuple):
    """A map file that is open for reading.

    Attributes:
        strips: From the top, the first row and the class indices, uint8 (n, W), of each.
    """

    place: Place
    tags: Mapping[str, str]
    strips: Iterator[tuple[int, UInt8Array]]


def read_map_tags(path: Path) -> dict[str, str]:
    """Return the tags of a map file; none if it is not a raster."""
    try:
        with open_raster(path) as source:
            tags: dict[str, str] = source.tags()
    except (RasterioError, ImageError):
        return {}
    return tags


def read_map_legend(path: Path, expected: Legend | None = None) -> Legend | None:
    """Return the legend that a map file carries; None if it carries none or is not a raster."""
    try:
        with open_raster(path) as source:
            return carried_legend(path, source, expected)
    except (RasterioError, ImageError):
        return None


@contextmanager
def open_map_file(path: Path, legend: Legend) -> Iterator[MapReader]:
    """Open a map file once, for its tags and its pixels."""
    if path.suffix == MAP_FORMATS["png"].suffix:
        try:
            with open_raster(path) as source:
                tags, place = source.tags(), place_of(source)[0]
        except (RasterioError, ImageError) as error:
            raise MaskError(f"{path} cannot be read as a map: {error}.") from error
        yield MapReader(place, tags, ((0, read_mask(file, legend).index) for file in [path]))
        return
    with open_class_map(path, legend) as opened:
        strips = ((window.row, opened.read(window)) for window in opened.strips())
        yield MapReader(opened.place, opened.source.tags(), strips)
