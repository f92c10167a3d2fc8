"""Which bands are read, such as red, green and blue, and how their values become 8 bits."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from landcover._gdal import INVERTED, is_inverted, open_raster, other_colours, sample_bits
from landcover._typing import BoolArray, Float64Array, UInt8Array
from landcover.errors import ImageError, is_plain
from landcover.raster.address import Address
from landcover.raster.fill import Value
from landcover.values import BandSelection, Scaling
from landcover.windows import Window

Numbers = npt.NDArray[np.integer | np.floating]

_COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
RGB = ("red", "green", "blue")
_WAVELENGTHS_NM = ((600, 660, 700), (500, 555, 600), (430, 485, 520))
"""Shortest, middle and longest of red, green and blue."""
_OTHER_COLOURS = re.compile(r"red[\s_-]*edge|coastal[\s_-]*blue|green[\s_-]*i\b")
_BAND_NUMBER = re.compile(r"(?<![a-z0-9])b0?([234])(?![a-z0-9])", re.IGNORECASE)
_FIRST_BAND = re.compile(r"(?<![a-z0-9])b1(?![a-z0-9])", re.IGNORECASE)
_LATER_BAND = re.compile(r"(?<![a-z0-9])b(?:8a|9|1[0-2])(?![a-z0-9])", re.IGNORECASE)
_NO_NAME = re.compile(r"(?:band|layer)?[\s_-]*\d+", re.IGNORECASE)
_SHOWN = 12
_ALPHA_PX = 256
_PARTLY = 0.5
"""Above this share of partly transparent pixels a band is not a mask."""
_PERCENTILES = (2, 98)
_SAMPLE_PX = 1024
_SAMPLE_STRIPS = 16


def choose_bands(
    name: str, reader: DatasetReader, bands: Sequence[int] | None
) -> tuple[tuple[int, ...], str | None]:
    """Return the numbers of the bands to read, and a warning about the choice or None.

    Without ``bands``: the bands that the file names red, green and blue, by description, wavelength or colour
    interpretation (with a warning if that is all and they have other names); else its first three but alpha,
    with a warning if it has more or other names; else its first one three times (grey), with a warning on a
    second one. ``bands`` of a model count only where the file does not name the model's bands; there is a
    warning if it names others.
    """
    kinds = reader.colorinterp
    plain = [band for band, kind in enumerate(kinds, 1) if kind != ColorInterp.alpha]
    doubt, unless = "", ""
    names = RGB if bands is None else bands.names if isinstance(bands, BandSelection) else ()
    described = [text for text in reader.descriptions if text and not _NO_NAME.fullmatch(text.strip())]
    described = described or [text for text in _wavelengths(reader).values() if text]
    described = described if all(map(is_plain, described)) else []
    shown = ", ".join(described[:_SHOWN])
    named, by_interpretation = _named(reader, names)
    if named is not None:
        chosen = named
        red = (reader.descriptions[chosen[0] - 1] or "").lower()
        numbers = " ".join(text or "" for text in reader.descriptions)
        may_be_landsat_7 = _FIRST_BAND.search(numbers) and not _LATER_BAND.search(numbers)
        if _BAND_NUMBER.search(red) and "red" not in red and may_be_landsat_7:
            doubt = (
                f"numbers its bands; {_listed(chosen)} are used as red, green and blue, as of Landsat 8 and "
                "9 and Sentinel-2"
            )
            unless = " (Landsat 4 to 7)"
        elif by_interpretation and described:
            doubt = f"has bands named {shown}; by its colour interpretation {_listed(chosen)} are used as "
            doubt += "red, green and blue"
    elif bands is not None:
        chosen = tuple(bands)
        if names and described and not any(map(_NO_NAME.fullmatch, names)):
            doubt = f"has bands named {shown}, not {', '.join(names)} as the model; {_listed(chosen)} are "
            doubt += "used by number"
    elif len(plain) >= 3:
        chosen = tuple(plain[:3])
        if described:
            doubt = f"does not say which of its bands {shown} are red, green and blue; {_listed(chosen)} are "
            doubt += "used"
        elif len(plain) > 3:
            doubt = (
                f"does not name its {reader.count} bands; {_listed(chosen)} are used as red, green and blue"
            )
    else:
        chosen = tuple(plain[:1] * 3)
        if len(plain) == 2:
            doubt = f"has two bands; band {plain[0]} is used as grey"
    if not chosen:
        raise ImageError(f"{name} has only an alpha band; expected imagery in RGB or grey.")
    if len(chosen) < 3 or not all(1 <= band <= reader.count for band in chosen):
        raise ImageError(
            f"{name} has {reader.count} bands; expected imagery in three or more, found {_listed(chosen)}. "
            "Check --bands, and whether the model is for such files."
        )
    meanings = {kinds[band - 1] for band in chosen}
    if ColorInterp.palette in meanings:
        raise ImageError(f"{name} has a colour table: it is a map or a mask; expected imagery in RGB.")
    if colours := other_colours(reader):
        raise ImageError(f"{name} is {colours}; expected RGB or grey. Convert it to RGB.")
    if is_inverted(reader):
        raise ImageError(f"{name} {INVERTED}.")
    types = sorted({reader.dtypes[band - 1] for band in chosen})
    if len(types) > 1 or types[0].startswith("complex"):
        raise ImageError(f"{name} has {' and '.join(types)} pixels; expected real numbers of one type.")
    return chosen, f"{name} {doubt}. If that is wrong{unless}, pass --bands." if doubt else None


def band_names(path: Path, bands: Sequence[int]) -> tuple[str, ...]:
    """Return the names of bands, as the file describes them; ``band N`` where it does not, or is missing."""
    try:
        with open_raster(path) as reader:
            described = reader.descriptions
    except (RasterioError, ImageError):
        described = ()
    known = {number: text for number, text in enumerate(described, 1) if text and is_plain(text)}
    return tuple(known.get(band, f"band {band}") for band in bands)


def band_note(path: Path) -> str | None:
    """Return a warning about the bands that are read of a file by default; None without a doubt."""
    try:
        with open_raster(path) as reader:
            return choose_bands(str(path), reader, None)[1]
    except (RasterioError, ImageError):
        return None  # reported when it is read


def _listed(bands: Sequence[int]) -> str:
    return "bands " + ", ".join(map(str, bands))


def _named(reader: DatasetReader, names: Sequence[str]) -> tuple[tuple[int, ...] | None, bool]:
    """Return the bands of these names, if there is one of each; colours also by other signs of a file.

    The second value is True for colours by their interpretation alone, which GDAL also invents for the first
    bands of a new file.
    """
    texts = [(text or "").strip().lower() for text in reader.descriptions]
    exact = _one_each([[n for n, text in enumerate(texts, 1) if text == name.lower()] for name in names])
    if exact is not None or set(names) != set(RGB):
        return exact or None, False
    kinds, colours, by_interpretation = reader.colorinterp, _by_description(texts), False
    if colours is None:
        colours = _by_wavelength(reader)
    if colours is None and all(kinds.count(colour) == 1 for colour in _COLOURS):
        colours, by_interpretation = tuple(kinds.index(colour) + 1 for colour in _COLOURS), True
    return colours and tuple(colours[RGB.index(name)] for name in names), by_interpretation


def _by_description(texts: Sequence[str]) -> tuple[int, ...] | None:
    """Return the bands described, in lower case, as red, green and blue, if there is one of each.

    A description that is the colour alone, or its first letter, comes before others that contain it. Without
    colours, bands 4, 3 and 2 of Sentinel-2 and Landsat 8 and 9 (B04 or B4) are found by their numbers.
    """
    words = [set(re.findall("[a-z]+", _OTHER_COLOURS.sub("", text))) for text in texts]
    found = [
        [n for n, text in enumerate(texts, 1) if text in (colour, colour[0])]
        or [n for n, have in enumerate(words, 1) if colour in have]
        for colour in RGB
    ]
    if any(found):
        return _one_each(found)
    numbers = [match and match[1] for match in map(_BAND_NUMBER.search, texts)]
    return _one_each([[n for n, own in enumerate(numbers, 1) if own == number] for number in "432"])


def _wavelengths(reader: DatasetReader) -> dict[int, str]:
    """Return the text of the tag with the wavelength of each band; empty where there is none."""
    found = {}
    for band in range(1, reader.count + 1):
        tags = {**reader.tags(band), **reader.tags(band, ns="IMAGERY")}
        found[band] = next((value for name, value in tags.items() if "wavelength" in name.lower()), "")
    return found


def _by_wavelength(reader: DatasetReader) -> tuple[int, ...] | None:
    """Return the bands nearest to the middle of red, green and blue, if they are within the colours."""
    if reader.count < 3:
        return None
    lengths = {}
    for band, text in _wavelengths(reader).items():
        if (match := re.match(r"\s*(\d+(?:[.,]\d+)?)", text)) is not None:
            number = float(match[1].replace(",", "."))
            lengths[band] = number * 1000 if number < 20 else number  # micrometres
    within = [
        sorted((abs(nm - middle), band) for band, nm in lengths.items() if low <= nm <= high)
        for low, middle, high in _WAVELENGTHS_NM
    ]
    return _one_each([[band for _, band in bands[:1]] for bands in within])


def _one_each(found: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
    return tuple(bands[0] for bands in found) if all(len(bands) == 1 for bands in found) else None


def mask_of(
    name: str,
    reader: DatasetReader,
    bands: Sequence[int],
    alpha: int | Literal["none"] | None,
    nodata: float | None,
) -> tuple["Mask", str | None]:
    """Return what marks pixels without imagery, and a warning about it or None.

    It is the union of alpha, mask and nodata value. GDAL's own mask is only one of them, and the nodata value
    of a file with an alpha band is compared here: rasterio warns at each read of GDAL's mask of it. Without
    ``alpha`` it is a band tagged alpha that is not read as imagery and whose values are mostly 0 or the
    largest one.
    """
    note = None
    tagged = [band for band, kind in enumerate(reader.colorinterp, 1) if kind == ColorInterp.alpha]
    if isinstance(alpha, int) and not 1 <= alpha <= reader.count:
        raise ImageError(
            f"{name} has {reader.count} bands; expected its alpha in band {alpha}. Check --alpha."
        )
    band = alpha if isinstance(alpha, int) else next(iter(tagged), None) if alpha is None else None
    if alpha is None and band in bands:
        band = None
    if alpha is None and band is not None and _has_many_values(reader, band):
        note = f"{name} has many values in band {band}, which is tagged alpha (near infrared?): it is "
        note += f"not used as a mask. To use it, pass --alpha {band}."
        band = None
    every = reader.mask_flag_enums  # made anew for all bands at each access
    flags = [every[chosen - 1] for chosen in bands]
    masked: list[int] = []
    if any(MaskFlags.alpha in each for each in flags):
        masked = [bands[0]] if band in tagged else []
        band = None if masked else band
    elif all(MaskFlags.per_dataset in each for each in flags):
        masked = [bands[0]]
    elif nodata is None and not tagged and not all(MaskFlags.all_valid in each for each in flags):
        masked = sorted(set(bands))
    by_nodata = not tagged and any(MaskFlags.nodata in each for each in flags)
    value = nodata
    if value is None and not by_nodata and reader.nodata is not None:
        value = float(reader.nodata)
    return Mask(masked, band, value), note


def is_opaque(reader: DatasetReader, mask: "Mask") -> bool:
    """Return whether a mask is an alpha band alone that has one value, not 0, in a decimated read."""
    alphas = [band for band, kind in enumerate(reader.colorinterp, 1) if kind == ColorInterp.alpha]
    band = mask.alpha or next(iter(alphas), None)
    if band is None or mask.nodata is not None or (mask.masked and band not in alphas):
        return False
    values = _decimated(reader, band)
    return values is not None and bool(values.min() == values.max() != 0)


def _decimated(reader: DatasetReader, band: int) -> npt.NDArray[Any] | None:
    """Return a decimated read of a band; None where it is damaged, which is reported with the rows."""
    shape = tuple(min(side, _ALPHA_PX) for side in reader.shape)
    try:
        values: npt.NDArray[Any] = reader.read(band, out_shape=shape)
    except RasterioError:
        return None
    return values


def _has_many_values(reader: DatasetReader, band: int) -> bool:
    """Return whether most values of a band but 0, in a decimated read, are not the largest."""
    values = _decimated(reader, band)
    if values is None:
        return False
    full = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1
    values = values[values != 0]
    partly = (values != full) & (values != values.max(initial=0))
    return bool(values.size and partly.mean() > _PARTLY)


class Mask(NamedTuple):
    """What marks pixels without imagery: a union.

    Attributes:
        masked: Bands whose masks of GDAL are read.
        alpha: An alpha band that GDAL does not use, or None.
        nodata: A value that GDAL does not use, or None; a pixel has it in all bands.
        inside: The part of the scene without rows and columns of fill; None: all.
        missing: bool (rows, columns), the blocks that are not in the file; None: all are.
        block: Height and width of a block.
    """

    masked: list[int]
    alpha: int | None
    nodata: float | None
    inside: Window | None = None
    missing: BoolArray | None = None
    block: tuple[int, int] = (1, 1)

    def apply(self, reader: DatasetReader, window: Window, values: Numbers, valid: BoolArray) -> None:
        """Set what is without imagery in a window to False in ``valid``, bool (n, m).

        ``values`` (C or 1, n, m) are the bands in it, read at its own or a lower resolution.
        """
        part, shape = window.slices, valid.shape
        if self.nodata is not None:
            valid &= (values != self.nodata).any(axis=0)
        if self.alpha is not None:
            valid &= reader.read(self.alpha, window=part, out_shape=shape) > 0
        if self.masked:
            masks = reader.read_masks(self.masked, window=part, out_shape=(len(self.masked), *shape))
            valid &= masks.any(axis=0)
        if self.inside is None and self.missing is None:
            return
        # First and last pixel of what each value stands for.
        sides = (window.row, window.height, shape[0]), (window.col, window.width, shape[1])
        ends = [
            (first + np.arange(n) * length // n, first + (np.arange(1, n + 1) * length - 1) // n)
            for first, length, n in sides
        ]
        if self.inside is not None:
            (top, bottom), (left, right) = ends
            row, col, height, width = self.inside
            valid &= ((top >= row) & (bottom < row + height))[:, None]
            valid &= (left >= col) & (right < col + width)
        if self.missing is not None:
            for rows in ends[0]:
                for cols in ends[1]:
                    valid &= ~self.missing[rows // self.block[0]][:, cols // self.block[1]]


def check_scaling(name: str, reader: DatasetReader, band: int, scaling: Scaling | None) -> None:
    """Refuse pixels that are not 8-bit without ``scaling``, and a scaling that cannot be that of the pixels.

    Those are 8-bit pixels that never reach its maximum, and whole numbers that have one value within it.
    """
    dtype = reader.dtypes[band - 1]
    if isinstance(scaling, tuple) and dtype == "uint8" and scaling[1] > 255:
        raise ImageError(
            f"{name} has 8-bit pixels, which never reach the {scaling[1]:g} of the scaling {scaling[0]:g},"
            f"{scaling[1]:g}; expected imagery of more bits. Pass the original file, or another --scaling."
        )
    if isinstance(scaling, tuple) and scaling[1] - scaling[0] < 1 and not dtype.startswith("float"):
        scale, offset = reader.scales[band - 1], reader.offsets[band - 1]
        hint = ""
        if scale and (scale, offset) != (1, 0):
            stored = f"{(scaling[0] - offset) / scale:g},{(scaling[1] - offset) / scale:g}"
            hint = f" The file declares a scale and an offset: pass --scaling {stored}."
        raise ImageError(
            f"{name} has whole numbers ({dtype}), of which no two are within the scaling {scaling[0]:g},"
            f"{scaling[1]:g}; expected the stored values that become 0 and 255.{hint}"
        )
    if scaling is None and dtype == "uint8" and (bits := sample_bits(reader, band)) < 8:
        dtype = f"{bits}-bit"
    if scaling is None and dtype != "uint8":
        raise ImageError(
            f"{name} has {dtype} pixels; expected 8 bits per band, or how to scale them. Pass "
            "--scaling MINIMUM,MAXIMUM (the same for every scene of a sensor) or --scaling percentile (from "
            "the scene itself)."
        )


def sample_values(
    address: Address, reader: DatasetReader, bands: Sequence[int], mask: Mask, fill: Sequence[Value]
) -> Float64Array:
    """Return valid values of the bands, float64 (N,), which percentiles are taken of.

    They are of one decimated read (or overview) of about 1024 x 1024 pixels, the same for every part of the
    scene: dark water is not brightened in a window of water. Pixels with one of the values ``fill`` are left
    out.
    """
    chosen = sorted(set(bands))
    step = max(1, math.ceil(max(reader.shape) / _SAMPLE_PX))
    high = max(1, math.ceil(reader.height / step / _SAMPLE_STRIPS)) * step
    sample = [np.empty(0)]
    for top in range(0, reader.height, high):  # in strips, of which a damaged block loses one
        window = Window(top, 0, min(high, reader.height - top), reader.width)
        shape = (len(chosen), math.ceil(window.height / step), math.ceil(window.width / step))
        try:
            values = reader.read(chosen, window=window.slices, out_shape=shape)
            valid = np.isfinite(values).all(axis=0)
            mask.apply(reader, window, values, valid)
        except RasterioError as error:
            if address.is_fatal(error):
                raise
            continue  # reported when the rows are read
        for value in fill:
            valid &= (values != np.array(value)[:, None, None]).any(axis=0)
        sample.append(values[:, valid].ravel().astype(np.float64))
    return np.concatenate(sample)


def percentile_range(values: Float64Array) -> tuple[float, float]:
    """Return the 2nd and 98th percentile of values, which become 0 and 255."""
    if not values.size:
        return 0.0, 1.0
    low, high_value = map(float, np.percentile(values, _PERCENTILES))
    return low, high_value if high_value > low else low + 1


def to_bytes(values: Numbers, low: float, high: float) -> UInt8Array:
    """Scale (n, W) values of any real type so that ``low`` becomes 0 and ``high`` 255: uint8 (n, W).

    Values are clipped and rounded; not-a-number becomes 0.
    """
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:  # a table is faster than arithmetic
        codes = np.arange(1 << (8 * values.dtype.itemsize)).astype(f"u{values.dtype.itemsize}")
        table = _stretch(codes.view(values.dtype), low, high)
        return np.take(table, values.view(codes.dtype))
    return _stretch(values, low, high)


def _stretch(values: Numbers, low: float, high: float) -> UInt8Array:
    wide = np.float32 if values.dtype == np.float32 else np.float64
    scaled: npt.NDArray[np.floating] = values.astype(wide)
    np.clip(scaled, low, high, out=scaled)
    scaled -= low
    scaled *= 255 / (high - low)
    np.nan_to_num(np.rint(scaled, out=scaled), copy=False)
    return scaled.astype(np.uint8)
