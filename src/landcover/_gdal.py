"""GDAL as landcover opens it: a driver chosen by a file's content, and no file that leads elsewhere.

The only module with private names of rasterio and pyogrio.
"""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any
from xml.parsers import expat

from rasterio.enums import ColorInterp, PhotometricInterp
from rasterio.env import ensure_env_with_credentials
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from landcover.errors import ImageError
from landcover.hardening import ALLOWED_DRIVERS, NO_ADDRESS, is_hardened

try:
    from rasterio._env import get_gdal_config as get_gdal_config
    from rasterio._env import set_gdal_config as set_gdal_config  # rasterio.Env would put back others' values
    from rasterio._err import CPLE_BaseError as CPLE_BaseError
    from rasterio._err import CPLE_NotSupportedError as CPLE_NotSupportedError
    from rasterio._err import CPLE_OpenFailedError as CPLE_OpenFailedError
except ImportError:  # a later rasterio: its public errors are raised alone
    CPLE_BaseError = CPLE_NotSupportedError = CPLE_OpenFailedError = RasterioError

    def get_gdal_config(key: str) -> Any:
        """Return a setting of GDAL's that a ``rasterio.Env`` made."""
        from rasterio.env import getenv

        return getenv().get(key)

    def set_gdal_config(key: str, value: Any) -> None:
        """Keep GDAL's own setting, which only the private function can change for good."""


HEAD_BYTES = 4096
_XML_BYTES = 64 << 20
TEXT_BYTES = 1 << 20
_DEPTH = 8
"""VRTs inside each other at most."""
_XML_DEPTH = 1000
_SOURCES = 1 << 17
"""Files that a VRT may refer to, with the VRTs in it."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HDF5 = b"\x89HDF\r\n\x1a\n"
_DRIVERS = {
    _TIFF: ("GTiff",),
    (b"\xff\xd8\xff",): ("JPEG",),
    (b"\x89PNG\r\n\x1a\n",): ("PNG",),
    (b"GIF87a", b"GIF89a"): ("GIF", "BIGGIF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"): ("JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID"),
    (b"CDF\x01", b"CDF\x02", b"CDF\x05"): ("netCDF",),
    (_HDF5,): ("netCDF", "HDF5", "HDF5Image"),
}
BLANKS = b"\xef\xbb\xbf \t\r\n"
"""What may precede XML and JSON."""
_ROUNDED = 0.5
"""Error of a compression from which on it changes whole numbers."""
_WEBP = ("WEBP",)
_VRT = ("VRT",)
_FORMATS = "GeoTIFF, VRT, JPEG, PNG, WebP, GIF, JPEG 2000, netCDF, HDF5"
_ELSEWHERE = sorted({driver for drivers in _DRIVERS.values() for driver in drivers} | set(_WEBP))
"""Drivers for what is not a file here. No VRT: its sources would be addresses that nobody typed."""

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://|/vsi", re.IGNORECASE)
_REMOTE = re.compile(r"(/vsicurl/)?https?://|(s3|gs|az)://|/vsi(s3|gs|az)/", re.IGNORECASE)
_ARCHIVE = re.compile(r"/vsi(zip|tar|gzip)/(?!.*(/vsi|://))", re.IGNORECASE)
_SUBDATASET = re.compile(r'(?:NETCDF|HDF5):(?:"([^"]+)"|([^":]+)):', re.IGNORECASE)

_DIRECTORY = re.compile(r"GTIFF_DIR:\d+:(.+)", re.IGNORECASE)
"""An image of a TIFF with several."""

_LINK = re.compile(r"overview_file|\b[xy]_dataset|root_path")
"""Names of metadata and options that lead to files."""

_SIDECARS = [
    "." + "".join(letters)
    for end in ("ovr", "msk")
    for letters in product(*((letter, letter.upper()) for letter in end))
]
"""Overviews and masks that GDAL opens along, with any driver, in any case."""


def is_address(text: str) -> bool:
    """Return whether an input is a URL, or a path that only GDAL knows (``/vsis3/…``)."""
    return _SCHEME.match(text) is not None


def subdataset_file(text: str) -> str | None:
    """Return the file of the name of an image in it, such as ``NETCDF:a.nc:rgb``; None for other texts."""
    match = _SUBDATASET.match(text)
    directory = _DIRECTORY.fullmatch(text)
    return (match[1] or match[2]) if match else directory and directory[1]


_FILTERS = Lock()
"""Warning filters belong to the process: of two threads, the one that ends last could restore the other's."""


