"""STAC: an item for each map of a fleet, which is its receipt, and the collection of all.

STAC 1.1 (https://github.com/radiantearth/stac-spec) with the extensions file, projection, processing and
classification. Nothing in them depends on when or where a map was made, so they are the same bytes in every
run.
"""

import os
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from landcover import __version__
from landcover.fleet.units import COLLECTION, MODEL_ITEM, Plan, Unit
from landcover.inference.scene import MadeMap
from landcover.io.discovery import MASK_END
from landcover.legend import NODATA
from landcover.model.stac import ANY_TIME, STAC_VERSION, class_object, file_fields

_BASE = "https://stac-extensions.github.io"
_EXTENSIONS = [
    f"{_BASE}/file/v2.1.0/schema.json",
    f"{_BASE}/processing/v1.2.0/schema.json",
    f"{_BASE}/classification/v2.0.0/schema.json",
]
_PROJECTION = f"{_BASE}/projection/v2.0.0/schema.json"
_TYPES = {
    ".tif": "image/tiff; application=geotiff",
    ".png": "image/png",
    ".gpkg": "application/geopackage+sqlite3",
    ".geojson": "application/geo+json",
    ".fgb": "application/vnd.flatgeobuf",
    ".parquet": "application/vnd.apache.parquet",
}


def map_item(
    key: str,
    unit: Unit,
    plan: Plan,
    made: MadeMap,
    files: Mapping[str, tuple[int, str]],
) -> dict[str, Any]:
    """Return the item of a map as plain data for JSON.

    Args:
        key: Key of the unit that made it.
        unit: That unit.
        plan: Its plan.
        made: The map.
        files: Size and SHA-256 of each file by its key; the map's is ``unit.output``.
    """
    legend, place, pixels = made.areas.legend, made.georeference, made.areas.pixels.tolist()
    classes = [
        {**class_object(legend, index, value=index), "count": pixels[index]} for index in legend.scored
    ]
    classes.append({"value": NODATA, "name": "nodata", "nodata": True})
    properties: dict[str, Any] = {
        **(ANY_TIME | {"datetime": unit.source["datetime"]} if "datetime" in unit.source else ANY_TIME),
        "gsd": made.gsd,
        "processing:level": "L4",
        "processing:lineage": f"Classified by landcover with the model of SHA-256 {plan.model_sha256}.",
        "processing:software": {"landcover": __version__, plan.runtime: plan.precision},
        "landcover:unit": key,
        "landcover:model_sha256": plan.model_sha256,
        "landcover:inputs": {pin.path: pin.digest for pin in unit.pins},
    }
    if made.damaged:
        properties["landcover:damaged"] = [list(window) for window in made.damaged]
    if "datetime" in unit.source:
        del properties["start_datetime"], properties["end_datetime"]
    if place is not None:
        properties |= {
            "proj:code": place.crs.to_string() if place.crs.to_epsg() else None,
            "proj:shape": [*made.size],
            "proj:transform": [*place.transform[:6]],
        }
        if properties["proj:code"] is None:
            properties["proj:wkt2"] = place.crs.to_wkt(version="WKT2_2019")
    assets = {}
    for name, (length, sha256) in files.items():
        path = PurePosixPath(name)
        stem = PurePosixPath(unit.output).stem
        other = path.name.removeprefix(stem.removesuffix(MASK_END)).removeprefix(MASK_END)
        assets["map" if name == unit.output else other.strip("_.").removesuffix(".tif")] = {
            "href": f"./{path.name}",
            "type": _TYPES.get(path.suffix, "application/octet-stream"),
            "roles": ["data"] if name == unit.output else ["metadata"],
            **file_fields(length, sha256),
            **({"classification:classes": classes} if name == unit.output else {}),
        }
    links = [
        {"rel": "collection", "href": _relative(COLLECTION, unit.item), "type": "application/json"},
        {"rel": "root", "href": _relative(COLLECTION, unit.item), "type": "application/json"},
        {"rel": "derived_from", "href": unit.source.get("item", unit.scene)},
        {"rel": "mlm:model", "href": _relative(MODEL_ITEM, unit.item), "type": "application/geo+json"},
    ]
    box = unit.bbox
    corners = None if box is None else [box[:2], (box[2], box[1]), box[2:], (box[0], box[3]), box[:2]]
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [*_EXTENSIONS, *([] if place is None else [_PROJECTION])],
        "id": "".join(unit.output.removeprefix("maps/").rpartition(MASK_END)[::2]).replace("/", "-"),
        "collection": "landcover",
        "geometry": None if corners is None else {"type": "Polygon", "coordinates": [[*map(list, corners)]]},
        **({} if box is None else {"bbox": [*box]}),
        "properties": properties,
        "links": links,
        "assets": assets,
    }


def map_collection(plan: Plan, licence: str) -> dict[str, Any]:
    """Return the collection of all maps as plain data for JSON; its last list takes the links to items."""
    return {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "id": "landcover",
        "title": "Land-cover maps",
        "description": f"Land-cover maps by landcover {plan.version}. {licence}".strip(),
        "license": "other",
        "extent": {
            "spatial": {"bbox": [[*(plan.bbox or (-180.0, -90.0, 180.0, 90.0))]]},
            "temporal": {"interval": [[None, None]]},
        },
        "links": [{"rel": "root", "href": f"./{COLLECTION}", "type": "application/json"}],
    }


def _relative(target: str, item: str) -> str:
    path = os.path.relpath(target, PurePosixPath(item).parent)
    return PurePosixPath(path).as_posix()
