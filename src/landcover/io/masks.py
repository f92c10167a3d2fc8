"""Masks in and out: class indices from colours, palettes or grey values, and PNG files from class indices."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from landcover._typing import BoolArray, UInt8Array
from landcover.errors import MaskError, OutputError, UsageError, did_you_mean, first_few
from landcover.io.colours import NO_CLASS, find_classes, index_to_colours, on_corners, settle_off_palette
from landcover.io.discovery import MAX_PIXELS
from landcover.io.files import atomic_path
from landcover.io.images import Picture, read_picture
from landcover.io.png import encode_png
from landcover.legend import NODATA, Legend
from landcover.values import MaskFormat as MaskFormat

MaskForm = Literal["colours", "indices", "palette indices", "grey indices"]
"""How a mask file holds classes: as colours; as values of one band; or as values of a palette image or of
three equal bands, whose colours are not the legend's."""

_FOREIGN = range(64, 192)
"""Values of a channel that are far from 0 and 255; compression of pure colours makes few of them."""
_BRIGHT = 128
"""A channel counts as 255 from this value on."""
_FEW_COLOURS = 32
_BINARY = {0, NODATA}


class Mask(NamedTuple):
    """A decoded mask.

    Attributes:
        index: Class indices, uint8 (H, W), with ``NODATA``.
        off_palette: Number of pixels whose colour has no class.
        form: How the file holds the classes; None where that is not recorded.
        is_binary: Whether all values are 0 and 255 and nobody has stated what 255 means.
        lossy: Name of the lossy compression of the file, such as JPEG; empty without one.
    """

    index: UInt8Array  # type: ignore[assignment]  # replaces tuple.index
    off_palette: int
    form: MaskForm | None = None
    is_binary: bool = False
    lossy: str = ""


def read_mask(
    path: Path,
    legend: Legend,
    *,
    max_pixels: int = MAX_PIXELS,
    max_off_palette: float = 1.0,
    allow_binary: bool = False,
) -> Mask:
    """Read a mask of any supported format as class indices of ``legend``.

    Three bands are colours, a palette is its colours (:func:`~landcover.io.colours.find_classes`), one band
    of any type holds the values of the legend's classes: by default their indices, with 255 as ``NODATA``. A
    palette image or three equal bands with too many off-palette pixels are read by their values, if all of
    them are values of the legend and none contradicts its colour. Pixels that the file marks as no imagery
    (alpha 0, a transparent palette entry, the raster's nodata value) become ``NODATA``; other alpha is
    ignored. Off-palette pixels become the unknown class, without one ``NODATA``. A map that carries its
    classes holds their indices.

    Args:
        path: The file; see :func:`read_image` for formats. One band may have any type of whole numbers.
        legend: The classes.
        max_pixels: Larger files are refused before anything is decoded.
        max_off_palette: Fraction of off-palette pixels, 0..1, above which the mask is refused.
        allow_binary: Accept one band with the values 0 and 255 only, though the legend does not list them.

    Raises:
        MaskError: If the file cannot be read (see :func:`read_image`) or is not a mask: values that are not
            classes, three equal bands of greys, indices in a JPEG, too many off-palette pixels, or 0 and 255
            of unknown meaning.
        UsageError: If ``max_off_palette`` is not in 0..1.
    """
    check_off_palette_limit(max_off_palette)
    path = Path(path)
    picture = read_picture(path, MaskError, max_pixels=max_pixels)
    if picture.not_labels:
        raise MaskError(f"{path} {picture.not_labels}. Write the labels as one band, or as colours in three.")
    if picture.is_map:
        legend = legend.of_maps
    if picture.palette is None and picture.pixels.ndim == 2:
        if picture.lossy:
            raise lossy_mask(path, picture.lossy)
        return _by_values(path, picture, picture.pixels, legend, allow_binary=allow_binary)
    if picture.depth is not None:
        raise MaskError(f"{path} has colours in {picture.depth}; expected 8-bit ones. Convert it to 8 bits.")
    values: UInt8Array | None = None
    if picture.palette is not None:
        values = picture.pixels
        table = find_classes(picture.palette[None], legend)[0]
        used = np.array(present_values(values))
        if on_corners(legend) and len(used) <= _FEW_COLOURS:
            table[used[_off_corners(picture.palette[used])]] = NO_CLASS
        index = np.take(table, values)
    else:
        views = (picture.pixels[::16, ::16], picture.pixels)  # a sample is compared first
        if not picture.lossy and all((rgb[..., :1] == rgb[..., 1:]).all() for rgb in views):
            values = picture.pixels[..., 0]
        # Three equal bands of greys are indices or a picture saved as RGB, which thresholds would garble.
        if values is not None and on_corners(legend):
            greys = [int(value) for value in np.unique(values) if 0 < value < 240]
            if greys and np.isin(values, list(legend.class_of_value)).all():
                return _by_values(path, picture, values, legend)._replace(form="grey indices")
            if greys:
                raise MaskError(
                    f"{path} has three equal bands with the greys {first_few(greys, 8)}; expected colours of "
                    f"the legend {legend.name!r}. It holds indices or a greyscale picture: save indices in "
                    "one band, or pass the right file."
                )
        index = find_classes(picture.pixels, legend)
        if not picture.lossy and on_corners(legend):
            index[_foreign(picture.pixels)] = NO_CLASS
    off_palette = index == NO_CLASS
    if picture.outside is not None:
        off_palette &= ~picture.outside
        index[picture.outside] = NODATA
    count = int(np.count_nonzero(off_palette))
    if count > max_off_palette * index.size:
        if values is not None and _agree(values, index, legend):
            form: MaskForm = "grey indices" if picture.palette is None else "palette indices"
            return _by_values(path, picture, values, legend)._replace(form=form)
        if picture.lossy:
            raise lossy_mask(path, picture.lossy)
        colours = picture.pixels if picture.palette is None else np.take(picture.palette, picture.pixels, 0)
        raise MaskError(
            f"{path} has {count:,} pixels ({count / index.size:.1%}) whose colour is not in the legend "
            f"{legend.name!r}: {describe_colours(count_colours(colours[off_palette]), index.size)}; at most "
            f"{max_off_palette:.1%} are allowed. Pass the right legend with --legend, write one with "
            "landcover legend DATA, or raise --max-off-palette."
        )
    return Mask(index, settle_off_palette(index, off_palette, legend), "colours", lossy=picture.lossy)