@contextmanager
def unplaced() -> Iterator[None]:
    """Hide rasterio's warning that a raster is not georeferenced, as most pictures are not."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


_OTHER_COLOURS = {ColorInterp.cyan: "CMYK", ColorInterp.hue: "HSL", ColorInterp.Y: "YCbCr"}
_OTHER_PHOTOMETRIC = (PhotometricInterp.cmyk, PhotometricInterp.cielab)

INVERTED = (
    "stores white as 0 (MINISWHITE); expected black as 0. Run: gdal_translate -scale 0 255 255 0 -co "
    "PHOTOMETRIC=MINISBLACK IN OUT.tif"
)
"""What is wrong with a raster that :func:`is_inverted`."""


def is_inverted(raster: DatasetReader) -> bool:
    """Report whether 0 is white in a GeoTIFF; GDAL returns its values as they are stored."""
    return raster.driver == "GTiff" and "MINISWHITE" in raster.tags(ns="IMAGE_STRUCTURE")


def lossy_compression(raster: DatasetReader) -> str:
    """Return the name of a compression that may have changed whole numbers; an empty text if none has.

    Of a VRT it is that of its first source with one.
    """
    if raster.driver == "VRT":
        for name in raster.files:
            if name != raster.name and not name.lower().endswith((".ovr", ".msk")):
                with suppress(ImageError, RasterioError), open_raster(name) as source:
                    if compression := lossy_compression(source):
                        return compression
        return ""
    if raster.driver.startswith("JP2"):  # in damaged files GDAL searches for it without end
        return "JPEG 2000" if _is_irreversible(Path(raster.name)) else ""
    structure = raster.tags(ns="IMAGE_STRUCTURE")
    name = structure.get("COMPRESSION", raster.driver)
    is_lossy = (
        structure.get("COMPRESSION_REVERSIBILITY") == "LOSSY"
        or name in ("JPEG", "YCbCr JPEG")
        or float(structure.get("MAX_Z_ERROR", 0)) >= _ROUNDED
    )
    return str(name) if is_lossy else ""


def _is_irreversible(path: Path) -> bool:
    """Return whether a JPEG 2000 file has the wavelets of lossy compression, by its segment COD."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(TEXT_BYTES)
    start = head.find(b"\xff\x4f\xff\x51") + 2
    while start > 1 and start + 13 < len(head) and head[start : start + 2] != b"\xff\x52":
        start += 2 + max(2, int.from_bytes(head[start + 2 : start + 4], "big"))
    return start > 1 and start + 13 < len(head) and head[start + 13] == 0


