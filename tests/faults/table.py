"""Hostile and unlucky inputs, made by code, and the commands that read each kind of them."""

import hashlib
import json
import os
import random
import shutil
import socket
import sqlite3
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

sys.path.append(str(Path(__file__).parents[1]))

from fake_runtime import make_card
from imagefiles import class_index, photo, png_bytes, png_chunk, save, save_palette
from landcover.fleet.planning import make_plan
from landcover.fleet.units import read_plan, read_units
from landcover.legend import DEEPGLOBE
from landcover.storage.store import open_store
from onnx_models import save_exported

Content = bytes | str | Callable[[Path], object]
Words = list[object]

PLACE = {"crs": "EPSG:32631", "transform": rasterio.Affine(0.5, 0, 500000, 0, -0.5, 5700000)}


@dataclass(frozen=True)
class Case:
    """An input for a command.

    Attributes:
        name: Its name in reports: kind, input, verb.
        words: The command.
        file: What the one line about it must contain; empty for none.
        refused: Whether the command must fail; else it may also succeed.
        out: The folder that the command may write to.
    """

    name: str
    words: Words
    file: str
    refused: bool
    out: Path


@dataclass
class World:
    """Good files for the other arguments of a command."""

    folder: Path
    good: Path = field(init=False)
    mask: Path = field(init=False)
    map: Path = field(init=False)
    model: Path = field(init=False)
    data: Path = field(init=False)
    truth: Path = field(init=False)
    labels: Path = field(init=False)
    run: Path = field(init=False)

    def __post_init__(self) -> None:
        good = self.folder / "good"
        good.mkdir(parents=True)
        self.good, self.map = good / "good.tif", good / "map.tif"
        write_tif(self.good, np.moveaxis(photo(64, 64), 2, 0))
        write_tif(self.map, class_index(64, 64)[None], tags={"CLASS_NAMES": DEEPGLOBE.listing})
        self.mask = save_palette(good / "mask.png", class_index(), DEEPGLOBE.colours)
        self.model = save_exported(good / "model.onnx", make_card(gsd=0.5))
        self.truth = good / "truth.csv"
        self.truth.write_text("lon,lat,class\n3.00023,51.45104,urban\n")
        self.data = good / "data"
        for part in ("train", "validation"):
            write_pair(self.data / part)
        (self.data / "landcover.yaml").write_text("gsd: 0.5\n")
        self.labels = write(good / "labels.geojson", geojson(_square(3.0, 51.449)).replace("51.45", "51.46"))
        self.run = write(good / "run" / "config.yaml", "seed: 0\n").parent
        (self.run / "log.jsonl").touch()

    @cached_property
    def store(self) -> Path:
        """A fleet's store with a plan of one unit."""
        make_plan([self.good], self.model, str(self.folder / "store"))
        return self.folder / "store"


def write_pair(folder: Path) -> None:
    save(folder / "0_sat.png", photo())
    save_palette(folder / "0_mask.png", class_index(), DEEPGLOBE.colours)


def write_tif(path: Path, bands: np.ndarray, *, tags: dict[str, str] | None = None, **profile: Any) -> Path:
    count, height, width = bands.shape
    profile = {**PLACE, "dtype": bands.dtype, "count": count, "height": height, "width": width} | profile
    with rasterio.open(path, "w", driver="GTiff", **profile) as target:
        target.write(bands)
        target.update_tags(**(tags or {}))
    return path


# --- YAML ---------------------------------------------------------------------------------------------------


def _bomb(levels: int = 28) -> str:
    lines = ["l0: &l0 {a: 1}", *(f"l{i}: &l{i} {{<<: [*l{i - 1}, *l{i - 1}]}}" for i in range(1, levels))]
    return "\n".join(lines) + f"\nclasses: *l{levels - 1}\n"


def _aliases(levels: int = 30) -> str:
    lines = [
        "a0: &a0 [x]",
        *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)),
    ]
    return "\n".join(lines) + "\n"


YAML: dict[str, Content] = {
    "empty list": "[]",
    "text": "just text",
    "merge bomb": _bomb(),
    "alias bomb": _aliases(),
    "endless alias": "a: &a [*a]\n",
    "bad date": "name: 2024-13-45\nclasses: []\n",
    "date tag": "name: !!timestamp soon\nclasses: []\n",
    "number tag": "name: x\nunknown: !!int many\nclasses: []\n",
    "map tag": "name: !!omap [x]\nclasses: []\n",
    "python tag": "name: !!python/object/apply:os.system [touch canary]\nclasses: []\n",
    "long integer": "name: x\nclasses: [{name: a, colour: [" + "9" * 5000 + ", 0, 0]}]\n",
    "very long integer": "name: " + "9" * 400_000 + "\nclasses: []\n",
    "sexagesimal": "name: " + "1:" * 200_000 + "1\nclasses: []\n",
    "many keys": "".join(f"k{i}: 1\n" for i in range(300_000)) + "classes: []\n",
    "many unknown keys": "".join(f"k{i}: 1\n" for i in range(30_000)),
    "deep list": "a: " + "[" * 100_000,
    "deep map": "".join(" " * i + "a:\n" for i in range(500)),
    "two documents": "name: x\n---\nname: y\n",
    "repeated key": "name: x\nname: y\nclasses: []\n",
    "key is a list": "? [a]\n: b\n",
    "null byte": "name: a\0b\n",
    "not utf-8": b"name: \xff\xfe\n",
    "utf-16": "name: x\nclasses: []\n".encode("utf-16"),
    "tab": "name:\n\t- x\n",
    "not finite": "name: x\nclasses: [{name: a, colour: [.inf, 0, 0]}]\n",
    "escape in a name": 'name: "a\\e[31mb"\nclasses: [{name: "x\\e[2J", colour: [0, 0, 0]}]\n',
    "wrong types": "name: [1]\nclasses: {a: b}\nunknown: 3.5\n",
    "anchor": "name: &x y\nclasses: []\n",
    "unclosed quote": 'name: "x\n',
    "binary": bytes(range(256)) * 64,
    "directive": "%YAML 9.9\n---\nname: x\n",
    "huge": lambda path: _sparse(path, 1 << 40),
}


def _sparse(path: Path, size: int, head: bytes = b"") -> None:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)


def _legend_verbs(w: World, p: Path, o: Path) -> dict[str, Words]:
    return {
        "convert": ["convert", w.mask, "--to", "index", "--legend", p, "--out", o],
        "clean": ["clean", w.mask, "--min-region", "4px", "--legend", p, "--out", o],
        "vectorize": ["vectorize", w.map, "--legend", p, "--out", o / "x.gpkg"],
        "evaluate": ["evaluate", "--map", w.map, "--truth", w.truth, "--legend", p],
        "train": ["train", "--preset", p, "--data", w.data, "--split", "folders", "--out", o],
    }


def _settings_verbs(w: World, p: Path, o: Path) -> dict[str, Words]:
    write_pair(p.parent / "train")
    verbs: dict[str, Words] = {
        "verify": ["verify", p.parent],
        "predict": ["predict", p.parent, "--model", w.model, "--out", o],
        "splits": ["splits", "--data", p.parent, "--split", "folders"],
        "legend": ["legend", p.parent],
    }
    return verbs


# --- Rasters ------------------------------------------------------------------------------------------------


