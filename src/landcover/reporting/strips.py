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
from landcover.data import Dataset, Item, open_dataset
from landcover.errors import LandcoverError
from landcover.evaluation.predictions import from_folder
from landcover.evaluation.report import EvaluationReport, ImageScore
from landcover.legend import NODATA, Legend

MAX_SIDE_PX = 480
"""Longest side of a picture."""

FULL_SIZE_ROWS = 12
"""So many rows of pictures keep ``MAX_SIDE_PX`` within some 3 MB; more rows share the same room."""

WRONG = (207, 34, 84)
IGNORED = (120, 126, 132)
_FADED = 0.28
"""How much of a class colour is left where the map is right."""


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, its size in pixels, and what it shows in words."""

    title: str
    uri: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class Scene:
    """One image's scores and pictures; ``missing`` says why there are none."""

    key: str
    miou: float | None
    pixel_accuracy: float | None
    pictures: tuple[Picture, ...]
    missing: str = ""


@dataclass(frozen=True)
class Scenes:
    """The best images (best first) and the worst (worst first); ``missing`` says why none has pictures."""

    best: tuple[Scene, ...]
    worst: tuple[Scene, ...]
    missing: str = ""


def best_and_worst(
    rows: Sequence[ImageScore], count: int
) -> tuple[tuple[ImageScore, ...], tuple[ImageScore, ...]]:
    """Pick up to ``count`` images with the highest mIoU and as many with the lowest, none twice.

    Ties go by pixel accuracy, then by key. Images without a score are left out.
    """
    scored = sorted(
        (row for row in rows if row.miou is not None),
        key=lambda row: (-(row.miou or 0.0), -(row.pixel_accuracy or 0.0), row.key),
    )
    best = scored[: min(count, math.ceil(len(scored) / 2))]
    worst = scored[::-1][: min(count, len(scored) // 2)]
    return tuple(best), tuple(worst)


def draw_scenes(evaluation: EvaluationReport, legend: Legend | None, count: int, side_px: int) -> Scenes:
    """Draw the best and worst images of an evaluation.

    Pictures that cannot be drawn any more (data moved, maps not kept, a file damaged) are explained.

    Args:
        evaluation: With ``per_image`` rows and, for pictures, ``data`` and ``predictions``.
        legend: The legend of the maps; None takes that of the data.
        count: How many images of each kind.
        side_px: Longest side of a picture.
    """
    best, worst = best_and_worst(evaluation.per_image, count)
    source = _open(evaluation, legend) if best else "The evaluation holds no scores of single images."
    if isinstance(source, str):
        return Scenes(tuple(map(_without_pictures, best)), tuple(map(_without_pictures, worst)), source)
    return Scenes(
        tuple(source.draw(row, side_px) for row in best), tuple(source.draw(row, side_px) for row in worst)
    )


def side_px(rows: int) -> int:
    """Return the longest side that keeps ``rows`` rows of pictures within the page's weight."""
    return round(MAX_SIDE_PX * min(1.0, math.sqrt(FULL_SIZE_ROWS / max(rows, 1))))


def error_colours(
    truth: UInt8Array, prediction: UInt8Array, legend: Legend, scored: Sequence[str]
) -> UInt8Array:
    """Colour where a map is right (its class colour, faded), wrong (``WRONG``) and not scored (``IGNORED``).

    Args:
        truth: Class indices, (H, W).
        prediction: Class indices, (H, W); unknown and nodata are wrong wherever the truth is scored.
        legend: Classes and colours.
        scored: Names of the classes that the metric looks at.

    Returns:
        uint8 (H, W, 3).
    """
    faded = np.round(255 + _FADED * (legend.colours.astype(np.float64) - 255)).astype(np.uint8)
    colours = faded[truth]
    colours[truth != prediction] = WRONG
    colours[~np.isin(truth, [i for i, name in enumerate(legend.names) if name in scored])] = IGNORED
    return colours


@dataclass(frozen=True)
class _Source:
    dataset: Dataset
    items: dict[str, Item]
    predictions: Path
    map_legend: Legend
    scored: tuple[str, ...]

    def draw(self, row: ImageScore, side: int) -> Scene:
        if row.key not in self.items:
            return _without_pictures(row, f"It is no longer in {self.dataset.root}.")
        try:
            pictures = self._pictures(row.key, side)
        except LandcoverError as error:
            return _without_pictures(row, str(error))
        return Scene(row.key, row.miou, row.pixel_accuracy, pictures)

    def _pictures(self, key: str, side: int) -> tuple[Picture, ...]:
        item = self.items[key]
        truth = self.dataset.read_mask(item)
        maps = from_folder(self.dataset, [item], self.predictions, self.map_legend)
        prediction = maps.predict(item).index
        small_truth, small_prediction = thin_out(truth, side), thin_out(prediction, side)
        error = error_colours(small_truth, small_prediction, self.dataset.legend, self.scored)
        wrong = (error == WRONG).all(axis=2).mean()
        return (
            _photo(shrink(self.dataset.read_image(item), side), f"Satellite image {key}"),
            _flat("Truth", self.dataset.legend.colours[small_truth], f"Truth: {self._shares(truth)}"),
            _flat(
                "Prediction",
                self.dataset.legend.colours[small_prediction],
                f"Prediction: {self._shares(prediction)}",
            ),
            _flat("Error", error, f"Error map: {100 * wrong:.1f} % of the pixels are wrong"),
        )

    def _shares(self, index: UInt8Array) -> str:
        """Say which classes hold most of a map."""
        shares = np.bincount(index.ravel(), minlength=256) / index.size
        largest = sorted(range(len(self.dataset.legend)), key=lambda i: -shares[i])[:3]
        said = [f"{self.dataset.legend.names[i]} {100 * shares[i]:.0f} %" for i in largest if shares[i] > 0]
        if shares[NODATA]:
            said.append(f"no data {100 * shares[NODATA]:.0f} %")
        return ", ".join(said)


def thin_out(index: UInt8Array, side: int) -> UInt8Array:
    """Take the central pixel of each piece so that the longest side is at most ``side``; never larger."""
    height, width = _fit(index.shape[0], index.shape[1], side)
    rows = (2 * np.arange(height) + 1) * index.shape[0] // (2 * height)
    cols = (2 * np.arange(width) + 1) * index.shape[1] // (2 * width)
    thin: UInt8Array = index[rows[:, None], cols]
    return thin


def shrink(image: UInt8Array, side: int) -> UInt8Array:
    """Average an image down so that its longest side is at most ``side``; never larger."""
    height, width = _fit(image.shape[0], image.shape[1], side)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def _fit(height: int, width: int, side: int) -> tuple[int, int]:
    scale = min(1.0, side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _open(evaluation: EvaluationReport, legend: Legend | None) -> _Source | str:
    """Open the data and maps of an evaluation, or say why there are no pictures."""
    if evaluation.data is None or evaluation.predictions is None:
        return "The evaluation kept no maps, so there are no pictures."
    for what, folder in (("images", evaluation.data), ("maps", evaluation.predictions)):
        if not folder.exists():
            return f"The {what} are no longer at {folder}, so there are no pictures."
    try:
        dataset = open_dataset(evaluation.data)
        if legend is not None and dataset.legend != legend:
            dataset = open_dataset(evaluation.data, legend=legend)
    except LandcoverError as error:
        return f"No pictures: {error}"
    if list(dataset.legend.names) != evaluation.classes:
        return f"The data at {evaluation.data} have other classes now, so there are no pictures."
    items = {item.key: item for item in dataset.items}
    # Maps that evaluate kept of a model are in the truth's legend; those of a folder may be in another.
    own = evaluation.prediction_legend if evaluation.model is None else None
    map_legend = own or dataset.legend
    return _Source(dataset, items, evaluation.predictions, map_legend, tuple(evaluation.iou))


def _without_pictures(row: ImageScore, missing: str = "") -> Scene:
    return Scene(row.key, row.miou, row.pixel_accuracy, (), missing)


def _photo(image: UInt8Array, alt: str) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=78, method=4)
    return _picture("Image", "webp", buffer, alt, image)


def _flat(title: str, colours: UInt8Array, alt: str) -> Picture:
    """Encode a picture of few colours without loss, as a palette PNG."""
    codes = colours.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    palette, index = np.unique(codes, return_inverse=True)
    picture = Image.fromarray(index.reshape(codes.shape).astype(np.uint8))
    picture.putpalette(
        np.stack([palette >> 16, palette >> 8 & 255, palette & 255], axis=1).astype(np.uint8).tobytes()
    )
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return _picture(title, "png", buffer, alt, colours)


def _picture(title: str, kind: str, buffer: io.BytesIO, alt: str, pixels: UInt8Array) -> Picture:
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Picture(title, uri, alt, pixels.shape[1], pixels.shape[0])