def sample_bits(raster: DatasetReader, band: int) -> int:
    """Return the bits of a value of a band, which may be fewer than its type has."""
    return int(raster.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", 8))


def other_colours(raster: DatasetReader) -> str | None:
    """Return the name of the colours of a raster that are not RGB or grey, such as CMYK; None: they are.

    The photometric interpretation is read from GeoTIFF and JPEG only: in some damaged JPEG 2000 files GDAL
    searches for it without end.
    """
    for kind, name in _OTHER_COLOURS.items():
        if kind in raster.colorinterp:
            return name
    photometric = raster.photometric if raster.driver in ("GTiff", "JPEG") else None
    return photometric.name.upper() if photometric in _OTHER_PHOTOMETRIC else None


def open_raster(path: str | Path) -> DatasetReader:
    """Open a raster for reading, with the one driver that its content asks for.

    ``path`` is a file; the name of an image in it (``NETCDF:a.nc:rgb``, ``GTIFF_DIR:2:a.tif``); an address
    (http, https, s3, gs, az, or GDAL's name of one); or an archive here (``/vsizip/`` and the like).

    Raises:
        ImageError: If the format is not supported; the scheme is another one; or the file, an overview or
            mask beside it, or a VRT in it refers to an address, a pipe, a device, raw bytes or Python code.
        RasterioError: If GDAL cannot open it.
    """
    text = os.fspath(path)
    if is_address(text):
        return _open_elsewhere(text)
    return _open(text, _Check(text).file(subdataset_file(text) or text))


def files_of(path: Path) -> list[Path]:
    """Return a raster, the sources of a VRT, and the overviews, masks and georeferences beside them."""
    check = _Check(os.fspath(path), opening=False)
    with suppress(ImageError):  # reported when it is read
        check.file(os.fspath(path))
    files = [path, *(Path(name) for name in check.seen if name != os.fspath(path))]
    suffix = path.suffix[1:]
    places = {f"{suffix[:1]}{suffix[-1:]}w", f"{suffix}w", "wld", "prj"}  # GDAL reads either case
    beside = [path.with_suffix(f".{name}") for place in sorted(places) for name in (place, place.upper())]
    beside += [path.with_name(f"{path.name}.aux.xml"), path.with_name(f"{path.stem}_rpc.txt")]
    return [*files, *(file for file in beside if file not in files and file.is_file())]


@ensure_env_with_credentials  # type: ignore[untyped-decorator]  # rasterio has no types
def _open(path: str, drivers: tuple[str, ...] | list[str]) -> DatasetReader:
    with unplaced():
        source = DatasetReader(path, driver=list(drivers))  # rasterio.open takes no list in 1.4
    try:
        overviews = source.get_tag_item("OVERVIEW_FILE", "OVERVIEWS")
    except RasterioError:
        overviews = None
    if source.crs and (grid := grid_file(source.crs.to_wkt())):
        source.close()
        raise ImageError(f"{path} has a CRS that refers to the file {grid!r}; expected a CRS without files.")
    if overviews:
        source.close()
        raise ImageError(
            f"{path} keeps its overviews in another file ({overviews[:200]!r}); expected them inside or in "
            f"{Path(path).name}.ovr. Convert it: gdal_translate IN OUT.tif"
        )
    return source


def grid_file(crs: str) -> str | None:
    """Return the path of a file that PROJ would open for a CRS; it could be a pipe, or standard input."""
    match = re.search(
        r"""(?i)(?:grids|file|init|catalog)"?\s*[=,]\s*"?[^\s"/]*(/[^\s"]*)|PARAMETERFILE\[[^]/]*(/[^"]*)""",
        crs,
    )
    return match and (match[1] or match[2])


def _open_elsewhere(text: str) -> DatasetReader:
    name = re.sub(r"//[^/]*@", "//", text.partition("?")[0])
    if _REMOTE.match(text):
        if is_hardened():  # also fetch this address; GDAL compares ends of names
            option = "CPL_VSIL_CURL_ALLOWED_EXTENSIONS"
            path = re.sub(r"^(?:(?:s3|gs|az)://|/vsi(?:s3|gs|az)/)", "", text)  # GDAL compares bucket and key
            ends = [re.split("[, ]", path.partition("?")[0])[-1]]
            if "?" in path and not re.search("[, ]", path):
                ends.append(path)
            allowed = [*str(get_gdal_config(option) or NO_ADDRESS).split(","), *ends]
            set_gdal_config(option, ",".join(dict.fromkeys(allowed)))
    elif not _ARCHIVE.match(text):
        raise ImageError(
            f"{name} cannot be read; expected a file or an address that begins with http://, https://, "
            "s3://, gs:// or az://. Copy it to a file first."
        )
    from rasterio import Env

    options = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}  # nor what is beside it
    with Env(**options, **object_storage(text)):
        return _open(text, _ELSEWHERE)


def object_storage(text: str) -> dict[str, str]:
    """Return GDAL's settings for an address of object storage.

    The server of ``AWS_ENDPOINT_URL`` is used, which GDAL 3.10 does not know. What was read is forgotten when
    the file is closed: the object may be another one when it is opened again.
    """
    options = {"CPL_VSIL_CURL_NON_CACHED": "/vsis3/:/vsigs/:/vsiaz/:/vsicurl/"}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    scheme, separator, host = endpoint.rstrip("/").partition("://")
    if separator and re.match(r"s3://|/vsis3/", text) and "AWS_S3_ENDPOINT" not in os.environ:
        options |= {"AWS_S3_ENDPOINT": host, "AWS_HTTPS": "NO" if scheme == "http" else "YES"}
        if "AWS_VIRTUAL_HOSTING" not in os.environ:
            options["AWS_VIRTUAL_HOSTING"] = "FALSE"
    return options


