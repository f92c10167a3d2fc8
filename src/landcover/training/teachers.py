"""Teachers: trained models that are asked about the images which another is to be trained on.

Each is asked once for each image, before the first step, and the answers are kept in the run folder. A
student sees an image hundreds of times; asking each time would take longer than learning.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from landcover.bundle import ModelCard, model_digest, read_card, resolve_model
from landcover.errors import DataError, ModelError
from landcover.files import atomic_path
from landcover.inference import predict_probabilities
from landcover.legend import UInt8Array
from landcover.models.tensorfile import read_metadata, read_tensors
from landcover.progress import track
from landcover.runtimes import Runtime, choose_runtime, open_model
from landcover.runtimes.base import Precision
from landcover.training.material import Material
from landcover.training.softlabels import SoftLabels, reduce_to_cells
from landcover.training.surroundings import Size
from landcover.unseen import is_trained_on, met

SOFT_LABELS_NAME = "soft-labels.safetensors"
_MADE_OF = "made-of"


def describe_teacher(path: str) -> dict[str, Any]:
    """Return what a student's card tells about a teacher.

    Raises:
        ModelError: If it cannot be read.
    """
    card = read_card(path)
    weights = card.recipe.get("weights")
    told = {name: card.provenance.get(name) for name in ("split", "step", "data_digest")}
    return {
        "sha256": model_digest(path),
        "encoder": card.model.encoder,
        "encoder_weights": Path(weights).name if isinstance(weights, str) else None,
        **told,
    }


def check_teacher(path: str, student: ModelCard, material: Material) -> None:
    """Refuse a teacher that cannot teach this student, or would tell it of images that are kept from it.

    What a teacher learned from images reaches the student, whose scores on them would be worth nothing.

    Raises:
        ModelError: If the teacher cannot be read, or knows other classes.
        DataError: If it was trained on images of these data that the student is not to be trained on.
    """
    card = read_card(path)
    own, its = student.legend.scored_names, card.legend.scored_names
    if set(own) != set(its):
        raise ModelError(
            f"The teacher {path} knows the classes {', '.join(its)}; the data have {', '.join(own)}. "
            "Expected a model of the same classes."
        )
    dataset = material.dataset
    known, allowed = met(card, dataset), met(student, dataset)
    if known is None or allowed is None:
        return
    kept_from = {item.key for item in known.trained_on} - {item.key for item in allowed.trained_on}
    if kept_from and is_trained_on(card, dataset, known):
        raise DataError(
            f"The teacher {path} was trained on {len(kept_from)} images (--split {known.split}) that this "
            f"training leaves out (--split {allowed.split}), such as {min(kept_from)}: what it learned there "
            "would reach the student, and scores on them would be too good. Expected a teacher that was "
            "trained on the same split."
        )


def soft_labels(
    paths: Sequence[str],
    material: Material,
    folder: Path,
    *,
    device: str,
    threads: int | None,
    precision: Precision,
) -> SoftLabels:
    """Return what teachers say of the training images, from the run folder if it lies there already.

    It is the mean over the teachers and over the eight turns and flips of the image, and takes C bytes for
    each cell of the finest teacher's decoder.

    Args:
        paths: The teachers: model files or run folders.
        material: The data.
        folder: The run folder.
        device: Where teachers compute, such as ``cpu``.
        threads: With how many threads, see :func:`landcover.runtimes.open_model`.
        precision: In which precision, where their runtime knows it.

    Raises:
        ModelError: If a teacher cannot be read.
        DataError: If an image cannot be read.
        OutputError: If the answers cannot be written.
    """
    sizes = [(entry.height, entry.width) for entry in material.census]
    digests = [model_digest(path) for path in paths]
    made_of = hashlib.sha256("\n".join([*digests, material.digest]).encode()).hexdigest()
    file = folder / SOFT_LABELS_NAME
    maps = _kept(file, made_of, len(sizes))
    if maps is None:
        teachers = [_open(path, device, threads, precision) for path in paths]
        maps = _ask(teachers, material, sizes)
        with atomic_path(file, force=True) as temporary:
            arrays = {str(number): array for number, array in enumerate(maps)}
            temporary.write_bytes(save(arrays, metadata={_MADE_OF: made_of}))
    return SoftLabels(maps, sizes)


def _open(path: str, device: str, threads: int | None, precision: Precision) -> Runtime:
    known = choose_runtime(resolve_model(path), device=device) != "onnxruntime"
    return open_model(path, device=device, threads=threads, precision=precision if known else "fp32")


def _kept(file: Path, made_of: str, count: int) -> list[UInt8Array] | None:
    """Return answers that lie in a file, None where they are of others or the file cannot be read."""
    try:
        if read_metadata(file).get(_MADE_OF) != made_of:
            return None
        arrays = read_tensors(file)
    except ModelError:
        return None
    return [arrays[str(number)] for number in range(count)]


def _ask(teachers: Sequence[Runtime], material: Material, sizes: Sequence[Size]) -> list[UInt8Array]:
    classes = material.dataset.legend.scored_names
    orders = [[teacher.card.legend.scored_names.index(name) for name in classes] for teacher in teachers]
    cell_px = max(1.0, min(t.stride * t.card.preprocessing.gsd for t in teachers) / material.data_gsd)
    maps = []
    for item, (height, width) in zip(track(material.train, "Asking the teachers"), sizes, strict=True):
        image = material.dataset.read_image(item)
        answers = [
            predict_probabilities(teacher, image, gsd=material.data_gsd, turns=True)[order]
            for teacher, order in zip(teachers, orders, strict=True)
        ]
        cells = max(1, round(height / cell_px)), max(1, round(width / cell_px))
        maps.append(reduce_to_cells(np.mean(answers, axis=0, dtype=np.float32), cells))
    return maps
