"""Vector files before GDAL opens them: which content is accepted, and what is read along with it."""

import re
import sqlite3
from contextlib import closing
from mmap import ACCESS_READ, mmap
from pathlib import Path

from rasterio.crs import CRS
from rasterio.errors import CRSError

from landcover._gdal import BLANKS, HEAD_BYTES, TEXT_BYTES, CPLE_BaseError, of_stem, special_files
from landcover.errors import DataError, printable

_JSON_CRS = re.compile(rb"""[cC][rR][sS]["']|\\u00[4-7]""")
_PLAIN_CRS = re.compile(rb"""\s*(:\s*([^\s{/]|\{[^{}\\]*(\{[^{}\\]*\}[^{}\\]*)?\})|[,}\]])""")
_CRS_NAME = re.compile(rb"""["']properties["']\s*:\s*\{\s*["']name["']\s*:\s*["']([^"']*)["']""")
_VECTORS = {
    b"SQLite format 3\0": "GeoPackage",
    b"fgb": "FlatGeobuf",
    b"PAR1": "GeoParquet",
    b"\0\0\x27\x0a": "shapefile",
}


def _is_crs(name: str) -> bool:
    from rasterio import Env

    urn = re.fullmatch(r"urn:(?:x-)?ogc:def:crs:(\w+):[^:]*:(\w+)", name, re.IGNORECASE)
    try:
        with Env():  # else PROJ prints what it does not find
            CRS.from_user_input(f"{urn[1]}:{urn[2]}" if urn else "OGC:CRS84" if name == "CRS84" else name)
    except (CRSError, CPLE_BaseError):
        return False
    return True


def check_vector(path: Path) -> None:
    """Refuse a vector file or folder whose content GDAL would open with a driver that fetches or executes.

    GDAL chooses by content, and pyogrio takes no list of drivers. GeoPackage, FlatGeobuf, GeoParquet,
    shapefile, GeoJSON, KML, and folders of shapefiles or named ``.gdb`` are accepted.
    """
    expected = "expected GeoPackage, GeoJSON, FlatGeobuf, GeoParquet, a shapefile or KML"
    special = special_files(path if path.is_dir() else path.parent)
    if name := next(iter(special) if path.is_dir() else of_stem(path.stem, special), None):
        raise DataError(f"{path}: {name} is a device or a pipe. Delete it.")
    others = path.iterdir() if path.is_dir() else map(path.with_suffix, (".prj", ".PRJ", ".cpg", ".CPG"))
    for other in others:  # GDAL reads such texts whole
        if other.suffix.lower() in (".prj", ".cpg") and other.is_file() and other.stat().st_size > TEXT_BYTES:
            raise DataError(f"{path}: {other.name} has more than {TEXT_BYTES:,} bytes. Delete it.")
    if path.is_dir():
        if path.suffix.lower() == ".gdb" or any(path.glob("*.[sS][hH][pP]")):
            return
        raise DataError(f"{path} is a folder without shapefiles; {expected}.")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if path.suffix.lower() == ".zip" and head.startswith(b"PK\3\4"):
        raise DataError(f"{path} is an archive; {expected}. Unpack it first.")
    if not head:
        raise DataError(f"{path} is empty (0 bytes); {expected}. Copy it again.")
    text = head.lstrip(BLANKS)
    if head.startswith(tuple(_VECTORS)):
        if head.startswith(b"SQLite") and path.suffix.lower() != ".gpkg":
            raise DataError(f"{path} is a SQLite database; {expected}, a GeoPackage named .gpkg.")
        if head.startswith(b"SQLite"):
            _refuse_views(path)
        return
    if (
        text.startswith((b"{", b"\x1e"))
        and b"gdal_streamed_alg" not in head
        and b'"stac_version"' not in head
    ):
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            for key in _JSON_CRS.finditer(content):
                plain = None if key[0].startswith(b"\\") else _PLAIN_CRS.match(content, key.end())
                if plain is None or re.search(
                    rb"""(?i)["'](link|url)["']""", plain[0]
                ):  # GDAL would fetch it
                    raise DataError(
                        f"{path} declares a CRS by a link or in an unusual form at byte {key.start()}; "
                        'expected "crs": {"type": "name", "properties": {"name": "EPSG:..."}}.'
                    )
                crs = _CRS_NAME.search(plain[0])
                if crs is not None and not _is_crs(crs[1].decode(errors="replace")):
                    raise DataError(  # GDAL would read longitude and latitude
                        f"{path} declares the unknown CRS {crs[1][:80].decode(errors='replace')!r}; "
                        "expected one such as EPSG:32631."
                    )
        return
    markup = re.sub(rb"<!--.*?-->|<\?.*?\?>", b"", text, flags=re.DOTALL).lstrip()
    if markup.startswith(b"<kml") and b"<OGR" not in head:
        return
    raise DataError(f"{path} is not a supported vector file: it begins with {head[:8]!r}; {expected}.")


def _refuse_views(path: Path) -> None:
    """Refuse a GeoPackage with a view, listed or not: GDAL asks all, and a query may never end.

    As by GDAL, changes of another program are read from its ``-wal`` file. Without the ``-shm`` file of that
    program, SQLite would write one.
    """
    real = path.resolve()
    changes = real.with_name(f"{real.name}-wal")
    is_open = changes.exists() and changes.stat().st_size > 0
    if is_open and not real.with_name(f"{real.name}-shm").exists():
        raise DataError(
            f"{path} has changes in {changes.name}; expected a GeoPackage that was closed. Open and close it "
            "in the program that wrote it, such as QGIS."
        )
    mode = "mode=ro" if is_open else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"{real.as_uri()}?{mode}", uri=True)) as file:
            file.text_factory = bytes
            found = file.execute("select min(name) from sqlite_master where type = 'view'").fetchone()[0]
    except sqlite3.Error as error:
        raise DataError(
            f"{path} cannot be read: {printable(str(error))[:200]}; expected a GeoPackage. Export its "
            "features to a new one."
        ) from error
    if found is not None:
        name = printable(bytes(found).decode(errors="replace"))[:80]
        raise DataError(
            f"{path}: {name} is a view, a query that may never end; expected a GeoPackage of tables alone. "
            "Export its features to a new one."
        )


def vector_files(path: Path) -> list[Path]:
    """Return a vector file, those of a shapefile beside it, and those in a folder."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    beside = path.parent.iterdir() if path.suffix.lower() == ".shp" else ()
    return [path, *sorted(file for file in beside if file.stem == path.stem and file != path)]
