"""Georeferenced rasters: how large a pixel is on the ground, imagery in, maps out.

Whole rasters in memory. GDAL does the reading and writing, through rasterio.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio._err import CPLE_BaseError  # what rasterio lets through of PROJ has no public name
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader, MemoryFile
from rasterio.warp import transform

from landcover.errors import ImageError
from landcover.files import atomic_path
from landcover.legend import CLASS_NAMES, NODATA, Legend, UInt8Array

# For good and not by catch_warnings, which is not safe in threads: most pictures and all arrays lie nowhere.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

_UNIT_TOLERANCE = 0.01
_BLOCK_PX = 512
_WGS84_RADIUS = 6_378_137.0
_WGS84_E2 = 0.00669437999014


@dataclass(frozen=True, slots=True)
class Georeference:
    """Where a raster lies: its coordinate reference system and the transform from (col, row) to it."""

    crs: CRS
    transform: Affine


@dataclass(frozen=True, slots=True)
class Raster:
    """Georeferenced imagery in memory.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        valid: bool (H, W), False where the raster has no data.
        georeference: Where it lies, or None.
    """

    image: UInt8Array
    valid: npt.NDArray[np.bool_]
    georeference: Georeference | None


def read_georeference(path: Path) -> Georeference | None:
    """Return where a raster lies, from its header; None if it does not say or GDAL cannot open it."""
    try:
        with _open(path) as source:
            return _georeference(source)
    except RasterioError:
        return None


def ground_sample_distance(path: Path) -> float | None:
    """Return metres per pixel of a georeferenced raster, None for any other file.

    It is the geometric mean of the two sides of the pixel at the raster's centre, whichever way it is turned.
    The unit of a projection is trusted where it is within 1 % of the distance on the ground, as in UTM and
    national grids, in metres or feet. Elsewhere (longitude and latitude, web Mercator off the equator) it is
    the distance on the WGS 84 ellipsoid.
    """
    try:
        with _open(path) as source:
            place, centre = _georeference(source), (source.width / 2, source.height / 2)
    except RasterioError:
        return None
    if place is None:
        return None
    ground = _pixel_on_ellipsoid(place, centre)
    if ground is None or place.crs.is_geographic:
        return ground
    a, b, _, d, e, _ = place.transform[:6]
    nominal = math.sqrt(math.hypot(a, d) * math.hypot(b, e)) * place.crs.linear_units_factor[1]
    return float(nominal) if abs(nominal / ground - 1) <= _UNIT_TOLERANCE else ground


def read_raster(path: Path, bands: Sequence[int] | None = None, *, max_pixels: int | None = None) -> Raster:
    """Read three bands of a raster, and where they hold data.

    Args:
        path: Any raster that GDAL opens.
        bands: Numbers of the red, green and blue band, from 1. None: the first three, or the only one (grey).
        max_pixels: Refuse larger rasters. None: no limit.

    Returns:
        The imagery. A pixel is invalid where the nodata value, alpha band or mask of all three bands says so.

    Raises:
        ImageError: If it cannot be read whole, lacks a band, is no 8-bit imagery, or is too large.
    """
    try:
        with _open(path) as source:
            if max_pixels is not None and source.width * source.height > max_pixels:
                raise ImageError(
                    f"{path} has {source.height} x {source.width} pixels; at most {max_pixels:,} are read. "
                    f"If it is what you expect, pass --max-pixels {source.height * source.width}."
                )
            chosen = _choose_bands(path, source, bands)
            image = np.moveaxis(source.read(chosen), 0, -1)
            valid = source.read_masks(chosen).any(axis=0)
            return Raster(np.ascontiguousarray(image), valid, _georeference(source))
    except RasterioError as error:
        reason = str(error.__cause__ or error).rstrip(".")
        raise ImageError(
            f"{path} cannot be read as a raster: {reason}. If it is damaged or cut short, fetch it again."
        ) from error


def write_class_raster(
    path: Path,
    index: UInt8Array,
    legend: Legend,
    georeference: Georeference,
    *,
    tags: Mapping[str, str] | None = None,
    force: bool = False,
) -> None:
    """Write class indices as a tiled, deflated GeoTIFF with colour table and nodata 255.

    Args:
        path: The file.
        index: uint8 (H, W), class indices and NODATA.
        legend: Gives the colour table, and the tag ``CLASS_NAMES`` (``0=urban,1=agriculture,…``).
        georeference: Where the imagery lies that was classified.
        tags: Further tags, such as the map's provenance.
        force: Replace an existing file.

    Raises:
        OutputError: If the file exists and ``force`` is off, or cannot be written.
    """
    colours = {i: (*entry.colour, 255) for i, entry in enumerate(legend.classes)} | {NODATA: (0, 0, 0, 0)}
    with MemoryFile() as memory:
        with memory.open(**_profile(index[None], georeference), nodata=NODATA) as target:
            target.write(index, 1)
            target.write_colormap(1, colours)
            target.set_band_description(1, "land cover")
            target.update_tags(**{CLASS_NAMES: legend.listing, **(tags or {})})
        _write(path, memory, force)


def write_probabilities(
    path: Path,
    probabilities: UInt8Array,
    names: Sequence[str],
    georeference: Georeference | None,
    *,
    tags: Mapping[str, str] | None = None,
    force: bool = False,
) -> None:
    """Write the probability of each class, 0..255 for 0..1, as bands of a tiled, deflated GeoTIFF.

    Args:
        path: The file.
        probabilities: uint8 (C, H, W); 0 in every band marks pixels without data.
        names: Class of each band, written as its description.
        georeference: Where the imagery lies, or None.
        tags: Further tags.
        force: Replace an existing file.

    Raises:
        OutputError: If the file exists and ``force`` is off, or cannot be written.
    """
    with MemoryFile() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(**_profile(probabilities, georeference)) as target:
            target.write(probabilities)
            for band, name in enumerate(names, 1):
                target.set_band_description(band, name)
                target.update_tags(band, SCALE="1/255")
            target.update_tags(**(tags or {}))
        _write(path, memory, force)


def _open(path: Path) -> DatasetReader:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path)


def _georeference(source: DatasetReader) -> Georeference | None:
    if source.crs is None or source.transform.is_identity:
        return None
    return Georeference(source.crs, source.transform)


def _pixel_on_ellipsoid(place: Georeference, centre: tuple[float, float]) -> float | None:
    """Geometric mean of a pixel's sides in metres on WGS 84; None where the CRS is not tied to the Earth."""
    a, b, c, d, e, f = place.transform[:6]
    cols, rows = np.array(centre)[:, None] + [[0, 1, 0], [0, 0, 1]]
    try:
        points = transform(place.crs, CRS.from_epsg(4326), a * cols + b * rows + c, d * cols + e * rows + f)
    except CPLE_BaseError:
        return None
    lon, lat = np.radians(points)
    # Radii of curvature along the meridian and across it.
    bend = 1 - _WGS84_E2 * math.sin(lat[0]) ** 2
    north = (lat[1:] - lat[0]) * _WGS84_RADIUS * (1 - _WGS84_E2) / bend**1.5
    east = (lon[1:] - lon[0]) * _WGS84_RADIUS / math.sqrt(bend) * math.cos(lat[0])
    sides = np.hypot(north, east)
    return float(math.sqrt(sides[0] * sides[1])) if np.isfinite(sides).all() and sides.all() else None


