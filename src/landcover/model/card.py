"""The model file: weights and everything needed to use them, in one file.

Training writes safetensors, export writes ONNX. In both the card stands as JSON beside the weights, in the
header's or the model's metadata under :data:`CARD_KEY`, and is read without the weights, torch or onnx.
Pickled files can run code when read, and are refused.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, PlainSerializer, PlainValidator
from safetensors.numpy import save

from landcover.config import Config, from_mapping
from landcover.errors import ConfigError, ModelError, did_you_mean
from landcover.io.files import atomic_path
from landcover.legend import Legend
from landcover.model import ModelConfig, onnxfile, tensorfile
from landcover.model.bundled import names, shipped_file
from landcover.model.preprocessing import Preprocessing
from landcover.ood import ImageryProfile

SCHEMA_VERSION = 3
CARD_KEY = "landcover"
BEST_NAME = "best.safetensors"
LAST_NAME = "last.safetensors"
STATE_KEY = "landcover-training"
"""Entry in the header of a training checkpoint, which is no model."""
ONNX_SUFFIX = ".onnx"


def _legend(value: Any) -> Legend:
    return value if isinstance(value, Legend) else Legend.from_dict(value)


class ModelCard(Config):
    """Everything about a model but its weights.

    Attributes:
        model: Architecture, encoder and widths.
        legend: The classes; the model's channels are the scored ones.
        preprocessing: GSD in metres, mean and std of the input.
        window_px: Side of the windows that suit the model, in pixels at its GSD.
        overlap_px: Overlap of neighbouring windows.
        temperature: What logits are divided by before the softmax.
        recipe: The training configuration.
        scores: Measured results, each with at least ``metric``, ``split`` and ``miou`` (0..1).
        licence: Under which terms the weights may be used, in words.
        provenance: Where the weights come from: ``version``, ``date``, ``data``, ``command`` and the like.
        precision: What the network computes in: ``int8`` for one that was quantised when exported.
        export: How an exported model was checked: figures of parity with the checkpoint, and of its gates.
        calibration: What the temperature was fitted on, if it was: ``split``, ``data``, ``images``,
            ``pixels``, and ``nll`` and ``ece`` before and after on them.
        imagery: What the training imagery looks like; None where that was not recorded.
        schema_version: Version of this list of fields.
    """

    model: ModelConfig
    legend: Annotated[Legend, PlainValidator(_legend), PlainSerializer(Legend.to_dict)]
    preprocessing: Preprocessing
    window_px: Annotated[int, Field(ge=1)]
    overlap_px: Annotated[int, Field(ge=0)]
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    recipe: dict[str, Any] = Field(default_factory=dict)
    scores: tuple[dict[str, Any], ...] = ()
    licence: str = ""
    provenance: dict[str, Any] = Field(default_factory=dict)
    precision: Literal["fp32", "int8"] = "fp32"
    export: dict[str, Any] = Field(default_factory=dict)
    calibration: dict[str, Any] = Field(default_factory=dict)
    imagery: ImageryProfile | None = None
    schema_version: int = SCHEMA_VERSION


def save_model(path: Path, tensors: Mapping[str, Any], card: ModelCard, *, force: bool = False) -> None:
    """Write a model file, whole or not at all.

    Args:
        path: The file, ``*.safetensors``.
        tensors: Name to array; whatever numpy can view, CPU tensors of torch among them.
        card: The model's card.
        force: Replace an existing file.

    Raises:
        OutputError: If the file exists and ``force`` is off, or cannot be written.
    """
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    with atomic_path(path, force=force) as temporary:
        temporary.write_bytes(save(arrays, metadata={CARD_KEY: card.model_dump_json()}))


def read_card(path: str | Path) -> ModelCard:
    """Return the card of a model file, exported or not, or of a run folder, without reading the weights.

    Raises:
        ModelError: If there is no such file, or it is cut short, a pickle, neither ONNX nor safetensors,
            without a card, from a newer landcover, or its card is not valid.
    """
    file = resolve_model(path)
    metadata = onnxfile.read_metadata(file) if is_exported(file) else tensorfile.read_metadata(file)
    return _card(metadata, file)


def read_model(path: str | Path) -> tuple[ModelCard, tensorfile.Tensors]:
    """Return card and tensors of a model that training wrote: its file or run folder.

    Raises:
        ModelError: As for :func:`read_card`, and if the model is an exported one.
    """
    file = resolve_model(path)
    if is_exported(file):
        raise ModelError(
            f"{file} is an exported model: it predicts, but its weights cannot be trained any more. Give the "
            "run folder or .safetensors file that it was exported from (of starter: starter-weights)."
        )
    return read_card(file), tensorfile.read_tensors(file)


def is_exported(path: Path) -> bool:
    """Return whether a model file is an exported one, which runs without torch: by its suffix."""
    return path.suffix.lower() == ONNX_SUFFIX


def resolve_model(path: str | Path) -> Path:
    """Return the model file that is meant: a file itself, the best model of a run folder, a shipped model.

    Whoever takes a model asks here. What is there under the name of a shipped model comes first.

    Raises:
        ModelError: If there is no such file, folder or name, the folder holds no model (yet), or the
            installation lacks the shipped file.
    """
    if not str(path):
        raise ModelError("The name of the model is empty ('').")
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        shipped = shipped_file(str(path))
        if shipped is not None:
            return shipped
        raise ModelError(
            f"There is no model {path}. Expected an .onnx or .safetensors file, the folder of a training "
            f"run, or a model that comes with the package. {did_you_mean(str(path), names())}"
        )
    if (path / BEST_NAME).is_file():
        return path / BEST_NAME
    hides = ""
    if str(path) in names():
        hides = (
            f" It hides the model {str(path)!r} that comes with the package: rename the folder, or call "
            "landcover from another one."
        )
    if (path / LAST_NAME).is_file():
        raise ModelError(
            f"The run {path} has no best model yet: the first validation, which writes {BEST_NAME}, has not "
            f"come. Let the training go on.{hides}"
        )
    named = "current folder (an empty name, or .)" if path == Path() else f"folder {path}"
    raise ModelError(f"The {named} holds no model: there is no {BEST_NAME} in it.{hides}")


def model_digest(path: str | Path) -> str:
    """Return the SHA-256 of a model file, as 64 hexadecimal digits."""
    with resolve_model(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _card(metadata: Mapping[str, str], path: Path) -> ModelCard:
    if CARD_KEY not in metadata:
        raise ModelError(f"{path} has no model card: {_origin(metadata, path)}")
    try:
        data = json.loads(metadata[CARD_KEY])
        json.dumps(data, ensure_ascii=False).encode()  # halves of characters could not be written again
    except (ValueError, RecursionError) as error:
        raise ModelError(f"The card of {path} is damaged: {error}.") from error
    if not isinstance(data, dict):
        raise ModelError(
            f"The card of {path} is damaged: found {str(data)[:40]!r}; expected names and values."
        )
    version = data.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ModelError(
            f"{path} was made by a newer landcover (card version {version}; this one reads up to "
            f"{SCHEMA_VERSION}). Upgrade landcover."
        )
    if version in (1, 2):  # fields have been added since, and all of them have defaults
        data["schema_version"] = SCHEMA_VERSION
    try:
        return from_mapping(ModelCard, data, f"the card of {path}")
    except ConfigError as error:
        raise ModelError(str(error)) from error


def _origin(metadata: Mapping[str, str], path: Path) -> str:
    """Say what a model file without a card is, and what to do."""
    if STATE_KEY in metadata:
        return (
            "it is the checkpoint that a training goes on from, whose weights nobody scored. Give the run's "
            f"folder, {path.parent}, which stands for its {BEST_NAME}."
        )
    if not is_exported(path):
        return (
            "it holds tensors, but is no model that landcover made. Weights of an encoder are for training, "
            "not for prediction."
        )
    found = ", ".join(repr(name[:40]) for name in sorted(metadata)[:5]) or "nothing"
    return (
        f"it is an ONNX file, but its metadata has no entry {CARD_KEY!r} (found: {found}), which would name "
        "the classes and the scale. Expected a model that 'landcover export' wrote."
    )