def tiff(*entries: tuple[int, int, int, int], next_ifd: int = 0, data: bytes = b"\0" * 64) -> bytes:
    """Return a classic TIFF of one directory: entries of tag, type, count, value."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", next_ifd) + data


def plain_tiff(photometric: int = 1, *, side: int = 8, **changes: int) -> bytes:
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: photometric, 277: 1, 278: side, 279: side * side}
    tags |= {int(key[1:]): value for key, value in changes.items()}
    offset = 8 + 2 + 12 * (len(tags) + 1) + 4
    return tiff(
        *((tag, 4 if value > 65535 else 3, 1, value) for tag, value in tags.items()),
        (273, 4, 1, offset),
        data=bytes(range(256)),
    )


def vrt(source: str, *, relative: int = 1) -> str:
    return (
        '<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1">'
        f'<SimpleSource><SourceFilename relativeToVRT="{relative}">{source}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )


LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 9}">' for i in range(9))
    + "]>"
)


def _good(path: Path, suffix: str) -> bytes:
    """Return the bytes of a good picture, or of a good model."""
    temporary = path.with_name(f"temporary{suffix}")
    save_exported(temporary, make_card(gsd=0.5)) if suffix == ".onnx" else save(temporary, photo())
    content = temporary.read_bytes()
    temporary.unlink()
    return content


def _cut(suffix: str, share: float) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        content = _good(path, suffix)
        path.write_bytes(content[: int(share * len(content))])

    return write


def _with(name: str, content: bytes | str | None) -> Callable[[Path], object]:
    """Return a writer of a good GeoTIFF with a hostile file beside it; None: a pipe."""

    def write(path: Path) -> None:
        write_tif(path, class_index(64, 64)[None] * 0)
        beside = path.with_name(path.name + name)
        if content is None:
            os.mkfifo(beside)
        else:
            beside.write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def _vrt_of_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe.tif"))
    path.write_text(vrt("pipe.tif"))


def _jpeg_of(width: int, height: int) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        content = bytearray(_good(path, ".jpg"))
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = struct.pack(">HH", height, width)
        path.write_bytes(content)

    return write


def _with_crs(wkt: str, **profile: Any) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        write_tif(path, class_index(64, 64)[None] * 0, crs=wkt, **profile)

    return write


def _transformed(*numbers: float) -> Callable[[Path], object]:
    return lambda path: write_tif(path, class_index(64, 64)[None] * 0, transform=rasterio.Affine(*numbers))


UNKNOWN_UNIT = (
    'PROJCS["x",GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],'
    'PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],'
    'PARAMETER["central_meridian",3],PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],'
    'PARAMETER["false_northing",0],UNIT["furlong of nobody",1e-300]]'
)
LOCAL = 'LOCAL_CS["site",UNIT["metre",1]]'

ZEROS = zlib.compress(bytes(80 << 20), 9)
"""80 MiB of them."""

RASTERS: dict[str, Content] = {  # more VRTs and files beside rasters are in test_security.py
    "empty": b"",
    "one byte": b"I",
    "text": "not a picture\n",
    "html": "<!DOCTYPE html><html></html>",
    "zip": b"PK\3\4" + bytes(64),
    "gif": b"GIF89a" + bytes(20),
    "bmp": b"BM" + bytes(60),
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"/>',
    "pdf": "%PDF-1.7\n",
    "npy": b"\x93NUMPY\1\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "mrf": '<MRF_META><CachedSource><Source>x</Source></CachedSource><Raster><Size x="64" y="64" c="1"/>'
    "<DataFile>../elsewhere.dat</DataFile><IndexFile>../elsewhere.idx</IndexFile></Raster></MRF_META>",
    "jpeg cut": _cut(".jpg", 0.6),
    "jpeg head": _cut(".jpg", 0.02),
    "png cut": _cut(".png", 0.6),
    "png head": _cut(".png", 0.002),
    "tiff cut": _cut(".tif", 0.3),
    "tiff head": b"II*\0\x08\0\0\0",
    "webp cut": _cut(".webp", 0.5),
    "png bomb": png_bytes(60_000, 60_000),
    "png of no size": png_bytes(0, 0),
    "png of most pixels": png_bytes(2**31 - 1, 2**31 - 1),
    "png of 16 bits": png_bytes(4, 4, bits=16, rows=bytes(4 * 25)),
    "png of 1 bit": png_bytes(8, 8, bits=1, colour_type=0, rows=bytes(16)),
    "png of a bad kind": png_bytes(4, 4, colour_type=7, rows=bytes(64)),
    "png with a bad sum": png_bytes(8, 8, rows=bytes(25 * 8))[:-20] + bytes(8) + b"\0\0\0\0IEND\xaeB`\x82",
    "png with a text bomb": png_bytes(8, 8, png_chunk(b"zTXt", b"a\0\0" + ZEROS)),
    "png with a profile bomb": png_bytes(8, 8, png_chunk(b"iCCP", b"a\0\0" + ZEROS)),
    "png with a huge chunk": png_bytes(8, 8)[:33] + struct.pack(">I", 2**31 - 1) + b"tEXt",
    "jpeg of most pixels": _jpeg_of(65_500, 65_500),
    "jpeg of no size": _jpeg_of(0, 0),
    "jpeg cmyk": lambda path: save(path, photo(), mode="CMYK", format="JPEG"),
    "tiff loop": tiff((256, 3, 1, 8), (257, 3, 1, 8), next_ifd=8),
    "tiff without tags": tiff(),
    "tiff of most pixels": plain_tiff(s256=2**31 - 1, s257=2**31 - 1),
    "tiff of 20000 bands": plain_tiff(s277=20_000),
    "tiff of an unknown compression": plain_tiff(s259=9999),
    "tiff with a far directory": b"II*\0\xf0\xff\xff\xff",
    "tiff with far strips": plain_tiff(s279=2**31),
    "big tiff of nothing": b"II+\0\x08\0\0\0" + b"\xff" * 8,
    **{
        f"tiff of photometric {code}": plain_tiff(code)
        for code in (4, 5, 8, 9, 10, 32803, 32844, 32845, 34892, 65000)
    },
    "tiff of 12 bits": plain_tiff(s258=12),
    "tiff of complex numbers": lambda path: write_tif(path, np.zeros((1, 8, 8), np.complex64)),
    "tiff of not-a-number": lambda path: write_tif(path, np.full((3, 8, 8), np.nan, np.float32)),
    "geocentric": _with_crs("EPSG:4978"),
    "local grid": _with_crs(LOCAL),
    "unknown unit": _with_crs(UNKNOWN_UNIT),
    "latitudes beyond the pole": _with_crs("EPSG:4326"),
    "infinite position": _transformed(np.inf, 0, 0, 0, -np.inf, 0),
    "position without area": _transformed(1, 1, 0, 1, 1, 0),
    "tiny pixels": _transformed(1e-300, 0, 0, 0, -1e-300, 0),
    "huge pixels": _transformed(1e300, 0, 0, 0, -1e300, 0),
    "metadata bomb": _with(".aux.xml", f"{LAUGHS}<PAMDataset>&j;</PAMDataset>"),
    "metadata not xml": _with(".aux.xml", "<PAMDataset><"),
    "metadata deep": _with(".aux.xml", "<a>" * 5000 + "</a>" * 5000),
    "metadata a pipe": _with(".aux.xml", None),
    "overview a pipe": _with(".ovr", None),
    "overview text": _with(".ovr", "text"),
    "mask text": _with(".msk", "text"),
    "vrt of a pipe": _vrt_of_pipe,
    "vrt of nothing": vrt("none.tif"),
    "vrt of itself": lambda path: path.write_text(vrt(path.name)),
    "vrt of a device": vrt("/dev/zero", relative=0),
    "vrt of a fixed file": vrt("/etc/passwd", relative=0),
    "vrt of a database": vrt("PG:dbname=x", relative=0),
    "vrt with laughs": LAUGHS + vrt("&j;"),
    "vrt not closed": "<VRTDataset",
    "vrt of huge size": '<VRTDataset rasterXSize="2147483647" rasterYSize="2147483647"></VRTDataset>',
}

MAY_PASS = {
    *("tiff cut", "tiff of 12 bits", "tiff of not-a-number", "local grid", "unknown unit", "geocentric"),
    *("latitudes beyond the pole", "infinite position", "position without area", "tiny pixels"),
    *("huge pixels", "tiff with far strips", "metadata not xml", "jpeg cut", "webp cut", "deep map"),
    *("png with a bad sum", "png of a bad kind", "tiff loop", "png of 16 bits", "empty list", "png cut"),
    *("card alone", "wrong input", "wrong outputs", "wrong classes", "png with a text bomb"),
    *("tiff of 20000 bands", "png of 1 bit", "png with a profile bomb"),
    *(f"tiff of photometric {code}" for code in (4, 5, 8, 9, 10, 32803, 32844, 32845, 34892, 65000)),
}
"""Inputs that some command may accept, such as a file whose pixels are whole and only its position is not."""


def _image_verbs(w: World, p: Path, o: Path) -> dict[str, Words]:
    for part in ("train", "validation"):
        write_pair(p.parent / "data" / part)
    (p.parent / "data" / "landcover.yaml").write_text("gsd: 0.5\n")
    beside = p.parent / "data" / "train" / f"hostile_sat{p.suffix}"
    save_palette(beside.with_name("hostile_mask.png"), class_index(), DEEPGLOBE.colours)
    verbs: dict[str, Words] = {
        "predict": ["predict", p, "--model", w.model, "--gsd", "0.5", "--out", o],
    }
    if not any(path.is_fifo() for path in p.parent.iterdir()):
        shutil.copy(p, beside)
        verbs["verify"] = ["verify", p.parent / "data"]
        verbs["prepare"] = ["prepare", p.parent / "data", "--out", o / "cache"]
    return verbs


def _mask_verbs(w: World, p: Path, o: Path) -> dict[str, Words]:
    return {
        "clean": ["clean", p, "--min-region", "4px", "--out", o],
        "convert": ["convert", p, "--to", "index", "--out", o],
        "vectorize": ["vectorize", p, "--legend", "deepglobe", "--out", o / "x.gpkg"],
        "sample": ["sample", p, "--legend", "deepglobe", "--per-class", "1", "--out", o / "x.csv"],
        "evaluate map": ["evaluate", "--map", p, "--truth", w.truth],
        "evaluate truth": ["evaluate", "--map", w.map, "--truth", p],
        "vectorize confidence": ["vectorize", w.map, "--confidence", p, "--out", o / "y.gpkg"],
    }


# --- Vectors ------------------------------------------------------------------------------------------------


def geojson(coordinates: object, *, kind: str = "Polygon", crs: object = None, **properties: object) -> str:
    collection: dict[str, object] = {"type": "FeatureCollection"}
    if crs is not None:
        collection["crs"] = crs
    geometry = None if coordinates is None else {"type": kind, "coordinates": coordinates}
    feature = {"type": "Feature", "properties": {"class": "urban", **properties}, "geometry": geometry}
    return json.dumps(collection | {"features": [feature]})


def named(crs: str) -> dict[str, object]:
    return {"type": "name", "properties": {"name": crs}}


SQUARE = [[[3.0, 51.449], [3.001, 51.449], [3.001, 51.45], [3.0, 51.45], [3.0, 51.449]]]


def _square(x: object, y: object) -> list[object]:
    return [[[x, y], [3.001, 51.449], [3.001, 51.45], [3.0, 51.45], [x, y]]]


def _geopackage(*statements: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        connection = sqlite3.connect(path)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    return write


def _shapefile(suffix: str, content: Content | None) -> Callable[[Path], object]:
    """Return a writer of a good shapefile, one of whose other files is hostile; None: a pipe."""

    def save_shapes(path: Path) -> None:
        import pyogrio
        import shapely

        box = np.array([shapely.to_wkb(shapely.box(3, 51.449, 3.001, 51.45))], object)
        fields = [np.array(["urban"], object)]
        pyogrio.raw.write(path, box, fields, ["class"], crs="EPSG:4326", geometry_type="Polygon")
        beside = path.with_suffix(suffix)
        beside.unlink(missing_ok=True)
        if content is None:
            os.mkfifo(beside)
        else:
            write(beside, content)

    return save_shapes


ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n)"

TABLES = (
    "create table gpkg_contents (table_name, data_type)",
    "create table good (fid integer primary key, geom)",
    "insert into gpkg_contents values ('good', 'features')",
)


def _endless_change(path: Path) -> None:
    """Write a GeoPackage whose view is in its ``-wal`` file only."""
    changes = path.with_name(f"{path.name}-wal")
    with closing(sqlite3.connect(path)) as connection:
        for statement in (
            "pragma journal_mode = wal",
            *TABLES,
            f"create view v as {ENDLESS} select * from n",
        ):
            connection.execute(statement)
        connection.commit()
        contents = {file: file.read_bytes() for file in (path, changes)}
    for file, content in contents.items():
        file.write_bytes(content)


VECTORS: dict[str, Content] = {
    "empty.geojson": b"",
    "open.geojson": "{",
    "list.geojson": "[]",
    "no features.geojson": '{"type": "FeatureCollection", "features": []}',
    "null.geojson": geojson(None),
    "nan.geojson": geojson(_square(float("nan"), 51.4)),
    "infinite.geojson": geojson(_square(3, 51.4)).replace("51.4,", "1e999,").replace("51.4]", "1e999]"),
    "infinity.geojson": geojson(_square(float("inf"), 51.4)),
    "text.geojson": geojson(_square("a", "b")),
    "long number.geojson": geojson(SQUARE).replace("51.449", "9" * 5000),
    "longitude.geojson": geojson(_square(1000.0, 51.4)),
    "latitude.geojson": geojson(_square(3.0, 100.0)),
    "unclosed.geojson": geojson([SQUARE[0][:-1]]),
    "two points.geojson": geojson([SQUARE[0][:2]]),
    "no ring.geojson": geojson([]),
    "one number.geojson": geojson([[[3.0]] * 4]),
    "bow tie.geojson": geojson([[[3, 51], [4, 52], [4, 51], [3, 52], [3, 51]]]),
    "line.geojson": geojson(SQUARE[0], kind="LineString"),
    "collection.geojson": '{"type": "GeometryCollection", "geometries": []}',
    "deep.geojson": '{"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": '
    + "[" * 100_000
    + "]" * 100_000
    + "}}",
    "deep properties.geojson": geojson(SQUARE).replace('"urban"', "[" * 100_000 + "]" * 100_000),
    "unknown type.geojson": geojson(SQUARE, kind="Sphere"),
    "link.geojson": geojson(SQUARE, crs={"type": "link", "properties": {"href": "http://127.0.0.1:9"}}),
    "unknown crs.geojson": geojson(SQUARE, crs=named("EPSG:999999")),
    "geocentric.geojson": geojson(SQUARE, crs=named("EPSG:4978")),
    "local.geojson": geojson(SQUARE, crs=named(LOCAL)),
    "far.geojson": geojson(SQUARE, crs=named("EPSG:32731")),
    "null byte.geojson": geojson(SQUARE).replace("urban", "\0"),
    "not utf-8.geojson": geojson(SQUARE).encode().replace(b"urban", b"\xff\xfe"),
    "utf-16.geojson": geojson(SQUARE).encode("utf-16"),
    "world.geojson": geojson([[[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]]),
    "vrt.geojson": '<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource>http://127.0.0.1:9/a.json'
    "</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>",
    "empty.gpkg": b"",
    "text.gpkg": "not a database",
    "head.gpkg": b"SQLite format 3\0" + bytes(84),
    "no tables.gpkg": _geopackage("create table x (y)"),
    "garbage.gpkg": b"SQLite format 3\0" + random.Random(1).randbytes(4096),
    "endless.gpkg": _geopackage(
        "create table gpkg_contents (table_name, data_type)",
        "insert into gpkg_contents values ('endless', 'features')",
        f"create view endless as {ENDLESS} select * from n",
    ),
    "endless, not listed.gpkg": _geopackage(
        *TABLES, f"create view endless as {ENDLESS} select i as fid, null as geom from n where i < 0"
    ),
    "endless alone.gpkg": _geopackage(
        TABLES[0], f"create view endless as {ENDLESS} select i as fid, null as geom from n where i < 0"
    ),
    "not utf-8.gpkg": _geopackage(
        *TABLES,
        "insert into gpkg_contents values (cast(x'ff66' as text), 'features')",
        "insert into gpkg_contents values ('endless', 'features')",
        f"create view endless as {ENDLESS} select * from n",
    ),
    "endless change.gpkg": _endless_change,
    "endless contents.gpkg": _geopackage(
        f"create view gpkg_contents as {ENDLESS} select 'x' as table_name, 'features' as data_type from n",
    ),
    "database.sqlite": _geopackage("create table x (y)"),
    "garbage.fgb": b"fgb\x03fgb\x01" + b"\xff" * 64,
    "head.fgb": b"fgb\x03fgb\x01",
    "garbage.parquet": b"PAR1" + bytes(32) + b"\xff\xff\xff\x7fPAR1",
    "alone.shp": struct.pack(">7I", 9994, 0, 0, 0, 0, 0, 50) + struct.pack("<2I8d", 1000, 5, *[0.0] * 8),
    "cut.shp": struct.pack(">2I", 9994, 0),
    "laughs.kml": f"{LAUGHS}<kml><Document><name>&j;</name></Document></kml>",
    "link.kml": "<kml><NetworkLink><Link><href>http://127.0.0.1:9/x.kml</href></Link></NetworkLink></kml>",
    "deep.kml": "<kml>" + "<Folder>" * 5000 + "</Folder>" * 5000 + "</kml>",
    "archive.zip": b"PK\3\4" + bytes(64),
    "map.gml": "<gml/>",
    "crs huge.shp": _shapefile(".prj", lambda path: _sparse(path, 1 << 40)),
    "crs pipe.shp": _shapefile(".prj", None),
    "crs deep.shp": _shapefile(".prj", "PROJCS[" * 100_000),
    "crs link.shp": _shapefile(".prj", "http://127.0.0.1:9/crs"),
    "charset huge.shp": _shapefile(".cpg", lambda path: _sparse(path, 1 << 40)),
    "charset pipe.shp": _shapefile(".cpg", None),
    "charset escape.shp": _shapefile(".cpg", "\x1b[2J"),
    "table pipe.shp": _shapefile(".dbf", None),
    "table huge.shp": _shapefile(".dbf", b"\3\x7e\1\1\xff\xff\xff\x7f\xff\xff\xff\xff" + bytes(20)),
    "table empty.shp": _shapefile(".dbf", b""),
    "index empty.shp": _shapefile(".shx", b""),
    "index pipe.shp": _shapefile(".shx", None),
    "spatial index.shp": _shapefile(".qix", b"SQT" + b"\xff" * 64),
    "table.csv.vrt": '<OGRVRTDataSource><OGRVRTLayer name="x"/></OGRVRTDataSource>',
}
VECTORS_MAY_PASS = {
    "far.geojson",
    "world.geojson",
    "null byte.geojson",
    "not utf-8.geojson",
    "deep properties.geojson",
    "table empty.shp",
    "table huge.shp",
    "charset escape.shp",
    "spatial index.shp",
}


def _vector_verbs(w: World, p: Path, o: Path) -> dict[str, Words]:
    predict: Words = ["predict", w.good, "--model", w.model, "--out", o]
    return {
        "aoi": [*predict, "--aoi", p],
        "zones": [*predict, "--zones", p, "--force"],
        "truth": ["evaluate", "--map", w.map, "--truth", p],
    }


# --- Tables, lists, JSON ------------------------------------------------------------------------------------

POINTS: dict[str, Content] = {
    "empty": b"",
    "header alone": "lon,lat,class\n",
    "no coordinates": "a,b\n1,2\n",
    "nan": "lon,lat,class\nnan,51.4,urban\n",
    "infinite": "lon,lat,class\n1e999,51.4,urban\n",
    "text": "lon,lat,class\neast,51.4,urban\n",
    "longitude": "lon,lat,class\n1000,51.4,urban\n",
    "latitude": "lon,lat,class\n3,100,urban\n",
    "many digits": "lon,lat,class\n" + "9" * 5000 + ",51.4,urban\n",
    "unknown class": "lon,lat,class\n3.0001,51.4496,moon\n",
    "escape": "lon,lat,class\n3.0001,51.4496,\x1b[2J\u202emoon\n",
    "no class": "lon,lat,class\n3.0001,51.4496,\n",
    "long cell": "lon,lat,class\n3.0001,51.4496," + "x" * 200_000 + "\n",
    "long line": "lon,lat,class" + ",x" * 100_000 + "\n1\n",
    "missing cell": "lon,lat,class\n3.0001,51.4496\n",
    "repeated column": "lon,lat,class,class\n3.0001,51.4496,urban,water\n",
    "open quote": 'lon,lat,class\n3.0001,51.4496,"urban\n',
    "null byte": "lon,lat,class\n3.0001,51.4496,ur\0ban\n",
    "not utf-8": b"lon,lat,class\n3.0001,51.4496,\xff\n",
    "utf-16": "lon,lat,class\n3.0001,51.4496,urban\n".encode("utf-16"),
    "far away": "lon,lat,class\n-120,-30,urban\n",
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(64),
}
SCENES: dict[str, Content] = {
    "empty": b"",
    "no columns": "a,b\n1,2\n",
    "text": "part,id,scene,row,col\ntrain,0,s,up,down\n",
    "many digits": "part,id,scene,row,col\ntrain,0,s," + "9" * 5000 + ",1\n",
    "missing cell": "part,id,scene,row,col\ntrain,0,s,1\n",
    "long cell": "part,id,scene,row,col\ntrain,0," + "x" * 200_000 + ",1,1\n",
    "open quote": 'part,id,scene,row,col\ntrain,0,"s,1,1\n',
    "repeated": "part,id,scene,row,col\ntrain,0,s,1,1\ntrain,0,s,1,2\n",
    "repeated column": "part,id,scene,row,col,row\ntrain,0,s,1,1,1\n",
    "null byte": "part,id,scene,row,col\ntrain,0,s\0,1,1\n",
    "not utf-8": b"part,id,scene,row,col\ntrain,0,\xff,1,1\n",
}
LISTS: dict[str, Content] = {
    "empty": b"",
    "comments": "# none\n\n",
    "nothing": "none.tif\n",
    "null byte": "a\0b.tif\n",
    "not utf-8": b"\xff\xfe.tif\n",
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "device": "/dev/zero\n",
    "long name": "x" * 5000 + "\n",
    "other scheme": "ftp://127.0.0.1:9/x.tif\n",
    "archive of an address": "/vsizip//vsicurl/http://127.0.0.1:9/x.zip/x.tif\n",
    "escape": "\x1b[2J.tif\n",
    "huge": lambda path: _sparse(path, 1 << 40),
}
LISTED = {
    "nothing": "none.tif",
    "device": "/dev/zero",
    "long name": "xxxx",
    "other scheme": "ftp:",
    "archive of an address": "/vsizip/",
    "escape": "1b[2J.tif",
}
"""What is named of a list whose entries are wrong."""
IDS: dict[str, Content] = {
    "empty": b"",
    "unknown": "nobody\n",
    "escape": "\x1b[2J\u202e\n",
    "null byte": "a\0b\n",
    "not utf-8": b"\xff\n",
    "huge": lambda path: _sparse(path, 1 << 40),
}
JSON: dict[str, Content] = {
    "empty": b"",
    "list": "[]",
    "open": "{",
    "text": '"x"',
    "number": "9" * 5000,
    "nan": '{"metric": NaN}',
    "infinite": '{"miou": 1e999}',
    "repeated key": '{"metric": "a", "metric": "b"}',
    "deep": "[" * 100_000,
    "deep and closed": "[" * 500 + "]" * 500,
    "wrong types": '{"metric": [], "classes": 3, "iou": "x"}',
    "null byte": '{"a": "\0"}',
    "not utf-8": b'{"a": "\xff"}',
    "half a character": '{"metric": "\\ud800"}',
    "huge": lambda path: _sparse(path, 1 << 40),
    "map result": '{"truth_kind": "point"}',
}
LOGS: dict[str, Content] = {  # with the end of the line: half a line may be the last of a killed run
    name: content + (b"\n" if isinstance(content, bytes) else "\n") if not callable(content) else content
    for name, content in JSON.items()
    if name not in ("empty", "map result")
}


def _scenes_verbs(w: World, p: Path, o: Path) -> dict[str, Words]:
    write_pair(p.parent / "train")
    (p.parent / "landcover.yaml").write_text("gsd: 0.5\n")
    return {
        "verify": ["verify", p.parent],
        "splits": ["splits", "--data", p.parent, "--split", "folders"],
        "prepare": ["prepare", p.parent, "--out", o / "cache"],
    }


def _list_verbs(w: World, p: Path, o: Path) -> dict[str, Words]:
    return {"predict": ["predict", "--list", p, "--model", w.model, "--gsd", "1", "--out", o]}


def _ids_verbs(w: World, p: Path, o: Path) -> dict[str, Words]:
    return {
        "splits": ["splits", "--data", w.data, "--split", p],
        "evaluate": ["evaluate", "--data", w.data, "--split", p, "--model", w.model],
        "train": ["train", "--preset", "demo", "--data", w.data, "--split", p, "--out", o, "--steps", "1"],
    }


def _run_verbs(w: World, p: Path, o: Path) -> dict[str, Words]:
    beside = p.with_name("config.yaml" if p.suffix == ".jsonl" else "log.jsonl")
    beside.write_text("seed: 0\n" if p.suffix == ".jsonl" else "")
    return {"report": ["report", p.parent, "--out", o / "x.html"]}


# --- Models -------------------------------------------------------------------------------------------------


def tensors(header: object, *, length: int | None = None, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _entry(**changes: object) -> dict[str, object]:
    return {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | changes}


SAFETENSORS: dict[str, Content] = {
    "empty": b"",
    "short": b"abc",
    "pickle": b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x02os\x94.",
    "archive": b"PK\3\4" + bytes(64),
    "long header": tensors({}, length=2**63),
    "large header": lambda path: _sparse(path, 90 << 20, tensors({}, length=80 << 20)),
    "no object": tensors([]),
    "deep": tensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "repeated key": tensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 2 + b'"b":0}'),
    "beyond the end": tensors(_entry(data_offsets=[0, 400]), data=bytes(4)),
    "backwards": tensors(_entry(data_offsets=[4, 0]), data=bytes(4)),
    "negative": tensors(_entry(shape=[-1]), data=bytes(4)),
    "huge shape": tensors(_entry(shape=[2**62, 2**62]), data=bytes(4)),
    "unknown type": tensors(_entry(dtype="F7"), data=bytes(4)),
    "no card": tensors(_entry(), data=bytes(4)),
    "card no text": tensors({"__metadata__": {"landcover": 3}}),
    "card not json": tensors({"__metadata__": {"landcover": "{"}}),
    "card a list": tensors({"__metadata__": {"landcover": "[]"}}),
    "card nan": tensors({"__metadata__": {"landcover": '{"temperature": NaN}'}}),
    "card deep": tensors({"__metadata__": {"landcover": "[" * 100_000}}),
    "card repeated": tensors({"__metadata__": {"landcover": '{"a": 1, "a": 2}'}}),
    "card huge number": tensors({"__metadata__": {"landcover": '{"window_px": ' + "9" * 5000 + "}"}}),
    "card newer": tensors({"__metadata__": {"landcover": '{"schema_version": 99}'}}),
    "card escape": tensors({"__metadata__": {"landcover": '{"\\u001b[2J\\u202e": 1}'}}),
    "checkpoint": tensors({"__metadata__": {"state": "{}"}}),
}


def _message(number: int, content: bytes) -> bytes:
    """Return a field of a protobuf message."""

    def varint(value: int) -> bytes:
        out = b""
        while value > 127:
            out, value = out + bytes([value & 127 | 128]), value >> 7
        return out + bytes([value])

    return varint(number << 3 | 2) + varint(len(content)) + content


def _nested(levels: int) -> bytes:
    graph = b""
    for _ in range(levels):  # attribute 6 of node 1 of a graph
        graph = _message(1, _message(5, _message(6, graph)))
    return _message(7, graph)


def _with_card(text: str) -> bytes:
    return _message(7, b"") + _message(14, _message(1, b"landcover") + _message(2, text.encode()))


ONNX: dict[str, Content] = {
    "empty": b"",
    "text": "not a model",
    "no graph": _message(14, b""),
    "no card": _message(7, b""),
    "endless loop": _message(7, _message(1, _message(4, b"Loop"))),
    "cut": _cut(".onnx", 0.5),
    "cut at the end": _cut(".onnx", 0.99),
    "endless number": b"\xff" * 64,
    "long field": b"\x3a\xff\xff\xff\xff\x7f",
    "deep": _nested(5000),
    "many fields": b"\x08\x00" * 4_000_000,
    "many nodes": _message(7, b"\x0a\x00" * 4_000_000),
    "card not json": _with_card("{"),
    "card deep": _with_card("[" * 100_000),
    "card nan": _with_card('{"temperature": NaN}'),
    "card not utf-8": _message(7, b"") + _message(14, _message(1, b"landcover") + _message(2, b"\xff")),
    "card alone": lambda path: path.write_bytes(_with_card(make_card(gsd=0.5).model_dump_json())),
    "wrong input": lambda path: save_exported(path, make_card(gsd=0.5), image="picture"),
    "wrong outputs": lambda path: save_exported(path, make_card(gsd=0.5), outputs=("a", "b")),
    "wrong classes": lambda path: save_exported(path, make_card(gsd=0.5), classes=2),
    "pickle": b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x02os\x94.",
}


def _model_verbs(w: World, p: Path, o: Path) -> dict[str, Words]:
    verbs: dict[str, Words] = {
        "info": ["info", p],
        "predict": ["predict", w.good, "--model", p, "--out", o],
    }
    if p.suffix == ".onnx":
        verbs["onnxruntime"] = [*verbs["predict"], "--runtime", "onnxruntime"]
        verbs["page"] = ["page", "--model", p, "--out", o / "x.html"]
    else:
        verbs["export"] = ["export", p, "--out", o / "x.onnx"]
        verbs["calibrate"] = ["calibrate", p, "--data", w.data, "--split", "folders:validation"]
        verbs["init"] = [
            *["train", "--preset", "demo", "--data", w.data, "--split", "folders"],
            *["--steps", "1", "--init", p, "--out", o / "run"],
        ]
    return verbs


# --- Labels, fleets and runs ------------------------------------------------------------------------------


def _coco(**changes: object) -> str:
    content = {
        "images": [{"id": 1, "file_name": "good.tif", "width": 64, "height": 64}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}],
        "categories": [{"id": 1, "name": "urban"}, {"id": 2, "name": "water"}],
    }
    return json.dumps(content | changes)


def _annotation(**changes: object) -> str:
    entry = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}
    return _coco(annotations=[entry | changes])


def _labelme(*shapes: object, **changes: object) -> str:
    return json.dumps({"imagePath": "good.tif", "shapes": shapes} | changes)


def _shape(points: object, kind: str = "polygon", label: object = "urban") -> str:
    return _labelme({"label": label, "points": points, "shape_type": kind})


LABELS: dict[str, Content] = {
    "no keys.json": "{}",
    "text.json": "text",
    "deep.json": "[" * 100_000,
    "huge.json": lambda path: _sparse(path, 1 << 40),
    "repeated.json": '{"shapes": [], "shapes": []}',
    "coco images.json": _coco(images={}),
    "coco image.json": _coco(images=[3]),
    "coco names.json": _coco(images=[{"id": 1, "file_name": ["good.tif"]}]),
    "coco elsewhere.json": _coco(images=[{"id": 1, "file_name": "../../etc/passwd"}]),
    "coco escape.json": _coco(images=[{"id": 1, "file_name": "\x1b[2J\u202e"}]),
    "coco size.json": _coco(images=[{"id": 1, "file_name": "good.tif", "width": 1 << 62, "height": 1}]),
    "coco annotations.json": _coco(annotations="x"),
    "coco box.json": _annotation(segmentation=None),
    "coco run lengths.json": _annotation(segmentation={"counts": "x", "size": [64, 64]}),
    "coco text.json": _annotation(segmentation=[["a", "b"]]),
    "coco odd.json": _annotation(segmentation=[[0, 0, 9]]),
    "coco infinite.json": _annotation(segmentation=[[0, 0, 1e308, 0, -1e308, 9]]).replace("1e+308", "1e999"),
    "coco far.json": _annotation(segmentation=[[0, 0, 1e308, 0, -1e308, 1e308]]),
    "coco deep outline.json": _annotation(segmentation=[[[[[0, 0], [9, 0]], 3]]]),
    "coco category.json": _annotation(category_id=99),
    "coco categories.json": _coco(categories=[{"id": 1, "name": None}]),
    "coco list id.json": _annotation(image_id=[1]),
    "labelme list.json": _labelme(3),
    "labelme points.json": _shape("x"),
    "labelme ragged.json": _shape([[0, 0], [1], [2, 3]]),
    "labelme two points.json": _shape([[0, 0], [1, 1]]),
    "labelme mask.json": _shape([[0, 0], [1, 1]], "mask"),
    "labelme circle.json": _shape([[0, 0], [1e308, 1e308]], "circle"),
    "labelme escape.json": _shape([[0, 0], [9, 0], [9, 9]], label="\x1b[2J\u202e"),
    "labelme label.json": _shape([[0, 0], [9, 0], [9, 9]], label={}),
    "labelme path.json": _labelme(imagePath=["good.tif"]),
    "labelme one class.json": _shape([[0, 0], [9, 0], [9, 9]]),
}


def _labels_verbs(w: World, p: Path, o: Path) -> dict[str, Words]:
    return {"rasterize": ["rasterize", p, "--like", w.good, "--out", o / "masks"]}


def _item(**changes: object) -> str:
    assets = {"data": {"href": "none.tif", "roles": ["data"]}}
    return json.dumps({"type": "Feature", "id": "a", "properties": {}, "assets": assets} | changes)


def _href(href: object) -> str:
    return _item(assets={"data": {"href": href, "roles": ["data"]}})


ITEMS: dict[str, Content] = {
    "empty": b"",
    "list": "[]",
    "deep": "[" * 100_000,
    "huge": lambda path: _sparse(path, 1 << 40),
    "no items": '{"type": "FeatureCollection", "features": []}',
    "item a number": '{"type": "FeatureCollection", "features": [3]}',
    "no assets": _item(assets={}),
    "assets a list": _item(assets=[]),
    "no properties": _item(properties=None),
    "links a number": _item(links=3),
    "link without relation": _item(links=[{}]),
    "roles a number": _item(assets={"data": {"href": "a.tif", "roles": 3}}),
    "type a number": _item(assets={"data": {"href": "a.tif", "type": 3}}),
    "no file": _href("none.tif"),
    "href a number": _href(3),
    "href a list": _href(["a.tif"]),
    "href null": _href(None),
    "href with a newline": _href("a\nb.tif"),
    "href with a zero byte": _href("a\0b.tif"),
    "href with an escape": _href("\x1b[2J\u202e.tif"),
    "href half a character": _href("\ud800.tif"),
    "href a device": _href("/dev/zero"),
    "href a folder": _href("."),
    "href of another scheme": _href("ftp://127.0.0.1:9/x.tif"),
    "href of an archive": _href("/vsizip//vsicurl/http://127.0.0.1:9/x.zip/x.tif"),
    "href long": _href("x" * 5000 + ".tif"),
    "base an archive": _item(links=[{"rel": "self", "href": "/vsicurl/http://127.0.0.1:9/x"}]),
    "id above": _item(id="../../elsewhere"),
    "id with a newline": _item(id="a\nb"),
    "id a list": _item(id=["a"]),
}
ITEMS_OF_NOTHING = {
    "no items",
    "no file",
    *(name for name in ITEMS if name.startswith(("href", "id", "base"))),
}
"""Files of items that are right, whose scenes are named in messages."""


def _items_verbs(w: World, p: Path, o: Path) -> dict[str, Words]:
    return {"fleet plan": ["fleet", "plan", p, "--model", w.model, "--gsd", "1", "--out", o / "store"]}


def _plan(**changes: object) -> Callable[[Path], object]:
    """Return a change of fields of a store's plan; ``...`` removes one."""

    def change(store: Path) -> None:
        plan = {**json.loads((store / "plan.json").read_text()), **changes}
        text = json.dumps({name: value for name, value in plan.items() if value is not ...})
        (store / "plan.json").write_text(text)

    return change


