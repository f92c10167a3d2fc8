"""Inputs of a prediction: images found and opened, the scale and the files of each, the bundled model."""

import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from rasterio.crs import CRS

from landcover._gdal import is_address, subdataset_file
from landcover._typing import Float64Array
from landcover.errors import DataError, UsageError
from landcover.inference.grid import WHOLE_PX
from landcover.inference.options import PredictOptions, further_rasters
from landcover.inference.reading import ArraySource, Source
from landcover.io import image_size
from landcover.io.discovery import (
    IMAGE_END,
    MASK_END,
    PICTURE_SUFFIXES,
    check_targets,
    find_files,
)
from landcover.machine import needing_memory
from landcover.model.bundled import auto_model
from landcover.raster import (
    Georeference,
    Header,
    Place,
    Scene,
    display_name,
    is_picture,
    open_scene,
    read_header,
    read_picture,
    style_files,
)
from landcover.raster.mapfiles import MAP_FORMATS, MapFormat, choose_map_format, world_file
from landcover.raster.mosaic import MOST_PIECES, Mosaic, MosaicScene, Neighbours, lay_out
from landcover.scale import SETTINGS_FILE, Scale, find_scale, unknown_gsd
from landcover.textfiles import read_text
from landcover.windows import Window

NO_IMAGE = (MASK_END, "_label", "_probabilities", "_confidence")
"""Ends of names that are skipped in folders: masks, and what ``predict`` itself writes."""

_log = logging.getLogger(__name__)

_BY_ROWS = (
    "It can only be decoded whole. A tiled GeoTIFF is read by parts: gdal_translate -co TILED=YES "
    "-co COMPRESS=DEFLATE IN OUT.tif."
)

_HEADERS = 1 << 12
"""Headers that are kept between the search for neighbours and the work."""
_RIM_PX = 64
"""Of the model's pixels around a window: cells of the logit grid between which pixels are interpolated."""
_FINEST = 50
_SMALLEST_PX = 32


@dataclass(frozen=True, slots=True)
class Task:
    """One image to predict.

    Attributes:
        image: The image file, or the address of a raster that is not a file here.
        map: The map to write, ``.tif`` or ``.png``.
        picture: Whether it is a picture without georeference, which is decoded whole; else it is a scene.
        scale: Metres per pixel of the image, and the origin. ``raster``: the georeference; the value is read
            again when the scene, or a part of it, is opened. ``assumed``: the model's GSD. None: that of an
            address, which is read when it is opened.
        place: Where it is; None where the header was not read.
        content: Digest of what is at an address, see :func:`~landcover.inference.scene.content_digest`; None:
            not known. Of files it is read.
        mosaic: The files that are read together, of which ``image`` is the first; None: the image alone.
    """

    image: Path | str
    map: Path
    picture: bool
    scale: Scale | None
    place: Place | None = None
    content: str | None = None
    mosaic: Mosaic | None = None

    @property
    def name(self) -> str:
        """Name of the image in messages and results, without passwords and signatures."""
        if self.mosaic is not None and not self.mosaic.is_context:
            count = len(self.mosaic.pieces)
            return f"{self.map.name} of {count} file{'s' * (count != 1)}"
        return display_name(self.image)

    @property
    def files(self) -> list[Path]:
        """The files that are read."""
        if self.mosaic is not None:
            return [piece.path for piece in self.mosaic.pieces]
        file = subdataset_file(str(self.image)) or self.image
        return [Path(file)] if file is not self.image or isinstance(file, Path) else []

    def format(self, options: PredictOptions) -> MapFormat:
        """Return the file format of the map."""
        chosen = choose_map_format(
            options.map_format, georeferenced=self.map.suffix != MAP_FORMATS["png"].suffix
        )
        return chosen._replace(mask_format=options.mask_format)

    def beside(self, end: str) -> Path:
        """Return the path of another product: ``NAME_<end>``."""
        return self.map.with_name(self.map.stem.removesuffix(MASK_END) + end)


