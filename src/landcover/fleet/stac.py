"""STAC: items of scenes, an item for each map of a fleet, which is its receipt, and the collection of all.

STAC 1.1 (https://github.com/radiantearth/stac-spec) with the extensions file, projection, processing and
classification. Nothing in them depends on when or where a map was made, so they are the same bytes in every
run.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit
from urllib.request import Request, urlopen

from landcover import __version__
from landcover._gdal import is_address
from landcover.errors import DataError
from landcover.fleet.units import COLLECTION, Plan, Unit
from landcover.inference.scene import MadeMap
from landcover.io.discovery import MASK_END
from landcover.legend import NODATA
from landcover.model.stac import ANY_TIME, STAC_VERSION, class_object, file_fields
from landcover.raster import display_name
from landcover.textfiles import parse_json, read_text

_BASE = "https://stac-extensions.github.io"  # tests/schemas has the schemas of these versions
_EXTENSIONS = [
    f"{_BASE}/file/v2.1.0/schema.json",
    f"{_BASE}/processing/v1.1.0/schema.json",
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

_ROLES = ("data", "visual")
"""Roles of the assets of a STAC item that are imagery; the first that has one is taken."""

_PAGE_BYTES = 64 << 20
_TIMEOUT_S = 60.0
_PAUSES_S = (1.0, 4.0, None)
"""Between attempts to read a page."""


def is_search(address: str) -> bool:
    """Return whether an address is that of items in a STAC API: it ends with ``/search`` or ``/items``."""
    parts = urlsplit(address) if address.startswith(("http://", "https://")) else None
    return parts is not None and parts.path.endswith(("/search", "/items"))


def read_items(source: str) -> Iterator[tuple[str, str, Mapping[str, str]]]:
    """Yield the id, the address of the imagery, and time and address of each STAC item.

    ``source`` is a JSON file of an ItemCollection or an Item, or the address of a search, of which all pages
    are read.
    """
    if is_search(source):
        name, pages = display_name(source), _pages(source)
    else:
        text = read_text(Path(source), DataError, "a STAC ItemCollection")
        name, pages = source, iter([parse_json(text, source, DataError)])
    number = 0
    for page in pages:
        match page:
            case {"type": "FeatureCollection", "features": [*items]}:
                pass
            case {"type": "Feature", "assets": {}}:
                items = [page]
            case _:
                raise DataError(
                    f"{name} is not a STAC ItemCollection; expected a FeatureCollection of items."
                )
        for item in items:
            try:
                id_, assets = item["id"], list(item["assets"].values())
                roles = [asset for role in _ROLES for asset in assets if role in asset.get("roles", [])]
                rasters = [asset for asset in assets if "tiff" in asset.get("type", "")]
                href = (roles or rasters)[0]["href"]
                found = {"datetime": item["properties"].get("datetime")}
                links = (link["href"] for link in item.get("links", []) if link["rel"] == "self")
                found["item"] = next(links, None)
                if not all(isinstance(text, str) for text in (id_, href, *filter(None, found.values()))):
                    raise TypeError("id, href and datetime are not text")
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise DataError(
                    f"{name}: item {number} has no id, or no asset with the role data or of a GeoTIFF: "
                    f"{error!r}."
                ) from error
            if not is_address(href):
                base = str(found["item"] or source)
                href = urljoin(base, href) if is_address(base) else str(Path(source).parent / href)
            yield id_.replace("/", "_"), href, {key: value for key, value in found.items() if value}
            number += 1


def _pages(address: str) -> Iterator[Any]:
    """Yield the pages of a search, by the links to the next one."""
    name, place, seen = display_name(address), urlsplit(address)[:2], set[str]()
    request = Request(address, headers={"Accept": "application/geo+json, application/json"})
    while True:
        seen.add(f"{request.full_url} {request.data!r}")
        page = _page(request, name)
        yield page
        try:
            link = next((link for link in page.get("links", []) if link.get("rel") == "next"), None)
            if link is None:
                return
            body = json.dumps(link.get("body", {})).encode() if link.get("method") == "POST" else None
            request = Request(urljoin(address, link["href"]), body, dict(request.headers))
            if body is not None:
                request.add_header("Content-Type", "application/json")
            is_other = urlsplit(request.full_url)[:2] != place or f"{request.full_url} {body!r}" in seen
        except (KeyError, TypeError, AttributeError, ValueError):
            is_other = True
        if is_other:
            raise DataError(
                f"{name} has a link to the next page that cannot be used; expected another page of the same "
                "server. Save the items as a JSON file and pass that."
            )


def _page(request: Request, name: str) -> Any:
    """Return the answer to a request, which is repeated if it failed for a moment."""
    reason = ""
    for pause in _PAUSES_S:
        try:
            with urlopen(request, timeout=_TIMEOUT_S) as answer:
                content = answer.read(_PAGE_BYTES + 1)
            if len(content) > _PAGE_BYTES:
                raise DataError(f"{name} answered more than {_PAGE_BYTES >> 20} MiB. Set a smaller limit.")
            return parse_json(content.decode(), name, DataError)
        except UnicodeDecodeError as error:
            raise DataError(f"{name} did not answer JSON; expected a STAC ItemCollection.") from error
        except HTTPError as error:
            reason = f"its server answered {error.code}"
            if error.code < 500 and error.code != 429:
                break
        except (OSError, HTTPException) as error:
            reason = f"its server gave no complete answer ({type(error).__name__})"
        if pause is not None:
            time.sleep(pause)
    raise DataError(f"{name} cannot be read: {reason}. Check the address and its query.")


def map_item(
    key: str, unit: Unit, plan: Plan, made: MadeMap, files: Mapping[str, tuple[int, str]]
) -> dict[str, Any]:
    """Return the item of a map as plain data for JSON.

    ``key`` is that of the unit that made it, ``files`` has size and SHA-256 of each file by its key.
    """
    legend, place, pixels = made.areas.legend, made.place.georeference, made.areas.pixels.tolist()
    classes = [
        {**class_object(legend, index, value=index), "count": pixels[index]} for index in legend.scored
    ]
    classes.append({"value": NODATA, "name": "nodata", "nodata": True})
    properties: dict[str, Any] = {
        **(ANY_TIME | {"datetime": unit.source["datetime"]} if "datetime" in unit.source else ANY_TIME),
        "gsd": made.scale.gsd,
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
            "proj:shape": [*place.size],
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
        {"rel": "mlm:model", "href": _relative(plan.model_item, unit.item), "type": "application/geo+json"},
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