def _unit(**changes: Any) -> Callable[[Path], object]:
    """Return a change of the unit of a plan, whose keys and digests fit."""

    def change(store: Path) -> None:
        opened = open_store(str(store))
        plan = read_plan(opened)
        ((_, unit, _),) = read_units(opened, plan)
        line = plan.line(replace(unit, **changes))
        plan = replace(plan, units_sha256=hashlib.sha256(line.encode()).hexdigest())
        (store / plan.units_key).write_text(line)
        (store / "plan.json").write_text(json.dumps(asdict(plan)))

    return change


def _object(pattern: str, content: Content) -> Callable[[Path], object]:
    """Return a change of the file of a store that fits a pattern."""

    def change(store: Path) -> None:
        path = next(store.glob(pattern), store / pattern)
        path.unlink(missing_ok=True)
        write(path, content)

    return change


PLANS: dict[str, Callable[[Path], object]] = {
    **{f"plan {name}": _object("plan.json", content) for name, content in JSON.items()},
    "plan a pipe": _object("plan.json", os.mkfifo),
    "units a pipe": _object("plan-*.jsonl", os.mkfifo),
    "units empty": _object("plan-*.jsonl", ""),
    "units text": _object("plan-*.jsonl", "text\n"),
    "units huge": _object("plan-*.jsonl", lambda path: _sparse(path, 1 << 40)),
    "units deep": _object("plan-*.jsonl", "[" * 100_000 + "\n"),
    "units long number": _object("plan-*.jsonl", '{"key": ' + "9" * 5000 + "}\n"),
    "units nan": _object("plan-*.jsonl", '{"key": NaN}\n'),
    "no options": _plan(options=...),
    "options a list": _plan(options=[]),
    "options unknown": _plan(options={"x": 1}),
    "options wrong": _plan(options={"window_px": "many"}),
    "options changed": _plan(options={"aoi": "/dev/zero"}),
    "minutes text": _plan(minutes="x"),
    "box text": _plan(bbox="abc"),
    "box short": _plan(bbox=[1, 2]),
    "model a number": _plan(model=3),
    "digest above": _plan(units_sha256="../../x"),
    "digest a number": _plan(units_sha256=3),
    "model's digest": _plan(model_sha256="0" * 64),
    "precision": _plan(precision="x"),
    "device a list": _plan(device=[]),
    "version with an escape": _plan(version="\x1b[2J\u202e"),
    "output above": _unit(output="../../elsewhere.tif"),
    "output absolute": _unit(output="/tmp/elsewhere_mask.tif"),
    "output the plan": _unit(output="plan.json"),
    "output the model": _unit(output="model/model.onnx"),
    "output with a newline": _unit(output="maps/a\nb_mask.tif"),
    "output empty": _unit(output=""),
    "output a folder": _unit(output="."),
    "output a number": _unit(output=3),
    "output a program": _unit(output="maps/x.exe"),
    "scene a number": _unit(scene=3),
    "picture text": _unit(picture="x"),
    "scale short": _unit(scale=(1,)),
    "size text": _unit(size="ab"),
    "size zero": _unit(size=(0, 0)),
    "size negative": _unit(size=(-3, 4)),
    "size short": _unit(size=(3,)),
    "transform text": _unit(transform=("a",) * 6),
    "blocks text": _unit(blocks=("a", "b")),
    "blocks short": _unit(blocks=(1,)),
    "blocks negative": _unit(blocks=(-1, 1)),
    "parts numbers": _unit(parts=(3,)),
    "pixels text": _unit(pixels="x"),
    "box of a unit": _unit(bbox=(1,)),
    "source a list": _unit(source=[1]),
    "maps a loop": _object("maps", lambda path: path.symlink_to("maps")),
    "record of blocks": _object("failed/a.json", '{"blocks": 3, "scene": "x", "error": ["\\u001b[2J"]}'),
    "record deep": _object("failed/a.json", "[" * 100_000),
    "run nan": _object("runs/a.json", '{"began": NaN, "updated": 1e999, "maps": 1e308, "in_flight": NaN}'),
    "run huge": _object("runs/a.json", lambda path: _sparse(path, 1 << 40)),
}
UNREADABLE_PLANS = [
    name
    for name in PLANS
    if name.startswith(
        ("plan ", "no options", "options", "minutes", "box ", "model ", "digest", "version", "precision")
    )
]
"""Plans that are refused before a process is started for their units."""