def read_list(file: Path) -> list[Path | str]:
    """Read a list of inputs: a URL or path per line, relative to the file's own folder.

    Empty lines, and lines that begin with ``#``, are skipped. ``-`` is standard input.
    """
    text = read_text(file, DataError, "a list of inputs, one path per line")
    entries = [line.strip() for line in text.splitlines()]
    paths = [
        entry if is_address(entry) or subdataset_file(entry) else file.parent / entry
        for entry in entries
        if entry and not entry.startswith("#")
    ]
    if not paths:
        raise DataError(f"{file} contains no input. Expected one path per line.")
    return paths


def plan(
    inputs: Sequence[str | Path],
    out: Path,
    options: PredictOptions,
    *,
    model_gsd: float,
    window_px: int | None = None,
) -> list[Task]:
    """Find the images and decide name and scale of each, as :func:`find_tasks`; check them and the outputs.

    Raises:
        UsageError: If there is no input, an address is not valid, or the GSD of an image is unknown.
        DataError: If an input does not exist or a folder holds no images.
        OutputError: If ``out`` is a file, two images would get one output, an output is also an input, or
            exists and neither ``force`` nor ``resume`` is on.
    """
    if options.mosaic is not None:
        tasks = [_mosaic_task(inputs, options.mosaic, options)]
    else:
        tasks = list(find_tasks(inputs, out, options, model_gsd=model_gsd, window_px=window_px))
    unknown = [text for task in tasks if (text := lacks_scale(task, options)) is not None]
    if unknown:
        raise unknown_gsd(
            f"{len(unknown)} of {len(tasks)} images (for example {unknown[0]})",
            f"--gsd model to assume the model's {model_gsd:g} m, or write 'gsd: 0.5' into {SETTINGS_FILE} "
            "beside the images",
        )
    outputs = [(task.image, path) for task in tasks for path in products(task, options)]
    check_targets(outputs, force=options.force or options.resume, shown=display_name)
    return tasks


def lacks_scale(task: Task, options: PredictOptions) -> str | None:
    """Return the name of an image whose scale is needed and not known, with the reason; else None."""
    if options.gsd is not None or task.scale is None or task.scale.source != "assumed":
        return None
    header, file = read_header(task.image, declared_crs(options)), subdataset_file(str(task.image))
    try:
        if header.place is None:
            image_size(Path(file or task.image))
    except DataError:  # not imagery: skipped when it is read, with the reason
        return None
    return f"{task.image}: {header.reason}" if header.reason else str(task.image)


def find_tasks(
    inputs: Sequence[str | Path],
    out: Path,
    options: PredictOptions,
    *,
    model_gsd: float,
    window_px: int | None = None,
) -> Iterator[Task]:
    """Yield the images with their names and scales, without the checks of :func:`plan`.

    Inputs are image files, folders that are searched with their subfolders, and URLs of rasters. The folders
    below an input folder are kept in ``out``. Images of unknown scale have ``model_gsd``. With the side
    ``window_px`` of the model's windows, files that adjoin or overlap are read with their neighbours.
    """
    if options.mosaic is not None:
        raise UsageError("--mosaic is an option of predict alone. Leave it out.")
    option = options.gsd if isinstance(options.gsd, float) else None
    addresses = [str(given) for given in inputs if is_address(str(given))]
    parts = [str(given) for given in inputs if subdataset_file(str(given))]
    given = [one for one in inputs if str(one) not in addresses and str(one) not in parts]
    found: list[tuple[str | Path, Path, Path | None]] = [(part, _part_name(part), None) for part in parts]
    if given or not inputs:
        found += find_files(given, out, what="images", suffixes=PICTURE_SUFFIXES, left_out=NO_IMAGE)
    settings, layout = cache(_settings_gsd), cache(_layout_gsd)
    headers = lru_cache(_HEADERS)(lambda image: read_header(image, declared_crs(options)))
    contexts = None
    if window_px is not None and options.context and len(found) > 1:
        images, is_default = [image for image, *_ in found], options.window_px is None
        side = window_px if options.window_px is None else options.window_px
        contexts = _Contexts(images, headers, model_gsd, side, may_be_whole=is_default)
    for number, (image, relative, folder) in enumerate(found):
        header, georeference = headers(image), headers(image).georeference
        file = Path(subdataset_file(str(image)) or image)
        stem = out / relative.parent / relative.stem.removesuffix(IMAGE_END)
        map_format = choose_map_format(options.map_format, georeferenced=georeference is not None)
        scale = find_scale(
            option,
            raster=lambda: header.gsd,  # noqa: B023
            settings=lambda: settings(file.parent.resolve()),  # noqa: B023
            layout=lambda: layout(folder) if folder else None,  # noqa: B023
        ) or Scale(model_gsd, "assumed")
        target = stem.with_name(stem.name + MASK_END + map_format.suffix)
        picture = is_picture(file, georeference, options.reading)
        mosaic = None
        if contexts is not None and georeference is not None:
            mosaic = contexts.of(number, georeference, scale.gsd)
        yield Task(image, target, picture, scale, header.place, mosaic=mosaic)
    if contexts is not None:
        contexts.log()
    for address in addresses:
        try:
            name = PurePosixPath(urlsplit(address).path).stem.removesuffix(IMAGE_END)
        except ValueError as error:
            raise UsageError(
                f"{display_name(address)} is not a valid address ({error}). Expected one such as "
                "https://host/scene.tif."
            ) from error
        target = out / (name + MASK_END + choose_map_format(options.map_format, georeferenced=True).suffix)
        yield Task(address, target, False, None if option is None else Scale(option, "option"))


