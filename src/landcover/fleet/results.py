"""What a fleet has made: how far it is, what failed, whether all is whole, and one mosaic of it."""

import json
import logging
import os
import posixpath
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform_bounds

from landcover._gdal import CPLE_BaseError
from landcover._typing import UInt8Array
from landcover.errors import DataError, MaskError, MissingKeyError, UsageError
from landcover.fleet.planning import file_digest
from landcover.fleet.run import published, running
from landcover.fleet.units import read_plan, read_units
from landcover.io.files import check_output, write_text
from landcover.legend import NODATA, Legend
from landcover.raster import Georeference
from landcover.raster.classmap import open_class_map
from landcover.raster.mapfiles import MAP_FORMATS, write_map_file
from landcover.raster.mosaic import SPARSE, Piece, lay_under
from landcover.raster.style import colour_table, write_style
from landcover.raster.zonal import ClassAreas
from landcover.storage.store import FolderStore, Store
from landcover.windows import Window

_ALIVE_S = 60.0
"""Age of the record of a run up to which it works."""

_STRIP_PX = 1 << 24

_DAMAGED = {
    "output": "",
    "scene": "",
    "blocks": None,
    "attempts": 0,
    "state": "fault",
    "error": "its record is damaged",
}
"""The record of a unit that was given up, where it does not state something."""

_log = logging.getLogger(__name__)


def status(store: Store) -> dict[str, Any]:
    """Return how far a plan is, as plain data.

    Rate and time left are those of the runs that work now, by the maps that they have made.
    """
    plan, now = read_plan(store), time.time()
    alive = [record for record, _ in running(store) if now - record["updated"] < _ALIVE_S]
    receipts, lost = published(store)
    maps = len(receipts) - len(lost)
    rate = sum(60 * record["maps"] / max(record["updated"] - record["began"], 1.0) for record in alive)
    return {
        "scenes": plan.scenes,
        "maps": maps,
        "parts": sum(key.endswith(".json") for key in store.list("parts")),
        "failed": sum(1 for _ in store.list("failed")),
        "running": sum(record["in_flight"] for record in alive),
        "runs": len(alive),
        "maps_per_minute": round(rate, 3),
        "minutes_left": round((plan.scenes - maps) / rate, 1) if rate else None,
    }


def failures(store: Store) -> Iterator[dict[str, Any]]:
    """Yield the record of each unit that was given up, with its last error."""
    for key in sorted(store.list("failed")):
        with suppress(MissingKeyError):  # it has just been done
            text = store.read(key)
            try:
                record = {**_DAMAGED, **json.loads(text)}
                _, _ = record["blocks"] or (0, 0)
            except (ValueError, TypeError, RecursionError):
                record = {**_DAMAGED, "scene": key}
            yield record


@dataclass
class Verified:
    """What :func:`verify` has found.

    Attributes:
        files: Files whose digests were compared.
        missing: Maps of the plan that are not published, and files of receipts that do not exist.
        orphans: Files that no receipt names.
    """

    maps: int = 0
    files: int = 0
    size: int = 0
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)


def verify(store: Store) -> Verified:
    """Compare everything that is published with its receipt."""
    plan, found = read_plan(store), Verified()
    orphans = {*store.list("maps"), *store.list("parts")}
    expected = {plan.model: plan.model_sha256}
    for key, unit, _ in read_units(store, plan):
        receipt = unit.item if unit.blocks is None else f"parts/{key}.json"
        try:
            record = json.loads(store.read(receipt))
            if unit.blocks is None:
                folder = posixpath.dirname(receipt)
                for asset in record["assets"].values():
                    name = posixpath.normpath(posixpath.join(folder, asset["href"]))
                    expected[name] = asset["file:checksum"].removeprefix("1220")
            else:
                expected[f"parts/{key}.bin"] = record["sha256"]
        except MissingKeyError:
            if unit.blocks is None:
                found.missing.append(unit.output)
            continue
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            found.damaged.append(receipt)
        orphans.discard(receipt)
        found.maps += unit.blocks is None
        for name, digest in expected.items():
            orphans.discard(name)
            try:
                with store.local(name) as path:
                    found.files += 1
                    found.size += path.stat().st_size
                    if file_digest(path) != f"sha256:{digest}":
                        found.damaged.append(name)
            except MissingKeyError:
                found.missing.append(name)
        expected = {}
    found.orphans = sorted(orphans)
    return found


