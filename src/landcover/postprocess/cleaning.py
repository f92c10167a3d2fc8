"""Small regions removed from files and folders of masks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio

from landcover.codecs import MaskFormat, read_mask, write_mask
from landcover.errors import DataError, LandcoverError, OutputError, UsageError
from landcover.files import refuse_existing
from landcover.legend import DEEPGLOBE, Legend
from landcover.postprocess.regions import parse_min_region, remove_small_regions
from landcover.progress import track
from landcover.raster import Georeference, ground_sample_distance, read_georeference, write_class_raster

_MASK_SUFFIXES = {".png", ".tif", ".tiff"}
_RASTER_SUFFIXES = {".tif", ".tiff"}
_OWN_TAGS = {"AREA_OR_POINT", "CLASS_NAMES"}
"""Tags that writing a map sets anew."""


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


@dataclass(frozen=True)
class _Task:
    source: Path
    target: Path
    georeference: Georeference | None


def clean(
    masks: Sequence[Path],
    out: Path,
    *,
    min_region: str,
    legend: Legend = DEEPGLOBE,
    gsd: float | None = None,
    mask_format: MaskFormat = "palette",
    force: bool = False,
) -> Cleaned:
    """Remove small regions from masks; see :func:`remove_small_regions` for the rule.

    Folders are searched for PNG and TIFF files (``*_sat.*`` are imagery and passed over) and keep their
    structure below ``out``. Georeferenced TIFFs stay GeoTIFFs with their place and tags; every other mask
    becomes a PNG. A mask that cannot be read or written is skipped and told of in the result.

    Args:
        masks: Files and folders, in any form that :func:`landcover.codecs.read_mask` takes.
        out: Folder of the results.
        min_region: Smallest region that stays, as ``8000px`` or ``2000m2``.
        legend: Classes of the masks.
        gsd: Metres per pixel for areas; None asks each raster's transform.
        mask_format: Form of the PNGs.
        force: Replace existing results.

    Raises:
        UsageError: If ``min_region`` is no size.
        DataError: If an input does not exist or a folder holds no masks.
        OutputError: If two masks would get one output, or an output exists and ``force`` is off. Nothing has
            been written then.
    """
    parse_min_region(min_region, gsd or 1.0)  # a size without unit stops everything, a missing GSD one mask
    tasks = _plan(masks, out, force=force)
    result = Cleaned()
    for task in track(tasks, "Cleaning"):
        try:
            mask = read_mask(task.source, legend)
            known_gsd = gsd
            if known_gsd is None and task.georeference is not None:
                known_gsd = ground_sample_distance(task.source)
            index = remove_small_regions(mask.index, parse_min_region(min_region, known_gsd))
            if task.georeference is None:
                write_mask(task.target, index, legend, mask_format=mask_format, force=force)
            else:
                tags = _tags(task.source)
                write_class_raster(task.target, index, legend, task.georeference, tags=tags, force=force)
        except LandcoverError as error:
            result.failed[task.source] = str(error)
            continue
        result.written.append(task.target)
        result.pixels += index.size
        result.changed += int(np.count_nonzero(index != mask.index))
        result.off_palette += mask.off_palette
    return result


def _plan(masks: Sequence[Path], out: Path, *, force: bool) -> list[_Task]:
    tasks: dict[Path, _Task] = {}
    for source, relative in _find(masks):
        georeference = read_georeference(source) if source.suffix.lower() in _RASTER_SUFFIXES else None
        target = out / (relative.with_suffix(".png") if georeference is None else relative)
        other = tasks.setdefault(target, _Task(source, target, georeference)).source
        if other != source:
            raise OutputError(
                f"{other} and {source} would both become {target}. Clean them into two folders, or give the "
                "folder that holds both."
            )
    for target in tasks:
        refuse_existing(target, force=force)
    return list(tasks.values())


def _find(masks: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield each mask with its path below the output folder."""
    if not masks:
        raise UsageError("No masks were given; pass files or folders.")
    for given in masks:
        if given.is_dir():
            files = sorted(path for path in given.rglob("*") if _is_mask(path))
            if not files:
                raise DataError(
                    f"{given} holds no masks; expected PNG or TIFF files there or in its subfolders."
                )
            yield from ((path, path.relative_to(given)) for path in files)
        elif given.exists():
            yield given, Path(given.name)
        else:
            raise DataError(f"{given} does not exist; expected a mask or a folder of masks.")


def _is_mask(path: Path) -> bool:
    hidden_or_image = path.name.startswith(".") or path.stem.endswith("_sat")
    return path.suffix.lower() in _MASK_SUFFIXES and not hidden_or_image and path.is_file()


def _tags(path: Path) -> dict[str, str]:
    with rasterio.open(path) as source:
        return {name: value for name, value in source.tags().items() if name not in _OWN_TAGS}
