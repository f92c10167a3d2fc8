"""What a prediction will read and write, settled before any work: name, place and scale of every image."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from landcover.errors import DataError, UsageError
from landcover.inference.options import PredictOptions
from landcover.io import image_size
from landcover.io.discovery import IMAGE_END, PICTURE_SUFFIXES, check_targets, find_files
from landcover.raster import display_name, read_header
from landcover.raster.mapfiles import MAP_FORMATS, MapFormat, choose_map_format
from landcover.scale import SETTINGS_FILE, GsdSource, Scale, find_scale, unknown_gsd

NO_IMAGE = ("_mask", "_label", "_probabilities", "_confidence")
"""Ends of names that folders are not searched for: masks, and what ``predict`` itself writes."""

_MASK_END = "_mask"
_PICTURES = frozenset({".jpeg", ".jpg", ".png", ".webp"})
_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]+://|/vsi[a-z0-9_]+/)", re.IGNORECASE)


def is_address(text: str) -> bool:
    """Return whether an input is a URL, or a path that only GDAL knows (``/vsis3/…``)."""
    return _ADDRESS.match(text) is not None


@dataclass(frozen=True, slots=True)
class Task:
    """One image to predict.

    Attributes:
        image: The image file, or the address of a raster that is not a file here.
        map: The map to write, ``.tif`` or ``.png``.
        picture: Whether it is a picture without georeference, which is decoded whole; else it is a scene.
        gsd: Metres per pixel of the image.
        gsd_source: Its origin. ``raster``: the georeference; the value is read again when the scene, or a
            part of it, is opened. ``assumed``: the model's GSD.
    """

    image: Path | str
    map: Path
    picture: bool
    gsd: float
    gsd_source: GsdSource

    @property
    def name(self) -> str:
        """What the image is called in messages and results: no passwords, no signatures."""
        return display_name(self.image)

    @property
    def path(self) -> Path:
        """The image's file; of an address, something that is not there."""
        return Path(self.image)

    def format(self, options: PredictOptions) -> MapFormat:
        """Return the file format of the map."""
        return choose_map_format(
            options.map_format, georeferenced=self.map.suffix != MAP_FORMATS["png"].suffix
        )

    def beside(self, end: str) -> Path:
        """Return the path of another product: ``NAME_<end>``."""
        return self.map.with_name(self.map.stem.removesuffix(_MASK_END) + end)


def read_list(file: Path) -> list[Path | str]:
    """Read a list of inputs: a URL or path a line, paths seen from the file's own folder.

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
    paths = [
        entry if is_address(entry) else file.parent / entry
        for entry in entries
        if entry and not entry.startswith("#")
    ]
    if not paths:
        raise DataError(f"{file} names no input. Expected one path a line.")
    return paths


def plan(inputs: Sequence[str | Path], out: Path, options: PredictOptions, *, model_gsd: float) -> list[Task]:
    """Find the images and decide name and scale of each.

    Args:
        inputs: Image files, folders that are searched with their subfolders, and URLs of rasters.
        out: Folder of the maps; the folders below an input folder are kept in it.
        options: How images are read and written.
        model_gsd: GSD of images of unknown scale, if ``options.gsd`` is ``"model"``.

    Raises:
        UsageError: If there is no input, an address is not valid, or the GSD of an image is unknown.
        DataError: If an input does not exist or a folder holds no images.
        OutputError: If ``out`` is a file, two images would get one output, an output is also an input, or
            exists and neither ``force`` nor ``resume`` is on.
    """
    option = options.gsd if isinstance(options.gsd, float) else None
    addresses = [str(given) for given in inputs if is_address(str(given))]
    given = [one for one in inputs if not is_address(str(one))]
    found = (
        []
        if addresses and not given
        else find_files(given, out, what="images", suffixes=PICTURE_SUFFIXES, left_out=NO_IMAGE)
    )
    tasks, unknown, settings, layout = [], [], cache(_settings_gsd), cache(_layout_gsd)
    for image, relative, folder in found:
        georeference, raster_gsd = read_header(image)
        stem = out / relative.parent / relative.stem.removesuffix(IMAGE_END)
        suffix = choose_map_format(options.map_format, georeferenced=georeference is not None).suffix
        picture = georeference is None and image.suffix.lower() in _PICTURES
        scale = find_scale(
            option,
            raster=lambda: raster_gsd,  # noqa: B023
            settings=lambda: settings(image.parent.resolve()),  # noqa: B023
            layout=lambda: layout(folder) if folder else None,  # noqa: B023
        )
        if scale is None and options.gsd is None and _is_readable(image):
            unknown.append(image)
        scale = scale or Scale(model_gsd, "assumed")
        tasks.append(Task(image, _map(stem, suffix), picture, *scale))
    for address in addresses:
        stem = out / _address_path(address).stem.removesuffix(IMAGE_END)
        suffix = choose_map_format(options.map_format, georeferenced=True).suffix
        known = Scale(model_gsd, "raster") if option is None else Scale(option, "option")
        tasks.append(Task(address, _map(stem, suffix), False, *known))
    if unknown:
        raise unknown_gsd(
            f"{len(unknown)} of {len(found)} images (for example {unknown[0]})",
            f"--gsd model to assume the model's {model_gsd:g} m, or write 'gsd: 0.5' into {SETTINGS_FILE} "
            "beside the images",
        )
    outputs = [(task.image, path) for task in tasks for path in products(task, options)]
    check_targets(outputs, force=options.force or options.resume, shown=display_name)
    return tasks


def _address_path(address: str) -> PurePosixPath:
    try:
        return PurePosixPath(urlsplit(address).path)
    except ValueError as error:
        raise UsageError(
            f"{display_name(address)} is no address ({error}). Expected one such as https://host/scene.tif."
        ) from error


def products(task: Task, options: PredictOptions) -> list[Path]:
    """Return all files that are written for an image."""
    return [
        *([task.beside("_probabilities.tif")] if options.probabilities else []),
        *([task.beside("_confidence.tif")] if options.confidence else []),
        *([task.map.with_suffix(".qml")] if options.qml and task.format(options).georeferenced else []),
        *([task.map.with_suffix(f".{options.vector}")] if options.vector else []),
        task.map,
    ]


def _map(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + _MASK_END + suffix)


def _is_readable(image: Path) -> bool:
    """Return whether a file is imagery. Others are skipped when they are read, with the reason."""
    try:
        image_size(image)
    except DataError:
        return False
    return True


def _settings_gsd(folder: Path) -> float | None:
    """Return the GSD in the nearest ``landcover.yaml`` in or above a folder."""
    from landcover.data.dataset import read_settings

    files = (above / SETTINGS_FILE for above in (folder, *folder.parents))
    nearest = next((file for file in files if file.is_file()), None)
    return read_settings(nearest).gsd if nearest else None


def _layout_gsd(folder: Path) -> float | None:
    """Return the published GSD of a recognised data set; None for any other folder."""
    from landcover.data import open_dataset  # costs start-up time, and most runs do without

    try:
        return open_dataset(folder).gsd
    except DataError:
        return None