# --- What is not a file -------------------------------------------------------------------------------------


def _socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(before)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": _socket,
    "folder": Path.mkdir,
    "missing": lambda path: None,
    "loop": lambda path: path.symlink_to(path.name),
    "denied": lambda path: path.touch(0),
    "denied folder": lambda path: path.mkdir(0),
}


def _special_verbs(w: World, p: Path, o: Path) -> dict[str, Words]:
    predict: Words = ["predict", w.good, "--model", w.model, "--out", o]
    train: Words = ["train", "--data", w.data, "--split", "folders", "--steps", "1", "--out", o / "run"]
    evaluate: Words = ["evaluate", "--data", w.data, "--split", "folders:validation"]
    return {
        "input": ["predict", p, "--model", w.model, "--gsd", "1", "--out", o],
        "list": ["predict", "--list", p, "--model", w.model, "--gsd", "1", "--out", o],
        "model": ["predict", w.good, "--model", p, "--out", o],
        "aoi": [*predict, "--aoi", p],
        "zones": [*predict, "--zones", p],
        "map": ["evaluate", "--map", p, "--truth", w.truth],
        "truth": ["evaluate", "--map", w.map, "--truth", p],
        "truth csv": ["evaluate", "--map", w.map, "--truth", p.with_suffix(".csv")],
        "evaluate model": [*evaluate, "--model", p],
        "split": ["splits", "--data", w.data, "--split", p],
        "legend": ["convert", w.mask, "--to", "index", "--legend", p, "--out", o],
        "convert": ["convert", p, "--to", "index", "--out", o],
        "clean": ["clean", p, "--min-region", "4px", "--out", o],
        "vectorize": ["vectorize", p, "--legend", "deepglobe", "--out", o / "x.gpkg"],
        "confidence": ["vectorize", w.map, "--confidence", p, "--out", o / "x.gpkg"],
        "sample": ["sample", p, "--legend", "deepglobe", "--out", o / "x.csv"],
        "verify": ["verify", p],
        "prepare": ["prepare", p, "--out", o / "cache"],
        "preset": [*train, "--preset", p],
        "init": [*train, "--preset", "demo", "--init", p],
        "weights": [*train, "--preset", "demo", "--weights", p],
        "export": ["export", p, "--out", o / "x.onnx"],
        "calibrate": ["calibrate", p, "--data", w.data, "--split", "folders:validation"],
        "info": ["info", p],
        "report": ["report", p, "--out", o / "x.html"],
        "rasterize": ["rasterize", p, "--like", w.good, "--out", o],
        "rasterize like": ["rasterize", w.truth, "--like", p, "--out", o],
        "legend command": ["legend", p],
        "fleet plan": ["fleet", "plan", p, "--model", w.model, "--gsd", "1", "--out", o],
        "fleet merge": ["fleet", "merge", p, "--out", o / "x.tif"],
        "page": ["page", "--model", p, "--out", o / "x.html"],
    }


