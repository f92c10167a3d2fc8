"""Teachers: trained models whose probabilities on the training images are learned beside the labels.

The probabilities ("soft labels") are those of ``landcover predict`` with test-time augmentation. They are
computed once, before the first step, and stored in the run folder: a student sees an image hundreds of times.
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from landcover._typing import UInt8Array
from landcover.data.fingerprints import fingerprints, identical_items
from landcover.errors import DataError, ImageError, ModelError
from landcover.inference import predict_probabilities
from landcover.io.files import atomic_path
from landcover.model.card import ImageSet, ModelCard, is_exported, model_digest, read_card, resolve_model
from landcover.model.files import read_tensor_metadata, read_tensors
from landcover.model.runtimes import Runtime, open_model
from landcover.model.runtimes.base import Precision
from landcover.progress import track
from landcover.training.data import TrainingData, check_scale
from landcover.training.runs import SOFT_LABELS_NAME
from landcover.training.softlabels import SoftLabels, at_centres

_MADE_OF, _DIGEST = "made-of", "sha256"
_VERSION = 1
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teacher:
    """A trained model, as it was when the run was opened.

    Attributes:
        path: The model as the user named it.
        card: Its card.
        digest: SHA-256 of its file.
    """

    path: str
    card: ModelCard
    digest: str

    def describe(self) -> dict[str, Any]:
        """Return the teacher's entry in the student's card.

        ``sha256``, ``encoder``, ``encoder_weights`` (name of their file, None where the teacher was trained
        from another model), ``split``, ``step``, ``init``, and ``teachers``: the entries of its own teachers.
        """
        recipe, provenance = self.card.recipe, self.card.provenance
        weights = None if provenance.get("init") else recipe.get("weights")
        return {
            "sha256": self.digest,
            "encoder": self.card.model.encoder,
            "encoder_weights": Path(weights).name if isinstance(weights, str) else None,
            **{name: provenance.get(name) for name in ("split", "step", "init")},
            "teachers": self.card.teachers,
        }


def read_teachers(paths: Iterable[str]) -> list[Teacher]:
    """Read the cards of teachers, each model once, in the order of their digests.

    Raises:
        ModelError: If one cannot be read.
    """
    teachers = {}
    for path in paths:
        try:
            digest = model_digest(path)
            teachers[digest] = Teacher(path, read_card(path), digest)
        except ModelError as error:
            raise ModelError(f"The teacher {path} cannot be read: {error}") from error
    return [teachers[digest] for digest in sorted(teachers)]


def check_teachers(teachers: Sequence[Teacher], data: TrainingData, trained: ImageSet) -> list[str]:
    """Refuse teachers that do not fit the data or were trained on images that are held out here.

    What a teacher learned from an image reaches the student, whose scores on that image would then measure
    memorisation. So the teachers' training images, and those of their own teachers and initial models, must
    not be among the images that this training leaves out.

    Args:
        teachers: The teachers.
        data: The student's training data.
        trained: Fingerprints of the student's own training images.

    Returns:
        Warnings about teachers whose training images are not recorded, and about those that were selected or
        calibrated by their scores on held-out images.

    Raises:
        UsageError: If a teacher's scale differs too much from that of the data.
        ModelError: If a teacher has other classes.
        DataError: If a teacher was trained on held-out images.
    """
    if not teachers:
        return []
    used = {item.key for item in data.train}
    others = [item for item in data.dataset.items if item.key not in used]
    found = zip(others, fingerprints(data.dataset, others), strict=True)
    # A duplicate of a training image is not held out, whatever its name.
    pairs = [pair for pair in found if not identical_items([pair[0]], [pair[1]], trained)]
    held_out, prints = [item for item, _ in pairs], [hashes for _, hashes in pairs]
    warnings = []
    for teacher in teachers:
        own, its = data.dataset.legend.scored_names, teacher.card.legend.scored_names
        if set(own) != set(its):
            raise ModelError(
                f"The teacher {teacher.path} has the classes {', '.join(its)}; the data have "
                f"{', '.join(own)}. Expected a model of the same classes."
            )
        check_scale(data.data_gsd, teacher.card.preprocessing.gsd, f"the teacher {teacher.path}")
        images = teacher.card.used_images
        if identical := identical_items(held_out, prints, images.training):
            raise DataError(
                f"The teacher {teacher.path} was trained on {len(identical)} images that this training holds "
                f"out (for example {identical[0].key}); scores on them would measure memorisation. Expected "
                "a teacher that was trained on the same split."
            )
        if images.training is None or not images.training.complete:
            warnings.append(
                f"The training images of the teacher {teacher.path} are not fully recorded. If it was "
                "trained on images that this training holds out, scores on them are optimistic."
            )
        chosen = {
            item.key
            for part in (images.selection, images.calibration)
            for item in identical_items(held_out, prints, part)
        }
        if chosen:
            warnings.append(
                f"The teacher {teacher.path} was selected or calibrated by its scores on {len(chosen)} "
                "images that this training holds out; scores on them are slightly optimistic "
                "(validation.keep=last selects nothing)."
            )
    return warnings


def soft_labels(
    teachers: Sequence[Teacher],
    data: TrainingData,
    folder: Path,
    *,
    cell_m: float,
    device: str,
    threads: int | None,
    precision: Precision,
) -> SoftLabels:
    """Return the teachers' probabilities on the training images, from the run folder if it contains them.

    They are the mean over the teachers and the eight D4 views, C bytes per cell. A file that is missing,
    damaged, or of other teachers or data is computed again as a whole.

    Args:
        teachers: The teachers.
        data: The training data.
        folder: The run folder.
        cell_m: Side of the cells of the student's logit grid in metres; where the finest teacher's cells are
            larger, theirs are taken.
        device: Where checkpoints compute, such as ``cuda:0``; exported models compute on the CPU.
        threads: Number of threads, see :func:`landcover.model.runtimes.open_model`.
        precision: In which precision.

    Raises:
        ModelError: If a teacher cannot be read, or was replaced since the run was opened.
        DataError: If an image cannot be read, or a teacher cannot predict it.
        MissingExtraError: If the library that runs a teacher is not installed.
        OutputError: If the file cannot be written.
    """
    sizes = [(entry.height, entry.width) for entry in data.class_counts]
    parts = [_VERSION, *(teacher.digest for teacher in teachers), data.digest, data.data_gsd, cell_m]
    parts += data.dataset.legend.scored_names
    made_of = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
    file = folder / SOFT_LABELS_NAME
    maps = _read(file, made_of, len(sizes))
    if maps is None:
        names = ", ".join(teacher.path for teacher in teachers)
        logger.info("Computing soft labels with %s for %d images.", names, len(sizes))
        maps = _compute(teachers, data, cell_m, device, threads, precision)
        about = {_MADE_OF: made_of, _DIGEST: _digest(maps)}
        with atomic_path(file, force=True) as temporary:
            temporary.write_bytes(save({str(n): array for n, array in enumerate(maps)}, metadata=about))
    return SoftLabels(maps, sizes)


def _read(file: Path, made_of: str, count: int) -> list[UInt8Array] | None:
    """Return the soft labels of a file; None if it is missing, damaged, or of other teachers or data."""
    try:
        about, arrays = read_tensor_metadata(file), read_tensors(file)
        maps = [arrays[str(number)] for number in range(count)]
    except (ModelError, KeyError):
        return None
    return maps if about.get(_MADE_OF) == made_of and about.get(_DIGEST) == _digest(maps) else None


def _digest(maps: Iterable[UInt8Array]) -> str:
    digest = hashlib.sha256()
    for array in maps:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _compute(
    teachers: Sequence[Teacher],
    data: TrainingData,
    cell_m: float,
    device: str,
    threads: int | None,
    precision: Precision,
) -> list[UInt8Array]:
    """Return uint8 (h, w, C) for each training image."""
    runtimes = [_open(teacher, device, threads, precision) for teacher in teachers]
    gsd, classes = data.data_gsd, data.dataset.legend.scored_names
    orders = [[runtime.card.legend.scored_names.index(name) for name in classes] for runtime in runtimes]
    finest = min(runtime.stride * runtime.card.preprocessing.gsd for runtime in runtimes)
    cell_px = max(1.0, cell_m / gsd, finest / gsd)
    maps = []
    for item in track(data.train, "Computing soft labels"):
        image = data.dataset.read_image(item)
        cells = max(1, round(image.shape[0] / cell_px)), max(1, round(image.shape[1] / cell_px))
        total = np.zeros((*cells, len(classes)), np.float32)
        for teacher, runtime, order in zip(teachers, runtimes, orders, strict=True):
            try:
                probabilities = predict_probabilities(runtime, image, gsd=gsd, turns=True)
            except (ImageError, ModelError) as error:
                raise DataError(f"The teacher {teacher.path} cannot predict {item.image}: {error}") from error
            total += at_centres(probabilities[order], cells)
        maps.append(np.rint(255 * total / len(teachers)).astype(np.uint8))
    return maps


def _open(teacher: Teacher, device: str, threads: int | None, precision: Precision) -> Runtime:
    exported = is_exported(resolve_model(teacher.path))
    runtime = open_model(
        teacher.path, device="cpu" if exported else device, threads=threads, precision=precision
    )
    if model_digest(teacher.path) != teacher.digest:
        raise ModelError(
            f"The teacher {teacher.path} was replaced since this run was opened; its training may still be "
            "running. Start again afterwards."
        )
    return runtime
