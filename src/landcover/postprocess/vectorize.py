"""Maps to polygons: a partition of the imagery, written while the map is read."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.crs import CRS

from landcover._typing import IntArray, UInt8Array
from landcover.errors import UsageError
from landcover.extras import needs
from landcover.io.files import check_output
from landcover.io.locks import locked_file
from landcover.io.vectors import Batch, vector_driver, write_features
from landcover.legend import NODATA, Legend
from landcover.postprocess.components import Labeller
from landcover.postprocess.outlines import Bends, Rings, find_bends, to_polygons, trace
from landcover.postprocess.sieve import BLOCK_ROWS, decide, rewrite
from landcover.postprocess.tallies import Tallies, open_confidence
from landcover.progress import track
from landcover.raster import Georeference
from landcover.raster.classmap import open_class_map
from landcover.raster.style import polygon_qml
from landcover.scale import check_gsd
from landcover.values import RegionSize, Tolerance

with needs("vector"):
    import shapely

_BYTES_A_POINT = 600
"""Memory of GEOS and of the outlines for each point while outlines are simplified."""

_BATCH = 1 << 20
_PIXELS = CRS.from_wkt('LOCAL_CS["pixels",UNIT["pixel",1]]')

Blocks = Callable[[], Iterator[UInt8Array]]


@dataclass(frozen=True, slots=True)
class Vectorized:
    """Result of :func:`vectorize`.

    Attributes:
        path: The file.
        polygons: Number of polygons of each class that has some, by name in index order.
        pixels: Pixels of each of these classes.
        area_m2: Area of each in square metres; None where the size of a pixel is unknown.
        small_regions: Regions smaller than ``min_region`` that remain.
    """

    path: Path
    polygons: dict[str, int]
    pixels: dict[str, int]
    area_m2: dict[str, float] | None
    small_regions: int = 0


def vectorize(
    map_path: str | Path,
    out: str | Path,
    *,
    legend: Legend | None = None,
    confidence: str | Path | None = None,
    min_region: str | RegionSize | None = None,
    simplify: str | Tolerance | None = None,
    gsd: float | None = None,
    force: bool = False,
) -> Vectorized:
    """Write the regions of a map as polygons.

    A region is a set of pixels of one class that are connected along edges (4-connected). The polygons are a
    partition of the map without its nodata: they neither overlap nor leave gaps, their areas sum to that of
    the pixels, holes are holes, and each is valid. They are sorted by the row in which they end, those of one
    row by their first pixels.

    Each has the attributes ``class`` (name), ``class_index``, ``area_m2`` (true area on the ground, see
    :meth:`landcover.raster.Georeference.row_areas`; ``area_px``, in pixels, where that is unknown) and, with
    ``confidence``, ``mean_confidence`` (0..1). They describe the pixels, also where outlines are simplified.

    The map is read twice from top to bottom, once more with ``min_region``. Memory: about 200 bytes for each
    run (stretch of a row with one class) in a row block, 60 for each point of the outlines of regions that
    are not complete yet, and 60 for each region. Formats other than GeoPackage are held in memory.

    Args:
        map_path: A raster of one 8-bit band, see :func:`~landcover.raster.classmap.open_class_map`.
        out: ``.gpkg``, ``.fgb``, ``.parquet``, or ``.geojson``, which is in longitude and latitude (WGS 84,
            RFC 7946). The others are in the map's CRS, or, if it is not georeferenced, in its
            columns and rows, rows downwards.
        legend: Classes of a map that does not name its own.
        confidence: Raster on the map's grid with probabilities in 0..1, or 0..255 in 8 bits. Of several
            bands, such as one for each class, the highest counts.
        min_region: Remove smaller regions first, as ``8000px`` or ``2000m2``; see
            :func:`~landcover.postprocess.sieve.remove_small_regions`; or a ``RegionSize`` that is strict.
        simplify: Tolerance such as ``2m`` or ``4px``: points of outlines are left out where that changes an
            area by less than about the square of it (Visvalingam and Whyatt). Shared borders stay shared;
            borders to nodata and of the map do not change. All outlines are held in memory.
        gsd: Metres per pixel, for sizes and areas where the map is not georeferenced.
        force: Replace an existing file.

    Raises:
        UsageError: If a size or the suffix of ``out`` is not understood, needs a GSD or CRS that is unknown,
            or simplification would not fit memory.
        MaskError: If the map or the confidence cannot be read, or is another kind of raster.
        OutputError: If ``out`` exists and ``force`` is off, or cannot be written.

    Example:
        >>> lc.vectorize("map.tif", "map.gpkg").area_m2
        {'forest': 1000.0, 'water': 1500.0}
    """
    map_path, out = Path(map_path), Path(out)
    check_output(out, force=force)
    vector_driver(out)
    with (
        locked_file(out),
        open_class_map(map_path, legend) as source,
        open_confidence(None if confidence is None else Path(confidence), source) as sure,
    ):
        place, in_degrees = source.place, out.suffix.lower() == ".geojson"
        if place.georeference is None and in_degrees:
            raise UsageError(
                f"{map_path} is not georeferenced, and GeoJSON is in longitude and latitude. Write a "
                "GeoPackage (.gpkg), in columns and rows of pixels."
            )
        if gsd is not None:
            check_gsd(gsd)
        else:
            gsd = place.gsd
        tolerance = None if simplify is None else Tolerance.parse(simplify)
        tolerance_px = None if tolerance is None else tolerance.pixels(gsd)
        strips, width = source.strips(BLOCK_ROWS), place.width + 1

        def blocks() -> Iterator[UInt8Array]:
            return map(source.read, track(strips, f"Reading {source.path.name}"))

        cleaned, min_pixels = blocks, 1
        if min_region is not None:
            size = RegionSize.parse(min_region)
            min_pixels = size.pixels(gsd)
            values = decide(blocks(), place.width, min_pixels, strict=size.strict)
            cleaned = lambda: rewrite(blocks(), place.width, values)  # noqa: E731
        labeller, points = Labeller(width), 0
        for block in _framed(cleaned(), width):
            runs = labeller.label(block)
            if tolerance is not None:
                points += len(find_bends(runs, runs.piece, junctions=True).at)
        regions = labeller.regions()
        needed_mb = points * _BYTES_A_POINT / 2**20
        if tolerance is not None and needed_mb > tolerance.max_memory_mb:
            raise UsageError(
                f"Simplifying holds all {points:,} points of the outlines at once, which takes about "
                f"{needed_mb:,.0f} MiB; {tolerance.max_memory_mb:,} MiB are allowed. Remove small regions "
                "first (--min-region), raise --max-memory-mb, or leave --simplify out."
            )
        areas = place.row_areas()
        if place.georeference is None and gsd is not None:
            areas = np.full(place.height, gsd**2)
        tallies = Tallies(regions.max() + 1, areas, sure)
        found = _second_pass(
            cleaned,
            width,
            regions,
            tallies,
            # What is straight in the map's CRS is bent in degrees: there borders must share all their points.
            junctions=in_degrees or tolerance is not None,
            limit=_BATCH if tolerance is None else math.inf,
        )
        transform, crs = Affine.identity(), _PIXELS
        if isinstance(place, Georeference):
            transform, crs = place.transform, place.crs

        def batch(rings: Rings) -> Batch:
            order = np.argsort(rings.last_row, kind="stable")
            polygons = to_polygons(rings)
            if tolerance_px and len(polygons):
                polygons = shapely.coverage_simplify(polygons, tolerance_px, simplify_boundary=False)
            col, row = shapely.get_coordinates(polygons).T
            a, b, c, d, e, f = transform[:6]
            places = np.stack([a * col + b * row + c, d * col + e * row + f], axis=1)
            placed = shapely.orient_polygons(shapely.set_coordinates(polygons, places))
            return placed[order], tallies.attributes(rings.region[order], source.legend.names)

        none = tallies.attributes(np.empty(0, np.intp), source.legend.names)
        columns = {name: values.dtype for name, values in none.items()}
        style = polygon_qml(source.legend, "class")
        write_features(out, map(batch, found), columns, crs, style=style, force=force)
        names, polygons = source.legend.names, np.bincount(tallies.value, minlength=len(source.legend))

        def of_classes(amounts: npt.NDArray[Any]) -> dict[str, Any]:
            """Return the sums of amounts over the regions of each class that has some."""
            total = np.zeros(len(names), amounts.dtype)
            np.add.at(total, tallies.value, amounts)
            return {name: total[index].item() for index, name in enumerate(names) if polygons[index]}

        return Vectorized(
            path=out,
            polygons=of_classes(np.ones_like(tallies.pixels)),
            pixels=of_classes(tallies.pixels),
            area_m2=None if tallies.area_m2 is None else of_classes(tallies.area_m2),
            small_regions=int(np.count_nonzero(tallies.pixels < min_pixels)),
        )


def _framed(blocks: Iterable[UInt8Array], width: int) -> Iterator[UInt8Array]:
    """Add a column of nodata at the right and a row of it at the end, as :func:`find_bends` needs it."""
    for block in blocks:
        framed = np.full((len(block), width), NODATA, np.uint8)
        framed[:, :-1] = block
        yield framed
    yield np.full((1, width), NODATA, np.uint8)


def _second_pass(
    blocks: Blocks, width: int, regions: IntArray, tallies: Tallies, *, junctions: bool, limit: float
) -> Iterator[Rings]:
    """Yield the outlines of complete regions whenever ``limit`` points are held, the rest at the end."""
    labeller = Labeller(width)
    held: list[Bends] = []
    count, most = 0, limit
    for block in _framed(blocks(), width):
        runs = labeller.label(block)
        region = regions[runs.piece]
        tallies.add(runs, region)
        held.append(find_bends(runs, region, junctions=junctions))
        count += len(held[-1].at)
        if count >= most:
            goes_on = np.zeros(len(regions), np.bool_)
            goes_on[region[np.searchsorted(runs.start, block.size) :]] = True
            bends = Bends.joined(held)
            waits = goes_on[bends.region]
            yield trace(bends.of(~waits), width)
            held = [bends.of(waits)]
            count = len(held[0].at)
            most = max(limit, 2 * count)
    yield trace(Bends.joined(held), width)
