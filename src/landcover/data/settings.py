"""``landcover.yaml`` of a data folder: what its owner declares, and what its masks hold if nothing is."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from landcover.config import Config, from_mapping
from landcover.data.layouts import discover
from landcover.errors import ConfigError, DataError, MaskError, UsageError, first_few
from landcover.io.discovery import MAX_OFF_PALETTE, MAX_PIXELS
from landcover.io.files import check_output, write_text
from landcover.io.images import read_picture
from landcover.io.masks import binary_mask, count_colours, describe_colours
from landcover.io.readahead import parallel_map
from landcover.legend import DEEPGLOBE, IGNORE, NODATA, Legend, load_legend
from landcover.raster import Reading
from landcover.scale import SETTINGS_FILE
from landcover.textfiles import read_yaml
from landcover.values import BandSelection, parse_scaling

_SAMPLE = 8
"""Masks that the assumption of a legend is checked on."""
_LEAST_EXACT = 0.9
"""Fraction of pixels below which a few colours near those of DeepGlobe are another legend's."""
_MOST = 64
"""More colours than these are pictures or blends, not the colours of a legend."""

Colour = tuple[int, int, int]

_ISPRS: set[Colour] = {(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0)}
"""Roads, buildings, low vegetation, trees and cars; DeepGlobe has these colours and two more."""

logger = logging.getLogger(__name__)


class Settings(Config):
    """Content of ``landcover.yaml``.

    Attributes:
        gsd: Metres per pixel.
        legend: The legend of the masks: a name, a YAML file beside it, or written out.
        images: Pattern of the paths of images, such as ``img_dir/{subset}/{id}.png``; and of ``masks``.
        bands: Numbers of the bands: red, green, blue, and others.
        scaling: The values that become 0 and 255.
    """

    gsd: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    legend: str | dict[str, Any] | None = None
    images: str | None = None
    masks: str | None = None
    bands: tuple[int, ...] | None = None
    scaling: tuple[float, float] | Literal["percentile"] | None = None

    @property
    def names(self) -> tuple[str, str] | None:
        """The patterns of images and masks; see :func:`landcover.data.layouts.discover`."""
        return (self.images, self.masks) if self.images is not None and self.masks is not None else None

    @property
    def reading(self) -> Reading:
        """How images are read."""
        return Reading(
            bands=None if self.bands is None else BandSelection.parse(self.bands),
            scaling=None if self.scaling is None else parse_scaling(self.scaling),
        )


def read_settings(path: Path) -> Settings:
    """Read ``landcover.yaml``; a missing file gives empty settings."""
    settings = from_mapping(Settings, (read_yaml(path) or {}) if path.exists() else {}, str(path))
    if (settings.images is None) != (settings.masks is None):
        raise ConfigError(f"{path} has only one of images and masks; expected both or none.")
    return settings


def declared_legend(path: Path, settings: Settings) -> Legend | None:
    """Return the legend of the settings in a file, None if they have none."""
    if isinstance(settings.legend, str):
        beside = path.parent / settings.legend
        return load_legend(beside if beside.exists() else settings.legend)
    return None if settings.legend is None else Legend.from_dict(settings.legend, f"{path}: legend")


def describe_legend(
    folder: Path,
    *,
    names: Sequence[str],
    ignore: Sequence[int],
    unknown: str | None,
    gsd: float | None,
    max_pixels: int = MAX_PIXELS,
    force: bool = False,
) -> tuple[Path, str]:
    """Write ``landcover.yaml`` of a data folder from what its masks hold; return its path and text.

    See :func:`legend_text` for the arguments.
    """
    path = folder / SETTINGS_FILE
    present: dict[str, Any] = (read_yaml(path) or {}) if path.exists() else {}
    if "legend" in present:
        check_output(path, force=force)
    settings = read_settings(path)
    masks = [item.mask for item in discover(folder, settings.names).items if item.mask]
    if not masks:
        raise DataError(f"{folder} has no masks; expected images with masks.")
    found = survey(masks, max_pixels)
    text = legend_text(found, names=names, ignore=ignore, unknown=unknown, gsd=gsd or settings.gsd)
    for name in ("images", "masks", "bands", "scaling"):
        if name in present:
            text += f"{name}: {json.dumps(present[name])}\n"
    write_text(path, text, force=True)
    return path, text


@dataclass
class Survey:
    """The values of the masks with one band and the colours of the others, with their pixels."""

    masks: int = 0
    values: Counter[int] = field(default_factory=Counter)
    colours: Counter[Colour] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)


def survey(masks: Sequence[Path], max_pixels: int = MAX_PIXELS) -> Survey:
    """Count the values and colours of masks, as they are stored, without pixels marked as no imagery."""

    def count(path: Path) -> tuple[dict[int, int], dict[Colour, int]] | MaskError:
        try:
            picture = read_picture(path, MaskError, max_pixels=max_pixels)
        except MaskError as error:
            return error
        pixels = picture.pixels
        inside = np.ones(pixels.shape[:2], bool) if picture.outside is None else ~picture.outside
        if picture.palette is None and pixels.ndim == 2:
            inside &= np.isfinite(pixels)
            values, counts = np.unique(pixels[inside], return_counts=True)
            if (values != np.rint(values)).any():
                return MaskError(f"{path} has one band of fractions; expected whole numbers.")
            return dict(zip(values.astype(int).tolist(), counts.tolist(), strict=True)), {}
        colours = pixels if picture.palette is None else np.take(picture.palette, pixels, 0)
        return {}, count_colours(colours[inside])

    found = Survey()
    for result in parallel_map(count, masks):
        if isinstance(result, MaskError):
            found.unreadable.append(str(result))
            continue
        found.masks += 1
        found.values.update(result[0])
        found.colours.update(result[1])
    return found