class _Check:
    """Look at a file, and at all that GDAL would open along with it, before GDAL does."""

    def __init__(self, name: str, *, opening: bool = True) -> None:
        self._name = name
        self._opening = opening
        self.seen: dict[str, None] = {}
        self._parsed: set[str] = set()
        self._folders: dict[str, list[str]] = {}
        self._opened: list[str] = []

    def file(self, path: str) -> tuple[str, ...]:
        """Return the drivers for a file's content; ImageError if there are none, or it leads elsewhere."""
        try:
            regular = Path(path).is_file()
        except ValueError:  # a zero byte
            regular = False
        if not regular:
            if Path(path).exists():
                raise self._refusal(path, "is not a file")
            return ("PNG",)  # GDAL reports what is missing; VRT would take XML in place of a name
        try:
            with Path(path).open("rb") as file:
                head = file.read(HEAD_BYTES)
        except OSError as error:
            raise ImageError(
                f"{path} cannot be read: {error.strerror}. Check the file's permissions."
            ) from error
        if not head:
            raise self._refusal(path, "is empty (0 bytes). Copy it again")
        drivers = next((names for magics, names in _DRIVERS.items() if head.startswith(magics)), None)
        if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            drivers = _WEBP
        text = head.lstrip(BLANKS)
        if text.startswith(b"<VRTDataset") or (
            text.startswith((b"<?xml", b"<!--")) and b"<VRTDataset" in head
        ):
            drivers = _VRT
        if drivers is None:
            raise self._refusal(
                path,
                f"is not a supported raster ({_FORMATS}): it begins with {head[:8]!r}. Convert it to GeoTIFF",
            )
        real = os.path.realpath(path)
        if real in self._opened:
            raise self._refusal(
                path, "refers to itself, or to files that do; expected a VRT of other rasters"
            )
        if path not in self.seen:  # links to one file have sidecars of their own
            if len(self.seen) >= _SOURCES or len(self._opened) >= _DEPTH:
                raise self._refusal(
                    path, f"is too deep or too large; at most {_DEPTH} VRTs inside each other"
                )
            self.seen[path] = None
            self._opened.append(real)
            self._sidecars(path)
            if drivers != _VRT:
                if self._opening and path != self._name:
                    try:
                        with suppress(RasterioError):  # reported when it is read
                            _open(path, drivers).close()
                    except ImageError as error:
                        raise ImageError(f"{self._name}: {error}") from None
            elif real not in self._parsed:
                self._parsed.add(real)
                self._xml(path)
            self._opened.pop()
        return drivers

    def _sidecars(self, path: str) -> None:
        """Check the overviews, the mask and the metadata of a file; a pipe under such a name would block."""
        folder, name = os.path.split(path)
        stem = os.path.splitext(name)[0]  # noqa: PTH122
        if folder not in self._folders:
            self._folders[folder] = special_files(folder)
        if special := next(of_stem(stem, self._folders[folder]), None):
            raise self._refusal(os.path.join(folder, special), "is a device or a pipe. Delete it")  # noqa: PTH118
        for end in _SIDECARS:
            if os.path.exists(path + end) and self.file(path + end) != ("GTiff",):  # noqa: PTH110
                raise self._refusal(path + end, "is not a TIFF, as overviews and masks are. Delete it")
        if os.path.exists(path + ".aux.xml"):  # noqa: PTH110
            self._xml(path + ".aux.xml")

    def _xml(self, path: str) -> None:
        """Check what a VRT or a file of metadata refers to."""
        if not Path(path).is_file() or Path(path).stat().st_size > _XML_BYTES:
            raise self._refusal(path, f"is not a file of at most {_XML_BYTES >> 20} MiB")
        for tag, attributes, text in self._elements(path):
            if "/vsi" in text.lower():
                raise self._refusal(path, "refers to an address or an archive; expected files")
            if tag.endswith("srs") and (grid := grid_file(text)):
                raise self._refusal(
                    path, f"has a CRS that refers to the file {grid!r}; expected a CRS without files"
                )
            values = " ".join(attributes.values()).lower()
            if link := _LINK.search(values) or (tag == "argument" and re.search("filename", values)):
                raise self._refusal(path, f"refers to another file by {link[0]}; this is not supported")
            if tag == "subclass" and text.lower() == "vrtrawrasterband":
                raise self._refusal(path, "describes raw bytes; expected files of a supported format")
            if tag in ("pixelfunctionlanguage", "pixelfunctioncode") and text.strip().lower() not in (
                "",
                "c",
            ):
                raise self._refusal(path, "contains Python code, which is not executed")
            if tag in ("sourcefilename", "sourcedataset", "filename", "dempath"):
                self._source(path, text, attributes.get("relativetovrt", "0"))

    def _source(self, vrt: str, name: str, relative: str) -> None:
        subdataset = _SUBDATASET.match(name)
        file = (subdataset[1] or subdataset[2]) if subdataset else name
        if (
            not name
            or name != name.strip()
            or ":" in re.sub(r"(?<=\d):(?=\d)", "", os.path.splitdrive(file)[1])
            or "<" in name
            or relative not in ("0", "1")
        ):
            raise self._refusal(vrt, f"refers to {name[:200]!r}; expected names of files, without ':' or '<'")
        folder = Path(os.path.realpath(vrt)).parent  # as GDAL, which follows links
        path = str(folder / file) if relative == "1" else file
        if subdataset and not Path(path).exists():  # the HDF5 library would print what it tried
            raise self._refusal(path, "does not exist")
        self.file(path)

    def _elements(self, path: str) -> Iterator[tuple[str, dict[str, str], str]]:
        """Yield name, attributes and text of each element, and of each attribute as if it were one.

        To GDAL they are the same, and names in upper and lower case too.
        """
        found: list[tuple[str, dict[str, str], str]] = []
        stack: list[tuple[str, dict[str, str], list[str]]] = []

        def refuse(*_: object) -> None:
            raise self._refusal(path, "declares a document type; expected plain XML")

        def start(tag: str, attributes: dict[str, str]) -> None:
            lower = {name.lower(): value for name, value in attributes.items()}
            if len(lower) < len(attributes) or len(stack) >= _XML_DEPTH:
                raise self._refusal(path, "has an attribute twice in an element, or is too deep")
            stack.append((tag.lower(), lower, []))
            found.extend((name, {}, value) for name, value in lower.items())

        def end(_: str) -> None:
            tag, attributes, texts = stack.pop()
            found.append((tag, attributes, "".join(texts)))

        parser = expat.ParserCreate("utf-8")  # whatever the file declares: GDAL takes its bytes as they are
        parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
        parser.StartElementHandler, parser.EndElementHandler = start, end
        parser.CharacterDataHandler = lambda text: stack[-1][2].append(text)
        try:
            with Path(path).open("rb") as file:
                while chunk := file.read(1 << 20):
                    parser.Parse(chunk, False)
                    yield from found
                    found.clear()
                parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise self._refusal(path, f"is not well-formed XML ({error})") from None
        yield from found

    def _refusal(self, path: str, reason: str) -> ImageError:
        source = "" if path == self._name else f"{self._name}: "
        return ImageError(f"{source}{path} {reason}.")