class _Contexts:
    """The neighbours that images are mapped with, and what is logged about them."""

    def __init__(
        self,
        images: Sequence[str | Path],
        headers: Callable[[str | Path], Header],
        model_gsd: float,
        window_px: int,
        *,
        may_be_whole: bool,
    ) -> None:
        files = ((Path(image), headers(image) if isinstance(image, Path) else Header()) for image in images)
        self._neighbours, self._count = Neighbours(files), len(images)
        self._model_gsd, self._window_px, self._may_be_whole = model_gsd, window_px, may_be_whole
        self._joined = self._crowded = 0
        if self._neighbours.repeated:
            _log.warning(
                "%d of %d images adjoin or overlap others where ground is shown twice, as by images of two "
                "dates: they are mapped without some or all of their neighbours. Put the images of each date "
                "into a folder of their own.",
                self._neighbours.repeated,
                self._count,
            )

    def of(self, number: int, georeference: Georeference, gsd: float) -> Mosaic | None:
        """Return an image with its neighbours in reach of a window; None without any."""
        if (frame := self._neighbours.frame(number)) is None:
            return None
        side = min(georeference.part(frame).sides(gsd))
        is_whole = self._may_be_whole and max(frame[2:]) * side / self._model_gsd <= WHOLE_PX + 1
        margin = max(frame[2:])
        if self._window_px and not is_whole:
            margin = math.ceil((self._window_px + _RIM_PX) * self._model_gsd / side)
        mosaic = self._neighbours.mosaic(number, margin)
        self._joined += mosaic is not None
        self._crowded += mosaic is None
        return mosaic

    def log(self) -> None:
        """Report how many images were joined."""
        if self._joined:
            _log.info(
                "%d of %d images adjoin or overlap others: each is mapped with its neighbours as context, "
                "which takes longer. --no-context maps each alone; --mosaic map.tif maps all at once.",
                self._joined,
                self._count,
            )
        if self._crowded:
            _log.warning(
                "%d of %d images have %d or more others in reach of a window: each is mapped alone, with "
                "seams. --mosaic map.tif maps them as one scene.",
                self._crowded,
                self._count,
                MOST_PIECES,
            )


def _part_name(part: str) -> Path:
    """Return the name, of an image in a file, that its map is named by, such as ``a_rgb`` or ``a_2``."""
    file = subdataset_file(part) or part
    directory = part.split(":")[1] if part.lower().startswith("gtiff_dir") else part.rpartition(":")[2]
    return Path(re.sub(r"[^\w.-]+", "_", f"{Path(file).stem}_{directory.strip('/')}") + ".tif")