def merge(
    store: Store, out: Path, *, vector: Path | None = None, force: bool = False
) -> tuple[ClassAreas, list[str]]:
    """Write all maps of a plan as one mosaic; return its areas and the maps left out.

    ``out`` is a ``.tif``, a Cloud Optimized GeoTIFF, or a ``.vrt``, which refers to the maps; ``vector`` the
    file of its polygons. The mosaic has the CRS and the pixels of the first map; others are resampled by the
    nearest pixel. Ground of several maps belongs to the first that has data there, in the order of the plan
    (the rule of :mod:`landcover.raster.mosaic`), in the mosaic, its polygons and its areas. Maps without
    georeference and those of scenes that were given up are left out, with a warning.

    Raises:
        DataError: If no map is georeferenced, one is not published, they are too far apart, or, for ``.vrt``,
            they are not on one grid.
        UsageError: If ``out`` has another suffix, or is a ``.vrt`` of maps in object storage.
        OutputError: If a file exists and ``force`` is off, or cannot be written.
    """
    plan, is_vrt = read_plan(store), out.suffix.lower() == ".vrt"
    if not is_vrt and out.suffix.lower() not in (".tif", ".tiff"):
        raise UsageError(f"The mosaic is {out}; expected a name that ends with .tif or .vrt.")
    if is_vrt and not isinstance(store, FolderStore):
        raise UsageError(f"{out} would refer to copies of the maps of {store.root}. Pass --out with .tif.")
    for path in filter(None, (out, vector)):
        check_output(path, force=force)
    given_up = {record["output"] for record in failures(store)}
    left_out, unplaced, files = [], [], []
    with ExitStack() as stack:
        for _, unit, _ in read_units(store, plan):
            if unit.blocks is not None:
                continue
            if unit.bbox is None and (unit.size is not None or store.exists(unit.item)):
                unplaced.append(unit.output)  # the place of a scene that could not be read is unknown
                continue
            if unit.output in given_up and not store.exists(unit.item):
                left_out.append(unit.output)
                _log.warning(
                    "%s is not in the mosaic: it was given up. See landcover fleet failed.", unit.output
                )
                continue
            try:
                files.append(stack.enter_context(store.local(unit.output)))
            except MissingKeyError as error:
                receipt = store.address(unit.item)
                first = f"Delete {receipt}, then" if store.exists(unit.item) else "Finish the plan first"
                raise DataError(f"{error} {first}: landcover fleet run {store.root}") from error
        if not files:
            raise DataError(f"{store.root} has no georeferenced map to merge.")
        if unplaced:
            _log.warning(
                "The mosaic and its areas lack %d of %d maps, which are not georeferenced (for example %s).",
                *(len(unplaced), len(unplaced) + len(left_out) + len(files), unplaced[0]),
            )
        legend, place, pieces = _mosaic(files)
        areas = ClassAreas(legend, place.row_areas())

        def strips() -> Iterator[UInt8Array]:
            height, width = place.size
            step = max(1, _STRIP_PX // width)
            for row in range(0, height, step):
                strip = _strip(pieces, legend, place, Window(row, 0, min(step, height - row), width))
                areas.add(row, strip)
                yield strip

        tags = {"LANDCOVER_VERSION": plan.version, "LANDCOVER_MODEL_SHA256": plan.model_sha256}
        if is_vrt:
            text = _vrt(pieces, place, out.absolute().parent)
            deque(strips(), maxlen=0)  # counts areas
            write_text(out, text, force=force)
            write_style(out, legend)
        else:
            write_map_file(out, strips(), place, legend, MAP_FORMATS["cog"], tags=tags, force=force)
    if vector is not None:
        from landcover.postprocess.vectorize import vectorize  # needs an extra

        vectorize(out, vector, legend=legend, force=force)
    return areas, left_out


def _mosaic(files: list[Path]) -> tuple[Legend, Georeference, list[Piece]]:
    """Return legend and place of the mosaic of maps, and where each of them is on it."""
    legend: Legend | None = None
    first: Georeference | None = None
    windows = []
    for path in files:
        try:
            with open_class_map(path, legend) as opened:
                own = opened.required_georeference
                legend, first = legend or opened.legend, first or own
                box = own.extent()
                if own.crs != first.crs:
                    box = transform_bounds(own.crs, first.crs, *box)
        except (CRSError, RasterioError, CPLE_BaseError) as error:
            raise DataError(
                f"{path} has no place in the CRS of {files[0]}: {error}. Plan and merge them apart."
            ) from error
        except MaskError as error:
            raise DataError(
                f"{error} Delete its receipt {path.name}.json in the store, then: landcover fleet run"
            ) from error
        cols, rows = first.pixels(*np.meshgrid(box[::2], box[1::2]))
        windows.append(np.rint([rows.min(), cols.min(), rows.max(), cols.max()]))
    assert legend is not None
    assert first is not None
    top, left = np.min(windows, axis=0)[:2]
    bottom, right = np.max(windows, axis=0)[2:]
    height, width = bottom - top, right - left
    covered = sum(float(np.prod(one[2:] - one[:2])) for one in windows)
    if not height * width <= SPARSE * covered < np.inf:
        raise DataError(
            f"The {len(files)} maps cover less than {100 / SPARSE:g} % of the {height:.0f} x {width:.0f} "
            f"pixels around them on the grid of {files[0]}. Plan and merge regions one by one."
        )
    pieces = [
        Piece(path, Window(*map(int, (one[0] - top, one[1] - left, one[2] - one[0], one[3] - one[1]))))
        for path, one in zip(files, windows, strict=True)
    ]
    whole = Window(int(top), int(left), int(height), int(width))
    return legend, first.part(whole), pieces


def _vrt(pieces: Sequence[Piece], place: Georeference, folder: Path) -> str:
    """Return a VRT of maps on one grid; later sources cover earlier ones, so the first map comes last."""
    vrt = Element("VRTDataset", rasterXSize=str(place.width), rasterYSize=str(place.height))
    SubElement(vrt, "SRS").text = place.crs.to_wkt()
    SubElement(vrt, "GeoTransform").text = ", ".join(map(repr, map(float, place.transform.to_gdal())))
    band = SubElement(vrt, "VRTRasterBand", dataType="Byte", band="1")
    SubElement(band, "NoDataValue").text = str(NODATA)
    for path, window in reversed(pieces):
        row, col, height, width = window
        with open_class_map(path) as opened:
            if band.find("ColorTable") is None:
                SubElement(band, "ColorInterp").text = "Palette"
                colours, table = colour_table(opened.legend), SubElement(band, "ColorTable")
                for value in range(NODATA + 1):
                    rgba = colours.get(value, (0, 0, 0, 255))
                    SubElement(table, "Entry", {f"c{n}": str(v) for n, v in enumerate(rgba, 1)})
            expected, found = place.part(window), opened.required_georeference
            pixel = abs(expected.transform.a) + abs(expected.transform.b)
            differences = np.subtract(expected.transform[:6], found.transform[:6])
            if found.crs != place.crs or np.abs(differences).max() > pixel / 100:
                raise DataError(
                    f"{path} is not on the grid of {pieces[0].path}, as a .vrt needs. Pass --out with .tif."
                )
        source = SubElement(band, "ComplexSource")
        SubElement(source, "SourceFilename", relativeToVRT="1").text = os.path.relpath(path, folder)
        SubElement(source, "SourceBand").text = "1"
        size = {"xSize": str(width), "ySize": str(height)}
        SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0"} | size)
        SubElement(source, "DstRect", {"xOff": str(col), "yOff": str(row)} | size)
        SubElement(source, "NODATA").text = str(NODATA)
    indent(vrt)
    return tostring(vrt, encoding="unicode") + "\n"


def _strip(pieces: list[Piece], legend: Legend, place: Georeference, window: Window) -> UInt8Array:
    """Return rows of a mosaic: uint8 (n, W)."""
    strip = np.full((window.height, window.width), NODATA, np.uint8)
    for piece in pieces:
        row, col, height, width = piece.window
        top, bottom = max(row, window.row), min(row + height, window.row + window.height)
        part = strip[top - window.row : bottom - window.row, col : col + width]
        if bottom <= top or not (part == NODATA).any():
            continue
        with open_class_map(piece.path, legend) as opened, opened.on_grid(place) as read:
            lay_under(part, read(Window(top, col, bottom - top, width)))
    return strip
