"""From inputs to a plan: scenes found, pinned by digest, and large ones split into row blocks."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds

from landcover._gdal import CPLE_BaseError, is_address, subdataset_file
from landcover.errors import DataError, UsageError
from landcover.fleet.stac import is_search, read_items
from landcover.fleet.units import ETAG, PLAN, Pin, Plan, Unit, stored_options, write_plan
from landcover.inference.grid import check_windows
from landcover.inference.options import PredictOptions
from landcover.inference.plan import NO_IMAGE, Task, declared_crs, find_tasks, lacks_scale, open_imagery
from landcover.inference.scene import Inputs, scene_grid
from landcover.io.discovery import IMAGE_END, MASK_END, RASTER_SUFFIXES, role_of, words_of
from landcover.io.files import check_output
from landcover.model.card import ModelCard, model_digest, resolve_model
from landcover.model.runtimes import Precision, Runtime, choose_runtime, open_model
from landcover.model.stac import stac_item
from landcover.raster import Georeference, display_name, read_header
from landcover.scale import unknown_gsd
from landcover.storage.scenes import scene_version
from landcover.storage.store import Store, open_store
from landcover.values import VIEWS_WORK

UNIT_MPX = 256.0
"""Megapixels of a unit: a scene half as large again is split. Neighbours compute a row of windows twice."""

_DIGESTS = 1 << 14
"""Files whose digests are kept while a plan is made."""

_log = logging.getLogger(__name__)


def make_plan(
    inputs: Sequence[str | Path],
    model: str | Path,
    out: str,
    options: PredictOptions | None = None,
    *,
    device: str = "auto",
    runtime: str = "auto",
    precision: Precision = "fp32",
    unit_mpx: float = UNIT_MPX,
) -> Plan:
    """Write the plan of a fleet into a store, a folder or an address of object storage, with the model.

    Inputs are image files, folders, addresses of rasters, prefixes of object storage (they end with ``/``),
    JSON files of a STAC ItemCollection or Item, and searches of a STAC API (addresses that end with
    ``/search`` or ``/items``, and perhaps a query). ``device`` is the kind of device of every worker, ``cpu``
    or ``cuda``, which need not be here; auto: that which :func:`landcover.open_model` takes here.
    """
    options = options or PredictOptions()
    if not (math.isfinite(unit_mpx) and unit_mpx > 0):
        raise UsageError(f"A unit of {unit_mpx} megapixels is not possible; expected a number above 0.")
    library = choose_runtime(resolve_model(model), device=device, runtime=runtime)
    opened = open_model(model, runtime=library, precision=precision)
    kind = (opened.device if device == "auto" else device).partition(":")[0]
    given, options = options, options.for_model(opened.card)
    # JSON would keep the numbers of the card's bands and lose their names, which come first.
    stored = stored_options(options.model_copy(update={"bands": given.bands}))
    file, store = resolve_model(model), open_store(out)
    if is_address(out):
        store.check()
    else:
        check_output(Path(out) / PLAN, force=True)
    check_windows(opened.card, options.window_px, options.overlap_px)
    sha256 = model_digest(file)
    plan = Plan(f"model/{sha256[:16]}/{file.name}", sha256, opened.name, precision, kind, stored)
    digest_of = lru_cache(_DIGESTS)(file_digest)  # neighbours are the context of several scenes
    found = _scenes(inputs, out, options, opened.card)
    units = (
        unit
        for task, source in found
        for unit in _units(task, source, plan, options, opened, int(unit_mpx * 1e6), digest_of)
    )
    item = stac_item(
        opened.card,
        name=file.stem,
        href=f"./{file.name}",
        sha256=sha256,
        size=file.stat().st_size,
        parameters=None,
        side=None,
    )
    files: dict[str, bytes | Path] = {
        plan.model: file,
        plan.model_item: (json.dumps(item, indent=1) + "\n").encode(),
    }
    return write_plan(
        store, plan, units, pixels_per_s=_speed(opened) / VIEWS_WORK[options.views or 1], files=files
    )


def _scenes(
    inputs: Sequence[str | Path], out: str, options: PredictOptions, card: ModelCard
) -> Iterator[tuple[Task, Mapping[str, str]]]:
    """Yield each scene, its map below ``maps``, and what is known of it from STAC."""
    folder = Path("/maps" if is_address(out) else Path(out) / "maps")
    model_gsd, window_px = card.preprocessing.gsd, card.window_px
    for given, name, source in _expanded(inputs):
        for task in find_tasks(given, folder, options, model_gsd=model_gsd, window_px=window_px):
            if (unknown := lacks_scale(task, options)) is not None:
                raise unknown_gsd(unknown, f"or --gsd model to assume the model's {model_gsd:g} m")
            place = task.map.relative_to(folder.parent)
            if name is not None:
                place = Path("maps", f"{name}{MASK_END}{task.map.suffix}")
            yield replace(task, map=place), source


def _expanded(
    inputs: Sequence[str | Path],
) -> Iterator[tuple[Sequence[str | Path], str | None, Mapping[str, str]]]:
    """Yield inputs that are found alike, the name of their map if it is not their own, and their source."""
    plain: list[str | Path] = []
    for given in inputs:
        text = str(given)
        if is_search(text) or (not is_address(text) and text.lower().endswith(".json")):
            for name, href, source in read_items(text):
                yield [href], name, source
        elif is_address(text) and text.endswith("/"):
            prefix, empty = open_store(text), True
            for path in _rasters(prefix):
                name = path.with_suffix("").as_posix().removesuffix(IMAGE_END)
                yield [prefix.address(path.as_posix())], name, {}
                empty = False
            if empty:
                raise DataError(
                    f"{display_name(text)} holds no raster; expected .tif or .jp2 objects below it."
                )
        else:
            plain.append(given)
    if plain:
        yield plain, None, {}


def _rasters(prefix: Store) -> Iterator[PurePosixPath]:
    """Yield the keys of the rasters below a prefix that :func:`find_files` would find in such a folder."""
    folders = {folder for key in prefix.list("") for folder in PurePosixPath(key).parents}
    beside_images = {folder.parent for folder in folders if role_of(words_of(folder.name)) == "image"}
    masks = {f for f in folders if f.parent in beside_images and role_of(words_of(f.name)) == "mask"}
    for path in map(PurePosixPath, prefix.list("")):
        is_left_out = path.stem.endswith(NO_IMAGE) or not masks.isdisjoint(path.parents)
        is_hidden = any(part.startswith(".") for part in path.parts)
        if path.suffix.lower() in RASTER_SUFFIXES and not is_left_out and not is_hidden:
            yield path


def _units(
    task: Task,
    source: Mapping[str, str],
    plan: Plan,
    options: PredictOptions,
    runtime: Runtime,
    most: int,
    digest_of: Callable[[Path], str],
) -> Iterator[Unit]:
    """Yield the unit of a scene; of a large one the units of its row blocks, then the one that assembles."""
    transform = None if task.place is None else task.place.transform
    whole = task.place or read_header(task.image, declared_crs(options)).place
    scene = str(task.image if isinstance(task.image, str) else task.image.absolute())
    if file := subdataset_file(scene):
        scene = scene.replace(file, str(Path(file).absolute()))
    gsd = task.scale.gsd if task.scale else None
    place, numbers = whole, range(0)
    cut = options.bbox is not None or options.aoi is not None
    if place is not None and not task.picture and (cut or math.prod(place.size) > 1.5 * most):
        try:
            with open_imagery(task, options, runtime.card.preprocessing.gsd) as imagery:
                place, gsd = imagery.place, imagery.scale.gsd
                numbers = scene_grid(runtime, imagery, options, task.name).blocks
        except (DataError, UsageError) as error:
            _log.warning("%s", error)  # its unit will fail with this reason
    if gsd is None and place is not None:
        gsd = place.gsd
    pixels = 0 if place is None else math.prod(place.size)
    bbox = None
    if isinstance(place, Georeference):
        with suppress(RasterioError, CPLE_BaseError):
            box = transform_bounds(place.crs, CRS.from_epsg(4326), *place.extent())
            bbox = tuple(round(side, 7) for side in box) if np.isfinite(box).all() else None
    mosaic = task.mosaic
    if mosaic is not None:
        pieces = (piece._replace(path=piece.path.absolute()) for piece in mosaic.pieces)
        mosaic = replace(mosaic, pieces=tuple(pieces))
    unit = Unit(
        output=task.map.as_posix(),
        scene=scene,
        picture=task.picture,
        scale=task.scale,
        size=None if whole is None else whole.size,
        transform=None if transform is None else tuple(transform[:6]),
        pins=tuple(_pins(task, plan.predict_options, digest_of)),
        mosaic=mosaic,
        pixels=pixels,
        model_pixels=round(pixels * ((gsd or 0) / runtime.card.preprocessing.gsd) ** 2),
        square_metres=pixels * (gsd or 0) ** 2,
        bbox=bbox,
        source=source,
    )
    count = min(len(numbers), round(pixels / most)) if pixels > 1.5 * most else 1
    if count < 2:
        yield unit
        return
    edges = [numbers.start + len(numbers) * part // count for part in range(count + 1)]
    keys = []
    for start, stop in pairwise(edges):
        share = (stop - start) / len(numbers)
        part = replace(
            unit,
            blocks=(start, stop),
            pixels=round(unit.pixels * share),
            model_pixels=round(unit.model_pixels * share),
            square_metres=unit.square_metres * share,
        )
        keys.append(plan.key(part))
        yield part
    yield replace(unit, parts=tuple(keys), pixels=0, model_pixels=0, square_metres=0.0)


def _pins(task: Task, options: PredictOptions, digest_of: Callable[[Path], str]) -> Iterator[Pin]:
    """Yield the files of a scene as they are now, but those that cannot be read, which its unit reports."""
    if not task.files:
        version = scene_version(str(task.image))
        yield Pin(str(task.image), version.size, f"{ETAG}{version.etag}")
    for name, size, mtime_ns in Inputs(task, options).states:
        file = Path(name).absolute()
        try:
            yield Pin(str(file), size, digest_of(file), mtime_ns)
        except PermissionError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}. Check its permissions.") from error
        except OSError:
            continue


def file_digest(file: Path) -> str:
    """Return ``sha256:`` and the digest of a file."""
    with file.open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"


def _speed(runtime: Runtime) -> float:
    """Return how many pixels at the model's scale it maps in a second, measured on a window of noise."""
    card = runtime.card
    shape = (1, card.window_px, card.window_px, card.preprocessing.channels)
    window = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    runtime.coarse(window)  # the first call compiles
    began = time.perf_counter()
    runtime.coarse(window)
    pixels: float = (card.window_px - card.overlap_px) ** 2 / (time.perf_counter() - began)
    return pixels
