"""``sample``: random points within each class of a map, to label and pass to ``evaluate``."""

from pathlib import Path

import numpy as np

from landcover._typing import Int64Array
from landcover.errors import MaskError, UsageError
from landcover.evaluation.truth import CLASS_COLUMN, LON_LAT, MAP_COLUMN
from landcover.extras import needs
from landcover.io.files import check_output, write_text
from landcover.io.vectors import WGS84, reproject, vector_driver, write_features
from landcover.legend import DEEPGLOBE, Legend
from landcover.progress import track
from landcover.raster.classmap import ClassMap, open_class_map
from landcover.raster.zonal import ClassAreas
from landcover.textfiles import csv_text

with needs("vector"):
    import shapely


def sample(
    map_path: str | Path,
    out: str | Path,
    *,
    per_class: int = 50,
    total: int | None = None,
    seed: int = 0,
    legend: Legend | None = None,
    force: bool = False,
) -> dict[str, int]:
    """Draw a stratified random sample of a map's pixels and write their centres as points.

    Within each class every pixel has the same probability, without replacement, as the standard errors of
    :func:`landcover.assess` require. The points are in random order: the first half of them is a random
    sample too, and the position in the list does not reveal the map's class. The map is read twice, by row
    blocks.

    Args:
        map_path: A raster of one 8-bit band of classes with CRS and transform.
        out: ``.gpkg``, ``.geojson`` or ``.fgb``, in the map's CRS but for GeoJSON, or ``.csv`` with ``lon``
            and ``lat``. Columns: ``id``, ``class_map``, and ``class``, which is empty: fill it in.
        per_class: Points in each class; all pixels of a class that has fewer.
        total: Total number of points: the rest after ``per_class`` is allocated in proportion to the pixels.
        seed: Seed of the draws.
        legend: Classes of the map. None: those that it carries, else DeepGlobe's.
        force: Replace an existing file.

    Returns:
        Points by the name of each class on the map.

    Raises:
        UsageError: If a number is out of range, ``total`` is less than ``per_class`` for each class, or the
            suffix is not one of these.
        MaskError: If the map cannot be read, is not georeferenced, or contains no class.
        OutputError: If the file exists and ``force`` is off, or cannot be written.

    Example:
        >>> lc.sample("map.tif", "points.csv", per_class=10)
        {'forest': 10, 'water': 10}
    """
    out = Path(out)
    is_table = out.suffix.lower() == ".csv"
    if not is_table:
        vector_driver(out)
    if seed < 0:
        raise UsageError(f"The seed is {seed}; expected 0 or more.")
    check_output(out, force=force)
    with open_class_map(Path(map_path), legend, default=DEEPGLOBE) as mapped:
        place, legend = mapped.required_georeference, mapped.legend
        areas = ClassAreas(legend, None)
        for window in track(mapped.strips(), f"Counting {mapped.path.name}"):
            areas.add(window.row, mapped.read(window))
        if not areas.pixels.any():
            raise MaskError(f"{map_path} contains no pixel of any class; expected a map.")
        numbers = allocate(areas.pixels, per_class, total)
        places, classes = _draw(mapped, areas.pixels, numbers, seed)
    rows, cols = np.divmod(places, place.width)
    points = shapely.points(*place.points(cols + 0.5, rows + 0.5))
    names = np.array(legend.names, object)[classes]
    ids = np.arange(1, len(points) + 1)
    if is_table:
        lon_lat = shapely.get_coordinates(reproject(points, place.crs, WGS84))
        rows_of_text = (
            (number, f"{lon:.9f}", f"{lat:.9f}", name, "")
            for number, (lon, lat), name in zip(ids, lon_lat, names, strict=True)
        )
        write_text(out, csv_text(["id", *LON_LAT, MAP_COLUMN, CLASS_COLUMN], rows_of_text), force=force)
    else:
        columns = {"id": ids, MAP_COLUMN: names, CLASS_COLUMN: np.full(len(points), None, object)}
        types = {"id": np.int64, MAP_COLUMN: str, CLASS_COLUMN: str}
        write_features(out, [(points, columns)], types, place.crs, geometry="Point", force=force)
    return {legend.names[i]: int(numbers[i]) for i in np.flatnonzero(areas.pixels)}


def allocate(pixels: Int64Array, per_class: int, total: int | None) -> Int64Array:
    """Allocate points to classes: a fixed number each, the rest of a total in proportion to the pixels.

    ``pixels`` and the result, which is at most that, are int64 (K,). Fractions go to the largest remainders,
    the first of equal ones.
    """
    present = int(np.count_nonzero(pixels))
    if per_class < 1:
        raise UsageError(f"per_class is {per_class}; expected at least 1, better 50.")
    least = np.minimum(pixels, per_class)
    if total is None:
        return least
    if total < per_class * present:
        raise UsageError(
            f"A total of {total} points is less than {per_class} in each of {present} classes. Raise --total "
            f"to at least {per_class * present}, or lower --per-class."
        )
    whole = int(pixels.sum())
    rest = min(total, whole) - int(least.sum())
    # Python integers do not overflow.
    more, remainder = np.array([divmod(rest * int(number), whole) for number in pixels]).T
    more[np.argsort(-remainder, kind="stable")[: rest - int(more.sum())]] += 1
    numbers: Int64Array = np.minimum(pixels, least + more)
    return numbers


def _draw(
    mapped: ClassMap, pixels: Int64Array, numbers: Int64Array, seed: int
) -> tuple[Int64Array, Int64Array]:
    """Return the pixel number of each point in reading order and its class, int64 (N,) each, shuffled.

    Ranks within a class are drawn before the map is read: the result does not depend on its row blocks.
    """
    rngs = [np.random.default_rng((seed, number)) for number in range(len(pixels) + 1)]
    ranks = [
        np.sort(rng.choice(int(of_class), int(number), replace=False, shuffle=False))
        for rng, of_class, number in zip(rngs, pixels, numbers, strict=False)
    ]
    places: list[list[Int64Array]] = [[np.empty(0, np.int64)] for _ in ranks]
    seen = np.zeros(len(pixels), np.int64)
    for window in track(mapped.strips(), f"Drawing from {mapped.path.name}"):
        strip = mapped.read(window)
        for number, wanted in enumerate(ranks):
            if not wanted.size or seen[number] > wanted[-1]:
                continue
            of_class = np.flatnonzero(strip == number)
            first, last = np.searchsorted(wanted, (seen[number], seen[number] + of_class.size))
            places[number].append(
                of_class[wanted[first:last] - seen[number]] + window.row * mapped.place.width
            )
            seen[number] += of_class.size
    drawn: Int64Array = np.concatenate([part for parts in places for part in parts])
    order = rngs[-1].permutation(drawn.size)
    return drawn[order], np.repeat(np.arange(len(numbers)), numbers)[order]