def _choose_bands(path: Path, source: DatasetReader, bands: Sequence[int] | None) -> list[int]:
    colours = [i for i, kind in enumerate(source.colorinterp, 1) if kind != ColorInterp.alpha]
    chosen = list(bands) if bands is not None else (colours[:3] if len(colours) >= 3 else colours[:1] * 3)
    if len(chosen) != 3 or not all(1 <= band <= source.count for band in chosen):
        raise ImageError(f"{path} has {source.count} bands; expected red, green and blue in bands {chosen}.")
    kinds = {source.dtypes[band - 1] for band in chosen}
    if kinds != {"uint8"}:
        raise ImageError(
            f"{path} has {'/'.join(sorted(kinds))} pixels; expected 8 bits per band. Scale it first, the "
            "same way for every scene: gdal_translate -ot Byte -scale MIN MAX 1 255 -a_nodata 0 IN OUT"
        )
    if ColorInterp.palette in (source.colorinterp[band - 1] for band in chosen):
        raise ImageError(f"{path} has a colour table: it is a map or a mask; expected imagery in RGB.")
    return chosen


def _profile(bands: UInt8Array, georeference: Georeference | None) -> dict[str, object]:
    count, height, width = bands.shape
    profile: dict[str, object] = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": count,
        "height": height,
        "width": width,
        "compress": "deflate",
        "tiled": True,
        "blockxsize": _BLOCK_PX,
        "blockysize": _BLOCK_PX,
        "interleave": "band",
        "bigtiff": "if_safer",
    }
    if georeference is not None:
        profile |= {"crs": georeference.crs, "transform": georeference.transform}
    return profile


def _write(path: Path, memory: MemoryFile, force: bool) -> None:
    # Through memory, because GDAL does not report a full disk when it closes a file.
    with atomic_path(path, force=force) as temporary:
        temporary.write_bytes(memory.getbuffer())
