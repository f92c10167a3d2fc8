"""Teachers: trained models that are asked about the images which another is to be trained on.

Each is asked once for each image, before the first step, and the answers are kept in the run folder. A
student sees an image hundreds of times; asking each time would take longer than learning.
"""

import hashlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from landcover.data import Dataset, Item
from landcover.errors import DataError, ImageError, ModelError, OutputError
from landcover.inference import predict_probabilities
from landcover.io.files import atomic_path, claimed
from landcover.legend import UInt8Array
from landcover.model.card import ModelCard, is_exported, model_digest, read_card, resolve_model
from landcover.model.runtimes import Runtime, open_model
from landcover.model.runtimes.base import Precision
from landcover.model.tensorfile import read_metadata, read_tensors
from landcover.progress import track
from landcover.training.data import TrainingData, check_scale
from landcover.training.runs import SOFT_LABELS_NAME
from landcover.training.softlabels import SoftLabels, at_centres
from landcover.unseen import Encounter, common, encounters, fitted_items, met, teachers_of

_MADE_OF, _DIGEST = "made-of", "sha256"
_VERSION = 1
_WRITE_SECONDS = 120.0


@dataclass(frozen=True)
class Teacher:
    """A trained model, as it was when the run was opened.

    Attributes:
        path: What the user calls it.
        card: Its card.
        digest: SHA-256 of its file.
    """

    path: str
    card: ModelCard
    digest: str

    def describe(self) -> dict[str, Any]:
        """Return what a student's card tells about it.

        ``sha256``, ``encoder``, ``classes`` (in the order of its channels), ``encoder_weights`` (the name of
        their file, None where it began from another model), ``split``, ``step``, ``data_digest``, ``init``,
        ``validation`` (what chose its weights), ``calibration`` (what its temperature was fitted on) and
        ``teachers``, of the same kind.
        """
        recipe, provenance = self.card.recipe, self.card.provenance
        weights = None if provenance.get("init") else recipe.get("weights")
        return {
            "sha256": self.digest,
            "encoder": self.card.model.encoder,
            "classes": list(self.card.legend.scored_names),
            "encoder_weights": Path(weights).name if isinstance(weights, str) else None,
            **{name: provenance.get(name) for name in ("split", "step", "data_digest", "init")},
            "validation": recipe.get("validation"),
            "calibration": self.card.calibration,
            "teachers": teachers_of(self.card),
        }


