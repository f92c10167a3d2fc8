"""What windows, mosaics and a wrongly declared scale do to the score of a model.

Tiles of one scene are laid side by side as ``scenes.csv`` tells, with holes where tiles are missing or of
another part, and mapped as one scene through several windows; the same pixels are scored tile by tile. Then
tiles are resampled to other ground sample distances, declared rightly and wrongly.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from landcover.data import Dataset, Item, SceneTile
from landcover.errors import DataError
from landcover.inference import predict_index
from landcover.inference.engine import row_blocks
from landcover.inference.grid import make_grid
from landcover.inference.reading import ArraySource
from landcover.legend import NODATA, UInt8Array
from landcover.metrics import ConfusionMatrix
from landcover.model.preprocessing import resample_image
from landcover.model.runtimes import Runtime
from landcover.progress import track

WINDOWS = ((512, 0), (512, 64), (512, 128), (512, 256), (1024, 128), (1024, 256), (1536, 256))
"""Windows and overlaps that are compared, in pixels of the model."""

SCALES = (0.3, 0.5, 0.8, 1.0, 1.195, 1.5)
"""Ground sample distances that are compared, in metres."""


@dataclass(frozen=True, slots=True)
class Mosaic:
    """Tiles of a scene side by side: uint8 (H, W, 3), uint8 (H, W) truth, bool (H, W) where tiles are.

    None for the last: everywhere.
    """

    scene: str
    image: UInt8Array
    truth: UInt8Array
    valid: npt.NDArray[np.bool_] | None


def scene_table(dataset: Dataset) -> Mapping[str, SceneTile]:
    """Return where each tile lies in its scene, by the tiles' keys.

    Raises:
        DataError: If the data has no table of scenes.
    """
    if dataset.scenes is None:
        raise DataError(f"{dataset.root} has no scenes.csv, which tells where the tiles of a scene lie.")
    return dataset.scenes


def mosaics(dataset: Dataset, items: Sequence[Item]) -> Iterator[Mosaic]:
    """Lay the tiles of each scene side by side.

    Raises:
        DataError: If the data has no table of scenes.
    """
    table = scene_table(dataset)
    members: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        members[table[item.key].scene].append(item)
    for scene, tiles in members.items():
        places = [table[tile.key] for tile in tiles]
        height, width = dataset.size(tiles[0])
        top, left = min(place.row for place in places), min(place.col for place in places)
        rows = max(place.row for place in places) - top + 1
        cols = max(place.col for place in places) - left + 1
        image = np.zeros((rows * height, cols * width, 3), np.uint8)
        truth = np.full(image.shape[:2], NODATA, np.uint8)
        valid = np.zeros(image.shape[:2], bool)
        for tile, place in zip(tiles, places, strict=True):
            row, col = (place.row - top) * height, (place.col - left) * width
            image[row : row + height, col : col + width] = dataset.read_image(tile)
            truth[row : row + height, col : col + width] = dataset.read_mask(tile)
            valid[row : row + height, col : col + width] = True
        yield Mosaic(scene, image, truth, valid)


def labelled_images(dataset: Dataset) -> Iterator[Mosaic]:
    """Take each labelled image for a scene."""
    for item in dataset.items:
        if item.mask is not None:
            yield Mosaic(item.key, dataset.read_image(item), dataset.read_mask(item), None)


def score_windows(runtime: Runtime, dataset: Dataset, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Score tiles one by one, then as mosaics through each of :data:`WINDOWS`; mIoU in 0..1."""
    alone = ConfusionMatrix(dataset.legend)
    for item in track(items, "Tiles"):
        alone.update(dataset.read_mask(item), predict_index(runtime, dataset.read_image(item)))
    rows = [{"way": "tile by tile", "window_px": None, "overlap_px": None, "miou": alone.scores().miou}]
    scenes = list(mosaics(dataset, items))
    for window_px, overlap_px in WINDOWS:
        matrix = ConfusionMatrix(dataset.legend)
        for scene in track(scenes, f"Windows of {window_px}, {overlap_px}"):
            _count(matrix, runtime, scene, None, window_px, overlap_px)
        miou = matrix.scores().miou
        rows.append({"way": "mosaic", "window_px": window_px, "overlap_px": overlap_px, "miou": miou})
    return rows


def score_paths(
    whole: Runtime, default: Runtime, scenes: Iterable[Mosaic], gsd: float | None = None
) -> dict[str, Any]:
    """Score one model whole, each scene at once, and another as ``predict`` does by itself; mIoU in 0..1.

    Args:
        whole: The first, such as the checkpoint in torch; about half a kilobyte of memory per pixel.
        default: The second, such as its INT8 file.
        scenes: Images, truth and where imagery is.
        gsd: Metres per pixel of the images. None: it is the model's.
    """
    at_once, by_itself = (ConfusionMatrix(runtime.card.legend) for runtime in (whole, default))
    count = 0
    for scene in scenes:
        count += 1
        _count(at_once, whole, scene, gsd, 0, None)
        _count(by_itself, default, scene, gsd, None, None)
    return {"scenes": count, "whole": at_once.scores().miou, "default": by_itself.scores().miou}


def _count(
    matrix: ConfusionMatrix,
    runtime: Runtime,
    scene: Mosaic,
    gsd: float | None,
    window_px: int | None,
    overlap_px: int | None,
) -> None:
    source = ArraySource(scene.image, scene.valid)
    size = source.height, source.width
    grid = make_grid(size, runtime, gsd=gsd, window_px=window_px, overlap_px=overlap_px)
    made = [band.class_indices(runtime.card.legend) for band in row_blocks(runtime, source, grid)]
    matrix.update(scene.truth, np.concatenate(made))  # NODATA in the truth is not counted


def score_scales(runtime: Runtime, dataset: Dataset, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Score tiles resampled to each of :data:`SCALES`, declared as they are and not at all; mIoU in 0..1.

    Tiles are enlarged by interpolation, which adds no detail: the curve shows the resampling, not what finer
    imagery would bring. The truth is compared at the tile's own size.
    """
    own = dataset.gsd or runtime.card.preprocessing.gsd
    rows = []
    for gsd in SCALES:
        right, wrong = ConfusionMatrix(dataset.legend), ConfusionMatrix(dataset.legend)
        for item in track(items, f"{gsd:g} m"):
            truth, image = dataset.read_mask(item), resample_image(dataset.read_image(item), own / gsd)
            for matrix, declared in ((right, gsd), (wrong, runtime.card.preprocessing.gsd)):
                matrix.update(truth, _nearest(predict_index(runtime, image, gsd=declared), truth.shape))
        rows.append(
            {"gsd": gsd, "declared rightly": right.scores().miou, "not declared": wrong.scores().miou}
        )
    return rows


def _nearest(index: UInt8Array, size: tuple[int, ...]) -> UInt8Array:
    rows, cols = (
        ((np.arange(n) + 0.5) * have / n).astype(int) for n, have in zip(size, index.shape, strict=True)
    )
    return index[np.ix_(rows, cols)]
