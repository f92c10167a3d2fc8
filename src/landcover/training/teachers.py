"""Teachers: trained models whose probabilities on the training images are learned beside the labels.

A label is one class, up to a boundary that is often drawn coarsely; probabilities ("soft labels", Hinton et
al. 2015, 1503.02531) also contain the other likely classes. They are those of ``landcover predict`` with
test-time augmentation, computed once, before the first step, and stored in the run folder: a student sees an
image hundreds of times.
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from landcover._typing import Float32Array, Float64Array, UInt8Array
from landcover.data.dataset import describe_reading
from landcover.data.fingerprints import identical_items
from landcover.errors import DataError, ImageError, ModelError
from landcover.inference import predict_probabilities
from landcover.io.files import atomic_path
from landcover.model.card import ModelCard, is_exported, model_digest, read_card, resolve_model
from landcover.model.files import read_tensor_metadata, read_tensors
from landcover.model.preprocessing import Size
from landcover.model.runtimes import open_model
from landcover.progress import track
from landcover.raster import Reading
from landcover.training.data import TrainingData, check_scale, same_content
from landcover.training.runs import SOFT_LABELS_NAME
from landcover.training.sampler import Piece

_MADE_OF, _DIGEST, _CONTENT = "made-of", "sha256", "content"
_VERSION = 1
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teacher:
    """A trained model, as it was when the run was opened: path in the settings, card, SHA-256 of its file."""

    path: str
    card: ModelCard
    digest: str

    def describe(self) -> dict[str, Any]:
        """Return the teacher's entry in the student's card, with the entries of its own teachers."""
        recipe, provenance = self.card.recipe, self.card.provenance
        weights = None if provenance.get("init") else recipe.get("weights")  # with init they were not used
        return {
            "sha256": self.digest,
            "encoder": self.card.model.encoder,
            "encoder_weights": Path(weights).name if isinstance(weights, str) else None,
            **{name: provenance.get(name) for name in ("split", "step", "init")},
            "teachers": self.card.teachers,
        }


def read_teachers(paths: Iterable[str]) -> list[Teacher]:
    """Read the cards of teachers, each model once, in the order of their digests."""
    teachers = {}
    for path in paths:
        try:
            digest = model_digest(path)
            teachers[digest] = Teacher(path, read_card(path), digest)
        except ModelError as error:
            raise ModelError(f"The teacher {path} cannot be read: {error}") from error
    return [teachers[digest] for digest in sorted(teachers)]


def check_teachers(teachers: Sequence[Teacher], data: TrainingData) -> None:
    """Refuse teachers that do not fit the data or were trained on images that are held out here.

    What a teacher learned from an image reaches the student, whose scores on that image would then measure
    memorisation. So the teachers' training images, and those of their own teachers and initial models, must
    not be among the images that this training leaves out. Logs warnings about teachers whose training images
    are not recorded, and about those that were selected or calibrated by their scores on held-out images.
    """
    used = {item.key for item in data.train}
    others = [item for item in data.dataset.items if item.key not in used]
    # A duplicate of a training image is not held out, whatever its name.
    used |= {item.key for item in identical_items(data.dataset, others, data.images)}
    held_out = [item for item in others if item.key not in used]
    for teacher in teachers:
        bands = teacher.card.preprocessing.bands
        if len(bands) != data.dataset.reading.channels:
            raise ModelError(
                f"The teacher {teacher.path} takes {len(bands)} bands ({', '.join(bands)}); the data are "
                f"read with {data.dataset.reading.channels}. Expected a model of as many bands."
            )
        given = data.dataset.reading
        expected = teacher.card.preprocessing.reading
        if any(
            its not in (None, own) for its, own in zip(expected, (given.bands, given.scaling), strict=True)
        ):
            raise ModelError(
                f"The teacher {teacher.path} was trained on {describe_reading(Reading(*expected))}; the data "
                f"are read with {describe_reading(given)}. Pass --bands and --scaling as for the teacher."
            )
        own, its = data.dataset.legend.scored_names, teacher.card.legend.scored_names
        if set(own) != set(its):
            raise ModelError(
                f"The teacher {teacher.path} has the classes {', '.join(its)}; the data have "
                f"{', '.join(own)}. Expected a model of the same classes."
            )
        check_scale(data.data_gsd, teacher.card.preprocessing.gsd, f"the teacher {teacher.path}")
        images = teacher.card.used_images
        if identical := identical_items(data.dataset, held_out, images.training):
            raise DataError(
                f"The teacher {teacher.path} was trained on {len(identical)} images that this training holds "
                f"out (for example {identical[0].key}); scores on them would measure memorisation. Expected "
                "a teacher that was trained on the same split."
            )
        if images.training is None or not images.training.complete:
            logger.warning(
                f"The training images of the teacher {teacher.path} are not fully recorded. If it was "
                "trained on images that this training holds out, scores on them are optimistic."
            )
        parts = images.selection, images.calibration
        found = (identical_items(data.dataset, held_out, part) for part in parts)
        if judged := {item.key for items in found for item in items}:
            logger.warning(
                f"The teacher {teacher.path} was selected or calibrated by its scores on {len(judged)} "
                "images that this training holds out; scores on them are slightly optimistic "
                "(validation.keep=last selects nothing)."
            )


@dataclass(frozen=True)
class SoftLabels:
    """Probabilities, uint8 (h, w, C) with 255 for 1, in cells that divide each image evenly."""

    maps: Sequence[UInt8Array]
    sizes: Sequence[Size]

    def cut(self, pieces: Iterable[Piece], side: int, cells: int) -> UInt8Array:
        """Return the probabilities at the centres of a crop's cells, each interpolated within its image.

        The crop has ``side`` x ``side`` pixels of its images; uint8 (cells, cells, C), 0 without imagery.
        """
        crop = np.zeros((cells, cells, self.maps[0].shape[2]), np.uint8)
        centres = (np.arange(cells) + 0.5) * (side / cells)
        for item, window, (rows, cols) in pieces:
            height, width = self.sizes[item]
            down = (centres >= rows.start) & (centres < rows.stop)
            across = (centres >= cols.start) & (centres < cols.stop)
            values = _at(
                self.maps[item],
                (centres[down] - rows.start + window.row) / height,
                (centres[across] - cols.start + window.col) / width,
            )
            crop[np.ix_(down, across)] = np.rint(values)
        return crop


def soft_labels(
    teachers: Sequence[Teacher],
    data: TrainingData,
    folder: Path,
    *,
    cell_m: float,
    **runtime: Any,
) -> SoftLabels:
    """Return the teachers' probabilities on the training images, from the run folder if it contains them.

    They are the mean over the teachers and the eight D4 views, C bytes per cell of ``cell_m`` metres, or of
    the finest teacher's where those are larger. A file that is missing, damaged, or of other teachers or data
    is computed again as a whole. ``runtime`` are options of :func:`landcover.model.runtimes.open_model`;
    exported models run on the CPU.
    """
    parts = [_VERSION, *(teacher.digest for teacher in teachers), data.digest, data.data_gsd, cell_m]
    parts += data.dataset.legend.scored_names
    made_of = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
    file = folder / SOFT_LABELS_NAME
    try:
        about, arrays = read_tensor_metadata(file), read_tensors(file)
        maps = [arrays[str(number)] for number in range(len(data.train))]
        intact = (about.get(_MADE_OF), about.get(_DIGEST)) == (made_of, _digest(maps))
        intact = intact and same_content(about.get(_CONTENT), data.content_digest)
    except (ModelError, KeyError):
        intact = False
    if not intact:
        names = ", ".join(teacher.path for teacher in teachers)
        logger.info(f"Computing soft labels with {names} for {len(data.train)} images.")
        maps = _compute(teachers, data, cell_m, runtime)
        about = {_MADE_OF: made_of, _DIGEST: _digest(maps), _CONTENT: data.content_digest}
        with atomic_path(file, force=True) as temporary:
            temporary.write_bytes(save({str(n): array for n, array in enumerate(maps)}, metadata=about))
    return SoftLabels(maps, data.sizes)


def _digest(maps: Iterable[UInt8Array]) -> str:
    digest = hashlib.sha256()
    for array in maps:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _compute(
    teachers: Sequence[Teacher], data: TrainingData, cell_m: float, options: dict[str, Any]
) -> list[UInt8Array]:
    """Return uint8 (h, w, C) for each training image."""
    runtimes = []
    for teacher in teachers:
        on_cpu = {"device": "cpu"} if is_exported(resolve_model(teacher.path)) else {}
        runtimes.append(open_model(teacher.path, **options | on_cpu))
        if model_digest(teacher.path) != teacher.digest:
            raise ModelError(
                f"The teacher {teacher.path} was replaced since this run was opened; its training may still "
                "be running. Start again afterwards."
            )
    gsd, classes = data.data_gsd, data.dataset.legend.scored_names
    orders = [[runtime.card.legend.scored_names.index(name) for name in classes] for runtime in runtimes]
    finest = min(runtime.stride * runtime.card.preprocessing.gsd for runtime in runtimes)
    cell_px = max(1.0, cell_m / gsd, finest / gsd)
    maps = []
    for item in track(data.train, "Computing soft labels"):
        (image, valid), sides = data.dataset.read_imagery(item), data.dataset.sides(item)
        cells = max(1, round(image.shape[0] / cell_px)), max(1, round(image.shape[1] / cell_px))
        total = np.zeros((*cells, len(classes)), np.float32)
        for teacher, runtime, order in zip(teachers, runtimes, orders, strict=True):
            try:
                probabilities = predict_probabilities(runtime, image, valid=valid, gsd=sides, views=8)
            except (ImageError, ModelError) as error:
                raise DataError(f"The teacher {teacher.path} cannot predict {item.image}: {error}") from error
            total += at_centres(probabilities[order], cells)
        maps.append(np.rint(255 * total / len(teachers)).astype(np.uint8))
    return maps


def at_centres(probabilities: Float32Array, cells: Size) -> Float32Array:
    """Return probabilities (C, H, W) at the centres of cells that divide an image evenly: (h, w, C)."""
    rows, cols = ((np.arange(count) + 0.5) / count for count in cells)
    return _at(probabilities.transpose(1, 2, 0), rows, cols)


def _at(values: npt.NDArray[Any], *shares: Float64Array) -> Float32Array:
    """Interpolate (h, w, C) linearly between the centres of its cells, at fractions 0..1 of both axes."""
    for fractions in shares:
        position = np.clip(fractions * len(values) - 0.5, 0, len(values) - 1)
        low = position.astype(np.intp)
        high = np.minimum(low + 1, len(values) - 1)
        part = (position - low).astype(np.float32)[:, None, None]
        values = np.asarray(values[low] * (1 - part) + values[high] * part, np.float32).swapaxes(0, 1)
    return values
