"""Convert mask files between colours and indices.

Georeferenced masks stay GeoTIFFs in their place, the others become PNGs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, get_args

from landcover._typing import UInt8Array
from landcover.errors import MaskError, UsageError, did_you_mean
from landcover.io import MaskFormat, read_mask
from landcover.io.discovery import (
    IMAGE_END,
    MASK_SUFFIXES,
    MAX_OFF_PALETTE,
    MAX_PIXELS,
    PICTURE_SUFFIXES,
    RASTER_SUFFIXES,
    check_targets,
    find_files,
)
from landcover.io.locks import locked_folder
from landcover.io.readahead import parallel_map
from landcover.legend import DEEPGLOBE, Legend
from landcover.progress import track
from landcover.raster import Georeference, Place, read_header, style_files
from landcover.raster.mapfiles import MAP_FORMATS, MapFormat, world_file, write_map_file

T = TypeVar("T")

Form = Literal["index", "colour"]
ColourFormat = Literal["palette", "rgb"]


@dataclass
class Converted:
    """Result of :func:`convert`.

    Attributes:
        written: The new masks.
        failed: Error of each skipped mask, by its path.
        off_palette: Number of off-palette pixels by path, for masks that have any.
    """

    written: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    off_palette: dict[Path, int] = field(default_factory=dict)


def convert(
    masks: Sequence[str | Path],
    out: str | Path,
    *,
    to: Form,
    legend: Legend = DEEPGLOBE,
    mask_format: ColourFormat | None = None,
    max_off_palette: float = MAX_OFF_PALETTE,
    max_pixels: int = MAX_PIXELS,
    force: bool = False,
) -> Converted:
    """Convert masks of any form to indices or colours of the same size.

    Folders are searched with their subfolders, without hidden files and ``*_sat.*`` (imagery), and keep their
    structure below ``out``. A georeferenced mask becomes a GeoTIFF with the same georeference, whose colour
    table gives both indices and colours; every other becomes ``<stem>.png``. Files that are not masks are
    skipped and listed in the result.

    Args:
        masks: Files and folders, in any form that :func:`landcover.io.read_mask` takes.
        out: Folder of the results.
        to: ``index``, one band in the legend's order, or ``colour``.
        legend: The classes, their colours and their order.
        mask_format: Form of colours in PNGs, ``palette`` (default) or ``rgb``.
        max_off_palette: Fraction of off-palette pixels, 0..1, above which a mask is skipped.
        max_pixels: Larger files are skipped before they are decoded.
        force: Replace existing results.

    Raises:
        UsageError: If an option has an unknown value, or there is no input.
        DataError: If an input does not exist or a folder has no masks.
        OutputError: If two masks would get one name, a result would replace an input, or exists and ``force``
            is off (nothing is written then), or a result cannot be written.

    Example:
        >>> folder = make_dataset("data", scenes=3, size=64)
        >>> converted = lc.convert([folder], "indices", to="index")
        >>> len(converted.written), converted.failed
        (3, {})
    """
    if to not in get_args(Form):
        raise UsageError(f"Masks cannot be converted to {to!r}. {did_you_mean(to, get_args(Form))}")
    if mask_format is not None and to == "index":
        raise UsageError("A mask format is for colours only; omit it, or convert to colour.")
    if mask_format not in (None, *get_args(ColourFormat)):
        hint = did_you_mean(str(mask_format), get_args(ColourFormat))
        raise UsageError(f"Unknown format of colours {mask_format!r}. {hint}")
    png_format: MaskFormat = "index" if to == "index" else mask_format or "palette"
    if max_pixels < 1:
        raise UsageError(f"max_pixels is {max_pixels}; expected at least 1.")

    def convert_one(task: MaskTask) -> int:
        mask = read_mask(task.source, legend, max_pixels=max_pixels, max_off_palette=max_off_palette)
        task.write(mask.index, legend, mask_format=png_format, force=force)
        return mask.off_palette

    with locked_folder(Path(out)):
        tasks = plan_masks(masks, Path(out), suffixes=PICTURE_SUFFIXES | MASK_SUFFIXES, force=force)
        done, failed = work_off(tasks, convert_one, "Converting")
    return Converted(
        written=[task.target for task, _ in done],
        failed=failed,
        off_palette={task.source: off_palette for task, off_palette in done if off_palette},
    )


@dataclass(frozen=True, slots=True)
class MaskTask:
    """A mask to read, the file to write, and where it is, if it is a raster."""

    source: Path
    target: Path
    place: Place | None

    @property
    def format(self) -> MapFormat:
        """The file format of the target."""
        return MAP_FORMATS["tif" if isinstance(self.place, Georeference) else "png"]

    @property
    def beside(self) -> tuple[Path, ...]:
        """The files that are written beside the target."""
        if self.format.is_geotiff:
            return style_files(self.target)
        return () if self.place is None or self.place.transform is None else (world_file(self.target),)

    def write(
        self,
        index: UInt8Array,
        legend: Legend,
        *,
        mask_format: MaskFormat,
        tags: Mapping[str, str] | None = None,
        force: bool,
    ) -> None:
        """Write class indices, uint8 (H, W); ``mask_format`` is only for PNG."""
        place, map_format = self.place or Place(*index.shape), self.format._replace(mask_format=mask_format)
        write_map_file(self.target, [index], place, legend, map_format, tags=tags or {}, force=force)


def plan_masks(
    masks: Sequence[str | Path], out: Path, *, suffixes: frozenset[str], force: bool
) -> list[MaskTask]:
    """Return the tasks of a job, after all checks of its inputs and outputs."""
    tasks = []
    for found in find_files(masks, out, what="masks", suffixes=suffixes, left_out=(IMAGE_END,)):
        suffix = found.path.suffix.lower()
        place = read_header(found.path).place
        if place is not None and suffix not in RASTER_SUFFIXES:
            place = Place(*place.size, place.transform)
        if not isinstance(place, Georeference):
            target = out / found.relative.with_suffix(".png")
        else:
            target = out / (found.relative.with_suffix(".tif") if suffix == ".jp2" else found.relative)
        tasks.append(MaskTask(found.path, target, place))
    outputs = [(task.source, path) for task in tasks for path in (task.target, *task.beside)]
    check_targets(outputs, force=force)
    return tasks


def work_off(
    tasks: Sequence[MaskTask], work: Callable[[MaskTask], T], description: str
) -> tuple[list[tuple[MaskTask, T]], dict[Path, str]]:
    """Process masks in parallel; return those done, in order, with their results, and the others' errors."""

    def attempt(task: MaskTask) -> T | MaskError:
        try:
            return work(task)
        except MaskError as error:
            return error

    done: list[tuple[MaskTask, T]] = []
    skipped: dict[Path, str] = {}
    outcomes = track(parallel_map(attempt, tasks), description, total=len(tasks))
    for task, outcome in zip(tasks, outcomes, strict=True):
        if isinstance(outcome, MaskError):
            skipped[task.source] = str(outcome)
        else:
            done.append((task, outcome))
    lost = [task for task, _ in done if not task.target.is_file()]
    skipped |= {task.source: f"{task.target} was removed after it was written." for task in lost}
    return [(task, outcome) for task, outcome in done if task not in lost], skipped
