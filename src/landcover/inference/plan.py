"""What a prediction will read and write, settled before any work: name, place and scale of every image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from landcover.batch import IMAGE_END, PICTURE_SUFFIXES, check_targets, find_files
from landcover.data import open_dataset
from landcover.data.dataset import SETTINGS_FILE, read_settings
from landcover.errors import DataError
from landcover.preprocessing import check_gsd
from landcover.raster import Georeference, ground_sample_distance, read_georeference

NO_IMAGE = ("_mask", "_label", "_probabilities")
"""Ends of names that folders are not searched for: masks, and what ``predict`` itself writes."""

GsdSource = Literal["option", "raster", "data folder", "assumed"]


@dataclass(frozen=True, slots=True)
class Task:
    """One image to predict.

    Attributes:
        image: The image file.
        map: The map to write: GeoTIFF where the image is georeferenced, else PNG.
        probabilities: The GeoTIFF of probabilities to write, or None.
        georeference: Where the image lies, or None.
        gsd: Metres per pixel of the image.
        gsd_source: Who says so. ``assumed``: nobody, it is the model's.
    """

    image: Path
    map: Path
    probabilities: Path | None
    georeference: Georeference | None
    gsd: float
    gsd_source: GsdSource


def read_list(file: Path) -> list[Path]:
    """Read a list of inputs: a path a line, seen from the file's own folder.

    Empty lines, and lines that begin with ``#``, say nothing.

    Raises:
        DataError: If the file cannot be read, is no text or names nothing.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file} cannot be read as a list of inputs: {error}. Expected text, one path a line."
        ) from error
    entries = [line.strip() for line in lines]
    paths = [file.parent / entry for entry in entries if entry and not entry.startswith("#")]
    if not paths:
        raise DataError(f"{file} names no input. Expected one path a line.")
    return paths


def plan(
    inputs: Sequence[str | Path],
    out: Path,
    *,
    model_gsd: float,
    gsd: float | None,
    probabilities: bool,
    force: bool,
) -> list[Task]:
    """Find the images and decide name, georeference and scale of each.

    Args:
        inputs: Image files, and folders that are searched with their subfolders.
        out: Folder of the maps; the folders below an input folder are kept in it.
        model_gsd: What is assumed of images whose scale nobody tells.
        gsd: Metres per pixel of all images; None asks the image's transform, then the nearest
            ``landcover.yaml`` in or above its folder, then the layout of the input folder.
        probabilities: Whether probabilities are to be written too.
        force: Allow outputs that exist.

    Raises:
        UsageError: If there is no input, or the GSD is no positive number.
        DataError: If an input does not exist or a folder holds no images.
        OutputError: If ``out`` is a file, two images would get one output, an output is also an input, or
            exists and ``force`` is off.
    """
    option: tuple[float, GsdSource] | None = None if gsd is None else (check_gsd(gsd), "option")
    images = find_files(inputs, out, what="images", suffixes=PICTURE_SUFFIXES, left_out=NO_IMAGE)
    tasks, folder_gsd = [], _folder_scales()
    for image, relative, folder in images:
        georeference = read_georeference(image)
        stem = out / relative.parent / relative.stem.removesuffix(IMAGE_END)
        known = option or _scale(image, folder, georeference, folder_gsd)
        value, source = known or (model_gsd, "assumed")
        tasks.append(
            Task(
                image,
                stem.with_name(stem.name + ("_mask.png" if georeference is None else "_mask.tif")),
                stem.with_name(f"{stem.name}_probabilities.tif") if probabilities else None,
                georeference,
                value,
                source,
            )
        )
    outputs = [(task.image, path) for task in tasks for path in (task.map, task.probabilities) if path]
    check_targets(outputs, force=force)
    return tasks


def _scale(
    image: Path,
    folder: Path | None,
    georeference: Georeference | None,
    folder_gsd: Callable[[Path, Path | None], float | None],
) -> tuple[float, GsdSource] | None:
    """Return the image's GSD and who says so, None where nobody does."""
    if georeference is not None and (from_raster := ground_sample_distance(image)):
        return from_raster, "raster"
    from_folder = folder_gsd(image.parent.resolve(), folder)
    return (from_folder, "data folder") if from_folder else None


def _folder_scales() -> Callable[[Path, Path | None], float | None]:
    """Return a function from an image's folder and input folder to a GSD that looks at each folder once."""
    settings, layout = cache(_settings_gsd), cache(_layout_gsd)
    return lambda parent, folder: settings(parent) or (layout(folder) if folder else None)


def _settings_gsd(folder: Path) -> float | None:
    """Return the GSD in the nearest ``landcover.yaml`` in or above a folder."""
    files = (above / SETTINGS_FILE for above in (folder, *folder.parents))
    nearest = next((file for file in files if file.is_file()), None)
    return read_settings(nearest).gsd if nearest else None


def _layout_gsd(folder: Path) -> float | None:
    """Return what is known of a published data set's scale; None for a folder that is none."""
    try:
        return open_dataset(folder).gsd
    except DataError:
        return None
