"""The maps that are scored, from a folder or from a model, in the legend of the truth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from landcover._typing import Float32Array, UInt8Array
from landcover.data import Dataset, Item
from landcover.errors import DataError
from landcover.inference import predict_index, predict_probabilities
from landcover.io import MAX_PIXELS, Mask, image_size, read_mask
from landcover.legend import NODATA, Legend, translation
from landcover.model.runtimes import Runtime
from landcover.raster.mapfiles import read_map_legend
from landcover.values import Views


@dataclass(frozen=True, slots=True)
class PredictedMap:
    """A map to score: class indices, uint8 (H, W), of the truth's legend; its number of off-palette pixels.

    ``probabilities``, where requested: float32 (C, H, W), by the scored classes of the source's legend.
    ``truth``: the labels, where the image was decoded for the map; None: they are still to be read.
    """

    index: UInt8Array
    off_palette: int = 0
    probabilities: Float32Array | None = None
    truth: Mask | None = None


@dataclass(frozen=True, slots=True)
class MapSource:
    """Maps to score: their legend before translation to the truth's, and the map of an item.

    ``parallel``: whether to compute several maps at once (a network uses all cores for one).
    """

    legend: Legend
    predict: Callable[[Item], PredictedMap]
    parallel: bool


_ENDINGS = ("_mask.png", "_mask.tif", ".png", ".tif")


def from_folder(
    dataset: Dataset,
    items: Sequence[Item],
    folder: Path,
    legend: Legend | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
) -> MapSource:
    """Return the maps of a folder after checking that each exists and has the right size.

    It contains ``<key>_mask.png`` (or ``.tif``) or ``<key>.png`` (or ``.tif``) for each item's key. Without a
    legend each map is read by the one it carries, else by the dataset's.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Expected the folder of the predicted masks.")

    def find(item: Item) -> tuple[Path, Legend]:
        candidates = [folder / f"{item.key}{ending}" for ending in _ENDINGS]
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            raise DataError(f"neither {candidates[0]} nor {item.key}.png exists")
        found, expected = image_size(path), dataset.size(item)
        if found != expected:
            raise DataError(
                f"{path} has {found[0]} x {found[1]} pixels (height x width), the image {expected[0]} x "
                f"{expected[1]}"
            )
        own = read_map_legend(path, legend) or legend or dataset.legend
        translation(own, dataset.legend)
        return path, own

    maps: dict[str, tuple[Path, Legend]] = {}
    problems = []
    for item in items:
        try:
            maps[item.key] = find(item)
        except DataError as error:
            problems.append(f"{item.key}: {error}")
    if problems:
        names = sorted(path.name for path in folder.iterdir())
        shown = f"The folder has {', '.join(names[:3])}{', …' * (len(names) > 3)}. " if names else ""
        raise DataError(
            f"{len(problems)} of {len(items)} predictions in {folder} cannot be scored. {shown}Expected one "
            "map for each item, with the size of its image: " + "; ".join(problems)
        )

    def predict(item: Item) -> PredictedMap:
        path, own = maps[item.key]
        mask = read_mask(path, own, max_pixels=max_pixels)
        return PredictedMap(np.take(translation(own, dataset.legend), mask.index), mask.off_palette)

    return MapSource(maps[items[0].key][1], predict, parallel=True)


def from_model(
    dataset: Dataset, runtime: Runtime, *, views: Views | None = None, probabilities: bool = False
) -> MapSource:
    """Return the maps that ``landcover predict`` writes with a model, also where the imagery has no data.

    UsageError: The GSD of the data is unknown, or the model has other classes than the truth.
    """
    dataset.known_gsd("the model")
    index_of = translation(runtime.card.legend, dataset.legend)
    of_channel = index_of[list(runtime.card.legend.scored)]

    def predict(item: Item) -> PredictedMap:
        (image, valid), sides = dataset.read_imagery(item), dataset.sides(item)
        truth = dataset.labels(item, valid)
        if not probabilities:
            index = predict_index(runtime, image, valid=valid, gsd=sides, views=views)
            return PredictedMap(np.take(index_of, index), truth=truth)
        values = predict_probabilities(runtime, image, valid=valid, gsd=sides, views=views)
        index = of_channel[values.argmax(axis=0)]
        if valid is not None:
            index[~valid] = NODATA
        return PredictedMap(index, probabilities=values, truth=truth)

    return MapSource(runtime.card.legend, predict, parallel=False)
