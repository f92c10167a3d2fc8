"""Where the maps to be scored come from: a folder or a model. They arrive in the truth's legend."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from landcover.data import Dataset, Item
from landcover.errors import DataError, ImageError
from landcover.inference import predict_index, predict_probabilities
from landcover.io import MAX_PIXELS, image_size, read_mask, write_mask
from landcover.io.files import check_output
from landcover.legend import Legend, UInt8Array, translation
from landcover.model.runtimes import Runtime
from landcover.model.runtimes.base import Float32Array
from landcover.scale import unknown_gsd


@dataclass(frozen=True, slots=True)
class Prediction:
    """A map that is to be scored.

    Attributes:
        index: uint8 (H, W), class indices of the truth's legend.
        off_palette: Pixels whose colour is no class.
        probabilities: float32 (C, H, W) that the map is the argmax of, in the order of the scored classes of
            the source's legend; None where nobody asked for them.
    """

    index: UInt8Array
    off_palette: int = 0
    probabilities: Float32Array | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where maps come from.

    Attributes:
        legend: The legend in which they were made.
        predict: Returns the map of an item.
        parallel: Whether several are worth making at once (a network uses all cores for one).
    """

    legend: Legend
    predict: Callable[[Item], Prediction]
    parallel: bool


_ENDINGS = ("_mask.png", "_mask.tif", ".png", ".tif")


def from_folder(
    dataset: Dataset, items: Sequence[Item], folder: Path, legend: Legend, *, max_pixels: int = MAX_PIXELS
) -> Source:
    """Score the maps of a folder, after a look at whether each is there and of the right size.

    Args:
        dataset: The data with the truth.
        items: The items to score.
        folder: Holds ``<key>_mask.png`` (or ``.tif``) or ``<key>.png`` (or ``.tif``) for each item's key.
        legend: Legend of the maps.
        max_pixels: Larger maps are refused.

    Raises:
        DataError: If there is no such folder, or maps are missing, unreadable or of another size than the
            truth; the message lists them all.
        UsageError: If the maps' legend has other classes than the truth's.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected the folder that holds the predicted masks.")
    index_of = translation(legend, dataset.legend)
    paths: dict[str, Path] = {}
    problems = []
    for item in items:
        candidates = [folder / f"{item.key}{ending}" for ending in _ENDINGS]
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            problems.append(f"{item.key}: there is no {candidates[0]}")
            continue
        try:
            found, expected = image_size(path), dataset.size(item)
        except ImageError as error:
            problems.append(f"{item.key}: {error}")
            continue
        if found != expected:
            problems.append(
                f"{item.key}: {path} has {found[0]} x {found[1]} pixels (height x width), "
                f"the image {expected[0]} x {expected[1]}"
            )
        paths[item.key] = path
    if problems:
        raise DataError(
            f"{len(problems)} of {len(items)} predictions in {folder} cannot be scored; expected a map of "
            "every item, as large as its image:\n  " + "\n  ".join(problems)
        )

    def predict(item: Item) -> Prediction:
        mask = read_mask(paths[item.key], legend, max_pixels=max_pixels)
        return Prediction(np.take(index_of, mask.index), mask.off_palette)

    return Source(legend, predict, parallel=True)


def from_model(dataset: Dataset, runtime: Runtime, *, probabilities: bool = False) -> Source:
    """Score what a model predicts, through the same inference as ``landcover predict``.

    Every labelled pixel is scored, also where the image file has no data (alpha 0 and the like), which
    ``predict`` leaves out of its maps: a score must not rise by what it leaves out.

    Args:
        dataset: The data with the truth.
        runtime: The model.
        probabilities: Hand on the probabilities of each image with its map.

    Raises:
        UsageError: If the GSD of the data is not known, or the model has other classes than the truth.
    """
    gsd = required_gsd(dataset, "the model")
    index_of = translation(runtime.card.legend, dataset.legend)
    of_channel = index_of[list(runtime.card.legend.scored)]

    def predict(item: Item) -> Prediction:
        image = dataset.read_image(item)
        if probabilities:
            odds = predict_probabilities(runtime, image, gsd=gsd)
            return Prediction(of_channel[odds.argmax(axis=0)], probabilities=odds)
        return Prediction(np.take(index_of, predict_index(runtime, image, gsd=gsd)))

    return Source(runtime.card.legend, predict, parallel=False)


def required_gsd(dataset: Dataset, who: str) -> float:
    """Return the metres per pixel of data, for somebody who cannot do without.

    Raises:
        UsageError: If they are not known.
    """
    if dataset.gsd is None:
        raise unknown_gsd(f"{dataset.root}, which {who} needs")
    return dataset.gsd


def keep_maps(
    source: Source, dataset: Dataset, items: Sequence[Item], folder: Path, *, force: bool
) -> Source:
    """Write every map that ``source`` makes, in the truth's legend, as ``<key>_mask.png`` below ``folder``.

    Raises:
        OutputError: If a map exists and ``force`` is off, or cannot be made; nothing has been written.
    """
    paths = {item.key: folder / f"{item.key}_mask.png" for item in items}
    for path in paths.values():
        check_output(path, force=force)

    def predict(item: Item) -> Prediction:
        made = source.predict(item)
        write_mask(paths[item.key], made.index, dataset.legend, force=force)
        return made

    return replace(source, predict=predict)
