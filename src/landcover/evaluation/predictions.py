"""Where the maps to be scored come from: a folder or a model. They arrive in the truth's legend."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from landcover.codecs import MAX_PIXELS, Mask, image_size, read_mask, write_mask
from landcover.data import Dataset, Item
from landcover.errors import DataError, ImageError, UsageError
from landcover.files import check_output
from landcover.inference import predict_index
from landcover.legend import Legend, translation
from landcover.runtimes import Runtime


@dataclass(frozen=True, slots=True)
class Source:
    """Where maps come from.

    Attributes:
        legend: The legend in which they were made.
        predict: Returns the map of an item in the truth's legend.
        parallel: Whether several are worth making at once (a network uses all cores for one).
    """

    legend: Legend
    predict: Callable[[Item], Mask]
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

    def predict(item: Item) -> Mask:
        mask = read_mask(paths[item.key], legend, max_pixels=max_pixels)
        return Mask(np.take(index_of, mask.index), mask.off_palette)

    return Source(legend, predict, parallel=True)


def from_model(dataset: Dataset, runtime: Runtime) -> Source:
    """Score what a model predicts, through the same inference as ``landcover predict``.

    Every labelled pixel is scored, also where the image file has no data (alpha 0 and the like), which
    ``predict`` leaves out of its maps: a score must not rise by what it leaves out.

    Raises:
        UsageError: If the GSD of the data is not known, or the model has other classes than the truth.
    """
    if dataset.gsd is None:
        raise UsageError(
            f"The metres per pixel of {dataset.root} are not known, and the model needs them. Pass --gsd M, "
            f"or write 'gsd: M' into {dataset.root / 'landcover.yaml'}."
        )
    index_of = translation(runtime.card.legend, dataset.legend)

    def predict(item: Item) -> Mask:
        index = predict_index(runtime, dataset.read_image(item), gsd=dataset.gsd)
        return Mask(np.take(index_of, index), 0)

    return Source(runtime.card.legend, predict, parallel=False)


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

    def predict(item: Item) -> Mask:
        mask = source.predict(item)
        write_mask(paths[item.key], mask.index, dataset.legend, force=force)
        return mask

    return replace(source, predict=predict)