def read_teachers(paths: Iterable[str]) -> list[Teacher]:
    """Read the cards of teachers, each once however often it is named, in the order of their digests.

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


def check_teacher(teacher: Teacher, student: ModelCard, material: TrainingData) -> list[str]:
    """Refuse a teacher that cannot teach this student, or would tell it of images that are kept from it.

    What a teacher learned from images reaches the student, whose scores on them would be worth nothing. So
    its training images must be among the student's, and those of its own teachers, too.

    Returns:
        Sentences about what cannot be told, and of a teacher that was chosen or calibrated by its scores on
        images that are kept from the student.

    Raises:
        UsageError: If it works at a scale that is out of all proportion to that of the data.
        ModelError: If it knows other classes.
        DataError: If it was trained on images of these data that the student is not to be trained on.
    """
    own, its = student.legend.scored_names, teacher.card.legend.scored_names
    if set(own) != set(its):
        raise ModelError(
            f"The teacher {teacher.path} knows the classes {', '.join(its)}; the data have {', '.join(own)}. "
            "Expected a model of the same classes."
        )
    check_scale(material.data_gsd, teacher.card.preprocessing.gsd, f"the teacher {teacher.path}")
    itself = met(student, material.dataset)
    allowed = {item.key for item in (material.train if itself is None else itself.trained_on)}
    left_out = [item for item in material.dataset.items if item.key not in allowed]
    notices = []
    for one in encounters(teacher.path, teacher.card, material.dataset, left_out, title="The teacher"):
        notices += _check_encounter(one, material.dataset, left_out)
    return notices


def _check_encounter(one: Encounter, dataset: Dataset, left_out: Sequence[Item]) -> list[str]:
    """Do :func:`check_teacher` for one model of a lineage and the items that the student is not to see."""
    notices = []
    if one.known is None or one.began_elsewhere:
        notices.append(
            f"{one.who} does not tell all that it was trained on: scores on images that it may have seen "
            "would be too good."
        )
    if one.known is None:
        return notices
    if one.trained_on:
        who = f"{one.who} (--split {one.known.split})"
        these = f"{len(one.trained_on)} images that this training leaves out, such as {one.trained_on[0].key}"
        if one.same_data(dataset) is not False:
            raise DataError(
                f"{who} was trained on {these}: what it learned there would reach the student, whose scores "
                "on them would be worth nothing. Expected a teacher that was trained on the same split."
            )
        notices.append(
            f"{who} was trained on images of the same names as {these}, in other data than these or before "
            "they were changed. If they are the same images, scores on them will be too good."
        )
    judged = {item.key for item in one.chosen_on} | set(
        common(left_out, fitted_items(one.card.calibration, dataset))
    )
    if judged:
        notices.append(
            f"{one.who} was chosen or calibrated by its scores on {len(judged)} images that this training "
            "leaves out: scores on them will be a little too good (validation.keep=last chooses nothing)."
        )
    return notices


def soft_labels(
    teachers: Sequence[Teacher],
    material: TrainingData,
    folder: Path,
    *,
    cell_m: float,
    device: str,
    threads: int | None,
    precision: Precision,
) -> SoftLabels:
    """Return what teachers say of the training images: from the run folder, as far as it lies there already.

    It is the mean over the teachers and over the eight turns and flips of each window that they see, and
    takes C bytes for each cell. Whenever the asking ends, what was answered is kept.

    Args:
        teachers: Whom to ask.
        material: The data.
        folder: The run folder.
        cell_m: Side in metres of the cells that are learned in; those of the finest teacher's decoder are
            taken where they are larger.
        device: Where checkpoints compute, such as ``cuda:0``; exported models compute on the CPU.
        threads: With how many threads, see :func:`landcover.model.runtimes.open_model`.
        precision: In which precision.

    Raises:
        ModelError: If a teacher cannot be read, or is no longer what it was.
        DataError: If an image cannot be read, or a teacher cannot answer for it.
        MissingExtraError: If the library that runs a teacher is not installed.
        OutputError: If the answers cannot be written, or another process writes them.
    """
    sizes = [(entry.height, entry.width) for entry in material.class_counts]
    parts = [_VERSION, *(teacher.digest for teacher in teachers), material.digest, material.data_gsd, cell_m]
    parts += material.dataset.legend.scored_names
    kept = _Kept(folder / SOFT_LABELS_NAME, hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest())
    with claimed(folder, folder):
        maps = kept.read()
        if len(maps) < len(sizes):
            names = ", ".join(teacher.path for teacher in teachers)
            print(f"Asking {names} about {len(sizes) - len(maps)} images.", file=sys.stderr)
            runtimes = [_open(teacher, device, threads, precision) for teacher in teachers]
            try:
                for answer in _ask(teachers, runtimes, material, cell_m, len(maps)):
                    maps.append(answer)
                    kept.write_in_time(maps)
            finally:
                if maps:
                    kept.write(maps)
    return SoftLabels(maps, sizes)


class _Kept:
    """Answers in a file, about the first images or all of them.

    Args:
        file: The file.
        made_of: Digest of all that decides the answers.
    """

    def __init__(self, file: Path, made_of: str) -> None:
        self._file = file
        self._made_of = made_of
        self._written = time.monotonic()

    def read(self) -> list[UInt8Array]:
        """Return the answers that are there; none where they are of other teachers or data.

        Raises:
            OutputError: If the file holds something else, or was damaged.
        """
        if not self._file.exists():
            return []
        try:
            about, arrays = read_metadata(self._file), read_tensors(self._file)
            maps = [arrays[str(number)] for number in range(len(arrays))]
        except (ModelError, KeyError):
            about, maps = {}, []
        if about.get(_DIGEST) != _digest(maps):
            raise OutputError(
                f"{self._file} exists already and does not hold what teachers said, or was damaged. Move it "
                "away to have them asked anew, or choose another --out."
            )
        return maps if about.get(_MADE_OF) == self._made_of else []

    def write_in_time(self, maps: Sequence[UInt8Array]) -> None:
        """Write the answers if the last time is some minutes ago."""
        if time.monotonic() - self._written > _WRITE_SECONDS:
            self.write(maps)

    def write(self, maps: Sequence[UInt8Array]) -> None:
        """Write the answers."""
        about = {_MADE_OF: self._made_of, _DIGEST: _digest(maps)}
        with atomic_path(self._file, force=True) as temporary:
            temporary.write_bytes(save({str(n): array for n, array in enumerate(maps)}, metadata=about))
        self._written = time.monotonic()


def _digest(maps: Iterable[UInt8Array]) -> str:
    digest = hashlib.sha256()
    for array in maps:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _open(teacher: Teacher, device: str, threads: int | None, precision: Precision) -> Runtime:
    exported = is_exported(resolve_model(teacher.path))
    runtime = open_model(
        teacher.path, device="cpu" if exported else device, threads=threads, precision=precision
    )
    if model_digest(teacher.path) != teacher.digest:
        raise ModelError(
            f"The teacher {teacher.path} was replaced since this run was opened; its training may be going "
            "on. Start again when it has ended."
        )
    return runtime


def _ask(
    teachers: Sequence[Teacher],
    runtimes: Sequence[Runtime],
    material: TrainingData,
    cell_m: float,
    first: int,
) -> Iterator[UInt8Array]:
    """Yield uint8 (h, w, C) for each training image from number ``first`` on."""
    gsd, classes = material.data_gsd, material.dataset.legend.scored_names
    orders = [[runtime.card.legend.scored_names.index(name) for name in classes] for runtime in runtimes]
    finest = min(runtime.stride * runtime.card.preprocessing.gsd for runtime in runtimes)
    cell_px = max(1.0, cell_m / gsd, finest / gsd)
    for item in track(material.train[first:], "Asking the teachers"):
        image = material.dataset.read_image(item)
        cells = max(1, round(image.shape[0] / cell_px)), max(1, round(image.shape[1] / cell_px))
        said = np.zeros((*cells, len(classes)), np.float32)
        for teacher, runtime, order in zip(teachers, runtimes, orders, strict=True):
            try:
                probabilities = predict_probabilities(runtime, image, gsd=gsd, turns=True)
            except (ImageError, ModelError) as error:
                raise DataError(
                    f"The teacher {teacher.path} cannot answer for {item.image}: {error}"
                ) from error
            said += at_centres(probabilities[order], cells)
        yield np.rint(255 * said / len(teachers)).astype(np.uint8)
