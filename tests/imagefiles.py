"""Small pictures and masks in every format, whole and broken, for the tests of whatever reads files."""

import json
import struct
import warnings
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from PIL import Image
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning

from landcover._typing import UInt8Array
from landcover.legend import DEEPGLOBE, Legend

UTM = CRS.from_epsg(32631)
PLACE = {"crs": UTM, "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_700_000)}
"""Where rasters lie that are to lie somewhere: half a metre, in a zone of UTM."""


def photo(height: int = 48, width: int = 64, seed: int = 0) -> UInt8Array:
    """Smooth colours that JPEG keeps within a few grey values: uint8 (height, width, 3)."""
    phase = np.random.default_rng(seed).uniform(0, 6, (3,))
    row, col = np.mgrid[:height, :width]
    waves = [np.sin(row / 9 + p) + np.cos(col / 11 - p) for p in phase]
    return np.clip(128 + 50 * np.stack(waves, -1), 0, 255).astype(np.uint8)


def class_index(height: int = 48, width: int = 64, legend: Legend = DEEPGLOBE, seed: int = 0) -> UInt8Array:
    """Blocks of 8 px of all classes of a legend: uint8 (height, width)."""
    rng = np.random.default_rng(seed)
    blocks = rng.permutation(np.arange((height // 8 + 1) * (width // 8 + 1), dtype=np.int64) % len(legend))
    tall = blocks.reshape(height // 8 + 1, width // 8 + 1).repeat(8, 0).repeat(8, 1)
    return np.ascontiguousarray(tall[:height, :width], dtype=np.uint8)


def save(path: Path, array: UInt8Array, *, mode: str | None = None, **options: Any) -> Path:
    """Write an array by Pillow in the format of the suffix or of ``format=``, converted to ``mode``."""
    image = Image.fromarray(array)
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def save_palette(path: Path, index: UInt8Array, colours: UInt8Array, **options: Any) -> Path:
    """Write a palette PNG (or TIFF) by Pillow: indices (H, W) and colours (N, 3)."""
    image = Image.fromarray(index)
    image.putpalette(colours.tobytes())
    image.save(path, **options)
    return path


def save_raster(path: Path, bands: np.ndarray[Any, Any], *, place: bool = False, **profile: Any) -> Path:
    """Write (H, W) or (H, W, B) by rasterio: a TIFF unless ``driver=`` says otherwise; JP2 is lossless.

    Args:
        path: The file; one that exists is replaced.
        bands: The pixels.
        place: Whether it lies at ``PLACE``, unless ``crs`` and ``transform`` say otherwise.
        profile: Options of GDAL; and ``colormap``, ``tags``, ``colorinterp``, ``mask`` (bool (H, W)).
    """
    bands = bands[..., None] if bands.ndim == 2 else bands
    bands = bands.astype(profile.pop("dtype", bands.dtype))
    height, width, count = bands.shape
    profile = (PLACE if place else {}) | profile
    more = {name: profile.pop(name, None) for name in ("colormap", "tags", "colorinterp", "mask")}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # GDAL would open it first, and complain where it is broken
    if profile.setdefault("driver", "GTiff") == "JP2OpenJPEG":
        profile.update(QUALITY="100", REVERSIBLE="YES")
    size = {"height": height, "width": width, "count": count, "dtype": bands.dtype.name}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **size, **profile) as raster:
            raster.write(np.moveaxis(bands, 2, 0))
            if more["colormap"] is not None:
                raster.write_colormap(1, more["colormap"])
            if more["tags"] is not None:
                raster.update_tags(**more["tags"])
            if more["colorinterp"] is not None:
                raster.colorinterp = more["colorinterp"]
            if more["mask"] is not None:
                raster.write_mask(more["mask"])
    return path


def grid_place(row: float, col: float, size: float = 0.5, crs: CRS = UTM) -> dict[str, Any]:
    """Return where a raster lies whose first pixel is a pixel of the grid of ``PLACE``."""
    return {"crs": crs, "transform": Affine(size, 0, 500_000 + col / 2, 0, -size, 5_700_000 - row / 2)}


def save_parts(
    folder: Path, image: UInt8Array, windows: Iterable[tuple[int, int, int, int]], **profile: Any
) -> Path:
    """Write parts of an image, (row, column, height, width), to ``0.tif``, ``1.tif`` ... in their places."""
    for number, (row, col, height, width) in enumerate(windows):
        part = image[row : row + height, col : col + width]
        save_raster(folder / f"{number}.tif", part, **grid_place(row, col), **profile)
    return folder


def save_polygons(path: Path, rings: Mapping[str | None, Any], crs: str | None = "EPSG::32631") -> Path:
    """Write GeoJSON of polygons by their ``name``: open rings, or what has the interface of geometries."""
    features = [
        {
            "type": "Feature",
            "properties": {"name": name},
            "geometry": getattr(ring, "__geo_interface__", None)
            or {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        }
        for name, ring in rings.items()
    ]
    named = {"crs": {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{crs}"}}} if crs else {}
    path.write_text(json.dumps({"type": "FeatureCollection", **named, "features": features}))
    return path


def read_band(path: Path) -> np.ndarray[Any, Any]:
    """Return the first band of a raster."""
    with rasterio.open(path) as source:
        return source.read(1)  # type: ignore[no-any-return]


def spoil_block(path: Path, row: int, col: int) -> Path:
    """Overwrite the beginning of a block of a tiled and compressed GeoTIFF, of its first band."""
    with rasterio.open(path) as source:
        offset = int(source.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=1))
    content = bytearray(path.read_bytes())
    content[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(content)
    return path


def save_lossless(path: Path, rgb: UInt8Array) -> Path:
    """Write RGB without loss as PNG, TIFF, JP2 or WebP, whichever the suffix says."""
    match path.suffix:
        case ".webp":
            return save(path, rgb, lossless=True)
        case ".tif":
            return save_raster(path, rgb)
        case ".jp2":
            return save_raster(path, rgb, driver="JP2OpenJPEG")
    return save(path, rgb)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bytes(
    height: int, width: int, *chunks: bytes, bits: int = 8, colour_type: int = 2, rows: bytes = b""
) -> bytes:
    """A PNG put together by hand, for forms that Pillow does not write; without ``rows`` it holds no pixels.

    Args:
        height: As the header says.
        width: As the header says.
        chunks: Further chunks, before the pixels.
        bits: Bits a sample.
        colour_type: 0 grey, 2 RGB, 4 grey with alpha, 6 RGB with alpha.
        rows: The rows, each after a filter byte.
    """
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels


def png_16bit(height: int = 4, width: int = 6, *, channels: int = 3) -> bytes:
    """A valid PNG of 16-bit samples, grey, RGB or RGBA by the number of channels."""
    samples = np.arange(height * width * channels, dtype=">u2").reshape(height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    return png_bytes(height, width, bits=16, colour_type={1: 0, 3: 2, 4: 6}[channels], rows=rows)


def cut(path: Path, keep: int) -> Path:
    """Keep the first ``keep`` bytes of a file; all but the last ``-keep`` where it is negative."""
    path.write_bytes(path.read_bytes()[:keep])
    return path