def check_assumed_legend(folder: Path, masks: Sequence[Path], max_pixels: int) -> None:
    """Check a sample of the masks of a folder without a legend, whose colours are read as DeepGlobe's.

    Logs what is assumed. Refuses a few other colours, just those of ISPRS, only black and white, or only 0
    and 255.
    """
    sample = masks[:: max(1, len(masks) // _SAMPLE)]
    found = survey(sample, max_pixels)
    advice = (
        f"State the legend in {folder / 'landcover.yaml'}, which landcover legend {folder} writes for you to "
        "complete, or pass --legend."
    )
    assumed = f"{folder} declares no legend; that of DeepGlobe is assumed"
    if found.values and not found.colours:
        if set(found.values) == {0, NODATA}:
            raise binary_mask(masks[0])
        listing = ", ".join(f"{value}={name}" for value, name in enumerate(DEEPGLOBE.names))
        hint = "" if 0 in found.values else " Value 0 never occurs; do the ids begin at 1?"
        logger.warning(
            f"{assumed}, by the order of its indices ({listing}): {found.masks} masks contain the values "
            f"{first_few(sorted(found.values), 8)}.{hint} If that is wrong: {advice}"
        )
    if not found.colours:
        return
    total = found.colours.total()
    own = {entry.colour: entry.name for entry in DEEPGLOBE.classes}
    other = {
        colour: count
        for colour, count in found.colours.most_common()
        if colour not in own and (any(64 <= value < 192 for value in colour) or _corner(colour) not in own)
    }
    shown = describe_colours(dict(found.colours.most_common()), total)
    exact = sum(found.colours[colour] for colour in own) / total
    is_other = sum(other.values()) > MAX_OFF_PALETTE * total or exact < _LEAST_EXACT
    problem = None
    if is_other and len(found.colours) <= _MOST:
        problem = (
            f"{1 - exact:.1%} of the pixels of its masks have colours that are not exactly those of "
            f"DeepGlobe: {shown}"
        )
    elif set(found.colours) == _ISPRS:
        problem = (
            "the colours of its masks are those of the ISPRS data sets (Potsdam, Vaihingen) as well as of "
            f"DeepGlobe, where they stand for other classes: {shown}"
        )
    elif {_corner(colour) for colour in found.colours} == {(0, 0, 0), (255, 255, 255)}:
        problem = (
            f"its masks are black and white: {shown}. In the legend of DeepGlobe these are unknown and barren"
        )
    if problem is not None:
        raise DataError(f"{folder} declares no legend, and {problem}. {advice}")
    names = [name for colour, name in own.items() if colour in found.colours]
    logger.warning(
        f"{assumed}: in {found.masks} masks {exact:.2%} of the pixels have exactly one of its colours "
        f"({', '.join(names) or 'none'} occur). If that is wrong: {advice}"
    )


def _corner(colour: Colour) -> Colour:
    red, green, blue = (255 if value >= 128 else 0 for value in colour)
    return red, green, blue


def legend_text(
    found: Survey, *, names: Sequence[str], ignore: Sequence[int], unknown: str | None, gsd: float | None
) -> str:
    """Return ``landcover.yaml`` for the classes that a survey found.

    ``names`` are in ascending order of values or colours, none to leave them to the reader; ``ignore`` are
    values that stand for nodata, and ``unknown`` is the name that is never scored.
    """
    if found.unreadable:
        raise DataError(f"{len(found.unreadable)} masks cannot be read: {found.unreadable[0]}")
    if found.values and found.colours:
        raise DataError("Some masks have one band, others colours; expected one form in a folder.")
    counts: Counter[int] | Counter[Colour] = found.values or found.colours
    if len(counts) > IGNORE:
        what = "values" if found.values else "colours"
        raise DataError(
            f"The masks hold {len(counts)} {what}; a legend has at most 255 classes. They may be "
            f"pictures, or resized with blending: {first_few(counts, 4)}."
        )
    entries = [entry for entry in sorted(counts) if entry not in ignore]
    if names and len(names) != len(entries):
        raise UsageError(
            f"{len(names)} names for {len(entries)} classes; expected one for each of "
            f"{first_few(entries, 20)}, in this order."
        )
    if unknown is not None and unknown not in names:
        raise UsageError(f"The unknown class {unknown!r} is not among the names {', '.join(names)}.")
    lines = ["# Metres per pixel, where the images are not georeferenced.", f"gsd: {gsd or 'null'}"]
    lines += ["legend:", "  name: own", "  classes:"]
    for number, entry in enumerate(entries):
        name = f'"{names[number]}"' if names else ""
        share = f"{counts[entry] / counts.total():.2%}"  # type: ignore[index]
        if isinstance(entry, tuple):
            lines.append(f"    - {{name: {name}, colour: {list(entry)}}}  # {share}")
        else:
            colour = list(colour_of(number))
            lines.append(f"    - {{name: {name}, colour: {colour}, values: [{entry}]}}  # {share}")
    lines.append(f"  unknown: {unknown or 'null'}")
    if ignore:
        lines.append(f"  ignore: {list(ignore)}")
    return "\n".join(lines) + "\n"


def colour_of(number: int) -> Colour:
    """Return a colour for the class of this index, where the data give none."""
    return _PALETTE[number] if number < len(_PALETTE) else (number, number // 2, 99)


_PALETTE: tuple[Colour, ...] = (
    (166, 206, 227), (31, 120, 180), (178, 223, 138), (51, 160, 44), (251, 154, 153), (227, 26, 28),
    (253, 191, 111), (255, 127, 0), (202, 178, 214), (106, 61, 154), (255, 255, 153), (177, 89, 40),
)  # fmt: skip
"""Colours of classes that are given by values: ColorBrewer's Paired."""