# --- Outputs and names --------------------------------------------------------------------------------------


def _inside(path: Path, mode: int = 0o777) -> Path:
    """Make a folder and return a path in it."""
    path.mkdir()
    path.chmod(mode)
    return path / f"x{path.suffix}"


def _below_file(path: Path) -> Path:
    path.touch()
    return path / f"x{path.suffix}"


OUTPUTS: dict[str, Callable[[Path], Path | None]] = {
    "read-only": lambda path: _inside(path, 0o555),
    "closed": lambda path: _inside(path, 0),
    "below a file": _below_file,
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/full"),
    "a loop": lambda path: path.symlink_to(path.name),
    "of the system": lambda path: Path("/proc/hostile") / path.name,
    "long": lambda path: path.with_name("hostile" + "x" * 250 + path.suffix),
    "deep": lambda path: path.joinpath(*["x" * 200] * 30, path.name),
}
"""Outputs that cannot be written: each makes what is in the way, and may return another path."""


def output_verbs(w: World) -> dict[str, tuple[str, Callable[[Path], Words]]]:
    """Return, for each verb, the suffix of its output and the command that writes it."""
    predict: Words = ["predict", w.good, "--model", w.model]
    rasterize: Words = ["rasterize", w.labels, "--like", w.good]
    data: Words = ["--data", w.data, "--split", "folders"]
    evaluate: Words = ["evaluate", "--data", w.data, "--split", "folders:validation", "--model", w.model]

    def maps(o: Path) -> Path:
        return w.folder / "maps" / o.parent.parent.name / o.parent.name

    return {
        "predict": ("", lambda o: [*predict, "--out", o]),
        "predict json": (".json", lambda o: [*predict, "--out", maps(o), "--json", o]),
        "predict csv": (".csv", lambda o: [*predict, "--out", maps(o), "--csv", o]),
        "log": (".log", lambda o: ["verify", w.data, "--log-file", o]),
        "clean": ("", lambda o: ["clean", w.mask, "--min-region", "4px", "--out", o]),
        "convert": ("", lambda o: ["convert", w.mask, "--to", "index", "--out", o]),
        "vectorize": (".gpkg", lambda o: ["vectorize", w.map, "--out", o]),
        "sample": (".csv", lambda o: ["sample", w.map, "--per-class", "1", "--out", o]),
        "evaluate": (".json", lambda o: ["evaluate", "--map", w.map, "--truth", w.truth, "--json", o]),
        "evaluate maps": ("", lambda o: [*evaluate, "--maps", o]),
        "rasterize": ("", lambda o: [*rasterize, "--background", "water", "--out", o]),
        "prepare": ("", lambda o: ["prepare", w.data, "--out", o]),
        "train": ("", lambda o: ["train", "--preset", "demo", *data, "--weights", "none", *TINY, "--out", o]),
        "report": (".html", lambda o: ["report", w.run, "--out", o]),
        "page": (".html", lambda o: ["page", "--model", w.model, "--out", o]),
        "fleet plan": ("", lambda o: ["fleet", "plan", w.good, "--model", w.model, "--out", o]),
        "fleet status": (".json", lambda o: ["fleet", "status", w.store, "--json", o]),
        "splits": (".json", lambda o: ["splits", *data, "--json", o]),
    }


