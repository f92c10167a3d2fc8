"""Small regions removed from files and folders of masks."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from landcover.batch import MASK_SUFFIXES, MAX_OFF_PALETTE, MAX_PIXELS
from landcover.codecs import MaskFormat, read_mask
from landcover.data.maskfiles import MaskTask, plan_masks
from landcover.data.parallel import parallel_map
from landcover.errors import MaskError, UsageError
from landcover.legend import CLASS_NAMES, DEEPGLOBE, Legend
from landcover.postprocess.regions import parse_min_region, remove_small_regions
from landcover.progress import track
from landcover.raster import ground_sample_distance

_OWN_TAGS = {"AREA_OR_POINT", CLASS_NAMES}
"""Tags that writing a raster sets anew."""


@dataclass
class Cleaned:
    """What :func:`clean` did.

    Attributes:
        written: The new masks.
        failed: Why a mask was skipped, by its path.
        pixels: Pixels of the new masks.
        changed: How many of them have another class than before.
        off_palette: How many had a colour that is no class, and became unknown.
    """

    written: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    pixels: int = 0
    changed: int = 0
    off_palette: int = 0


@dataclass(frozen=True, slots=True)
class _Outcome:
    pixels: int
    changed: int
    off_palette: int


def clean(
    masks: Sequence[str | Path],
    out: str | Path,
    *,
    min_region: str,
    legend: Legend = DEEPGLOBE,
    gsd: float | None = None,
    mask_format: MaskFormat = "palette",
    max_off_palette: float = MAX_OFF_PALETTE,
    max_pixels: int = MAX_PIXELS,
    force: bool = False,
) -> Cleaned:
    """Remove small regions from masks; see :func:`remove_small_regions` for the rule.

    Folders are searched for PNG and TIFF files (``*_sat.*`` are imagery and passed over) and keep their
    structure below ``out``. Georeferenced TIFFs stay GeoTIFFs in the same place, every other mask becomes a
    PNG; tags are kept, and the size of the regions is added to them. A mask that cannot be read, that says it
    has other classes, or whose GSD is needed and unknown, is skipped and told of in the result.

    Args:
        masks: Files and folders, in any form that :func:`landcover.codecs.read_mask` takes.
        out: Folder of the results.
        min_region: Smallest region that stays, as ``8000px`` or ``2000m2``.
        legend: Classes of the masks.
        gsd: Metres per pixel of all masks, for areas; None asks each raster's transform.
        mask_format: Form of the PNGs.
        max_off_palette: Share of pixels, 0..1, whose colour may have no class; a mask with more is skipped.
        max_pixels: Larger masks are skipped before they are decoded.
        force: Replace existing results.

    Raises:
        UsageError: If ``min_region`` is no size, ``max_off_palette`` no share, or there is no input.
        DataError: If an input does not exist or a folder holds no masks.
        OutputError: If two masks would get one output, one would replace an input, or exists and ``force`` is
            off: nothing has been written then. Also if an output cannot be written.
    """
    parse_min_region(min_region, 1.0 if gsd is None else gsd)  # refuse what is no size before any work
    tasks = plan_masks(masks, Path(out), suffixes=MASK_SUFFIXES, force=force)

    def clean_one(task: MaskTask) -> _Outcome | MaskError:
        try:
            tags = _tags(task.source, legend) | {"LANDCOVER_MIN_REGION": min_region}
            mask = read_mask(task.source, legend, max_pixels=max_pixels, max_off_palette=max_off_palette)
        except MaskError as error:
            return error
        try:
            min_pixels = parse_min_region(min_region, gsd or ground_sample_distance(task.source))
        except UsageError as error:
            return MaskError(f"{task.source}: {error}")
        index = remove_small_regions(mask.index, min_pixels)
        task.write(index, legend, mask_format=mask_format, tags=tags, force=force)
        changed = int(np.count_nonzero(index != mask.index))
        return _Outcome(index.size, changed, mask.off_palette)

    result = Cleaned()
    outcomes = track(parallel_map(clean_one, tasks), "Cleaning", total=len(tasks))
    for task, outcome in zip(tasks, outcomes, strict=True):
        if isinstance(outcome, MaskError):
            result.failed[task.source] = str(outcome)
            continue
        result.written.append(task.target)
        result.pixels += outcome.pixels
        result.changed += outcome.changed
        result.off_palette += outcome.off_palette
    return result


def _tags(path: Path, legend: Legend) -> dict[str, str]:
    """Return the tags that the new mask keeps; refuse a mask whose tags name other classes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as source:
                tags = source.tags()
    except RasterioError:
        return {}  # what is wrong with the file is said by those who read its pixels
    listing = tags.get(CLASS_NAMES, legend.listing)
    if listing != legend.listing:
        raise MaskError(
            f"{path} is a map of the classes {listing}; the legend {legend.name!r} has {legend.listing}. "
            "Give the map's legend with --legend."
        )
    return {name: value for name, value in tags.items() if name not in _OWN_TAGS}
