"""Small regions removed from files and folders of masks."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError

from landcover._gdal import open_raster
from landcover._typing import UInt8Array
from landcover.data.conversion import MaskTask, plan_masks, work_off
from landcover.errors import ImageError, MaskError, UsageError
from landcover.io import MaskFormat, read_mask
from landcover.io.discovery import MASK_SUFFIXES, MAX_OFF_PALETTE
from landcover.io.locks import locked_folder
from landcover.legend import DEEPGLOBE, Legend
from landcover.postprocess.sieve import BLOCK_ROWS, SmallRegions, decide, remove_small_regions, rewrite
from landcover.raster import Georeference, read_header, write_map
from landcover.raster.classmap import carried_legend, open_class_map
from landcover.scale import check_gsd
from landcover.values import RegionSize

_OWN_TAGS = {"AREA_OR_POINT", *DEEPGLOBE.tags}
"""Tags that are set when a raster is written."""


@dataclass
class Cleaned:
    """Result of :func:`clean`.

    Attributes:
        written: The new masks.
        failed: The reason for each skipped mask, by path.
        pixels: Pixels of the new masks.
        changed: Pixels with another class than before.
        off_palette: Pixels whose colour is not a class, which became unknown.
        small_regions: Regions below the smallest size that remain.
    """

    written: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    pixels: int = 0
    changed: int = 0
    off_palette: int = 0
    small_regions: int = 0


class MaskLimits(TypedDict, total=False):
    """Limits beyond which :func:`clean` skips a mask.

    Attributes:
        max_off_palette: Largest fraction of pixels, 0..1, whose colour may have no class.
        max_pixels: Largest size of masks that are held whole.
    """

    max_off_palette: float
    max_pixels: int


def clean(
    masks: Sequence[str | Path],
    out: str | Path,
    *,
    min_region: str | RegionSize,
    legend: Legend | None = None,
    gsd: float | None = None,
    mask_format: MaskFormat = "palette",
    force: bool = False,
    **limits: Unpack[MaskLimits],
) -> Cleaned:
    """Remove small regions from masks, see :func:`remove_small_regions`.

    Folders are searched for PNG and TIFF files (except ``*_sat.*``, which are imagery) and keep their
    structure below ``out``. Georeferenced TIFFs stay GeoTIFFs in the same place, every other mask becomes a
    PNG; tags are kept, and the size of the regions is added to them. A mask that cannot be read, has other
    classes, or needs a GSD that is unknown, is skipped; the result contains the reason.

    Georeferenced masks of class indices, as landcover writes them, may be larger than memory: they are read
    twice by row blocks, see :func:`~landcover.postprocess.sieve.sieve_row_blocks`. All others are held whole.
    Several masks are processed at a time, one for each processor.

    Args:
        masks: Files and folders, in any form that :func:`landcover.io.read_mask` takes.
        out: Folder of the results.
        min_region: Smallest region that stays, as ``8000px`` or ``2000m2``; or a strict ``RegionSize``.
        legend: Classes of the masks. None: those that each carries, else DeepGlobe's.
        gsd: Metres per pixel of all masks, for areas; None: that of each raster's transform.
        mask_format: Form of the PNGs.
        force: Replace existing results.
        limits: See :class:`MaskLimits`.

    Raises:
        UsageError: If ``min_region`` or ``max_off_palette`` is not valid, or there is no input.
        DataError: If an input does not exist or a folder contains no masks.
        OutputError: If two masks would get one output, one would replace an input, or exists and ``force`` is
            off: nothing has been written then. Also if an output cannot be written.

    Example:
        >>> folder = make_dataset("data", scenes=3, size=64)
        >>> cleaned = lc.clean([folder], "cleaned", min_region="20px")
        >>> len(cleaned.written), cleaned.pixels
        (3, 12288)
    """
    size = RegionSize.parse(min_region)
    allowed: MaskLimits = {"max_off_palette": MAX_OFF_PALETTE, **limits}
    if gsd is not None:
        check_gsd(gsd)

    def clean_one(task: MaskTask) -> tuple[int, int, int, int]:
        """Return pixels of a mask: all, changed, off-palette; and the small regions that remain."""
        own, tags, by_blocks = _look_at(task, legend)
        tags["LANDCOVER_MIN_REGION"] = str(size)
        with ExitStack() as opened:
            if by_blocks:
                source = opened.enter_context(open_class_map(task.source, own))
                (height, width), off_palette = source.place.size, 0
            else:
                mask = read_mask(task.source, own, **allowed)
                (height, width), off_palette = mask.index.shape, mask.off_palette
            try:
                least = size.pixels(gsd or read_header(task.source).gsd)
            except UsageError as error:
                raise MaskError(f"{task.source}: {error}") from error
            small, changed = SmallRegions(width), 0
            if by_blocks:

                def blocks() -> Iterator[UInt8Array]:
                    return map(source.read, source.strips(BLOCK_ROWS))

                def cleaned(values: UInt8Array) -> Iterator[UInt8Array]:
                    nonlocal changed
                    old, read = tee(blocks())  # rewrite takes one block for each that it yields
                    for before, after in zip(old, rewrite(read, width, values), strict=True):
                        changed += int(np.count_nonzero(before != after))
                        small.add(after)
                        yield after

                values = decide(blocks(), width, least, strict=size.strict)
                write_map(
                    task.target, cleaned(values), source.required_georeference, own, tags=tags, force=force
                )
            else:
                index = remove_small_regions(mask.index, least, strict=size.strict)
                changed = int(np.count_nonzero(index != mask.index))
                for row in range(0, height, BLOCK_ROWS):
                    small.add(index[row : row + BLOCK_ROWS])
                task.write(index, own, mask_format=mask_format, tags=tags, force=force)
            return height * width, changed, off_palette, small.count(least)

    with locked_folder(Path(out)):
        tasks = plan_masks(masks, Path(out), suffixes=MASK_SUFFIXES, force=force)
        done, failed = work_off(tasks, clean_one, "Cleaning")
    sums = (sum(counts) for counts in zip((0, 0, 0, 0), *(c for _, c in done), strict=True))
    return Cleaned([task.target for task, _ in done], failed, *sums)


def _look_at(task: MaskTask, legend: Legend | None) -> tuple[Legend, dict[str, str], bool]:
    """Return the legend, the tags that the new mask keeps, and whether it can be cleaned by row blocks."""
    try:
        source = open_raster(task.source)
    except (RasterioError, ImageError):
        return legend or DEEPGLOBE, {}, False  # read_mask reports what is wrong with the file
    with source:
        own, tags = carried_legend(task.source, source, legend), source.tags()
        # Values are class indices: no colours, and no mask other than a nodata value.
        by_blocks = (
            isinstance(task.place, Georeference)
            and source.dtypes == ("uint8",)
            and MaskFlags.per_dataset not in source.mask_flag_enums[0]
            and (own is not None or source.colorinterp[0] != ColorInterp.palette)
        )
    kept = {name: value for name, value in tags.items() if name not in _OWN_TAGS}
    return legend or own or DEEPGLOBE, kept, by_blocks
