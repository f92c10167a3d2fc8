"""Pictures of the best and the worst images: image, truth, prediction and error, small and embedded."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from landcover._typing import UInt8Array
from landcover.data import Dataset, open_dataset
from landcover.errors import DataError, LandcoverError
from landcover.evaluation.predictions import from_folder
from landcover.evaluation.report import EvaluationReport, ImageScore
from landcover.legend import NODATA, Legend

MAX_SIDE_PX = 480
"""Longest side of a picture."""

FULL_SIZE_ROWS = 12
"""Rows of pictures of ``MAX_SIDE_PX``, about 3 MB; of more rows the pictures are smaller."""

WRONG = (207, 34, 84)
IGNORED = (120, 126, 132)
_FADED = 0.28
"""Weight of a class colour where the map is right; the rest is white."""


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, its size in pixels, and its description."""

    title: str
    uri: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class Scene:
    """Scores and pictures of one image; ``missing`` is the reason if there are none."""

    score: ImageScore
    pictures: Sequence[Picture] = ()
    missing: str = ""


@dataclass(frozen=True)
class Scenes:
    """The best images (best first) and the worst (worst first); ``missing``: why none has pictures."""

    best: list[Scene]
    worst: list[Scene]
    missing: str = ""


def best_and_worst(rows: Sequence[ImageScore], count: int) -> tuple[list[ImageScore], list[ImageScore]]:
    """Return up to ``count`` images with the highest mIoU and as many with the lowest, none twice.

    Ties go by pixel accuracy, then by key. Images without a score are left out.
    """
    scored = sorted(
        (row for row in rows if row.miou is not None),
        key=lambda row: (-(row.miou or 0.0), -(row.pixel_accuracy or 0.0), row.key),
    )
    best = scored[: min(count, math.ceil(len(scored) / 2))]
    return best, scored[::-1][: min(count, len(scored) // 2)]


def draw_scenes(evaluation: EvaluationReport, legend: Legend | None, count: int, side_px: int) -> Scenes:
    """Draw the best and worst images of an evaluation.

    Where pictures cannot be drawn (data moved, maps not kept, a file damaged), the reason is given.
    ``legend`` is that of the truth, by default the data's; ``count`` is of each kind.
    """
    best, worst = best_and_worst(evaluation.per_image, count)
    try:
        dataset, maps = _open(evaluation, legend)
    except LandcoverError as error:
        return Scenes(
            [Scene(score) for score in best], [Scene(score) for score in worst], f"No pictures: {error}"
        )

    def pictures(key: str) -> list[Picture]:
        item = next((item for item in dataset.items if item.key == key), None)
        if item is None:
            raise DataError(f"{key} is no longer in {dataset.root}.")
        image, valid = dataset.read_imagery(item)
        legend, truth = dataset.legend, dataset.labels(item, valid).index
        source = from_folder(dataset, [item], evaluation.predictions or Path(), maps)
        prediction = source.predict(item).index
        small_truth, small_prediction = shrink(truth, side_px), shrink(prediction, side_px)
        errors = error_colours(small_truth, small_prediction, legend, list(evaluation.iou))
        wrong = (errors == WRONG).all(axis=2).mean()
        small_image = shrink(image[..., :3], side_px, Image.Resampling.BOX)
        of_map = f"Prediction: {_shares(prediction, legend)}"
        return [
            _picture("Image", small_image, f"Satellite image {key}", quality=78),
            _picture("Truth", legend.colours[small_truth], f"Truth: {_shares(truth, legend)}"),
            _picture("Prediction", legend.colours[small_prediction], of_map),
            _picture("Error", errors, f"Error map: {100 * wrong:.1f} % of the pixels are wrong"),
        ]

    def draw(score: ImageScore) -> Scene:
        try:
            return Scene(score, pictures(score.key))
        except LandcoverError as error:
            return Scene(score, missing=str(error))

    return Scenes([draw(score) for score in best], [draw(score) for score in worst])


def side_px(rows: int) -> int:
    """Return the longest side for ``rows`` rows of pictures, so that the page stays below about 3 MB."""
    return round(MAX_SIDE_PX * min(1.0, math.sqrt(FULL_SIZE_ROWS / max(rows, 1))))


def error_colours(
    truth: UInt8Array, prediction: UInt8Array, legend: Legend, scored: Sequence[str]
) -> UInt8Array:
    """Colour class indices (H, W) where right (the class, faded), ``WRONG``, and not scored (``IGNORED``).

    A predicted unknown or nodata is wrong wherever the truth is one of the ``scored`` classes.
    """
    faded = np.round(255 + _FADED * (legend.colours.astype(np.float64) - 255)).astype(np.uint8)
    colours = faded[truth]
    colours[truth != prediction] = WRONG
    colours[~np.isin(truth, [i for i, name in enumerate(legend.names) if name in scored])] = IGNORED
    return colours


def shrink(
    pixels: UInt8Array, side: int, resampling: Image.Resampling = Image.Resampling.NEAREST
) -> UInt8Array:
    """Return (H, W) or (H, W, 3) pixels with a longest side of at most ``side``; never enlarged."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, resampling))


def _open(evaluation: EvaluationReport, legend: Legend | None) -> tuple[Dataset, Legend]:
    """Return the data of an evaluation and the legend of its maps."""
    if not any(score.miou is not None for score in evaluation.per_image):
        raise DataError("The evaluation has no scores of single images.")
    if evaluation.data is None or evaluation.predictions is None:
        raise DataError("The evaluation kept no maps (landcover evaluate --maps DIR).")
    for what, folder in (("images", evaluation.data), ("maps", evaluation.predictions)):
        if not folder.exists():
            raise DataError(f"The {what} are no longer at {folder}.")
    dataset = open_dataset(evaluation.data)
    if legend is not None and dataset.legend != legend:
        dataset = open_dataset(evaluation.data, legend=legend)
    if list(dataset.legend.names) != evaluation.classes:
        raise DataError(f"The data at {evaluation.data} have other classes now.")
    # Maps that evaluate kept of a model are in the truth's legend; those of a folder may be in another.
    own = evaluation.prediction_legend if evaluation.model is None else None
    return dataset, own or dataset.legend


def _shares(index: UInt8Array, legend: Legend) -> str:
    """Return the three most frequent classes of a map, and nodata, with their fractions in words."""
    shares = np.bincount(index.ravel(), minlength=256) / index.size
    largest = sorted(range(len(legend)), key=lambda i: -shares[i])[:3]
    named = [(legend.names[i], shares[i]) for i in largest] + [("no data", shares[NODATA])]
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in named if share > 0)


def _picture(title: str, pixels: UInt8Array, alt: str, quality: int | None = None) -> Picture:
    """Encode uint8 (H, W, 3) as WebP, without loss unless a quality is given."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=quality is None, quality=quality or 80, method=4)
    uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Picture(title, uri, alt, pixels.shape[1], pixels.shape[0])
