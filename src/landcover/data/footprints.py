"""Where images are: which of them overlap or touch by georeferences, and the scenes that they form."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rasterio.crs import CRS
from rasterio.warp import transform

from landcover._typing import Float64Array
from landcover.data.layouts import Item, SceneTile
from landcover.errors import DataError, shortened
from landcover.raster import Georeference
from landcover.textfiles import parse_csv, parse_number, read_text

logger = logging.getLogger(__name__)

_COLUMNS = ("id", "scene", "row", "col")
_TOLERANCE_PX = 0.5
"""Images that are closer touch; that have less in common do not overlap."""


class Neighbours(NamedTuple):
    """Two images by key, the smaller first, that are ``overlapping`` or ``touching``."""

    a: str
    b: str
    kind: str


def find_neighbours(places: Mapping[str, Georeference]) -> list[Neighbours]:
    """Return the images that overlap or touch, also at a corner, sorted.

    Images in several coordinate reference systems are compared in longitude and latitude.
    """
    keys = sorted(places)
    if len(keys) < 2:
        return []
    own = [places[key] for key in keys]
    corners = np.stack([place.corners() for place in own])  # float64 (N, 4, 2), in one CRS
    if len({place.crs for place in own}) > 1:
        for points, place in zip(corners, own, strict=True):
            points[:] = np.transpose(transform(place.crs, CRS.from_epsg(4326), *points.T.tolist()))
    pixels = np.hypot(*(corners[:, 1] - corners[:, 0]).T) / np.array([place.width for place in own])
    low, high = corners.min(axis=1), corners.max(axis=1)
    order = np.argsort(low[:, 0], kind="stable")
    starts = low[order, 0]
    found = []
    for number, one in enumerate(order):
        reach = high[one] + pixels[one]
        others = order[number + 1 : np.searchsorted(starts, reach[0], side="right")]
        others = others[(low[others, 1] <= reach[1]) & (high[others, 1] >= low[one, 1] - pixels[one])]
        tolerance = _TOLERANCE_PX * np.maximum(pixels[one], pixels[others])
        gaps = _gaps(corners[one], corners[others])
        for other in np.flatnonzero(gaps <= tolerance):
            kind = "overlapping" if gaps[other] < -tolerance[other] else "touching"
            a, b = sorted((keys[one], keys[others[other]]))
            found.append(Neighbours(a, b, kind))
    return sorted(found)


def find_scenes(places: Mapping[str, Georeference], neighbours: Sequence[Neighbours]) -> dict[str, SceneTile]:
    """Return the scene of each image: images that overlap or touch, directly or by others, are one scene.

    A scene has the smallest key of its images as its name. Row and column count tiles where all images of a
    scene are on one grid of tiles of the most frequent size; else they are None.
    """
    scene_of = {key: key for key in places}

    def root(key: str) -> str:
        while scene_of[key] != key:
            scene_of[key] = scene_of[scene_of[key]]
            key = scene_of[key]
        return key

    for a, b, _ in neighbours:
        first, last = sorted((root(a), root(b)))
        scene_of[last] = first
    members: dict[str, list[str]] = {}
    for key in sorted(places):
        members.setdefault(root(key), []).append(key)
    return {
        key: SceneTile(scene, *position)
        for scene, inside in members.items()
        for key, position in _positions({key: places[key] for key in inside}).items()
    }


def _positions(places: Mapping[str, Georeference]) -> dict[str, tuple[int, int] | tuple[None, None]]:
    """Return row and column of the images of one scene in its grid of tiles; None if they are on none."""
    sizes = Counter(place.size for place in places.values())
    height, width = max(sizes, key=lambda size: (sizes[size], size))
    first = next(iter(places.values()))
    grid = ~first.transform
    steps: dict[str, tuple[int, int]] = {}
    for key, place in places.items():
        own, other = ((t.a, t.b, t.d, t.e) for t in (place.transform, first.transform))
        same = np.allclose(own, other, rtol=1e-6, atol=1e-6 * abs(first.transform.determinant) ** 0.5)
        col, row = grid @ (place.transform.c, place.transform.f)
        step = round(row / height), round(col / width)
        off = max(abs(row - step[0] * height), abs(col - step[1] * width))
        if not same or place.crs != first.crs or off > _TOLERANCE_PX:
            return dict.fromkeys(places, (None, None))
        steps[key] = step
    if len(set(steps.values())) < len(steps):
        return dict.fromkeys(places, (None, None))
    top, left = (min(step[axis] for step in steps.values()) for axis in (0, 1))
    return {key: (row - top, col - left) for key, (row, col) in steps.items()}


def _gaps(one: Float64Array, others: Float64Array) -> Float64Array:
    """Return the gaps between a parallelogram (4, 2) and others (N, 4, 2), negative where they overlap.

    By the separating axis theorem: the largest gap along the normals of the sides.
    """
    best = np.full(len(others), -np.inf)
    for sides in (np.broadcast_to(one, others.shape), others):
        for start in (0, 1):
            side = sides[:, start + 1] - sides[:, start]
            normal = np.stack([-side[:, 1], side[:, 0]], axis=1)
            normal /= np.hypot(*normal.T)[:, None]
            own = np.einsum("kc,nc->nk", one, normal)
            their = np.einsum("nkc,nc->nk", others, normal)
            gap = np.maximum(their.min(axis=1) - own.max(axis=1), own.min(axis=1) - their.max(axis=1))
            best = np.maximum(best, gap)
    return best


def read_scenes(path: Path, items: Iterable[Item]) -> dict[str, SceneTile]:
    """Read the positions of items from ``scenes.csv``: columns ``id,scene,row,col`` and perhaps ``part``.

    An id is a key, such as ``a/images/0001``, or its last component; the latter with the subset in ``part``.
    Rows of other items are ignored, with a warning: a copy of a few files may keep the whole table.

    Raises:
        DataError: If columns are missing, an id fits several items, or an item or a position is there twice.
    """
    by_name: dict[tuple[str, str], list[Item]] = {}
    by_key = {item.key: item for item in items}
    for item in by_key.values():
        by_name.setdefault((item.part or "", item.id), []).append(item)
    scenes: dict[str, SceneTile] = {}
    taken: dict[SceneTile, str] = {}
    header, rows = parse_csv(read_text(path, DataError, "a table of scenes"), str(path), DataError)
    for name in _COLUMNS:
        if name not in header:
            raise DataError(
                f"{path} lacks the column {name!r}; expected {', '.join(_COLUMNS)}, and part if ids repeat."
            )
    unmatched: list[str] = []
    for line, row in rows:
        place = f"{path}, line {line}"
        position = [parse_number(row[name]) for name in ("row", "col")]
        if not all(number is not None and number.is_integer() for number in position):
            found = f"{shortened(row['row'])} and {shortened(row['col'])}"
            raise DataError(f"{place}: row and col must be integers; found {found}.")
        tile = SceneTile(row["scene"], *(int(number or 0) for number in position))
        matching = [by_key[row["id"]]] if row["id"] in by_key else []
        matching = matching or by_name.get((row.get("part", ""), row["id"]), [])
        if len(matching) > 1:
            keys = ", ".join(item.key for item in matching)
            raise DataError(
                f"{place}: {shortened(row.get('part', ''))}/{shortened(row['id'])} fits several items: "
                f"{keys}. Write keys as ids."
            )
        if not matching:
            unmatched.append(row["id"])
        for item in matching:
            other = taken.setdefault(tile, item.key)
            if other != item.key or item.key in scenes:
                raise DataError(
                    f"{place}: {item.key} and {other} repeat an item or the position row {tile.row}, col "
                    f"{tile.col} of scene {shortened(tile.scene)}."
                )
            scenes[item.key] = tile
    if unmatched:
        logger.warning(
            f"{len(unmatched)} of {len(unmatched) + len(scenes)} rows of {path} fit no image, such as "
            f"{shortened(unmatched[0])}; expected keys such as {next(iter(by_key), '')!r}, or part and id."
        )
    return scenes