TINY = ("--steps", "1", "--set", "crop_px=32", "--set", "batch_size=2")

NAMES = [
    *["new\nline", "quote'", 'double"', "100%d", "-rf", "--out", "tab\t", "\x1b[2J", "\u202e", "a;b", "a!b"],
    *[os.fsdecode(b"\xff\xfe"), "x" * 251, "\u00e9" * 125, "\u2028", "..x", " space ", "a,b", "=1+1"],
    *["a:b", "<a>", "$HOME", "`id`", "#", "*", "nul", "CON", "com1.x", "~", "{}"],
    *["%s%n", "\\", "?x=1", "s3:", "vsizip"],
]
"""Names of files without their suffix."""


# --- Mutated headers ----------------------------------------------------------------------------------------


def mutations(content: bytes, *, seed: int, number: int, head: int = 256) -> Iterator[bytes]:
    """Yield copies of a file whose head is changed: single bytes, runs of 0 and 255, cuts, repeats."""
    rng = random.Random(seed)
    for _ in range(number):
        changed = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(min(head, len(changed)))
            match rng.randrange(4):
                case 0:
                    changed[place] = rng.randrange(256)
                case 1:
                    changed[place : place + 4] = rng.choice(
                        [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"]
                    )
                case 2:
                    del changed[place : place + rng.randint(1, 16)]
                case _:
                    changed[place:place] = changed[place : place + rng.randint(1, 16)]
        yield bytes(changed)


def mutated(
    w: World, folder: Path, number: int
) -> Iterator[tuple[str, Path, Callable[..., dict[str, Words]]]]:
    """Yield name, path and commands of mutated files of every binary format."""
    from landcover.io.vectors import WGS84, write_features

    folder.mkdir(parents=True)
    run = folder / "x.safetensors"
    run.write_bytes(
        tensors(_entry() | {"__metadata__": {"landcover": make_card().model_dump_json()}}, data=bytes(4))
    )
    box = folder / "x.gpkg"
    import shapely

    polygon = np.array([shapely.box(3, 51.449, 3.001, 51.45)], object)
    write_features(box, [(polygon, {"class": np.array(["urban"], object)})], {"class": str}, WGS84)
    kinds: list[tuple[Path, Callable[..., dict[str, Words]], int]] = [
        (w.good, _image_verbs, 256),
        (w.map, _mask_verbs, 256),
        (save(folder / "x.png", photo()), _image_verbs, 64),
        (save(folder / "x.jpg", photo()), _image_verbs, 700),
        (save(folder / "x.webp", photo()), _image_verbs, 64),
        (box, _vector_verbs, 4096),
        (run, _model_verbs, 200),
        (w.model, _model_verbs, 400),
    ]
    for number_of_kind, (source, verbs, head) in enumerate(kinds):
        content = source.read_bytes()
        for i, changed in enumerate(mutations(content, seed=number_of_kind, number=number, head=head)):
            place = folder / f"{source.suffix[1:]}-{number_of_kind}-{i}"
            place.mkdir()
            path = place / f"hostile{source.suffix}"
            path.write_bytes(changed)
            yield f"mutated {source.suffix} {i}", path, verbs


# --- All ----------------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[str, dict[str, Content], Callable[..., dict[str, Words]]]] = {
    "yaml": ("hostile.yaml", YAML, _legend_verbs),
    "settings": ("landcover.yaml", YAML, _settings_verbs),
    "raster": ("hostile.tif", RASTERS, _image_verbs),
    "mask": ("hostile.tif", RASTERS, _mask_verbs),
    "vector": ("", VECTORS, _vector_verbs),
    "points": ("hostile.csv", POINTS, lambda w, p, o: {"truth": _vector_verbs(w, p, o)["truth"]}),
    "scenes": ("scenes.csv", SCENES, _scenes_verbs),
    "list": ("hostile.txt", LISTS, _list_verbs),
    "ids": ("hostile.txt", IDS, _ids_verbs),
    "json": ("hostile.json", JSON, lambda w, p, o: {"report": ["report", p, "--out", o / "x.html"]}),
    "log": ("log.jsonl", LOGS, _run_verbs),
    "run": ("config.yaml", YAML, _run_verbs),
    "labels": ("", VECTORS | LABELS, _labels_verbs),
    "items": ("hostile.json", ITEMS, _items_verbs),
    "safetensors": ("hostile.safetensors", SAFETENSORS, _model_verbs),
    "onnx": ("hostile.onnx", ONNX, _model_verbs),
}