def special_files(folder: str | Path) -> list[str]:
    """Return the names of pipes, sockets and devices in a folder."""
    with suppress(OSError), os.scandir(folder or ".") as entries:
        others = (entry for entry in entries if not entry.is_file() and not entry.is_dir())
        return [entry.name for entry in others if os.path.exists(entry)]  # noqa: PTH110
    return []


def of_stem(stem: str, names: list[str]) -> Iterator[str]:
    """Yield the names that contain a stem as a word, such as ``HDR-a.txt`` for ``a``."""
    return (name for name in names if re.search(rf"(?<![^\W_]){re.escape(stem)}(?![^\W_])", name))


def import_pyogrio() -> ModuleType:
    """Import pyogrio; in a hardened process its GDAL keeps the allowed drivers only.

    GDAL prints a line for each driver of ``GDAL_SKIP`` that it does not have, and pyogrio has others than
    rasterio: it gets a list of its own ones.
    """
    if not is_hardened():
        import pyogrio

        return pyogrio  # type: ignore[no-any-return]
    skipped = os.environ.pop("GDAL_SKIP", "")
    try:
        import pyogrio
    finally:
        os.environ["GDAL_SKIP"] = skipped
    unwanted = set(pyogrio.list_drivers()) - ALLOWED_DRIVERS
    if unwanted:
        from pyogrio._ogr import _register_drivers

        pyogrio.set_gdal_config_options({"GDAL_SKIP": ",".join(sorted(unwanted))})
        _register_drivers()  # reads it again
    return pyogrio  # type: ignore[no-any-return]
