"""Masks from files to files: georeferenced ones stay GeoTIFFs in their place, every other becomes a PNG."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from landcover._typing import UInt8Array
from landcover.errors import MaskError
from landcover.io import MaskFormat, write_mask
from landcover.io.discovery import IMAGE_END, RASTER_SUFFIXES, check_targets, find_files
from landcover.io.readahead import parallel_map
from landcover.legend import Legend
from landcover.progress import track
from landcover.raster import Georeference, read_georeference, write_class_raster

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MaskTask:
    """A mask to read, the one to write, and where both lie, if the file tells."""

    source: Path
    target: Path
    georeference: Georeference | None

    def write(
        self,
        index: UInt8Array,
        legend: Legend,
        *,
        mask_format: MaskFormat,
        tags: Mapping[str, str] | None = None,
        force: bool,
    ) -> None:
        """Write class indices, uint8 (H, W); ``mask_format`` is that of a PNG."""
        if self.georeference is None:
            write_mask(self.target, index, legend, mask_format=mask_format, tags=tags, force=force)
        else:
            write_class_raster(self.target, index, legend, self.georeference, tags=tags, force=force)


def plan_masks(
    masks: Sequence[str | Path], out: Path, *, suffixes: frozenset[str], force: bool
) -> list[MaskTask]:
    """Return what is to be done, after every reason to refuse the whole job has been looked at.

    Raises:
        UsageError: If there is no input.
        DataError: If an input does not exist or a folder holds no masks.
        OutputError: If two masks would get one output, one would replace an input, or exists and ``force`` is
            off.
    """
    tasks = []
    for found in find_files(masks, out, what="masks", suffixes=suffixes, left_out=(IMAGE_END,)):
        suffix = found.path.suffix.lower()
        georeference = read_georeference(found.path) if suffix in RASTER_SUFFIXES else None
        if georeference is None:
            target = out / found.relative.with_suffix(".png")
        else:
            target = out / (found.relative.with_suffix(".tif") if suffix == ".jp2" else found.relative)
        tasks.append(MaskTask(found.path, target, georeference))
    check_targets([(task.source, task.target) for task in tasks], force=force)
    return tasks


def work_off(
    tasks: Sequence[MaskTask], work: Callable[[MaskTask], T], description: str
) -> tuple[list[tuple[MaskTask, T]], dict[Path, str]]:
    """Do one thing to many masks, several at a time, under a progress bar.

    Args:
        tasks: The masks.
        work: What to do with one. A mask for which it raises :class:`MaskError` is skipped.
        description: What is being done, such as ``Cleaning``.

    Returns:
        The masks that were done, in order, each with what ``work`` returned; and why the others were skipped,
        by path.
    """

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
    return done, skipped
