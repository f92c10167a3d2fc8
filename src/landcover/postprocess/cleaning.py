"""Small regions removed from files and folders of masks."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from landcover.codecs import MAX_PIXELS, MaskFormat, read_mask, write_mask
from landcover.data.parallel import parallel_map
from landcover.errors import DataError, MaskError, OutputError, UsageError
from landcover.files import refuse_existing
from landcover.legend import DEEPGLOBE, Legend
from landcover.postprocess.regions import parse_min_region, remove_small_regions
from landcover.progress import track
from landcover.raster import Georeference, ground_sample_distance, read_georeference, write_class_raster

_MASK_SUFFIXES = {".png", ".tif", ".tiff"}
_RASTER_SUFFIXES = {".tif", ".tiff"}
_OWN_TAGS = {"AREA_OR_POINT", "CLASS_NAMES"}
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
class _Task:
    source: Path
    target: Path
    georeference: Georeference | None


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
    max_pixels: int = MAX_PIXELS,
    force: bool = False,
) -> Cleaned:
    """Remove small regions from masks; see :func:`remove_small_regions` for the rule.

    Folders are searched for PNG and TIFF files (``*_sat.*`` are imagery and passed over) and keep their
    structure below ``out``. Georeferenced TIFFs stay GeoTIFFs in the same place, every other mask becomes a
    PNG; tags are kept, and the size of the regions is added to them. A mask that cannot be read, or whose GSD
    is needed and unknown, is skipped and told of in the result.

    Args:
        masks: Files and folders, in any form that :func:`landcover.codecs.read_mask` takes.
        out: Folder of the results.
        min_region: Smallest region that stays, as ``8000px`` or ``2000m2``.
        legend: Classes of the masks.
        gsd: Metres per pixel of all masks, for areas; None asks each raster's transform.
        mask_format: Form of the PNGs.
        max_pixels: Larger masks are skipped before they are decoded.
        force: Replace existing results.

    Raises:
        UsageError: If ``min_region`` is no size, or there is no input.
        DataError: If an input does not exist or a folder holds no masks.
        OutputError: If two masks would get one output, one would replace an input, or exists and ``force`` is
            off: nothing has been written then. Also if an output cannot be written.
    """
    parse_min_region(min_region, 1.0 if gsd is None else gsd)  # refuse what is no size before any work
    tasks = _plan([Path(given) for given in masks], Path(out), force=force)

    def clean_one(task: _Task) -> _Outcome | MaskError:
        try:
            mask = read_mask(task.source, legend, max_pixels=max_pixels)
            min_pixels = parse_min_region(min_region, gsd or ground_sample_distance(task.source))
        except MaskError as error:
            return error
        except UsageError as error:
            return MaskError(f"{task.source}: {error}")
        index = remove_small_regions(mask.index, min_pixels)
        tags = _tags(task.source) | {"LANDCOVER_MIN_REGION": min_region}
        if task.georeference is None:
            write_mask(task.target, index, legend, mask_format=mask_format, tags=tags, force=force)
        else:
            write_class_raster(task.target, index, legend, task.georeference, tags=tags, force=force)
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


def _plan(masks: Sequence[Path], out: Path, *, force: bool) -> list[_Task]:
    """Return what is to be done, after every reason to refuse the whole job has been looked at."""
    if not masks:
        raise UsageError("No masks were given; pass files or folders.")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; expected the folder that the masks are written to.")
    tasks: dict[Path, _Task] = {}
    for source, relative in _find(masks, out):
        georeference = read_georeference(source) if source.suffix.lower() in _RASTER_SUFFIXES else None
        target = out / (relative.with_suffix(".png") if georeference is None else relative)
        other = tasks.setdefault(target, _Task(source, target, georeference)).source
        if other != source:
            raise OutputError(
                f"{other} and {source} would both become {target}. Clean them into two folders, or give the "
                "folder that holds both."
            )
    inputs = {task.source.resolve() for task in tasks.values()}
    for target in tasks:
        if target.resolve() in inputs:
            raise OutputError(f"{target} would replace an input. Choose another output folder.")
        refuse_existing(target, force=force)
    return list(tasks.values())


def _find(masks: Sequence[Path], out: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each mask with its path below the output folder."""
    for given in masks:
        if not given.exists():
            raise DataError(f"{given} does not exist; expected a mask or a folder of masks.")
        if not given.is_dir():
            yield given, Path(given.name)
            continue
        earlier = out.resolve() if given.resolve() in out.resolve().parents else None
        files = [
            path
            for path in sorted(given.rglob("*"))
            if _is_mask(path) and not (earlier and path.resolve().is_relative_to(earlier))
        ]
        if not files:
            raise DataError(f"{given} holds no masks; expected PNG or TIFF files in it or in its subfolders.")
        yield from ((path, path.relative_to(given)) for path in files)


def _is_mask(path: Path) -> bool:
    hidden_or_image = path.name.startswith(".") or path.stem.endswith("_sat")
    return path.suffix.lower() in _MASK_SUFFIXES and not hidden_or_image and path.is_file()


def _tags(path: Path) -> dict[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as source:
            return {name: value for name, value in source.tags().items() if name not in _OWN_TAGS}