def _mosaic_task(inputs: Sequence[str | Path], target: Path, options: PredictOptions) -> Task:
    """Return the task of one map of all inputs."""
    if options.map_format == "png" or target.suffix.lower() not in (".tif", ".tiff"):
        raise UsageError(f"The map of a mosaic is {target}; expected a GeoTIFF, such as --mosaic map.tif.")
    if addresses := [str(given) for given in inputs if is_address(str(given))]:
        raise UsageError(f"{display_name(addresses[0])} is an address; --mosaic needs files. Copy it first.")
    found = find_files(inputs, target.parent, what="images", suffixes=PICTURE_SUFFIXES, left_out=NO_IMAGE)
    files = []
    for image, *_ in found:
        if image.resolve() == target.resolve():
            continue  # of an earlier run, with --force
        header = read_header(image, declared_crs(options))
        if (place := header.georeference) is None:
            why = header.reason or "it is not a raster"
            raise DataError(f"{image} cannot be part of a mosaic: {why}. Map it without --mosaic.")
        files.append((image, place))
    if not files:
        raise DataError(f"There are no images for {target} but itself.")
    mosaic = lay_out(files)
    row, col, *_ = mosaic.pieces[0].window
    whole = files[0][1].part(Window(-row, -col, mosaic.height, mosaic.width))
    gsd = whole.gsd
    scale = Scale(options.gsd, "option") if isinstance(options.gsd, float) else gsd and Scale(gsd, "raster")
    return Task(files[0][0], target, False, scale or None, whole, mosaic=mosaic)


def declared_crs(options: PredictOptions) -> CRS | None:
    """Return the CRS that ``--crs`` declares, or None."""
    return None if options.crs is None else CRS.from_user_input(options.crs)


def _doubts(scene: Scene | MosaicScene, gsd: float, model_gsd: float) -> Iterator[str]:
    """Yield a warning on a scene whose size on the ground is not plausible for a model."""
    height, width = scene.place.size
    ground = f"{height * gsd:.3g} x {width * gsd:.3g} m on the ground ({gsd:.3g} m per pixel)"
    if gsd < model_gsd / _FINEST:
        place, hint = scene.place.georeference, "If that is wrong, pass --gsd."
        if place is not None and not place.crs.is_geographic:
            left, bottom, right, top = place.extent()
            if -180 <= left <= right <= 360 and -90 <= bottom <= top <= 90:
                hint = "Its coordinates look like degrees under a projected CRS: pass --crs EPSG:4326."
        yield f"{scene.name} covers {ground}, much finer than the model's {model_gsd:g} m. {hint}"
    elif min(height, width) * gsd < _SMALLEST_PX * model_gsd:
        yield (
            f"{scene.name} covers {ground}: {height * gsd / model_gsd:.0f} x {width * gsd / model_gsd:.0f} "
            f"pixels of the model, too few to judge. If the size is wrong, pass --gsd."
        )


def products(task: Task, options: PredictOptions) -> list[Path]:
    """Return all files that are written for an image."""
    has_position = task.place is not None and task.place.transform is not None
    return [
        *(task.beside(f"_{name}.tif") for name in further_rasters(options)),
        *(style_files(task.map) if options.style and task.format(options).is_geotiff else ()),
        *([world_file(task.map)] if has_position and not task.format(options).is_geotiff else []),
        *([task.map.with_suffix(f".{options.vector}")] if options.vector else []),
        task.map,
    ]


def _settings_gsd(folder: Path) -> float | None:
    """Return the GSD in the nearest ``landcover.yaml`` in or above a folder."""
    from landcover.data.settings import read_settings

    files = (above / SETTINGS_FILE for above in (folder, *folder.parents))
    nearest = next((file for file in files if file.is_file()), None)
    return read_settings(nearest).gsd if nearest else None


def _layout_gsd(folder: Path) -> float | None:
    """Return the published GSD of a recognised data set; None for any other folder."""
    from landcover.data import open_dataset  # costs start-up time, and most runs do without

    try:
        dataset = open_dataset(folder)
    except DataError:
        return None
    return None if dataset.gsd_from_raster else dataset.gsd  # that of rasters holds for them alone