def write(path: Path, content: Content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def some(verbs: dict[str, Words], number: int) -> list[tuple[str, Words]]:
    """Return the first command and another one, in turns: a reader is in the same place for all of them."""
    first, *others = verbs.items()
    return [first, *(others[number % len(others) :][:1] if others else [])]


def cases(w: World, kind: str) -> Iterator[Case]:
    """Yield the cases of a kind; their files are written below the world's folder."""
    root = w.folder / kind
    if kind == "special":
        for what, make in SPECIAL.items():
            path = root / what.replace(" ", "_") / "hostile"
            path.parent.mkdir(parents=True)
            make(path)
            make(path.with_suffix(".csv"))
            out = path.parent / "out"
            for verb, words in _special_verbs(w, path, out).items():
                yield Case(f"{kind}, {what}, {verb}", words, "hostile", True, out)
        return
    if kind == "mutated":
        for number, (name, path, verbs) in enumerate(mutated(w, root, 5)):
            out = path.parent / "out"
            for verb, words in some(verbs(w, path, out), number):
                yield Case(f"{name}, {verb}", words, "", False, out)
        return
    if kind == "plan":
        for name, change in PLANS.items():
            store, out = root / name.replace(" ", "_"), root / "out"
            shutil.copytree(w.store, store)
            change(store)
            yield Case(
                f"{kind}, {name}, merge", ["fleet", "merge", store, "--out", out / "x.tif"], "plan", True, out
            )
            for verb in ("status", "verify", "failed", *(["run"] if name in UNREADABLE_PLANS else [])):
                yield Case(f"{kind}, {name}, {verb}", ["fleet", verb, store], "", False, out)
        return
    if kind == "output":
        for name, make in OUTPUTS.items():
            for verb, (suffix, command) in output_verbs(w).items():
                path = root / f"{name} {verb}".replace(" ", "_") / f"hostile{suffix}"
                path.parent.mkdir(parents=True)
                yield Case(
                    f"{kind}, {name}, {verb}", command(make(path) or path), "hostile", True, path.parent
                )
        return
    if kind == "name":
        for number, name in enumerate(NAMES):
            folder = root / str(number)
            out = folder / "out"
            image = write(folder / f"{name}.tif", lambda path: shutil.copy(w.good, path))
            mask = write(folder / f"{name}.png", lambda path: shutil.copy(w.mask, path))
            verbs = _image_verbs(w, image, out) | {
                f"mask {k}": v for k, v in _mask_verbs(w, mask, out).items()
            }
            for verb, words in some(verbs, number):
                yield Case(f"{kind}, {name!r}, {verb}", words, "", False, out)
        return
    file, inputs, verbs = KINDS[kind]
    for number, (name, content) in enumerate(inputs.items()):
        path = root / "".join(c if c.isalnum() else "_" for c in name) / (file or name.replace(" ", "_"))
        write(path, content)
        out = path.parent / "out"
        for verb, words in some(verbs(w, path, out), number):
            may_pass = name in (VECTORS_MAY_PASS if kind == "vector" else MAY_PASS)
            may_pass |= kind == "run"  # a report shows the settings as they are
            stem = path.stem if path.stem == "hostile" else path.name
            if verb == "prepare" and name.endswith("most pixels"):
                stem = "most_pixels"  # there is no disk for the whole folder
            if kind == "list" and name in LISTED:
                stem = LISTED[name]
            if kind == "items" and name in ITEMS_OF_NOTHING:
                stem = ""
            yield Case(f"{kind}, {name}, {verb}", words, stem, not may_pass, out)
