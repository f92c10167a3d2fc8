"""The verb: image files to map files."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from landcover import __version__
from landcover.bundle import model_digest
from landcover.codecs import MAX_PIXELS, MaskFormat, read_imagery, write_mask
from landcover.errors import DataError, ImageError
from landcover.inference.image import model_grid_probabilities, most_probable
from landcover.inference.plan import Task, plan
from landcover.inference.results import MadeMap, Prediction
from landcover.legend import NODATA, UInt8Array
from landcover.postprocess import parse_min_region, remove_small_regions
from landcover.preprocessing import Size, resampled_bands
from landcover.progress import track
from landcover.raster import read_raster, write_class_raster, write_probabilities
from landcover.runtimes import Runtime, open_model


def predict(
    inputs: Sequence[str | Path],
    model: str | Path | Runtime,
    out: str | Path,
    *,
    gsd: float | None = None,
    min_region: str | None = None,
    probabilities: bool = False,
    mask_format: MaskFormat = "palette",
    window_px: int | None = None,
    overlap_px: int | None = None,
    device: str = "auto",
    max_pixels: int = MAX_PIXELS,
    force: bool = False,
) -> Prediction:
    """Make a land-cover map of every image.

    Georeferenced images become GeoTIFFs ``NAME_mask.tif`` with the same CRS and transform, all others
    ``NAME_mask.png``, both on the image's own grid; ``_sat`` at the end of NAME is dropped. Folders below an
    input folder are kept. Where a file has no data (alpha 0, the raster's nodata value or mask) the map has
    none either. Images that cannot be read are skipped and told of in the result.

    One image at a time is held whole, with its probabilities on the model's grid; see
    :func:`landcover.inference.predict_probabilities` for what that takes.

    Args:
        inputs: Image files, and folders that are searched with their subfolders.
        model: A model file, a run folder, or a runtime.
        out: Folder of the maps.
        gsd: Metres per pixel of all images. None asks the image's transform, then ``landcover.yaml`` in or
            above its folder, then the layout of the input folder; else the model's is assumed, and said so.
        min_region: Give smaller regions the class of their largest neighbour: ``8000px`` or ``2000m2``.
        probabilities: Write ``NAME_probabilities.tif`` too: a band for each class, 0..255.
        mask_format: Form of the PNG maps.
        window_px: Sliding window; as for :func:`landcover.inference.predict_probabilities`.
        overlap_px: Its overlap; likewise.
        device: Where to compute, unless ``model`` is a runtime.
        max_pixels: Larger images are refused.
        force: Replace existing maps.

    Raises:
        UsageError: If an argument cannot be used.
        DataError: If an input does not exist or a folder holds no images.
        ModelError: If the model cannot be read.
        OutputError: If two images would get one map or a map exists and ``force`` is off (nothing was written
            then), or if a map cannot be written.
    """
    if min_region is not None:
        parse_min_region(min_region, 1.0)
    runtime = open_model(model, device=device) if isinstance(model, str | Path) else model
    card = runtime.card
    result = Prediction(
        card.legend,
        model=str(model) if isinstance(model, str | Path) else "in memory",
        model_sha256=model_digest(model) if isinstance(model, str | Path) else None,
        model_gsd=card.preprocessing.gsd,
    )
    tasks = plan(
        inputs, Path(out), model_gsd=result.model_gsd, gsd=gsd, probabilities=probabilities, force=force
    )
    _tell_assumed(tasks, result.model_gsd)
    options = _Options(window_px, overlap_px, min_region, mask_format, max_pixels, force)
    for task in track(tasks, "Predicting"):
        try:
            result.maps.append(_make_map(runtime, task, options, _provenance(result, task, min_region)))
        except DataError as error:
            result.failed[task.image] = str(error)
    return result


@dataclass(frozen=True, slots=True)
class _Options:
    """What :func:`predict` was told about every map."""

    window_px: int | None
    overlap_px: int | None
    min_region: str | None
    mask_format: MaskFormat
    max_pixels: int
    force: bool


def _make_map(runtime: Runtime, task: Task, options: _Options, tags: Mapping[str, str]) -> MadeMap:
    """Read, classify and write one image."""
    legend, force = runtime.card.legend, options.force
    image, valid = _read(task, options.max_pixels)
    size = image.shape[:2]
    try:
        own = model_grid_probabilities(
            runtime, image, gsd=task.gsd, window_px=options.window_px, overlap_px=options.overlap_px
        )
    except ImageError as error:
        raise ImageError(f"{task.image}: {error}") from error
    index = most_probable(own, size, legend)
    if valid is not None:
        index[~valid] = NODATA
    if options.min_region is not None:
        index = remove_small_regions(index, parse_min_region(options.min_region, task.gsd))
    if task.georeference is None:
        write_mask(task.map, index, legend, mask_format=options.mask_format, tags=tags, force=force)
    else:
        write_class_raster(task.map, index, legend, task.georeference, tags=tags, force=force)
    if task.probabilities is not None:
        bands, names = _as_bytes(own, size, valid), legend.scored_names
        write_probabilities(task.probabilities, bands, names, task.georeference, tags=tags, force=force)
    return MadeMap(task, size, np.bincount(index.ravel(), minlength=256)[: len(legend)].astype(np.int64))


def _read(task: Task, max_pixels: int) -> tuple[UInt8Array, npt.NDArray[np.bool_] | None]:
    """Return the image, and where it has data (None: everywhere)."""
    if task.georeference is None:
        return read_imagery(task.image, max_pixels=max_pixels)
    raster = read_raster(task.image, max_pixels=max_pixels)
    return raster.image, raster.valid


def _as_bytes(own: npt.NDArray[np.float32], size: Size, valid: npt.NDArray[np.bool_] | None) -> UInt8Array:
    """Resample float32 (C, h, w) in 0..1 to uint8 (C, H, W) in 0..255, band by band; 0 where not valid."""
    scaled = np.empty((len(own), *size), np.uint8)
    for rows, band in resampled_bands(own, size):
        scaled[:, rows] = np.rint(band * 255)
    if valid is not None:
        scaled[:, ~valid] = 0
    return scaled


def _provenance(result: Prediction, task: Task, min_region: str | None) -> dict[str, str]:
    """Return what a map tells about its making, as tags."""
    tags = {
        "LANDCOVER_VERSION": __version__,
        "LANDCOVER_MODEL_SHA256": result.model_sha256,
        "LANDCOVER_MODEL_GSD": f"{result.model_gsd:g}",
        "LANDCOVER_GSD": f"{task.gsd:g} ({task.gsd_source})",
        "LANDCOVER_MIN_REGION": min_region,
    }
    return {key: value for key, value in tags.items() if value is not None}


def _tell_assumed(tasks: Sequence[Task], model_gsd: float) -> None:
    assumed = [task.image for task in tasks if task.gsd_source == "assumed"]
    if assumed:
        print(
            f"Note: nothing tells the scale of {len(assumed)} of {len(tasks)} images, such as {assumed[0]}; "
            f"the model's {model_gsd:g} m per pixel is assumed. If that is wrong, pass --gsd.",
            file=sys.stderr,
        )