@dataclass(frozen=True, slots=True)
class Imagery:
    """An open image or scene.

    Attributes:
        place: Where the part that is mapped is.
        scale: Metres per pixel, the geometric mean of the two sides, and the origin.
        sides: Metres down and across a pixel; both ``scale.gsd`` where it is square.
    """

    source: Source
    place: Place
    scale: Scale
    sides: tuple[float, float]


def pixel_areas(place: Place, scale: Scale) -> Float64Array | None:
    """Return float64 (H,), square metres of a pixel in each row; None where no scale is known."""
    true = place.row_areas()
    return np.full(place.height, scale.gsd**2) if true is None and scale.source != "assumed" else true


@contextmanager
def open_imagery(task: Task, options: PredictOptions, model_gsd: float) -> Iterator[Imagery]:
    """Open the image of a task; ``model_gsd`` is that of unknown scale, if ``options.gsd`` is ``"model"``.

    Raises:
        DataError: If it cannot be read.
        UsageError: If an option does not suit it, or its GSD is unknown.
    """
    with ExitStack() as stack:
        scale = task.scale or Scale(model_gsd, "assumed")
        sides = scale.gsd, scale.gsd
        if task.picture:
            if options.bbox is not None or options.aoi is not None:
                raise UsageError(
                    f"{task.name} is a picture without georeference; --bbox and --aoi cannot be used."
                )
            file = Path(task.image)
            pixel_bytes = 4 if file.suffix.lower() in (".jpg", ".jpeg") else 7
            pixels = 0 if task.place is None else math.prod(task.place.size)
            with needing_memory(pixel_bytes * pixels, task.name, _BY_ROWS):
                picture = read_picture(file, max_pixels=options.max_pixels, fill=options.fill)
            source = ArraySource(*picture)  # a model of other bands reads it as a scene
            transform = None if task.place is None else task.place.transform
            imagery = Imagery(source, Place(*source.part[2:], transform), scale, sides)
        else:
            how: dict[str, Any] = options.reading._replace(
                strict=options.strict, crs=declared_crs(options)
            )._asdict() | {name: getattr(options, name) for name in ("bbox", "aoi", "layer")}
            scene: Scene | MosaicScene
            if task.mosaic is None:
                scene = stack.enter_context(open_scene(task.image, **how))
            else:
                scene = stack.enter_context(closing(MosaicScene(task.mosaic, task.name, **how)))
            if task.scale is None or task.scale.source == "raster":
                gsd = scene.frame.gsd
                scale = Scale(gsd or model_gsd, "raster" if gsd else "assumed")
                sides = scene.frame.sides(scale.gsd)
            if scale.source != "assumed":
                scene.warnings += _doubts(scene, scale.gsd, model_gsd)
            row, col, height, width = scene.part
            part = Window(row - scene.own.row, col - scene.own.col, height, width)
            imagery = Imagery(scene, scene.place.part(part), scale, sides)
        if scale.source == "assumed" and options.gsd != "model":
            raise unknown_gsd(task.name, f"or --gsd model to assume the model's {model_gsd:g} m")
        yield imagery


def choose_model(tasks: Sequence[Task], options: PredictOptions, *, model_gsd: float) -> str:
    """Return the name of the bundled model for a job of this size, and log the choice.

    Images that cannot be read count nothing; the prediction reports them.
    """
    megapixels = 0.0
    for task in tasks:
        place, gsd = task.place, model_gsd if task.scale is None else task.scale.gsd
        if place is None or options.bbox is not None or options.aoi is not None:
            try:
                with open_imagery(task, options, model_gsd) as imagery:
                    place, gsd = imagery.place, imagery.scale.gsd
            except (DataError, UsageError):
                continue
        megapixels += math.prod(place.size) * (gsd / model_gsd) ** 2 / 1e6
    name = auto_model(megapixels)
    _log.info("Model auto: chose %s for %.1f megapixels at %g m per pixel", name, megapixels, model_gsd)
    return name
