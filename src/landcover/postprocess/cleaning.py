"""Small regions removed from files and folders of masks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader

from landcover._typing import UInt8Array
from landcover.data.conversion import MaskTask, plan_masks, work_off
from landcover.errors import MaskError, UsageError
from landcover.io import MaskFormat, read_mask
from landcover.io.discovery import MASK_SUFFIXES, MAX_OFF_PALETTE, MAX_PIXELS
from landcover.legend import CLASS_NAMES, DEEPGLOBE, Legend
from landcover.postprocess.regions import remove_small_regions
from landcover.postprocess.sieve import BAND_ROWS, decide, rewrite
from landcover.raster import RasterSpec, ground_sample_distance, write_map
from landcover.raster.classmap import check_classes, open_class_map, open_raster
from landcover.scale import check_gsd
from landcover.values import RegionSize

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
    off_palette: int = 0


def clean(
    masks: Sequence[str | Path],
    out: str | Path,
    *,
    min_region: str | RegionSize,
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

    Georeferenced masks of class indices, as landcover writes them, may be larger than memory: they are read
    twice by bands of rows, which takes what :func:`~landcover.postprocess.sieve.sieve_bands` says. All others
    are held whole. Several masks are worked on at a time, one for each processor.

    Args:
        masks: Files and folders, in any form that :func:`landcover.io.read_mask` takes.
        out: Folder of the results.
        min_region: Smallest region that stays, as ``8000px`` or ``2000m2``.
        legend: Classes of the masks.
        gsd: Metres per pixel of all masks, for areas; None asks each raster's transform.
        mask_format: Form of the PNGs.
        max_off_palette: Share of pixels, 0..1, whose colour may have no class; a mask with more is skipped.
        max_pixels: Larger masks that would have to be held whole are skipped before they are decoded.
        force: Replace existing results.

    Raises:
        UsageError: If ``min_region`` is no size, ``max_off_palette`` no share, or there is no input.
        DataError: If an input does not exist or a folder holds no masks.
        OutputError: If two masks would get one output, one would replace an input, or exists and ``force`` is
            off: nothing has been written then. Also if an output cannot be written.

    Example:
        >>> import landcover as lc
        >>> from landcover.data.synthetic import make_dataset
        >>> folder = make_dataset("data", scenes=3, size=64)
        >>> cleaned = lc.clean([folder], "cleaned", min_region="20px")
        >>> len(cleaned.written), cleaned.pixels
        (3, 12288)
    """
    size = RegionSize.parse(min_region)
    if gsd is not None:
        check_gsd(gsd)
    tasks = plan_masks(masks, Path(out), suffixes=MASK_SUFFIXES, force=force)

    def clean_one(task: MaskTask) -> _Outcome:
        tags, by_bands = _look_at(task, legend)
        tags["LANDCOVER_MIN_REGION"] = str(size)
        if by_bands:
            return _clean_by_bands(task, legend, _min_pixels(task, size, gsd), tags, force=force)
        mask = read_mask(task.source, legend, max_pixels=max_pixels, max_off_palette=max_off_palette)
        index = remove_small_regions(mask.index, _min_pixels(task, size, gsd))
        task.write(index, legend, mask_format=mask_format, tags=tags, force=force)
        return _Outcome(index.size, int(np.count_nonzero(index != mask.index)), mask.off_palette)

    done, failed = work_off(tasks, clean_one, "Cleaning")
    return Cleaned(
        written=[task.target for task, _ in done],
        failed=failed,
        pixels=sum(outcome.pixels for _, outcome in done),
        changed=sum(outcome.changed for _, outcome in done),
        off_palette=sum(outcome.off_palette for _, outcome in done),
    )


def _clean_by_bands(
    task: MaskTask, legend: Legend, min_pixels: int, tags: dict[str, str], *, force: bool
) -> _Outcome:
    """Clean a raster of class indices without ever holding more of it than a band of rows."""
    changed = 0
    with open_class_map(task.source, legend) as source:

        def bands() -> Iterator[UInt8Array]:
            return map(source.read, source.strips(BAND_ROWS))

        def cleaned(values: UInt8Array) -> Iterator[UInt8Array]:
            nonlocal changed
            old, read = tee(bands())  # rewrite takes one band for each that it gives: no more is held
            for before, after in zip(old, rewrite(read, source.width, values), strict=True):
                changed += int(np.count_nonzero(before != after))
                yield after

        values = decide(bands(), source.width, min_pixels)
        spec = RasterSpec(source.height, source.width, source.place, tags)
        write_map(task.target, cleaned(values), spec, legend, force=force)
        return _Outcome(source.height * source.width, changed)


def _min_pixels(task: MaskTask, size: RegionSize, gsd: float | None) -> int:
    try:
        return size.pixels(gsd or ground_sample_distance(task.source))
    except UsageError as error:
        raise MaskError(f"{task.source}: {error}") from error


def _look_at(task: MaskTask, legend: Legend) -> tuple[dict[str, str], bool]:
    """Return the tags that the new mask keeps, and whether it can be cleaned by bands.

    Raises:
        MaskError: If its tags name other classes.
    """
    try:
        with open_raster(task.source, "a mask") as source:
            tags = source.tags()
            by_bands = task.georeference is not None and _holds_indices(source)
    except MaskError:
        return {}, False  # what is wrong with the file is said by those who read its pixels
    check_classes(task.source, tags.get(CLASS_NAMES), legend)
    return {name: value for name, value in tags.items() if name not in _OWN_TAGS}, by_bands


def _holds_indices(source: DatasetReader) -> bool:
    """Whether a raster's values are class indices: no colours, and no mask apart from a nodata value."""
    return (
        source.dtypes == ("uint8",)
        and MaskFlags.per_dataset not in source.mask_flag_enums[0]
        and (source.colorinterp[0] != ColorInterp.palette or CLASS_NAMES in source.tags())
    )
