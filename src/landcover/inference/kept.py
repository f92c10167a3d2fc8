"""Maps that are there already: whether this prediction would make them, and what they show."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast, get_args

import numpy as np
from rasterio.errors import RasterioError

from landcover._gdal import open_raster
from landcover.errors import ImageError, OutputError, printable
from landcover.inference.options import PredictOptions
from landcover.inference.plan import Task, products
from landcover.inference.results import MadeMap
from landcover.inference.scene import UNLIKE, WORK, work_digest
from landcover.io import read_mask
from landcover.legend import Legend, UInt8Array
from landcover.ood import Unlike
from landcover.raster import read_georeference, row_areas
from landcover.raster.classmap import open_class_map
from landcover.raster.zonal import ClassAreas, read_zones
from landcover.scale import GsdSource
from landcover.windows import Window

_GSD = re.compile(r"(\S+) \((.+)\)")


def is_made(task: Task, options: PredictOptions, tags: Mapping[str, str]) -> bool:
    """Return whether a map and all that belongs to it are there, made of the same scene in the same way.

    Raises:
        OutputError: If there is another map of that name.
    """
    if not task.map.exists():
        return False
    there, expected = _tags(task.map), {**tags, WORK: work_digest(task, options)}
    differing = [name for name, value in expected.items() if there.get(name) != value]
    if differing:
        raise OutputError(
            f"{task.map} was made by another model, of another scene or with other options (its tags "
            f"{', '.join(differing)} differ). Choose another --out, or --force in place of --resume."
        )
    return all(path.exists() for path in products(task, options))


def read_made(task: Task, options: PredictOptions, legend: Legend) -> MadeMap:
    """Return what a map that is there shows, as if it had been made now.

    Raises:
        DataError: If it cannot be read.
    """
    tags = _tags(task.map)
    found = _GSD.fullmatch(tags.get("LANDCOVER_GSD", ""))
    gsd, source = (float(found[1]), found[2]) if found else (task.gsd, task.gsd_source)
    gsd_source = cast(GsdSource, source if source in get_args(GsdSource) else task.gsd_source)
    with open_raster(task.map) as opened:
        size = opened.height, opened.width
    georeference = read_georeference(task.map)
    true = None if georeference is None else row_areas(georeference, *size)
    if true is None and gsd_source != "assumed":
        true = np.full(size[0], gsd**2)
    areas, zones = ClassAreas(legend, true), None
    if options.zones is not None and georeference is not None:
        zones = read_zones(options.zones, options.zone_column, georeference, size, legend, true)
    for row, strip in _strips(task.map, legend):
        areas.add(row, strip)
        if zones is not None:
            zones.add(row, strip)
    damaged = tuple(Window(*window) for window in json.loads(tags.get("LANDCOVER_DAMAGED", "[]")))
    of_zones = {} if zones is None else zones.zones
    unlike = read_unlike(tags.get(UNLIKE, ""))
    return MadeMap(task, size, gsd, gsd_source, areas, of_zones, damaged, unlike=unlike)


def read_unlike(text: str) -> Unlike | None:
    """Return what a map's tag says of its scene; None where it says nothing that we would have written."""
    try:
        told = json.loads(text)
        share, reasons = float(told["share"]), tuple(map(str, told["reasons"]))
    except (ValueError, TypeError, KeyError):
        return None
    return Unlike(share, tuple(map(printable, reasons))) if 0 <= share <= 1 else None


def _tags(path: Path) -> dict[str, str]:
    try:
        with open_raster(path) as source:
            tags: dict[str, str] = source.tags()
    except (RasterioError, ImageError):
        return {}
    return tags


def _strips(path: Path, legend: Legend) -> Iterator[tuple[int, UInt8Array]]:
    if path.suffix == ".png":
        yield 0, read_mask(path, legend).index
        return
    with open_class_map(path, legend) as opened:
        for window in opened.strips():
            yield window.row, opened.read(window)