def check_off_palette_limit(limit: float) -> None:
    """Raise a :class:`UsageError` if a limit on off-palette pixels is not a fraction."""
    if not 0 <= limit <= 1:
        raise UsageError(f"max_off_palette is {limit}; expected a fraction in 0..1.")


def count_colours(colours: UInt8Array) -> dict[tuple[int, int, int], int]:
    """Count the pixels of each colour of uint8 (N, 3), the most frequent first."""
    codes, counts = np.unique(colours.astype(np.uint32) @ _PACKED, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {
        (int(code >> 16), int(code >> 8 & 255), int(code & 255)): int(count)
        for code, count in zip(codes[order], counts[order], strict=True)
    }


_PACKED = np.array([1 << 16, 1 << 8, 1], np.uint32)


def describe_colours(counts: Mapping[tuple[int, int, int], int], pixels: int) -> str:
    """Return the first colours of a count, with their fractions of ``pixels``, for a message."""
    return first_few((f"{colour} {count / pixels:.1%}" for colour, count in counts.items()), 6)


def _foreign(pixels: UInt8Array) -> BoolArray:
    """Return where a few exact colours that are not pure are found, the sign of another legend: bool (H, W).

    Blends of pure colours, as resizing makes them, are many colours and not foreign.
    """
    sample = pixels[::16, ::16].reshape(-1, 3)
    if sample.max() < _BRIGHT and pixels.max() < _BRIGHT:
        return _off_corners(pixels)
    far = _off_corners(sample)
    if not far.any() or len(np.unique(sample[far], axis=0)) > min(_FEW_COLOURS, far.sum() // 2 + 1):
        return np.zeros(pixels.shape[:2], bool)
    return _off_corners(pixels)


def _off_corners(colours: UInt8Array) -> BoolArray:
    """Return which colours, uint8 (..., 3), are not pure; where no channel is bright, all but black are not.

    Classes in one channel, or 0 and 1 in a channel for each, would all be black.
    """
    if colours.max() < _BRIGHT:
        return np.asarray(colours.any(axis=-1))
    return np.asarray(((colours >= _FOREIGN.start) & (colours < _FOREIGN.stop)).any(axis=-1))


def _agree(values: UInt8Array, index: UInt8Array, legend: Legend) -> bool:
    """Return whether all values are in the legend, and those with a colour of it mean the same class."""
    pairs = np.unique(values.astype(np.uint16) << 8 | index)
    return all(
        legend.class_of_value.get(int(pair >> 8), NO_CLASS)
        in ({*range(len(legend))} if own == NO_CLASS else {own})
        for pair in pairs
        for own in [int(pair & 255)]
    )


def _by_values(
    path: Path, picture: Picture, values: npt.NDArray[Any], legend: Legend, *, allow_binary: bool = True
) -> Mask:
    """Return the mask of a band of values."""
    classes = legend.class_of_value
    outside = picture.outside
    if values.dtype.kind == "c":
        raise MaskError(f"{path} has one band of complex numbers; expected the whole numbers of classes.")
    if values.dtype.kind == "f":
        missing = ~np.isfinite(values)
        outside = missing if outside is None else outside | missing
        values = np.where(missing, 0, values)
        if (values != np.rint(values)).any():
            raise MaskError(f"{path} has one band of fractions; expected the whole numbers of classes.")
    present = present_values(values if outside is None else values[~outside])
    if strays := [value for value in present if value not in classes]:
        guess = "It looks like a greyscale picture" if len(strays) > 8 else "It may follow another legend"
        expected = f"indices 0 to {len(legend) - 1}, and {NODATA} for nodata"
        if legend.lists_values:
            expected = f"{first_few(sorted(classes), 12)}"
        elif 0 not in present and max(strays) == len(legend):
            guess = "Value 0 never occurs; the ids may begin at 1. List them as values of the classes"
        raise MaskError(
            f"{path} has one band with values that are not in the legend {legend.name!r}: "
            f"{first_few(strays, 8)}. Expected {expected}. "
            f"{guess}: pass the right file, or its legend with --legend (landcover legend DATA writes one)."
        )
    is_binary = set(present) == _BINARY and not (picture.is_map or legend.lists_values or legend.ignore)
    if is_binary and not allow_binary:
        raise binary_mask(path)
    index = classes_of(values, present, classes)
    if outside is not None:
        index[outside] = NODATA
    return Mask(index, 0, "indices", is_binary)


def present_values(values: npt.NDArray[Any]) -> list[int]:
    """Return the different values of an array, sorted."""
    if values.dtype != np.uint8:
        return [int(value) for value in np.unique(values)]
    is_present = np.zeros(256, bool)
    is_present[values] = True
    return np.flatnonzero(is_present).tolist()


def classes_of(values: npt.NDArray[Any], present: Sequence[int], classes: Mapping[int, int]) -> UInt8Array:
    """Return the class of each of the values, uint8, by the different ones of them that are classes."""
    if values.dtype == np.uint8:
        table = np.full(256, NODATA, np.uint8)
        for value in present:
            table[value] = classes[value]
        return np.take(table, values)
    index = np.full(values.shape, NODATA, np.uint8)
    for value in present:
        index[values == value] = classes[value]
    return index


def lossy_mask(path: Path, compression: str) -> MaskError:
    """Return the error about a mask whose compression may have changed its labels."""
    return MaskError(
        f"{path} has lossy compression ({compression}), which changes labels. Save masks as PNG; landcover "
        "convert --to index restores masks in pure colours."
    )


def binary_mask(path: Path) -> MaskError:
    """Return the error about a mask of 0 and 255 whose meaning is not declared."""
    return MaskError(
        f"{path} has one band with the values 0 and 255 only: 255 may be a class or no data. State it in the "
        "legend of landcover.yaml, for example {name: background, colour: [0, 0, 0], values: [0]} and {name: "
        "building, colour: [255, 255, 255], values: [255]}, or ignore: [255] for no data. landcover legend "
        "DATA writes the file."
    )


def encode_mask(
    index: UInt8Array,
    legend: Legend,
    mask_format: MaskFormat = "palette",
    tags: Mapping[str, str] | None = None,
) -> bytes:
    """Return class indices, uint8 (H, W), with ``NODATA`` outside the imagery, as the bytes of a PNG file.

    ``palette``: indices with the legend's colours; nodata, if any, is entry 255, black and transparent.
    ``rgb``: three bands as in the challenge; nodata is black and read back as a black class. ``index``: one
    band of indices; nodata is 255. ``tags`` are stored as texts beside :attr:`Legend.tags`.
    """
    if mask_format not in get_args(MaskFormat):
        raise UsageError(
            f"Unknown mask format {mask_format!r}. {did_you_mean(mask_format, get_args(MaskFormat))}"
        )
    if index.dtype != np.uint8 or index.ndim != 2 or index.size == 0:
        raise MaskError(f"Expected a mask as uint8 (height, width); found {index.dtype} {index.shape}.")
    highest = int(index.max())
    if highest >= len(legend):
        strays = index[(index >= len(legend)) & (index != NODATA)]
        if len(strays):
            raise MaskError(
                f"The values {first_few(present_values(strays), 8)} are not in the legend {legend.name!r}."
            )
    texts = {**legend.tags, **(tags or {})}
    if mask_format == "rgb":
        return encode_png(index_to_colours(index, legend), texts=texts)
    if mask_format == "index":
        return encode_png(index, texts=texts)
    has_nodata = highest == NODATA
    palette = legend.colours if has_nodata else legend.colours[: len(legend)]
    return encode_png(index, palette=palette, transparent=NODATA if has_nodata else None, texts=texts)


def write_mask(
    path: Path,
    index: UInt8Array,
    legend: Legend,
    *,
    mask_format: MaskFormat = "palette",
    tags: Mapping[str, str] | None = None,
    force: bool = False,
) -> None:
    """Write a mask as PNG, whole or not at all, as :func:`encode_mask`; OutputError for another suffix."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise OutputError(f"Plain masks are written as PNG; name it {path.with_suffix('.png')}, not {path}.")
    with atomic_path(path, force=force) as temporary:
        temporary.write_bytes(encode_mask(index, legend, mask_format, tags))
